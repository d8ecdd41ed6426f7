"""Interleaved rounds over several balancers: loads are put on, CPU and memory are read around them."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from lab_balancers import Balancer
from lab_loads import Load
from lab_samples import Report, Sample
from lab_testbed import Testbed

SETTLE_S = 0.2
"""After a load, until connections that were closing have closed: their CPU belongs to the load."""
WARM_UP_S = 1

Plan = Sequence[tuple[Load, Sequence[Balancer]]]
"""Which load is put on whom, in this order in each round."""


def machine_cpu_s() -> float:
    """Return the CPU seconds that the whole machine has been busy (proc(5), /proc/stat)."""
    user, nice, system, _, _, interrupts, soft_interrupts = map(int, Path("/proc/stat").read_text().split()[1:8])
    return (user + nice + system + interrupts + soft_interrupts) / os.sysconf("SC_CLK_TCK")


def measure(bed: Testbed, balancer: Balancer, load: Load, duration_s: int) -> Sample:
    """Put one load on one balancer.

    Raises:
        what `Load.put` raises.
    """
    control = [pid for pid in balancer.all_pids() if pid not in balancer.pids()]
    machine_before_s = machine_cpu_s()
    before_s, user_before_s, control_before_s = balancer.cpu_s(), balancer.user_s(), balancer.cpu_s(control)
    result = load.put(bed, balancer, duration_s)
    time.sleep(SETTLE_S)
    cpu_s, user_s = balancer.cpu_s() - before_s, balancer.user_s() - user_before_s
    control_s = balancer.cpu_s(control) - control_before_s
    each = 1e6 / max(result.operations, 1)
    return Sample(
        per_second=result.per_second,
        cpu_us_each=cpu_s * each,
        user_us_each=user_s * each,
        cpu_share=cpu_s / result.duration_s,
        gigabits_per_second=result.received_bytes * 8e-9 / result.duration_s,
        cpu_us_per_megabyte=cpu_s * 1e12 / max(result.received_bytes, 1),
        p50_ms=result.p50_ms,
        p99_ms=result.p99_ms,
        errors=result.errors,
        lost=result.lost,
        control_cpu_us_each=control_s * each,
        machine_cpu_us_each=(machine_cpu_s() - machine_before_s) * each,
        offered_per_second=result.offered_per_second,
    )


def try_load(bed: Testbed, balancer: Balancer, load: Load, duration_s: int, report: Report) -> Sample | None:
    """Put one load on one balancer; a generator that fails is told in the report, and in None."""
    try:
        return measure(bed, balancer, load, duration_s)
    except (ValueError, RuntimeError, OSError, subprocess.SubprocessError) as error:
        said = getattr(error, "stderr", "") or ""
        report.failures.setdefault(balancer.name, []).append(f"{load.name}: {error} {said}".strip())
        return None


def run_rounds(
    bed: Testbed, plan: Plan, rounds: int, duration_s: int, report: Report, warm_up_s: int = WARM_UP_S
) -> None:
    """Run the plan in each round, with an order of balancers that turns from round to round."""
    for load, balancers in plan:
        for balancer in balancers:
            report.versions[balancer.name] = balancer.version()
            if warm_up_s:
                tell(f"warming up: {load.name}, {balancer.name}")
                try_load(bed, balancer, load, warm_up_s, report)
    for number in range(rounds):
        for load, balancers in plan:
            tell(f"round {number + 1} of {rounds}: {load.name}")
            for turn in range(number, number + load.times):
                first = turn % len(balancers)
                for balancer in [*balancers[first:], *balancers[:first]]:
                    report.add(balancer.name, load.name, try_load(bed, balancer, load, duration_s, report))
    tell("")


def tell(what: str) -> None:
    """Show on a terminal what runs now, on one line that the next one replaces."""
    if sys.stderr.isatty():
        print(f"\r\033[K{what}", end="", file=sys.stderr, flush=True)


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
