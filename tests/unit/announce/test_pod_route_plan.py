"""How to come from the routes that are there to those that lead to Pods."""

from __future__ import annotations

import pytest

from lbd.announce.pod_route_plan import Change, LocalAddress, PodRoute, PresentRoute, change
from lbd.announce.pod_routes import FIRST_RETRY_S, LONGEST_RETRY_S, Failure, failed

BACK, FRONT = 3, 2
LOCAL = (
    LocalAddress(1, "127.0.0.1", "127.0.0.0/8"),
    LocalAddress(FRONT, "172.16.101.1", "172.16.101.0/24"),
    LocalAddress(FRONT, "172.16.101.150"),
    LocalAddress(BACK, "10.10.52.1", "10.10.52.0/24"),
    LocalAddress(BACK, "fd00:52::1", "fd00:52::/64"),
)
A, B, C = "10.244.1.0/24", "10.244.2.0/24", "fd00:244:1::/64"
HOP_A, HOP_B, HOP_C = "10.10.52.11", "10.10.52.12", "fd00:52::11"
WANTED = {A: HOP_A, B: HOP_B, C: HOP_C}


def there(destination: str, next_hop: str, index: int = BACK, metric: int = 0) -> PresentRoute:
    return PresentRoute(destination, next_hop, index, metric)


ALL = (there(A, HOP_A), there(B, HOP_B), there(C, HOP_C, metric=1024))


def test_what_is_missing_is_added_and_what_is_there_is_left_alone() -> None:
    assert change(WANTED, (), LOCAL, None) == Change(
        (), (PodRoute(A, HOP_A), PodRoute(B, HOP_B), PodRoute(C, HOP_C)), {}
    )
    assert change(WANTED, ALL, LOCAL, None) == Change((), (), {})
    assert change(WANTED, ALL[1:], LOCAL, None) == Change((), (PodRoute(A, HOP_A),), {})


def test_what_is_not_wanted_goes() -> None:
    assert change({A: HOP_A}, ALL, LOCAL, None) == Change((ALL[1], ALL[2]), (), {})
    assert change({}, ALL, (), None) == Change(ALL, (), {})


def test_a_node_that_moved_has_its_old_route_removed_and_a_new_one_added() -> None:
    assert change({A: HOP_B}, ALL[:1], LOCAL, None) == Change((ALL[0],), (PodRoute(A, HOP_B),), {})


def test_a_second_route_to_the_same_network_is_surplus() -> None:
    twin = there(A, HOP_A, metric=7)
    assert change({A: HOP_A}, (twin, ALL[0]), LOCAL, None) == Change((twin,), (), {})


def test_with_an_interface_a_route_through_another_one_is_made_anew() -> None:
    assert change({A: HOP_A}, ALL[:1], LOCAL, BACK) == Change((), (), {})
    assert change({A: HOP_A}, ALL[:1], LOCAL, FRONT) == Change((ALL[0],), (PodRoute(A, HOP_A),), {})


def test_without_an_interface_a_route_through_a_link_that_the_next_hop_has_left_is_made_anew() -> None:
    stale = there(A, HOP_A, FRONT)
    assert change({A: HOP_A}, (stale,), LOCAL, None) == Change((stale,), (PodRoute(A, HOP_A),), {})
    unknown = there(A, "192.0.2.7", FRONT)  # reached by way of a host route: the kernel knows better
    assert change({A: "192.0.2.7"}, (unknown,), LOCAL, None) == Change((), (), {})


def test_a_route_without_a_next_hop_that_carries_our_tag_goes() -> None:
    odd = PresentRoute(A, "", 0)
    assert change({A: HOP_A}, (odd,), LOCAL, None) == Change((odd,), (PodRoute(A, HOP_A),), {})


@pytest.mark.parametrize(
    ("destination", "next_hop", "reason"),
    [
        ("10.10.52.128/25", HOP_A, "overlaps 10.10.52.0/24"),
        ("10.10.0.0/16", HOP_A, "has 10.10.52.1"),
        ("172.16.101.150/32", HOP_A, "has 172.16.101.150"),
        ("172.16.101.64/26", HOP_A, "overlaps 172.16.101.0/24"),
        ("fd00:52::/80", HOP_C, "has fd00:52::1"),
        ("fd00:52:0:0:1::/80", HOP_C, "overlaps fd00:52::/64"),
        (A, "10.10.52.1", "is this machine itself"),
        (A, "172.16.101.150", "is this machine itself"),
    ],
)
def test_a_route_that_would_cut_off_what_is_beside_us_is_refused_and_removed(
    destination: str, next_hop: str, reason: str
) -> None:
    old = there(destination, next_hop)
    todo = change({destination: next_hop, B: HOP_B}, (old,), LOCAL, None)
    assert (todo.remove, todo.add) == ((old,), (PodRoute(B, HOP_B),))
    assert list(todo.refused) == [destination]
    assert reason in todo.refused[destination]


def test_a_network_within_another_one_on_a_link_is_covered_too() -> None:
    local = (LocalAddress(BACK, "10.10.0.1", "10.10.0.0/16"), LocalAddress(BACK, "10.10.52.1", "10.10.52.0/24"))
    for destination in ("10.10.52.128/25", "10.10.99.0/24"):
        assert "overlaps 10.10.0.0/16" in change({destination: "10.9.9.9"}, (), local, None).refused[destination]


def test_addresses_of_the_kernel_make_networks_but_for_hosts_and_link_local_ones() -> None:
    assert LocalAddress.of(BACK, "10.10.52.1", "10.10.52.1", 24).network == "10.10.52.0/24"
    assert LocalAddress.of(BACK, "10.0.0.1", "10.0.0.2", 31).network == "10.0.0.2/31"
    assert LocalAddress.of(FRONT, "172.16.101.150", "172.16.101.150", 32).network is None
    assert LocalAddress.of(FRONT, "fe80::1", "fe80::1", 64).network is None


def test_retries_come_after_a_second_then_twice_as_late_up_to_a_minute() -> None:
    failure: Failure | None = None
    waits = []
    for _ in range(30):
        failure = failed(failure, "unreachable", 100.0)
        waits.append(failure.retry_at_s - 100.0)
    assert waits[:4] == [FIRST_RETRY_S, 2.0, 4.0, 8.0]
    assert waits[-1] == LONGEST_RETRY_S
