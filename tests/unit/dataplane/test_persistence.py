"""The persistence table: what it promises of one lane, against a model, and across the deaths of its workers."""

from __future__ import annotations

import os
import random
from collections.abc import Iterator
from dataclasses import dataclass, field

import pytest

from lbd.dataplane import counters
from lbd.dataplane.hot.persistence import PersistenceTable
from lbd.dataplane.hot.tally import Tally
from lbd.dataplane.persistence_memory import LaneMemory, PersistenceMemory

TIMEOUT_MS = 1000


@dataclass
class Lane:
    """One lane's memory, and tables over it as workers have them."""

    capacity: int = 4
    workers: int = 3
    lanes: int = 1
    stamp: int = 0
    memory: PersistenceMemory = field(init=False)

    def __post_init__(self) -> None:
        self.memory = PersistenceMemory(self.lanes, self.capacity, self.workers)
        self.map = counters.CounterMap.create(1)
        self.tally = Tally(self.map.view, counters.service_base(1, 0), [])

    def table(self, worker: int = 0, *, now_ms: int = 0, lane: int = 0, **prefixes: int) -> PersistenceTable:
        self.stamp += 1
        table = PersistenceTable(
            LaneMemory(self.memory.descriptor, self.memory.offset(lane), worker),
            worker == lane,
            self.tally,
            self.stamp,
            TIMEOUT_MS,
            prefixes.get("ipv4_prefix", 32),
            prefixes.get("ipv6_prefix", 128),
        )
        table.take_over(now_ms)
        return table

    @property
    def evictions(self) -> int:
        self.tally.flush()
        return self.map.view[counters.service_base(1, 0) + counters.EVICTED_ENTRIES]

    def close(self) -> None:
        self.memory.close()
        self.map.close()


@pytest.fixture
def lane() -> Iterator[Lane]:
    built = Lane()
    yield built
    built.close()


def visit(table: PersistenceTable, client: str, member: int, now_ms: int) -> None:
    """A connection that begins and ends."""
    table.leave(table.enter(client, member, now_ms), now_ms)


# -- one worker --------------------------------------------------------------------------------------------------------


def test_nobody_is_remembered_at_first(lane: Lane) -> None:
    assert lane.table().find("192.0.2.1", 0) == -1
    assert lane.memory.entries == 0


@pytest.mark.parametrize("client", ["192.0.2.1", "2001:db8::1", "fe80::1%eth0", "255.255.255.255", "::"])
def test_a_client_keeps_its_member(lane: Lane, client: str) -> None:
    table = lane.table()
    visit(table, client, 0, 0)
    assert table.find(client, TIMEOUT_MS - 1) == 0
    assert table.find("192.0.2.2", 0) == -1
    assert lane.memory.entries == 1


def test_the_timeout_counts_from_the_end_of_the_last_connection(lane: Lane) -> None:
    table = lane.table()
    first = table.enter("192.0.2.1", 7, 0)
    second = table.enter("192.0.2.1", 7, 500)
    table.leave(first, 10_000)
    assert table.find("192.0.2.1", 90_000) == 7
    table.leave(second, 100_000)
    assert table.find("192.0.2.1", 100_000 + TIMEOUT_MS - 1) == 7
    assert table.find("192.0.2.1", 100_000 + TIMEOUT_MS) == -1


def test_what_has_timed_out_is_freed_without_being_asked_for(lane: Lane) -> None:
    table = lane.table()
    for host in range(3):
        visit(table, f"192.0.2.{host}", host, 100 * host)
    table.expire(TIMEOUT_MS + 100, 500)
    assert lane.memory.entries == 1
    assert table.find("192.0.2.2", TIMEOUT_MS + 100) == 2
    assert lane.evictions == 0


def test_a_changed_timeout_holds_for_the_entries_there_are(lane: Lane) -> None:
    table = lane.table()
    visit(table, "192.0.2.1", 1, 0)
    table.timeout_ms = 10 * TIMEOUT_MS
    assert table.find("192.0.2.1", 9 * TIMEOUT_MS) == 1
    table.timeout_ms = 10
    assert table.find("192.0.2.1", 11) == -1


def test_clients_of_one_prefix_share_an_entry(lane: Lane) -> None:
    table = lane.table(ipv4_prefix=22, ipv6_prefix=61)
    visit(table, "198.51.100.1", 1, 0)
    assert table.find("198.51.103.254", 0) == 1
    assert table.find("198.51.104.1", 0) == -1
    visit(table, "2001:db8:0:8::1", 2, 0)
    assert table.find("2001:db8:0:f:ffff::", 0) == 2
    assert table.find("2001:db8:0:10::", 0) == -1


