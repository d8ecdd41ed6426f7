"""Measures what changes of a large desired state cost: cold start, one change, and many a second.

    .venv/bin/python bench/churn.py [--services 500] [--members 20] [--rate 100] [--seconds 10]

A supervisor with its real data path and workers, VIPs that nobody announces, and members that are checked rarely: what
is measured is the way from a source to the workers. Each change replaces one member of one service. The exit status is
1 when a change costs more than `--limit-ms` of this process's CPU, or when half of the changes reach the workers later
than `--limit-latency-ms`.
"""

from __future__ import annotations

import argparse
import asyncio
import random
import statistics
import sys
import time
from collections.abc import Sequence

import structlog
import uvloop

from lbd.health.checker import HealthChecker
from lbd.model.address import Endpoint
from lbd.model.desired import (
    DesiredState,
    HealthMonitor,
    Member,
    MonitorType,
    Pool,
    ServiceEngine,
    VirtualService,
)
from lbd.model.status import VipStatus
from lbd.supervisor.relay_path import RelayDataPath
from lbd.supervisor.supervisor import Supervisor

RARELY = (HealthMonitor("rarely", MonitorType.TCP, interval_s=3600.0, timeout_s=1.0),)


class Nobody:
    """Announces nothing, and owns whatever it is told to."""

    async def start(self) -> None: ...

    async def sweep(self, wanted: frozenset[str]) -> tuple[str, ...]:
        return ()

    async def claim(self, vip: str) -> None: ...

    async def withdraw(self, vip: str, reason: str) -> None: ...

    def status(self) -> tuple[VipStatus, ...]:
        return ()

    async def close(self, *, remove_addresses: bool) -> None: ...


class Churn:
    """The desired state, and what becomes of it."""

    def __init__(self, services: int, members: int, workers: int) -> None:
        self._size = members
        self._fresh = 0
        self.services = [self._service(number, self._members(members)) for number in range(services)]
        self.generation = 1
        engine = ServiceEngine("bench", workers, "lo")
        self._engine = engine
        self.health = HealthChecker(lambda key, _health: self.supervisor.health_changed(key), rng=random.Random(1))
        self.data_path = RelayDataPath(
            workers, 1.0, lambda _key, _error, _in_a_row: None, lambda: self.supervisor.wake(), None
        )
        self.supervisor = Supervisor(self.desired(), self.data_path, Nobody(), self.health)

    def _members(self, count: int) -> tuple[Member, ...]:
        """Return members that nobody had before: on this machine, where every one of them refuses at once."""
        made = []
        for _ in range(count):
            self._fresh += 1
            number = self._fresh
            made.append(
                Member(Endpoint(f"127.{1 + number // 62500 % 250}.{number // 250 % 250}.{1 + number % 250}", 9))
            )
        return tuple(made)

    @staticmethod
    def _service(number: int, members: tuple[Member, ...]) -> VirtualService:
        vip = f"127.254.{number // 250}.{1 + number % 250}"
        return VirtualService(f"bench/service-{number}:80", vip, 8080, Pool(members, health_monitors=RARELY))

    def desired(self) -> DesiredState:
        """Return what is wanted now."""
        return DesiredState(self.generation, self._engine, tuple(self.services), metrics_listen=None)

    def change(self, number: int) -> None:
        """Replace a member of one service."""
        kept = self.services[number].pool.members[1:]
        self.services[number] = self._service(number, (*kept, *self._members(1)))
        self.generation += 1
        self.supervisor.set_desired(self.desired())

    async def arrived(self, generation: int, timeout_s: float) -> None:
        """Wait until the workers run a generation."""
        async with asyncio.timeout(timeout_s):
            while self.supervisor.applied_generation < generation:  # noqa: ASYNC110  (nothing tells of it)
                await asyncio.sleep(0.001)


async def measure(arguments: argparse.Namespace) -> int:
    """Run, print what was measured, and return the exit status."""
    churn = Churn(arguments.services, arguments.members, arguments.workers)
    begun_s, begun_cpu_s = time.monotonic(), time.process_time()
    await churn.health.start()
    await churn.data_path.start()
    loop = asyncio.create_task(churn.supervisor.run(), name="supervisor")
    await churn.supervisor.settled()
    print(f"cold start: {time.monotonic() - begun_s:.2f} s, {time.process_time() - begun_cpu_s:.2f} s CPU")
    await asyncio.sleep(1.0)
    alone_ms = await measure_alone(churn, 100)
    print(f"one change: {alone_ms:.2f} ms CPU")
    latencies_ms, share = await measure_rate(churn, arguments.rate, arguments.seconds)
    median_ms = statistics.median(latencies_ms)
    print(
        f"{arguments.rate:g} changes/s for {arguments.seconds:g} s: {share:.0%} of a CPU; at the workers after "
        f"{median_ms:.1f} ms (median), {max(latencies_ms):.1f} ms (worst)"
    )
    loop.cancel()
    await asyncio.gather(loop, return_exceptions=True)
    await churn.supervisor.vips.close()
    await churn.data_path.close()
    await churn.health.close()
    return int(alone_ms > arguments.limit_ms or median_ms > arguments.limit_latency_ms)


async def measure_alone(churn: Churn, count: int) -> float:
    """Return what one change costs when nothing else happens, in milliseconds of CPU."""
    before_s, idle_from_s = time.process_time(), time.monotonic()
    await asyncio.sleep(1.0)
    idle_share = (time.process_time() - before_s) / (time.monotonic() - idle_from_s)
    before_s, from_s = time.process_time(), time.monotonic()
    for number in range(count):
        churn.change(number % len(churn.services))
        await asyncio.sleep(0.02)  # no polling: that would be counted too
    idle_s = idle_share * (time.monotonic() - from_s)
    return (time.process_time() - before_s - idle_s) * 1000 / count


async def measure_rate(churn: Churn, rate: float, seconds: float) -> tuple[Sequence[float], float]:
    """Return how long each of so many changes a second took to reach the workers, in milliseconds, and the share of a
    CPU that they cost."""
    latencies_ms: list[float] = []
    before_s, from_s = time.process_time(), time.monotonic()
    waits = []

    async def follow(generation: int) -> None:
        at_s = time.monotonic()
        await churn.arrived(generation, 10.0)
        latencies_ms.append((time.monotonic() - at_s) * 1000)

    for number in range(int(rate * seconds)):
        churn.change(number % len(churn.services))
        if number % 10 == 0:
            waits.append(asyncio.create_task(follow(churn.generation)))
        await asyncio.sleep(max(0.0, from_s + (number + 1) / rate - time.monotonic()))
    share = (time.process_time() - before_s) / (time.monotonic() - from_s)
    await asyncio.gather(*waits)
    return latencies_ms, share


def main() -> int:
    """The program."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--services", type=int, default=500)
    parser.add_argument("--members", type=int, default=20)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--rate", type=float, default=100.0)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--limit-ms", type=float, default=5.0)
    parser.add_argument("--limit-latency-ms", type=float, default=200.0)
    arguments = parser.parse_args()
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(30))
    return uvloop.run(measure(arguments))


if __name__ == "__main__":
    sys.exit(main())
