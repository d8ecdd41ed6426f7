"""What must hold within and between address pools, and between them and other addresses; see `rules`.

Ranges are compared by their ends: nothing here looks at single addresses of a range, which may have 2^64.
"""

from __future__ import annotations

import ipaddress
from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from lbd.config import judging, kubernetes_scalars, scalars
from lbd.config.errors import ConfigError, Place, show
from lbd.config.facts import Cursor, Facts
from lbd.config.rules_kubernetes import MAX_NAMESPACES
from lbd.config.tree import Mapping, Sequence
from lbd.config.unusable import first_unusable
from lbd.model.kubernetes import AddressRange

MAX_POOLS = 256
MAX_RANGES = 4096
"""Of all pools together."""
MAX_LABELS = 64
"""In one `service_selector`."""


@dataclass(frozen=True, slots=True)
class PoolRange:
    """One of a pool's ranges: as it was written, where, as which of all in order, and its ends as numbers."""

    pool: str
    written: str
    place: Place
    order: int
    addresses: AddressRange
    first: int
    last: int

    @property
    def shown(self) -> str:
        """The range as a message names it where another one is at fault."""
        return f"{self.written} of address pool {show(self.pool)}, at {self.place.position}"


class _Ranges:
    """All ranges of one address family, in the order of their first addresses."""

    def __init__(self, ranges: Iterable[PoolRange]) -> None:
        self.sorted = sorted(ranges, key=lambda one: (one.first, one.last, one.order))
        self._starts = [one.first for one in self.sorted]
        self.reaching: list[PoolRange] = []
        """At each index the range that ends last, of that one and those before it."""
        for one in self.sorted:
            far = self.reaching[-1] if self.reaching else one
            self.reaching.append(one if one.last > far.last else far)

    def holder(self, address: int) -> PoolRange | None:
        index = bisect_right(self._starts, address) - 1
        far = self.reaching[index] if index >= 0 else None
        return far if far is not None and far.last >= address else None

    def overlaps(self) -> Iterator[tuple[PoolRange, PoolRange]]:
        """Return each range that shares addresses with one written before it, once, and such a one."""
        found: dict[int, PoolRange] = {}
        for far, one in zip(self.reaching, self.sorted[1:], strict=False):
            if far.last >= one.first:
                earlier, later = sorted((far, one), key=lambda either: either.order)
                found.setdefault(later.order, earlier)
        by_order = {one.order: one for one in self.sorted}
        for order, earlier in found.items():
            yield by_order[order], earlier


def _ranges(facts: Facts) -> dict[int, _Ranges]:
    """Return the ranges that can be read, by address family."""
    found: dict[int, list[PoolRange]] = {4: [], 6: []}
    for name, pool in facts.address_pools.items():
        for cursor in _items(pool.at("ranges")):
            addresses = cursor.read(kubernetes_scalars.address_range)
            if addresses is not None:
                ends = (int(ipaddress.ip_address(end)) for end in (addresses.first, addresses.last))
                order = len(found[addresses.family])
                found[addresses.family].append(PoolRange(name, cursor.written, cursor.place, order, addresses, *ends))
    return {family: _Ranges(ranges) for family, ranges in found.items()}


def _items(section: Cursor | None) -> Iterator[Cursor]:
    return section.items() if section is not None else iter(())


def definitions(facts: Facts) -> Iterator[ConfigError]:
    """Each pool has a name of its own and something in it, and there are not too many."""
    for index, cursor in enumerate(facts.address_pools.values()):
        if index == MAX_POOLS:
            yield cursor.key_place.error(f"is one more than the {MAX_POOLS} address pools that are possible")
    total = 0
    for section in facts.sections("address_pools"):
        for name, pool in section.entries():
            yield from judging.defined_once(facts.address_pools, name, pool)
            yield from judging.refusal(pool.key_place, scalars.name, name)
            ranges = pool.at("ranges")
            if ranges is not None and isinstance(ranges.node, Sequence) and not ranges.node.items:
                yield ranges.place.error("is empty: a pool needs addresses, as FIRST-LAST, a network or a single one")
            for cursor in _items(ranges):
                if total == MAX_RANGES:
                    message = f"is one more than the {MAX_RANGES} ranges that are possible in all pools together"
                    yield cursor.place.error(message)
                total += 1


