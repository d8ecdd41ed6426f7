"""The verdict of a soak: what grows, what is left over, what clients saw."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from soak_verdict import ProcessSample, SoakSample, growth_bytes, judge_soak, slope

MB = 1 << 20


def sample(at_s: float, memory_bytes: float = 10 * MB, descriptors: int = 12, **more: int) -> SoakSample:
    """Return a look at one worker."""
    counters = {"active": 0, "members_active": 0, "connections_total": int(at_s) + 1, "rejected_total": 0}
    counters |= {"restarts_total": 0, **more}
    return SoakSample(at_s, {"worker 0": ProcessSample(int(memory_bytes), descriptors)}, **counters)


START, END = sample(0), sample(2000)
FLAT = [sample(at_s, 10 * MB + random.Random(at_s).randrange(MB // 4)) for at_s in range(0, 1800, 5)]


def judged(loaded: list[SoakSample] = FLAT, end: SoakSample = END, **errors: int) -> list[str]:
    """Judge a soak that is good but for what is given."""
    return judge_soak(START, loaded, end, errors, [])


def test_flat_memory_and_everything_back_is_success() -> None:
    assert judged() == []


def test_memory_that_grows_slowly_and_steadily_is_found() -> None:
    growing = [sample(at_s, 10 * MB + at_s * 1200) for at_s in range(0, 1800, 5)]
    assert [problem for problem in judged(growing) if "memory" in problem and "grew by 1.4" in problem]


def test_growth_in_the_warm_up_is_forgiven() -> None:
    filling = [sample(at_s, 10 * MB + min(at_s, 500) * 20_000) for at_s in range(0, 1800, 5)]
    assert judged(filling) == []


def test_a_few_spikes_are_no_growth() -> None:
    spiked = [sample(at_s, (80 if at_s in (700, 1700, 1795) else 10) * MB) for at_s in range(0, 1800, 5)]
    assert growth_bytes("worker 0", spiked) == 0
    assert judged(spiked) == []


def test_too_few_samples_prove_nothing() -> None:
    too_few = "samples after the warm-up: too few to say whether memory is flat"
    assert judged(FLAT[:21]) == [f"only 9 {too_few}"]
    assert judged(FLAT[:22]) == []
    assert judged([]) == [f"only 0 {too_few}"]


def test_one_descriptor_too_many_at_the_end_is_told() -> None:
    assert judged(end=sample(2000, descriptors=13)) == ["worker 0: 13 descriptors at the end, 12 at the start"]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"active": 1}, "still counted as open: 1 connections or flows, 0 to members"),
        ({"members_active": 2}, "still counted as open: 0 connections or flows, 2 to members"),
        ({"restarts_total": 2}, "workers were restarted 2 times"),
        ({"rejected_total": 3}, "3 clients were rejected, below every limit"),
        ({"connections_total": 1}, "no connection was made: nothing was measured"),
        ({"processes": {}}, "worker 0 is gone"),
    ],
)
def test_each_thing_that_is_left_over_is_told(change: dict[str, object], sentence: str) -> None:
    assert judged(end=replace(END, **change)) == [sentence]  # type: ignore[arg-type]


def test_what_clients_saw_and_faults_are_told() -> None:
    assert judged(bulk=2, queries=0) == ["bulk: clients saw 2 errors"]
    assert judge_soak(START, FLAT, END, {}, ["its log has a traceback"]) == ["its log has a traceback"]


def test_a_slope_is_that_of_most_points() -> None:
    assert slope([(float(x), 3.0 * x) for x in range(1000)]) == pytest.approx(3.0)
    assert slope([]) == slope([(1.0, 1.0)]) == slope([(1.0, 1.0), (1.0, 9.0)]) == 0.0
