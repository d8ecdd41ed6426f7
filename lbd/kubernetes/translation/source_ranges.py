"""Whose connections a Service takes where more than one list says so. Pure."""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Iterator
from typing import TypeVar

from lbd.kubernetes.objects.kinds import NOBODY

_Network = TypeVar("_Network", ipaddress.IPv4Network, ipaddress.IPv6Network)


@functools.lru_cache(maxsize=1024)
def intersection(one: tuple[str, ...], other: tuple[str, ...]) -> tuple[str, ...]:
    """Return the networks that are in both lists, in canonical order; an empty list is everybody.

    Where nobody is in both, that is `NOBODY`: an empty list would let everybody in.
    """
    if not one or not other:
        return one or other
    four = _common(_of(ipaddress.IPv4Network, one), _of(ipaddress.IPv4Network, other))
    six = _common(_of(ipaddress.IPv6Network, one), _of(ipaddress.IPv6Network, other))
    return tuple(map(str, (*four, *six))) or NOBODY


def _of(kind: type[_Network], cidrs: tuple[str, ...]) -> list[_Network]:
    parsed = [network for cidr in cidrs if isinstance(network := ipaddress.ip_network(cidr), kind)]
    return sorted(ipaddress.collapse_addresses(parsed))


def _common(one: list[_Network], other: list[_Network]) -> Iterator[_Network]:
    """Walk both lists once: networks are nested or apart, and the one that ends first can meet nothing more."""
    left, right = iter(one), iter(other)
    a, b = next(left, None), next(right, None)
    while a is not None and b is not None:
        if a.overlaps(b):
            yield a if a.prefixlen >= b.prefixlen else b
        if a.broadcast_address <= b.broadcast_address:
            a = next(left, None)
        else:
            b = next(right, None)
