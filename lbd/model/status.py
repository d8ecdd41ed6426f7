"""What is: one snapshot that `lbd status`, the admin API and the metrics all read. Plain values, ready for JSON."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum

from lbd.model.kubernetes_status import KubernetesStatus


class Health(StrEnum):
    """What the monitors saw; never what the operator wants (that is `AdminState`)."""

    UP = "up"
    DOWN = "down"
    UNKNOWN = "unknown"


class ConnectError(StrEnum):
    """Why an attempt to connect to a member failed. LOCAL is our own side (no free port, no descriptor, a firewall)."""

    REFUSED = "refused"
    RESET = "reset"
    TIMED_OUT = "timed_out"
    UNREACHABLE = "unreachable"
    LOCAL = "local"


class Rejection(StrEnum):
    """Why a client's connection, flow or datagram was not served, other than for want of a member."""

    SOURCE_RANGES = "source_ranges"
    MAX_CONNECTIONS = "max_connections"
    MAX_CONNECTIONS_PER_CLIENT = "max_connections_per_client"
    CONNECTION_RATE = "connection_rate"
    CONNECTION_RATE_PER_CLIENT = "connection_rate_per_client"
    QUEUE_FULL = "queue_full"
    QUEUE_TIMEOUT = "queue_timeout"
    PROXY_HEADER = "proxy_header"
    MAX_THROUGHPUT = "max_throughput"
    """UDP only: a datagram above the limit is dropped; TCP is made slower instead."""


class Ending(StrEnum):
    """Which timeout ended a connection with a reset."""

    IDLE = "idle"
    CLIENT_HALF_CLOSED = "client_half_closed"
    MEMBER_HALF_CLOSED = "member_half_closed"
    LIFETIME = "lifetime"


class VipState(StrEnum):
    """Where a VIP is on its way to being owned."""

    WAITING = "waiting"
    """Its services are not ready yet: workers' acknowledgement or first health results are missing."""
    CLAIMING = "claiming"
    OWNED = "owned"
    FOREIGN_OWNER = "foreign_owner"
    FAILED = "failed"
    WITHDRAWING = "withdrawing"


@dataclass(frozen=True, slots=True)
class VipStatus:
    """A VIP. `announcements` counts the announcements sent (a GARP pair or an NA); `adopted` says that the address was
    there without our tag: used, never removed. `conflicts_total` counts what others announced while we owned it."""

    address: str
    interface: str
    state: VipState
    reason: str = ""
    owner_mac: str | None = None
    adopted: bool = False
    announcements_total: int = 0
    conflicts_total: int = 0


@dataclass(frozen=True, slots=True)
class Traffic:
    """Counters of a virtual service or of a member. `received` came from clients, `sent` went to clients.

    Of a UDP service, connections are flows. From `queued` on they are of virtual services only.
    """

    active_connections: int = 0
    connections_total: int = 0
    received_bytes_total: int = 0
    sent_bytes_total: int = 0
    retries_total: int = 0
    unserved_total: int = 0
    """Client connections that were reset because no member could be reached (virtual services only)."""
    connect_errors_total: dict[ConnectError, int] = field(default_factory=dict)
    received_datagrams_total: int = 0
    sent_datagrams_total: int = 0
    queued: int = 0
    """Connections that wait for a place under a limit."""
    rejected_total: dict[Rejection, int] = field(default_factory=dict)
    timed_out_total: dict[Ending, int] = field(default_factory=dict)
    evicted_flows_total: int = 0
    """UDP flows that made room for others."""
    moved_flows_total: int = 0
    """UDP flows that got another member, because theirs was unreachable or down."""
    persistence_entries: int = 0
    persistence_evictions_total: int = 0


@dataclass(frozen=True, slots=True)
class MonitorStatus:
    """The last result of one monitor on one member. `latency_s` is None until the first check has ended."""

    name: str
    health: Health
    reason: str = ""
    latency_s: float | None = None
    checks_total: int = 0
    failures_total: int = 0


