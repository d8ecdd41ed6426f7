"""Least connections: the member with the fewest connections for its weight, over all workers.

Hot module: compiled by mypyc, and must do the same when interpreted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from lbd.balancing.balancer import Balancer, check_counts, eligible_members
from lbd.balancing.two_choices import WeightedDraws, less_loaded

if TYPE_CHECKING:
    from mypy_extensions import i64

SCAN_LIMIT: Final = 64
"""Up to this many eligible members all are compared. Above it two random ones are: the cost of a pick stays constant,
and workers that see counts up to 10 ms old don't all run to the same member."""

_TURN: Final = 1 << 16
"""An average turn, in the unit of `_passes`: 2**46 turns fit, forty years of 50,000 connections a second."""


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
        check_counts(weights, own_active, other_active)
        self._own: list[int] = own_active
        self._other: list[int] = other_active
        self._draws: WeightedDraws = WeightedDraws(seed)
        self._now: i64 = 0
        self._passes: list[int] = [self._draws.draw(_TURN) for _ in weights]
        self._strides: list[int] = []
        self._eligible: list[int] = []
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
            one, two = self._draws.pair()
            return less_loaded(one, two, self.weights, self._own, self._other)
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

    def _arrange(self) -> None:
        """Note who is eligible, the strides of ties and, for the random choices, whom to draw from."""
        weights = self.weights
        eligible = eligible_members(weights)
        total = sum(weights)
        self._eligible = eligible
        self._strides = [_TURN * total // (weight * len(eligible)) if weight else 0 for weight in weights]
        if len(eligible) > SCAN_LIMIT:
            self._draws.arrange(eligible, weights)