@pytest.mark.parametrize(("client", "other"), [("192.0.2.1", "203.0.113.9"), ("2001:db8::1", "fd00::")])
def test_a_prefix_of_nothing_is_everybody(lane: Lane, client: str, other: str) -> None:
    table = lane.table(ipv4_prefix=0, ipv6_prefix=0)
    visit(table, client, 3, 0)
    assert table.find(other, 0) == 3


def test_the_longest_idle_makes_room_and_is_counted(lane: Lane) -> None:
    table = lane.table()
    for host in range(4):
        visit(table, f"192.0.2.{host}", host, host)
    visit(table, "192.0.2.0", 0, 10)
    visit(table, "192.0.2.100", 5, 11)
    assert [table.find(f"192.0.2.{host}", 11) for host in range(4)] == [0, -1, 2, 3]
    assert lane.evictions == 1
    assert lane.memory.entries == 4


def test_an_expired_entry_makes_room_without_being_counted_as_evicted(lane: Lane) -> None:
    table = lane.table()
    for host in range(4):
        visit(table, f"192.0.2.{host}", host, 0)
    visit(table, "192.0.2.100", 5, TIMEOUT_MS)
    assert table.find("192.0.2.100", TIMEOUT_MS) == 5
    assert lane.evictions == 0


def test_a_client_with_an_open_connection_makes_no_room(lane: Lane) -> None:
    table = lane.table()
    entries = [table.enter(f"192.0.2.{host}", host, 0) for host in range(4)]
    assert table.enter("192.0.2.100", 5, 10 * TIMEOUT_MS) == -1
    table.leave(-1, 10 * TIMEOUT_MS)
    assert [table.find(f"192.0.2.{host}", 10 * TIMEOUT_MS) for host in range(4)] == [0, 1, 2, 3]
    table.leave(entries[2], 10 * TIMEOUT_MS)
    assert table.enter("192.0.2.100", 5, 10 * TIMEOUT_MS) >= 0
    assert table.find("192.0.2.2", 10 * TIMEOUT_MS) == -1


def test_a_client_can_get_another_member_while_connections_to_the_old_one_last(lane: Lane) -> None:
    table = lane.table()
    old = table.enter("192.0.2.1", 1, 0)
    new = table.enter("192.0.2.1", 2, 10)
    table.leave(new, 20)
    assert table.find("192.0.2.1", 50 * TIMEOUT_MS) == 2
    table.leave(old, 50 * TIMEOUT_MS)
    assert table.find("192.0.2.1", 51 * TIMEOUT_MS) == -1


def test_members_that_are_gone_are_forgotten(lane: Lane) -> None:
    table = lane.table()
    visit(table, "192.0.2.1", 1, 0)
    held = table.enter("192.0.2.2", 1, 0)
    visit(table, "192.0.2.3", 2, 0)
    table.purge({2})
    assert [table.find(f"192.0.2.{host}", 0) for host in (1, 2, 3)] == [-1, -1, 2]
    assert lane.memory.entries == 2  # an open entry keeps its place
    again = table.enter("192.0.2.2", 2, 1)
    assert table.find("192.0.2.2", 1) == 2
    table.purge({})
    table.leave(held, 2)
    table.leave(again, 2)
    assert lane.memory.entries == 0


def test_what_was_entered_in_a_former_table_is_not_left_in_its_successor(lane: Lane) -> None:
    old = lane.table()
    held = old.enter("192.0.2.1", 1, 0)
    successor = Lane()
    successor.stamp = lane.stamp
    new = successor.table()
    new.enter("192.0.2.9", 2, 0)
    new.leave(held, 0)
    assert new.find("192.0.2.9", 50 * TIMEOUT_MS) == 2
    successor.close()


