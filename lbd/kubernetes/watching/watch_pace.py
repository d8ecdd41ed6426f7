"""What a reflector does next, and when: after an end, an error, or an end that is none. Pure."""

from __future__ import annotations

import random
from enum import StrEnum

from lbd.kubernetes.api.api_error import ApiError

FIRST_DELAY_S = 1.0
LONGEST_DELAY_S = 30.0
LONGEST_DELAY_AWAY_S = 4.0
"""While the server is away, all who ask it have a backoff in common: a second long one would only delay the return."""
MISSING_DELAY_S = 30.0
"""Between two questions for a collection that is not installed."""
NOT_INSTALLED = "not installed"
_MISSING_FOR_GOOD = 3
"""Answers in a row. A server that is just starting may say so too."""
SHORT_S = 1.0
"""A watch that ends earlier, with nothing in it, is none."""
_FAILURES_TO_LIST = 3
_OF_THE_STORAGE = ("Timeout", "InternalError")
"""Reasons that an API server gives for as long as it can't get to the version that a watch begins with."""


class Next(StrEnum):
    """What a reflector does."""

    LIST = "list"
    WATCH = "watch"


class Pace:
    """Keeps one reflector from asking more than about once a second, whatever the server does."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._failures = 0
        self._expired = 0
        self._watch_failures = 0
        self._missing = 0

    def alive(self) -> None:
        """Something good came: it works."""
        self._failures = self._expired = self._watch_failures = 0

    def listed(self) -> None:
        """The collection is there. Whether it can be watched is another question."""
        self._missing = self._failures = self._watch_failures = 0

    @property
    def missing(self) -> bool:
        """Whether the collection was not there when it was last listed."""
        return self._missing > 0

    @property
    def missing_for_good(self) -> bool:
        """Whether the collection has not been there for some time."""
        return self._missing >= _MISSING_FOR_GOOD

    def after_watch(self, lasted_s: float, *, seen: bool) -> float:
        """A watch has ended in order. Returns after how many seconds it goes on."""
        if lasted_s >= SHORT_S:
            self.alive()
            return 0.0
        return FIRST_DELAY_S if seen else self._delay_s(LONGEST_DELAY_S)

    def after_error(self, doing: Next, error: ApiError) -> tuple[Next, float]:
        """A list or a watch has failed. Returns what to do next, and after how many seconds.

        A watch goes on where it was when the server is back, however long that takes: only a version that the server
        no longer has, or can't make sense of, costs a list.
        """
        self._missing = self._missing + 1 if error.reason == NOT_INSTALLED else 0
        if doing is Next.LIST:
            if self._missing:
                return Next.LIST, MISSING_DELAY_S * self._rng.uniform(0.9, 1.1)
            return Next.LIST, self._after(error)
        if error.status == 410 or error.reason in ("Expired", "Gone"):
            self._expired += 1
            self._failures = max(0, self._expired - 2)  # a list as answer to the first one needs no delay
            return Next.LIST, 0.0 if self._expired == 1 else self._delay_s(LONGEST_DELAY_S)
        self._watch_failures += error.reason in _OF_THE_STORAGE
        lost = not error.away or self._watch_failures >= _FAILURES_TO_LIST
        return Next.LIST if lost else Next.WATCH, self._after(error)

    def _after(self, error: ApiError) -> float:
        return max(self._delay_s(LONGEST_DELAY_AWAY_S if error.away else LONGEST_DELAY_S), error.retry_after_s or 0.0)

    def _delay_s(self, longest_s: float) -> float:
        self._failures += 1
        delay_s = min(longest_s, FIRST_DELAY_S * 2.0 ** min(self._failures - 1, 10))
        return delay_s * self._rng.uniform(1.0, 1.5)
