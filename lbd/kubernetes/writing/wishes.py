"""From a stored object and what it should say to the patches that make it so, in their order. Pure.

Patches of Services are strategic merge patches: a list is merged by its key, so that other writers' finalizers and
conditions are not among what is sent, and can't be lost. Custom resources know none; a rule's status is ours alone and
is replaced by a JSON patch, because a merge patch would mix a new accepted spec with the old one. Every patch names the
resource version that it was made from: the API server answers 409 to one that is late.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Any

from lbd.kubernetes.objects.claims import is_given
from lbd.kubernetes.objects.kinds import (
    ADDRESS_CONDITION,
    FINALIZER,
    RULE_CONDITION,
    Condition,
    L4Rule,
    ObjectKey,
    RuleStatus,
    Service,
)

STRATEGIC_MERGE = "application/strategic-merge-patch+json"
JSON_PATCH = "application/json-patch+json"
RELEASED = "Released"
"""The reason of the condition of a Service that is no longer served."""

OWN_CONDITIONS = (ADDRESS_CONDITION, RULE_CONDITION)
_MAX_MESSAGE = 4096


class Kind(StrEnum):
    """What lbd writes to."""

    SERVICE = "Service"
    RULE = "L4Rule"


@dataclass(frozen=True, slots=True, order=True)
class Target:
    """Names an object that lbd writes to."""

    kind: Kind
    key: ObjectKey

    def __str__(self) -> str:
        return f"{self.kind} {self.key}"


@dataclass(frozen=True, slots=True)
class ServiceWish:
    """What a Service shall say: the whole of `status.loadBalancer.ingress`, our own conditions, and whether to put our
    finalizer on it. The default is the wish to have nothing of ours left there, also no finalizer."""

    addresses: tuple[str, ...] = ()
    conditions: tuple[Condition, ...] = ()
    finalizer: bool = False


NOTHING = ServiceWish()


@dataclass(frozen=True, slots=True)
class ServicePatch:
    """A change of a Service, or of its `status` subresource; `after` is the Service as it is then."""

    changes: dict[str, Any]
    status: bool
    after: Service
    content_type: str = STRATEGIC_MERGE

    def body(self, resource_version: str) -> dict[str, Any]:
        """Return what to send to change the Service of this version and no other."""
        metadata = {**self.changes.get("metadata", {}), "resourceVersion": resource_version}
        return {**self.changes, "metadata": metadata}


@dataclass(frozen=True, slots=True)
class RulePatch:
    """A change of an L4Rule's `status`; `after` is the rule as it is then."""

    operations: tuple[dict[str, Any], ...]
    after: L4Rule
    status: bool = True
    content_type: str = JSON_PATCH

    def body(self, resource_version: str) -> list[dict[str, Any]]:
        """Return what to send to change the rule of this version and no other."""
        lock = {"op": "replace", "path": "/metadata/resourceVersion", "value": resource_version}
        return [lock, *self.operations]


Patch = ServicePatch | RulePatch


def patches(service: Service, wish: ServiceWish, now: str) -> tuple[ServicePatch, ...]:
    """Return what makes `service` say what is wished; `now` is the time in RFC 3339 form.

    The finalizer goes on before anything is published and comes off after everything is taken back. A patch that
    changes nothing is not among them.
    """
    return _clean_up(service, now) if wish == NOTHING else _publish(service, wish, now)


def rule_patches(rule: L4Rule, status: RuleStatus) -> tuple[RulePatch, ...]:
    """Return what makes an L4Rule's status what it shall be; nothing if it is."""
    if rule.status == status:
        return ()
    written: dict[str, Any] = {
        "status": status.status,
        "error": status.error,
        "observedGeneration": status.observed_generation,
        "acceptedGeneration": status.accepted_generation,
    }
    if status.accepted_spec is not None:
        written["acceptedSpec"] = dict(status.accepted_spec)
    operation = {"op": "add", "path": "/status", "value": written}
    return (RulePatch((operation,), replace(rule, status=status)),)


