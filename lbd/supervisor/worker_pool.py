"""All workers: one per place, restarted with backoff, their listening sockets in living hands at every moment."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Protocol

import structlog

from lbd.dataplane import counters
from lbd.dataplane.channel import Message
from lbd.dataplane.privileges import CAP_NET_RAW_ALONE, NO_CAPABILITY, effective_capabilities
from lbd.model.status import WorkerStatus
from lbd.supervisor.listeners import ListeningSocket
from lbd.supervisor.tasks import Tasks
from lbd.supervisor.worker_process import WorkerProcess, WorkerState

log = structlog.get_logger(__name__)

HUNG_AFTER_S = 0.5
KILL_AFTER_S = 10.0
START_TIMEOUT_S = 20.0
WATCH_INTERVAL_S = 0.1
BACKOFF_S = (0.0, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0)
"""Before the first, second, … restart of a worker that dies soon after its start."""
STABLE_AFTER_S = 30.0
"""A worker that lived this long starts again without delay."""
EXIT_TIMEOUT_S = 2.0


@dataclass(frozen=True, slots=True)
class Loan:
    """A listening socket to hand to a worker, for the service in `slot`; not `accepting`: new connections wait.

    `position` is the place of the worker that it belongs to, `memory` what is remembered of its clients: a descriptor
    and where in it.
    """

    slot: int
    sock: ListeningSocket
    accepting: bool
    position: int
    memory: tuple[int, int] | None


def memory_fields(loan: Loan) -> Message:
    """Return the part of a message that says what is remembered of a socket's clients, and where."""
    entries_at = None if loan.memory is None else loan.memory[1]
    return {"listener": loan.sock.identity, "position": loan.position, "entries_at": entries_at}


def memory_descriptors(loan: Loan) -> list[int]:
    """Return the descriptor that goes with it."""
    return [] if loan.memory is None else [loan.memory[0]]


class Holdings(Protocol):
    """What the pool asks of the data path when a worker comes or goes."""

    def greet(self, worker: WorkerProcess) -> None:
        """Tell a new worker everything, its own listening sockets last."""
        ...

    def sockets_of(self, index: int) -> Iterable[Loan]:
        """The listening socket of every open service in a worker's place."""
        ...

    def bury(self, index: int) -> None:
        """The worker in this place has died: nobody has its connections any more."""
        ...

    def used_slots(self) -> tuple[list[int], list[int]]:
        """The counters' slots of services and of members that workers may have written to."""
        ...


