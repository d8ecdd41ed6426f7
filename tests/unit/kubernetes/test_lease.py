"""When a Lease is taken, kept and left to others."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta, timezone

import pytest

from lbd.kubernetes.writing.lease import (
    LeaseRecord,
    Seen,
    Step,
    acquired,
    decide,
    observe,
    released,
    renewed,
    timestamp,
)
from lbd.model.kubernetes import LeaseSettings

SETTINGS = LeaseSettings(duration_s=15.0, renew_deadline_s=10.0, retry_s=2.0)
NOON = datetime(2026, 11, 29, 12, 0, 0, 5, tzinfo=UTC)
OTHERS = LeaseRecord("se-b", 15, "2026-11-29T11:00:00.000000Z", "2026-11-29T11:59:59.000000Z", 3)
OURS = LeaseRecord("se-a", 15, "term", "2026-11-29T11:59:59.000000Z", 3)


@pytest.mark.parametrize(
    ("record", "term", "age_s", "step"),
    [
        (None, "", 0.0, Step.CREATE),
        (LeaseRecord("", 1, "t", "t", 3), "", 0.0, Step.ACQUIRE),
        (OTHERS, "", 0.0, Step.WAIT),
        (OTHERS, "", 14.999, Step.WAIT),
        (OTHERS, "", 15.0, Step.ACQUIRE),
        (OURS, "term", 0.0, Step.RENEW),
        (OURS, "term", 100.0, Step.RENEW),
        (OURS, "another term", 0.0, Step.WAIT),  # somebody else calls himself as we do
        (OURS, "", 0.0, Step.WAIT),
        (OURS, "", 15.0, Step.ACQUIRE),
        (LeaseRecord("se-b", 60, "t", "t"), "", 59.0, Step.WAIT),  # the holder is configured otherwise
        (LeaseRecord("se-b", 0, "t", "t"), "", 14.0, Step.WAIT),  # says nothing: ours counts
        (LeaseRecord("se-b", 0, "t", "t"), "", 15.0, Step.ACQUIRE),
        (LeaseRecord("se-b", 2**31 - 1, "t", "t"), "", 600.0, Step.ACQUIRE),  # nobody locks us out for 68 years
    ],
)
def test_what_is_done_with_a_lease(record: LeaseRecord | None, term: str, age_s: float, step: Step) -> None:
    seen = None if record is None else Seen(record, "7", 1000.0)
    assert decide(seen, "se-a", term, SETTINGS, 1000.0 + age_s).step is step


def test_a_wait_says_when_the_lease_expires() -> None:
    assert decide(Seen(OTHERS, "7", 1000.0), "se-a", "", SETTINGS, 1003.0).expires_s == 1015.0


def test_only_a_change_of_the_record_is_a_sign_of_life() -> None:
    seen = observe(None, OTHERS, "7", 1000.0)
    assert observe(seen, OTHERS, "8", 1010.0).changed_s == 1000.0  # a label was put on it
    renewed_record = renewed(OTHERS, SETTINGS, NOON)
    assert observe(seen, renewed_record, "9", 1010.0).changed_s == 1010.0


def test_wall_clocks_decide_nothing() -> None:
    """A holder whose clock is a year behind or ahead is given its whole duration all the same."""
    for year in ("1970", "2025", "2199"):
        record = LeaseRecord("se-b", 15, f"{year}-01-01T00:00:00.000000Z", f"{year}-01-01T00:00:00.000000Z")
        seen = observe(None, record, "7", 1000.0)
        assert decide(seen, "se-a", "", SETTINGS, 1014.9).step is Step.WAIT
        assert decide(seen, "se-a", "", SETTINGS, 1015.1).step is Step.ACQUIRE


def test_taking_it_over_counts_a_transition_and_renewing_does_not() -> None:
    taken = acquired(Seen(OTHERS, "7", 0.0), "se-a", SETTINGS, NOON)
    assert taken == LeaseRecord("se-a", 15, "2026-11-29T12:00:00.000005Z", "2026-11-29T12:00:00.000005Z", 4)
    later = renewed(taken, SETTINGS, NOON + timedelta(seconds=2))
    assert (later.acquired, later.transitions) == (taken.acquired, 4)
    assert later.renewed == "2026-11-29T12:00:02.000005Z"
    assert acquired(None, "se-a", SETTINGS, NOON).transitions == 0


def test_giving_it_back_leaves_no_holder_and_a_short_lease() -> None:
    back = released(OURS, NOON)
    assert (back.holder, back.duration_s, back.transitions) == ("", 1, 3)
    assert decide(Seen(back, "7", 0.0), "se-b", "", SETTINGS, 0.0).step is Step.ACQUIRE


def test_times_are_utc_with_microseconds_whatever_the_zone() -> None:
    there = datetime(2026, 11, 29, 14, 30, 0, 5, tzinfo=timezone(timedelta(hours=2, minutes=30)))
    assert timestamp(there) == timestamp(NOON) == "2026-11-29T12:00:00.000005Z"


def test_a_duration_is_written_in_whole_seconds_and_never_shorter() -> None:
    assert acquired(None, "x", LeaseSettings(duration_s=1.2), NOON).duration_s == 2
    assert acquired(None, "x", LeaseSettings(duration_s=0.2), NOON).duration_s == 1
    assert acquired(None, "x", LeaseSettings(duration_s=15.0), NOON).duration_s == 15


@pytest.mark.parametrize(
    "spec",
    [
        {},
        {"holderIdentity": 7, "leaseDurationSeconds": "15", "leaseTransitions": [], "renewTime": None},
        {"leaseDurationSeconds": True, "leaseTransitions": -1, "acquireTime": {}},
        {"leaseDurationSeconds": 2**40},
    ],
)
def test_what_has_not_the_type_that_it_should_counts_as_absent(spec: dict[str, object]) -> None:
    assert LeaseRecord.read(spec) == LeaseRecord()


def test_what_is_written_is_read_again() -> None:
    assert LeaseRecord.read(OTHERS.written()) == OTHERS
    assert len(LeaseRecord.read({"holderIdentity": "x" * 10_000}).holder) == 256
