"""Counts of one virtual service or member in one worker, gathered natively and written to the shared map in batches.

A write to the map costs about 60 ns, an addition to a native attribute 1 ns. So the relay adds here, and flushes
the tallies that changed once at the end of every batch of events: what a reader of the map sees is never older than
the batch that runs now.
"""

from __future__ import annotations

from typing import Final

from mypy_extensions import i64

# Fields of a slot: as in lbd.dataplane.counters, repeated as Final so that mypyc folds them.
ACTIVE: Final = 0
TOTAL: Final = 1
RECEIVED_BYTES: Final = 2
SENT_BYTES: Final = 3
RETRIES: Final = 4
UNSERVED: Final = 5
ERRORS: Final = 6
RECEIVED_DATAGRAMS: Final = 11
SENT_DATAGRAMS: Final = 12
QUEUED: Final = 13
EVICTED_FLOWS: Final = 14
MOVED_FLOWS: Final = 15
EVICTED_ENTRIES: Final = 16
REJECTED: Final = 17
TIMED_OUT: Final = 26
FIELDS: Final = 30


class Tally:
    """What was counted since the last flush. What changes with every move has an attribute of its own, all else goes
    through `add`. Whoever changes an attribute calls `mark` unless `dirty`. Counts of what there is now are differences
    too, and may be negative."""

    __slots__ = (
        "_base", "_batch", "_rare", "_view", "active", "dirty", "has_rare", "received_bytes", "received_datagrams",
        "sent_bytes", "sent_datagrams", "total",
    )  # fmt: skip

    def __init__(self, view: memoryview, base: int, batch: list[Tally]) -> None:
        """`batch` is the reactor's list of tallies to flush."""
        self._view: memoryview = view
        self._base: int = base
        self._batch: list[Tally] = batch
        self.dirty: bool = False
        self.has_rare: bool = False
        self._rare: list[int] = [0] * FIELDS
        self.active: i64 = 0
        self.total: i64 = 0
        self.received_bytes: i64 = 0
        self.sent_bytes: i64 = 0
        self.received_datagrams: i64 = 0
        self.sent_datagrams: i64 = 0

    def mark(self) -> None:
        """Have this flushed at the end of the batch."""
        if not self.dirty:
            self.dirty = True
            self._batch.append(self)

    def add(self, field: int, change: int) -> None:
        """Change a field that has no attribute here, and mark this."""
        self._rare[field] += change
        self.has_rare = True
        self.mark()

    def flush(self) -> None:
        """Add to the shared map what was counted since the last flush."""
        view = self._view
        base = self._base
        if self.active:
            view[base + ACTIVE] += int(self.active)
            self.active = 0
        if self.total:
            view[base + TOTAL] += int(self.total)
            self.total = 0
        if self.received_bytes:
            view[base + RECEIVED_BYTES] += int(self.received_bytes)
            self.received_bytes = 0
        if self.sent_bytes:
            view[base + SENT_BYTES] += int(self.sent_bytes)
            self.sent_bytes = 0
        if self.received_datagrams:
            view[base + RECEIVED_DATAGRAMS] += int(self.received_datagrams)
            self.received_datagrams = 0
        if self.sent_datagrams:
            view[base + SENT_DATAGRAMS] += int(self.sent_datagrams)
            self.sent_datagrams = 0
        if self.has_rare:
            self._flush_rare()
        self.dirty = False

    def _flush_rare(self) -> None:
        self.has_rare = False
        rare = self._rare
        for field in range(FIELDS):
            if rare[field]:
                self._view[self._base + field] += rare[field]
                rare[field] = 0
