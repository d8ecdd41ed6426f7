"""The channel between supervisor and worker: versioned JSON messages with descriptors, over a stream socketpair.

A frame is a 4-byte big-endian length and a JSON object. Descriptors travel by SCM_RIGHTS with the frame's first byte;
its key `fds` says how many belong to it. One sendmsg carries at most 253 of them (SCM_MAX_FD, unix(7)); a message here
never has more than MAX_DESCRIPTORS.
"""

from __future__ import annotations

import array
import json
import os
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any, Protocol

PROTOCOL_VERSION = 3
MAX_DESCRIPTORS = 16
MAX_FRAME_BYTES = 64 << 20
_READ_BYTES = 1 << 16

Message = dict[str, Any]


class Watcher(Protocol):
    """What a channel needs of an event loop; an asyncio loop is one."""

    def add_reader(self, fd: int, callback: Callable[[], object], /) -> object: ...

    def remove_reader(self, fd: int, /) -> object: ...

    def add_writer(self, fd: int, callback: Callable[[], object], /) -> object: ...

    def remove_writer(self, fd: int, /) -> object: ...


class ChannelError(Exception):
    """The other end does not keep to the protocol."""


class Channel:
    """One end. `start` begins reading: every message goes to `on_message(message, descriptors)`, who then owns the
    descriptors; the end of the stream goes to `on_end(error)`, once, with None for a plain end.
    """

    def __init__(
        self,
        sock: socket.socket,
        on_message: Callable[[Message, list[int]], None],
        on_end: Callable[[BaseException | None], None],
    ) -> None:
        sock.setblocking(False)
        self._sock = sock
        self._on_message = on_message
        self._on_end = on_end
        self._outgoing: deque[tuple[memoryview, list[int]]] = deque()
        self._incoming = bytearray()
        self._descriptors: deque[int] = deque()
        self._loop: Watcher | None = None
        self._writing = False

    def start(self, loop: Watcher) -> None:
        """Read from now on."""
        self._loop = loop
        loop.add_reader(self._sock.fileno(), self._on_readable)

    def send(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Queue a message. The descriptors are duplicated, so the caller keeps its own.

        Raises:
            ValueError: more descriptors than a message may have.
        """
        if self._loop is None:
            return
        if len(descriptors) > MAX_DESCRIPTORS:
            raise ValueError(f"a message carries at most {MAX_DESCRIPTORS} descriptors, not {len(descriptors)}")
        body = json.dumps({**message, "fds": len(descriptors)}, separators=(",", ":")).encode()
        frame = memoryview(len(body).to_bytes(4, "big") + body)
        self._outgoing.append((frame, [os.dup(descriptor) for descriptor in descriptors]))
        if not self._writing:
            self._flush()

    @property
    def queued(self) -> int:
        """How many messages wait because the other end does not read."""
        return len(self._outgoing)

    def close(self) -> None:
        """Stop, and close the socket and every descriptor that was not delivered."""
        if self._loop is None:
            self._sock.close()
            return
        self._loop.remove_reader(self._sock.fileno())
        if self._writing:
            self._loop.remove_writer(self._sock.fileno())
            self._writing = False
        self._loop = None
        for _, descriptors in self._outgoing:
            self._close_all(descriptors)
        self._outgoing.clear()
        self._close_all(self._descriptors)
        self._descriptors.clear()
        self._sock.close()

    def _flush(self) -> None:
        assert self._loop is not None
        while self._outgoing:
            frame, descriptors = self._outgoing[0]
            ancillary = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
            try:
                sent = self._sock.sendmsg([frame], ancillary, socket.MSG_NOSIGNAL)
            except BlockingIOError:
                break
            except OSError:
                return  # the reader sees the end and says so
            self._close_all(descriptors)
            if sent < len(frame):
                self._outgoing[0] = (frame[sent:], [])
            else:
                self._outgoing.popleft()
        if bool(self._outgoing) != self._writing:
            self._writing = not self._writing
            if self._writing:
                self._loop.add_writer(self._sock.fileno(), self._flush)
            else:
                self._loop.remove_writer(self._sock.fileno())

    def _on_readable(self) -> None:
        space = socket.CMSG_SPACE(253 * array.array("i").itemsize)
        try:
            data, ancillary, flags, _ = self._sock.recvmsg(_READ_BYTES, space, socket.MSG_CMSG_CLOEXEC)
        except BlockingIOError:
            return
        except OSError as error:
            self._end(error)
            return
        for level, kind, payload in ancillary:
            if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
                received = array.array("i")
                received.frombytes(payload[: len(payload) - len(payload) % received.itemsize])
                self._descriptors.extend(received)
        if flags & socket.MSG_CTRUNC:
            self._end(ChannelError("descriptors were lost on the way: the descriptor limit is reached"))
            return
        if not data:
            self._end(None)
            return
        self._incoming += data
        try:
            self._deliver()
        except (ChannelError, ValueError) as error:
            self._end(error)

    def _deliver(self) -> None:
        incoming = self._incoming
        while len(incoming) >= 4 and self._loop is not None:
            length = int.from_bytes(incoming[:4], "big")
            if length > MAX_FRAME_BYTES:
                raise ChannelError(f"frame of {length} bytes")
            if len(incoming) < 4 + length:
                return
            message = json.loads(incoming[4 : 4 + length])
            del incoming[: 4 + length]
            if not isinstance(message, dict) or not isinstance(count := message.get("fds", 0), int):
                raise ChannelError("a message is a JSON object")
            if count > len(self._descriptors):
                raise ChannelError(f"a message promised {count} descriptors")
            self._on_message(message, [self._descriptors.popleft() for _ in range(count)])

    def _end(self, error: BaseException | None) -> None:
        self.close()
        self._on_end(error)

    @staticmethod
    def _close_all(descriptors: Sequence[int] | deque[int]) -> None:
        for descriptor in descriptors:
            os.close(descriptor)
