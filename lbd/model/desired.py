"""What the operator wants: the desired state, as one frozen value with a generation number."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from lbd.model.address import Endpoint, family_of

if TYPE_CHECKING:  # it is made of what stands here
    from lbd.model.kubernetes import Kubernetes


class Protocol(StrEnum):
    """The transport that a virtual service accepts."""

    TCP = "tcp"
    UDP = "udp"


class Algorithm(StrEnum):
    """How a pool picks a member for a new connection."""

    ROUND_ROBIN = "round_robin"
    CONSISTENT_HASH = "consistent_hash"
    LEAST_CONNECTIONS = "least_connections"
    RANDOM = "random"
    FASTEST_RESPONSE = "fastest_response"


class HashKey(StrEnum):
    """What of a client `consistent_hash` hashes."""

    SOURCE_IP = "source_ip"
    SOURCE_IP_PORT = "source_ip_port"


class OnMemberDown(StrEnum):
    """What becomes of a client's persistence when its member is down: another member for good, or until it is back."""

    REBALANCE = "rebalance"
    KEEP = "keep"


class OnLimit(StrEnum):
    """What a client gets above `max_connections`."""

    REFUSE = "refuse"
    QUEUE = "queue"


class Bulk(StrEnum):
    """How much data at once passes: copied through the worker, or spliced within the kernel (ADR 0016)."""

    COPY = "copy"
    SPLICE = "splice"


class Source(StrEnum):
    """Whose address a member sees: the service engine's, or the client's own."""

    SNAT = "snat"
    TRANSPARENT = "transparent"


class ProxyProtocol(StrEnum):
    """Which PROXY protocol header a member gets before the first byte (the specification of HAProxy, 2020-03-05)."""

    V1 = "v1"
    V2 = "v2"


class AdminState(StrEnum):
    """What the operator wants of a member or virtual service; never what the monitors saw (that is `Health`)."""

    ENABLED = "enabled"
    DRAINING = "draining"
    DISABLED = "disabled"


class OnAllDown(StrEnum):
    """What a pool does while no member is up."""

    REFUSE = "refuse"
    SERVE_ALL = "serve_all"


class MonitorType(StrEnum):
    """How a health monitor checks a member."""

    TCP = "tcp"
    HTTP = "http"
    HTTPS = "https"
    PING = "ping"
    UDP = "udp"
    DNS = "dns"


@dataclass(frozen=True, slots=True, order=True)
class StatusRange:
    """Inclusive range of HTTP status codes."""

    first: int
    last: int

    def __contains__(self, status: int) -> bool:
        return self.first <= status <= self.last

    def __str__(self) -> str:
        return str(self.first) if self.first == self.last else f"{self.first}-{self.last}"


@dataclass(frozen=True, slots=True)
class HealthMonitor:
    """A named, reusable definition of an active check. A member is up when all monitors of its pool pass.

    Fields that a type does not use keep their defaults: `send` and `expect` belong to tcp and udp; `path`, `host`,
    `method`, `expect_status`, `expect_text` and `verify_tls` to http and https; `query_name`, `query_type`,
    `expect_rcode` and `expect_answer` to dns; `port` (None: the member's own) to all but ping.
    """

    name: str
    type: MonitorType
    interval_s: float = 5.0
    timeout_s: float = 2.0
    rise: int = 2
    fall: int = 3
    jitter: float = 0.1
    """Share of the interval by which each check is shifted at random, 0-0.5."""
    port: int | None = None
    send: bytes = b""
    expect: bytes = b""
    path: str = "/"
    host: str | None = None
    method: str = "GET"
    expect_status: tuple[StatusRange, ...] = (StatusRange(200, 399),)
    expect_text: str = ""
    verify_tls: bool = False
    query_name: str = "."
    query_type: str = "NS"
    expect_rcode: tuple[str, ...] = ("NOERROR",)
    expect_answer: str = ""
    """What one of the answer's records must be, in its text form; empty: the response code alone decides."""


