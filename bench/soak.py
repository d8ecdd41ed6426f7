"""Puts a mixed load on lbd for a long time, and says whether it ends as it began.

    .venv/bin/python bench/soak.py [--minutes 30] [--form compiled]

Requests over kept and over new connections, bulk, DNS over UDP, slow, idle and resetting clients, a member that dies
and comes back, and reloads, all at once, with two workers on all CPUs. Memory, descriptors and counters of the
supervisor and the workers are read every few seconds. The exit status is 0 when memory is flat after the warm-up,
descriptors are back where they began, nothing is counted as open, and no client saw an error that it must not see
(those of the flapping member may). Makes its network in a sandbox; writes samples and a chart to bench/results/.
"""

from __future__ import annotations

import argparse
import itertools
import json
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from lab_charts import line_chart
from lab_loads import Load, http, queries
from lab_measure import tell
from lab_samples import result_path
from lab_testbed import Testbed, enter_sandbox
from soak_daemon import FLAPPING_SERVICE, SoakDaemon, as_json
from soak_loads import FLAPPING, MixedLoad, await_quiet
from soak_verdict import SoakSample, after_warm_up, growth_bytes, judge_soak

TOOLS = ("wrk", "nginx", "dnsperf", "nsd")
LOADS: tuple[Load, ...] = (
    http("keep-alive requests", connections=16),
    http("new connection per request", connections=8, close=True),
    http("bulk", path="/bulk", connections=2),
    # Everything shares the CPUs here: who waits a second for his turn has lost nothing.
    queries("UDP queries", per_second=1000, patience_s=5),
    http(FLAPPING, port=FLAPPING_SERVICE, connections=4, close=True),
)
QUIET_LIMIT_S = 60.0
"""After the load: the longest timeout of a flow is 5 s, a reset client's bytes are gone at once."""
_QUIET_SAMPLES = 5
_MOST_INTERVAL_S = 5.0


def sample_for(daemon: SoakDaemon, began_s: float, duration_s: float) -> list[SoakSample]:
    """Look at the daemon again and again while the load runs."""
    interval_s = min(_MOST_INTERVAL_S, duration_s / 30)
    samples = []
    while (now_s := time.monotonic() - began_s) < duration_s:
        samples.append(daemon.sample(now_s))
        latest = samples[-1]
        memory = sum(one.memory_bytes for one in latest.processes.values()) / 1e6
        tell(f"{now_s / 60:.1f} of {duration_s / 60:.0f} minutes: {latest.active} open, {memory:.1f} MB")
        time.sleep(max(interval_s - (time.monotonic() - began_s - now_s), 0.0))
    tell("")
    return samples


def is_quiet(sample: SoakSample) -> bool:
    """Return whether nothing is open any more."""
    return sample.active == 0 and sample.members_active == 0


def quiet_sample(daemon: SoakDaemon, began_s: float) -> SoakSample:
    """Return how the daemon is when nothing is open any more, or after a limit; the fewest descriptors of some looks,
    because a check or this look itself may hold some."""
    await_quiet(lambda: is_quiet(daemon.sample(0.0)), QUIET_LIMIT_S)
    looks = []
    for _ in range(_QUIET_SAMPLES):
        time.sleep(0.5)
        looks.append(daemon.sample(time.monotonic() - began_s))
    return min(looks, key=lambda look: sum(one.descriptors for one in look.processes.values()))


def chart(samples: Sequence[SoakSample]) -> str:
    """Return memory, descriptors, open connections and new ones over time."""
    roles = list(samples[0].processes)
    rates = [
        (b.at_s, (b.connections_total - a.connections_total) / (b.at_s - a.at_s))
        for a, b in itertools.pairwise(samples)
        if b.at_s > a.at_s
    ]
    memory = {r: [(s.at_s, s.processes[r].memory_bytes / 1e6) for s in samples if r in s.processes] for r in roles}
    descriptors = {r: [(s.at_s, float(s.processes[r].descriptors)) for s in samples if r in s.processes] for r in roles}
    return line_chart(
        "lbd under mixed load",
        {
            "private memory, MB": memory,
            "descriptors": descriptors,
            "open connections and flows": {"active": [(s.at_s, float(s.active)) for s in samples]},
            "new connections and flows per second": {"per second": rates},
        },
    )


