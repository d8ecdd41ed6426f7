"""Which members answer to clients' own addresses, so that their answers are wanted on this machine. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Protocol as Interface

from lbd.model.address import Endpoint
from lbd.model.desired import DesiredState, Protocol, Source, VirtualService
from lbd.model.kubernetes import ApplicationProfile
from lbd.supervisor.seams import Handle

Members = frozenset[tuple[Protocol, Endpoint]]


class Answers(Interface):
    """Has members' answers to clients' own addresses delivered here; it asks for the members by itself."""

    async def settle(self) -> None:
        """Return once the answers of all members arrive. Raises OSError with the reason."""
        ...

    def look_again(self) -> None:
        """Settle soon: somebody may be needed no more."""
        ...


def members_of(service: VirtualService) -> Members:
    """Return the members of a service, as those whose answers count."""
    return frozenset((service.protocol, member.endpoint) for member in service.pool.members)


def is_transparent(desired: DesiredState) -> bool:
    """Return whether any service hides this machine from its members, or a rule may ask for it at any time by naming
    a profile: workers need CAP_NET_RAW then."""
    profiles = desired.kubernetes.profiles if desired.kubernetes else ()
    return any(service.source is Source.TRANSPARENT for service in desired.virtual_services) or any(
        isinstance(profile, ApplicationProfile) and profile.source is Source.TRANSPARENT for profile in profiles
    )


def desired_members(desired: DesiredState) -> Members:
    """Return the members of all transparent services that are wanted."""
    return frozenset().union(
        *(members_of(service) for service in desired.virtual_services if service.source is Source.TRANSPARENT)
    )


class TransparentMembers:
    """The members of open services, and those of before that still have connections.

    A service that once was transparent counts as such until it is closed: its connections of that time go on.
    """

    def __init__(self) -> None:
        self._of: dict[Handle, Members] = {}
        self._leaving: dict[int, Members] = {}
        """By the slot of its counters: a member that was taken out of its pool."""

    def note(self, handle: Handle, *services: VirtualService) -> bool:
        """Take down a service that is open or about to be, in its old and its new shape while it changes; return
        whether its members' answers are wanted here."""
        is_wanted = handle in self._of or any(service.source is Source.TRANSPARENT for service in services)
        if is_wanted:
            self._of[handle] = frozenset().union(*map(members_of, services))
        return is_wanted

    def leave(self, handle: Handle, protocol: Protocol, endpoint: Endpoint, slot: int | None) -> None:
        """A member was taken out of a pool; its counters' slot says when its last connection has ended."""
        if handle in self._of and slot is not None:
            self._leaving[slot] = frozenset({(protocol, endpoint)})

    def forget(self, handle: Handle) -> None:
        """A service was closed."""
        self._of.pop(handle, None)

    def now(self, is_leaving: Callable[[int], bool]) -> Members:
        """Return whose answers are wanted; `is_leaving(slot)`: connections may still be counted there for a member that
        was taken out."""
        self._leaving = {slot: members for slot, members in self._leaving.items() if is_leaving(slot)}
        return frozenset().union(*self._of.values(), *self._leaving.values())
