"""What the fault tests throw at a service: thousands of sockets from one thread, and SYNs that nobody stands behind."""

from __future__ import annotations

import contextlib
import select
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from types import TracebackType
from typing import Self

from kit_lifecycle import Held
from lab_servers import reset
from lbd.cli.demo.lab import Pod
from lbd.cli.demo.namespace import Namespace


class CrowdServer:
    """Listens in a Pod (IPv4) and holds any number of connections in one thread. Each gets `greeting`, as far as the
    kernel takes it at once, and is closed when the other end has gone."""

    def __init__(self, pod: Pod, port: int = 80, greeting: bytes = b"") -> None:
        self._listener = pod.socket()
        self._listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._listener.bind((pod.address[4], port))
        self._listener.listen(4096)
        self._greeting = greeting
        self._open: dict[int, socket.socket] = {}
        self._stop_reader, self._stop_writer = socket.socketpair()
        self._thread = threading.Thread(target=self._serve, daemon=True, name="crowd-server")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop_writer.close()
        self._thread.join()
        for conn in [*self._open.values(), self._listener, self._stop_reader]:
            conn.close()

    @property
    def open(self) -> int:
        """How many connections it holds."""
        return len(self._open)

    def _serve(self) -> None:
        with select.epoll() as poller:
            poller.register(self._listener, select.EPOLLIN)
            poller.register(self._stop_reader, select.EPOLLIN | select.EPOLLHUP)
            while True:
                for descriptor, _ in poller.poll():
                    if descriptor == self._stop_reader.fileno():
                        return
                    if descriptor != self._listener.fileno():
                        self._open.pop(descriptor).close()
                        continue
                    conn, _ = self._listener.accept()
                    conn.setblocking(False)
                    if self._greeting:
                        conn.send(self._greeting)
                    self._open[conn.fileno()] = conn
                    poller.register(conn, select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR)


@contextlib.contextmanager
def crowd_process(pod: Pod, port: int = 80) -> Iterator[None]:
    """Hold connections in a Pod by a process of its own: this one may not have descriptors for both ends."""
    argv = [sys.executable, "-c", _SILENT_SERVER, pod.address[4], str(port)]
    with pod.popen(argv, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"listening\n"
        try:
            yield
        finally:
            process.kill()


_SILENT_SERVER = """
import resource, select, socket, sys
resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
listener = socket.create_server((sys.argv[1], int(sys.argv[2])), backlog=4096)
opened, poller = {}, select.epoll()
poller.register(listener, select.EPOLLIN)
print("listening", flush=True)
while True:
    for descriptor, _ in poller.poll():
        if descriptor == listener.fileno():
            conn, _ = listener.accept()
            opened[conn.fileno()] = conn
            poller.register(conn, select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR)
        else:
            opened.pop(descriptor).close()
"""


def crowd(namespace: Namespace, address: str, port: int, count: int, receive_buffer: int = 0) -> list[socket.socket]:
    """Return `count` connections, made at once; small receive buffers stop the sender soon."""
    opened = namespace.call(lambda: [socket.socket() for _ in range(count)])
    for conn in opened:
        conn.settimeout(20.0)
        if receive_buffer:
            conn.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        conn.connect((address, port))
    return opened


def reset_all(opened: list[socket.socket]) -> None:
    """End connections with a reset each."""
    for conn in opened:
        reset(conn)


class RoundTrips:
    """Asks an echo connection again and again while the `with` block runs; `worst_s` is the longest it waited."""

    def __init__(self, namespace: Namespace, address: str, port: int, every_s: float = 0.005) -> None:
        self._held = Held(namespace, address, port)
        self._every_s = every_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._ask, daemon=True, name="round-trips")
        self.worst_s = 0.0
        self.count = 0
        self.failed = False

    def __enter__(self) -> Self:
        assert self._held.works()
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join()
        self._held.close()

    def _ask(self) -> None:
        while not self._stopping.wait(self._every_s):
            begun_s = time.monotonic()
            self.failed |= not self._held.works()
            self.worst_s = max(self.worst_s, time.monotonic() - begun_s)
            self.count += 1


def flood_with_syns(namespace: Namespace, source_prefix: str, target: tuple[str, int], count: int) -> None:
    """Send `count` SYNs to `target`, each from another address under `source_prefix` (`198.18.`), which nobody has."""
    address, port = target
    raw = namespace.call(socket.socket, socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_RAW)
    with raw:
        for number in range(count):
            source = f"{source_prefix}{number >> 8 & 255}.{number & 255}"
            raw.sendto(_syn(source, address, 1024 + number % 60000, port, number), (address, 0))


def _syn(source: str, target: str, source_port: int, port: int, sequence: int) -> bytes:
    """A TCP SYN in an IPv4 packet (RFC 9293 §3.1); the kernel fills in the checksum and length of the IP header."""
    addresses = socket.inet_aton(source) + socket.inet_aton(target)
    segment = struct.pack("!HHIIBBHHH", source_port, port, sequence, 0, 5 << 4, 0x02, 65535, 0, 0)
    words = struct.unpack("!16H", addresses + struct.pack("!HH", socket.IPPROTO_TCP, len(segment)) + segment)
    total = sum(words)
    total = (total & 0xFFFF) + (total >> 16)
    checksum = ~(total + (total >> 16)) & 0xFFFF
    segment = segment[:16] + struct.pack("!H", checksum) + segment[18:]
    return struct.pack("!BBHHHBBH", 0x45, 0, 40, 0, 0, 64, socket.IPPROTO_TCP, 0) + addresses + segment
