"""What must hold within and between profiles; see `rules`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from lbd.config import judging, kubernetes_scalars, scalars
from lbd.config.errors import ConfigError
from lbd.config.facts import Cursor, Facts
from lbd.config.kubernetes_scalars import ProfileType
from lbd.config.rules_services import jitter_of, limits_of_a_client, sides_of
from lbd.model.kubernetes import SYSTEM_PROFILES

MAX_PROFILES = 1024

_LIMITS = {"max_connections_per_client", "connection_rate", "connection_rate_per_client"}
PROFILE_KEYS: dict[ProfileType, set[str]] = {
    ProfileType.PERSISTENCE: {"type", "persistence"},
    ProfileType.APPLICATION: {"type", "source", "proxy_protocol", "accept_proxy_protocol"} | _LIMITS,
    ProfileType.NETWORK: {"type", "timeouts", "udp_idle", "keepalive", "udp", "bulk"},
    ProfileType.ANALYTICS: {"type", "slow_connect"},
    ProfileType.NETWORK_SECURITY: {"type", "source_ranges"},
}
"""Which keys belong to which type of profile."""

_EMPTY_LISTS = (
    ("source_ranges", "name a network (0.0.0.0/0 and ::/0 are everybody)"),
    ("accept_proxy_protocol", "name a network, or remove the key (no header is read then)"),
)
_SYSTEM_NAMES = {profile.name for profile in SYSTEM_PROFILES}


def definitions(facts: Facts) -> Iterator[ConfigError]:
    """Each profile has a name of its own, and only keys that mean something for its type."""
    for index, cursor in enumerate(facts.profiles.values()):
        if index == MAX_PROFILES:
            yield cursor.key_place.error(f"is one more than the {MAX_PROFILES} profiles that are possible")
    for section in facts.sections("profiles"):
        for name, profile in section.entries():
            yield from judging.defined_once(facts.profiles, name, profile)
            if name in _SYSTEM_NAMES:
                yield profile.key_place.error("is a built-in profile: choose another name")
            yield from judging.refusal(profile.key_place, scalars.name, name)
            yield from _keys(profile)


def _keys(profile: Cursor) -> Iterator[ConfigError]:
    kind = profile.read_at(kubernetes_scalars.profile_type, "type")
    if kind is None:
        return
    for key, cursor in profile.entries():
        owners = [str(owner) for owner, keys in PROFILE_KEYS.items() if key in keys]
        if owners and kind not in owners:
            yield cursor.key_place.error(
                f"belongs to {judging.and_words(owners)} profiles, and this one is of type {kind}"
            )
    if kind is ProfileType.NETWORK_SECURITY and profile.at("source_ranges") is None:
        yield profile.place.error("is required: it says whose connections are taken", "source_ranges")


def values(facts: Facts) -> Iterator[ConfigError]:
    """What must hold for the values of a virtual service holds for those of a profile."""
    for section in facts.sections("profiles"):
        for _name, profile in section.entries():
            yield from limits_of_a_client(profile)
            yield from jitter_of(profile)
            yield from sides_of(profile)
            for key, instead in _EMPTY_LISTS:
                yield from judging.each_once(profile.at(key), scalars.network, empty=instead)


RULES: tuple[Callable[[Facts], Iterable[ConfigError]], ...] = (definitions, values)
