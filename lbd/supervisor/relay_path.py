"""The user-space data path: services as messages to the relay's workers, and their counters as traffic."""

from __future__ import annotations

import asyncio
import itertools
import os
import time
from collections.abc import Callable, Iterable, Sequence

import structlog

from lbd.dataplane import counters
from lbd.dataplane.channel import Message
from lbd.model.address import Endpoint
from lbd.model.desired import MemberKey, Pool, Protocol, VirtualService
from lbd.model.status import ConnectError, Traffic, WorkerStatus
from lbd.supervisor.client_logs import LOOK_INTERVAL_S, ClientLogDesk
from lbd.supervisor.datagram_socket import DatagramSocket
from lbd.supervisor.lanes import Lanes
from lbd.supervisor.lease_desk import Key, LeaseDesk, limits_of
from lbd.supervisor.listeners import ListeningSocket
from lbd.supervisor.opened_service import OpenedService
from lbd.supervisor.seams import Acceptance, Handle, MemberFailure
from lbd.supervisor.service_message import hash_members, hash_table, service_message
from lbd.supervisor.slots import Slots, SlotsExhaustedError
from lbd.supervisor.steering import Group
from lbd.supervisor.tasks import Tasks
from lbd.supervisor.traffic import traffic_of
from lbd.supervisor.transparent_members import Answers, Members, TransparentMembers
from lbd.supervisor.undelivered import undelivered
from lbd.supervisor.worker_pool import Loan, WorkerPool
from lbd.supervisor.worker_process import WorkerProcess
from lbd.supervisor.worker_reports import log_report

log = structlog.get_logger(__name__)

START_TIMEOUT_S = 15.0
LET_GO_TIMEOUT_S = 1.0
"""How long a service waits for workers to let go of the one that it follows."""
HANDSHAKE_GRACE_S = 0.1
"""Between the last SYN that is answered and the emptying of the queue: a client's ACK may take a round trip."""


