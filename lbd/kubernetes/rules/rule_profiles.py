"""What the references of an L4Rule can name: profiles and health monitors by name and kind. Pure."""

from __future__ import annotations

from typing import TypeVar

from lbd.config import scalars
from lbd.config.errors import show
from lbd.model.desired import SYSTEM_MONITORS, HealthMonitor
from lbd.model.kubernetes import (
    SYSTEM_MONITOR_REFS,
    SYSTEM_PROFILES,
    AnalyticsProfile,
    ApplicationProfile,
    Kubernetes,
    NetworkProfile,
    NetworkSecurityPolicy,
    PersistenceProfile,
    Profile,
)

_Kind = TypeVar(
    "_Kind", PersistenceProfile, ApplicationProfile, NetworkProfile, AnalyticsProfile, NetworkSecurityPolicy
)

THERE_IS_NO = "there is no"
"""How each sentence about a reference begins that resolves to nothing."""

_WORDS: dict[type[Profile], str] = {
    PersistenceProfile: "persistence profile",
    ApplicationProfile: "application profile",
    NetworkProfile: "network profile",
    AnalyticsProfile: "analytics profile",
    NetworkSecurityPolicy: "network security policy",
}


class Catalog:
    """Everything that a rule can name: what the configuration defines and what is built in."""

    def __init__(self, kubernetes: Kubernetes) -> None:
        self._profiles = {(type(one), one.name): one for one in (*SYSTEM_PROFILES, *kubernetes.profiles)}
        self._monitors = {one.name: one for one in (*SYSTEM_MONITORS, *kubernetes.health_monitors)}
        self._monitor_refs = {ref: self._monitors[name] for ref, name in SYSTEM_MONITOR_REFS}

    def profile(self, kind: type[_Kind], name: str) -> _Kind:
        """Return a profile.

        Raises:
            ValueError: there is none of this kind; the message says which kind it is then, or which name is close.
        """
        found = self._profiles.get((kind, name))
        if isinstance(found, kind):
            return found
        others = [word for other, word in _WORDS.items() if (other, name) in self._profiles]
        if others:
            raise ValueError(f"{show(name)} is {_a(others[0])}, and this must name {_a(_WORDS[kind])}")
        names = sorted(known for of_kind, known in self._profiles if of_kind is kind)
        raise ValueError(f"{THERE_IS_NO} {_WORDS[kind]} {show(name)}{scalars.did_you_mean(name, names)}")

    def monitor(self, name: str) -> HealthMonitor:
        """Return a health monitor, by its own name or by what rules call a built-in one.

        Raises:
            ValueError: there is none.
        """
        found = self._monitor_refs.get(name) or self._monitors.get(name)
        if found is None:
            names = sorted({*self._monitor_refs, *self._monitors} - {one.name for one in SYSTEM_MONITORS})
            raise ValueError(f"{THERE_IS_NO} health monitor {show(name)}{scalars.did_you_mean(name, names)}")
        return found


def _a(word: str) -> str:
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"
