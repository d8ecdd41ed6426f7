"""From a stored object and what it should say to the patches that make it so, in their order. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from lbd.kubernetes.objects import Condition, L4Rule, ObjectKey, RuleStatus, Service


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
    """What a Service shall say: the whole of `status.loadBalancer.ingress`, our own conditions, and whether our
    finalizer is on it. The default is the wish to have nothing of ours left there."""

    addresses: tuple[str, ...] = ()
    conditions: tuple[Condition, ...] = ()
    finalizer: bool = False


@dataclass(frozen=True, slots=True)
class Patch:
    """A JSON merge patch (RFC 7386) of an object, or of its `status` subresource."""

    body: dict[str, Any]
    status: bool


def patches(service: Service, wish: ServiceWish, now: str) -> tuple[Patch, ...]:
    """Return what makes `service` say what is wished; `now` is the time in RFC 3339 form.

    The finalizer goes on first and comes off last. A patch that changes nothing is not among them.
    """
    raise NotImplementedError


def rule_patches(rule: L4Rule, status: RuleStatus) -> tuple[Patch, ...]:
    """Return what makes an L4Rule's status what it shall be; nothing if it is."""
    raise NotImplementedError
