"""The shared map of counters."""

from __future__ import annotations

import os

import pytest

from lbd.dataplane import counters
from lbd.dataplane.counters import CounterMap
from lbd.dataplane.hot.tally import Tally


@pytest.fixture
def shared() -> CounterMap:
    return CounterMap.create(rows=3)


def test_a_worker_sees_what_the_supervisor_made_and_the_other_way_round(shared: CounterMap) -> None:
    opened = CounterMap.open(os.dup(shared.descriptor))
    opened.view[counters.member_base(2, 65535) + counters.ACTIVE] = 7
    assert shared.member_sums(65535, [1, 2, 3])[counters.ACTIVE] == 7
    assert opened.rows == shared.rows == 4


def test_another_layout_is_refused(shared: CounterMap) -> None:
    shared.view[1] = counters.LAYOUT_VERSION + 1
    with pytest.raises(ValueError, match=f"layout {counters.LAYOUT_VERSION + 1}"):
        CounterMap.open(os.dup(shared.descriptor))


def test_no_two_slots_overlap() -> None:
    last_service = counters.service_base(0, counters.MAX_SERVICES - 1) + counters.SLOT_FIELDS
    assert last_service == counters.member_base(0, 0)
    assert counters.member_base(0, counters.MAX_MEMBERS - 1) + counters.SLOT_FIELDS == counters.row_base(1)


def test_a_tally_adds_to_the_map_exactly_once(shared: CounterMap) -> None:
    base = counters.service_base(1, 5)
    tally = Tally(shared.view, base, [])
    tally.active += 2
    tally.total += 3
    tally.received_bytes += 1 << 40
    tally.sent_bytes += 5
    tally.add(counters.RETRIES, 1)
    tally.add(counters.UNSERVED, 4)
    tally.add(counters.ERRORS + 2, 9)
    tally.add(counters.USED_FIELDS - 1, 7)
    tally.flush()
    tally.flush()
    tally.active -= 1
    tally.flush()
    assert shared.service_sums(5, [0, 1, 2]) == [1, 3, 1 << 40, 5, 1, 4, 0, 0, 9, *[0] * 20, 7]


def test_a_dead_workers_totals_stay_and_its_active_count_goes(shared: CounterMap) -> None:
    for row, active in ((1, 10), (2, 1)):
        base = counters.member_base(row, 3)
        for field in range(counters.USED_FIELDS):
            shared.view[base + field] = active if field in counters.GAUGES else 100
    shared.view[counters.row_base(1) + counters.HEARTBEAT_NS] = 12345
    shared.retire_row(1, [], [3])
    expected = [1 if field in counters.GAUGES else 200 for field in range(counters.USED_FIELDS)]
    assert shared.member_sums(3, [0, 2]) == expected
    assert shared.member_sums(3, [1]) == [0] * counters.USED_FIELDS
    assert shared.row_field(1, counters.HEARTBEAT_NS) == 0


def test_a_cleared_slot_starts_at_zero_in_every_row(shared: CounterMap) -> None:
    for row in range(4):
        shared.view[counters.service_base(row, 9) + counters.TOTAL] = 5
        shared.view[counters.member_base(row, 9) + counters.TOTAL] = 5
    shared.clear_service(9)
    shared.clear_member(9)
    assert shared.service_sums(9, range(4)) == shared.member_sums(9, range(4)) == [0] * counters.USED_FIELDS
