"""Every good configuration, as Hypothesis strategies for what it means."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address, ip_network
from typing import get_args

from hypothesis import strategies as st

from lbd.config.scalars import QUERY_TYPES, RCODES
from lbd.model.address import Endpoint, family_of
from lbd.model.desired import (
    SYSTEM_MONITORS,
    AdminState,
    Algorithm,
    Bulk,
    ClientLogs,
    DesiredState,
    HashKey,
    HealthMonitor,
    Keepalive,
    Limits,
    Member,
    MonitorType,
    OnAllDown,
    OnLimit,
    OnMemberDown,
    OutlierDetection,
    Persistence,
    Pool,
    Protocol,
    ProxyProtocol,
    ServiceEngine,
    Source,
    StatusRange,
    Timeouts,
    UdpOptions,
    VirtualService,
)
from lbd.model.kubernetes import (
    SYSTEM_PROFILES,
    AddressPool,
    AddressRange,
    AnalyticsProfile,
    ApplicationProfile,
    Kubernetes,
    LeaseSettings,
    NetworkProfile,
    NetworkSecurityPolicy,
    PersistenceProfile,
    Profile,
)

NAMES = st.from_regex(r"[a-z0-9]([a-z0-9._-]{0,10}[a-z0-9])?", fullmatch=True).filter(lambda n: n[:7] != "system-")


def durations(low_ms: int, high_ms: int) -> st.SearchStrategy[float]:
    return st.integers(low_ms, high_ms).map(lambda duration_ms: duration_ms / 1000)


@st.composite
def monitors(draw: st.DrawFn, name: str) -> HealthMonitor:
    kind = draw(st.sampled_from(MonitorType))
    interval_s = draw(durations(100, 3_600_000))
    own: dict[str, object] = {}
    if kind is not MonitorType.PING:
        own["port"] = draw(st.none() | st.integers(1, 65535))
    if kind in (MonitorType.TCP, MonitorType.UDP):
        own["send"] = draw(st.text(st.characters(exclude_categories=["Cs"]), max_size=20)).encode()
        own["expect"] = draw(st.text(st.characters(exclude_categories=["Cs"]), max_size=20)).encode()
    if kind in (MonitorType.HTTP, MonitorType.HTTPS):
        bounds = st.tuples(st.integers(100, 599), st.integers(100, 599)).map(sorted)
        own["expect_status"] = tuple(StatusRange(*pair) for pair in draw(st.lists(bounds, min_size=1, max_size=3)))
        own["path"] = draw(st.from_regex(r"/[a-z0-9?=&%/]{0,10}", fullmatch=True))
        own["method"] = draw(st.sampled_from(["GET", "OPTIONS"]))
        own["expect_text"] = draw(st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
    if kind is MonitorType.HTTPS:
        own["verify_tls"] = draw(st.booleans())
    if kind is MonitorType.DNS:
        own["query_name"] = draw(st.just(".") | st.from_regex(r"[a-z0-9_-]{1,9}(\.[a-z]{1,9}){0,3}\.?", fullmatch=True))
        own["query_type"] = draw(st.sampled_from(QUERY_TYPES))
        own["expect_rcode"] = tuple(draw(st.lists(st.sampled_from(RCODES), min_size=1, unique=True)))
        own["expect_answer"] = draw(st.text(st.characters(exclude_categories=["Cs"]), max_size=20))
    return HealthMonitor(
        name,
        kind,
        interval_s=interval_s,
        timeout_s=draw(durations(10, min(300_000, int(interval_s * 1000)))),
        rise=draw(st.integers(1, 100)),
        fall=draw(st.integers(1, 100)),
        jitter=draw(st.integers(0, 50)) / 100,
        **own,
    )


def maybe(strategy: st.SearchStrategy[object], absent: object) -> st.SearchStrategy[object]:
    return st.just(absent) | strategy


def percentages(low: int, high: int) -> st.SearchStrategy[float]:
    return st.integers(low * 1000, high * 1000).map(lambda thousandths: thousandths / 1000)


PERSISTENCES = st.builds(
    Persistence,
    durations(1000, 604_800_000),
    st.integers(1, 32),
    st.integers(1, 128),
    st.integers(1, 1_000_000),
    st.sampled_from(OnMemberDown),
)
KEEPALIVES = st.builds(Keepalive, st.integers(1, 32767), st.integers(1, 32767), st.integers(1, 127))
UDP_OPTIONS = st.builds(UdpOptions, st.integers(0, 65535), st.integers(1, 1_000_000), st.booleans())
CLIENT_LOGS = st.builds(ClientLogs, st.integers(0, 65535), st.just(0.0) | durations(1000, 31_536_000_000))
OUTLIER_DETECTIONS = st.builds(
    lambda failures, times, ejected: OutlierDetection(failures, *times, ejected),
    st.integers(1, 1000),
    st.tuples(durations(100, 86_400_000), durations(100, 86_400_000)).map(sorted),
    percentages(1, 100),
)
# VIPs are drawn from other ranges than members, so that none is both.
ENDPOINTS = {
    4: st.integers(0x0A000001, 0x0AFFFFFF).map(
        lambda number: f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
    ),
    6: st.integers(1, 0xFFFF).map(lambda number: f"2001:db8::{number:x}"),
}


@st.composite
def pools(draw: st.DrawFn, defined: list[HealthMonitor], protocol: Protocol, families: list[int]) -> Pool:
    """Draw a pool that is good for a service of this protocol, with members of these address families."""
    endpoints = st.builds(Endpoint, st.one_of(*(ENDPOINTS[family] for family in families)), st.integers(1, 65535))
    members = [
        Member(
            endpoint,
            draw(st.integers(1, 1000)),
            draw(st.sampled_from(AdminState)),
            draw(st.booleans()),
            draw(maybe(st.integers(1, 10_000_000), 0)),
        )
        for endpoint in draw(st.lists(endpoints, min_size=1, max_size=4, unique=True))
    ]
    if all(member.backup for member in members):
        members[-1] = replace(members[-1], backup=False)
    algorithms = [one for one in Algorithm if (one, protocol) != (Algorithm.FASTEST_RESPONSE, Protocol.UDP)]
    algorithm = draw(st.sampled_from(algorithms))
    hashing: dict[str, object] = {}
    if algorithm is Algorithm.CONSISTENT_HASH:
        hashing["hash_key"] = draw(st.sampled_from(HashKey))
        hashing["max_load_percent"] = draw(maybe(percentages(101, 1000), 0.0))
    enabled = sum(member.admin_state is AdminState.ENABLED for member in members)
    system = SYSTEM_MONITORS[3 if protocol is Protocol.UDP else 0]
    chosen = draw(st.lists(st.sampled_from(defined), min_size=1, unique=True)) if defined else [system]
    return Pool(
        members=tuple(members),
        algorithm=algorithm,
        health_monitors=tuple(chosen),
        slow_start_s=draw(durations(0, 3_600_000)),
        on_all_down=draw(st.sampled_from(OnAllDown)),
        persistence=draw(st.none() | PERSISTENCES),
        outlier_detection=draw(st.none() | OUTLIER_DETECTIONS),
        min_members_up=draw(st.integers(1, max(enabled, 1))),
        panic_threshold_percent=draw(percentages(0, 100)),
        drain_timeout_s=draw(st.none() | durations(0, 86_400_000)),
        **hashing,
    )


def networks(version: int, bits: int) -> st.SearchStrategy[str]:
    pairs = st.tuples(st.ip_addresses(v=version).filter(lambda one: one not in IPV4_MAPPED), st.integers(0, bits))
    return pairs.map(lambda pair: str(ip_network(pair, strict=False)))


IPV4_MAPPED = ip_network("::ffff:0:0/96")
NETWORK_LISTS = st.lists(networks(4, 32) | networks(6, 128), max_size=3, unique=True).map(tuple)


@st.composite
def limits(draw: st.DrawFn, protocol: Protocol, max_flows: int) -> Limits:
    most = draw(maybe(st.integers(1, max_flows if protocol is Protocol.UDP else 10_000_000), 0))
    rate = draw(maybe(st.integers(1, 1_000_000), 0))
    queue: dict[str, object] = {}
    if most and protocol is Protocol.TCP and draw(st.booleans()):
        queue = {
            "on_limit": OnLimit.QUEUE,
            "queue_length": draw(st.integers(1, 100_000)),
            "queue_timeout_s": draw(durations(10, 300_000)),
        }
    return Limits(
        max_connections=most,
        max_connections_per_client=draw(maybe(st.integers(1, most or 10_000_000), 0)),
        connection_rate=float(rate),
        connection_rate_per_client=float(draw(maybe(st.integers(1, rate or 1_000_000), 0))),
        max_throughput_bps=draw(maybe(st.integers(64_000, 10**12), 0)),
        **queue,
    )


@st.composite
def tcp_timeouts(draw: st.DrawFn) -> Timeouts:
    silences, user_timeouts = maybe(durations(1000, 604_800_000), 0.0), maybe(durations(100, 86_400_000), 0.0)
    lifetime_s = draw(maybe(durations(1000, 31_536_000_000), 0.0))
    return Timeouts(
        draw(durations(10, 300_000)),
        draw(durations(1000, 604_800_000)),
        draw(silences),
        draw(silences),
        draw(user_timeouts),
        draw(user_timeouts),
        lifetime_s,
        draw(st.integers(0, 50)) / 100 if lifetime_s else 0.1,
    )


@st.composite
def services(draw: st.DrawFn, name: str, port: int, defined: list[HealthMonitor]) -> VirtualService:
    protocol = draw(st.sampled_from(Protocol))
    vip = draw(st.sampled_from(["192.0.2.1", "192.0.2.2", "2001:db8:1::1"]))
    source = draw(st.sampled_from(Source))
    families = [family_of(vip)] if source is Source.TRANSPARENT else [4, 6]
    service = VirtualService(
        name,
        vip,
        port,
        draw(pools(defined, protocol, families)),
        protocol,
        admin_state=draw(st.sampled_from(AdminState)),
        source=source,
        source_ranges=draw(NETWORK_LISTS),
        client_logs=draw(st.none() | CLIENT_LOGS),
    )
    sides = st.none() | KEEPALIVES
    if protocol is Protocol.TCP:
        return replace(
            service,
            timeouts=draw(tcp_timeouts()),
            limits=draw(limits(protocol, 0)),
            proxy_protocol=draw(st.none() | st.sampled_from(ProxyProtocol)),
            accept_proxy_protocol=draw(NETWORK_LISTS),
            client_keepalive=draw(sides),
            member_keepalive=draw(sides),
            bulk=draw(st.sampled_from(Bulk)),
        )
    udp = draw(UDP_OPTIONS)
    if udp.per_packet:
        service = replace(service, pool=replace(service.pool, persistence=None))
    return replace(
        service,
        timeouts=Timeouts(idle_s=draw(durations(1000, 604_800_000))),
        limits=draw(limits(protocol, udp.max_flows)),
        proxy_protocol=None if udp.per_packet else draw(st.none() | st.just(ProxyProtocol.V2)),
        udp=udp,
    )


YAML_WORDS = {"null", "true", "false"}
LABELS = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True).filter(lambda one: one not in YAML_WORDS)
SOMEBODY = st.lists(LABELS, max_size=2, unique=True).map(tuple)


@st.composite
def address_pools(draw: st.DrawFn, name: str, number: int, namespaces: tuple[str, ...]) -> AddressPool:
    """Draw a pool that shares no address with those of other numbers, nor with the VIPs and members of services."""
    ends = draw(st.lists(st.integers(0, 0xFFFF), min_size=2, max_size=6, unique=True).map(sorted))
    v4, v6 = (172 << 24) + (16 << 20) + (number << 16), (0xFD00 << 112) + (number << 64)
    of_both = [
        AddressRange(str(ip_address(base + first)), str(ip_address(base + last)))
        for first, last in zip(ends[::2], ends[1::2], strict=False)
        for base in (v4, v6)
    ]
    return AddressPool(
        name,
        tuple(draw(st.permutations(of_both))),
        draw(st.booleans()),
        draw(st.lists(st.sampled_from(namespaces) if namespaces else LABELS, max_size=2, unique=True).map(tuple)),
        tuple(draw(st.dictionaries(LABELS, LABELS | st.just(""), max_size=2)).items()),
        draw(st.integers(0, 1000)),
    )


@st.composite
def profiles(draw: st.DrawFn, name: str) -> Profile:
    kind = draw(st.sampled_from(get_args(Profile)))
    if kind is PersistenceProfile:
        return PersistenceProfile(name, draw(PERSISTENCES))
    if kind is ApplicationProfile:
        rate = draw(maybe(st.integers(1, 1_000_000), 0))
        return ApplicationProfile(
            name,
            draw(st.sampled_from(Source)),
            draw(st.none() | st.sampled_from(ProxyProtocol)),
            draw(NETWORK_LISTS),
            draw(maybe(st.integers(1, 10_000_000), 0)),
            float(rate),
            float(draw(maybe(st.integers(1, rate or 1_000_000), 0))),
        )
    if kind is NetworkProfile:
        sides = st.none() | KEEPALIVES
        return NetworkProfile(
            name,
            draw(tcp_timeouts()),
            draw(durations(1000, 604_800_000)),
            draw(sides),
            draw(sides),
            draw(UDP_OPTIONS),
            draw(st.sampled_from(Bulk)),
        )
    if kind is AnalyticsProfile:
        return AnalyticsProfile(name, draw(maybe(durations(1, 300_000), 0.0)))
    return NetworkSecurityPolicy(name, draw(NETWORK_LISTS.filter(bool)))


@st.composite
def clusters(draw: st.DrawFn, defined: list[HealthMonitor]) -> Kubernetes:
    namespaces = draw(SOMEBODY)
    routes = draw(st.booleans())
    kubeconfig = draw(st.none() | st.just("/etc/k"))
    duration_s = draw(st.integers(1, 600))
    retry_ms, renew_ms = sorted(draw(st.tuples(st.integers(100, 300_000), st.integers(200, 600_000))))
    renew_ms = max(min(renew_ms, duration_s * 1000 - 1), 200)
    pool_names = draw(st.lists(NAMES, min_size=1, max_size=3, unique=True))
    return Kubernetes(
        kubeconfig=kubeconfig,
        context=draw(st.none() | LABELS) if kubeconfig else None,
        load_balancer_class=draw(st.sampled_from(["lbd.io/service-engine", "a.b/C_d", "mine"])),
        default_class=draw(st.booleans()),
        namespaces=namespaces,
        pod_cidrs=draw(NETWORK_LISTS),
        pod_routes=routes,
        backend_interface=draw(st.sampled_from(["", "eth1"])) if routes else "",
        resync_s=draw(durations(10_000, 604_800_000)),
        request_timeout_s=draw(durations(1000, 300_000)),
        watch_timeout_s=draw(durations(5000, 3_600_000)),
        lease=LeaseSettings(
            draw(LABELS), draw(LABELS), float(duration_s), renew_ms / 1000, min(retry_ms, renew_ms - 1) / 1000
        ),
        address_pools=tuple(draw(address_pools(name, index, namespaces)) for index, name in enumerate(pool_names)),
        profiles=SYSTEM_PROFILES
        + tuple(draw(profiles(name)) for name in draw(st.lists(NAMES, max_size=3, unique=True))),
        health_monitors=(*SYSTEM_MONITORS, *defined),
    )


@st.composite
def states(draw: st.DrawFn) -> tuple[DesiredState, list[HealthMonitor]]:
    defined = [draw(monitors(name)) for name in draw(st.lists(NAMES, max_size=3, unique=True))]
    names = draw(st.lists(NAMES, max_size=2, unique=True))
    found = tuple(draw(services(name, 1000 + index, defined)) for index, name in enumerate(names))
    cluster = draw(st.none() | clusters(defined))
    engine = ServiceEngine(draw(NAMES), draw(st.integers(1, 64)), "eth0", draw(durations(0, 86_400_000)))
    listen = draw(st.none() | st.builds(Endpoint, st.just("::1"), st.integers(1, 65535)))
    return DesiredState(draw(st.integers(1)), engine, found, listen, "/run/x", cluster), defined
