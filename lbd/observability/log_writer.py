"""Writes log lines from a thread of its own, so that a slow or stuck stderr never holds the event loop."""

from __future__ import annotations

import os
import select
import threading
from collections.abc import Callable
from typing import TextIO

MAX_LINES = 10_000
"""Lines that wait for a slow stream; at about 300 bytes a line this is 3 MB. Later ones are dropped and counted."""

Put = Callable[[str], None]


def put_for(stream: TextIO) -> Put:
    """Return the function that writes to `stream`, waiting for it as long as it takes; it raises OSError or ValueError.

    A stream with a descriptor is written by descriptor: a daemon thread that is stuck inside sys.stderr while it holds
    its lock makes the interpreter abort at exit.
    """
    try:
        descriptor = stream.fileno()
    except (OSError, ValueError, AttributeError):
        return lambda text: _put_stream(stream, text)
    return lambda text: _put_descriptor(descriptor, text)


def _put_stream(stream: TextIO, text: str) -> None:
    stream.write(text)
    stream.flush()


def _put_descriptor(descriptor: int, text: str) -> None:
    rest = memoryview(text.encode("utf-8", "backslashreplace"))
    while rest:
        try:
            rest = rest[os.write(descriptor, rest) :]
        except BlockingIOError:
            poller = select.poll()  # somebody made the descriptor non-blocking, as terminals shared with others may be
            poller.register(descriptor, select.POLLOUT)
            poller.poll()


class LogWriter:
    """A bounded queue of lines and the thread that hands them to `put`, in order.

    Lines that find the queue full, or that `put` refuses, are lost and counted; `lost_line(count)` says so in the first
    lines that get through again. After a fork without exec the thread is missing in the child.
    """

    def __init__(self, put: Put, lost_line: Callable[[int], str], max_lines: int = MAX_LINES) -> None:
        self._put = put
        self._lost_line = lost_line
        self._max_lines = max_lines
        self._lines: list[str] = []
        self._lost = 0
        self._closing = False
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def start(self) -> None:
        """Start the thread."""
        self._thread = threading.Thread(target=self._run, name="lbd-log-writer", daemon=True)
        self._thread.start()

    def write(self, line: str) -> None:
        """Queue one line (without its newline). Never waits for the stream; after `close` the line is lost."""
        with self._changed:
            if self._closing or len(self._lines) >= self._max_lines:
                self._lost += 1
                return
            self._lines.append(line)
            self._changed.notify()

    def close(self, timeout_s: float = 2.0) -> None:
        """Write what is queued, waiting at most `timeout_s` for the stream, and end the thread."""
        with self._changed:
            self._closing = True
            self._changed.notify()
        if self._thread is not None:
            self._thread.join(timeout_s)

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._lines and not self._closing:
                    self._changed.wait()
                lines, self._lines = self._lines, []
                lost, self._lost = self._lost, 0
                closing = self._closing
            text = "".join(f"{line}\n" for line in [*lines, *([self._lost_line(lost)] if lost else [])])
            try:
                self._put(text)
            except (OSError, ValueError):
                # stderr is gone or closed, so there is nowhere to report it: the count comes with the next line.
                with self._changed:
                    self._lost += lost + len(lines)
            if closing:
                return