class RelayDataPath:
    """Implements `DataPath` with worker processes. `on_failure` is told of connect failures that the relay saw,
    `on_change` that a plan may come out anew. `answers` is None where no service may be transparent: then workers have
    no capability."""

    def __init__(
        self,
        workers: int,
        drain_timeout_s: float,
        on_failure: MemberFailure,
        on_change: Callable[[], None],
        answers: Answers | None,
    ) -> None:
        self._on_failure = on_failure
        self._on_change = on_change
        self._opened: dict[Handle, OpenedService] = {}
        self._service_slots: Slots[Handle] = Slots(counters.MAX_SERVICES)
        self._member_slots: Slots[tuple[Handle, Endpoint]] = Slots(counters.MAX_MEMBERS)
        self._identities = itertools.count(1)
        self._seed = int.from_bytes(os.urandom(4))
        self._generation = 0
        self._size = workers
        self._answers = answers
        self._transparent = TransparentMembers()
        self._leases = LeaseDesk(workers)
        self._client_logs = ClientLogDesk(time.monotonic)
        self._tasks = Tasks()
        self._pool = WorkerPool(
            workers, drain_timeout_s, self, self._on_worker_message, on_change, keeps_net_raw=answers is not None
        )

    async def start(self) -> None:
        """Start the workers, and wait until each is ready or START_TIMEOUT_S have passed."""
        self._tasks.own(self._look_at_client_logs(), "look at client logs")
        await self._pool.start()
        try:
            async with asyncio.timeout(START_TIMEOUT_S):
                await self._pool.all_ready.wait()
        except TimeoutError:
            log.error("workers_not_ready", ready=len(self._pool.running), wanted=self._size, after_s=START_TIMEOUT_S)

    async def close(self) -> None:
        """End the workers and let go of every socket."""
        await self._tasks.close()
        await self._pool.close()
        for opened in self._opened.values():
            self._release(opened)
        self._opened.clear()

    def kill(self) -> None:
        """End the workers at once."""
        self._pool.kill()

    async def open(self, handle: Handle, service: VirtualService, weights: Sequence[int], down: Sequence[bool]) -> None:
        """Bind, and give the service to every worker, holding new connections.

        Raises:
            OSError: the address and port can't be bound.
            SlotsExhaustedError: more services or members than the counters have places for.
        """
        sockets: list[ListeningSocket] = []
        make = DatagramSocket if service.protocol is Protocol.UDP else ListeningSocket
        await self._supersede(handle, service)
        group = self._group(handle, service)
        lanes = Lanes(sockets, group, self._seed)
        try:
            while len(sockets) < self._size:
                sockets.append(make(next(self._identities), service.listen, group))
                sockets[-1].set_client_options(service.client_keepalive, service.timeouts.client_user_s)
            lanes.steer(service)
            lanes.listen()
            lanes.remember(service)
            slot = self._service_slots.take(handle)
            await self._settle_answers(handle, service)
            table = await hash_table(service.pool)
        except (OSError, SlotsExhaustedError):
            self._transparent.forget(handle)
            self._service_slots.release(handle, self._generation)
            lanes.close()
            for sock in sockets:
                sock.close()
            raise
        opened = OpenedService(service, slot, list(weights), list(down), sockets, lanes, table)
        self._opened[handle] = opened
        try:
            message = self._service_message(handle, opened)
            for worker in self._pool.alive:
                self._send_service(worker, opened, message)
                self._pool.lend(worker, self._loan(opened, worker.index))
            self._leases.open(slot, self._limits_of(handle, opened), self._pool.alive)
            self._client_logs.follow(slot, service, self._pool.alive)
        except (OSError, SlotsExhaustedError):
            for sock in opened.sockets:
                sock.refuse()  # workers may hold it for a moment yet; nobody has been told of the service
            self._let_go(opened, take_queue=False)
            self.remove(handle)
            raise

    async def _supersede(self, handle: Handle, service: VirtualService) -> None:
        """End the flows of a UDP service that drains where this one is to be: two groups on one address would each get
        a part of every client's datagrams. TCP connections have sockets of their own."""
        for other, opened in list(self._opened.items()):
            if opened.is_udp and service.protocol is Protocol.UDP and opened.stopping and other.listen == handle.listen:
                opened.let_go.clear()
                self._let_go(opened, take_queue=False)
                if not opened.is_held:
                    opened.let_go.set()
                try:
                    async with asyncio.timeout(LET_GO_TIMEOUT_S):
                        await opened.let_go.wait()
                except TimeoutError:
                    log.warning("worker_holds_sockets", service=other.name, consequence="some clients meet nobody")
                for sock in opened.sockets:
                    sock.close()

    def _group(self, handle: Handle, service: VirtualService) -> Group:
        """Return the SO_REUSEPORT group of a service's sockets: one that is on its way out may still be in it."""
        for other, opened in self._opened.items():
            if other.listen == handle.listen and opened.service.protocol is service.protocol:
                return opened.lanes.group
        return Group()

    async def update(
        self,
        handle: Handle,
        service: VirtualService,
        weights: Sequence[int],
        down: Sequence[bool],
        generation: int,
    ) -> None:
        """Give every worker the changed pool and timeouts; established connections stay as they are."""
        opened = self._opened[handle]
        await self._settle_answers(handle, opened.service, service)
        if hash_members(service.pool) != hash_members(opened.service.pool):
            old_table, opened.table = opened.table, await hash_table(service.pool)
            if old_table is not None:
                os.close(old_table)
        kept = {member.endpoint for member in service.pool.members}
        for member in opened.service.pool.members:
            if member.endpoint not in kept:
                self._release_member(handle, opened.service, member.endpoint, generation)
        self._transparent.note(handle, service)
        for sock in opened.sockets:
            sock.set_client_options(service.client_keepalive, service.timeouts.client_user_s)
        opened.lanes.steer(service)
        other_memory = opened.lanes.remember(service)
        opened.service = service
        opened.weights = list(weights)
        opened.down = list(down)
        message = self._service_message(handle, opened)
        for worker in self._pool.alive:
            self._send_service(worker, opened, message)
        self._leases.update(opened.slot, self._limits_of(handle, opened), self._pool.alive)
        self._client_logs.follow(opened.slot, service, self._pool.alive)
        for position in range(len(opened.sockets)) if other_memory else ():
            self._pool.pass_memory(self._loan(opened, position))

    def set_weights(self, handle: Handle, weights: Sequence[int], down: Sequence[bool]) -> None:
        """Change the effective weights (0: no new connection) of the members, in the order of the pool, and which of
        them get nothing because they are down."""
        opened = self._opened[handle]
        opened.weights = list(weights)
        opened.down = list(down)
        slots = self._member_slots_of(handle, opened.service.pool)
        message = {"type": "weights", "slot": opened.slot, "members": slots}
        self._pool.broadcast({**message, "weights": opened.weights, "down": opened.down})

    def set_acceptance(self, handle: Handle, acceptance: Acceptance) -> None:
        """Accept, hold or refuse new connections.

        Raises:
            OSError: it can't listen again, because another process listens there now.
        """
        opened = self._opened[handle]
        if opened.is_udp:
            self._set_udp_acceptance(opened, acceptance)
            return
        if acceptance is Acceptance.REFUSE:
            for sock in opened.sockets:
                sock.refuse()
        else:
            opened.lanes.listen()
        opened.acceptance = acceptance
        accepting = acceptance is Acceptance.ACCEPT
        self._pool.broadcast({"type": "accepting", "slot": opened.slot, "accepting": accepting})

    def _set_udp_acceptance(self, opened: OpenedService, acceptance: Acceptance) -> None:
        opened.acceptance = acceptance
        if acceptance is Acceptance.REFUSE:
            self._pool.broadcast(opened.refusal.begin(opened.slot))
        elif not opened.refusal.is_vacating:  # else as soon as the workers have let go
            self._serve_flows(opened)

    def _serve_flows(self, opened: OpenedService) -> None:
        """Bind what is closed, and have the workers serve it as the service's acceptance says."""
        opened.lanes.listen()
        accepting = opened.acceptance is Acceptance.ACCEPT
        self._pool.broadcast({"type": "accepting", "slot": opened.slot, "accepting": accepting})
        for worker in self._pool.alive:
            loan = self._loan(opened, worker.index)
            if loan.sock.identity not in worker.listeners:
                self._pool.lend(worker, loan)
        self._pool.cover()

    def _vacate(self, opened: OpenedService) -> None:
        """Close the sockets of a service that refuses, once no flow needs them and the workers have let go; bind new
        ones if it is to serve again meanwhile."""
        if not opened.is_udp or opened.stopping:
            return
        refusal = opened.refusal
        if not refusal.is_vacating:
            if opened.acceptance is not Acceptance.REFUSE or not refusal.is_vacant(self._pool.alive):
                return
            refusal.is_vacating = True
            self._let_go(opened, take_queue=False)
        if not opened.is_held:
            refusal.is_vacating = False
            for sock in opened.sockets:
                sock.close()
            if opened.acceptance is not Acceptance.REFUSE:
                try:
                    self._serve_flows(opened)
                except OSError as error:
                    log.error("service_not_bound", service=opened.service.name, error=str(error))

    def stop_accepting(self, handle: Handle) -> None:
        """Take what is queued, then close the listening sockets; established connections go on. Of a UDP service the
        sockets stay for the flows."""
        opened = self._opened[handle]
        opened.stopping = True
        if opened.is_udp:
            self._pool.broadcast(opened.refusal.begin(opened.slot))
            return
        opened.unlisten_at_s = time.monotonic() + HANDSHAKE_GRACE_S
        for sock in opened.sockets:
            if sock.listening:
                sock.drop_new()

    def _let_go(self, opened: OpenedService, *, take_queue: bool) -> None:
        """Have every worker let go of the service's sockets, and note whose answer is awaited."""
        identities = {sock.identity for sock in opened.sockets}
        for worker in self._pool.alive:
            for identity in worker.listeners & identities:
                opened.unlistening.add((worker, identity))
                worker.send({"type": "unlisten", "listener": identity, "take_queue": take_queue})
            worker.listeners -= identities

    def stopped_accepting(self, handle: Handle) -> bool:
        """True once every worker that lives has let go of the service's sockets, which are closed then, or serves only
        the flows that there are."""
        opened = self._opened[handle]
        if opened.is_udp:
            return opened.refusal.is_known(self._pool.alive)
        if opened.unlisten_at_s is not None and time.monotonic() >= opened.unlisten_at_s:
            opened.unlisten_at_s = None
            self._let_go(opened, take_queue=True)
        if opened.unlisten_at_s is not None or opened.is_held:
            return False
        if opened.sockets:
            for sock in opened.sockets:
                sock.close()
            opened.sockets.clear()
            opened.lanes.close()
            for other in self._opened.values():
                if other.lanes.group is opened.lanes.group and not other.stopping:
                    other.lanes.restore()
        return True

    def reset_connections(self, handle: Handle, reason: str) -> None:
        """Reset what is still open; the workers log how many they were."""
        self._broadcast_reset(handle, None, None, reason)

    def reset_member(self, handle: Handle, endpoint: Endpoint, reason: str) -> None:
        """Reset what is still open to one member; the workers log how many they were."""
        slot = self._member_slots.slot_of((handle, endpoint))
        if slot is not None:
            self._broadcast_reset(handle, slot, str(endpoint), reason)

    def _broadcast_reset(self, handle: Handle, member_slot: int | None, member: str | None, reason: str) -> None:
        names = {"service": handle.name, "endpoint": member, "reason": reason}
        self._pool.broadcast({"type": "reset", "slot": self._opened[handle].slot, "member": member_slot, **names})

    def undelivered(self) -> frozenset[Endpoint]:
        """Where clients have not acknowledged all that was sent to them on connections that have ended since."""
        try:
            return undelivered()
        except OSError as error:
            log.warning(
                "undelivered_unknown", error=str(error), consequence="a VIP may go before a slow client has all"
            )
            return frozenset()

    def remove(self, handle: Handle) -> None:
        """Forget the service; its counters' slots are free again once no worker refers to them."""
        opened = self._opened.pop(handle)
        self._pool.broadcast({"type": "remove", "slot": opened.slot})
        self._leases.close(opened.slot)
        self._client_logs.forget(opened.slot)
        self._release(opened)
        for member in opened.service.pool.members:
            self._release_member(handle, opened.service, member.endpoint, self._generation + 1)
        self._transparent.forget(handle)
        self._service_slots.release(handle, self._generation + 1)
        self.finish_generation(self._generation)

    def finish_generation(self, generation: int) -> None:
        """Everything of this generation has been sent: have the workers acknowledge it."""
        self._generation = generation
        self._pool.broadcast({"type": "generation", "generation": generation})
        self._reclaim_slots()
        if self._answers is not None:
            self._answers.look_again()

    def transparent_members(self) -> Members:
        """Whose answers to clients' own addresses belong here, also where only old connections to them go on."""
        self._reclaim_slots()
        released = {slot for slot in self._member_slots.in_use if self._member_slots.key_of(slot) is None}
        return self._transparent.now(released.__contains__)

    async def _settle_answers(self, handle: Handle, *services: VirtualService) -> None:
        """Before a worker hears of a member its answers must arrive."""
        if self._transparent.note(handle, *services) and self._answers is not None:
            await self._answers.settle()

    def _release_member(self, handle: Handle, service: VirtualService, endpoint: Endpoint, generation: int) -> None:
        slot = self._member_slots.slot_of((handle, endpoint))
        self._transparent.leave(handle, service.protocol, endpoint, slot)
        self._member_slots.release((handle, endpoint), generation)

    def acknowledged_generation(self) -> int:
        """The newest generation that every running worker has acknowledged."""
        return self._pool.acknowledged_generation()

    def traffic(self, handle: Handle) -> Traffic:
        """The service's counters over all workers, dead ones included."""
        slot = self._service_slots.slot_of(handle)
        opened = self._opened.get(handle)
        if slot is None or opened is None:
            return Traffic()
        return traffic_of(self._pool.counters.service_sums(slot, self._pool.rows), opened.lanes.entries)

    def member_traffic(self, handle: Handle, endpoint: Endpoint) -> Traffic:
        """The same for one member."""
        slot = self._member_slots.slot_of((handle, endpoint))
        return Traffic() if slot is None else traffic_of(self._pool.counters.member_sums(slot, self._pool.rows))

    def workers(self) -> tuple[WorkerStatus, ...]:
        """Describe every worker."""
        slots = self._service_slots.in_use

        def active_of(row: int) -> int:
            view = self._pool.counters.view
            return sum(view[counters.service_base(row, slot) + counters.ACTIVE] for slot in slots)

        return self._pool.status(active_of)

    # Holdings, for the pool.

    def greet(self, worker: WorkerProcess) -> None:
        """Tell a new worker everything that is open."""
        for handle, opened in self._opened.items():
            if not opened.stopping:
                self._send_service(worker, opened, self._service_message(handle, opened))
                self._leases.join(opened.slot, worker)
                self._client_logs.join(opened.slot, worker)
                if opened.lends(worker.index):
                    self._pool.lend(worker, self._loan(opened, worker.index))
            if opened.is_udp and (opened.stopping or opened.acceptance is Acceptance.REFUSE):
                # It has no flow, and says so: nobody shall wait in vain for what it has to say.
                worker.send(opened.refusal.message(opened.slot))
        if self._generation:
            worker.send({"type": "generation", "generation": self._generation})

    def sockets_of(self, index: int) -> Iterable[Loan]:
        """The listening socket of every open service in a worker's place."""
        return [self._loan(opened, index) for opened in self._opened.values() if opened.lends(index)]

    def bury(self, index: int) -> None:
        """The worker in this place has died: nobody has its connections any more."""
        for opened in self._opened.values():
            opened.lanes.bury(index)
            if opened.refusal.is_vacating:  # nobody will say any more that it has let go
                self._vacate(opened)
        self._leases.leave(index)

    def used_slots(self) -> tuple[list[int], list[int]]:
        """The slots that workers may have written to."""
        return self._service_slots.in_use, self._member_slots.in_use

    def _loan(self, opened: OpenedService, index: int) -> Loan:
        accepting = opened.acceptance is Acceptance.ACCEPT
        return Loan(opened.slot, opened.sockets[index], accepting, index, opened.lanes.memory(index))

    @staticmethod
    def _send_service(worker: WorkerProcess, opened: OpenedService, message: Message) -> None:
        worker.send(message, [opened.table] if opened.table is not None else [])

    def _service_message(self, handle: Handle, opened: OpenedService) -> Message:
        slots = self._member_slots_of(handle, opened.service.pool)
        message = service_message(opened.service, opened.slot, slots, opened.weights, opened.down, self._size)
        if message["udp"] is not None:  # each socket has its share
            message["udp"]["max_flows"] = -(-opened.service.udp.max_flows // self._size)
        return message

    def _limits_of(self, handle: Handle, opened: OpenedService) -> dict[Key, int]:
        return limits_of(opened.service, opened.slot, self._member_slots_of(handle, opened.service.pool))

    def _member_slots_of(self, handle: Handle, pool: Pool) -> list[int]:
        return [self._member_slots.take((handle, member.endpoint)) for member in pool.members]

    def _on_worker_message(self, worker: WorkerProcess, message: Message) -> None:
        kind = message["type"]
        if kind == "failure":
            owner = self._member_slots.key_of(message["member"])
            if owner is not None:
                key = MemberKey(owner[0].name, owner[1])
                self._on_failure(key, ConnectError(message["error"]), message["in_a_row"])
        elif kind == "unlistened":
            for opened in self._opened.values():
                opened.unlistening.discard((worker, message["listener"]))
                if not opened.is_held:
                    opened.let_go.set()
                self._vacate(opened)
            self._on_change()
        elif kind == "flows":
            self._on_flows(worker, message)
        elif kind in ("lease_wanted", "leased"):
            self._leases.take(worker, message)
        elif kind == "client_logs":
            self._client_logs.take(message)
        else:
            log_report(worker.index, message)

    async def _look_at_client_logs(self) -> None:
        while True:
            await asyncio.sleep(LOOK_INTERVAL_S)
            self._client_logs.look(self._pool.alive)

    def _on_flows(self, worker: WorkerProcess, message: Message) -> None:
        handle = self._service_slots.key_of(message["slot"])
        opened = None if handle is None else self._opened.get(handle)
        if opened is not None:
            opened.refusal.heard(worker, message)
            self._vacate(opened)
        self._on_change()

    def _reclaim_slots(self) -> None:
        settled = self._pool.settled_generation()
        view, rows = self._pool.counters.view, self._pool.rows
        for slot in self._service_slots.reclaim(
            settled, lambda slot: not any(view[counters.service_base(row, slot)] for row in rows)
        ):
            self._pool.counters.clear_service(slot)
        for slot in self._member_slots.reclaim(
            settled, lambda slot: not any(view[counters.member_base(row, slot)] for row in rows)
        ):
            self._pool.counters.clear_member(slot)

    @staticmethod
    def _release(opened: OpenedService) -> None:
        for sock in opened.sockets:
            sock.close()
        if opened.table is not None:
            os.close(opened.table)
            opened.table = None
        opened.lanes.close()
