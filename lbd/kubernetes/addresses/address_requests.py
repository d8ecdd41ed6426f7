"""Which address or pool a Service asks for. Pure."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

from lbd.kubernetes.addresses.address_pools import place_of
from lbd.kubernetes.addresses.address_problems import FAMILY_NAMES
from lbd.kubernetes.objects.fields import shown
from lbd.kubernetes.objects.kinds import ADDRESS_ANNOTATIONS, POOL_ANNOTATION, Service
from lbd.kubernetes.objects.problem import Problem
from lbd.model.spans import Place


@dataclass(frozen=True, slots=True)
class AddressRequest:
    """What a Service asks for: at most one address of each family, and pools by name (empty: any).

    With `refused` nothing of it can be had as it is written: the Service keeps what it has and gets nothing new.
    """

    places: Mapping[int, Place] = field(default_factory=dict)
    pools: tuple[str, ...] = ()
    problem: Problem | None = None
    refused: bool = False


NO_REQUEST = AddressRequest()


def request_of(service: Service, rule_address: str, pools: Collection[str]) -> AddressRequest:
    """Return what a Service asks for; `pools` are the names of those that there are.

    The first of these that says something holds: annotations, `spec.loadBalancerIP`, the rule's `loadBalancerIP`.
    """
    if not (service.annotations or service.load_balancer_ip or rule_address):
        return NO_REQUEST
    pool_names = _split(service.annotation(POOL_ANNOTATION) or "")
    for name in pool_names:
        if name not in pools:
            message = f"annotation {POOL_ANNOTATION} asks for pool {shown(name)}, which is not among address_pools"
            return AddressRequest(problem=Problem("UnknownAddressPool", message), refused=True)
    for source, written in (
        *((f"annotation {name}", service.annotation(name) or "") for name in ADDRESS_ANNOTATIONS),
        ("spec.loadBalancerIP", service.load_balancer_ip),
        ("loadBalancerIP of its L4Rule", rule_address),
    ):
        if asked := _split(written):
            return _read(source, asked, service.ip_families, pool_names)
    return AddressRequest(pools=pool_names) if pool_names else NO_REQUEST


def _read(
    source: str, asked: tuple[str, ...], families: tuple[int, ...], pool_names: tuple[str, ...]
) -> AddressRequest:
    places: dict[int, Place] = {}
    foreign: list[str] = []
    for text in asked:
        try:
            place = place_of(text)
        except ValueError:
            return _refuse("InvalidAddress", f"{source} asks for {shown(text)}, which is not an IP address")
        family = place[0]
        if family not in families:
            foreign.append(f"{source} asks for {text}, but the Service has no {FAMILY_NAMES[family]}")
        elif places.setdefault(family, place) != place:
            return _refuse("InvalidAddress", f"{source} asks for more than one {FAMILY_NAMES[family]} address")
    problem = Problem("FamilyMismatch", foreign[0]) if foreign else None
    return AddressRequest(places, pool_names, problem, refused=not places)


def _refuse(reason: str, message: str) -> AddressRequest:
    return AddressRequest(problem=Problem(reason, message), refused=True)


def _split(written: str) -> tuple[str, ...]:
    return tuple(part.strip() for part in written.split(",") if part.strip()) if written else ()
