"""Members to check: real sockets on 127.0.0.1 and ::1, each served by threads so that they don't share the loop."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import pytest

from lbd.model.address import Endpoint

Talk = Callable[[socket.socket], Any]


class Members:
    """Starts members; `close` stops them and their threads."""

    def __init__(self) -> None:
        self.stopping = threading.Event()
        self._listeners: list[socket.socket] = []
        self._connections: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self.accepted = 0
        self.heard: list[bytes] = []

    def serve(self, talk: Talk, address: str = "127.0.0.1") -> Endpoint:
        """Accept connections and let `talk` have each one in a thread of its own."""
        listener = self.listen(address)
        self._run(self._accept, listener, talk)
        return Endpoint(address, listener.getsockname()[1])

    def listen(self, address: str = "127.0.0.1", backlog: int = 64) -> socket.socket:
        """Return a listener that nobody accepts from."""
        listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        listener.bind((address, 0))
        listener.listen(backlog)
        self._listeners.append(listener)
        return listener

    def black_hole(self, address: str = "127.0.0.1") -> Endpoint:
        """Return an endpoint whose kernel drops every SYN: its queue of one is full and stays so."""
        listener = self.listen(address, backlog=0)
        for _ in range(3):
            filler = socket.socket(listener.family)
            filler.setblocking(False)
            filler.connect_ex(listener.getsockname()[:2])
            self._connections.append(filler)
        return Endpoint(address, listener.getsockname()[1])

    def refusing(self, address: str = "127.0.0.1") -> Endpoint:
        """Return an endpoint where nothing listens; the port stays taken, so nobody else gets it."""
        taken = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET)
        taken.bind((address, 0))
        self._connections.append(taken)
        return Endpoint(address, taken.getsockname()[1])

    def answer_datagrams(self, answers: Callable[[bytes], Iterable[bytes]], address: str = "127.0.0.1") -> Endpoint:
        """Receive datagrams and send back what `answers` gives for each; `heard` keeps them."""
        listener = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
        listener.bind((address, 0))
        self._listeners.append(listener)
        self._run(self._answer_datagrams, listener, answers)
        return Endpoint(address, listener.getsockname()[1])

    def refusing_datagrams(self, address: str = "127.0.0.1") -> Endpoint:
        """Return an endpoint that answers datagrams with "port unreachable": its socket is connected to itself."""
        taken = socket.socket(socket.AF_INET6 if ":" in address else socket.AF_INET, socket.SOCK_DGRAM)
        taken.bind((address, 0))
        taken.connect(taken.getsockname()[:2])
        self._connections.append(taken)
        return Endpoint(address, taken.getsockname()[1])

    def flood(self, connection: socket.socket, first: bytes, repeated: bytes) -> None:
        """Send `first`, then `repeated` as fast as possible, until the other side has enough."""
        connection.sendall(first)
        while not self.stopping.is_set():
            connection.sendall(repeated)

    def trickle(self, connection: socket.socket, content: bytes) -> None:
        """Send one byte each 50 ms."""
        for byte in content:
            connection.sendall(bytes([byte]))
            if self.stopping.wait(0.05):
                return

    def hold(self, connection: socket.socket) -> None:
        """Say nothing for as long as the test runs."""
        self.stopping.wait()

    def close(self) -> None:
        self.stopping.set()
        for listener in self._listeners:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        for each in self._listeners + self._connections:
            each.close()

    def _run(self, target: Callable[..., None], *args: Any) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self, listener: socket.socket, talk: Talk) -> None:
        while True:
            try:
                connection, _ = listener.accept()
            except OSError:
                return
            self.accepted += 1
            connection.settimeout(5)
            self._run(self._talk, connection, talk)

    def _answer_datagrams(self, listener: socket.socket, answers: Callable[[bytes], Iterable[bytes]]) -> None:
        while True:
            packet, source = listener.recvfrom(65535)
            if self.stopping.is_set():
                return
            self.heard.append(packet)
            for answer in answers(packet):
                with contextlib.suppress(OSError):  # the test is over, and the socket shut down
                    listener.sendto(answer, source)

    def _talk(self, connection: socket.socket, talk: Talk) -> None:
        with connection, contextlib.suppress(OSError):
            talk(connection)


@pytest.fixture
def members() -> Iterator[Members]:
    started = Members()
    yield started
    started.close()


@pytest.fixture(params=["127.0.0.1", "::1"])
def address(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def descriptors() -> Callable[[], int]:
    """Counts this process's descriptors."""
    return lambda: len(os.listdir("/proc/self/fd"))


@pytest.fixture
def eventually() -> Callable[..., None]:
    """Waits (blocking) until a condition holds, for what the kernel or another thread does."""

    def wait(condition: Callable[[], bool], within_s: float = 5.0) -> None:
        deadline_s = time.monotonic() + within_s
        while not condition():
            assert time.monotonic() < deadline_s, "the condition never held"
            time.sleep(0.01)

    return wait
