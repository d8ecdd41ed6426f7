"""Fastest response: quick members get more, slow ones are tried again, and nobody is flooded or forgotten."""

from __future__ import annotations

import random
from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lbd.balancing.fastest_response import DECAY_MS, FAILED_CONNECT_US, SCAN_LIMIT, FastestResponse

unhurried = settings(deadline=None)
CLIENT = "198.51.100.7"
BOOTED_MS = 3_000_000_000
"""A monotonic clock does not begin at 0."""


class Pool:
    """Members with connect times of their own, served through the balancer one connection after another."""

    def __init__(self, connect_us: list[int], weights: list[int] | None = None, seed: int = 1) -> None:
        self.connect_us = connect_us
        self.own = [0] * len(connect_us)
        self.now_ms = BOOTED_MS
        self.balancer = FastestResponse(weights or [1] * len(connect_us), self.own, seed)

    def connect(self) -> int:
        """One connection that is established, measured, and over at once."""
        self.balancer.now_ms = self.now_ms
        member = self.balancer.pick(CLIENT, [])
        self.balancer.observe(member, self.connect_us[member], self.now_ms)
        return member

    def serve(self, seconds: float, every_ms: int = 10) -> Counter[int]:
        """Connections for so long, one each `every_ms`."""
        counted: Counter[int] = Counter()
        end_ms = self.now_ms + int(seconds * 1000)
        while self.now_ms < end_ms:
            self.now_ms += every_ms
            counted[self.connect()] += 1
        return counted


@pytest.mark.parametrize("members", [1, 2, 10, SCAN_LIMIT, SCAN_LIMIT + 1, 200])
def test_each_member_is_measured_at_once_by_one_connection(members: int) -> None:
    pool = Pool([100] * members)
    first = []
    for _ in range(members):
        first.append(pool.balancer.pick(CLIENT, []))
        pool.own[first[-1]] += 1
    assert sorted(first) == list(range(members))


def test_workers_begin_with_different_members() -> None:
    assert len({Pool([100] * 10, seed=seed).balancer.pick(CLIENT, []) for seed in range(100)}) == 10


def test_a_member_whose_first_connect_hangs_gets_no_second_one() -> None:
    pool = Pool([100, 100, 100])
    pool.balancer.now_ms = BOOTED_MS
    hanging = pool.balancer.pick(CLIENT, [])  # asked before any other was measured
    pool.own[hanging] += 1
    for _ in range(2000):
        pool.now_ms += 1
        pool.balancer.now_ms = pool.now_ms
        member = pool.balancer.pick(CLIENT, [])
        if member == hanging:
            pool.own[hanging] += 1
        else:
            pool.balancer.observe(member, 100, pool.now_ms)
    assert pool.own[hanging] == 1


def test_a_member_whose_first_client_went_away_is_measured_by_the_next_one() -> None:
    pool = Pool([100, 100])
    first = pool.balancer.pick(CLIENT, [])
    pool.balancer.observe(1 - first, 100, BOOTED_MS)
    pool.balancer.pick(CLIENT, [])  # the other one has its turn too, if it was not asked
    assert pool.balancer.pick(CLIENT, []) == first  # nothing is under way with it


def test_a_member_ten_times_as_slow_gets_far_less_but_is_tried_again() -> None:
    pool = Pool([100, 100, 1000])
    counted = pool.serve(120)
    assert counted[2] < 0.01 * counted.total()
    assert counted[2] >= 4  # some 23 s (10 s x ln 10) lie between two tries
    assert abs(counted[0] - counted[1]) < 0.1 * counted[0]


def test_a_member_that_has_become_fast_is_found_out_within_two_minutes() -> None:
    pool = Pool([200, 200, 20_000])
    assert pool.serve(10)[2] <= 2
    pool.connect_us[2] = 200
    pool.serve(120)
    assert pool.serve(10)[2] > 50  # of 1000; before it was less than 1


def test_a_peak_is_believed_at_once_and_forgotten_little_by_little() -> None:
    pool = Pool([100, 120])
    pool.serve(2)
    pool.balancer.observe(0, 5000, pool.now_ms)
    assert pool.serve(20)[0] == 0
    pool.balancer.observe(0, 100, pool.now_ms)  # one quick answer does not outweigh it after so short a time
    assert pool.serve(1)[0] == 0
    assert pool.serve(60)[0] > 0


