"""Whatever the file: never a traceback; and every good configuration that can be generated loads to what it says."""

from __future__ import annotations

import re
import tempfile
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path
from typing import get_args, get_origin

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from lbd.config import ConfigErrors, load
from lbd.config.scalars import QUERY_TYPES, RCODES
from lbd.config.schema import FileShape
from lbd.model.address import Endpoint, family_of
from lbd.model.desired import (
    SYSTEM_MONITORS,
    AdminState,
    Algorithm,
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

EXAMPLE = (Path(__file__).parents[3] / "config" / "lbd.yaml").read_bytes()
LINE = re.compile(r"(?:one|two)\.yaml:([0-9]+):([0-9]+): \S.*")

bounded = settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.too_slow])


def judged(*contents: bytes, generation: int = 1) -> DesiredState | list[str]:
    """Load files of these contents; what comes out is a state, or errors that each are one line with a real place."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name, _ in zip(("one.yaml", "two.yaml"), contents, strict=False)]
        for path, content in zip(paths, contents, strict=True):
            path.write_bytes(content)
        try:
            return load(paths, generation)
        except ConfigErrors as found:
            lines = [str(error).removeprefix(folder + "/").replace(folder + "/", "") for error in found.errors]
    assert lines
    texts = dict(zip(("one.yaml", "two.yaml"), contents, strict=False))
    for line in lines:
        place = LINE.fullmatch(line)
        assert place is not None, line
        assert line.isprintable(), line
        assert 1 <= int(place[1]) <= len(re.split(rb"\r\n?|\n|\xc2\x85|\xe2\x80[\xa8\xa9]", texts[line[:8]])) + 1, line
        assert int(place[2]) >= 1
    return lines


@bounded
@given(st.binary(max_size=400))
def test_random_bytes_never_raise_anything_else(content):
    judged(content)


@bounded
@given(st.text(alphabet="ab:-[]{}&*!|>'\"%@`#,?~<0 \n\t\r\u2028é", max_size=120))
def test_random_yaml_punctuation_never_raises_anything_else(text):
    judged(text.encode())


@bounded
@given(st.text(max_size=200))
def test_random_text_never_raises_anything_else(text):
    judged(text.encode(errors="surrogatepass"))


def keys_below(shape: type[BaseModel]) -> set[str]:
    """Return every key that may stand in a mapping of this shape or deeper."""
    found = set(shape.model_fields)
    for field in shape.model_fields.values():
        inner = get_args(field.annotation)[-1] if get_args(field.annotation) else field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            found |= keys_below(inner)
    return found


KEYS = sorted(keys_below(FileShape) | {"kubernetes", "<<", "system-tcp", "", "a.b", "ü"})
LIKELY_WORDS = (
    *("tcp", "udp", "http", "10s", "0s", "1m30s", "9" * 400 + "h", "100%", "10.0.0.1", "::1", "10.0.0.1:80", "[::]:1"),
    *("dns", "random", "consistent_hash", "source_ip", "client_ip", "queue", "v1", "v2", "transparent", "fe80::/64"),
    *("10.0.0.0/8", "10.0.0.1/8", "::/0", "0.0.0.0", "100/s", "9/h", "100Mbps", "1mbps", "125%", "A", "NOERROR", "."),
    *("/x", "200-399", "auto", "enabled", "eth0", "system-tcp", "web", "2026-01-01", "0x10", "/\r\n", "fe80::1%0"),
)
scalars = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=8),
    st.sampled_from(LIKELY_WORDS),
)
structures = st.recursive(
    scalars,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=6),
    max_leaves=40,
)


def nested(**known: st.SearchStrategy[object]) -> st.SearchStrategy[dict[str, object]]:
    """Return mappings with some of the known keys, which hold the right kind of thing or anything."""
    return st.fixed_dictionaries({}, optional={key: value | structures for key, value in known.items()})


def mappings_of(shape: type[BaseModel]) -> st.SearchStrategy[dict[str, object]]:
    """Return mappings of this shape's keys, whose values are of the right structure or anything."""
    known: dict[str, st.SearchStrategy[object]] = {}
    for key, field in shape.model_fields.items():
        origin, inner = get_origin(field.annotation), field.annotation
        if origin in (list, dict):
            inner = get_args(inner)[-1]
        is_shape = isinstance(inner, type) and issubclass(inner, BaseModel)
        value = mappings_of(inner) if is_shape else scalars
        if origin is dict:
            value = st.dictionaries(st.sampled_from(["web", "system-tcp", "a.b", ""]), value, max_size=3)
        known[key] = st.lists(value, max_size=3) if origin is list else value
    return nested(**known)


files_of_real_keys = mappings_of(FileShape)


@bounded
@given(files_of_real_keys, st.none() | structures)
def test_real_keys_with_wrong_values_never_raise_anything_else(first, second):
    contents = [yaml.safe_dump(first, allow_unicode=True).encode()]
    if second is not None:
        contents.append(yaml.safe_dump(second, allow_unicode=True).encode())
    judged(*contents)


