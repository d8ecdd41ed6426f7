"""Each key of a virtual service and its pool, and what it becomes; what the keys that are not written become."""

from __future__ import annotations

import pytest

from lbd.config.schema import FileShape
from lbd.model.address import Endpoint
from lbd.model.desired import (
    SYSTEM_MONITORS,
    UDP_IDLE_S,
    Algorithm,
    Bulk,
    HashKey,
    HealthMonitor,
    Keepalive,
    Limits,
    Member,
    MonitorType,
    OnLimit,
    OnMemberDown,
    OutlierDetection,
    Persistence,
    Pool,
    Protocol,
    ProxyProtocol,
    Source,
    Timeouts,
    UdpOptions,
    VirtualService,
)

TCP = """\
service_engine: {name: se-a, frontend_interface: ens192}
virtual_services:
  - name: web
    vip: 172.16.101.150
    port: 80
    protocol: tcp
    source: transparent
    bulk: splice
    proxy_protocol: v1
    accept_proxy_protocol: [172.16.0.0/12, 2001:DB8::7]
    source_ranges: [10.0.0.0/8, 192.0.2.7, "2001:db8:0::/64"]
    limits:
      max_connections: 105
      on_limit: queue
      queue_length: 7
      queue_timeout: 250ms
      max_connections_per_client: 105
      connection_rate: 6000/m
      connection_rate_per_client: 10/s
      max_throughput: 100Mbps
    timeouts:
      connect: 500ms
      idle: 1h
      client_half_closed: 30s
      member_half_closed: 40s
      client_user: 1500ms
      member_user: 20s
      lifetime: 24h
      lifetime_jitter: 25%
    keepalive:
      client: {idle: 2m, interval: 20s, probes: 3}
      member: {idle: 1s, interval: 2s, probes: 127}
    pool:
      algorithm: consistent_hash
      hash: source_ip_port
      max_load: 125%
      persistence:
        type: client_ip
        timeout: 30m
        ipv4_prefix: 24
        ipv6_prefix: 64
        max_entries: 1000000
        on_member_down: keep
      outlier_detection:
        consecutive_failures: 3
        base_ejection_time: 10s
        max_ejection_time: 1m
        max_ejected: 50%
      min_members_up: 2
      panic_threshold: 12.5%
      drain_timeout: 90s
      members:
        - {address: 10.10.52.11, port: 80, max_connections: 50}
        - {address: 10.10.52.12, port: 80, backup: true}
"""

UDP = """\
service_engine: {frontend_interface: ens192}
health_monitors:
  ask:
    type: dns
    port: 5353
    query_name: www.example.
    query_type: AAAA
    expect_rcode: [NOERROR, NXDOMAIN]
    expect_answer: 2001:db8::1
  ping-pong: {type: udp, port: 53, send: ping, expect: pong}
virtual_services:
  - name: dns
    vip: 172.16.101.150
    port: 80
    protocol: udp
    proxy_protocol: v2
    limits: {max_connections: 100, max_throughput: 1Gbps}
    timeouts: {idle: 5s}
    udp: {responses: 1, max_flows: 100, per_packet: false}
    pool:
      algorithm: random
      health_monitors: [ask, ping-pong, system-tcp]
      members: [{address: 10.10.52.11, port: 53}]
"""


def test_every_key_of_a_tcp_service_reaches_the_model(load_text):
    pool = Pool(
        members=(
            Member(Endpoint("10.10.52.11", 80), max_connections=50),
            Member(Endpoint("10.10.52.12", 80), backup=True),
        ),
        algorithm=Algorithm.CONSISTENT_HASH,
        hash_key=HashKey.SOURCE_IP_PORT,
        max_load_percent=125.0,
        persistence=Persistence(1800.0, 24, 64, 1_000_000, OnMemberDown.KEEP),
        outlier_detection=OutlierDetection(3, 10.0, 60.0, 50.0),
        min_members_up=2,
        panic_threshold_percent=12.5,
        drain_timeout_s=90.0,
    )
    assert load_text(TCP).virtual_services == (
        VirtualService(
            "web",
            "172.16.101.150",
            80,
            pool,
            timeouts=Timeouts(0.5, 3600.0, 30.0, 40.0, 1.5, 20.0, 86400.0, 0.25),
            source=Source.TRANSPARENT,
            proxy_protocol=ProxyProtocol.V1,
            accept_proxy_protocol=("172.16.0.0/12", "2001:db8::7/128"),
            source_ranges=("10.0.0.0/8", "192.0.2.7/32", "2001:db8::/64"),
            limits=Limits(105, OnLimit.QUEUE, 7, 0.25, 105, 100.0, 10.0, 100_000_000),
            client_keepalive=Keepalive(120, 20, 3),
            member_keepalive=Keepalive(1, 2, 127),
            bulk=Bulk.SPLICE,
        ),
    )


