"""Who may use how much of a limit that all workers share. Pure.

The limit is dealt to the workers in shares. The rule that nothing here breaks: the sum of what the workers may use, as
far as anybody can know, never grows above the limit. So a share is lowered first, and raised elsewhere only once the
worker has answered with what it still holds.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Generic, TypeVar

Worker = TypeVar("Worker", bound=Hashable)


class OrderKind(StrEnum):
    """What a worker is told."""

    SHARE = "share"
    """From now on `amount` is its share; it answers with what it holds."""
    RECALL = "recall"
    """Others want `amount`: give up what is not used; it answers with what it holds."""
    EXHAUSTED = "exhausted"
    """Nothing is left for what it wanted. Not answered."""


@dataclass(frozen=True, slots=True)
class Order(Generic[Worker]):
    """Something to tell `worker`. Its answer bears the same `number`.

    Of a recall: `fair` is a share that nobody who needs it has to give up, and `standing` says that the worker shall
    also give up what it ceases to use later.
    """

    worker: Worker
    number: int
    kind: OrderKind
    amount: int = 0
    fair: int = 0
    standing: bool = False


@dataclass(slots=True)
class _Holding:
    """A worker's part: `ceiling` is the most that it may hold now (None: unknown), `share` what it was told last."""

    ceiling: int | None
    share: int = 0
    number: int = 0
    answered: int = 0
    present: bool = False
    """It has said something: it can answer."""
    dealt: bool = False
    """It has got its part of what was free when it came."""
    wanted: int = 0
    patient: bool = False
    awaited: dict[object, int] = field(default_factory=dict)
    """Others who were asked to give something up for this one, and the numbers of the orders they have to answer."""
    owed: int = 0
    """What it was asked to give up, and has not."""

    @property
    def settled(self) -> bool:
        """Whether it has answered everything."""
        return self.number == self.answered


