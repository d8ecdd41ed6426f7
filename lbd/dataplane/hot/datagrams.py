"""A datagram socket, which moves many datagrams of one sender at once where that pays.

With UDP_GRO the kernel hands over datagrams of one size that came one after another as one piece, with UDP_SEGMENT it
takes such a piece and sends it as datagrams again (udp(7), Linux 5.0): a bulk flow costs one system call each way
instead of dozens, and every boundary stays. But a socket that may get pieces has to be read with ancillary data, which
costs 0.3-0.7 us more than without, of 12 us that a DNS query cost in all. So merging is switched on only when many
large datagrams have come. It is never switched off again: the kernel would hand over the pieces that wait then without
saying how large their datagrams are.

Hot module: compiled by mypyc, and must do the same when interpreted.
"""

from __future__ import annotations

import _socket
import errno
import os
import struct
from typing import Any, Final

from lbd.dataplane.hot.buffer import DONTWAIT, reader
from lbd.dataplane.hot.messages import BYTE_ORDER

SOL_UDP: Final = 17
UDP_SEGMENT: Final = 103
UDP_GRO: Final = 104
BIG_BYTES: Final = 1000
"""From this size on a datagram is taken for part of a bulk flow: more of them wait, and merging may pay."""
BIG_SURPLUS: Final = 32
"""So many more large datagrams than small ones, since there were more small ones, switch merging on."""
RETRY_DATAGRAMS: Final = 1 << 20
"""So many more it takes after the kernel refused."""
MAX_SEGMENTS: Final = 64  # UDP_MAX_SEGMENTS of linux/udp.h before 6.9

NOTHING: Final = -1
FAILED: Final = -2

SENDER_BYTES: Final = {_socket.AF_INET: 8, _socket.AF_INET6: 28}
"""How much of a sockaddr names a sender: family, port and address of a sockaddr_in, all of a sockaddr_in6 (ip(7),
ipv6(7))."""
_ANCILLARY_BYTES: Final = 64
_SEGMENT_SIZE: Final = struct.Struct("=H")
_MAX_ERRORS: Final = 64
_ERROR_QUEUE: Final = 0x2040  # MSG_ERRQUEUE | MSG_DONTWAIT
# Called without the look-up on the socket, as in lbd.dataplane.hot.stream_socket.
_RECV_INTO: Final[Any] = _socket.socket.recv_into
_RECVMSG_INTO: Final[Any] = _socket.socket.recvmsg_into
_SEND: Final[Any] = _socket.socket.send
_SENDTO: Final[Any] = _socket.socket.sendto
_WRITE: Final[Any] = os.write
_FLAGS: Final[Any] = DONTWAIT  # boxed once


