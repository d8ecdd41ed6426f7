"""What `lbd check` says about a cluster, its address pools and its profiles: every line with its place."""

from __future__ import annotations

import itertools
import time

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lbd.config import rules_address_pools, rules_kubernetes, rules_profiles

HEAD = "service_engine: {name: se-a, frontend_interface: eth0}\n"
CLUSTER = "kubernetes: {in_cluster: true}\n"
POOLS = "address_pools: {web: {ranges: [172.16.101.150-172.16.101.200]}}\n"
BOTH = HEAD + CLUSTER
"""Two lines, behind which `address_pools` begins on line 3."""
WHOLE = HEAD + CLUSTER + POOLS
"""Three lines that are good."""

CASES: dict[str, tuple[str, list[str]]] = {
    "no way to the cluster": (
        HEAD + "kubernetes: {}\n" + POOLS,
        ["2:1: kubernetes: needs one of kubeconfig: PATH and in_cluster: true, to find the cluster"],
    ),
    "a way that is switched off": (
        HEAD + "kubernetes: {in_cluster: false}\n" + POOLS,
        ["2:1: kubernetes: needs one of kubeconfig: PATH and in_cluster: true, to find the cluster"],
    ),
    "two ways to the cluster": (
        HEAD + "kubernetes: {kubeconfig: /k, in_cluster: true, context: x}\n" + POOLS,
        ["2:42: kubernetes.in_cluster: can't be had with kubeconfig: write one of the two"],
    ),
    "a way that can't be read": (
        HEAD + "kubernetes: {in_cluster: yes}\n" + POOLS,
        ['2:26: kubernetes.in_cluster: "yes" is not true or false'],
    ),
    "a context without a kubeconfig": (
        HEAD + "kubernetes: {in_cluster: true, context: x}\n" + POOLS,
        ["2:32: kubernetes.context: belongs to kubeconfig, and here the Pod's own service account is used"],
    ),
    "a cluster that is a list": (
        HEAD + "kubernetes: [x]\n" + POOLS,
        ["2:13: kubernetes: must be a mapping, not a list"],
    ),
    "a cluster that is nothing": (
        HEAD + "kubernetes:\n" + POOLS,
        ["2:12: kubernetes: has no value: write one, or remove the key"],
    ),
    "a cluster without pools": (
        HEAD + CLUSTER,
        ["2:1: kubernetes: needs addresses for its Services: write address_pools: {NAME: {ranges: [FIRST-LAST]}}"],
    ),
    "a cluster with no pool among its pools": (
        BOTH + "address_pools: {}\n",
        ["2:1: kubernetes: needs addresses for its Services: write address_pools: {NAME: {ranges: [FIRST-LAST]}}"],
    ),
    "pools that are a list": (
        BOTH + "address_pools: [172.16.101.1]\n",
        ["3:16: address_pools: must be a mapping, not a list"],
    ),
    "pools and profiles without a cluster": (
        HEAD + POOLS + "profiles: {a: {type: analytics}}\n",
        [
            "2:1: address_pools: needs kubernetes: its addresses are for the Services of a cluster",
            "3:1: profiles: needs kubernetes: only the rules of a cluster can name a profile",
        ],
    ),
    "a cluster without an interface for VIPs": (
        "service_engine: {name: se-a}\n" + CLUSTER + POOLS,
        ["1:17: service_engine.frontend_interface: is required with kubernetes: VIPs are added to this interface"],
    ),
    "every value of a cluster": (
        HEAD
        + """\
kubernetes:
  kubeconfig: etc/kubeconfig
  context: ""
  load_balancer_class: lbd.io/
  default_class: no
  namespaces: [Shop, shop, shop, 1]
  pod_cidrs: [10.244.0.0/16, 10.244.1.0/16, 10.244.0.0/16]
  pod_routes: 1
  backend_interface: a b
  resync: 9s
  request_timeout: 6m
  watch_timeout: 5
  lease: {namespace: a.b, name: A, duration: 1500ms, renew_deadline: 0s, retry: 6m, holder: x}
  namespace: shop
"""
        + POOLS,
        [
            '3:15: kubernetes.kubeconfig: "etc/kubeconfig" is not an absolute path of a file',
            '4:12: kubernetes.context: "" is not the name of a context (1-253 printable characters)',
            '5:24: kubernetes.load_balancer_class: "lbd.io/" is not a load balancer class: '
            "write it like lbd.io/service-engine",
            '6:18: kubernetes.default_class: "no" is not true or false',
            "7:16: kubernetes.namespaces[0]: \"Shop\" is not a namespace: use 1-63 lower case letters, digits and '-', "
            "with a letter or digit at both ends",
            "7:28: kubernetes.namespaces[2]: shop is already in this list, at lbd.yaml:7:22",
            '7:34: kubernetes.namespaces[3]: 1 must be text: put it in quotes ("1") if text is meant',
            '8:30: kubernetes.pod_cidrs[1]: "10.244.1.0/16" has bits set behind its prefix: '
            "write 10.244.0.0/16 or 10.244.1.0/32",
            "8:45: kubernetes.pod_cidrs[2]: 10.244.0.0/16 is already in this list, at lbd.yaml:8:15",
            "9:15: kubernetes.pod_routes: 1 is not true or false",
            '10:22: kubernetes.backend_interface: "a b" is not the name of an interface '
            "(1-15 bytes without spaces, slashes and colons)",
            '11:11: kubernetes.resync: "9s" is too short (at least 10s)',
            '12:20: kubernetes.request_timeout: "6m" is too long (at most 5m)',
            "13:18: kubernetes.watch_timeout: 5 has no unit: write 5s, or use ms, m or h",
            '14:22: kubernetes.lease.namespace: "a.b" is not a namespace: use 1-63 lower case letters, digits and '
            "'-', with a letter or digit at both ends",
            '14:33: kubernetes.lease.name: "A" is not the name of an object: use 1-253 lower case letters, digits, '
            "'-' and '.', with a letter or digit at both ends and beside each '.'",
            '14:46: kubernetes.lease.duration: "1500ms" is not a whole number of seconds, which is what a Lease takes',
            '14:70: kubernetes.lease.renew_deadline: "0s" is too short (at least 200ms)',
            '14:81: kubernetes.lease.retry: "6m" is too long (at most 5m)',
            "14:85: kubernetes.lease.holder: is an unknown key; "
            "known here: namespace, name, duration, renew_deadline, retry",
            "15:3: kubernetes.namespace: is an unknown key; did you mean namespaces?",
        ],
    ),
    "lists of a cluster that are empty": (
        HEAD + "kubernetes: {kubeconfig: /k, namespaces: [], pod_cidrs: []}\n" + POOLS,
        [
            "2:42: kubernetes.namespaces: is empty: name a namespace, or remove the key (all of them are watched then)",
            "2:57: kubernetes.pod_cidrs: is empty: name a network, or remove the key (Pods may have any address then)",
        ],
    ),
    "an interface for routes that are not made": (
        HEAD + "kubernetes: {kubeconfig: /k, pod_routes: false, backend_interface: eth1}\n" + POOLS,
        ["2:49: kubernetes.backend_interface: belongs to pod_routes: true, and here no routes are made"],
    ),
    "an interface for routes of which nothing is said": (
        HEAD + "kubernetes: {kubeconfig: /k, backend_interface: eth1}\n" + POOLS,
        ["2:30: kubernetes.backend_interface: belongs to pod_routes: true, and here no routes are made"],
    ),
    "a lease whose times are all the same": (
        HEAD + "kubernetes: {kubeconfig: /k, lease: {duration: 3s, renew_deadline: 3s, retry: 3s}}\n" + POOLS,
        [
            "2:68: kubernetes.lease.renew_deadline: 3s is not shorter than duration (3s): "
            "who leads must stop before another one may begin",
            "2:79: kubernetes.lease.retry: 3s is not shorter than renew_deadline (3s): "
            "the Lease must be tried again before it is given up",
        ],
    ),
    "a lease that is shorter than its defaults": (
        HEAD + "kubernetes: {kubeconfig: /k, lease: {duration: 10s}}\n" + POOLS,
        [
            "2:48: kubernetes.lease.duration: 10s is not longer than renew_deadline (10s): "
            "who leads must stop before another one may begin",
        ],
    ),
    "a deadline on both sides of its defaults": (
        HEAD + "kubernetes: {kubeconfig: /k, lease: {renew_deadline: 2s}}\n" + POOLS,
        [
            "2:54: kubernetes.lease.renew_deadline: 2s is not longer than retry (2s): "
            "the Lease must be tried again before it is given up",
        ],
    ),
    "every value of a pool": (
        BOTH
        + """\
address_pools:
  "a b":
    ranges: [172.16.101.9-172.16.101.1, 7, [], "172.16.102.1/24"]
    auto_assign: 1
    namespaces: [a, A, a]
    service_selector: {"-x": web, app: 7, tier: "a b"}
    priority: 1001
    prority: 1
  none: {}
  empty: {ranges: [], namespaces: [], service_selector: {}}
  word: {ranges: 172.16.103.1}
  nothing:
""",
        [
            "4:3: address_pools[\"a b\"]: \"a b\" is not a name: use letters, digits, '.', '_' and '-', "
            "with a letter or digit at both ends",
            '5:14: address_pools["a b"].ranges[0]: "172.16.101.9-172.16.101.1" is reversed: '
            "write 172.16.101.1-172.16.101.9",
            '5:41: address_pools["a b"].ranges[1]: 7 must be text: put it in quotes ("7") if text is meant',
            '5:44: address_pools["a b"].ranges[2]: must be text, not a list',
            '5:48: address_pools["a b"].ranges[3]: "172.16.102.1/24" has bits set behind its prefix: '
            "write 172.16.102.0/24 or 172.16.102.1/32",
            '6:18: address_pools["a b"].auto_assign: 1 is not true or false',
            '7:21: address_pools["a b"].namespaces[1]: "A" is not a namespace: use 1-63 lower case letters, digits '
            "and '-', with a letter or digit at both ends",
            '7:24: address_pools["a b"].namespaces[2]: a is already in this list, at lbd.yaml:7:18',
            '8:24: address_pools["a b"].service_selector.-x: "-x" is not the key of a label: '
            "write it like app or app.kubernetes.io/name",
            '8:40: address_pools["a b"].service_selector.app: 7 must be text: put it in quotes ("7") if text is meant',
            '8:49: address_pools["a b"].service_selector.tier: "a b" is not the value of a label: use at most 63 '
            "letters, digits, '.', '_' and '-', with a letter or digit at both ends",
            '9:15: address_pools["a b"].priority: 1001 is not a priority (0-1000)',
            '10:5: address_pools["a b"].prority: is an unknown key; did you mean priority?',
            "11:9: address_pools.none.ranges: is required",
            "12:19: address_pools.empty.ranges: is empty: "
            "a pool needs addresses, as FIRST-LAST, a network or a single one",
            "12:35: address_pools.empty.namespaces: is empty: "
            "name a namespace, or remove the key (the pool is for all of them then)",
            "12:57: address_pools.empty.service_selector: is empty: "
            "write a label, or remove the key (the pool is for all Services then)",
            '13:18: address_pools.word.ranges: must be a list, not "172.16.103.1"',
            "14:11: address_pools.nothing: has no value: write one, or remove the key",
        ],
    ),
    "a namespace that nobody watches": (
        HEAD
        + "kubernetes: {in_cluster: true, namespaces: [shop]}\n"
        + "address_pools: {web: {ranges: [172.16.101.7], namespaces: [shop, blog]}}\n",
        ["3:66: address_pools.web.namespaces[1]: blog is not in kubernetes.namespaces: nobody would see its Services"],
    ),
    "addresses that no machine can have": (
        BOTH
        + "address_pools: {web: {ranges: [127.0.0.1, 169.0.0.0-170.0.0.0, 224.0.0.0/4, 255.255.255.255, fe80::/64,\n"
        + '  0.0.0.0, "::", "::1", "::2-::ffff:1:1:1"]}}\n',
        [
            "3:32: address_pools.web.ranges[0]: 127.0.0.1 is a loopback address, which can't be a VIP",
            "3:43: address_pools.web.ranges[1]: "
            "169.0.0.0-170.0.0.0 has 169.254.0.0, a link-local address, which can't be a VIP",
            "3:64: address_pools.web.ranges[2]: 224.0.0.0/4 has 224.0.0.1, a multicast address, which can't be a VIP",
            "3:77: address_pools.web.ranges[3]: 255.255.255.255 is the broadcast address, which can't be a VIP",
            "3:94: address_pools.web.ranges[4]: fe80::/64 has fe80::1, a link-local address, which can't be a VIP",
            "4:3: address_pools.web.ranges[5]: 0.0.0.0 is the unspecified address, which can't be a VIP",
            "4:12: address_pools.web.ranges[6]: :: is the unspecified address, which can't be a VIP",
            "4:18: address_pools.web.ranges[7]: ::1 is a loopback address, which can't be a VIP",
            "4:25: address_pools.web.ranges[8]: "
            "::2-::ffff:1:1:1 has ::ffff:0:0, an IPv4 address in IPv6 form, which can't be a VIP",
        ],
    ),
    "addresses in two ranges": (
        BOTH
        + "address_pools:\n  web: {ranges: [172.16.101.10-172.16.101.20, 172.16.101.20, fd00::/64]}\n"
        + "  api: {ranges: [172.16.101.0/29, 172.16.101.1-172.16.101.12, 172.16.101.21, fd00::7]}\n",
        [
            "4:47: address_pools.web.ranges[1]: 172.16.101.20 has addresses of 172.16.101.10-172.16.101.20 "
            'of address pool "web", at lbd.yaml:4:18',
            "5:35: address_pools.api.ranges[1]: 172.16.101.1-172.16.101.12 has addresses of 172.16.101.0/29 "
            'of address pool "api", at lbd.yaml:5:18',
            "5:78: address_pools.api.ranges[3]: fd00::7 has addresses of fd00::/64 "
            'of address pool "web", at lbd.yaml:4:62',
        ],
    ),
    "a range around others that stands behind them": (
        BOTH
        + "address_pools: {web: {ranges: [172.16.101.1, 172.16.101.3, 172.16.101.5, 172.16.101.0-172.16.101.9]}}\n",
        [
            "3:74: address_pools.web.ranges[3]: 172.16.101.0-172.16.101.9 has addresses of 172.16.101.1 "
            'of address pool "web", at lbd.yaml:3:32'
        ],
    ),
    "gateways in pools": (
        'service_engine: {name: se-a, frontend_interface: eth0, frontend_gateway: [172.16.101.1, "fd00::1"]}\n'
        + CLUSTER
        + "address_pools: {web: {ranges: [172.16.101.0/24, fd00::/64]}}\n",
        [
            "3:32: address_pools.web.ranges[0]: 172.16.101.0/24 has 172.16.101.1, which is the frontend_gateway: "
            "write ranges without it",
            "3:49: address_pools.web.ranges[1]: fd00::/64 has fd00::1, which is the frontend_gateway: "
            "write ranges without it",
        ],
    ),
    "one gateway that is at the end of a range": (
        "service_engine: {name: se-a, frontend_interface: eth0, frontend_gateway: 172.16.101.200}\n" + CLUSTER + POOLS,
        [
            "3:32: address_pools.web.ranges[0]: 172.16.101.150-172.16.101.200 has 172.16.101.200, "
            "which is the frontend_gateway: write ranges without it"
        ],
    ),
    "members whose address could become a VIP": (
        WHOLE
        + "virtual_services:\n- name: web\n  vip: 172.16.101.150\n  port: 80\n  pool:\n    members:\n"
        + "".join(f"    - {{address: 172.16.101.{last}, port: 80}}\n" for last in (149, 151, 200, 201)),
        [
            f"{line}:17: virtual_services[0].pool.members[{index}].address: 172.16.101.{last} is in "
            '172.16.101.150-172.16.101.200 of address pool "web", at lbd.yaml:3:32: '
            "as a VIP it would bring connections back here"
            for line, index, last in ((11, 1, 151), (12, 2, 200))
        ],
    ),
    "names and keys of profiles": (
        WHOLE
        + """\
profiles:
  System-TCP-Proxy: {type: network}
  System-UDP-Per-Pkt: {type: network}
  a b: {type: analytics}
  Good_Name.x-1: {type: network, persistence: {type: client_ip}, slow_connect: 1s, source_ranges: [10.0.0.0/8]}
  untyped: {udp_idle: 1s}
  other: {type: tcp, udp_idle: 1s}
  office: {type: network_security}
  worse: {type: application, timeout: 1s}
""",
        [
            "5:3: profiles.System-TCP-Proxy: is a built-in profile: choose another name",
            "6:3: profiles.System-UDP-Per-Pkt: is a built-in profile: choose another name",
            "7:3: profiles[\"a b\"]: \"a b\" is not a name: use letters, digits, '.', '_' and '-', "
            "with a letter or digit at both ends",
            '8:34: profiles["Good_Name.x-1"].persistence: '
            "belongs to persistence profiles, and this one is of type network",
            '8:66: profiles["Good_Name.x-1"].slow_connect: '
            "belongs to analytics profiles, and this one is of type network",
            '8:84: profiles["Good_Name.x-1"].source_ranges: '
            "belongs to network_security profiles, and this one is of type network",
            "9:12: profiles.untyped.type: is required",
            '10:17: profiles.other.type: "tcp" is not persistence, application, network, analytics or network_security',
            "11:11: profiles.office.source_ranges: is required: it says whose connections are taken",
            "12:30: profiles.worse.timeout: is an unknown key; did you mean timeouts?",
        ],
    ),
    "values of profiles": (
        WHOLE
        + """\
profiles:
  a: {type: persistence, persistence: {timeout: 0s}}
  b: {type: application, source: nat, proxy_protocol: v3, accept_proxy_protocol: [], max_connections_per_client: 0,
    connection_rate: 1/s, connection_rate_per_client: 61/m}
  c: {type: network, timeouts: {idle: 0s, lifetime_jitter: 5%}, udp_idle: 0s, keepalive: {}, udp: {max_flows: 0}}
  d: {type: analytics, slow_connect: 301s}
  e: {type: network_security, source_ranges: []}
  f: {type: network_security, source_ranges: [10.0.0.0/8, 10.0.0.0/8, 10.0.0.1/8]}
""",
        [
            "5:39: profiles.a.persistence.type: is required",
            '5:49: profiles.a.persistence.timeout: "0s" is too short (at least 1s)',
            '6:34: profiles.b.source: "nat" is not snat or transparent; did you mean snat?',
            '6:55: profiles.b.proxy_protocol: "v3" is not v1 or v2',
            "6:82: profiles.b.accept_proxy_protocol: is empty: "
            "name a network, or remove the key (no header is read then)",
            "6:114: profiles.b.max_connections_per_client: 0 is not a number of connections (1-10000000)",
            "7:55: profiles.b.connection_rate_per_client: "
            "61/m can't be reached: all clients together have 1/s (connection_rate)",
            '8:39: profiles.c.timeouts.idle: "0s" is too short (at least 1s)',
            "8:43: profiles.c.timeouts.lifetime_jitter: needs a lifetime: without it there is nothing to shift",
            '8:75: profiles.c.udp_idle: "0s" is too short (at least 1s)',
            "8:90: profiles.c.keepalive: is empty: write client: {}, member: {} or both, or remove the key",
            "8:111: profiles.c.udp.max_flows: 0 is not a number of flows (1-1000000)",
            '9:38: profiles.d.slow_connect: "301s" is too long (at most 5m)',
            "10:46: profiles.e.source_ranges: is empty: name a network (0.0.0.0/0 and ::/0 are everybody)",
            "11:59: profiles.f.source_ranges[1]: 10.0.0.0/8 is already in this list, at lbd.yaml:11:47",
            '11:71: profiles.f.source_ranges[2]: "10.0.0.1/8" has bits set behind its prefix: '
            "write 10.0.0.0/8 or 10.0.0.1/32",
        ],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_every_error_of_a_cluster_is_reported_with_its_place(case, errors_of):
    text, lines = CASES[case]
    assert [line.removeprefix("lbd.yaml:") for line in errors_of(text)] == lines


GOOD = {
    "a kubeconfig beside a switch that is off": HEAD + "kubernetes: {kubeconfig: /k, in_cluster: false}\n" + POOLS,
    "a context of a kubeconfig": HEAD + "kubernetes: {kubeconfig: /k, context: x}\n" + POOLS,
    "times of a lease that are just apart": (
        HEAD + "kubernetes: {kubeconfig: /k, lease: {duration: 1s, renew_deadline: 999ms, retry: 998ms}}\n" + POOLS
    ),
    "a VIP of the files in a pool": (
        WHOLE + "virtual_services: [{name: web, vip: 172.16.101.150, port: 80,\n"
        "  pool: {members: [{address: 10.1.0.1, port: 80}]}}]\n"
    ),
    "ranges that touch": (
        BOTH + "address_pools: {a: {ranges: [10.0.0.1-10.0.0.5, 10.0.0.6-10.0.0.9]}, b: {ranges: [10.0.0.10]}}\n"
    ),
    "networks whose left-out addresses belong to another": (
        BOTH + "address_pools: {a: {ranges: [10.0.0.0/24]}, b: {ranges: [10.0.0.0, 10.0.0.255]}}\n"
    ),
    "a gateway that a network leaves out, and one beside a range": (
        'service_engine: {frontend_interface: eth0, frontend_gateway: [172.16.101.149, "fd00::"]}\n'
        + CLUSTER
        + 'address_pools: {web: {ranges: [172.16.101.150-172.16.101.200, "fd00::/64"]}}\n'
    ),
    "loopback where it is allowed": (
        "service_engine: {frontend_interface: lo, allow_loopback: true}\n"
        + CLUSTER
        + 'address_pools: {web: {ranges: [127.1.0.0/16, "::1"]}}\n'
    ),
    "a namespace that is watched": (
        HEAD
        + "kubernetes: {in_cluster: true, namespaces: [shop, blog]}\n"
        + "address_pools: {web: {ranges: [172.16.101.7], namespaces: [blog]}}\n"
    ),
    "a profile whose name only resembles a built-in one": WHOLE + "profiles: {System-TCP: {type: network}}\n",
    "a limit of one client alone, and a lifetime with its jitter": (
        WHOLE + "profiles: {a: {type: application, connection_rate_per_client: 1/h},\n"
        "  b: {type: network, timeouts: {lifetime: 1h, lifetime_jitter: 1%}, keepalive: {member: {}}}}\n"
    ),
}


@pytest.mark.parametrize("case", GOOD)
def test_what_is_at_the_edge_of_a_rule_of_a_cluster_is_good(case, errors_of):
    assert errors_of(GOOD[case]) == []


def test_cluster_stands_in_one_file_and_names_are_unique_over_all(errors_of):
    profiles = "profiles: {Watch: {type: analytics}}\n"
    assert errors_of({"a.yaml": WHOLE + profiles, "b.yaml": CLUSTER + POOLS.replace("101.", "102.") + profiles}) == [
        "b.yaml:1:1: kubernetes: is already at a.yaml:2:1: this section may stand in one file only",
        "b.yaml:2:17: address_pools.web: is already defined at a.yaml:3:17",
        "b.yaml:3:12: profiles.Watch: is already defined at a.yaml:4:12",
    ]


def test_nothing_is_said_to_be_missing_while_a_file_can_not_be_read(errors_of):
    (line,) = errors_of({"a.yaml": HEAD + POOLS, "b.yaml": "kubernetes: {\n"})
    assert line.startswith("b.yaml:2:1: is not YAML")
    (line,) = errors_of({"a.yaml": HEAD + CLUSTER, "b.yaml": "address_pools: {\n"})
    assert line.startswith("b.yaml:2:1: is not YAML")


def test_overlap_over_files_names_the_other_file(errors_of):
    assert errors_of({"a.yaml": WHOLE, "b.yaml": "address_pools: {api: {ranges: [172.16.101.200]}}\n"}) == [
        "b.yaml:1:32: address_pools.api.ranges[0]: 172.16.101.200 has addresses of 172.16.101.150-172.16.101.200 "
        'of address pool "web", at a.yaml:3:32'
    ]


def pools_of(counts: list[int]) -> str:
    """Return pools with so many ranges each, a single address each."""
    numbers = itertools.count()
    text = "address_pools:\n"
    for index, count in enumerate(counts):
        text += f"  p{index}: {{ranges: ["
        text += ", ".join(f"10.0.{number >> 8}.{number & 255}" for number in itertools.islice(numbers, count)) + "]}\n"
    return text


def test_as_many_pools_ranges_and_profiles_as_possible_are_good_and_one_more_is_not(errors_of):
    most = [rules_address_pools.MAX_RANGES // rules_address_pools.MAX_POOLS] * rules_address_pools.MAX_POOLS
    profiles = "profiles:\n" + "".join(f"  p{n}: {{type: analytics}}\n" for n in range(rules_profiles.MAX_PROFILES))
    started_s = time.process_time()
    assert errors_of(BOTH + pools_of(most) + profiles) == []
    assert time.process_time() - started_s < 4
    (range_too_many,) = errors_of(BOTH + pools_of([*most[:-1], most[-1] + 1]))
    assert range_too_many.endswith(
        "ranges[16]: is one more than the 4096 ranges that are possible in all pools together"
    )
    (pool_too_many,) = errors_of(BOTH + pools_of([1] * (rules_address_pools.MAX_POOLS + 1)))
    assert (
        pool_too_many == "lbd.yaml:260:3: address_pools.p256: is one more than the 256 address pools that are possible"
    )
    (profile_too_many,) = errors_of(WHOLE + profiles + "  more: {type: analytics}\n")
    assert profile_too_many.endswith("profiles.more: is one more than the 1024 profiles that are possible")


def test_lists_of_a_cluster_are_bounded(errors_of):
    namespaces = ", ".join(f"n{number}" for number in range(rules_kubernetes.MAX_NAMESPACES + 1))
    networks = ", ".join(
        f"10.{number >> 8}.{number & 255}.0/24" for number in range(rules_kubernetes.MAX_POD_CIDRS + 1)
    )
    labels = ", ".join(f"l{number}: x" for number in range(rules_address_pools.MAX_LABELS + 1))
    lines = errors_of(
        HEAD + f"kubernetes:\n  in_cluster: true\n  namespaces: [{namespaces}]\n  pod_cidrs: [{networks}]\n"
        f"address_pools:\n  web:\n    ranges: [172.16.101.7]\n    namespaces: [{namespaces}]\n"
        f"    service_selector: {{{labels}}}\n"
    )
    assert [line.partition(": ")[2] for line in lines] == [
        "kubernetes.namespaces[256]: is one more than the 256 namespaces that are possible",
        "kubernetes.pod_cidrs[1024]: is one more than the 1024 networks that are possible",
        "address_pools.web.namespaces[256]: is one more than the 256 namespaces that are possible",
        "address_pools.web.service_selector.l64: is one more than the 64 labels that are possible",
    ]


numbers = st.tuples(st.integers(0, 60), st.integers(0, 12)).map(lambda pair: (pair[0], pair[0] + pair[1]))


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(numbers, min_size=1, max_size=6), st.integers(0, 80))
def test_ranges_are_refused_exactly_if_two_share_an_address_and_members_if_one_has_theirs(errors_of, ends, member):
    ranges = ", ".join(f"10.0.0.{first}-10.0.0.{last}" for first, last in ends)
    service = f"[{{name: w, vip: 10.1.0.1, port: 80, pool: {{members: [{{address: 10.0.0.{member}, port: 80}}]}}}}]"
    lines = errors_of(BOTH + f"address_pools: {{web: {{ranges: [{ranges}]}}}}\nvirtual_services: {service}\n")
    sharing = any(one[0] <= two[1] and two[0] <= one[1] for one, two in itertools.combinations(ends, 2))
    assert any("has addresses of" in line for line in lines) == sharing
    overlapping = [line.split(": ")[1] for line in lines if "has addresses of" in line]
    assert len(overlapping) == len(set(overlapping))  # at most one line for each range
    assert any("is in 10.0.0." in line for line in lines) == any(first <= member <= last for first, last in ends)
