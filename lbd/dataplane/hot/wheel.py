"""One coarse timer wheel for all connections of a worker (Varghese & Lauck 1987, scheme 4).

A connection stands in at most one slot. Deadlines further away than the wheel reaches are parked in the last slot and
looked at again from there: a ten-minute idle timeout costs a dozen visits, and no `call_later` per connection.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

TICK_MS: Final = 100
SLOTS: Final = 512  # 51.2 s


class Timed:
    """What can stand in the wheel; `wheel_slot` is -1 while it does not."""

    __slots__ = ("wheel_slot",)

    def __init__(self) -> None:
        self.wheel_slot: int = -1

    def expired(self, now_ms: int) -> None:
        """Called when the slot comes round; re-arms itself if it is too early. Here: nothing waits for it."""


class Wheel:
    """Slots of TICK_MS each. A timer fires at most one tick late and never early by more than one; `on_fault` hears of
    an exception that came out of one."""

    __slots__ = ("_next_tick", "_on_fault", "_slots")

    def __init__(self, now_ms: int, on_fault: Callable[[str, BaseException], None]) -> None:
        self._on_fault: Callable[[str, BaseException], None] = on_fault
        self._slots: list[set[Timed]] = [set() for _ in range(SLOTS)]
        self._next_tick: int = now_ms // TICK_MS

    def arm(self, timed: Timed, deadline_ms: int) -> None:
        """Look at `timed` at `deadline_ms`, instead of whenever it was armed for."""
        tick = deadline_ms // TICK_MS + 1
        first = self._next_tick
        if tick < first:
            tick = first
        elif tick >= first + SLOTS:
            tick = first + SLOTS - 1
        slot = tick % SLOTS
        if slot == timed.wheel_slot:
            return
        if timed.wheel_slot >= 0:
            self._slots[timed.wheel_slot].discard(timed)
        self._slots[slot].add(timed)
        timed.wheel_slot = slot

    def disarm(self, timed: Timed) -> None:
        """Forget `timed`."""
        if timed.wheel_slot >= 0:
            self._slots[timed.wheel_slot].discard(timed)
            timed.wheel_slot = -1

    def advance(self, now_ms: int) -> None:
        """Call `expired` of everything whose slot lies in the past."""
        last = now_ms // TICK_MS
        if last - self._next_tick >= SLOTS:  # the clock jumped (a stopped process): every slot once is enough
            self._next_tick = last - SLOTS + 1
        while self._next_tick <= last:
            slot = self._next_tick % SLOTS
            self._next_tick += 1
            due = self._slots[slot]
            if due:
                self._slots[slot] = set()
                for timed in due:
                    timed.wheel_slot = -1
                for timed in due:
                    if timed.wheel_slot < 0:
                        try:
                            timed.expired(now_ms)
                        except Exception as error:  # noqa: BLE001  # the other timers of the slot must not be lost
                            self._on_fault("timer", error)

    def __len__(self) -> int:
        return sum(len(slot) for slot in self._slots)
