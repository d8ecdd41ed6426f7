"""Round robin: smooth weighted turns, and a plain rotation while all eligible weights are equal.

Hot module: compiled by mypyc, and must do the same when interpreted.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from lbd.balancing.balancer import Balancer, eligible_members

if TYPE_CHECKING:
    from mypy_extensions import i64

RESOLUTION: Final = 1024
"""Credit units per unit of weight. Other weights convert the credits, which rounds by at most one unit: the 300 ticks
of a 30 s slow start, on weights scaled by 100, shift a member by less than a hundredth of a turn."""

_MAX_TICKS: Final = 1 << 16


class SmoothTurns:
    """Smooth weighted turns, as nginx's round robin gives them (commit 52327e0627f4, 2012).

    At each turn every candidate gains its weight as credit; the richest, the first one of equals, takes the turn and
    pays what all gained. So the sum of credits never changes, over a full cycle turns are exactly proportional to
    weights, and a heavy member's turns are spread out: 5, 1, 1 gives a a b a c a a.

    What a member gained is not written down at each turn: it is its weight times the number of turns. That halves the
    cost, for a store makes a new integer object. A member that is no candidate neither gains nor pays: it comes back
    owed, or owing, what it was when it left.
    """

    def __init__(self, weights: list[int]) -> None:
        self._credits: list[int] = [0] * len(weights)
        self._gains: list[int] = [weight * RESOLUTION for weight in weights]
        self._price: i64 = sum(self._gains)
        self._ticks: i64 = 0

    def set_weights(self, weights: list[int]) -> None:
        """Go on with other weights: each member stays owed the same number of turns, whose price is the sum of the
        weights. With all weights 0 the last price that was not 0 stays the unit.
        """
        self.settle()
        self._gains = [weight * RESOLUTION for weight in weights]
        price = sum(self._gains)
        before: int = self._price
        if price == 0:
            return
        if price != before and before != 0:
            half = before // 2
            self._credits = [(credit * price + half) // before for credit in self._credits]
        self._price = price

    def settle(self) -> list[int]:
        """Write down what was gained since the last time, and return the credits; the caller may change them."""
        ticks: int = self._ticks
        if ticks:
            self._ticks = 0
            for member, gain in enumerate(self._gains):
                self._credits[member] += gain * ticks
        return self._credits

    def take(self, eligible: list[int]) -> int:
        """Return the one of `eligible` (all those with a weight, and at least one) whose turn it is."""
        if self._ticks >= _MAX_TICKS:
            self.settle()
        owed = self._credits
        gains = self._gains
        ticks = self._ticks + 1
        best = -1
        best_credit: i64 = 0
        for member in eligible:
            gain: i64 = gains[member]
            credit: i64 = owed[member]
            credit += gain * ticks
            if best < 0 or credit > best_credit:
                best = member
                best_credit = credit
        self._ticks = ticks
        credit = owed[best]
        owed[best] = credit - self._price
        return best

    def take_from(self, left: list[int]) -> int:
        """Return the one of some of the eligible members whose turn it is, for a retry.

        The turn is shared by these alone at its usual price: at a lower one, whoever often takes the turns of a
        failing member would get more than its share.
        """
        owed = self.settle()
        gains = self._gains
        price: int = self._price
        gained_by_all = sum([gains[member] for member in left])
        best = left[0]
        paid = 0
        for member in left:
            gain = gains[member] * price // gained_by_all
            paid += gain
            owed[member] += gain
            if owed[member] > owed[best]:
                best = member
        owed[best] -= paid
        return best


class RoundRobin(Balancer):
    """Members in turn, in proportion to their weights.

    Equal weights, the usual case, need no arithmetic: smooth turns between equals are a rotation through the members
    in the order of their credits, so a pick is one step on a list. The credits are brought up to date only when the
    weights change, so changing them, however often, loses no state.

    `start` (the worker's index) is how many turns this worker is ahead, so that N workers don't all begin with the
    same member. It holds until the first pick: members that become eligible one by one at start don't defeat it.
    """

    def __init__(self, weights: list[int], start: int) -> None:
        super().__init__(weights)
        self._start: int = start
        self._begun: bool = False
        self._turns: SmoothTurns = SmoothTurns(self.weights)
        self._order: list[int] = []
        self._position: int = 0
        self._equal: bool = True
        self._arrange()
        self._skip_start()

    def set_weights(self, weights: list[int]) -> None:
        """Replace the weights. Each member stays owed the same number of turns, also while it is not eligible.

        Raises:
            ValueError: another number of members, or a weight out of range.
        """
        before = self.weights
        super().set_weights(weights)
        if self.weights == before:
            return
        if self._begun:
            self._settle(before)
            self._turns.set_weights(self.weights)
            self._arrange()
        else:
            self._turns = SmoothTurns(self.weights)
            self._arrange()
            self._skip_start()

    def pick(self, client: str, tried: list[int]) -> int:
        """Return the member whose turn it is, or -1 when every eligible one was tried."""
        self._begun = True
        order = self._order
        if not self._equal:
            if not tried:
                return self._turns.take(order)
            left = [member for member in order if member not in tried]
            return self._turns.take_from(left) if left else -1
        position = self._position
        if position >= len(order):
            return -1
        member = order[position]
        if tried and member in tried:
            return self._pick_past(tried)
        position += 1
        self._position = 0 if position == len(order) else position
        return member

    def _pick_past(self, tried: list[int]) -> int:
        """Pick in a rotation whose next member was tried: that one stays next for the connections after this."""
        order = self._order
        count = len(order)
        position = self._position
        for step in range(1, count):
            rank = (position + step) % count
            member = order[rank]
            if member in tried:
                continue
            order.pop(rank)
            if rank > position:
                order.insert(position, member)
                self._position = (position + 1) % count
            else:  # every member with a turn left was tried: this one is served twice and goes behind the served ones
                order.insert(position - 1, member)
            return member
        return -1

    def _arrange(self) -> None:
        """Put the eligible members in the order of their turns, as the credits say."""
        weights = self.weights
        order = eligible_members(weights)
        self._equal = not order or all(weights[member] == weights[order[0]] for member in order)
        if self._equal:
            owed = self._turns.settle()
            order = [entry[1] for entry in sorted([(-owed[member], member) for member in order])]
        self._order = order
        self._position = 0

    def _settle(self, weights: list[int]) -> None:
        """Bring the credits up to date with the steps of the rotation made under `weights`, the ones until now."""
        if not self._equal or not self._order:
            return
        owed = self._turns.settle()
        gain = weights[self._order[0]] * RESOLUTION
        price = gain * len(self._order)
        for rank, member in enumerate(self._order):
            owed[member] += self._position * gain - (price if rank < self._position else 0)

    def _skip_start(self) -> None:
        if self._equal:
            self._position = self._start % len(self._order) if self._order else 0
            return
        for _ in range(self._start % sum(self.weights)):
            self._turns.take(self._order)
