"""How many bytes a service may still move.

Hot module: compiled by mypyc, and must do the same when interpreted.
"""

from __future__ import annotations

from collections import deque
from typing import Final

from lbd.dataplane.hot.rate import Rate
from lbd.dataplane.hot.reactor import Chore, Handler, Reactor

BURST_MS: Final = 50
REFILL: Final = 0.95
"""With a burst of 50 ms on top, no second ever sees more than the limit."""
LEAST_BYTES: Final = 1500
"""What may be saved up at least: a whole datagram of an Ethernet."""
RESERVE: Final = 32
TURN_MS: Final = 10
SMALLEST_BYTES: Final = 1448
"""Less than a segment's worth is nothing: it would be sent as one all the same."""


class Meter:
    """The byte budget of one service in one worker. `rate.share` is in bytes a second.

    Who found nothing waits in line, and whoever comes while somebody waits goes behind him: each gets the same part of
    what has come in since.
    """

    __slots__ = ("_chore", "_line", "_ration", "_waiting", "rate", "reactor")

    def __init__(self, reactor: Reactor, slot: int) -> None:
        self.reactor: Reactor = reactor
        self.rate: Rate = Rate("throughput", slot, reactor.now_ms, BURST_MS, LEAST_BYTES, REFILL, RESERVE)
        self._line: deque[Handler] = deque()
        self._waiting: set[Handler] = set()
        self._ration: int = -1  # of him whose turn it is; -1: nobody's
        self._chore: Chore = reactor.chore(self._serve)

    def allowance(self, now_ms: int) -> int:
        """Return how many bytes may be moved now; 0 or less: none, `wait` for more."""
        allowance = self._ration
        if allowance < 0:
            allowance = 0 if self._line else self.rate.available(now_ms)
        if allowance < SMALLEST_BYTES:
            self.rate.is_short = True
            return 0
        return allowance

    def may_pass(self, now_ms: int) -> bool:
        """Return whether a datagram may be moved now: anything saved up is enough, what it takes beyond is a debt. An
        answer would never pass where the question has left less than a segment's worth."""
        if self.rate.available(now_ms) > 0:
            return True
        self.rate.is_short = True
        return False

    def spend(self, moved_bytes: int) -> None:
        """Count bytes that were moved."""
        self.rate.spend(moved_bytes)
        if self._ration >= 0:
            self._ration = max(0, self._ration - moved_bytes)

    def wait(self, handler: Handler) -> None:
        """Give `handler` another turn as soon as there is an allowance."""
        if handler not in self._waiting:
            self._waiting.add(handler)
            self._line.append(handler)
            if not self._chore.due_ms:
                self._chore.due_ms = self.reactor.now_ms + TURN_MS

    def end(self) -> None:
        """There is no limit any more: let go of those who wait."""
        for handler in self._line:
            self.reactor.again(handler)
        self._line.clear()
        self._waiting.clear()
        self.reactor.drop(self._chore)

    def _serve(self, now_ms: int) -> int:
        waiting = len(self._line)
        if waiting:
            available = self.rate.available(now_ms)
            ration = max(available // waiting, SMALLEST_BYTES)
            while waiting > 0 and available >= SMALLEST_BYTES:
                waiting -= 1
                handler = self._line.popleft()
                self._waiting.discard(handler)
                self._ration = min(ration, available)
                self.reactor.give_turn(handler)
                available = self.rate.available(now_ms)
            self._ration = -1
        return now_ms + TURN_MS if self._line else 0