class DatagramPort:
    """One socket, which does not block.

    After `receive`, `segment` is the size of each datagram of a merged piece but the last, which may be shorter (0: it
    was a single one), or `error` the errno of a failure. `sender_bytes` is how much of a sockaddr names a sender,
    `surplus` how many more large datagrams than small ones were noted.
    """

    __slots__ = ("_read", "descriptor", "error", "is_merging", "segment", "sender_bytes", "sock", "surplus")

    def __init__(self, sock: _socket.socket) -> None:
        self.sock: _socket.socket = sock
        self.descriptor: int = sock.fileno()
        self.sender_bytes: int = SENDER_BYTES[sock.family]
        self.segment: int = 0
        self.error: int = 0
        self.is_merging: bool = False
        self._read: Any = reader(self.descriptor)
        self.surplus: int = 0

    def inherit_merging(self) -> None:
        """Go on as another process that has or had this socket left it: what waits may be merged."""
        try:
            self.is_merging = self.sock.getsockopt(SOL_UDP, UDP_GRO) != 0
        except OSError:
            self.is_merging = False  # this kernel has no UDP_GRO

    def receive(self, room: memoryview) -> int:
        """Receive from where the socket is connected; return the size (0 is a datagram too), NOTHING or FAILED."""
        size: int
        try:
            if self.is_merging:
                return self._receive_merged(room)
            if self._read is None:
                size = _RECV_INTO(self.sock, room)
            else:
                answer: object = self._read(room)
                if not isinstance(answer, int):
                    return NOTHING
                size = answer
        except BlockingIOError:
            return NOTHING
        except OSError as error:
            self.error = error.errno or errno.EIO
            return FAILED
        self.segment = 0
        self.note(size)
        return size

    def note(self, size: int) -> None:
        """Notice whether datagrams are large, so that merging may pay."""
        if size >= BIG_BYTES:
            self.surplus += 1
            if self.surplus >= BIG_SURPLUS and not self.is_merging:
                self._start_merging()
        elif self.surplus > 0:
            self.surplus -= 1

    def _receive_merged(self, room: memoryview) -> int:
        size: int
        size, ancillary, _flags, _sender = _RECVMSG_INTO(self.sock, [room], _ANCILLARY_BYTES, _FLAGS)
        self.segment = 0
        for level, kind, value in ancillary:
            if level == SOL_UDP and kind == UDP_GRO:
                self.segment = segment_of(value, size)
        return size

    def _start_merging(self) -> None:
        try:
            self.sock.setsockopt(SOL_UDP, UDP_GRO, 1)
            self.is_merging = True
        except OSError:
            self.surplus = -RETRY_DATAGRAMS  # this kernel has no UDP_GRO

    def send(self, content: bytes | memoryview, segment: int) -> int:
        """Send to where the socket is connected; return 0 or an errno.

        Of a merged piece only a part may have been sent then; its first datagrams, never pieces of one.
        """
        try:
            if segment and len(content) > segment:
                return self._send_merged(memoryview(content), segment, None)
            if content:
                _WRITE(self.descriptor, content)
            else:
                _SEND(self.sock, content, _FLAGS)  # to write nothing would send nothing
        except OSError as error:
            return error.errno or errno.EIO
        return 0

    def send_merged_to(self, content: memoryview, segment: int, address: Any) -> int:
        """Send a merged piece to an address; return as `send` does."""
        try:
            return self._send_merged(content, segment, address)
        except OSError as error:
            return error.errno or errno.EIO

    def _send_merged(self, content: memoryview, segment: int, address: Any) -> int:
        start = 0
        end = len(content)
        piece = segment * MAX_SEGMENTS
        size = _SEGMENT_SIZE.pack(segment)
        while start < end:
            stop = min(start + piece, end)
            if stop - start > segment:
                try:
                    self.sock.sendmsg([content[start:stop]], [(SOL_UDP, UDP_SEGMENT, size)], _FLAGS, address)
                    start = stop
                    continue
                except OSError as error:
                    # The way out takes no segments (EIO: no checksums in hardware), or smaller ones only.
                    if error.errno not in (errno.EINVAL, errno.EMSGSIZE, errno.EIO, errno.EOPNOTSUPP):
                        raise
                    piece = segment
                    stop = start + segment
            if address is None:
                _SEND(self.sock, content[start:stop], _FLAGS)
            else:
                _SENDTO(self.sock, content[start:stop], _FLAGS, address)
            start = stop
        return 0

    def pending_error(self) -> int:
        """Take the errno that waits on the socket (0: none), and what the kernel has queued about it."""
        error: int = self.sock.getsockopt(1, 4)  # SOL_SOCKET, SO_ERROR
        try:
            for _ in range(_MAX_ERRORS):
                self.sock.recvmsg(0, 0, _ERROR_QUEUE)
        except OSError:
            pass  # it is empty (EAGAIN), which is how this ends; any other error is taken already
        return error


def segment_of(value: bytes, size: int) -> int:
    """Return the size of each datagram of a piece but the last, which may be shorter, as UDP_GRO's value says it; 0: it
    is a single one."""
    segment: int = int.from_bytes(value, BYTE_ORDER)
    return segment if segment < size else 0


def count_of(size: int, segment: int) -> int:
    """Return how many datagrams a piece is."""
    return 1 if segment == 0 else (size + segment - 1) // segment
