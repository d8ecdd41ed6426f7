"""A connected TCP socket of the relay, and how to do with it what every request needs for the least user instructions.

A client's is accepted as one that blocks, and many say one thing only: until it pays to change that, each call says
that it must not wait. TCP_NODELAY waits for the second thing too: nothing is delayed before something is in flight.

Hot module: compiled by mypyc, and must do the same when interpreted.
"""

from __future__ import annotations

import _socket
import fcntl
import os
import termios
from typing import Any, Final

from mypy_extensions import i64

from lbd.dataplane.hot.buffer import BUFFER, DONTWAIT, reader, start_of_buffer
from lbd.dataplane.hot.reactor import BUFFER_BYTES, Handler

PEEK: Final = 0x42  # MSG_PEEK | MSG_DONTWAIT
TCP: Final[object] = 6  # IPPROTO_TCP
TCP_QUICKACK: Final[object] = 12
_TCP_NODELAY: Final[object] = 1
# Called without the look-up on the socket, and with a flag that is boxed once: 4 % fewer user instructions a request.
SETSOCKOPT: Final[Any] = _socket.socket.setsockopt
_RECV_INTO: Final[Any] = _socket.socket.recv_into
_SEND: Final[Any] = _socket.socket.send
_WRITE: Final[Any] = os.write
_FLAGS: Final[object] = DONTWAIT

# What a read or a write returns beside a number of bytes.
DRY: Final = -1
LOST: Final = -2


def unacknowledged_bytes(descriptor: int) -> int:
    """Return how many bytes the peer's kernel has not acknowledged yet (SIOCOUTQ, tcp(7))."""
    answer: bytes = fcntl.ioctl(descriptor, termios.TIOCOUTQ, b"\0\0\0\0")
    return int.from_bytes(answer, "little")


class StreamSocket(Handler):
    """One such socket, in epoll under its `descriptor`. Bytes pass through the shared buffer."""

    __slots__ = ("descriptor", "is_blocking", "is_delaying", "read", "sock")

    def __init__(self, sock: _socket.socket, descriptor: int, is_client: bool) -> None:
        self.sock: _socket.socket = sock
        self.descriptor: int = descriptor
        self.is_blocking: bool = is_client  # accept() leaves it so: each call has to say MSG_DONTWAIT
        self.is_delaying: bool = not is_client  # without TCP_NODELAY, which clients' sockets inherit
        self.read: Any = None if is_client else reader(descriptor)  # of one that does not block

    def has_bytes(self) -> bool:
        """Return whether something was received that nobody has read, also by a side that was reset since."""
        try:
            return len(self.sock.recv(1, PEEK)) > 0
        except OSError:
            return False

    def receive(self, size: i64) -> i64:
        """Read at most `size` bytes into the buffer; return how many came, 0 for the end, DRY or LOST."""
        taken: Any
        try:
            if size != BUFFER_BYTES:
                taken = _RECV_INTO(self.sock, BUFFER, size, _FLAGS)
            elif self.is_blocking:
                taken = _RECV_INTO(self.sock, BUFFER, 0, _FLAGS)
            elif self.read is None:
                taken = _RECV_INTO(self.sock, BUFFER)
            else:
                taken = self.read(BUFFER)
        except BlockingIOError:
            return DRY
        except OSError:
            return LOST
        if taken is None:
            return DRY
        received: i64 = taken
        return received

    def send(self, length: i64) -> i64:
        """Send the first bytes of the buffer; return how many this side's kernel took, or LOST."""
        sent: i64 = 0
        try:
            if self.is_blocking:
                sent = _SEND(self.sock, start_of_buffer(length), _FLAGS)
            else:
                sent = _WRITE(self.descriptor, start_of_buffer(length))
        except BlockingIOError:
            return 0
        except OSError:
            return LOST
        return sent

    def stop_blocking(self) -> None:
        """Need not be told any longer that it does not block."""
        self.sock.setblocking(False)
        self.is_blocking = False
        self.read = reader(self.descriptor)

    def stop_delaying(self) -> None:
        """Have small segments leave at once also behind others. Before the first one nothing is delayed."""
        if self.is_delaying:
            self.is_delaying = False
            SETSOCKOPT(self.sock, TCP, _TCP_NODELAY, 1)

    def acknowledge_now(self) -> None:
        """Have the kernel acknowledge what it has received, though nothing is sent that could carry it."""
        SETSOCKOPT(self.sock, TCP, TCP_QUICKACK, 1)

    def forget(self) -> None:
        """The descriptor is closed with this batch, and soon another socket's."""
        self.descriptor = -1
        self.read = None
