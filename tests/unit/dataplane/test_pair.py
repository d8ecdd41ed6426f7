"""Two sockets and what lies between them, on the loopback interface, batch by batch: what the lab can't time."""

from __future__ import annotations

import _socket
import contextlib
import fcntl
import os
import resource
import socket
import struct
import sys
import termios
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from lbd.balancing.round_robin import RoundRobin
from lbd.dataplane.hot.buffer import reader
from lbd.dataplane.hot.connection import Connection
from lbd.dataplane.hot.lane import Lane
from lbd.dataplane.hot.meter import Meter
from lbd.dataplane.hot.pair import RESET_DEADLINE_MS
from lbd.dataplane.hot.reactor import BUFFER_BYTES, PENDING_LIMIT_BYTES, Reactor
from lbd.dataplane.hot.relay import Relay
from lbd.dataplane.hot.service import Member, Service, Settings
from lbd.dataplane.hot.splicing import PIPE
from lbd.dataplane.hot.tally import RECEIVED_BYTES, SENT_BYTES, Tally

LIMIT_S = 5.0
WAKE_MS = 50
RESET = struct.pack("ii", 1, 0)


class Conversation:
    """A client, a member, and a relay between them that does nothing but in `turn`. The client says `first` at once."""

    def __init__(self, stack: ExitStack, first: bytes = b"") -> None:
        self._faults: list[BaseException] = []
        self.reactor = Reactor(lambda where, error: self._faults.append(error), 1000)
        stack.callback(self.reactor.poller.close)
        self.reactor.chore(lambda now_ms: now_ms + 5).due_ms = 1  # no turn waits longer
        self.relay = Relay(self.reactor)
        self.counters = view = memoryview(bytearray(8 * 1024)).cast("q")
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

    def flow(self, origin: socket.socket, target: socket.socket, data: bytes) -> None:
        """Have bytes pass, as many at once as the kernels take."""
        self._move({origin: data}, {target: len(data)}, BUFFER_BYTES)
        assert self._arrived[target] == data

    def receive(self, length: int) -> bytes:
        """Return what comes to the client, which does not block, until so much has come."""
        received = b""
        while len(received) < length:
            self.reactor.turn()
            with contextlib.suppress(BlockingIOError):
                received += self.client.recv(BUFFER_BYTES)
        return received

    def end(self, says: bytes = b"") -> type[Exception] | None:
        """Return the error that ends the client's connection, while it says something; None for a FIN."""
        while True:
            try:
                if not (self.client.send(says) if says else self.client.recv(1)):
                    return None
            except BlockingIOError:
                self.reactor.turn()
            except OSError as error:
                return type(error)

    def exchange(self, up: bytes, down: bytes) -> None:
        """Have bytes pass in both directions to ends that read little at a time."""
        self._move({self.client: up, self.member: down}, {self.client: len(down), self.member: len(up)}, 50_000)
        assert self._arrived == {self.client: down, self.member: up}

    def _move(self, to_send: dict[socket.socket, bytes], to_come: dict[socket.socket, int], chunk: int) -> None:
        self.client.setblocking(False)
        self.member.setblocking(False)
        left = {sock: memoryview(data) for sock, data in to_send.items()}
        self._arrived = {sock: bytearray() for sock in to_come}
        while any(len(self._arrived[sock]) < length for sock, length in to_come.items()):
            for sock in left:
                with contextlib.suppress(BlockingIOError):
                    left[sock] = left[sock][sock.send(left[sock]) :]
            self.reactor.turn()
            assert not self._faults, self._faults
            for sock in to_come:
                with contextlib.suppress(BlockingIOError):
                    self._arrived[sock] += sock.recv(chunk)
        self.client.settimeout(LIMIT_S)
        self.member.settimeout(LIMIT_S)


def unsent(sock: socket.socket) -> bytes:
    """Return what SIOCOUTQ says, or nothing once the peer's kernel has everything."""
    return fcntl.ioctl(sock, termios.TIOCOUTQ, b"\0\0\0\0").strip(b"\0")


@pytest.fixture
def talk() -> Iterator[Conversation]:
    with ExitStack() as stack:
        yield Conversation(stack)


@pytest.fixture
def pipe(talk: Conversation) -> Iterator[None]:
    """Bulk is spliced."""
    talk.connection.splices = True
    PIPE.open()
    yield
    PIPE.close()


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


def test_a_side_is_spliced_while_much_comes_from_it(talk: Conversation, pipe: None) -> None:
    client, upstream = talk.connection.client, talk.connection.upstream
    talk.arrive(talk.client, talk.member, b"give me much")
    assert not upstream.is_bulk
    for _ in range(3):
        talk.flow(talk.member, talk.client, os.urandom(2_000_000))
        assert upstream.is_bulk
    assert (is_prompt(talk.connection), os.get_blocking(client.descriptor)) == (True, False)
    talk.arrive(talk.member, talk.client, b"little")
    assert (upstream.is_bulk, client.is_bulk) == (False, False)
    talk.arrive(talk.client, talk.member, b"thank you")
    talk.flow(talk.client, talk.member, os.urandom(2_000_000))
    assert client.is_bulk


