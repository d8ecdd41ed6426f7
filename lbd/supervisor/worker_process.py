"""One worker process: how it is started, spoken to, watched and ended."""

from __future__ import annotations

import asyncio
import os
import signal
import socket
import sys
import time
from collections.abc import Callable, Sequence
from enum import StrEnum

import structlog

from lbd.dataplane import counters
from lbd.dataplane.channel import PROTOCOL_VERSION, Channel, Message

log = structlog.get_logger(__name__)

WORKER_USER = "lbd"
_NOT_FOR_WORKERS = ("NOTIFY_SOCKET", "WATCHDOG_PID", "WATCHDOG_USEC")


class WorkerState(StrEnum):
    """Where a worker process is in its life."""

    STARTING = "starting"
    RUNNING = "running"
    HUNG = "hung"
    DEAD = "dead"


class WorkerProcess:
    """A worker in the place `index`, with a counters' row of its own."""

    def __init__(
        self,
        index: int,
        row: int,
        counter_map: counters.CounterMap,
        on_message: Callable[[WorkerProcess, Message], None],
        on_death: Callable[[WorkerProcess, str], None],
    ) -> None:
        self.index = index
        self.row = row
        self.state = WorkerState.STARTING
        self.form = ""
        self.acknowledged_generation = 0
        self.listeners: set[int] = set()
        """Identities of the listening sockets it holds."""
        self._counters = counter_map
        self._on_message = on_message
        self._on_death = on_death
        self._process: asyncio.subprocess.Process | None = None
        self._channel: Channel | None = None
        self._waiter: asyncio.Task[None] | None = None
        self.started_s = 0.0

    async def start(self, drain_timeout_s: float, *, keeps_net_raw: bool) -> None:
        """Execute the program and greet it. `keeps_net_raw` leaves it CAP_NET_RAW, for transparent services.

        Raises:
            OSError: it can't be executed.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_STREAM)
        self.started_s = time.monotonic()
        try:
            self._process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-P", "-m", "lbd.dataplane.worker", str(theirs.fileno()), WORKER_USER),
                *(("net_raw",) if keeps_net_raw else ()),
                pass_fds=(theirs.fileno(),),
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                start_new_session=True,  # a signal to our process group is ours alone: workers end when we say so
                env={name: value for name, value in os.environ.items() if name not in _NOT_FOR_WORKERS},
            )
        except OSError:
            ours.close()
            raise
        finally:
            theirs.close()
        self._waiter = asyncio.create_task(self._wait(), name=f"wait for worker {self.index}")
        self._channel = Channel(ours, lambda message, _: self._on_message(self, message), self._on_channel_end)
        self._channel.start(asyncio.get_running_loop())
        self.send(
            {
                "type": "hello",
                "protocol": PROTOCOL_VERSION,
                "index": self.index,
                "row": self.row,
                "drain_timeout_s": drain_timeout_s,
            },
            [self._counters.descriptor],
        )

    @property
    def reachable(self) -> bool:
        """Whether it was started and lives: what is said to it arrives."""
        return self._channel is not None and self.state is not WorkerState.DEAD

    @property
    def pid(self) -> int:
        """Its process id, 0 before it was started."""
        return self._process.pid if self._process is not None else 0

    def send(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Say something to it; to a dead one, nothing is said."""
        if self._channel is not None and self.reachable:
            self._channel.send(message, descriptors)

    def heartbeat_age_s(self, now_s: float) -> float:
        """How long ago it last showed that its loop turns; since its start if it never did."""
        beat_s = self._counters.row_field(self.row, counters.HEARTBEAT_NS) / 1e9
        return max(0.0, now_s - max(beat_s, self.started_s))

    def kill(self) -> None:
        """End it now."""
        if self._process is not None and self._process.returncode is None:
            try:
                self._process.send_signal(signal.SIGKILL)
            except ProcessLookupError:
                pass  # it has ended by itself; the waiter is about to say so

    async def exit(self, timeout_s: float) -> None:
        """Ask it to exit, and kill it after `timeout_s`."""
        self.send({"type": "exit"})
        if self._waiter is None:
            return
        done, _ = await asyncio.wait({self._waiter}, timeout=timeout_s)
        if not done:
            self.kill()
        await self._waiter

    def _on_channel_end(self, error: BaseException | None) -> None:
        """It has ended, or it does not understand us any more; then a fresh one is better."""
        if error is not None:
            log.error("worker_channel_failed", worker=self.index, pid=self.pid, error=repr(error))
        self.kill()

    async def _wait(self) -> None:
        assert self._process is not None
        code = await self._process.wait()
        self.state = WorkerState.DEAD
        if self._channel is not None:
            self._channel.close()
        how = f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"
        self._on_death(self, how)
