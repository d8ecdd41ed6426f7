"""What every balancing algorithm offers the relay.

Hot module: compiled by mypyc, and must do the same when interpreted. The hot modules import `i64` for the type checker
only, so lbd does not depend on mypy_extensions at run time; `MAX_WEIGHT` bounds every value that goes through one.
"""

from __future__ import annotations

from typing import Final

MAX_WEIGHT: Final = 1 << 30
"""Largest weight taken: with 65,535 members every sum and product of the algorithms stays under 2**63."""


def checked_weights(weights: list[int]) -> list[int]:
    """Return a copy of `weights`, so that what the caller does to its list later changes nothing here.

    Raises:
        ValueError: a weight is negative or above `MAX_WEIGHT`.
    """
    for weight in weights:
        if not 0 <= weight <= MAX_WEIGHT:
            raise ValueError(f"{weight} is not a weight (0-{MAX_WEIGHT})")
    return list(weights)


def check_counts(weights: list[int], *counts: list[int]) -> None:
    """Check that each list of connection counts has one for each weight.

    Raises:
        ValueError: one is longer or shorter.
    """
    for each in counts:
        if len(each) != len(weights):
            raise ValueError(f"{' and '.join(str(len(one)) for one in counts)} counts for {len(weights)} weights")


def eligible_members(weights: list[int]) -> list[int]:
    """Return the positions of the members whose weight is not 0, ascending."""
    return [member for member in range(len(weights)) if weights[member] > 0]


class Balancer:
    """Picks a member of one pool for each new connection. One per worker and virtual service; not shared by threads.

    `weights[i]` is the effective weight of the member at position `i` of the pool; 0 means not eligible now. Only
    the ratios matter. Change them through `set_weights` only. `now_ms` is the monotonic time; the relay sets it before
    it asks for a pick.
    """

    def __init__(self, weights: list[int]) -> None:
        self.weights: list[int] = checked_weights(weights)
        self.now_ms: int = 0

    def set_weights(self, weights: list[int]) -> None:
        """Replace the weights: a member went up or down, or slow start ticked. What was learnt so far is kept.

        Raises:
            ValueError: another number of members (that needs a new balancer), or a weight out of range.
        """
        if len(weights) != len(self.weights):
            raise ValueError(f"{len(weights)} weights for a pool of {len(self.weights)} members")
        self.weights = checked_weights(weights)

    def observe(self, member: int, connect_us: int, now_ms: int) -> None:
        """Learn that connecting to a member took so long. Here: nothing is learnt from it."""

    def pick(self, client: str, tried: list[int]) -> int:
        """Return the position of the member for a new connection, or -1 when every eligible one was tried.

        `client` is the source address as text; `tried` are the members already attempted for this connection.
        """
        # No abstract method: a service without a pool yet holds a plain Balancer, which nobody asks for a member.
        raise NotImplementedError("Balancer is a base: use one of the algorithms")
