"""Addresses that no member may have: those of VIPs, and this machine's own (CVE-2021-25737). Pure."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Iterator
from collections.abc import Set as AbstractSet

from lbd.model.kubernetes import AddressPool

_CACHED = 65_536


class Forbidden(AbstractSet[str]):
    """Single addresses, and every address of the pools: what a pool may give to a Service is never a Pod's.

    So the set does not change with each Service that gets an address, and what was translated stays right. Only
    membership is cheap; iterating gives the single addresses.
    """

    def __init__(self, addresses: Iterable[str], pools: Iterable[AddressPool]) -> None:
        self._addresses = frozenset(addresses)
        self._ranges = tuple(
            (one.family, int(ipaddress.ip_address(one.first)), int(ipaddress.ip_address(one.last)))
            for pool in pools
            for one in pool.ranges
        )
        self._known: dict[str, bool] = {}

    def __contains__(self, address: object) -> bool:
        if not isinstance(address, str):
            return False
        known = self._known.get(address)
        if known is None:
            if len(self._known) >= _CACHED:
                self._known.clear()
            known = self._known[address] = address in self._addresses or self._in_a_pool(address)
        return known

    def __iter__(self) -> Iterator[str]:
        return iter(self._addresses)

    def __len__(self) -> int:
        return len(self._addresses)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Forbidden):
            return NotImplemented
        return self._addresses == other._addresses and self._ranges == other._ranges

    def __hash__(self) -> int:
        return hash((self._addresses, self._ranges))

    def _in_a_pool(self, address: str) -> bool:
        parsed = ipaddress.ip_address(address)
        number, version = int(parsed), parsed.version
        return any(family == version and first <= number <= last for family, first, last in self._ranges)
