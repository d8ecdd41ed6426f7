"""Admin states that were set at run time, over what the files say. Pure; kept in memory alone."""

from __future__ import annotations

import difflib
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from types import MappingProxyType

from lbd.model.address import Endpoint
from lbd.model.admin_state import MAX_DEADLINE_S, AdminStateChange
from lbd.model.desired import AdminState, DesiredState, Pool, VirtualService


@dataclass(frozen=True, slots=True)
class Target:
    """A virtual service or, with an endpoint, a member of its pool."""

    service: str
    endpoint: Endpoint | None = None

    def __str__(self) -> str:
        return self.service if self.endpoint is None else f"{self.service}/{self.endpoint}"


@dataclass(frozen=True, slots=True)
class Override:
    """The state that counts, and when (monotonic) what is still open is reset; None: as the pool says."""

    admin_state: AdminState
    deadline_s: float | None = None


class UnknownTargetError(Exception):
    """There is nothing to change, or not so; the text says what there is."""


class Overrides:
    """The overrides of all services. They outlive a reload, but not what they are of."""

    def __init__(self) -> None:
        self._overrides: dict[Target, Override] = {}
        self._applied: dict[str, tuple[VirtualService, VirtualService]] = {}
        """By name: an overridden service as it is configured, and with the overrides in it: the same one each time."""

    @property
    def known(self) -> Mapping[Target, Override]:
        """What is overridden now."""
        return MappingProxyType(self._overrides)

    def set(self, target: Target, override: Override, configured: DesiredState) -> None:
        """Override the state of a target that the configuration has; one that says nothing new is forgotten."""
        self._applied.pop(target.service, None)
        if override == Override(configured_state(target, configured)):
            self._overrides.pop(target, None)
        else:
            self._overrides[target] = override

    def keep_only(self, configured: DesiredState) -> None:
        """Forget the overrides of services and members that the configuration has no more."""
        if not self._overrides:
            return
        overridden = {target.service for target in self._overrides}
        there = {
            Target(service.name, endpoint)
            for service in configured.virtual_services
            if service.name in overridden
            for endpoint in (None, *(member.endpoint for member in service.pool.members))
        }
        kept = {target: override for target, override in self._overrides.items() if target in there}
        if len(kept) != len(self._overrides):
            self._overrides = kept
            self._applied.clear()

    def apply(self, configured: DesiredState) -> DesiredState:
        """Return the configuration with the overridden states in it."""
        if not self._overrides:
            return configured
        overridden = {target.service for target in self._overrides}
        services = tuple(
            self._apply_to(service) if service.name in overridden else service
            for service in configured.virtual_services
        )
        return replace(configured, virtual_services=services)

    def _apply_to(self, service: VirtualService) -> VirtualService:
        known = self._applied.get(service.name)
        if known is not None and known[0] is service:
            return known[1]
        members = service.pool.members
        changed = tuple(
            replace(member, admin_state=self._state(Target(service.name, member.endpoint), member.admin_state))
            for member in members
        )
        pool: Pool = service.pool if changed == members else replace(service.pool, members=changed)
        applied = replace(service, pool=pool, admin_state=self._state(Target(service.name), service.admin_state))
        self._applied[service.name] = service, applied
        return applied

    def _state(self, target: Target, configured: AdminState) -> AdminState:
        override = self._overrides.get(target)
        return configured if override is None else override.admin_state


def configured_state(target: Target, configured: DesiredState) -> AdminState:
    """Return the state that the configuration says of a target that it has."""
    service = next(service for service in configured.virtual_services if service.name == target.service)
    if target.endpoint is None:
        return service.admin_state
    return next(member.admin_state for member in service.pool.members if member.endpoint == target.endpoint)


def target_of(change: AdminStateChange, configured: DesiredState) -> Target:
    """Return what a change is about.

    Raises:
        UnknownTargetError: the configuration has no such service or member, or the deadline makes no sense.
    """
    deadline_s = change.deadline_s
    if deadline_s is not None:
        if not (math.isfinite(deadline_s) and 0 <= deadline_s <= MAX_DEADLINE_S):
            raise UnknownTargetError(f"{deadline_s:g} is not a deadline (0 to {MAX_DEADLINE_S:.0f} seconds)")
        if change.admin_state is AdminState.ENABLED:
            raise UnknownTargetError("what is enabled is never reset: a deadline belongs to draining and disabled")
    services = {service.name: service for service in configured.virtual_services}
    if change.service not in services:
        hint = _did_you_mean(change.service, list(services))
        raise UnknownTargetError(f"there is no virtual service {change.service!r}{hint}")
    if change.member is None:
        return Target(change.service)
    try:
        endpoint = Endpoint.parse(change.member)
    except ValueError as error:
        raise UnknownTargetError(f"member {error}") from error
    members = [member.endpoint for member in services[change.service].pool.members]
    if endpoint not in members:
        hint = _did_you_mean(str(endpoint), [str(member) for member in members])
        raise UnknownTargetError(f"virtual service {change.service!r} has no member {endpoint}{hint}")
    return Target(change.service, endpoint)


def _did_you_mean(word: str, known: list[str]) -> str:
    if not known:
        return ""
    close = difflib.get_close_matches(word, known, 1, 0.6)
    if close:
        return f"; did you mean {close[0]}?"
    shown = sorted(known)[:5]
    return f"; there {'is' if len(known) == 1 else 'are'} {', '.join(shown)}{', …' if len(known) > len(shown) else ''}"
