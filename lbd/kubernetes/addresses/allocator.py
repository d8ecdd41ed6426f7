"""Which Service gets which addresses. Pure and deterministic: the Services' status is the record.

Who holds an address keeps it, and who was promised one that is not written yet gets it; then come those that ask for
one, then those that ask for a pool, then all others, each time the oldest first. A Service that asks for another
address keeps the one it has until it gets it.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from types import MappingProxyType

from lbd.kubernetes.addresses import address_problems
from lbd.kubernetes.addresses.address_desk import AddressDesk
from lbd.kubernetes.addresses.address_pools import address_at, admits
from lbd.kubernetes.addresses.address_requests import request_of
from lbd.kubernetes.addresses.shared_vips import Candidate, Unit, units_of
from lbd.kubernetes.objects.claims import is_given, is_left, is_ours
from lbd.kubernetes.objects.kinds import FINALIZER, ObjectKey, Service
from lbd.kubernetes.objects.problem import Problem
from lbd.model.kubernetes import Kubernetes
from lbd.model.spans import Place

NOTHING_PROMISED: Mapping[ObjectKey, tuple[str, ...]] = MappingProxyType({})


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
    promised: Mapping[ObjectKey, tuple[str, ...]] = NOTHING_PROMISED,
) -> Mapping[ObjectKey, Allocation]:
    """Return an allocation for each Service that is ours.

    `services` may be all that there are: an address of one that is left (`claims.is_left`) is not given to another
    until its finalizer is gone. `taken` are addresses that others use, with the name of who does; `rule_addresses` the
    `loadBalancerIP` of the rule that a Service has in force. `promised` is what an earlier call gave and no status says
    yet: it may be on its way to the API server, so another Service that comes meanwhile does not get it.
    """
    pool_names = frozenset(pool.name for pool in kubernetes.address_pools)
    ours: list[Candidate] = []
    left: list[Service] = []
    for service in services:
        if is_ours(service, kubernetes):
            request = request_of(service, rule_addresses.get(service.key, ""), pool_names)
            ours.append(Candidate.of(service, request, promised.get(service.key, ())))
        elif FINALIZER in service.finalizers and is_given(service) and is_left(service, kubernetes):
            left.append(service)
    desk = AddressDesk(kubernetes, taken)
    units = units_of(ours, desk.space.owners)
    desk.keep(units)
    desk.reserve(sorted(left, key=lambda service: service.key))
    desk.honour(units)
    desk.move(units)
    desk.assign(units)
    return {member.service.key: _allocation(desk, unit, member) for unit in units for member in unit.members}


def _allocation(desk: AddressDesk, unit: Unit, member: Candidate) -> Allocation:
    addresses: list[str] = []
    pools: list[str] = []
    problems = list(member.problems)
    for family in member.service.ip_families:
        place = unit.places.get(family)
        if place is None:
            problems += _why_none(desk, unit, member, family)
            continue
        problems += _why_not_moved(desk, unit, member, place)
        asked = member.request.places.get(family)
        if asked not in (None, place) and not (member.given and family in member.held):
            continue
        containing = desk.space.containing(place)
        admitting = [pool for pool in containing if admits(pool, member.service)]
        if not admitting:
            if not member.holds(place):
                at = address_at(place)
                outside = address_problems.in_no_pool(at)
                problems.append(address_problems.not_admitted(containing, at) if containing else outside)
                continue
            problems.append(
                address_problems.kept_not_admitted(address_at(place), containing)
                if containing
                else address_problems.kept_outside(address_at(place))
            )
        addresses.append(address_at(place))
        pools.append(next((pool.name for pool in (*admitting, *containing)), ""))
    return Allocation(tuple(addresses), tuple(pools), address_problems.combined(problems))


def _why_none(desk: AddressDesk, unit: Unit, member: Candidate, family: int) -> Iterator[Problem]:
    """Say why a unit has no address of a family. That of a frozen one was said when it was frozen."""
    if unit.frozen:
        return
    asked = unit.requests(family)
    if asked:
        own = member.request.places.get(family)
        place, asker = next(((one, who) for one, who in asked.items() if one == own), next(iter(asked.items())))
        yield _refusal(desk, unit, place, asker)
    else:
        yield _pool_problem(desk, unit, family)


def _why_not_moved(desk: AddressDesk, unit: Unit, member: Candidate, place: Place) -> Iterator[Problem]:
    """Say why a member has another address than it asks for."""
    asked, pools = member.request.places.get(place[0]), member.request.pools
    if asked not in (None, place):
        yield _refusal(desk, unit, asked, member)
    elif pools and not any(pool.name in pools for pool in desk.space.containing(place)):
        if pools == unit.pools and not unit.requests(place[0]):
            yield _pool_problem(desk, unit, place[0])
        else:
            yield address_problems.shared_pool_elsewhere(pools, _other(unit, member), address_at(place))


def _refusal(desk: AddressDesk, unit: Unit, place: Place, asker: Candidate) -> Problem:
    address, owner = address_at(place), desk.space.owners.get(place)
    containing = desk.space.containing(place)
    if not containing:
        return address_problems.in_no_pool(address)
    if owner is not None and owner is not unit:
        return address_problems.in_use(address, owner)
    if not any(admits(pool, asker.service) for pool in containing):
        return address_problems.not_admitted(containing, address)
    if unit.pools and not any(pool.name in unit.pools for pool in containing):
        return address_problems.in_other_pool(address, unit.pools)
    current = unit.places.get(place[0])
    return address_problems.shared_elsewhere(address, _other(unit, asker), address_at(current) if current else "")


def _other(unit: Unit, member: Candidate) -> str:
    """Name one of those that a member shares its addresses with."""
    return next((f"Service {one.service.key}" for one in unit.members if one is not member), "no Service")


def _pool_problem(desk: AddressDesk, unit: Unit, family: int) -> Problem:
    usable = desk.usable_pools(unit, family)
    if usable:
        return address_problems.full(usable, family)
    having = [pool for pool in desk.space.pools if desk.space.has(pool, family)]
    wanted = [pool for pool in having if (pool.name in unit.pools if unit.pools else pool.auto_assign)]
    if wanted:
        return address_problems.not_admitted(wanted)
    return address_problems.no_pool(having, family, unit.pools)
