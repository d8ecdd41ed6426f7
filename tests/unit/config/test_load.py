"""Good configurations and the desired state that they mean; the example and the reference; how long loading takes."""

from __future__ import annotations

import os
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import get_args, get_origin

import pytest
from pydantic import BaseModel

from lbd.config import load, loader
from lbd.config.kubernetes_scalars import ProfileType
from lbd.config.rules_monitors import MONITOR_KEYS
from lbd.config.rules_profiles import PROFILE_KEYS
from lbd.config.schema import FileShape
from lbd.config.shapes import (
    ClientLogsShape,
    KeepaliveShape,
    LimitsShape,
    MemberShape,
    MonitorShape,
    OutlierDetectionShape,
    PersistenceShape,
    PoolShape,
    UdpShape,
    VirtualServiceShape,
)
from lbd.config.shapes_kubernetes import ProfileShape
from lbd.config.tree import parse, plain
from lbd.model.address import Endpoint
from lbd.model.desired import (
    SYSTEM_MONITORS,
    UDP_IDLE_S,
    AdminState,
    Algorithm,
    DesiredState,
    HealthMonitor,
    Keepalive,
    Member,
    MonitorType,
    OnAllDown,
    Pool,
    ServiceEngine,
    StatusRange,
    Timeouts,
    VirtualService,
)
from lbd.model.kubernetes import (
    SYSTEM_PROFILES,
    AddressPool,
    AnalyticsProfile,
    ApplicationProfile,
    Kubernetes,
    NetworkProfile,
    NetworkSecurityPolicy,
    PersistenceProfile,
)

ROOT = Path(__file__).parents[3]
EXAMPLE = ROOT / "config" / "lbd.yaml"
KUBERNETES = ROOT / "config" / "kubernetes.yaml"
REFERENCE = ROOT / "docs" / "reference" / "configuration.md"

EVERYTHING = """\
service_engine: {name: se-a, workers: 3, frontend_interface: ens192, drain_timeout: 1m30s}
metrics: {listen: "[2001:db8::9]:9407"}
admin: {socket: /tmp/lbd.sock}
health_monitors:
  line:
    {type: tcp, interval: 10s, timeout: 250ms, rise: 1, fall: 5, jitter: 20%,
     port: 81, send: "PING\\r\\n", expect: PONG}
  page:
    type: https
    path: /healthz?full=1
    host: shop.example
    method: OPTIONS
    expect_status: [204, 300-399]
    expect_text: ok
    verify_tls: true
virtual_services:
  - name: web
    vip: 172.16.101.150
    port: 80
    protocol: tcp
    admin_state: draining
    pool:
      algorithm: consistent_hash
      slow_start: 30s
      on_all_down: serve_all
      health_monitors: [page, system-ping, line]
      members:
        - {address: 10.10.52.12, port: 80, weight: 1000, admin_state: disabled}
        - {address: 10.10.52.11, port: 80}
    timeouts: {connect: 500ms, idle: 1h}
"""


def test_every_key_reaches_the_model(load_text):
    page = HealthMonitor(
        name="page",
        type=MonitorType.HTTPS,
        path="/healthz?full=1",
        host="shop.example",
        method="OPTIONS",
        expect_status=(StatusRange(204, 204), StatusRange(300, 399)),
        expect_text="ok",
        verify_tls=True,
    )
    line = HealthMonitor(
        name="line",
        type=MonitorType.TCP,
        interval_s=10.0,
        timeout_s=0.25,
        rise=1,
        fall=5,
        jitter=0.2,
        port=81,
        send=b"PING\r\n",
        expect=b"PONG",
    )
    pool = Pool(
        members=(
            Member(Endpoint("10.10.52.12", 80), 1000, AdminState.DISABLED),
            Member(Endpoint("10.10.52.11", 80)),
        ),
        algorithm=Algorithm.CONSISTENT_HASH,
        health_monitors=(page, SYSTEM_MONITORS[1], line),
        slow_start_s=30.0,
        on_all_down=OnAllDown.SERVE_ALL,
    )
    assert load_text(EVERYTHING) == DesiredState(
        generation=1,
        service_engine=ServiceEngine("se-a", 3, "ens192", 90.0),
        virtual_services=(
            VirtualService(
                "web", "172.16.101.150", 80, pool, timeouts=Timeouts(0.5, 3600.0), admin_state=AdminState.DRAINING
            ),
        ),
        metrics_listen=Endpoint("2001:db8::9", 9407),
        admin_socket="/tmp/lbd.sock",
    )


def test_what_is_not_written_is_the_models_default(load_text):
    desired = load_text(
        "service_engine: {frontend_interface: eth0}\n"
        "health_monitors: {t: {type: tcp}, h: {type: http}, p: {type: ping}}\n"
        "virtual_services:\n- name: web\n  vip: 10.0.0.1\n  port: 80\n  pool:\n    health_monitors: [t, h, p]\n"
        "    members: [{address: 10.1.0.1, port: 80}]\n"
    )
    monitors = tuple(HealthMonitor(kind[0], kind) for kind in (MonitorType.TCP, MonitorType.HTTP, MonitorType.PING))
    pool = Pool((Member(Endpoint("10.1.0.1", 80)),), health_monitors=monitors)
    assert desired == DesiredState(
        1,
        ServiceEngine(os.uname().nodename, len(os.sched_getaffinity(0)), "eth0"),
        (VirtualService("web", "10.0.0.1", 80, pool),),
    )


