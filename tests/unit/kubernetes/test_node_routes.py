"""Which routes lead to Pods, and which a Node that was broken into does not get."""

from __future__ import annotations

import time
from collections.abc import Mapping

import pytest

from lbd.kubernetes.node_routes import routes_of
from lbd.kubernetes.objects.kinds import Node, ObjectKey
from lbd.model.kubernetes import AddressPool, AddressRange

POOL = AddressPool(
    "web", (AddressRange("172.16.101.150", "172.16.101.200"), AddressRange("2001:db8:1::1", "2001:db8:1::9"))
)


def node(name: str, internal_ips: tuple[str, ...], *pod_cidrs: str) -> Node:
    return Node(ObjectKey("", name), internal_ips, pod_cidrs)


A = node("a", ("10.10.52.11", "fd00:52::11"), "10.244.1.0/24", "fd00:244:1::/64")
B = node("b", ("10.10.52.12", "fd00:52::12"), "10.244.2.0/24", "fd00:244:2::/64")


def refused(one: Node, **options: object) -> str:
    """Return why this Node beside two good ones gets nothing, after looking that they have theirs."""
    routes, left_out = routes_of([A, one, B], **options)  # type: ignore[arg-type]
    assert routes == routes_of([A, B], **options)[0]  # type: ignore[arg-type]
    assert {entry.node.name for entry in left_out} == {one.key.name}
    return "; ".join(str(entry) for entry in left_out)


def test_each_pod_cidr_leads_to_the_internal_ip_of_its_family() -> None:
    assert routes_of([B, A]) == (
        {
            "10.244.1.0/24": "10.10.52.11",
            "fd00:244:1::/64": "fd00:52::11",
            "10.244.2.0/24": "10.10.52.12",
            "fd00:244:2::/64": "fd00:52::12",
        },
        (),
    )


def test_no_node_means_no_route() -> None:
    assert routes_of([]) == ({}, ())
    assert routes_of([node("new", ("10.10.52.13",))]) == ({}, ())


def test_a_family_without_an_internal_ip_is_left_out_and_the_other_served() -> None:
    routes, (left_out,) = routes_of([node("a", ("10.10.52.11",), "10.244.1.0/24", "fd00:244:1::/64")])
    assert routes == {"10.244.1.0/24": "10.10.52.11"}
    assert str(left_out) == (
        "no route to the Pods of Node a: its podCIDR fd00:244:1::/64 is of IPv6, and the Node has no usable InternalIP "
        "of that family"
    )


@pytest.mark.parametrize(
    ("pod_cidr", "reason"),
    [
        ("0.0.0.0/0", "is wider than /8"),
        ("8.0.0.0/7", "is wider than /8"),
        ("::/0", "is wider than /16"),
        ("fd00::/15", "is wider than /16"),
        ("127.0.0.0/24", "overlaps 127.0.0.0/8"),
        ("169.254.169.254/32", "overlaps 169.254.0.0/16"),
        ("239.1.0.0/16", "overlaps 224.0.0.0/3"),
        ("255.255.255.255/32", "overlaps 224.0.0.0/3"),
        ("0.1.0.0/16", "overlaps 0.0.0.0/8"),
        ("::ffff:0:0/96", "overlaps ::/8"),
        ("fe80::/64", "overlaps fe80::/10"),
        ("ff02::/64", "overlaps ff00::/8"),
        ("10.244.1", "is not a network"),
        ("10.244.9.0/24; rm", "is not a network"),
        ("10.244.1.128/25", "overlaps that of Node a"),
        ("10.244.0.0/16", "overlaps that of Node b"),
        ("172.16.101.128/25", 'overlaps the address pool "web"'),
        ("172.16.101.0/24", 'overlaps the address pool "web"'),
        ("172.16.101.160/32", 'overlaps the address pool "web"'),
        ("2001:db8:1::/64", 'overlaps the address pool "web"'),
        ("172.16.102.0/24", "has 172.16.102.7, which is a VIP or this service engine's own"),
        ("192.0.2.0/28", "overlaps 192.0.2.0/24 (the frontend network)"),
        ("10.10.52.0/24", "has the Node's own InternalIP 10.10.52.66"),
        ("10.10.52.12/32", "has the InternalIP of Node b"),
    ],
)
def test_a_pod_cidr_that_would_draw_the_traffic_of_others_is_left_out(pod_cidr: str, reason: str) -> None:
    evil = node("m", ("10.10.52.66", "fd00:52::66"), pod_cidr)
    held = routes_of([A, B])[0]
    found = refused(
        evil,
        address_pools=[POOL],
        own_addresses=["172.16.102.7"],
        networks={"192.0.2.0/24": "the frontend network"},
        held=held,
    )
    assert reason in found


