"""Since when members and virtual services are draining or disabled, and when what they still have is reset. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from lbd.model.desired import AdminState, DesiredState
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

    def update(self, desired: DesiredState, overrides: Mapping[Target, Override], now_s: float) -> None:
        """Take over who is to be drained now, overrides applied; a deadline that has changed counts anew."""
        drains: dict[Target, _Drain] = {}
        for target, timeout_s in _not_enabled(desired):
            before = self._drains.get(target)
            since_s = before.since_s if before is not None else now_s
            override = overrides.get(target)
            deadline_s = override.deadline_s if override is not None else None
            if deadline_s is None and timeout_s is not None:
                deadline_s = since_s + timeout_s
            same = before is not None and before.deadline_s == deadline_s
            drains[target] = before if before is not None and same else _Drain(since_s, deadline_s)
        self._drains = drains

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


def _not_enabled(desired: DesiredState) -> Iterator[tuple[Target, float | None]]:
    for service in desired.virtual_services:
        if service.admin_state is not AdminState.ENABLED:
            yield Target(service.name), None
        for member in service.pool.members:
            if member.admin_state is not AdminState.ENABLED:
                yield Target(service.name, member.endpoint), service.pool.drain_timeout_s
