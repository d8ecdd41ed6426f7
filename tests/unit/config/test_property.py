"""Whatever the file: never a traceback; and every good configuration that can be generated loads to what it says."""

from __future__ import annotations

import re
import tempfile
from pathlib import Path

import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lbd.config import ConfigErrors, load
from lbd.config.schema import FileShape, MemberShape, MonitorShape, PoolShape, ServiceEngineShape, VirtualServiceShape
from lbd.model.address import Endpoint
from lbd.model.desired import (
    AdminState,
    Algorithm,
    DesiredState,
    HealthMonitor,
    Member,
    MonitorType,
    OnAllDown,
    Pool,
    ServiceEngine,
    StatusRange,
    Timeouts,
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


KEYS = sorted(
    {
        key
        for shape in (FileShape, ServiceEngineShape, MonitorShape, MemberShape, PoolShape, VirtualServiceShape)
        for key in shape.model_fields
    }
    | {"listen", "socket", "connect", "idle", "kubernetes", "<<", "system-tcp", "", "a.b", "ü"}
)
LIKELY_WORDS = (
    *("tcp", "udp", "http", "10s", "0s", "1m30s", "9" * 400 + "h", "100%", "10.0.0.1", "::1", "10.0.0.1:80", "[::]:1"),
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


members = st.lists(nested(address=scalars, port=scalars, weight=scalars, admin_state=scalars), max_size=3)
files_of_real_keys = nested(
    service_engine=nested(**dict.fromkeys(ServiceEngineShape.model_fields, scalars)),
    metrics=nested(listen=scalars),
    admin=nested(socket=scalars),
    health_monitors=st.dictionaries(
        st.sampled_from(["web", "system-tcp", "a.b", ""]), nested(**dict.fromkeys(MonitorShape.model_fields, scalars))
    ),
    virtual_services=st.lists(
        nested(
            name=scalars,
            vip=scalars,
            port=scalars,
            protocol=scalars,
            timeouts=nested(connect=scalars, idle=scalars),
            pool=nested(
                algorithm=scalars, slow_start=scalars, health_monitors=st.lists(scalars, max_size=3), members=members
            ),
        ),
        max_size=3,
    ),
)


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
    if kind is MonitorType.TCP:
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


@st.composite
def pools(draw: st.DrawFn, defined: list[HealthMonitor]) -> Pool:
    # VIPs are drawn from other ranges than members, so that none is both.
    v4 = st.integers(0x0A000001, 0x0AFFFFFF).map(
        lambda number: f"10.{number >> 16 & 255}.{number >> 8 & 255}.{number & 255}"
    )
    v6 = st.integers(1, 0xFFFF).map(lambda number: f"2001:db8::{number:x}")
    endpoints = st.builds(Endpoint, v4 | v6, st.integers(1, 65535))
    pool = Pool(
        members=tuple(
            Member(endpoint, draw(st.integers(1, 1000)), draw(st.sampled_from(AdminState)))
            for endpoint in draw(st.lists(endpoints, min_size=1, max_size=4, unique=True))
        ),
        algorithm=draw(st.sampled_from(Algorithm)),
        slow_start_s=draw(durations(0, 3_600_000)),
        on_all_down=draw(st.sampled_from(OnAllDown)),
    )
    if not defined:
        return pool
    chosen = draw(st.lists(st.sampled_from(defined), min_size=1, unique=True))
    return Pool(pool.members, pool.algorithm, tuple(chosen), pool.slow_start_s, pool.on_all_down)


@st.composite
def states(draw: st.DrawFn) -> tuple[DesiredState, list[HealthMonitor]]:
    defined = [draw(monitors(name)) for name in draw(st.lists(NAMES, max_size=3, unique=True))]
    services = tuple(
        VirtualService(
            name,
            draw(st.sampled_from(["192.0.2.1", "192.0.2.2", "2001:db8:1::1"])),
            1000 + index,
            draw(pools(defined)),
            timeouts=Timeouts(draw(durations(10, 300_000)), draw(durations(1000, 604_800_000))),
            admin_state=draw(st.sampled_from(AdminState)),
        )
        for index, name in enumerate(draw(st.lists(NAMES, max_size=3, unique=True)))
    )
    engine = ServiceEngine(draw(NAMES), draw(st.integers(1, 64)), "eth0", draw(durations(0, 86_400_000)))
    listen = draw(st.none() | st.builds(Endpoint, st.just("::1"), st.integers(1, 65535)))
    return DesiredState(draw(st.integers(1)), engine, services, listen, "/run/x"), defined


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
            written[key] = [str(one) if one.first != one.last else one.first for one in value]
        elif value is not None:
            written[key] = value
    return written


def service_in_file(service: VirtualService) -> dict[str, object]:
    pool = service.pool
    members = [
        {
            "address": member.endpoint.address,
            "port": member.endpoint.port,
            "weight": member.weight,
            "admin_state": str(member.admin_state),
        }
        for member in pool.members
    ]
    return {
        "name": service.name,
        "vip": service.vip,
        "port": service.port,
        "admin_state": str(service.admin_state),
        "timeouts": {"connect": in_units(service.timeouts.connect_s), "idle": in_units(service.timeouts.idle_s)},
        "pool": {
            "algorithm": str(pool.algorithm),
            "slow_start": in_units(pool.slow_start_s),
            "on_all_down": str(pool.on_all_down),
            "health_monitors": [monitor.name for monitor in pool.health_monitors],
            "members": members,
        },
    }


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
