"""A service engine without files: the supervisor, its data path and the health checker, told by a test what is wanted.

A program of its own that runs in the service engine's namespace. Each line on stdin is a list of services as keyword
arguments; the answer on stdout says what they are once that has settled. What a file may not say, a cluster may: pools
without members, names with `/` and `:`. VIPs are the caller's business.
"""

from __future__ import annotations

import asyncio
import json
import random
import subprocess
import sys
from types import TracebackType
from typing import Any, Self

from lbd.cli.demo.lab import Lab
from lbd.health.checker import HealthChecker
from lbd.model.address import Endpoint
from lbd.model.desired import (
    Algorithm,
    DesiredState,
    HealthMonitor,
    Member,
    MonitorType,
    Persistence,
    Pool,
    Protocol,
    ServiceEngine,
    Timeouts,
    VirtualService,
)
from lbd.model.status import ConfigStatus, VipStatus
from lbd.supervisor.relay_path import RelayDataPath
from lbd.supervisor.snapshot import Snapshots
from lbd.supervisor.supervisor import Supervisor

MONITORS = {
    "tcp": (HealthMonitor("quick", MonitorType.TCP, interval_s=0.3, timeout_s=0.3, rise=1, fall=1),),
    "udp": (HealthMonitor("ping", MonitorType.PING, interval_s=0.3, timeout_s=0.3, rise=1, fall=1),),
}


class Engine:
    """One such process, of the form that is given. `want` returns the virtual services of its status, by name."""

    def __init__(self, lab: Lab, form: str) -> None:
        command = ["env", f"LBD_FORM={form}", sys.executable, __file__]
        pipe = subprocess.PIPE
        self._process: subprocess.Popen[bytes] = lab.se.call(subprocess.Popen, command, stdin=pipe, stdout=pipe)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        assert self._process.wait(10.0) == 0

    def want(self, *services: dict[str, Any]) -> dict[str, Any]:
        """Want these services, and wait until that has settled."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(services).encode() + b"\n")
        self._process.stdin.flush()
        answer = json.loads(self._process.stdout.readline() or "null")
        assert isinstance(answer, dict), "the engine has ended: see what it said"
        return answer


class _NoAnnouncer:
    async def claim(self, vip: str) -> None: ...

    async def withdraw(self, vip: str, reason: str) -> None: ...

    async def start(self) -> None: ...

    async def sweep(self, wanted: frozenset[str]) -> tuple[str, ...]:
        return ()

    def status(self) -> tuple[VipStatus, ...]:
        return ()

    async def close(self, *, remove_addresses: bool) -> None: ...


def _service(said: dict[str, Any]) -> VirtualService:
    protocol = Protocol(said.get("protocol", "tcp"))
    pool = Pool(
        tuple(Member(Endpoint(address, port)) for address, port in said["members"]),
        Algorithm(said.get("algorithm", "round_robin")),
        MONITORS[protocol.value],
        max_load_percent=said.get("max_load_percent", 0.0),
        persistence=Persistence() if said.get("persistent") else None,
    )
    timeouts = Timeouts(idle_s=said.get("idle_s", 60.0))
    return VirtualService(said["name"], said["vip"], said["port"], pool, protocol, timeouts)


async def _main() -> None:
    engine = ServiceEngine("se-lab", 2, "front", drain_timeout_s=2.0)
    health = HealthChecker(lambda key, _health: supervisor.health_changed(key), rng=random.Random(1))
    data_path = RelayDataPath(
        2, 2.0, lambda *failure: supervisor.member_failed(*failure), lambda: supervisor.wake(), None
    )
    supervisor = Supervisor(DesiredState(1, engine), data_path, _NoAnnouncer(), health)
    snapshots = Snapshots("lab", supervisor, data_path)
    await health.start()
    await data_path.start()
    loop = asyncio.create_task(supervisor.run(), name="supervisor")
    generation = 1
    while line := await asyncio.to_thread(sys.stdin.readline):
        generation += 1
        services = tuple(_service(said) for said in json.loads(line))
        supervisor.set_desired(DesiredState(generation, engine, services))
        await supervisor.settled()
        status = snapshots.take(ConfigStatus((), generation, True, 0.0, 0.0))
        shown = {one.name: {"state": one.state, "reason": one.reason} for one in status.virtual_services}
        print(json.dumps(shown), flush=True)
    supervisor.drain_all()
    await loop
    await data_path.close()
    await health.close()


if __name__ == "__main__":
    import structlog
    import uvloop

    structlog.configure(logger_factory=structlog.PrintLoggerFactory(sys.stderr))
    uvloop.run(_main())
