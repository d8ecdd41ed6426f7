"""Which charts a comparison gets: one for each group of loads, with all balancers."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lab_charts import Bar, bar_chart
from lab_samples import Report, result_path

_COLOURS = {
    "lbd": "#1b6ca8",
    "haproxy": "#c0504d",
    "haproxy default": "#e3a19f",
    "haproxy tuned": "#c0504d",
    "haproxy splice": "#8c3b39",
    "nginx": "#4f8a4c",
    "nginx default": "#a3c9a1",
    "nginx tuned": "#4f8a4c",
}
_GROUPS: tuple[tuple[str, str, str, str, tuple[str, ...]], ...] = (
    ("requests", "Requests", "per second", "per_second", ("keep-alive requests",)),
    ("requests-cpu", "CPU of a request", "µs", "cpu_us_each", ("keep-alive requests",)),
    ("connections", "New connections", "per second", "per_second", ("new connection per request",)),
    ("connections-cpu", "CPU of a connection", "µs", "cpu_us_each", ("new connection per request",)),
    (
        "bulk",
        "Bulk",
        "Gbit/s",
        "gigabits_per_second",
        ("bulk, one stream", "bulk, eight streams", "UDP bulk, one flow"),
    ),
    ("queries", "UDP queries", "per second", "per_second", ("UDP queries", "UDP queries, a flow each")),
    ("latency", "Latency: 99 % within", "ms", "p99_ms", ("latency at 30 %", "latency at 80 %")),
    ("latency-p50", "Latency: 50 % within", "ms", "p50_ms", ("latency at 30 %", "latency at 80 %")),
    ("workers", "Requests by workers", "per second", "per_second", ("one worker", "two workers")),
)


def bar_of(report: Report, name: str, load: str, what: str) -> Bar | None:
    """Return one figure with the range of its rounds, None without a sample."""
    values = [value for value in report.values(name, load, what) if value is not None]
    median = report.median(name, load, what)
    return None if median is None else Bar(median, min(values), max(values))


def draw(report: Report, names: Sequence[str]) -> list[Path]:
    """Write the charts of everything that was measured into bench/results and return the files."""
    written = []
    for file, title, unit, what, loads in _GROUPS:
        bars = {
            load: {name: bar_of(report, name, load, what) for name in names if report.values(name, load, what)}
            for load in loads
        }
        bars = {load: members for load, members in bars.items() if members}
        if bars:
            written.append(_write(report, file, bar_chart(title, unit, bars, _COLOURS)))
    if report.idle_bytes:
        idle = {"idle connection": {name: Bar(size, size, size) for name, size in report.idle_bytes.items()}}
        written.append(_write(report, "memory", bar_chart("Memory of an idle connection", "bytes", idle, _COLOURS)))
    return written


def _write(report: Report, name: str, svg: str) -> Path:
    file = result_path(f"chart-{name}", ".svg", report.started_at)
    file.write_text(svg)
    return file
