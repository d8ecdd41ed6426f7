"""A Service, its EndpointSlices and its rule → virtual services. Pure."""

from __future__ import annotations

from collections.abc import Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from lbd.kubernetes.objects import EndpointSlice, Service
from lbd.kubernetes.rule_policy import RulePolicy
from lbd.model.desired import VirtualService
from lbd.model.kubernetes import Kubernetes


@dataclass(frozen=True, slots=True)
class Problem:
    """What a Service can't have as it asks for it: `reason` is a CamelCase word for an Event, `message` a sentence."""

    reason: str
    message: str


@dataclass(frozen=True, slots=True)
class Translation:
    """What a Service becomes, in the order of its addresses and ports, and what is wrong with it."""

    virtual_services: tuple[VirtualService, ...] = ()
    problems: tuple[Problem, ...] = ()


def translate(
    service: Service,
    slices: Sequence[EndpointSlice],
    rule: RulePolicy | None,
    kubernetes: Kubernetes,
    forbidden: AbstractSet[str],
) -> Translation:
    """Return the virtual services of a Service: one for each address in its status and each of its ports.

    `slices` are all that belong to it, `rule` is what its rule says (None: it has none in force), `forbidden` are all
    VIPs and this machine's own addresses, which no member may have.
    """
    raise NotImplementedError
