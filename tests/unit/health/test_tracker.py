"""Claims about the health tracker, and its state machine against a model that evaluates the whole history anew."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from lbd.health.result import Outcome, ProbeResult, Reason
from lbd.health.tracker import MemberTracker
from lbd.model.desired import HealthMonitor, MonitorType
from lbd.model.status import ConnectError, Health

PASS = ProbeResult.success().after(0.01)
FAIL = ProbeResult.failure(Reason.CONNECT_REFUSED)
VOID = ProbeResult.void(Reason.LOCAL_ERROR, "EMFILE")
TCP = HealthMonitor("tcp", MonitorType.TCP, rise=2, fall=3)
WEB = HealthMonitor("web", MonitorType.HTTP, rise=2, fall=2)


def tracker_after(*results: ProbeResult, monitor: HealthMonitor = TCP) -> MemberTracker:
    tracker = MemberTracker((monitor,), 0.0)
    for index, result in enumerate(results):
        tracker.observe(monitor.name, result, float(index))
    return tracker


@pytest.mark.parametrize(
    ("results", "expected"),
    [
        ([], Health.UNKNOWN),
        ([PASS], Health.UP),
        ([FAIL], Health.DOWN),
        ([VOID], Health.UNKNOWN),
        ([PASS, FAIL, FAIL], Health.UP),
        ([PASS, FAIL, FAIL, FAIL], Health.DOWN),
        ([PASS, FAIL, FAIL, PASS, FAIL, FAIL], Health.UP),
        ([PASS, FAIL, VOID, FAIL, VOID, FAIL], Health.DOWN),
        ([FAIL, PASS], Health.DOWN),
        ([FAIL, PASS, PASS], Health.UP),
        ([FAIL, PASS, FAIL, PASS], Health.DOWN),
        ([VOID, PASS], Health.UP),
    ],
)
def test_first_result_decides_then_rise_and_fall(results: list[ProbeResult], expected: Health) -> None:
    assert tracker_after(*results).health.health is expected


def test_member_is_up_only_when_all_monitors_pass() -> None:
    tracker = MemberTracker((TCP, WEB), 0.0)
    assert tracker.observe("tcp", PASS, 1.0).health.health is Health.UNKNOWN
    assert "web: not checked yet" in tracker.health.reason
    assert tracker.observe("web", PASS, 2.0).health.health is Health.UP
    assert tracker.health.reason == ""
    tracker.observe("web", FAIL, 3.0)
    down = tracker.observe("web", FAIL, 4.0)
    assert (down.health.health, down.health.reason, down.changed) == (Health.DOWN, "web: connect_refused", True)
    assert down.health.since_s == 4.0


def test_one_failing_first_result_is_enough_for_down() -> None:
    tracker = MemberTracker((TCP, WEB), 0.0)
    assert tracker.observe("web", FAIL, 1.0).health.health is Health.DOWN


def test_status_tells_the_last_result_and_the_totals_of_each_monitor() -> None:
    monitor = tracker_after(PASS, FAIL, VOID).health.monitors[0]
    assert (monitor.health, monitor.checks_total, monitor.failures_total) == (Health.UP, 2, 1)
    assert monitor.reason == "local_error (EMFILE)"


def test_void_result_explains_why_a_member_is_still_unknown() -> None:
    tracker = MemberTracker((TCP,), 0.0)
    result = tracker.observe("tcp", ProbeResult.void(Reason.NOT_PERMITTED, "needs CAP_NET_RAW"), 1.0)
    assert (result.health.health, result.changed) == (Health.UNKNOWN, True)
    assert result.health.reason == "tcp: not_permitted (needs CAP_NET_RAW)"


def test_connect_failures_take_a_member_down_and_rise_successes_bring_it_back() -> None:
    tracker = tracker_after(PASS)
    for index in range(3):
        tracker.observe_passive(ConnectError.RESET, 10.0 + index)
    assert (tracker.health.health, tracker.health.reason) == (Health.DOWN, "traffic: connect_reset")
    assert tracker.health.passive_failures == 3
    assert tracker.observe("tcp", PASS, 20.0).health.health is Health.DOWN
    assert tracker.observe("tcp", PASS, 25.0).health.health is Health.UP
    assert tracker.health.passive_failures == 0


def test_connect_failures_of_one_burst_count_once() -> None:
    tracker = tracker_after(PASS)
    for index in range(1000):
        tracker.observe_passive(ConnectError.REFUSED, 10.0 + index * 0.0001)
    assert tracker.health.passive_failures == 1
    tracker.observe_passive(ConnectError.REFUSED, 10.125)
    assert tracker.health.passive_failures == 2


def test_the_smallest_fall_of_the_monitors_holds_for_connect_failures() -> None:
    tracker = MemberTracker((TCP, WEB), 0.0)
    tracker.observe("tcp", PASS, 0.0)
    tracker.observe("web", PASS, 0.0)
    tracker.observe_passive(ConnectError.TIMED_OUT, 1.0)
    assert tracker.observe_passive(ConnectError.TIMED_OUT, 2.0).health.health is Health.DOWN


def test_successes_before_a_connect_failure_do_not_clear_it() -> None:
    tracker = tracker_after(PASS, PASS, PASS, PASS)
    tracker.observe_passive(ConnectError.REFUSED, 10.0)
    assert tracker.observe("tcp", PASS, 11.0).health.passive_failures == 1
    assert tracker.observe("tcp", PASS, 12.0).health.passive_failures == 0


def test_member_that_passes_its_check_but_resets_traffic_flaps_only_once_per_rise_intervals() -> None:
    tracker = tracker_after(PASS)
    downs, before = 0, Health.UP
    for tick in range(1, 6001):  # ten minutes in steps of 100 ms; checks each 5 s; traffic fails while it is up
        now_s = tick / 10
        if tick % 50 == 0:
            tracker.observe("tcp", PASS, now_s)
        if tracker.health.health is Health.UP:
            tracker.observe_passive(ConnectError.RESET, now_s)
        downs += before is Health.UP and tracker.health.health is Health.DOWN
        before = tracker.health.health
    assert 50 <= downs <= 600 / (TCP.rise * 5) + 1


def test_reload_keeps_what_is_known_of_a_monitor_that_asks_the_same() -> None:
    tracker = tracker_after(PASS, FAIL, FAIL)
    slower = replace(TCP, interval_s=30.0, timeout_s=10.0, jitter=0.2)
    assert not tracker.set_monitors((slower,), 5.0).changed
    assert tracker.observe("tcp", FAIL, 6.0).health.health is Health.DOWN


def test_reload_that_adds_a_monitor_does_not_take_an_up_member_away() -> None:
    tracker = tracker_after(PASS)
    assert not tracker.set_monitors((TCP, WEB), 5.0).changed
    assert tracker.health.health is Health.UP
    assert tracker.observe("web", FAIL, 6.0).health.health is Health.DOWN


def test_reload_that_changes_the_question_of_a_failing_monitor_makes_the_member_unknown() -> None:
    tracker = tracker_after(FAIL)
    assert tracker.set_monitors((replace(TCP, port=8080),), 5.0).health.health is Health.UNKNOWN
    assert tracker.observe("tcp", PASS, 6.0).health.health is Health.UP


def test_reload_that_takes_the_failing_monitor_out_brings_the_member_up() -> None:
    tracker = MemberTracker((TCP, WEB), 0.0)
    tracker.observe("tcp", PASS, 1.0)
    tracker.observe("web", FAIL, 1.0)
    assert tracker.set_monitors((TCP,), 2.0).health.health is Health.UP


ILLEGAL: dict[str, Callable[[MemberTracker, float], object]] = {
    "unknown monitor": lambda tracker, now_s: tracker.observe("nobody", PASS, now_s),
    "earlier time": lambda tracker, now_s: tracker.observe(tracker.health.monitors[0].name, FAIL, now_s - 1),
    "earlier passive": lambda tracker, now_s: tracker.observe_passive(ConnectError.RESET, now_s - 1),
    "earlier reload": lambda tracker, now_s: tracker.set_monitors((TCP,), now_s - 1),
    "local error": lambda tracker, now_s: tracker.observe_passive(ConnectError.LOCAL, now_s),
    "no monitors": lambda tracker, now_s: tracker.set_monitors((), now_s),
    "two of one name": lambda tracker, now_s: tracker.set_monitors((TCP, replace(WEB, name="tcp")), now_s),
}


def test_a_member_without_monitors_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="at least one"):
        MemberTracker((), 0.0)


MONITORS = [
    replace(base, rise=rise, fall=fall)
    for base in (TCP, WEB, replace(WEB, path="/other"), HealthMonitor("ping", MonitorType.PING))
    for rise, fall in itertools.product((1, 2, 3), repeat=2)
]
monitor_sets = st.lists(st.sampled_from(MONITORS), min_size=1, max_size=3, unique_by=lambda monitor: monitor.name)


@dataclass
class Life:
    """All results that one monitor ever gave, each with the thresholds in force when it came."""

    monitor: HealthMonitor
    trusted: bool
    results: list[tuple[int, bool, int, int]] = field(default_factory=list)
    """(position in the whole history, passed, rise, fall)"""

    def health(self) -> Health:
        health = Health.UNKNOWN
        for index in range(len(self.results)):
            _, passed, rise, fall = self.results[index]
            passes = [result[1] for result in self.results[: index + 1]]
            if index == 0:
                health = Health.UP if passed else Health.DOWN
            elif len(passes) >= fall and not any(passes[-fall:]):
                health = Health.DOWN
            elif len(passes) >= rise and all(passes[-rise:]):
                health = Health.UP
        return health

    def cleared_since(self, position: int) -> bool:
        recent = self.results[-self.monitor.rise :]
        return len(recent) == self.monitor.rise and all(at > position and passed for at, passed, _, _ in recent)


class TrackerAgainstHistory(RuleBasedStateMachine):
    """The naive model keeps every event and evaluates all of them again after each one."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 100.0
        self.position = 0
        self.lives: dict[str, Life] = {}
        self.passive: list[tuple[int, float]] = []
        self.cleared_at = -1
        self.since_s = 100.0

    @initialize(monitors=monitor_sets)
    def begin(self, monitors: list[HealthMonitor]) -> None:
        self.lives = {monitor.name: Life(monitor, trusted=False) for monitor in monitors}
        self.tracker = MemberTracker(monitors, self.now_s)
        self.expected = self.model()

    def model(self) -> Health:
        states = [(life, life.health()) for life in self.lives.values()]
        if any(health is Health.DOWN for _, health in states):
            return Health.DOWN
        if self.passive_count() >= min(life.monitor.fall for life in self.lives.values()):
            return Health.DOWN
        if any(health is Health.UNKNOWN and not life.trusted for life, health in states):
            return Health.UNKNOWN
        return Health.UP

    def passive_count(self) -> int:
        counted: list[tuple[int, float]] = []
        for position, at_s in self.passive:
            if not counted or at_s - counted[-1][1] >= 0.1:
                counted.append((position, at_s))
        return sum(position > self.cleared_at for position, _ in counted)

    def last_counted_position(self) -> int:
        counted: list[tuple[int, float]] = []
        for position, at_s in self.passive:
            if not counted or at_s - counted[-1][1] >= 0.1:
                counted.append((position, at_s))
        return counted[-1][0] if counted else -1

    def advance(self, step_s: float) -> None:
        self.now_s += step_s
        self.position += 1

    def check(self, changed: bool, before: tuple[Health, str]) -> None:
        was, self.expected = self.expected, self.model()
        if was is not self.expected:
            self.since_s = self.now_s
        assert changed == (before != (self.tracker.health.health, self.tracker.health.reason))

    @rule(
        data=st.data(),
        outcome=st.sampled_from([Outcome.PASSED, Outcome.PASSED, Outcome.FAILED, Outcome.FAILED, Outcome.VOID]),
        step_s=st.sampled_from([0.0, 0.06, 0.5]),
    )
    def probe(self, data: st.DataObject, outcome: Outcome, step_s: float) -> None:
        life = self.lives[data.draw(st.sampled_from(sorted(self.lives)))]
        self.advance(step_s)
        if outcome is not Outcome.VOID:
            passed = outcome is Outcome.PASSED
            life.results.append((self.position, passed, life.monitor.rise, life.monitor.fall))
        if all(each.cleared_since(self.last_counted_position()) for each in self.lives.values()):
            self.cleared_at = self.position
        before = (self.tracker.health.health, self.tracker.health.reason)
        result = {Outcome.PASSED: PASS, Outcome.FAILED: FAIL, Outcome.VOID: VOID}[outcome]
        self.check(self.tracker.observe(life.monitor.name, result, self.now_s).changed, before)

    @rule(
        error=st.sampled_from([error for error in ConnectError if error is not ConnectError.LOCAL]),
        step_s=st.sampled_from([0.0, 0.06, 0.2]),
    )
    def traffic_fails(self, error: ConnectError, step_s: float) -> None:
        self.advance(step_s)
        self.passive.append((self.position, self.now_s))
        before = (self.tracker.health.health, self.tracker.health.reason)
        self.check(self.tracker.observe_passive(error, self.now_s).changed, before)

    @rule(monitors=monitor_sets)
    def reload(self, monitors: list[HealthMonitor]) -> None:
        self.advance(0.5)
        lives = {}
        for monitor in monitors:
            old = self.lives.get(monitor.name)
            same = old is not None and (old.monitor.type, old.monitor.path) == (monitor.type, monitor.path)
            lives[monitor.name] = (
                Life(monitor, old.trusted, old.results)
                if old is not None and same
                else Life(monitor, trusted=self.expected is Health.UP)
            )
        self.lives = lives
        before = (self.tracker.health.health, self.tracker.health.reason)
        self.check(self.tracker.set_monitors(monitors, self.now_s).changed, before)

    @rule(name=st.sampled_from(sorted(ILLEGAL)))
    def illegal_input_raises_and_changes_nothing(self, name: str) -> None:
        before = self.tracker.health
        with pytest.raises(ValueError):
            ILLEGAL[name](self.tracker, self.now_s)
        assert self.tracker.health == before

    @invariant()
    def agrees_with_the_history(self) -> None:
        if not self.lives:
            return
        seen = self.tracker.health
        assert seen.health is self.expected
        assert seen.passive_failures == self.passive_count()
        assert seen.since_s == self.since_s
        assert (seen.reason == "") == (seen.health is Health.UP)
        assert [status.name for status in seen.monitors] == list(self.lives)
        for status, life in zip(seen.monitors, self.lives.values(), strict=True):
            assert status.health is life.health()
            assert status.checks_total == len(life.results)
            assert status.failures_total == sum(not result[1] for result in life.results)


TrackerAgainstHistory.TestCase.settings = settings(max_examples=100, stateful_step_count=30, deadline=None)
TestTrackerAgainstHistory = TrackerAgainstHistory.TestCase
