"""The buffer through which all bytes of a worker pass: each call reads into it, and nothing stays in it.

Hot module: compiled by mypyc, and must do the same when interpreted.
"""

from __future__ import annotations

from typing import Final

from lbd.dataplane.hot.reactor import BUFFER_BYTES

BUFFER: Final = bytearray(262144)
VIEW: Final = memoryview(BUFFER)
assert len(BUFFER) == BUFFER_BYTES

_KEPT_BYTES: Final = 2048
_starts: Final[list[memoryview | None]] = [None] * (_KEPT_BYTES + 1)


def start_of_buffer(length: int) -> memoryview:
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
