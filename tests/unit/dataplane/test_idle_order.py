"""The order in which flows were used last: who makes room, and who has been idle for too long."""

from __future__ import annotations

import random

from lbd.dataplane.hot.idle_order import Entry, IdleOrder

IDLE_MS = 60_000


def order_of(order: IdleOrder) -> list[Entry]:
    """Take everything out, the one that would make room next first."""
    entries = []
    while (entry := order.longest_idle()) is not None:
        order.remove(entry)
        entries.append(entry)
    return entries


def added(order: IdleOrder, count: int, now_ms: int = 0) -> list[Entry]:
    entries = [Entry() for _ in range(count)]
    for entry in entries:
        order.add(entry, now_ms)
    return entries


def established(order: IdleOrder, now_ms: int) -> Entry:
    (entry,) = added(order, 1, now_ms)
    entry.is_answered = True
    order.asked(entry, now_ms)
    return entry


def test_the_longest_idle_makes_room_first() -> None:
    order = IdleOrder(IDLE_MS)
    first, second, third = added(order, 3)
    order.used(first, 2_000)
    order.used(second, 4_000)
    assert order_of(order) == [third, first, second]


def test_a_flow_is_established_once_its_client_comes_back_after_an_answer_and_then_makes_room_last() -> None:
    order = IdleOrder(IDLE_MS)
    old = established(order, 0)
    asks_only, answered_only = added(order, 2, 10)
    order.asked(asks_only, 20)
    answered_only.is_answered = True
    order.used(answered_only, 20)
    assert order_of(order) == [asks_only, answered_only, old]


def test_a_flood_displaces_only_itself() -> None:
    order = IdleOrder(IDLE_MS)
    kept = [established(order, 0) for _ in range(5)]
    for now_ms in range(1_000, 1_200):
        if len(order) >= 10:
            longest_idle = order.longest_idle()
            assert longest_idle is not None
            order.remove(longest_idle)
            assert longest_idle not in kept
        order.add(Entry(), now_ms)
    assert [entry for entry in order_of(order) if entry in kept] == kept


def test_what_is_idle_too_long_is_due_and_the_rest_is_told_when() -> None:
    order = IdleOrder(IDLE_MS)
    first, second = added(order, 2)
    order.used(second, 30_000)
    kept = established(order, 45_000)
    assert order.end_idle(IDLE_MS, 59_999) == 60_000
    order.remove(first)
    assert order.end_idle(IDLE_MS, 60_000) == 90_000
    order.remove(second)
    assert order.end_idle(IDLE_MS, 90_000) == 105_000
    order.remove(kept)
    assert order.end_idle(IDLE_MS, 200_000) == 0


def test_the_order_is_exact_to_a_32nd_of_the_timeout_and_never_coarser_than_a_second() -> None:
    for idle_ms, step_ms in ((1_000, 31), (IDLE_MS, 1_000), (3_600_000, 1_000), (0, 1_000)):
        order = IdleOrder(idle_ms)
        first, second = added(order, 2)
        order.used(first, step_ms)
        assert order.longest_idle() is first
        order.used(first, step_ms + 1)
        assert order.longest_idle() is second


def test_any_sequence_leaves_both_lists_whole() -> None:
    chance = random.Random(7)
    order = IdleOrder(0)
    inside: list[Entry] = []
    for now_ms in range(0, 3_000_000, 1_500):
        what = chance.randrange(4)
        if what == 0 or not inside:
            inside += added(order, 1, now_ms)
        elif what == 1:
            entry = inside.pop(chance.randrange(len(inside)))
            order.remove(entry)
            assert entry.older is None
            assert entry.newer is None
        else:
            entry = chance.choice(inside)
            entry.is_answered = True
            (order.asked if what == 2 else order.used)(entry, now_ms)
        assert len(order) == len(inside)
    left = order_of(order)
    assert len(left) == len(inside)
    assert set(left) == set(inside)
    new = [entry for entry in left if not entry.is_established]
    assert left == sorted(new, key=lambda e: e.used_ms) + sorted(
        (e for e in left if e.is_established), key=lambda e: e.used_ms
    )
