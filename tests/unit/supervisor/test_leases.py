"""A limit that workers share is never exceeded, and all of it can be used wherever it is wanted."""

from __future__ import annotations

import itertools
from collections import deque

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lbd.supervisor.leases import Lease, Order, OrderKind


class Played:
    """A worker as the protocol sees it: it uses what its share allows, and says what it holds."""

    def __init__(self, name: str, used: int = 0, *, patient: bool = False) -> None:
        self.name = name
        self.patient = patient
        self.share = 0
        self.used = used
        self.waiting = 0
        self.number = 0
        self.owed = 0
        self.refused = 0
        self.inbox: deque[Order[Played]] = deque()

    def use(self) -> bool:
        """A client comes: it gets a place, or waits."""
        if self.used < self.share and not self.waiting:
            self.used += 1
            return True
        self.waiting += 1
        return False

    def carry_out(self, order: Order[Played]) -> bool:
        """Do what the supervisor says; return whether that wants an answer."""
        if order.kind is OrderKind.EXHAUSTED:
            if not self.patient:
                self.refused += self.waiting
                self.waiting = 0
            return False
        self.number = order.number
        if order.kind is OrderKind.SHARE:
            self.share = order.amount
            admitted = max(0, min(self.waiting, self.share - self.used))
            self.used += admitted
            self.waiting -= admitted
            back = 0 if self.waiting else max(0, min(self.owed, self.share - self.used))
            self.share -= back
            self.owed -= back
        elif order.amount:
            unused = 0 if self.waiting else max(0, self.share - self.used)
            given_up = min(unused, max(order.amount, unused // 2))
            self.share -= given_up
            self.owed = max(0, order.amount - given_up) if order.standing else 0
        else:
            self.owed = 0
        return True

    @property
    def held(self) -> int:
        return max(self.share, self.used)


class World:
    """A supervisor's lease, workers, and the messages under way between them, each in its order."""

    def __init__(self, limit: int, places: int) -> None:
        numbers = itertools.count(1)
        self.lease: Lease[Played] = Lease(limit, places, lambda: next(numbers))
        self.workers: list[Played] = []
        self.answers: dict[Played, deque[tuple[int, ...]]] = {}

    def send(self, orders: list[Order[Played]]) -> None:
        for order in orders:
            order.worker.inbox.append(order)

    def add(self, name: str, *, used: int = 0, fresh: bool = True, patient: bool = False) -> Played:
        worker = Played(name, used, patient=patient)
        self.workers.append(worker)
        self.answers[worker] = deque()
        self.send(self.lease.join(worker, fresh=fresh))
        self.want(worker)
        return worker

    def want(self, worker: Played) -> None:
        self.answers[worker].append((worker.waiting,))

    def say(self, worker: Played) -> None:
        self.answers[worker].append((worker.number, worker.share, worker.held))

    def end_one(self, worker: Played) -> None:
        """A connection of a worker ends."""
        worker.used -= 1
        if worker.waiting and worker.used < worker.share:
            worker.waiting -= 1
            worker.used += 1
        elif worker.owed and worker.share > worker.used:
            worker.owed -= 1
            worker.share -= 1
            self.say(worker)
        elif worker.used >= worker.share:
            self.say(worker)

    def kill(self, worker: Played) -> None:
        self.workers.remove(worker)
        del self.answers[worker]
        self.send(self.lease.leave(worker))

    def deliver_order(self, worker: Played) -> None:
        if worker.inbox and worker.carry_out(worker.inbox.popleft()):
            self.say(worker)

    def deliver_answer(self, worker: Played) -> None:
        if not self.answers[worker]:
            return
        said = self.answers[worker].popleft()
        if len(said) == 1:
            self.send(self.lease.want(worker, said[0], patient=worker.patient))
        else:
            number, share, held = said
            self.send(self.lease.answer(worker, number, share, held))

    def settle(self) -> None:
        """Deliver everything that is under way."""
        for _ in range(10_000):
            busy = [worker for worker in self.workers if worker.inbox or self.answers[worker]]
            if not busy:
                return
            for worker in busy:
                self.deliver_order(worker)
                self.deliver_answer(worker)
        raise AssertionError("the protocol does not come to rest")

    @property
    def used(self) -> int:
        return sum(worker.used for worker in self.workers)

    @property
    def held(self) -> int:
        return sum(worker.held for worker in self.workers)

    @property
    def ceiling(self) -> int:
        return sum(ceiling or 0 for ceiling in self.lease.ceilings.values())


def test_a_new_limit_is_dealt_evenly() -> None:
    world = World(10, 3)
    for name in "abc":
        world.add(name)
    world.settle()
    assert sorted(worker.share for worker in world.workers) == [2, 4, 4]


@pytest.mark.parametrize("limit", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("patient", [False, True])
def test_one_worker_can_use_all_of_a_limit(limit: int, patient: bool) -> None:
    world = World(limit, 3)
    busy, *_ = (world.add(name, patient=patient) for name in "abc")
    world.settle()
    for _ in range(2 * limit):
        busy.use()
        world.want(busy)
        world.settle()
    assert busy.used == limit
    assert busy.refused == (0 if patient else limit)
    assert busy.waiting == (limit if patient else 0)


def test_a_freed_place_reaches_who_waits_in_another_worker() -> None:
    world = World(2, 2)
    one, other = world.add("a", patient=True), world.add("b", patient=True)
    world.settle()
    assert one.use()
    assert other.use()
    assert not one.use()
    world.want(one)
    world.settle()
    world.end_one(other)
    world.settle()
    assert (one.used, one.waiting, other.used) == (2, 0, 0)


def test_nobody_gets_anything_while_a_worker_has_not_said_what_it_holds() -> None:
    world = World(10, 2)
    old = world.add("a", used=8, fresh=False)
    new = world.add("b", used=1, fresh=False)
    world.deliver_answer(new)
    world.deliver_order(new)
    world.deliver_answer(new)
    assert new.share == 0
    assert not new.use()
    world.settle()
    assert new.used + old.used <= 10
    assert new.used == 2


def test_a_lowered_limit_is_reached_as_connections_end_and_no_sooner() -> None:
    world = World(10, 2)
    one, other = world.add("a", patient=True), world.add("b", patient=True)
    world.settle()
    for worker in (one, other):
        for _ in range(5):
            assert worker.use()
    world.send(world.lease.set_limit(6))
    world.settle()
    assert world.used == 10, "nobody is ended"
    for _ in range(4):
        assert not one.use()
        world.end_one(other)
        world.want(one)
        world.settle()
    assert world.used == 6
    world.end_one(other)
    world.settle()
    assert (one.used, other.used) == (6, 0)


def test_a_share_that_was_lowered_is_free_only_once_the_worker_has_answered() -> None:
    world = World(10, 2)
    one, other = world.add("a"), world.add("b")
    world.settle()
    for _ in range(5):
        assert one.use()
    world.send(world.lease.set_limit(6))
    for _ in range(4):
        world.deliver_order(other)
        world.deliver_answer(other)
        assert other.share <= 1, "the first one may still use 5: it has not said"
    world.settle()
    assert one.share + other.share == 6
    assert one.share >= 5


def test_a_lowered_limit_with_room_leaves_everybody_room() -> None:
    world = World(100, 2)
    one, other = world.add("a"), world.add("b")
    world.settle()
    assert one.use()
    world.send(world.lease.set_limit(50))
    world.settle()
    assert world.held <= 50
    assert min(one.share, other.share) >= 20


def test_what_a_dead_worker_held_is_free_at_once() -> None:
    world = World(4, 2)
    one, other = world.add("a", patient=True), world.add("b", patient=True)
    world.settle()
    for worker in (one, other):
        assert worker.use()
        assert worker.use()
    assert not one.use()
    assert not one.use()
    world.want(one)
    world.settle()
    assert one.used == 2
    world.kill(other)
    world.settle()
    assert one.used == 4


def test_an_answer_to_an_order_that_another_one_has_overtaken_changes_nothing() -> None:
    numbers = itertools.count(1)
    lease: Lease[str] = Lease(10, 2, lambda: next(numbers))
    lease.join("a", fresh=True)
    (first,) = lease.want("a", 0, patient=False)
    (second,) = lease.want("a", 3, patient=False)
    assert second.amount > first.amount
    lease.answer("a", first.number, 0, 0)
    assert lease.ceilings["a"] == second.amount


ACTIONS = st.sampled_from(
    ["use", "end", "order", "answer", "order", "answer", "kill", "add", "limit", "late", "cancel"]
)


@settings(max_examples=400, deadline=None)
@given(
    limit=st.integers(1, 12),
    places=st.integers(1, 4),
    patient=st.lists(st.booleans(), min_size=4, max_size=4),
    steps=st.lists(st.tuples(ACTIONS, st.integers(0, 11)), max_size=120),
)
def test_whatever_happens_in_whatever_order_the_limit_holds(
    limit: int, places: int, patient: list[bool], steps: list[tuple[str, int]]
) -> None:
    """What is used never grows above the limit; above a lowered one it only shrinks. At rest nobody waits in vain."""
    world = World(limit, places)
    for name in range(places):
        world.add(str(name), patient=patient[name])
    for action, number in steps:
        before = world.ceiling
        worker = world.workers[number % len(world.workers)]
        if action == "use":
            worker.use()
            world.want(worker)
        elif action == "end" and worker.used:
            world.end_one(worker)
        elif action == "order":
            world.deliver_order(worker)
        elif action == "answer":
            world.deliver_answer(worker)
        elif action == "kill" and len(world.workers) > 1:
            world.kill(worker)
        elif action == "add" and len(world.workers) < places:
            world.add("new", patient=patient[number % 4])
        elif action == "limit":
            world.send(world.lease.set_limit(number + 1))
        elif action == "cancel":
            worker.waiting = 0
            world.want(worker)
        assert world.ceiling <= max(world.lease.limit, before), "what may be held grows only within the limit"
        assert world.used <= world.held <= world.ceiling, "and it is no less than what is"
    world.settle()
    for worker in world.workers:
        world.want(worker)
    world.settle()
    hungry = [worker for worker in world.workers if worker.waiting]
    assert all(worker.patient for worker in hungry)
    if hungry:
        assert world.used >= world.lease.limit, "all of the limit is used before anybody waits"
