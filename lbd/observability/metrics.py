"""Every metric of lbd, as one table over the status snapshot: pure, and safe in a thread because a snapshot is frozen.

Names are `lbd_<object>_<what>_<unit>[_total]`. Labels are bounded by the configuration (services, members, monitors,
VIPs, workers) and by fixed words; a client's address is never one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from lbd.model.address import Endpoint
from lbd.model.status import (
    ConfigStatus,
    Status,
    VipState,
    VipStatus,
    WorkerStatus,
)
from lbd.observability.exposition import Family, Kind, label_text
from lbd.observability.incarnations import merged
from lbd.observability.kubernetes_metrics import KUBERNETES_METRICS, kubernetes_scopes
from lbd.observability.metric_shapes import Metric, Objects, infos, one, split, states
from lbd.observability.service_metrics import SERVICE_METRICS

UDP = "udp"
PROCESS_STATES = ("starting", "running", "draining")
WORKER_STATES = ("starting", "running", "hung", "draining", "dead")


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
        **kubernetes_scopes(status.kubernetes),
    }


def _reloads(config: ConfigStatus) -> tuple[int, int]:
    return max(0, config.reloads_total - config.reload_failures_total), config.reload_failures_total


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


METRICS: tuple[Metric, ...] = (
    *_process_metrics(),
    *_config_metrics(),
    *_worker_metrics(),
    *_vip_metrics(),
    *SERVICE_METRICS,
    *KUBERNETES_METRICS,
)
"""Every metric that lbd makes itself; docs/reference/metrics.md says the same, and a test compares them."""
