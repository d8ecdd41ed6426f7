"""Reads what the load generators print: text in, one frozen result out, no I/O.

Each reader raises ValueError with the text when it is no report, so that a generator that failed never counts as a
result of zero.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What one run of one load got done.

    `operations` are requests, connections, queries or datagrams; `lost` are those of them over UDP that got no answer,
    `errors` everything else that a client must not see. Latencies are None where the load has none.
    """

    operations: int
    duration_s: float
    received_bytes: int = 0
    errors: int = 0
    lost: int = 0
    p50_ms: float | None = None
    p99_ms: float | None = None
    offered_per_second: float = 0.0
    """What an open-loop generator was told to do; 0: as much as it can."""

    @property
    def per_second(self) -> float:
        """Operations per second."""
        return self.operations / self.duration_s


_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_MILLISECONDS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60000.0, "h": 3600000.0}


def read_wrk(output: str) -> LoadResult:
    """Read wrk's report, made with --latency. Errors are failed connects, reads, writes, timeouts and wrong statuses.

    Raises:
        ValueError: it is no report.
    """
    total = re.search(r"(\d+) requests in ([\d.]+)(ms|s|m|h), ([\d.]+)([KMG]?)B read", output)
    p50 = re.search(r"50%\s+([\d.]+)(us|ms|s|m)\b", output)
    p99 = re.search(r"99%\s+([\d.]+)(us|ms|s|m)\b", output)
    if total is None or p50 is None or p99 is None:
        raise ValueError(f"wrk said: {output}")
    socket_errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", output)
    wrong = re.search(r"Non-2xx or 3xx responses: (\d+)", output)
    return LoadResult(
        operations=int(total[1]),
        duration_s=float(total[2]) * _MILLISECONDS[total[3]] / 1000,
        received_bytes=int(float(total[4]) * _UNITS[total[5]]),
        errors=sum(map(int, socket_errors.groups() if socket_errors else ())) + int(wrong[1] if wrong else 0),
        p50_ms=float(p50[1]) * _MILLISECONDS[p50[2]],
        p99_ms=float(p99[1]) * _MILLISECONDS[p99[2]],
    )


def percentile(ordered: Sequence[float], share: float) -> float:
    """Return the value that `share` of the sorted values do not exceed (nearest rank).

    Raises:
        ValueError: there are no values.
    """
    if not ordered:
        raise ValueError("no values, so no percentile")
    return ordered[max(math.ceil(share * len(ordered)) - 1, 0)]


def read_h2load(output: str, log: Iterable[str], asked: int, offered_per_second: float = 0.0) -> LoadResult:
    """Read h2load's report and its --log-file: start in µs, HTTP status (-1: failed), µs to the end of the response.

    `asked` is the number of requests it was to make: those that it did not finish are errors. The duration runs
    from the first request's start to the last one's, which leaves out connecting and the wait for stragglers.

    Raises:
        ValueError: it is no report, or nothing was logged.
    """
    done = re.search(r"requests: \d+ total, \d+ started, \d+ done, (\d+) succeeded", output)
    if done is None:
        raise ValueError(f"h2load said: {output}")
    starts_us: list[int] = []
    latencies_ms: list[float] = []
    for line in log:
        start, status, latency = line.split("\t")[:3]
        if 200 <= int(status) < 400:
            starts_us.append(int(start))
            latencies_ms.append(int(latency) / 1000)
    latencies_ms.sort()
    if len(starts_us) < 2 or max(starts_us) == min(starts_us):
        raise ValueError(f"h2load finished {len(starts_us)} requests and said: {output}")
    return LoadResult(
        operations=len(starts_us),
        duration_s=(max(starts_us) - min(starts_us)) / 1e6,
        errors=max(asked - int(done[1]), 0),
        p50_ms=percentile(latencies_ms, 0.50),
        p99_ms=percentile(latencies_ms, 0.99),
        offered_per_second=offered_per_second,
    )


def read_dnsperf(output: str) -> LoadResult:
    """Read dnsperf's statistics. Answers with any code but NOERROR are errors, queries without an answer are lost.

    Raises:
        ValueError: it is no report.
    """
    completed = re.search(r"Queries completed:\s+(\d+)", output)
    lost = re.search(r"Queries lost:\s+(\d+)", output)
    duration = re.search(r"Run time \(s\):\s+([\d.]+)", output)
    if completed is None or lost is None or duration is None or float(duration[1]) == 0:
        raise ValueError(f"dnsperf said: {output}")
    codes = re.search(r"Response codes:\s+(.*)", output)
    counts = dict(re.findall(r"(\w+) (\d+) \(", codes[1])) if codes else {}
    interrupted = re.search(r"Queries interrupted:\s+(\d+)", output)
    return LoadResult(
        operations=int(completed[1]),
        duration_s=float(duration[1]),
        errors=sum(int(count) for code, count in counts.items() if code != "NOERROR")
        + int(interrupted[1] if interrupted else 0),
        lost=int(lost[1]),
    )


def read_iperf3(output: str) -> LoadResult:
    """Read iperf3's JSON of a TCP run; operations are megabytes (1,000,000 bytes) that the receiver got.

    Raises:
        ValueError: it is no report, or iperf3 reports an error.
    """
    report: dict[str, Any] = json.loads(output or "{}")
    if "error" in report or "sum_received" not in report.get("end", {}):
        raise ValueError(f"iperf3 said: {report.get('error', output)}")
    received = report["end"]["sum_received"]
    return LoadResult(
        operations=max(int(received["bytes"] / 1e6), 1),
        duration_s=float(received["seconds"]),
        received_bytes=int(received["bytes"]),
    )


def read_udp_bulk(output: str) -> LoadResult:
    """Read the JSON of udp_bulk.py's sender; operations are datagrams that arrived.

    Raises:
        ValueError: it is no report, or nothing arrived.
    """
    report: dict[str, Any] = json.loads(output or "{}")
    if not report.get("arrived_datagrams"):
        raise ValueError(f"udp_bulk.py said: {output}")
    return LoadResult(
        operations=int(report["arrived_datagrams"]),
        duration_s=float(report["duration_s"]),
        received_bytes=int(report["arrived_bytes"]),
        lost=int(report["sent_datagrams"]) - int(report["arrived_datagrams"]),
    )
