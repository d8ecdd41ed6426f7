"""How late checks started, and how late the event loop was. Pure."""

from __future__ import annotations

import collections
from dataclasses import dataclass

SAMPLES = 4096
"""Lateness of so many last checks is kept."""


@dataclass(frozen=True, slots=True)
class CheckStatistics:
    """What the checker did so far. Lateness is of the last `SAMPLES` checks: start of a probe minus when it was due."""

    checks_total: int = 0
    voids_total: int = 0
    targets: int = 0
    in_flight: int = 0
    waiting_for_place: int = 0
    lateness_p50_s: float = 0.0
    lateness_p99_s: float = 0.0
    lateness_max_s: float = 0.0
    """Of all checks, not only the last ones."""
    loop_lag_max_s: float = 0.0


class LatenessRecord:
    """Collects how late checks started."""

    def __init__(self) -> None:
        self._last: collections.deque[float] = collections.deque(maxlen=SAMPLES)
        self.max_s = 0.0

    def add(self, late_s: float) -> None:
        """Take the lateness of one check."""
        self._last.append(late_s)
        if late_s > self.max_s:
            self.max_s = late_s

    def percentiles(self) -> tuple[float, float]:
        """Return the 50th and 99th percentile of the last samples, zeros without any."""
        if not self._last:
            return 0.0, 0.0
        ordered = sorted(self._last)
        return ordered[len(ordered) // 2], ordered[min(len(ordered) - 1, len(ordered) * 99 // 100)]


class LagRecord:
    """Tells how late the event loop was at the worst within a time window, from beats that should come regularly."""

    def __init__(self, beat_s: float, now_s: float) -> None:
        """`beat_s`: how far apart beats should be."""
        self.beat_s = beat_s
        self._expected_s = now_s + beat_s
        self._late: collections.deque[tuple[float, float]] = collections.deque(maxlen=1024)
        self.max_s = 0.0

    def beat(self, now_s: float) -> None:
        """Take one beat; the next one is expected `beat_s` later."""
        lag_s = now_s - self._expected_s
        if lag_s >= self.beat_s:
            self._late.append((now_s, lag_s))
            self.max_s = max(self.max_s, lag_s)
        self._expected_s = now_s + self.beat_s

    def worst_since(self, start_s: float, now_s: float) -> float:
        """Return the worst lag in the time since `start_s`, as far as it lies in it; one that is going on counts."""
        worst_s = max(0.0, min(now_s - self._expected_s, now_s - start_s))
        for seen_s, lag_s in reversed(self._late):
            if seen_s < start_s:
                break
            worst_s = max(worst_s, min(lag_s, seen_s - start_s))
        return worst_s
