"""Measures the relay: CPU per request and per connection, and memory per idle connection, of one worker of lbd.

    .venv/bin/python bench/relay.py [--baseline SCRIPT [--compile-baseline]] [--rounds 5]

A baseline is any relay that is called `SCRIPT LISTEN_IP PORT MEMBER:PORT…`; both take turns in one run. With a baseline
the exit status is 1 when lbd costs more than `--limit` times as much per request or per connection.
Needs wrk and nginx (Debian: wrk, nginx-light); makes its network in a sandbox and leaves nothing behind.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from lab_balancers import Balancer, Baseline, Lbd
from lab_loads import KEEP_ALIVE, SHORT
from lab_measure import measure_idle, run_rounds
from lab_samples import Report
from lab_tables import plain_table
from lab_testbed import Testbed, enter_sandbox

MOST_IDLE_BYTES = 1024


ROWS = tuple(
    (load.name, title, what, form)
    for load in (KEEP_ALIVE, SHORT)
    for title, what, form in (
        ("CPU µs each", "cpu_us_each", ".2f"),
        ("of it user", "user_us_each", ".2f"),
        ("per second", "per_second", ",.0f"),
    )
)


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--baseline", type=Path, help="a relay script to compare with")
    parser.add_argument("--compile-baseline", action="store_true", help="compile it with mypyc first")
    parser.add_argument("--form", default="auto", choices=["auto", "compiled", "interpreted"], help="lbd's form")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=int, default=2, help="of each load in each round")
    parser.add_argument("--idle", type=int, default=4000, help="idle connections; 0 leaves memory out")
    parser.add_argument("--limit", type=float, default=1.05, help="how many times the baseline's CPU is too much")
    arguments = parser.parse_args()
    if (status := enter_sandbox(["wrk", "nginx"])) is not None:
        return status
    with Testbed() as bed:
        balancers: list[Balancer] = [Lbd(bed, arguments.form)]
        if arguments.baseline is not None:
            balancers.append(Baseline(bed, arguments.baseline, compiled=arguments.compile_baseline))
        # Memory first: loads leave free memory behind that connections would fill unseen.
        idle = {one.name: measure_idle(bed, one, arguments.idle) if arguments.idle else 0.0 for one in balancers}
        report = Report(idle_bytes=idle)
        plan = [(load, balancers) for load in (KEEP_ALIVE, SHORT)]
        run_rounds(bed, plan, arguments.rounds, arguments.seconds, report)
    names = [balancer.name for balancer in balancers]
    print(f"{'; '.join(report.versions.values())}; medians of {arguments.rounds} interleaved rounds")
    print(plain_table(report, names, ROWS))
    print("".join(f"idle connection of {name}: {report.idle_bytes[name]:.0f} bytes\n" for name in names))
    print(f"\nall samples: {report.write('relay')}")
    problems = [f"{name}: clients saw errors" for name in names if report.errors(name)]
    if arguments.idle and report.idle_bytes["lbd"] > MOST_IDLE_BYTES:
        problems.append(f"an idle connection takes more than {MOST_IDLE_BYTES} bytes")
    for load in (KEEP_ALIVE, SHORT) if len(names) > 1 else ():
        ratio = report.ratio("lbd", "baseline", load.name, "cpu_us_each")
        if ratio is None:
            problems.append(f"{load.name}: not measured")
            continue
        print(f"{load.name}: {ratio:.3f} of the baseline's CPU, median over the rounds")
        if ratio > arguments.limit:
            problems.append(f"{load.name}: more than {arguments.limit} times the baseline's CPU")
    for problem in problems:
        print(problem, file=sys.stderr)
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
