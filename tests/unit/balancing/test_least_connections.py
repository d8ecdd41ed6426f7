"""Least connections: always a minimiser among few, never far from one among many, fair between equals."""

from __future__ import annotations

import random
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lbd.balancing.least_connections import SCAN_LIMIT, LeastConnections

unhurried = settings(deadline=None)
CLIENT = "198.51.100.7"
MEMBER = st.tuples(st.integers(0, 9), st.integers(0, 30), st.integers(0, 30))


def idle(weights: list[int], seed: int = 1) -> tuple[LeastConnections, list[int]]:
    """A balancer over an idle pool, and the counts of its own worker."""
    own = [0] * len(weights)
    return LeastConnections(weights, own, [0] * len(weights), seed), own


@unhurried
@given(
    members=st.lists(MEMBER, min_size=1, max_size=SCAN_LIMIT),
    tried=st.sets(st.integers(0, SCAN_LIMIT - 1), max_size=3),
    seed=st.integers(0, 1 << 64),
)
def test_up_to_64_members_the_pick_has_the_least_connections_for_its_weight(
    members: list[tuple[int, int, int]], tried: set[int], seed: int
) -> None:
    weights, own, other = (list(column) for column in zip(*members, strict=True))
    balancer = LeastConnections(weights, own, other, seed)
    left = [each for each, weight in enumerate(weights) if weight and each not in tried]
    for _ in range(5):
        member = balancer.pick(CLIENT, sorted(tried))
        if not left:
            assert member == -1
            continue
        cost = {each: Fraction(own[each] + other[each] + 1, weights[each]) for each in left}
        assert cost[member] == min(cost.values())
        own[member] += 1


def test_the_counts_are_read_where_the_caller_changes_them() -> None:
    own, other = [0, 5, 5], [0, 0, 0]
    balancer = LeastConnections([1, 1, 1], own, other, 1)
    assert balancer.pick(CLIENT, []) == 0
    other[0] = 9
    own[2] = 1
    assert balancer.pick(CLIENT, []) == 2


def test_counts_for_another_number_of_members_are_refused() -> None:
    with pytest.raises(ValueError, match="counts"):
        LeastConnections([1, 1], [0, 0], [0], 1)


@pytest.mark.parametrize("members", [2, 3, 10, SCAN_LIMIT])
def test_an_idle_pool_is_served_in_turn(members: int) -> None:
    balancer, _ = idle([100] * members)
    first = [balancer.pick(CLIENT, []) for _ in range(members)]
    assert sorted(first) == list(range(members))
    assert [balancer.pick(CLIENT, []) for _ in range(members)] == first


def test_workers_begin_an_idle_pool_at_different_members() -> None:
    first = Counter(idle([1] * 10, seed)[0].pick(CLIENT, []) for seed in range(1, 201))
    assert len(first) == 10
    assert max(first.values()) < 45


def test_ties_are_won_in_proportion_to_the_weights() -> None:
    weights = [1, 2, 3, 6]
    own = [0, 1, 2, 5]  # (own + 1) / weight is 1 for each
    balancer = LeastConnections(weights, own, [0] * 4, 7)
    counted = Counter(balancer.pick(CLIENT, []) for _ in range(1200))
    assert all(abs(counted[member] - 100 * weight) <= 2 for member, weight in enumerate(weights)), counted


def test_a_member_long_out_of_every_tie_does_not_win_them_all_when_it_is_back() -> None:
    balancer, own = idle([1, 1, 1])
    own[2] = 50
    for _ in range(1000):
        balancer.pick(CLIENT, [])
    own[2] = 0
    assert Counter(balancer.pick(CLIENT, []) for _ in range(30)) == Counter({0: 10, 1: 10, 2: 10})


