"""Runs lbd beside HAProxy and nginx in one lab, prints what each gets done and what it costs, and judges lbd.

    .venv/bin/python bench/side_by_side.py [--quick] [--only LOAD,…] [--rounds 5] [--seconds 2] [--idle 4000]
    .venv/bin/python bench/side_by_side.py --features

Each balancer has one worker on one CPU, clients and Pods have the other CPU; rounds are interleaved, figures are
medians. CPU is user + system of the processes that move bytes; lbd's supervisor and its health checks are told apart,
HAProxy's checks are in its figure, nginx has none. The exit status is 0 when everything required was reached, and
then 1. Makes its network in a sandbox, leaves nothing behind, writes samples and charts to bench/results/.
"""

from __future__ import annotations

import argparse
import sys

import features
import lab_loads as loads
from lab_balancers import Balancer, HAProxy, Lbd, Nginx
from lab_loads import Load
from lab_measure import WARM_UP_S, measure_idle, run_rounds, tell
from lab_pictures import draw
from lab_required import NGINX_ONES, SUBJECT, shortfalls
from lab_samples import Report
from lab_tables import plain_table, table
from lab_testbed import Testbed, enter_sandbox
from lab_workers import ONE_WORKER, TWO_WORKERS, run_workers

TOOLS = ("wrk", "nginx", "haproxy", "h2load", "iperf3", "dnsperf", "nsd")
LOADS: dict[str, tuple[Load, ...]] = {
    "keep-alive": (loads.KEEP_ALIVE,),
    "connections": (loads.SHORT,),
    "bulk": (loads.BULK_ONE, loads.BULK_EIGHT),
    "queries": (loads.QUERIES, loads.QUERIES_ONE_RESPONSE),
    "udp-bulk": (loads.BULK_DATAGRAMS,),
}
CHOICES = ("idle", *LOADS, "latency", "workers")
_OVER_UDP = ("queries", "udp-bulk")
_PEAK_S = 1
_WORKER_ROUNDS = 3


def rivals_of(choice: str, balancers: list[Balancer]) -> list[Balancer]:
    """Return who takes part in a load: HAProxy relays no UDP, and splicing is about bulk alone."""
    if choice in _OVER_UDP:
        return [one for one in balancers if one.name == SUBJECT or one.name in NGINX_ONES]
    return [one for one in balancers if choice == "bulk" or one.name != "haproxy splice"]


def plan_of(bed: Testbed, chosen: list[str], balancers: list[Balancer]) -> list[tuple[Load, list[Balancer]]]:
    """Return the chosen loads with who takes part; for those at a share of the peak, the peak is measured now."""
    plan = [(load, rivals_of(name, balancers)) for name in LOADS if name in chosen for load in LOADS[name]]
    if "latency" in chosen:
        tell("the peak of each")
        rivals = rivals_of("latency", balancers)
        peak = max(loads.peak_per_second(bed, one, _PEAK_S) for one in rivals if one.name != SUBJECT)
        plan += [(loads.open_loop(name, share * peak), rivals) for name, share in loads.LATENCY_SHARES.items()]
    return plan


def compare(bed: Testbed, chosen: list[str], arguments: argparse.Namespace, report: Report) -> list[str]:
    """Measure everything with one worker each; return the names of the balancers."""
    balancers: list[Balancer] = [
        Lbd(bed, arguments.form),
        HAProxy(bed, tuned=False),
        HAProxy(bed),
        *([HAProxy(bed, splice=True)] if "bulk" in chosen else []),
        Nginx(bed, tuned=False),
        Nginx(bed),
    ]
    # Memory first: loads leave free memory behind that connections would fill unseen.
    for one in rivals_of("idle", balancers) if "idle" in chosen else []:
        tell(f"idle connections: {one.name}")
        report.idle_bytes[one.name] = measure_idle(bed, one, arguments.idle)
    warm_up_s = 0 if arguments.quick else WARM_UP_S
    run_rounds(bed, plan_of(bed, chosen, balancers), arguments.rounds, arguments.seconds, report, warm_up_s)
    for balancer in balancers:
        balancer.stop()
    return [balancer.name for balancer in balancers]