def test_every_key_of_a_udp_service_reaches_the_model(load_text):
    ask = HealthMonitor(
        "ask",
        MonitorType.DNS,
        port=5353,
        query_name="www.example.",
        query_type="AAAA",
        expect_rcode=("NOERROR", "NXDOMAIN"),
        expect_answer="2001:db8::1",
    )
    ping_pong = HealthMonitor("ping-pong", MonitorType.UDP, port=53, send=b"ping", expect=b"pong")
    pool = Pool(
        members=(Member(Endpoint("10.10.52.11", 53)),),
        algorithm=Algorithm.RANDOM,
        health_monitors=(ask, ping_pong, SYSTEM_MONITORS[0]),
    )
    assert load_text(UDP).virtual_services == (
        VirtualService(
            "dns",
            "172.16.101.150",
            80,
            pool,
            Protocol.UDP,
            timeouts=Timeouts(idle_s=5.0),
            proxy_protocol=ProxyProtocol.V2,
            limits=Limits(max_connections=100, max_throughput_bps=10**9),
            udp=UdpOptions(responses=1, max_flows=100),
        ),
    )


def test_defaults_of_the_shapes_are_the_models(load_text):
    desired = load_text(
        "service_engine: {frontend_interface: eth0}\n"
        "health_monitors: {d: {type: dns}, u: {type: udp}}\n"
        "virtual_services:\n- name: web\n  vip: 10.0.0.1\n  port: 80\n  limits: {}\n  timeouts: {}\n"
        "  keepalive: {client: {}, member: {}}\n  pool:\n    health_monitors: [d, u]\n"
        "    persistence: {type: client_ip}\n    outlier_detection: {}\n"
        "    members: [{address: 10.1.0.1, port: 80}]\n"
    )
    pool = Pool(
        (Member(Endpoint("10.1.0.1", 80)),),
        health_monitors=(HealthMonitor("d", MonitorType.DNS), HealthMonitor("u", MonitorType.UDP)),
        persistence=Persistence(),
        outlier_detection=OutlierDetection(),
    )
    (service,) = desired.virtual_services
    both = {"client_keepalive": Keepalive(), "member_keepalive": Keepalive()}
    assert service == VirtualService("web", "10.0.0.1", 80, pool, **both)


def service(pool: str = "", keys: str = "", protocol: str = "tcp") -> str:
    return (
        "service_engine: {frontend_interface: eth0}\nvirtual_services:\n"
        f"- {{name: a, vip: 10.0.0.1, port: 80, protocol: {protocol}, {keys}"
        f"pool: {{{pool}members: [{{address: 10.1.0.1, port: 80}}]}}}}\n"
    )


def test_udp_service_has_defaults_of_its_own(load_text):
    (udp,) = load_text(service(protocol="udp")).virtual_services
    assert udp.timeouts == Timeouts(idle_s=UDP_IDLE_S)
    assert udp.udp == UdpOptions()
    assert [monitor.name for monitor in udp.pool.health_monitors] == ["system-udp"]
    (udp,) = load_text(service("health_monitors: [], ", protocol="udp")).virtual_services
    assert [monitor.name for monitor in udp.pool.health_monitors] == ["system-udp"]


def test_idle_of_udp_may_be_that_of_tcp(load_text):
    (udp,) = load_text(service(keys="timeouts: {idle: 10m}, ", protocol="udp")).virtual_services
    assert udp.timeouts.idle_s == 600.0


