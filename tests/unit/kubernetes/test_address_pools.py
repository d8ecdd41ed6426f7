"""Free addresses, how full pools are, and what a reload would take away."""

from __future__ import annotations

import time
from dataclasses import replace

import pytest

from lbd.kubernetes.addresses.address_pools import AddressSpace, address_at, place_of, pool_usage, shrink_errors
from lbd.kubernetes.objects.kinds import ADDRESS_CONDITION, Condition, ObjectKey, Service
from lbd.model.kubernetes import DEFAULT_LOAD_BALANCER_CLASS, AddressPool, AddressRange, Kubernetes
from lbd.model.kubernetes_status import PoolUsage

WEB = AddressPool("web", (AddressRange("10.0.0.8", "10.0.0.9"), AddressRange("10.0.0.1", "10.0.0.2")))
BIG = AddressPool("big", (AddressRange("fd00::", "fd00::ffff:ffff:ffff:ffff"),))


def free(space: AddressSpace[str], pool: AddressPool) -> str | None:
    place = space.free(pool, 6 if pool is BIG else 4)
    return None if place is None else address_at(place)


def test_the_lowest_free_address_is_found_whatever_was_taken_and_released() -> None:
    space: AddressSpace[str] = AddressSpace((WEB,))
    found = []
    while (place := space.free(WEB, 4)) is not None:
        space.take(place, "x")
        found.append(address_at(place))
    assert found == ["10.0.0.1", "10.0.0.2", "10.0.0.8", "10.0.0.9"]
    for address in ("10.0.0.9", "10.0.0.2"):
        space.release(place_of(address))
        assert free(space, WEB) == address
    assert space.free(WEB, 6) is None


def test_a_pool_of_2_to_the_64_is_not_counted_through() -> None:
    space: AddressSpace[str] = AddressSpace((BIG,))
    began = time.process_time()
    for _ in range(20_000):
        place = space.free(BIG, 6)
        assert place is not None
        space.take(place, "x")
    assert free(space, BIG) == "fd00::4e20"
    assert pool_usage(Kubernetes(address_pools=(BIG,)), ["fd00::1"]) == (PoolUsage("big", 6, 2**64, 1),)
    assert time.process_time() - began < 1.0


def test_pools_are_tried_by_priority_and_then_as_they_were_written() -> None:
    pools = [AddressPool(name, (), priority=priority) for name, priority in (("a", 0), ("b", 5), ("c", 0), ("d", 5))]
    assert [pool.name for pool in AddressSpace[str](pools).pools] == ["b", "d", "a", "c"]


def test_an_address_that_is_in_two_pools_is_found_in_both() -> None:
    wide = AddressPool("wide", (AddressRange("10.0.0.0", "10.0.0.255"),))
    space: AddressSpace[str] = AddressSpace((wide, WEB))
    assert [pool.name for pool in space.containing(place_of("10.0.0.2"))] == ["wide", "web"]
    assert [pool.name for pool in space.containing(place_of("10.0.0.5"))] == ["wide"]
    assert space.containing(place_of("10.0.1.0")) == []
    assert space.containing(place_of("::1")) == []


@pytest.mark.parametrize("address", ["10.0.0.0", "10.0.0.3", "10.0.0.7", "10.0.0.10", "255.255.255.255", "fd00::1"])
def test_what_lies_beside_the_ranges_is_in_no_pool(address: str) -> None:
    assert AddressSpace[str]((WEB,)).containing(place_of(address)) == []


@pytest.mark.parametrize("text", ["", "x", "10.0.0", "10.0.0.256", "fe80::1%eth0", "010.0.0.1", "1", "::1 "])
def test_what_is_no_address_has_no_place(text: str) -> None:
    with pytest.raises(ValueError):
        place_of(text)


def test_usage_counts_each_address_once_and_each_family_apart() -> None:
    both = AddressPool("both", (AddressRange("10.1.0.1", "10.1.0.4"), AddressRange("fd00::1", "fd00::2")))
    kubernetes = Kubernetes(address_pools=(both, WEB))
    assert pool_usage(kubernetes, ["10.1.0.1", "10.1.0.1", "fd00::2", "10.0.0.9", "192.0.2.1"]) == (
        PoolUsage("both", 4, 4, 1),
        PoolUsage("both", 6, 2, 1),
        PoolUsage("web", 4, 4, 1),
    )


def cluster(*pools: AddressPool) -> Kubernetes:
    return Kubernetes(address_pools=pools)


def served(name: str, *addresses: str) -> Service:
    mark = (Condition(ADDRESS_CONDITION, "True", "Assigned", ""),)
    key = ObjectKey("default", name)
    return Service(
        key, name, "1", "", "LoadBalancer", DEFAULT_LOAD_BALANCER_CLASS, (), ingress=addresses, conditions=mark
    )


NARROW = AddressPool("web", (AddressRange("10.0.0.1", "10.0.0.2"),))


def test_a_reload_that_takes_an_address_away_names_the_pool_the_address_and_the_service() -> None:
    assert shrink_errors(cluster(WEB), cluster(NARROW), [served("a", "10.0.0.8"), served("b", "10.0.0.1")]) == (
        "address_pools.web no longer has 10.0.0.8, which Service default/a has: delete the Service or give it another "
        "address first",
    )
    assert shrink_errors(cluster(WEB), cluster(), [served("a", "10.0.0.8")])


def test_a_reload_may_move_an_address_to_another_pool_or_grow_one() -> None:
    services = [served("a", "10.0.0.8"), served("b", "10.0.0.1")]
    assert shrink_errors(cluster(WEB), cluster(replace(WEB, name="other")), services) == ()
    assert shrink_errors(cluster(NARROW), cluster(WEB), services) == ()


def test_what_is_not_ours_or_was_not_given_holds_up_no_reload() -> None:
    one = served("a", "10.0.0.8")
    for service in (
        replace(one, conditions=()),
        replace(one, load_balancer_class="x.io/y"),
        replace(one, type="ClusterIP"),
        served("a", "192.0.2.1"),  # it was in no pool before
    ):
        assert shrink_errors(cluster(WEB), cluster(NARROW), [service]) == ()
    assert shrink_errors(cluster(WEB), replace(cluster(NARROW), namespaces=("other",)), [one]) == ()


def test_the_list_of_what_would_be_lost_is_bounded_and_says_so() -> None:
    wide = AddressPool("wide", (AddressRange("10.0.0.0", "10.0.255.255"),))
    errors = shrink_errors(cluster(wide), cluster(), [served(f"s{n:03}", f"10.0.1.{n}") for n in range(100)])
    assert len(errors) == 20
    assert errors[-1] == "and 81 more addresses that Services have"
    assert "default/s000" in errors[0]
