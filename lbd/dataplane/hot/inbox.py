"""What clients of UDP services have sent: many datagrams of many clients with one call.

Hot module: compiled by mypyc, and must do the same when interpreted.
"""

from __future__ import annotations

import _socket
import errno
import struct
from typing import Any, Final

from lbd.dataplane.hot.buffer import DONTWAIT
from lbd.dataplane.hot.datagrams import FAILED, NOTHING, SENDER_BYTES, SOL_UDP, UDP_GRO, DatagramPort, segment_of
from lbd.dataplane.hot.messages import BYTE_ORDER, ERRNO, RECVMMSG, SLOTS, Messages

MERGED_SLOTS: Final = 8
"""Of merged pieces, which may be of 64 KiB each: more of them at once would push each other out of the cache."""
COPIED_BYTES: Final = 2048
"""Up to this size a copy costs less than a view."""
_CONTROL: Final = struct.Struct("@Nii")  # cmsg_len, cmsg_level, cmsg_type (cmsg(3)); the value follows


class Inbox:
    """A worker's, for all its sockets: what it holds is valid until the next `receive`.

    After that, `is_merged` says whether there may be merged pieces, and `is_dry` that nothing was left to receive.
    """

    __slots__ = ("_messages", "_rooms", "is_dry", "is_merged")

    def __init__(self) -> None:
        self.is_dry: bool = False
        self.is_merged: bool = False
        self._rooms: dict[tuple[int, bool], Messages] = {}
        self._messages: Messages = self._room_for(SENDER_BYTES[_socket.AF_INET], False)

    def receive(self, port: DatagramPort, most: int) -> int:
        """Receive at most so many datagrams or merged pieces, and no more than one call takes.

        Return how many they are, NOTHING, or FAILED, with the errno in `port.error`.
        """
        self.is_merged = port.is_merging
        messages = self._room_for(port.sender_bytes, self.is_merged)
        self._messages = messages
        asked = min(most, messages.slots)
        count: int = RECVMMSG(port.descriptor, messages.pointers[0], asked, DONTWAIT, None)
        self.is_dry = count < asked
        if count > 0:
            return count
        port.error = ERRNO()
        return NOTHING if port.error == errno.EAGAIN else FAILED

    def _room_for(self, sender_bytes: int, is_merging: bool) -> Messages:
        """Each family has its own: the kernel leaves behind how long a sender's address was."""
        key = (sender_bytes, is_merging)
        messages = self._rooms.get(key)
        if messages is None:
            messages = Messages(MERGED_SLOTS if is_merging else SLOTS, sender_bytes, control=is_merging)
            self._rooms[key] = messages
        if is_merging:
            messages.renew_controls()
        return messages

    def size(self, slot: int) -> int:
        """Return the size of a datagram or piece."""
        return self._messages.size(slot)

    def sender(self, slot: int) -> bytes:
        """Return who sent it, as the beginning of a sockaddr."""
        return self._messages.name(slot)

    def content(self, slot: int, size: int) -> bytes | memoryview:
        """Return its bytes."""
        if size <= COPIED_BYTES:
            return self._messages.copy(slot, size)
        return self._messages.views[slot][:size]

    def segment(self, slot: int, size: int) -> int:
        """Return the size of each datagram of a merged piece but the last, which may be shorter; 0: it is a single."""
        ancillary = self._messages.control(slot)
        if len(ancillary) >= _CONTROL.size:
            length, level, kind = _CONTROL.unpack_from(ancillary)
            if level == SOL_UDP and kind == UDP_GRO:
                return segment_of(ancillary[_CONTROL.size : length], size)
        return 0


def client_of(sender: bytes) -> Any:
    """Return the address in a sockaddr as Python's sockets have it: (host, port), of IPv6 with flow and scope."""
    port = sender[2] << 8 | sender[3]
    if len(sender) == SENDER_BYTES[_socket.AF_INET]:
        return _socket.inet_ntoa(sender[4:8]), port
    host = _socket.inet_ntop(_socket.AF_INET6, sender[8:24])
    return host, port, int.from_bytes(sender[4:8], "big"), int.from_bytes(sender[24:28], BYTE_ORDER)
