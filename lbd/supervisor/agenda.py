"""What the supervisor's next pass has to look at. Pure.

What can be done for a VIP and its services depends on nothing outside of them (lbd.supervisor.plan), so a pass plans
only for the VIPs that something has happened to: a change of one service costs the same among 500 as alone.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Final

from lbd.supervisor.plan import ServiceKey

LOOK_AT_ALL_S: Final = 5.0
"""How often everything is looked at, whatever has happened."""


class Agenda:
    """VIPs to look at, now or once the workers have said something, and services to judge again at a time. Times are
    monotonic seconds."""

    def __init__(self) -> None:
        self._vips: set[str] = set()
        self._waiting: set[str] = set()
        self._acknowledged: int | None = None
        self._judge_at_s: dict[ServiceKey, float] = {}
        self._all_at_s = 0.0

    def touch(self, vips: Iterable[str]) -> None:
        """Something has happened to these VIPs, or to services on them."""
        self._vips.update(vips)

    def await_workers(self, vip: str) -> None:
        """Look at a VIP again when the workers have acknowledged something else than now."""
        self._waiting.add(vip)

    def acknowledged(self, revision: int) -> None:
        """The workers have acknowledged so much."""
        if revision != self._acknowledged:
            self._acknowledged = revision
            self._vips |= self._waiting
            self._waiting.clear()

    def judge_at(self, key: ServiceKey, at_s: float | None) -> None:
        """Have a service judged at a time, or (None) no more."""
        if at_s is None:
            self._judge_at_s.pop(key, None)
        else:
            self._judge_at_s[key] = at_s

    def take_due(self, now_s: float) -> list[ServiceKey]:
        """Take out the services to judge now."""
        due = [key for key, at_s in self._judge_at_s.items() if at_s <= now_s]
        for key in due:
            del self._judge_at_s[key]
            self._vips.add(key.listen.address)
        return due

    def take(self, now_s: float, everything: Callable[[], Iterable[str]]) -> set[str]:
        """Take out the VIPs to look at now; once in a while all that `everything` returns."""
        vips, self._vips = self._vips, set()
        if now_s >= self._all_at_s:
            self._all_at_s = now_s + LOOK_AT_ALL_S
            vips.update(everything())
        return vips

    def next_s(self) -> float:
        """When there is something to look at, even if nothing happens until then."""
        return min(self._judge_at_s.values(), default=self._all_at_s)