class WorkerPool:
    """`on_message` gets what workers say beyond their own state, `on_change` is called when a plan may come out anew,
    `all_ready` is set when every place had a worker that was ready. `keeps_net_raw` leaves workers that capability."""

    def __init__(
        self,
        size: int,
        drain_timeout_s: float,
        holdings: Holdings,
        on_message: Callable[[WorkerProcess, Message], None],
        on_change: Callable[[], None],
        *,
        keeps_net_raw: bool,
    ) -> None:
        self._size = size
        self._drain_timeout_s = drain_timeout_s
        self._holdings = holdings
        self._on_message_to_owner = on_message
        self._on_change = on_change
        self._keeps_net_raw = keeps_net_raw
        rows = 2 * size + 2  # a dying worker's row is free again at once; the spare ones are for its replacement
        self.counters = counters.CounterMap.create(rows)
        self._free_rows = list(range(rows, 0, -1))
        self._places: dict[int, WorkerProcess] = {}
        self._restarts = dict.fromkeys(range(size), 0)
        self._quick_deaths = dict.fromkeys(range(size), 0)
        self._covered: set[int] = set()
        """The places of which others have sockets."""
        self._tasks = Tasks()
        self._closing = False
        self.all_ready = asyncio.Event()

    async def start(self) -> None:
        """Start every worker and the watch over them.

        Raises:
            OSError: a worker can't be executed.
        """
        await asyncio.gather(*(self._start_worker(index) for index in range(self._size)))
        self._tasks.own(self._watch(), "watch over workers")

    async def close(self) -> None:
        """End every worker: politely, then by force."""
        self._closing = True
        await self._tasks.close()
        await asyncio.gather(*(worker.exit(EXIT_TIMEOUT_S) for worker in self._places.values()))
        self.counters.close()

    def kill(self) -> None:
        """End every worker at once."""
        self._closing = True
        for worker in self._places.values():
            worker.kill()

    @property
    def alive(self) -> list[WorkerProcess]:
        """The workers that take messages, in the order of their places."""
        return [worker for _, worker in sorted(self._places.items()) if worker.reachable]

    @property
    def running(self) -> list[WorkerProcess]:
        """The workers that can take over a socket."""
        return [worker for worker in self.alive if worker.state is WorkerState.RUNNING]

    @property
    def rows(self) -> list[int]:
        """The counters' rows to sum over."""
        return [counters.RETIRED_ROW, *(worker.row for worker in self._places.values() if worker.row)]

    def acknowledged_generation(self) -> int:
        """The newest generation that every running worker runs; -1 while there is none.

        One that is just starting is not waited for: it is told the newest state before it accepts anything.
        """
        return min(
            (worker.acknowledged_generation for worker in self.running if worker.acknowledged_generation), default=-1
        )

    def settled_generation(self) -> int:
        """The newest generation that no living worker is behind: what was released before it is referred to no more."""
        return min((worker.acknowledged_generation for worker in self.alive), default=-1)

    def broadcast(self, message: Message) -> None:
        """Say the same to every worker."""
        for worker in self.alive:
            worker.send(message)

    def status(self, active_of: Callable[[int], int]) -> tuple[WorkerStatus, ...]:
        """Describe every worker; `active_of(row)` counts its connections."""
        now_s = time.monotonic()
        return tuple(self._describe(index, worker, active_of, now_s) for index, worker in sorted(self._places.items()))

    def _describe(
        self, index: int, worker: WorkerProcess, active_of: Callable[[int], int], now_s: float
    ) -> WorkerStatus:
        def field(name: int) -> int:
            return self.counters.row_field(worker.row, name) if worker.row else 0

        return WorkerStatus(
            index=index,
            pid=worker.pid,
            state=worker.state.value,
            form=worker.form,
            generation=worker.acknowledged_generation,
            restarts_total=self._restarts[index],
            loop_lag_s=field(counters.LOOP_LAG_US) / 1e6,
            worst_loop_lag_s=field(counters.WORST_LAG_US) / 1e6,
            held_bytes=field(counters.PENDING_BYTES),
            heartbeat_age_s=worker.heartbeat_age_s(now_s) if worker.row else 0.0,
            descriptors_used=field(counters.DESCRIPTORS_USED),
            descriptors_limit=field(counters.DESCRIPTORS_LIMIT),
            accepting=bool(field(counters.ACCEPTING)),
            effective_capabilities=effective_capabilities(worker.pid),
            active_connections=active_of(worker.row) if worker.row else 0,
            expected_capabilities=CAP_NET_RAW_ALONE if self._keeps_net_raw else NO_CAPABILITY,
        )

    async def _start_worker(self, index: int) -> None:
        worker = WorkerProcess(index, self._free_rows.pop(), self.counters, self._on_worker_message, self._on_death)
        self._places[index] = worker
        try:
            await worker.start(self._drain_timeout_s, keeps_net_raw=self._keeps_net_raw)
            self._holdings.greet(worker)
        except OSError:
            worker.kill()
            if not worker.pid:  # else its death gives the row back, and restarts it
                worker.state = WorkerState.DEAD
                self._free_rows.append(worker.row)
                worker.row = 0
                raise
        log.info("worker_started", worker=index, pid=worker.pid)

    def _on_worker_message(self, worker: WorkerProcess, message: Message) -> None:
        kind = message["type"]
        if kind == "ready":
            worker.form = message["form"]
            worker.state = WorkerState.RUNNING
            if len(self.running) == self._size:
                self.all_ready.set()
            self.cover()
            self._on_change()
        elif kind == "ack":
            worker.acknowledged_generation = message["generation"]
            self._give_back(worker.index)
            self._on_change()
        else:
            self._on_message_to_owner(worker, message)

    def _on_death(self, worker: WorkerProcess, how: str) -> None:
        self.counters.retire_row(worker.row, *self._holdings.used_slots())
        self._free_rows.append(worker.row)
        worker.row = 0
        self._holdings.bury(worker.index)
        if self._closing:
            return
        lived_s = time.monotonic() - worker.started_s
        self._quick_deaths[worker.index] = 0 if lived_s > STABLE_AFTER_S else self._quick_deaths[worker.index] + 1
        quick_deaths = self._quick_deaths[worker.index]
        delay_s = BACKOFF_S[min(quick_deaths, len(BACKOFF_S)) - 1] if quick_deaths else 0.0
        log.error("worker_died", worker=worker.index, pid=worker.pid, how=how, restart_in_s=delay_s)
        self._tasks.own(self._restart(worker.index, delay_s), f"restart worker {worker.index}")
        self.cover()
        self._on_change()

    async def _restart(self, index: int, delay_s: float) -> None:
        while True:
            await asyncio.sleep(delay_s)
            self._restarts[index] += 1
            try:
                await self._start_worker(index)
            except OSError as error:
                log.error("worker_not_started", worker=index, error=str(error), retry_in_s=BACKOFF_S[-1])
                delay_s = BACKOFF_S[-1]
            else:
                return

    def cover(self) -> None:
        """Lend every socket of a place whose worker does not run, and that no running worker has, to one that does:
        what is queued there must not wait. Idempotent; called whenever somebody comes or goes."""
        heirs = self.running
        idle = [index for index, worker in self._places.items() if worker.state is not WorkerState.RUNNING]
        held = {identity for heir in heirs for identity in heir.listeners}
        for index in idle if heirs else ():
            for position, loan in enumerate(self._holdings.sockets_of(index)):
                if loan.sock.identity not in held:
                    self._covered.add(index)
                    self._try_to_lend(heirs[position % len(heirs)], loan)

    def _try_to_lend(self, heir: WorkerProcess, loan: Loan) -> None:
        try:
            self.lend(heir, loan)
        except OSError as error:  # no descriptor to pass: the queue waits for the replacement
            log.error("listener_not_handed_over", worker=heir.index, error=str(error))

    def lend(self, worker: WorkerProcess, loan: Loan) -> None:
        """Have a worker accept from a listening socket."""
        message = {"type": "listen", "slot": loan.slot, "accepting": loan.accepting, **memory_fields(loan)}
        worker.send(message, [loan.sock.descriptor, *memory_descriptors(loan)])
        worker.listeners.add(loan.sock.identity)

    def pass_memory(self, loan: Loan) -> None:
        """Tell whoever has a listening socket what is to be remembered of its clients from now on."""
        for worker in self.alive:
            if loan.sock.identity in worker.listeners:
                worker.send({"type": "entries", **memory_fields(loan)}, memory_descriptors(loan))

    def _give_back(self, index: int) -> None:
        """The worker in this place accepts by itself again: its heirs let go, and leave the queue to it."""
        if index not in self._covered:  # the usual case, and there are hundreds of sockets to look for
            return
        self._covered.discard(index)
        for loan in self._holdings.sockets_of(index):
            for other in self.alive:
                if other.index != index and loan.sock.identity in other.listeners:
                    other.listeners.discard(loan.sock.identity)
                    other.send({"type": "unlisten", "listener": loan.sock.identity, "take_queue": False})

    async def _watch(self) -> None:
        """Find workers whose loop stands still."""
        expected_s = time.monotonic()
        while True:
            await asyncio.sleep(WATCH_INTERVAL_S)
            now_s = time.monotonic()
            own_delay_s, expected_s = now_s - expected_s - WATCH_INTERVAL_S, now_s
            if own_delay_s > HUNG_AFTER_S / 2:
                continue  # we stood still ourselves (stopped, or no CPU): give everybody time to beat again
            for worker in self.alive:
                self._watch_worker(worker, worker.heartbeat_age_s(now_s))

    def _watch_worker(self, worker: WorkerProcess, age_s: float) -> None:
        if worker.state is WorkerState.STARTING:
            if age_s > START_TIMEOUT_S:
                log.error("worker_start_timed_out", worker=worker.index, pid=worker.pid)
                worker.kill()
        elif worker.state is WorkerState.RUNNING and age_s > HUNG_AFTER_S:
            worker.state = WorkerState.HUNG
            log.error("worker_hung", worker=worker.index, pid=worker.pid, silent_for_s=round(age_s, 3))
            self.cover()
            self._on_change()
        elif worker.state is WorkerState.HUNG:
            if age_s <= HUNG_AFTER_S:
                worker.state = WorkerState.RUNNING
                log.info("worker_recovered", worker=worker.index, pid=worker.pid)
                self._give_back(worker.index)
                self._on_change()
            elif age_s > KILL_AFTER_S:
                worker.kill()
