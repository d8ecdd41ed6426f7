"""A reflector asks about once a second at most, lists again only when it must, and is soon back after an outage."""

from __future__ import annotations

import random

import pytest

from lbd.kubernetes.api.api_error import ApiError
from lbd.kubernetes.watching.watch_pace import NOT_INSTALLED, Next, Pace

UNREACHABLE = ApiError(0, "Unreachable", "refused")
EXPIRED = ApiError(410, "Expired", "too old resource version")
FORBIDDEN = ApiError(403, "Forbidden", "no")
MISSING = ApiError(404, NOT_INSTALLED, NOT_INSTALLED)


def pace() -> Pace:
    return Pace(random.Random(3))


def test_a_watch_that_ended_in_time_goes_on_at_once():
    assert pace().after_watch(300.0, seen=False) == 0.0


def test_a_watch_that_ends_at_once_with_nothing_in_it_slows_down():
    one = pace()
    delays = [one.after_watch(0.01, seen=False) for _end in range(8)]
    for delay_s, least_s in zip(delays, [1, 2, 4, 8, 16, 30, 30, 30], strict=True):
        assert least_s <= delay_s <= least_s * 1.5


def test_a_watch_that_ends_soon_but_brought_something_goes_on_after_a_second():
    one = pace()
    assert [one.after_watch(0.01, seen=True) for _end in range(5)] == [1.0] * 5


@pytest.mark.parametrize("error", [UNREACHABLE, ApiError(502, "HTTP 502", "<html>"), ApiError(429, "TooMany", "m")])
def test_however_long_the_server_is_away_the_watch_goes_on_where_it_was_and_soon(error):
    one = pace()
    for _failure in range(100):
        following, delay_s = one.after_error(Next.WATCH, error)
        assert following is Next.WATCH
        assert 1.0 <= delay_s <= 6.0


def test_the_first_version_that_is_too_old_costs_a_list_at_once_also_after_an_outage():
    one = pace()
    for _failure in range(10):
        one.after_error(Next.WATCH, UNREACHABLE)
    assert one.after_error(Next.WATCH, EXPIRED) == (Next.LIST, 0.0)


def test_versions_that_are_always_too_old_are_no_relist_storm():
    one, delays = pace(), []
    for _round in range(8):
        following, delay_s = one.after_error(Next.WATCH, EXPIRED)
        assert following is Next.LIST
        delays.append(delay_s)
        one.listed()
    assert delays[0] == 0.0
    assert min(delays[1:]) >= 1.0
    assert delays[-1] >= 30.0
    one.alive()
    assert one.after_error(Next.WATCH, EXPIRED) == (Next.LIST, 0.0)


@pytest.mark.parametrize("error", [FORBIDDEN, ApiError(400, "BadRequest", "m"), ApiError(200, "Garbage", "m")])
def test_what_is_refused_is_listed_again_less_and_less_often(error):
    one = pace()
    delays = [one.after_error(Next.WATCH, error) for _failure in range(8)]
    assert {following for following, _delay in delays} == {Next.LIST}
    assert 1.0 <= delays[0][1] <= 1.5
    assert 30.0 <= delays[-1][1] <= 45.0


def test_a_server_that_never_gets_to_the_version_is_asked_for_a_list_in_the_end():
    one, too_new = pace(), ApiError(504, "Timeout", "Too large resource version")
    assert [one.after_error(Next.WATCH, too_new)[0] for _failure in range(3)] == [Next.WATCH, Next.WATCH, Next.LIST]


def test_a_collection_that_is_not_installed_is_asked_for_every_half_minute():
    one = pace()
    for _answer in range(5):
        following, delay_s = one.after_error(Next.LIST, MISSING)
        assert following is Next.LIST
        assert 27.0 <= delay_s <= 33.0
    assert one.missing


def test_only_what_is_missing_three_times_in_a_row_is_gone_for_good():
    one = pace()
    for error in (MISSING, MISSING, UNREACHABLE, MISSING, MISSING):
        one.after_error(Next.LIST, error)
        assert not one.missing_for_good
    one.after_error(Next.LIST, MISSING)
    assert one.missing_for_good
    one.listed()
    assert not one.missing


def test_the_server_may_ask_for_more_time():
    assert pace().after_error(Next.LIST, ApiError(429, "TooManyRequests", "m", 17.0))[1] >= 17.0


def test_an_event_makes_the_next_delay_short_again():
    one = pace()
    for _failure in range(8):
        one.after_error(Next.LIST, FORBIDDEN)
    one.alive()
    assert one.after_error(Next.LIST, FORBIDDEN)[1] <= 1.5
