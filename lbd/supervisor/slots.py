"""Slots of the shared counters: dealt out, and dealt out again only when no worker refers to them. Pure."""

from __future__ import annotations

from collections.abc import Callable
from typing import Generic, TypeVar

Key = TypeVar("Key")


class SlotsExhaustedError(Exception):
    """More is configured than the map of counters has places for."""


class Slots(Generic[Key]):
    """Gives each key a slot number. A released slot waits until nobody refers to it; a key that comes again before gets
    it back, and with it what is counted there."""

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._slots: dict[Key, int] = {}
        self._keys: dict[int, Key] = {}
        self._next = 0
        self._free: list[int] = []
        self._released: dict[Key, tuple[int, int]] = {}
        """By the former key: slot, and generation."""

    def take(self, key: Key) -> int:
        """Return the slot of `key`, a new one if it has none.

        Raises:
            SlotsExhaustedError: none is left.
        """
        if key in self._slots:
            return self._slots[key]
        if key in self._released:
            slot, _ = self._released.pop(key)
        elif self._free:
            slot = self._free.pop()
        elif self._next < self._capacity:
            slot = self._next
            self._next += 1
        else:
            raise SlotsExhaustedError(f"all {self._capacity} places are taken")
        self._slots[key] = slot
        self._keys[slot] = key
        return slot

    def slot_of(self, key: Key) -> int | None:
        """Return the slot of `key`, or None."""
        return self._slots.get(key)

    def key_of(self, slot: int) -> Key | None:
        """Return whose slot it is, or None."""
        return self._keys.get(slot)

    def release(self, key: Key, generation: int) -> None:
        """Give up a key's slot; it may be reused once `generation` is acknowledged and nothing is active in it."""
        slot = self._slots.pop(key, None)
        if slot is not None:
            self._keys.pop(slot, None)
            self._released[key] = slot, generation

    def reclaim(self, acknowledged_generation: int, is_idle: Callable[[int], bool]) -> list[int]:
        """Make released slots available again where that is safe; return them, to be cleared."""
        done = {
            key: slot
            for key, (slot, generation) in self._released.items()
            if generation <= acknowledged_generation and is_idle(slot)
        }
        for key in done:
            del self._released[key]
        self._free.extend(done.values())
        return list(done.values())

    @property
    def in_use(self) -> list[int]:
        """Every slot that a worker may still write to."""
        return [*self._keys, *(slot for slot, _ in self._released.values())]