@pytest.mark.parametrize("spliced", [True, False], ids=["spliced", "copied"])
def test_bulk_passes_in_both_directions_at_once_also_to_slow_readers(talk: Conversation, spliced: bool) -> None:
    if spliced:
        talk.connection.splices = True
    PIPE.open()
    up, down = os.urandom(6_000_000), os.urandom(6_000_000)
    try:
        talk.exchange(up, down)
    finally:
        PIPE.close()
    assert talk.connection.client.is_bulk is spliced
    assert talk.reactor.held_bytes == 0
    assert (talk.counters[RECEIVED_BYTES], talk.counters[SENT_BYTES]) == (len(up), len(down))


@pytest.mark.parametrize("ends", [False, True], ids=["goes_on", "ends"])
def test_bulk_around_urgent_data_is_not_lost(talk: Conversation, pipe: None, ends: bool) -> None:
    bulk = os.urandom(60_000)
    talk.flow(talk.client, talk.member, os.urandom(1_000_000))
    assert talk.connection.client.is_bulk
    talk.client.sendall(bulk)
    talk.client.send(b"!", socket.MSG_OOB)
    talk.client.sendall(b"behind")
    if ends:
        talk.client.shutdown(socket.SHUT_WR)
    received = b""
    while len(received) < len(bulk) + 6:
        talk.reactor.turn()
        received += talk.member.recv(BUFFER_BYTES)
    assert received == bulk + b"behind"
    if not ends:
        talk.flow(talk.client, talk.member, bulk)


def test_spliced_bytes_are_counted_and_come_out_of_the_throughput(talk: Conversation, pipe: None) -> None:
    share, data = 40_000_000, os.urandom(8_000_000)
    first = os.urandom(1_000_000)
    talk.flow(talk.member, talk.client, first)
    assert talk.connection.upstream.is_bulk
    meter = Meter(talk.reactor, 0)
    meter.rate.set_share(1, share, talk.reactor.now_ms)
    talk.connection.meter = meter
    began_s = time.monotonic()
    talk.flow(talk.member, talk.client, data)
    assert time.monotonic() - began_s > (len(data) - BUFFER_BYTES) / share
    assert talk.counters[SENT_BYTES] == len(first) + len(data)


def test_bulk_waits_while_the_memory_for_slow_peers_is_used_up(talk: Conversation, pipe: None) -> None:
    talk.flow(talk.member, talk.client, os.urandom(1_000_000))
    talk.reactor.hold(PENDING_LIMIT_BYTES)  # for others
    talk.member.sendall(bytes(100_000))
    for _ in range(3):
        talk.turn()
    talk.client.setblocking(False)
    with pytest.raises(BlockingIOError):
        talk.client.recv(1)
    talk.reactor.hold(-PENDING_LIMIT_BYTES)
    assert talk.receive(100_000) == bytes(100_000)


def test_reads_that_are_made_small_make_splices_small(talk: Conversation, pipe: None) -> None:
    talk.flow(talk.member, talk.client, os.urandom(1_000_000))
    talk.reactor.hold(PENDING_LIMIT_BYTES // 2)  # for others
    talk.arrive(talk.member, talk.client, bytes(60_000))
    assert not talk.connection.upstream.is_bulk
    talk.reactor.hold(-PENDING_LIMIT_BYTES // 2)


def test_bulk_of_a_member_that_failed_arrives_before_the_reset(talk: Conversation, pipe: None) -> None:
    """Its end is not in what it sent: it was noticed otherwise."""
    talk.flow(talk.member, talk.client, os.urandom(1_000_000))
    talk.member.sendall(bytes(100_000))
    while unsent(talk.member):
        pass
    talk.connection.upstream.failed()
    talk.client.setblocking(False)
    assert talk.receive(100_000) == bytes(100_000)
    began_s = time.monotonic()
    assert talk.end() is ConnectionResetError
    assert time.monotonic() - began_s < RESET_DEADLINE_MS / 2000


def test_fin_behind_bulk_passes_and_the_other_direction_goes_on(talk: Conversation, pipe: None) -> None:
    talk.flow(talk.member, talk.client, os.urandom(1_000_000))
    assert talk.connection.upstream.is_bulk
    talk.member.shutdown(socket.SHUT_WR)
    talk.turn()
    assert talk.client.recv(100) == b""
    talk.flow(talk.client, talk.member, os.urandom(1_000_000))


def test_bulk_before_a_reset_arrives_and_then_the_reset(talk: Conversation, pipe: None) -> None:
    talk.flow(talk.member, talk.client, os.urandom(1_000_000))
    last = os.urandom(300_000)
    talk.member.sendall(last)
    talk.member.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    while unsent(talk.member):
        pass
    talk.member.close()
    talk.client.setblocking(False)
    assert talk.receive(len(last)) == last
    assert talk.end() is ConnectionResetError


def test_a_member_that_resets_in_the_midst_of_an_upload_passes_it_on(talk: Conversation, pipe: None) -> None:
    talk.flow(talk.client, talk.member, os.urandom(1_000_000))
    talk.member.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    talk.member.close()
    talk.client.setblocking(False)
    assert talk.end(bytes(BUFFER_BYTES)) in (ConnectionResetError, BrokenPipeError)