@pytest.mark.parametrize(
    ("written", "algorithm", "key"),
    [
        ("", Algorithm.ROUND_ROBIN, HashKey.SOURCE_IP),
        ("hash: source_ip, ", Algorithm.CONSISTENT_HASH, HashKey.SOURCE_IP),
        ("hash: source_ip_port, ", Algorithm.CONSISTENT_HASH, HashKey.SOURCE_IP_PORT),
        ("algorithm: consistent_hash, ", Algorithm.CONSISTENT_HASH, HashKey.SOURCE_IP),
        ("hash: source_ip_port, max_load: 101%, ", Algorithm.CONSISTENT_HASH, HashKey.SOURCE_IP_PORT),
        ("algorithm: fastest_response, ", Algorithm.FASTEST_RESPONSE, HashKey.SOURCE_IP),
    ],
)
def test_hash_alone_means_consistent_hash(load_text, written, algorithm, key):
    pool = load_text(service(written)).virtual_services[0].pool
    assert (pool.algorithm, pool.hash_key) == (algorithm, key)


@pytest.mark.parametrize(
    ("written", "first_s", "longest_s"),
    [
        ("", 30.0, 300.0),
        ("base_ejection_time: 10m", 600.0, 600.0),
        ("base_ejection_time: 1m", 60.0, 300.0),
        ("max_ejection_time: 30s", 30.0, 30.0),
    ],
)
def test_long_first_ejection_lengthens_the_longest_that_is_not_written(load_text, written, first_s, longest_s):
    pool = load_text(service(f"outlier_detection: {{{written}}}, ")).virtual_services[0].pool
    assert pool.outlier_detection == OutlierDetection(base_ejection_s=first_s, max_ejection_s=longest_s)


def test_keepalive_is_toward_the_written_side_only(load_text):
    (one,) = load_text(service(keys="keepalive: {member: {idle: 5s}}, ")).virtual_services
    assert (one.client_keepalive, one.member_keepalive) == (None, Keepalive(idle_s=5))


def test_timeouts_can_be_switched_off(load_text):
    off = "client_half_closed: 0s, member_half_closed: 0s, client_user: 0s, member_user: 0s, lifetime: 0s"
    (one,) = load_text(service(keys=f"timeouts: {{{off}}}, ")).virtual_services
    assert one.timeouts == Timeouts()


def test_drain_timeout_of_0s_is_at_once_and_not_never(load_text):
    assert load_text(service("drain_timeout: 0s, ")).virtual_services[0].pool.drain_timeout_s == 0.0


def test_tcp_and_udp_share_a_vip_and_port_and_udp_one_with_the_metrics(load_text):
    text = service() + service().splitlines()[2].replace("name: a", "name: b").replace("tcp", "udp") + "\n"
    desired = load_text(text)
    assert [one.protocol for one in desired.virtual_services] == [Protocol.TCP, Protocol.UDP]
    (udp,) = load_text(service(protocol="udp") + "metrics: {listen: 0.0.0.0:80}\n").virtual_services
    assert udp.port == 80


def test_persistence_may_go_with_any_algorithm_and_either_protocol(load_text):
    for algorithm in Algorithm:
        for protocol in Protocol:
            if (algorithm, protocol) == (Algorithm.FASTEST_RESPONSE, Protocol.UDP):
                continue
            text = service(f"algorithm: {algorithm}, persistence: {{type: client_ip}}, ", protocol=protocol)
            assert load_text(text).virtual_services[0].pool.persistence == Persistence()


def test_sections_that_are_not_written_are_no_values_of_the_shape():
    # `persistence: ` and `outlier_detection: ` must be errors and never mean what the absent key means.
    pool = {"members": [{"address": "10.1.0.1", "port": 80}]}
    shape = FileShape.model_validate({"virtual_services": [{"name": "a", "vip": "10.0.0.1", "port": 80, "pool": pool}]})
    assert not shape.virtual_services[0].pool.has("persistence")
    assert not shape.virtual_services[0].pool.has("outlier_detection")
