"""Ranges of addresses, and quick answers to which one of many a range touches. Pure."""

from __future__ import annotations

import functools
import ipaddress
from bisect import bisect_right
from dataclasses import dataclass
from typing import Generic, TypeVar

Place = tuple[int, int]
"""Family (4 or 6) and number of an address: addresses of both families in one order."""
Label = TypeVar("Label")


@dataclass(frozen=True, slots=True, order=True)
class Span:
    """The addresses from `first` to `last`, both included, of one family."""

    first: Place
    last: Place

    def __contains__(self, other: Span) -> bool:
        return self.first <= other.first and other.last <= self.last

    def touches(self, other: Span) -> bool:
        """Tell whether an address is in both."""
        return self.first <= other.last and other.first <= self.last


@functools.lru_cache(maxsize=32_768)
def span_of(network: str) -> Span:
    """Return what a network in CIDR form or a single address covers; bits behind the prefix are ignored.

    Raises:
        ValueError: it is neither.
    """
    parsed = ipaddress.ip_network(network, strict=False)
    family = parsed.version
    return Span((family, int(parsed.network_address)), (family, int(parsed.broadcast_address)))


def span_between(first: str, last: str) -> Span:
    """Return the addresses from one to the other.

    Raises:
        ValueError: one of them is no address.
    """
    return Span(span_of(first).first, span_of(last).last)


class Spans(Generic[Label]):
    """Spans that don't touch each other, each with a label. `find` takes the logarithm of their number."""

    def __init__(self) -> None:
        self._firsts: list[Place] = []
        self._lasts: list[Place] = []
        self._labels: list[Label] = []

    def add(self, span: Span, label: Label) -> bool:
        """Add a span unless it touches one that is there; tell whether it was added.

        So whoever adds networks from the widest to the narrowest has every address of theirs covered.
        """
        at = bisect_right(self._firsts, span.last)
        if at > 0 and self._lasts[at - 1] >= span.first:
            return False
        self._firsts.insert(at, span.first)
        self._lasts.insert(at, span.last)
        self._labels.insert(at, label)
        return True

    def find(self, span: Span) -> Label | None:
        """Return the label of a span that shares an address with this one; of several, of the last in order."""
        at = bisect_right(self._firsts, span.last) - 1
        return self._labels[at] if at >= 0 and self._lasts[at] >= span.first else None
