"""What the operator wants: the desired state, as one frozen value with a generation number."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from lbd.model.address import Endpoint, family_of


class Protocol(StrEnum):
    """The transport that a virtual service accepts."""

    TCP = "tcp"


class Algorithm(StrEnum):
    """How a pool picks a member for a new connection."""

    ROUND_ROBIN = "round_robin"
    CONSISTENT_HASH = "consistent_hash"
    LEAST_CONNECTIONS = "least_connections"


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

    Fields that a type does not use keep their defaults: `send` and `expect` belong to tcp; `path`, `host`, `method`,
    `expect_status`, `expect_text` and `verify_tls` to http and https; `port` (None: the member's own) to all but ping.
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


SYSTEM_MONITORS: tuple[HealthMonitor, ...] = (
    HealthMonitor("system-tcp", MonitorType.TCP),
    HealthMonitor("system-ping", MonitorType.PING),
    HealthMonitor("system-http", MonitorType.HTTP),
)
"""The built-in monitors; a configuration may use these names but not define them."""


@dataclass(frozen=True, slots=True)
class Member:
    """One address:port that can serve."""

    endpoint: Endpoint
    weight: int = 1
    admin_state: AdminState = AdminState.ENABLED


@dataclass(frozen=True, slots=True)
class Pool:
    """Members, how one is picked, and how they are checked. Members are unique by endpoint, in the order written."""

    members: tuple[Member, ...]
    algorithm: Algorithm = Algorithm.ROUND_ROBIN
    health_monitors: tuple[HealthMonitor, ...] = (SYSTEM_MONITORS[0],)
    slow_start_s: float = 0.0
    on_all_down: OnAllDown = OnAllDown.REFUSE


@dataclass(frozen=True, slots=True)
class Timeouts:
    """Seconds. `connect_s` bounds all attempts to reach a member together, `idle_s` a connection on which nothing
    moves."""

    connect_s: float = 5.0
    idle_s: float = 600.0


@dataclass(frozen=True, slots=True)
class VirtualService:
    """VIP + protocol + port with one pool behind it. Its identity is its name."""

    name: str
    vip: str
    port: int
    pool: Pool
    protocol: Protocol = Protocol.TCP
    timeouts: Timeouts = Timeouts()
    admin_state: AdminState = AdminState.ENABLED

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

    `metrics_listen` None means that no metrics are served. Process-wide fields (service_engine, metrics_listen,
    admin_socket) take effect at start only; a reload that changes one of them is refused with the reason.
    """

    generation: int
    service_engine: ServiceEngine
    virtual_services: tuple[VirtualService, ...] = ()
    metrics_listen: Endpoint | None = DEFAULT_METRICS_LISTEN
    admin_socket: str = "/run/lbd/admin.sock"

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
