"""The metrics of virtual services, their members and the members' monitors, over the status snapshot. Pure."""

from __future__ import annotations

from collections.abc import Callable

from lbd.model.desired import AdminState
from lbd.model.status import (
    ConnectError,
    Ending,
    Health,
    MemberStatus,
    MonitorStatus,
    Rejection,
    Traffic,
    VirtualServiceStatus,
)
from lbd.observability.exposition import Kind
from lbd.observability.metric_shapes import Metric, infos, one, optional, split, states

SERVICE_STATES = ("serving", "no_member_up", "starting", "draining", "disabled", "failed")
_REASONS = tuple(ConnectError)
_NO_ERRORS = [0] * len(_REASONS)
_C, _G = Kind.COUNTER, Kind.GAUGE


def _connect_errors(item: VirtualServiceStatus | MemberStatus) -> list[int]:
    counts = item.traffic.connect_errors_total
    return [counts.get(reason, 0) for reason in _REASONS] if counts else _NO_ERRORS


def _traffic(scope: str, of_what: str) -> list[Metric]:
    def count(what: str, kind: Kind, help_text: str, value: Callable[[Traffic], float]) -> Metric:
        return one(f"lbd_{scope}_{what}", kind, scope, help_text, lambda item: value(item.traffic))

    return [
        count("active_connections", _G, f"Open connections {of_what}, in connections.", lambda t: t.active_connections),
        count("connections_total", _C, f"Connections {of_what}, in connections.", lambda t: t.connections_total),
        count("received_bytes_total", _C, f"Bytes received from clients {of_what}.", lambda t: t.received_bytes_total),
        count("sent_bytes_total", _C, f"Bytes sent to clients {of_what}.", lambda t: t.sent_bytes_total),
        count(
            "retries_total",
            _C,
            f"Connect attempts {of_what} that failed and were repeated on another member, in attempts.",
            lambda t: t.retries_total,
        ),
        split(
            f"lbd_{scope}_connect_errors_total",
            _C,
            scope,
            f"Failed connect attempts {of_what}, in attempts; reason local is this side's own fault.",
            "reason",
            _REASONS,
            _connect_errors,
        ),
    ]


def _virtual_service_metrics() -> list[Metric]:
    scope = "virtual_service"

    def gauge(what: str, help_text: str, value: Callable[[VirtualServiceStatus], float]) -> Metric:
        return one(f"lbd_virtual_service_{what}", _G, scope, help_text, value)

    return [
        infos(
            "lbd_virtual_service_info",
            scope,
            "Where a virtual service listens and how it balances",
            ("vip", "port", "protocol", "algorithm"),
            lambda v: (v.vip, str(v.port), v.protocol, v.algorithm),
        ),
        *_traffic(scope, "of a virtual service"),
        one(
            "lbd_virtual_service_unserved_connections_total",
            _C,
            scope,
            "Client connections that were reset because no member could be reached, in connections.",
            lambda v: v.traffic.unserved_total,
        ),
        split(
            "lbd_virtual_service_rejected_connections_total",
            _C,
            scope,
            "Client connections, flows or datagrams that a limit or a rule turned away, in connections.",
            "reason",
            tuple(Rejection),
            lambda v: [v.traffic.rejected_total.get(reason, 0) for reason in Rejection],
        ),
        gauge(
            "queued_connections",
            "Client connections that wait for a place under a limit, in connections.",
            lambda v: v.traffic.queued,
        ),
        split(
            "lbd_virtual_service_timed_out_connections_total",
            _C,
            scope,
            "Client connections that a timeout ended, in connections.",
            "reason",
            tuple(Ending),
            lambda v: [v.traffic.timed_out_total.get(reason, 0) for reason in Ending],
        ),
        gauge(
            "persistence_entries",
            "Number of clients whose member is remembered.",
            lambda v: v.traffic.persistence_entries,
        ),
        one(
            "lbd_virtual_service_persistence_evictions_total",
            _C,
            scope,
            "Number of clients that were forgotten before their time because the table was full.",
            lambda v: v.traffic.persistence_evictions_total,
        ),
        states("lbd_virtual_service_state", scope, "State of a virtual service", SERVICE_STATES, lambda v: v.state),
        states(
            "lbd_virtual_service_admin_state",
            scope,
            "What the operator wants of a virtual service",
            AdminState,
            lambda v: v.admin_state,
        ),
        gauge("generation", "Generation of it that every living worker runs, as a number.", lambda v: v.generation),
        gauge("wanted_generation", "Generation of it that is wanted, as a number.", lambda v: v.wanted_generation),
        gauge("members", "Members of the pool, in members.", lambda v: len(v.members)),
        gauge(
            "members_eligible",
            "Members that may get new connections, in members.",
            lambda v: sum(m.eligible for m in v.members),
        ),
    ]


