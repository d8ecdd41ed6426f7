"""Samples of balancers under loads, and what follows from them: medians, spreads, ratios. No I/O but writing JSON."""

from __future__ import annotations

import json
import statistics
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

RESULTS = Path(__file__).resolve().parent / "results"


@dataclass(frozen=True, slots=True)
class Sample:
    """One balancer under one load in one round. CPU is the balancer's, user and system, unless it says otherwise."""

    per_second: float
    cpu_us_each: float
    user_us_each: float
    """The part of it that the balancer's own code took, by the kernel's clock ticks."""
    cpu_share: float
    gigabits_per_second: float
    cpu_us_per_megabyte: float
    p50_ms: float | None
    p99_ms: float | None
    errors: int
    lost: int
    """Queries or datagrams without an answer; loads over TCP lose none, or it is an error."""
    control_cpu_us_each: float
    """CPU of processes of the balancer that touch no client byte (lbd's supervisor)."""
    machine_cpu_us_each: float
    """CPU of everything on the machine: clients, Pods, kernel, and whatever else ran."""
    offered_per_second: float = 0.0
    """What an open-loop generator was told to do; 0: as much as it can."""


@dataclass(slots=True)
class Report:
    """All samples by balancer and load, one for each round (None: the load failed, and `failures` of the
    balancer says how).

    `idle_bytes` is memory per idle connection by balancer.
    """

    versions: dict[str, str] = field(default_factory=dict)
    settings: dict[str, object] = field(default_factory=dict)
    samples: dict[str, dict[str, list[Sample | None]]] = field(default_factory=dict)
    idle_bytes: dict[str, float] = field(default_factory=dict)
    failures: dict[str, list[str]] = field(default_factory=dict)
    started_at: float = field(default_factory=time.time)

    def add(self, balancer: str, load: str, sample: Sample | None) -> None:
        """Append the next round's sample."""
        self.samples.setdefault(balancer, {}).setdefault(load, []).append(sample)

    def values(self, balancer: str, load: str, what: str) -> list[float | None]:
        """Return one field of `Sample` for each round; None where there is none."""
        samples = self.samples.get(balancer, {}).get(load, [])
        found = [None if sample is None else getattr(sample, what) for sample in samples]
        return [None if value is None else float(value) for value in found]

    def median(self, balancer: str, load: str, what: str) -> float | None:
        """Return the median over the rounds of one field of `Sample`; None without a sample."""
        values = [value for value in self.values(balancer, load, what) if value is not None]
        return statistics.median(values) if values else None

    def spread(self, balancer: str, load: str, what: str) -> float:
        """Return half of the range over the rounds as a share of the median."""
        values = [value for value in self.values(balancer, load, what) if value is not None]
        middle = statistics.median(values) if values else 0.0
        return (max(values) - min(values)) / 2 / middle if middle else 0.0

    def ratio(self, one: str, other: str, load: str, what: str) -> float | None:
        """Return the median over the rounds of one balancer's figure divided by another's in the same round.

        What disturbs a round disturbs both: on a busy machine this says more than the ratio of the medians.
        """
        pairs = zip(self.values(one, load, what), self.values(other, load, what), strict=False)
        ratios = [mine / theirs for mine, theirs in pairs if mine is not None and theirs]
        return statistics.median(ratios) if ratios else None

    def errors(self, balancer: str) -> int:
        """Return the errors that clients saw, over all loads and rounds; a load that failed counts as one."""
        everything = [sample for samples in self.samples.get(balancer, {}).values() for sample in samples]
        failed = len(self.failures.get(balancer, []))
        return failed + sum(sample.errors for sample in everything if sample is not None)

    def lost(self, balancer: str, load: str) -> int:
        """Return the datagrams lost in one load, over all rounds."""
        return sum(sample.lost for sample in self.samples.get(balancer, {}).get(load, []) if sample is not None)

    def write(self, name: str, **more: object) -> Path:
        """Write everything as JSON into bench/results and return the file."""
        file = result_path(name, ".json", self.started_at)
        file.write_text(json.dumps({**asdict(self), **more}, indent=1))
        return file


def result_path(name: str, suffix: str, started_at: float) -> Path:
    """Return the file of bench/results, which is made, for what a run that started then has found."""
    RESULTS.mkdir(exist_ok=True)
    return RESULTS / f"{name}-{time.strftime('%Y%m%dT%H%M%S', time.localtime(started_at))}{suffix}"
