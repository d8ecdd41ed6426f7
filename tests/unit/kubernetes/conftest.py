"""A server that answers as a test says: for what a real API server can't be made to do."""

from __future__ import annotations

import asyncio
import contextlib
import json
import ssl
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import yaml
from aiohttp import web

from lbd.kubernetes.api import credential_store, reachability
from lbd.kubernetes.watching import watch_pace

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@dataclass
class ScriptedApi:
    """What was asked, and how it is answered: `handler` may be changed at any time."""

    handler: Handler
    url: str = ""
    requests: list[web.Request] = field(default_factory=list)
    times: list[float] = field(default_factory=list)
    bodies: list[bytes] = field(default_factory=list)
    _answering: set[asyncio.Task[Any]] = field(default_factory=set)
    _asked: asyncio.Event = field(default_factory=asyncio.Event)

    async def handle(self, request: web.Request) -> web.StreamResponse:
        """Keep what was asked, and have the handler answer."""
        task = asyncio.current_task()
        assert task is not None
        self._answering.add(task)
        task.add_done_callback(self._answering.discard)
        self.requests.append(request)
        self.times.append(time.monotonic())
        self.bodies.append(await request.read())
        self._asked.set()
        return await self.handler(request)

    @staticmethod
    def refuse(code: int, reason: str, message: str = "no", **headers: str) -> web.Response:
        """Return an answer of an API server that says no."""
        said = {"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message}
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return web.json_response(said, status=code, headers=named)

    @staticmethod
    async def stream(
        request: web.Request, *chunks: bytes | dict[str, Any], hold: asyncio.Event | None = None
    ) -> web.StreamResponse:
        """Answer with chunks, as a watch does; the answer ends when `hold` is set."""
        response = web.StreamResponse(headers={"Content-Type": "application/json"})
        await response.prepare(request)
        for chunk in chunks:
            await response.write(chunk if isinstance(chunk, bytes) else json.dumps(chunk).encode() + b"\n")
        if hold is not None:
            await hold.wait()
        return response

    def stop(self) -> None:
        """End what is being answered: a handler may wait for ever."""
        for task in self._answering:
            task.cancel()

    async def wait_for(self, count: int) -> None:
        """Return when so many requests have come."""
        async with asyncio.timeout(10):
            while len(self.requests) < count:
                self._asked.clear()
                await self._asked.wait()


async def _nothing(_request: web.Request) -> web.StreamResponse:
    return web.json_response({})


@contextlib.asynccontextmanager
async def _serve(tls: ssl.SSLContext | None = None) -> AsyncIterator[ScriptedApi]:
    api = ScriptedApi(_nothing)
    server = web.Server(api.handle, handler_cancellation=True)
    runner = web.ServerRunner(server, shutdown_timeout=0)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls)
    await site.start()
    assert site._server is not None
    port = site._server.sockets[0].getsockname()[1]  # type: ignore[attr-defined]
    api.url = f"{'https' if tls else 'http'}://127.0.0.1:{port}"
    try:
        yield api
    finally:
        api.stop()
        await runner.cleanup()


@dataclass
class ConfigFolder:
    """A kubeconfig and the files that it names."""

    folder: Path

    def write(self, server: str, user: dict[str, Any] | None = None, **cluster: Any) -> str:
        """Write the kubeconfig and return its path; without a user, its token is in the file `token`."""
        if user is None:
            user = {"tokenFile": "token"}
            if not (self.folder / "token").exists():
                self.write_token("first")
        config = {
            "apiVersion": "v1",
            "kind": "Config",
            "current-context": "it",
            "contexts": [
                {"name": "it", "context": {"cluster": "c", "user": "u"}},
                {"name": "other", "context": {"cluster": "elsewhere", "user": "u"}},
            ],
            "clusters": [
                {"name": "c", "cluster": {"server": server, **cluster}},
                {"name": "elsewhere", "cluster": {"server": "http://elsewhere.example:8080/prefix/"}},
            ],
            "users": [{"name": "u", "user": user}],
        }
        path = self.folder / "kubeconfig"
        path.write_text(yaml.safe_dump(config))
        return str(path)

    def write_token(self, token: str) -> None:
        """Replace the token's file, as who rotates it does: another file takes its name."""
        fresh = self.folder / "token.new"
        fresh.write_text(token + "\n")
        fresh.replace(self.folder / "token")


@pytest.fixture
def kubeconfig(tmp_path: Path) -> ConfigFolder:
    return ConfigFolder(tmp_path)


@pytest.fixture
def scripted_api() -> Callable[..., contextlib.AbstractAsyncContextManager[ScriptedApi]]:
    """Runs a server on a free port of this machine: `async with scripted_api() as api: api.handler = …`."""
    return _serve


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make every backoff 50 times as short; how long each is has tests of its own."""
    monkeypatch.setattr(reachability, "FIRST_BACKOFF_S", 0.02)
    monkeypatch.setattr(reachability, "LONGEST_BACKOFF_S", 0.1)
    for name in ("FIRST_DELAY_S", "LONGEST_DELAY_S", "LONGEST_DELAY_AWAY_S", "MISSING_DELAY_S"):
        monkeypatch.setattr(watch_pace, name, getattr(watch_pace, name) / 50)
    monkeypatch.setattr(credential_store, "CHECK_INTERVAL_S", 0.0)
