"""Claims about the cap on log events."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbd.observability.rate_cap import Admission, RateCap


def test_a_flood_is_logged_at_the_rate_with_the_suppressed_counted() -> None:
    cap = RateCap(per_s=2)
    assert [cap.admit(100.0).log for _ in range(10)] == [True, True] + [False] * 8
    assert cap.admit(100.4) == Admission(False, 9)
    assert cap.admit(100.5) == Admission(True, 9)
    assert cap.admit(100.6) == Admission(False, 1)


def test_a_quiet_time_saves_up_no_more_than_one_second() -> None:
    cap = RateCap(per_s=3)
    cap.admit(0.0)
    assert sum(cap.admit(10_000.0).log for _ in range(10)) == 3


def test_below_one_a_second_the_first_event_still_comes_through() -> None:
    cap = RateCap(per_s=0.1)
    assert cap.admit(5.0) == Admission(True, 0)
    assert not cap.admit(14.9).log
    assert cap.admit(15.0) == Admission(True, 1)


def test_a_clock_that_stands_or_goes_back_gives_nothing_away() -> None:
    cap = RateCap(per_s=1)
    assert [cap.admit(now_s).log for now_s in (10.0, 9.0, 10.0, 5.0, 10.9)] == [True, False, False, False, False]


@pytest.mark.parametrize("per_s", [0.0, -1.0, float("nan")])
def test_a_rate_that_is_none_is_refused(per_s: float) -> None:
    with pytest.raises(ValueError, match="per_s must be above 0"):
        RateCap(per_s)


@given(per_s=st.floats(0.1, 50), gaps=st.lists(st.floats(0, 3), min_size=1, max_size=200), start_s=st.floats(-1e6, 1e6))
def test_never_more_than_the_rate_and_every_event_is_logged_or_counted(
    per_s: float, gaps: list[float], start_s: float
) -> None:
    cap, now_s, logged, counted = RateCap(per_s), start_s, 0, 0
    for gap in gaps:
        now_s += gap
        admission = cap.admit(now_s)
        logged += admission.log
        counted += admission.suppressed if admission.log else 0
    assert logged <= max(1.0, per_s) + per_s * (now_s - start_s) + 1e-3
    pending = 0 if admission.log else admission.suppressed
    assert logged + counted + pending == len(gaps)