@bounded
@given(st.data())
def test_mutations_of_the_example_never_raise_anything_else(data):
    content = bytearray(EXAMPLE)
    for _ in range(data.draw(st.integers(1, 4))):
        at = data.draw(st.integers(0, len(content)))
        cut = data.draw(st.integers(0, 30))
        start = data.draw(st.integers(0, len(content)))
        piece = data.draw(st.binary(max_size=4) | st.just(bytes(content[start : start + 40])))
        content[at : at + cut] = piece
    judged(bytes(content))


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
    )
    sides = st.none() | st.builds(Keepalive, st.integers(1, 32767), st.integers(1, 32767), st.integers(1, 127))
    if protocol is Protocol.TCP:
        return replace(
            service,
            timeouts=draw(tcp_timeouts()),
            limits=draw(limits(protocol, 0)),
            proxy_protocol=draw(st.none() | st.sampled_from(ProxyProtocol)),
            accept_proxy_protocol=draw(NETWORK_LISTS),
            client_keepalive=draw(sides),
            member_keepalive=draw(sides),
        )
    udp = UdpOptions(draw(st.integers(0, 65535)), draw(st.integers(1, 1_000_000)), draw(st.booleans()))
    if udp.per_packet:
        service = replace(service, pool=replace(service.pool, persistence=None))
    return replace(
        service,
        timeouts=Timeouts(idle_s=draw(durations(1000, 604_800_000))),
        limits=draw(limits(protocol, udp.max_flows)),
        proxy_protocol=None if udp.per_packet else draw(st.none() | st.just(ProxyProtocol.V2)),
        udp=udp,
    )


@st.composite
def states(draw: st.DrawFn) -> tuple[DesiredState, list[HealthMonitor]]:
    defined = [draw(monitors(name)) for name in draw(st.lists(NAMES, max_size=3, unique=True))]
    names = draw(st.lists(NAMES, max_size=2, unique=True))
    found = tuple(draw(services(name, 1000 + index, defined)) for index, name in enumerate(names))
    engine = ServiceEngine(draw(NAMES), draw(st.integers(1, 64)), "eth0", draw(durations(0, 86_400_000)))
    listen = draw(st.none() | st.builds(Endpoint, st.just("::1"), st.integers(1, 65535)))
    return DesiredState(draw(st.integers(1)), engine, found, listen, "/run/x"), defined