class Lease(Generic[Worker]):
    """The shares of one limit. Every method returns the orders that have to be sent, in this order.

    `next_number` gives each order a number that none had before; `places` is how many workers there should be.
    """

    def __init__(self, limit: int, places: int, next_number: Callable[[], int]) -> None:
        self._limit = limit
        self._places = places
        self._next_number = next_number
        self._holdings: dict[Worker, _Holding] = {}

    @property
    def limit(self) -> int:
        """What all workers together may use."""
        return self._limit

    @property
    def ceilings(self) -> dict[Worker, int | None]:
        """The most that each worker may hold now; None where it has not said yet."""
        return {worker: holding.ceiling for worker, holding in self._holdings.items()}

    def join(self, worker: Worker, *, fresh: bool) -> list[Order[Worker]]:
        """A worker takes part. `fresh`: it holds nothing yet; else it is asked what it holds, and nobody gets more
        until it has answered."""
        holding = self._holdings[worker] = _Holding(0 if fresh else None)
        return [] if fresh else [self._tell(worker, holding, 0)]

    def leave(self, worker: Worker) -> list[Order[Worker]]:
        """A worker has ended, and with it all that it held."""
        if self._holdings.pop(worker, None) is None:
            return []
        for other in self._holdings.values():
            other.awaited.pop(worker, None)
        return self._settle() + self._tell_exhausted()

    def set_limit(self, limit: int) -> list[Order[Worker]]:
        """Change the limit; a lower one is reached as the workers cease to use what is above it."""
        self._limit = limit
        return self._settle() + self._tell_exhausted()

    def want(self, worker: Worker, wanted: int, *, patient: bool) -> list[Order[Worker]]:
        """A worker wants so much more than its share. Who is `patient` gets it whenever it is free, the others get
        what is free or can be recalled now."""
        holding = self._holdings.get(worker)
        if holding is None:
            return []
        holding.present = True
        holding.wanted, holding.patient = wanted, patient
        holding.awaited.clear()
        orders = self._settle()
        if holding.wanted:
            orders += self._recall_for(worker, holding)
            orders += self._tell_exhausted()
        elif not any(each.wanted for each in self._holdings.values()):
            orders += self._end_recalls()
        return orders

    def answer(self, worker: Worker, number: int, share: int, held: int) -> list[Order[Worker]]:
        """A worker says what its share is and what it holds, after the order of this number; also later, when it holds
        less. An answer to an older order than its last one says nothing about now."""
        holding = self._holdings.get(worker)
        if holding is None:
            return []
        holding.present = True
        for other in self._holdings.values():
            if other.awaited.get(worker, number + 1) <= number:
                del other.awaited[worker]
        if number == holding.number:
            before = holding.ceiling
            holding.answered = number
            holding.share = share
            holding.ceiling = max(share, held)
            if before is not None:
                holding.owed = max(0, holding.owed - max(0, before - holding.ceiling))
        return self._settle() + self._tell_exhausted()

    def _settle(self) -> list[Order[Worker]]:
        """Bring shares down to the limit, or deal what is free."""
        ceilings = [holding.ceiling for holding in self._holdings.values()]
        known = [ceiling for ceiling in ceilings if ceiling is not None]
        if len(known) < len(ceilings):
            return []
        free = self._limit - sum(known)
        if free < 0:
            return self._shrink()
        orders: list[Order[Worker]] = []
        for worker, holding in self._holdings.items():
            assert holding.ceiling is not None
            if holding.share < holding.ceiling and holding.settled:  # it was told to shrink, and has
                orders.append(self._tell(worker, holding, holding.ceiling))
        orders += self._deal_to_new(free)
        return orders + self._grant()

    def _shrink(self) -> list[Order[Worker]]:
        """More may be in use than the limit: nobody gets a place until enough were given up."""
        orders: list[Order[Worker]] = []
        for worker, holding in self._holdings.items():
            if holding.share > 0:
                holding.dealt = False
                orders.append(self._tell(worker, holding, 0))
        return orders

    def _free(self) -> int:
        return self._limit - sum(holding.ceiling or 0 for holding in self._holdings.values())

    def _deal_to_new(self, free: int) -> list[Order[Worker]]:
        """Give those who have just come, or were just brought down, an even part."""
        new = [
            (worker, holding)
            for worker, holding in self._holdings.items()
            if holding.present and holding.settled and not holding.dealt
        ]
        orders: list[Order[Worker]] = []
        for position, (worker, holding) in enumerate(new):
            assert holding.ceiling is not None
            holding.dealt = True
            even = -(-self._limit // self._places)
            amount = min(-(-free // (len(new) - position)), max(0, even - holding.ceiling))
            if amount > 0:
                free -= amount
                orders.append(self._tell(worker, holding, holding.ceiling + amount))
        return orders

    def _grant(self) -> list[Order[Worker]]:
        """Give what is free to those who want it; who is alone gets half of the rest too, so that it need not ask for
        each."""
        wanting = [(worker, holding) for worker, holding in self._holdings.items() if holding.wanted]
        orders: list[Order[Worker]] = []
        free = self._free()
        for position, (worker, holding) in enumerate(wanting):
            assert holding.ceiling is not None
            part = -(-free // (len(wanting) - position))
            amount = min(holding.wanted, part)
            if len(wanting) == 1:
                amount = max(amount, (free + 1) // 2)
            if amount <= 0:
                continue
            free -= amount
            holding.wanted = max(0, holding.wanted - amount)
            orders.append(self._tell(worker, holding, holding.ceiling + amount))
        if orders and not any(holding.wanted for holding in self._holdings.values()):
            orders += self._end_recalls()
        return orders

    def _recall_for(self, wanting: Worker, holding: _Holding) -> list[Order[Worker]]:
        """Ask everybody else who can answer to give up what is not used."""
        orders: list[Order[Worker]] = []
        total = sum(each.wanted for each in self._holdings.values())
        for worker, other in self._holdings.items():
            if worker == wanting or not other.present or not other.ceiling:
                continue
            if other.owed >= total:  # it knows
                if not other.settled:
                    holding.awaited[worker] = other.number
                continue
            other.number = self._next_number()
            other.owed = total if holding.patient else 0
            holding.awaited[worker] = other.number
            fair = -(-self._limit // self._places)
            orders.append(Order(worker, other.number, OrderKind.RECALL, total, fair, holding.patient))
        return orders

    def _end_recalls(self) -> list[Order[Worker]]:
        """Nobody wants anything any more."""
        orders: list[Order[Worker]] = []
        for worker, holding in self._holdings.items():
            if holding.owed:
                holding.owed = 0
                holding.number = self._next_number()
                orders.append(Order(worker, holding.number, OrderKind.RECALL))
        return orders

    def _tell_exhausted(self) -> list[Order[Worker]]:
        """Tell those for whom everybody has been asked in vain; who is not patient asks anew if he wants to."""
        orders: list[Order[Worker]] = []
        if any(holding.ceiling is None for holding in self._holdings.values()):
            return orders
        for worker, holding in self._holdings.items():
            if holding.wanted and not holding.awaited and holding.settled:
                orders.append(Order(worker, holding.number, OrderKind.EXHAUSTED))
                if not holding.patient:
                    holding.wanted = 0
        return orders

    def _tell(self, worker: Worker, holding: _Holding, share: int) -> Order[Worker]:
        holding.number = self._next_number()
        holding.share = share
        if holding.ceiling is not None:
            holding.ceiling = max(holding.ceiling, share)
        return Order(worker, holding.number, OrderKind.SHARE, share)
