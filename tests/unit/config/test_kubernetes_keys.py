"""Each key of `kubernetes`, `address_pools`, `profiles` and `client_logs`, and what it becomes."""

from __future__ import annotations

import pytest

from lbd.config import load
from lbd.config.shapes_kubernetes import KubernetesShape, LeaseShape
from lbd.model.desired import (
    SYSTEM_MONITORS,
    Bulk,
    ClientLogs,
    HealthMonitor,
    Keepalive,
    MonitorType,
    OnMemberDown,
    Persistence,
    ProxyProtocol,
    Source,
    Timeouts,
    UdpOptions,
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
)

HEAD = "service_engine: {name: se-a, frontend_interface: ens192}\n"
POOLS = "address_pools: {web: {ranges: [172.16.101.150-172.16.101.200]}}\n"
WEB = AddressPool("web", (AddressRange("172.16.101.150", "172.16.101.200"),))
EVERYTHING = """\
service_engine: {name: se-a, frontend_interface: ens192}
kubernetes:
  kubeconfig: /etc/lbd/kubeconfig
  context: prod
  load_balancer_class: example.com/lb
  default_class: true
  namespaces: [shop, blog]
  pod_cidrs: [10.244.0.0/16, "FD00:10:244::/56"]
  pod_routes: true
  backend_interface: ens224
  resync: 30m
  request_timeout: 5s
  watch_timeout: 2m
  lease: {namespace: kube-system, name: lbd.group-a, duration: 9s, renew_deadline: 6s, retry: 1500ms}
health_monitors:
  line: {type: tcp, port: 81}
address_pools:
  web:
    ranges: [172.16.101.150-172.16.101.200, 172.16.102.0/24, 172.16.101.7, fd00:101::100-fd00:101::1ff]
    auto_assign: false
    namespaces: [shop]
    service_selector: {app: web, app.kubernetes.io/tier: ""}
    priority: 7
  Spare: {ranges: [172.16.103.0/31]}
profiles:
  Sticky:
    type: persistence
    persistence: {type: client_ip, timeout: 1h, ipv4_prefix: 24, ipv6_prefix: 64, max_entries: 9, on_member_down: keep}
  Seen:
    type: application
    source: transparent
    proxy_protocol: v2
    accept_proxy_protocol: [10.0.0.0/8]
    max_connections_per_client: 3
    connection_rate: 100/s
    connection_rate_per_client: 60/m
  patient:
    type: network
    timeouts: {connect: 1s, idle: 2h, client_half_closed: 3s, member_half_closed: 4s, client_user: 5s, member_user: 6s,
      lifetime: 7h, lifetime_jitter: 20%}
    udp_idle: 90s
    keepalive: {client: {idle: 1s, interval: 2s, probes: 3}}
    udp: {responses: 1, max_flows: 2, per_packet: true}
    bulk: splice
  watchful: {type: analytics, slow_connect: 250ms}
  office: {type: network_security, source_ranges: [10.0.0.0/8, "2001:db8::7"]}
"""


def test_every_key_of_a_cluster_reaches_the_model(load_text):
    assert load_text(EVERYTHING).kubernetes == Kubernetes(
        kubeconfig="/etc/lbd/kubeconfig",
        context="prod",
        load_balancer_class="example.com/lb",
        default_class=True,
        namespaces=("shop", "blog"),
        pod_cidrs=("10.244.0.0/16", "fd00:10:244::/56"),
        pod_routes=True,
        backend_interface="ens224",
        resync_s=1800.0,
        request_timeout_s=5.0,
        watch_timeout_s=120.0,
        lease=LeaseSettings("kube-system", "lbd.group-a", 9.0, 6.0, 1.5),
        address_pools=(
            AddressPool(
                "web",
                (
                    AddressRange("172.16.101.150", "172.16.101.200"),
                    AddressRange("172.16.102.1", "172.16.102.254"),
                    AddressRange("172.16.101.7", "172.16.101.7"),
                    AddressRange("fd00:101::100", "fd00:101::1ff"),
                ),
                auto_assign=False,
                namespaces=("shop",),
                service_labels=(("app", "web"), ("app.kubernetes.io/tier", "")),
                priority=7,
            ),
            AddressPool("Spare", (AddressRange("172.16.103.0", "172.16.103.1"),)),
        ),
        profiles=(
            *SYSTEM_PROFILES,
            PersistenceProfile("Sticky", Persistence(3600.0, 24, 64, 9, OnMemberDown.KEEP)),
            ApplicationProfile(
                "Seen", Source.TRANSPARENT, ProxyProtocol.V2, ("10.0.0.0/8",), 3, 100.0, connection_rate_per_client=1.0
            ),
            NetworkProfile(
                "patient",
                Timeouts(1.0, 7200.0, 3.0, 4.0, 5.0, 6.0, 25200.0, 0.2),
                udp_idle_s=90.0,
                client_keepalive=Keepalive(1, 2, 3),
                udp=UdpOptions(1, 2, True),
                bulk=Bulk.SPLICE,
            ),
            AnalyticsProfile("watchful", 0.25),
            NetworkSecurityPolicy("office", ("10.0.0.0/8", "2001:db8::7/128")),
        ),
        health_monitors=(*SYSTEM_MONITORS, HealthMonitor("line", MonitorType.TCP, port=81)),
    )


