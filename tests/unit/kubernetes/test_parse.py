"""What an API server says is hostile: every value is bounded and checked, and what can't be used is named."""

from __future__ import annotations

import copy
import time
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lbd.kubernetes.objects.fields import MAX_COMPLAINTS
from lbd.kubernetes.objects.kinds import (
    NOBODY,
    Condition,
    EndpointSlice,
    L4Rule,
    Node,
    ObjectKey,
    RuleStatus,
    Service,
    ServicePort,
)
from lbd.kubernetes.objects.parse import Unusable, parse_node, parse_rule, parse_service, parse_slice
from lbd.kubernetes.objects.parse_services import SOURCE_RANGES_ANNOTATION
from lbd.model.desired import Protocol

SERVICE: dict[str, Any] = {
    "apiVersion": "v1",
    "kind": "Service",
    "metadata": {
        "name": "web",
        "namespace": "shop",
        "uid": "dffd3690-a319-4f5f-b93a-b5cde2240c12",
        "resourceVersion": "206",
        "creationTimestamp": "2026-11-29T10:24:19Z",
        "labels": {"tier": "front", "app": "web"},
        "annotations": {"lbd.io/address": "172.16.101.150", "ako.vmware.com/l4rule": "tuned", "other.io/x": "y"},
        "finalizers": ["service.kubernetes.io/load-balancer-cleanup", "other.io/f"],
    },
    "spec": {
        "type": "LoadBalancer",
        "loadBalancerClass": "lbd.io/service-engine",
        "loadBalancerIP": "172.16.101.150",
        "loadBalancerSourceRanges": ["10.0.0.0/8", " 192.168.1.7/24 "],
        "ipFamilies": ["IPv6", "IPv4"],
        "sessionAffinity": "ClientIP",
        "sessionAffinityConfig": {"clientIP": {"timeoutSeconds": 60}},
        "ports": [
            {"name": "http", "port": 80, "protocol": "TCP", "targetPort": "http"},
            {"name": "dns", "port": 53, "protocol": "UDP", "targetPort": 5353},
        ],
    },
    "status": {
        "loadBalancer": {"ingress": [{"ip": "172.16.101.150", "ipMode": "Proxy"}, {"hostname": "elsewhere.example"}]},
        "conditions": [
            {
                "type": "lbd.io/AddressAssigned", "status": "True", "reason": "Assigned", "message": "from pool a",
                "observedGeneration": 3, "lastTransitionTime": "2026-11-29T10:24:20Z",
            }
        ],
    },
}  # fmt: skip
SLICE: dict[str, Any] = {
    "metadata": {"name": "web-x7k2p", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
    "addressType": "IPv4",
    "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
    "endpoints": [
        {
            "addresses": ["10.10.52.11"],
            "conditions": {"ready": True, "serving": True, "terminating": False},
            "nodeName": "node-1",
            "targetRef": {"kind": "Pod", "name": "web-1", "namespace": "shop"},
        }
    ],
}
NODE: dict[str, Any] = {
    "metadata": {"name": "node-1"},
    "spec": {"podCIDR": "10.244.1.0/24", "podCIDRs": ["10.244.1.0/24", "fd00:1::/64"]},
    "status": {
        "addresses": [
            {"type": "Hostname", "address": "node-1"},
            {"type": "InternalIP", "address": "10.10.52.2"},
            {"type": "ExternalIP", "address": "198.51.100.7"},
            {"type": "InternalIP", "address": "FD00:0::2"},
        ]
    },
}
RULE: dict[str, Any] = {
    "metadata": {"name": "tuned", "namespace": "shop", "uid": "u", "resourceVersion": "9", "generation": 4},
    "spec": {"backendProperties": [{"port": 80, "protocol": "TCP"}]},
    "status": {
        "status": "Rejected",
        "error": "no",
        "observedGeneration": 4,
        "acceptedGeneration": 3,
        "acceptedSpec": {"loadBalancerIP": "172.16.101.150"},
    },
}


def changed(raw: dict[str, Any], path: str, value: object) -> dict[str, Any]:
    """Return the object with another value at a path such as `spec/ports/0/port`."""
    copied = copy.deepcopy(raw)
    *parents, last = [int(part) if part.isdecimal() else part for part in path.split("/")]
    inner: Any = copied
    for part in parents:
        inner = inner[part]
    inner[last] = value
    return copied


def service(path: str = "kind", value: object = "Service") -> Service:
    parsed = parse_service(changed(SERVICE, path, value))
    assert isinstance(parsed, Service), parsed
    return parsed


def endpoint_slice(path: str = "kind", value: object = "EndpointSlice") -> EndpointSlice:
    parsed = parse_slice(changed(SLICE, path, value))
    assert isinstance(parsed, EndpointSlice), parsed
    return parsed


def node(path: str = "kind", value: object = "Node") -> Node:
    parsed = parse_node(changed(NODE, path, value))
    assert isinstance(parsed, Node), parsed
    return parsed


def rule(path: str = "kind", value: object = "L4Rule") -> L4Rule:
    parsed = parse_rule(changed(RULE, path, value))
    assert isinstance(parsed, L4Rule), parsed
    return parsed


def test_a_service_is_read_whole():
    assert service() == Service(
        key=ObjectKey("shop", "web"),
        uid="dffd3690-a319-4f5f-b93a-b5cde2240c12",
        resource_version="206",
        created="2026-11-29T10:24:19Z",
        type="LoadBalancer",
        load_balancer_class="lbd.io/service-engine",
        ports=(ServicePort("http", 80, Protocol.TCP), ServicePort("dns", 53, Protocol.UDP)),
        ip_families=(6, 4),
        affinity_timeout_s=60,
        source_ranges=("10.0.0.0/8", "192.168.1.0/24"),
        load_balancer_ip="172.16.101.150",
        annotations=(("ako.vmware.com/l4rule", "tuned"), ("lbd.io/address", "172.16.101.150")),
        labels=(("app", "web"), ("tier", "front")),
        finalizers=("service.kubernetes.io/load-balancer-cleanup", "other.io/f"),
        deleting=False,
        ingress=("172.16.101.150",),
        conditions=(Condition("lbd.io/AddressAssigned", "True", "Assigned", "from pool a", 3, "2026-11-29T10:24:20Z"),),
    )


def test_a_service_that_says_nothing_has_the_defaults_of_the_api():
    parsed = parse_service({"metadata": {"name": "web", "namespace": "shop"}, "spec": {}})
    assert parsed == Service(ObjectKey("shop", "web"), "", "", "", "ClusterIP", None, ())


@pytest.mark.parametrize(
    ("path", "value", "reason"),
    [
        ("metadata", None, "metadata.name is None, not the name of an object"),
        ("metadata", [], "metadata is a list, not an object"),
        ("metadata/name", "../../api", "metadata.name is '../../api', not the name of an object"),
        ("metadata/name", "a" * 254, "not the name of an object"),
        ("metadata/name", "web\n", "not the name of an object"),
        ("metadata/namespace", None, "metadata.namespace is None, not the name of a namespace"),
        ("metadata/namespace", "a" * 64, "not the name of a namespace"),
        ("metadata/uid", 7, "metadata.uid is 7, not a string"),
        ("metadata/uid", "u" * 129, "metadata.uid has 129 characters: at most 128 are taken"),
        ("metadata/uid", "\ud800", r"metadata.uid is '\ud800', which is no Unicode text"),
        ("metadata/resourceVersion", {}, "metadata.resourceVersion is an object, not a string"),
        ("metadata/finalizers", "f", "metadata.finalizers is no list, or too long"),
        ("metadata/finalizers", ["f"] * 1001, "metadata.finalizers is no list, or too long"),
        ("metadata/finalizers/1", 3, "metadata.finalizers[1] is 3, not a string"),
        ("spec", "x", "spec is 'x', not an object"),
        ("spec/type", True, "spec.type is True, not a string"),
        ("spec/loadBalancerClass", 5, "spec.loadBalancerClass is 5, not a string"),
        ("spec/loadBalancerIP", "1" * 65, "spec.loadBalancerIP has 65 characters: at most 64 are taken"),
    ],
)
def test_a_service_without_what_decides_whose_it_is_is_unusable(path, value, reason):
    parsed = parse_service(changed(SERVICE, path, value))
    assert isinstance(parsed, Unusable)
    assert reason in parsed.reason


@pytest.mark.parametrize("parse", [parse_service, parse_slice, parse_node, parse_rule])
@pytest.mark.parametrize("raw", [None, [], "<html>", 7, True, {}, {"metadata": 3}, {"metadata": {"name": 1}}])
def test_what_is_no_object_has_no_key(parse, raw):
    parsed = parse(raw)
    assert isinstance(parsed, Unusable)
    assert parsed.key is None
    assert parsed.reason


def test_an_unusable_object_says_which_one_it_is():
    assert parse_service(changed(SERVICE, "spec", 1)).key == ObjectKey("shop", "web")


def test_half_of_a_finalizer_list_is_never_given_out_because_writing_it_back_would_lose_the_rest():
    assert isinstance(parse_service(changed(SERVICE, "metadata/finalizers", ["ours", 5])), Unusable)


@pytest.mark.parametrize(
    ("path", "value", "complaint", "ports"),
    [
        ("spec/ports/0/port", 0, "spec.ports[0].port is 0, not a port (1-65535)", [53]),
        ("spec/ports/0/port", 65536, "spec.ports[0].port is 65536, not a port (1-65535)", [53]),
        ("spec/ports/0/port", True, "spec.ports[0].port is True, not a port (1-65535)", [53]),
        ("spec/ports/0/port", "80", "spec.ports[0].port is '80', not a port (1-65535)", [53]),
        ("spec/ports/0/port", 80.0, "spec.ports[0].port is 80.0, not a port (1-65535)", [53]),
        ("spec/ports/0/protocol", "SCTP", "spec.ports[0].protocol is 'SCTP': only TCP and UDP are relayed", [53]),
        ("spec/ports/0/protocol", ["TCP"], "spec.ports[0].protocol is a list: only TCP and UDP are relayed", [53]),
        ("spec/ports/0/name", {}, "spec.ports[0].name is an object, not the name of a port", [53]),
        ("spec/ports/0", None, "spec.ports[0] is None, not an object", [53]),
        ("spec/ports", {"port": 80}, "spec.ports is an object, not a list", []),
    ],
)
def test_a_port_that_cant_be_used_is_left_out_and_named(path, value, complaint, ports):
    parsed = service(path, value)
    assert parsed.complaints == (complaint,)
    assert [port.port for port in parsed.ports] == ports


def test_ports_may_be_null_and_have_a_bound():
    assert service("spec/ports", None).ports == ()
    assert service("spec/ports", None).complaints == ()
    many = service("spec/ports", [{"name": f"p{port}", "port": port} for port in range(1, 1001)])
    assert len(many.ports) == 250
    assert many.complaints == ("spec.ports has 1000 entries: only the first 250 are used",)


def test_one_port_number_serves_both_protocols_but_not_one_twice():
    ports = [{"name": "a", "port": 53}, {"name": "b", "port": 53, "protocol": "UDP"}, {"name": "c", "port": 53}]
    parsed = service("spec/ports", ports)
    assert parsed.ports == (ServicePort("a", 53, Protocol.TCP), ServicePort("b", 53, Protocol.UDP))
    assert parsed.complaints == ("spec.ports[2]: port 53 is there twice for tcp",)


def test_source_ranges_of_which_some_are_bad_let_the_others_in():
    parsed = service("spec/loadBalancerSourceRanges", ["10.0.0.0/33", "fd00::/8", 7, None, "::ffff:10.0.0.0/104"])
    assert parsed.source_ranges == ("fd00::/8",)
    assert len(parsed.complaints) == 4
    assert "spec.loadBalancerSourceRanges has '10.0.0.0/33', which is not a network (a.b.c.d/n)" in parsed.complaints


@pytest.mark.parametrize("ranges", [["x"], [None], "10.0.0.0/8", {"a": 1}, 7, True, [["10.0.0.0/8"]]])
def test_source_ranges_of_which_all_are_bad_let_nobody_in(ranges):
    parsed = service("spec/loadBalancerSourceRanges", ranges)
    assert parsed.source_ranges == NOBODY
    assert parsed.complaints[-1] == "spec.loadBalancerSourceRanges: none of it can be read, so no client is let in"


@pytest.mark.parametrize("ranges", [None, []])
def test_no_source_ranges_let_everybody_in(ranges):
    assert service("spec/loadBalancerSourceRanges", ranges).source_ranges == ()


@pytest.mark.parametrize(
    ("written", "ranges"),
    [("10.0.0.0/8, fd00::/8", ("10.0.0.0/8", "fd00::/8")), ("", ()), ("nonsense", NOBODY), (7, NOBODY)],
)
def test_source_ranges_may_be_an_annotation_where_the_field_is_empty(written, ranges):
    raw = changed(SERVICE, "spec/loadBalancerSourceRanges", [])
    raw["metadata"]["annotations"][SOURCE_RANGES_ANNOTATION] = written
    parsed = parse_service(raw)
    assert isinstance(parsed, Service)
    assert parsed.source_ranges == ranges


def test_the_field_wins_over_the_annotation():
    raw = copy.deepcopy(SERVICE)
    raw["metadata"]["annotations"][SOURCE_RANGES_ANNOTATION] = "0.0.0.0/0"
    parsed = parse_service(raw)
    assert isinstance(parsed, Service)
    assert "0.0.0.0/0" not in parsed.source_ranges


@pytest.mark.parametrize(
    ("value", "families", "complaints"),
    [(None, (4,), 0), ([], (4,), 0), (["IPv6"], (6,), 0), (["IPv6", "IPv6"], (6,), 0), (["ipv4", 6], (4,), 2)],
)
def test_families_stand_in_the_order_of_the_spec(value, families, complaints):
    parsed = service("spec/ipFamilies", value)
    assert (parsed.ip_families, len(parsed.complaints)) == (families, complaints)


@pytest.mark.parametrize(
    ("path", "value", "timeout_s", "complaints"),
    [
        ("spec/sessionAffinity", "None", None, 0),
        ("spec/sessionAffinity", None, None, 0),
        ("spec/sessionAffinity", "Cookie", None, 1),
        ("spec/sessionAffinityConfig", None, 10800, 0),
        ("spec/sessionAffinityConfig/clientIP", None, 10800, 0),
        ("spec/sessionAffinityConfig/clientIP/timeoutSeconds", 86400, 86400, 0),
        ("spec/sessionAffinityConfig/clientIP/timeoutSeconds", 86401, 10800, 1),
        ("spec/sessionAffinityConfig/clientIP/timeoutSeconds", 0, 10800, 1),
        ("spec/sessionAffinityConfig/clientIP/timeoutSeconds", "5", 10800, 1),
    ],
)
def test_affinity_has_the_bounds_and_the_default_of_the_api(path, value, timeout_s, complaints):
    parsed = service(path, value)
    assert (parsed.affinity_timeout_s, len(parsed.complaints)) == (timeout_s, complaints)


def test_a_wanted_address_that_is_none_stays_as_it_was_written():
    parsed = service("spec/loadBalancerIP", "172.16.101.999")
    assert parsed.load_balancer_ip == "172.16.101.999"
    assert parsed.complaints == ("spec.loadBalancerIP is '172.16.101.999', not an IP address",)
    assert service("spec/loadBalancerIP", "FD00::01").load_balancer_ip == "fd00::1"


def test_annotations_and_labels_are_bounded():
    parsed = service("metadata/annotations", {"lbd.io/address": "x" * 1025, "lbd.io/b": 5, "lbd.io/c": "ok", "z": 1})
    assert parsed.annotations == (("lbd.io/c", "ok"),)
    assert len(parsed.complaints) == 2
    many = service("metadata/labels", {f"l{number}": "v" for number in range(2000)})
    assert len(many.labels) == 1000
    assert many.complaints == ("metadata.labels has 2000 entries: only 1000 are used",)


@pytest.mark.parametrize("path", ["status", "status/loadBalancer", "metadata/labels", "metadata/annotations"])
@pytest.mark.parametrize("value", ["x", 1, [1]])
def test_what_the_rest_can_do_without_is_left_out_with_a_complaint(path, value):
    parsed = service(path, value)
    assert parsed.complaints == (
        f"{path.replace('/', '.')} is {'a list' if value == [1] else repr(value)}, not an object",
    )


def test_ingress_and_conditions_that_are_none_are_left_out():
    parsed = service(
        "status", {"loadBalancer": {"ingress": [{"ip": "x"}, {"ip": "10.0.0.1"}, 3]}, "conditions": [{"type": 3}, 5]}
    )
    assert parsed.ingress == ("10.0.0.1",)
    assert parsed.conditions == ()
    assert len(parsed.complaints) == 4


def test_a_service_with_a_deletion_timestamp_is_deleting():
    assert service("metadata/deletionTimestamp", "2026-11-29T10:24:19Z").deleting


@pytest.mark.parametrize("written", ["yesterday", 5, "2026-11-29T10:24:19+01:00", "٢٠٢٦-11-29T10:24:19Z"])
def test_a_time_that_cant_be_compared_as_text_is_none(written):
    parsed = service("metadata/creationTimestamp", written)
    assert parsed.created == ""
    assert len(parsed.complaints) == 1


def test_a_slice_is_read_whole():
    parsed = endpoint_slice()
    assert (parsed.key, parsed.service, parsed.family) == (ObjectKey("shop", "web-x7k2p"), "web", 4)
    assert parsed.ports == (("http", 8080, Protocol.TCP),)
    (endpoint,) = parsed.endpoints
    assert (endpoint.addresses, endpoint.node, endpoint.pod) == (("10.10.52.11",), "node-1", "web-1")
    assert (endpoint.ready, endpoint.serving, endpoint.terminating) == (True, True, False)
    assert parsed.complaints == ()


@pytest.mark.parametrize("said", [None, {}, {"ready": None, "serving": None, "terminating": None}])
def test_an_absent_condition_means_ready_serving_and_not_terminating(said):
    (endpoint,) = endpoint_slice("endpoints/0/conditions", said).endpoints
    assert (endpoint.ready, endpoint.serving, endpoint.terminating) == (True, True, False)


@pytest.mark.parametrize("flag", ["ready", "serving", "terminating"])
def test_a_condition_that_is_neither_true_nor_false_takes_its_endpoint_out(flag):
    parsed = endpoint_slice(f"endpoints/0/conditions/{flag}", "false")
    assert parsed.endpoints == ()
    assert parsed.complaints == ("endpoints[0].conditions has 'false', neither true nor false: it is left out",)


@pytest.mark.parametrize("path", ["endpoints", "ports"])
def test_endpoints_and_ports_may_be_null(path):
    parsed = endpoint_slice(path, None)
    assert getattr(parsed, path) == ()
    assert parsed.complaints == ()


@pytest.mark.parametrize("port", [None, 0, -1, 65536, "http", 1.5])
def test_a_slice_port_without_a_number_is_left_out(port):
    parsed = endpoint_slice("ports/0/port", port)
    assert parsed.ports == ()
    assert len(parsed.complaints) == 1


def test_a_nameless_port_is_tcp_and_has_the_empty_name():
    assert endpoint_slice("ports", [{"name": None, "port": 80, "protocol": None}]).ports == (("", 80, Protocol.TCP),)


@pytest.mark.parametrize(
    ("family", "address"),
    [
        ("IPv4", "fd00::1"), ("IPv6", "10.0.0.1"), ("IPv6", "::ffff:10.0.0.1"), ("IPv6", "fe80::1%eth0"),
        ("IPv4", "010.0.0.1"), ("IPv4", "10.0.0.1/32"), ("IPv4", 167772161), ("IPv4", None), ("IPv4", "web.example"),
        ("IPv4", "1" * 5000),
    ],
)  # fmt: skip
def test_an_address_that_is_not_of_the_slices_family_is_no_member(family, address):
    raw = changed(changed(SLICE, "addressType", family), "endpoints/0/addresses", [address])
    parsed = parse_slice(raw)
    assert isinstance(parsed, EndpointSlice)
    assert parsed.endpoints == ()
    assert len(parsed.complaints) == 1
    assert len(parsed.complaints[0]) < 200


def test_addresses_are_canonical():
    raw = changed(changed(SLICE, "addressType", "IPv6"), "endpoints/0/addresses", ["FD00:0:0:0::000A"])
    parsed = parse_slice(raw)
    assert isinstance(parsed, EndpointSlice)
    assert parsed.endpoints[0].addresses == ("fd00::a",)


def test_of_several_addresses_of_an_endpoint_the_first_one_counts_as_for_kube_proxy():
    parsed = parse_slice(changed(SLICE, "endpoints/0/addresses", ["10.10.52.12", "10.10.52.11", "x"]))
    assert isinstance(parsed, EndpointSlice)
    assert parsed.endpoints[0].addresses == ("10.10.52.12",)
    assert parsed.complaints == ()


@pytest.mark.parametrize("kind", ["FQDN", None, "ipv4", 4, ["IPv4"]])
def test_a_slice_whose_addresses_are_no_ip_addresses_is_unusable(kind):
    parsed = parse_slice(changed(SLICE, "addressType", kind))
    assert isinstance(parsed, Unusable)
    assert "only IPv4 and IPv6 have members" in parsed.reason


@pytest.mark.parametrize("labels", [None, {}, {"kubernetes.io/service-name": ""}, {"kubernetes.io/service-name": 3}])
def test_a_slice_of_no_service_is_unusable(labels):
    parsed = parse_slice(changed(SLICE, "metadata/labels", labels))
    assert isinstance(parsed, Unusable)
    assert "it belongs to no Service" in parsed.reason


def test_a_huge_slice_is_cut_and_says_so():
    endpoints = [{"addresses": [f"10.{number >> 8}.{number & 255}.1"]} for number in range(1200)]
    parsed = endpoint_slice("endpoints", endpoints)
    assert len(parsed.endpoints) == 1000
    assert parsed.complaints == ("endpoints has 1200 entries: only the first 1000 are used",)


def test_complaints_have_a_bound_of_their_own():
    parsed = endpoint_slice("endpoints", [{"addresses": ["x"]}] * 500)
    assert len(parsed.complaints) == MAX_COMPLAINTS + 1
    assert parsed.complaints[-1] == f"and {500 - MAX_COMPLAINTS} more"


def test_a_slice_of_100_endpoints_is_read_in_a_millisecond():
    raw = changed(SLICE, "endpoints", [copy.deepcopy(SLICE["endpoints"][0]) for _ in range(100)])
    for number, endpoint in enumerate(raw["endpoints"]):
        endpoint["addresses"] = [f"10.9.8.{number}"]
    best_s = 1.0
    for _try in range(20):
        started_s = time.perf_counter()
        assert isinstance(parse_slice(raw), EndpointSlice)
        best_s = min(best_s, time.perf_counter() - started_s)
    assert best_s < 0.002  # 0.3 ms measured


def test_a_node_is_read_whole():
    assert node() == Node(ObjectKey("", "node-1"), ("10.10.52.2", "fd00::2"), ("10.244.1.0/24", "fd00:1::/64"))


def test_a_node_may_have_one_pod_network_or_none():
    assert node("spec", {"podCIDR": "10.244.1.0/24"}).pod_cidrs == ("10.244.1.0/24",)
    assert node("spec", {}).pod_cidrs == node("spec", {"podCIDR": "", "podCIDRs": None}).pod_cidrs == ()
    assert node("status", None).internal_ips == ()


def test_what_a_node_says_wrong_is_left_out_and_named():
    parsed = node("spec/podCIDRs", ["10.244.1.0/40", 3, "10.244.2.9/24"])
    assert parsed.pod_cidrs == ("10.244.2.0/24",)
    assert len(parsed.complaints) == 2
    parsed = node("status/addresses", [{"type": "InternalIP", "address": "node-1"}, "x", {"type": ["InternalIP"]}])
    assert parsed.internal_ips == ()
    assert len(parsed.complaints) == 2


def test_a_rule_is_read_whole_and_its_spec_is_as_written():
    assert rule() == L4Rule(
        ObjectKey("shop", "tuned"), "u", "9", 4, RULE["spec"],
        RuleStatus("Rejected", "no", 4, 3, {"loadBalancerIP": "172.16.101.150"}),
    )  # fmt: skip


@pytest.mark.parametrize("status", [None, "Accepted", {"status": "Maybe"}, {"acceptedGeneration": 3}, {"error": [1]}])
def test_a_rules_status_that_cant_be_read_counts_as_not_written(status):
    assert rule("status", status).status == RuleStatus()


def test_a_rules_spec_is_bounded_in_size_and_depth():
    deep: Any = 1
    for _level in range(100_000):
        deep = [deep]
    for spec, reason in (
        ({"a": [0] * 10_001}, "spec has more than 10000 values"),
        ({"a": deep}, "spec is nested more than 20 deep"),
        ([], "spec is a list, not an object"),
    ):
        raw = dict(RULE, spec=spec)
        parsed = parse_rule(raw)
        assert isinstance(parsed, Unusable)
        assert parsed.reason == reason
        raw = dict(RULE, status={"status": "Accepted", "acceptedGeneration": 2, "acceptedSpec": spec})
        parsed = parse_rule(raw)
        assert isinstance(parsed, L4Rule)
        assert parsed.status == RuleStatus("Accepted")


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


def paths(raw: object, before: str = "") -> list[str]:
    found = []
    entries = raw.items() if isinstance(raw, dict) else enumerate(raw) if isinstance(raw, list) else ()
    for name, inner in entries:
        if "/" not in str(name):
            found += [f"{before}{name}", *paths(inner, f"{before}{name}/")]
    return found


@pytest.mark.parametrize(
    ("parse", "raw", "kind"),
    [
        (parse_service, SERVICE, Service), (parse_slice, SLICE, EndpointSlice), (parse_node, NODE, Node),
        (parse_rule, RULE, L4Rule),
    ],
)  # fmt: skip
def test_any_json_anywhere_gives_a_value_or_says_that_there_is_none(parse, raw, kind):
    @settings(max_examples=150, deadline=None)
    @given(st.sampled_from(paths(raw)), JSON)
    def check(path: str, value: object) -> None:
        parsed = parse(changed(raw, path, value))
        assert isinstance(parsed, kind | Unusable)

    check()
