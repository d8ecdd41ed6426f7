"""Who is ejected, for how long, and what keeps a pool from being emptied."""

from __future__ import annotations

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbd.model.address import Endpoint
from lbd.model.desired import OutlierDetection
from lbd.supervisor.outliers import Ejection, Outliers, Refusal

ENDPOINTS = [Endpoint(f"10.0.0.{number}", 80) for number in range(20)]
ONE, TWO, THREE = ENDPOINTS[:3]
SETTINGS = OutlierDetection(consecutive_failures=5, base_ejection_s=30.0, max_ejection_s=100.0, max_ejected_percent=10)


def outliers(members: int = 20, settings: OutlierDetection | None = SETTINGS) -> Outliers:
    watched = Outliers()
    watched.configure(settings, ENDPOINTS[:members])
    return watched


def test_a_member_is_ejected_at_the_configured_number_of_failures_and_for_the_base_time() -> None:
    watched = outliers()
    assert watched.failures_reported(ONE, 4, 100.0) is None
    assert watched.ejected(100.0) == {}
    assert watched.next_change_s() is None
    assert watched.failures_reported(ONE, 5, 101.0) == Ejection(30.0, 1)
    assert watched.ejected(130.9) == {ONE: 131.0}
    assert watched.next_change_s() == 131.0
    assert watched.ejected(131.0) == {}


def test_the_end_is_told_once() -> None:
    watched = outliers()
    watched.failures_reported(ONE, 5, 100.0)
    assert watched.take_ended(129.9) == ()
    assert watched.take_ended(130.0) == (ONE,)
    assert watched.take_ended(130.1) == ()
    assert watched.next_change_s() is None


def test_failures_that_were_under_way_at_the_ejection_change_nothing() -> None:
    watched = outliers()
    watched.failures_reported(ONE, 5, 100.0)
    assert watched.failures_reported(ONE, 10, 100.1) is None
    assert watched.ejected(101.0) == {ONE: 130.0}


@pytest.mark.parametrize("consecutive", [6, 7, 9])
def test_a_member_that_is_back_needs_as_many_failures_again(consecutive: int) -> None:
    watched = outliers()
    watched.failures_reported(ONE, 5, 100.0)
    assert watched.failures_reported(ONE, consecutive, 131.0) is None
    assert watched.failures_reported(ONE, 10, 132.0) == Ejection(60.0, 2)


def test_each_ejection_is_longer_up_to_the_longest() -> None:
    watched = outliers()
    now_s, lasted = 100.0, []
    for turn in range(6):
        outcome = watched.failures_reported(ONE, 5 * (turn + 1), now_s)
        assert isinstance(outcome, Ejection)
        lasted.append(outcome.for_s)
        now_s += outcome.for_s
        watched.take_ended(now_s)
    assert lasted == [30.0, 60.0, 90.0, 100.0, 100.0, 100.0]
    assert watched.failures_reported(ONE, 5, now_s + 3 * 30.0) == Ejection(
        60.0, 2
    )  # what was over the top is forgotten


@pytest.mark.parametrize(("passed_s", "lasts_s"), [(0.0, 90.0), (29.0, 90.0), (30.0, 60.0), (60.0, 30.0), (1e6, 30.0)])
def test_each_base_time_without_an_ejection_takes_one_off(passed_s: float, lasts_s: float) -> None:
    watched = outliers()
    watched.failures_reported(ONE, 5, 100.0)
    watched.failures_reported(ONE, 5, 130.0)
    watched.take_ended(190.0 + passed_s)
    outcome = watched.failures_reported(ONE, 5, 190.0 + passed_s)
    assert isinstance(outcome, Ejection)
    assert outcome.for_s == lasts_s


def test_no_more_than_the_allowed_share_is_out_and_a_refusal_is_told_once() -> None:
    watched = outliers(20)  # 10 % of them are two
    assert isinstance(watched.failures_reported(ONE, 5, 100.0), Ejection)
    assert isinstance(watched.failures_reported(TWO, 5, 110.0), Ejection)
    refusal = watched.failures_reported(THREE, 5, 120.0)
    assert refusal == Refusal("2 of 20 members are ejected, and max_ejected 10% allows 2")
    assert watched.failures_reported(THREE, 10, 120.0) is None
    assert set(watched.ejected(120.0)) == {ONE, TWO}
    assert watched.take_ended(130.0) == (ONE,)
    assert isinstance(watched.failures_reported(THREE, 15, 131.0), Ejection)
    assert isinstance(watched.failures_reported(ONE, 5, 132.0), Refusal)


@pytest.mark.parametrize("percent", [0.0, 1.0, 49.0])
def test_one_member_may_always_be_out(percent: float) -> None:
    watched = outliers(2, replace(SETTINGS, max_ejected_percent=percent))
    assert isinstance(watched.failures_reported(ONE, 5, 100.0), Ejection)
    assert isinstance(watched.failures_reported(TWO, 5, 100.0), Refusal)


def test_whom_the_pool_does_not_have_enabled_is_not_ejected_and_without_settings_nobody_is() -> None:
    assert outliers(2).failures_reported(THREE, 5, 100.0) is None
    assert outliers(2, None).failures_reported(ONE, 5, 100.0) is None
    assert outliers(2).failures_reported(ONE, 0, 100.0) is None


def test_a_reload_keeps_the_ejections_of_members_that_stay_and_only_those() -> None:
    watched = outliers(2, replace(SETTINGS, max_ejected_percent=100.0))
    watched.failures_reported(ONE, 5, 100.0)
    watched.failures_reported(TWO, 5, 100.0)
    watched.configure(SETTINGS, [TWO, THREE])
    assert watched.ejected(101.0) == {TWO: 130.0}
    watched.configure(None, [TWO, THREE])
    assert watched.ejected(101.0) == {}
    watched.configure(SETTINGS, [TWO])
    assert watched.failures_reported(TWO, 5, 102.0) == Ejection(30.0, 1)


@given(
    steps=st.lists(st.tuples(st.integers(0, 4), st.integers(0, 20), st.floats(0, 50)), max_size=80),
    percent=st.floats(0, 100),
)
def test_whatever_is_reported_the_cap_holds_and_every_ejection_ends(
    steps: list[tuple[int, int, float]], percent: float
) -> None:
    watched = outliers(5, replace(SETTINGS, max_ejected_percent=percent))
    now_s, out, ended = 0.0, 0, 0
    for member, consecutive, passed_s in steps:
        now_s += passed_s
        ended += len(watched.take_ended(now_s))
        out += isinstance(watched.failures_reported(ENDPOINTS[member], consecutive, now_s), Ejection)
        assert len(watched.ejected(now_s)) <= max(1, int(5 * percent / 100))
        assert all(now_s < until_s <= now_s + SETTINGS.max_ejection_s for until_s in watched.ejected(now_s).values())
    assert ended + len(watched.take_ended(now_s + SETTINGS.max_ejection_s)) == out
