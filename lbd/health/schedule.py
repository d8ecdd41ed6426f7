"""Decides when each check is due. Pure: time comes in as `now_s` (monotonic), chance as a `random.Random`.

A check has slots on a fixed grid, one per interval, whose phase is spread evenly over the interval; each slot is
shifted by the jitter. So checks neither drift nor gather, however long one takes. The first check of a member does not
wait for its slot: it comes at once, and many members' first checks follow each other at `FIRST_CHECKS_PER_S`.
"""

from __future__ import annotations

import heapq
import itertools
import math
import random
from collections.abc import Hashable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar

FIRST_CHECKS_PER_S = 5000.0
"""How fast first checks follow each other; measured: 5,000 TCP checks in one second take about half a core for it."""
FIRST_SPREAD_S = 1.0
"""Within which all first checks of one batch are due, however many there are."""
RETRY_S = 0.1
"""After how long a void check is repeated; doubled with each further void one, at most the interval."""
_GOLDEN = (math.sqrt(5) - 1) / 2
"""Steps of this share of the interval fill it evenly however many there are (low-discrepancy sequence)."""

Key = TypeVar("Key", bound=Hashable)


def first_spread_s(checks: int) -> float:
    """Return within which time the first checks of a batch of so many are due."""
    return min(FIRST_SPREAD_S, checks / FIRST_CHECKS_PER_S)


@dataclass(slots=True, eq=False)
class _Entry:
    """One check's place in time. `ticket` tells the valid heap item from those left behind."""

    interval_s: float
    jitter: float
    base_s: float
    slot: int
    ticket: int = 0
    voids_in_a_row: int = 0


class Schedule(Generic[Key]):
    """When checks are due. A check that was taken by `take_due` is out until `finished` or `repeat` puts it back."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._entries: dict[Key, _Entry] = {}
        self._heap: list[tuple[float, int, Key]] = []
        self._tickets = itertools.count(1)
        self._phase = rng.random()

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, checks: Iterable[tuple[Key, float, float]], now_s: float) -> None:
        """Take new checks, each as (key, interval in seconds, jitter as a share of it). The first ones come at once.

        Raises:
            ValueError: a key is there already, or an interval is not positive; nothing was taken.
        """
        batch = list(checks)
        for key, interval_s, _ in batch:
            if key in self._entries:
                raise ValueError(f"{key} is scheduled already")
            if not interval_s > 0:
                raise ValueError(f"{key}: an interval of {interval_s} s")
        spread_s = first_spread_s(len(batch))
        for index, (key, interval_s, jitter) in enumerate(batch):
            first_s = now_s + min(spread_s, interval_s) * index / len(batch)
            self._phase = (self._phase + _GOLDEN) % 1.0
            base_s = now_s + self._phase * interval_s
            # The second check comes half to one and a half intervals after the first: never right behind it.
            slot = math.ceil((first_s + interval_s / 2 - base_s) / interval_s) - 1
            entry = self._entries[key] = _Entry(interval_s, jitter, base_s, slot)
            self._push(key, entry, first_s)

    def remove(self, key: Key) -> None:
        """Forget a check, waiting or out.

        Raises:
            KeyError: it is not there.
        """
        del self._entries[key]
        if len(self._heap) > 2 * len(self._entries) + 64:
            self._heap = [item for item in self._heap if self._is_valid(item)]
            heapq.heapify(self._heap)

    def next_due_s(self) -> float | None:
        """Return when the next check is due; None while nothing waits."""
        while self._heap and not self._is_valid(self._heap[0]):
            heapq.heappop(self._heap)
        return self._heap[0][0] if self._heap else None

    def take_due(self, now_s: float) -> list[tuple[Key, float]]:
        """Take out the checks that are due, each with the time at which it was, in that order."""
        due: list[tuple[Key, float]] = []
        while self._heap and self._heap[0][0] <= now_s:
            item = heapq.heappop(self._heap)
            if self._is_valid(item):
                self._entries[item[2]].ticket = 0
                due.append((item[2], item[0]))
        return due

    def finished(self, key: Key, now_s: float) -> None:
        """Put a check back at its next slot; slots that passed meanwhile are left out, never made up for.

        Raises:
            KeyError: it is not there.
            ValueError: it is not out.
        """
        entry = self._out(key)
        entry.voids_in_a_row = 0
        shift_s = entry.interval_s * entry.jitter * self._rng.uniform(-1.0, 1.0)
        entry.slot += 1
        if entry.base_s + entry.slot * entry.interval_s + shift_s < now_s:
            entry.slot = math.ceil((now_s - entry.base_s) / entry.interval_s)
        self._push(key, entry, max(now_s, entry.base_s + entry.slot * entry.interval_s + shift_s))

    def repeat(self, key: Key, now_s: float) -> None:
        """Put a check whose result was void back soon, later with each void one in a row; its slot stays taken.

        Raises:
            KeyError: it is not there.
            ValueError: it is not out.
        """
        entry = self._out(key)
        delay_s = min(entry.interval_s, RETRY_S * 2.0 ** min(entry.voids_in_a_row, 30))
        entry.voids_in_a_row += 1
        self._push(key, entry, now_s + delay_s * self._rng.uniform(0.75, 1.0))

    def _out(self, key: Key) -> _Entry:
        entry = self._entries[key]
        if entry.ticket:
            raise ValueError(f"{key} was not taken")
        return entry

    def _push(self, key: Key, entry: _Entry, due_s: float) -> None:
        entry.ticket = next(self._tickets)
        heapq.heappush(self._heap, (due_s, entry.ticket, key))

    def _is_valid(self, item: tuple[float, int, Key]) -> bool:
        entry = self._entries.get(item[2])
        return entry is not None and entry.ticket == item[1]
