"""The pool behind one port of a Service: its members and what its rule says of them. Pure."""

from __future__ import annotations

import functools
from collections.abc import Sequence

from lbd.kubernetes.objects.kinds import ServicePort
from lbd.kubernetes.rules.rule_policy import BackendPolicy, RulePolicy
from lbd.kubernetes.translation.endpoints import Server
from lbd.model.address import Endpoint
from lbd.model.desired import SYSTEM_MONITORS, AdminState, Algorithm, Member, Persistence, Pool, Protocol

_BY_NAME = {monitor.name: monitor for monitor in SYSTEM_MONITORS}
_MONITORS = {Protocol.TCP: (_BY_NAME["system-tcp"],), Protocol.UDP: (_BY_NAME["system-udp"],)}
_CACHED = 65536


def pool_of(servers: Sequence[Server], port: ServicePort, policy: RulePolicy, affinity_timeout_s: int | None) -> Pool:
    """Return the pool of a port. Without members it refuses connections.

    A port that its rule says nothing of has lbd's own defaults; `affinity_timeout_s` is that of the Service's
    `sessionAffinity`, which a persistence profile of the rule replaces.
    """
    backend = policy.backend(port.port, port.protocol) or _defaults(port.port, port.protocol)
    return Pool(
        members=tuple(_member(server, backend.enabled) for server in servers),
        algorithm=backend.algorithm,
        health_monitors=backend.health_monitors or _MONITORS[port.protocol],
        hash_key=backend.hash_key,
        persistence=_persistence(backend, policy, affinity_timeout_s),
        min_members_up=backend.min_members_up,
        # A disabled one ends what it has at once; a Pod that is on its way out has the time that it gives itself.
        drain_timeout_s=None if backend.enabled else 0.0,
    )


@functools.lru_cache(maxsize=1024)
def _defaults(port: int, protocol: Protocol) -> BackendPolicy:
    return BackendPolicy(port, protocol, algorithm=Algorithm.ROUND_ROBIN)


@functools.lru_cache(maxsize=_CACHED)
def _member(server: Server, enabled: bool) -> Member:
    """Every change of a Service makes all its members again, and an endpoint parses its address."""
    state = AdminState.DRAINING if server.draining else AdminState.ENABLED
    return Member(Endpoint(server.address, server.port), admin_state=state if enabled else AdminState.DISABLED)


def _persistence(backend: BackendPolicy, policy: RulePolicy, affinity_timeout_s: int | None) -> Persistence | None:
    if backend.protocol is Protocol.UDP and policy.network.udp.per_packet:
        return None  # each datagram picks its own member
    if backend.persistence is not None or affinity_timeout_s is None:
        return backend.persistence
    return Persistence(timeout_s=float(affinity_timeout_s))
