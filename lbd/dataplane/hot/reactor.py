"""A worker's event loop: one edge-triggered epoll for all its sockets, and the turns, timers and chores beside it.

It owns what connections share: the table of handlers by descriptor, the wheel, the tallies to flush, the bytes held for
slow peers, and the order inside a batch of events: handlers first, then descriptors are really closed, then
connections are accepted. Closing any earlier would let a stale event of the same batch reach a new connection that
got the same number (measured: 8 of 30,000 clients reset).

There is no other loop around it: hung under uvloop it cost a second epoll_wait and a nested wake-up for every batch
(ADR 0008).
"""

from __future__ import annotations

import _socket
import select
import time
from collections.abc import Callable
from typing import Any, Final

from mypy_extensions import trait

from lbd.dataplane.hot.tally import Tally
from lbd.dataplane.hot.wheel import Wheel

EPOLLIN: Final = 0x1
EPOLLPRI: Final = 0x2
EPOLLOUT: Final = 0x4
EPOLLERR: Final = 0x8
EPOLLHUP: Final = 0x10
EPOLLRDHUP: Final = 0x2000
EDGE_MASK: Final = 0x80002007  # EPOLLIN | EPOLLPRI | EPOLLOUT | EPOLLRDHUP | EPOLLET
READABLE: Final = 0x2019  # EPOLLIN | EPOLLRDHUP | EPOLLHUP | EPOLLERR

BATCH: Final = 512
BUFFER_BYTES: Final = 262144
PENDING_LIMIT_BYTES: Final = 64 << 20
"""Bytes that a worker holds for slow peers, in all. Reads shrink from half of it on, and pause at it."""
ACK_POLL_MS: Final = 5
MAX_SLEEP_MS: Final = 1000
DEFERRED_EVENTS: Final = 32
"""How many events what is deferred waits for at most: one event may move a megabyte (0.3 ms)."""

_monotonic_ns: Final = time.monotonic_ns
_CLOSE: Final[Any] = _socket.socket.close  # called without the look-up on the socket


class Handler:
    """What an event of a descriptor is handed to."""

    __slots__ = ()

    def on_event(self, events: int) -> None:
        """Handle what epoll reported."""

    def on_turn(self) -> None:
        """Go on with what was put behind the others by `Reactor.again`."""

    def on_fault(self) -> None:
        """Give up what this stands for: an unexpected exception came out of one of the methods above."""


class Watch(Handler):
    """A descriptor whose readiness is told to functions, after the batch: what they do may close descriptors of it, and
    must not come between a connection that waits and its acceptance."""

    __slots__ = ("_reactor", "_readable", "_writable")

    def __init__(
        self, reactor: Reactor, readable: Callable[[], object] | None, writable: Callable[[], object] | None
    ) -> None:
        self._reactor: Reactor = reactor
        self._readable: Callable[[], object] | None = readable
        self._writable: Callable[[], object] | None = writable

    def on_event(self, events: int) -> None:
        """Have the functions told."""
        if self._readable is not None and events & READABLE:
            self._reactor.calls.append(self._readable)
        if self._writable is not None and events & (EPOLLOUT | EPOLLERR | EPOLLHUP):
            self._reactor.calls.append(self._writable)


class Chore:
    """Something to do at `due_ms` (0: not due). `run(now_ms)` returns when it is due again."""

    __slots__ = ("due_ms", "run")

    def __init__(self, run: Callable[[int], int]) -> None:
        self.run: Callable[[int], int] = run
        self.due_ms: int = 0


class Deferred:
    """Something that is done once for many events of a batch, before its descriptors are closed."""

    __slots__ = ()

    def finish(self) -> None:
        """Wait no longer."""


def _never_again(now_ms: int) -> int:
    return 0


class Acceptor(Handler):
    """A handler that takes new connections, once the rest of the batch is over."""

    __slots__ = ()

    def accept(self) -> None:
        """Take what waits."""

    def pause(self) -> None:
        """Leave new connections in the kernel's queue."""

    def resume(self) -> None:
        """Take them again."""


@trait
class Acknowledgement:
    """Something that waits until a peer's kernel has acknowledged all bytes."""

    __slots__ = ()

    def check(self) -> bool:
        """Return True when the wait is over."""
        return True


