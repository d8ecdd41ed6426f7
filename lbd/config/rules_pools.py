"""What must hold within one pool, its members' addresses aside; see `rules`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from lbd.config import quantities, scalars
from lbd.config.errors import ConfigError
from lbd.config.facts import Facts, ServiceFacts
from lbd.config.shapes import OutlierDetectionShape
from lbd.model.desired import AdminState, Algorithm, Protocol

_HASH_KEYS = ("hash", "max_load")

_read_algorithm = scalars.one_of(Algorithm)
_read_admin_state = scalars.one_of(AdminState)
_read_time = quantities.duration("0s", "100000h")


def algorithms(facts: Facts) -> Iterator[ConfigError]:
    """A pool has only the keys of its algorithm, and an algorithm that its protocol can do."""
    for service in facts.services:
        pool = service.pool
        if pool is None:
            continue
        algorithm = pool.at("algorithm")
        if algorithm is None:
            picks = Algorithm.CONSISTENT_HASH if pool.at("hash") else Algorithm.ROUND_ROBIN
        else:
            picks = algorithm.read(_read_algorithm) or Algorithm.CONSISTENT_HASH
        for key in _HASH_KEYS if picks is not Algorithm.CONSISTENT_HASH else ():
            cursor = pool.at(key)
            if cursor is not None:
                yield cursor.key_place.error(f"belongs to consistent_hash, and this pool's algorithm is {picks}")
        if algorithm is not None and picks is Algorithm.FASTEST_RESPONSE and service.protocol is Protocol.UDP:
            message = "fastest_response measures how fast members take connections, and udp has none"
            yield algorithm.place.error(message)


def ejection_times(facts: Facts) -> Iterator[ConfigError]:
    """The longest ejection is at least as long as the first one."""
    for service in facts.services:
        section = service.cursor.at("pool", "outlier_detection")
        longest = section.at("max_ejection_time") if section else None
        if section is None or longest is None:
            continue
        first = section.at("base_ejection_time")
        default_s = OutlierDetectionShape.model_fields["base_ejection_time"].default
        first_s, longest_s = first.read(_read_time) if first else default_s, longest.read(_read_time)
        if first_s is not None and longest_s is not None and longest_s < first_s:
            shorter = f"is shorter than the first ejection ({first_s:g}s, base_ejection_time)"
            yield longest.place.error(f"{longest.written} {shorter}")


def members_that_serve(facts: Facts) -> Iterator[ConfigError]:
    """Not all members are backups, and as many as the pool wants could be up."""
    for service in facts.services:
        members = service.cursor.at("pool", "members")
        backups = [member.read_at(scalars.flag, "backup") is True for member, _address, _port in service.members]
        if members is not None and backups and all(backups):
            yield members.place.error("are all backups: one must be what they stand in for")
        yield from _minimum(service)


def _minimum(service: ServiceFacts) -> Iterator[ConfigError]:
    minimum = service.cursor.at("pool", "min_members_up")
    count = minimum.read(scalars.members_up) if minimum else None
    if minimum is None or count is None or not service.members:
        return
    # A state that can't be read is not held against the number; its own error says enough.
    states = [member.read_at(_read_admin_state, "admin_state") for member, _address, _port in service.members]
    enabled = sum(state in (None, AdminState.ENABLED) for state in states)
    # 1 is the default, with which a pool may have all its members taken out for a time.
    if count > max(enabled, 1):
        message = f"{count} is more than the pool has enabled members ({enabled}): it would always be down"
        yield minimum.place.error(message)


RULES: tuple[Callable[[Facts], Iterable[ConfigError]], ...] = (algorithms, ejection_times, members_that_serve)
