"""Claims about when checks are due, with a clock that the test turns."""

from __future__ import annotations

import collections
import random

import pytest

from lbd.health.schedule import FIRST_SPREAD_S, RETRY_S, Schedule


def simulate(
    schedule: Schedule[str], until_s: float, *, start_s: float = 0.0, took_s: float = 0.0
) -> dict[str, list[float]]:
    """Run every check when it is due, each taking `took_s`; return when each one started."""
    started: dict[str, list[float]] = collections.defaultdict(list)
    now_s = start_s
    while (due_s := schedule.next_due_s()) is not None and due_s < until_s:
        now_s = max(now_s, due_s)
        for key, _ in schedule.take_due(now_s):
            started[key].append(now_s)
            schedule.finished(key, now_s + took_s)
    return started


def checks(count: int, interval_s: float = 5.0, jitter: float = 0.1) -> list[tuple[str, float, float]]:
    return [(f"member {index}", interval_s, jitter) for index in range(count)]


def test_first_check_of_one_member_is_due_at_once() -> None:
    schedule: Schedule[str] = Schedule(random.Random(1))
    schedule.add(checks(1), 100.0)
    assert schedule.take_due(100.0) == [("member 0", 100.0)]


def test_first_checks_of_a_handful_come_within_milliseconds() -> None:
    schedule: Schedule[str] = Schedule(random.Random(1))
    schedule.add(checks(10), 100.0)
    assert len(schedule.take_due(100.002)) == 10


@pytest.mark.parametrize(("count", "interval_s"), [(5000, 5.0), (20000, 5.0), (5000, 0.2)])
def test_first_checks_of_many_members_are_spread_evenly_over_a_second_or_the_interval(
    count: int, interval_s: float
) -> None:
    schedule: Schedule[str] = Schedule(random.Random(1))
    schedule.add(checks(count, interval_s), 0.0)
    spread_s = min(FIRST_SPREAD_S, interval_s)
    tenths = [len(schedule.take_due(spread_s * tenth / 10)) for tenth in range(1, 11)]
    assert sum(tenths) == count
    assert max(tenths) <= count / 10 + 1


def test_no_herd_forms_after_the_first_checks() -> None:
    schedule: Schedule[str] = Schedule(random.Random(1))
    schedule.add(checks(5000), 0.0)
    started = simulate(schedule, 60.0)
    per_second = collections.Counter(int(at_s) for times in started.values() for at_s in times if at_s >= 7.5)
    assert len(per_second) == 53
    whole = [count for second, count in per_second.items() if second > 7]
    assert min(whole) > 850
    assert max(whole) < 1150


def test_members_added_one_by_one_in_the_same_moment_are_spread_too() -> None:
    schedule: Schedule[str] = Schedule(random.Random(1))
    for check in checks(100):
        schedule.add([check], 0.0)
    started = simulate(schedule, 30.0)
    per_second = collections.Counter(int(at_s) for times in started.values() for at_s in times if at_s >= 8)
    assert max(per_second.values()) <= 30


@pytest.mark.parametrize("took_s", [0.0, 1.9])
@pytest.mark.parametrize("jitter", [0.0, 0.1, 0.5])
def test_checks_neither_drift_nor_leave_their_slots(jitter: float, took_s: float) -> None:
    schedule: Schedule[str] = Schedule(random.Random(7))
    schedule.add(checks(20, 5.0, jitter), 0.0)
    for times in simulate(schedule, 5000.0, took_s=took_s).values():
        assert abs(len(times) - 1000) <= 2
        phase_s = times[1] % 5.0
        for at_s in times[1:]:
            off_s = (at_s - phase_s + 2.5) % 5.0 - 2.5
            assert abs(off_s) <= 2 * 5.0 * jitter + took_s * (jitter > 0.3) + 1e-6


