"""What lbd must reach against the better of HAProxy and nginx in the same run, and whether it did: pure."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from lab_samples import Report

SUBJECT = "lbd"
DEFAULT_ONES = ("haproxy default", "nginx default")
TUNED_ONES = ("haproxy tuned", "haproxy splice", "nginx tuned")
EVERYBODY = (*DEFAULT_ONES, *TUNED_ONES)
NGINX_ONES = ("nginx default", "nginx tuned")
MOST_IDLE_BYTES = 1024.0


class Verdict(StrEnum):
    """Of one row. `NOT_MEASURED` is no success: a run that left something out can't reach it."""

    REACHED = "reached"
    MISSED = "missed"
    NOT_MEASURED = "not measured"
    TOLD = ""
    """Nothing is required of it."""


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the table: a field of `Sample` under one load, and how many times theirs lbd's must be.

    `required` is the least ratio where more is better, else the greatest; None: the row only tells.
    """

    load: str
    title: str
    what: str
    form: str
    more_is_better: bool
    rivals: tuple[str, ...] = EVERYBODY
    required: float | None = None


@dataclass(frozen=True, slots=True)
class Judged:
    """A row with what was measured. `better` is the rival that lbd is measured against: best by its median."""

    row: Row
    better: str | None
    ratio: float | None
    verdict: Verdict


def _cpu(load: str, each: str, required: float | None = None) -> tuple[Row, ...]:
    return (
        Row(load, f"CPU µs per {each}", "cpu_us_each", ".1f", False, required=required),
        Row(load, "of it user", "user_us_each", ".1f", False),
        Row(load, "whole machine's CPU µs", "machine_cpu_us_each", ".1f", False),
    )


def _bulk(load: str) -> tuple[Row, ...]:
    return (
        Row(load, "Gbit/s, default ones", "gigabits_per_second", ".2f", True, DEFAULT_ONES, 1.3),
        Row(load, "Gbit/s, tuned ones", "gigabits_per_second", ".2f", True, TUNED_ONES, 1.0),
        Row(load, "CPU µs per MB", "cpu_us_per_megabyte", ".0f", False),
    )


def _queries(load: str) -> tuple[Row, ...]:
    return (
        Row(load, "queries/s", "per_second", ",.0f", True, NGINX_ONES, 1.1),
        Row(load, "CPU µs per query", "cpu_us_each", ".1f", False, NGINX_ONES),
    )


def _latency(load: str, required: float | None = None) -> tuple[Row, ...]:
    return (
        Row(load, "requests/s", "per_second", ",.0f", True),
        Row(load, "50 % within, ms", "p50_ms", ".2f", False),
        Row(load, "99 % within, ms", "p99_ms", ".2f", False, required=required),
    )


ROWS: tuple[Row, ...] = (
    Row("keep-alive requests", "requests/s", "per_second", ",.0f", True, required=0.95),
    *_cpu("keep-alive requests", "request", 1.05),
    Row("new connection per request", "connections/s", "per_second", ",.0f", True, required=0.95),
    *_cpu("new connection per request", "connection", 1.08),
    *_bulk("bulk, one stream"),
    *_bulk("bulk, eight streams"),
    *_queries("UDP queries"),
    *_queries("UDP queries, a flow each"),
    Row("UDP bulk, one flow", "Gbit/s", "gigabits_per_second", ".2f", True, NGINX_ONES),
    Row("UDP bulk, one flow", "CPU µs per MB", "cpu_us_per_megabyte", ".0f", False, NGINX_ONES),
    *_latency("latency at 30 %"),
    *_latency("latency at 80 %", 1.1),
)
"""What is required is the table of the project's goals; change it there first."""

LOSSLESS = ("UDP queries", "UDP queries, a flow each")
"""Loads of which lbd must lose nothing, whatever its rivals lose."""


def better_of(report: Report, row: Row) -> str | None:
    """Return the rival of a row with the best median, None if none of them was measured."""
    medians = {name: report.median(name, row.load, row.what) for name in row.rivals}
    known = {name: median for name, median in medians.items() if median is not None}
    if not known:
        return None
    return (max if row.more_is_better else min)(known, key=lambda name: known[name])


def judge(report: Report, row: Row) -> Judged:
    """Compare lbd with the better of its rivals, round by round."""
    better = better_of(report, row)
    ratio = None if better is None else report.ratio(SUBJECT, better, row.load, row.what)
    if row.required is None:
        return Judged(row, better, ratio, Verdict.TOLD)
    if ratio is None:
        return Judged(row, better, ratio, Verdict.NOT_MEASURED)
    reached = ratio >= row.required if row.more_is_better else ratio <= row.required
    return Judged(row, better, ratio, Verdict.REACHED if reached else Verdict.MISSED)


def judge_idle(report: Report) -> Verdict:
    """Say whether an idle connection of lbd takes little enough memory."""
    if SUBJECT not in report.idle_bytes:
        return Verdict.NOT_MEASURED
    return Verdict.REACHED if report.idle_bytes[SUBJECT] <= MOST_IDLE_BYTES else Verdict.MISSED


def judge_lost(report: Report, load: str) -> Verdict:
    """Say whether lbd lost nothing of a load."""
    if report.median(SUBJECT, load, "per_second") is None:
        return Verdict.NOT_MEASURED
    return Verdict.MISSED if report.lost(SUBJECT, load) else Verdict.REACHED


def rows_of(loads: Sequence[str]) -> list[Row]:
    """Return the rows of the loads that a run has chosen."""
    return [row for row in ROWS if row.load in loads]


def shortfalls(report: Report, loads: Sequence[str], *, idle: bool) -> list[str]:
    """Return a sentence for each requirement of the chosen loads that was not reached, and for lbd's errors."""
    sentences = []
    for judged in (judge(report, row) for row in rows_of(loads)):
        row = judged.row
        if judged.verdict == Verdict.MISSED and judged.ratio is not None:
            bound = "at least" if row.more_is_better else "at most"
            sentences.append(
                f"{row.load}, {row.title}: {judged.ratio:.3f} times {judged.better}'s; required: {bound} {row.required}"
            )
        elif judged.verdict == Verdict.NOT_MEASURED:
            sentences.append(f"{row.load}, {row.title}: not measured")
    sentences += [
        f"{load}: lbd lost {report.lost(SUBJECT, load)}"
        for load in LOSSLESS
        if load in loads and judge_lost(report, load) == Verdict.MISSED
    ]
    if idle and judge_idle(report) != Verdict.REACHED:
        held = report.idle_bytes.get(SUBJECT)
        sentences.append(f"an idle connection takes {held} bytes; required: at most {MOST_IDLE_BYTES:.0f}")
    if errors := report.errors(SUBJECT):
        sentences.append(f"clients of lbd saw {errors} errors")
    return sentences
