"""The channel between supervisor and worker, over a real socketpair."""

from __future__ import annotations

import asyncio
import os
import socket
import tempfile
from collections.abc import Awaitable, Callable

import pytest

from lbd.dataplane.channel import MAX_DESCRIPTORS, Channel, Message


class End:
    """A channel that records what it hears."""

    def __init__(self, sock: socket.socket) -> None:
        self.messages: list[tuple[Message, list[int]]] = []
        self.ended: asyncio.Future[BaseException | None] = asyncio.get_running_loop().create_future()
        self._heard = asyncio.Event()
        self.channel = Channel(sock, self._on_message, self.ended.set_result)
        self.channel.start(asyncio.get_running_loop())

    def _on_message(self, message: Message, descriptors: list[int]) -> None:
        self.messages.append((message, descriptors))
        self._heard.set()

    async def heard(self, count: int) -> list[tuple[Message, list[int]]]:
        while len(self.messages) < count:
            self._heard.clear()
            await asyncio.wait_for(self._heard.wait(), 5.0)
        return self.messages


def run(claim: Callable[[End, End], Awaitable[None]]) -> None:
    async def main() -> None:
        left, right = map(End, socket.socketpair())
        try:
            await claim(left, right)
        finally:
            left.channel.close()
            right.channel.close()

    asyncio.run(main())


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_messages_arrive_whole_and_in_order_whatever_their_size() -> None:
    async def claim(left: End, right: End) -> None:
        sizes = [0, 1, 70_000, 3_000_000, 5]
        for size in sizes:
            left.channel.send({"type": "x", "text": "é" * size})
        heard = await right.heard(len(sizes))
        assert [len(message["text"]) for message, _ in heard] == sizes

    run(claim)


def test_descriptors_arrive_with_their_own_message() -> None:
    async def claim(left: End, right: End) -> None:
        for number in range(300):  # more than one sendmsg could carry (253)
            with tempfile.TemporaryFile() as file:
                file.write(str(number).encode())
                file.flush()
                left.channel.send({"number": number}, [file.fileno()] * (number % 3))
        heard = await right.heard(300)
        for number, (message, descriptors) in enumerate(heard):
            assert message["number"] == number
            assert len(descriptors) == number % 3
            for descriptor in descriptors:
                assert os.pread(descriptor, 10, 0) == str(number).encode()
                os.close(descriptor)

    before = open_descriptors()
    run(claim)
    assert open_descriptors() <= before


def test_undelivered_descriptors_are_closed_with_the_channel() -> None:
    async def claim(left: End, right: End) -> None:
        right.channel.close()
        for _ in range(50):
            left.channel.send({"type": "lost"}, [0])

    before = open_descriptors()
    run(claim)
    assert open_descriptors() <= before


def test_the_end_of_the_other_side_is_told_once_and_without_error() -> None:
    async def claim(left: End, right: End) -> None:
        left.channel.send({"last": True})
        left.channel.close()
        assert await asyncio.wait_for(right.ended, 5.0) is None
        assert right.messages[0][0]["last"]

    run(claim)


@pytest.mark.parametrize(
    "garbage",
    [b"\xff\xff\xff\xff", b"\0\0\0\x02[]", b"\0\0\0\x03nix", b'\0\0\0\x09{"fds":3}', b'\0\0\0\x0b{"fds":"1"}'],
    ids=["huge", "list", "no json", "promised descriptors", "no number"],
)
def test_garbage_ends_the_channel_with_an_error(garbage: bytes) -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        end = End(ours)
        theirs.sendall(garbage)
        assert await asyncio.wait_for(end.ended, 5.0) is not None
        assert end.messages == []
        theirs.close()

    asyncio.run(main())


def test_too_many_descriptors_are_refused_at_once() -> None:
    async def claim(left: End, right: End) -> None:
        with pytest.raises(ValueError, match="at most"):
            left.channel.send({}, [0] * (MAX_DESCRIPTORS + 1))

    run(claim)


def test_a_reader_that_sleeps_blocks_nobody_and_loses_nothing() -> None:
    async def main() -> None:
        ours, theirs = socket.socketpair()
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        left = End(ours)
        for number in range(500):
            left.channel.send({"number": number, "text": "x" * 1000})
        assert left.channel.queued > 0
        right = End(theirs)
        heard = await right.heard(500)
        assert [message["number"] for message, _ in heard] == list(range(500))
        assert left.channel.queued == 0
        left.channel.close()
        right.channel.close()

    asyncio.run(main())
