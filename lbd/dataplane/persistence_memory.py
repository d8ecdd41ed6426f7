"""The memory behind persistence tables: one file for each service, one part of it for each lane.

The supervisor makes it and keeps it, workers map the parts of the lanes that they serve: so the entries outlive every
worker. The file is sparse: an entry that nobody used costs nothing.

A lane's part, each region beginning on a page:

    header    64-bit words: see the places below
    keys      16 bytes an entry: the client's address, cut to the prefix; IPv4 as ::ffff:a.b.c.d
    members   32 bits an entry: the member's slot + 1; 0: the entry is free; -1: its member is gone
    left      64 bits an entry: when its last connection ended (CLOCK_MONOTONIC, ms); 0: one is open
    columns   32 bits an entry, one column for each worker: how many connections it has open
"""

from __future__ import annotations

import mmap
import os
from dataclasses import dataclass

MAGIC = 0x6C62642D707374  # "lbd-pst"
LAYOUT_VERSION = 1
PAGE_BYTES = 4096

# Places of 64-bit words in the header.
MAGIC_WORD, VERSION_WORD, CAPACITY_WORD, WORKERS_WORD, OWNER_WORD, USED_WORD, ENTRIES_WORD = range(7)
COLUMN_WORDS = 16
"""The first of one word for each worker: 1 if its column may hold something else than zeros."""
MAX_WORKERS = PAGE_BYTES // 8 - COLUMN_WORDS


@dataclass(frozen=True, slots=True)
class Layout:
    """Where the regions of a lane of `capacity` entries lie, in bytes from the lane's beginning."""

    capacity: int
    workers: int

    @property
    def keys(self) -> int:
        """Of the clients' addresses."""
        return PAGE_BYTES

    @property
    def members(self) -> int:
        """Of the members' slots."""
        return self.keys + _pages(16 * self.capacity)

    @property
    def left(self) -> int:
        """Of the times."""
        return self.members + _pages(4 * self.capacity)

    def column(self, worker: int) -> int:
        """Of a worker's counts of open connections."""
        return self.left + _pages(8 * self.capacity) + worker * _pages(4 * self.capacity)

    @property
    def size(self) -> int:
        """Of the whole lane."""
        return self.column(self.workers)


def _pages(size: int) -> int:
    return -(-size // PAGE_BYTES) * PAGE_BYTES


class PersistenceMemory:
    """The supervisor's side: makes the file for `lanes` lanes, and reads and cleans it."""

    def __init__(self, lanes: int, capacity: int, workers: int) -> None:
        """`capacity` is that of each lane.

        Raises:
            OSError: there is no memory or no descriptor for it.
            ValueError: more workers than a header has words for.
        """
        if workers > MAX_WORKERS:
            raise ValueError(f"persistence knows at most {MAX_WORKERS} workers, not {workers}")
        self._layout = Layout(capacity, workers)
        self._lanes = lanes
        self.descriptor = os.memfd_create("lbd-persistence", os.MFD_CLOEXEC)
        try:
            os.ftruncate(self.descriptor, lanes * self._layout.size)
            for lane in range(lanes):
                for word, value in (
                    (MAGIC_WORD, MAGIC),
                    (VERSION_WORD, LAYOUT_VERSION),
                    (CAPACITY_WORD, capacity),
                    (WORKERS_WORD, workers),
                ):
                    self._write_word(lane, word, value)
        except OSError:
            os.close(self.descriptor)
            raise

    @property
    def entries(self) -> int:
        """How many clients are remembered, in all lanes."""
        return sum(self._word(lane, ENTRIES_WORD) for lane in range(self._lanes))

    def offset(self, lane: int) -> int:
        """Where a lane begins in the file."""
        return lane * self._layout.size

    def bury(self, worker: int) -> None:
        """A worker has died, and with it every connection that it had open."""
        for lane in range(self._lanes):
            if self._word(lane, COLUMN_WORDS + worker):
                zeros = bytes(4 * self._layout.capacity)
                os.pwrite(self.descriptor, zeros, self.offset(lane) + self._layout.column(worker))
                self._write_word(lane, COLUMN_WORDS + worker, 0)

    def close(self) -> None:
        """Let go of it; workers that map it still do."""
        os.close(self.descriptor)

    def _word(self, lane: int, word: int) -> int:
        return int.from_bytes(os.pread(self.descriptor, 8, self.offset(lane) + 8 * word), "little")

    def _write_word(self, lane: int, word: int, value: int) -> None:
        os.pwrite(self.descriptor, value.to_bytes(8, "little"), self.offset(lane) + 8 * word)


class LaneMemory:
    """A worker's side: one lane's part of the file, mapped. `column` is the worker's own."""

    def __init__(self, descriptor: int, offset: int, worker: int) -> None:
        """Map the lane that begins at `offset`; the descriptor can be closed afterwards.

        Raises:
            ValueError: there is no lane, or one of another layout.
        """
        head = memoryview(os.pread(descriptor, 8 * COLUMN_WORDS, offset)).cast("q")
        if len(head) < COLUMN_WORDS or head[MAGIC_WORD] != MAGIC or head[VERSION_WORD] != LAYOUT_VERSION:
            raise ValueError(f"no persistence table of layout {LAYOUT_VERSION} at {offset}")
        self.capacity = head[CAPACITY_WORD]
        self.workers = head[WORKERS_WORD]
        self.worker = worker
        layout = Layout(self.capacity, self.workers)
        whole = memoryview(mmap.mmap(descriptor, layout.size, offset=offset))
        self.header = whole[:PAGE_BYTES].cast("q")
        self.keys = whole[layout.keys : layout.keys + 16 * self.capacity]
        self.members = whole[layout.members : layout.members + 4 * self.capacity].cast("i")
        self.left = whole[layout.left : layout.left + 8 * self.capacity].cast("q")
        self.columns = [
            whole[start : start + 4 * self.capacity].cast("I")
            for start in (layout.column(worker) for worker in range(self.workers))
        ]
