"""What must hold between values: each rule takes the facts and yields its errors. `RULES` is all of them.

Here are the rules about the process, and about addresses and names over all virtual services; those about monitors,
single services, pools, and what is there for Kubernetes are in modules of their own.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator

from lbd.config import (
    rules_address_pools,
    rules_kubernetes,
    rules_monitors,
    rules_pools,
    rules_profiles,
    rules_services,
    scalars,
)
from lbd.config.errors import ConfigError, Place, show
from lbd.config.facts import Cursor, Facts, ServiceFacts
from lbd.config.tree import Sequence
from lbd.config.unusable import why_unusable
from lbd.model.address import Endpoint
from lbd.model.desired import DEFAULT_METRICS_LISTEN, Protocol

MAX_SERVICES = 4096
MAX_MEMBERS = 65536
"""Of all pools together. The counters' shared map has that many slots for each of the two."""

_IPV6_LINK_LOCAL = ipaddress.IPv6Network("fe80::/10")


def one_file_only(facts: Facts) -> Iterator[ConfigError]:
    """What holds for the whole process stands in one file."""
    for key in ("service_engine", "metrics", "admin", "kubernetes"):
        sections = list(facts.sections(key))
        for other in sections[1:]:
            at = sections[0].key_place.position
            yield other.key_place.error(f"is already at {at}: this section may stand in one file only")


def interface_for_services(facts: Facts) -> Iterator[ConfigError]:
    """A VIP needs an interface to be added to."""
    is_needed = facts.services or any(facts.sections("kubernetes"))
    if not (facts.complete and is_needed) or any(facts.sections("service_engine", "frontend_interface")):
        return
    cause = "as soon as there is a virtual service" if facts.services else "with kubernetes"
    message = f"is required {cause}: VIPs are added to this interface"
    for engine in facts.sections("service_engine"):
        yield engine.place.error(message, "frontend_interface")
        return
    yield Place(facts.files[0].file, 1, 1, ("service_engine",)).error(message, "frontend_interface")


def frontend_gateways(facts: Facts) -> Iterator[ConfigError]:
    """A gateway is a router on the frontend network, one of each family: not this machine, and no VIP of its own."""
    vips = {service.vip: service for service in facts.services}
    for section in facts.sections("service_engine", "frontend_gateway"):
        written = list(section.items()) if isinstance(section.node, Sequence) else [section]
        if not written:
            yield section.place.error("is empty: remove the key where no gateway is wanted")
        first: dict[int, Place] = {}
        for cursor in written:
            gateway = cursor.read(scalars.address)
            if gateway is None:
                continue
            yield from _gateway(cursor.place, gateway, vips)
            family = ipaddress.ip_address(gateway).version
            if family in first:
                at = first[family].position
                yield cursor.place.error(f"{gateway} is a second IPv{family} gateway, the first one is at {at}")
            first.setdefault(family, cursor.place)


def _gateway(place: Place, gateway: str, vips: dict[str | None, ServiceFacts]) -> Iterator[ConfigError]:
    reason = why_unusable(gateway, allow_loopback=False)
    if ipaddress.ip_address(gateway) in _IPV6_LINK_LOCAL:
        reason = None  # what routers announce themselves with (RFC 4861 §4.2)
    if reason:
        yield place.error(f"{gateway} is {reason} and can't be a gateway")
    elif gateway in vips:
        yield place.error(f"{gateway} is the VIP of {vips[gateway].shown}: a gateway is another machine")


def service_names(facts: Facts) -> Iterator[ConfigError]:
    """Each virtual service has a name of its own, over all files."""
    first: dict[str, Place] = {}
    for service in facts.services:
        name = service.cursor.at("name")
        if service.name is None or name is None:
            continue
        if service.name in first:
            yield name.place.error(f"{show(service.name)} is already taken at {first[service.name].position}")
        first.setdefault(service.name, name.place)


