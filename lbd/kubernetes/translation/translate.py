"""A Service, its EndpointSlices and its rule → virtual services. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from dataclasses import dataclass

from lbd.config.errors import show
from lbd.config.unusable import why_unusable
from lbd.kubernetes.objects.kinds import NOBODY, EndpointSlice, Service, ServicePort
from lbd.kubernetes.objects.problem import Problem
from lbd.kubernetes.rules.rule_policy import RulePolicy
from lbd.kubernetes.translation.endpoints import Server, Vetting, servers_of, slices_of
from lbd.kubernetes.translation.member_pools import pool_of
from lbd.kubernetes.translation.source_ranges import intersection
from lbd.model.desired import (
    AdminState,
    Bulk,
    Limits,
    Pool,
    Protocol,
    ProxyProtocol,
    Source,
    Timeouts,
    UdpOptions,
    VirtualService,
)
from lbd.model.kubernetes import ApplicationProfile, Kubernetes, NetworkProfile

MAX_MEMBERS = 4096
"""Of one pool: a Service has them from whoever may write EndpointSlices, and the counters have room for 65,536."""
MAX_LOOKED_AT = 16_384
"""Endpoints of one Service, each counted for every port: 100 ports with 4000 Pods would be 400,000 members, and these
take half a minute, in which nothing else is done."""
_SHOWN_ADDRESSES = 5
_SHOWN_COMPLAINTS = 3
_NO_RULE = RulePolicy()


@dataclass(frozen=True, slots=True)
class Translation:
    """What a Service becomes, in the order of its addresses and ports, and what is wrong with it."""

    virtual_services: tuple[VirtualService, ...] = ()
    problems: tuple[Problem, ...] = ()


def translate(
    service: Service,
    slices: Sequence[EndpointSlice],
    rule: RulePolicy | None,
    kubernetes: Kubernetes,
    forbidden: AbstractSet[str],
) -> Translation:
    """Return the virtual services of a Service: one for each address in its status and each of its ports.

    `slices` are all that belong to it, `rule` is what its rule says (None: it has none in force), `forbidden` are all
    VIPs and this machine's own addresses, which no member may have.
    """
    problems: list[Problem] = []
    vips = _vips(service, problems)
    if not vips:
        return Translation((), tuple(problems))
    vetting = Vetting(forbidden, kubernetes.pod_cidrs)
    policy = rule if rule is not None else _NO_RULE
    source_ranges = _source_ranges(service, policy, problems)
    translated: list[VirtualService] = []
    left = MAX_LOOKED_AT
    for family, vip in vips.items():
        own = slices_of(slices, family)
        for port in service.ports:
            name = name_of(service, port, family)
            behind = [one for one in own if one.has(port)]
            looked_at, left = _affordable(behind, left, name, problems)
            servers = servers_of(looked_at, port, vetting)
            servers = _reachable(servers, family, name, policy, problems)
            servers = _cut(servers, name, problems)
            pool = pool_of(servers, port, policy, service.affinity_timeout_s)
            translated.append(_virtual_service(name, vip, port, pool, policy, source_ranges))
    problems += _unread(slices)
    if vetting.refused:
        problems.append(_rejected(vetting.refused))
    problems += _not_for_udp(service, policy)
    return Translation(tuple(translated), tuple(problems))


def name_of(service: Service, port: ServicePort, family: int) -> str:
    """Return the name of a virtual service, which is its identity: it is the same whatever else the Service has.

    The VIP of the Service's first family has the plain name, that of the other one says its own.
    """
    transport = "/udp" if port.protocol is Protocol.UDP else ""
    return f"{service.key}:{port.port}{transport}{'' if family == service.ip_families[0] else f'/ipv{family}'}"


def _vips(service: Service, problems: list[Problem]) -> dict[int, str]:
    """Return the Service's address of each family."""
    found: dict[int, str] = {}
    for address in service.ingress:
        reason = why_unusable(address, allow_loopback=False)
        family = 6 if ":" in address else 4
        if reason is not None:
            problems.append(Problem("AddressUnusable", f"{address} is {reason} and can't be a VIP"))
        elif found.setdefault(family, address) != address:
            message = f"{address} is a second IPv{family} address in the status: only {found[family]} is served"
            problems.append(Problem("SecondAddress", message))
    return found


def _source_ranges(service: Service, policy: RulePolicy, problems: list[Problem]) -> tuple[str, ...]:
    security = policy.network_security
    if security is None:
        return service.source_ranges
    both = intersection(service.source_ranges, security.source_ranges)
    if both == NOBODY and service.source_ranges != NOBODY:
        message = (
            f"no client is let in: loadBalancerSourceRanges and the network security policy {show(security.name)} "
            "have no address in common"
        )
        problems.append(Problem("NobodyLetIn", message))
    return both


def _affordable(
    slices: list[EndpointSlice], left: int, name: str, problems: list[Problem]
) -> tuple[list[EndpointSlice], int]:
    """Return the first slices that have `left` endpoints at most, and how many are left then for other ports."""
    taken: list[EndpointSlice] = []
    for one in slices:
        if len(one.endpoints) > left:
            count = sum(len(one.endpoints) for one in slices)
            message = (
                f"{name} has {count} endpoints, and of all ports of the Service together only {MAX_LOOKED_AT} are used"
            )
            problems.append(Problem("TooManyEndpoints", message))
            break
        taken.append(one)
        left -= len(one.endpoints)
    return taken, left


