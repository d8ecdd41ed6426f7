"""Shares one run of something costly between all who ask for it at the same time."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Generic, TypeVar

T = TypeVar("T")


class Coalescer(Generic[T]):
    """Runs `run` for whoever asks: never twice at the same time, and each caller gets a run that began after its call.

    However many ask, at most one run is under way and one waits behind it. A caller that gives up stops no run.
    """

    def __init__(self, run: Callable[[], Awaitable[T]], name: str) -> None:
        self._run = run
        self._name = name
        self._running: asyncio.Task[T] | None = None
        self._next: asyncio.Task[T] | None = None

    async def get(self) -> T:
        """Return the result of a run that begins after this call; raises what the run raises."""
        if self._next is None:
            self._next = asyncio.create_task(self._run_after(self._running), name=self._name)
        return await asyncio.shield(self._next)

    async def close(self) -> None:
        """Cancel what runs or waits; those who wait for it see CancelledError."""
        tasks = [task for task in (self._next, self._running) if task is not None]
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)

    async def _run_after(self, previous: asyncio.Task[T] | None) -> T:
        if previous is not None:
            await asyncio.wait({previous})
        self._running, self._next = self._next, None
        return await self._run()
