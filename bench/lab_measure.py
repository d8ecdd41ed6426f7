"""Interleaved rounds over several balancers, and their medians."""

from __future__ import annotations

import json
import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from lab_balancers import Balancer
from lab_testbed import Testbed

RESULTS = Path(__file__).resolve().parent / "results"
SETTLE_S = 0.2
"""After a load, until connections that were closing have closed: their CPU belongs to the load."""


@dataclass(frozen=True, slots=True)
class Load:
    """One kind of load. `close` makes a new connection for each request; `path` is what is asked for."""

    name: str
    connections: int
    path: str = "/"
    close: bool = False


KEEP_ALIVE = Load("keep-alive requests", 64)
SHORT = Load("new connection per request", 64, close=True)
BULK = Load("bulk, one stream", 1, "/bulk")


@dataclass(frozen=True, slots=True)
class Sample:
    """One balancer under one load in one round. CPU is the balancer's, user and system."""

    per_second: float
    cpu_us_each: float
    user_us_each: float
    """The part of it that the balancer's own code took, by the kernel's clock ticks."""
    cpu_share: float
    gigabits_per_second: float
    cpu_us_per_megabyte: float
    p99_ms: float
    errors: int
    control_cpu_us_each: float
    """CPU of processes of the balancer that touch no client byte (lbd's supervisor)."""


@dataclass(slots=True)
class Report:
    """All samples by balancer and load, and memory in bytes per idle connection."""

    versions: dict[str, str] = field(default_factory=dict)
    samples: dict[str, dict[str, list[Sample]]] = field(default_factory=dict)
    idle_bytes: dict[str, float] = field(default_factory=dict)
    started_at: float = field(default_factory=time.time)

    def median(self, balancer: str, load: Load, what: str) -> float:
        """Return the median over the rounds of one field of `Sample`."""
        return statistics.median(self._values(balancer, load, what))

    def ratio(self, one: str, other: str, load: Load, what: str) -> float:
        """Return the median over the rounds of one balancer's figure divided by another's in the same round.

        What disturbs a round disturbs both: on a busy machine this says more than the ratio of the medians.
        """
        pairs = zip(self._values(one, load, what), self._values(other, load, what), strict=True)
        return statistics.median(mine / theirs for mine, theirs in pairs)

    def spread(self, balancer: str, load: Load, what: str) -> float:
        """Return half of the range over the rounds as a share of the median."""
        values = self._values(balancer, load, what)
        return (max(values) - min(values)) / 2 / statistics.median(values)

    def _values(self, balancer: str, load: Load, what: str) -> list[float]:
        return [float(getattr(sample, what)) for sample in self.samples[balancer][load.name]]

    def errors(self, balancer: str) -> int:
        """Return the errors that clients saw, over all loads and rounds."""
        return sum(sample.errors for samples in self.samples[balancer].values() for sample in samples)

    def write(self, name: str) -> Path:
        """Write everything as JSON into bench/results and return the file."""
        RESULTS.mkdir(exist_ok=True)
        file = RESULTS / f"{name}-{time.strftime('%Y%m%dT%H%M%S', time.localtime(self.started_at))}.json"
        file.write_text(json.dumps(asdict(self), indent=1))
        return file


def measure(bed: Testbed, balancer: Balancer, load: Load, duration_s: int) -> Sample:
    """Put one load on one balancer."""
    control = [pid for pid in balancer.all_pids() if pid not in balancer.pids()]
    before_s, user_before_s, control_before_s = balancer.cpu_s(), balancer.user_s(), balancer.cpu_s(control)
    result = bed.load(balancer.address, duration_s, load.connections, load.path, close=load.close)
    time.sleep(SETTLE_S)
    cpu_s, user_s = balancer.cpu_s() - before_s, balancer.user_s() - user_before_s
    control_s = balancer.cpu_s(control) - control_before_s
    return Sample(
        per_second=result.per_second,
        cpu_us_each=cpu_s * 1e6 / max(result.requests, 1),
        user_us_each=user_s * 1e6 / max(result.requests, 1),
        cpu_share=cpu_s / result.duration_s,
        gigabits_per_second=result.received_bytes * 8e-9 / result.duration_s,
        cpu_us_per_megabyte=cpu_s * 1e12 / max(result.received_bytes, 1),
        p99_ms=result.p99_ms,
        errors=result.errors,
        control_cpu_us_each=control_s * 1e6 / max(result.requests, 1),
    )


def run_rounds(
    bed: Testbed, balancers: Sequence[Balancer], loads: Sequence[Load], rounds: int, duration_s: int
) -> Report:
    """Run every load on every balancer in each round, in an order that turns from round to round."""
    report = Report(versions={balancer.name: balancer.version() for balancer in balancers})
    for balancer in balancers:
        for load in loads:
            bed.load(balancer.address, 1, load.connections, load.path, close=load.close)
            report.samples.setdefault(balancer.name, {})[load.name] = []
    for number in range(rounds):
        first = number % len(balancers)
        for load in loads:
            for balancer in [*balancers[first:], *balancers[:first]]:
                sample = measure(bed, balancer, load, duration_s)
                report.samples[balancer.name][load.name].append(sample)
    return report


def measure_idle(bed: Testbed, balancer: Balancer, count: int) -> float:
    """Return the bytes of memory that each of `count` idle connections takes, after a hundred have come and gone."""
    for sock in bed.open_idle(balancer.address, 100):
        sock.close()
    time.sleep(SETTLE_S)
    before = balancer.memory_bytes()
    opened = bed.open_idle(balancer.address, count)
    time.sleep(SETTLE_S)
    after = balancer.memory_bytes()
    for sock in opened:
        sock.close()
    time.sleep(SETTLE_S)
    return (after - before) / count
