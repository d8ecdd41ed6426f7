"""Which Service gets which address, and what it is told if it gets another one or none."""

from __future__ import annotations

import itertools
import time
from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from lbd.kubernetes.addresses.address_condition import address_condition
from lbd.kubernetes.addresses.allocator import Allocation, allocate
from lbd.kubernetes.objects.kinds import ADDRESS_CONDITION, FINALIZER, Condition, ObjectKey, Service, ServicePort
from lbd.model.desired import Protocol
from lbd.model.kubernetes import DEFAULT_LOAD_BALANCER_CLASS, AddressPool, AddressRange, Kubernetes

GIVEN = (Condition(ADDRESS_CONDITION, "True", "Assigned", ""),)
WEB = AddressPool("web", (AddressRange("10.0.0.1", "10.0.0.3"),))
SIX = AddressPool("six", (AddressRange("fd00::1", "fd00::2"),))
ASKED = AddressPool("asked", (AddressRange("10.1.0.1", "10.1.0.2"),), auto_assign=False)
SHOP = AddressPool("shop", (AddressRange("10.2.0.1", "10.2.0.9"),), namespaces=("shop",), priority=5)
GOLD = AddressPool("gold", (AddressRange("10.3.0.1", "10.3.0.9"),), service_labels=(("tier", "gold"),), priority=9)


def service(name: str, *, namespace: str = "default", asks: Mapping[str, str] | None = None, **other: Any) -> Service:
    known: dict[str, Any] = {
        "uid": name,
        "resource_version": "1",
        "created": "2026-01-01T00:00:00Z",
        "type": "LoadBalancer",
        "load_balancer_class": DEFAULT_LOAD_BALANCER_CLASS,
        "ports": (ServicePort("", 80, Protocol.TCP),),
        "annotations": tuple(sorted((asks or {}).items())),
    }
    return Service(key=ObjectKey(namespace, name), **{**known, **other})


def held(name: str, *addresses: str, **other: Any) -> Service:
    """Return a Service to which lbd gave these addresses."""
    return service(name, ingress=addresses, conditions=GIVEN, **other)


def ports(*numbers: int, protocol: Protocol = Protocol.TCP) -> tuple[ServicePort, ...]:
    return tuple(ServicePort(str(number), number, protocol) for number in numbers)


def given(
    services: Iterable[Service],
    *pools: AddressPool,
    taken: Mapping[str, str] | None = None,
    rules: Mapping[ObjectKey, str] | None = None,
) -> dict[str, Allocation]:
    found = allocate(services, Kubernetes(address_pools=pools), taken or {}, rules or {})
    return {key.name: allocation for key, allocation in found.items()}


def addresses(found: Mapping[str, Allocation]) -> dict[str, tuple[str, ...]]:
    return {name: allocation.addresses for name, allocation in found.items()}


def problem(allocation: Allocation) -> tuple[str, str]:
    assert allocation.problem is not None
    return allocation.problem.reason, allocation.problem.message


# Who is first.


def test_the_oldest_gets_the_lowest_address_and_then_the_name_decides() -> None:
    found = given(
        [
            service("young", created="2026-02-01T00:00:00Z"),
            service("b"),
            service("a"),
            service("unknown", created=""),
        ],
        replace(WEB, ranges=(AddressRange("10.0.0.1", "10.0.0.9"),)),
    )
    assert addresses(found) == {
        "a": ("10.0.0.1",),
        "b": ("10.0.0.2",),
        "young": ("10.0.0.3",),
        "unknown": ("10.0.0.4",),
    }
    assert found["a"] == Allocation(("10.0.0.1",), ("web",), None)


def test_who_holds_an_address_keeps_it_though_older_ones_come() -> None:
    found = given([held("young", "10.0.0.1", created="2026-02-01T00:00:00Z"), service("old")], WEB)
    assert addresses(found) == {"young": ("10.0.0.1",), "old": ("10.0.0.2",)}


def test_of_two_that_hold_the_same_address_the_older_keeps_it() -> None:
    found = given([held("young", "10.0.0.2", created="2026-02-01T00:00:00Z"), held("old", "10.0.0.2")], WEB)
    assert addresses(found) == {"old": ("10.0.0.2",), "young": ("10.0.0.1",)}
    assert found["young"].problem is None