def write(started_at: float, samples: Sequence[SoakSample], load: MixedLoad, problems: Sequence[str]) -> Path:
    """Write samples and chart into bench/results and return the former's file."""
    file = result_path("soak", ".json", started_at)
    content = {
        "samples": [as_json(sample) for sample in samples],
        "done": load.done,
        "errors": load.errors,
        "problems": list(problems),
    }
    file.write_text(json.dumps(content, indent=1))
    file.with_suffix(".svg").write_text(chart(samples))
    return file


def dropped_beside_lbd(bed: Testbed) -> int:
    """Return how many datagrams the clients' and the Pods' kernels have dropped because their sockets were full."""
    return sum(place.call(dropped_datagrams) for place in (bed.lab.client, *bed.lab.pods))


def dropped_datagrams() -> int:
    """Return how many datagrams this thread's network namespace has dropped so (proc_net_snmp, RcvbufErrors)."""
    snmp = Path("/proc/thread-self/net/snmp").read_text()
    names, values = (line.split() for line in snmp.splitlines() if line.startswith("Udp:"))
    return int(values[names.index("RcvbufErrors")])


def soak(bed: Testbed, form: str, minutes: float) -> int:
    """Run it, print the verdict and return the exit status."""
    started_at = time.time()
    daemon = SoakDaemon(bed, form)
    print(f"{daemon.lbd.version()}; {minutes:g} minutes of mixed load", flush=True)
    began_s = time.monotonic()
    start = quiet_sample(daemon, began_s)
    dropped_before = dropped_beside_lbd(bed)
    load = MixedLoad(bed, daemon, list(LOADS))
    load.start()
    loaded = sample_for(daemon, began_s, minutes * 60)
    load.stop()
    daemon.forget_changes()
    end = quiet_sample(daemon, began_s)
    faults = [*load.faults, *daemon.tracebacks()]
    dropped = dropped_beside_lbd(bed) - dropped_before
    must_not = {name: count for name, count in load.errors.items() if name != FLAPPING}
    must_not |= {f"{name}, lost": max(count - dropped, 0) for name, count in load.lost.items()}
    problems = judge_soak(start, loaded, end, must_not, faults)
    for name, count in load.done.items():
        print(f"{name:28}{count:>14,} done{load.errors[name]:>8,} errors{load.lost[name]:>8,} lost")
    print(f"datagrams that the kernels of clients and Pods dropped, for want of buffer: {dropped}")
    for role, first in start.processes.items():
        last = end.processes.get(role, first)
        grew_mb, now_mb = growth_bytes(role, after_warm_up(loaded)) / 1e6, last.memory_bytes / 1e6
        grew = f"{grew_mb:+.2f} MB after the warm-up, now {now_mb:.1f}"
        print(f"{role:28}{grew}; descriptors {first.descriptors}, at the end {last.descriptors}")
    print(f"\nall samples: {write(started_at, [start, *loaded, end], load, problems)}, with a chart beside it")
    print("\n".join(f"wrong: {problem}" for problem in problems) or "flat, and quiet at the end")
    return 1 if problems else 0


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=30.0, help="below 5, memory says little")
    parser.add_argument("--form", default="auto", choices=["auto", "compiled", "interpreted"], help="lbd's form")
    arguments = parser.parse_args()
    if arguments.minutes <= 0:
        parser.error("--minutes must be more than 0")
    if (status := enter_sandbox(TOOLS)) is not None:
        return status
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    with Testbed(datagrams=True) as bed, bed.spread_over_all_cpus():
        return soak(bed, arguments.form, arguments.minutes)


if __name__ == "__main__":
    sys.exit(main())
