"""Gives addresses to Services, or to several together that share them. Pure.

Who waits for an address that somebody else is about to leave gets it in the same pass: allocating again from what was
written changes nothing.
"""

from __future__ import annotations

import heapq
import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from lbd.kubernetes.addresses.address_pools import AddressSpace, admits, place_of
from lbd.kubernetes.addresses.shared_vips import Candidate, Rank, Unit
from lbd.kubernetes.objects.kinds import Service
from lbd.model.kubernetes import AddressPool, Kubernetes
from lbd.model.spans import Place

_Claim = tuple[bool, Rank, int, Unit, list[tuple[Place, Candidate]]]
_Wish = tuple[bool, Rank, int, Unit, int]
_PoolName = tuple[str, int]


class AddressDesk:
    """Who owns which address. The methods are called once each, in the order in which they stand."""

    def __init__(self, kubernetes: Kubernetes, taken: Mapping[str, str]) -> None:
        self.space: AddressSpace[Unit | str] = AddressSpace(kubernetes.address_pools)
        self._wishes: list[_Wish] = []
        self._wait_for_place: dict[Place, list[_Wish]] = {}
        self._wait_for_pool: dict[_PoolName, list[_Wish]] = {}
        for address, user in taken.items():
            self.space.take(place_of(address), user)

    def keep(self, units: Iterable[Unit]) -> None:
        """Let every unit keep what it holds; of two that hold the same, the one that lbd gave it to, then the older."""
        numbers = itertools.count()
        claims: list[_Claim] = []
        for unit in units:
            every = (_held(unit, family) for family in unit.families)
            claims += [_claim(next(numbers), unit, held) for held in every if held]
        again: list[_Claim] = []
        for claim in sorted(claims):
            while again and again[0] < claim:
                self._settle(heapq.heappop(again), again)
            self._settle(claim, again)
        while again:
            self._settle(heapq.heappop(again), again)

    def reserve(self, left: Iterable[Service]) -> None:
        """Keep from others what Services had that are on their way out: connections may still be open."""
        for service in left:
            for place in map(place_of, service.ingress):
                if self.space.containing(place):
                    self.space.owners.setdefault(place, f"Service {service.key}, which is being removed")

    def honour(self, units: Iterable[Unit]) -> None:
        """Give what was promised and may be on its way to the API server, where it still is what the unit may have.

        One may have been promised what another one leaves for what it was promised.
        """
        waiting = [
            (unit, place, member)
            for unit in units
            if not unit.frozen
            for member in unit.members
            for place in member.promised
        ]
        before = len(waiting) + 1
        while len(waiting) < before:
            before = len(waiting)
            waiting = [promise for promise in waiting if not self._honour(*promise)]

    def move(self, units: Iterable[Unit]) -> None:
        """Give what is asked for, first addresses, then addresses of pools."""
        numbers = itertools.count()
        for unit in units:
            if not unit.asking or unit.frozen:
                continue
            for family in unit.families:
                asked = unit.requests(family)
                if (asked or unit.pools) and (family in unit.moving or family not in unit.places):
                    self._wishes.append((not asked, unit.rank, next(numbers), unit, family))
        heapq.heapify(self._wishes)
        while self._wishes:
            self._fulfil(heapq.heappop(self._wishes))

    def assign(self, units: Iterable[Unit]) -> None:
        """Give an address to who has none and asks for nothing."""
        for unit in units:
            if unit.frozen or unit.pools:
                continue
            for family in unit.families:
                if family in unit.places or unit.requests(family):
                    continue
                place = self._free(self.usable_pools(unit, family), family)
                if place is not None:
                    self.space.take(place, unit)
                    unit.places[family] = place

    def usable_pools(self, unit: Unit, family: int) -> list[AddressPool]:
        """Return the pools that a unit may have an address of a family from, in the order in which they are tried."""
        asked = unit.pools
        usable = [
            pool
            for pool in self.space.pools
            if (pool.name in asked if asked else pool.auto_assign)
            and self.space.has(pool, family)
            and _open(pool, unit)
        ]
        if len(unit.members) > 1:
            usable.sort(key=lambda pool: not all(admits(pool, member.service) for member in unit.members))
        return usable

    def obtainable(self, unit: Unit, place: Place, candidate: Candidate) -> bool:
        """Tell whether the pools let a unit have an address that one of its members asks for."""
        return any(
            (not unit.pools or pool.name in unit.pools) and _open(pool, unit) and admits(pool, candidate.service)
            for pool in self.space.containing(place)
        )

    def _honour(self, unit: Unit, place: Place, member: Candidate) -> bool:
        family = place[0]
        has_one = family in unit.places and family not in unit.moving
        if has_one or family not in unit.families or place in self.space.owners:
            return False
        if not self._could_get(unit, place, member):
            return False
        self._give(unit, place)
        return True

    def _settle(self, claim: _Claim, again: list[_Claim]) -> None:
        """Grant a claim, or have it come again with the next address that the unit holds."""
        _, _, number, unit, held = claim
        if not self._keep(unit, *held[0]) and len(held) > 1:
            heapq.heappush(again, _claim(number, unit, held[1:]))

    def _keep(self, unit: Unit, place: Place, holder: Candidate) -> bool:
        family = place[0]
        if place in self.space.owners or family in unit.places:
            return False
        asked, pools = unit.requests(family), self.space.containing(place)
        moving = place not in asked if asked else _is_elsewhere(unit, pools)
        # Where nothing says that lbd gave it this address it gets no more by it than it could ask for now.
        if not holder.given and (moving or unit.frozen or not self._could_get(unit, place, holder)):
            return False
        self.space.take(place, unit)
        unit.places[family] = place
        if moving:
            unit.moving.add(family)
        return True

    def _fulfil(self, wish: _Wish) -> None:
        by_pool, _, _, unit, family = wish
        if _is_fulfilled(wish):
            return  # it waited for several
        if by_pool:
            pools = self.usable_pools(unit, family)
            place = self._free(pools, family)
            if place is None:
                for pool in pools:
                    heapq.heappush(self._wait_for_pool.setdefault((pool.name, family), []), wish)
                return
        else:
            asked = {place: one for place, one in unit.requests(family).items() if self.obtainable(unit, place, one)}
            place = next((one for one in asked if one not in self.space.owners), None)
            if place is None:
                for one in asked:
                    self._wait_for_place.setdefault(one, []).append(wish)
                return
        self._give(unit, place)

    def _could_get(self, unit: Unit, place: Place, holder: Candidate) -> bool:
        """Tell whether a unit would get an address now if it were free; `holder` is the member that it is about."""
        asked = unit.requests(place[0])
        if asked:
            return place in asked and self.obtainable(unit, place, holder)
        usable = self.usable_pools(unit, place[0])
        return any(pool in usable for pool in self.space.containing(place))

    def _give(self, unit: Unit, place: Place) -> None:
        """Give a unit an address instead of the one that it has, if it has one."""
        family = place[0]
        before = unit.places.get(family)
        self.space.take(place, unit)
        unit.places[family] = place
        unit.moving.discard(family)
        if before is not None:
            self._release(before)

    def _release(self, place: Place) -> None:
        """Make an address free, and let try again who has waited for it, and the first who waits for its pool."""
        self.space.release(place)
        for wish in self._wait_for_place.pop(place, ()):
            heapq.heappush(self._wishes, wish)
        for pool in self.space.containing(place):
            waiting = self._wait_for_pool.get((pool.name, place[0]), [])
            while waiting and _is_fulfilled(waiting[0]):
                heapq.heappop(waiting)
            if waiting:
                heapq.heappush(self._wishes, heapq.heappop(waiting))

    def _free(self, pools: Sequence[AddressPool], family: int) -> Place | None:
        return next((place for pool in pools if (place := self.space.free(pool, family)) is not None), None)


