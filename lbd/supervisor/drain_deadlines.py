"""Since when members and virtual services are draining or disabled, and when what they still have is reset. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lbd.model.desired import AdminState, DesiredState, VirtualService
from lbd.supervisor.overrides import Override, Target


@dataclass(slots=True)
class _Drain:
    since_s: float
    deadline_s: float | None
    done: bool = False


class DrainDeadlines:
    """Every target that is not enabled, with its deadline. Times are monotonic seconds.

    A member's deadline is its pool's `drain_timeout_s` after it stopped being enabled, a service has none by itself;
    one that was given with an override counts instead.
    """

    def __init__(self) -> None:
        self._drains: dict[Target, _Drain] = {}
        self._not_enabled: dict[str, tuple[VirtualService, tuple[Target, ...]]] = {}
        """By service name: what was found last, and of which service. One that is the same is not searched again."""

    def update(self, desired: DesiredState, overrides: Mapping[Target, Override], now_s: float) -> None:
        """Take over who is to be drained now, overrides applied; a deadline that has changed counts anew."""
        known, self._not_enabled = self._not_enabled, {}
        drains: dict[Target, _Drain] = {}
        for service in desired.virtual_services:
            found = known.get(service.name)
            if found is None or found[0] is not service:
                found = service, _not_enabled(service)
            self._not_enabled[service.name] = found
            for target in found[1]:
                timeout_s = None if target.endpoint is None else service.pool.drain_timeout_s
                drains[target] = self._drain(target, timeout_s, overrides.get(target), now_s)
        self._drains = drains

    def _drain(self, target: Target, timeout_s: float | None, override: Override | None, now_s: float) -> _Drain:
        before = self._drains.get(target)
        since_s = before.since_s if before is not None else now_s
        deadline_s = override.deadline_s if override is not None else None
        if deadline_s is None and timeout_s is not None:
            deadline_s = since_s + timeout_s
        if before is not None and before.deadline_s == deadline_s:
            return before
        return _Drain(since_s, deadline_s)

    def due(self, now_s: float) -> tuple[Target, ...]:
        """Whose deadline has passed and who was not `done` since."""
        return tuple(
            target
            for target, drain in self._drains.items()
            if drain.deadline_s is not None and drain.deadline_s <= now_s and not drain.done
        )

    def done(self, target: Target) -> None:
        """What a target still had was reset."""
        self._drains[target].done = True

    def next_s(self) -> float | None:
        """When somebody is due next, or None."""
        return min(
            (d.deadline_s for d in self._drains.values() if d.deadline_s is not None and not d.done), default=None
        )


def _not_enabled(service: VirtualService) -> tuple[Target, ...]:
    targets = [] if service.admin_state is AdminState.ENABLED else [Target(service.name)]
    members = service.pool.members
    targets += [Target(service.name, m.endpoint) for m in members if m.admin_state is not AdminState.ENABLED]
    return tuple(targets)
