"""Asks the API server: plain JSON, bounded in size and time, with credentials as the files say them now.

kubernetes-asyncio reads the kubeconfig; its own REST client is not used: it follows redirects, trusts in proxies of the
environment, has no bounds, and reads a token file once.
"""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from dataclasses import dataclass
from typing import Any

import aiohttp
from yarl import URL

from lbd.kubernetes.api.answers import read_answer, read_object
from lbd.kubernetes.api.api_error import ApiError
from lbd.kubernetes.api.credential_store import CredentialStore
from lbd.kubernetes.api.credentials import Credentials, CredentialsError, load
from lbd.kubernetes.api.gate import Gate
from lbd.kubernetes.api.reachability import Reachability
from lbd.kubernetes.api.sessions import Sessions
from lbd.model.kubernetes import Kubernetes

__all__ = ("ApiClient", "ApiError", "ApiStatus")

MAX_BODY = 64 << 20
MAX_ERROR_BODY = 1 << 20
MAX_LINE = 4 << 20
"""Bytes of an answer, of one that says no, and of one event of a watch."""
_HEADERS = {"Accept": "application/json", "Accept-Encoding": "identity", "User-Agent": "lbd"}


@dataclass(frozen=True, slots=True)
class ApiStatus:
    """The API server as it looks from here. `reachable` is false before the first answer."""

    server: str
    reachable: bool
    error: str
    """Why it is away; empty while it isn't."""
    unreachable_for_s: float
    requests_total: int


