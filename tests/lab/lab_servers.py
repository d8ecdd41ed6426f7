"""What runs in the Pods: listeners of a Pod's namespace, each connection handled by a thread of this process."""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import socket
import struct
import threading
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from lbd.cli.demo.lab import Pod

CHUNK = 65536
SO_ATTACH_FILTER = 26  # asm-generic/socket.h
SO_DETACH_FILTER = 27
_RESET_ON_CLOSE = struct.pack("ii", 1, 0)

Handler = Callable[[socket.socket, "PodServer"], None]


class PodServer:
    """Listens in a Pod, on its address of each family, and gives each connection to `handler` in a thread.

    A context manager: listening inside. `stop()` and `start()` again are a server that dies and comes back (between
    them the Pod refuses). `black_hole()` drops what arrives for the port without an answer.
    """

    def __init__(self, pod: Pod, handler: Handler, port: int = 80, backlog: int = 4096) -> None:
        self.pod = pod
        self.port = port
        self.handler = handler
        self.backlog = backlog
        self.accepted = 0
        self.received_bytes = 0
        self.sent_bytes = 0
        self.sources: list[str] = []
        self.digests: list[str] = []
        self.failures: list[BaseException] = []
        self._lock = threading.Lock()
        self._open: set[socket.socket] = set()
        self._listeners: list[socket.socket] = []
        self._stopping = False
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()
        if self.failures and error is None:
            raise AssertionError(f"the server in {self.pod.name} failed") from self.failures[0]

    @property
    def open(self) -> int:
        """How many connections are open now."""
        with self._lock:
            return len(self._open)

    def start(self) -> Self:
        """Listen on both families and accept."""
        self._stopping = False
        for family, address in ((socket.AF_INET, self.pod.address[4]), (socket.AF_INET6, self.pod.address[6])):
            listener = self.pod.socket(family)
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((address, self.port))
            listener.listen(self.backlog)
            self._listeners.append(listener)
            thread = threading.Thread(target=self._accept, args=(listener,), daemon=True)
            thread.start()
            self._threads.append(thread)
        return self

    def stop(self) -> None:
        """Close the listeners and end every connection (with FIN; RST where unread bytes wait)."""
        self._stopping = True
        for listener in self._listeners:
            with contextlib.suppress(OSError):
                listener.shutdown(socket.SHUT_RDWR)  # wakes the thread in accept()
            listener.close()
        with self._lock:
            still_open = list(self._open)
        for conn in still_open:
            with contextlib.suppress(OSError):
                conn.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5.0)
        self._listeners.clear()
        self._threads.clear()

    def black_hole(self) -> None:
        """Drop every packet for the listeners unseen (a socket filter that accepts zero bytes): connects time out."""
        instruction = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))  # BPF_RET | BPF_K, 0 bytes
        program = struct.pack("HxxxxxxP", 1, ctypes.addressof(instruction))
        for listener in self._listeners:
            listener.setsockopt(socket.SOL_SOCKET, SO_ATTACH_FILTER, program)

    def end_black_hole(self) -> None:
        """Let packets through again."""
        for listener in self._listeners:
            listener.setsockopt(socket.SOL_SOCKET, SO_DETACH_FILTER, 0)

    def count(self, *, received: int = 0, sent: int = 0) -> None:
        """Add to the byte counters (handlers call it)."""
        with self._lock:
            self.received_bytes += received
            self.sent_bytes += sent

    def _accept(self, listener: socket.socket) -> None:
        while True:
            try:
                conn, source = listener.accept()
            except OSError:
                return  # stopped
            with self._lock:
                self.accepted += 1
                self.sources.append(source[0])
                self._open.add(conn)
            threading.Thread(target=self._handle, args=(conn,), daemon=True).start()

    def _handle(self, conn: socket.socket) -> None:
        try:
            self.handler(conn, self)
        except (ConnectionError, TimeoutError):
            pass  # the other end may go as it likes; what it got is the client's to judge
        except OSError as error:
            if conn.fileno() >= 0 and not self._stopping:
                self.failures.append(error)
        except Exception as error:  # noqa: BLE001  (the end of the `with` block raises it in the test's thread)
            self.failures.append(error)
        finally:
            with self._lock:
                self._open.discard(conn)
            conn.close()


def reset(conn: socket.socket) -> None:
    """Close with a RST; what waits in the send buffer is thrown away."""
    conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
    conn.close()


def pattern(size: int) -> memoryview:
    """Return `size` bytes (up to 16 MiB) of a stream that repeats only after 16 MiB + 1, so that a shift shows."""
    return memoryview(_PATTERN)[:size]


_PATTERN = hashlib.shake_128(b"lbd").digest(1 << 24)


def pattern_digest(size: int) -> str:
    """Return the SHA-256 of what `send_pattern` sends."""
    digest = hashlib.sha256()
    for left in range(size, 0, -len(_PATTERN)):
        digest.update(pattern(min(left, len(_PATTERN))))
    return digest.hexdigest()


def send_pattern(conn: socket.socket, size: int) -> None:
    """Send `size` bytes, any number of them."""
    for left in range(size, 0, -len(_PATTERN)):
        conn.sendall(pattern(min(left, len(_PATTERN))))


