"""What the operator wants of a Kubernetes cluster: which Services are ours, which addresses they get, and the profiles
that rules name. Pure."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass

from lbd.model.desired import (
    Bulk,
    HealthMonitor,
    Keepalive,
    Persistence,
    ProxyProtocol,
    Source,
    Timeouts,
    UdpOptions,
)

DEFAULT_LOAD_BALANCER_CLASS = "lbd.io/service-engine"
_PERSISTENCE = Persistence()
_TIMEOUTS = Timeouts()
_UDP = UdpOptions()


@dataclass(frozen=True, slots=True)
class AddressRange:
    """The addresses from `first` to `last`, both included, of one family and in canonical form."""

    first: str
    last: str

    def __contains__(self, address: str) -> bool:
        first, last = ipaddress.ip_address(self.first), ipaddress.ip_address(self.last)
        parsed = ipaddress.ip_address(address)
        return parsed.version == first.version and int(first) <= int(parsed) <= int(last)

    @property
    def family(self) -> int:
        """4 or 6."""
        return 6 if ":" in self.first else 4

    @property
    def size(self) -> int:
        """How many addresses it has."""
        return int(ipaddress.ip_address(self.last)) - int(ipaddress.ip_address(self.first)) + 1

    def __str__(self) -> str:
        return self.first if self.first == self.last else f"{self.first}-{self.last}"


@dataclass(frozen=True, slots=True)
class AddressPool:
    """Addresses that Services get as VIPs. Pools of a higher `priority` are tried first, then in the order written.

    Without `auto_assign` a Service gets an address only if it asks for the pool or the address. `namespaces` and
    `service_labels` (all of them must match) say who may have one; empty: everybody.
    """

    name: str
    ranges: tuple[AddressRange, ...]
    auto_assign: bool = True
    namespaces: tuple[str, ...] = ()
    service_labels: tuple[tuple[str, str], ...] = ()
    priority: int = 0

    def __contains__(self, address: str) -> bool:
        return any(address in one for one in self.ranges)

    def size(self, family: int) -> int:
        """How many addresses of a family it has."""
        return sum(one.size for one in self.ranges if one.family == family)


@dataclass(frozen=True, slots=True)
class PersistenceProfile:
    """What `applicationPersistenceProfileRef` names."""

    name: str
    persistence: Persistence = _PERSISTENCE


@dataclass(frozen=True, slots=True)
class ApplicationProfile:
    """What `applicationProfileRef` names: what members learn of the client, and what one client may ask for."""

    name: str
    source: Source = Source.SNAT
    proxy_protocol: ProxyProtocol | None = None
    accept_proxy_protocol: tuple[str, ...] = ()
    max_connections_per_client: int = 0
    connection_rate: float = 0.0
    connection_rate_per_client: float = 0.0


@dataclass(frozen=True, slots=True)
class NetworkProfile:
    """What `networkProfileRef` names: timeouts, keep-alive and bulk of TCP, flows of UDP.

    `timeouts.idle_s` is that of TCP, `udp_idle_s` that of UDP flows.
    """

    name: str
    timeouts: Timeouts = _TIMEOUTS
    udp_idle_s: float = 60.0
    client_keepalive: Keepalive | None = None
    member_keepalive: Keepalive | None = None
    udp: UdpOptions = _UDP
    bulk: Bulk = Bulk.COPY


@dataclass(frozen=True, slots=True)
class AnalyticsProfile:
    """What `analyticsProfileRef` names: a connection whose member took longer than `slow_connect_s` to accept is
    significant in the client logs (0: none is for that reason)."""

    name: str
    slow_connect_s: float = 0.0


@dataclass(frozen=True, slots=True)
class NetworkSecurityPolicy:
    """What `networkSecurityPolicyRef` names: whose connections are taken, as networks in CIDR form."""

    name: str
    source_ranges: tuple[str, ...] = ()


Profile = PersistenceProfile | ApplicationProfile | NetworkProfile | AnalyticsProfile | NetworkSecurityPolicy

SYSTEM_PROFILES: tuple[Profile, ...] = (
    PersistenceProfile("System-Persistence-Client-IP"),
    ApplicationProfile("System-L4-Application"),
    NetworkProfile("System-TCP-Proxy"),
    NetworkProfile("System-UDP-Fast-Path"),
    NetworkProfile("System-UDP-Per-Pkt", udp=UdpOptions(per_packet=True)),
    AnalyticsProfile("System-Analytics-Profile"),
)
"""The built-in profiles; a configuration may use these names but not define them."""

SYSTEM_MONITOR_REFS: tuple[tuple[str, str], ...] = (
    ("System-TCP", "system-tcp"),
    ("System-Ping", "system-ping"),
    ("System-UDP", "system-udp"),
    ("System-HTTP", "system-http"),
)
"""What `healthMonitorRefs` calls the built-in health monitors, and their names here."""


@dataclass(frozen=True, slots=True)
class LeaseSettings:
    """The Lease that elects who writes. A leader that could not renew it for `renew_deadline_s` stops writing before it
    expires after `duration_s`; it is looked at every `retry_s`."""

    namespace: str = "lbd-system"
    name: str = "lbd"
    duration_s: float = 15.0
    renew_deadline_s: float = 10.0
    retry_s: float = 2.0


@dataclass(frozen=True, slots=True)
class Kubernetes:
    """The cluster and what of it is ours.

    `kubeconfig` None is the service account of the Pod that lbd runs in. `namespaces` empty means all, `pod_cidrs`
    empty that a member may have any address that a Pod can have. `backend_interface` is where `pod_routes` go; empty:
    wherever the Node is reached. `health_monitors` are all that a rule can name, with the built-in ones.
    """

    kubeconfig: str | None = None
    context: str | None = None
    load_balancer_class: str = DEFAULT_LOAD_BALANCER_CLASS
    default_class: bool = False
    namespaces: tuple[str, ...] = ()
    pod_cidrs: tuple[str, ...] = ()
    pod_routes: bool = False
    backend_interface: str = ""
    resync_s: float = 3600.0
    request_timeout_s: float = 10.0
    watch_timeout_s: float = 300.0
    lease: LeaseSettings = LeaseSettings()
    address_pools: tuple[AddressPool, ...] = ()
    profiles: tuple[Profile, ...] = SYSTEM_PROFILES
    health_monitors: tuple[HealthMonitor, ...] = ()

    def watches(self, namespace: str) -> bool:
        """Tell whether a namespace is looked after."""
        return not self.namespaces or namespace in self.namespaces