SYSTEM_MONITORS: tuple[HealthMonitor, ...] = (
    HealthMonitor("system-tcp", MonitorType.TCP),
    HealthMonitor("system-ping", MonitorType.PING),
    HealthMonitor("system-http", MonitorType.HTTP),
    HealthMonitor("system-udp", MonitorType.UDP),
)
"""The built-in monitors; a configuration may use these names but not define them."""


@dataclass(frozen=True, slots=True)
class Member:
    """One address:port that can serve. A `backup` gets connections only while no other member can.

    `max_connections` 0 is no limit.
    """

    endpoint: Endpoint
    weight: int = 1
    admin_state: AdminState = AdminState.ENABLED
    backup: bool = False
    max_connections: int = 0


@dataclass(frozen=True, slots=True)
class Persistence:
    """The same client (its address, cut to a prefix) keeps its member, for `timeout_s` after its last connection ends.

    The table holds `max_entries` clients of a service; the one longest away makes room.
    """

    timeout_s: float = 600.0
    ipv4_prefix: int = 32
    ipv6_prefix: int = 128
    max_entries: int = 100_000
    on_member_down: OnMemberDown = OnMemberDown.REBALANCE


@dataclass(frozen=True, slots=True)
class OutlierDetection:
    """Passive ejection: a member that fails `consecutive_failures` times in a row for clients gets nothing for
    `base_ejection_s`, twice that the second time, and so on up to `max_ejection_s`.

    At most `max_ejected_percent` of the pool is out at once, but one member always may be (as Envoy's).
    """

    consecutive_failures: int = 5
    base_ejection_s: float = 30.0
    max_ejection_s: float = 300.0
    max_ejected_percent: float = 10.0