def test_an_explicit_request_goes_before_automatic_assignment() -> None:
    found = given([service("old"), service("asks", asks={"lbd.io/address": "10.0.0.1"}, created="2026-03")], WEB)
    assert addresses(found) == {"asks": ("10.0.0.1",), "old": ("10.0.0.2",)}


def test_of_two_that_ask_for_the_same_the_older_gets_it_and_the_other_is_told_who_has_it() -> None:
    asks = {"lbd.io/address": "10.0.0.3"}
    found = given([service("young", asks=asks, created="2026-03"), service("old", asks=asks)], WEB)
    assert addresses(found) == {"old": ("10.0.0.3",), "young": ()}
    assert problem(found["young"]) == ("AddressInUse", "10.0.0.3 is in use by Service default/old")


def test_services_that_are_not_ours_get_nothing_and_take_nothing() -> None:
    others = [
        replace(held("other", "10.0.0.1"), load_balancer_class="x.io/y"),
        replace(service("never", ingress=("10.0.0.1",)), type="ClusterIP", finalizers=(FINALIZER,)),
        replace(held("plain", "10.0.0.1"), type="ClusterIP", load_balancer_class=None),
    ]
    assert addresses(given([*others, service("a")], WEB)) == {"a": ("10.0.0.1",)}


# What is asked for.


@pytest.mark.parametrize(
    ("asks", "load_balancer_ip", "rule", "expected"),
    [
        ({"lbd.io/address": "10.0.0.2", "ako.vmware.com/load-balancer-ip": "10.0.0.3"}, "10.0.0.1", "", "10.0.0.2"),
        ({"ako.vmware.com/load-balancer-ip": "10.0.0.3"}, "10.0.0.2", "10.0.0.1", "10.0.0.3"),
        ({"lbd.io/address": " "}, "10.0.0.2", "10.0.0.3", "10.0.0.2"),
        ({}, "", "10.0.0.3", "10.0.0.3"),
        ({"lbd.io/address-pool": "asked"}, "", "", "10.1.0.1"),
        ({"lbd.io/address-pool": "asked", "lbd.io/address": "10.1.0.2"}, "", "", "10.1.0.2"),
    ],
)
def test_the_first_that_says_something_decides(
    asks: dict[str, str], load_balancer_ip: str, rule: str, expected: str
) -> None:
    one = service("a", asks=asks, load_balancer_ip=load_balancer_ip)
    found = given([one], WEB, ASKED, rules={one.key: rule} if rule else {})
    assert found["a"].addresses == (expected,)
    assert found["a"].problem is None


def test_asking_for_another_address_or_pool_moves_the_service() -> None:
    moved = given([held("a", "10.0.0.1", asks={"lbd.io/address": "10.0.0.3"})], WEB)
    assert moved["a"] == Allocation(("10.0.0.3",), ("web",))
    assert given([held("a", "10.0.0.1", asks={"lbd.io/address-pool": "asked"})], WEB, ASKED)["a"] == Allocation(
        ("10.1.0.1",), ("asked",)
    )


def test_a_service_keeps_its_address_when_it_stops_asking() -> None:
    assert given([held("a", "10.1.0.2")], WEB, ASKED)["a"] == Allocation(("10.1.0.2",), ("asked",))


def test_an_address_that_is_left_is_free_for_who_waits_for_it_at_once() -> None:
    found = given(
        [
            held("a", "10.0.0.1", asks={"lbd.io/address": "10.0.0.2"}),
            held("b", "10.0.0.2", asks={"lbd.io/address": "10.0.0.3"}),
            held("c", "10.0.0.3", asks={"lbd.io/address-pool": "asked"}),
        ],
        WEB,
        ASKED,
    )
    assert addresses(found) == {"a": ("10.0.0.2",), "b": ("10.0.0.3",), "c": ("10.1.0.1",)}


def test_who_waits_for_a_full_pool_gets_what_another_leaves_there() -> None:
    one, two, three = (
        AddressPool(name, (AddressRange(address, address),), auto_assign=False)
        for name, address in (("one", "10.9.0.1"), ("two", "10.9.0.2"), ("three", "10.9.0.3"))
    )
    found = given(
        [
            held("old", "10.9.0.1", asks={"lbd.io/address-pool": "two"}, created="2020"),
            held("young", "10.9.0.2", asks={"lbd.io/address-pool": "three"}),
        ],
        *(one, two, three),
    )
    assert addresses(found) == {"old": ("10.9.0.2",), "young": ("10.9.0.3",)}


