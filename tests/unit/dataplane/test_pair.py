"""Two sockets and what lies between them, on the loopback interface, batch by batch: what the lab can't time."""

from __future__ import annotations

import _socket
import os
import resource
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from lbd.balancing.round_robin import RoundRobin
from lbd.dataplane.hot.buffer import reader
from lbd.dataplane.hot.connection import Connection
from lbd.dataplane.hot.lane import Lane
from lbd.dataplane.hot.reactor import Reactor
from lbd.dataplane.hot.relay import Relay
from lbd.dataplane.hot.service import Member, Service, Settings
from lbd.dataplane.hot.tally import Tally

LIMIT_S = 5.0
WAKE_MS = 50
RESET = struct.pack("ii", 1, 0)


class Conversation:
    """A client, a member, and a relay between them that does nothing but in `turn`. The client says `first` at once."""

    def __init__(self, stack: ExitStack, first: bytes = b"") -> None:
        self._faults: list[BaseException] = []
        self.reactor = Reactor(lambda where, error: self._faults.append(error), 1000)
        stack.callback(self.reactor.poller.close)
        self.relay = Relay(self.reactor)
        view = memoryview(bytearray(8 * 1024)).cast("q")
        server, listening = (stack.enter_context(socket.create_server(("127.0.0.1", 0))) for _ in range(2))
        listening.setblocking(False)
        tally = Tally(view, 0, self.reactor.dirty)
        service = Service(0, "web", tally, view, lambda *failed: None, Settings(("127.0.0.1", 80)))
        self.relay.services[0] = service
        member = Member(0, socket.AF_INET, *server.getsockname(), Tally(view, 64, self.reactor.dirty))
        service.set_pool([member], RoundRobin([1], 0), [0], [0], [])
        address = listening.getsockname()
        self.relay.listen(1, 0, Lane(None, None), _socket.socket(fileno=listening.detach()), True)
        stack.callback(self.relay.abandon, 1)
        waking = self.reactor.chore(lambda now_ms: now_ms + WAKE_MS)  # a turn without an event ends then
        waking.due_ms = self.reactor.now_ms + WAKE_MS
        self.client = stack.enter_context(socket.create_connection(address, LIMIT_S))
        self.client.sendall(first)
        for _ in range(2):
            self.turn()
        server.setblocking(False)  # left to itself, the kernel would acknowledge 200 ms later
        self.member = stack.enter_context(server.accept()[0])
        self.member.settimeout(LIMIT_S)
        (self.connection,) = self.relay.connections(0)

    def turn(self) -> None:
        """Handle one batch of events and the turns behind it, and fail on a fault."""
        self.reactor.turn()
        assert not self._faults, self._faults

    def arrive(self, origin: socket.socket, target: socket.socket, data: bytes) -> None:
        """Have bytes pass."""
        origin.sendall(data)
        received = b""
        while len(received) < len(data):
            self.turn()
            received += target.recv(65536)
        assert received == data


@pytest.fixture
def talk() -> Iterator[Conversation]:
    with ExitStack() as stack:
        yield Conversation(stack)


def is_prompt(connection: Connection) -> bool:
    """Whether small segments toward the member leave at once."""
    return bool(connection.upstream.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY))


def test_sockets_are_set_up_for_more_when_the_client_says_a_second_thing(talk: Conversation) -> None:
    client = talk.connection.client
    talk.arrive(talk.client, talk.member, b"one")
    talk.arrive(talk.member, talk.client, b"answer")
    assert (is_prompt(talk.connection), os.get_blocking(client.descriptor)) == (False, True)
    talk.arrive(talk.client, talk.member, b"two")
    assert (is_prompt(talk.connection), os.get_blocking(client.descriptor)) == (True, False)
    talk.arrive(talk.member, talk.client, b"answer")


def segments_sent(sock: _socket.socket) -> int:
    """Return how many segments a socket has sent (tcpi_segs_out of linux/tcp.h)."""
    return int.from_bytes(sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 140)[136:], sys.byteorder)


def test_a_member_hears_at_once_of_a_client_that_waits_for_its_greeting(talk: Conversation) -> None:
    """Its accept() is the fixture's, which does not wait."""
    talk.arrive(talk.member, talk.client, b"greeting")
    assert segments_sent(talk.connection.upstream.sock) >= 2  # SYN and ACK


