"""Merges the EndpointSlices of a Service: who serves behind one of its ports, each address and port once. Pure."""

from __future__ import annotations

import functools
import ipaddress
from collections.abc import Iterable, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import NamedTuple

from lbd.config.unusable import why_unusable
from lbd.kubernetes.objects.kinds import EndpointSlice, ServicePort, SliceEndpoint

_Network = ipaddress.IPv4Network | ipaddress.IPv6Network
_CACHED = 65536


class Server(NamedTuple):
    """An address and port that serves. A `draining` one ends what it has and gets nothing new."""

    address: str
    port: int
    draining: bool

    @property
    def family(self) -> int:
        """4 or 6."""
        return 6 if ":" in self.address else 4


@dataclass(frozen=True, slots=True)
class Vetting:
    """Which addresses no member may have: `forbidden` ones, those no Pod can have, and those outside `pod_cidrs`.

    `refused` takes the reason of each address that was refused.
    """

    forbidden: AbstractSet[str]
    pod_cidrs: tuple[str, ...]
    refused: dict[str, str] = field(default_factory=dict)

    def admits(self, address: str) -> bool:
        """Return whether a member may have this address; a refusal is noted."""
        if address in self.forbidden:
            self.refused[address] = "a VIP or an address of a service engine"
            return False
        reason = _why_refused(address, self.pod_cidrs)
        if reason is not None:
            self.refused[address] = reason
        return reason is None


def slices_of(slices: Sequence[EndpointSlice], family: int) -> list[EndpointSlice]:
    """Return the slices that serve a VIP of a family: those of its own; where these have no endpoint, all others.

    The relay connects with the member's own family, so a VIP can have one that the Pods have not. For such a family
    Kubernetes may still write a slice, with nothing in it.
    """
    own = [one for one in slices if one.family == family]
    return own if any(one.endpoints for one in own) else [one for one in slices if one.family != family]


def servers_of(slices: Iterable[EndpointSlice], port: ServicePort, vetting: Vetting) -> list[Server]:
    """Return who serves behind a Service's port, sorted by address and port.

    The ports of slices are matched by name and protocol, as kube-proxy does: a named target port may be another number
    on each Pod. Ready endpoints serve; those that are terminating and still serve are draining. Without a single ready
    one, those that are terminating and still serve do serve (KEP-1669).
    """
    ready: set[tuple[str, int]] = set()
    leaving: set[tuple[str, int]] = set()
    for one in slices:
        for name, number, protocol in one.ports:
            if name != port.name or protocol is not port.protocol:
                continue
            for endpoint in one.endpoints:
                kind = ready if endpoint.ready else leaving if _is_leaving(endpoint) else None
                if kind is not None:
                    kind.update((address, number) for address in endpoint.addresses if vetting.admits(address))
    if not ready:
        return [Server(address, number, False) for address, number in sorted(leaving)]
    # One that a slice calls ready and another one terminating was seen at two times: it is ready.
    return [Server(address, number, (address, number) not in ready) for address, number in sorted(ready | leaving)]


def _is_leaving(endpoint: SliceEndpoint) -> bool:
    return endpoint.serving and endpoint.terminating


@functools.lru_cache(maxsize=_CACHED)
def _why_refused(address: str, pod_cidrs: tuple[str, ...]) -> str | None:
    """Every change of a Service asks for all its addresses again, and parsing one costs more than the rest."""
    reason = why_unusable(address, allow_loopback=False)
    if reason is not None or not pod_cidrs:
        return reason
    parsed = ipaddress.ip_address(address)
    return None if any(parsed in network for network in _networks(pod_cidrs)) else "outside of pod_cidrs"


@functools.lru_cache(maxsize=16)
def _networks(cidrs: tuple[str, ...]) -> tuple[_Network, ...]:
    return tuple(map(ipaddress.ip_network, cidrs))