def test_two_that_want_each_others_address_keep_their_own_and_are_told() -> None:
    found = given(
        [
            held("a", "10.0.0.1", asks={"lbd.io/address": "10.0.0.2"}),
            held("b", "10.0.0.2", asks={"lbd.io/address": "10.0.0.1"}),
        ],
        WEB,
    )
    assert addresses(found) == {"a": ("10.0.0.1",), "b": ("10.0.0.2",)}
    assert problem(found["a"]) == ("AddressInUse", "10.0.0.2 is in use by Service default/b")


BAD_REQUESTS = [
    ({"lbd.io/address": "192.0.2.1"}, "AddressNotInPools", "192.0.2.1 is in no address pool"),
    ({"lbd.io/address": "10.0.0.2"}, "AddressInUse", "10.0.0.2 is in use by virtual service dns of lbd.yaml"),
    ({"lbd.io/address": "10.2.0.1"}, "AddressPoolNotAllowed", "10.2.0.1 is in pool shop, which does not admit"),
    ({"lbd.io/address": "10.3.0.1"}, "AddressPoolNotAllowed", "10.3.0.1 is in pool gold, which does not admit"),
    ({"lbd.io/address": "nonsense"}, "InvalidAddress", "asks for 'nonsense', which is not an IP address"),
    ({"lbd.io/address": "10.0.0.1,10.0.0.2"}, "InvalidAddress", "asks for more than one IPv4 address"),
    ({"lbd.io/address": "fd00::1"}, "FamilyMismatch", "asks for fd00::1, but the Service has no IPv6"),
    ({"lbd.io/address-pool": "none"}, "UnknownAddressPool", "asks for pool 'none', which is not among address_pools"),
    ({"lbd.io/address-pool": "shop"}, "AddressPoolNotAllowed", "pool shop does not admit this Service"),
    ({"lbd.io/address-pool": "six"}, "NoAddressPool", "pool six has no IPv4 addresses"),
    (
        {"lbd.io/address-pool": "asked", "lbd.io/address": "10.0.0.3"},
        "AddressNotInPools",
        "10.0.0.3 is not in pool asked, which the Service also asks for",
    ),
]


@pytest.mark.parametrize(("asks", "reason", "words"), BAD_REQUESTS)
def test_a_bad_request_is_answered_with_a_sentence_and_nothing_else(
    asks: dict[str, str], reason: str, words: str
) -> None:
    used = {"10.0.0.2": "virtual service dns of lbd.yaml"}
    found = given([service("a", asks=asks)], WEB, SIX, ASKED, SHOP, GOLD, taken=used)["a"]
    assert found.addresses == ()
    assert problem(found)[0] == reason
    assert words in problem(found)[1]


@pytest.mark.parametrize(("asks", "reason", "words"), BAD_REQUESTS)
def test_a_bad_edit_takes_no_address_away(asks: dict[str, str], reason: str, words: str) -> None:
    used = {"10.0.0.2": "virtual service dns of lbd.yaml"}
    found = given([held("a", "10.0.0.1", asks=asks)], WEB, SIX, ASKED, SHOP, GOLD, taken=used)["a"]
    assert (found.addresses, found.pools) == (("10.0.0.1",), ("web",))
    assert problem(found)[0] == reason
    assert words in problem(found)[1]


def test_a_hostile_annotation_makes_no_long_sentence() -> None:
    found = given([service("a", asks={"lbd.io/address": "x" * 100_000})], WEB)
    assert len(problem(found["a"])[1]) < 200


# Pools.


def test_a_full_pool_says_how_full_it_is() -> None:
    used = {f"172.16.101.{number}": "x" for number in range(150, 201)}
    web = AddressPool("web", (AddressRange("172.16.101.150", "172.16.101.200"),))
    found = given([service("a")], web, taken=used)
    assert problem(found["a"]) == ("AddressPoolFull", "pool web is full: 51 of 51 addresses are in use")


def test_a_full_pool_is_followed_by_the_next() -> None:
    found = given([service(name) for name in "abcd"], WEB, replace(ASKED, auto_assign=True))
    assert found["d"] == Allocation(("10.1.0.1",), ("asked",))


def test_pools_that_do_not_assign_by_themselves_must_be_asked_for() -> None:
    reason, message = problem(given([service("a")], ASKED)["a"])
    assert reason == "NoAddressPool"
    assert message == "pool asked must be asked for: no other pool has IPv4 addresses for this Service"
    assert problem(given([service("a")])["a"])[1] == "no address pool has IPv4 addresses"


