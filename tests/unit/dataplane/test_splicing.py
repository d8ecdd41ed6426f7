"""The pipe that moves bulk: all of it arrives, in order, and nothing that it was given ever reaches anybody else."""

from __future__ import annotations

import gc
import os
import select
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from kit_forbidden import said_where_forbidden
from lbd.dataplane.hot.buffer import BUFFER
from lbd.dataplane.hot.reactor import BUFFER_BYTES
from lbd.dataplane.hot.splicing import Pipe

RESET = struct.pack("ii", 1, 0)
LIMIT_S = 5.0


class Way:
    """A connection on the loopback interface, both ends non-blocking."""

    def __init__(self, stack: ExitStack) -> None:
        with socket.create_server(("127.0.0.1", 0)) as server:
            self.far = stack.enter_context(socket.create_connection(server.getsockname(), LIMIT_S))
            self.near = stack.enter_context(server.accept()[0])
        self.near.setblocking(False)
        self.near.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2 * BUFFER_BYTES)

    def bring(self, data: bytes) -> None:
        """Have bytes wait at the near end."""
        self.far.sendall(data)
        while len(self.near.recv(len(data), socket.MSG_PEEK)) < len(data):
            select.select([self.near], [], [], 0.01)

    def fill(self) -> int:
        """Send from the near end until its kernel takes no more; return how many bytes that were.

        With fixed buffers, or there is soon room again.
        """
        self.far.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 20_000)
        self.near.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 20_000)
        filled, full_for = 0, 0
        while full_for < 5:
            try:
                filled += self.near.send(bytes(BUFFER_BYTES))
                full_for = 0
            except BlockingIOError:
                full_for += 1
                time.sleep(0.01)
        return filled

    def taken(self) -> bytes:
        """Return what has arrived at the far end."""
        received = b""
        while select.select([self.far], [], [], 0.1)[0]:
            received += self.far.recv(BUFFER_BYTES)
        return received


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as opened:
        yield opened


@pytest.fixture
def pipe(stack: ExitStack) -> Pipe:
    made = Pipe()
    made.open()
    stack.callback(made.close)
    assert made.works
    return made


def test_bytes_pass_from_one_socket_to_the_other(stack: ExitStack, pipe: Pipe) -> None:
    source, target, data = Way(stack), Way(stack), os.urandom(100_000)
    source.bring(data)
    moved = 0
    while moved < len(data):
        moved += pipe.move(source.near.fileno(), target.near.fileno(), BUFFER_BYTES)
        assert pipe.left == 0
    assert target.taken() == data


def test_no_more_is_moved_than_was_asked_for(stack: ExitStack, pipe: Pipe) -> None:
    source, target, data = Way(stack), Way(stack), os.urandom(100_000)
    source.bring(data)
    assert pipe.move(source.near.fileno(), target.near.fileno(), 12_345) == 12_345
    assert target.taken() == data[:12_345]
    assert source.near.recv(len(data)) == data[12_345:]


def test_what_a_full_target_does_not_take_is_left_in_the_buffer_and_not_in_the_pipe(
    stack: ExitStack, pipe: Pipe
) -> None:
    source, full, other, data = (
        Way(stack),
        Way(stack),
        Way(stack),
        os.urandom(150_000),
    )  # more than a segment that waits
    filled = full.fill()
    source.bring(data)
    moved = pipe.move(source.near.fileno(), full.near.fileno(), BUFFER_BYTES)
    left = pipe.left
    assert left > 0
    assert full.taken()[filled:] + BUFFER[:left] == data[:moved]
    rest = os.urandom(1000)
    second = Way(stack)
    second.bring(rest)
    assert (pipe.move(second.near.fileno(), other.near.fileno(), BUFFER_BYTES), pipe.left) == (len(rest), 0)
    assert other.taken() == rest


def test_what_an_exception_left_in_the_pipe_reaches_nobody(stack: ExitStack, pipe: Pipe) -> None:
    first, second, target = Way(stack), Way(stack), Way(stack)
    first.bring(b"secret of the first")
    second.bring(b"for the second")
    gc.collect()  # what other tests have left is not closed meanwhile
    before = len(os.listdir("/proc/self/fd"))
    with pytest.raises(OverflowError):
        pipe.move(first.near.fileno(), 1 << 40, BUFFER_BYTES)
    assert pipe.move(second.near.fileno(), target.near.fileno(), BUFFER_BYTES) == len(b"for the second")
    assert target.taken() == b"for the second"
    assert len(os.listdir("/proc/self/fd")) == before


