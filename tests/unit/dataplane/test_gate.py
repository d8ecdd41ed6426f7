"""What a worker does with its shares of a service's limits. Those who wait are the lab's business (tests/lab)."""

from __future__ import annotations

import socket
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from lbd.dataplane import counters
from lbd.dataplane.hot.arrival import Arrival
from lbd.dataplane.hot.client_limits import ClientLimits
from lbd.dataplane.hot.lane import Lane
from lbd.dataplane.hot.limits import (
    ADMITTED,
    CONNECTION_RATE,
    MAX_CONNECTIONS,
    MAX_CONNECTIONS_PER_CLIENT,
    ONE_CONNECTION,
    WAIT,
    Gate,
)
from lbd.dataplane.hot.line import LEFT_AT_MOST, Line
from lbd.dataplane.hot.pair import Side
from lbd.dataplane.hot.quota import ASK_AGAIN_MS, EXHAUSTED_MS, Desk, Quota
from lbd.dataplane.hot.rate import Rate
from lbd.dataplane.hot.reactor import Reactor
from lbd.dataplane.hot.relay import Relay
from lbd.dataplane.hot.service import Service, Settings
from lbd.dataplane.hot.tally import Tally
from lbd.dataplane.limits_builder import LimitsBuilder

CLIENT = "192.0.2.1"
OFF = {
    "max_connections": 0,
    "max_connections_per_client": 0,
    "connection_rate": 0,
    "connection_rate_per_client": 0,
    "max_throughput": 0,
    "patient": False,
    "queue_length": 0,
    "queue_timeout_ms": 0,
    "workers": 1,
}
"""A service's limits, as its message has them where none is set."""


def never(where: str, error: BaseException) -> None:
    raise AssertionError(f"{where}: {error!r}")


class Bench:
    """A gate with a quota of places, and what it said to the supervisor."""

    def __init__(self, share: int) -> None:
        self.said: list[dict[str, Any]] = []
        self.reactor = Reactor(never, 0)
        self.desk = Desk(self.reactor, self.said.append)
        self.gate = Gate(self.desk)
        self.quota = Quota("connections", 7, 0)
        self.gate.places = self.quota
        self.quota.set_share(1, share)
        self.desk.answer(self.quota)
        self.said.clear()

    def enter(self, clients: ClientLimits | None = None) -> int:
        return self.gate.enter_flow(CLIENT, clients, self.reactor.now_ms)

    def leave(self) -> None:
        self.gate.leave(CLIENT, None, self.reactor.now_ms)

    def turn(self) -> None:
        """End the batch."""
        self.gate.on_turn()

    @property
    def asked(self) -> list[int]:
        return [message["wanted"] for message in self.said if message["type"] == "lease_wanted"]


def test_a_share_is_used_up_and_not_exceeded() -> None:
    bench = Bench(3)
    assert [bench.enter() for _ in range(5)] == [ADMITTED] * 3 + [MAX_CONNECTIONS] * 2
    assert bench.quota.used == 3


def test_a_place_is_free_after_the_batch_in_which_it_was_given_up_and_no_sooner() -> None:
    """The socket of a connection is closed at the end of the batch: until then the member has it still."""
    bench = Bench(1)
    assert bench.enter() == ADMITTED
    bench.leave()
    assert bench.enter() == MAX_CONNECTIONS
    bench.turn()
    assert bench.enter() == ADMITTED


def test_more_is_asked_for_once_and_again_only_when_nobody_answers() -> None:
    bench = Bench(0)
    for _ in range(100):
        bench.enter()
        bench.turn()
    assert bench.asked == [1]
    bench.quota.asked_ms -= ASK_AGAIN_MS
    bench.enter()
    bench.turn()
    assert bench.asked == [1, 1]


def test_that_nothing_is_left_is_believed_for_a_moment() -> None:
    bench = Bench(0)
    bench.enter()
    bench.turn()
    bench.quota.exhaust(bench.reactor.now_ms)
    bench.gate.changed(bench.quota)
    for _ in range(100):
        assert bench.enter() == MAX_CONNECTIONS
        bench.turn()
    assert bench.asked == [1]
    bench.quota.exhausted_until_ms -= EXHAUSTED_MS
    bench.enter()
    bench.turn()
    assert bench.asked == [1, 1]


