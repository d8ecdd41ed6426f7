"""Least connections: the member with the fewest connections for its weight, over all workers.

Hot module: compiled by mypyc, and must do the same when interpreted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from lbd.balancing.balancer import Balancer, eligible_members

if TYPE_CHECKING:
    from mypy_extensions import i64

SCAN_LIMIT: Final = 64
"""Up to this many eligible members all are compared. Above it two random ones are: the cost of a pick stays constant,
and workers that see counts up to 10 ms old don't all run to the same member (Mitzenmacher, "The Power of Two Choices
in Randomized Load Balancing", IEEE TPDS 2001)."""

_TURN: Final = 1 << 16
"""An average turn, in the unit of `_passes`: 2**46 turns fit, forty years of 50,000 connections a second."""

_WORD: Final = 0xFFFFFFFF
_MAX_SUM: Final = 1 << 31


class LeastConnections(Balancer):
    """Picks the member with the least (own + other + 1) / weight, compared by cross-multiplication in integers.

    `own_active` (this worker's connections per member, exact) and `other_active` (the sums of the other workers,
    refreshed from time to time) are the caller's lists: it changes them in place, and they are only read here. So a
    count can't drift from the truth.

    Ties go round in proportion to the weights, by stride scheduling (Waldspurger, MIT 1995): of equals the one with
    the lowest pass wins, and its pass grows by a stride of 1/weight. So an idle pool is served evenly, and not always
    by its first member. Unlike smooth turns that costs one store a pick: 10 idle members, compiled, 200 ns, not 640.

    `seed` sets where the turns begin and feeds the random choices; give each worker its own.
    """

    def __init__(self, weights: list[int], own_active: list[int], other_active: list[int], seed: int) -> None:
        super().__init__(weights)
        if len(own_active) != len(weights) or len(other_active) != len(weights):
            raise ValueError(f"{len(own_active)} and {len(other_active)} counts for {len(weights)} weights")
        self._own: list[int] = own_active
        self._other: list[int] = other_active
        # Neighbouring seeds must not give neighbouring sequences, and 0 is xorshift's fixed point.
        self._random: i64 = ((seed * 0x9E3779B1) ^ 0x6C62272E) & _WORD or 1
        for _ in range(8):
            self._draw(1)
        self._now: i64 = 0
        self._passes: list[int] = [self._draw(_TURN) for _ in weights]
        self._strides: list[int] = []
        self._eligible: list[int] = []
        self._equal: bool = True
        self._sums: list[int] = []
        self._arrange()

    def set_weights(self, weights: list[int]) -> None:
        """Replace the weights; the turns of ties go on where they were.

        Raises:
            ValueError: another number of members, or a weight out of range.
        """
        super().set_weights(weights)
        self._arrange()

    def pick(self, client: str, tried: list[int]) -> int:
        """Return the member with the fewest connections for its weight, or -1 when every eligible one was tried."""
        if tried:  # a retry is rare: it may cost a look at every member
            return self._least([member for member in self._eligible if member not in tried])
        if len(self._eligible) > SCAN_LIMIT:
            return self._better_of_two()
        return self._least(self._eligible)

    def _least(self, candidates: list[int]) -> int:
        weights = self.weights
        own = self._own
        other = self._other
        passes = self._passes
        best = -1
        best_cost: i64 = 0
        best_weight: i64 = 1
        tied = False
        for member in candidates:
            cost: i64 = own[member]
            more: i64 = other[member]
            weight: i64 = weights[member]
            cost += more + 1
            mine = cost * best_weight
            theirs = best_cost * weight
            if best < 0 or mine < theirs:
                tied = False
            elif mine > theirs:
                continue
            else:
                tied = True
                if passes[member] >= passes[best]:
                    continue
            best = member
            best_cost = cost
            best_weight = weight
        if tied:
            self._charge(best)
        return best

    def _charge(self, member: int) -> None:
        """Count a won tie. Who was long in no tie starts from now: it has no turns to catch up on."""
        passed: i64 = self._passes[member]
        stride: i64 = self._strides[member]
        self._now = max(self._now, passed)
        self._passes[member] = self._now + stride

    def _better_of_two(self) -> int:
        """Draw two distinct members with chances in proportion to their weights, and return the better one."""
        eligible = self._eligible
        if self._equal:
            first = self._draw(len(eligible))
            second = self._draw(len(eligible) - 1)
            if second >= first:
                second += 1
        else:
            sums = self._sums
            first = _position_above(sums, self._draw(sums[-1]))
            before = sums[first - 1] if first else 0
            drawn = self._draw(sums[-1] - sums[first] + before)  # over all but the first one's share
            second = _position_above(sums, drawn if drawn < before else drawn + sums[first] - before)
        one = eligible[first]
        two = eligible[second]
        cost_one = (self._own[one] + self._other[one] + 1) * self.weights[two]
        cost_two = (self._own[two] + self._other[two] + 1) * self.weights[one]
        return one if cost_one <= cost_two else two

    def _draw(self, bound: int) -> int:
        """Return a number in [0, bound), bound ≤ 2**31: xorshift32 (Marsaglia, JSS 2003), scaled by multiplication."""
        state: i64 = self._random
        state ^= (state << 13) & _WORD
        state ^= state >> 17
        state ^= (state << 5) & _WORD
        self._random = state
        limit: i64 = bound
        return (state * limit) >> 32

    def _arrange(self) -> None:
        """Note who is eligible, the strides of ties and, for the random choices, the running sums of the weights."""
        weights = self.weights
        eligible = eligible_members(weights)
        total = sum(weights)
        self._eligible = eligible
        self._equal = all(weights[member] == weights[eligible[0]] for member in eligible)
        self._strides = [_TURN * total // (weight * len(eligible)) if weight else 0 for weight in weights]
        self._sums = []
        if self._equal or len(eligible) <= SCAN_LIMIT:
            return
        shift = 0  # a sum that does not fit the generator is brought down; every share stays at least 1
        while (total >> shift) + len(eligible) > _MAX_SUM:
            shift += 1
        running = 0
        for member in eligible:
            running += max(1, weights[member] >> shift)
            self._sums.append(running)


def _position_above(sums: list[int], drawn: int) -> int:
    """Return the position of the first sum above `drawn`.

    As bisect_right, a call of which through Python objects made a weighted pick among 1,000 cost 600 ns, not 250.
    """
    wanted: i64 = drawn
    low: i64 = 0
    high: i64 = len(sums)
    while low < high:
        middle = (low + high) >> 1
        reached: i64 = sums[middle]
        if wanted < reached:
            high = middle
        else:
            low = middle + 1
    return low