@pytest.mark.parametrize(("pod_cidr", "family"), [("10.0.0.0/8", 4), ("fd00::/16", 6)])
def test_the_widest_network_that_is_allowed_is_a_route(pod_cidr: str, family: int) -> None:
    hop = {4: "192.0.2.9", 6: "2001:db8::9"}[family]
    assert routes_of([node("a", (hop,), pod_cidr)]) == ({pod_cidr: hop}, ())


@pytest.mark.parametrize(
    "next_hop",
    [
        "127.0.0.1",
        "169.254.1.1",
        "224.0.0.1",
        "0.0.0.0",
        "255.255.255.255",
        "nonsense",
        "10.10.52.9%eth0",
        "",
        "fd00::9",
    ],
)
def test_an_internal_ip_that_no_machine_has_is_none(next_hop: str) -> None:
    assert "no usable InternalIP" in refused(node("m", (next_hop,), "10.244.3.0/24"))
    routes, _ = routes_of([node("m", (next_hop, "10.10.52.13"), "10.244.3.0/24")])
    assert routes == {"10.244.3.0/24": "10.10.52.13"}


@pytest.mark.parametrize(
    ("next_hop", "reason"),
    [
        ("172.16.102.7", "which is a VIP or this service engine's own"),
        ("172.16.101.160", 'is in the address pool "web"'),
        ("10.244.1.9", "is in a podCIDR of Node a"),
        ("10.244.3.9", "a route can't lead through itself"),
    ],
)
def test_a_next_hop_that_is_ours_or_a_pod_is_refused(next_hop: str, reason: str) -> None:
    evil = node("m", (next_hop,), "10.244.3.0/24")
    assert reason in refused(evil, address_pools=[POOL], own_addresses=["172.16.102.7"])


def test_a_next_hop_in_a_network_of_this_machine_is_usual() -> None:
    routes, left_out = routes_of([A], networks={"10.10.52.0/24": "the backend network"})
    assert (len(routes), left_out) == (2, ())


def test_pod_cidrs_of_the_configuration_bound_every_route() -> None:
    inside = ["10.244.0.0/16", "fd00:244::/32"]
    assert len(routes_of([A, B], pod_cidrs=inside)[0]) == 4
    assert "is not within kubernetes.pod_cidrs" in refused(
        node("m", ("10.10.52.66",), "10.245.0.0/24"), pod_cidrs=inside
    )
    assert "is not within kubernetes.pod_cidrs" in refused(
        node("m", ("10.10.52.66",), "10.244.0.0/15"), pod_cidrs=inside
    )


def test_of_two_nodes_with_one_pod_cidr_the_first_by_name_has_it() -> None:
    twin = node("z", ("10.10.52.99",), "10.244.1.0/24")
    assert "overlaps that of Node a, which was first" in refused(twin)
    assert routes_of([twin, A]) == routes_of([A, twin])


def test_a_node_that_comes_later_takes_no_route_from_one_that_has_it() -> None:
    """Nor by a name that comes first, nor by saying that it is where the other's Pods are."""
    held = routes_of([A, B])[0]
    for evil in (
        node("Aaa", ("10.10.52.66",), "10.244.1.0/24"),
        node("Aaa", ("10.244.1.7",), "10.244.66.0/24"),
        node("Aaa", ("10.10.52.66",), "10.10.52.11/32"),
    ):
        routes, (left_out,) = routes_of([evil, A, B], held=held)
        assert (routes, left_out.node.name) == (held, "Aaa")


def test_a_node_that_moves_takes_its_route_along() -> None:
    held: Mapping[str, str] = routes_of([A, B])[0]
    moved = node("a", ("10.10.52.21",), "10.244.1.0/24")
    assert routes_of([moved, B], held=held)[0]["10.244.1.0/24"] == "10.10.52.21"


def test_bits_behind_the_prefix_and_repetitions_make_no_second_route() -> None:
    """Old API servers take `10.244.3.7/24`, and mean the network."""
    routes, left_out = routes_of([node("c", ("10.10.52.13",), "10.244.3.7/24", "10.244.3.7/24")])
    assert (routes, left_out) == ({"10.244.3.0/24": "10.10.52.13"}, ())


def test_what_is_not_a_network_is_shown_cut_short() -> None:
    _, (left_out,) = routes_of([node("m", ("10.10.52.66",), "x" * 10_000)])
    assert len(str(left_out)) < 200


def test_five_thousand_nodes_are_judged_in_a_moment() -> None:
    nodes = [
        node(f"n{i}", (f"10.{i // 250}.{i % 250}.1",), f"100.{i // 250}.{i % 250}.0/24", f"fd00:1:{i:x}::/64")
        for i in range(5000)
    ]
    begun_s = time.process_time()
    routes, left_out = routes_of(nodes, own_addresses=[f"192.0.2.{i}" for i in range(200)])
    assert (len(routes), len(left_out)) == (5000, 5000)
    assert time.process_time() - begun_s < 2.0
