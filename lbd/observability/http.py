"""The metrics server: GET /metrics for Prometheus, rendered from the status snapshot in a thread of its own."""

from __future__ import annotations

import asyncio
import concurrent.futures
import gzip
import socket
from collections.abc import Callable
from functools import partial

import structlog
from aiohttp import web

from lbd.model.address import Endpoint, family_of
from lbd.model.status import Status
from lbd.observability.bounded import BoundedServer, Limits, plain, send_body
from lbd.observability.coalesce import Coalescer
from lbd.observability.exposition import Format, negotiate, render
from lbd.observability.metrics import collect
from lbd.observability.process import process_families

log = structlog.get_logger(__name__)

_GZIP_LEVEL = 1
"""12.8 MB of samples: 1.5 MB in 0.07 s at level 1, 1.3 MB in 0.44 s at level 9."""


def render_scrape(status: Status, form: Format, compressed: bool) -> bytes:
    """Render one snapshot, and the `process_*` metrics of this process, as the body of a scrape."""
    body = render([*collect(status), *process_families()], form)
    return gzip.compress(body, _GZIP_LEVEL) if compressed else body


class MetricsServer:
    """Serves metrics over HTTP. `status_source` is called in the event loop and must return a frozen snapshot.

    Scrapes that come together share one rendering, of a snapshot taken after they came; renderings never overlap and
    take at most half of the time, however often somebody scrapes.
    """

    def __init__(
        self, address: str, port: int, status_source: Callable[[], Status], limits: Limits | None = None
    ) -> None:
        """`port` 0 lets the kernel choose one; `start` returns it."""
        self._address = address
        self._port = port
        self._status_source = status_source
        self._server = BoundedServer(
            "metrics",
            self._handle,
            lambda: plain(500, "the metrics could not be made; the log says why"),
            limits or Limits(),
        )
        self._bodies = {
            (form, compressed): Coalescer(partial(self._render, form, compressed), f"metrics-{form.name}-{compressed}")
            for form in Format
            for compressed in (False, True)
        }
        self._turn = asyncio.Lock()
        self._not_before_s = 0.0
        self._executor: concurrent.futures.ThreadPoolExecutor | None = None

    async def start(self) -> Endpoint:
        """Listen, and return where.

        Raises:
            OSError: the address can't be bound; its text names the address.
        """
        family = socket.AF_INET6 if family_of(self._address) == 6 else socket.AF_INET
        try:
            listener = socket.create_server((self._address, self._port), family=family)
        except OSError as error:
            where = f"[{self._address}]" if family is socket.AF_INET6 else self._address
            raise OSError(error.errno, f"metrics: can't listen on {where}:{self._port}: {error.strerror}") from error
        bound = Endpoint(*listener.getsockname()[:2])
        self._executor = concurrent.futures.ThreadPoolExecutor(1, thread_name_prefix="lbd-metrics")
        await self._server.start(listener)
        log.info("metrics_listening", listen=str(bound))
        return bound

    async def close(self) -> None:
        """Stop serving; a scrape that is under way gets a second to end."""
        await self._server.close()
        for body in self._bodies.values():
            await body.close()
        if self._executor is not None:
            self._executor.shutdown(wait=False, cancel_futures=True)

    async def _handle(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.path not in ("/", "/metrics"):
            return plain(404, "not found; metrics are at /metrics")
        if request.method != "GET":
            return plain(405, "only GET", Allow="GET")
        if request.path == "/":
            return plain(200, "lbd: metrics for Prometheus are at /metrics")
        form = negotiate(request.headers.get("Accept", ""))
        compressed = _accepts_gzip(request.headers.get("Accept-Encoding", ""))
        body = await self._bodies[form, compressed].get()
        headers = {"Content-Type": form.value, "Vary": "Accept, Accept-Encoding"}
        if compressed:
            headers["Content-Encoding"] = "gzip"
        return await send_body(request, body, headers)

    async def _render(self, form: Format, compressed: bool) -> bytes:
        loop = asyncio.get_running_loop()
        async with self._turn:
            await asyncio.sleep(max(0.0, self._not_before_s - loop.time()))
            began_s = loop.time()
            body = await loop.run_in_executor(self._executor, render_scrape, self._status_source(), form, compressed)
            ended_s = loop.time()
            self._not_before_s = ended_s + (ended_s - began_s)
        return body


def _accepts_gzip(accept_encoding: str) -> bool:
    for coding in accept_encoding.split(","):
        name, *parameters = (part.strip().lower() for part in coding.split(";"))
        if name == "gzip":
            return not any(parameter.replace(" ", "") in ("q=0", "q=0.0") for parameter in parameters)
    return False
