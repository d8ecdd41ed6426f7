"""Which routes lead to the Pods of a cluster whose Pod network isn't routed: each Node's podCIDRs by way of the Node.
Pure.

A Node says itself where it is (its kubelet writes the status), so one that was broken into may say anything: a route
that would draw other traffic than that to its own Pods is left out, and the reason is kept. `kubernetes.pod_cidrs` is
what really bounds it.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lbd.kubernetes.objects.kinds import Node, ObjectKey
from lbd.model.kubernetes import AddressPool
from lbd.model.spans import Span, Spans, span_between, span_of

SHORTEST_PREFIX = {4: 8, 6: 16}
"""No network of Pods is wider than all of 10.0.0.0/8, and a podCIDR is a part of one: what is wider is wrong."""
NEVER_PODS = (
    "0.0.0.0/8",
    "127.0.0.0/8",
    "169.254.0.0/16",
    "224.0.0.0/3",  # multicast and what is reserved above it
    "::/8",  # unspecified, loopback, IPv4 in IPv6 form, NAT64
    "fe80::/10",
    "ff00::/8",
)
"""RFC 6890: what a route to another machine makes no sense for."""

_NEVER_PODS = tuple((network, span_of(network)) for network in NEVER_PODS)


@dataclass(frozen=True, slots=True)
class LeftOut:
    """A podCIDR that gets no route, and why."""

    node: ObjectKey
    pod_cidr: str
    reason: str

    def __str__(self) -> str:
        return f"no route to the Pods of Node {self.node}: its podCIDR {self.pod_cidr} {self.reason}"


@dataclass(frozen=True, slots=True)
class _Candidate:
    node: Node
    pod_cidr: str
    span: Span
    next_hop: str
    """Empty where the Node has none of this family."""


def routes_of(
    nodes: Iterable[Node],
    *,
    pod_cidrs: Iterable[str] = (),
    address_pools: Iterable[AddressPool] = (),
    own_addresses: Iterable[str] = (),
    networks: Mapping[str, str] | None = None,
    held: Mapping[str, str] | None = None,
) -> tuple[dict[str, str], tuple[LeftOut, ...]]:
    """Return podCIDR → next hop of its family, and what was left out.

    Of two Nodes that have the same addresses, the one whose route is among `held` (what was returned last) wins, else
    the first by name. `pod_cidrs`: what every podCIDR must lie in; empty: anything. `own_addresses` are this service
    engine's and every VIP, `networks` are those to keep out of and what each of them is ("the frontend network").
    """
    rules = _Rules(tuple(pod_cidrs), tuple(address_pools), frozenset(own_addresses), networks or {})
    routes: dict[str, str] = {}
    left_out: list[LeftOut] = []
    taken: Spans[str] = Spans()
    hops: Spans[str] = Spans()
    for candidate in _in_order(nodes, held or {}, left_out):
        reason = rules.judge(candidate) or _conflict(candidate, taken, hops)
        if reason is not None:
            left_out.append(LeftOut(candidate.node.key, candidate.pod_cidr, reason))
            continue
        taken.add(candidate.span, candidate.node.key.name)
        hops.add(span_of(candidate.next_hop), candidate.node.key.name)
        routes[candidate.pod_cidr] = candidate.next_hop
    return routes, tuple(left_out)


def _in_order(nodes: Iterable[Node], held: Mapping[str, str], left_out: list[LeftOut]) -> list[_Candidate]:
    """Return every podCIDR of every Node, those with a route first; what can't be read goes to `left_out`."""
    candidates: list[_Candidate] = []
    for node in sorted(nodes, key=lambda node: node.key):
        for written in dict.fromkeys(node.pod_cidrs):
            try:
                network = ipaddress.ip_network(written, strict=False)
            except ValueError:
                left_out.append(LeftOut(node.key, written[:64], "is not a network"))
                continue
            hop = next((ip for ip in node.internal_ips if _is_usable(ip, network.version)), "")
            candidates.append(_Candidate(node, str(network), span_of(str(network)), hop))
    return sorted(candidates, key=lambda one: held.get(one.pod_cidr) != one.next_hop)


def _is_usable(address: str, family: int) -> bool:
    """Tell whether an address of this family can be another machine's, to which packets are sent."""
    try:
        parsed = ipaddress.ip_address(address)
    except ValueError:
        return False
    span = span_of(str(parsed)) if "%" not in address else None
    return span is not None and parsed.version == family and not any(span.touches(never) for _, never in _NEVER_PODS)


class _Rules:
    """What a route may not be, whatever the other Nodes have."""

    def __init__(
        self,
        pod_cidrs: tuple[str, ...],
        address_pools: tuple[AddressPool, ...],
        own_addresses: frozenset[str],
        networks: Mapping[str, str],
    ) -> None:
        self._pod_cidrs = tuple(span_of(network) for network in pod_cidrs)
        self._pools = tuple(
            (pool.name, span_between(one.first, one.last)) for pool in address_pools for one in pool.ranges
        )
        self._own: Spans[str] = Spans()
        for address in own_addresses:
            self._own.add(span_of(address), address)
        self._networks = tuple((f"{network} ({what})", span_of(network)) for network, what in networks.items())

    def judge(self, candidate: _Candidate) -> str | None:
        """Return why there can't be this route, as what follows the podCIDR in a sentence; None if it can be."""
        return self._judge_network(candidate) or self._judge_next_hop(candidate)

    def _judge_network(self, candidate: _Candidate) -> str | None:
        family = candidate.span.first[0]
        shortest = SHORTEST_PREFIX[family]
        if int(candidate.pod_cidr.rpartition("/")[2]) < shortest:
            return f"is wider than /{shortest}: no cluster's is"
        for network, span in _NEVER_PODS:
            if span.touches(candidate.span):
                return f"overlaps {network}, where no Pod can be"
        if self._pod_cidrs and not any(candidate.span in allowed for allowed in self._pod_cidrs):
            return "is not within kubernetes.pod_cidrs"
        for pool, span in self._pools:
            if span.touches(candidate.span):
                return f'overlaps the address pool "{pool}"'
        own = self._own.find(candidate.span)
        if own is not None:
            return f"has {own}, which is a VIP or this service engine's own"
        for network, span in self._networks:
            if span.touches(candidate.span):
                return f"overlaps {network}"
        return None

    def _judge_next_hop(self, candidate: _Candidate) -> str | None:
        hop = candidate.next_hop
        if not hop:
            return f"is of IPv{candidate.span.first[0]}, and the Node has no usable InternalIP of that family"
        span = span_of(hop)
        if span in candidate.span:
            return f"has the Node's own InternalIP {hop}: a route can't lead through itself"
        if self._own.find(span) is not None:
            return f"would lead to {hop}, the Node's InternalIP, which is a VIP or this service engine's own"
        for pool, addresses in self._pools:
            if span in addresses:
                return f'would lead to {hop}, the Node\'s InternalIP, which is in the address pool "{pool}"'
        return None


def _conflict(candidate: _Candidate, taken: Spans[str], hops: Spans[str]) -> str | None:
    """Return what speaks against a route for the sake of those that are there already."""
    other = taken.find(candidate.span)
    if other is not None:
        return f"overlaps that of Node {other}, which was first"
    other = hops.find(candidate.span)
    if other is not None:
        return f"has the InternalIP of Node {other}"
    other = taken.find(span_of(candidate.next_hop))
    if other is not None:
        return f"would lead to {candidate.next_hop}, the Node's InternalIP, which is in a podCIDR of Node {other}"
    return None