def _reachable(
    servers: list[Server], family: int, name: str, policy: RulePolicy, problems: list[Problem]
) -> list[Server]:
    """Leave out whom a client's own address can't reach: who is of another family."""
    if policy.application.source is not Source.TRANSPARENT:
        return servers
    reachable = [server for server in servers if server.family == family]
    if len(reachable) < len(servers):
        message = (
            f"{name} has {len(servers) - len(reachable)} endpoints that are left out: the application profile "
            f"{show(policy.application.name)} connects from the addresses of clients, and they are of another family"
        )
        problems.append(Problem("EndpointsUnreachable", message))
    return reachable


def _cut(servers: list[Server], name: str, problems: list[Problem]) -> list[Server]:
    """Leave out what is too much for one pool: those that are on their way out first."""
    if len(servers) <= MAX_MEMBERS:
        return servers
    message = f"{name} has {len(servers)} endpoints, and only {MAX_MEMBERS} of them are used"
    problems.append(Problem("TooManyEndpoints", message))
    return sorted(sorted(servers, key=lambda server: server.draining)[:MAX_MEMBERS])


def _virtual_service(
    name: str, vip: str, port: ServicePort, pool: Pool, policy: RulePolicy, source_ranges: tuple[str, ...]
) -> VirtualService:
    application, network = policy.application, policy.network
    backend = policy.backend(port.port, port.protocol)
    is_tcp = port.protocol is Protocol.TCP
    return VirtualService(
        name=name,
        vip=vip,
        port=port.port,
        pool=pool,
        protocol=port.protocol,
        timeouts=network.timeouts if is_tcp else Timeouts(idle_s=network.udp_idle_s),
        admin_state=AdminState.ENABLED if backend is None or backend.enabled else AdminState.DISABLED,
        source=application.source,
        proxy_protocol=_proxy_protocol(application, network, port.protocol),
        accept_proxy_protocol=application.accept_proxy_protocol if is_tcp else (),
        source_ranges=source_ranges,
        limits=Limits(
            max_connections=policy.max_connections,
            max_connections_per_client=application.max_connections_per_client,
            connection_rate=application.connection_rate,
            connection_rate_per_client=application.connection_rate_per_client,
            max_throughput_bps=policy.max_throughput_bps,
        ),
        client_keepalive=network.client_keepalive if is_tcp else None,
        member_keepalive=network.member_keepalive if is_tcp else None,
        udp=UdpOptions() if is_tcp else network.udp,
        client_logs=policy.client_logs,
        bulk=network.bulk if is_tcp else Bulk.COPY,
    )


def _proxy_protocol(
    application: ApplicationProfile, network: NetworkProfile, protocol: Protocol
) -> ProxyProtocol | None:
    """Return the header that members get: v1 is made for streams, and a flow must last for a header to go ahead."""
    if protocol is Protocol.UDP and (application.proxy_protocol is ProxyProtocol.V1 or network.udp.per_packet):
        return None
    return application.proxy_protocol


def _unread(slices: Sequence[EndpointSlice]) -> Iterator[Problem]:
    """Say what of the slices could not be read, and so is not among the members."""
    sentences = [f"{one.key.name}: {complaint}" for one in slices for complaint in one.complaints]
    if sentences:
        more = len(sentences) - _SHOWN_COMPLAINTS
        listed = "; ".join(sentences[:_SHOWN_COMPLAINTS]) + (f"; and {more} more" if more > 0 else "")
        yield Problem("EndpointsRejected", f"EndpointSlices have what can't be used: {listed}")


def _rejected(refused: Mapping[str, str]) -> Problem:
    """Say which addresses can't be members: the first of them, for anybody who may write slices may write many."""
    shown = [f"{address} is {refused[address]}" for address in sorted(refused)[:_SHOWN_ADDRESSES]]
    more = len(refused) - len(shown)
    listed = "; ".join(shown) + (f"; and {more} more" if more else "")
    return Problem("EndpointsRejected", f"EndpointSlices have addresses that can't be members: {listed}")


def _not_for_udp(service: Service, policy: RulePolicy) -> Iterator[Problem]:
    """Say what profiles ask for that the Service's UDP ports can't have."""
    ports = ", ".join(str(port.port) for port in service.ports if port.protocol is Protocol.UDP)
    if not ports:
        return
    application, network = policy.application, policy.network
    profile = f"of the application profile {show(application.name)}"
    if application.proxy_protocol is not None and not _proxy_protocol(application, network, Protocol.UDP):
        why = "v2 is for datagrams" if not network.udp.per_packet else "each datagram picks its own member"
        message = f"proxy_protocol {profile} does not apply to UDP port {ports}: {why}"
        yield Problem("NotForUdp", message)
    if application.accept_proxy_protocol:
        yield Problem("NotForUdp", f"accept_proxy_protocol {profile} does not apply to UDP port {ports}")
    if network.udp.per_packet and service.affinity_timeout_s is not None:
        message = (
            f"sessionAffinity does not apply to UDP port {ports}: with the network profile {show(network.name)} each "
            "datagram picks its own member"
        )
        yield Problem("NotForUdp", message)
