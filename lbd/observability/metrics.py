"""Every metric of lbd, as one table over the status snapshot: pure, and safe in a thread because a snapshot is frozen.

Names are `lbd_<object>_<what>_<unit>[_total]`. Labels are bounded by the configuration (services, members, monitors,
VIPs, workers) and by fixed words; a client's address is never one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from lbd.model.address import Endpoint
from lbd.model.desired import AdminState
from lbd.model.status import (
    ConfigStatus,
    ConnectError,
    Ending,
    Health,
    MemberStatus,
    MonitorStatus,
    Rejection,
    Status,
    Traffic,
    VipState,
    VipStatus,
    VirtualServiceStatus,
    WorkerStatus,
)
from lbd.observability.exposition import Family, Kind, label_text
from lbd.observability.incarnations import merged
from lbd.observability.metric_shapes import Metric, Objects, infos, one, optional, split, states

UDP = "udp"
PROCESS_STATES = ("starting", "running", "draining")
WORKER_STATES = ("starting", "running", "hung", "draining", "dead")
SERVICE_STATES = ("serving", "no_member_up", "starting", "draining", "disabled", "failed")
_REASONS = tuple(ConnectError)
_NO_ERRORS = [0] * len(_REASONS)


def collect(status: Status) -> Iterator[Family]:
    """Yield every family of `METRICS` with its samples from one snapshot."""
    scopes = _scopes(status)
    for metric in METRICS:
        yield Family(metric.name, metric.kind, metric.help, metric.samples(scopes[metric.scope]))


def _scopes(status: Status) -> dict[str, Objects]:
    """Make the label text of each object once: the families share it."""
    services = [(label_text(virtual_service=service.name), service) for service in merged(status.virtual_services)]
    members: Objects = []
    udp_members: Objects = []
    monitors: Objects = []
    for labels, service in services:
        for member in service.members:
            name = label_text(member=str(Endpoint(member.address, member.port)))
            members.append((f"{labels},{name}", member))
            if service.protocol == UDP:
                udp_members.append(members[-1])
            monitors += [(f"{members[-1][0]},{label_text(monitor=m.name)}", m) for m in member.monitors]
    # One row an index, the newest: a duplicate series would make Prometheus refuse the whole scrape.
    workers = {worker.index: worker for worker in status.workers}
    return {
        "process": [("", status)],
        "config": [("", status.config)],
        "worker": [(label_text(worker=str(index)), worker) for index, worker in workers.items()],
        "vip": [(label_text(vip=vip.address, interface=vip.interface), vip) for vip in status.vips],
        "virtual_service": list(services),
        "udp_virtual_service": [(labels, service) for labels, service in services if service.protocol == UDP],
        "member": members,
        "udp_member": udp_members,
        "monitor": monitors,
    }


def _connect_errors(item: VirtualServiceStatus | MemberStatus) -> list[int]:
    counts = item.traffic.connect_errors_total
    return [counts.get(reason, 0) for reason in _REASONS] if counts else _NO_ERRORS


def _reloads(config: ConfigStatus) -> tuple[int, int]:
    return max(0, config.reloads_total - config.reload_failures_total), config.reload_failures_total


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


_C, _G = Kind.COUNTER, Kind.GAUGE


def _process_metrics() -> list[Metric]:
    scope = "process"

    def gauge(what: str, help_text: str, value: Callable[[Status], float]) -> Metric:
        return one(f"lbd_process_{what}", _G, scope, help_text, value)

    return [
        infos(
            "lbd_process_build_info",
            scope,
            "Version of lbd and name of this service engine",
            ("version", "service_engine"),
            lambda s: (s.version, s.service_engine),
        ),
        infos(
            "lbd_process_form_info",
            scope,
            "Form of the workers' hot modules (compiled, interpreted or mixed)",
            ("form",),
            lambda s: (s.form,),
        ),
        states("lbd_process_state", scope, "State of the daemon", PROCESS_STATES, lambda s: s.state),
        gauge("uptime_seconds", "Time since the start of the supervisor, in seconds.", lambda s: s.uptime_s),
        gauge("workers", "Workers that should run, in processes.", lambda s: len({w.index for w in s.workers})),
        gauge(
            "workers_running",
            "Workers that run and answer, in processes.",
            lambda s: sum(w.state == "running" for w in s.workers),
        ),
        gauge("wanted_generation", "Generation of the state that is wanted, as a number.", lambda s: s.generation),
        gauge(
            "applied_generation",
            "Newest generation that every living worker runs, as a number.",
            lambda s: s.applied_generation,
        ),
        gauge("descriptors_used", "Open file descriptors of the supervisor, in descriptors.", _descriptors_used),
        gauge("descriptors_limit", "Most file descriptors that the supervisor may open.", _descriptors_limit),
        gauge("loop_lag_seconds", "How late the supervisor's last timer was, in seconds.", lambda s: s.loop_lag_s),
        gauge("problems", "Problems that lbd status shows now, in problems.", lambda s: len(s.problems)),
    ]


def _descriptors_used(item: Status | WorkerStatus) -> float:
    return item.descriptors_used


def _descriptors_limit(item: Status | WorkerStatus) -> float:
    return item.descriptors_limit


def _config_metrics() -> list[Metric]:
    scope = "config"

    def gauge(what: str, help_text: str, value: Callable[[ConfigStatus], float]) -> Metric:
        return one(f"lbd_config_{what}", _G, scope, help_text, value)

    return [
        gauge("generation", "Generation of the last accepted configuration, as a number.", lambda c: c.generation),
        gauge(
            "reload_success",
            "1 if the last load of the configuration succeeded, 0 if the old one had to stay.",
            lambda c: c.last_reload_success,
        ),
        gauge(
            "last_reload_timestamp_seconds",
            "When the configuration was last loaded, with or without success, in seconds since the epoch.",
            lambda c: c.last_reload_time,
        ),
        gauge(
            "last_success_timestamp_seconds",
            "When the configuration was last loaded with success, in seconds since the epoch.",
            lambda c: c.last_success_time,
        ),
        gauge("errors", "Errors that the last load of the configuration found, in errors.", lambda c: len(c.errors)),
        split(
            "lbd_config_reloads_total",
            _C,
            scope,
            "Reloads by result, in reloads.",
            "result",
            ("success", "failure"),
            _reloads,
        ),
    ]


def _worker_metrics() -> list[Metric]:
    scope = "worker"

    def gauge(what: str, help_text: str, value: Callable[[WorkerStatus], float]) -> Metric:
        return one(f"lbd_worker_{what}", _G, scope, help_text, value)

    return [
        states("lbd_worker_state", scope, "State of a worker", WORKER_STATES, lambda w: w.state),
        one(
            "lbd_worker_restarts_total",
            _C,
            scope,
            "Times that a worker was started again, in restarts.",
            lambda w: w.restarts_total,
        ),
        gauge("generation", "Generation that the worker runs, as a number.", lambda w: w.generation),
        gauge("active_connections", "Open client connections of the worker.", lambda w: w.active_connections),
        gauge(
            "accepting",
            "1 if the worker accepts connections, 0 while it has no descriptor left and the kernel's queue holds them.",
            lambda w: w.accepting,
        ),
        gauge("loop_lag_seconds", "How late the worker's last timer was, in seconds.", lambda w: w.loop_lag_s),
        gauge(
            "worst_loop_lag_seconds",
            "How late the latest of the worker's timers in about the last 30 seconds was, in seconds.",
            lambda w: w.worst_loop_lag_s,
        ),
        gauge("held_bytes", "Bytes that the worker holds for slow peers.", lambda w: w.held_bytes),
        gauge("heartbeat_age_seconds", "Time since the worker's last heartbeat, in seconds.", _heartbeat_age_s),
        gauge("descriptors_used", "Open file descriptors of the worker, in descriptors.", _descriptors_used),
        gauge("descriptors_limit", "Most file descriptors that the worker may open.", _descriptors_limit),
        gauge(
            "capabilities",
            "Effective capabilities of the worker, in capabilities: 0 is right, 1 in a daemon that started with a "
            "transparent service.",
            _capabilities,
        ),
    ]


def _heartbeat_age_s(worker: WorkerStatus) -> float:
    return worker.heartbeat_age_s


def _capabilities(worker: WorkerStatus) -> int:
    try:
        return int(worker.effective_capabilities, 16).bit_count()
    except ValueError:
        return 0  # not read yet: the worker is only just starting, or dead


def _vip_metrics() -> list[Metric]:
    scope = "vip"

    def gauge(what: str, help_text: str, value: Callable[[VipStatus], float]) -> Metric:
        return one(f"lbd_vip_{what}", _G, scope, help_text, value)

    return [
        gauge("owned", "1 if this service engine owns the VIP.", lambda v: v.state is VipState.OWNED),
        states("lbd_vip_state", scope, "State of a VIP", VipState, lambda v: v.state),
        gauge("adopted", "1 if the address was there before and is used but never removed.", lambda v: v.adopted),
        one(
            "lbd_vip_announcements_total",
            _C,
            scope,
            "Announcements sent (gratuitous ARP pairs or neighbor advertisements), in announcements.",
            lambda v: v.announcements_total,
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


METRICS: tuple[Metric, ...] = (
    *_process_metrics(),
    *_config_metrics(),
    *_worker_metrics(),
    *_vip_metrics(),
    *_virtual_service_metrics(),
    *_udp_metrics(),
    *_member_metrics(),
    *_datagrams("member", "of a member"),
    *_monitor_metrics(),
)
"""Every metric that lbd makes itself; docs/reference/metrics.md says the same, and a test compares them."""
