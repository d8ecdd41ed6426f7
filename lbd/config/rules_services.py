"""What must hold within one virtual service, its pool aside; see `rules`.

Most of it is that nothing may be written which would be taken and then do nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from lbd.config import judging, quantities, scalars
from lbd.config.errors import ConfigError
from lbd.config.facts import Cursor, Facts, ServiceFacts
from lbd.config.shapes import UdpShape
from lbd.config.tree import Mapping
from lbd.model.address import family_of
from lbd.model.desired import OnLimit, Protocol, ProxyProtocol, Source

_QUEUE_KEYS = ("queue_length", "queue_timeout")

OWN_KEYS: dict[Protocol, tuple[tuple[str, ...], ...]] = {
    Protocol.TCP: (
        ("accept_proxy_protocol",),
        ("bulk",),
        ("keepalive",),
        *(("limits", key) for key in _QUEUE_KEYS),
        ("client_logs", "slow_connect"),
        ("timeouts", "connect"),
        ("timeouts", "client_half_closed"),
        ("timeouts", "member_half_closed"),
        ("timeouts", "client_user"),
        ("timeouts", "member_user"),
        ("timeouts", "lifetime"),
        ("timeouts", "lifetime_jitter"),
    ),
    Protocol.UDP: (("udp",),),
}
"""Which keys of a virtual service mean something for one protocol only."""

_read_on_limit = scalars.one_of(OnLimit)
_read_proxy_protocol = scalars.one_of(ProxyProtocol)
_read_source = scalars.one_of(Source)
_read_lifetime = quantities.duration("0s", "100000h")


def keys_of_protocols(facts: Facts) -> Iterator[ConfigError]:
    """A service has only keys, and values, that mean something for its protocol."""
    for service in facts.services:
        for protocol, ways in OWN_KEYS.items():
            if service.protocol is None or service.protocol is protocol:
                continue
            for way in ways:
                cursor = service.cursor.at(*way)
                if cursor is not None:
                    message = f"belongs to {protocol} services, and this one has protocol {service.protocol}"
                    yield cursor.key_place.error(message)
        if service.protocol is Protocol.UDP:
            yield from _values_of_udp(service.cursor)


def _values_of_udp(service: Cursor) -> Iterator[ConfigError]:
    header = service.at("proxy_protocol")
    if header is not None and header.read(_read_proxy_protocol) is ProxyProtocol.V1:
        yield header.place.error("v1 is made for streams: a udp service takes v2")
    on_limit = service.at("limits", "on_limit")
    if on_limit is not None and on_limit.read(_read_on_limit) is OnLimit.QUEUE:
        yield on_limit.place.error("queue is for tcp services: a datagram does not wait")


def per_packet(facts: Facts) -> Iterator[ConfigError]:
    """Where each datagram picks its member, nothing can be had that lasts for a flow."""
    for service in facts.services:
        if service.protocol is not Protocol.UDP or not service.cursor.read_at(scalars.flag, "udp", "per_packet"):
            continue
        for way in (("proxy_protocol",), ("pool", "persistence")):
            cursor = service.cursor.at(*way)
            if cursor is not None:
                yield cursor.key_place.error("can't be had with udp.per_packet: each datagram picks its own member")


def limits(facts: Facts) -> Iterator[ConfigError]:
    """A limit is one that can be reached, and a queue has something to wait for."""
    for service in facts.services:
        section = service.cursor.at("limits")
        if section is None:
            continue
        if service.protocol is not Protocol.UDP:
            yield from _queue(section)
        else:
            yield from _flows(service, section)
        yield from limits_of_a_client(section)


def _queue(section: Cursor) -> Iterator[ConfigError]:
    on_limit = section.at("on_limit")
    wanted = OnLimit.REFUSE if on_limit is None else on_limit.read(_read_on_limit)
    if wanted is OnLimit.REFUSE:
        for key in _QUEUE_KEYS:
            cursor = section.at(key)
            if cursor is not None:
                yield cursor.key_place.error("belongs to on_limit: queue, and here connections are refused")
    elif wanted is OnLimit.QUEUE and on_limit is not None and section.at("max_connections") is None:
        yield on_limit.place.error("queue needs max_connections: without it nobody would ever wait")


def _flows(service: ServiceFacts, section: Cursor) -> Iterator[ConfigError]:
    most = section.at("max_connections")
    count = most.read(scalars.connections) if most else None
    written = service.cursor.at("udp", "max_flows")
    flows = written.read(scalars.flows) if written else UdpShape.model_fields["max_flows"].default
    if most is not None and count is not None and flows is not None and count > flows:
        yield most.place.error(f"{count} can't be reached: there are at most {flows} flows (udp.max_flows)")


def limits_of_a_client(section: Cursor) -> Iterator[ConfigError]:
    """What one client may have is not more than what all of them may have together."""
    readers: tuple[tuple[str, Callable[[object], float]], ...] = (
        ("max_connections", scalars.connections),
        ("connection_rate", quantities.rate),
    )
    for key, reader in readers:
        of_all, of_one = section.at(key), section.at(f"{key}_per_client")
        if of_all is None or of_one is None:
            continue
        most, most_of_one = of_all.read(reader), of_one.read(reader)
        if most is not None and most_of_one is not None and most_of_one > most:
            message = f"{of_one.written} can't be reached: all clients together have {of_all.written} ({key})"
            yield of_one.place.error(message)


def lifetimes(facts: Facts) -> Iterator[ConfigError]:
    """A jitter is that of a lifetime."""
    for service in facts.services:
        if service.protocol is Protocol.TCP:
            yield from jitter_of(service.cursor)


def jitter_of(section: Cursor) -> Iterator[ConfigError]:
    """The `timeouts` of a section have no jitter without a lifetime."""
    jitter, lifetime = (section.at("timeouts", key) for key in ("lifetime_jitter", "lifetime"))
    if jitter is not None and (lifetime is None or lifetime.read(_read_lifetime) == 0):
        yield jitter.key_place.error("needs a lifetime: without it there is nothing to shift")


def keepalive_sides(facts: Facts) -> Iterator[ConfigError]:
    """Keep-alive is toward somebody."""
    for service in facts.services:
        yield from sides_of(service.cursor)


def sides_of(section: Cursor) -> Iterator[ConfigError]:
    """The `keepalive` of a section has a side."""
    keepalive = section.at("keepalive")
    if keepalive is not None and isinstance(keepalive.node, Mapping) and not keepalive.node.entries:
        yield keepalive.place.error("is empty: write client: {}, member: {} or both, or remove the key")


def networks(facts: Facts) -> Iterator[ConfigError]:
    """A list of networks has some, each once: an empty one could be read as everybody or as nobody."""
    for service in facts.services:
        for key, without in (("source_ranges", "everybody is served"), ("accept_proxy_protocol", "no header is read")):
            empty = f"name a network, or remove the key ({without} then)"
            yield from judging.each_once(service.cursor.at(key), scalars.network, empty=empty)


def transparent_members(facts: Facts) -> Iterator[ConfigError]:
    """From a client's own address only members of its family can be reached."""
    for service in facts.services:
        if service.vip is None or service.cursor.read_at(_read_source, "source") is not Source.TRANSPARENT:
            continue
        family = family_of(service.vip)
        for member, address, _port in service.members:
            cursor = member.at("address")
            if cursor is not None and address is not None and family_of(address) != family:
                yield cursor.place.error(
                    f"{address} can't be reached from the address of an IPv{family} client (source: transparent)"
                )


RULES: tuple[Callable[[Facts], Iterable[ConfigError]], ...] = (
    keys_of_protocols,
    per_packet,
    limits,
    lifetimes,
    keepalive_sides,
    networks,
    transparent_members,
)
