"""What a second worker brings: each balancer with one and with two, one after another, on all CPUs.

Clients and Pods have the same CPUs then: with two of them a second worker takes the time of whoever makes its work.
Compare the balancers with each other; none can double here.
"""

from __future__ import annotations

from collections.abc import Callable

from lab_balancers import Balancer, HAProxy, Lbd, Nginx
from lab_loads import CONNECTIONS, http
from lab_measure import tell, try_load
from lab_samples import Report
from lab_testbed import ALL_CPUS, Testbed

ONE_WORKER, TWO_WORKERS = "one worker", "two workers"
_WARM_UP_S = 1


def run_workers(bed: Testbed, form: str, rounds: int, duration_s: int, report: Report) -> None:
    """Run keep-alive requests through each; balancers live for one measurement, because an SE has room for one lbd."""
    makers: list[tuple[str, Callable[[int], Balancer]]] = [
        ("lbd", lambda count: Lbd(bed, form, workers=count, cpus=ALL_CPUS, client_limits=False)),
        ("haproxy", lambda count: HAProxy(bed, threads=count, cpus=ALL_CPUS)),
        ("nginx", lambda count: Nginx(bed, workers=count, cpus=ALL_CPUS)),
    ]
    with bed.spread_over_all_cpus():
        for number in range(rounds):
            tell(f"round {number + 1} of {rounds}: workers")
            first = number % len(makers)
            for name, make in [*makers[first:], *makers[:first]]:
                for count, label in ((1, ONE_WORKER), (2, TWO_WORKERS)):
                    load = http(label, connections=CONNECTIONS)
                    balancer = make(count)
                    report.versions.setdefault(balancer.name, balancer.version())
                    try_load(bed, balancer, load, _WARM_UP_S, report)
                    report.add(name, label, try_load(bed, balancer, load, duration_s, report))
                    balancer.stop()
    tell("")
