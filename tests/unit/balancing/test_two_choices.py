"""Draws by weight: shares, distinct pairs, and numbers that fit."""

from __future__ import annotations

from collections import Counter

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lbd.balancing.balancer import MAX_WEIGHT
from lbd.balancing.two_choices import WeightedDraws, less_loaded, position_above, running_sums

unhurried = settings(deadline=None)


@unhurried
@given(
    weights=st.lists(st.integers(0, MAX_WEIGHT), min_size=2, max_size=80),
    seed=st.integers(0, 1 << 64),
)
def test_a_pair_is_of_two_distinct_members_that_have_a_weight(weights: list[int], seed: int) -> None:
    members = [member for member, weight in enumerate(weights) if weight]
    if len(members) < 2:
        return
    draws = WeightedDraws(seed)
    draws.arrange(members, weights)
    for one, two in [draws.pair() for _ in range(20)] + [draws.pair_of(members, weights) for _ in range(20)]:
        assert one != two
        assert {one, two} <= set(members)


@pytest.mark.parametrize("scale", [1, MAX_WEIGHT // 10])
def test_the_first_of_a_pair_is_drawn_in_proportion_to_the_weights(scale: int) -> None:
    weights = [0, 1 * scale, 2 * scale, 3 * scale, 4 * scale]
    draws = WeightedDraws(11)
    draws.arrange([1, 2, 3, 4], weights)
    counted = Counter(draws.pair()[0] for _ in range(20_000))
    assert all(abs(counted[member] - 2000 * member) < 250 for member in (1, 2, 3, 4)), counted


def test_the_second_is_drawn_in_proportion_among_the_others() -> None:
    draws = WeightedDraws(5)
    draws.arrange([0, 1, 2], [6, 2, 1])
    second = Counter(two for one, two in (draws.pair() for _ in range(30_000)) if one == 0)
    assert abs(second[1] / second[2] - 2) < 0.2


@unhurried
@given(sums=st.lists(st.integers(1, 100), min_size=1, max_size=50, unique=True).map(sorted), data=st.data())
def test_the_position_is_of_the_first_sum_above(sums: list[int], data: st.DataObject) -> None:
    drawn = data.draw(st.integers(0, sums[-1] - 1))
    assert position_above(sums, drawn) == next(place for place, reached in enumerate(sums) if reached > drawn)


def test_sums_of_the_largest_pool_fit_the_generator_and_leave_nobody_out() -> None:
    weights = [MAX_WEIGHT] * 65_534 + [1]
    sums = running_sums(list(range(65_535)), weights)
    assert sums[-1] <= 1 << 31
    assert sums[-1] > sums[-2]
    assert running_sums([3, 1], [0, 7, 0, 7]) == []  # equal: no sums are needed


def test_the_less_loaded_is_so_for_its_weight_and_the_first_wins_a_tie() -> None:
    assert less_loaded(0, 1, [1, 2], [1, 2], [0, 0]) == 1
    assert less_loaded(1, 0, [1, 2], [0, 1], [0, 0]) == 1
    assert less_loaded(0, 1, [1, 2], [0, 1], [0, 0]) == 0
    assert less_loaded(0, 1, [1, 1], [0, 0], [5, 4]) == 1
    assert less_loaded(0, 1, [MAX_WEIGHT, MAX_WEIGHT], [1 << 20, 0], [1 << 20, 0]) == 1