def test_namespaces_labels_and_priority_choose_the_pool() -> None:
    gold = (("tier", "gold"), ("x", "y"))
    found = given(
        [
            service("a"),
            service("b", namespace="shop"),
            service("c", namespace="shop", labels=gold),
            service("d", labels=(("tier", "silver"),)),
        ],
        WEB,
        SHOP,
        GOLD,
    )
    assert {name: one.pools for name, one in found.items()} == {
        "a": ("web",),
        "b": ("shop",),
        "c": ("gold",),
        "d": ("web",),
    }


def test_a_live_address_stays_when_its_pool_shrinks_or_changes_its_mind_and_is_reported() -> None:
    outside = given([held("a", "10.0.0.9")], WEB)["a"]
    assert (outside.addresses, outside.pools) == (("10.0.0.9",), ("",))
    assert problem(outside) == (
        "AddressOutsidePools",
        "10.0.0.9 is in no address pool any more; the Service keeps it",
    )
    refused = given([held("a", "10.2.0.1")], WEB, SHOP)["a"]
    assert (refused.addresses, refused.pools) == (("10.2.0.1",), ("shop",))
    assert problem(refused) == (
        "AddressPoolNotAllowed",
        "pool shop no longer admits this Service; it keeps 10.2.0.1",
    )


@pytest.mark.parametrize("forged", ["192.0.2.1", "10.2.0.1", "10.1.0.1"])
def test_a_forged_status_draws_no_address_that_could_not_be_had(forged: str) -> None:
    for conditions in ((), (replace(GIVEN[0], status="False"),), (replace(GIVEN[0], type="x.io/AddressAssigned"),)):
        found = given([service("a", ingress=(forged,), conditions=conditions)], WEB, ASKED, SHOP)
        assert found["a"] == Allocation(("10.0.0.1",), ("web",))


def test_a_forged_status_takes_no_address_from_who_was_given_it() -> None:
    found = given(
        [service("thief", ingress=("10.0.0.2",), created="2020"), held("victim", "10.0.0.2", created="2026-05")], WEB
    )
    assert addresses(found) == {"victim": ("10.0.0.2",), "thief": ("10.0.0.1",)}


def test_what_another_implementation_gave_is_kept_where_it_could_be_given_again() -> None:
    assert given([service("a", ingress=("10.0.0.3",))], WEB)["a"].addresses == ("10.0.0.3",)


def test_an_address_that_somebody_else_uses_now_is_replaced() -> None:
    assert given([held("a", "10.0.0.1")], WEB, taken={"10.0.0.1": "the service engine"})["a"].addresses == ("10.0.0.2",)


def test_an_address_of_a_service_on_its_way_out_is_given_to_nobody_yet() -> None:
    leaving = held("gone", "10.0.0.1", deleting=True, finalizers=(FINALIZER,))
    found = given([leaving, service("a"), service("b", asks={"lbd.io/address": "10.0.0.1"})], WEB)
    assert addresses(found) == {"a": ("10.0.0.2",), "b": ()}
    assert problem(found["b"])[1] == "10.0.0.1 is in use by Service default/gone, which is being removed"
    assert addresses(given([replace(leaving, finalizers=()), service("a")], WEB)) == {"a": ("10.0.0.1",)}


# Two families.


def test_a_dual_stack_service_gets_one_address_of_each_family_in_the_order_of_its_spec() -> None:
    found = given([service("a", ip_families=(6, 4)), service("b", ip_families=(4, 6))], WEB, SIX)
    assert found["a"] == Allocation(("fd00::1", "10.0.0.1"), ("six", "web"))
    assert found["b"] == Allocation(("10.0.0.2", "fd00::2"), ("web", "six"))


def test_a_family_without_addresses_is_reported_and_the_other_is_served() -> None:
    found = given([service("a", ip_families=(4, 6))], WEB)["a"]
    assert found.addresses == ("10.0.0.1",)
    assert problem(found) == ("NoAddressPool", "no address pool has IPv6 addresses")
    both = AddressPool("both", (*WEB.ranges, AddressRange("fd00::1", "fd00::1")))
    full = given([service("a", ip_families=(4, 6))], both, taken={"fd00::1": "x"})["a"]
    assert problem(full)[1] == "pool both is full: 1 of 1 IPv6 addresses are in use"


