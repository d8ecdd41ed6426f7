"""Random: of two members drawn by weight, the one with fewer connections for its weight, over all workers.

Hot module: compiled by mypyc, and must do the same when interpreted.
"""

from __future__ import annotations

from lbd.balancing.balancer import Balancer, check_counts, eligible_members
from lbd.balancing.two_choices import WeightedDraws, less_loaded


class RandomChoices(Balancer):
    """Picks the better of two random members: no state but the generator's, at the same cost for any size of pool.

    `own_active` (this worker's connections per member, exact) and `other_active` (the sums of the other workers,
    refreshed from time to time) are the caller's lists: it changes them in place, and they are only read here.
    `seed` feeds the draws; give each worker its own.
    """

    def __init__(self, weights: list[int], own_active: list[int], other_active: list[int], seed: int) -> None:
        super().__init__(weights)
        check_counts(weights, own_active, other_active)
        self._own: list[int] = own_active
        self._other: list[int] = other_active
        self._draws: WeightedDraws = WeightedDraws(seed)
        self._eligible: list[int] = []
        self._arrange()

    def set_weights(self, weights: list[int]) -> None:
        """Replace the weights.

        Raises:
            ValueError: another number of members, or a weight out of range.
        """
        super().set_weights(weights)
        self._arrange()

    def pick(self, client: str, tried: list[int]) -> int:
        """Return the better of two random members, the only one left, or -1 when every eligible one was tried."""
        candidates = self._eligible
        if tried:  # a retry is rare: it may cost a look at every member
            candidates = [member for member in candidates if member not in tried]
        if len(candidates) < 2:
            return candidates[0] if candidates else -1
        one, two = self._draws.pair_of(candidates, self.weights) if tried else self._draws.pair()
        return less_loaded(one, two, self.weights, self._own, self._other)

    def _arrange(self) -> None:
        self._eligible = eligible_members(self.weights)
        self._draws.arrange(self._eligible, self.weights)
