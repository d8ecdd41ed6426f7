"""How often one event may be logged: pure, the time comes from the caller."""

from __future__ import annotations

from typing import NamedTuple


class Admission(NamedTuple):
    """Whether to log now, and how many events were suppressed since the last one that was logged."""

    log: bool
    suppressed: int


class RateCap:
    """Lets `per_s` events a second through, and as many at once after a quiet second; counts the others.

    A token bucket. What clients or Pods can cause at will is logged only through one of these, with the count:

        admission = cap.admit(now_s)
        if admission.log:
            log.warning("connect_failed", member=…, suppressed=admission.suppressed)
    """

    def __init__(self, per_s: float) -> None:
        """
        Raises:
            ValueError: `per_s` is not above 0.
        """
        if not per_s > 0:
            raise ValueError(f"per_s must be above 0, not {per_s}")
        self._per_s = per_s
        self._burst = max(1.0, per_s)
        self._tokens = self._burst
        self._last_s: float | None = None
        self._suppressed = 0

    def admit(self, now_s: float) -> Admission:
        """Decide about one event at the monotonic time `now_s`; a time before the last one adds no tokens."""
        if self._last_s is not None and now_s > self._last_s:
            self._tokens = min(self._burst, self._tokens + (now_s - self._last_s) * self._per_s)
        self._last_s = now_s if self._last_s is None else max(now_s, self._last_s)
        if self._tokens < 1.0:
            self._suppressed += 1
            return Admission(False, self._suppressed)
        self._tokens -= 1.0
        suppressed, self._suppressed = self._suppressed, 0
        return Admission(True, suppressed)
