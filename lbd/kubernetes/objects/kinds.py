"""Kubernetes' objects as far as lbd reads them: frozen values, valid once built. Pure.

`parse` makes them from what the API server says, which is hostile: everything is bounded and checked there, and what
can't be used is named in `complaints` instead of being dropped silently.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lbd.model.desired import Protocol

FINALIZER = "service.kubernetes.io/load-balancer-cleanup"
ADDRESS_ANNOTATIONS = ("lbd.io/address", "ako.vmware.com/load-balancer-ip")
POOL_ANNOTATION = "lbd.io/address-pool"
SHARED_VIP_ANNOTATIONS = ("lbd.io/shared-vip", "ako.vmware.com/enable-shared-vip")
RULE_ANNOTATION = "ako.vmware.com/l4rule"
ADDRESS_CONDITION = "lbd.io/AddressAssigned"
"""The condition of a Service that says which addresses lbd gave it, and from which pool; or why it has none."""
RULE_CONDITION = "lbd.io/RuleAccepted"
"""The condition of a Service that says whether the L4Rule it names is in force as it is written now."""

NOBODY = ("0.0.0.0/32", "::/128")
"""The source ranges of a Service that has some, and of which none can be read: no client has the unspecified address.
An empty tuple would let everybody in."""


@dataclass(frozen=True, slots=True, order=True)
class ObjectKey:
    """Names a namespaced object; of a Node, `namespace` is empty."""

    namespace: str
    name: str

    def __str__(self) -> str:
        return f"{self.namespace}/{self.name}" if self.namespace else self.name


@dataclass(frozen=True, slots=True)
class Condition:
    """An entry of `status.conditions`; `status` is "True", "False" or "Unknown"."""

    type: str
    status: str
    reason: str
    message: str
    observed_generation: int = 0
    last_transition_time: str = ""


@dataclass(frozen=True, slots=True)
class ServicePort:
    """A port of a Service. `name` matches the port of an EndpointSlice."""

    name: str
    port: int
    protocol: Protocol


@dataclass(frozen=True, slots=True)
class Service:
    """A Service. `ip_families` are 4 and 6 in the order of the spec; `ingress` are the addresses in its status.

    `annotations` are those under lbd.io/ and ako.vmware.com/ only.
    """

    key: ObjectKey
    uid: str
    resource_version: str
    created: str
    """`creationTimestamp`, in RFC 3339 form: comparable as text."""
    type: str
    load_balancer_class: str | None
    ports: tuple[ServicePort, ...]
    ip_families: tuple[int, ...] = (4,)
    affinity_timeout_s: int | None = None
    """Of `sessionAffinity: ClientIP`; None without."""
    source_ranges: tuple[str, ...] = ()
    load_balancer_ip: str = ""
    annotations: tuple[tuple[str, str], ...] = ()
    labels: tuple[tuple[str, str], ...] = ()
    finalizers: tuple[str, ...] = ()
    deleting: bool = False
    ingress: tuple[str, ...] = ()
    conditions: tuple[Condition, ...] = ()
    complaints: tuple[str, ...] = ()
    """What of it can't be used, as sentences."""

    def annotation(self, *names: str) -> str | None:
        """Return the value of the first of these annotations that it has."""
        written = dict(self.annotations)
        return next((written[name] for name in names if name in written), None)

    def condition(self, kind: str) -> Condition | None:
        """Return its condition of a type."""
        return next((one for one in self.conditions if one.type == kind), None)


@dataclass(frozen=True, slots=True)
class SliceEndpoint:
    """An entry of an EndpointSlice, with the API's rule for what is absent applied: `ready` and `serving` absent are
    true, `terminating` absent is false. `addresses` are canonical."""

    addresses: tuple[str, ...]
    ready: bool = True
    serving: bool = True
    terminating: bool = False
    node: str = ""
    pod: str = ""


@dataclass(frozen=True, slots=True)
class EndpointSlice:
    """An EndpointSlice. `family` is 4 or 6; `ports` are (name, port, protocol), a nameless port has the name ""."""

    key: ObjectKey
    service: str
    """The name of the Service it belongs to, in its own namespace."""
    family: int
    ports: tuple[tuple[str, int, Protocol], ...]
    endpoints: tuple[SliceEndpoint, ...]
    complaints: tuple[str, ...] = ()

    def has(self, port: ServicePort) -> bool:
        """Tell whether its endpoints serve a port of the Service."""
        return any(name == port.name and protocol is port.protocol for name, _, protocol in self.ports)


@dataclass(frozen=True, slots=True)
class Node:
    """A Node: where it is reached, and which networks its Pods have."""

    key: ObjectKey
    internal_ips: tuple[str, ...]
    pod_cidrs: tuple[str, ...]
    complaints: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RuleStatus:
    """What an L4Rule's status says. `accepted_spec` is what is in force, of generation `accepted_generation` (0: none).

    The record of the last accepted spec lives in the object, so that every service engine of a group, also one that
    was started since, keeps the same one in force.
    """

    status: str = ""
    """"Accepted", "Rejected", or empty where nobody has judged it."""
    error: str = ""
    observed_generation: int = 0
    accepted_generation: int = 0
    accepted_spec: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class L4Rule:
    """An L4Rule; `spec` is as it was written."""

    key: ObjectKey
    uid: str
    resource_version: str
    generation: int
    spec: Mapping[str, Any] = field(default_factory=dict)
    status: RuleStatus = RuleStatus()


KubernetesObject = Service | EndpointSlice | Node | L4Rule