def listeners(facts: Facts) -> Iterator[ConfigError]:
    """One VIP, port and protocol belong to one virtual service, and not to the metrics."""
    first: dict[tuple[Endpoint, Protocol], ServiceFacts] = {}
    metrics = _metrics_endpoints(facts)
    for service in facts.services:
        listen, protocol, vip = service.listen, service.protocol, service.cursor.at("vip")
        if listen is None or protocol is None or vip is None:
            continue
        other = first.setdefault((listen, protocol), service)
        if other is not service:
            where = other.cursor.at("vip") or other.cursor
            yield vip.place.error(f"{listen}/{protocol} is already taken by {other.shown} at {where.place.position}")
        if protocol is Protocol.TCP and any(_overlap(endpoint, listen) for endpoint in metrics):
            yield vip.place.error(f"{listen} is where the metrics are served (metrics.listen)")


def _metrics_endpoints(facts: Facts) -> list[Endpoint]:
    written = [cursor.read(scalars.listen) for cursor in facts.sections("metrics", "listen")]
    return [endpoint for endpoint in written or [DEFAULT_METRICS_LISTEN] if endpoint is not None]


def _overlap(listen: Endpoint, vip: Endpoint) -> bool:
    # [::] takes IPv4 too, unless the listener says otherwise (ipv6(7), IPV6_V6ONLY).
    everywhere = listen.address == "::" or (listen.address == "0.0.0.0" and vip.family == 4)
    return listen.port == vip.port and (everywhere or listen.address == vip.address)


def vip_addresses(facts: Facts) -> Iterator[ConfigError]:
    """A VIP is an address that a machine on the frontend network can have."""
    for service in facts.services:
        cursor = service.cursor.at("vip")
        if service.vip is not None and cursor is not None:
            reason = why_unusable(service.vip, facts.allow_loopback)
            if reason:
                yield cursor.place.error(f"{service.vip} is {reason} and can't be a VIP")


def pool_members(facts: Facts) -> Iterator[ConfigError]:
    """A member is an address that a Pod can have, and stands once in its pool.

    Its address family may differ from the VIP's: the relay connects with the member's own.
    """
    vips: dict[str, ServiceFacts] = {}
    for service in facts.services:
        if service.vip is not None:
            vips.setdefault(service.vip, service)
    for service in facts.services:
        yield from _members_of(service, vips, facts.allow_loopback)


def _members_of(service: ServiceFacts, vips: dict[str, ServiceFacts], allow_loopback: bool) -> Iterator[ConfigError]:
    members = service.cursor.at("pool", "members")
    if members is not None and isinstance(members.node, Sequence) and not members.node.items:
        yield members.place.error("is empty: a pool needs a member (use admin_state to take a service away for a time)")
    first: dict[tuple[str, int], Cursor] = {}
    for cursor, address, port in service.members:
        where = cursor.at("address")
        if address is None or where is None:
            continue
        reason = why_unusable(address, allow_loopback)
        if reason:
            yield where.place.error(f"{address} is {reason} and can't be a member")
        elif address in vips:
            yield where.place.error(f"{address} is the VIP of {vips[address].shown}: connections would come back here")
        if port is None:
            continue
        other = first.setdefault((address, port), cursor)
        if other is not cursor:
            yield cursor.place.error(
                f"{Endpoint(address, port)} is already a member of this pool, at {other.place.position}"
            )


def sizes(facts: Facts) -> Iterator[ConfigError]:
    """The counters have room for so many services and members."""
    if len(facts.services) > MAX_SERVICES:
        place = facts.services[MAX_SERVICES].cursor.place
        yield place.error(f"is one more than the {MAX_SERVICES} virtual services that are possible")
    total = 0
    for service in facts.services:
        if total <= MAX_MEMBERS < total + len(service.members):
            place = service.members[MAX_MEMBERS - total][0].place
            yield place.error(f"is one more than the {MAX_MEMBERS} members that are possible in all pools together")
        total += len(service.members)


RULES: tuple[Callable[[Facts], Iterable[ConfigError]], ...] = (
    one_file_only,
    interface_for_services,
    frontend_gateways,
    service_names,
    listeners,
    vip_addresses,
    pool_members,
    sizes,
    *rules_monitors.RULES,
    *rules_services.RULES,
    *rules_pools.RULES,
    *rules_kubernetes.RULES,
    *rules_address_pools.RULES,
    *rules_profiles.RULES,
)