def test_a_request_may_name_one_address_of_each_family_or_just_one() -> None:
    asks = {"lbd.io/address": "fd00::2 , 10.0.0.3"}
    assert given([service("a", ip_families=(4, 6), asks=asks)], WEB, SIX)["a"].addresses == ("10.0.0.3", "fd00::2")
    asks = {"lbd.io/address": "FD00:0::2"}
    assert given([service("a", ip_families=(4, 6), asks=asks)], WEB, SIX)["a"].addresses == ("10.0.0.1", "fd00::2")


def test_a_family_that_is_added_or_taken_away_leaves_the_other_alone() -> None:
    grown = given([held("a", "10.0.0.3", ip_families=(4, 6))], WEB, SIX)
    assert grown["a"].addresses == ("10.0.0.3", "fd00::1")
    shrunk = given([held("a", "10.0.0.3", "fd00::1", ip_families=(4,)), service("b", ip_families=(6,))], WEB, SIX)
    assert addresses(shrunk) == {"a": ("10.0.0.3",), "b": ("fd00::1",)}


# Sharing.

SHARED = {"lbd.io/shared-vip": "x"}


def test_services_of_one_namespace_share_an_address_by_name_as_long_as_ports_differ() -> None:
    found = given(
        [
            service("tcp", asks=SHARED, ports=ports(53)),
            service("udp", asks=SHARED, ports=ports(53, protocol=Protocol.UDP)),
            service("ako", asks={"ako.vmware.com/enable-shared-vip": "x"}, ports=ports(443)),
            service("else", asks=SHARED, ports=ports(80), namespace="other"),
            service("alone", ports=ports(8080)),
        ],
        replace(WEB, ranges=(AddressRange("10.0.0.1", "10.0.0.9"),)),
    )
    shared = {found[name].addresses for name in ("tcp", "udp", "ako")}
    assert len(shared) == 1
    assert {found["else"].addresses, found["alone"].addresses}.isdisjoint(shared)
    assert found["else"].addresses != found["alone"].addresses


def test_a_port_conflict_is_told_to_the_one_that_came_later_though_it_is_older() -> None:
    found = given(
        [held("served", "10.0.0.2", asks=SHARED, created="2026-05"), service("new", asks=SHARED, created="2026-01")],
        WEB,
    )
    assert addresses(found) == {"served": ("10.0.0.2",), "new": ()}
    assert problem(found["new"]) == (
        "SharedVipConflict",
        "port 80/TCP of shared VIP 'x' is Service default/served's",
    )


def test_who_joins_with_a_port_that_is_another_s_keeps_its_own_address() -> None:
    found = given(
        [
            held("a", "10.0.0.2", asks=SHARED),
            held("b", "10.0.0.2", asks=SHARED, ports=ports(81)),
            held("joins", "10.0.0.3", asks=SHARED, created="2020"),
        ],
        WEB,
    )
    assert addresses(found) == {"a": ("10.0.0.2",), "b": ("10.0.0.2",), "joins": ("10.0.0.3",)}
    assert problem(found["joins"])[0] == "SharedVipConflict"


def test_who_joins_moves_to_the_address_of_the_others() -> None:
    found = given(
        [
            held("a", "10.0.0.2", asks=SHARED),
            held("b", "10.0.0.2", asks=SHARED, ports=ports(81)),
            held("joins", "10.0.0.1", asks=SHARED, created="2020", ports=ports(82)),
        ],
        WEB,
    )
    assert set(addresses(found).values()) == {("10.0.0.2",)}


def test_those_that_share_move_together_when_one_of_them_asks() -> None:
    found = given(
        [
            held("a", "10.0.0.2", asks={**SHARED, "lbd.io/address": "10.0.0.3"}),
            held("b", "10.0.0.2", asks=SHARED, ports=ports(81)),
        ],
        WEB,
    )
    assert set(addresses(found).values()) == {("10.0.0.3",)}


def test_those_that_share_and_ask_for_different_addresses_keep_theirs_and_are_told() -> None:
    found = given(
        [
            held("a", "10.0.0.2", asks={**SHARED, "lbd.io/address": "10.0.0.3"}),
            held("b", "10.0.0.2", asks={**SHARED, "lbd.io/address": "10.0.0.2"}, ports=ports(81)),
        ],
        WEB,
    )
    assert set(addresses(found).values()) == {("10.0.0.2",)}
    assert found["b"].problem is None
    assert problem(found["a"]) == (
        "SharedVipConflict",
        "the Service asks for 10.0.0.3, but shares a VIP with Service default/b, which has 10.0.0.2",
    )


