"""What is of a Kubernetes cluster: the part of the snapshot that `lbd status`, the admin API and the metrics read."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class WatchStatus:
    """One watch of the API. `synced` says that it has listed since lbd started; until then what it knows is of an
    earlier run. `age_s` is the time since its last sign of life: a list, an event or a bookmark."""

    resource: str
    namespace: str
    """Empty: all."""
    synced: bool
    objects: int
    age_s: float
    relists_total: int = 0
    errors_total: int = 0
    last_error: str = ""
    """Empty as soon as it works again."""


@dataclass(frozen=True, slots=True)
class PoolUsage:
    """How many addresses of one family an address pool has, and how many of them Services hold."""

    name: str
    family: int
    size: int
    used: int


@dataclass(frozen=True, slots=True)
class LeaderStatus:
    """Who of the group writes to the API. `holder` is empty while nobody is known to."""

    leading: bool
    holder: str
    identity: str
    transitions_total: int


@dataclass(frozen=True, slots=True)
class ObjectProblem:
    """What is wrong with a Service or L4Rule, as its Events say it."""

    kind: str
    name: str
    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class RuleInForce:
    """An L4Rule: whether it is accepted as written, and which generation of it is in force (0: none)."""

    name: str
    accepted: bool
    generation: int
    generation_in_force: int
    services: int
    """How many Services of ours name it."""
    error: str = ""


@dataclass(frozen=True, slots=True)
class PodRoutesStatus:
    """Routes to the Pods' networks. `problem` is empty while all of them stand."""

    wanted: int
    problem: str = ""


@dataclass(frozen=True, slots=True)
class KubernetesStatus:
    """The cluster as this service engine sees it."""

    server: str
    reachable: bool
    api_error: str
    """The last error while the API can't be reached; empty while it can."""
    unreachable_for_s: float
    synced: bool
    """Every watch has listed since lbd started. Until then the state of an earlier run is served, if there is one."""
    leader: LeaderStatus
    services: int
    """Services of type LoadBalancer that are ours."""
    assigned: int
    """Of them, how many have every address that they should."""
    watches: tuple[WatchStatus, ...] = ()
    pools: tuple[PoolUsage, ...] = ()
    rules: tuple[RuleInForce, ...] = ()
    object_problems: tuple[ObjectProblem, ...] = ()
    writes_total: int = 0
    write_conflicts_total: int = 0
    write_failures_total: int = 0
    requests_total: int = 0
    pod_routes: PodRoutesStatus | None = None