class ApiClient:
    """All users of one API server share one of these: while the server is away they ask one at a time, with a backoff.

    `clock` is monotonic.
    """

    def __init__(
        self,
        kubernetes: Kubernetes,
        *,
        clock: Callable[[], float] = time.monotonic,
        rng: random.Random | None = None,
        load_credentials: Callable[[Kubernetes], Credentials] = load,
    ) -> None:
        self._kubernetes = kubernetes
        self._clock = clock
        self._reachability = Reachability(rng or random.Random())
        self._gate = Gate(self._reachability, clock)
        self._store = CredentialStore(lambda: load_credentials(kubernetes), clock)
        self._sessions = Sessions()

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content_type: str | None = None,
        timeout_s: float | None = None,
    ) -> dict[str, Any]:
        """Make one request and return the JSON object of its answer. `content_type` None is application/json.

        `timeout_s` bounds everything, also the wait for leave to ask while the server is away. Without, that wait has
        no bound, and the request itself that of the configuration.

        Raises:
            ApiError: there was no good answer.
        """
        started_s = self._clock()
        async with self._gate.turn(timeout_s):
            left_s = self._kubernetes.request_timeout_s
            if timeout_s is not None:
                left_s = max(0.0, min(left_s, timeout_s - (self._clock() - started_s)))
            async with _in_time(left_s), self._open(method, path, query, body, content_type) as response:
                return read_answer(response.status, response.headers, await _read(response))

    async def batches(
        self, path: str, *, query: Mapping[str, str], idle_timeout_s: float
    ) -> AsyncGenerator[list[dict[str, Any]], None]:
        """Watch until the server ends it: yield an empty list once it has taken it up, then the events that arrive.

        Those that came together are in one list. Close it (`contextlib.aclosing`) when leaving early.

        Raises:
            ApiError: it doesn't begin, breaks, brings something else than JSON objects, or nothing for
                `idle_timeout_s`. An ERROR event is an event: it is yielded.
        """
        async with AsyncExitStack() as stack:
            async with self._gate.turn(), _in_time(self._kubernetes.request_timeout_s):
                response = await stack.enter_async_context(self._open("GET", path, query, None, None))
                if response.status > 299:
                    read_answer(response.status, response.headers, await _read(response))
                if response.status != 200:
                    raise ApiError(0, "NotAnApiServer", f"HTTP {response.status} to a watch")
            async with self._gate.answer(), aclosing(_lines(response, idle_timeout_s)) as batches:
                yield []
                async for lines in batches:
                    yield lines

    async def stream(
        self, path: str, *, query: Mapping[str, str], idle_timeout_s: float
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Watch as `batches` does, and yield one event after the other.

        Raises:
            ApiError: as that of `batches`.
        """
        async with aclosing(self.batches(path, query=query, idle_timeout_s=idle_timeout_s)) as batches:
            async for batch in batches:
                for event in batch:
                    yield event

    def status(self) -> ApiStatus:
        """Return how the server looks now."""
        known = self._store.newest
        return ApiStatus(
            server=known.server if known is not None else "",
            reachable=self._reachability.reachable,
            error=self._reachability.error,
            unreachable_for_s=self._reachability.away_for_s(self._clock()),
            requests_total=self._gate.passed_total,
        )

    async def close(self) -> None:
        """Close all connections; whoever still waits for an answer gets an ApiError."""
        await self._sessions.close()

    @asynccontextmanager
    async def _open(
        self,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        body: Mapping[str, Any] | None,
        content_type: str | None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        """Send a request, a second time if the server refuses credentials that were changed meanwhile."""
        headers = dict(_HEADERS)
        sent = None if body is None else json.dumps(body).encode()
        if sent is not None:
            headers["Content-Type"] = content_type or "application/json"
        async with AsyncExitStack() as stack:
            try:
                credentials = await self._store.current()
                response = await self._send(stack, credentials, method, path, query, headers, sent)
                if response.status == 401:
                    other = await self._store.after_refusal(credentials)
                    if other is not None:
                        response.release()
                        response = await self._send(stack, other, method, path, query, headers, sent)
            except CredentialsError as error:
                raise ApiError(0, "Credentials", str(error)) from error
            except (aiohttp.ClientError, OSError, ValueError) as error:
                raise _unreachable(error) from error
            yield response

    async def _send(
        self,
        stack: AsyncExitStack,
        credentials: Credentials,
        method: str,
        path: str,
        query: Mapping[str, str] | None,
        headers: Mapping[str, str],
        body: bytes | None,
    ) -> aiohttp.ClientResponse:
        session = await stack.enter_async_context(self._sessions.use(credentials))
        authorization = {"Authorization": credentials.authorization} if credentials.authorization else {}
        sending = session.request(
            method,
            URL(credentials.server + path).with_query(dict(query or {})),
            data=body,
            headers={**headers, **authorization},
            allow_redirects=False,
            proxy=credentials.proxy,
            server_hostname=credentials.server_hostname,
        )
        return await stack.enter_async_context(sending)


@asynccontextmanager
async def _in_time(timeout_s: float) -> AsyncIterator[None]:
    """Bound what is done inside.

    Raises:
        ApiError: with status 0, when the time is over.
    """
    try:
        async with asyncio.timeout(timeout_s):
            yield
    except TimeoutError as error:
        raise ApiError(0, "Timeout", f"no answer in {timeout_s:.1f} s") from error


def _unreachable(error: Exception) -> ApiError:
    if isinstance(error, aiohttp.ClientPayloadError):  # its own words are about chunks
        return ApiError(0, "Unreachable", "the connection broke in the middle of an answer")
    return ApiError(0, "Unreachable", str(error) or type(error).__name__)


async def _read(response: aiohttp.ClientResponse) -> bytes:
    """Return the body of an answer, bounded."""
    most = MAX_BODY if response.status <= 299 else MAX_ERROR_BODY
    chunks, size = [], 0
    try:
        async for chunk in response.content.iter_any():
            size += len(chunk)
            if size > most:
                raise ApiError(response.status, "TooLarge", f"the answer has more than {most} bytes")
            chunks.append(chunk)
    except (aiohttp.ClientError, ConnectionError, ValueError) as error:
        raise _unreachable(error) from error
    return b"".join(chunks)


async def _lines(response: aiohttp.ClientResponse, idle_timeout_s: float) -> AsyncGenerator[list[dict[str, Any]], None]:
    """Yield the JSON objects, one a line, that are there each time something arrives."""
    rest = b""
    while chunk := await _next_chunk(response, idle_timeout_s):
        *whole, rest = (rest + chunk).split(b"\n")
        events, error = [], None
        for line in whole:
            try:
                if line.strip():
                    events.append(read_object(line))
            except ApiError as wrong:
                error = wrong
                break
        if events:
            yield events
        if error is not None:
            raise error
        if len(rest) > MAX_LINE:
            raise ApiError(0, "TooLarge", f"an event of the watch has more than {MAX_LINE} bytes")
    if rest.strip():
        yield [read_object(rest)]


async def _next_chunk(response: aiohttp.ClientResponse, idle_timeout_s: float) -> bytes:
    """Return what has arrived; nothing at the end of the answer."""
    try:
        async with asyncio.timeout(idle_timeout_s):
            return await response.content.readany()
    except TimeoutError as error:
        raise ApiError(0, "Timeout", f"the watch was silent for {idle_timeout_s:.0f} s") from error
    except (aiohttp.ClientError, ConnectionError, ValueError) as error:
        raise _unreachable(error) from error