def test_a_dry_source_and_one_at_its_end_are_told_apart(stack: ExitStack, pipe: Pipe) -> None:
    source, target = Way(stack), Way(stack)
    with pytest.raises(BlockingIOError):
        pipe.move(source.near.fileno(), target.near.fileno(), BUFFER_BYTES)
    source.far.shutdown(socket.SHUT_WR)
    select.select([source.near], [], [], LIMIT_S)
    assert pipe.move(source.near.fileno(), target.near.fileno(), BUFFER_BYTES) == 0
    assert pipe.works


def test_what_came_before_a_reset_passes_and_then_the_reset_is_told(stack: ExitStack, pipe: Pipe) -> None:
    source, target = Way(stack), Way(stack)
    source.bring(b"last words")
    source.far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    source.far.close()
    poller = select.poll()
    poller.register(source.near, 0)
    assert poller.poll(LIMIT_S * 1000)
    assert pipe.move(source.near.fileno(), target.near.fileno(), BUFFER_BYTES) == len(b"last words")
    assert target.taken() == b"last words"
    with pytest.raises(ConnectionResetError):
        pipe.move(source.near.fileno(), target.near.fileno(), BUFFER_BYTES)


def test_a_target_that_was_reset_leaves_everything_in_the_buffer(stack: ExitStack, pipe: Pipe) -> None:
    source, gone, target = Way(stack), Way(stack), Way(stack)
    gone.far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
    gone.far.close()
    select.select([gone.near], [], [], LIMIT_S)
    source.bring(b"undelivered")
    assert pipe.move(source.near.fileno(), gone.near.fileno(), BUFFER_BYTES) == pipe.left == len(b"undelivered")
    assert BUFFER[: pipe.left] == b"undelivered"
    source.bring(b"next")
    pipe.move(source.near.fileno(), target.near.fileno(), BUFFER_BYTES)
    assert target.taken() == b"next"


def test_where_the_kernel_refuses_it_is_not_tried_again(stack: ExitStack, pipe: Pipe) -> None:
    target = Way(stack)
    poller = stack.enter_context(select.epoll())  # nothing that could be spliced: EINVAL
    assert pipe.move(poller.fileno(), target.near.fileno(), BUFFER_BYTES) == 0
    assert not pipe.works


def test_where_a_filter_forbids_it_the_bytes_are_left_for_a_read(stack: ExitStack, pipe: Pipe) -> None:
    source, target = Way(stack), Way(stack)
    source.bring(b"everything")

    def move() -> tuple[int, bool]:
        return int(pipe.move(source.near.fileno(), target.near.fileno(), BUFFER_BYTES)), pipe.works

    assert said_where_forbidden("splice", move) == "(0, False)"
    assert source.near.recv(100) == b"everything"


def test_a_source_that_was_reset_costs_no_new_pipe(stack: ExitStack, pipe: Pipe) -> None:
    target = Way(stack)
    numbers = sorted(os.listdir("/proc/self/fd"))
    for _ in range(3):
        gone = Way(stack)
        gone.far.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        gone.far.close()
        select.select([gone.near], [], [], LIMIT_S)
        before = {number: os.readlink(f"/proc/self/fd/{number}") for number in numbers if _is_pipe(number)}
        with pytest.raises(ConnectionResetError):
            pipe.move(gone.near.fileno(), target.near.fileno(), BUFFER_BYTES)
        with pytest.raises(BlockingIOError):
            pipe.move(target.near.fileno(), target.near.fileno(), BUFFER_BYTES)
        assert {number: os.readlink(f"/proc/self/fd/{number}") for number in before} == before


def _is_pipe(number: str) -> bool:
    try:
        return os.readlink(f"/proc/self/fd/{number}").startswith("pipe:")
    except OSError:
        return False


def test_a_target_that_cant_be_spliced_to_loses_nothing(stack: ExitStack, pipe: Pipe) -> None:
    source = Way(stack)
    poller = stack.enter_context(select.epoll())
    source.bring(b"everything")
    assert pipe.move(source.near.fileno(), poller.fileno(), BUFFER_BYTES) == pipe.left == len(b"everything")
    assert BUFFER[: pipe.left] == b"everything"
    assert not pipe.works


def test_a_pipe_that_was_never_opened_does_nothing() -> None:
    assert Pipe().move(0, 1, BUFFER_BYTES) == 0
