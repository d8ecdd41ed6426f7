"""What connections that were put behind the others find when their turn comes, with two members to choose from."""

from __future__ import annotations

import _socket
import contextlib
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from lbd.balancing.round_robin import RoundRobin
from lbd.dataplane.counters import SENT_BYTES
from lbd.dataplane.hot.connection import Connection
from lbd.dataplane.hot.lane import Lane
from lbd.dataplane.hot.meter import Meter
from lbd.dataplane.hot.pair import CONNECTING, RELAYING, TURN_BYTES
from lbd.dataplane.hot.reactor import BUFFER_BYTES, PENDING_LIMIT_BYTES, Reactor
from lbd.dataplane.hot.relay import Relay
from lbd.dataplane.hot.service import Member, Service, Settings
from lbd.dataplane.hot.tally import Tally

LIMIT_S = 5.0
NOW_S = 0.1
"""Half of the time after which the kernel acknowledges by itself."""
LINGER_NOT = struct.pack("ii", 1, 0)


class Choice:
    """A client and a relay to two members that nobody has answered for yet."""

    def __init__(self, stack: ExitStack) -> None:
        self.faults: list[tuple[str, BaseException]] = []
        self.reactor = Reactor(lambda where, error: self.faults.append((where, error)), 1000)
        stack.callback(self.reactor.poller.close)
        self.relay = Relay(self.reactor)
        self.counters = view = memoryview(bytearray(8 * 1024)).cast("q")
        self.servers = [stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2)]
        service = Service(
            0, "web", Tally(view, 0, self.reactor.dirty), view, lambda *failed: None, Settings(("127.0.0.1", 80))
        )
        self.relay.services[0] = service
        members = [
            Member(number, socket.AF_INET, *server.getsockname(), Tally(view, 64 * (number + 1), self.reactor.dirty))
            for number, server in enumerate(self.servers)
        ]
        service.set_pool(members, RoundRobin([1, 1], 0), [0, 0], [0, 0], [])
        listening = socket.create_server(("127.0.0.1", 0))
        listening.setblocking(False)
        address = listening.getsockname()
        self.relay.listen(1, 0, Lane(None, None), _socket.socket(fileno=listening.detach()), True)
        stack.callback(self.relay.abandon, 1)
        self.client = stack.enter_context(socket.create_connection(address, LIMIT_S))
        self._stack = stack

    def batch(self) -> None:
        """Handle one batch of events, and no turn."""
        assert self.reactor.on_readable(int(LIMIT_S * 1000))

    def batches_until(self, state: int) -> None:
        """Handle batches, and no turn, until the connection is in a state."""
        until_s = time.monotonic() + LIMIT_S
        while self.connection.state != state:
            assert time.monotonic() < until_s
            self.batch()

    def turns(self) -> None:
        """Handle the turns, and what has come meanwhile."""
        self.reactor.turn()

    @property
    def connection(self) -> Connection:
        """The one that there is."""
        (connection,) = self.relay.connections(0)
        return connection

    def sent_by_members(self) -> int:
        """Return how many bytes members have sent to the client."""
        return sum(self.counters[64 * number + SENT_BYTES] for number in (1, 2))

    def server(self) -> socket.socket:
        """Return the listening socket of the member that the connection goes to."""
        peer = self.connection.upstream.sock.getpeername()
        return next(server for server in self.servers if server.getsockname() == peer)

    def accept(self) -> socket.socket:
        """Accept as that member."""
        return self._stack.enter_context(self.server().accept()[0])


@pytest.fixture
def choice() -> Iterator[Choice]:
    with ExitStack() as stack:
        yield Choice(stack)


def test_a_turn_of_an_upstream_that_has_left_does_nothing_to_its_successor(choice: Choice) -> None:
    """It was accepted, waits for its turn, is reset, and the client's first bytes fail: all before the turn."""
    choice.batch()
    choice.batch()
    first = choice.connection.upstream
    assert first.has_turn
    first.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)  # as the kernel does after 200 ms
    member = choice.accept()
    member.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NOT)
    member.close()
    choice.client.sendall(b"x")
    choice.batches_until(CONNECTING)
    choice.batches_until(RELAYING)
    assert choice.connection.upstream is not first
    choice.turns()
    assert choice.faults == []
    assert choice.connection.state == RELAYING
    assert choice.accept().recv(10) == b"x"


@pytest.mark.parametrize("why", ["throughput", "memory"])
def test_the_handshake_ends_at_once_though_the_clients_bytes_may_not_move_yet(choice: Choice, why: str) -> None:
    choice.client.sendall(b"said in advance")
    choice.batch()
    connection = choice.connection
    server = choice.server()
    server.setblocking(False)
    if why == "memory":
        choice.reactor.hold(PENDING_LIMIT_BYTES)
    else:
        connection.meter = Meter(choice.reactor, 0)
        connection.meter.rate.set_share(1, 1, choice.reactor.now_ms)
        connection.meter.rate.spend(1_000_000)
    connection.client.on_event(1)  # its bytes were there before the member's answer, as over a network
    begun_s = time.monotonic()
    while True:
        choice.reactor.turn()
        try:
            server.accept()[0].close()
            break
        except BlockingIOError:
            assert time.monotonic() - begun_s < LIMIT_S
    assert time.monotonic() - begun_s < NOW_S
    if why == "memory":
        choice.reactor.hold(-PENDING_LIMIT_BYTES)


def test_a_member_that_speaks_first_to_a_silent_client_does_not_wait(choice: Choice) -> None:
    choice.batch()
    server = choice.server()
    server.settimeout(NOW_S)
    choice.batch()
    choice.turns()
    with server.accept()[0] as member:
        member.sendall(b"220 ready")
        choice.batch()
        assert choice.client.recv(100) == b"220 ready"


def test_a_side_moves_a_turn_in_a_round_however_many_events_and_turns_it_has(choice: Choice) -> None:
    choice.batch()
    choice.batch()
    choice.turns()
    member = choice.accept()
    member.setblocking(False)
    choice.client.setblocking(False)
    moved = []
    for _ in range(100):
        with contextlib.suppress(BlockingIOError):
            while True:
                member.send(bytes(1 << 20))
        is_queued = choice.connection.upstream.has_turn
        before = choice.sent_by_members()
        choice.reactor.turn()
        if is_queued:
            moved.append(choice.sent_by_members() - before)
        with contextlib.suppress(BlockingIOError):
            while choice.client.recv(1 << 20):
                pass
    assert max(moved) > TURN_BYTES // 2, "there was enough to move"
    assert max(moved) < TURN_BYTES + BUFFER_BYTES
