"""The worker program: `python -m lbd.dataplane.worker CHANNEL_FD USER [net_raw]`.

One process per CPU, with the relay's own event loop and nothing of asyncio. It holds no privilege, but for CAP_NET_RAW
where it is told to keep that for transparent services. It reads no configuration and knows no Kubernetes: the
supervisor sends it services, members, weights and listening sockets over the channel. When the supervisor vanishes, it
stops accepting at once, drains what it has, and exits.
"""

from __future__ import annotations

import _socket
import gc
import os
import resource
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable

from lbd import form
from lbd.dataplane import counters, privileges
from lbd.dataplane.channel import PROTOCOL_VERSION, Channel, ChannelError, Message
from lbd.dataplane.client_logs import ClientLogs
from lbd.dataplane.hot.quota import Desk
from lbd.dataplane.hot.reactor import Reactor
from lbd.dataplane.hot.relay import Relay
from lbd.dataplane.hot.splicing import PIPE
from lbd.dataplane.hot.wheel import TICK_MS
from lbd.dataplane.lanes import Lanes
from lbd.dataplane.limits_builder import LimitsBuilder
from lbd.dataplane.services import ServiceBuilder

LAG_WINDOW_S = 30.0
"""A scrape each 15 s sees every stall."""
DESCRIPTOR_HEADROOM = 40
"""Descriptors kept free for everything that is not a client's or member's socket."""


class WorstOf:
    """The greatest of the values noted in the last `window_s`, give or take half of it."""

    def __init__(self, window_s: float) -> None:
        self._half_s = window_s / 2
        self._halves = [0.0, 0.0]
        self._ends_s = 0.0

    def note(self, value: float, now_s: float) -> float:
        """Add a value, and return the greatest."""
        if now_s >= self._ends_s:
            self._halves = [0.0, self._halves[0]]
            self._ends_s = now_s + self._half_s
        self._halves[0] = max(self._halves[0], value)
        return max(self._halves)


class _Watcher:
    """The reactor as what the channel needs of an event loop."""

    def __init__(self, reactor: Reactor) -> None:
        self._reactor = reactor
        self._callbacks: dict[int, tuple[Callable[[], object] | None, Callable[[], object] | None]] = {}

    def add_reader(self, fd: int, callback: Callable[[], object], /) -> None:
        self._watch(fd, callback, self._callbacks.get(fd, (None, None))[1])

    def remove_reader(self, fd: int, /) -> None:
        self._watch(fd, None, self._callbacks.get(fd, (None, None))[1])

    def add_writer(self, fd: int, callback: Callable[[], object], /) -> None:
        self._watch(fd, self._callbacks.get(fd, (None, None))[0], callback)

    def remove_writer(self, fd: int, /) -> None:
        self._watch(fd, self._callbacks.get(fd, (None, None))[0], None)

    def _watch(self, fd: int, readable: Callable[[], object] | None, writable: Callable[[], object] | None) -> None:
        self._callbacks[fd] = (readable, writable)
        self._reactor.watch(fd, readable, writable)


