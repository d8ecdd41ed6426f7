"""The worker program: `python -m lbd.dataplane.worker CHANNEL_FD USER`.

One process per CPU, with the relay's own event loop and nothing of asyncio. It holds no privilege, reads no
configuration and knows no Kubernetes: the supervisor sends it services, members, weights and listening sockets over the
channel. When the supervisor vanishes, it stops accepting at once, drains what it has, and exits.
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
from typing import Any

from lbd import form
from lbd.balancing.balancer import Balancer
from lbd.balancing.consistent_hash import ConsistentHash
from lbd.balancing.least_connections import LeastConnections
from lbd.balancing.round_robin import RoundRobin
from lbd.dataplane import counters, privileges
from lbd.dataplane.channel import PROTOCOL_VERSION, Channel, ChannelError, Message
from lbd.dataplane.hot.reactor import Reactor
from lbd.dataplane.hot.relay import Relay
from lbd.dataplane.hot.service import Member, Service
from lbd.dataplane.hot.tally import Tally
from lbd.dataplane.hot.wheel import TICK_MS

DESCRIPTOR_HEADROOM = 40
"""Descriptors kept free for everything that is not a client's or member's socket."""
_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}


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
        self._base_descriptors = len(os.listdir("/proc/self/fd")) - 1  # the listing itself holds one
        self._reactor = Reactor(self._report_fault, 0)
        self._relay = Relay(self._reactor)
        self._members: dict[int, Member] = {}
        self._algorithms: dict[int, str] = {}
        self._counters: counters.CounterMap | None = None
        self._row = 0
        self._index = 0
        self._drain_timeout_s = 60.0
        self._next_tick_s = 0.0
        self._was_paused = False
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
        self._index = message["index"]
        self._drain_timeout_s = message["drain_timeout_s"]
        self._base_descriptors += 3  # the relay's epoll, the map, and the copy that mmap keeps of it
        self._size_limit()
        self._next_tick_s = time.monotonic()
        self._ticking.due_ms = self._tick(0)
        self._channel.send({"type": "ready", "form": form.running(), "protocol": PROTOCOL_VERSION})

    def _on_service(self, message: Message, descriptors: list[int]) -> None:
        """Add a service, or change its pool and timeouts; connections stay as they are."""
        assert self._counters is not None
        slot = message["slot"]
        service = self._relay.services.get(slot)
        if service is None:
            tally = Tally(self._counters.view, counters.service_base(self._row, slot))
            service = Service(slot, message["name"], tally, self._counters.view, self._report_failure)
            self._relay.services[slot] = service
        service.connect_ms = message["connect_ms"]
        service.idle_ms = message["idle_ms"]
        members = [self._member(entry) for entry in message["members"]]
        weights: list[int] = message["weights"]
        if service.members == members and self._algorithms.get(slot) == message["algorithm"] != "consistent_hash":
            service.set_weights(weights)  # the balancer stays, and with it whose turn it is
            return
        self._algorithms[slot] = message["algorithm"]
        own_active = [member.active for member in members]
        other_active = [0] * len(members)
        balancer = self._balancer(message["algorithm"], weights, own_active, other_active, descriptors)
        load_bases: list[list[int]] = []
        if isinstance(balancer, LeastConnections):
            others = [row for row in range(1, self._counters.rows) if row != self._row]
            load_bases = [[counters.member_base(row, member.slot) for row in others] for member in members]
        service.set_pool(members, balancer, own_active, other_active, load_bases)

    def _member(self, entry: dict[str, Any]) -> Member:
        """Return the member of a slot: the same one as before, as long as the slot means the same endpoint."""
        assert self._counters is not None
        slot, family = entry["slot"], _FAMILIES[entry["family"]]
        member = self._members.get(slot)
        if member is None or member.address != (entry["address"], entry["port"]):
            tally = Tally(self._counters.view, counters.member_base(self._row, slot))
            member = self._members[slot] = Member(slot, family, entry["address"], entry["port"], tally)
        return member

    def _balancer(
        self, algorithm: str, weights: list[int], own: list[int], others: list[int], descriptors: list[int]
    ) -> Balancer:
        if algorithm == "consistent_hash" and descriptors:  # a pool without members has no table
            # A copy, not a mapping: mmap would hold a descriptor for each service.
            table = os.pread(descriptors[0], os.fstat(descriptors[0]).st_size, 0)
            os.close(descriptors[0])
            return ConsistentHash(weights, memoryview(table).cast("H"))
        if algorithm == "least_connections":
            return LeastConnections(weights, own, others, (self._index + 1) * 0x9E3779B9)
        return RoundRobin(weights, self._index)

    def _on_weights(self, message: Message, descriptors: list[int]) -> None:
        service = self._relay.services.get(message["slot"])
        if service is not None and [member.slot for member in service.members] == message["members"]:
            service.set_weights(message["weights"])

    def _on_listen(self, message: Message, descriptors: list[int]) -> None:
        sock = _socket.socket(fileno=descriptors[0])
        self._relay.listen(message["listener"], message["slot"], sock, message["accepting"])
        self._size_limit()

    def _on_accepting(self, message: Message, descriptors: list[int]) -> None:
        self._relay.set_accepting(message["slot"], message["accepting"])

    def _on_unlisten(self, message: Message, descriptors: list[int]) -> None:
        if message["take_queue"]:
            self._relay.unlisten(message["listener"])
        else:
            self._relay.abandon(message["listener"])
        self._size_limit()
        self._channel.send({"type": "unlistened", "listener": message["listener"]})

    def _on_remove(self, message: Message, descriptors: list[int]) -> None:
        """Forget a service; its connections go on until they end or are reset."""
        self._relay.services.pop(message["slot"], None)
        self._algorithms.pop(message["slot"], None)

    def _on_reset(self, message: Message, descriptors: list[int]) -> None:
        reset = self._relay.reset_connections(message["slot"])
        self._channel.send({**message, "type": "reset_done", "connections": reset})

    def _on_generation(self, message: Message, descriptors: list[int]) -> None:
        """Everything up to this generation has been carried out: say so, and forget the members that nobody uses."""
        in_pools = {member.slot for service in self._relay.services.values() for member in service.members}
        unused = [slot for slot, member in self._members.items() if slot not in in_pools and not member.active]
        for slot in unused:
            del self._members[slot]
        self._channel.send({"type": "ack", "generation": message["generation"]})

    def _on_exit(self, message: Message, descriptors: list[int]) -> None:
        self._reactor.stop()

    # What the worker says by itself.

    def _report_failure(self, member_slot: int, error: int) -> None:
        self._channel.send({"type": "failure", "member": member_slot, "error": counters.ERROR_ORDER[error]})

    def _report_fault(self, where: str, error: BaseException) -> None:
        trace = "".join(traceback.format_exception(error))
        self._channel.send({"type": "fault", "where": where, "error": repr(error), "trace": trace[-4000:]})

    def _size_limit(self) -> None:
        # Twice the listeners: those of a worker that dies come here, and must find their descriptors free.
        spare = self._base_descriptors + DESCRIPTOR_HEADROOM + 2 * len(self._relay.listeners)
        self._reactor.socket_limit = max(2, self._descriptor_limit - spare)

    def _tick(self, _now_ms: int) -> int:
        now_s = time.monotonic()
        lag_s = max(0.0, now_s - self._next_tick_s)
        self._next_tick_s += TICK_MS / 1000
        if self._next_tick_s <= now_s:  # missed ticks are not made up for: one at once would report no lag at all
            self._next_tick_s = now_s + TICK_MS / 1000
        self._reactor.tick(int(now_s * 1000))
        if self._counters is not None:
            self._write_row(now_s, lag_s)
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
        view[base + counters.DESCRIPTORS_USED] = self._descriptors_used()
        view[base + counters.DESCRIPTORS_LIMIT] = self._descriptor_limit
        view[base + counters.ACCEPTING] = int(not self._reactor.paused)
        view[base + counters.CONNECTIONS] = sum(service.active for service in self._relay.services.values())
        view[base + counters.PENDING_BYTES] = self._reactor.held_bytes
        view[base + counters.HEARTBEAT_NS] = int(now_s * 1e9)

    def _descriptors_used(self) -> int:
        return self._base_descriptors + len(self._relay.listeners) + self._reactor.sockets

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
        if not self._reactor.sockets or now_s >= deadline_s:
            self._relay.reset_connections(-1)
            self._reactor.stop()


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
    privileges.drop_all(arguments[2])
    serve(int(arguments[1]))


if __name__ == "__main__":
    main(sys.argv)
