"""The fields of a counters' slot as the traffic that everybody reads."""

from __future__ import annotations

from collections.abc import Sequence

from lbd.dataplane import counters
from lbd.model.status import ConnectError, Ending, Rejection, Traffic


def traffic_of(fields: Sequence[int], persistence_entries: int = 0) -> Traffic:
    """Return the traffic that a slot's summed fields describe; who is remembered is not counted there."""
    return Traffic(
        active_connections=fields[counters.ACTIVE],
        connections_total=fields[counters.TOTAL],
        received_bytes_total=fields[counters.RECEIVED_BYTES],
        sent_bytes_total=fields[counters.SENT_BYTES],
        retries_total=fields[counters.RETRIES],
        unserved_total=fields[counters.UNSERVED],
        connect_errors_total={
            ConnectError(name): fields[counters.ERRORS + place] for place, name in enumerate(counters.ERROR_ORDER)
        },
        received_datagrams_total=fields[counters.RECEIVED_DATAGRAMS],
        sent_datagrams_total=fields[counters.SENT_DATAGRAMS],
        queued=fields[counters.QUEUED],
        rejected_total={
            Rejection(name): fields[counters.REJECTED + place] for place, name in enumerate(counters.REJECTION_ORDER)
        },
        timed_out_total={
            Ending(name): fields[counters.TIMED_OUT + place] for place, name in enumerate(counters.ENDING_ORDER)
        },
        evicted_flows_total=fields[counters.EVICTED_FLOWS],
        moved_flows_total=fields[counters.MOVED_FLOWS],
        persistence_entries=persistence_entries,
        persistence_evictions_total=fields[counters.EVICTED_ENTRIES],
    )
