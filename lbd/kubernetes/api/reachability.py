"""Whether the API server is there, and who may ask it when: at most one request a second while it is away. Pure.

Everybody who talks to one API server shares this. After a failure that says "away" requests go one at a time, apart by
a backoff that grows, until one of them succeeds; then all go.
"""

from __future__ import annotations

import random
from dataclasses import dataclass

FIRST_BACKOFF_S = 1.0
LONGEST_BACKOFF_S = 10.0
_JITTER = 0.25
"""A backoff is longer by up to this share of it, so that service engines don't all come at the same moment."""


@dataclass(frozen=True, slots=True)
class Turn:
    """Leave to make one request, a `probe` while the server is away.

    `epoch` counts how often that has changed: a request that was under way then says nothing about now.
    """

    epoch: int
    probe: bool


class Reachability:
    """Decides who may ask now. Times are those of one monotonic clock, in seconds."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._failures = 0
        self._epoch = 0
        self._probing = False
        self._next_s = 0.0
        self._away_since_s = 0.0
        self._error = ""
        self._answered = False

    @property
    def reachable(self) -> bool:
        """Whether the last that is known of the server is an answer; False before the first one."""
        return self._answered and not self.away

    @property
    def away(self) -> bool:
        """Whether the last that is known of the server is a failure."""
        return self._failures > 0

    @property
    def error(self) -> str:
        """Why it is away; empty while it isn't."""
        return self._error

    def away_for_s(self, now_s: float) -> float:
        """Return for how long it has been away; 0 while it isn't."""
        return max(0.0, now_s - self._away_since_s) if self.away else 0.0

    def wait_s(self, now_s: float) -> float | None:
        """Return for how long the next request has to wait; None: until the one that is under way has ended."""
        if not self.away:
            return 0.0
        return None if self._probing else max(0.0, self._next_s - now_s)

    def begin(self) -> Turn:
        """Somebody asks now, as `wait_s` allowed."""
        self._probing = self.away
        return Turn(self._epoch, self.away)

    def succeeded(self) -> Turn:
        """The server has answered. Returns the turn of an answer that goes on, as that of a watch does."""
        if self.away:
            self._epoch += 1
        self._failures, self._error = 0, ""
        self._probing = False
        self._answered = True
        return Turn(self._epoch, False)

    def failed(self, turn: Turn, now_s: float, error: str, retry_after_s: float | None = None) -> None:
        """The server has not answered, or says that it can't. What was under way together is one failure."""
        if turn.epoch != self._epoch:
            if self.away:
                self._next_s = max(self._next_s, now_s + (retry_after_s or 0.0))
            return
        if not self.away:
            self._epoch += 1
            self._away_since_s = now_s
        self._probing = False
        self._failures += 1
        self._error = error
        self._next_s = now_s + max(self._backoff_s(), retry_after_s or 0.0)

    def abandoned(self, turn: Turn) -> None:
        """Whoever asked gave up before there was an answer: that says nothing, and another one may ask."""
        if turn.probe and turn.epoch == self._epoch:
            self._probing = False

    def _backoff_s(self) -> float:
        backoff_s = min(LONGEST_BACKOFF_S, FIRST_BACKOFF_S * 2.0 ** min(self._failures - 1, 10))
        return backoff_s * (1.0 + _JITTER * self._rng.random())
