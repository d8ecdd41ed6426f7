"""A worker's part of a rate: a token bucket that fills as fast as its share says.

Hot module: compiled by mypyc, and must do the same when interpreted.
"""

from __future__ import annotations

from typing import Final

from lbd.dataplane.hot.quota import Desk, Part

ASK_INTERVAL_MS: Final = 200
"""How often a worker asks for more of a rate that it uses up."""


class Rate(Part):
    """`share` is in units a second, as `limit`, the rate of all workers together. `burst_ms` of it may be saved up, at
    least `least` units; the bucket fills with `refill` times the share, and begins with `least`.

    One part in `reserve` of an even share is never given away, so that the first who comes finds something.
    """

    __slots__ = (
        "_asked_ms", "_at_ms", "_burst_ms", "_least", "_refill", "_reserve", "_sampled_ms", "_spent", "_tokens", "_use",
        "is_short", "limit",
    )  # fmt: skip

    def __init__(
        self, kind: str, slot: int, now_ms: int, burst_ms: int, least: int, refill: float, reserve: int
    ) -> None:
        Part.__init__(self, kind, slot)
        self.limit: int = 0
        self.is_short: bool = False  # somebody was turned away, or has waited, since the last sample
        self._burst_ms: int = burst_ms
        self._least: int = least
        self._refill: float = refill
        self._reserve: int = reserve
        self._tokens: float = 0.0
        self._at_ms: int = now_ms
        self._spent: int = 0
        self._use: float = 0.0  # units a second, lately
        self._sampled_ms: int = now_ms
        self._asked_ms: int = now_ms - ASK_INTERVAL_MS

    def available(self, now_ms: int) -> int:
        """Return how many units may be spent now; 0 or less: none."""
        passed_ms = now_ms - self._at_ms
        if passed_ms > 0:
            self._at_ms = now_ms
            self._tokens = min(self._tokens + self.share * self._refill * passed_ms / 1000.0, self._capacity())
        return int(self._tokens)

    def spend(self, units: int) -> None:
        """Take units that were available; a debt is filled up first."""
        self._tokens -= units
        self._spent += units

    def take(self, units: int, now_ms: int) -> bool:
        """Take all of these units, or none; return whether they were available."""
        if self.available(now_ms) < units:
            self.is_short = True
            return False
        self.spend(units)
        return True

    def set_share(self, number: int, share: int, now_ms: int) -> None:
        """The supervisor has decided. What was saved up under a larger share is lost."""
        self.available(now_ms)
        if share > 0 and self.number == 0:
            self._tokens = float(self._least)
        self.number = number
        self.share = share
        self._tokens = min(self._tokens, self._capacity())

    def recall(self, number: int, amount: int, fair: int, now_ms: int) -> None:
        """Others want `amount` of the rate: give up what was not used lately, and what is above a `fair` share."""
        give = 0
        if amount > 0:
            busy = max(self._use * 1.25, fair / self._reserve)
            unused = int(self.share - busy)
            give = max(min(unused, max(amount, unused // 2)), min(amount, self.share - fair), 0)
        self.set_share(number, self.share - give, now_ms)

    def sample(self, desk: Desk, now_ms: int) -> None:
        """Look how much is used, and ask for more where that was not enough; to be called every 100 ms or so."""
        passed_ms = now_ms - self._sampled_ms
        if passed_ms <= 0:
            return
        now_used = self._spent * 1000.0 / passed_ms
        self._use = max(now_used, (self._use + now_used) / 2)
        self._spent = 0
        self._sampled_ms = now_ms
        if self.is_short and now_ms - self._asked_ms >= ASK_INTERVAL_MS and self.share < self.limit:
            self._asked_ms = now_ms
            desk.ask(self, self.limit - self.share, False)
        self.is_short = False

    def _capacity(self) -> float:
        return max(self.share * self._burst_ms / 1000.0, float(self._least))
