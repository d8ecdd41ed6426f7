"""Whole files and exactly what `lbd check` says about them: every line, with its place."""

from __future__ import annotations

import pytest

from lbd.config import rules

ENGINE = "service_engine: {frontend_interface: eth0}\n"
SERVICE = "{name: web, vip: 10.0.0.1, port: 80, pool: {members: [{address: 10.1.0.1, port: 80}]}}"

CASES: dict[str, tuple[str, list[str]]] = {
    "the sentence of the documentation": (
        ENGINE
        + """\
virtual_services:
  - name: web
    vip: 10.0.0.1
    port: 80
    pool:
      members:
        - {address: 10.1.0.1, port: 80}
        - {address: 10.1.0.2, port: 70000}
""",
        ["lbd.yaml:9:37: virtual_services[0].pool.members[1].port: 70000 is not a port (1-65535)"],
    ),
    "everything at once": (
        """\
service_engine: {workers: 0, frontend_interface: eth0, drain_timeout: 60, nme: x}
metrics: {listen: "localhost:9407"}
admin: {socket: run/x}
health_monitors:
  a: {type: tcp, path: /x, timeout: 6s}
virtual_services:
  - name: web
    vip: 10.0.0.1
    port: 12:30
    pool:
      algorithm: least_conn
      health_monitors: [b]
      members:
        - {address: 127.0.0.1, port: 022}
        - {address: 10.0.0.1, port: 80, weight: 0}
  - name: web
    vip: 10.0.0.1
    port: 70000
    pool: {members: []}
""",
        [
            "lbd.yaml:1:27: service_engine.workers: 0 is not a number of workers (1-64), and not auto",
            "lbd.yaml:1:71: service_engine.drain_timeout: 60 has no unit: write 60s, or use ms, m or h",
            "lbd.yaml:1:75: service_engine.nme: is an unknown key; did you mean name?",
            'lbd.yaml:2:19: metrics.listen: "localhost" is not an IP address: names are not looked up',
            'lbd.yaml:3:17: admin.socket: "run/x" is not an absolute path of a socket',
            "lbd.yaml:5:18: health_monitors.a.path: belongs to http and https monitors, and this one is of type tcp",
            "lbd.yaml:5:37: health_monitors.a.timeout: 6s is longer than the interval (5s): "
            "a check must end before the next one begins",
            'lbd.yaml:9:11: virtual_services[0].port: "12:30" is not a port (1-65535)',
            'lbd.yaml:11:18: virtual_services[0].pool.algorithm: "least_conn" is not round_robin, consistent_hash, '
            "least_connections, random or fastest_response; did you mean least_connections?",
            'lbd.yaml:12:25: virtual_services[0].pool.health_monitors[0]: there is no health monitor "b"',
            "lbd.yaml:14:21: virtual_services[0].pool.members[0].address: "
            "127.0.0.1 is a loopback address and can't be a member",
            'lbd.yaml:14:38: virtual_services[0].pool.members[0].port: "022" is not a port (1-65535): '
            "write the number without leading zeros",
            "lbd.yaml:15:21: virtual_services[0].pool.members[1].address: "
            '10.0.0.1 is the VIP of virtual service "web": connections would come back here',
            "lbd.yaml:15:49: virtual_services[0].pool.members[1].weight: 0 is not a weight (1-1000)",
            'lbd.yaml:16:11: virtual_services[1].name: "web" is already taken at lbd.yaml:7:11',
            "lbd.yaml:18:11: virtual_services[1].port: 70000 is not a port (1-65535)",
            "lbd.yaml:19:21: virtual_services[1].pool.members: is empty: a pool needs a member "
            "(use admin_state to take a service away for a time)",
        ],
    ),
    "keys that are missing": (
        ENGINE
        + "virtual_services:\n  - {name: web, pool: {members: [{port: 80}]}}\n  - {}\nhealth_monitors: {a: {}}\n",
        [
            "lbd.yaml:3:5: virtual_services[0].vip: is required",
            "lbd.yaml:3:5: virtual_services[0].port: is required",
            "lbd.yaml:3:34: virtual_services[0].pool.members[0].address: is required",
            "lbd.yaml:4:5: virtual_services[1].name: is required",
            "lbd.yaml:4:5: virtual_services[1].vip: is required",
            "lbd.yaml:4:5: virtual_services[1].port: is required",
            "lbd.yaml:4:5: virtual_services[1].pool: is required",
            "lbd.yaml:5:22: health_monitors.a.type: is required",
        ],
    ),
    "keys without a value": (
        "service_engine:\nvirtual_services:\nhealth_monitors: {a: {type: tcp, port: , jitter: ~, interval: null}}\n",
        [
            "lbd.yaml:1:16: service_engine: has no value: write one, or remove the key",
            "lbd.yaml:2:18: virtual_services: has no value: write one, or remove the key",
            "lbd.yaml:3:40: health_monitors.a.port: has no value: write one, or remove the key",
            "lbd.yaml:3:50: health_monitors.a.jitter: has no value: write one, or remove the key",
            "lbd.yaml:3:63: health_monitors.a.interval: has no value: write one, or remove the key",
        ],
    ),
    "lists, mappings and single values in each other's place": (
        "service_engine: []\nmetrics: 9407\nhealth_monitors: [a]\nvirtual_services: {web: {}}\n",
        [
            "lbd.yaml:1:17: service_engine: must be a mapping, not a list",
            "lbd.yaml:2:10: metrics: must be a mapping, not 9407",
            "lbd.yaml:3:18: health_monitors: must be a mapping, not a list",
            "lbd.yaml:4:19: virtual_services: must be a list, not a mapping",
        ],
    ),
    "gateways": (
        "service_engine:\n  frontend_interface: eth0\n"
        '  frontend_gateway: [10.0.0.300, 127.0.0.1, 10.0.0.2, "fe80::1", "::1", 10.0.0.1, 7]\n'
        f"virtual_services: [{SERVICE}]\n",
        [
            'lbd.yaml:3:22: service_engine.frontend_gateway[0]: "10.0.0.300" is not an IP address (each part is 0-255, '
            "without leading zeros)",
            "lbd.yaml:3:34: service_engine.frontend_gateway[1]: 127.0.0.1 is a loopback address and can't be a gateway",
            "lbd.yaml:3:45: service_engine.frontend_gateway[2]: 10.0.0.2 is a second IPv4 gateway, "
            "the first one is at lbd.yaml:3:34",
            "lbd.yaml:3:66: service_engine.frontend_gateway[4]: ::1 is a loopback address and can't be a gateway",
            "lbd.yaml:3:66: service_engine.frontend_gateway[4]: ::1 is a second IPv6 gateway, "
            "the first one is at lbd.yaml:3:55",
            'lbd.yaml:3:73: service_engine.frontend_gateway[5]: 10.0.0.1 is the VIP of virtual service "web": '
            "a gateway is another machine",
            "lbd.yaml:3:73: service_engine.frontend_gateway[5]: 10.0.0.1 is a second IPv4 gateway, "
            "the first one is at lbd.yaml:3:34",
            'lbd.yaml:3:83: service_engine.frontend_gateway[6]: 7 must be text: put it in quotes ("7") if '
            "text is meant",
        ],
    ),
    "a gateway that is none": (
        "service_engine: {frontend_gateway: router}\n",
        [
            'lbd.yaml:1:36: service_engine.frontend_gateway: "router" is not an IP address: names are not looked up',
        ],
    ),
    "no gateway in a list": (
        "service_engine: {frontend_gateway: []}\nmetrics: {listen: off}\n",
        ["lbd.yaml:1:36: service_engine.frontend_gateway: is empty: remove the key where no gateway is wanted"],
    ),
    "a mapping of gateways": (
        "service_engine: {frontend_gateway: {v4: 10.0.0.1}}\n",
        ["lbd.yaml:1:36: service_engine.frontend_gateway: must be text, not a mapping"],
    ),
    "a status that is not in a list": (
        "health_monitors: {a: {type: http, expect_status: 200}}\n",
        ["lbd.yaml:1:50: health_monitors.a.expect_status: must be a list, not 200"],
    ),
    "the whole file is a word": ("hello\n", ['lbd.yaml:1:1: must be a mapping, not "hello"']),
    "the whole file is a list": ("- a\n", ["lbd.yaml:1:1: must be a mapping, not a list"]),
    "an unknown key that resembles none": (
        "admin: {zzz: 1}\n",
        ["lbd.yaml:1:9: admin.zzz: is an unknown key; known here: socket"],
    ),
    "an unknown key that would break the path": (
        'health_monitors: {"a.b\\n": {type: ping, "x y": 1}}\n',
        [
            "lbd.yaml:1:19: health_monitors[\"a.b\\n\"]: \"a.b\\n\" is not a name: use letters, digits, '.', '_' and "
            "'-', with a letter or digit at both ends",
            'lbd.yaml:1:41: health_monitors["a.b\\n"]["x y"]: is an unknown key; known here: type, interval, timeout, '
            "rise, fall, jitter, port, send, expect, path, host, method, expect_status, expect_text, verify_tls, "
            "query_name, query_type, expect_rcode, expect_answer",
        ],
    ),
    "duplicate keys": (
        "metrics: {listen: off, listen: 70}\nadmin: {}\nmetrics: {}\n",
        [
            "lbd.yaml:1:24: metrics.listen: is a duplicate key; the first one is at lbd.yaml:1:11",
            "lbd.yaml:3:1: metrics: is a duplicate key; the first one is at lbd.yaml:1:1",
        ],
    ),
    "a monitor defined twice in a file": (
        "health_monitors:\n  a: {type: tcp}\n  a: {type: ping}\n",
        ["lbd.yaml:3:3: health_monitors.a: is a duplicate key; the first one is at lbd.yaml:2:3"],
    ),
    "a built-in monitor redefined, and one that may come": (
        "health_monitors:\n  system-tcp: {type: tcp}\n  system-dns: {type: tcp}\n",
        [
            "lbd.yaml:2:3: health_monitors.system-tcp: names that begin with system- are those of built-in monitors",
            "lbd.yaml:3:3: health_monitors.system-dns: names that begin with system- are those of built-in monitors",
        ],
    ),
    "keys of another type of monitor": (
        "health_monitors:\n  a: {type: ping, port: 80}\n  b: {type: http, send: x, verify_tls: true}\n"
        "  c: {type: https, expect: x}\n  d: {type: tcp, host: 1}\n"
        "  e: {type: udp, query_name: a}\n  f: {type: dns, send: x, expect_text: y}\n",
        [
            "lbd.yaml:2:19: health_monitors.a.port: belongs to tcp, http, https, udp and dns monitors, and this one is "
            "of type ping",
            "lbd.yaml:3:19: health_monitors.b.send: belongs to tcp and udp monitors, and this one is of type http",
            "lbd.yaml:3:28: health_monitors.b.verify_tls: belongs to https monitors, and this one is of type http",
            "lbd.yaml:4:20: health_monitors.c.expect: belongs to tcp and udp monitors, and this one is of type https",
            "lbd.yaml:5:18: health_monitors.d.host: belongs to http and https monitors, and this one is of type tcp",
            'lbd.yaml:5:24: health_monitors.d.host: 1 must be text: put it in quotes ("1") if text is meant',
            "lbd.yaml:6:18: health_monitors.e.query_name: belongs to dns monitors, and this one is of type udp",
            "lbd.yaml:7:18: health_monitors.f.send: belongs to tcp and udp monitors, and this one is of type dns",
            "lbd.yaml:7:27: health_monitors.f.expect_text: belongs to http and https monitors, and this one is of type "
            "dns",
        ],
    ),
    "monitors that could never pass": (
        "health_monitors:\n  a: {type: http, expect_status: [], method: HEAD, expect_text: ok}\n"
        "  b: {type: tcp, interval: 1s, timeout: 1001ms}\n  c: {type: dns, expect_rcode: []}\n",
        [
            "lbd.yaml:2:34: health_monitors.a.expect_status: is empty: no answer could ever pass",
            "lbd.yaml:2:52: health_monitors.a.expect_text: can't be checked with method HEAD, whose answers have no "
            "content",
            "lbd.yaml:3:41: health_monitors.b.timeout: 1001ms is longer than the interval (1s): "
            "a check must end before the next one begins",
            "lbd.yaml:4:32: health_monitors.c.expect_rcode: is empty: no answer could ever pass",
        ],
    ),
    "monitors of pools": (
        ENGINE + "health_monitors: {web-http: {type: http}}\nvirtual_services:\n"
        "- {name: a, vip: 10.0.0.1, port: 80, pool: {health_monitors: [web-htp, system-upd, system-tcp, system-tcp, 1],"
        " members: [{address: 10.1.0.1, port: 80}]}}\n",
        [
            'lbd.yaml:4:63: virtual_services[0].pool.health_monitors[0]: there is no health monitor "web-htp"; '
            "did you mean web-http?",
            'lbd.yaml:4:72: virtual_services[0].pool.health_monitors[1]: there is no health monitor "system-upd"; '
            "did you mean system-udp?",
            'lbd.yaml:4:96: virtual_services[0].pool.health_monitors[3]: "system-tcp" is already in this list',
            "lbd.yaml:4:108: virtual_services[0].pool.health_monitors[4]: 1 must be text: put it in quotes "
            '("1") if text is meant',
        ],
    ),
    "a monitor that is wrong in itself is still there": (
        ENGINE + "health_monitors: {m: {type: tcp, rise: 0}}\nvirtual_services:\n"
        "- {name: a, vip: 10.0.0.1, port: 80,"
        " pool: {health_monitors: [m], members: [{address: 10.1.0.1, port: 80}]}}\n",
        ["lbd.yaml:2:40: health_monitors.m.rise: 0 is not a number of checks (1-100)"],
    ),
    "two virtual services on one VIP and port": (
        ENGINE + f"virtual_services:\n- {SERVICE}\n- {SERVICE.replace('web', 'b')}\n"
        f"- {SERVICE.replace('web', 'c').replace('80, pool', '81, pool')}\n",
        [
            'lbd.yaml:4:18: virtual_services[1].vip: 10.0.0.1:80/tcp is already taken by virtual service "web" at '
            "lbd.yaml:3:20"
        ],
    ),
    "one VIP written in two ways": (
        ENGINE + "virtual_services:\n"
        "- {name: a, vip: '2001:db8::1', port: 80, pool: {members: [{address: 10.1.0.1, port: 80}]}}\n"
        "- {name: b, vip: '2001:DB8:0::1', port: 80, pool: {members: [{address: '2001:db8:0:0::1', port: 80}]}}\n",
        [
            'lbd.yaml:4:18: virtual_services[1].vip: [2001:db8::1]:80/tcp is already taken by virtual service "a" at '
            "lbd.yaml:3:18",
            "lbd.yaml:4:72: virtual_services[1].pool.members[0].address: 2001:db8::1 is the VIP of virtual service "
            '"a": connections would come back here',
        ],
    ),
    "a virtual service where the metrics are": (
        ENGINE + "metrics: {listen: 0.0.0.0:80}\nvirtual_services:\n- " + SERVICE + "\n",
        ["lbd.yaml:4:20: virtual_services[0].vip: 10.0.0.1:80 is where the metrics are served (metrics.listen)"],
    ),
    "a member twice": (
        ENGINE + "virtual_services:\n- name: a\n  vip: 10.0.0.1\n  port: 80\n  pool:\n    members:\n"
        "    - {address: 2001:db8::7, port: 80}\n    - {address: 2001:db8:0::7, port: 80, weight: 2}\n"
        "    - {address: 2001:db8::7, port: 81}\n",
        [
            "lbd.yaml:9:7: virtual_services[0].pool.members[1]: [2001:db8::7]:80 is already a member of this pool, at "
            "lbd.yaml:8:7"
        ],
    ),
    "no interface for the VIPs": (
        "# a comment\nservice_engine: {name: a}\nvirtual_services: [" + SERVICE + "]\n",
        [
            "lbd.yaml:2:17: service_engine.frontend_interface: is required as soon as there is a virtual service: "
            "VIPs are added to this interface"
        ],
    ),
    "no service_engine at all": (
        "virtual_services: [" + SERVICE + "]\n",
        [
            "lbd.yaml:1:1: service_engine.frontend_interface: is required as soon as there is a virtual service: "
            "VIPs are added to this interface"
        ],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_every_error_is_reported_in_the_order_of_the_file(case, errors_of):
    text, lines = CASES[case]
    assert errors_of(text) == lines


ADDRESSES_OF_NO_OTHER_MACHINE = {
    "127.0.0.1": "a loopback address",
    "127.255.0.9": "a loopback address",
    "::1": "a loopback address",
    "169.254.1.1": "a link-local address",
    "fe80::1": "a link-local address",
    "224.0.0.18": "a multicast address",
    "ff02::1": "a multicast address",
    "0.0.0.0": "the unspecified address",
    "::": "the unspecified address",
    "0.1.2.3": "an address of 0.0.0.0/8 (this network)",
    "255.255.255.255": "the broadcast address",
}


@pytest.mark.parametrize(("address", "kind"), ADDRESSES_OF_NO_OTHER_MACHINE.items())
def test_address_that_no_other_machine_can_have_is_neither_vip_nor_member(address, kind, errors_of):
    text = ENGINE + f"virtual_services:\n- {{name: a, vip: '{address}', port: 80, pool: {{members: [M]}}}}\n"
    text = text.replace("M", f"{{address: '{address}', port: 80}}")
    vip, member = errors_of(text)
    assert vip == f"lbd.yaml:3:18: virtual_services[0].vip: {address} is {kind} and can't be a VIP"
    assert member.endswith(f": virtual_services[0].pool.members[0].address: {address} is {kind} and can't be a member")


def test_loopback_is_allowed_by_the_argument_and_by_the_key(errors_of):
    text = "service_engine: {frontend_interface: lo}\nvirtual_services: [" + (
        "{name: a, vip: 127.0.0.2, port: 80, pool: {members: [{address: '::1', port: 80}]}}]\n"
    )
    assert len(errors_of(text)) == 2
    assert errors_of(text, allow_loopback=True) == []
    assert errors_of(text.replace("lo}", "lo, allow_loopback: true}")) == []
    assert len(errors_of(text.replace("lo}", "lo, allow_loopback: false}"))) == 2


def test_counters_have_room_for_4096_services_and_65536_members():
    assert (rules.MAX_SERVICES, rules.MAX_MEMBERS) == (4096, 65536)


def services(*member_counts: int) -> str:
    text = ENGINE + "virtual_services:\n"
    for number, members in enumerate(member_counts, 1):
        text += f"- name: s{number}\n  vip: 10.0.0.1\n  port: {number}\n  pool:\n    members:\n"
        text += "".join(f"    - {{address: 10.1.0.1, port: {port}}}\n" for port in range(1, members + 1))
    return text


def test_more_services_than_possible_are_one_error_at_the_first_too_many(errors_of, monkeypatch):
    monkeypatch.setattr(rules, "MAX_SERVICES", 3)
    assert errors_of(services(1, 1, 1)) == []
    assert errors_of(services(1, 1, 1, 1, 1)) == [
        "lbd.yaml:21:3: virtual_services[3]: is one more than the 3 virtual services that are possible"
    ]


def test_more_members_than_possible_are_one_error_at_the_first_too_many(errors_of, monkeypatch):
    monkeypatch.setattr(rules, "MAX_MEMBERS", 5)
    assert errors_of(services(2, 3)) == []
    for counts, place in (
        ((2, 5, 2), "lbd.yaml:18:7: virtual_services[1].pool.members[3]"),
        ((2, 3, 1), "lbd.yaml:23:7: virtual_services[2].pool.members[0]"),
    ):
        assert errors_of(services(*counts)) == [
            f"{place}: is one more than the 5 members that are possible in all pools together"
        ]
