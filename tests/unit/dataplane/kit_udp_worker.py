"""A worker with UDP services on the loopback interface, and what their clients and members do."""

from __future__ import annotations

import _socket
import socket
import struct
from collections.abc import Callable
from contextlib import ExitStack

from lbd.balancing.round_robin import RoundRobin
from lbd.dataplane import counters
from lbd.dataplane.hot.lane import Lane
from lbd.dataplane.hot.reactor import Reactor
from lbd.dataplane.hot.relay import Relay
from lbd.dataplane.hot.service import Member, Service, Settings
from lbd.dataplane.hot.tally import Tally

MEMBER_BASE = 64
SOL_UDP, UDP_SEGMENT, UDP_GRO = 17, 103, 104
SEGMENT = 1200
LOOPBACK = {socket.AF_INET: "127.0.0.1", socket.AF_INET6: "::1"}


class Worker:
    """A relay with one UDP service of some members; `beside` another one, one more service of that one's relay."""

    def __init__(
        self,
        stack: ExitStack,
        members: int = 2,
        socket_limit: int = 1000,
        *,
        family: socket.AddressFamily = socket.AF_INET,
        beside: Worker | None = None,
    ) -> None:
        self.faults: list[BaseException] = [] if beside is None else beside.faults
        self.failures: list[tuple[int, int]] = []
        self.on_failure: Callable[[], object] = lambda: None
        self.vacant: list[int] = [] if beside is None else beside.vacant
        self._stack = stack
        self._family = family
        if beside is None:
            self.reactor = Reactor(lambda where, error: self.faults.append(error), socket_limit)
            stack.callback(self.reactor.poller.close)
            self.relay = Relay(self.reactor, self.vacant.append)
        else:
            self.reactor, self.relay = beside.reactor, beside.relay
        slot = len(self.relay.services)
        self._view = memoryview(bytearray(8 * 1024)).cast("q")
        self.servers = [self._bound() for _ in range(members)]
        self.settings = Settings((LOOPBACK[family], 53))
        self.service = Service(
            slot,
            "dns",
            self._tally(0),
            self._view,
            self._note_failure,
            self.settings,
        )
        self.relay.services[slot] = self.service
        self.members = [
            Member(number, family, *server.getsockname()[:2], self._tally(MEMBER_BASE * (number + 1)))
            for number, server in enumerate(self.servers)
        ]
        self.service.set_pool(self.members, RoundRobin([1] * members, 0), [0] * members, [0] * members, [])
        listening = self._bound()
        self.address = listening.getsockname()
        identity = slot + 1
        self.relay.listen(identity, slot, Lane(None, None), _socket.socket(fileno=listening.detach()), True)
        stack.callback(self.relay.abandon, identity)

    def _note_failure(self, *failed: int) -> None:
        self.failures.append((failed[0], failed[1]))
        self.on_failure()

    def _tally(self, base: int) -> Tally:
        return Tally(self._view, base, self.reactor.dirty)

    def _bound(self) -> socket.socket:
        sock = self._stack.enter_context(socket.socket(self._family, socket.SOCK_DGRAM))
        sock.bind((LOOPBACK[self._family], 0))
        sock.setblocking(False)
        return sock

    def client(self) -> socket.socket:
        """Return a client's socket."""
        sock = self._bound()
        sock.connect(self.address)
        return sock

    def clients_who_asked(self, count: int) -> list[socket.socket]:
        """Return the sockets of so many new clients, each of whose first datagram, `?`, is with a member."""
        clients = [self.client() for _ in range(count)]
        for client in clients:
            client.send(b"?")
        self.turn()
        return clients

    def turn(self) -> None:
        """Handle everything that is there now, and fail on a fault."""
        while self.reactor.on_readable(0):
            pass
        assert not self.faults, self.faults

    def count(self, field: int) -> int:
        """Return one of the service's counts."""
        return self._view[field]

    def sent(self) -> tuple[int, int]:
        """Return how many datagrams and bytes the service has sent to its clients."""
        return self.count(counters.SENT_DATAGRAMS), self.count(counters.SENT_BYTES)


def received(sock: socket.socket) -> list[bytes]:
    """Return every datagram that waits."""
    found = []
    try:
        while True:
            found.append(sock.recv(65536))
    except BlockingIOError:
        return found


def send_burst(client: socket.socket, datagrams: int) -> None:
    """Send some datagrams of SEGMENT bytes with one call."""
    segment = struct.pack("=H", SEGMENT)
    client.sendmsg([bytes(SEGMENT * datagrams)], [(SOL_UDP, UDP_SEGMENT, segment)])
