"""Bounded loads: nobody above the bound, clients at home below it, and the same picks everywhere."""

from __future__ import annotations

import random
from collections import Counter
from fractions import Fraction
from functools import cache
from math import ceil

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lbd.balancing.bounded_hash import BoundedHash
from lbd.balancing.consistent_hash import ConsistentHash, build_table

CLIENTS = [f"10.{i >> 16}.{i >> 8 & 255}.{i & 255}" for i in range(5_000)]
unhurried = settings(deadline=None)


@cache
def table_of(weights: tuple[int, ...]) -> bytes:
    """A table, built once."""
    return build_table([f"10.244.0.{member}:8080" for member in range(len(weights))], list(weights))


class Pool:
    """A pool of which connections stay open until they are closed."""

    def __init__(self, weights: list[int], max_load_percent: float = 125.0) -> None:
        table = memoryview(table_of(tuple(weights))).cast("H")
        self.own = [0] * len(weights)
        self.other = [0] * len(weights)
        self.plain = ConsistentHash(weights, table)
        self.bounded = BoundedHash(weights, table, self.own, self.other, max_load_percent)

    def set_weights(self, weights: list[int]) -> None:
        """Of both."""
        self.plain.set_weights(weights)
        self.bounded.set_weights(weights)

    def bound(self, member: int, max_load_percent: float) -> int:
        """What the member may have with the next connection, in exact numbers."""
        weights = self.bounded.weights
        load = sum(self.own[i] + self.other[i] for i, weight in enumerate(weights) if weight)
        return ceil(Fraction(max_load_percent) / 100 * (load + 1) * weights[member] / sum(weights))


@unhurried
@given(
    percent=st.sampled_from([100.0, 100.5, 110.0, 125.0, 200.0, 1000.0]),
    weights=st.sampled_from([(1,), (1, 1), (1, 1, 1, 1, 1), (1, 2, 3, 4, 5), (7, 1, 1, 0, 3), (1,) * 40]),
    steps=st.lists(st.integers(0, 1 << 20), max_size=200),
)
def test_no_member_ever_gets_a_connection_above_its_bound(
    percent: float, weights: tuple[int, ...], steps: list[int]
) -> None:
    pool = Pool(list(weights), percent)
    for step in steps:
        if step % 7 == 0 and any(pool.own):
            pool.own[max(range(len(weights)), key=lambda member: (pool.own[member], member == step % 5))] -= 1
            continue
        if step % 11 == 0:
            pool.set_weights(
                [weight * (place != step % len(weights)) or (place == 0) for place, weight in enumerate(weights)]
            )
        client = CLIENTS[step % 50]  # few clients: hot ones
        member = pool.bounded.pick(client, [])
        assert pool.bounded.weights[member] > 0
        bound = pool.bound(member, percent)
        pool.own[member] += 1
        assert pool.own[member] <= bound


def test_one_hot_client_is_spread_over_as_many_members_as_the_bound_asks_for() -> None:
    pool = Pool([1] * 10, 150.0)
    for _ in range(1000):
        pool.own[pool.bounded.pick("192.0.2.1", [])] += 1
    assert max(pool.own) == 150
    assert sum(count > 0 for count in pool.own) in (7, 8)


def test_clients_of_which_each_is_below_the_bound_are_where_plain_hashing_has_them() -> None:
    pool = Pool([1, 2, 3, 1, 2], 1000.0)
    pool.own[:] = [20, 40, 60, 20, 40]
    assert [pool.bounded.pick(client, []) for client in CLIENTS] == [pool.plain.pick(client, []) for client in CLIENTS]


def test_few_clients_are_away_from_home_at_125_percent() -> None:
    pool = Pool([1] * 10)
    away = 0
    for client in CLIENTS[:2000]:
        member = pool.bounded.pick(client, [])
        away += member != pool.plain.pick(client, [])
        pool.own[member] += 1
    assert max(pool.own) <= 250
    assert away < 0.1 * 2000