def test_who_joins_and_asks_for_another_address_than_the_others_have_gets_none() -> None:
    found = given(
        [
            held("a", "10.0.0.2", asks={**SHARED, "lbd.io/address": "10.0.0.2"}),
            service("joins", asks={**SHARED, "lbd.io/address": "10.0.0.3"}, ports=ports(81)),
        ],
        WEB,
    )
    assert addresses(found) == {"a": ("10.0.0.2",), "joins": ()}
    assert problem(found["joins"])[0] == "SharedVipConflict"


def test_a_service_that_no_longer_shares_gets_its_own_address_and_the_older_stays() -> None:
    found = given([held("a", "10.0.0.2"), held("b", "10.0.0.2", created="2026-05", ports=ports(81))], WEB)
    assert addresses(found) == {"a": ("10.0.0.2",), "b": ("10.0.0.1",)}


def test_sharing_opens_no_pool_to_a_service_that_it_does_not_admit() -> None:
    found = given(
        [
            held("a", "10.3.0.1", asks=SHARED, labels=(("tier", "gold"),)),
            service("b", asks=SHARED, ports=ports(81)),
        ],
        GOLD,
    )
    assert addresses(found) == {"a": ("10.3.0.1",), "b": ()}
    assert problem(found["b"])[0] == "AddressPoolNotAllowed"


def test_a_service_that_is_not_admitted_does_not_keep_those_that_it_joins_from_moving() -> None:
    found = given(
        [
            held("a", "10.3.0.1", asks={**SHARED, "lbd.io/address": "10.3.0.2"}, labels=(("tier", "gold"),)),
            service("b", asks=SHARED, ports=ports(81)),
        ],
        GOLD,
    )
    assert addresses(found) == {"a": ("10.3.0.2",), "b": ()}


# The record, and time.


def test_the_condition_is_true_exactly_where_there_are_addresses() -> None:
    kept = address_condition(given([held("a", "10.0.0.9")], WEB)["a"])
    assert (kept.status, kept.reason) == ("True", "AddressOutsidePools")
    assert kept.message.startswith("10.0.0.9, which no pool has any more; ")
    none = address_condition(given([service("a")])["a"])
    assert (none.status, none.reason, none.message) == ("False", "NoAddressPool", "no address pool has IPv4 addresses")
    good = address_condition(given([service("a", ip_families=(4, 6))], WEB, SIX)["a"], 7)
    assert (good.status, good.reason, good.observed_generation) == ("True", "Assigned", 7)
    assert good.message == "10.0.0.1 from pool web, fd00::1 from pool six"


def test_ten_thousand_services_take_less_than_half_a_second() -> None:
    pool = AddressPool("wide", (AddressRange("10.0.0.0", "10.0.255.255"),))
    services = [service(f"s{number:05}") for number in range(10_000)]
    kubernetes = Kubernetes(address_pools=(pool, SIX))
    began = time.process_time()
    found = allocate(services, kubernetes, {}, {})
    first_s = time.process_time() - began
    assert len({one.addresses for one in found.values()}) == 10_000
    served = [replace(one, ingress=found[one.key].addresses, conditions=GIVEN) for one in services]
    began = time.process_time()
    assert allocate(served, kubernetes, {}, {}) == found
    again_s = time.process_time() - began
    # Everybody wants the next one's address, and the last one goes away: a chain of 9,999 that wait.
    waiting = [
        replace(one, annotations=(("lbd.io/address", following.ingress[0]),))
        for one, following in itertools.pairwise(served)
    ]
    began = time.process_time()
    moved = allocate(waiting, kubernetes, {}, {})
    chain_s = time.process_time() - began
    assert [moved[one.key].addresses for one in waiting] == [one.ingress for one in served[1:]]
    assert min(first_s, again_s) < 0.5
    assert chain_s < 2.0  # what must not be is the square of 10,000


# What is on its way to the API server.


def promised(
    services: Iterable[Service],
    promises: Mapping[str, tuple[str, ...]],
    *pools: AddressPool,
    taken: Mapping[str, str] | None = None,
) -> dict[str, tuple[str, ...]]:
    keys = {ObjectKey("default", name): asked for name, asked in promises.items()}
    found = allocate(services, Kubernetes(address_pools=pools), taken or {}, {}, keys)
    return {key.name: allocation.addresses for key, allocation in found.items()}


