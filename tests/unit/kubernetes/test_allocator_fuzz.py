"""Whatever Services ask for, hold and forge: no address twice, no surprise on the second look, no matter the order."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping
from dataclasses import replace

from hypothesis import given, settings
from hypothesis import strategies as st

from lbd.kubernetes.addresses.address_condition import address_condition
from lbd.kubernetes.addresses.allocator import Allocation, allocate
from lbd.kubernetes.objects.kinds import ADDRESS_CONDITION, Condition, ObjectKey, Service, ServicePort
from lbd.model.desired import Protocol
from lbd.model.kubernetes import DEFAULT_LOAD_BALANCER_CLASS, AddressPool, AddressRange, Kubernetes

ADDRESSES = [f"10.0.0.{number}" for number in range(1, 9)] + [f"fd00::{number}" for number in range(1, 5)]
POOLS = (
    AddressPool("first", (AddressRange("10.0.0.1", "10.0.0.3"), AddressRange("fd00::1", "fd00::2"))),
    AddressPool("second", (AddressRange("10.0.0.4", "10.0.0.5"),), auto_assign=False, priority=3),
    AddressPool("third", (AddressRange("10.0.0.6", "10.0.0.7"),), namespaces=("a",), service_labels=(("tier", "x"),)),
)

pools = st.lists(st.sampled_from(POOLS), unique=True, max_size=3).map(tuple)
asked = st.lists(st.sampled_from([*ADDRESSES, "nonsense", ""]), min_size=1, max_size=2).map(",".join)
annotations = st.fixed_dictionaries(
    {},
    optional={
        "lbd.io/address": asked,
        "lbd.io/address-pool": st.sampled_from(["first", "second", "third", "second,first", "none"]),
        "lbd.io/shared-vip": st.sampled_from(["x", "y"]),
    },
)


@st.composite
def services(draw: st.DrawFn) -> list[Service]:
    count = draw(st.integers(1, 7))
    return [
        Service(
            key=ObjectKey(draw(st.sampled_from("ab")), f"s{number}"),
            uid=str(number),
            resource_version="1",
            created=f"2026-01-0{draw(st.integers(1, 3))}T00:00:00Z",
            type="LoadBalancer",
            load_balancer_class=DEFAULT_LOAD_BALANCER_CLASS,
            ports=tuple(
                ServicePort(str(port), port, Protocol.TCP)
                for port in draw(st.lists(st.integers(80, 83), min_size=1, max_size=2, unique=True))
            ),
            ip_families=draw(st.sampled_from([(4,), (6,), (4, 6), (6, 4)])),
            annotations=tuple(sorted(draw(annotations).items())),
            labels=draw(st.sampled_from([(), (("tier", "x"),)])),
            load_balancer_ip=draw(st.sampled_from(["", "", "", "10.0.0.2"])),
            ingress=tuple(draw(st.lists(st.sampled_from(ADDRESSES), max_size=2, unique=True))),
            conditions=draw(st.sampled_from([(), (Condition(ADDRESS_CONDITION, "True", "Assigned", ""),)])),
        )
        for number in range(count)
    ]


taken = st.dictionaries(st.sampled_from(ADDRESSES), st.just("virtual service web of lbd.yaml"), max_size=2)


def written(services: Iterable[Service], allocations: Mapping[ObjectKey, Allocation]) -> list[Service]:
    """Return the Services as they are when what was allocated stands in their status."""
    return [
        replace(one, ingress=allocations[one.key].addresses, conditions=(address_condition(allocations[one.key]),))
        for one in services
    ]


def share(one: Service, other: Service) -> bool:
    name = one.annotation("lbd.io/shared-vip")
    if name is None or name != other.annotation("lbd.io/shared-vip") or one.key.namespace != other.key.namespace:
        return False
    return not {(port.port, port.protocol) for port in one.ports} & {(port.port, port.protocol) for port in other.ports}


def is_tangled(services: Iterable[Service]) -> bool:
    """Tell whether Services that ask to share an address have been given different ones before. What one of them must
    leave is free only at the next look."""
    given: dict[tuple[str, str | None, int], set[str]] = {}
    for one in services:
        name = one.annotation("lbd.io/shared-vip")
        if name is not None and one.conditions:
            for address in one.ingress:
                given.setdefault((one.key.namespace, name, 6 if ":" in address else 4), set()).add(address)
    return any(len(addresses) > 1 for addresses in given.values())


@settings(max_examples=200, deadline=None)
@given(services(), pools, taken, st.randoms(use_true_random=False))
def test_no_address_is_given_twice_and_the_second_look_changes_nothing_in_any_order(
    all_services: list[Service], configured: tuple[AddressPool, ...], used: dict[str, str], dice: random.Random
) -> None:
    kubernetes = Kubernetes(address_pools=configured)
    allocations = allocate(all_services, kubernetes, used, {})

    assert set(allocations) == {one.key for one in all_services}
    by_key = {one.key: one for one in all_services}
    owners: dict[str, list[Service]] = {}
    for key, allocation in allocations.items():
        service = by_key[key]
        families = [6 if ":" in address else 4 for address in allocation.addresses]
        assert families == [family for family in service.ip_families if family in families]
        assert len(allocation.pools) == len(allocation.addresses)
        assert allocation.problem is not None or len(allocation.addresses) == len(service.ip_families)
        for address, pool_name in zip(allocation.addresses, allocation.pools, strict=True):
            assert address not in used
            owners.setdefault(address, []).append(service)
            pool = next((pool for pool in configured if address in pool), None)
            assert pool_name == ("" if pool is None else pool.name)
            given_before = bool(service.conditions) and address in service.ingress
            allowed = pool is not None and (
                not pool.namespaces or (service.key.namespace in pool.namespaces and bool(service.labels))
            )
            assert allowed or (given_before and allocation.problem is not None)
    for sharing in owners.values():
        for number, one in enumerate(sharing):
            assert all(share(one, other) for other in sharing[number + 1 :])

    shuffled = list(all_services)
    dice.shuffle(shuffled)
    assert dict(allocate(shuffled, kubernetes, used, {})) == dict(allocations)

    looks = [allocations]
    for _ in range(4):
        all_services = written(all_services, looks[-1])
        looks.append(allocate(all_services, kubernetes, used, {}))
    outcomes = [{key: (one.addresses, one.problem is None) for key, one in look.items()} for look in looks]
    assert outcomes[-2] == outcomes[-1]
    if not is_tangled(by_key.values()):
        assert outcomes[0] == outcomes[1]


@settings(max_examples=200, deadline=None)
@given(services(), services(), pools, taken)
def test_who_comes_while_addresses_are_being_written_changes_none_of_them(
    first: list[Service], others: list[Service], configured: tuple[AddressPool, ...], used: dict[str, str]
) -> None:
    kubernetes = Kubernetes(address_pools=configured)
    before = allocate(first, kubernetes, used, {})
    newcomers = [
        replace(
            one,
            key=ObjectKey(one.key.namespace, f"n{number}"),
            annotations=tuple(pair for pair in one.annotations if pair[0] != "lbd.io/shared-vip"),
            ingress=(),
            conditions=(),
        )
        for number, one in enumerate(others)
    ]
    by_key = {one.key: one for one in first}
    promised = {key: one.addresses for key, one in before.items() if one.addresses not in ((), by_key[key].ingress)}
    after = allocate([*newcomers, *first], kubernetes, used, {}, promised)
    assert {key: after[key].addresses for key in promised} == {key: before[key].addresses for key in promised}