class Worker:
    """Carries out what the supervisor's messages say."""

    def __init__(self, channel_socket: socket.socket) -> None:
        self._channel = Channel(channel_socket, self._on_message, self._on_end)
        self._descriptor_limit = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
        PIPE.open()
        self._base_descriptors = len(os.listdir("/proc/self/fd")) - 1  # the listing itself holds one
        self._reactor = Reactor(self._report_fault, 0)
        self._relay = Relay(self._reactor, self._report_vacancy)
        self._lanes = Lanes(self._relay, 0)
        self._client_logs = ClientLogs(self._channel)
        self._turns: dict[int, int] = {}
        """By service slot: the supervisor's number of the last `refuse`, which answers repeat."""
        self._counters: counters.CounterMap | None = None
        self._row = 0
        self._drain_timeout_s = 60.0
        self._next_tick_s = 0.0
        self._was_paused = False
        self._worst_lag = WorstOf(LAG_WINDOW_S)
        self._ticking = self._reactor.chore(self._tick)
        self._exit_at_s: float | None = None
        """Once the supervisor has gone: when the drain ends at the latest."""

    def run(self) -> None:
        """Work until the supervisor says `exit`, or has gone and the last connection has ended."""
        self._channel.start(_Watcher(self._reactor))
        self._reactor.run()

    # What the supervisor says.

    def _on_message(self, message: Message, descriptors: list[int]) -> None:
        handler = getattr(self, f"_on_{message.get('type')}", None)
        if handler is None:
            for descriptor in descriptors:
                os.close(descriptor)
            raise ChannelError(f"unknown message {message.get('type')!r}")
        try:
            handler(message, descriptors)
        except Exception as error:
            # What was asked for is not what runs now, and nobody knows what runs: a fresh worker is better.
            self._report_fault(f"message {message['type']}", error)
            raise ChannelError(f"message {message['type']}: {error!r}") from error

    def _on_hello(self, message: Message, descriptors: list[int]) -> None:
        if message["protocol"] != PROTOCOL_VERSION:
            raise ChannelError(f"the supervisor speaks protocol {message['protocol']}, this worker {PROTOCOL_VERSION}")
        self._counters = counters.CounterMap.open(descriptors[0])
        self._row = message["row"]
        index = message["index"]
        limits = LimitsBuilder(self._relay, Desk(self._reactor, self._channel.send), index)
        self._builder = ServiceBuilder(self._relay, self._counters, self._row, index, self._report_failure, limits)
        self._lanes = Lanes(self._relay, message["index"])
        self._drain_timeout_s = message["drain_timeout_s"]
        self._base_descriptors += 3  # the relay's epoll, the map, and the copy that mmap keeps of it
        self._size_limit()
        self._next_tick_s = time.monotonic()
        self._ticking.due_ms = self._tick(0)
        self._channel.send({"type": "ready", "form": form.running(), "protocol": PROTOCOL_VERSION})

    def _on_service(self, message: Message, descriptors: list[int]) -> None:
        self._builder.set(message, descriptors)
        self._lanes.follow(message)

    def _on_weights(self, message: Message, descriptors: list[int]) -> None:
        self._builder.set_weights(message)

    def _on_listen(self, message: Message, descriptors: list[int]) -> None:
        sock = _socket.socket(fileno=descriptors[0])
        lane = self._lanes.make(message, descriptors[1:], self._reactor.now_ms)
        lane.clients = self._builder.limits.clients(message["slot"])
        self._relay.listen(message["listener"], message["slot"], lane, sock, message["accepting"])
        self._size_limit()

    def _on_entries(self, message: Message, descriptors: list[int]) -> None:
        self._lanes.replace_entries(message, descriptors, self._reactor.now_ms)
        self._size_limit()

    def _on_lease(self, message: Message, descriptors: list[int]) -> None:
        self._builder.limits.take(message)

    def _on_client_logs(self, message: Message, descriptors: list[int]) -> None:
        service = self._relay.services.get(message["slot"])
        if service is not None:
            self._client_logs.set(service, message["protocol"], message["settings"])

    def _on_accepting(self, message: Message, descriptors: list[int]) -> None:
        self._relay.set_accepting(message["slot"], message["accepting"])

    def _on_refuse(self, message: Message, descriptors: list[int]) -> None:
        """Serve only the flows that a UDP service has, and say how many they are; again when the last one has ended."""
        slot = message["slot"]
        self._turns[slot] = message["turn"]
        self._report_flows(slot, self._relay.refuse(slot))

    def _on_unlisten(self, message: Message, descriptors: list[int]) -> None:
        if message["take_queue"]:
            self._relay.unlisten(message["listener"])
        else:
            self._relay.abandon(message["listener"])
        self._size_limit()
        self._channel.send({"type": "unlistened", "listener": message["listener"]})

    def _on_remove(self, message: Message, descriptors: list[int]) -> None:
        self._builder.remove(message["slot"])
        self._lanes.forget(message["slot"])

    def _on_reset(self, message: Message, descriptors: list[int]) -> None:
        def done(connections: int) -> None:
            self._channel.send({**message, "type": "reset_done", "connections": connections})

        member_slot = -1 if message["member"] is None else message["member"]
        self._relay.reset_connections(message["slot"], member_slot, done)

    def _on_generation(self, message: Message, descriptors: list[int]) -> None:
        """Everything up to this generation has been carried out: say so, and forget the members that nobody uses."""
        self._builder.forget_unused_members()
        self._channel.send({"type": "ack", "generation": message["generation"]})

    def _on_exit(self, message: Message, descriptors: list[int]) -> None:
        self._client_logs.flush()
        self._reactor.stop()

    # What the worker says by itself.

    def _report_failure(self, member_slot: int, error: int, in_a_row: int) -> None:
        kind = counters.ERROR_ORDER[error]
        self._channel.send({"type": "failure", "member": member_slot, "error": kind, "in_a_row": in_a_row})

    def _report_vacancy(self, slot: int) -> None:
        self._report_flows(slot, 0)

    def _report_flows(self, slot: int, left: int) -> None:
        self._channel.send({"type": "flows", "slot": slot, "turn": self._turns[slot], "left": left})

    def _report_fault(self, where: str, error: BaseException) -> None:
        trace = "".join(traceback.format_exception(error))
        self._channel.send({"type": "fault", "where": where, "error": repr(error), "trace": trace[-4000:]})

    def _size_limit(self) -> None:
        # Twice the listeners: those of a worker that dies come here, and must find their descriptors free.
        spare = (
            self._base_descriptors + DESCRIPTOR_HEADROOM + 2 * (len(self._relay.listeners) + self._lanes.descriptors)
        )
        self._reactor.socket_limit = max(2, self._descriptor_limit - spare)

    def _tick(self, _now_ms: int) -> int:
        now_s = time.monotonic()
        lag_s = max(0.0, now_s - self._next_tick_s)
        self._next_tick_s += TICK_MS / 1000
        if self._next_tick_s <= now_s:  # missed ticks are not made up for: one at once would report no lag at all
            self._next_tick_s = now_s + TICK_MS / 1000
        self._reactor.tick(int(now_s * 1000))
        self._lanes.expire(self._reactor.now_ms)
        if self._counters is not None:
            self._write_row(now_s, lag_s)
            self._builder.limits.sample(self._reactor.now_ms)
            self._client_logs.flush()
        if self._reactor.paused != self._was_paused:
            self._was_paused = self._reactor.paused
            used = self._descriptors_used()
            self._channel.send(
                {"type": "accepting", "accepting": not self._was_paused, "used": used, "limit": self._descriptor_limit}
            )
        if self._exit_at_s is not None:
            self._drain(now_s, self._exit_at_s)
        return int(self._next_tick_s * 1000)

    def _write_row(self, now_s: float, lag_s: float) -> None:
        assert self._counters is not None
        view, base = self._counters.view, counters.row_base(self._row)
        view[base + counters.PID] = os.getpid()
        view[base + counters.LOOP_LAG_US] = int(lag_s * 1e6)
        view[base + counters.WORST_LAG_US] = int(self._worst_lag.note(lag_s, now_s) * 1e6)
        view[base + counters.DESCRIPTORS_USED] = self._descriptors_used()
        view[base + counters.DESCRIPTORS_LIMIT] = self._descriptor_limit
        view[base + counters.ACCEPTING] = int(not self._reactor.paused)
        view[base + counters.CONNECTIONS] = sum(service.active for service in self._relay.services.values())
        view[base + counters.PENDING_BYTES] = self._reactor.held_bytes
        view[base + counters.HEARTBEAT_NS] = int(now_s * 1e9)

    def _descriptors_used(self) -> int:
        listeners = len(self._relay.listeners)
        return self._base_descriptors + listeners + self._lanes.descriptors + self._reactor.sockets

    # The end.

    def _on_end(self, error: BaseException | None) -> None:
        """The supervisor has gone: accept nothing more, drain, exit."""
        if error is not None:
            print(f"lbd worker {os.getpid()}: {error!r}; draining", file=sys.stderr, flush=True)
        for identity in list(self._relay.listeners):
            self._relay.abandon(identity)
        self._exit_at_s = time.monotonic() + self._drain_timeout_s
        if not self._ticking.due_ms:  # it was never even greeted
            self._reactor.stop()

    def _drain(self, now_s: float, deadline_s: float) -> None:
        if not self._reactor.sockets:
            self._reactor.stop()
        elif now_s >= deadline_s:
            self._relay.reset_connections(-1, -1, lambda _connections: self._reactor.stop())


def serve(channel_descriptor: int) -> None:
    """Run a worker on the channel behind an inherited descriptor."""
    worker = Worker(socket.socket(fileno=channel_descriptor))
    # A closed connection leaves no reference cycle, so the cyclic collector would only cost pauses.
    gc.collect()
    gc.freeze()
    gc.disable()
    worker.run()


def main(arguments: list[str]) -> None:
    """The program."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C in a terminal is the supervisor's business
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    privileges.drop_all(arguments[2], keep_net_raw="net_raw" in arguments[3:])
    serve(int(arguments[1]))


if __name__ == "__main__":
    main(sys.argv)