def test_what_was_promised_goes_to_nobody_else_whoever_is_older_or_asks_for_it() -> None:
    older = service("older", created="2025-01-01T00:00:00Z")
    asking = service("asking", created="2025-01-01T00:00:00Z", asks={"lbd.io/address": "10.0.0.1"})
    found = promised([service("b"), older, asking], {"b": ("10.0.0.1",)}, WEB)
    assert found == {"b": ("10.0.0.1",), "older": ("10.0.0.2",), "asking": ()}


def test_a_promise_of_one_family_leaves_the_other_one_open() -> None:
    both = service("both", ip_families=(4, 6))
    assert promised([both], {"both": ("fd00::2",)}, WEB, SIX) == {"both": ("10.0.0.1", "fd00::2")}


def test_a_service_that_moves_is_held_to_where_it_was_promised_to_go() -> None:
    moving = held("moving", "10.0.0.1", asks={"lbd.io/address": "10.0.0.3"})
    rival = service("rival", created="2025-01-01T00:00:00Z", asks={"lbd.io/address": "10.0.0.3"})
    found = promised([moving, rival], {"moving": ("10.0.0.3",)}, WEB)
    assert found == {"moving": ("10.0.0.3",), "rival": ()}


def test_what_was_promised_of_an_address_that_a_younger_service_leaves_goes_to_nobody_else() -> None:
    moving = held("moving", "10.0.0.1", created="2026-03-01T00:00:00Z", asks={"lbd.io/address": "10.0.0.3"})
    waiting = service("waiting", created="2026-02-01T00:00:00Z")
    newcomer = service("newcomer", created="2025-01-01T00:00:00Z")
    found = promised([moving, waiting, newcomer], {"moving": ("10.0.0.3",), "waiting": ("10.0.0.1",)}, WEB)
    assert found == {"moving": ("10.0.0.3",), "waiting": ("10.0.0.1",), "newcomer": ("10.0.0.2",)}


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"asks": {"lbd.io/address": "10.0.0.3"}}, ("10.0.0.3",)),
        ({"asks": {"lbd.io/address-pool": "asked"}}, ("10.1.0.1",)),
        ({"asks": {"lbd.io/address": "nonsense"}}, ()),
        ({"ip_families": (6,)}, ("fd00::1",)),
        ({"ingress": ("10.0.0.3",), "conditions": GIVEN}, ("10.0.0.3",)),
    ],
)
def test_a_promise_is_void_when_the_service_asks_for_something_else_or_has_it(
    changed: dict[str, Any], expected: tuple[str, ...]
) -> None:
    assert promised([service("web", **changed)], {"web": ("10.0.0.2",)}, WEB, ASKED, SIX) == {"web": expected}


def test_a_promise_is_void_when_the_address_is_anothers_or_no_pool_gives_it() -> None:
    holder = held("holder", "10.0.0.2", created="2026-05-05T00:00:00Z")
    assert promised([service("web"), holder], {"web": ("10.0.0.2",)}, WEB)["web"] == ("10.0.0.1",)
    used = {"10.0.0.2": "virtual service web of lbd.yaml"}
    assert promised([service("web")], {"web": ("10.0.0.2",)}, WEB, taken=used)["web"] == ("10.0.0.1",)
    assert promised([service("web")], {"web": ("10.9.0.2",)}, WEB)["web"] == ("10.0.0.1",)
    assert promised([service("web")], {"web": ("10.2.0.1",)}, WEB, SHOP)["web"] == ("10.0.0.1",)


def test_a_newcomer_takes_no_port_of_a_shared_vip_that_was_promised() -> None:
    shared = {"lbd.io/shared-vip": "front"}
    first = service("b", asks=shared)
    older = service("a", asks=shared)
    assert promised([first, older], {"b": ("10.0.0.1",)}, WEB) == {"b": ("10.0.0.1",), "a": ()}


def test_a_promise_to_one_that_shares_is_kept_for_all() -> None:
    shared = {"lbd.io/shared-vip": "front"}
    first = service("b", asks=shared)
    second = service("a", asks=shared, ports=ports(81))
    assert promised([first, second], {"b": ("10.0.0.2",)}, WEB) == {"b": ("10.0.0.2",), "a": ("10.0.0.2",)}
