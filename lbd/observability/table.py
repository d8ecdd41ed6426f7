"""The status as tables for a person: what is wrong first, then VIPs, services with their members, and workers."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime

from rich.console import Console
from rich.text import Text

from lbd.model.address import Endpoint
from lbd.model.desired import AdminState
from lbd.model.status import (
    ConnectError,
    Health,
    MemberStatus,
    Rejection,
    Status,
    Traffic,
    VipState,
    VirtualServiceStatus,
    WorkerStatus,
)
from lbd.observability.columns import Row, align
from lbd.observability.kubernetes_table import render_kubernetes
from lbd.observability.words import bytes_text, count_text, duration_text, latency_text, visible, weight_text

_GOOD, _BAD, _UNSURE, _DIM = "green", "bold red", "yellow", "dim"
_STYLES = {
    **dict.fromkeys((Health.UP, VipState.OWNED, "serving", "running"), _GOOD),
    **dict.fromkeys((Health.DOWN, VipState.FAILED, VipState.FOREIGN_OWNER, "no_member_up", "dead", "hung"), _BAD),
    AdminState.ENABLED: "",
}
_MEMBER_COLUMNS = ("member", "health", "admin", "weight", "active", "total", "in", "out", "check", "why")
_VIP_COLUMNS = ("address", "interface", "state", "announced", "why")
_WORKER_COLUMNS = ("worker", "pid", "state", "form", "gen", "active", "fds", "lag", "restarts", "why")
_RIGHT = frozenset(
    ("weight", "active", "total", "in", "out", "check", "announced", "pid", "gen", "fds", "lag", "restarts")
)
_UNBOUNDED = 1_000_000


def render(status: Status, width: int) -> Iterator[Text]:
    """Yield the lines for a terminal of `width` columns, from top to bottom; only sentences may be longer."""
    yield _header(status)
    problems = list(_problems(status))
    if problems:
        yield from _heading("PROBLEMS", _BAD)
        yield from (Text(f"  {visible(problem)}", style="red") for problem in problems)
    yield from _heading("VIPS")
    yield from _vips(status, width) if status.vips else _nothing("no VIP is configured")
    yield from _heading("VIRTUAL SERVICES")
    if not status.virtual_services:
        yield from _nothing("no virtual service is configured")
    for index, service in enumerate(status.virtual_services):
        if index:
            yield Text()
        yield from _service_lines(service)
        yield from _members(service.members, width) if service.members else _nothing("  the pool has no member")
    if status.kubernetes is not None:
        yield from _heading("KUBERNETES")
        yield from render_kubernetes(status.kubernetes, width)
    yield from _heading("WORKERS")
    yield from _workers(status.workers, width) if status.workers else _nothing("no worker runs")


def show(status: Status, console: Console) -> None:
    """Print the status; into a pipe or file one line a member, whatever its length."""
    width = console.width if console.is_terminal else _UNBOUNDED
    for line in render(status, width):
        console.print(line, soft_wrap=not console.is_terminal, highlight=False)


def why(member: MemberStatus) -> str:
    """Return why a member gets no traffic, or what is about to take it away; empty when all is well."""
    if member.reason:
        return member.reason
    if not member.eligible:
        return member.health_reason or "not eligible"
    if member.effective_weight < member.weight:
        return "slow start: gets less than its weight for now"
    return "" if member.health is Health.UP else member.health_reason


def _header(status: Status) -> Text:
    running = sum(worker.state == "running" for worker in status.workers)
    generation = f"generation {status.applied_generation}"
    behind = status.applied_generation != status.generation
    if behind:
        generation += f" of {status.generation}"
    parts = [
        (visible(status.service_engine), "bold"),
        (status.state, _style(status.state)),
        (f"lbd {status.version} {status.form}", ""),
        (generation, _UNSURE if behind else ""),
        (f"up {duration_text(status.uptime_s)}", ""),
        (f"{running} of {len(status.workers)} workers", "" if running == len(status.workers) else _BAD),
    ]
    return Text("  ").join(Text(text, style=style) for text, style in parts)


def _problems(status: Status) -> Iterator[str]:
    config = status.config
    if not config.last_reload_success:
        when = datetime.fromtimestamp(config.last_reload_time, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")
        yield f"the reload at {when} was refused; generation {config.generation} stays:"
        yield from (f"  {error}" for error in config.errors)
    yield from status.problems


def _heading(text: str, style: str = "bold") -> list[Text]:
    return [Text(), Text(text, style=style)]


def _nothing(text: str) -> list[Text]:
    return [Text(f"  {text}", style=_DIM)]


def _style(word: str) -> str:
    return _STYLES.get(word, _UNSURE)


def _word(word: str) -> Text:
    return Text(visible(word), style=_style(word))


def _vips(status: Status, width: int) -> Iterator[Text]:
    rows: list[Row] = []
    for vip in status.vips:
        reasons = [vip.reason] if vip.reason else []
        if vip.owner_mac and vip.owner_mac not in vip.reason:
            reasons.append(f"owner {vip.owner_mac}")
        if vip.adopted:
            reasons.append("the address was there before lbd: it will not be removed")
        announced = Text(count_text(vip.announcements_total))
        cells = [Text(vip.address), Text(visible(vip.interface)), _word(vip.state), announced]
        rows.append((cells, Text(visible("; ".join(reasons)), style=_style(vip.state))))
    return align(_VIP_COLUMNS, rows, _RIGHT, width, indent=2)


def _service_lines(service: VirtualServiceStatus) -> list[Text]:
    line = Text("  ")
    line.append(visible(service.name), style="bold")
    line.append(f"  {Endpoint(service.vip, service.port)}/{service.protocol}  {service.algorithm}  ")
    line.append(service.state, style=_style(service.state))
    if service.admin_state not in (AdminState.ENABLED, service.state):
        line.append(f"  {service.admin_state}", style=_UNSURE)
    if service.generation != service.wanted_generation:
        line.append(f"  generation {service.generation} of {service.wanted_generation}", style=_UNSURE)
    lines = [line, _traffic_line(service.traffic)]
    if service.reason:
        lines.append(Text(f"    {visible(service.reason)}", style=_style(service.state)))
    return lines


def _traffic_line(traffic: Traffic) -> Text:
    line = Text(
        f"    {count_text(traffic.active_connections)} active, {count_text(traffic.connections_total)} total, "
        f"{bytes_text(traffic.received_bytes_total)} in, {bytes_text(traffic.sent_bytes_total)} out"
    )
    errors, rejected = traffic.connect_errors_total, traffic.rejected_total
    troubles = (
        (sum(errors.values()), f"connect errors{_reasons_text(errors)}"),
        (traffic.retries_total, "retries"),
        (traffic.unserved_total, "unserved"),
        (traffic.queued, "queued"),
        (sum(rejected.values()), f"rejected{_reasons_text(rejected)}"),
        (traffic.moved_flows_total, "moved"),
        (traffic.evicted_flows_total, "evicted"),
    )
    for count, name in troubles:
        if count:
            line.append(f", {count_text(count)} {name}", style=_UNSURE)
    return line


def _reasons_text(by_reason: Mapping[ConnectError, int] | Mapping[Rejection, int]) -> str:
    """Return the reasons of what was counted, with the counts where there is more than one."""
    counts = {str(reason): count for reason, count in by_reason.items() if count}
    if len(counts) == 1:
        return f" ({next(iter(counts))})"
    return f" ({', '.join(f'{reason} {count_text(count)}' for reason, count in counts.items())})"


def _members(members: Sequence[MemberStatus], width: int) -> Iterator[Text]:
    rows: list[Row] = [(_member_row(member), _why_text(member)) for member in members]
    return align(_MEMBER_COLUMNS, rows, _RIGHT, width, indent=4)


def _why_text(member: MemberStatus) -> Text:
    style = _BAD if member.health is Health.DOWN else _UNSURE
    return Text(visible(why(member)), style=style)


def _member_row(member: MemberStatus) -> list[Text]:
    traffic = member.traffic
    latencies = [monitor.latency_s for monitor in member.monitors if monitor.latency_s is not None]
    return [
        Text(str(Endpoint(member.address, member.port))),
        _word(member.health),
        _word(member.admin_state),
        Text(weight_text(member.weight, member.effective_weight)),
        Text(count_text(traffic.active_connections)),
        Text(count_text(traffic.connections_total)),
        Text(bytes_text(traffic.received_bytes_total)),
        Text(bytes_text(traffic.sent_bytes_total)),
        Text(latency_text(max(latencies, default=None))),
    ]


def _workers(workers: Sequence[WorkerStatus], width: int) -> Iterator[Text]:
    rows: list[Row] = []
    for worker in workers:
        cells = [
            Text(str(worker.index)),
            Text(str(worker.pid)),
            _word(worker.state),
            Text(worker.form),
            Text(str(worker.generation)),
            Text(count_text(worker.active_connections)),
            Text(f"{worker.descriptors_used}/{worker.descriptors_limit}"),
            Text(latency_text(worker.loop_lag_s)),
            Text(count_text(worker.restarts_total)),
        ]
        rows.append((cells, Text(_worker_why(worker), style=_UNSURE)))
    return align(_WORKER_COLUMNS, rows, _RIGHT, width, indent=2)


def _worker_why(worker: WorkerStatus) -> str:
    reasons = []
    if worker.state in ("running", "draining") and not worker.accepting:
        reasons.append("accepts nothing")
    if worker.state == "hung":
        reasons.append(f"silent for {latency_text(worker.heartbeat_age_s)}")
    if worker.effective_capabilities not in (worker.expected_capabilities, "?", ""):
        reasons.append(f"has capabilities {visible(worker.effective_capabilities)}")
    elif worker.effective_capabilities == "2000":
        reasons.append("has CAP_NET_RAW, as transparent services need")
    return ", ".join(reasons)
