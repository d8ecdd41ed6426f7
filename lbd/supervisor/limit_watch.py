"""Says in the log that a limit was reached: one line for each service and reason in a while, with the count. Pure."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

from lbd.model.desired import VirtualService
from lbd.model.status import Rejection, Traffic

LOOK_INTERVAL_S = 1.0
QUIET_S = 10.0
"""So long nothing more is said about the same limit of the same service."""


@dataclass(frozen=True, slots=True)
class LimitReached:
    """`rejected` connections, flows or datagrams of a service were turned away in the last `in_s` seconds for `reason`;
    `limit` is what the configuration says."""

    service: str
    reason: Rejection
    limit: str
    rejected: int
    in_s: float


@dataclass(slots=True)
class _Seen:
    """What was said last about a service's reason: the counter's value, and when."""

    total: int
    at_s: float
    is_quiet: bool = False


class LimitWatch:
    """Compares the counters of services with what was said about them last."""

    def __init__(self) -> None:
        self._seen: dict[tuple[str, Rejection], _Seen] = {}

    def look(self, services: Iterable[tuple[VirtualService, Traffic]], now_s: float) -> list[LimitReached]:
        """Return what should be logged now. To be called every LOOK_INTERVAL_S with all services."""
        reached: list[LimitReached] = []
        present: dict[tuple[str, Rejection], _Seen] = {}
        for service, traffic in services:
            for reason, total in traffic.rejected_total.items():
                if not total:
                    continue  # the usual case, of hundreds of services
                key = (service.name, reason)
                seen = present[key] = self._seen.get(key) or _Seen(0, now_s - LOOK_INTERVAL_S)
                if seen.is_quiet and now_s - seen.at_s < QUIET_S:
                    continue
                rejected = total - seen.total
                if rejected > 0:
                    in_s = round(now_s - seen.at_s, 3)
                    reached.append(LimitReached(service.name, reason, limit_text(service, reason), rejected, in_s))
                present[key] = _Seen(total, now_s, rejected > 0)
        self._seen = present
        return reached


def limit_text(service: VirtualService, reason: Rejection) -> str:
    """Return the limit that is the reason, as the configuration has it."""
    limits = service.limits
    texts = {
        Rejection.SOURCE_RANGES: ", ".join(service.source_ranges),
        Rejection.MAX_CONNECTIONS: _places_text(service),
        Rejection.MAX_CONNECTIONS_PER_CLIENT: str(limits.max_connections_per_client),
        Rejection.CONNECTION_RATE: _rate_text(limits.connection_rate),
        Rejection.CONNECTION_RATE_PER_CLIENT: _rate_text(limits.connection_rate_per_client),
        Rejection.QUEUE_FULL: str(limits.queue_length),
        Rejection.QUEUE_TIMEOUT: f"{limits.queue_timeout_s:g}s",
        Rejection.PROXY_HEADER: ", ".join(service.accept_proxy_protocol),
        Rejection.MAX_THROUGHPUT: _throughput_text(limits.max_throughput_bps),
    }
    return texts[reason]


def _rate_text(per_second: float) -> str:
    """Return a rate in the first unit of the configuration that makes it a whole number: `2/m`, not `0.0333333/s`."""
    for unit, seconds in (("s", 1), ("m", 60), ("h", 3600)):
        count = round(per_second * seconds)
        if count and math.isclose(count, per_second * seconds):
            return f"{count}/{unit}"
    return f"{per_second:g}/s"


def _throughput_text(bps: int) -> str:
    for unit, size in (("Gbps", 10**9), ("Mbps", 10**6), ("kbps", 1000)):
        if bps and bps % size == 0:
            return f"{bps // size}{unit}"
    return f"{bps}bps"


def _places_text(service: VirtualService) -> str:
    if service.limits.max_connections:
        return str(service.limits.max_connections)
    return f"{sum(member.max_connections for member in service.pool.members)} of all members"


def reason_at_limit(service: VirtualService, traffic: Traffic) -> str:
    """Return a sentence for the operator of a service that has reached a limit, else an empty text."""
    queued = f" ({traffic.queued} queued)" if traffic.queued else ""
    limit = service.limits.max_connections
    if limit and traffic.active_connections - traffic.queued >= limit:
        return f"at its limit of {limit} connections{queued}"
    return f"{traffic.queued} connections wait for a place" if traffic.queued else ""