def test_a_recall_takes_what_is_unused_and_half_of_much() -> None:
    bench = Bench(20)
    for _ in range(4):
        bench.enter()
    bench.quota.recall(2, 1, False, 0)
    assert (bench.quota.share, bench.quota.held()) == (12, 12)
    bench.quota.recall(3, 100, False, 0)
    assert (bench.quota.share, bench.quota.owed) == (4, 0)


def test_a_standing_recall_takes_what_is_given_up_later_and_says_so() -> None:
    bench = Bench(3)
    for _ in range(3):
        bench.enter()
    bench.quota.recall(2, 2, True, 0)
    bench.desk.answer(bench.quota)
    assert bench.said[-1] == {
        "type": "leased",
        "kind": "connections",
        "slot": 7,
        "number": 2,
        "share": 3,
        "held": 3,
    }
    bench.leave()
    bench.turn()
    assert bench.quota.share == 2
    assert bench.enter() == MAX_CONNECTIONS
    bench.said.clear()
    while not any(each["type"] == "leased" for each in bench.said):
        bench.reactor.turn()
    # A turn that comes late says it once for each beat that it has missed.
    assert {(each["share"], each["held"]) for each in bench.said if each["type"] == "leased"} == {(2, 2)}


def test_who_waits_for_more_himself_gives_nothing() -> None:
    bench = Bench(5)
    bench.quota.recall(2, 3, True, 1)
    assert bench.quota.share == 5


def test_a_lowered_share_is_reached_as_connections_end_and_each_end_is_told() -> None:
    bench = Bench(4)
    for _ in range(4):
        bench.enter()
    bench.quota.set_share(2, 0)
    bench.desk.answer(bench.quota)
    assert bench.said[-1]["held"] == 4
    for left in (3, 2):
        bench.leave()
        bench.turn()
        bench.said.clear()
        while not bench.said:
            bench.reactor.turn()
        assert (bench.said[-1]["share"], bench.said[-1]["held"]) == (0, left)
    assert bench.enter() == MAX_CONNECTIONS


def test_a_client_over_its_own_limit_takes_no_place_and_a_full_service_costs_the_client_nothing() -> None:
    bench, clients = Bench(2), ClientLimits(1, 0.0)
    assert bench.enter(clients) == ADMITTED
    assert bench.enter(clients) == MAX_CONNECTIONS_PER_CLIENT
    assert bench.quota.used == 1
    assert bench.enter() == ADMITTED
    clients = ClientLimits(1, 1.0)
    for _ in range(3):
        assert bench.enter(clients) == MAX_CONNECTIONS
    assert len(clients) == 0


def test_the_rate_of_a_service_holds_before_its_places() -> None:
    bench = Bench(10)
    bench.gate.rate = Rate("rate", 7, bench.reactor.now_ms, 1000, ONE_CONNECTION, 1.0, 8)
    bench.gate.rate.set_share(1, ONE_CONNECTION, bench.reactor.now_ms)
    assert [bench.enter() for _ in range(3)] == [ADMITTED, CONNECTION_RATE, CONNECTION_RATE]
    assert bench.quota.used == 1


@pytest.mark.parametrize("kind", ["places", "nothing"])
def test_a_gate_without_a_limit_on_places_lets_everybody_in(kind: str) -> None:
    bench = Bench(0)
    if kind == "places":
        bench.gate.open()
    else:
        bench.gate = Gate(bench.desk)
    assert [bench.enter() for _ in range(100)] == [ADMITTED] * 100
    bench.leave()
    bench.turn()


def test_a_member_that_was_passed_over_asks_for_room_in_the_background() -> None:
    bench = Bench(5)
    member = Quota("member", 30, 2)
    member.set_share(1, 2)
    for _ in range(3):
        bench.gate.member_is_full(member)
    bench.turn()
    held, wanted = bench.said
    assert (wanted["kind"], wanted["slot"], wanted["wanted"], wanted["patient"]) == ("member", 30, 1, False)
    assert (held["type"], held["slot"], held["held"]) == ("leased", 30, 2), "what is held is said before"


def test_sockets_that_were_given_up_are_closed_before_their_places_are_dealt() -> None:
    """Also when somebody else's turn in the same batch gave them up: the member would have one too many."""
    bench = Bench(1)
    assert bench.enter() == ADMITTED
    ours, theirs = socket.socketpair()
    with ours, theirs:
        bench.reactor.close(ours.fileno(), ours)
        bench.leave()
        bench.turn()
        assert ours.fileno() == -1
    assert bench.enter() == ADMITTED


