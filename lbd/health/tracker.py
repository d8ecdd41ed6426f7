"""Decides from the results of its checks whether one member is up. Pure: time comes in as `now_s` (monotonic)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from lbd.health.result import Outcome, ProbeResult, Reason
from lbd.model.desired import HealthMonitor
from lbd.model.status import ConnectError, Health, MemberHealth, MonitorStatus

PASSIVE_SPACING_S = 0.1
"""Connect failures of one member closer together than this count once: a burst of refused clients is one event."""

PASSIVE_SOURCE = "traffic"
"""Stands where a monitor's name stands when the relay's connect failures took the member down."""

_PASSIVE_REASON: dict[ConnectError, Reason] = {
    ConnectError.REFUSED: Reason.CONNECT_REFUSED,
    ConnectError.RESET: Reason.CONNECT_RESET,
    ConnectError.TIMED_OUT: Reason.CONNECT_TIMEOUT,
    ConnectError.UNREACHABLE: Reason.UNREACHABLE,
}

_FIRST = "first"
_TURNS: dict[tuple[Health, Outcome], tuple[str, Health]] = {
    (Health.UNKNOWN, Outcome.PASSED): (_FIRST, Health.UP),
    (Health.UNKNOWN, Outcome.FAILED): (_FIRST, Health.DOWN),
    (Health.UP, Outcome.FAILED): ("fall", Health.DOWN),
    (Health.DOWN, Outcome.PASSED): ("rise", Health.UP),
}
"""What a monitor becomes, and after how many equal results in a row: at the first, or as many as the monitor's field of
that name says. What is not listed changes nothing."""


class Cause(NamedTuple):
    """What made the member what it is: the monitor's name (or `PASSIVE_SOURCE`) and the reason. Both empty when up."""

    source: str
    reason: str

    @property
    def text(self) -> str:
        """One phrase for people: `web-http: unexpected_status (503)`."""
        return f"{self.source}: {self.reason}" if self.source else self.reason


class Observation(NamedTuple):
    """What is known after an event; `changed` says that the member's health or its reason is another than before."""

    health: MemberHealth
    changed: bool
    cause: Cause


@dataclass(slots=True, eq=False)
class _MonitorState:
    """One monitor's view of the member."""

    monitor: HealthMonitor
    trusted: bool
    """Added to a member that was up: until its first result it does not take the member away."""
    health: Health = Health.UNKNOWN
    failing: str = Reason.NOT_CHECKED_YET.value
    """Why the member is not up for this monitor: its last failure or, before the first result, what hinders it."""
    last: str = Reason.NOT_CHECKED_YET.value
    passed_in_a_row: int = 0
    failed_in_a_row: int = 0
    passed_since_passive: int = 0
    latency_s: float | None = None
    checks_total: int = 0
    failures_total: int = 0

    def take(self, result: ProbeResult) -> None:
        self.last = result.text
        if result.outcome is Outcome.VOID:
            if self.health is Health.UNKNOWN:
                self.failing = result.text
            return
        self.checks_total += 1
        self.latency_s = result.latency_s
        if result.outcome is Outcome.PASSED:
            self.passed_in_a_row += 1
            self.passed_since_passive += 1
            self.failed_in_a_row = 0
        else:
            self.failures_total += 1
            self.failed_in_a_row += 1
            self.passed_in_a_row = self.passed_since_passive = 0
            self.failing = result.text
        turn = _TURNS.get((self.health, result.outcome))
        if turn is None:
            return
        threshold, becomes = turn
        needed = 1 if threshold == _FIRST else int(getattr(self.monitor, threshold))
        if max(self.passed_in_a_row, self.failed_in_a_row) >= needed:
            self.health = becomes

    def status(self) -> MonitorStatus:
        return MonitorStatus(
            self.monitor.name, self.health, self.last, self.latency_s, self.checks_total, self.failures_total
        )


def same_check(one: HealthMonitor, other: HealthMonitor) -> bool:
    """Return whether both ask the member the same question: only timing and thresholds may differ."""
    timing = {name: getattr(one, name) for name in ("interval_s", "timeout_s", "jitter", "rise", "fall")}
    return replace(other, **timing) == one


