"""What `lbd check` says about virtual services and pools: every line with its place."""

from __future__ import annotations

import pytest

HEAD = "service_engine: {frontend_interface: eth0}\nvirtual_services:\n- name: web\n  vip: 10.0.0.1\n  port: 80\n"
POOL = "  pool:\n    members: [{address: 10.1.0.1, port: 80}, {address: 10.1.0.2, port: 80}]\n"
ONE_IN_POOL = "  pool: {members: [{address: 10.1.0.1, port: 80}]"
"""Line 6 of the file, for what is said of a pool."""

# What stands after HEAD, from line 6 on; the lines without `lbd.yaml:` and `virtual_services[0].`.
CASES: dict[str, tuple[str, list[str]]] = {
    "keys of tcp in a udp service": (
        "  protocol: udp\n  accept_proxy_protocol: [10.0.0.0/8]\n  keepalive: {client: {}}\n"
        "  timeouts: {connect: 1s, idle: 1s, client_half_closed: 1s, member_half_closed: 1s, client_user: 1s,\n"
        "    member_user: 1s, lifetime: 1h, lifetime_jitter: 1%}\n  limits: {queue_length: 1, queue_timeout: 1s}\n"
        + POOL,
        [
            f"{place}: belongs to tcp services, and this one has protocol udp"
            for place in (
                "7:3: accept_proxy_protocol",
                "8:3: keepalive",
                "9:14: timeouts.connect",
                "9:37: timeouts.client_half_closed",
                "9:61: timeouts.member_half_closed",
                "9:85: timeouts.client_user",
                "10:5: timeouts.member_user",
                "10:22: timeouts.lifetime",
                "10:36: timeouts.lifetime_jitter",
                "11:12: limits.queue_length",
                "11:29: limits.queue_timeout",
            )
        ],
    ),
    "keys of udp in a tcp service": (
        "  udp: {responses: 1}\n" + POOL,
        ["6:3: udp: belongs to udp services, and this one has protocol tcp"],
    ),
    "keys of udp in a tcp service, and what they would exclude": (
        "  udp: {per_packet: true}\n" + ONE_IN_POOL + ", persistence: {type: client_ip}}\n",
        ["6:3: udp: belongs to udp services, and this one has protocol tcp"],
    ),
    "a jitter without a lifetime in a udp service": (
        "  protocol: udp\n  timeouts: {lifetime_jitter: 5%}\n" + POOL,
        ["7:14: timeouts.lifetime_jitter: belongs to tcp services, and this one has protocol udp"],
    ),
    "values of tcp in a udp service": (
        "  protocol: udp\n  proxy_protocol: v1\n  limits: {max_connections: 5, on_limit: queue}\n"
        "  pool: {algorithm: fastest_response, members: [{address: 10.1.0.1, port: 80}]}\n",
        [
            "7:19: proxy_protocol: v1 is made for streams: a udp service takes v2",
            "8:42: limits.on_limit: queue is for tcp services: a datagram does not wait",
            "9:21: pool.algorithm: fastest_response measures how fast members take connections, and udp has none",
        ],
    ),
    "keys of either protocol where the protocol is neither": (
        "  protocol: sctp\n  udp: {}\n  keepalive: {client: {}}\n" + POOL,
        ['6:13: protocol: "sctp" is not tcp or udp'],
    ),
    "per_packet with what lasts for a flow": (
        "  protocol: udp\n  udp: {per_packet: true}\n  proxy_protocol: v2\n"
        "  pool: {persistence: {type: client_ip}, members: [{address: 10.1.0.1, port: 80}]}\n",
        [
            "8:3: proxy_protocol: can't be had with udp.per_packet: each datagram picks its own member",
            "9:10: pool.persistence: can't be had with udp.per_packet: each datagram picks its own member",
        ],
    ),
    "networks": (
        "  source_ranges: [10.1.2.3/8, 10.0.0.0/8, 192.0.2.7, 192.0.2.7/32, 10.0.0.0/8, 7]\n"
        "  accept_proxy_protocol: []\n" + POOL,
        [
            '6:19: source_ranges[0]: "10.1.2.3/8" has bits set behind its prefix: write 10.0.0.0/8 or 10.1.2.3/32',
            "6:54: source_ranges[3]: 192.0.2.7/32 is already in this list, at lbd.yaml:6:43",
            "6:68: source_ranges[4]: 10.0.0.0/8 is already in this list, at lbd.yaml:6:31",
            '6:80: source_ranges[5]: 7 must be text: put it in quotes ("7") if text is meant',
            "7:26: accept_proxy_protocol: is empty: name a network, or remove the key (no header is read then)",
        ],
    ),
    "no networks at all": (
        "  source_ranges: []\n" + POOL,
        ["6:18: source_ranges: is empty: name a network, or remove the key (everybody is served then)"],
    ),
    "a network that is in no list": (
        "  source_ranges: 10.0.0.0/8\n" + POOL,
        ['6:18: source_ranges: must be a list, not "10.0.0.0/8"'],
    ),
    "a queue without its limit": (
        "  limits: {on_limit: queue, queue_length: 5}\n" + POOL,
        ["6:22: limits.on_limit: queue needs max_connections: without it nobody would ever wait"],
    ),
    "keys of a queue that is none": (
        "  limits: {max_connections: 5, queue_length: 5, queue_timeout: 1s, on_limit: refuse}\n" + POOL,
        [
            "6:32: limits.queue_length: belongs to on_limit: queue, and here connections are refused",
            "6:49: limits.queue_timeout: belongs to on_limit: queue, and here connections are refused",
        ],
    ),
    "keys of a queue whose on_limit can't be read": (
        "  limits: {max_connections: 5, queue_length: 5, on_limit: que}\n" + POOL,
        ['6:59: limits.on_limit: "que" is not refuse or queue; did you mean queue?'],
    ),
    "limits that can't be reached": (
        "  limits: {max_connections: 5, max_connections_per_client: 6, connection_rate: 60/m,\n"
        "    connection_rate_per_client: 61/m}\n" + POOL,
        [
            "6:60: limits.max_connections_per_client: 6 can't be reached: all clients together have 5 "
            "(max_connections)",
            "7:33: limits.connection_rate_per_client: 61/m can't be reached: all clients together have 60/m "
            "(connection_rate)",
        ],
    ),
    "more connections than flows": (
        "  protocol: udp\n  limits: {max_connections: 11}\n  udp: {max_flows: 10}\n" + POOL,
        ["7:29: limits.max_connections: 11 can't be reached: there are at most 10 flows (udp.max_flows)"],
    ),
    "more connections than flows by default": (
        "  protocol: udp\n  limits: {max_connections: 16385}\n" + POOL,
        ["7:29: limits.max_connections: 16385 can't be reached: there are at most 16384 flows (udp.max_flows)"],
    ),
    "limits of nothing": (
        "  limits: {max_connections: 0, connection_rate: 0/s, max_throughput: 0bps, queue_timeout: 0s}\n" + POOL,
        [
            "6:29: limits.max_connections: 0 is not a number of connections (1-10000000)",
            '6:49: limits.connection_rate: "0/s" lets nothing pass: a rate is at least 1/h',
            '6:70: limits.max_throughput: "0bps" is too little (at least 64kbps)',
            "6:76: limits.queue_timeout: belongs to on_limit: queue, and here connections are refused",
            '6:91: limits.queue_timeout: "0s" is too short (at least 10ms)',
        ],
    ),
    "limits without their units": (
        "  limits: {connection_rate: 100, max_throughput: 100}\n  timeouts: {lifetime: 60}\n" + POOL,
        [
            "6:29: limits.connection_rate: 100 has no unit: write 100/s, or use /m or /h",
            "6:50: limits.max_throughput: 100 has no unit: write bps, kbps, Mbps or Gbps behind it (bits a second)",
            "7:24: timeouts.lifetime: 60 has no unit: write 60s, or use ms, m or h",
        ],
    ),
    "a jitter of no lifetime": (
        "  timeouts: {lifetime_jitter: 5%}\n" + POOL,
        ["6:14: timeouts.lifetime_jitter: needs a lifetime: without it there is nothing to shift"],
    ),
    "a jitter of a lifetime that is off": (
        "  timeouts: {lifetime_jitter: 5%, lifetime: 0s}\n" + POOL,
        ["6:14: timeouts.lifetime_jitter: needs a lifetime: without it there is nothing to shift"],
    ),
    "a jitter of a lifetime that can't be read": (
        "  timeouts: {lifetime_jitter: 5%, lifetime: ever}\n" + POOL,
        ['6:45: timeouts.lifetime: "ever" is not a duration: write it like 250ms, 2s, 10m, 1h or 1m30s'],
    ),
    "keep-alive toward nobody": (
        "  keepalive: {}\n" + POOL,
        ["6:14: keepalive: is empty: write client: {}, member: {} or both, or remove the key"],
    ),
    "keep-alive beyond the kernel's": (
        "  keepalive: {client: {idle: 32768s, interval: 500ms, probes: 128}, members: {}, member: {idle: 1500ms}}\n"
        + POOL,
        [
            '6:30: keepalive.client.idle: "32768s" is too long (at most 32767s)',
            '6:48: keepalive.client.interval: "500ms" is too short (at least 1s)',
            "6:63: keepalive.client.probes: 128 is not a number of probes (1-127)",
            "6:69: keepalive.members: is an unknown key; did you mean member?",
            '6:97: keepalive.member.idle: "1500ms" is not a whole number of seconds, which is what TCP keep-alive '
            "takes",
        ],
    ),
    "transparent toward another family": (
        "  source: transparent\n"
        "  pool: {members: [{address: 10.1.0.1, port: 80}, {address: '2001:db8::1', port: 80}]}\n",
        [
            "7:61: pool.members[1].address: 2001:db8::1 can't be reached from the address of an IPv4 client "
            "(source: transparent)"
        ],
    ),
    "words that are close": (
        "  source: transparant\n  proxy_protocol: V2\n  limits: {max_conections: 5}\n  udp: {responces: 1}\n"
        "  protocol: udp\n"
        "  pool: {persistance: {}, persistence: {type: client-ip, on_member_down: keeping}, algorithm: randm,\n"
        "    members: [{address: 10.1.0.1, port: 80, back_up: true}]}\n",
        [
            '6:11: source: "transparant" is not snat or transparent; did you mean transparent?',
            '7:19: proxy_protocol: "V2" is not v1 or v2; did you mean v2?',
            "8:12: limits.max_conections: is an unknown key; did you mean max_connections?",
            "9:9: udp.responces: is an unknown key; did you mean responses?",
            "11:10: pool.persistance: is an unknown key; did you mean persistence?",
            '11:47: pool.persistence.type: "client-ip" is not client_ip; did you mean client_ip?',
            '11:74: pool.persistence.on_member_down: "keeping" is not rebalance or keep; did you mean keep?',
            '11:95: pool.algorithm: "randm" is not round_robin, consistent_hash, least_connections, random or '
            "fastest_response; did you mean random?",
            "12:45: pool.members[0].back_up: is an unknown key; did you mean backup?",
        ],
    ),
    "sections without a value": (
        "  limits:\n  keepalive:\n  source:\n  source_ranges:\n  proxy_protocol: ~\n"
        "  pool:\n    persistence:\n    outlier_detection: null\n    drain_timeout:\n    hash:\n"
        "    members: [{address: 10.1.0.1, port: 80, max_connections: }]\n",
        [
            f"{place}: has no value: write one, or remove the key"
            for place in (
                "6:10: limits",
                "7:13: keepalive",
                "8:10: source",
                "9:17: source_ranges",
                "10:19: proxy_protocol",
                "12:17: pool.persistence",
                "13:24: pool.outlier_detection",
                "14:19: pool.drain_timeout",
                "15:10: pool.hash",
                "16:62: pool.members[0].max_connections",
            )
        ],
    ),
    "persistence without a type": (
        ONE_IN_POOL + ", persistence: {timeout: 5}}\n",
        [
            "6:65: pool.persistence.type: is required",
            "6:75: pool.persistence.timeout: 5 has no unit: write 5s, or use ms, m or h",
        ],
    ),
    "persistence out of bounds": (
        ONE_IN_POOL + ",\n    persistence: {type: client_ip, ipv4_prefix: 33, ipv6_prefix: /64,"
        " max_entries: 1000001, timeout: 0s}}\n",
        [
            "7:49: pool.persistence.ipv4_prefix: 33 is not an IPv4 prefix length (1-32)",
            '7:66: pool.persistence.ipv6_prefix: "/64" is not an IPv6 prefix length (1-128)',
            "7:84: pool.persistence.max_entries: 1000001 is not a number of clients (1-1000000)",
            '7:102: pool.persistence.timeout: "0s" is too short (at least 1s)',
        ],
    ),
    "a hash for another algorithm": (
        ONE_IN_POOL + ",\n    algorithm: random, hash: source_ip, max_load: 125%}\n",
        [
            "7:24: pool.hash: belongs to consistent_hash, and this pool's algorithm is random",
            "7:41: pool.max_load: belongs to consistent_hash, and this pool's algorithm is random",
        ],
    ),
    "a bound for the default algorithm": (
        ONE_IN_POOL + ",\n    max_load: 125%}\n",
        ["7:5: pool.max_load: belongs to consistent_hash, and this pool's algorithm is round_robin"],
    ),
    "a hash for an algorithm that can't be read": (
        ONE_IN_POOL + ",\n    algorithm: consistent-hash, hash: ip}\n",
        [
            '7:16: pool.algorithm: "consistent-hash" is not round_robin, consistent_hash, least_connections, random or '
            "fastest_response; did you mean consistent_hash?",
            '7:39: pool.hash: "ip" is not source_ip or source_ip_port',
        ],
    ),
    "a bound that leaves no room": (
        ONE_IN_POOL + ",\n    hash: source_ip, max_load: 100%}\n",
        [
            '7:32: pool.max_load: "100%" leaves no room: 100% is the average of all members, so write 101% to 1000%',
        ],
    ),
    "a longest ejection that is shorter than the first": (
        ONE_IN_POOL + ",\n    outlier_detection: {base_ejection_time: 1m, max_ejection_time: 59s, max_ejected: 0%}}\n",
        [
            "7:68: pool.outlier_detection.max_ejection_time: 59s is shorter than the first ejection "
            "(60s, base_ejection_time)",
            '7:86: pool.outlier_detection.max_ejected: "0%" is not a percentage from 1% to 100%',
        ],
    ),
    "a longest ejection that is shorter than the first by default": (
        ONE_IN_POOL + ",\n    outlier_detection: {max_ejection_time: 29s}}\n",
        [
            "7:44: pool.outlier_detection.max_ejection_time: 29s is shorter than the first ejection "
            "(30s, base_ejection_time)",
        ],
    ),
    "only backups": (
        "  pool:\n    members: [{address: 10.1.0.1, port: 80, backup: true},"
        " {address: 10.1.0.2, port: 80, backup: true}]\n",
        ["7:14: pool.members: are all backups: one must be what they stand in for"],
    ),
    "more members up than there are": (
        ONE_IN_POOL.replace("]", ", {address: 10.1.0.2, port: 80, backup: true}]") + ",\n    min_members_up: 3}\n",
        ["7:21: pool.min_members_up: 3 is more than the pool has enabled members (2): it would always be down"],
    ),
    "more members up than are enabled": (
        ONE_IN_POOL.replace("]", ", {address: 10.1.0.2, port: 80, admin_state: draining}]")
        + ",\n    min_members_up: 2}\n",
        ["7:21: pool.min_members_up: 2 is more than the pool has enabled members (1): it would always be down"],
    ),
    "more members up than states that can be read": (
        ONE_IN_POOL.replace("]", ", {address: 10.1.0.2, port: 80, admin_state: on}]") + ",\n    min_members_up: 2}\n",
        [
            '6:94: pool.members[1].admin_state: "on" is not enabled, draining or disabled',
        ],
    ),
    "members up of an empty pool": (
        "  pool: {min_members_up: 2, members: []}\n",
        ["6:38: pool.members: is empty: a pool needs a member (use admin_state to take a service away for a time)"],
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_every_error_of_a_service_is_reported_with_its_place(case, errors_of):
    text, lines = CASES[case]
    found = [line.removeprefix("lbd.yaml:").replace("virtual_services[0].", "") for line in errors_of(HEAD + text)]
    assert found == lines


GOOD = {
    "limits of one client that are those of all": (
        "  limits: {max_connections: 5, max_connections_per_client: 5, connection_rate: 1/s,\n"
        "    connection_rate_per_client: 60/m}\n" + POOL
    ),
    "a limit of one client alone": "  limits: {max_connections_per_client: 5, connection_rate_per_client: 1/h}\n"
    + POOL,
    "as many connections as flows": "  protocol: udp\n  limits: {max_connections: 16384}\n" + POOL,
    "per_packet that is off": (
        "  protocol: udp\n  udp: {per_packet: false}\n  proxy_protocol: v2\n"
        "  pool: {persistence: {type: client_ip}, members: [{address: 10.1.0.1, port: 80}]}\n"
    ),
    "per_packet with a hash": (
        "  protocol: udp\n  udp: {per_packet: true}\n"
        "  pool: {hash: source_ip_port, max_load: 1000%, members: [{address: 10.1.0.1, port: 80}]}\n"
    ),
    "transparent and the header": "  source: transparent\n  proxy_protocol: v2\n" + POOL,
    "another family by snat": (
        "  source: snat\n  pool: {members: [{address: 10.1.0.1, port: 80}, {address: '2001:db8::1', port: 80}]}\n"
    ),
    "a backup and a disabled member": (
        "  pool: {members: [{address: 10.1.0.1, port: 80, admin_state: disabled},"
        " {address: 10.1.0.2, port: 80, backup: true}]}\n"
    ),
    "all members taken out, and one wanted as by default": (
        "  pool: {min_members_up: 1, members: [{address: 10.1.0.1, port: 80, admin_state: disabled}]}\n"
    ),
    "as many up as there are": ONE_IN_POOL.replace("]", ", {address: 10.1.0.2, port: 80, backup: true}]")
    + ",\n    min_members_up: 2}\n",
    "the same network in two lists": (
        "  source_ranges: [10.0.0.0/8, 10.0.0.0/9]\n  accept_proxy_protocol: [10.0.0.0/8]\n" + POOL
    ),
    "an empty section of limits": "  limits: {}\n  timeouts: {}\n" + POOL,
}


@pytest.mark.parametrize("case", GOOD)
def test_what_is_at_the_edge_of_a_rule_is_good(case, errors_of):
    assert errors_of(HEAD + GOOD[case]) == []
