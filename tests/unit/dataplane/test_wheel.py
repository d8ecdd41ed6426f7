"""The timer wheel: never early by more than a tick, never late by more than one, nothing lost."""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from lbd.form import source_path

if TYPE_CHECKING:
    from lbd.dataplane.hot.wheel import SLOTS, TICK_MS, Timed, Wheel
else:  # the source: Python code can't inherit from a compiled class. The relay's tests run the compiled one.
    _spec = importlib.util.spec_from_file_location("wheel_source", source_path("lbd.dataplane.hot.wheel"))
    _module = importlib.util.module_from_spec(_spec)
    _spec.loader.exec_module(_module)
    SLOTS, TICK_MS, Timed, Wheel = _module.SLOTS, _module.TICK_MS, _module.Timed, _module.Wheel


def fail(where: str, error: BaseException) -> None:
    raise AssertionError(f"{where}: {error!r}")


class Timer(Timed):
    """Fires once at its deadline, re-arming itself while it is looked at too early."""

    def __init__(self, wheel: Wheel, deadline_ms: int) -> None:
        super().__init__()
        self.wheel = wheel
        self.deadline_ms = deadline_ms
        self.fired_ms = -1
        wheel.arm(self, deadline_ms)

    def expired(self, now_ms: int) -> None:
        if now_ms >= self.deadline_ms:
            assert self.fired_ms < 0
            self.fired_ms = now_ms
        else:
            self.wheel.arm(self, self.deadline_ms)


@given(st.integers(0, 10**7), st.lists(st.integers(0, 3 * SLOTS * TICK_MS), max_size=30))
def test_every_timer_fires_at_most_a_tick_late(start_ms: int, delays_ms: list[int]) -> None:
    wheel = Wheel(start_ms, fail)
    timers = [Timer(wheel, start_ms + delay_ms) for delay_ms in delays_ms]
    for now_ms in range(start_ms, start_ms + 3 * SLOTS * TICK_MS + 3 * TICK_MS, TICK_MS):
        wheel.advance(now_ms)
    for timer in timers:
        assert timer.deadline_ms <= timer.fired_ms <= timer.deadline_ms + 2 * TICK_MS
    assert len(wheel) == 0


def test_a_disarmed_timer_never_fires() -> None:
    wheel = Wheel(0, fail)
    timer = Timer(wheel, 500)
    wheel.disarm(timer)
    wheel.advance(10_000)
    assert timer.fired_ms == -1
    assert len(wheel) == 0


def test_rearming_moves_the_timer_and_leaves_no_copy() -> None:
    wheel = Wheel(0, fail)
    timer = Timer(wheel, 500)
    timer.deadline_ms = 5_000
    wheel.arm(timer, 5_000)
    assert len(wheel) == 1
    wheel.advance(4_900)
    assert timer.fired_ms == -1
    wheel.advance(5_100)
    assert timer.fired_ms == 5_100


def test_a_clock_that_jumped_fires_everything_once() -> None:
    """A stopped process wakes up after an hour: the wheel turns once, not 36,000 times."""
    wheel = Wheel(0, fail)
    timers = [Timer(wheel, delay_ms) for delay_ms in range(0, SLOTS * TICK_MS, 997)]
    wheel.advance(3_600_000)
    assert all(timer.fired_ms == 3_600_000 for timer in timers)


def test_a_timer_that_fails_takes_no_other_with_it() -> None:
    faults = []
    wheel = Wheel(0, lambda where, error: faults.append((where, error)))

    class Failing(Timed):
        def expired(self, now_ms: int) -> None:
            raise OSError("no more watches")

    failing = Failing()
    timers = [Timer(wheel, 500) for _ in range(10)]
    wheel.arm(failing, 500)
    wheel.advance(1_000)
    assert all(timer.fired_ms == 1_000 for timer in timers)
    assert [where for where, _ in faults] == ["timer"]