def test_the_first_bytes_of_a_client_that_speaks_first_end_the_members_handshake() -> None:
    with ExitStack() as stack:
        talk = Conversation(stack, b"question")
        assert talk.member.recv(100) == b"question"
        assert segments_sent(talk.connection.upstream.sock) == 2  # SYN, then the bytes


def test_messages_of_every_length_pass_as_they_are(talk: Conversation) -> None:
    for length in (1, 2, 2047, 2048, 2049, 1, 2048, 30000):
        data = os.urandom(length)
        talk.arrive(talk.client, talk.member, data)
        talk.arrive(talk.member, talk.client, data)


def test_sockets_with_numbers_too_high_for_a_kept_reader_are_read_too() -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with ExitStack() as stack:
        stack.callback(resource.setrlimit, resource.RLIMIT_NOFILE, (soft, hard))
        resource.setrlimit(resource.RLIMIT_NOFILE, (max(soft, min(hard, 4096)), hard))
        for _ in range(2100):
            stack.callback(os.close, os.dup(0))
        talk = Conversation(stack)
        assert reader(talk.connection.upstream.descriptor) is None
        for data in (b"one", b"two", b"three"):
            talk.arrive(talk.client, talk.member, data)
            talk.arrive(talk.member, talk.client, data)


def test_kept_reader_reads_what_is_open_under_its_number_now() -> None:
    buffer = bytearray(100)
    with ExitStack() as stack:
        ours, theirs = (stack.enter_context(one) for one in socket.socketpair())
        ours.setblocking(False)
        read = reader(ours.fileno())
        assert read(buffer) is None
        theirs.send(b"first")
        assert (read(buffer), buffer[:5]) == (5, b"first")
        others = [stack.enter_context(one) for one in socket.socketpair()]
        os.dup2(others[0].fileno(), ours.fileno())
        others[1].send(b"second")
        assert reader(ours.fileno()) is read
        assert (read(buffer), buffer[:6]) == (6, b"second")
        others[1].close()
        assert read(buffer) == 0


def test_bytes_that_were_held_leave_at_once(talk: Conversation) -> None:
    """What a member's kernel did not take goes in a second segment, which must not wait for the first one's ACK."""
    upstream = talk.connection.upstream
    upstream.hold(memoryview(b"held"))
    upstream.flush()
    assert is_prompt(talk.connection)
    assert talk.member.recv(100) == b"held"


def test_fin_that_came_with_the_last_bytes_is_passed_on_with_them(talk: Conversation) -> None:
    talk.member.sendall(b"answer")
    talk.member.shutdown(socket.SHUT_WR)
    talk.turn()
    assert talk.connection.upstream.read_eof
    assert talk.client.recv(100) == b"answer"
    assert talk.client.recv(100) == b""
    talk.arrive(talk.client, talk.member, b"the other direction is open still")


def test_reset_that_came_with_the_last_bytes_does_not_pass_for_a_fin(talk: Conversation) -> None:
    talk.arrive(talk.client, talk.member, b"question")
    talk.member.sendall(b"answer")
    talk.member.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    talk.member.close()
    for _ in range(3):
        talk.turn()
    assert talk.client.recv(100) == b"answer"
    for _ in range(3):
        talk.reactor.turn()
    with pytest.raises(ConnectionResetError):
        talk.client.recv(100)


@pytest.mark.parametrize("ends", [False, True], ids=["goes_on", "ends"])
def test_bytes_behind_urgent_ones_are_not_lost(talk: Conversation, ends: bool) -> None:
    """A read ends before them, however much more there is."""
    talk.client.sendall(b"before ")
    talk.client.send(b"!", socket.MSG_OOB)
    talk.client.sendall(b"behind")
    if ends:
        talk.client.shutdown(socket.SHUT_WR)
    talk.turn()
    assert talk.member.recv(100, socket.MSG_WAITALL if ends else 0) == b"before behind"
    if not ends:
        talk.arrive(talk.client, talk.member, b"later")


def test_closed_sides_have_no_descriptor(talk: Conversation) -> None:
    """It is soon another connection's, and a late write must not reach that."""
    client, upstream = talk.connection.client, talk.connection.upstream
    talk.connection.close(True)
    talk.reactor.end_turn()
    assert (client.descriptor, upstream.descriptor) == (-1, -1)
