"""Fastest response: the member that accepts connections soonest, weighed with what it has to do already.

The estimate is the peak-sensitive moving average of Finagle's `P2CPeakEwma` (Twitter, "Balancers" in Finagle's user
guide): a connect slower than the estimate raises it at once, faster ones lower it little by little, and without any
it fades, so that a member that was slow is tried again.

Hot module: compiled by mypyc, and must do the same when interpreted.
"""

from __future__ import annotations

from math import exp
from typing import Final

from lbd.balancing.balancer import Balancer, check_counts, eligible_members
from lbd.balancing.two_choices import WeightedDraws

SCAN_LIMIT: Final = 64
"""Up to this many eligible members all are compared, above it two random ones: as in least connections."""

DECAY_MS: Final = 10_000
"""In this time an estimate fades to 1/e, and one so old weighs 1/e beside a new measurement: Finagle's default."""

REFRESH_MS: Final = 100
"""How often the estimates fade: so seldom that a pick costs no exponential, by one per cent at a time."""

FAILED_CONNECT_US: Final = 200_000
"""What to `observe` for a connect that failed: a refusal within 50 µs must not make a member the fastest. A member
beside others of 1 ms is tried again after 53 s; if it was down in between, at once when it is back."""

UNMEASURED_US: Final = 1_000_000
"""The estimate of a member while its first connection is under way."""

_LEAST_US: Final = 1.0
"""An estimate of nothing would make any number of connections cost nothing."""


class FastestResponse(Balancer):
    """Picks the member with the least estimate of its connect time x (own connections + 1) / weight.

    `own_active` (this worker's connections per member) is the caller's list: it changes it in place, and it is only
    read here. The caller sets `now_ms` before a pick, and calls `observe` after each attempt. `seed` feeds the random
    choices and says which members are measured first; give each worker its own.

    A member without a measurement (new, or back after it was not eligible) gets one connection at once, and counts as
    slow until that has been observed.
    """

    def __init__(self, weights: list[int], own_active: list[int], seed: int) -> None:
        super().__init__(weights)
        check_counts(weights, own_active)
        self._own: list[int] = own_active
        self._draws: WeightedDraws = WeightedDraws(seed)
        self._eligible: list[int] = []
        self._shares: list[float] = []
        # Of each member: the estimate when it was last measured (0: never), when that was, and what is left of it now.
        self._measured_us: list[float] = [0.0] * len(weights)
        self._measured_ms: list[int] = [0] * len(weights)
        self._faded_us: list[float] = [float(UNMEASURED_US)] * len(weights)
        self._faded_ms: int = -1
        self._turn: int = 0
        # Members to be measured: those that nobody was sent to yet, and those whose first connection is under way.
        self._unasked: list[int] = []
        self._asked: list[int] = []
        self._arrange([0] * len(weights))

    def set_weights(self, weights: list[int]) -> None:
        """Replace the weights. Who becomes eligible is measured anew: it may be another process behind the address.

        Raises:
            ValueError: another number of members, or a weight out of range.
        """
        before = self.weights
        super().set_weights(weights)
        self._arrange(before)

    def observe(self, member: int, connect_us: int, now_ms: int) -> None:
        """Learn that connecting to a member took so long, or `FAILED_CONNECT_US` when it failed."""
        self._fade(now_ms)
        sample_us = float(connect_us)
        estimate_us = self._measured_us[member]
        if sample_us < estimate_us:
            kept = exp(-max(0, now_ms - self._measured_ms[member]) / DECAY_MS)
            sample_us += (estimate_us - sample_us) * kept
        sample_us = max(sample_us, _LEAST_US)
        self._measured_us[member] = sample_us
        self._measured_ms[member] = now_ms
        self._faded_us[member] = sample_us
        if self._asked and member in self._asked:
            self._asked.remove(member)

    def pick(self, client: str, tried: list[int]) -> int:
        """Return a member that is to be measured, else the fastest one, or -1 when every eligible one was tried."""
        if self._unasked or self._asked:
            member = self._to_measure(tried)
            if member >= 0:
                return member
        self._fade(self.now_ms)
        if tried:  # a retry is rare: it may cost a look at every member
            return self._fastest([member for member in self._eligible if member not in tried])
        if len(self._eligible) <= SCAN_LIMIT:
            return self._fastest(self._eligible)
        one, two = self._draws.pair()
        return one if self._cost(one) <= self._cost(two) else two

    def _to_measure(self, tried: list[int]) -> int:
        """Return a member that is to be measured and has no connection under way for that, or -1."""
        for place, member in enumerate(self._unasked):
            if not (tried and member in tried):
                self._unasked.pop(place)
                self._asked.append(member)
                self._faded_us[member] = float(UNMEASURED_US)
                return member
        for member in self._asked:  # a client may have gone before its connect ended: that measured nothing
            if self._own[member] == 0 and not (tried and member in tried):
                return member
        return -1

    def _cost(self, member: int) -> float:
        return self._faded_us[member] * (self._own[member] + 1) * self._shares[member]

    def _fastest(self, candidates: list[int]) -> int:
        """Return the cheapest candidate. Times are whole microseconds, so ties are usual: the next one after the last
        pick wins them, or the first member would be given most of what a quiet pool gets."""
        estimates = self._faded_us
        own = self._own
        shares = self._shares
        count = len(candidates)
        place = self._turn if self._turn < count else 0
        best = -1
        best_cost = 0.0
        for _ in range(count):
            member = candidates[place]
            place += 1
            if place == count:
                place = 0
            cost = estimates[member] * (own[member] + 1) * shares[member]
            if best < 0 or cost < best_cost:
                best = member
                best_cost = cost
                self._turn = place
        return best

    def _fade(self, now_ms: int) -> None:
        """Let all estimates fade by the time that has passed."""
        if self._faded_ms < 0:
            self._faded_ms = now_ms
        passed_ms = now_ms - self._faded_ms
        if passed_ms < REFRESH_MS:
            return
        self._faded_ms = now_ms
        left = exp(-passed_ms / DECAY_MS)
        self._faded_us = [max(estimate_us * left, _LEAST_US) for estimate_us in self._faded_us]

    def _arrange(self, before: list[int]) -> None:
        """Note who is eligible, at which price, and who is to be measured."""
        weights = self.weights
        self._eligible = eligible_members(weights)
        self._shares = [1.0 / weight if weight > 0 else 0.0 for weight in weights]
        if len(self._eligible) > SCAN_LIMIT:
            self._draws.arrange(self._eligible, weights)
        came = [member for member in self._eligible if before[member] == 0]
        for member in came:
            self._measured_us[member] = 0.0
            self._faded_us[member] = float(UNMEASURED_US)
            if member in self._asked:
                self._asked.remove(member)
        if len(came) > 1:  # workers that start together shall not begin with the same member
            first = self._draws.draw(len(came))
            came = came[first:] + came[:first]
        self._unasked = [member for member in self._unasked if weights[member] > 0] + came
        self._asked = [member for member in self._asked if weights[member] > 0]
