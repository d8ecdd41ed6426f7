"""What may stand between lbd and the API server: a TLS-terminating proxy that counts and misbehaves."""

from __future__ import annotations

import contextlib
import re
import select
import socket
import ssl
import threading
import time
from dataclasses import dataclass
from enum import StrEnum
from types import TracebackType
from typing import Self

from lbd.cli.demo.apiserver import ApiServer

_CHUNK = 65536
_HTML = b"<html><head><title>502 Bad Gateway</title></head><body><h1>502 Bad Gateway</h1></body></html>\r\n"


class Mood(StrEnum):
    """What the proxy does with a request."""

    PASS = "pass"
    """Passes it on, and the answer back as it comes."""
    BAD_GATEWAY = "bad_gateway"
    """Answers 502 with HTML, as a load balancer in front of API servers does while they are away."""
    EMPTY = "empty"
    """Answers 200 with nothing, and closes."""
    SILENT = "silent"
    """Reads it and never answers; the connection stays open."""
    GARBAGE = "garbage"
    """Answers 200 and JSON that is no object of Kubernetes."""


_ANSWERS = {
    Mood.BAD_GATEWAY: (b"502 Bad Gateway", b"text/html", _HTML),
    Mood.EMPTY: (b"200 OK", b"application/json", b""),
    Mood.GARBAGE: (b"200 OK", b"application/json", b'{"items": 7, "kind": ["List"], "metadata": "none"}'),
}


@dataclass(frozen=True, slots=True)
class Seen:
    """A request that came; `at_s` is monotonic, `mood` what was done with it."""

    at_s: float
    method: str
    target: str
    mood: Mood
    authorization: str
    """The header, empty if there was none."""

    @property
    def watches(self) -> bool:
        """Whether it asks for a watch."""
        return "watch=" in self.target and "watch=false" not in self.target.lower()


class ApiProxy:
    """Listens beside the API server with that one's own certificate, so that a kubeconfig differs in its port alone.

    A context manager; `url` is for the kubeconfig. `behave()` changes what happens to requests from now on and, unless
    told otherwise, breaks the connections that are open.
    """

    def __init__(self, server: ApiServer) -> None:
        self.mood = Mood.PASS
        self.requests: list[Seen] = []
        self._forgotten = 0
        """How often all open connections were forgotten."""
        self._server = server
        self._serving = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._serving.load_cert_chain(server.ca_path, server.key_path)
        self._asking = ssl.create_default_context(cafile=str(server.ca_path))
        self._listener = socket.create_server((server.address, 0), backlog=128)
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self.url = f"https://{server.address}:{self._listener.getsockname()[1]}"

    def __enter__(self) -> Self:
        threading.Thread(target=self._accept, daemon=True, name="proxy-accept").start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)  # wakes the thread in accept()
        self._listener.close()
        self.break_connections()

    def behave(self, mood: Mood, *, break_connections: bool = True) -> None:
        """Do this with every request from now on."""
        self.mood = mood
        if break_connections:
            self.break_connections()

    def break_connections(self) -> None:
        """Close every connection of a client."""
        with self._lock:
            still_open = list(self._open)
        for conn in still_open:
            with contextlib.suppress(OSError):
                conn.shutdown(socket.SHUT_RDWR)

    def forget_connections(self) -> None:
        """Pass nothing more on over the connections that are open, and leave them open: a router that lost its memory.

        New ones are served.
        """
        self._forgotten += 1

    def seen(self, since_s: float = 0.0, pattern: str = "") -> list[Seen]:
        """Return the requests since a monotonic time whose `METHOD target` matches a regular expression."""
        return [
            one
            for one in list(self.requests)
            if one.at_s >= since_s and re.search(pattern, f"{one.method} {one.target}")
        ]

    # -- one thread for each connection ----------------------------------------------------------------------------

    def _accept(self) -> None:
        while True:
            try:
                plain, _ = self._listener.accept()
            except OSError:
                return  # closed
            threading.Thread(target=self._serve, args=(plain,), daemon=True, name="proxy").start()

    def _serve(self, plain: socket.socket) -> None:
        with self._lock:
            self._open.add(plain)
        try:
            with contextlib.suppress(OSError), self._serving.wrap_socket(plain, server_side=True) as client:
                with self._lock:
                    self._open.add(client)
                try:
                    while self._one_request(client):
                        pass
                finally:
                    with self._lock:
                        self._open.discard(client)
        finally:
            with self._lock:
                self._open.discard(plain)
            plain.close()

    def _one_request(self, client: ssl.SSLSocket) -> bool:
        """Handle one request; return whether another may follow on the connection."""
        raw = _read_request(client)
        if raw is None:
            return False
        method, target = raw.split(b" ", 2)[:2]
        mood = self.mood
        found = re.search(rb"(?i)\r\nauthorization: *([^\r]*)", raw)
        authorization = found[1].decode() if found else ""
        self.requests.append(Seen(time.monotonic(), method.decode(), target.decode(), mood, authorization))
        if mood is Mood.PASS:
            return self._pass_on(client, raw)
        if mood is Mood.SILENT:
            return _keep_silent(client)
        status, kind, body = _ANSWERS[mood]
        head = b"HTTP/1.1 %s\r\nContent-Type: %s\r\nContent-Length: %d\r\nConnection: close\r\n\r\n"
        client.sendall(head % (status, kind, len(body)) + body)
        return False

    def _pass_on(self, client: ssl.SSLSocket, raw: bytes) -> bool:
        """Send the request on with `Connection: close`, and what comes back to the client until either closes."""
        begun = self._forgotten
        head, blank, body = raw.partition(b"\r\n\r\n")
        lines = [line for line in head.split(b"\r\n") if not line.lower().startswith(b"connection:")]
        with (
            socket.create_connection((self._server.address, self._server.port), 10.0) as plain,
            self._asking.wrap_socket(plain, server_hostname=self._server.address) as upstream,
        ):
            upstream.settimeout(None)
            upstream.sendall(b"\r\n".join([*lines, b"Connection: close"]) + blank + body)
            while True:
                if not upstream.pending():
                    readable, _, _ = select.select([upstream, client], [], [])
                    if client in readable and upstream not in readable:
                        return False  # it went away, or said what nobody waits for: the answer is not wanted
                chunk = upstream.recv(_CHUNK)
                if self._forgotten != begun:
                    return _keep_silent(client)
                if not chunk:
                    return False
                client.sendall(chunk)


def _keep_silent(client: ssl.SSLSocket) -> bool:
    """Say nothing until the client has had enough, or the connection is broken; none may follow on it."""
    client.recv(1)
    return False


def _read_request(client: ssl.SSLSocket) -> bytes | None:
    """Return one whole request, or None where the connection ends."""
    raw = b""
    while b"\r\n\r\n" not in raw:
        chunk = client.recv(_CHUNK)
        if not chunk:
            return None
        raw += chunk
    head, _, body = raw.partition(b"\r\n\r\n")
    found = re.search(rb"(?i)\r\ncontent-length: *(\d+)", head)
    wanted = int(found[1]) if found else 0
    while len(body) < wanted:
        chunk = client.recv(_CHUNK)
        if not chunk:
            return None
        raw += chunk
        body += chunk
    return raw