def test_what_is_not_written_of_a_cluster_is_the_models_default(load_text):
    cluster = load_text(HEAD + "kubernetes: {in_cluster: true}\n" + POOLS).kubernetes
    assert cluster == Kubernetes(address_pools=(WEB,), health_monitors=SYSTEM_MONITORS)
    default, lease = KubernetesShape(), LeaseShape()
    assert (default.load_balancer_class, default.resync) == (cluster.load_balancer_class, cluster.resync_s)
    assert (lease.namespace, lease.duration) == (cluster.lease.namespace, cluster.lease.duration_s)


def test_profiles_without_keys_are_the_models_defaults(load_text):
    profiles = (
        "profiles: {p: {type: persistence}, a: {type: application}, n: {type: network}, y: {type: analytics},\n"
        '  s: {type: network_security, source_ranges: ["::/0"]}}\n'
    )
    cluster = load_text(HEAD + "kubernetes: {in_cluster: true}\n" + POOLS + profiles).kubernetes
    assert cluster is not None
    assert cluster.profiles[len(SYSTEM_PROFILES) :] == (
        PersistenceProfile("p"),
        ApplicationProfile("a"),
        NetworkProfile("n"),
        AnalyticsProfile("y"),
        NetworkSecurityPolicy("s", ("::/0",)),
    )


def test_files_without_a_cluster_have_none(load_text):
    assert load_text(HEAD).kubernetes is None


def test_pools_profiles_and_monitors_of_all_files_add_up_in_their_order(write):
    paths = write(
        {
            "lbd.yaml": HEAD + "health_monitors: {one: {type: tcp}}\n" + POOLS,
            "a.yaml": "kubernetes: {kubeconfig: /k}\nprofiles: {first: {type: analytics}}\n",
            "b.yaml": "address_pools: {api: {ranges: [172.16.104.1]}}\nprofiles: {second: {type: analytics}}\n"
            "health_monitors: {two: {type: ping}}\n",
        }
    )
    cluster = load(paths, 1).kubernetes
    assert cluster is not None
    assert cluster.kubeconfig == "/k"
    assert [pool.name for pool in cluster.address_pools] == ["web", "api"]
    assert [profile.name for profile in cluster.profiles[len(SYSTEM_PROFILES) :]] == ["first", "second"]
    assert [monitor.name for monitor in cluster.health_monitors[len(SYSTEM_MONITORS) :]] == ["one", "two"]


SERVICE = (
    HEAD + "virtual_services:\n- name: web\n  vip: 10.0.0.1\n  port: 80\n"
    "  pool: {members: [{address: 10.1.0.1, port: 80}]}\n"
)


@pytest.mark.parametrize(
    ("written", "logs"),
    [
        ("", None),
        ("  client_logs: {}\n", ClientLogs()),
        ("  client_logs: {throttle: 0, duration: 0s, slow_connect: 250ms}\n", ClientLogs(0, 0.0, 0.25)),
        (
            "  client_logs: {throttle: 65535, duration: 8760h, slow_connect: 5m}\n",
            ClientLogs(65535, 31_536_000.0, 300.0),
        ),
        ("  client_logs: {throttle: 20}\n", ClientLogs(20)),
        ("  protocol: udp\n  client_logs: {duration: 1s}\n", ClientLogs(duration_s=1.0)),
    ],
)
def test_client_logs_reach_the_model(load_text, written, logs):
    assert load_text(SERVICE + written).virtual_services[0].client_logs == logs


@pytest.mark.parametrize(
    ("written", "line"),
    [
        ("throttle: 65536", "27: throttle: 65536 is not a number of log lines a second (0-65535)"),
        ("duration: 999ms", '27: duration: "999ms" is too short (at least 1s, or 0s for ever)'),
        ("slow_connect: 6m", '31: slow_connect: "6m" is too long (at most 5m)'),
        ("slow_connect: 1us", '31: slow_connect: "1us" is not a duration: write it like 250ms, 2s, 10m, 1h or 1m30s'),
        ("duration: 30", "27: duration: 30 has no unit: write 30s, or use ms, m or h"),
        ("enabled: true", "17: enabled: is an unknown key; known here: throttle, duration, slow_connect"),
    ],
)
def test_client_logs_that_are_wrong_are_refused_with_their_place(errors_of, written, line):
    found = errors_of(SERVICE + f"  client_logs: {{{written}}}\n")
    assert [one.replace("virtual_services[0].client_logs.", "") for one in found] == [f"lbd.yaml:7:{line}"]


def test_flows_of_udp_are_not_accepted_slowly(errors_of):
    assert errors_of(SERVICE + "  protocol: udp\n  client_logs: {slow_connect: 1s}\n") == [
        "lbd.yaml:8:17: virtual_services[0].client_logs.slow_connect: "
        "belongs to tcp services, and this one has protocol udp"
    ]
