"""When to announce, with a clock that the test moves."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from lbd.announce.timeline import Timeline, hear_conflict

A, B = b"\x02" + bytes(5), b"\x04" + bytes(5)


def sent_at(until_s: float, step_s: float = 0.25, start_s: float = 1000.0) -> list[float]:
    """The times, from the start, at which a loop that looks every `step_s` announces."""
    timeline, now_s, times = Timeline.begin(start_s), start_s, []
    while now_s <= start_s + until_s:
        if timeline.is_due(now_s):
            times.append(now_s - start_s)
            timeline = timeline.after_sending(now_s)
        now_s += step_s
    return times


def test_announced_at_once_each_second_for_five_seconds_then_every_minute() -> None:
    assert sent_at(until_s=200) == [0, 1, 2, 3, 4, 5, 65, 125, 185]


def test_a_late_loop_does_not_make_the_rhythm_drift() -> None:
    times = sent_at(until_s=130, step_s=0.7)
    assert len(times) == 8
    for time, wanted in zip(times, [0, 1, 2, 3, 4, 5, 65, 125], strict=True):
        assert wanted <= time + 1e-6 < wanted + 0.71


def test_a_loop_that_slept_for_long_sends_one_and_not_what_it_missed() -> None:
    timeline = Timeline.begin(0.0).after_sending(0.0).after_sending(30.0)
    assert not timeline.is_due(30.4)
    assert timeline.is_due(31.0)


def test_a_failed_attempt_is_repeated_in_a_second_and_counts_for_nothing() -> None:
    timeline = Timeline.begin(0.0).after_failure(0.0)
    assert not timeline.is_due(0.9)
    assert timeline.is_due(1.0)
    assert timeline.sent == 0


@given(st.lists(st.floats(0, 100), max_size=30))
def test_announcements_are_never_closer_than_half_a_second(delays: list[float]) -> None:
    timeline, last_s = Timeline.begin(0.0).after_sending(0.0), 0.0
    for delay in delays:
        now_s = timeline.due_s + delay
        assert now_s - last_s >= 0.5 - 1e-9
        timeline, last_s = timeline.after_sending(now_s), now_s


def test_a_conflict_is_answered_once_in_ten_seconds_and_counted_each_time() -> None:
    conflict, answers = None, []
    for tenth in range(250):
        conflict, defend = hear_conflict(conflict, A, tenth / 10)
        if defend:
            answers.append(tenth / 10)
    assert answers == [0.0, 10.0, 20.0]
    assert conflict is not None
    assert conflict.heard_total == 250


def test_two_rivals_do_not_double_the_answers_and_the_last_one_is_named() -> None:
    conflict, first = hear_conflict(None, A, 0.0)
    conflict, second = hear_conflict(conflict, B, 1.0)
    assert (first, second, conflict.owner_mac) == (True, False, B)


def test_a_conflict_is_forgotten_a_minute_after_it_was_last_heard() -> None:
    conflict, _ = hear_conflict(None, A, 100.0)
    assert conflict.is_present(159.0)
    assert not conflict.is_present(160.0)