@dataclass(frozen=True, slots=True)
class Pool:
    """Members, how one is picked, and how they are checked. Members are unique by endpoint, in the order written.

    `max_load_percent` bounds what consistent_hash gives one member, as a share of the average (0: no bound).
    Below `min_members_up` the pool counts as down; below `panic_threshold_percent` of members up health is ignored
    (0: never). `drain_timeout_s` ends what a draining or disabled member still has with a reset (None: never).
    """

    members: tuple[Member, ...]
    algorithm: Algorithm = Algorithm.ROUND_ROBIN
    health_monitors: tuple[HealthMonitor, ...] = (SYSTEM_MONITORS[0],)
    slow_start_s: float = 0.0
    on_all_down: OnAllDown = OnAllDown.REFUSE
    hash_key: HashKey = HashKey.SOURCE_IP
    max_load_percent: float = 0.0
    persistence: Persistence | None = None
    outlier_detection: OutlierDetection | None = None
    min_members_up: int = 1
    panic_threshold_percent: float = 0.0
    drain_timeout_s: float | None = None


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds; 0 is off where nothing else is said.

    `connect_s` bounds all attempts to reach a member together, `idle_s` a connection or UDP flow on which nothing
    moves. `client_half_closed_s` bounds the silence after the client's FIN, `member_half_closed_s` that after
    the member's. `client_user_s` and `member_user_s` are TCP_USER_TIMEOUT (RFC 5482) toward that side. A connection
    older than `lifetime_s`, longer or shorter by a random part of `lifetime_jitter` of it, is reset.
    """

    connect_s: float = 5.0
    idle_s: float = 600.0
    client_half_closed_s: float = 0.0
    member_half_closed_s: float = 0.0
    client_user_s: float = 0.0
    member_user_s: float = 0.0
    lifetime_s: float = 0.0
    lifetime_jitter: float = 0.1


UDP_IDLE_S = 60.0
"""The default of `idle_s` for a UDP service."""


@dataclass(frozen=True, slots=True)
class Keepalive:
    """TCP keep-alive toward one side: a probe after `idle_s`, then one each `interval_s`; dead after `probes`."""

    idle_s: int = 60
    interval_s: int = 10
    probes: int = 5


@dataclass(frozen=True, slots=True)
class Limits:
    """What a virtual service takes at most, over all workers; 0 is no limit.

    Connections of UDP are flows. Rates are new connections a second, `max_throughput_bps` bits a second in both
    directions together. Above `max_connections` a client is refused, or waits with at most `queue_length` others for
    at most `queue_timeout_s`; above the other limits it is refused, or made slower.
    """

    max_connections: int = 0
    on_limit: OnLimit = OnLimit.REFUSE
    queue_length: int = 100
    queue_timeout_s: float = 5.0
    max_connections_per_client: int = 0
    connection_rate: float = 0.0
    connection_rate_per_client: float = 0.0
    max_throughput_bps: int = 0


@dataclass(frozen=True, slots=True)
class ClientLogs:
    """A log line for each connection or UDP flow that ends, for `duration_s` from when it was asked for (0: for ever).

    Of lines that are not significant at most `throttle_per_s` a second are written (0: all). Significant are those of
    connections that did not end in order, or whose member took longer than `slow_connect_s` to accept (0: off).
    """

    throttle_per_s: int = 10
    duration_s: float = 1800.0
    slow_connect_s: float = 0.0


@dataclass(frozen=True, slots=True)
class UdpOptions:
    """Of a UDP service: after `responses` answers a flow ends (0: it does not); at most `max_flows` are open, the one
    longest idle makes room; with `per_packet` each datagram picks its member."""

    responses: int = 0
    max_flows: int = 16384
    per_packet: bool = False


@dataclass(frozen=True, slots=True)
class VirtualService:
    """VIP + protocol + port with one pool behind it. Its identity is its name.

    `source_ranges` and `accept_proxy_protocol` are networks in CIDR form: whose connections are taken (empty:
    everybody's), and whose begin with a PROXY protocol header that names the real client. `proxy_protocol` is what
    members get before the first byte.
    """

    name: str
    vip: str
    port: int
    pool: Pool
    protocol: Protocol = Protocol.TCP
    timeouts: Timeouts = Timeouts()
    admin_state: AdminState = AdminState.ENABLED
    source: Source = Source.SNAT
    proxy_protocol: ProxyProtocol | None = None
    accept_proxy_protocol: tuple[str, ...] = ()
    source_ranges: tuple[str, ...] = ()
    limits: Limits = Limits()
    client_keepalive: Keepalive | None = None
    member_keepalive: Keepalive | None = None
    udp: UdpOptions = UdpOptions()
    client_logs: ClientLogs | None = None
    bulk: Bulk = Bulk.COPY

    @property
    def family(self) -> int:
        """4 or 6."""
        return family_of(self.vip)

    @property
    def listen(self) -> Endpoint:
        """Where clients connect."""
        return Endpoint(self.vip, self.port)


@dataclass(frozen=True, slots=True)
class ServiceEngine:
    """This VM and the daemon on it.

    `frontend_gateways` (at most one of each family) are the next hops for what VIPs answer; without one of a family,
    the machine's own routes decide.
    """

    name: str
    workers: int
    frontend_interface: str
    drain_timeout_s: float = 60.0
    frontend_gateways: tuple[str, ...] = ()


DEFAULT_METRICS_LISTEN = Endpoint("127.0.0.1", 9407)


@dataclass(frozen=True, slots=True)
class DesiredState:
    """Everything that should be; `generation` grows by one with each accepted change.

    `kubernetes` None means that no cluster is watched; otherwise its services are added to `virtual_services`.
    `metrics_listen` None means that no metrics are served. Process-wide fields (service_engine, metrics_listen,
    admin_socket) take effect at start only; a reload that changes one of them is refused with the reason.
    """

    generation: int
    service_engine: ServiceEngine
    virtual_services: tuple[VirtualService, ...] = ()
    metrics_listen: Endpoint | None = DEFAULT_METRICS_LISTEN
    admin_socket: str = "/run/lbd/admin.sock"
    kubernetes: Kubernetes | None = None

    @property
    def vips(self) -> tuple[str, ...]:
        """The addresses to own, each once, in the order of the services."""
        return tuple(dict.fromkeys(service.vip for service in self.virtual_services))


@dataclass(frozen=True, slots=True, order=True)
class MemberKey:
    """Names one member of one virtual service's pool."""

    service: str
    endpoint: Endpoint

    def __str__(self) -> str:
        return f"{self.service}/{self.endpoint}"
