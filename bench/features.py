"""Runs lbd against itself, one service with each feature in one daemon: what a feature costs, in one run.

`make bench ARGS=--features`. The first column has no limits at all; x is the ratio to it in the same round.
"""

from __future__ import annotations

from lab_balancers import Balancer, Lbd
from lab_loads import bulk, http
from lab_measure import run_rounds
from lab_samples import Report
from lab_tables import plain_table
from lab_testbed import Testbed

FEATURES = ("plain", "limits", "persistence", "proxy_protocol", "max_throughput", "splice", "everything")
"""The services of configs/lbd-features.yaml, in the order of their ports; `everything` has all of them."""
FIRST_HTTP_PORT, FIRST_BULK_PORT = 8001, 5301
ROWS = (
    ("keep-alive requests", "requests/s", "per_second", ",.0f"),
    ("keep-alive requests", "CPU µs", "cpu_us_each", ".1f"),
    ("new connection per request", "connections/s", "per_second", ",.0f"),
    ("new connection per request", "CPU µs", "cpu_us_each", ".1f"),
    ("bulk, one stream", "Gbit/s", "gigabits_per_second", ".2f"),
    ("bulk, one stream", "CPU µs per MB", "cpu_us_per_megabyte", ".0f"),
)
"""Bulk is measured where nothing goes before the first byte: iperf3 takes no PROXY protocol header."""


class Feature(Balancer):
    """One service of the daemon, measured as if it were a balancer."""

    family = "lbd"

    def __init__(self, daemon: Lbd, number: int) -> None:
        """Wrap service `number` of `FEATURES`; starts nothing."""
        self.name = FEATURES[number]
        self.bed = daemon.bed
        self.process = daemon.process
        self.log = daemon.log
        self.address = daemon.at(FIRST_HTTP_PORT + number)
        self._daemon = daemon
        self._number = number

    def at(self, port: int) -> tuple[str, int]:
        """Return the address of its HTTP or bulk service."""
        return self.address[0], port + self._number

    def pids(self) -> list[int]:
        """Return the daemon's worker."""
        return self._daemon.pids()

    def all_pids(self) -> list[int]:
        """Return the daemon's processes."""
        return self._daemon.all_pids()

    def version(self) -> str:
        """Return the daemon's version."""
        return self._daemon.version()


def run(bed: Testbed, form: str, rounds: int, duration_s: int, report: Report) -> int:
    """Measure, print, write the samples; the exit status is 1 when clients saw errors."""
    daemon = Lbd(bed, form, template="lbd-features.yaml", port=FIRST_HTTP_PORT)
    services = [Feature(daemon, number) for number in range(len(FEATURES))]
    headless = [one for one in services if one.name not in ("proxy_protocol", "everything")]
    plan = [
        (http("keep-alive requests", port=FIRST_HTTP_PORT), services),
        (http("new connection per request", port=FIRST_HTTP_PORT, close=True), services),
        (bulk("bulk, one stream", 1, port=FIRST_BULK_PORT), headless),
    ]
    run_rounds(bed, plan, rounds, duration_s, report)
    names = [one.name for one in services]
    print(f"{daemon.version()}; medians of {rounds} interleaved rounds of {duration_s} s; x is to the first column\n")
    print(plain_table(report, names, ROWS))
    print(f"\nall samples: {report.write('features')}")
    errors = sum(report.errors(name) for name in names)
    for name, failures in report.failures.items():
        print("".join(f"\n{name} failed: {failure}" for failure in failures))
    print(f"errors clients saw: {errors}")
    return 1 if errors else 0
