"""The pipe through which the bulk of a worker passes without being copied: each call fills it and empties it again.

Nothing may stay in it, for that would reach whoever moves bytes next. So it says before each system call what it may
hold afterwards; a pipe that may hold anything when the next call comes, because an exception came between, is thrown
away. What the target's kernel did not take is read out at once, into the shared buffer.

The ends of a connection are not judged here: where a splice brings nothing, a read says why.

Hot module: compiled by mypyc, and must do the same when interpreted.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from typing import Any, Final

from mypy_extensions import i64

from lbd.dataplane.hot.buffer import VIEW

PIPE_BYTES: Final = 1 << 20
"""What an ordinary user may have (/proc/sys/fs/pipe-max-size). It is slots that count, one for each 4 KiB of this: a
piece of a segment takes a whole one, so that 256 KiB from the wire can take 180 of the 256."""
LEAST_PIPE_BYTES: Final = 65536
"""Linux's default. A user who has too many pipes gets ones of a slot or two, with which reading is cheaper."""

_SPLICE: Final[Any] = getattr(os, "splice", None)
_FLAGS: Final[object] = 3  # SPLICE_F_MOVE | SPLICE_F_NONBLOCK
_CANT: Final = (errno.EINVAL, errno.ENOSYS, errno.EPERM, errno.EACCES)


class Pipe:
    """Moves bytes from one socket to another. Both must be non-blocking: a splice's flags say nothing about sockets.

    `works` says whether it can be used at all, `left` how many bytes of the last call the target did not take.
    """

    __slots__ = ("_inside", "_reader", "_writer", "left", "works")

    def __init__(self) -> None:
        self.works: bool = False
        self.left: i64 = 0
        self._inside: i64 = 0  # bytes that may be in it
        self._reader: int = -1
        self._writer: int = -1

    def open(self) -> None:
        """Make the pipe; where the kernel gives none that is worth it, `works` stays False."""
        if _SPLICE is None:
            return
        try:
            self._reader, self._writer = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        except OSError:
            return
        with contextlib.suppress(OSError):
            fcntl.fcntl(self._writer, fcntl.F_SETPIPE_SZ, PIPE_BYTES)
        self.works = int(fcntl.fcntl(self._writer, fcntl.F_GETPIPE_SZ)) >= LEAST_PIPE_BYTES

    def close(self) -> None:
        """Let go of the pipe, and of what it may hold."""
        self.works = False
        self._inside = 0
        if self._reader >= 0:
            os.close(self._reader)
            os.close(self._writer)
            self._reader = self._writer = -1

    def move(self, source: int, target: int, most: i64) -> i64:
        """Take up to `most` bytes (at most what the shared buffer holds) from `source`, and return how many. `target`
        was given them, but for the `left` ones at the start of the shared buffer.

        0: read instead, as the source is at its end, or nothing can be spliced (`works` says it).

        Raises:
            BlockingIOError: there is nothing to take, or it lies behind urgent data, of which EPOLLPRI tells.
            OSError: `source` has failed. What `target` says is for the one to hear who sends it what is left.
        """
        self.left = 0
        if self._inside:
            self._renew()
        if not self.works:
            return 0
        self._inside = most
        received: i64 = 0
        try:
            received = _SPLICE(source, self._writer, most, None, None, _FLAGS)
        except OSError as error:
            self._inside = 0  # a splice says how much it has moved, or why nothing
            if error.errno not in _CANT:
                raise
            self.works = False
        if received:
            self._empty(target, received)
        self._inside = 0
        return received

    def _empty(self, target: int, received: i64) -> None:
        sent: i64 = 0
        try:
            sent = _SPLICE(self._reader, target, received, None, None, _FLAGS)
        except OSError as error:
            if error.errno in _CANT:
                self.works = False
        left = received - sent
        if left:
            taken: i64 = 0
            while taken < left:
                read: i64 = os.readv(self._reader, [VIEW[taken:left]])
                taken += read
            self.left = left

    def _renew(self) -> None:
        """Something may have stayed in the pipe: have another one."""
        worked = self.works
        self.close()
        if worked:
            self.open()


PIPE: Final = Pipe()
"""The worker's. Whoever relays opens it."""