def receive_digest(
    conn: socket.socket, *, chunk: int = 1 << 18, pause_s: float = 0.0, pauses: int = 0
) -> tuple[int, str]:
    """Read to the end of the stream; return how many bytes came and their SHA-256.

    `pause_s` is waited after each of the first `pauses` reads: a slow reader.
    """
    buffer = bytearray(chunk)
    digest = hashlib.sha256()
    size = 0
    while count := conn.recv_into(buffer):
        digest.update(memoryview(buffer)[:count])
        size += count
        if pauses > 0:
            pauses -= 1
            time.sleep(pause_s)
    return size, digest.hexdigest()


# -- handlers ------------------------------------------------------------------------------------------------------


def echo(conn: socket.socket, server: PodServer) -> None:
    """Send back what comes, and FIN after FIN."""
    while chunk := conn.recv(CHUNK):
        server.count(received=len(chunk))
        conn.sendall(chunk)
        server.count(sent=len(chunk))


def http(conn: socket.socket, server: PodServer) -> None:
    """Answer each GET with 200 and the Pod's name; keeps the connection unless told `Connection: close`."""
    body = server.pod.name.encode()
    pending = b""
    while True:
        while b"\r\n\r\n" not in pending:
            chunk = conn.recv(CHUNK)
            if not chunk:
                return
            server.count(received=len(chunk))
            pending += chunk
        request, _, pending = pending.partition(b"\r\n\r\n")
        close = b"connection: close" in request.lower()
        answer = b"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: %d\r\n%s\r\n%s" % (
            len(body),
            b"Connection: close\r\n" if close else b"",
            body,
        )
        conn.sendall(answer)
        server.count(sent=len(answer))
        if close:
            return


def hold(conn: socket.socket, server: PodServer) -> None:
    """Read and say nothing until the other end is done."""
    while chunk := conn.recv(CHUNK):
        server.count(received=len(chunk))


def greet_and_hold(conn: socket.socket, server: PodServer) -> None:
    """Send the Pod's name and a newline at once, then hold: tells a client whom it got without ending."""
    greeting = server.pod.name.encode() + b"\n"
    conn.sendall(greeting)
    server.count(sent=len(greeting))
    hold(conn, server)


def streams(size: int) -> Handler:
    """Return a handler that sends `size` bytes of the pattern and ends with FIN."""

    def handler(conn: socket.socket, server: PodServer) -> None:
        send_pattern(conn, size)
        server.count(sent=size)
        conn.shutdown(socket.SHUT_WR)
        hold(conn, server)

    return handler


def swallows(*, pause_s: float = 0.0, pauses: int = 0) -> Handler:
    """Return a handler that reads to the end (slowly at first, if told), notes the SHA-256, and answers with it."""

    def handler(conn: socket.socket, server: PodServer) -> None:
        size, digest = receive_digest(conn, pause_s=pause_s, pauses=pauses)
        server.count(received=size)
        server.digests.append(digest)
        conn.sendall(f"{size} {digest}".encode())

    return handler


def replies_after_fin(reply_size: int) -> Handler:
    """Return a handler that waits for the client's FIN, then sends `reply_size` bytes of the pattern."""

    def handler(conn: socket.socket, server: PodServer) -> None:
        hold(conn, server)
        send_pattern(conn, reply_size)
        server.count(sent=reply_size)

    return handler


def resets_after(received: int) -> Handler:
    """Return a handler that reads `received` bytes (or less, at FIN) and answers with a RST."""

    def handler(conn: socket.socket, server: PodServer) -> None:
        left = received
        while left > 0 and (chunk := conn.recv(min(left, CHUNK))):
            left -= len(chunk)
            server.count(received=len(chunk))
        reset(conn)

    return handler


def sends_then_resets(size: int) -> Handler:
    """Return a handler that sends `size` bytes, waits till the peer's TCP has them all, and resets."""

    def handler(conn: socket.socket, server: PodServer) -> None:
        send_pattern(conn, size)
        server.count(sent=size)
        _wait_sent(conn)
        reset(conn)

    return handler


def _wait_sent(conn: socket.socket, timeout_s: float = 10.0) -> None:
    import fcntl

    deadline_s = time.monotonic() + timeout_s
    while struct.unpack("i", fcntl.ioctl(conn, 0x5411, b"\0" * 4))[0]:  # SIOCOUTQ
        if time.monotonic() > deadline_s:
            raise AssertionError("the peer did not take what was sent")
        time.sleep(0.001)


@contextlib.contextmanager
def full_backlog(pod: Pod, port: int = 80, family: int = 4):  # type: ignore[no-untyped-def]  # a generator of None
    """Listen in the Pod with a queue that is full and never emptied: connects hang, established nothing."""
    kind = socket.AF_INET if family == 4 else socket.AF_INET6
    listener = pod.socket(kind)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind((pod.address[family], port))
    listener.listen(0)
    fillers = []
    for _ in range(3):
        filler = pod.socket(kind)
        filler.setblocking(False)
        filler.connect_ex((pod.address[family], port))
        fillers.append(filler)
    try:
        yield
    finally:
        for filler in fillers:
            filler.close()
        listener.close()
