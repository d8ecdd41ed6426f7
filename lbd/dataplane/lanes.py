"""What a worker keeps for each listening socket that it serves, as the supervisor's messages want it."""

from __future__ import annotations

import itertools
import os

from lbd.dataplane.channel import Message
from lbd.dataplane.hot.lane import Lane
from lbd.dataplane.hot.persistence import PersistenceTable
from lbd.dataplane.hot.relay import Relay
from lbd.dataplane.hot.service import Service
from lbd.dataplane.persistence_memory import LaneMemory

EXPIRED_AT_A_TICK = 500
"""Entries of a table that are freed at most at a time: it takes about a millisecond."""


class Lanes:
    """The lanes of the worker in the place `index`."""

    def __init__(self, relay: Relay, index: int) -> None:
        self._relay = relay
        self._index = index
        self._stamps = itertools.count(1)
        self._persistence: dict[int, Message] = {}
        """By service slot: timeout and prefixes."""
        self._members: dict[int, frozenset[int]] = {}
        """By service slot: the slots of its members."""
        self.descriptors = 0
        """How many the tables hold, as of the last `expire`: a mapping keeps one."""

    def follow(self, message: Message) -> None:
        """A service was added or changed: its entries follow the timeout, and forget members that it has no more."""
        slot = message["slot"]
        persistence = message["persistence"]
        members = frozenset(entry["slot"] for entry in message["members"])
        gone = self._members.get(slot, members) - members
        self._members[slot] = members
        if persistence is None:
            self._persistence.pop(slot, None)
            return
        self._persistence[slot] = persistence
        for table in self._tables(slot):
            table.timeout_ms = persistence["timeout_ms"]
            if gone:
                table.purge(members)

    def forget(self, slot: int) -> None:
        """A service was removed."""
        self._persistence.pop(slot, None)
        self._members.pop(slot, None)

    def make(self, message: Message, descriptors: list[int], now_ms: int) -> Lane:
        """Return the lane of a listening socket; the descriptor of its memory, if there is one, is closed."""
        return Lane(self._table(self._relay.services[message["slot"]], message, descriptors, now_ms), None)

    def replace_entries(self, message: Message, descriptors: list[int], now_ms: int) -> None:
        """Give a listening socket another table, or none."""
        listener = self._relay.listeners.get(message["listener"])
        if listener is None:
            for descriptor in descriptors:
                os.close(descriptor)
            return
        listener.lane.entries = self._table(listener.service, message, descriptors, now_ms)

    def expire(self, now_ms: int) -> None:
        """Free what has timed out. To be called all the time."""
        tables = self._tables(-1)
        self.descriptors = len(tables)
        for table in tables:
            table.expire(now_ms, EXPIRED_AT_A_TICK)

    def _tables(self, slot: int) -> list[PersistenceTable]:
        return [
            listener.lane.entries
            for listener in self._relay.listeners.values()
            if listener.lane.entries is not None and (slot < 0 or listener.service.slot == slot)
        ]

    def _table(
        self, service: Service, message: Message, descriptors: list[int], now_ms: int
    ) -> PersistenceTable | None:
        if message["entries_at"] is None:
            return None
        try:
            memory = LaneMemory(descriptors[0], message["entries_at"], self._index)
        finally:
            os.close(descriptors[0])
        persistence = self._persistence[service.slot]
        table = PersistenceTable(
            memory,
            message["position"] == self._index,
            service.tally,
            next(self._stamps),
            persistence["timeout_ms"],
            persistence["ipv4_prefix"],
            persistence["ipv6_prefix"],
        )
        table.take_over(now_ms)
        table.purge(service.by_slot)
        return table