def takers(facts: Facts) -> Iterator[ConfigError]:
    """Who may have an address of a pool: namespaces that are watched, and labels that there can be."""
    watched = _watched_namespaces(facts)
    for section in facts.sections("address_pools"):
        for _name, pool in section.entries():
            namespaces = pool.at("namespaces")
            yield from judging.each_once(
                namespaces,
                kubernetes_scalars.namespace,
                empty="name a namespace, or remove the key (the pool is for all of them then)",
                most=MAX_NAMESPACES,
                what="namespaces",
            )
            for cursor in _items(namespaces):
                name = cursor.read(kubernetes_scalars.namespace)
                if watched and name is not None and name not in watched:
                    yield cursor.place.error(f"{name} is not in kubernetes.namespaces: nobody would see its Services")
            yield from _selector(pool.at("service_selector"))


def _watched_namespaces(facts: Facts) -> set[str | None]:
    """Return the namespaces that are watched, empty for all."""
    return {
        cursor.read(kubernetes_scalars.namespace)
        for section in facts.sections("kubernetes", "namespaces")
        for cursor in section.items()
    }


def _selector(selector: Cursor | None) -> Iterator[ConfigError]:
    if selector is None:
        return
    if isinstance(selector.node, Mapping) and not selector.node.entries:
        yield selector.place.error("is empty: write a label, or remove the key (the pool is for all Services then)")
    for index, (key, cursor) in enumerate(selector.entries()):
        if index == MAX_LABELS:
            yield cursor.key_place.error(f"is one more than the {MAX_LABELS} labels that are possible")
        yield from judging.refusal(cursor.key_place, kubernetes_scalars.label_key, key)


def usable_addresses(facts: Facts) -> Iterator[ConfigError]:
    """All addresses of a pool can be VIPs."""
    for family in _ranges(facts).values():
        for one in family.sorted:
            found = first_unusable(one.addresses, facts.allow_loopback)
            if found is None:
                continue
            address, reason = found
            has = "is" if one.addresses.size == 1 else f"has {address},"
            yield one.place.error(f"{one.written} {has} {reason}, which can't be a VIP")


def overlaps(facts: Facts) -> Iterator[ConfigError]:
    """An address is in one range of one pool."""
    for family in _ranges(facts).values():
        for later, earlier in family.overlaps():
            yield later.place.error(f"{later.written} has addresses of {earlier.shown}")


def gateways(facts: Facts) -> Iterator[ConfigError]:
    """No pool has the address of a gateway: another machine has it."""
    ranges = _ranges(facts)
    for section in facts.sections("service_engine", "frontend_gateway"):
        for cursor in section.items() if isinstance(section.node, Sequence) else (section,):
            address = cursor.read(scalars.address)
            holder = _holder(ranges, address)
            if holder is not None:
                message = f"{holder.written} has {address}, which is the frontend_gateway: write ranges without it"
                yield holder.place.error(message)


def members(facts: Facts) -> Iterator[ConfigError]:
    """No member's address can become a VIP."""
    ranges = _ranges(facts) if facts.address_pools else {}
    for service in facts.services if ranges else ():
        for member, address, _port in service.members:
            cursor, holder = member.at("address"), _holder(ranges, address)
            if cursor is not None and holder is not None:
                message = f"{address} is in {holder.shown}: as a VIP it would bring connections back here"
                yield cursor.place.error(message)


def _holder(ranges: dict[int, _Ranges], address: str | None) -> PoolRange | None:
    if address is None:
        return None
    parsed = ipaddress.ip_address(address)
    return ranges[parsed.version].holder(int(parsed))


RULES: tuple[Callable[[Facts], Iterable[ConfigError]], ...] = (
    definitions,
    takers,
    usable_addresses,
    overlaps,
    gateways,
    members,
)
