"""Two choices: draw two members by weight, take the one with less to do for its weight.

Mitzenmacher, "The Power of Two Choices in Randomized Load Balancing", IEEE TPDS 2001: the fullest member is nearly as
full as the average, at a constant cost a pick; and workers whose counts are a little old don't all run to the same
member.

Hot module: compiled by mypyc, and must do the same when interpreted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from mypy_extensions import i64

_WORD: Final = 0xFFFFFFFF
_MAX_SUM: Final = 1 << 31


class WeightedDraws:
    """Draws pairs of distinct members at random, each with a chance in proportion to its weight.

    The same seed gives the same draws, in both forms; give each worker its own.
    """

    def __init__(self, seed: int) -> None:
        # Neighbouring seeds must not give neighbouring sequences, and 0 is xorshift's fixed point.
        self._random: i64 = ((seed * 0x9E3779B1) ^ 0x6C62272E) & _WORD or 1
        self._members: list[int] = []
        self._sums: list[int] = []
        for _ in range(8):
            self.draw(1)

    def arrange(self, members: list[int], weights: list[int]) -> None:
        """Say whom `pair` draws from: positions in `weights`, none of them of weight 0."""
        self._members = members
        self._sums = running_sums(members, weights)

    def draw(self, bound: int) -> int:
        """Return a number in [0, bound), bound ≤ 2**31: xorshift32 (Marsaglia, JSS 2003), scaled by multiplication."""
        state: i64 = self._random
        state ^= (state << 13) & _WORD
        state ^= state >> 17
        state ^= (state << 5) & _WORD
        self._random = state
        limit: i64 = bound
        return (state * limit) >> 32

    def pair(self) -> tuple[int, int]:
        """Return two of the arranged members, of which there must be two."""
        return self._pair(self._members, self._sums)

    def pair_of(self, members: list[int], weights: list[int]) -> tuple[int, int]:
        """Return two of other members than the arranged ones, at the cost of a look at each: for a retry."""
        return self._pair(members, running_sums(members, weights))

    def _pair(self, members: list[int], sums: list[int]) -> tuple[int, int]:
        if not sums:
            first = self.draw(len(members))
            second = self.draw(len(members) - 1)
            if second >= first:
                second += 1
        else:
            first = position_above(sums, self.draw(sums[-1]))
            before = sums[first - 1] if first else 0
            drawn = self.draw(sums[-1] - sums[first] + before)  # over all but the first one's share
            second = position_above(sums, drawn if drawn < before else drawn + sums[first] - before)
        return members[first], members[second]


def running_sums(members: list[int], weights: list[int]) -> list[int]:
    """Return the running sums of the members' weights, or nothing where all weights are equal.

    A sum that does not fit the generator is brought down; every share stays at least 1.
    """
    total = 0
    equal = True
    for member in members:
        total += weights[member]
        if weights[member] != weights[members[0]]:
            equal = False
    sums: list[int] = []
    if equal:
        return sums
    shift = 0
    while (total >> shift) + len(members) > _MAX_SUM:
        shift += 1
    running = 0
    for member in members:
        running += max(1, weights[member] >> shift)
        sums.append(running)
    return sums


def position_above(sums: list[int], drawn: int) -> int:
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


def less_loaded(one: int, two: int, weights: list[int], own: list[int], other: list[int]) -> int:
    """Return the member with the lower (own + other + 1) / weight, the first one of equals.

    Compared by cross-multiplication, in integers: `MAX_WEIGHT` keeps the products in 63 bits.
    """
    weight_one: i64 = weights[one]
    weight_two: i64 = weights[two]
    cost_one: i64 = own[one]
    cost_two: i64 = own[two]
    more_one: i64 = other[one]
    more_two: i64 = other[two]
    return one if (cost_one + more_one + 1) * weight_two <= (cost_two + more_two + 1) * weight_one else two