def test_pool_without_monitors_gets_system_tcp(load_text):
    desired = load_text(EVERYTHING.replace("health_monitors: [page, system-ping, line]", "health_monitors: []"))
    assert [monitor.name for monitor in desired.virtual_services[0].pool.health_monitors] == ["system-tcp"]
    desired = load_text(EVERYTHING.replace("      health_monitors: [page, system-ping, line]\n", ""))
    assert [monitor.name for monitor in desired.virtual_services[0].pool.health_monitors] == ["system-tcp"]


def test_members_may_have_another_address_family_than_their_vip(load_text):
    desired = load_text(EVERYTHING.replace("10.10.52.11", "2001:db8:52::11"))
    service = desired.virtual_services[0]
    assert service.family == 4
    assert {member.endpoint.family for member in service.pool.members} == {4, 6}


def test_short_interval_shortens_the_timeout_that_is_not_written(load_text):
    desired = load_text(EVERYTHING.replace("type: https\n", "type: https\n    interval: 1s\n"))
    assert desired.virtual_services[0].pool.health_monitors[0].timeout_s == 1.0


def test_metrics_can_be_off(load_text):
    assert load_text(EVERYTHING.replace('"[2001:db8::9]:9407"', "off")).metrics_listen is None


def test_service_engine_alone_and_no_sections_at_all_are_good(load_text):
    assert load_text("service_engine: {}\n").virtual_services == ()
    assert load_text("{}\n").service_engine.frontend_interface == ""


@pytest.mark.parametrize(("processors", "workers"), [(200, 64), (1, 1)])
def test_workers_follow_the_processors_that_the_process_may_use(load_text, monkeypatch, processors, workers):
    loader.processors.cache_clear()
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(processors)))
    assert load_text("{}\n").service_engine.workers == workers
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: {3, 4, 5})
    assert load_text("{}\n").service_engine.workers == workers  # a reload sees what the start saw
    loader.processors.cache_clear()


def test_host_name_that_is_no_name_must_be_replaced(errors_of, load_text, monkeypatch):
    class Uname:
        nodename = "(none)"

    monkeypatch.setattr(loader.os, "uname", Uname)
    (line,) = errors_of("service_engine: {}\n")
    assert line.startswith(
        "lbd.yaml:1:17: service_engine.name: is required, because the host name can't stand in for it: "
        '"(none)" is not a name'
    )
    assert load_text("service_engine: {name: a}\n").service_engine.name == "a"


def test_loading_twice_gives_the_same(write):
    paths = write({"lbd.yaml": EVERYTHING})
    assert load(paths, 1) == load(paths, 1)


def keys_of(shape: type[BaseModel], path: tuple[str | int, ...] = ()) -> set[tuple[str | int, ...]]:
    """Return the location of each key that can be written at `path` or below, with 0 and `*` for list and names."""
    found = set()
    for key, field in shape.model_fields.items():
        inner, here = field.annotation, (*path, key)
        found.add(here)
        if get_origin(inner) in (list, dict):
            here = (*here, 0 if get_origin(inner) is list else "*")
            inner = get_args(inner)[-1]
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            found |= keys_of(inner, here)
    return found


def test_example_is_accepted():
    desired = load([EXAMPLE], 1)
    assert [service.vip for service in desired.virtual_services] == [
        "172.16.101.150",
        "172.16.101.151",
        "2001:db8:101::151",
        "172.16.101.150",
    ]


def test_examples_are_accepted_together():
    desired = load([EXAMPLE, KUBERNETES], 1)
    assert desired.kubernetes is not None
    assert [pool.name for pool in desired.kubernetes.address_pools] == ["frontend"]


def test_examples_with_their_commented_keys_are_accepted_and_show_every_key(tmp_path):
    paths, shown = [], set()
    for example in (EXAMPLE, KUBERNETES):
        # A commented key is `# key: value`: two blanks more would be prose.
        full = re.sub(r"(?m)^( +)# ([a-z_]+: )", r"\1\2", example.read_text())
        assert full != example.read_text()
        path = tmp_path / example.name
        path.write_text(full)
        paths.append(path)
        root, _errors = parse(full, example.name)
        shown |= shown_keys(plain(root), ())
    load(paths, 1)
    assert keys_of(FileShape) - shown == set()


def shown_keys(value: object, path: tuple[str | int, ...]) -> set[tuple[str | int, ...]]:
    found: set[tuple[str | int, ...]] = set()
    if isinstance(value, dict):
        for key, below in value.items():
            part = "*" if path in (("health_monitors",), ("address_pools",), ("profiles",)) else key
            found |= {(*path, part)} | shown_keys(below, (*path, part))
    elif isinstance(value, list):
        for item in value:
            found |= shown_keys(item, (*path, 0))
    return found


