"""Which routes to Pods should be in the main table, and what to change. Pure.

For each podCIDR of a Node there is a route `PODCIDR via NODE proto 109`. They stand in the main table, not in one of
our own: health checks, the relay and whoever looks for a fault with `ip route` shall take the same way.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lbd.announce.return_path import network_of
from lbd.model.spans import Spans, span_of

ROUTE_PROTOCOL = 109
"""RTA_PROTOCOL of routes to Pods. Not 108, that of the return path, so that `ip route show proto 109` shows these alone
and neither's sweep can take the other's. /etc/iproute2/rt_protos (iproute2, FRR, BIRD) knows nobody of this number. It
must never change: an old daemon's routes would become nobody's."""
MAIN_TABLE = 254
"""RT_TABLE_MAIN."""


@dataclass(frozen=True, slots=True, order=True)
class PodRoute:
    """A route that should be: to the network `destination` by way of `next_hop`, both canonical."""

    destination: str
    next_hop: str


@dataclass(frozen=True, slots=True, order=True)
class PresentRoute:
    """A route of ours that is there; `next_hop` is empty and `index` 0 where the kernel shows none."""

    destination: str
    next_hop: str
    index: int
    metric: int = 0


@dataclass(frozen=True, slots=True, order=True)
class LocalAddress:
    """An address of this machine on the link with `index`. `network` is what it makes directly reachable, None for a
    host address or a link-local one."""

    index: int
    address: str
    network: str | None = None

    @classmethod
    def of(cls, index: int, address: str, on_link: str, prefix_length: int) -> LocalAddress:
        """Return it from what the kernel says: on a point-to-point link `on_link` is the peer, else the address."""
        return cls(index, address, network_of(on_link, prefix_length))


@dataclass(frozen=True, slots=True)
class Change:
    """What to remove, what to add, and which destinations can't be because of this machine's own networks, and why."""

    remove: tuple[PresentRoute, ...]
    add: tuple[PodRoute, ...]
    refused: Mapping[str, str]


def change(
    wanted: Mapping[str, str], present: Iterable[PresentRoute], local: Iterable[LocalAddress], index: int | None
) -> Change:
    """Return how to come from what is present of ours to `wanted`, destination → next hop.

    With `index` every route leads through that link, else through one on which the next hop is, as the kernel resolved
    it; a route through another link than that is stale.
    """
    here = _Surroundings(local)
    refused = {to: reason for to, hop in wanted.items() if (reason := here.objection(to, hop)) is not None}
    kept: set[str] = set()
    surplus: list[PresentRoute] = []
    for route in sorted(present):
        is_right = (
            route.destination not in refused
            and wanted.get(route.destination) == route.next_hop
            and (here.leads_through(route) if index is None else route.index == index)
        )
        if is_right and route.destination not in kept:
            kept.add(route.destination)
        else:
            surplus.append(route)
    missing = (PodRoute(to, hop) for to, hop in sorted(wanted.items()) if to not in kept and to not in refused)
    return Change(tuple(surplus), tuple(missing), refused)


class _Surroundings:
    """This machine's addresses and the networks on its links."""

    def __init__(self, local: Iterable[LocalAddress]) -> None:
        self._addresses: Spans[str] = Spans()
        self._networks: Spans[str] = Spans()
        self._by_network: dict[str, set[int]] = {}
        for entry in local:
            self._addresses.add(span_of(entry.address), entry.address)
            if entry.network is not None:
                self._by_network.setdefault(entry.network, set()).add(entry.index)
        for network in sorted(self._by_network, key=lambda network: int(network.rpartition("/")[2])):
            self._networks.add(span_of(network), network)  # the widest first: those within it are covered

    def objection(self, destination: str, next_hop: str) -> str | None:
        """Return why a route can't be, as the rest of a sentence: it would cut off what is beside us, or us."""
        address = self._addresses.find(span_of(destination))
        if address is not None:
            return f"it has {address}, an address of this machine"
        network = self._networks.find(span_of(destination))
        if network is not None:
            return f"it overlaps {network}, a network on a link of this machine"
        if self._addresses.find(span_of(next_hop)) is not None:
            return f"its next hop {next_hop} is this machine itself"
        return None

    def leads_through(self, route: PresentRoute) -> bool:
        """Tell whether the link of a route is one on which its next hop is, as far as that is known."""
        hop = span_of(route.next_hop)
        links = [links for network, links in self._by_network.items() if hop in span_of(network)]
        return not links or any(route.index in one for one in links)