def _publish(service: Service, wish: ServiceWish, now: str) -> tuple[ServicePatch, ...]:
    made: list[ServicePatch] = []
    if wish.finalizer and FINALIZER not in service.finalizers and not service.deleting:  # then nobody may add one
        service = replace(service, finalizers=(*service.finalizers, FINALIZER))
        made.append(ServicePatch({"metadata": {"finalizers": [FINALIZER]}}, False, service))
    wanted = tuple(_bounded(one) for one in wish.conditions)
    # What an address in the status says beside its `ip` is known only if it was lbd that wrote it.
    mark = service.condition(ADDRESS_CONDITION)
    first = mark is None and any(one.type == ADDRESS_CONDITION for one in wanted)
    enforce = first or (bool(wish.addresses) and not is_given(service) and mark is not None)
    status, after = _status_changes(service, wish.addresses, wanted, enforce, now)
    if status:
        made.append(ServicePatch({"status": status}, True, after))
    return tuple(made)


def _clean_up(service: Service, now: str) -> tuple[ServicePatch, ...]:
    """Take back the addresses, then the finalizer, then the conditions: these are the mark by which a daemon that was
    started between two of the patches knows that the rest is its to do."""
    made: list[ServicePatch] = []
    if is_given(service):  # otherwise what stands in the status is somebody else's
        released = Condition(ADDRESS_CONDITION, "False", RELEASED, "lbd no longer serves this Service")
        status, after = _status_changes(service, (), (released,), False, now)
        made.append(ServicePatch({"status": status}, True, after))
        service = after
    if FINALIZER in service.finalizers:
        left = tuple(one for one in service.finalizers if one != FINALIZER)
        service = replace(service, finalizers=left)
        changes = {"metadata": {"$deleteFromPrimitiveList/finalizers": [FINALIZER]}}
        made.append(ServicePatch(changes, False, service))
    if not service.deleting:
        status, after = _status_changes(service, service.ingress, (), False, now)
        if status:
            made.append(ServicePatch({"status": status}, True, after))
    return tuple(made)


def _status_changes(
    service: Service, addresses: tuple[str, ...], wanted: Sequence[Condition], enforce: bool, now: str
) -> tuple[dict[str, Any], Service]:
    """Return what to change of the status, and the Service as it is then. `enforce` sends the addresses also where they
    are there."""
    changes: dict[str, Any] = {}
    if enforce or addresses != service.ingress:
        ingress = [{"ip": address, "ipMode": "Proxy"} for address in addresses]
        changes["loadBalancer"] = {"ingress": ingress or None}
    types = {one.type for one in wanted}
    others = [one for one in service.conditions if one.type not in types]
    conditions = [one for one in others if one.type not in OWN_CONDITIONS]
    entries: list[dict[str, Any]] = [
        {"$patch": "delete", "type": one.type} for one in others if one.type in OWN_CONDITIONS
    ]
    for one in wanted:
        before = service.condition(one.type)
        kept = before is not None and before.status == one.status and before.last_transition_time
        dated = replace(one, last_transition_time=before.last_transition_time if before and kept else now)
        conditions.append(dated)
        if before != dated:
            entries.append(_written(dated))
    if entries:
        changes["conditions"] = entries
    return changes, replace(service, ingress=addresses, conditions=tuple(conditions))


def _written(condition: Condition) -> dict[str, Any]:
    written: dict[str, Any] = {
        "type": condition.type,
        "status": condition.status,
        "reason": condition.reason,
        "message": condition.message,
        "lastTransitionTime": condition.last_transition_time,
    }
    if condition.observed_generation:
        written["observedGeneration"] = condition.observed_generation
    return written


def _bounded(condition: Condition) -> Condition:
    if len(condition.message) <= _MAX_MESSAGE:
        return condition
    return replace(condition, message=condition.message[: _MAX_MESSAGE - 1] + "…")
