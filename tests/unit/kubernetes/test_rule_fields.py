"""Claims about the fields of an L4Rule: each one works or is refused with a sentence that names it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lbd.kubernetes.rules.rule_backends import (
    ALGORITHMS,
    ALGORITHMS_NOT_HERE,
    HASHES,
    HASHES_NOT_HERE,
)
from lbd.kubernetes.rules.rule_backends import (
    FIELDS as BACKEND_FIELDS,
)
from lbd.kubernetes.rules.rule_fields import FIELDS, read_spec
from lbd.kubernetes.rules.rule_policy import BackendPolicy, RulePolicy
from lbd.kubernetes.rules.rule_profiles import Catalog
from lbd.kubernetes.rules.rule_reading import MAX_ERROR_CHARACTERS, MAX_ERRORS, joined
from lbd.model.desired import (
    SYSTEM_MONITORS,
    Algorithm,
    ClientLogs,
    HashKey,
    HealthMonitor,
    MonitorType,
    Persistence,
    Protocol,
    ProxyProtocol,
    Source,
    Timeouts,
)
from lbd.model.kubernetes import (
    SYSTEM_PROFILES,
    AnalyticsProfile,
    ApplicationProfile,
    Kubernetes,
    NetworkProfile,
    NetworkSecurityPolicy,
    PersistenceProfile,
)

ANALYTICS = AnalyticsProfile("custom-analytics", slow_connect_s=0.25)
APPLICATION = ApplicationProfile("Custom-L4-Application-Profile", Source.SNAT, ProxyProtocol.V2)
NETWORK = NetworkProfile("patient", Timeouts(idle_s=3600.0), udp_idle_s=5.0)
SECURITY = NetworkSecurityPolicy("office", ("10.0.0.0/8",))
STICKY = PersistenceProfile("sticky", Persistence(timeout_s=60.0))
WEB_HTTP = HealthMonitor("web-http", MonitorType.HTTP, path="/healthz")
KUBERNETES = Kubernetes(
    profiles=(*SYSTEM_PROFILES, ANALYTICS, APPLICATION, NETWORK, SECURITY, STICKY),
    health_monitors=(*SYSTEM_MONITORS, WEB_HTTP),
)
CATALOG = Catalog(KUBERNETES)
BY_NAME = {monitor.name: monitor for monitor in SYSTEM_MONITORS}

EXAMPLE: dict[str, Any] = {
    "analyticsProfileRef": "custom-analytics",
    "analyticsPolicy": {"fullClientLogs": {"enabled": True, "duration": 0, "throttle": 20}},
    "applicationProfileRef": "Custom-L4-Application-Profile",
    "performanceLimits": {"maxConcurrentConnections": 105, "maxThroughput": 100},
    "backendProperties": [
        {
            "port": 80,
            "protocol": "TCP",
            "enabled": True,
            "applicationPersistenceProfileRef": "System-Persistence-Client-IP",
            "healthMonitorRefs": ["System-Ping", "System-TCP"],
            "lbAlgorithm": "LB_ALGORITHM_CONSISTENT_HASH",
            "lbAlgorithmHash": "LB_ALGORITHM_CONSISTENT_HASH_SOURCE_IP_ADDRESS",
        }
    ],
}


def policy_of(spec: object) -> RulePolicy:
    policy, errors = read_spec(spec, CATALOG)
    assert errors == []
    return policy


def errors_of(spec: object) -> list[str]:
    return read_spec(spec, CATALOG)[1]


def error_of(spec: object) -> str:
    (error,) = errors_of(spec)
    return error


def with_backend(**fields: object) -> dict[str, Any]:
    return {"backendProperties": [{"port": 80, "protocol": "TCP", **fields}]}


def backend_of(**fields: object) -> BackendPolicy:
    (backend,) = policy_of(with_backend(**fields)).backends
    return backend


def test_the_example_of_the_documentation_means_what_it_says():
    policy = policy_of(EXAMPLE)
    assert policy == RulePolicy(
        max_connections=105,
        max_throughput_bps=100_000_000,
        client_logs=ClientLogs(throttle_per_s=20, duration_s=0.0, slow_connect_s=0.25),
        application=APPLICATION,
        backends=(
            BackendPolicy(
                port=80,
                protocol=Protocol.TCP,
                algorithm=Algorithm.CONSISTENT_HASH,
                hash_key=HashKey.SOURCE_IP,
                persistence=Persistence(),
                health_monitors=(BY_NAME["system-ping"], BY_NAME["system-tcp"]),
            ),
        ),
    )


def test_an_empty_spec_has_the_documented_defaults():
    policy = policy_of({})
    assert (policy.application.name, policy.network.name) == ("System-L4-Application", "System-TCP-Proxy")
    assert policy.client_logs is None
    assert policy.network_security is None
    assert (policy.max_connections, policy.max_throughput_bps, policy.load_balancer_ip) == (0, 0, "")
    assert policy.backends == ()


# What works.


def test_the_names_of_built_in_profiles_resolve():
    policy = policy_of(
        {
            "analyticsProfileRef": "System-Analytics-Profile",
            "applicationProfileRef": "System-L4-Application",
            "networkProfileRef": "System-UDP-Per-Pkt",
        }
    )
    assert policy.network.udp.per_packet


def test_built_in_profiles_resolve_though_the_configuration_gives_others_only():
    catalog = Catalog(Kubernetes(profiles=(STICKY,)))
    assert read_spec({"networkProfileRef": "System-TCP-Proxy"}, catalog)[1] == []


def test_each_reference_gives_its_profile():
    policy = policy_of({"networkProfileRef": "patient", "networkSecurityPolicyRef": "office"})
    assert policy.network == NETWORK
    assert policy.network_security == SECURITY
    assert backend_of(applicationPersistenceProfileRef="sticky").persistence == STICKY.persistence


@pytest.mark.parametrize(
    ("logs", "meant"),
    [
        ({"enabled": True}, ClientLogs(throttle_per_s=10, duration_s=1800.0)),
        ({"enabled": True, "duration": 1}, ClientLogs(throttle_per_s=10, duration_s=60.0)),
        ({"enabled": True, "duration": 65535, "throttle": 0}, ClientLogs(throttle_per_s=0, duration_s=65535 * 60.0)),
        ({"enabled": True, "throttle": 65535}, ClientLogs(throttle_per_s=65535, duration_s=1800.0)),
        ({"enabled": False, "duration": 5}, None),
    ],
)
def test_full_client_logs_are_for_minutes_and_lines_a_second(logs, meant):
    assert policy_of({"analyticsPolicy": {"fullClientLogs": logs}}).client_logs == meant


def test_no_limit_is_what_zero_means():
    policy = policy_of({"performanceLimits": {"maxConcurrentConnections": 0, "maxThroughput": 0}})
    assert (policy.max_connections, policy.max_throughput_bps) == (0, 0)


def test_one_limit_alone_leaves_the_other_one_off():
    policy = policy_of({"performanceLimits": {"maxConcurrentConnections": 5}})
    assert (policy.max_connections, policy.max_throughput_bps) == (5, 0)
    policy = policy_of({"performanceLimits": {"maxThroughput": 5}})
    assert (policy.max_connections, policy.max_throughput_bps) == (0, 5_000_000)


def test_the_largest_limits_are_taken():
    policy = policy_of({"performanceLimits": {"maxConcurrentConnections": 65535, "maxThroughput": 65535}})
    assert (policy.max_connections, policy.max_throughput_bps) == (65535, 65_535_000_000)


@pytest.mark.parametrize(("written", "meant"), [("172.16.101.160", "172.16.101.160"), ("FD00::0:1", "fd00::1")])
def test_load_balancer_ip_is_canonical(written, meant):
    assert policy_of({"loadBalancerIP": written}).load_balancer_ip == meant


@pytest.mark.parametrize(("word", "algorithm"), ALGORITHMS.items())
def test_each_algorithm_works(word, algorithm):
    hashes = {"lbAlgorithmHash": next(iter(HASHES))} if algorithm is Algorithm.CONSISTENT_HASH else {}
    assert backend_of(lbAlgorithm=word, **hashes).algorithm is algorithm


def test_least_connections_is_the_default_of_a_backend():
    assert backend_of().algorithm is Algorithm.LEAST_CONNECTIONS


@pytest.mark.parametrize(("word", "key"), HASHES.items())
def test_a_hash_alone_means_consistent_hash(word, key):
    backend = backend_of(lbAlgorithmHash=word)
    assert (backend.algorithm, backend.hash_key) == (Algorithm.CONSISTENT_HASH, key)


def test_monitors_are_those_named_in_their_order():
    backend = backend_of(healthMonitorRefs=["web-http", "System-UDP", "system-ping", "System-HTTP"])
    assert [monitor.name for monitor in backend.health_monitors] == [
        "web-http",
        "system-udp",
        "system-ping",
        "system-http",
    ]


@pytest.mark.parametrize(("written", "meant"), [(0, 1), (1, 1), (2, 2), (65535, 65535)])
def test_min_servers_up_is_at_least_one(written, meant):
    assert backend_of(minServersUp=written).min_members_up == meant


def test_a_backend_can_be_disabled():
    assert backend_of(enabled=False).enabled is False
    assert backend_of().enabled is True


def test_real_time_metrics_are_taken_either_way():
    for wanted in (True, False):
        assert backend_of(analyticsPolicy={"enableRealtimeMetrics": wanted}) == backend_of()


def test_a_listener_without_tls_is_harmless_whatever_its_port():
    listeners = [{"port": 4711, "protocol": "TCP", "enableSsl": False}, {"port": 80, "protocol": "TCP"}]
    assert policy_of({"listenerProperties": listeners}) == RulePolicy()


def test_ports_are_told_apart_by_protocol():
    policy = policy_of({"backendProperties": [{"port": 53, "protocol": "TCP"}, {"port": 53, "protocol": "UDP"}]})
    tcp, udp = policy.backend(53, Protocol.TCP), policy.backend(53, Protocol.UDP)
    assert tcp is not None
    assert udp is not None
    assert (tcp.protocol, udp.protocol) == (Protocol.TCP, Protocol.UDP)
    assert policy.backend(54, Protocol.TCP) is None


@pytest.mark.parametrize(
    "spec",
    [
        {"vsDatascriptRefs": [], "sslKeyAndCertificateRefs": [], "securityPolicyRef": "", "sslProfileRef": ""},
        {"revokeVipRoute": False},
        {"loadBalancerIP": "", "applicationProfileRef": "", "networkSecurityPolicyRef": ""},
        {"backendProperties": [], "listenerProperties": []},
        with_backend(sslProfileRef="", lbAlgorithmConsistentHashHdr="", healthMonitorCrdRefs=[], healthMonitorRefs=[]),
    ],
)
def test_what_asks_for_nothing_changes_nothing(spec):
    policy = policy_of(spec)
    assert policy == RulePolicy(backends=policy.backends)


# What is refused.


@pytest.mark.parametrize(
    ("spec", "error"),
    [
        ({"securityPolicyRef": "waf"}, "spec.securityPolicyRef: is not supported"),
        ({"vsDatascriptRefs": ["a"]}, "spec.vsDatascriptRefs: is not supported: lbd runs no scripts"),
        ({"sslProfileRef": "tls"}, "spec.sslProfileRef: lbd passes bytes on as they are"),
        ({"sslKeyAndCertificateRefs": ["c"]}, "spec.sslKeyAndCertificateRefs: lbd passes bytes on as they are"),
        ({"revokeVipRoute": True}, "spec.revokeVipRoute: true is not supported"),
        (with_backend(sslProfileRef="a"), "spec.backendProperties[0].sslProfileRef: "),
        (with_backend(sslKeyAndCertificateRef="a"), "spec.backendProperties[0].sslKeyAndCertificateRef: "),
        (with_backend(pkiProfileRef="a"), "spec.backendProperties[0].pkiProfileRef: "),
        (with_backend(healthMonitorCrdRefs=["a"]), "spec.backendProperties[0].healthMonitorCrdRefs: "),
        (with_backend(lbAlgorithmConsistentHashHdr="X"), "spec.backendProperties[0].lbAlgorithmConsistentHashHdr: "),
        (
            {"listenerProperties": [{"port": 443, "protocol": "TCP", "enableSsl": True}]},
            "spec.listenerProperties[0].enableSsl: true is not supported",
        ),
        (
            {"listenerProperties": [{"port": 53, "protocol": "UDP"}]},
            'spec.listenerProperties[0].protocol: "UDP" is not TCP',
        ),
        ({"backendProperties": [{"port": 9, "protocol": "SCTP"}]}, 'spec.backendProperties[0].protocol: "SCTP" is not'),
    ],
)
def test_what_lbd_cannot_do_is_refused_and_named(spec, error):
    assert error_of(spec).startswith(error)


@pytest.mark.parametrize("word", ALGORITHMS_NOT_HERE)
def test_an_algorithm_of_others_is_refused_with_those_that_there_are(word):
    error = error_of(with_backend(lbAlgorithm=word))
    assert error.startswith(f"spec.backendProperties[0].lbAlgorithm: {word} ")
    assert "LB_ALGORITHM_LEAST_CONNECTIONS" in error


@pytest.mark.parametrize("word", HASHES_NOT_HERE)
def test_a_hash_of_layer_7_is_refused(word):
    error = error_of(with_backend(lbAlgorithmHash=word))
    assert error.startswith(f"spec.backendProperties[0].lbAlgorithmHash: {word} hashes ")
    assert "layer 4" in error


def test_consistent_hash_without_a_hash_is_refused():
    error = error_of(with_backend(lbAlgorithm="LB_ALGORITHM_CONSISTENT_HASH"))
    assert error == (
        "spec.backendProperties[0].lbAlgorithm: LB_ALGORITHM_CONSISTENT_HASH needs lbAlgorithmHash, "
        "which says what is hashed"
    )


@pytest.mark.parametrize("word", [word for word in ALGORITHMS if "HASH" not in word])
def test_a_hash_with_another_algorithm_is_refused(word):
    error = error_of(with_backend(lbAlgorithm=word, lbAlgorithmHash=next(iter(HASHES))))
    assert error == (
        f"spec.backendProperties[0].lbAlgorithmHash: belongs to LB_ALGORITHM_CONSISTENT_HASH, and lbAlgorithm is {word}"
    )


def test_a_misspelt_algorithm_is_one_mistake_though_a_hash_stands_beside_it():
    error = error_of(with_backend(lbAlgorithm="ROUND_ROBIN", lbAlgorithmHash=next(iter(HASHES))))
    assert 'lbAlgorithm: "ROUND_ROBIN" is not an algorithm; did you mean LB_ALGORITHM_ROUND_ROBIN?' in error


def test_udp_has_no_fastest_response():
    spec = {"backendProperties": [{"port": 53, "protocol": "UDP", "lbAlgorithm": "LB_ALGORITHM_FASTEST_RESPONSE"}]}
    assert error_of(spec).startswith("spec.backendProperties[0].lbAlgorithm: LB_ALGORITHM_FASTEST_RESPONSE ")


def test_udp_per_packet_has_no_persistence():
    backend = {"port": 53, "protocol": "UDP", "applicationPersistenceProfileRef": "sticky"}
    spec = {"networkProfileRef": "System-UDP-Per-Pkt", "backendProperties": [backend]}
    assert "applicationPersistenceProfileRef: can't be had" in error_of(spec)
    backend["protocol"] = "TCP"
    assert errors_of(spec) == []


@pytest.mark.parametrize(
    ("spec", "error"),
    [
        (
            {"applicationProfileRef": "custom-l4-application-profil"},
            'spec.applicationProfileRef: there is no application profile "custom-l4-application-profil"; '
            "did you mean Custom-L4-Application-Profile?",
        ),
        (
            {"networkProfileRef": "System-TCP-Proxi"},
            'spec.networkProfileRef: there is no network profile "System-TCP-Proxi"; did you mean System-TCP-Proxy?',
        ),
        (
            {"networkProfileRef": "office"},
            'spec.networkProfileRef: "office" is a network security policy, and this must name a network profile',
        ),
        ({"analyticsProfileRef": "zzz"}, 'spec.analyticsProfileRef: there is no analytics profile "zzz"'),
        (
            {"networkSecurityPolicyRef": "ofice"},
            'spec.networkSecurityPolicyRef: there is no network security policy "ofice"; did you mean office?',
        ),
        (
            with_backend(applicationPersistenceProfileRef="custom-analytics"),
            'spec.backendProperties[0].applicationPersistenceProfileRef: "custom-analytics" is an analytics profile, '
            "and this must name a persistence profile",
        ),
        (
            with_backend(healthMonitorRefs=["System-TCP", "System-Pong"]),
            'spec.backendProperties[0].healthMonitorRefs[1]: there is no health monitor "System-Pong"; '
            "did you mean System-Ping?",
        ),
        (
            with_backend(healthMonitorRefs=["System-TCP", "system-tcp"]),
            'spec.backendProperties[0].healthMonitorRefs[1]: "system-tcp" is already in this list',
        ),
    ],
)
def test_a_reference_that_resolves_to_nothing_is_named_with_the_closest_name(spec, error):
    assert error_of(spec) == error


@pytest.mark.parametrize(
    ("spec", "error"),
    [
        ({"loadBalancerIP": "172.16.101.300"}, 'spec.loadBalancerIP: "172.16.101.300" is not an IP address'),
        ({"loadBalancerIP": "fe80::1%eth0"}, 'spec.loadBalancerIP: "fe80::1%eth0" has a zone id'),
        ({"loadBalancerIP": 7}, "spec.loadBalancerIP: 7 must be text"),
        ({"performanceLimits": {"maxThroughput": 65536}}, "spec.performanceLimits.maxThroughput: 65536 is not a"),
        (
            {"performanceLimits": {"maxConcurrentConnections": -1}},
            "spec.performanceLimits.maxConcurrentConnections: -1 is not a number of connections (0-65535)",
        ),
        (
            {"performanceLimits": {"maxConcurrentConnections": True}},
            "spec.performanceLimits.maxConcurrentConnections: true is not a number",
        ),
        ({"performanceLimits": {"maxThroughput": 1.5}}, "spec.performanceLimits.maxThroughput: 1.5 is not a"),
        ({"performanceLimits": {"maxThroughput": "9"}}, 'spec.performanceLimits.maxThroughput: "9" is not a'),
        ({"performanceLimits": []}, "spec.performanceLimits: must be a mapping, not a list"),
        ({"performanceLimits": None}, "spec.performanceLimits: must be a mapping, not nothing"),
        ({"analyticsPolicy": {"fullClientLogs": {}}}, "spec.analyticsPolicy.fullClientLogs.enabled: is required"),
        ({"analyticsPolicy": {"fullClientLogs": 1}}, "spec.analyticsPolicy.fullClientLogs: must be a mapping, not 1"),
        (
            {"analyticsPolicy": {"fullClientLogs": {"enabled": "yes"}}},
            'spec.analyticsPolicy.fullClientLogs.enabled: "yes" is not true or false',
        ),
        (
            {"analyticsPolicy": {"fullClientLogs": {"enabled": True, "duration": 65536}}},
            "spec.analyticsPolicy.fullClientLogs.duration: 65536 is not a number of minutes (0-65535)",
        ),
        (
            {"analyticsPolicy": {"fullClientLogs": {"enabled": False, "throttle": -1}}},
            "spec.analyticsPolicy.fullClientLogs.throttle: -1 is not a number of lines a second (0-65535)",
        ),
        ({"backendProperties": {"port": 80}}, "spec.backendProperties: must be a list, not a mapping"),
        ({"backendProperties": ["x"]}, 'spec.backendProperties[0]: must be a mapping, not "x"'),
        ({"backendProperties": [{"protocol": "TCP"}]}, "spec.backendProperties[0].port: is required"),
        ({"backendProperties": [{"port": 80}]}, "spec.backendProperties[0].protocol: is required"),
        ({"backendProperties": [{"port": 0, "protocol": "TCP"}]}, "spec.backendProperties[0].port: 0 is not a port"),
        (
            {"backendProperties": [{"port": 80, "protocol": "tcp"}]},
            'spec.backendProperties[0].protocol: "tcp" is not TCP or UDP; did you mean TCP?',
        ),
        (with_backend(enabled=""), 'spec.backendProperties[0].enabled: "" is not true or false'),
        (with_backend(enabled=None), "spec.backendProperties[0].enabled: has no value"),
        (with_backend(minServersUp=65536), "spec.backendProperties[0].minServersUp: 65536 is not a number of servers"),
        (with_backend(healthMonitorRefs="System-TCP"), "spec.backendProperties[0].healthMonitorRefs: must be a list"),
        (with_backend(healthMonitorRefs=[1]), "spec.backendProperties[0].healthMonitorRefs[0]: 1 must be text"),
        (with_backend(analyticsPolicy={"enableRealtimeMetrics": 1}), "spec.backendProperties[0].analyticsPolicy."),
        (with_backend(lbAlgorithm=7), "spec.backendProperties[0].lbAlgorithm: 7 must be text"),
        ({"listenerProperties": [{"protocol": "TCP"}]}, "spec.listenerProperties[0].port: is required"),
        ({"listenerProperties": [{"port": 1}]}, "spec.listenerProperties[0].protocol: is required"),
        ({"revokeVipRoute": "true"}, 'spec.revokeVipRoute: "true" is not true or false'),
        ({"applicationProfileRef": ["a"]}, "spec.applicationProfileRef: must be text, not a list"),
        ({"applicationProfileRef": "a" * 300}, "spec.applicationProfileRef: "),
        ([], "spec: must be a mapping, not a list"),
        (None, "spec: must be a mapping, not nothing"),
        ("x", 'spec: must be a mapping, not "x"'),
    ],
)
def test_a_wrong_value_is_refused_and_named(spec, error):
    assert error_of(spec).startswith(error)


@pytest.mark.parametrize(
    ("spec", "error"),
    [
        (
            {"performanceLimit": {}},
            "spec.performanceLimit: is an unknown field; did you mean performanceLimits?",
        ),
        ({"xyz": 1}, "spec.xyz: is an unknown field"),
        (
            {"performanceLimits": {"bandwidth": 1}},
            "spec.performanceLimits.bandwidth: is an unknown field; known here: maxConcurrentConnections, maxThrough",
        ),
        (with_backend(weight=1), "spec.backendProperties[0].weight: is an unknown field"),
        (
            {"listenerProperties": [{"port": 1, "protocol": "TCP", "x": 1}]},
            "spec.listenerProperties[0].x: is an unknown",
        ),
        ({"analyticsPolicy": {"udfLogThrottle": 1}}, "spec.analyticsPolicy.udfLogThrottle: is an unknown field"),
        (
            {"analyticsPolicy": {"fullClientLogs": {"enabled": True, "all": 1}}},
            "spec.analyticsPolicy.fullClientLogs.all: is an unknown field",
        ),
        ({1: 2}, "spec: the key 1 must be text"),
    ],
)
def test_an_unknown_field_is_refused_at_every_level(spec, error):
    assert error_of(spec).startswith(error)


def test_a_port_and_protocol_may_stand_in_a_list_once():
    backends = [{"port": 80, "protocol": "TCP"}, {"port": 80, "protocol": "UDP"}, {"port": 80, "protocol": "TCP"}]
    assert error_of({"backendProperties": backends}) == (
        "spec.backendProperties[2].port: 80 with protocol TCP is already in this list"
    )
    listeners = [{"port": 80, "protocol": "TCP"}] * 2
    assert error_of({"listenerProperties": listeners}) == "spec.listenerProperties[1].port: 80 is already in this list"


def test_ports_that_are_missing_are_not_the_same_one():
    errors = errors_of(
        {"backendProperties": [{"protocol": "TCP"}] * 2, "listenerProperties": [{"protocol": "TCP"}] * 2}
    )
    assert len(errors) == 4
    assert all(error.endswith(".port: is required") for error in errors)


def test_all_mistakes_are_named_at_once():
    spec = copy.deepcopy(EXAMPLE)
    spec["performanceLimits"]["maxThroughput"] = 70000
    spec["securityPolicyRef"] = "waf"
    spec["backendProperties"][0]["healthMonitorRefs"].append("nope")
    error = joined(errors_of(spec))
    for named in ("securityPolicyRef", "performanceLimits.maxThroughput", "backendProperties[0].healthMonitorRefs[2]"):
        assert f"spec.{named}: " in error
    assert error.count("; ") == 2


# What is hostile.


def nested(levels: int) -> dict[str, Any]:
    spec: dict[str, Any] = {}
    for _ in range(levels):
        spec = {"backendProperties": spec}
    return spec


@pytest.mark.parametrize(
    ("spec", "error"),
    [
        (nested(100_000), "spec: is nested more than 12 levels deep"),
        ({"backendProperties": [0] * 10_001}, "spec: has more than 10000 values"),
        ({"x": "y" * 300_000}, "spec: has more than 262144 characters"),
        ({"y" * 300_000: 1}, "spec: has more than 262144 characters"),
    ],
)
def test_what_is_too_big_is_refused_without_a_look_at_it(spec, error):
    assert error_of(spec) == error


def test_what_is_just_not_too_big_is_looked_at():
    assert error_of({"x": [0] * 9_999}) == "spec.x: is an unknown field"
    assert error_of({"x": "y" * (256 * 1024 - 1)}) == "spec.x: is an unknown field"


def test_a_spec_that_refers_to_the_same_list_again_and_again_costs_nothing():
    bomb: list[Any] = [0] * 5000
    for _ in range(10):
        bomb = [bomb] * 5000
    assert error_of({"backendProperties": bomb}) == "spec: has more than 10000 values"


def test_a_list_has_at_most_256_items():
    backends = [{"port": port, "protocol": "TCP"} for port in range(1, 258)]
    assert error_of({"backendProperties": backends}).startswith("spec.backendProperties: has 257 items")
    assert errors_of({"backendProperties": backends[:256]}) == []


def test_a_pool_has_at_most_16_monitors():
    monitors = tuple(HealthMonitor(f"m{number}", MonitorType.TCP) for number in range(17))
    catalog = Catalog(Kubernetes(health_monitors=monitors))
    names = [monitor.name for monitor in monitors]
    assert read_spec(with_backend(healthMonitorRefs=names[:16]), catalog)[1] == []
    (error,) = read_spec(with_backend(healthMonitorRefs=names), catalog)[1]
    assert error.startswith('spec.backendProperties[0].healthMonitorRefs[16]: "m16" is one more than the 16')


def test_the_error_is_one_line_of_bounded_length_whatever_is_written():
    spec = {"a" * 1000 + str(number): "x\n\x00\u202e" * 100 for number in range(100)}
    spec["loadBalancerIP"] = "\n" * 500
    error = joined(errors_of(spec))
    assert len(error) < MAX_ERROR_CHARACTERS + 30
    assert error.isprintable()
    assert error.endswith("; and 93 more")


@pytest.mark.parametrize(
    "hostile",
    [
        {f"healthMonitorRef{number}": 1 for number in range(9000)},
        {"healthMonitorRefs": [f"System-TCP-{number}" for number in range(30)]},
    ],
)
def test_a_spec_full_of_mistakes_is_not_read_to_its_end(hostile: dict[str, Any]):
    """What could be meant was looked for 9000 times, which took 1.4 s: nothing else was done meanwhile."""
    ports = range(1, 2 if len(hostile) > 1 else 251)
    spec = {"backendProperties": [{"port": port, "protocol": "TCP", **hostile} for port in ports]}
    assert MAX_ERRORS <= len(errors_of(spec)) <= MAX_ERRORS + 5


def test_a_number_of_thousands_of_digits_is_cut():
    assert len(error_of({"performanceLimits": {"maxThroughput": 10**4000}})) <= 250


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from([*FIELDS, *BACKEND_FIELDS, "fullClientLogs", "enabled"]), inner, max_size=5)
    ),
    max_leaves=12,
)


@settings(max_examples=300, deadline=None)
@given(json_values)
def test_whatever_stands_in_a_spec_gives_a_policy_or_sentences(spec):
    policy, errors = read_spec(spec, CATALOG)
    assert isinstance(policy, RulePolicy)
    assert all(error.startswith("spec") and error.isprintable() for error in errors)


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(FIELDS), json_values)
def test_no_field_takes_garbage_silently(field, value):
    """A field that is accepted has changed the policy, or is one that asks for what is so anyway."""
    policy, errors = read_spec({field: value}, CATALOG)
    if errors or policy != RulePolicy():
        return
    harmless = value in ("", [], {}, 0) or field in ("analyticsPolicy", "performanceLimits", "listenerProperties")
    assert harmless or (field == "revokeVipRoute" and value is False)