class MemberTracker:
    """The state of one member. Up when all monitors pass; unknown until each has a first result, but one failing first
    result is enough for down. Void results count for nothing. A call that raises ValueError has changed nothing."""

    __slots__ = ("_cause", "_health", "_last_now_s", "_last_passive_s", "_passive", "_passive_reason", "_states")

    def __init__(self, monitors: Sequence[HealthMonitor], now_s: float) -> None:
        """Start unknown.

        Raises:
            ValueError: no monitors, or two with one name.
        """
        check_monitors(monitors)
        self._states = {monitor.name: _MonitorState(monitor, trusted=False) for monitor in monitors}
        self._passive = 0
        self._passive_reason = Reason.NONE
        self._last_passive_s: float | None = None
        self._last_now_s = now_s
        self._cause = Cause("", "")
        self._health = MemberHealth(since_s=now_s)
        self._conclude(now_s)

    @property
    def health(self) -> MemberHealth:
        """What is known now."""
        return self._health

    @property
    def cause(self) -> Cause:
        """Why the member is not up; empty when it is."""
        return self._cause

    @property
    def has_first_result(self) -> bool:
        """True once the monitors have decided: each has a result, or one that has took the member down."""
        return self._health.health is not Health.UNKNOWN

    def observe(self, monitor_name: str, result: ProbeResult, now_s: float) -> Observation:
        """Take one check's result.

        Raises:
            ValueError: the member has no such monitor, or `now_s` lies before the last event.
        """
        state = self._states.get(monitor_name)
        if state is None:
            raise ValueError(f"no monitor {monitor_name!r} on this member (it has {', '.join(self._states)})")
        self._advance(now_s)
        state.take(result)
        if all(each.passed_since_passive >= each.monitor.rise for each in self._states.values()):
            self._passive = 0
        return self._conclude(now_s)

    def observe_passive(self, error: ConnectError, now_s: float) -> Observation:
        """Take one connect failure that the relay saw; at most one per `PASSIVE_SPACING_S` counts.

        Raises:
            ValueError: the error is LOCAL (our own side, never the member's), or `now_s` lies before the last event.
        """
        reason = _PASSIVE_REASON.get(error)
        if reason is None:
            raise ValueError(f"a {error} error says nothing about the member")
        self._advance(now_s)
        if self._last_passive_s is None or now_s - self._last_passive_s >= PASSIVE_SPACING_S:
            self._last_passive_s = now_s
            self._passive += 1
            self._passive_reason = reason
            for state in self._states.values():
                state.passed_since_passive = 0
        return self._conclude(now_s)

    def set_monitors(self, monitors: Sequence[HealthMonitor], now_s: float) -> Observation:
        """Take a new set of monitors, keeping what is known from those that ask the same question as before.

        A monitor that is new to a member that is up does not take it away before its own first result: a reload must
        not refuse connections.

        Raises:
            ValueError: no monitors, two with one name, or `now_s` lies before the last event.
        """
        check_monitors(monitors)
        self._advance(now_s)
        was_up = self._health.health is Health.UP
        states: dict[str, _MonitorState] = {}
        for monitor in monitors:
            kept = self._states.get(monitor.name)
            if kept is not None and same_check(kept.monitor, monitor):
                kept.monitor = monitor
                states[monitor.name] = kept
            else:
                states[monitor.name] = _MonitorState(monitor, trusted=was_up)
        self._states = states
        return self._conclude(now_s)

    def _advance(self, now_s: float) -> None:
        if now_s < self._last_now_s:
            raise ValueError(f"time runs backwards: {now_s} after {self._last_now_s}")
        self._last_now_s = now_s

    def _conclude(self, now_s: float) -> Observation:
        health, cause = self._evaluate()
        before = self._health
        self._cause = cause
        self._health = MemberHealth(
            health,
            cause.text,
            before.since_s if health is before.health else now_s,
            tuple(state.status() for state in self._states.values()),
            self._passive,
        )
        return Observation(self._health, health is not before.health or cause.text != before.reason, cause)

    def _evaluate(self) -> tuple[Health, Cause]:
        states = self._states.values()
        for state in states:
            if state.health is Health.DOWN:
                return Health.DOWN, Cause(state.monitor.name, state.failing)
        if self._passive >= min(state.monitor.fall for state in states):
            return Health.DOWN, Cause(PASSIVE_SOURCE, self._passive_reason)
        for state in states:
            if state.health is Health.UNKNOWN and not state.trusted:
                return Health.UNKNOWN, Cause(state.monitor.name, state.failing)
        return Health.UP, Cause("", "")


def check_monitors(monitors: Sequence[HealthMonitor]) -> None:
    if not monitors:
        raise ValueError("a member needs at least one health monitor")
    names = [monitor.name for monitor in monitors]
    if len(set(names)) != len(names):
        raise ValueError(f"health monitors {', '.join(names)}: each may be named once")
