"""Address pools: which addresses they have, which are free, and which a reload would take away. Pure.

An address is a `Place`, (family, number). Nothing here takes time or memory by the size of a pool: an IPv6 /64 is one
range, and a free address is looked for among those that are in use.
"""

from __future__ import annotations

import functools
import ipaddress
from bisect import bisect_right
from collections.abc import Iterable, Sequence
from itertools import accumulate, pairwise
from typing import Generic, TypeVar

from lbd.kubernetes.objects.claims import is_given, is_ours
from lbd.kubernetes.objects.kinds import Service
from lbd.model.kubernetes import AddressPool, Kubernetes
from lbd.model.kubernetes_status import PoolUsage
from lbd.model.spans import Place

Owner = TypeVar("Owner")

MAX_SHRINK_ERRORS = 20


@functools.lru_cache(maxsize=65_536)
def place_of(address: str) -> Place:
    """Return the place of an address.

    Raises:
        ValueError: it is none, or has a zone.
    """
    if "%" in address:
        raise ValueError(f"{address!r} has a zone")
    parsed = ipaddress.ip_address(address)
    return parsed.version, int(parsed)


@functools.lru_cache(maxsize=65_536)
def address_at(place: Place) -> str:
    """Return the canonical text of an address."""
    family, number = place
    return str(ipaddress.IPv4Address(number) if family == 4 else ipaddress.IPv6Address(number))


def admits(pool: AddressPool, service: Service) -> bool:
    """Tell whether a Service may have addresses of a pool: its namespace, and all labels that the pool asks for."""
    if pool.namespaces and service.key.namespace not in pool.namespaces:
        return False
    return not pool.service_labels or set(pool.service_labels) <= set(service.labels)


class AddressSpace(Generic[Owner]):
    """The addresses of all pools, and who owns which, also outside of the pools.

    `pools` are in the order in which they are tried.
    """

    def __init__(self, pools: Iterable[AddressPool]) -> None:
        self.pools = tuple(sorted(pools, key=lambda pool: -pool.priority))
        self.owners: dict[Place, Owner] = {}
        self._ranges: dict[tuple[str, int], list[tuple[int, int]]] = {}
        spans: list[tuple[Place, Place, int]] = []
        for order, pool in enumerate(self.pools):
            for one in pool.ranges:
                (family, first), (_, last) = place_of(one.first), place_of(one.last)
                self._ranges.setdefault((pool.name, family), []).append((first, last))
                spans.append(((family, first), (family, last), order))
        spans.sort()
        for ranges in self._ranges.values():
            ranges.sort()
        self._spans = spans
        self._firsts = [first for first, _, _ in spans]
        self._reach = list(accumulate((last for _, last, _ in spans), max))
        self._disjoint = all(last < first for (_, last, _), (first, _, _) in pairwise(spans))
        self._alone = [[pool] for pool in self.pools]
        self._cursors = {key: (0, ranges[0][0]) for key, ranges in self._ranges.items()}

    def containing(self, place: Place) -> Sequence[AddressPool]:
        """Return the pools that have an address, in the order in which they are tried."""
        at = bisect_right(self._firsts, place) - 1
        if self._disjoint:
            return self._alone[self._spans[at][2]] if at >= 0 and self._spans[at][1] >= place else []
        found: set[int] = set()
        while at >= 0 and self._reach[at] >= place:  # more than one step only where pools overlap
            _, last, order = self._spans[at]
            if last >= place:
                found.add(order)
            at -= 1
        return [self.pools[order] for order in sorted(found)]

    def has(self, pool: AddressPool, family: int) -> bool:
        """Tell whether a pool has addresses of a family at all."""
        return (pool.name, family) in self._ranges

    def free(self, pool: AddressPool, family: int) -> Place | None:
        """Return the lowest free address of a pool; None where all are in use."""
        key = (pool.name, family)
        ranges = self._ranges.get(key)
        if ranges is None:
            return None
        index, number = self._cursors[key]
        while True:
            last = ranges[index][1]
            while number <= last and (family, number) in self.owners:
                number += 1
            if number <= last or index == len(ranges) - 1:
                break
            index += 1
            number = ranges[index][0]
        self._cursors[key] = index, number
        return (family, number) if number <= last else None

    def take(self, place: Place, owner: Owner) -> None:
        """Give an address to somebody."""
        self.owners[place] = owner

    def release(self, place: Place) -> None:
        """Make an address free."""
        del self.owners[place]
        family, number = place
        for pool in self.containing(place):
            key = (pool.name, family)
            index = next(at for at, (first, last) in enumerate(self._ranges[key]) if first <= number <= last)
            self._cursors[key] = min(self._cursors[key], (index, number))


def pool_usage(kubernetes: Kubernetes, used: Iterable[str]) -> tuple[PoolUsage, ...]:
    """Return how full each pool is, for each family that it has addresses of.

    `used` are all addresses that Services hold or others have taken; an address may come more than once.
    """
    space: AddressSpace[None] = AddressSpace(kubernetes.address_pools)
    counts: dict[tuple[str, int], int] = {}
    for place in {place_of(address) for address in used}:
        for pool in space.containing(place):
            key = (pool.name, place[0])
            counts[key] = counts.get(key, 0) + 1
    return tuple(
        PoolUsage(pool.name, family, pool.size(family), counts.get((pool.name, family), 0))
        for pool in kubernetes.address_pools
        for family in (4, 6)
        if space.has(pool, family)
    )


def shrink_errors(old: Kubernetes, new: Kubernetes, services: Iterable[Service]) -> tuple[str, ...]:
    """Return a sentence for each address that a Service has and that no pool of `new` has any more.

    At most MAX_SHRINK_ERRORS; the last one says how many are not there. What was in no pool of `old` is no news.
    """
    before: AddressSpace[None] = AddressSpace(old.address_pools)
    after: AddressSpace[None] = AddressSpace(new.address_pools)
    found: list[str] = []
    for service in sorted(services, key=lambda one: one.key):
        if not (is_given(service) and is_ours(service, old) and is_ours(service, new)):
            continue
        for address in service.ingress:
            place = place_of(address)
            pools = before.containing(place)
            if pools and not after.containing(place):
                found.append(_shrunk(pools[0], address, service))
    return _at_most(found, MAX_SHRINK_ERRORS)


def _shrunk(pool: AddressPool, address: str, service: Service) -> str:
    return (
        f"address_pools.{pool.name} no longer has {address}, which Service {service.key} has: delete the Service or "
        "give it another address first"
    )


def _at_most(sentences: Sequence[str], most: int) -> tuple[str, ...]:
    if len(sentences) <= most:
        return tuple(sentences)
    return (*sentences[: most - 1], f"and {len(sentences) - most + 1} more addresses that Services have")
