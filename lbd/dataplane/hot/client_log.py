"""What a worker tells of the connections and flows of a service that have ended, while somebody wants to know.

Nothing here waits: what has ended is put into a bounded journal, which somebody else takes to the supervisor. The
supervisor sees to it that all workers together keep to what a service may log; a worker counts by itself what can never
be logged, so that a flood costs it nothing but the count.

Hot module: compiled by mypyc, and must do the same when interpreted.
"""

from __future__ import annotations

from typing import Any, Final

# How connections and flows end: places in lbd.dataplane.client_logs.ENDINGS. The four from IDLE on are in the order of
# counters.ENDING_ORDER; a connection that was refused has REJECTED and the place in counters.REJECTION_ORDER.
UNKNOWN: Final = -1
CLOSED: Final = 0
CLIENT_RESET: Final = 1
MEMBER_RESET: Final = 2
IDLE: Final = 3
LIFETIME: Final = 6
UNSERVED: Final = 7
DRAIN_TIMEOUT: Final = 8
RESPONSES: Final = 9
EVICTED: Final = 10
UNREACHABLE: Final = 11
MEMBER_DOWN: Final = 12
SUPERSEDED: Final = 13
RELEASED: Final = 14
FAULT: Final = 15
REJECTED: Final = 16

SIGNIFICANT_PER_S: Final = 100
"""How many ends of a service that are significant are logged a second at most."""
MOST_ENTRIES: Final = 2000
"""What a journal holds at most: some 400 KB."""


class Journal:
    """The entries of all services of a worker, oldest first, and whose ends were left out."""

    __slots__ = ("entries", "short")

    def __init__(self) -> None:
        self.entries: list[list[Any]] = []
        self.short: list[ClientLog] = []

    @property
    def has_news(self) -> bool:
        """Whether there is something to tell."""
        return len(self.entries) > 0 or len(self.short) > 0


class ClientLog:
    """What is logged of one service: at most `throttle_per_s` ends a second that are not significant (0: all), and
    SIGNIFICANT_PER_S that are. An end is significant when it is not in order, or when the member took longer than
    `slow_connect_us` to accept (0: however long)."""

    __slots__ = (
        "_journal", "_plain", "_second_ms", "_significant", "is_on", "left_out", "left_out_significant", "name",
        "protocol", "slow_connect_us", "throttle_per_s", "vip",
    )  # fmt: skip

    def __init__(self, journal: Journal, name: str, protocol: str, vip: tuple[str, int]) -> None:
        self._journal: Journal = journal
        self._second_ms: int = 0
        self._plain: int = 0
        self._significant: int = 0
        self.name: str = name
        self.protocol: str = protocol
        self.vip: tuple[str, int] = vip
        self.is_on: bool = True
        self.throttle_per_s: int = 0
        self.slow_connect_us: int = 0
        self.left_out: int = 0
        self.left_out_significant: int = 0

    def note(
        self,
        client: tuple[str, int],
        member: tuple[str, int] | None,
        began_ms: int,
        received_bytes: int,
        sent_bytes: int,
        connect_us: int,
        ending: int,
        in_order: bool,
        now_ms: int,
    ) -> None:
        """A connection or flow has ended; `connect_us` -1 was not measured."""
        if not self.is_on:
            return
        slow_us = self.slow_connect_us
        significant = not in_order or (slow_us > 0 and connect_us > slow_us)
        if not self._admits(significant, now_ms):
            return
        self._journal.entries.append(
            [
                self.name,
                self.protocol,
                self.vip,
                client,
                member,
                now_ms - began_ms,
                received_bytes,
                sent_bytes,
                connect_us,
                ending,
                significant,
            ]
        )

    def _admits(self, significant: bool, now_ms: int) -> bool:
        """Whether one more may be told; if not, it is counted."""
        if now_ms - self._second_ms >= 1000:
            self._second_ms = now_ms
            self._plain = 0
            self._significant = 0
        admitted = len(self._journal.entries) < MOST_ENTRIES
        if significant:
            self._significant += 1
            admitted = admitted and self._significant <= SIGNIFICANT_PER_S
        elif self.throttle_per_s > 0:
            self._plain += 1
            admitted = admitted and self._plain <= self.throttle_per_s
        if not admitted:
            if self.left_out == 0 and self.left_out_significant == 0:
                self._journal.short.append(self)
            if significant:
                self.left_out_significant += 1
            else:
                self.left_out += 1
        return admitted