def in_units(duration_s: float) -> str:
    """Write a duration in as many units as it has."""
    rest_ms = round(duration_s * 1000)
    text = ""
    for unit, unit_ms in (("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)):
        if rest_ms >= unit_ms:
            text += f"{rest_ms // unit_ms}{unit}"
            rest_ms %= unit_ms
    return text or "0s"


MONITOR_KEYS_IN_FILE = {
    MonitorType.PING: (),
    MonitorType.TCP: ("port", "send", "expect"),
    MonitorType.HTTP: ("port", "path", "method", "expect_status", "expect_text"),
    MonitorType.HTTPS: ("port", "path", "method", "expect_status", "expect_text", "verify_tls"),
    MonitorType.UDP: ("port", "send", "expect"),
    MonitorType.DNS: ("port", "query_name", "query_type", "expect_rcode", "expect_answer"),
}


def monitor_in_file(monitor: HealthMonitor) -> dict[str, object]:
    written: dict[str, object] = {
        "type": str(monitor.type),
        "interval": in_units(monitor.interval_s),
        "timeout": in_units(monitor.timeout_s),
        "rise": monitor.rise,
        "fall": monitor.fall,
        "jitter": f"{round(monitor.jitter * 100)}%",
    }
    for key in MONITOR_KEYS_IN_FILE[monitor.type]:
        value = getattr(monitor, key)
        if isinstance(value, bytes):
            written[key] = value.decode()
        elif isinstance(value, tuple):
            written[key] = [
                one.first if isinstance(one, StatusRange) and one.first == one.last else str(one) for one in value
            ]
        elif value is not None:
            written[key] = value
    return written


def without(written: dict[str, object], *absent: object) -> dict[str, object]:
    """Leave out keys whose value can't be written, and means that the key is absent."""
    return {key: value for key, value in written.items() if value not in absent}


def in_percent(percent: float) -> str:
    return f"{percent:.3f}".rstrip("0").rstrip(".") + "%"


def pool_in_file(pool: Pool) -> dict[str, object]:
    persistence, outliers = pool.persistence, pool.outlier_detection
    hashed = pool.algorithm is Algorithm.CONSISTENT_HASH
    written: dict[str, object] = {
        "algorithm": str(pool.algorithm),
        "hash": str(pool.hash_key) if hashed else None,
        "max_load": in_percent(pool.max_load_percent) if pool.max_load_percent else None,
        "slow_start": in_units(pool.slow_start_s),
        "on_all_down": str(pool.on_all_down),
        "min_members_up": pool.min_members_up,
        "panic_threshold": in_percent(pool.panic_threshold_percent),
        "drain_timeout": None if pool.drain_timeout_s is None else in_units(pool.drain_timeout_s),
        "health_monitors": [one.name for one in pool.health_monitors],
        "members": [
            without(
                {
                    "address": member.endpoint.address,
                    "port": member.endpoint.port,
                    "weight": member.weight,
                    "admin_state": str(member.admin_state),
                    "backup": member.backup,
                    "max_connections": member.max_connections or None,
                },
                None,
            )
            for member in pool.members
        ],
        "persistence": persistence
        and {
            "type": "client_ip",
            "timeout": in_units(persistence.timeout_s),
            "ipv4_prefix": persistence.ipv4_prefix,
            "ipv6_prefix": persistence.ipv6_prefix,
            "max_entries": persistence.max_entries,
            "on_member_down": str(persistence.on_member_down),
        },
        "outlier_detection": outliers
        and {
            "consecutive_failures": outliers.consecutive_failures,
            "base_ejection_time": in_units(outliers.base_ejection_s),
            "max_ejection_time": in_units(outliers.max_ejection_s),
            "max_ejected": in_percent(outliers.max_ejected_percent),
        },
    }
    if hashed and pool.hash_key is HashKey.SOURCE_IP_PORT:
        del written["algorithm"]  # a hash says enough
    return without(written, None)


def limits_in_file(limits: Limits) -> dict[str, object]:
    is_queue = limits.on_limit is OnLimit.QUEUE
    written = {
        "max_connections": limits.max_connections or None,
        "on_limit": str(limits.on_limit),
        "queue_length": limits.queue_length if is_queue else None,
        "queue_timeout": in_units(limits.queue_timeout_s) if is_queue else None,
        "max_connections_per_client": limits.max_connections_per_client or None,
        "connection_rate": f"{limits.connection_rate:.0f}/s" if limits.connection_rate else None,
        "connection_rate_per_client": (
            f"{limits.connection_rate_per_client * 60:.0f}/m" if limits.connection_rate_per_client else None
        ),
        "max_throughput": f"{limits.max_throughput_bps}bps" if limits.max_throughput_bps else None,
    }
    return without(written, None)


def keepalive_in_file(keepalive: Keepalive | None) -> dict[str, object] | None:
    return keepalive and {
        "idle": in_units(keepalive.idle_s),
        "interval": in_units(keepalive.interval_s),
        "probes": keepalive.probes,
    }


def service_in_file(service: VirtualService) -> dict[str, object]:
    timeouts = service.timeouts
    written: dict[str, object] = {
        "name": service.name,
        "vip": service.vip,
        "port": service.port,
        "protocol": str(service.protocol),
        "admin_state": str(service.admin_state),
        "source": str(service.source),
        "proxy_protocol": service.proxy_protocol and str(service.proxy_protocol),
        "source_ranges": list(service.source_ranges) or None,
        "limits": limits_in_file(service.limits),
        "pool": pool_in_file(service.pool),
    }
    if service.protocol is Protocol.UDP:
        udp = service.udp
        written["timeouts"] = {"idle": in_units(timeouts.idle_s)}
        written["udp"] = {"responses": udp.responses, "max_flows": udp.max_flows, "per_packet": udp.per_packet}
        return without(written, None)
    sides = {"client": service.client_keepalive, "member": service.member_keepalive}
    written["keepalive"] = without({side: keepalive_in_file(one) for side, one in sides.items()}, None) or None
    written["accept_proxy_protocol"] = list(service.accept_proxy_protocol) or None
    written["timeouts"] = without(
        {
            "connect": in_units(timeouts.connect_s),
            "idle": in_units(timeouts.idle_s),
            "client_half_closed": in_units(timeouts.client_half_closed_s),
            "member_half_closed": in_units(timeouts.member_half_closed_s),
            "client_user": in_units(timeouts.client_user_s),
            "member_user": in_units(timeouts.member_user_s),
            "lifetime": in_units(timeouts.lifetime_s),
            "lifetime_jitter": f"{round(timeouts.lifetime_jitter * 100)}%" if timeouts.lifetime_s else None,
        },
        None,
    )
    return without(written, None)


def in_file(state: DesiredState, defined: list[HealthMonitor]) -> dict[str, object]:
    engine = state.service_engine
    return {
        "service_engine": {
            "name": engine.name,
            "workers": engine.workers,
            "frontend_interface": engine.frontend_interface,
            "drain_timeout": in_units(engine.drain_timeout_s),
        },
        "metrics": {"listen": str(state.metrics_listen) if state.metrics_listen else "off"},
        "admin": {"socket": state.admin_socket},
        "health_monitors": {monitor.name: monitor_in_file(monitor) for monitor in defined},
        "virtual_services": [service_in_file(service) for service in state.virtual_services],
    }


@settings(bounded, max_examples=60)
@given(states(), st.booleans(), st.booleans())
def test_good_configuration_loads_to_what_it_says_however_it_is_written(drawn, flow, split):
    state, defined = drawn
    written = in_file(state, defined)
    parts = [written]
    if split:
        names = ("health_monitors", "metrics")
        parts = [{key: value for key, value in written.items() if (key in names) is chosen} for chosen in (False, True)]
    contents = [yaml.safe_dump(part, default_flow_style=flow, allow_unicode=flow).encode() for part in parts]
    first = judged(*contents, generation=state.generation)
    assert first == state
    assert judged(*contents, generation=state.generation) == first