def show(report: Report, chosen: list[str], names: list[str]) -> int:
    """Print everything and return the exit status."""
    chosen_loads = [load.name for name in chosen for load in LOADS.get(name, ())]
    chosen_loads += list(loads.LATENCY_SHARES) if "latency" in chosen else []
    print("; ".join(dict.fromkeys(report.versions.values())))
    settings = ", ".join(f"{name} {value}" for name, value in report.settings.items())
    print(f"medians ± half of the range ({settings}); * the better of them, which the ratio is to\n")
    print(table(report, names, chosen_loads))
    if (control := report.median(SUBJECT, loads.KEEP_ALIVE.name, "control_cpu_us_each")) is not None:
        print(f"\nlbd's supervisor took {control:.2f} µs of CPU per request beside that")
    if "workers" in chosen:
        rows = [(load, "requests/s", "per_second", ",.0f") for load in (ONE_WORKER, TWO_WORKERS)]
        print(f"\nworkers, with clients and Pods on the same CPUs\n{plain_table(report, families(report), rows)}")
        for name in families(report):
            one, two = (report.median(name, load, "per_second") for load in (ONE_WORKER, TWO_WORKERS))
            print(
                f"{name}: two workers do {two / one:.2f} times what one does" if one and two else f"{name}: no figure"
            )
    for name, failures in report.failures.items():
        print("".join(f"\n{name} failed: {failure}" for failure in failures))
    missed = shortfalls(report, chosen_loads, idle="idle" in chosen)
    charts = draw(report, [*names, *(name for name in families(report) if name not in names)])
    print(f"\nall samples: {report.write('side-by-side', missed=missed)}; {len(charts)} charts beside it")
    print("\n".join(f"missed: {sentence}" for sentence in missed) or "everything required was reached")
    return 1 if missed else 0


def families(report: Report) -> list[str]:
    """Return the names under which the measurement of workers was recorded."""
    return [name for name, by_load in report.samples.items() if ONE_WORKER in by_load]


def parse() -> argparse.Namespace:
    """Read the command line; `--quick` changes what is not given."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer and shorter rounds: 3 minutes instead of 15")
    parser.add_argument("--only", default=",".join(CHOICES), help=f"some of: {', '.join(CHOICES)}")
    parser.add_argument("--features", action="store_true", help="lbd against itself: what each feature costs")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=int, help="of each load in each round")
    parser.add_argument("--idle", type=int, help="how many idle connections")
    parser.add_argument("--congestion-control", default="", help="of the lab's sockets (default: cubic, else reno)")
    parser.add_argument("--form", default="auto", choices=["auto", "compiled", "interpreted"], help="lbd's form")
    arguments = parser.parse_args()
    for name, thorough, quick in (("rounds", 5, 2), ("seconds", 2, 1), ("idle", 4000, 1000)):
        if getattr(arguments, name) is None:
            setattr(arguments, name, quick if arguments.quick else thorough)
        elif getattr(arguments, name) < 1:
            parser.error(f"--{name} must be at least 1")
    if unknown := set(arguments.only.split(",")) - set(CHOICES):
        parser.error(f"--only knows {', '.join(CHOICES)}, not {', '.join(sorted(unknown))}")
    return arguments


def main() -> int:
    """The program."""
    arguments = parse()
    if (status := enter_sandbox(TOOLS)) is not None:
        return status
    if not Nginx.MODULE.exists():
        print("this bench needs nginx's stream module: on Debian, apt-get install libnginx-mod-stream", file=sys.stderr)
        return 1
    report = Report()
    report.settings = {name: getattr(arguments, name) for name in ("rounds", "seconds", "idle")}
    with Testbed(datagrams=True, congestion_control=arguments.congestion_control) as bed:
        report.settings["congestion control"] = bed.congestion_control
        if arguments.features:
            return features.run(bed, arguments.form, arguments.rounds, arguments.seconds, report)
        chosen = [name for name in CHOICES if name in arguments.only.split(",")]
        names = compare(bed, chosen, arguments, report) if set(chosen) - {"workers"} else []
        if "workers" in chosen:
            run_workers(bed, arguments.form, min(arguments.rounds, _WORKER_ROUNDS), arguments.seconds, report)
    return show(report, chosen, names)


if __name__ == "__main__":
    sys.exit(main())
