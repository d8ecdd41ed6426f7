"""Which Events are due: one object for the same words, and no flood."""

from __future__ import annotations

from lbd.kubernetes.objects.kinds import ObjectKey
from lbd.kubernetes.writing.event_book import (
    BURST_PER_OBJECT,
    MAX_KNOWN,
    MAX_OBJECTS,
    REPEAT_INTERVAL_S,
    About,
    EventBook,
    Note,
)


def about(uid: str = "u", name: str = "web") -> About:
    return About("v1", "Service", ObjectKey("a", name), uid, "1")


def note(book: EventBook, message: str = "x", now_s: float = 0.0, uid: str = "u", kind: str = "Warning") -> None:
    book.note(about(uid), kind, "PoolFull", message, now_s, 1000.0 + now_s)


def taken(book: EventBook, now_s: float) -> list[Note]:
    found = []
    while (one := book.next_due(now_s)) is not None:
        book.written(one, now_s)
        found.append(one)
    return found


def test_the_same_again_is_one_event_with_a_count_and_the_times_of_first_and_last() -> None:
    book = EventBook()
    for now_s in (0.0, 1.0, 2.0):
        note(book, now_s=now_s)
    (one,) = taken(book, 2.0)
    assert (one.count, one.first_unix_s, one.last_unix_s) == (3, 1000.0, 1002.0)


def test_a_count_is_raised_now_and_then_and_loses_nothing() -> None:
    book = EventBook()
    note(book)
    assert len(taken(book, 0.0)) == 1
    for second in range(1, 100):
        note(book, now_s=float(second))
        assert taken(book, float(second)) == []
    assert book.wait_s(100.0) == REPEAT_INTERVAL_S - 100.0
    (one,) = taken(book, REPEAT_INTERVAL_S)
    assert one.count == 99
    assert book.is_known(one)
    assert book.wait_s(REPEAT_INTERVAL_S) is None


def test_another_message_reason_type_or_object_is_another_event() -> None:
    names = {
        Note(about(uid), kind, reason, message, 1, 0.0, 0.0).name
        for uid in "uv"
        for kind in ("Normal", "Warning")
        for reason in "rs"
        for message in "mn"
    }
    assert len(names) == 16


def test_the_name_is_the_same_for_every_leader_and_is_a_name_of_kubernetes() -> None:
    one = Note(about(), "Warning", "PoolFull", "x", 1, 0.0, 0.0)
    other = Note(about(), "Warning", "PoolFull", "x", 9, 5.0, 6.0)
    assert one.name == other.name
    assert one.name.startswith("web.")
    long = Note(about(name="x" * 199 + "-" + "y" * 53), "Warning", "PoolFull", "x", 1, 0.0, 0.0)
    assert len(long.name) <= 253
    assert "-." not in long.name


def test_one_object_can_cause_a_burst_and_then_one_a_minute() -> None:
    book = EventBook()
    for number in range(1000):
        note(book, f"message {number}")
    note(book, "of another one", uid="v")
    assert len(taken(book, 0.0)) == BURST_PER_OBJECT + 1
    assert book.dropped_total == 1000 - BURST_PER_OBJECT
    note(book, "later", now_s=59.0)
    assert taken(book, 59.0) == []
    note(book, "still later", now_s=61.0)
    assert len(taken(book, 61.0)) == 1


def test_memory_is_bounded() -> None:
    book = EventBook()
    for number in range(MAX_KNOWN + 1000):
        note(book, uid=f"u{number}")
    assert book.dropped_total == 1000
    for number in range(3 * MAX_OBJECTS):
        note(book, uid=f"v{number}", now_s=1.0)
        taken(book, 1.0)
    assert len(book._written_s) <= MAX_KNOWN
    assert len(book._buckets) <= MAX_OBJECTS


def test_a_long_message_is_cut() -> None:
    book = EventBook()
    note(book, "x" * 100_000)
    (one,) = taken(book, 0.0)
    assert len(one.message) == 1024
