"""Slow start is linear, never 0 for a member with a weight, and full at its end."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lbd.balancing.slow_start import SCALE, effective_weight


def test_half_of_the_time_is_half_of_the_weight() -> None:
    assert effective_weight(4, 15.0, 30.0) == 4 * SCALE // 2


def test_without_slow_start_the_weight_is_full_at_once() -> None:
    assert effective_weight(3, 0.0, 0.0) == 3 * SCALE


def test_a_member_that_just_came_up_gets_a_little() -> None:
    assert effective_weight(1, 0.0, 30.0) == 1
    assert effective_weight(1000, -0.5, 3600.0) == 1


def test_a_member_without_weight_never_gets_one() -> None:
    assert effective_weight(0, 100.0, 30.0) == 0
    assert effective_weight(0, 0.0, 0.0) == 0


@given(
    weight=st.integers(1, 1000),
    slow_start_s=st.floats(0, 3600),
    up_for_s=st.floats(0, 7200),
    later_s=st.floats(0, 3600),
)
def test_it_only_grows_and_stays_between_one_and_the_full_weight(
    weight: int, slow_start_s: float, up_for_s: float, later_s: float
) -> None:
    now = effective_weight(weight, up_for_s, slow_start_s)
    assert 1 <= now <= weight * SCALE
    assert now <= effective_weight(weight, up_for_s + later_s, slow_start_s)
    if up_for_s >= slow_start_s:
        assert now == weight * SCALE
