"""The admin API: HTTP and JSON over a unix socket. docs/reference/admin-api.md describes it for users."""

from __future__ import annotations

import asyncio
import concurrent.futures
import json
import socket
from collections.abc import Awaitable, Callable

import structlog
from aiohttp import web

from lbd.model.admin_state import AdminStateChange, AdminStateResult
from lbd.model.status import ReloadResult, Status
from lbd.observability.admin_socket import AdminSocket, Peer, peer_of
from lbd.observability.bounded import BoundedServer, Limits, send_body
from lbd.observability.coalesce import Coalescer
from lbd.observability.status_json import StatusFormatError, decode, encode

log = structlog.get_logger(__name__)

ADMIN_LIMITS = Limits(connections=32, request_timeout_s=5.0, lifetime_s=120.0)
"""A reload waits until every worker has acknowledged it, so a connection may live longer than a scrape's."""

MAX_CHANGE_BYTES = 4096
"""A change names one service and one member."""

StatusSource = Callable[[], Status]
Reload = Callable[[], Awaitable[ReloadResult]]
SetAdminState = Callable[[AdminStateChange], Awaitable[AdminStateResult]]


class AdminServer:
    """Serves the admin API on the unix socket `path`.

    `status_source` is called in the event loop and must return a frozen snapshot. `reload` never runs twice at the same
    time: requests that come while one runs share the next one. A client that goes away stops no reload.
    `set_admin_state` returns once the change has arrived everywhere.
    """

    def __init__(
        self,
        path: str,
        status_source: StatusSource,
        reload: Reload,
        set_admin_state: SetAdminState,
        limits: Limits = ADMIN_LIMITS,
    ) -> None:
        self._socket = AdminSocket(path)
        self._status_source = status_source
        self._server = BoundedServer("admin", self._handle, lambda: _error(500, "lbd failed; its log says why"), limits)
        self._status = Coalescer(self._encode_status, "admin-status")
        self._set_admin_state = set_admin_state
        self._body_timeout_s = limits.request_timeout_s
        self._reload = Coalescer(reload, "admin-reload")
        self._executor: concurrent.futures.ThreadPoolExecutor | None = None
        self._routes: dict[str, tuple[str, Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]]] = {
            "/v1/status": ("GET", self._get_status),
            "/v1/reload": ("POST", self._post_reload),
            "/v1/admin-state": ("POST", self._post_admin_state),
            "/v1/healthz": ("GET", self._get_healthz),
        }

    async def start(self) -> None:
        """Make the socket and serve.

        Raises:
            AdminSocketError: see `AdminSocket.open`.
        """
        listener = self._socket.open()
        self._executor = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="lbd-admin")
        await self._server.start(listener)
        log.info("admin_listening", socket=self._socket.path)

    async def close(self) -> None:
        """Remove the socket file and stop serving; a request that is under way gets a second to end."""
        self._socket.remove()
        await self._server.close()
        await self._status.close()
        await self._reload.close()
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        route = self._routes.get(request.path)
        if route is None:
            return _error(404, f"no such path; there are {', '.join(self._routes)}")
        method, handler = route
        if request.method != method:
            return _error(405, f"only {method}", Allow=method)
        return await handler(request)

    async def _get_status(self, request: web.BaseRequest) -> web.StreamResponse:
        return await send_body(request, await self._status.get(), {"Content-Type": "application/json"})

    async def _encode_status(self) -> bytes:
        return await asyncio.get_running_loop().run_in_executor(self._executor, encode, self._status_source())

    async def _get_healthz(self, _request: web.BaseRequest) -> web.Response:
        return _json(200, {"state": self._status_source().state})

    async def _post_reload(self, request: web.BaseRequest) -> web.Response:
        peer = _peer(request)
        log.info("reload_requested", peer_pid=peer.pid, peer_uid=peer.uid, peer_gid=peer.gid)
        result = await self._reload.get()
        body: dict[str, object] = {
            "success": result.success,
            "generation": result.generation,
            "errors": list(result.errors),
        }
        if result.success:
            return _json(200, body)
        return _json(422, {"error": "the configuration was refused; the old one stays", **body})

    async def _post_admin_state(self, request: web.BaseRequest) -> web.Response:
        try:
            async with asyncio.timeout(self._body_timeout_s):
                change = decode(AdminStateChange, await _body(request, MAX_CHANGE_BYTES))
        except TimeoutError:
            return _error(408, f"the body did not come within {self._body_timeout_s:g} s")
        except (StatusFormatError, BodyTooLargeError) as error:
            return _error(400, f"not a change of an admin state: {error}")
        peer = _peer(request)
        names = {"service": change.service, "member": change.member, "admin_state": change.admin_state.value}
        log.info("admin_state_requested", **names, peer_pid=peer.pid, peer_uid=peer.uid, peer_gid=peer.gid)
        result = await self._set_admin_state(change)
        body: dict[str, object] = {
            "success": result.success,
            "configured": result.configured,
            "active_connections": result.active_connections,
        }
        return _json(200, body) if result.success else _json(422, {"error": result.error, **body})


class BodyTooLargeError(Exception):
    """The body of a request is longer than it can be."""


async def _body(request: web.BaseRequest, most_bytes: int) -> bytes:
    """Return the body of a request, of which no more than `most_bytes` are ever held."""
    body = b""
    while chunk := await request.content.read(most_bytes + 1 - len(body)):
        body += chunk
        if len(body) > most_bytes:
            raise BodyTooLargeError(f"the body has more than {most_bytes} bytes")
    return body


def _peer(request: web.BaseRequest) -> Peer:
    if request.transport is None:
        raise ConnectionResetError("the client went away")
    connection: socket.socket = request.transport.get_extra_info("socket")
    return peer_of(connection)


def _json(status: int, value: dict[str, object], **headers: str) -> web.Response:
    body = json.dumps(value).encode() + b"\n"
    return web.Response(status=status, body=body, headers=headers, content_type="application/json")


def _error(status: int, text: str, **headers: str) -> web.Response:
    return _json(status, {"error": text}, **headers)
