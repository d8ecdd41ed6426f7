"""What the checks over a socket of their own share: one total time, waiting for the socket, and an end."""

from __future__ import annotations

import asyncio
import socket
import time
from collections.abc import Coroutine

from lbd.health.probes.poller import Poller
from lbd.health.result import ProbeResult


class Conversation:
    """A socket that lives for one probe, and the time it has. Always `close` it."""

    __slots__ = ("_expired", "_poller", "_registered", "_socket", "_timer", "_waiter")

    _sends_may_block = True

    def __init__(self, poller: Poller, timeout_s: float) -> None:
        """Start the total time; no socket is made yet."""
        self._poller = poller
        self._socket: socket.socket | None = None
        self._registered = False
        self._expired = False
        self._waiter: asyncio.Future[None] | None = None
        self._timer = poller.loop.call_later(timeout_s, self._expire)

    def close(self) -> None:
        """Free everything, at once; idempotent."""
        self._timer.cancel()
        if self._socket is not None:
            self._poller.forget(self._socket.fileno())
            self._socket.close()
            self._socket = None

    async def ending_with(self, talk: Coroutine[None, None, ProbeResult]) -> ProbeResult:
        """Return the result of `talk`, which uses this socket, with the time that it took; close whatever happens."""
        started_s = time.monotonic()
        try:
            result = await talk
        finally:
            self.close()
        return result.after(time.monotonic() - started_s)

    async def _wait(self) -> bool:
        """Wait for an event; False when the total time is up."""
        assert self._socket is not None
        if self._expired:
            return False
        descriptor = self._socket.fileno()
        if not self._registered:
            self._poller.register(descriptor, to_send=self._sends_may_block)
            self._registered = True
        self._waiter = self._poller.waiter(descriptor)
        await self._waiter
        return not self._expired

    def _expire(self) -> None:
        self._expired = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