def test_slow_start_ticks_do_not_disturb_the_turns_of_the_others() -> None:
    balancer, _ = idle([1, 1, 1, 1])
    counted: Counter[int] = Counter()
    for tick in range(300):
        balancer.set_weights([100, 100, 100, 1 + tick // 4])
        counted.update(balancer.pick(CLIENT, []) for _ in range(3))
    assert counted[3] == 0  # idle members of full weight cost less
    assert max(counted.values()) - min(counted[member] for member in range(3)) <= 2


@unhurried
@given(
    weights=st.lists(st.integers(1, 5), min_size=2, max_size=10),
    steps=st.lists(st.integers(0, 1 << 30), max_size=300),
)
def test_random_opens_and_closes_end_where_they_began(weights: list[int], steps: list[int]) -> None:
    balancer, own = idle(weights)
    opened: list[int] = []
    for step in steps:
        if step % 3 == 0 and opened:
            own[opened.pop(step // 3 % len(opened))] -= 1
            continue
        opened.append(balancer.pick(CLIENT, []))
        own[opened[-1]] += 1
        assert Counter(opened) == +Counter(dict(enumerate(own)))
    for member in opened:
        own[member] -= 1
    assert own == [0] * len(weights)
    turns = [balancer.pick(CLIENT, []) for _ in range(20 * len(weights))]
    heaviest = [member for member, weight in enumerate(weights) if weight == max(weights)]
    counted = Counter(turns)
    assert set(counted) == set(heaviest)  # nothing of the past is left: the idle pool's minimisers share evenly
    assert max(counted.values()) - min(counted.values()) <= 2


@pytest.mark.parametrize("weights", [[1] * 5, [1, 2, 3, 4, 5], [100, 1]])
def test_connections_that_stay_open_fill_the_members_in_proportion_to_the_weights(weights: list[int]) -> None:
    balancer, own = idle(weights)
    for _ in range(10 * sum(weights)):
        own[balancer.pick(CLIENT, [])] += 1
    assert own == [10 * weight for weight in weights]


def test_a_slow_member_gets_fewer_connections() -> None:
    balancer, own = idle([1, 1, 1])
    holds = [40, 10, 10]  # member 0 keeps a connection four times as long
    closing: dict[int, list[int]] = {}
    counted: Counter[int] = Counter()
    for now in range(20_000):
        for member in closing.pop(now, []):
            own[member] -= 1
        member = balancer.pick(CLIENT, [])
        own[member] += 1
        counted[member] += 1
        closing.setdefault(now + holds[member], []).append(member)
    assert counted[0] < 0.4 * counted[1]
    assert abs(counted[1] - counted[2]) < 0.05 * counted[1]


@pytest.mark.parametrize("weights", [[1] * 65, [1 + member % 3 for member in range(65)]], ids=["equal", "weighted"])
def test_above_64_members_two_distinct_ones_are_compared(weights: list[int]) -> None:
    balancer, own = idle(weights)
    own[13] = 1_000_000  # whoever it is compared with is better, unless it is itself
    counted = Counter(balancer.pick(CLIENT, []) for _ in range(30_000))
    assert counted[13] == 0
    assert len(counted) == 64


def test_above_64_members_idle_ones_are_drawn_in_proportion_to_equal_weights() -> None:
    balancer, _ = idle([1] * 80)
    counted = Counter(balancer.pick(CLIENT, []) for _ in range(80_000))
    assert min(counted[member] for member in range(80)) > 800
    assert max(counted.values()) < 1200


@pytest.mark.parametrize("seed", [0, 1, 2, 3])
def test_two_choices_keep_the_fullest_of_100_members_near_the_mean(seed: int) -> None:
    balancer, own = idle([1] * 100, seed)
    chance = random.Random(seed)
    one_choice = [0] * 100
    for _ in range(10_000):
        own[balancer.pick(CLIENT, [])] += 1
        one_choice[chance.randrange(100)] += 1
    assert max(own) <= 100 + 5  # ln ln 100 / ln 2 + O(1); one choice is far off:
    assert max(one_choice) > 100 + 12
    assert min(own) >= 100 - 12


def test_two_choices_fill_100_members_in_proportion_to_their_weights() -> None:
    weights = [1 + member % 5 for member in range(100)]
    balancer, own = idle(weights, 9)
    for _ in range(100 * sum(weights)):
        own[balancer.pick(CLIENT, [])] += 1
    assert all(abs(count / weight - 100) < 15 for count, weight in zip(own, weights, strict=True)), own


def test_two_choices_hold_with_the_largest_weights() -> None:
    balancer, own = idle([1 << 30, 1 << 29] * 50, 3)
    for _ in range(15_000):
        own[balancer.pick(CLIENT, [])] += 1
    assert abs(sum(own[::2]) - 10_000) < 200


def test_many_members_of_which_some_are_down_or_tried_are_left_out() -> None:
    weights = [member % 2 for member in range(200)]
    balancer, _ = idle(weights)
    assert {balancer.pick(CLIENT, []) for _ in range(5_000)} == set(range(1, 200, 2))
    assert balancer.pick(CLIENT, list(range(1, 198, 2))) == 199
    assert balancer.pick(CLIENT, list(range(1, 200, 2))) == -1


def test_the_same_seed_gives_the_same_picks_and_another_one_others() -> None:
    def sequence(seed: int) -> list[int]:
        balancer, _ = idle([1] * 100, seed)
        return [balancer.pick(CLIENT, []) for _ in range(50)]

    assert sequence(5) == sequence(5)
    assert len({tuple(sequence(seed)) for seed in range(20)}) == 20
