"""Services that share addresses, and Services that can't though they ask for it. Pure."""

from __future__ import annotations

from collections import Counter
from collections.abc import Container, Iterable
from dataclasses import dataclass, field

from lbd.kubernetes.addresses.address_pools import place_of
from lbd.kubernetes.addresses.address_requests import AddressRequest
from lbd.kubernetes.objects.claims import is_given
from lbd.kubernetes.objects.kinds import SHARED_VIP_ANNOTATIONS, Service
from lbd.kubernetes.objects.problem import Problem
from lbd.model.desired import Protocol
from lbd.model.spans import Place

_LAST = "9999"
"""Sorts a Service whose creation time can't be read behind all others."""

Rank = tuple[str, str, str]


@dataclass(slots=True, eq=False)
class Candidate:
    """A Service that wants addresses. `held` are those in its status, `given` says that lbd wrote them there.
    `promised` are those that it is to have and that are not in its status yet."""

    service: Service
    request: AddressRequest
    given: bool = False
    held: dict[int, list[Place]] = field(default_factory=dict)
    promised: tuple[Place, ...] = ()
    problems: list[Problem] = field(default_factory=list)

    @classmethod
    def of(cls, service: Service, request: AddressRequest, promised: Iterable[str] = ()) -> Candidate:
        """Return a Service with what it asks for, holds and was promised."""
        held: dict[int, list[Place]] = {}
        for address in service.ingress:
            place = place_of(address)
            if place[0] in service.ip_families:
                held.setdefault(place[0], []).append(place)
        problems = [] if request.problem is None else [request.problem]
        return cls(service, request, bool(held) and is_given(service), held, tuple(map(place_of, promised)), problems)

    @property
    def group(self) -> tuple[str, str]:
        """Names those that it shares addresses with; the second part is empty where it shares none."""
        service = self.service
        name = (service.annotation(*SHARED_VIP_ANNOTATIONS) or "").strip() if service.annotations else ""
        return (service.key.namespace, name)

    def lose(self, place: Place) -> None:
        """Somebody else has an address that its status says it has."""
        left = [one for one in self.held.pop(place[0]) if one != place]
        if left:
            self.held[place[0]] = left
        self.given = self.given and bool(self.held)

    @property
    def rank(self) -> Rank:
        """The order in which Services get addresses: the oldest first."""
        key = self.service.key
        return (self.service.created or _LAST, key.namespace, key.name)

    @property
    def due(self) -> list[Place]:
        """What lbd gave or promised it."""
        given = [place for places in self.held.values() for place in places] if self.given else []
        return [*given, *self.promised]

    def holds(self, place: Place) -> bool:
        """Tell whether lbd gave it this address."""
        return self.given and place in self.held.get(place[0], ())


@dataclass(slots=True, eq=False)
class Unit:
    """Services that have the same addresses; usually one alone. The first member speaks for them.

    With `frozen` it may keep addresses and gets no others. `moving` are the families whose address it has only until
    it gets the one that it asks for.
    """

    members: list[Candidate]
    frozen: bool = False
    places: dict[int, Place] = field(default_factory=dict)
    moving: set[int] = field(default_factory=set)

    rank: Rank = field(init=False)
    """Its oldest member's."""
    families: tuple[int, ...] = field(init=False)
    """Those of all members, in the first one's order."""
    pools: tuple[str, ...] = field(init=False)
    """The pools that it asks for."""
    asking: list[Candidate] = field(init=False)
    """The members that ask for an address or a pool, the oldest first."""

    def __post_init__(self) -> None:
        members = self.members
        self.rank = min(member.rank for member in members)
        self.families = tuple(dict.fromkeys(family for member in members for family in member.service.ip_families))
        self.asking = sorted(
            (one for one in members if one.request.places or one.request.pools), key=lambda one: one.rank
        )
        self.pools = next((member.request.pools for member in self.asking if member.request.pools), ())

    def requests(self, family: int) -> dict[Place, Candidate]:
        """The addresses of a family that members ask for, and who is the first to."""
        asked: dict[Place, Candidate] = {}
        for member in self.asking:
            place = member.request.places.get(family)
            if place is not None:
                asked.setdefault(place, member)
        return asked

    def __str__(self) -> str:
        return f"Service {self.members[0].service.key}"


def units_of(candidates: Iterable[Candidate], taken: Container[Place]) -> list[Unit]:
    """Return who gets addresses together, the oldest first. What is `taken` nobody holds."""
    groups: dict[tuple[str, str], list[Candidate]] = {}
    units: list[Unit] = []
    every = list(candidates)
    _settle(every, taken)
    for candidate in every:
        group = candidate.group
        if group[1]:
            groups.setdefault(group, []).append(candidate)
        else:
            units.append(Unit([candidate], frozen=candidate.request.refused))
    for (_, name), members in groups.items():
        units += _share(name, members)
    return sorted(units, key=lambda unit: unit.rank)


def _settle(candidates: Iterable[Candidate], taken: Container[Place]) -> None:
    """Of those that hold the same address and don't share it, leave it to the one that lbd gave it to, then the oldest.

    So what a Service is said to hold is what it could have been given.
    """
    claims: dict[Place, list[Candidate]] = {}
    for candidate in candidates:
        for places in candidate.held.values():
            for place in places:
                claims.setdefault(place, []).append(candidate)
    for place, claimants in claims.items():
        if place in taken:
            winner = None
        elif len(claimants) == 1:
            continue
        else:
            winner = min(claimants, key=lambda one: (not one.given, one.rank))
        for one in claimants:
            if winner is None or (one is not winner and (one.group != winner.group or not one.group[1])):
                one.lose(place)


def _share(name: str, candidates: list[Candidate]) -> list[Unit]:
    """Put together who can share. Whoever has the address that most of them have goes before the others, so that a
    newcomer does not take a port from a Service that is served."""
    holders = Counter(place for one in candidates for place in one.due)

    def order(one: Candidate) -> tuple[int, Rank]:
        return (-max((holders[place] for place in one.due), default=0), one.rank)

    together: list[Candidate] = []
    apart: list[Unit] = []
    ports: dict[tuple[int, Protocol], Candidate] = {}
    for one in sorted(candidates, key=order):
        wanted = [(port.port, port.protocol) for port in one.service.ports]
        other = next(((key, ports[key]) for key in wanted if key in ports), None)
        if other is not None:
            (port, protocol), owner = other
            message = f"port {port}/{protocol.upper()} of shared VIP {name[:60]!r} is Service {owner.service.key}'s"
            one.problems.append(Problem("SharedVipConflict", message))
        if other is not None or (one.request.refused and not one.given):
            apart.append(Unit([one], frozen=True))
            continue
        ports.update((key, one) for key in wanted)
        together.append(one)
    if not together:
        return apart
    return [Unit(together, frozen=all(one.request.refused for one in together)), *apart]
