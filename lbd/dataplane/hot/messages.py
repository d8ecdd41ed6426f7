"""Memory for many datagrams, and what the kernel wants to know of each to move them all with one call.

recvmmsg(2) and sendmmsg(2) are not in Python's socket module, so libc's functions are called by ctypes. That call costs
about a microsecond, and each datagram in it a fifth of what a call of its own does: above all, a client's address
stays the bytes that the kernel wrote, and is not made text and back again (4,600 of 13,100 user instructions of a
query and its answer were that, callgrind).

All memory is private to the process: it must not be shared with one that is forked later.

Hot module: compiled by mypyc, and must do the same when interpreted.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import mmap
import os
import struct
import sys
from typing import Any, Final

SLOTS: Final = 64
"""How many datagrams one call moves at most."""
ROOM_BYTES: Final = 65536
"""What one datagram, or a piece of merged ones, takes at most (udp(7))."""
NAME_BYTES: Final = 28
"""Of a sockaddr_in6; a sockaddr_in is shorter, and the kernel takes it with bytes behind it."""
CONTROL_BYTES: Final = 64
BYTE_ORDER: Final[Any] = sys.byteorder

HEAD_BYTES: Final = 64
_HEAD: Final = struct.Struct("@PIPNPNi0PI0P")
"""struct mmsghdr: msg_name, msg_namelen, msg_iov, msg_iovlen, msg_control, msg_controllen, msg_flags; msg_len."""
_LENGTH_WORD: Final = 14  # msg_len, counted in words of four bytes
_CONTROL_LENGTH: Final = 40  # msg_controllen, where it begins
ENVELOPE_BYTES: Final = 48
_ENVELOPE: Final = struct.Struct("@PN28s4x")
"""struct iovec, and behind it the address, so that one call packs what changes: iov_base, iov_len, sockaddr."""
_LENGTH_AND_NAME: Final = struct.Struct("@N28s")
_LENGTH: Final = struct.Struct("@N")
_SIZE_OFFSET: Final = 8
_NAME_OFFSET: Final = 16
_STRIDE: Final = ROOM_BYTES + 64
"""From one datagram's memory to the next: a multiple of the page would have all meet in the same lines of the cache."""

_libc: Final = ctypes.CDLL(None, use_errno=True)
RECVMMSG: Final[Any] = _libc.recvmmsg
SENDMMSG: Final[Any] = _libc.sendmmsg
ERRNO: Final[Any] = ctypes.get_errno
if (_HEAD.size, _ENVELOPE.size) != (HEAD_BYTES, ENVELOPE_BYTES):
    raise ImportError("lbd needs a 64-bit system: it lays out structures of the kernel itself")


def require_calls() -> None:
    """Make sure that the system lets us call both.

    Raises:
        OSError: it does not, by a system call filter for example.
    """
    for call, name in ((RECVMMSG, "recvmmsg"), (SENDMMSG, "sendmmsg")):
        call(-1, None, 0, 0, None)  # the last argument is recvmmsg's alone
        number: int = ERRNO()
        if number not in (0, errno.EBADF):
            raise OSError(number, f"{os.strerror(number)}: UDP services need {name}(2)")


def _private_memory(size: int) -> tuple[mmap.mmap, int]:
    """Return zeroed memory that no other process has, and its address."""
    memory = mmap.mmap(-1, size, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
    with contextlib.suppress(OSError):  # a kernel without huge pages
        memory.madvise(mmap.MADV_NOHUGEPAGE)  # or the first datagram would take two megabytes
    return memory, ctypes.addressof(ctypes.c_char.from_buffer(memory))


class Messages:
    """Memory for `slots` datagrams; pages that were never used take none. The first `name_bytes` of an address tell one
    client from another. With `control`, ancillary data has room."""

    __slots__ = (
        "_controls", "_envelopes", "_heads", "_lengths", "_names", "_pack", "_room", "pointers", "slots", "views",
    )  # fmt: skip

    def __init__(self, slots: int, name_bytes: int = NAME_BYTES, *, control: bool = False) -> None:
        self.slots: int = slots
        room, room_at = _private_memory(slots * _STRIDE)
        envelopes, envelopes_at = _private_memory(slots * ENVELOPE_BYTES)
        heads, heads_at = _private_memory(slots * HEAD_BYTES)
        controls, controls_at = _private_memory(slots * CONTROL_BYTES)
        for slot in range(slots):
            envelope_at = envelopes_at + slot * ENVELOPE_BYTES
            _ENVELOPE.pack_into(envelopes, slot * ENVELOPE_BYTES, room_at + slot * _STRIDE, ROOM_BYTES, b"")
            ancillary = (controls_at + slot * CONTROL_BYTES, CONTROL_BYTES) if control else (0, 0)
            head = (envelope_at + _NAME_OFFSET, NAME_BYTES, envelope_at, 1, *ancillary, 0, 0)
            _HEAD.pack_into(heads, slot * HEAD_BYTES, *head)
        whole = memoryview(room)
        self.views: list[memoryview] = [whole[slot * _STRIDE :][:ROOM_BYTES] for slot in range(slots)]
        # Made once: to pass one costs nothing, to make one half a microsecond.
        self.pointers: list[Any] = [ctypes.c_void_p(heads_at + slot * HEAD_BYTES) for slot in range(slots)]
        starts = [slot * ENVELOPE_BYTES + _NAME_OFFSET for slot in range(slots)]
        # Made once: to make a slice costs more than to take it.
        self._names: list[slice] = [slice(start, start + name_bytes) for start in starts]
        self._room: Any = room
        self._envelopes: Any = envelopes
        self._heads: Any = heads
        self._lengths: Any = memoryview(heads).cast("I")
        self._controls: Any = controls
        self._pack: Any = _LENGTH_AND_NAME.pack_into

    def size(self, slot: int) -> int:
        """Return how many bytes were received into a slot."""
        size: int = self._lengths[slot * (HEAD_BYTES // 4) + _LENGTH_WORD]
        return size

    def copy(self, slot: int, size: int) -> bytes:
        """Return the first `size` bytes of a slot."""
        start = slot * _STRIDE
        copied: bytes = self._room[start : start + size]
        return copied

    def name(self, slot: int) -> bytes:
        """Return a slot's address."""
        name: bytes = self._envelopes[self._names[slot]]
        return name

    def address_to(self, slot: int, size: int, name: bytes) -> None:
        """Make the first `size` bytes of a slot a datagram to an address."""
        self._pack(self._envelopes, slot * ENVELOPE_BYTES + _SIZE_OFFSET, size, name)

    def addressed_size(self, slot: int) -> int:
        """Return the size that `address_to` was told."""
        size: int = _LENGTH.unpack_from(self._envelopes, slot * ENVELOPE_BYTES + _SIZE_OFFSET)[0]
        return size

    def renew_controls(self) -> None:
        """Give the room for ancillary data back, of which the kernel has written how much it has used."""
        for slot in range(self.slots):
            _LENGTH.pack_into(self._heads, slot * HEAD_BYTES + _CONTROL_LENGTH, CONTROL_BYTES)

    def control(self, slot: int) -> bytes:
        """Return the ancillary data that came with the datagram in a slot (cmsg(3))."""
        used: int = _LENGTH.unpack_from(self._heads, slot * HEAD_BYTES + _CONTROL_LENGTH)[0]
        start = slot * CONTROL_BYTES
        ancillary: bytes = self._controls[start : start + used]
        return ancillary