@pytest.mark.parametrize("seed", range(5))
def test_it_does_what_a_simple_model_does(seed: int) -> None:
    chance = random.Random(seed)
    built = Lane(capacity=20)
    table = built.table()
    kept: dict[str, tuple[int, int, int]] = {}  # client: member, open connections, idle since
    held: list[tuple[str, int]] = []
    now_ms = evictions = 0
    for _ in range(4000):
        now_ms += chance.randrange(25)
        kept = {client: one for client, one in kept.items() if one[1] or one[2] + TIMEOUT_MS > now_ms}
        client = f"198.51.100.{chance.randrange(60)}"
        assert table.find(client, now_ms) == (kept[client][0] if client in kept else -1)
        if chance.random() < 0.5 and held:
            gone, entry = held.pop(chance.randrange(len(held)))
            table.leave(entry, now_ms)
            member, opened, _ = kept[gone]
            del kept[gone]  # behind the others of the same millisecond
            kept[gone] = (member, opened - 1, now_ms)
            continue
        member = chance.randrange(5)
        entry = table.enter(client, member, now_ms)
        if client not in kept and len(kept) == 20:
            idle = sorted((one[2], place, name) for place, (name, one) in enumerate(kept.items()) if not one[1])
            if not idle:
                assert entry == -1
                continue
            del kept[idle[0][2]]
            evictions += 1
        kept[client] = (member, kept.get(client, (0, 0, 0))[1] + 1, 0)
        held.append((client, entry))
        table.expire(now_ms, 100)
        assert built.memory.entries == len(kept)
    assert built.evictions == evictions > 0
    built.close()


# -- more than one worker ----------------------------------------------------------------------------------------------


def test_another_worker_goes_on_where_one_died(lane: Lane) -> None:
    died = lane.table(0)
    visit(died, "192.0.2.1", 1, 100)
    visit(died, "192.0.2.2", 2, 100)
    died.enter("192.0.2.2", 2, 100)
    lane.memory.bury(0)
    for worker in (1, 0):
        table = lane.table(worker, now_ms=1000)
        assert table.find("192.0.2.1", 100 + TIMEOUT_MS - 1) == 1
        assert table.find("192.0.2.1", 100 + TIMEOUT_MS) == -1
        assert table.find("192.0.2.2", 1000 + TIMEOUT_MS - 1) == 2  # its connection ended with the worker
        assert table.find("192.0.2.2", 1000 + TIMEOUT_MS) == -1


def test_the_order_of_the_idle_survives_a_worker(lane: Lane) -> None:
    died = lane.table(0)
    for host in (2, 0, 3, 1):
        visit(died, f"192.0.2.{host}", host, 10 + host)
    lane.memory.bury(0)
    table = lane.table(0, now_ms=50)
    for evicted in range(3):
        visit(table, f"192.0.2.{100 + evicted}", 9, 50)
        assert [table.find(f"192.0.2.{host}", 50) for host in range(4)] == [-1] * (evicted + 1) + [*range(4)][
            evicted + 1 :
        ]


