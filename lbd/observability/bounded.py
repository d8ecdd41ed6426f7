"""An HTTP server that a slow or hostile client can't harm: bounded connections, time, header sizes and memory."""

from __future__ import annotations

import asyncio
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any, cast

import structlog
from aiohttp import web

from lbd.observability.rate_cap import RateCap

log = structlog.get_logger(__name__)

CHUNK_BYTES = 64 * 1024
"""What one connection may have in its send buffer beside the shared body."""

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)

Handler = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


@dataclass(frozen=True, slots=True)
class Limits:
    """What one server gives to its clients.

    Each connection carries one request. Its headers must be complete `request_timeout_s` after the connect, and the
    whole connection ends after `lifetime_s`. One more than `connections` throws out the oldest that has not asked yet;
    when all have asked, the new one is closed.
    """

    connections: int = 16
    request_timeout_s: float = 5.0
    lifetime_s: float = 30.0
    line_bytes: int = 4096
    field_bytes: int = 4096
    headers: int = 64


class BoundedServer:
    """Serves `handler` on a listening socket within `limits`.

    An exception in `handler` is logged and answered with what `server_error` makes, a 500.
    """

    def __init__(self, name: str, handler: Handler, server_error: Callable[[], web.Response], limits: Limits) -> None:
        self._name = name
        self._handler = handler
        self._server_error = server_error
        self.limits = limits
        self._connections: dict[_Connection, None] = {}
        self._refusals = RateCap(1.0)
        self._failures = RateCap(1.0)
        self._http: web.Server | None = None
        self._server: asyncio.Server | None = None

    async def start(self, listener: socket.socket) -> None:
        """Accept on `listener` (bound, TCP or unix), which belongs to this server from now on."""
        loop = asyncio.get_running_loop()
        self._http = web.Server(self._handle)
        listener.setblocking(False)
        if listener.family is socket.AF_UNIX:
            self._server = await loop.create_unix_server(self._make_connection, sock=listener)
        else:
            self._server = await loop.create_server(self._make_connection, sock=listener)

    async def close(self, grace_s: float = 1.0) -> None:
        """Stop accepting, give running requests `grace_s`, then cut what is left."""
        if self._server is None or self._http is None:
            return
        self._server.close()
        await self._http.shutdown(grace_s)
        for connection in list(self._connections):
            connection.abort()
        await self._server.wait_closed()
        self._server = None

    def admit(self, connection: _Connection) -> None:
        """Take a new connection in, at the cost of another one, or abort it."""
        if len(self._connections) >= self.limits.connections:
            victim = next((other for other in self._connections if not other.has_asked), connection)
            admission = self._refusals.admit(asyncio.get_running_loop().time())
            if admission.log:
                log.warning(
                    "http_connections_at_limit",
                    server=self._name,
                    limit=self.limits.connections,
                    refused_new=victim is connection,
                    suppressed=admission.suppressed,
                )
            self._connections.pop(victim, None)
            victim.abort()
            if victim is connection:
                return
        self._connections[connection] = None

    def forget(self, connection: _Connection) -> None:
        """Free the place of a connection that ended."""
        self._connections.pop(connection, None)

    def _make_connection(self) -> _Connection:
        assert self._http is not None
        return _Connection(self, self._http)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        cast(_Connection, request.protocol).has_asked = True
        try:
            response = await self._handler(request)
        except Exception as error:  # noqa: BLE001 - whatever it is, it is logged, and the server serves on
            gone = request.transport is None or request.transport.is_closing()
            if not (gone and isinstance(error, ConnectionError)):
                self._report(request, error)
            response = self._server_error()
        response.force_close()
        return response

    def _report(self, request: web.BaseRequest, error: Exception) -> None:
        admission = self._failures.admit(asyncio.get_running_loop().time())
        if admission.log:
            log.error(
                "http_request_failed",
                server=self._name,
                path=request.path,
                suppressed=admission.suppressed,
                exc_info=error,
            )


class _Connection(web.RequestHandler):
    """aiohttp's connection with two deadlines."""

    __slots__ = ("_lifetime_timer", "_owner", "_request_timer", "has_asked")

    def __init__(self, owner: BoundedServer, http: web.Server) -> None:
        limits = owner.limits
        super().__init__(
            http,
            loop=asyncio.get_running_loop(),
            keepalive_timeout=limits.request_timeout_s,
            access_log=None,  # type: ignore[arg-type] # its documented way to write no access log
            max_line_size=limits.line_bytes,
            max_field_size=limits.field_bytes,
            max_headers=limits.headers,
            lingering_time=0.5,
            auto_decompress=False,  # a small body could become a large one
        )
        self._owner = owner
        self.has_asked = False
        self._request_timer: asyncio.TimerHandle | None = None
        self._lifetime_timer: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        super().connection_made(transport)
        loop, limits = asyncio.get_running_loop(), self._owner.limits
        self._request_timer = loop.call_later(limits.request_timeout_s, self._abort_if_silent)
        self._lifetime_timer = loop.call_later(limits.lifetime_s, self.abort)
        self._owner.admit(self)

    def connection_lost(self, exc: BaseException | None) -> None:
        for timer in (self._request_timer, self._lifetime_timer):
            if timer is not None:
                timer.cancel()
        self._owner.forget(self)
        super().connection_lost(exc)

    def abort(self) -> None:
        """End the connection by a reset: after a FIN the kernel would keep what waits to be sent for minutes."""
        if self.transport is not None:
            connection = self.transport.get_extra_info("socket")
            if connection is not None and connection.family != socket.AF_UNIX:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            self.transport.abort()

    def _abort_if_silent(self) -> None:
        if not self.has_asked:
            self.abort()


async def send_body(request: web.BaseRequest, body: bytes, headers: dict[str, str]) -> web.StreamResponse:
    """Answer 200 with a large `body` that several responses may share: each buffers only `CHUNK_BYTES` of it."""
    response = web.StreamResponse(headers=headers)
    response.content_length = len(body)
    response.force_close()
    view = memoryview(body)
    try:
        await response.prepare(request)
        for start in range(0, len(body), CHUNK_BYTES):
            await response.write(view[start : start + CHUNK_BYTES])
        await response.write_eof()
    except ConnectionError:
        # The client went away or was cut. aiohttp finds that out itself when it ends the response, and logs an error
        # with a traceback when it is told by an exception: a client could fill the log.
        return response
    return response


def plain(status: int, text: str, **headers: Any) -> web.Response:
    """Return a short answer in plain text."""
    return web.Response(status=status, text=text + "\n", headers=headers)
