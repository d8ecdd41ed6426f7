"""The fields of a counters' slot as the traffic that everybody reads."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, TypeVar

from lbd.dataplane import counters
from lbd.model.status import ConnectError, Ending, Rejection, Traffic

Name = TypeVar("Name")

# Made once: a snapshot of a cluster's services reads ten thousand slots.
_ERRORS: Final = tuple(ConnectError(name) for name in counters.ERROR_ORDER)
_REJECTIONS: Final = tuple(Rejection(name) for name in counters.REJECTION_ORDER)
_ENDINGS: Final = tuple(Ending(name) for name in counters.ENDING_ORDER)


def traffic_of(fields: Sequence[int], persistence_entries: int = 0) -> Traffic:
    """Return the traffic that a slot's summed fields describe; who is remembered is not counted there."""
    return Traffic(
        active_connections=fields[counters.ACTIVE],
        connections_total=fields[counters.TOTAL],
        received_bytes_total=fields[counters.RECEIVED_BYTES],
        sent_bytes_total=fields[counters.SENT_BYTES],
        retries_total=fields[counters.RETRIES],
        unserved_total=fields[counters.UNSERVED],
        connect_errors_total=_named(_ERRORS, fields, counters.ERRORS),
        received_datagrams_total=fields[counters.RECEIVED_DATAGRAMS],
        sent_datagrams_total=fields[counters.SENT_DATAGRAMS],
        queued=fields[counters.QUEUED],
        rejected_total=_named(_REJECTIONS, fields, counters.REJECTED),
        timed_out_total=_named(_ENDINGS, fields, counters.TIMED_OUT),
        evicted_flows_total=fields[counters.EVICTED_FLOWS],
        moved_flows_total=fields[counters.MOVED_FLOWS],
        persistence_entries=persistence_entries,
        persistence_evictions_total=fields[counters.EVICTED_ENTRIES],
    )


def _named(names: Sequence[Name], fields: Sequence[int], first: int) -> dict[Name, int]:
    return dict(zip(names, fields[first : first + len(names)], strict=True))