def test_a_full_member_gives_away_only_new_clients_to_where_they_go_when_it_is_down() -> None:
    pool = Pool([1] * 8)
    pool.own[:] = [10] * 8
    pool.own[3] = 30
    there = [pool.bounded.pick(client, []) for client in CLIENTS]
    pool.set_weights([int(member != 3) for member in range(8)])
    assert there == [pool.plain.pick(client, []) for client in CLIENTS]
    assert 3 not in there


def test_clients_return_home_once_there_is_room() -> None:
    pool = Pool([1] * 8)
    home = [pool.bounded.pick(client, []) for client in CLIENTS]
    pool.own[:] = [10] * 8
    pool.own[3] = 30
    assert home != [pool.bounded.pick(client, []) for client in CLIENTS]
    pool.own[3] = 10
    assert home == [pool.bounded.pick(client, []) for client in CLIENTS] == [pool.plain.pick(c, []) for c in CLIENTS]


def test_what_other_workers_have_counts() -> None:
    pool = Pool([1, 1])
    pool.other[0] = 50
    assert {pool.bounded.pick(client, []) for client in CLIENTS} == {1}
    pool.own[1] = 50
    assert {pool.bounded.pick(client, []) for client in CLIENTS} == {0, 1}


def test_connections_of_members_that_are_not_eligible_raise_no_bound() -> None:
    pool = Pool([1] * 4, 100.0)
    pool.own[:] = [1000, 4, 4, 3]
    pool.set_weights([0, 1, 1, 1])
    assert {pool.bounded.pick(client, []) for client in CLIENTS} == {3}


def test_only_the_ratios_of_the_weights_matter() -> None:
    small, large = Pool([1, 2, 3]), Pool([1, 2, 3])
    large.set_weights([100, 200, 300])
    chance = random.Random(2)
    for _ in range(300):
        client = CLIENTS[chance.randrange(9)]
        member = small.bounded.pick(client, [])
        assert large.bounded.pick(client, []) == member
        small.own[member] += 1
        large.own[member] += 1


def test_many_members_nearly_all_of_them_full_leave_the_one_with_room() -> None:
    pool = Pool([1] * 200, 100.0)
    pool.own[:] = [50] * 200
    pool.own[77] = 49
    assert {pool.bounded.pick(client, []) for client in CLIENTS[:500]} == {77}


def test_several_members_with_room_among_many_full_ones_share_the_clients() -> None:
    pool = Pool([1] * 200, 100.0)
    pool.own[:] = [50] * 200
    for member in (5, 77, 150):
        pool.own[member] = 40
    counted = Counter(pool.bounded.pick(client, []) for client in CLIENTS)
    assert set(counted) == {5, 77, 150}
    assert min(counted.values()) > 0.8 * 5000 / 3


def test_a_retry_goes_below_the_bound_if_it_can_and_above_it_rather_than_nowhere() -> None:
    pool = Pool([1] * 3)
    pool.own[:] = [9, 30, 9]
    for client in CLIENTS[:100]:
        first = pool.bounded.pick(client, [])
        second = pool.bounded.pick(client, [first])
        assert {first, second} == {0, 2}
        assert pool.bounded.pick(client, [first, second]) == 1
        assert pool.bounded.pick(client, [0, 1, 2]) == -1


@pytest.mark.parametrize(("percent", "own", "error"), [(99.9, 2, "bound"), (125.0, 1, "counts")])
def test_what_can_not_hold_is_refused(percent: float, own: int, error: str) -> None:
    with pytest.raises(ValueError, match=error):
        BoundedHash([1, 1], memoryview(table_of((1, 1))).cast("H"), [0] * own, [0, 0], percent)


def test_a_pool_without_members_or_without_an_eligible_one_has_no_pick() -> None:
    assert BoundedHash([], memoryview(b"").cast("H"), [], [], 125.0).pick("192.0.2.1", []) == -1
    pool = Pool([1, 1])
    pool.set_weights([0, 0])
    assert pool.bounded.pick("192.0.2.1", []) == -1
