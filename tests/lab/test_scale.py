"""Many services, many VIPs, many connections: how long they take, and that nothing of them stays behind."""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from typing import Any

import pytest

from kit_lifecycle import config, members, peek, service, slowness, used_cpu_s, waited_for_cpu_s, workers
from lab_clients import OK, Load, fetch
from lab_daemon import Daemon, DaemonFactory, descriptors, resident_bytes
from lab_servers import PodServer, http
from lab_wait import eventually
from lbd.cli.demo.lab import FRONT_PREFIX, Lab

START_LIMIT_S = 5.0
CLAIM_LIMIT_S = 3.0


def many_services(lab: Lab, services: int, pool_size: int, vips: int) -> dict[str, Any]:
    """Return a configuration of services that share `vips` VIPs, half of them IPv6; no member listens."""
    wanted = []
    for number in range(services):
        family = 4 if number < services // 2 else 6
        vip = f"{FRONT_PREFIX[family]}{100 + number % (vips // 2)}"
        pool = [members([lab.pods[at % 3]], family, 1000 + number * pool_size + at)[0] for at in range(pool_size)]
        wanted.append(service(f"service-{number}", vip, pool, port=1000 + number))
    return config(*wanted)


def at_s(record: dict[str, Any]) -> float:
    """Return when a record was logged."""
    return datetime.fromisoformat(record["time"]).timestamp()


def test_500_services_of_10_members_are_ready_in_5_s_and_200_vips_claimed_in_3(lab: Lab, daemon: DaemonFactory) -> None:
    """Time in which the daemon was ready to run and other processes had the CPUs does not count, and a machine that is
    slower than the reference may take longer."""
    lbd = daemon(many_services(lab, 500, 10, 200), start=False)
    begun_s = time.monotonic()
    lbd.start(wait_ready=False)
    with WaitedForCpu(lbd.pid) as waited:
        lbd.wait_notification("READY", 90.0)
        took_s, waited_s, used_s = time.monotonic() - begun_s, waited.now_s(), used_cpu_s(lbd.pid)
        # On a busy machine threads wait for each other's CPU too: then what it used is the limit.
        limit_s = START_LIMIT_S * slowness()
        assert min(took_s - waited_s, used_s) <= limit_s, (took_s, waited_s, used_s, limit_s)
        status = peek(lbd)
        assert Counter(vip["state"] for vip in status["vips"]) == {"owned": 200}
        assert {item["state"] for item in status["virtual_services"]} == {"no_member_up"}
        assert len(lbd.log.matching("service_opened")) == 500
        claimed = lbd.log.matching("vip_claimed")
        assert len(claimed) == 200
        # From the moment at which the first could be claimed: all of its services have decided.
        decided = [
            record for record in lbd.log.matching("service_acceptance_changed") if record["acceptance"] == "refuse"
        ]
        first_s, last_s = at_s(decided[0]), at_s(claimed[-1])
        assert last_s - first_s - waited.between(first_s, last_s) <= CLAIM_LIMIT_S * slowness()
        lbd.terminate()
        assert lbd.wait(60.0) == 0
    assert len(lbd.log.matching("vip_withdrawn")) == 200


class WaitedForCpu:
    """Notes while its `with` block runs how long a process has waited for a CPU; times are as in time.time()."""

    def __init__(self, pid: int) -> None:
        self._pid = pid
        self._notes: list[tuple[float, float]] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True, name="waited-for-cpu")

    def __enter__(self) -> WaitedForCpu:
        self._thread.start()
        return self

    def __exit__(self, *exception: object) -> None:
        self._ended.set()
        self._thread.join()

    def _follow(self) -> None:
        while not self._ended.wait(0.05):
            try:
                self._notes.append((time.time(), waited_for_cpu_s(self._pid)))
            except FileNotFoundError:
                return

    def now_s(self) -> float:
        """Return how long it has waited since it began."""
        return waited_for_cpu_s(self._pid)

    def between(self, first_s: float, last_s: float) -> float:
        """Return how long it has waited between two moments."""
        waited = [waited_s for at, waited_s in self._notes if first_s <= at <= last_s]
        return waited[-1] - waited[0] if waited else 0.0


@pytest.fixture
def warm(lab: Lab, daemon: DaemonFactory) -> Callable[[Daemon], None]:
    """A function that sends enough connections for every table and allocator to have grown as far as it does."""

    def send(lbd: Daemon) -> None:
        load = Load(lab.client, lab.vip[4], count=1500, concurrency=16).start()
        assert load.join().kinds == {OK: 1500}

    return send


def test_10000_short_connections_leave_everything_where_it_was(
    lab: Lab, daemon: DaemonFactory, warm: Callable[[Daemon], None]
) -> None:
    with PodServer(lab.pods[0], http), PodServer(lab.pods[1], http):
        lbd = daemon(config(service("web", lab.vip[4], members(lab.pods[:2], 4))))
        warm(lbd)
        before = eventually(lambda: idle(lbd))
        load = Load(lab.client, lab.vip[4], count=10_000, concurrency=16).start()
        result = load.join()
        assert result.kinds == {OK: 10_000}
        after = eventually(lambda: idle(lbd))
        assert after["connections"] == before["connections"] + 10_000
        for pid, held_before in before["descriptors"].items():
            eventually(lambda: descriptors(pid) <= held_before, 5.0, f"{descriptors(pid)} > {held_before}")  # noqa: B023
        for pid, bytes_before in before["memory"].items():
            assert after["memory"][pid] - bytes_before <= 1 << 20, (
                "a worker has grown by more than 100 bytes a connection"
            )
        assert fetch(lab.client, lab.vip[4]) in {pod.name for pod in lab.pods}


def idle(lbd: Daemon) -> dict[str, Any]:
    """Return what is in use once nothing is active: descriptors and memory of every process, connections in all."""
    status = peek(lbd)
    web = status.service("web")
    active = [web["traffic"]["active_connections"], *(m["traffic"]["active_connections"] for m in web["members"])]
    assert active == [0, 0, 0]
    assert [worker["active_connections"] for worker in workers(lbd).values()] == [0, 0]
    pids = status.worker_pids
    in_use = {pid: descriptors(pid) for pid in [lbd.pid, *pids]}
    assert [worker["descriptors_used"] for worker in status["workers"]] == [in_use[pid] for pid in pids]
    return {
        "descriptors": in_use,
        "memory": {pid: resident_bytes(pid) for pid in pids},
        "connections": web["traffic"]["connections_total"],
    }