def test_values_in_the_example_of_a_cluster_are_the_models_defaults_where_it_says_so():
    cluster = load([EXAMPLE, KUBERNETES], 1).kubernetes
    assert cluster is not None
    pool, profiles = cluster.address_pools[0], cluster.profiles[len(SYSTEM_PROFILES) :]
    assert replace(cluster, pod_routes=False) == Kubernetes(
        "/etc/lbd/kubeconfig",
        address_pools=cluster.address_pools,
        profiles=cluster.profiles,
        health_monitors=cluster.health_monitors,
    )
    assert pool == AddressPool("frontend", pool.ranges)
    assert profiles == (
        PersistenceProfile("Sticky"),
        ApplicationProfile("Custom-L4-Application-Profile"),
        NetworkProfile("patient", client_keepalive=Keepalive(), member_keepalive=Keepalive()),
        AnalyticsProfile("custom-analytics"),
        NetworkSecurityPolicy("office", ("10.0.0.0/8", "2001:db8::/32")),
    )


def test_values_in_the_example_are_the_defaults_where_it_says_so():
    root, _errors = parse(EXAMPLE.read_text(), "lbd.yaml")
    written = plain(root)
    shape = FileShape.model_validate(written)
    default = FileShape()
    assert shape.metrics == default.metrics
    assert shape.admin == default.admin
    assert shape.service_engine == default.service_engine.model_copy(update={"frontend_interface": "ens192"})
    for monitor in shape.health_monitors.values():
        assert monitor == MonitorShape(type=str(monitor.type))
    web = shape.virtual_services[0]
    assert web.timeouts == VirtualServiceShape.model_fields["timeouts"].default
    assert web.source == VirtualServiceShape.model_fields["source"].default
    for key in ("algorithm", "slow_start", "on_all_down", "min_members_up", "panic_threshold"):
        assert getattr(web.pool, key) == PoolShape.model_fields[key].default
    for member in web.pool.members:
        assert member == MemberShape(address=member.address, port=member.port)
    shop, dns = shape.virtual_services[1], shape.virtual_services[3]
    assert shop.limits == LimitsShape(max_connections=10000, on_limit="queue")
    assert shop.keepalive == KeepaliveShape()
    assert shop.client_logs == ClientLogsShape()
    assert shop.pool.persistence == PersistenceShape(type="client_ip")
    assert shop.pool.outlier_detection == OutlierDetectionShape()
    assert dns.udp == UdpShape(responses=1)
    assert dns.timeouts.idle == UDP_IDLE_S


def heading_of(path: tuple[str | int, ...]) -> str:
    """Return how the reference calls the mapping at a location."""
    names = {0: "[]", "*": ".NAME"}
    return "".join(names.get(part, f".{part}") for part in path).removeprefix(".") or "Top level"


def test_reference_has_exactly_a_row_for_every_key_of_each_section():
    rows: dict[str, set[str]] = {}
    for section in re.split(r"(?m)^##+ ", REFERENCE.read_text())[1:]:
        heading, _newline, body = section.partition("\n")
        # Other tables of a section have another first column.
        table = body.partition("| key |")[2].partition("\n\n")[0]
        for name in re.findall(r"`([^`]+)`", heading) or [heading]:
            rows[name] = set(re.findall(r"(?m)^\| `([a-z0-9_]+)` \|", table))
    wanted: dict[str, set[str]] = {}
    for path in keys_of(FileShape):
        wanted.setdefault(heading_of(path[:-1]), set()).add(str(path[-1]))
    assert rows == wanted


def test_every_key_of_a_profile_belongs_to_a_type():
    assert set().union(*PROFILE_KEYS.values()) == set(ProfileShape.model_fields)
    assert set(PROFILE_KEYS) == set(ProfileType)


def test_every_key_of_a_monitor_belongs_to_a_type():
    assert set().union(*MONITOR_KEYS.values()) == set(MonitorShape.model_fields)


def test_500_services_of_10_members_load_in_less_than_2_seconds(load_text):
    text = "service_engine: {frontend_interface: eth0}\nvirtual_services:\n"
    for number in range(500):
        text += f"  - name: s{number}\n    vip: 10.0.{number // 250}.{number % 250 + 1}\n    port: 80\n"
        text += "    pool:\n      members:\n"
        for member in range(10):
            text += f"        - {{address: 10.{member + 1}.{number // 250}.{number % 250}, port: 80, weight: 1}}\n"
    started_s = time.process_time()
    desired = load_text(text)
    assert time.process_time() - started_s < 2
    assert sum(len(service.pool.members) for service in desired.virtual_services) == 5000


def test_one_gateway_or_one_of_each_family(load_text):
    def gateways(written):
        return load_text(f"service_engine: {{frontend_gateway: {written}}}\n").service_engine.frontend_gateways

    assert load_text("{}\n").service_engine.frontend_gateways == ()
    assert gateways("172.16.101.1") == ("172.16.101.1",)
    assert gateways('"FE80::0:1"') == ("fe80::1",)
    assert gateways('[172.16.101.1, "2001:db8::1"]') == ("172.16.101.1", "2001:db8::1")
