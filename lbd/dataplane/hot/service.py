"""A virtual service and its members as one worker's relay sees them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from lbd.balancing.balancer import Balancer
from lbd.dataplane.hot.tally import Tally

# Kinds of failed attempts: their places in counters.ERROR_ORDER.
REFUSED: Final = 0
RESET: Final = 1
TIMED_OUT: Final = 2
UNREACHABLE: Final = 3
LOCAL: Final = 4

REPORT_INTERVAL_MS: Final = 100
"""A worker reports at most one connect failure per member in this time; the supervisor counts over all workers."""
LOADS_INTERVAL_MS: Final = 10
"""How old the other workers' connection counts may be for least-connections."""


class Member:
    """One member. It outlives changes of the pool while connections refer to it; `index` is -1 once it is removed."""

    __slots__ = ("active", "address", "family", "index", "reported_ms", "slot", "tally")

    def __init__(self, slot: int, family: int, address: str, port: int, tally: Tally) -> None:
        self.slot: int = slot
        self.family: int = family
        self.address: tuple[str, int] = (address, port)
        self.tally: Tally = tally
        self.index: int = -1
        self.active: int = 0
        self.reported_ms: int = -REPORT_INTERVAL_MS


class Service:
    """A virtual service: its pool, its timeouts in milliseconds, its counts.

    `report(member_slot, error)` is told of connect failures. `load_bases` is given for least-connections only: for each
    member the places in `view` where the other workers keep their active count.
    """

    __slots__ = (
        "_loads_ms", "_report", "active", "balancer", "connect_ms", "eligible", "idle_ms", "load_bases", "members",
        "name", "other_active", "own_active", "slot", "tally", "version", "view",
    )  # fmt: skip

    def __init__(
        self, slot: int, name: str, tally: Tally, view: memoryview, report: Callable[[int, int], None]
    ) -> None:
        self.slot: int = slot
        self.name: str = name
        self.tally: Tally = tally
        self.view: memoryview = view
        self._report: Callable[[int, int], None] = report
        self.connect_ms: int = 5000
        self.idle_ms: int = 600000
        self.members: list[Member] = []
        self.balancer: Balancer = Balancer([])
        self.own_active: list[int] = []
        self.other_active: list[int] = []
        self.load_bases: list[list[int]] = []
        self._loads_ms: int = 0
        self.version: int = 0
        self.eligible: int = 0
        self.active: int = 0

    def set_pool(
        self,
        members: list[Member],
        balancer: Balancer,
        own_active: list[int],
        other_active: list[int],
        load_bases: list[list[int]],
    ) -> None:
        """Replace the pool; connections stay with the members they have."""
        for member in self.members:
            member.index = -1
        for index, member in enumerate(members):
            member.index = index
        self.members = members
        self.balancer = balancer
        self.own_active = own_active
        self.other_active = other_active
        self.load_bases = load_bases
        self._loads_ms = 0
        self.version += 1
        self.note_weights()

    def set_weights(self, weights: list[int]) -> None:
        """Change the effective weights of the members; 0 means not eligible."""
        self.balancer.set_weights(weights)
        self.note_weights()

    def note_weights(self) -> None:
        """Count the eligible members."""
        eligible = 0
        for weight in self.balancer.weights:
            if weight > 0:
                eligible += 1
        self.eligible = eligible

    def pick(self, client: str, tried: list[int], now_ms: int) -> int:
        """Return the index of the member for a new connection, or -1."""
        if self.load_bases and now_ms - self._loads_ms >= LOADS_INTERVAL_MS:
            self._loads_ms = now_ms
            view = self.view
            for index, bases in enumerate(self.load_bases):
                load = 0
                for base in bases:
                    load += view[base]
                self.other_active[index] = load
        return self.balancer.pick(client, tried)

    def member_opened(self, member: Member) -> None:
        """Count an attempt to reach a member: it is active from here on."""
        member.active += 1
        member.tally.active += 1
        if member.index >= 0:
            self.own_active[member.index] += 1

    def member_closed(self, member: Member) -> None:
        """Count the end of an attempt or of a connection."""
        member.active -= 1
        member.tally.active -= 1
        if member.index >= 0:
            self.own_active[member.index] -= 1

    def member_failed(self, member: Member, error: int, now_ms: int) -> None:
        """Count a failed attempt, and report it unless the fault is our own."""
        for tally in (self.tally, member.tally):
            tally.errors[error] += 1
            tally.has_errors = True
        if error != LOCAL and now_ms - member.reported_ms >= REPORT_INTERVAL_MS:
            member.reported_ms = now_ms
            self._report(member.slot, error)
