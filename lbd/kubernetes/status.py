"""The cluster's part of the status snapshot."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from lbd.kubernetes.addresses.address_pools import pool_usage
from lbd.kubernetes.api.client import ApiStatus
from lbd.kubernetes.assembly import Assembly
from lbd.kubernetes.writing.wishes import Target
from lbd.model.kubernetes import Kubernetes
from lbd.model.kubernetes_status import (
    KubernetesStatus,
    LeaderStatus,
    ObjectProblem,
    RuleInForce,
    WatchStatus,
)

MAX_PROBLEMS = 200
"""A cluster can have thousands of bad objects; who reads the status has to find the first ones."""


def cluster_status(
    kubernetes: Kubernetes,
    api: ApiStatus,
    leader: LeaderStatus,
    watches: tuple[WatchStatus, ...],
    assembly: Assembly,
    writes: tuple[int, int, int],
    unwritten: Mapping[Target, str],
) -> KubernetesStatus:
    """Return what is of the cluster, but for its routes to Pods, which are not here. `writes` are those that succeeded,
    conflicted and failed."""
    decided = assembly.decided.values()
    used = [*(address for one in assembly.allocations.values() for address in one.addresses), *assembly.taken]
    written, conflicts, failures = writes
    return KubernetesStatus(
        server=api.server,
        reachable=api.reachable,
        api_error=api.error,
        unreachable_for_s=api.unreachable_for_s,
        synced=all(watch.synced for watch in watches),
        leader=leader,
        services=len(assembly.decided),
        assigned=sum(
            _has_all(len(one.service.ip_families), one.service.ingress, one.wish.addresses) for one in decided
        ),
        watches=watches,
        pools=pool_usage(kubernetes, used),
        rules=tuple(_rules(assembly)),
        object_problems=tuple(_problems(assembly, unwritten))[:MAX_PROBLEMS],
        writes_total=written,
        write_conflicts_total=conflicts,
        write_failures_total=failures,
        requests_total=api.requests_total,
    )


def _has_all(wanted: int, ingress: tuple[str, ...], addresses: tuple[str, ...]) -> bool:
    return bool(addresses) and ingress == addresses and len(addresses) >= wanted


def _rules(assembly: Assembly) -> Iterable[RuleInForce]:
    for key in sorted(assembly.rules):
        rule, verdict = assembly.rules[key]
        yield RuleInForce(
            name=str(key),
            accepted=verdict.accepted,
            generation=rule.generation,
            generation_in_force=verdict.generation_in_force,
            services=assembly.services_naming(key),
            error=verdict.error,
        )


def _problems(assembly: Assembly, unwritten: Mapping[Target, str]) -> Iterable[ObjectProblem]:
    for key in sorted(assembly.decided):
        for problem in assembly.decided[key].problems:
            yield ObjectProblem("Service", str(key), problem.reason, problem.message)
    for target in sorted(unwritten):
        yield ObjectProblem(target.kind.value, str(target.key), "NotWritten", unwritten[target])
