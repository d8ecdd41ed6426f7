"""The verdict of a comparison: what is required, against the better of the rivals, in the same rounds."""

from __future__ import annotations

from dataclasses import replace

import pytest
from lab_loads import LATENCY_SHARES
from lab_required import ROWS, Row, Verdict, judge, judge_idle, judge_lost, shortfalls
from lab_samples import Report, Sample
from lab_tables import table
from side_by_side import LOADS

SAMPLE = Sample(
    per_second=100.0,
    cpu_us_each=10.0,
    user_us_each=2.0,
    cpu_share=0.9,
    gigabits_per_second=5.0,
    cpu_us_per_megabyte=200.0,
    p50_ms=1.0,
    p99_ms=2.0,
    errors=0,
    lost=0,
    control_cpu_us_each=0.1,
    machine_cpu_us_each=20.0,
)
MORE = Row("load", "requests/s", "per_second", ".0f", True, ("haproxy tuned", "nginx tuned"), 0.95)
LESS = Row("load", "CPU", "cpu_us_each", ".0f", False, ("haproxy tuned", "nginx tuned"), 1.05)


def report_of(what: str, **by_name: list[float | None]) -> Report:
    """Return a report in which one field has these values, round by round; `_` in a name is a blank."""
    report = Report()
    for name, values in by_name.items():
        for value in values:
            sample = None if value is None else replace(SAMPLE, **{what: value})  # type: ignore[arg-type]
            report.add(name.replace("_", " "), "load", sample)
    return report


def test_what_is_required_is_the_projects_table() -> None:
    required = {(row.load, row.what, row.rivals[0]): row.required for row in ROWS if row.required is not None}
    assert required == {
        ("keep-alive requests", "per_second", "haproxy default"): 0.95,
        ("keep-alive requests", "cpu_us_each", "haproxy default"): 1.05,
        ("new connection per request", "per_second", "haproxy default"): 0.95,
        ("new connection per request", "cpu_us_each", "haproxy default"): 1.08,
        ("bulk, one stream", "gigabits_per_second", "haproxy default"): 1.3,
        ("bulk, one stream", "gigabits_per_second", "haproxy tuned"): 1.0,
        ("bulk, eight streams", "gigabits_per_second", "haproxy default"): 1.3,
        ("bulk, eight streams", "gigabits_per_second", "haproxy tuned"): 1.0,
        ("UDP queries", "per_second", "nginx default"): 1.1,
        ("UDP queries, a flow each", "per_second", "nginx default"): 1.1,
        ("latency at 80 %", "p99_ms", "haproxy default"): 1.1,
    }


def test_every_row_is_about_a_load_that_is_put_on() -> None:
    loads = {load.name for choice in LOADS.values() for load in choice} | set(LATENCY_SHARES)
    assert {row.load for row in ROWS} == loads


def test_the_better_rival_is_the_one_that_counts() -> None:
    more = judge(report_of("per_second", lbd=[95], haproxy_tuned=[100], nginx_tuned=[50]), MORE)
    assert (more.better, more.ratio, more.verdict) == ("haproxy tuned", 0.95, Verdict.REACHED)
    less = judge(report_of("cpu_us_each", lbd=[10], haproxy_tuned=[10], nginx_tuned=[9]), LESS)
    assert (less.better, less.verdict) == ("nginx tuned", Verdict.MISSED)


@pytest.mark.parametrize(
    ("row", "lbd", "verdict"),
    [(MORE, 95.0, "reached"), (MORE, 94.9, "missed"), (LESS, 105.0, "reached"), (LESS, 105.1, "missed")],
)
def test_the_bound_itself_is_reached_and_what_is_beyond_it_is_missed(row: Row, lbd: float, verdict: str) -> None:
    assert judge(report_of(row.what, lbd=[lbd], haproxy_tuned=[100]), row).verdict == verdict


def test_rounds_are_compared_with_each_other_and_not_the_medians() -> None:
    # A machine that is slow in other rounds for each: the medians are 100 to 100, the median of the ratios is 0.5.
    judged = judge(report_of("per_second", lbd=[100, 50, 200], haproxy_tuned=[200, 100, 100]), MORE)
    assert (judged.ratio, judged.verdict) == (0.5, Verdict.MISSED)


