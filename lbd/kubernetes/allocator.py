"""Which Service gets which addresses. Pure and deterministic: the Services' status is the only record."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lbd.kubernetes.objects import ObjectKey, Service
from lbd.kubernetes.translate import Problem
from lbd.model.kubernetes import Kubernetes


@dataclass(frozen=True, slots=True)
class Allocation:
    """What a Service gets: `addresses` in the order of its families, and for each the pool it is from (empty: it is in
    none any more). `problem` says what it can't have; it may have addresses all the same."""

    addresses: tuple[str, ...] = ()
    pools: tuple[str, ...] = ()
    problem: Problem | None = None


def allocate(
    services: Iterable[Service],
    kubernetes: Kubernetes,
    taken: Mapping[str, str],
    rule_addresses: Mapping[ObjectKey, str],
) -> Mapping[ObjectKey, Allocation]:
    """Return an allocation for each Service that is ours.

    `services` may be all that there are: an address of one that is left (`claims.is_left`) is not given to another
    until its finalizer is gone. `taken` are addresses that others use, with the name of who does; `rule_addresses` the
    `loadBalancerIP` of the rule that a Service has in force.
    """
    raise NotImplementedError
