"""The buffer through which all bytes of a worker pass: each call reads into it, and nothing stays in it.
And how it is read into for the least user instructions.

Hot module: compiled by mypyc, and must do the same when interpreted.
"""

from __future__ import annotations

import io
from typing import Any, Final

from mypy_extensions import i64

from lbd.dataplane.hot.reactor import BUFFER_BYTES

BUFFER: Final = bytearray(262144)
VIEW: Final = memoryview(BUFFER)
assert len(BUFFER) == BUFFER_BYTES

DONTWAIT: Final = 0x4040  # MSG_DONTWAIT | MSG_NOSIGNAL, for calls that may meet a socket that blocks
_KEPT_BYTES: Final = 2048
_starts: Final[list[memoryview | None]] = [None] * (_KEPT_BYTES + 1)
_KEPT_READERS: Final = 2048
_readers: Final[list[Any]] = [None] * _KEPT_READERS


def start_of_buffer(length: i64) -> memoryview:
    """Return the first `length` bytes of the buffer.

    Making a view costs as much as half of a call that sends it (user instructions, callgrind). So those of messages are
    made once for each length that occurs, 200 bytes each.
    """
    if length > _KEPT_BYTES:
        return VIEW[:length]
    view = _starts[length]
    if view is None:
        view = VIEW[:length]
        _starts[length] = view
    return view


def reader(descriptor: int) -> Any:
    """Return a function that reads from a descriptor that does not block into a buffer, as read(2): it returns None
    where nothing is there, and raises OSError. Return None for a high number.

    It costs 700 user instructions less than `recv_into`, whose arguments are a tuple and a format. It knows a number
    and nothing of what is open under it, so it is made once for each number (an `fstat`, 210 bytes) and kept: for so
    many that what a worker keeps stays below half a megabyte.
    """
    if not 0 <= descriptor < _KEPT_READERS:
        return None
    kept = _readers[descriptor]
    if kept is None:
        file = io.FileIO(descriptor, "rb", closefd=False)
        del file.name  # 130 bytes of 340
        kept = file.readinto
        _readers[descriptor] = kept
    return kept
