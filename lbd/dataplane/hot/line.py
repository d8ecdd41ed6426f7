"""A queue that can also be left from the middle.

Hot module: compiled by mypyc, and must do the same when interpreted.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from mypy_extensions import trait

LEFT_AT_MOST: Final = 64
"""So many who have left are still remembered, or as many as wait."""


@trait
class Entrant:
    """A connection that may have to wait for a place."""

    __slots__ = ()

    def admitted(self) -> None:
        """It has a place now."""

    def refused(self, reason: int) -> None:
        """It gets none; `reason` is a place in counters.REJECTION_ORDER."""


class Line:
    """Those who wait, the longest first. Who leaves from the middle costs no more than the others."""

    __slots__ = ("_order", "_present")

    def __init__(self) -> None:
        self._order: deque[Entrant] = deque()
        self._present: set[Entrant] = set()

    def __len__(self) -> int:
        return len(self._present)

    def append(self, entrant: Entrant) -> None:
        """Wait behind all others."""
        self._order.append(entrant)
        self._present.add(entrant)

    def prepend(self, entrant: Entrant) -> None:
        """Wait before all others."""
        self._order.appendleft(entrant)
        self._present.add(entrant)

    def remove(self, entrant: Entrant) -> None:
        """Wait no longer, if he does."""
        self._present.discard(entrant)
        if not self._present:
            self._order.clear()
        elif len(self._order) > 2 * len(self._present) + LEFT_AT_MOST:
            self._order = deque([one for one in self._order if one in self._present])

    def first(self) -> Entrant | None:
        """Take out who has waited longest."""
        while self._order:
            entrant = self._order.popleft()
            if entrant in self._present:
                self._present.discard(entrant)
                return entrant
        return None

    def last(self) -> Entrant | None:
        """Take out who came last."""
        while self._order:
            entrant = self._order.pop()
            if entrant in self._present:
                self._present.discard(entrant)
                return entrant
        return None