def test_a_round_that_failed_is_left_out_of_the_ratio_for_both() -> None:
    judged = judge(report_of("per_second", lbd=[None, 100], haproxy_tuned=[1000, 100]), MORE)
    assert judged.ratio == 1.0


def test_what_was_not_measured_is_not_reached() -> None:
    report = report_of("per_second", lbd=[None], haproxy_tuned=[100])
    assert judge(report, MORE).verdict == Verdict.NOT_MEASURED
    assert judge(Report(), MORE).verdict == Verdict.NOT_MEASURED
    assert judge_idle(Report()) == Verdict.NOT_MEASURED
    assert judge_lost(Report(), "load") == Verdict.NOT_MEASURED
    assert shortfalls(Report(), ["keep-alive requests"], idle=True) == [
        "keep-alive requests, requests/s: not measured",
        "keep-alive requests, CPU µs per request: not measured",
        "an idle connection takes None bytes; required: at most 1024",
    ]


def test_an_idle_connection_may_take_a_kibibyte_and_no_byte_more() -> None:
    assert judge_idle(Report(idle_bytes={"lbd": 1024.0})) == Verdict.REACHED
    assert judge_idle(Report(idle_bytes={"lbd": 1024.1})) == Verdict.MISSED


def test_one_lost_query_is_a_miss_even_where_the_rivals_lose_more() -> None:
    report = Report()
    for name, lost in (("lbd", 1), ("nginx default", 90), ("nginx tuned", 90)):
        report.add(name, "UDP queries", replace(SAMPLE, per_second=200 if name == "lbd" else 100, lost=lost))
    assert judge_lost(report, "UDP queries") == Verdict.MISSED
    assert shortfalls(report, ["UDP queries"], idle=False) == ["UDP queries: lbd lost 1"]


@pytest.mark.parametrize("failure", ["sample", "generator"])
def test_one_error_that_a_client_of_lbd_saw_fails_the_run(failure: str) -> None:
    report = Report()
    for name in ("lbd", "haproxy tuned"):
        report.add(name, "keep-alive requests", SAMPLE)
    assert shortfalls(report, ["keep-alive requests"], idle=False) == []
    if failure == "sample":
        report.add("lbd", "keep-alive requests", replace(SAMPLE, errors=1))
    else:
        report.failures["lbd"] = ["keep-alive requests: wrk said nothing"]
    assert shortfalls(report, ["keep-alive requests"], idle=False) == ["clients of lbd saw 1 errors"]


def test_errors_of_a_rivals_clients_fail_nothing_and_are_shown() -> None:
    report = Report()
    report.add("lbd", "keep-alive requests", SAMPLE)
    report.add("haproxy tuned", "keep-alive requests", replace(SAMPLE, errors=7))
    assert shortfalls(report, ["keep-alive requests"], idle=False) == []
    last = table(report, ["lbd", "haproxy tuned"], ["keep-alive requests"]).splitlines()[-1]
    assert last.split()[-4:] == ["0", "7", "0", "reached"]


def test_the_table_says_ratio_requirement_and_verdict_of_each_row() -> None:
    report = Report(idle_bytes={"lbd": 700.0})
    report.add("lbd", "keep-alive requests", replace(SAMPLE, per_second=90.0))
    report.add("nginx tuned", "keep-alive requests", SAMPLE)
    lines = {
        line[:24].strip(): line for line in table(report, ["lbd", "nginx tuned"], ["keep-alive requests"]).split("\n")
    }
    assert lines["requests/s"].split()[1:] == ["90", "±0%", "*100", "±0%", "0.900", "≥", "0.95", "missed"]
    assert lines["CPU µs per request"].endswith("1.000    ≤ 1.05  reached")
    assert lines["bytes of memory"].endswith("≤ 1024  reached")


def test_a_spread_is_half_of_the_range_around_the_median() -> None:
    report = report_of("per_second", lbd=[90, 100, 130])
    assert report.median("lbd", "load", "per_second") == 100
    assert report.spread("lbd", "load", "per_second") == 0.2
