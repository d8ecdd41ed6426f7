"""What must hold between values: each rule takes the facts and yields its errors. `RULES` is all of them."""

from __future__ import annotations

import ipaddress
from collections.abc import Callable, Iterable, Iterator

from lbd.config import scalars
from lbd.config.errors import ConfigError, Place, show
from lbd.config.facts import Cursor, Facts, ServiceFacts
from lbd.config.schema import MonitorShape
from lbd.config.tree import Scalar, Sequence
from lbd.model.address import Endpoint
from lbd.model.desired import DEFAULT_METRICS_LISTEN, SYSTEM_MONITORS, MonitorType

MAX_SERVICES = 4096
MAX_MEMBERS = 65536
"""Of all pools together. The counters' shared map has that many slots for each of the two."""

RESERVED_PREFIX = "system-"
"""Of the names of built-in monitors; new ones may come with any version."""

_IPV6_LINK_LOCAL = ipaddress.IPv6Network("fe80::/10")
_COMMON_KEYS = {"type", "interval", "timeout", "rise", "fall", "jitter"}
_HTTP_KEYS = {"port", "path", "host", "method", "expect_status", "expect_text"}
MONITOR_KEYS: dict[MonitorType, set[str]] = {
    MonitorType.TCP: _COMMON_KEYS | {"port", "send", "expect"},
    MonitorType.HTTP: _COMMON_KEYS | _HTTP_KEYS,
    MonitorType.HTTPS: _COMMON_KEYS | _HTTP_KEYS | {"verify_tls"},
    MonitorType.PING: _COMMON_KEYS,
}
"""Which keys belong to which type of health monitor."""


def one_file_only(facts: Facts) -> Iterator[ConfigError]:
    """What holds for the whole process stands in one file."""
    for key in ("service_engine", "metrics", "admin"):
        sections = list(facts.sections(key))
        for other in sections[1:]:
            at = sections[0].key_place.position
            yield other.key_place.error(f"is already at {at}: this section may stand in one file only")


def interface_for_services(facts: Facts) -> Iterator[ConfigError]:
    """A VIP needs an interface to be added to."""
    if not (facts.complete and facts.services) or any(facts.sections("service_engine", "frontend_interface")):
        return
    message = "is required as soon as there is a virtual service: VIPs are added to this interface"
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


def monitor_definitions(facts: Facts) -> Iterator[ConfigError]:
    """Each monitor has a name of its own, and only keys that mean something for its type."""
    for section in facts.sections("health_monitors"):
        for name, monitor in section.entries():
            first = facts.monitors[name]
            if first.key_place != monitor.key_place:
                yield monitor.key_place.error(f"is already defined at {first.key_place.position}")
            if name.startswith(RESERVED_PREFIX):
                yield monitor.key_place.error(f"names that begin with {RESERVED_PREFIX} are those of built-in monitors")
            else:
                yield from _refusal(monitor.key_place, scalars.name, name)
            yield from _monitor_keys(monitor)
            yield from _monitor_values(monitor)


def _refusal(place: Place, reader: Callable[[object], object], value: object) -> Iterator[ConfigError]:
    try:
        reader(value)
    except ValueError as error:
        yield place.error(str(error))


def _monitor_keys(monitor: Cursor) -> Iterator[ConfigError]:
    kind = monitor.read_at("type", scalars.monitor_type)
    if kind is None:
        return
    for key, cursor in monitor.entries():
        owners = [str(owner) for owner, keys in MONITOR_KEYS.items() if key in keys]
        if owners and kind not in owners:
            yield cursor.key_place.error(f"belongs to {_and(owners)} monitors, and this one is of type {kind}")


def _monitor_values(monitor: Cursor) -> Iterator[ConfigError]:
    timeout, interval = monitor.at("timeout"), monitor.at("interval")
    if timeout is not None:
        timeout_s = timeout.read(_duration)
        interval_s = interval.read(_duration) if interval else MonitorShape.model_fields["interval"].default
        if timeout_s is not None and interval_s is not None and timeout_s > interval_s:
            longer = f"is longer than the interval ({interval_s:g}s): a check must end before the next one begins"
            yield timeout.place.error(f"{_written(timeout)} {longer}")
    statuses = monitor.at("expect_status")
    if statuses is not None and isinstance(statuses.node, Sequence) and not statuses.node.items:
        yield statuses.place.error("is empty: no answer could ever pass")
    expected = monitor.at("expect_text")
    wanted = expected.read(scalars.expected_text) if expected else None
    if expected is not None and wanted and monitor.read_at("method", scalars.method) == "HEAD":
        yield expected.key_place.error("can't be checked with method HEAD, whose answers have no content")


_duration = scalars.duration("0s", "100000h")


def _written(cursor: Cursor) -> str:
    return str(cursor.node.value) if isinstance(cursor.node, Scalar) else ""


def _and(words: list[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"


def monitors_of_pools(facts: Facts) -> Iterator[ConfigError]:
    """A pool uses monitors that exist, each once."""
    known = [monitor.name for monitor in SYSTEM_MONITORS] + list(facts.monitors)
    known_set = set(known)
    for service in facts.services:
        listed: set[str] = set()
        section = service.cursor.at("pool", "health_monitors")
        for cursor in section.items() if section else ():
            name = cursor.read(scalars.text)
            if name is None:
                continue
            if name in listed:
                yield cursor.place.error(f"{show(name)} is already in this list")
            elif facts.complete and name not in known_set:
                yield cursor.place.error(
                    f"there is no health monitor {show(name)}{scalars.did_you_mean(name, sorted(known_set))}"
                )
            listed.add(name)


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
    first: dict[Endpoint, ServiceFacts] = {}
    metrics = _metrics_endpoints(facts)
    for service in facts.services:
        listen = service.listen
        protocol, vip = service.cursor.at("protocol"), service.cursor.at("vip")
        if listen is None or vip is None or (protocol is not None and protocol.read(scalars.protocol) is None):
            continue
        other = first.setdefault(listen, service)
        if other is not service:
            where = other.cursor.at("vip") or other.cursor
            yield vip.place.error(f"{listen}/tcp is already taken by {other.shown} at {where.place.position}")
        if any(_overlap(endpoint, listen) for endpoint in metrics):
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


def why_unusable(address: str, allow_loopback: bool) -> str | None:
    """Return why an address in canonical form can be neither VIP nor member, as `a loopback address`, or None.

    The kinds are those of RFC 6890 that no other machine can have: 240.0.0.0/4 is not among them, Pods do use it.
    """
    parsed = ipaddress.ip_address(address)
    if parsed.is_unspecified:
        return "the unspecified address"
    if parsed.is_loopback:
        return None if allow_loopback else "a loopback address"
    if parsed.is_link_local:
        return "a link-local address"
    if parsed.is_multicast:
        return "a multicast address"
    if address == "255.255.255.255":
        return "the broadcast address"
    return "an address of 0.0.0.0/8 (this network)" if address.startswith("0.") else None


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
    monitor_definitions,
    monitors_of_pools,
    service_names,
    listeners,
    vip_addresses,
    pool_members,
    sizes,
)
