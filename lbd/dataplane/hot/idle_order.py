"""Flows in the order in which they were last used, so that the longest idle one is found at once. Pure.

Two generations: a flow is new until its client has used it again after an answer, established from then on. A flood of
spoofed sources never gets that far, so it only ever displaces itself while there is a new flow to displace.

Each generation is a doubly linked list: taking the first, the last or any other one costs the same however many there
are. (The order of a dict would not do: each look for its first key passes over all that were deleted before it.)

Hot module: compiled by mypyc, and must do the same when interpreted.
"""

from __future__ import annotations

from typing import Final

from lbd.dataplane.hot.reactor import Handler

STEP_MS: Final = 1000
STEP_SHARE: Final = 32
"""A flow moves to the end of its list once in a 32nd of the idle timeout, at most once a second, not with every
datagram: so exact is the order."""


class Entry(Handler):
    """What stands in the order. `is_answered` says that something came back to the client."""

    __slots__ = ("is_answered", "is_established", "newer", "older", "placed_ms", "used_ms")

    def __init__(self) -> None:
        self.older: Entry | None = None
        self.newer: Entry | None = None
        self.placed_ms: int = 0
        self.used_ms: int = 0
        self.is_answered: bool = False
        self.is_established: bool = False

    def end(self) -> None:
        """Close it, and take it out of the order."""


class Generation:
    """One list, the longest idle first."""

    __slots__ = ("count", "first", "last")

    def __init__(self) -> None:
        self.first: Entry | None = None
        self.last: Entry | None = None
        self.count: int = 0

    def append(self, entry: Entry) -> None:
        """Put an entry that stands nowhere at the end."""
        last = self.last
        entry.older = last
        if last is None:
            self.first = entry
        else:
            last.newer = entry
        self.last = entry
        self.count += 1

    def unlink(self, entry: Entry) -> None:
        """Take an entry out, which leaves no reference behind."""
        older = entry.older
        newer = entry.newer
        if older is None:
            self.first = newer
        else:
            older.newer = newer
        if newer is None:
            self.last = older
        else:
            newer.older = older
        entry.older = None
        entry.newer = None
        self.count -= 1


class IdleOrder:
    """Both generations. Times are monotonic milliseconds and never go back."""

    __slots__ = ("_established", "_new", "_step_ms")

    def __init__(self, idle_ms: int) -> None:
        self._new: Generation = Generation()
        self._established: Generation = Generation()
        self._step_ms: int = STEP_MS
        self.set_idle(idle_ms)

    def __len__(self) -> int:
        return self._new.count + self._established.count

    def set_idle(self, idle_ms: int) -> None:
        """Keep the order as exact as an idle timeout (0: none) wants it."""
        self._step_ms = min(idle_ms // STEP_SHARE, STEP_MS) if idle_ms else STEP_MS

    def add(self, entry: Entry, now_ms: int) -> None:
        """Put in a new entry."""
        entry.placed_ms = now_ms
        entry.used_ms = now_ms
        self._new.append(entry)

    def asked(self, entry: Entry, now_ms: int) -> None:
        """The client has sent something."""
        if entry.is_answered and not entry.is_established:
            self._new.unlink(entry)
            entry.is_established = True
            entry.placed_ms = now_ms
            entry.used_ms = now_ms
            self._established.append(entry)
        else:
            self.used(entry, now_ms)

    def used(self, entry: Entry, now_ms: int) -> None:
        """Something has moved, either way."""
        entry.used_ms = now_ms
        if now_ms - entry.placed_ms > self._step_ms:
            entry.placed_ms = now_ms
            generation = self._established if entry.is_established else self._new
            generation.unlink(entry)
            generation.append(entry)

    def remove(self, entry: Entry) -> None:
        """Take an entry out."""
        (self._established if entry.is_established else self._new).unlink(entry)

    def longest_idle(self) -> Entry | None:
        """Return whom to end for another one's sake: of the new ones the longest idle, else of the established ones."""
        first = self._new.first
        return first if first is not None else self._established.first

    def end_idle(self, idle_ms: int, now_ms: int) -> int:
        """End whatever has been idle for `idle_ms`; return when the next one may be, or 0 when nothing is left."""
        next_ms = self._end_idle(self._new, idle_ms, now_ms)
        other_ms = self._end_idle(self._established, idle_ms, now_ms)
        return min(next_ms, other_ms) if next_ms and other_ms else next_ms + other_ms

    @staticmethod
    def _end_idle(generation: Generation, idle_ms: int, now_ms: int) -> int:
        while True:
            first = generation.first
            if first is None:
                return 0
            due_ms = first.used_ms + idle_ms
            if due_ms > now_ms:
                return due_ms
            first.end()