def _datagrams(prefix: str, of_what: str) -> list[Metric]:
    return [
        one(
            f"lbd_{prefix}_received_datagrams_total",
            _C,
            f"udp_{prefix}",
            f"Datagrams received from clients {of_what}, in datagrams; of udp alone.",
            lambda item: item.traffic.received_datagrams_total,
        ),
        one(
            f"lbd_{prefix}_sent_datagrams_total",
            _C,
            f"udp_{prefix}",
            f"Datagrams sent to clients {of_what}, in datagrams; of udp alone.",
            lambda item: item.traffic.sent_datagrams_total,
        ),
    ]


def _udp_metrics() -> list[Metric]:
    scope = "udp_virtual_service"
    return [
        *_datagrams("virtual_service", "of a virtual service"),
        one(
            "lbd_virtual_service_evicted_flows_total",
            _C,
            scope,
            "Flows of a virtual service that made room for others, in flows; of udp alone.",
            lambda v: v.traffic.evicted_flows_total,
        ),
        one(
            "lbd_virtual_service_moved_flows_total",
            _C,
            scope,
            "Flows of a virtual service that moved away from a member that failed, in flows; of udp alone.",
            lambda v: v.traffic.moved_flows_total,
        ),
    ]


def _member_metrics() -> list[Metric]:
    scope = "member"

    def gauge(what: str, help_text: str, value: Callable[[MemberStatus], float]) -> Metric:
        return one(f"lbd_member_{what}", _G, scope, help_text, value)

    return [
        *_traffic(scope, "of a member"),
        gauge("up", "1 if every monitor says that the member is up.", lambda m: m.health is Health.UP),
        states("lbd_member_health", scope, "What the monitors saw of a member", Health, lambda m: m.health),
        gauge("health_age_seconds", "Time since the member's health changed, in seconds.", lambda m: m.health_for_s),
        states(
            "lbd_member_admin_state", scope, "What the operator wants of a member", AdminState, lambda m: m.admin_state
        ),
        gauge("eligible", "1 if the member may get new connections.", lambda m: m.eligible),
        gauge("weight", "Configured weight of the member, as a number.", lambda m: m.weight),
        gauge(
            "effective_weight", "Weight in use now, less during slow start, as a number.", lambda m: m.effective_weight
        ),
        gauge(
            "passive_failures",
            "Connect failures seen by the relay that count now against the member, in failures.",
            lambda m: m.passive_failures,
        ),
    ]


def _monitor_metrics() -> list[Metric]:
    scope = "monitor"
    checks, failures = "lbd_member_checks_total", "lbd_member_check_failures_total"
    return [
        one("lbd_member_check_up", _G, scope, "1 if this monitor says that the member is up.", _check_up),
        optional(
            "lbd_member_check_latency_seconds",
            _G,
            scope,
            "How long the last check of the member took, in seconds; absent until one has ended.",
            lambda m: m.latency_s,
        ),
        one(checks, _C, scope, "Checks of the member that ended, in checks.", lambda m: m.checks_total),
        one(failures, _C, scope, "Checks of the member that failed, in checks.", lambda m: m.failures_total),
    ]


def _check_up(monitor: MonitorStatus) -> bool:
    return monitor.health is Health.UP


SERVICE_METRICS: tuple[Metric, ...] = (
    *_virtual_service_metrics(),
    *_udp_metrics(),
    *_member_metrics(),
    *_datagrams("member", "of a member"),
    *_monitor_metrics(),
)
"""All of them, in the order in which they are shown."""