@dataclass(frozen=True, slots=True)
class MemberHealth:
    """What the health tracker knows of a member."""

    health: Health = Health.UNKNOWN
    reason: str = "not checked yet"
    since_s: float = 0.0
    """Monotonic time of the last change of `health`."""
    monitors: tuple[MonitorStatus, ...] = ()
    passive_failures: int = 0
    """Connect failures that the relay saw and that count now."""


@dataclass(frozen=True, slots=True)
class MemberStatus:
    """A member. `reason` answers "why does it get no traffic?" and is empty when it gets some."""

    address: str
    port: int
    weight: int
    effective_weight: float
    """`weight`, less while the member is in slow start."""
    admin_state: str
    health: Health
    health_reason: str
    health_for_s: float
    eligible: bool
    reason: str
    monitors: tuple[MonitorStatus, ...]
    passive_failures: int
    traffic: Traffic


@dataclass(frozen=True, slots=True)
class VirtualServiceStatus:
    """A virtual service. `generation` is the one that every living worker runs, `wanted_generation` the desired one."""

    name: str
    vip: str
    port: int
    protocol: str
    algorithm: str
    admin_state: str
    state: str
    """`serving`, `no_member_up`, `starting`, `draining`, `disabled` or `failed`."""
    reason: str
    generation: int
    wanted_generation: int
    traffic: Traffic
    members: tuple[MemberStatus, ...]


@dataclass(frozen=True, slots=True)
class WorkerStatus:
    """A worker process. `effective_capabilities` is CapEff in hexadecimal, and should be `expected_capabilities`: "0",
    or "2000" (CAP_NET_RAW) in a daemon that had a transparent service at its start."""

    index: int
    pid: int
    state: str
    """`starting`, `running`, `hung`, `draining` or `dead`."""
    form: str
    generation: int
    restarts_total: int
    loop_lag_s: float
    """How late the worker's last timer was."""
    worst_loop_lag_s: float
    """The latest timer of about the last 30 s."""
    held_bytes: int
    """What the worker holds for slow peers."""
    heartbeat_age_s: float
    descriptors_used: int
    descriptors_limit: int
    accepting: bool
    """False while the descriptor limit is reached: the kernel's queue holds new connections."""
    effective_capabilities: str
    active_connections: int
    expected_capabilities: str = "0"


@dataclass(frozen=True, slots=True)
class ConfigStatus:
    """The configuration files and the last reload."""

    files: tuple[str, ...]
    generation: int
    last_reload_success: bool
    last_reload_time: float
    """Unix time of the last attempt."""
    last_success_time: float
    errors: tuple[str, ...] = ()
    """Of the last attempt, each with file:line:column; empty when it succeeded."""
    reloads_total: int = 0
    reload_failures_total: int = 0


@dataclass(frozen=True, slots=True)
class Status:
    """The whole snapshot."""

    version: str
    service_engine: str
    state: str
    """`starting`, `running` or `draining`."""
    form: str
    """Of the workers' hot modules: `compiled`, `interpreted`, or `mixed`."""
    pid: int
    uptime_s: float
    frontend_interface: str
    generation: int
    applied_generation: int
    """The newest generation that every living worker has acknowledged."""
    config: ConfigStatus
    workers: tuple[WorkerStatus, ...]
    vips: tuple[VipStatus, ...]
    virtual_services: tuple[VirtualServiceStatus, ...]
    descriptors_used: int
    descriptors_limit: int
    loop_lag_s: float
    problems: tuple[str, ...] = ()
    """Sentences about what is wrong now and who must act: failed actions with their reasons, and the like."""
    kubernetes: KubernetesStatus | None = None
    """None where no cluster is watched."""


@dataclass(frozen=True, slots=True)
class ReloadResult:
    """What a reload did. `generation` is the one that runs afterwards: the old one when `success` is False.

    `errors` has every error of the configuration, each with file:line:column; empty when `success`.
    """

    success: bool
    generation: int
    errors: tuple[str, ...] = ()
