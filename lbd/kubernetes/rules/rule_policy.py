"""What an accepted L4Rule means, with its references resolved: frozen values. Pure."""

from __future__ import annotations

from dataclasses import dataclass

from lbd.model.desired import Algorithm, ClientLogs, HashKey, HealthMonitor, Persistence, Protocol
from lbd.model.kubernetes import ApplicationProfile, NetworkProfile, NetworkSecurityPolicy

DEFAULT_APPLICATION = ApplicationProfile("System-L4-Application")
DEFAULT_NETWORK = NetworkProfile("System-TCP-Proxy")


@dataclass(frozen=True, slots=True)
class BackendPolicy:
    """What a rule says of the pool behind one port and protocol. `health_monitors` empty: those of the protocol.

    `enabled` False ends the connections that there are, takes no new ones and pauses the monitors.
    """

    port: int
    protocol: Protocol
    enabled: bool = True
    algorithm: Algorithm = Algorithm.LEAST_CONNECTIONS
    hash_key: HashKey = HashKey.SOURCE_IP
    persistence: Persistence | None = None
    health_monitors: tuple[HealthMonitor, ...] = ()
    min_members_up: int = 1


@dataclass(frozen=True, slots=True)
class RulePolicy:
    """What a rule says of the Services that name it; limits are those of one port, 0 is no limit.

    `load_balancer_ip` is empty where the rule asks for no address.
    """

    max_connections: int = 0
    max_throughput_bps: int = 0
    client_logs: ClientLogs | None = None
    application: ApplicationProfile = DEFAULT_APPLICATION
    network: NetworkProfile = DEFAULT_NETWORK
    network_security: NetworkSecurityPolicy | None = None
    load_balancer_ip: str = ""
    backends: tuple[BackendPolicy, ...] = ()

    def backend(self, port: int, protocol: Protocol) -> BackendPolicy | None:
        """Return what it says of a port of a Service, None if nothing."""
        return next((one for one in self.backends if one.port == port and one.protocol is protocol), None)
