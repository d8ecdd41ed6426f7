"""From desired and actual state to the actions that can be done now. Pure.

The order in which things happen is part of the contract and lives in the preconditions here. In: bind, workers
acknowledge the generation, first health result of each member (or one monitor timeout), add the address, announce. Out:
stop accepting and take what is queued, drain, reset what is left at the deadline, remove the address: without its
address the kernel no longer delivers established connections. The loop plans again after every event, so an action that
must wait for another simply isn't in the plan yet.

What is planned for a VIP and the services on it depends on them alone: a plan for some VIPs is the part of the whole
plan that is about them.
"""

from __future__ import annotations

import functools
from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field

from lbd.model.address import Endpoint
from lbd.model.desired import DesiredState, Protocol, VirtualService
from lbd.model.status import VipState
from lbd.supervisor.seams import Acceptance, Handle

RESET_GRACE_S = 5.0
"""After the deadline's reset: then a service is removed though connections are still counted."""


@dataclass(frozen=True, slots=True)
class ServiceKey:
    """What makes two configured services the same one across a reload."""

    name: str
    listen: Endpoint
    protocol: Protocol = Protocol.TCP


def key_of(service: VirtualService) -> ServiceKey:
    """Return the key of a configured service."""
    return _key(service.name, service.vip, service.port, service.protocol)


@functools.lru_cache(maxsize=8192)
def _key(name: str, vip: str, port: int, protocol: Protocol) -> ServiceKey:
    """Every plan asks for every key, and an endpoint parses its address."""
    return ServiceKey(name, Endpoint(vip, port), protocol)


@dataclass(frozen=True, slots=True)
class ServiceView:
    """A service in the data path that is wanted, or was until now."""

    handle: Handle
    applied: VirtualService
    acknowledged: bool
    first_results: bool
    acceptance: Acceptance
    wanted_acceptance: Acceptance


@dataclass(frozen=True, slots=True)
class DrainView:
    """A service that is on its way out."""

    handle: Handle
    since_s: float
    stopped_accepting: bool
    active_connections: int
    reset_sent: bool
    undelivered: bool = False
    """Connections have ended, but not all of what they sent has reached the clients."""


@dataclass(frozen=True, slots=True)
class Open:
    """Bind the service and give it to the workers."""

    service: VirtualService


@dataclass(frozen=True, slots=True)
class Update:
    """Give the workers the changed pool or timeouts."""

    handle: Handle
    service: VirtualService


@dataclass(frozen=True, slots=True)
class Accept:
    """Change what the service does with new connections."""

    handle: Handle
    acceptance: Acceptance


@dataclass(frozen=True, slots=True)
class Drain:
    """Stop accepting; established connections finish."""

    handle: Handle
    reason: str


@dataclass(frozen=True, slots=True)
class Reset:
    """The drain deadline has passed: reset what is still open."""

    handle: Handle


@dataclass(frozen=True, slots=True)
class Remove:
    """Nothing is left of the service: let go of it."""

    handle: Handle


@dataclass(frozen=True, slots=True)
class Claim:
    """Probe, add and announce a VIP."""

    vip: str


@dataclass(frozen=True, slots=True)
class Withdraw:
    """Stop announcing a VIP and remove its address."""

    vip: str
    reason: str


Action = Open | Update | Accept | Drain | Reset | Remove | Claim | Withdraw


def vip_of(action: Action) -> str:
    """Return the VIP that an action concerns, itself or a service on it."""
    if isinstance(action, Claim | Withdraw):
        return action.vip
    return action.service.vip if isinstance(action, Open) else action.handle.listen.address


def describe(action: Action) -> str:
    """Return an action as words for logs and `lbd status`."""
    if isinstance(action, Open):
        return f"open {action.service.name} on {action.service.listen}"
    if isinstance(action, Claim | Withdraw):
        return f"{type(action).__name__.lower()} {action.vip}"
    return f"{type(action).__name__.lower()} {action.handle}"


