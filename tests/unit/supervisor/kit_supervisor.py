"""A supervisor between a data path, an announcer and a health checker that a test holds in its hands.

All three are second implementations of the seams that lbd has for them: they do at once, or when the test says so, what
the real ones do with processes, sockets and time.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

from lbd.announce.errors import ClaimError
from lbd.model.address import Endpoint
from lbd.model.desired import DesiredState, HealthMonitor, Member, MemberKey, Pool, ServiceEngine, VirtualService
from lbd.model.status import ConnectError, Health, MemberHealth, Traffic, VipStatus, WorkerStatus
from lbd.supervisor.plan import Action, Actual, DrainView, ServiceView, plan
from lbd.supervisor.seams import Acceptance, Handle
from lbd.supervisor.supervisor import Supervisor

ENGINE = ServiceEngine("se-test", 2, "front", drain_timeout_s=60.0)


def endpoints(number: int, count: int) -> tuple[Endpoint, ...]:
    """Return `count` endpoints of the service of this number."""
    return tuple(Endpoint(f"10.{number // 250}.{number % 250}.{at + 1}", 80) for at in range(count))


def service(number: int, members: Collection[Endpoint], vip: str = "", port: int = 80) -> VirtualService:
    """Return a service with these members, on a VIP of its own unless one is given."""
    address = vip or f"172.16.{number // 250}.{number % 250 + 1}"
    return VirtualService(f"default/s{number}:80", address, port, Pool(tuple(Member(member) for member in members)))


def state(generation: int, services: Sequence[VirtualService]) -> DesiredState:
    """Return a desired state with these services."""
    return DesiredState(generation, ENGINE, tuple(services))


@dataclass
class HandyDataPath:
    """Acknowledges when told to. `busy` binds no service on these addresses; `calls` counts what was asked of it."""

    calls: Counter[str] = field(default_factory=Counter)
    weights: dict[Handle, list[int]] = field(default_factory=dict)
    members: dict[Handle, tuple[Endpoint, ...]] = field(default_factory=dict)
    acceptance: dict[Handle, Acceptance] = field(default_factory=dict)
    active: Counter[Handle] = field(default_factory=Counter)
    stopped: set[Handle] = field(default_factory=set)
    busy: set[str] = field(default_factory=set)
    acknowledges: bool = True
    sent: int = 0
    acknowledged: int = -1
    on_sent: Callable[[], None] = lambda: None

    async def open(self, handle: Handle, service: VirtualService, weights: Sequence[int], down: Sequence[bool]) -> None:
        self.calls["open"] += 1
        await asyncio.sleep(0)
        if handle.listen.address in self.busy:
            raise OSError("the address is in use")
        self._take(handle, service, weights)
        self.acceptance[handle] = Acceptance.HOLD

    async def update(
        self, handle: Handle, service: VirtualService, weights: Sequence[int], down: Sequence[bool], generation: int
    ) -> None:
        self.calls["update"] += 1
        await asyncio.sleep(0)
        if handle.listen.address in self.busy:
            raise OSError("no memory")
        self._take(handle, service, weights)

    def _take(self, handle: Handle, service: VirtualService, weights: Sequence[int]) -> None:
        self.members[handle] = tuple(member.endpoint for member in service.pool.members)
        self.weights[handle] = list(weights)

    def set_weights(self, handle: Handle, weights: Sequence[int], down: Sequence[bool]) -> None:
        self.calls["set_weights"] += 1
        assert len(weights) == len(self.members[handle])
        self.weights[handle] = list(weights)

    def set_acceptance(self, handle: Handle, acceptance: Acceptance) -> None:
        self.calls["set_acceptance"] += 1
        self.acceptance[handle] = acceptance

    def stop_accepting(self, handle: Handle) -> None:
        self.stopped.add(handle)

    def stopped_accepting(self, handle: Handle) -> bool:
        return handle in self.stopped

    def reset_connections(self, handle: Handle, reason: str) -> None:
        self.active[handle] = 0

    def reset_member(self, handle: Handle, endpoint: Endpoint, reason: str) -> None: ...

    def remove(self, handle: Handle) -> None:
        self.calls["remove"] += 1
        for known in (self.members, self.weights, self.acceptance):
            del known[handle]
        self.stopped.discard(handle)

    def undelivered(self) -> frozenset[Endpoint]:
        return frozenset()

    def finish_generation(self, generation: int) -> None:
        self.calls["generation"] += 1
        self.sent = generation
        if self.acknowledges:
            self.acknowledge()

    def acknowledge(self) -> None:
        self.acknowledged = self.sent
        self.on_sent()

    def acknowledged_generation(self) -> int:
        return self.acknowledged

    def traffic(self, handle: Handle) -> Traffic:
        return Traffic(active_connections=self.active[handle])

    def member_traffic(self, handle: Handle, endpoint: Endpoint) -> Traffic:
        return Traffic()

    def workers(self) -> tuple[WorkerStatus, ...]:
        return ()

    async def start(self) -> None: ...

    async def close(self) -> None: ...


@dataclass
class HandyAnnouncer:
    """Owns at once what is not `foreign`, which somebody else has."""

    owned: set[str] = field(default_factory=set)
    foreign: set[str] = field(default_factory=set)
    claims: Counter[str] = field(default_factory=Counter)
    hold: asyncio.Event | None = None
    """Withdrawals wait for it."""

    async def claim(self, vip: str) -> None:
        self.claims[vip] += 1
        await asyncio.sleep(0)
        if vip in self.foreign:
            raise ClaimError(f"{vip} is somebody else's", "02:00:00:00:00:01")
        self.owned.add(vip)

    async def withdraw(self, vip: str, reason: str) -> None:
        await asyncio.sleep(0)
        if self.hold is not None:
            await self.hold.wait()
        self.owned.discard(vip)

    async def start(self) -> None: ...

    async def sweep(self, wanted: frozenset[str]) -> tuple[str, ...]:
        return ()

    def status(self) -> tuple[VipStatus, ...]:
        return ()

    async def close(self, *, remove_addresses: bool) -> None: ...


@dataclass
class HandyHealth:
    """Everybody is up but `down` and, until the test says something, `unknown`."""

    targets: dict[MemberKey, tuple[HealthMonitor, ...]] = field(default_factory=dict)
    down: set[MemberKey] = field(default_factory=set)
    unknown: set[MemberKey] = field(default_factory=set)
    touched: int = 0
    """How many members were given to be checked, or not to be any more."""

    def change_targets(
        self, targets: Mapping[MemberKey, tuple[HealthMonitor, ...]], gone: Collection[MemberKey] = ()
    ) -> None:
        self.touched += len(targets) + len(gone)
        for key in gone:
            del self.targets[key]
        self.targets.update(targets)

    def health_of(self, key: MemberKey) -> MemberHealth:
        if key not in self.targets or key in self.unknown:
            return MemberHealth()
        return MemberHealth(Health.DOWN if key in self.down else Health.UP, "")

    def report_passive(self, key: MemberKey, error: ConnectError) -> None: ...


class Bench:
    """A running supervisor: `async with Bench(services) as bench`."""

    def __init__(self, services: Sequence[VirtualService]) -> None:
        self.generation = 1
        self.data_path = HandyDataPath()
        self.announcer = HandyAnnouncer()
        self.health = HandyHealth()
        self.supervisor = Supervisor(state(1, services), self.data_path, self.announcer, self.health)
        self.data_path.on_sent = self.supervisor.wake
        self._loop: asyncio.Task[None] | None = None

    async def __aenter__(self) -> Bench:
        self._loop = asyncio.create_task(self.supervisor.run())
        return self

    async def __aexit__(self, *_exception: object) -> None:
        assert self._loop is not None
        self._loop.cancel()
        await asyncio.gather(self._loop, return_exceptions=True)
        await self.supervisor.vips.close()

    def want(self, services: Sequence[VirtualService]) -> None:
        """Desire other services."""
        self.generation += 1
        self.supervisor.set_desired(state(self.generation, services))

    async def settle(self) -> None:
        """Wait until what is desired has arrived."""
        async with asyncio.timeout(10.0):
            await self.supervisor.settled()

    def handle_of(self, service: VirtualService) -> Handle:
        """Return the handle of a service that is open."""
        return next(state.handle for state in self.supervisor.services.values() if state.handle.name == service.name)

    def left_to_do(self, now_s: float) -> tuple[Action, ...]:
        """Return what a plan for everything finds to do: it must be empty where nothing is under way."""
        supervisor, acknowledged = self.supervisor, self.data_path.acknowledged_generation()
        views = {
            key: ServiceView(
                state.handle,
                state.applied,
                state.revision <= acknowledged,
                state.was_decided or state.first_results(now_s),
                state.acceptance,
                state.verdict.acceptance,
            )
            for key, state in supervisor.services.items()
        }
        draining = tuple(
            DrainView(handle, since_s, self.data_path.stopped_accepting(handle), self.data_path.active[handle], False)
            for handle, (_, since_s) in supervisor.draining.items()
        )
        retry_at_s = {action: failure.retry_at_s for action, failure in supervisor.backoff.failures.items()}
        desired = supervisor.desired
        if supervisor.stopping:
            desired = replace(desired, virtual_services=())
        return plan(desired, Actual(views, draining, supervisor.vips.states, retry_at_s), now_s)
