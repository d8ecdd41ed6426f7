"""Consistent hashing with bounded loads: a client's own member, as long as that has no more than its share and some.

Mirrokni, Thorup and Zadimoghaddam, "Consistent Hashing with Bounded Loads", SODA 2018 (arXiv 1608.01350, 2016).

Hot module: compiled by mypyc, and must do the same when interpreted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from lbd.balancing.balancer import check_counts
from lbd.balancing.consistent_hash import MAX_PROBES, ConsistentHash, client_hash, highest_random, step_hash

if TYPE_CHECKING:
    from mypy_extensions import i64

MIN_LOAD_PERCENT: Final = 100.0
"""Below it all members together could take less than what there is."""


class BoundedHash(ConsistentHash):
    """Picks as `ConsistentHash`, but passes over a member that would have more than its bound with this connection.

    The bound is max_load_percent / 100 x (the active connections of all eligible members + 1) x the member's share of
    their weights, rounded up. Who is at the bound is passed over as who is not eligible: by the client's own sequence.
    So without an overload every client is where plain consistent hashing has it, and few clients are elsewhere else.

    `own_active` (this worker's connections per member, exact) and `other_active` (the sums of the other workers,
    refreshed from time to time) are the caller's lists: it changes them in place, and they are only read here; the
    bound holds for what they say. A retry whose members left are all at the bound gets one of them all the same.
    """

    def __init__(
        self,
        weights: list[int],
        table: memoryview,
        own_active: list[int],
        other_active: list[int],
        max_load_percent: float,
    ) -> None:
        super().__init__(weights, table)
        check_counts(weights, own_active, other_active)
        if max_load_percent < MIN_LOAD_PERCENT:
            raise ValueError(f"{max_load_percent} is not a bound: it is at least {MIN_LOAD_PERCENT} per cent")
        self._own: list[int] = own_active
        self._other: list[int] = other_active
        self._percent: float = max_load_percent
        self._all_weights: float = float(sum(self.weights))

    def set_weights(self, weights: list[int]) -> None:
        """Replace the weights: 0 or not 0 says who is eligible, their ratios the shares.

        Raises:
            ValueError: another number of members, or a weight out of range.
        """
        super().set_weights(weights)
        self._all_weights = float(sum(self.weights))

    def pick(self, client: str, tried: list[int]) -> int:
        """Return the client's member, or its next choice below the bound; -1 when every eligible one was tried."""
        member = super().pick(client, tried)
        if member < 0:
            return -1
        allowed = self._percent * (self._load() + 1)
        if self._fits(member, allowed):
            return member
        return self._next_below(client, member, tried, allowed)

    def _load(self) -> int:
        """Return the active connections of all eligible members."""
        own = self._own
        other = self._other
        total: i64 = 0
        for member in self._eligible:
            mine: i64 = own[member]
            theirs: i64 = other[member]
            total += mine + theirs
        return total

    def _fits(self, member: int, allowed: float) -> bool:
        """Return whether load + 1 <= ceil(bound), which for whole numbers is load < bound.

        Multiplied out, so that both sides are whole numbers, and exact below 2**53.
        """
        load = self._own[member] + self._other[member]
        return load * 100.0 * self._all_weights < allowed * self.weights[member]

    def _next_below(self, client: str, full: int, tried: list[int], allowed: float) -> int:
        """Walk on as `ConsistentHash` does, to the first member that is eligible, not tried, and below the bound."""
        hashed = step_hash(client)
        table = self._table
        size = self._size
        slot = client_hash(client) % size
        step = hashed % (size - 1) + 1
        for _ in range(MAX_PROBES):
            slot += step
            if slot >= size:
                slot -= size
            member: int = table[slot]
            if self.weights[member] > 0 and self._fits(member, allowed) and not (tried and member in tried):
                return member
        candidates = [m for m in self._eligible if self._fits(m, allowed) and not (tried and m in tried)]
        return highest_random(hashed, candidates) if candidates else full