@pytest.fixture
def web() -> Service:
    counter_map = counters.CounterMap.create(1)
    tally = Tally(counter_map.view, counters.service_base(1, 0), [])
    return Service(0, "web", tally, counter_map.view, lambda *_: None, Settings(("192.0.2.10", 80)))


@pytest.fixture
def waiting(web: Service) -> Iterator[Callable[[Bench], Arrival]]:
    """Makes a client that waits at a bench's gate."""
    ours, theirs = socket.socketpair()

    def come(bench: Bench) -> Arrival:
        comer = Arrival(bench.reactor, web, Lane(None, None), Side(ours, -1, True), (CLIENT, 1))
        assert bench.gate.enter(comer, CLIENT, None, bench.reactor.now_ms) == WAIT
        bench.turn()
        return comer

    with ours, theirs:
        yield come


def test_who_waits_is_known_although_nothing_was_left_for_somebody_who_did_not(
    waiting: Callable[[Bench], Arrival],
) -> None:
    """The supervisor forgets a question that is not patient; it must not count for the one that is."""
    bench = Bench(0)
    bench.gate.set_queue(True, 10, 60_000)
    bench.enter()
    bench.turn()
    bench.quota.exhaust(bench.reactor.now_ms)
    bench.gate.changed(bench.quota)
    bench.turn()
    waiting(bench)
    assert [(each["wanted"], each["patient"]) for each in bench.said] == [(1, False), (1, True)]


def test_who_comes_right_after_the_last_one_who_waited_has_gone_is_known(waiting: Callable[[Bench], Arrival]) -> None:
    bench = Bench(0)
    bench.gate.set_queue(True, 10, 60_000)
    first = waiting(bench)
    bench.quota.exhaust(bench.reactor.now_ms)
    bench.gate.changed(bench.quota)
    bench.gate.gave_up(first)
    bench.turn()
    waiting(bench)
    assert bench.asked == [1, 0, 1]


def test_who_waits_asks_again_by_himself(web: Service, waiting: Callable[[Bench], Arrival]) -> None:
    """What somebody else gave up for him may have gone to a third."""
    bench = Bench(0)
    limits = LimitsBuilder(Relay(bench.reactor), bench.desk, 0)
    limits.set(web, {"members": [], "limits": {**OFF, "max_connections": 5, "patient": True, "queue_length": 10}})
    assert web.gate is not None
    assert web.gate.places is not None
    bench.gate, bench.quota = web.gate, web.gate.places
    waiting(bench)
    bench.reactor.turn()
    bench.said.clear()
    assert not bench.quota.is_overdue(bench.quota.asked_ms + ASK_AGAIN_MS - 1)
    bench.quota.asked_ms -= ASK_AGAIN_MS
    limits.sample(bench.reactor.now_ms)
    bench.reactor.turn()
    assert bench.asked == [1]


def test_a_line_forgets_who_has_left_it_from_the_middle(web: Service) -> None:
    reactor, lane = Reactor(never, 0), Lane(None, None)
    ours, theirs = socket.socketpair()
    with ours, theirs:
        comers = [Arrival(reactor, web, lane, Side(ours, -1, True), (CLIENT, 1)) for _ in range(20 * LEFT_AT_MOST)]
        places = range(len(comers))
        known = [sys.getrefcount(comers[place]) for place in places]
        line = Line()
        line.append(comers[0])
        for comer in comers[1:-1]:
            line.append(comer)
            line.remove(comer)
        line.append(comers[-1])
        remembered = sum(sys.getrefcount(comers[place]) > known[place] for place in places)
        assert remembered <= 2 * LEFT_AT_MOST
        assert (len(line), line.first(), line.first(), line.first()) == (2, comers[0], comers[-1], None)


def test_the_meter_of_a_removed_service_is_freed(web: Service) -> None:
    """Workers run without a collector of cycles."""
    reactor = Reactor(never, 0)
    limits = LimitsBuilder(Relay(reactor), Desk(reactor, lambda _message: None), 0)
    limits.set(web, {"members": [], "limits": {**OFF, "max_throughput": 1_000_000}})
    meter = web.meter
    limits.remove(web)
    nothing_else = object()
    assert web.meter is None
    assert sys.getrefcount(meter) == sys.getrefcount(nothing_else)
