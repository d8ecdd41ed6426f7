"""Which member a client that has one gets, and which one it keeps."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from lbd.balancing.round_robin import RoundRobin
from lbd.dataplane import counters
from lbd.dataplane.hot.choice import choose, keep_member
from lbd.dataplane.hot.lane import Lane
from lbd.dataplane.hot.limits import Gate
from lbd.dataplane.hot.persistence import PersistenceTable
from lbd.dataplane.hot.quota import Desk, Quota
from lbd.dataplane.hot.reactor import Reactor
from lbd.dataplane.hot.service import Member, Service, Settings
from lbd.dataplane.hot.tally import Tally
from lbd.dataplane.persistence_memory import LaneMemory, PersistenceMemory

CLIENT = "192.0.2.1"
SLOTS = (10, 11, 12)


class Bench:
    """A service of three members, and one lane of it."""

    def __init__(self) -> None:
        self.map = counters.CounterMap.create(1)
        self.memory = PersistenceMemory(1, 10, 1)
        settings = Settings(("192.0.2.10", 80))
        tally = self.tally(counters.service_base(1, 0))
        self.service = Service(0, "web", tally, self.map.view, lambda *_: None, settings)
        self.members = [
            Member(slot, 2, f"10.0.0.{slot}", 80, self.tally(counters.member_base(1, slot))) for slot in SLOTS
        ]
        self.service.set_pool(self.members, RoundRobin([1, 1, 1], 0), [0] * 3, [0] * 3, [])
        table = PersistenceTable(LaneMemory(self.memory.descriptor, 0, 0), True, tally, 1, 1000, 32, 128)
        table.take_over(0)
        self.lane = Lane(table, None)

    def tally(self, base: int) -> Tally:
        return Tally(self.map.view, base, [])

    def choose(self, client: str = CLIENT, tried: list[int] | None = None) -> int:
        return choose(self.service, self.lane, client, 1234, tried or [], 0)

    def keep(self, index: int, entry: int = -1) -> int:
        return keep_member(self.service, self.lane, CLIENT, entry, self.members[index], 0)

    def close(self) -> None:
        self.memory.close()
        self.map.close()


@pytest.fixture
def bench() -> Iterator[Bench]:
    built = Bench()
    yield built
    built.close()


def test_a_client_gets_the_member_that_it_keeps(bench: Bench) -> None:
    bench.keep(2)
    assert {bench.choose() for _ in range(6)} == {2}
    assert {bench.choose(f"192.0.2.{host}") for host in range(2, 8)} == {0, 1, 2}


def test_a_member_that_was_tried_or_gets_nothing_is_not_the_kept_one(bench: Bench) -> None:
    bench.keep(2)
    assert bench.choose(tried=[2]) in (0, 1)
    bench.service.set_weights([1, 1, 0], [False, False, False])
    assert {bench.choose() for _ in range(6)} == {0, 1}


def test_a_member_that_is_in_the_pool_no_more_is_not_kept(bench: Bench) -> None:
    bench.keep(2)
    bench.service.set_pool(bench.members[:2], RoundRobin([1, 1], 0), [0] * 2, [0] * 2, [])
    assert {bench.choose() for _ in range(6)} == {0, 1}


@pytest.mark.parametrize("keeps_entry", [False, True])
@pytest.mark.parametrize("down", [False, True])
def test_only_from_a_member_that_is_down_is_a_client_away_for_a_while(
    bench: Bench, keeps_entry: bool, down: bool
) -> None:
    bench.service.settings.keeps_entry = keeps_entry
    bench.keep(2)
    bench.service.set_weights([1, 1, 0], [False, False, down])  # down, or draining
    instead = bench.choose()
    bench.keep(instead)
    bench.service.set_weights([1, 1, 1], [False, False, False])
    assert bench.choose() == (2 if keeps_entry and down else instead)


def test_after_a_failed_attempt_the_client_keeps_the_next_member(bench: Bench) -> None:
    entry = bench.keep(0)
    entry = bench.keep(1, entry)
    assert bench.choose() == 1
    table = bench.lane.entries
    assert table is not None
    table.leave(entry, 0)
    assert table.find(CLIENT, 999) == SLOTS[1]
    assert table.find(CLIENT, 1000) == -1  # the failed attempt left nothing open


def never(where: str, error: BaseException) -> None:
    raise AssertionError(f"{where}: {error!r}")


@pytest.mark.parametrize(("weight", "asked"), [(1, 1), (0, 0)])
def test_a_kept_member_without_room_in_this_worker_asks_the_others_for_some(
    bench: Bench, weight: int, asked: int
) -> None:
    """Else its clients would go elsewhere for as long as another worker does not use its part of the limit."""
    said: list[dict[str, object]] = []
    reactor = Reactor(never, 0)
    bench.service.gate = Gate(Desk(reactor, said.append))
    bench.service.limits_members = True
    bench.members[2].quota = Quota("member", SLOTS[2], 0)
    bench.keep(2)
    bench.service.set_weights([1, 1, weight], [False] * 3)
    bench.service.balancer = RoundRobin([1, 1, weight], 0)
    assert bench.choose() != 2
    bench.service.gate.on_turn()
    assert [message["type"] for message in said].count("lease_wanted") == asked
