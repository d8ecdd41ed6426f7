"""Where requests to the API server wait for their turn, in the order in which they came; `reachability` decides."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

import structlog

from lbd.kubernetes.api.api_error import ApiError
from lbd.kubernetes.api.reachability import Reachability, Turn

log = structlog.get_logger(__name__)


class Gate:
    """Lets requests through as `reachability` allows, and tells it how they ended."""

    def __init__(self, reachability: Reachability, clock: Callable[[], float]) -> None:
        self._reachability = reachability
        self._clock = clock
        self._line = asyncio.Lock()
        self._changed = asyncio.Event()
        self.passed_total = 0

    @asynccontextmanager
    async def turn(self, timeout_s: float | None = None) -> AsyncIterator[None]:
        """Wait for leave to make one request; how the body ends says how the request did.

        Raises:
            ApiError: with status 0: there was no leave within `timeout_s`, because the server is away.
        """
        try:
            async with asyncio.timeout(timeout_s):
                turn = await self._enter()
        except TimeoutError:
            raise ApiError(0, "Away", f"not asked, the API server is away: {self._reachability.error}") from None
        try:
            yield
        except ApiError as error:
            self._ended(turn, error)
            raise
        except BaseException:
            self._reachability.abandoned(turn)
            self._changed.set()
            raise
        else:
            self._succeeded()

    @asynccontextmanager
    async def answer(self) -> AsyncIterator[None]:
        """Have an answer that goes on for long, as that of a watch does, say so when it fails."""
        turn = self._succeeded()
        try:
            yield
        except ApiError as error:
            self._ended(turn, error)
            raise

    async def _enter(self) -> Turn:
        async with self._line:
            while (wait_s := self._reachability.wait_s(self._clock())) != 0:
                self._changed.clear()
                try:
                    async with asyncio.timeout(wait_s):
                        await self._changed.wait()
                except TimeoutError:
                    pass  # its time has come
            self.passed_total += 1
            return self._reachability.begin()

    def _ended(self, turn: Turn, error: ApiError) -> None:
        if not error.away:
            self._succeeded()
            return
        was_away = self._reachability.away
        self._reachability.failed(turn, self._clock(), str(error), error.retry_after_s)
        if self._reachability.away and not was_away:
            log.warning("kubernetes_api_away", error=str(error))
        self._changed.set()

    def _succeeded(self) -> Turn:
        if self._reachability.away:
            log.info("kubernetes_api_back", away_s=round(self._reachability.away_for_s(self._clock()), 1))
        turn = self._reachability.succeeded()
        self._changed.set()
        return turn