def test_jitter_uses_its_whole_range_and_no_more() -> None:
    schedule: Schedule[str] = Schedule(random.Random(7))
    schedule.add([("member", 10.0, 0.2)], 0.0)
    times = simulate(schedule, 20000.0)["member"][1:]
    offsets = [(at_s + 0.0) % 10.0 for at_s in times]
    middle = sorted(offsets)[len(offsets) // 2]
    around = [(offset - middle + 5.0) % 10.0 - 5.0 for offset in offsets]
    assert 3.6 < max(around) - min(around) <= 4.0


def test_second_check_is_never_right_behind_the_first() -> None:
    schedule: Schedule[str] = Schedule(random.Random(3))
    schedule.add(checks(1000, 5.0, 0.0), 0.0)
    gaps = [times[1] - times[0] for times in simulate(schedule, 20.0).values()]
    assert min(gaps) >= 2.5
    assert max(gaps) <= 7.5


def test_slots_that_a_long_stall_missed_are_not_made_up_for() -> None:
    schedule: Schedule[str] = Schedule(random.Random(1))
    schedule.add(checks(1000), 0.0)
    simulate(schedule, 20.0)
    after = simulate(schedule, 56.0, start_s=50.0)
    assert max(len(times) for times in after.values()) <= 3
    assert sum(len(times) for times in after.values()) <= 1000 + 1500


def test_check_that_outlasts_its_interval_starts_again_only_when_it_has_ended() -> None:
    schedule: Schedule[str] = Schedule(random.Random(1))
    schedule.add([("slow", 1.0, 0.1)], 0.0)
    assert len(schedule.take_due(0.0)) == 1
    assert schedule.next_due_s() is None
    schedule.finished("slow", 7.3)
    due_s = schedule.next_due_s()
    assert due_s is not None
    assert 7.3 <= due_s <= 8.4


def test_void_checks_are_repeated_soon_and_back_off_up_to_the_interval() -> None:
    schedule: Schedule[str] = Schedule(random.Random(1))
    schedule.add([("void", 5.0, 0.1)], 0.0)
    now_s, waits = 0.0, []
    for _ in range(12):
        schedule.take_due(now_s)
        schedule.repeat("void", now_s)
        due_s = schedule.next_due_s()
        assert due_s is not None
        waits.append(due_s - now_s)
        now_s = due_s
    assert waits[0] <= RETRY_S
    assert 3.75 <= waits[-1] <= 5.0
    schedule.take_due(now_s)
    schedule.finished("void", now_s)
    due_s = schedule.next_due_s()
    assert due_s is not None
    schedule.take_due(due_s)
    schedule.repeat("void", due_s)
    assert (schedule.next_due_s() or 0.0) - due_s <= RETRY_S


def test_removed_check_is_never_due_even_when_added_again() -> None:
    schedule: Schedule[str] = Schedule(random.Random(1))
    schedule.add(checks(3), 0.0)
    schedule.remove("member 1")
    assert [key for key, _ in schedule.take_due(1.0)] == ["member 0", "member 2"]
    schedule.add([("member 1", 5.0, 0.1)], 2.0)
    assert [key for key, _ in schedule.take_due(2.0)] == ["member 1"]


def test_churn_does_not_grow_the_schedule() -> None:
    schedule: Schedule[str] = Schedule(random.Random(1))
    for round_number in range(1000):
        schedule.add(checks(10, 3600.0), float(round_number))
        for key, _, _ in checks(10):
            schedule.remove(key)
    assert len(schedule) == 0
    assert len(schedule._heap) <= 100


def test_illegal_calls_raise_and_change_nothing() -> None:
    schedule: Schedule[str] = Schedule(random.Random(1))
    schedule.add([("there", 5.0, 0.1)], 0.0)
    for batch in ([("new", 5.0, 0.1), ("there", 5.0, 0.1)], [("new", 0.0, 0.1)], [("new", float("nan"), 0.1)]):
        with pytest.raises(ValueError):
            schedule.add(batch, 0.0)
    with pytest.raises(ValueError, match="not taken"):
        schedule.finished("there", 0.0)
    with pytest.raises(KeyError):
        schedule.repeat("nobody", 0.0)
    with pytest.raises(KeyError):
        schedule.remove("nobody")
    assert schedule.take_due(10.0) == [("there", 0.0)]
