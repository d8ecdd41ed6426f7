"""While the API server is away all who ask it together ask at most once a second; when it is back, all go."""

from __future__ import annotations

import random

import pytest

from lbd.kubernetes.api.reachability import Reachability


def reachability() -> Reachability:
    return Reachability(random.Random(7))


def away(now_s: float = 100.0) -> Reachability:
    """A server that has just failed for the first time."""
    one = reachability()
    one.failed(one.begin(), now_s, "refused")
    return one


def test_nothing_is_known_before_the_first_answer():
    one = reachability()
    assert (one.reachable, one.away, one.error, one.away_for_s(5.0)) == (False, False, "", 0.0)
    assert one.wait_s(0.0) == 0.0


def test_while_it_answers_everybody_goes_at_once():
    one = reachability()
    for _request in range(10):
        assert one.wait_s(1.0) == 0.0
        assert not one.begin().probe
    one.succeeded()
    assert one.reachable


def test_after_a_failure_one_goes_after_a_second_and_the_others_wait_for_it():
    one = away(100.0)
    assert one.away
    assert 1.0 <= one.wait_s(100.0) <= 1.25
    assert one.wait_s(101.25) == 0.0
    assert one.begin().probe
    assert one.wait_s(101.25) is None
    assert one.wait_s(1000.0) is None


def test_the_backoff_doubles_up_to_ten_seconds_and_its_jitter():
    one, now_s, waits = away(), 100.0, []
    for _failure in range(12):
        wait_s = one.wait_s(now_s)
        assert wait_s is not None
        waits.append(wait_s)
        now_s += wait_s
        one.failed(one.begin(), now_s, "refused")
    for wait_s, least_s in zip(waits, [1, 2, 4, 8, *[10] * 8], strict=True):
        assert least_s <= wait_s <= least_s * 1.25
    assert len({wait_s for wait_s in waits if wait_s >= 10}) > 1


def test_an_outage_of_a_year_does_not_overflow():
    one, now_s = away(), 100.0
    for _failure in range(5000):
        now_s += 40.0
        one.failed(one.begin(), now_s, "refused")
    assert 10.0 <= one.wait_s(now_s) <= 12.5


def test_one_success_lets_everybody_go_and_forgets_the_backoff():
    one = away()
    for now_s in (110.0, 120.0, 130.0):
        one.failed(one.begin(), now_s, "refused")
    one.begin()
    one.succeeded()
    assert (one.wait_s(131.0), one.reachable, one.error) == (0.0, True, "")
    one.failed(one.begin(), 200.0, "refused")
    assert 1.0 <= one.wait_s(200.0) <= 1.25


def test_requests_that_were_under_way_together_are_one_failure():
    one = reachability()
    together = [one.begin() for _request in range(5)]
    for turn in together:
        one.failed(turn, 100.0, "refused")
    assert 1.0 <= one.wait_s(100.0) <= 1.25


def test_a_request_of_before_the_outage_that_fails_late_leaves_the_probe_alone():
    one = reachability()
    first, late = one.begin(), one.begin()
    one.failed(first, 100.0, "refused")
    probe = one.begin()
    one.failed(late, 102.0, "timed out")
    assert one.wait_s(102.0) is None
    one.failed(probe, 103.0, "refused")
    assert 2.0 <= one.wait_s(103.0) <= 2.5


def test_a_request_of_before_the_outage_that_fails_after_it_says_nothing_about_now():
    one = reachability()
    first, late = one.begin(), one.begin()
    one.failed(first, 100.0, "refused")
    one.begin()
    one.succeeded()
    one.failed(late, 130.0, "timed out")
    assert one.reachable
    assert one.wait_s(130.0) == 0.0


def test_a_watch_that_the_probe_opened_can_report_the_next_outage():
    one = away()
    one.begin()
    watch = one.succeeded()
    one.failed(watch, 200.0, "broken")
    assert one.away
    assert one.error == "broken"


@pytest.mark.parametrize(("asked_s", "least_s"), [(20.0, 20.0), (0.5, 1.0), (None, 1.0)])
def test_the_server_may_ask_for_more_time_but_not_for_less(asked_s, least_s):
    one = reachability()
    one.failed(one.begin(), 100.0, "429", asked_s)
    assert least_s <= one.wait_s(100.0) <= max(least_s, 1.25)


def test_what_another_answer_of_the_same_moment_asks_for_counts_too():
    one = reachability()
    first, second = one.begin(), one.begin()
    one.failed(first, 100.0, "429", 2.0)
    one.failed(second, 100.0, "429", 9.0)
    assert one.wait_s(100.0) == 9.0


def test_a_probe_that_is_given_up_makes_room_for_the_next_without_a_longer_wait():
    one = away()
    probe = one.begin()
    one.abandoned(probe)
    assert one.wait_s(101.3) == 0.0


def test_giving_up_a_request_of_before_the_outage_does_not_make_room_for_a_second_probe():
    one = reachability()
    old, failing = one.begin(), one.begin()
    one.failed(failing, 100.0, "refused")
    one.begin()
    one.abandoned(old)
    assert one.wait_s(200.0) is None


def test_the_time_away_counts_from_the_first_failure():
    one = away(100.0)
    one.failed(one.begin(), 110.0, "timed out")
    assert one.away_for_s(115.0) == 15.0
    assert one.error == "timed out"
    one.succeeded()
    assert one.away_for_s(116.0) == 0.0