@dataclass(frozen=True, slots=True)
class Actual:
    """What is. `retry_at_s` holds back actions that failed."""

    services: Mapping[ServiceKey, ServiceView] = field(default_factory=dict)
    draining: tuple[DrainView, ...] = ()
    vips: Mapping[str, VipState] = field(default_factory=dict)
    retry_at_s: Mapping[Action, float] = field(default_factory=dict)


def plan(desired: DesiredState, actual: Actual, now_s: float) -> tuple[Action, ...]:
    """Return the actions whose preconditions hold now, in the order to do them."""
    wanted = {key_of(service): service for service in desired.virtual_services}
    actions: list[Action] = []
    actions += _leave(wanted, actual, desired.service_engine.drain_timeout_s, now_s)
    actions += _enter(wanted, actual)
    actions += _claim(desired, wanted, actual)
    actions += _withdraw(wanted, actual)
    if not actual.retry_at_s:  # the usual case, and hashing an action hashes a whole service
        return tuple(actions)
    return tuple(action for action in actions if actual.retry_at_s.get(action, now_s) <= now_s)


def _enter(wanted: Mapping[ServiceKey, VirtualService], actual: Actual) -> list[Action]:
    actions: list[Action] = []
    for key, service in wanted.items():
        view = actual.services.get(key)
        if view is None:
            actions.append(Open(service))
        elif view.applied != service:
            actions.append(Update(view.handle, service))
        elif view.acknowledged and view.acceptance is not view.wanted_acceptance:
            actions.append(Accept(view.handle, view.wanted_acceptance))
    return actions


def _leave(
    wanted: Mapping[ServiceKey, VirtualService], actual: Actual, drain_timeout_s: float, now_s: float
) -> list[Action]:
    actions: list[Action] = [
        Drain(view.handle, "removed from the configuration")
        for key, view in actual.services.items()
        if key not in wanted
    ]
    for view in actual.draining:
        if not view.stopped_accepting:
            continue
        too_late = now_s >= view.since_s + drain_timeout_s
        if view.active_connections == 0:
            if too_late or not view.undelivered:
                actions.append(Remove(view.handle))
        elif too_late and not view.reset_sent:
            actions.append(Reset(view.handle))
        elif now_s >= view.since_s + drain_timeout_s + RESET_GRACE_S:
            actions.append(Remove(view.handle))  # whatever a hung worker's count says: the way out must end
    return actions


def _claim(desired: DesiredState, wanted: Mapping[ServiceKey, VirtualService], actual: Actual) -> list[Action]:
    actions: list[Action] = []
    keys_of: defaultdict[str, list[ServiceKey]] = defaultdict(list)
    for key, service in wanted.items():
        keys_of[service.vip].append(key)
    for vip in desired.vips:
        if actual.vips.get(vip, VipState.WAITING) in (VipState.OWNED, VipState.CLAIMING, VipState.WITHDRAWING):
            continue
        keys = keys_of[vip]
        # A service that could not be bound does not hold up the others on its VIP.
        failed = [key for key in keys if key not in actual.services and Open(wanted[key]) in actual.retry_at_s]
        ready = [key for key in keys if _is_ready(actual.services.get(key))]
        if ready and len(ready) + len(failed) == len(keys):
            actions.append(Claim(vip))
    return actions


def _is_ready(view: ServiceView | None) -> bool:
    return view is not None and view.acknowledged and view.first_results and view.acceptance is view.wanted_acceptance


def _withdraw(wanted: Mapping[ServiceKey, VirtualService], actual: Actual) -> list[Action]:
    in_use = {service.vip for service in wanted.values()}
    in_use |= {key.listen.address for key in actual.services}
    in_use |= {view.handle.listen.address for view in actual.draining}
    return [
        Withdraw(vip, "no virtual service uses it")
        for vip, state in actual.vips.items()
        if vip not in in_use and state not in (VipState.CLAIMING, VipState.WITHDRAWING)
    ]