class Reactor:
    """See the module. `on_fault` hears of unexpected exceptions."""

    __slots__ = (
        "_accepting",
        "_ack_chore",
        "_chores",
        "_closing",
        "_handlers",
        "_on_fault",
        "_poll",
        "_ready",
        "_register",
        "_stopped",
        "acceptors",
        "acks",
        "batches",
        "calls",
        "deferred",
        "dirty",
        "held_bytes",
        "now_ms",
        "paused",
        "poller",
        "read_bytes",
        "socket_limit",
        "sockets",
        "starved",
        "wheel",
    )  # fmt: skip

    def __init__(self, on_fault: Callable[[str, BaseException], None], socket_limit: int) -> None:
        self._on_fault: Callable[[str, BaseException], None] = on_fault
        self.poller: Any = select.epoll()
        self._poll: Any = self.poller.poll
        self._register: Any = self.poller.register
        self._handlers: list[Handler | None] = [None] * 1024
        self._closing: list[_socket.socket] = []
        self._accepting: list[Acceptor] = []
        self._ready: list[Handler] = []
        self._stopped: bool = False
        self._chores: list[Chore] = []
        self._ack_chore: Chore = self.chore(self._check_acks)
        self.acks: list[Acknowledgement] = []
        self.acceptors: list[Acceptor] = []
        self.calls: list[Callable[[], object]] = []
        self.deferred: list[Deferred] = []
        self.dirty: list[Tally] = []
        self.starved: list[Handler] = []
        self.now_ms: int = time.monotonic_ns() // 1000000
        self.batches: int = 0
        self.wheel: Wheel = Wheel(self.now_ms, on_fault)
        self.held_bytes: int = 0
        self.read_bytes: int = BUFFER_BYTES
        self.sockets: int = 0
        self.socket_limit: int = socket_limit
        self.paused: bool = False

    def add(self, descriptor: int, handler: Handler, mask: int) -> None:
        """Register a descriptor, once and for all its life."""
        handlers = self._handlers
        while descriptor >= len(handlers):
            handlers.extend([None] * len(handlers))
        self._register(descriptor, mask)
        handlers[descriptor] = handler

    def forget(self, descriptor: int) -> None:
        """Unregister a descriptor that somebody else holds open too: closing ours would not take it out of epoll."""
        if self._handlers[descriptor] is not None:
            self._handlers[descriptor] = None
            self.poller.unregister(descriptor)

    def close(self, descriptor: int, sock: _socket.socket) -> None:
        """Close a socket after this batch; its further events are dropped from now on."""
        if descriptor < len(self._handlers):  # a client may be closed before it was ever added
            self._handlers[descriptor] = None
        self._closing.append(sock)

    def handlers(self) -> list[Handler]:
        """Return everything that is registered."""
        return [handler for handler in self._handlers if handler is not None]

    def ready_to_accept(self, acceptor: Acceptor) -> None:
        """Let `acceptor` accept at the end of this batch."""
        self._accepting.append(acceptor)

    def again(self, handler: Handler) -> None:
        """Give `handler` another turn, behind everybody who has events now."""
        self._ready.append(handler)

    def await_acknowledgement(self, waiting: Acknowledgement) -> None:
        """Ask `waiting.check()` every few milliseconds until it says True."""
        self.acks.append(waiting)
        if not self._ack_chore.due_ms:
            self._ack_chore.due_ms = self.now_ms + ACK_POLL_MS

    def chore(self, run: Callable[[int], int]) -> Chore:
        """Return a new chore, which is not due yet; set its `due_ms`. An exception out of `run` goes to `on_fault`,
        and the chore is not due any more."""
        chore = Chore(run)
        self._chores.append(chore)
        return chore

    def drop(self, chore: Chore) -> None:
        """Forget a chore, and with it whoever it calls: nobody collects a reference cycle."""
        chore.run = _never_again
        self._chores = [one for one in self._chores if one is not chore]

    def give_turn(self, handler: Handler) -> None:
        """Give `handler` a turn now; an exception is handled as everywhere."""
        try:
            handler.on_turn()
        except Exception as error:  # noqa: BLE001  # see on_readable
            self._fault(handler, error)

    def watch(
        self, descriptor: int, readable: Callable[[], object] | None, writable: Callable[[], object] | None
    ) -> None:
        """Call a function whenever a descriptor is readable or writable (level-triggered); None and None: no more."""
        if descriptor < len(self._handlers):
            self.forget(descriptor)
        mask = (EPOLLIN if readable is not None else 0) | (EPOLLOUT if writable is not None else 0)
        if mask:
            self.add(descriptor, Watch(self, readable, writable), mask)

    def run(self) -> None:
        """Handle events, turns and chores until `stop`."""
        self._stopped = False
        while not self._stopped:
            self.turn()

    def stop(self) -> None:
        """Have `run` return when the batch that runs now is over."""
        self._stopped = True

    def turn(self) -> None:
        """Wait until there is something to do, and do it: the events of one batch, then the turns of those who were
        put behind the others, then the chores that are due."""
        timeout_ms = 0
        if not self._ready:
            due_ms = self.now_ms + MAX_SLEEP_MS
            for chore in self._chores:
                if 0 < chore.due_ms < due_ms:
                    due_ms = chore.due_ms
            timeout_ms = max(due_ms - _monotonic_ns() // 1000000, 0)
        self.on_readable(timeout_ms)
        if self.calls:
            self._call()
        if self._ready:
            self._run_turns()
        for chore in self._chores:
            if 0 < chore.due_ms <= self.now_ms:
                self._run_chore(chore)

    def _call(self) -> None:
        calls = self.calls
        self.calls = []
        for call in calls:
            try:
                call()
            except Exception as error:  # noqa: BLE001  # see on_readable
                self._on_fault("watch", error)
        self._end_batch()

    def _run_chore(self, chore: Chore) -> None:
        chore.due_ms = 0
        try:
            chore.due_ms = chore.run(self.now_ms)
        except Exception as error:  # noqa: BLE001  # see on_readable
            self._on_fault("chore", error)
        self._end_batch()

    def free_descriptors(self) -> None:
        """Close at once what would be closed after this batch: for acceptors, who come when its events are over."""
        self._close_all()

    def hold(self, change: int) -> None:
        """Count bytes that are held for a slow peer (negative: no longer held), and size the reads accordingly."""
        self.held_bytes += change
        held = self.held_bytes
        if held < PENDING_LIMIT_BYTES // 2:
            self.read_bytes = BUFFER_BYTES
        elif held < PENDING_LIMIT_BYTES // 8 * 7:
            self.read_bytes = 16384
        elif held < PENDING_LIMIT_BYTES:
            self.read_bytes = 1024
        else:
            self.read_bytes = 0
        if self.read_bytes and self.starved:
            self._ready.extend(self.starved)
            self.starved.clear()

    def on_readable(self, timeout_ms: int) -> int:
        """Wait at most so long for events, handle one batch of them, and return how many they were."""
        handlers = self._handlers
        # With their types, an event is taken apart and handed over in C, not through the interpreter's generic calls.
        batch: list[tuple[int, int]] = self._poll(timeout_ms / 1000, BATCH)
        self.now_ms = _monotonic_ns() // 1000000
        self.batches += 1
        waited = 0
        for descriptor, events in batch:
            handler = handlers[descriptor]
            if handler is not None:
                try:
                    handler.on_event(events)
                except Exception as error:  # noqa: BLE001  # with edge triggering the rest of the batch must not be lost
                    self._fault(handler, error)
                if self.deferred:
                    waited += 1
                    if waited == DEFERRED_EVENTS:
                        waited = 0
                        self._finish_deferred()
        self._end_batch()
        return len(batch)

    def tick(self, now_ms: int) -> None:
        """Fire the timers that are due; to be called every wheel.TICK_MS.

        Events come first: after a standstill of this process, bytes and answers that came in time wait behind timers
        that ran out meanwhile, and a connection would be taken for idle, or a member for silent, that is not.
        """
        for _ in range(self.sockets // BATCH + 1):
            if self.on_readable(0) < BATCH:
                break
        self.now_ms = now_ms
        self.wheel.advance(now_ms)
        if self.paused:
            self._resume()
        self._end_batch()

    def end_turn(self) -> None:
        """Close, accept and flush what a call from outside left to do."""
        self._end_batch()

    def pause_accepting(self) -> None:
        """Stop accepting everywhere: descriptors are used up. The kernel's queue holds; ends by itself."""
        if not self.paused:
            self.paused = True
            for acceptor in self.acceptors:
                acceptor.pause()

    def _resume(self) -> None:
        if self.sockets + 2 + self.socket_limit // 64 <= self.socket_limit:
            self.paused = False
            for acceptor in self.acceptors:
                acceptor.resume()

    def report(self, where: str, error: Exception) -> None:
        """Tell of an unexpected exception that its catcher goes on after."""
        self._on_fault(where, error)

    def _fault(self, handler: Handler, error: BaseException) -> None:
        self._on_fault("handler", error)
        try:
            handler.on_fault()
        except Exception as second:  # noqa: BLE001  # see on_readable
            self._on_fault("cleanup", second)

    def _run_turns(self) -> None:
        ready = self._ready
        self._ready = []
        for handler in ready:
            self.give_turn(handler)
        self._end_batch()

    def _check_acks(self, now_ms: int) -> int:
        waiting = self.acks
        self.acks = []
        for one in waiting:
            try:
                if not one.check():
                    self.acks.append(one)
            except Exception as error:  # noqa: BLE001  # see on_readable
                self._on_fault("acknowledgement", error)
        return now_ms + ACK_POLL_MS if self.acks else 0

    def _end_batch(self) -> None:
        if self.deferred:
            self._finish_deferred()
        self._close_all()
        if self._accepting:
            accepting = self._accepting
            self._accepting = []
            for acceptor in accepting:
                try:
                    acceptor.accept()
                except Exception as error:  # noqa: BLE001  # see on_readable
                    self._fault(acceptor, error)
            self._close_all()
        if self.dirty:
            for tally in self.dirty:
                tally.flush()
            self.dirty.clear()

    def _finish_deferred(self) -> None:
        deferred = self.deferred
        self.deferred = []
        for one in deferred:
            try:
                one.finish()
            except Exception as error:  # noqa: BLE001  # see on_readable
                self._on_fault("deferred", error)

    def _close_all(self) -> None:
        if self._closing:
            for sock in self._closing:
                _CLOSE(sock)
            self.sockets -= len(self._closing)
            self._closing.clear()
            if self.paused:
                self._resume()
