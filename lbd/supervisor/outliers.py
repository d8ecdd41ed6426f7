"""Passive ejection: which members of a pool get nothing for a while because they failed for clients. Pure.

As Envoy's outlier detection for consecutive errors: an ejection lasts longer each time, and a cap on the share that is
out keeps a fault of the network, or of lbd itself, from emptying the pool.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from math import ceil

from lbd.model.address import Endpoint
from lbd.model.desired import OutlierDetection


@dataclass(frozen=True, slots=True)
class Ejection:
    """A member gets nothing from now on for `for_s`, which is `count` times the base unless that is too long."""

    for_s: float
    count: int


@dataclass(frozen=True, slots=True)
class Refusal:
    """A member should be ejected and is not: why."""

    reason: str


@dataclass(slots=True)
class _Record:
    """Of a member that was ejected: until when, and how often, at that time."""

    until_s: float
    count: int
    ended: bool = False

    def count_at(self, now_s: float, base_s: float) -> int:
        """How many ejections count now: each `base_s` without one takes one off."""
        return max(0, self.count - int(max(0.0, now_s - self.until_s) / base_s))


class Outliers:
    """The ejections of one virtual service. Times are monotonic seconds."""

    def __init__(self) -> None:
        self._settings: OutlierDetection | None = None
        self._members: frozenset[Endpoint] = frozenset()
        self._records: dict[Endpoint, _Record] = {}
        self._refused: set[Endpoint] = set()

    def configure(self, settings: OutlierDetection | None, members: Collection[Endpoint]) -> None:
        """Take over the settings (None: nobody is ejected) and the enabled members; the others are forgotten."""
        self._settings = settings
        self._members = frozenset(members)
        kept = self._members if settings is not None else frozenset[Endpoint]()
        self._records = {endpoint: record for endpoint, record in self._records.items() if endpoint in kept}
        self._refused.clear()

    def failures_reported(self, endpoint: Endpoint, consecutive: int, now_s: float) -> Ejection | Refusal | None:
        """Take the number of failures in a row that one worker has seen of a member.

        Each full `consecutive_failures` of them ask for an ejection: who comes back needs as many again. Returns None
        where nothing changes; a refusal only once, until who is ejected changes.
        """
        settings = self._settings
        if settings is None or endpoint not in self._members:
            return None
        if consecutive <= 0 or consecutive % settings.consecutive_failures or endpoint in self.ejected(now_s):
            return None
        out = len(self.ejected(now_s))
        allowed = max(1, int(len(self._members) * settings.max_ejected_percent / 100.0))
        if out >= allowed:
            if endpoint in self._refused:
                return None
            self._refused.add(endpoint)
            return Refusal(
                f"{out} of {len(self._members)} members are ejected, and max_ejected {settings.max_ejected_percent:g}% "
                f"allows {allowed}"
            )
        record = self._records.get(endpoint)
        count = 1 + (record.count_at(now_s, settings.base_ejection_s) if record is not None else 0)
        longest = ceil(settings.max_ejection_s / settings.base_ejection_s)
        count = min(count, longest)  # what makes it no longer would only take longer to be forgotten
        for_s = min(settings.base_ejection_s * count, settings.max_ejection_s)
        self._records[endpoint] = _Record(now_s + for_s, count)
        self._refused.clear()
        return Ejection(for_s, count)

    def ejected(self, now_s: float) -> Mapping[Endpoint, float]:
        """Who is ejected now, and until when."""
        return {endpoint: record.until_s for endpoint, record in self._records.items() if now_s < record.until_s}

    def next_change_s(self) -> float | None:
        """When `take_ended` is to be called next, or None without any ejection."""
        return min((record.until_s for record in self._records.values() if not record.ended), default=None)

    def take_ended(self, now_s: float) -> tuple[Endpoint, ...]:
        """Whose ejection has ended since the last call. What no longer counts is forgotten."""
        ended = []
        settings = self._settings
        for endpoint, record in list(self._records.items()):
            if now_s < record.until_s:
                continue
            if not record.ended:
                record.ended = True
                ended.append(endpoint)
                self._refused.clear()
            if settings is None or not record.count_at(now_s, settings.base_ejection_s):
                del self._records[endpoint]
        return tuple(ended)
