"""Random of two: shares by weight, never the fuller one, and the fullest member near the mean."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lbd.balancing.random_choices import RandomChoices

unhurried = settings(deadline=None)
CLIENT = "198.51.100.7"


def idle(weights: list[int], seed: int = 1) -> tuple[RandomChoices, list[int]]:
    """A balancer over an idle pool, and the counts of its own worker."""
    own = [0] * len(weights)
    return RandomChoices(weights, own, [0] * len(weights), seed), own


@unhurried
@given(
    weights=st.lists(st.integers(0, 5), min_size=1, max_size=100),
    tried=st.lists(st.integers(0, 99), max_size=5),
    seed=st.integers(0, 1 << 64),
)
def test_a_pick_is_eligible_and_not_tried_and_missing_only_when_nobody_is_left(
    weights: list[int], tried: list[int], seed: int
) -> None:
    balancer, own = idle(weights, seed)
    left = {member for member, weight in enumerate(weights) if weight} - set(tried)
    for _ in range(10):
        member = balancer.pick(CLIENT, tried)
        if not left:
            assert member == -1
            continue
        assert member in left
        own[member] += 1


def test_counts_for_another_number_of_members_are_refused() -> None:
    with pytest.raises(ValueError, match="counts"):
        RandomChoices([1, 1], [0, 0], [0], 1)


@pytest.mark.parametrize("members", [2, 3, 10, 200])
def test_an_idle_pool_of_equals_is_served_evenly(members: int) -> None:
    balancer, _ = idle([100] * members)
    counted = Counter(balancer.pick(CLIENT, []) for _ in range(1000 * members))
    assert all(abs(counted[member] - 1000) < 200 for member in range(members)), counted


def test_the_fuller_of_two_never_wins_and_the_counts_of_other_workers_count() -> None:
    own, other = [0] * 10, [0] * 10
    balancer = RandomChoices([1] * 10, own, other, 3)
    own[4] = 1
    assert Counter(balancer.pick(CLIENT, []) for _ in range(5000))[4] == 0
    own[4] = 0
    other[7] = 1
    assert Counter(balancer.pick(CLIENT, []) for _ in range(5000))[7] == 0


@pytest.mark.parametrize("weights", [[1] * 50, [1 + member % 5 for member in range(50)]], ids=["equal", "weighted"])
def test_connections_that_stay_open_fill_the_members_near_their_weights(weights: list[int]) -> None:
    balancer, own = idle(weights, 9)
    for _ in range(100 * sum(weights)):
        own[balancer.pick(CLIENT, [])] += 1
    assert all(abs(count / weight - 100) < 20 for count, weight in zip(own, weights, strict=True)), own


def test_retries_visit_every_eligible_member_once() -> None:
    balancer, _ = idle([1, 2, 0, 3, 1])
    tried: list[int] = []
    while (member := balancer.pick(CLIENT, tried)) >= 0:
        tried.append(member)
    assert sorted(tried) == [0, 1, 3, 4]


def test_a_retry_goes_to_the_others_in_proportion_to_their_weights_while_they_are_equally_loaded() -> None:
    weights = [5, 1, 1, 2, 2, 2]
    own = [0, 1, 1, 3, 3, 3]  # (own + 1) / weight is 2 for each of the others: the first drawn wins
    balancer = RandomChoices(weights, own, [0] * 6, 4)
    counted = Counter(balancer.pick(CLIENT, [0]) for _ in range(16_000))
    assert counted[0] == 0
    assert all(abs(counted[member] - 2000 * weights[member]) < 300 for member in range(1, 6)), counted


def test_weights_that_change_are_followed() -> None:
    balancer, _ = idle([1, 1, 1])
    balancer.set_weights([0, 100, 100])
    assert {balancer.pick(CLIENT, []) for _ in range(100)} == {1, 2}
    balancer.set_weights([0, 100, 0])
    assert {balancer.pick(CLIENT, []) for _ in range(10)} == {1}


def test_the_same_seed_gives_the_same_picks_and_another_one_others() -> None:
    def sequence(seed: int) -> tuple[int, ...]:
        balancer, _ = idle([1] * 10, seed)
        return tuple(balancer.pick(CLIENT, []) for _ in range(50))

    assert sequence(5) == sequence(5)
    assert len({sequence(seed) for seed in range(20)}) == 20
