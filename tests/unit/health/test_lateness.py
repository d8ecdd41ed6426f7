"""Claims about the records of lateness."""

from lbd.health.lateness import LagRecord, LatenessRecord


def test_percentiles_are_of_the_last_samples_and_the_maximum_of_all() -> None:
    record = LatenessRecord()
    assert record.percentiles() == (0.0, 0.0)
    record.add(9.0)
    for index in range(10_000):
        record.add(index % 100 / 100)
    p50_s, p99_s = record.percentiles()
    assert 0.45 < p50_s < 0.55
    assert 0.98 <= p99_s < 1.0
    assert record.max_s == 9.0


def test_lag_counts_only_as_far_as_it_lies_in_the_window() -> None:
    record = LagRecord(0.0625, 0.0)
    record.beat(0.0625)
    record.beat(1.125)
    assert record.worst_since(0.0, 1.125) == 1.0
    assert record.worst_since(1.0, 1.125) == 0.125
    assert record.worst_since(1.1875, 1.25) == 0.0625
    assert record.worst_since(1.15, 1.16) == 0.0
    assert record.max_s == 1.0


def test_lag_that_is_going_on_counts_before_its_beat_came() -> None:
    record = LagRecord(0.0625, 0.0)
    assert record.worst_since(0.0, 2.0625) == 2.0
    assert record.worst_since(2.0, 2.0625) == 0.0625


def test_beats_in_time_leave_no_lag() -> None:
    record = LagRecord(0.05, 0.0)
    for index in range(1, 100):
        record.beat(index * 0.051)
    assert record.worst_since(0.0, 5.05) < 0.05
    assert record.max_s == 0.0