def test_a_refusal_does_not_make_a_member_the_fastest() -> None:
    pool = Pool([300, 300, 40])
    refusing = 2
    pool.connect_us[refusing] = FAILED_CONNECT_US
    counted = pool.serve(30)
    assert counted[refusing] == 1
    assert pool.serve(120)[refusing] in (1, 2, 3)


def test_a_member_that_comes_back_is_measured_at_once_whatever_it_was_before() -> None:
    pool = Pool([100, 100, FAILED_CONNECT_US])
    pool.serve(5)
    pool.balancer.set_weights([100, 100, 0])
    assert pool.serve(5)[2] == 0
    pool.connect_us[2] = 100
    pool.balancer.set_weights([100, 100, 100])
    assert pool.connect() == 2
    assert pool.serve(5)[2] > 100


def test_slow_start_ticks_measure_nobody_anew() -> None:
    pool = Pool([100, 100, 5000])
    pool.serve(1)
    for tick in range(100):
        pool.balancer.set_weights([100, 100, 1 + tick])
        assert pool.connect() != 2


def test_own_connections_count_and_so_do_weights() -> None:
    pool = Pool([100, 100, 100], [1, 2, 3])
    pool.serve(0.1)
    for _ in range(600):
        pool.now_ms += 1
        pool.own[pool.connect()] += 1
    assert all(abs(count - 100 * weight) < 10 for count, weight in zip(pool.own, [1, 2, 3], strict=True)), pool.own


@pytest.mark.parametrize("members", [10, 100])
def test_of_open_connections_a_member_half_as_fast_has_half_as_many(members: int) -> None:
    slow = members // 2
    pool = Pool([200] * slow + [100] * slow)
    pool.serve(0.001 * members, 1)
    for step in range(60 * members):
        pool.now_ms += step % 2
        pool.own[pool.connect()] += 1
    assert 0.4 < sum(pool.own[:slow]) / sum(pool.own[slow:]) < 0.6


def test_equally_fast_members_share_a_quiet_service_evenly_in_spite_of_noise() -> None:
    chance = random.Random(4)
    pool = Pool([100] * 5)
    counted: Counter[int] = Counter()
    for _ in range(20_000):
        pool.now_ms += 20
        pool.connect_us = [100 + chance.randrange(50) for _ in range(5)]
        counted[pool.connect()] += 1
    assert max(counted.values()) < 1.3 * min(counted.values()), counted


@unhurried
@given(
    steps=st.lists(
        st.tuples(st.integers(0, 5), st.integers(0, 1 << 40), st.integers(-1000, 1 << 40), st.booleans()), max_size=60
    ),
    weights=st.lists(st.integers(0, 1 << 30), min_size=6, max_size=6),
)
def test_whatever_is_observed_a_pick_is_eligible_and_untried(
    steps: list[tuple[int, int, int, bool]], weights: list[int]
) -> None:
    balancer = FastestResponse(weights, [0] * 6, 1)
    for member, connect_us, passed_ms, turn in steps:
        balancer.now_ms = max(0, balancer.now_ms + passed_ms)
        balancer.observe(member, connect_us, max(0, balancer.now_ms - passed_ms % 7))
        if turn:
            weights = [*weights[1:], weights[0]]
            balancer.set_weights(weights)
        picked = balancer.pick(CLIENT, [member])
        left = [each for each in range(6) if weights[each] and each != member]
        assert picked in left if left else picked == -1


def test_after_an_hour_of_silence_estimates_are_neither_nothing_nor_stuck() -> None:
    pool = Pool([100, 9000])
    pool.serve(1)
    pool.now_ms += 360 * DECAY_MS
    counted = pool.serve(20)
    assert 1 <= counted[1] <= 3  # forgotten, so tried; then known again


def test_counts_for_another_number_of_members_are_refused() -> None:
    with pytest.raises(ValueError, match="counts"):
        FastestResponse([1, 1], [0], 1)


def test_retries_visit_every_eligible_member_once() -> None:
    for pool in (Pool([100, 300, 100, 200], [1, 0, 1, 1]), Pool([100] * 100)):
        pool.serve(1)
        tried: list[int] = []
        while (member := pool.balancer.pick(CLIENT, tried)) >= 0:
            tried.append(member)
        assert sorted(tried) == [each for each in range(len(pool.own)) if pool.balancer.weights[each]]