def _is_fulfilled(wish: _Wish) -> bool:
    *_, unit, family = wish
    return family in unit.places and family not in unit.moving


def _claim(number: int, unit: Unit, held: list[tuple[Place, Candidate]]) -> _Claim:
    holder = held[0][1]
    return (not holder.given, holder.rank, number, unit, held)


def _held(unit: Unit, family: int) -> list[tuple[Place, Candidate]]:
    """Return what members hold of a family, with the first who does: what most of them have comes first."""
    if len(unit.members) == 1 and len(alone := unit.members[0].held.get(family, ())) < 2:
        return [(place, unit.members[0]) for place in alone]  # the usual case
    found: dict[Place, Candidate] = {}
    counts: Counter[Place] = Counter()
    for member in sorted(unit.members, key=lambda one: (not one.given, one.rank)):
        for place in member.held.get(family, ()):
            found.setdefault(place, member)
            counts[place] += member.given
    asked = unit.requests(family)
    return sorted(found.items(), key=lambda item: (item[0] not in asked, -counts[item[0]]))


def _is_elsewhere(unit: Unit, pools: Iterable[AddressPool]) -> bool:
    """Tell whether a unit asks for pools, and these are others."""
    return bool(unit.pools) and not any(pool.name in unit.pools for pool in pools)


def _open(pool: AddressPool, unit: Unit) -> bool:
    """Tell whether a pool admits those of a unit that have addresses of lbd; the first member if none has. So nobody
    loses one because a Service joins that is not admitted."""
    served = [member for member in unit.members if member.given] or unit.members[:1]
    return all(admits(pool, member.service) for member in served)