def test_connections_with_the_heir_count_when_the_replacement_has_the_lane(lane: Lane) -> None:
    heir = lane.table(1)
    held = heir.enter("192.0.2.1", 1, 0)
    table = lane.table(0, now_ms=10)
    for now_ms in range(10, 20 * TIMEOUT_MS, TIMEOUT_MS // 2):
        table.expire(now_ms, 100)
        assert table.find("192.0.2.1", now_ms) == 1
    heir.leave(held, 20 * TIMEOUT_MS)
    assert table.find("192.0.2.1", 21 * TIMEOUT_MS - 1) == 1
    assert table.find("192.0.2.1", 21 * TIMEOUT_MS) == -1
    table.expire(22 * TIMEOUT_MS, 100)
    assert lane.memory.entries == 0


def test_an_entry_does_not_outlive_an_heir_that_died_with_its_connections(lane: Lane) -> None:
    heir = lane.table(1)
    heir.enter("192.0.2.1", 1, 0)
    table = lane.table(0, now_ms=10)
    table.expire(5 * TIMEOUT_MS, 100)
    assert table.find("192.0.2.1", 5 * TIMEOUT_MS) == 1
    lane.memory.bury(1)
    assert table.find("192.0.2.1", 5 * TIMEOUT_MS + TIMEOUT_MS // 2) == 1
    table.expire(7 * TIMEOUT_MS, 100)
    assert lane.memory.entries == 0


def test_who_is_served_by_both_is_not_evicted_for_the_one_that_ended(lane: Lane) -> None:
    heir = lane.table(1)
    held = [heir.enter(f"192.0.2.{host}", host, 0) for host in range(4)]
    table = lane.table(0, now_ms=10)
    visit(table, "192.0.2.0", 0, 20)
    assert table.enter("192.0.2.100", 9, 30) == -1
    heir.leave(held[3], 40)
    assert table.enter("192.0.2.100", 9, 50) >= 0
    assert [table.find(f"192.0.2.{host}", 50) for host in range(4)] == [0, 1, 2, -1]


def test_a_former_owner_finds_what_it_knew_and_remembers_nobody_new(lane: Lane) -> None:
    heir = lane.table(1)
    visit(heir, "192.0.2.1", 1, 0)
    visit(heir, "192.0.2.2", 2, 0)
    table = lane.table(0, now_ms=10)
    assert heir.find("192.0.2.1", 20) == 1
    assert heir.enter("192.0.2.9", 3, 20) == -1
    for host in range(100, 104):  # both of the heir's are evicted, and their places taken
        visit(table, f"192.0.2.{host}", 7, 30)
    assert heir.find("192.0.2.1", 30) == -1
    assert heir.enter("192.0.2.2", 2, 30) == -1
    assert lane.memory.entries == 4


def test_a_worker_that_hung_takes_its_own_lane_back(lane: Lane) -> None:
    hung = lane.table(0)
    held = hung.enter("192.0.2.1", 1, 0)
    visit(hung, "192.0.2.2", 2, 0)
    heir = lane.table(1, now_ms=600)
    visit(heir, "192.0.2.2", 3, 700)
    visit(heir, "192.0.2.4", 4, 700)
    assert [hung.find(f"192.0.2.{host}", 800) for host in (1, 2, 4)] == [1, 3, 4]
    assert hung.enter("192.0.2.9", 5, 800) >= 0
    assert heir.enter("192.0.2.10", 5, 800) == -1
    hung.leave(held, 900)
    assert hung.find("192.0.2.1", 900 + TIMEOUT_MS - 1) == 1
    assert hung.find("192.0.2.1", 900 + TIMEOUT_MS) == -1


def test_the_connections_of_a_hung_worker_end_while_an_heir_has_its_lane(lane: Lane) -> None:
    hung = lane.table(0)
    held = hung.enter("192.0.2.1", 1, 0)
    heir = lane.table(1, now_ms=600)
    hung.leave(held, 700)  # an event that was waiting for it
    assert heir.find("192.0.2.1", 700 + TIMEOUT_MS - 1) == 1
    assert heir.find("192.0.2.1", 700 + TIMEOUT_MS) == -1


@pytest.mark.parametrize("seed", range(5))
def test_whoever_comes_and_goes_nothing_is_negative_and_nothing_stays_for_ever(seed: int) -> None:
    chance = random.Random(seed)
    lane = Lane(capacity=10)
    tables: dict[int, PersistenceTable] = {0: lane.table(0)}
    held: list[tuple[int, int]] = []
    now_ms = 0
    for _ in range(3000):
        now_ms += chance.randrange(30)
        what = chance.random()
        worker = chance.choice(list(tables))
        if what < 0.02:
            worker = chance.randrange(3)
            if worker in tables:
                del tables[worker]
                held = [one for one in held if one[0] != worker]
                lane.memory.bury(worker)
            tables[worker] = lane.table(worker, now_ms=now_ms)
        elif what < 0.5 and held:
            worker, entry = held.pop(chance.randrange(len(held)))
            tables[worker].leave(entry, now_ms)
        else:
            client = f"192.0.2.{chance.randrange(30)}"
            tables[worker].find(client, now_ms)
            held.append((worker, tables[worker].enter(client, chance.randrange(4), now_ms)))
        assert 0 <= lane.memory.entries <= 10
    for worker, entry in held:
        tables[worker].leave(entry, now_ms)
    last = lane.table(0, now_ms=now_ms)
    for later_ms in range(now_ms, now_ms + 3 * TIMEOUT_MS, TIMEOUT_MS):
        last.expire(later_ms, 100)
    assert lane.memory.entries == 0
    assert not any(any(column) for column in LaneMemory(lane.memory.descriptor, 0, 0).columns)
    lane.close()


def test_lanes_of_one_file_do_not_touch() -> None:
    built = Lane(capacity=1000, lanes=3)
    tables = [built.table(lane, lane=lane) for lane in range(3)]
    for lane, table in enumerate(tables):
        for host in range(1000):
            visit(table, f"10.{lane}.{host >> 8}.{host & 255}", lane, 0)
    assert built.memory.entries == 3000
    for lane, table in enumerate(tables):
        assert all(table.find(f"10.{lane}.{host >> 8}.{host & 255}", 0) == lane for host in range(1000))
    built.close()


def test_memory_of_another_layout_is_refused() -> None:
    descriptor = os.memfd_create("test", os.MFD_CLOEXEC)
    os.write(descriptor, bytes(8192))
    for offset in (0, 8192):
        with pytest.raises(ValueError, match="no persistence table"):
            LaneMemory(descriptor, offset, 0)
    os.close(descriptor)
