"""Runs lbd beside HAProxy and nginx in one lab and prints what each gets done and what it costs.

    .venv/bin/python bench/side_by_side.py [--rounds 3] [--seconds 2] [--idle 4000] [--bulk] [--form compiled]

Each balancer has one worker on one CPU, clients and Pods have the other CPU; rounds are interleaved, figures are
medians. CPU is user + system of the process that moves bytes; lbd's supervisor and its health checks are told apart,
HAProxy's checks are in its figure, nginx has none. Needs wrk, nginx-light and haproxy of Debian (libnginx-mod-stream
for nginx as a balancer). Makes its network in a sandbox, leaves nothing behind, writes all samples to bench/results/.
"""

from __future__ import annotations

import argparse
import sys

from lab_balancers import Balancer, HAProxy, Lbd, Nginx
from lab_measure import BULK, KEEP_ALIVE, SHORT, Load, Report, measure_idle, run_rounds
from lab_testbed import Testbed, enter_sandbox

ROWS: tuple[tuple[Load, str, str, str], ...] = (
    (KEEP_ALIVE, "requests/s", "per_second", ",.0f"),
    (KEEP_ALIVE, "CPU µs per request", "cpu_us_each", ".1f"),
    (KEEP_ALIVE, "of it user", "user_us_each", ".1f"),
    (KEEP_ALIVE, "99 % within, ms", "p99_ms", ".1f"),
    (SHORT, "new connections/s", "per_second", ",.0f"),
    (SHORT, "CPU µs per connection", "cpu_us_each", ".1f"),
    (SHORT, "of it user", "user_us_each", ".1f"),
    (SHORT, "99 % within, ms", "p99_ms", ".1f"),
    (BULK, "Gbit/s", "gigabits_per_second", ".2f"),
    (BULK, "CPU µs per MB", "cpu_us_per_megabyte", ".0f"),
)


def show(report: Report, names: list[str]) -> None:
    """Print the medians, with half of their range."""
    print(f"\n{'':52}" + "".join(f"{name:>16}" for name in names))
    for load, title, what, form in ROWS:
        if load.name in report.samples[names[0]]:
            cells = [
                f"{report.median(name, load, what):{form}} ±{report.spread(name, load, what):.0%}" for name in names
            ]
            print(f"{load.name:28}{title:24}" + "".join(f"{cell:>16}" for cell in cells))
    if report.idle_bytes:
        print(f"{'idle connection':28}{'bytes':24}" + "".join(f"{report.idle_bytes[name]:>16,.0f}" for name in names))
    print(f"{'all loads':28}{'errors clients saw':24}" + "".join(f"{report.errors(name):>16}" for name in names))
    control = report.median("lbd", KEEP_ALIVE, "control_cpu_us_each")
    print(f"\nlbd's supervisor took {control:.2f} µs per request beside that.")
    for load in (KEEP_ALIVE, SHORT):
        ratios = {name: report.ratio("lbd", name, load, "cpu_us_each") for name in names[1:]}
        text = ", ".join(f"{ratio:.2f} times that of {name}" for name, ratio in ratios.items())
        print(f"{load.name}: lbd's CPU is {text} (median over the rounds of the ratio in each).")


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=2, help="of each load in each round")
    parser.add_argument("--idle", type=int, default=4000, help="idle connections; 0 leaves memory out")
    parser.add_argument("--bulk", action="store_true", help="measure one bulk stream, too")
    parser.add_argument("--form", default="auto", choices=["auto", "compiled", "interpreted"], help="lbd's form")
    arguments = parser.parse_args()
    if (status := enter_sandbox(["wrk", "nginx", "haproxy"])) is not None:
        return status
    loads = [KEEP_ALIVE, SHORT, *([BULK] if arguments.bulk else [])]
    with Testbed() as bed:
        balancers: list[Balancer] = [Lbd(bed, arguments.form), HAProxy(bed)]
        if Nginx.MODULE.exists():
            balancers.append(Nginx(bed))
        else:
            print("nginx is left out: apt-get install libnginx-mod-stream", file=sys.stderr)
        # Memory first: loads leave free memory behind that connections would fill unseen.
        idle = {one.name: measure_idle(bed, one, arguments.idle) for one in balancers} if arguments.idle else {}
        report = run_rounds(bed, balancers, loads, arguments.rounds, arguments.seconds)
        report.idle_bytes = idle
    names = [balancer.name for balancer in balancers]
    print("; ".join(report.versions.values()))
    print(f"medians of {arguments.rounds} interleaved rounds of {arguments.seconds} s")
    show(report, names)
    print(f"all samples: {report.write('side-by-side')}")
    return 1 if report.errors("lbd") else 0


if __name__ == "__main__":
    sys.exit(main())
