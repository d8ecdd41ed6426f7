"""The daemon under soak: started, flapped at, reloaded, and looked at from outside."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from lab_balancers import Lbd
from lab_testbed import ALL_CPUS, Testbed
from soak_verdict import ProcessSample, SoakSample

FLAPPING_SERVICE, FLAPPING_MEMBER = 8081, 8090
_MORE = """
  - name: passing
    vip: {vip}
    port: 8100
    pool: {{members: [{{address: {pod}, port: 80}}]}}
"""


class SoakDaemon:
    """lbd with two workers on all CPUs, from configs/lbd-soak.yaml, and the member that flaps."""

    def __init__(self, bed: Testbed, form: str) -> None:
        """Start both."""
        self._bed = bed
        self._steady, self._pod = bed.lab.pods[0], bed.lab.pods[2]
        self._flapping = self._start_member()
        self._reloads = 0
        values = {"steady": self._steady.address[4], "flapping": self._pod.address[4], "weight": 1, "more": ""}
        self.lbd = Lbd(bed, form, workers=2, cpus=ALL_CPUS, template="lbd-soak.yaml", values=values)

    def _start_member(self) -> subprocess.Popen[bytes]:
        argv = [sys.executable, "-m", "lbd.cli.demo.pod", self._pod.name, str(FLAPPING_MEMBER), self._pod.address[4]]
        process = self._pod.popen(argv)
        self._bed.processes.append(process)
        return process

    def flap(self) -> None:
        """Kill the member, or start it again."""
        if self._flapping.poll() is None:
            self._flapping.kill()
            self._flapping.wait()
            self._bed.processes.remove(self._flapping)
        else:
            self._flapping = self._start_member()

    def reload(self) -> None:
        """Change the configuration and let the daemon read it.

        Raises:
            subprocess.CalledProcessError: it was refused.
        """
        self._reloads += 1
        more = _MORE.format(vip=self.lbd.address[0], pod=self._steady.address[4]) if self._reloads % 2 else ""
        self.lbd.reload(weight=1 + self._reloads % 3, more=more)

    def forget_changes(self) -> None:
        """Reload what it was started with: descriptors are compared for the same services."""
        self.lbd.reload(weight=1, more="")

    def sample(self, at_s: float) -> SoakSample:
        """Look at it now: `lbd status`, and /proc of each process."""
        status: dict[str, Any] = self.lbd.status()
        roles = {"supervisor": self.lbd.process.pid}
        roles.update({f"worker {worker['index']}": int(worker["pid"]) for worker in status["workers"]})
        services = [service["traffic"] for service in status["virtual_services"]]
        members = [member["traffic"] for service in status["virtual_services"] for member in service["members"]]
        return SoakSample(
            at_s=at_s,
            processes={role: process_sample(pid) for role, pid in roles.items()},
            active=sum(one["active_connections"] + one.get("queued", 0) for one in services),
            members_active=sum(one["active_connections"] for one in members),
            connections_total=sum(one["connections_total"] for one in services),
            rejected_total=sum(sum(one.get("rejected_total", {}).values()) for one in services),
            restarts_total=sum(worker["restarts_total"] for worker in status["workers"]),
        )

    def tracebacks(self) -> list[str]:
        """Return a sentence if its log has a traceback."""
        log = self.lbd.log.read_text(errors="replace")
        place = log.find("Traceback (most recent call last)")
        return [] if place < 0 else [f"its log has a traceback:\n{log[place : place + 1500]}"]


def process_sample(pid: int) -> ProcessSample:
    """Read a process's private memory and count its descriptors (proc(5))."""
    memory = sum(_private_bytes(Path(f"/proc/{pid}/smaps_rollup").read_text()))
    return ProcessSample(memory, len(os.listdir(f"/proc/{pid}/fd")))


def _private_bytes(rollup: str) -> Iterator[int]:
    for line in rollup.splitlines():
        if line.startswith(("Private_Clean:", "Private_Dirty:")):
            yield int(line.split()[1]) * 1024


def as_json(sample: SoakSample) -> Mapping[str, object]:
    """Return a sample as plain values."""
    processes = {
        role: {"memory_bytes": one.memory_bytes, "descriptors": one.descriptors}
        for role, one in sample.processes.items()
    }
    counters = ("at_s", "active", "members_active", "connections_total", "rejected_total", "restarts_total")
    return {**{name: getattr(sample, name) for name in counters}, "processes": processes}
