"""The shared map of counters: one row per worker process, one slot per virtual service and per member.

Every counter is a plain 64-bit integer at a fixed place. A worker adds to its own row only; the supervisor sums rows
when somebody looks, and least-connections reads all of them. The memory file is sparse: a slot that nobody used costs
nothing. Row 0 is the supervisor's: it holds the totals of workers that have died.
"""

from __future__ import annotations

import mmap
import os
from collections.abc import Iterable

LAYOUT_VERSION = 2
MAGIC = 0x6C62642D6D6170  # "lbd-map"

HEADER_SLOTS = 512  # one page of 64-bit slots
ROW_HEADER_SLOTS = 512
SLOT_FIELDS = 32
MAX_SERVICES = 4096
MAX_MEMBERS = 65536
ROW_SLOTS = ROW_HEADER_SLOTS + SLOT_FIELDS * (MAX_SERVICES + MAX_MEMBERS)

RETIRED_ROW = 0
"""The row that keeps the totals of dead workers."""

# Fields of a row's header, written by the worker.
HEARTBEAT_NS, PID, LOOP_LAG_US, DESCRIPTORS_USED, DESCRIPTORS_LIMIT, ACCEPTING, CONNECTIONS, PENDING_BYTES = range(8)
WORST_LAG_US = 8
ROW_FIELDS = 9

# Fields of a service's or member's slot.
ACTIVE, TOTAL, RECEIVED_BYTES, SENT_BYTES, RETRIES, UNSERVED = range(6)
ERRORS = 6
"""The first of five fields, one per `ConnectError` in the order of `ERROR_ORDER`."""
ERROR_ORDER = ("refused", "reset", "timed_out", "unreachable", "local")
RECEIVED_DATAGRAMS, SENT_DATAGRAMS, QUEUED, EVICTED_FLOWS, MOVED_FLOWS, EVICTED_ENTRIES = range(11, 17)
REJECTED = 17
"""The first of nine fields, one per `Rejection` in the order of `REJECTION_ORDER`."""
REJECTION_ORDER = (
    "source_ranges",
    "max_connections",
    "max_connections_per_client",
    "connection_rate",
    "connection_rate_per_client",
    "queue_full",
    "queue_timeout",
    "proxy_header",
    "max_throughput",
)
TIMED_OUT = REJECTED + len(REJECTION_ORDER)
"""The first of four fields, one per `Ending` in the order of `ENDING_ORDER`."""
ENDING_ORDER = ("idle", "client_half_closed", "member_half_closed", "lifetime")
USED_FIELDS = TIMED_OUT + len(ENDING_ORDER)
GAUGES = (ACTIVE, QUEUED)
"""Fields that say how many there are now: they die with their worker. All others are totals."""


def row_base(row: int) -> int:
    """Return the index of a row's first 64-bit slot."""
    return HEADER_SLOTS + row * ROW_SLOTS


def service_base(row: int, slot: int) -> int:
    """Return the index of a service's first field in a row."""
    return row_base(row) + ROW_HEADER_SLOTS + slot * SLOT_FIELDS


def member_base(row: int, slot: int) -> int:
    """Return the index of a member's first field in a row."""
    return row_base(row) + ROW_HEADER_SLOTS + (MAX_SERVICES + slot) * SLOT_FIELDS


class CounterMap:
    """The map, as the supervisor creates it or a worker opens it.

    `view` is indexed by 64-bit slots.
    """

    def __init__(self, descriptor: int, rows: int) -> None:
        self.descriptor = descriptor
        self.rows = rows
        self._map = mmap.mmap(descriptor, 8 * row_base(rows))
        self.view = memoryview(self._map).cast("q")

    @classmethod
    def create(cls, rows: int) -> CounterMap:
        """Make a new map with `rows` rows for workers besides the retired one."""
        descriptor = os.memfd_create("lbd-counters", os.MFD_CLOEXEC)
        os.ftruncate(descriptor, 8 * row_base(rows + 1))
        counters = cls(descriptor, rows + 1)
        counters.view[0] = MAGIC
        counters.view[1] = LAYOUT_VERSION
        counters.view[2] = rows + 1
        return counters

    @classmethod
    def open(cls, descriptor: int) -> CounterMap:
        """Open the map behind an inherited descriptor.

        Raises:
            ValueError: it is no such map, or one of another layout.
        """
        head = os.pread(descriptor, 24, 0)
        magic, version, rows = (int.from_bytes(head[i : i + 8], "little") for i in (0, 8, 16))
        if magic != MAGIC or version != LAYOUT_VERSION:
            raise ValueError(f"counters map has layout {version}, this worker knows {LAYOUT_VERSION}")
        return cls(descriptor, rows)

    def row_field(self, row: int, field: int) -> int:
        """Return one field of a row's header."""
        return self.view[row_base(row) + field]

    def service_sums(self, slot: int, rows: Iterable[int]) -> list[int]:
        """Return the fields of a virtual service's slot, summed over rows."""
        return self._sums([service_base(row, slot) for row in rows])

    def member_sums(self, slot: int, rows: Iterable[int]) -> list[int]:
        """Return the fields of a member's slot, summed over rows."""
        return self._sums([member_base(row, slot) for row in rows])

    def retire_row(self, row: int, service_slots: Iterable[int], member_slots: Iterable[int]) -> None:
        """Move a dead worker's totals to the retired row, drop its active counts, and clear the row for reuse."""
        pairs = [(service_base(row, slot), service_base(RETIRED_ROW, slot)) for slot in service_slots]
        pairs += [(member_base(row, slot), member_base(RETIRED_ROW, slot)) for slot in member_slots]
        view = self.view
        for source, target in pairs:
            for field in range(USED_FIELDS):
                if field not in GAUGES:
                    view[target + field] += view[source + field]
            for field in range(USED_FIELDS):
                view[source + field] = 0
        base = row_base(row)
        for field in range(ROW_FIELDS):
            view[base + field] = 0

    def clear_service(self, slot: int) -> None:
        """Zero a service's slot in every row, before the slot is used for another one."""
        self._clear([service_base(row, slot) for row in range(self.rows)])

    def clear_member(self, slot: int) -> None:
        """Zero a member's slot in every row, before the slot is used for another one."""
        self._clear([member_base(row, slot) for row in range(self.rows)])

    def close(self) -> None:
        """Unmap and close."""
        self.view.release()
        self._map.close()
        os.close(self.descriptor)

    def _sums(self, bases: list[int]) -> list[int]:
        columns = [self.view[base : base + USED_FIELDS].tolist() for base in bases]
        return [sum(column) for column in zip(*columns, strict=True)] if columns else [0] * USED_FIELDS

    def _clear(self, bases: list[int]) -> None:
        for base in bases:
            for field in range(SLOT_FIELDS):
                self.view[base + field] = 0
