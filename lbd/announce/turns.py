"""Keeps an endless task alive and its failures visible."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import structlog

log = structlog.get_logger(__name__)

FIRST_BACKOFF_S = 0.5
LONGEST_BACKOFF_S = 30.0


class Turns:
    """Calls `turn` again and again in a task named `name`, until it is stopped.

    A turn that raises is logged and shown in `problem` until one has succeeded; the next comes after a backoff of 0.5 s
    that doubles up to 30 s. Nothing but `stop` ends it.
    """

    def __init__(self, name: str, turn: Callable[[], Awaitable[None]]) -> None:
        self._name = name
        self._turn = turn
        self._task: asyncio.Task[None] | None = None
        self.problem = ""

    def start(self) -> None:
        """Start the task; does nothing if it runs."""
        if self._task is None:
            self._task = asyncio.create_task(self._run(), name=self._name)

    async def stop(self) -> None:
        """End the task and wait for its end; does nothing twice."""
        task, self._task = self._task, None
        if task is not None:
            task.cancel()
            await asyncio.wait({task})

    async def _run(self) -> None:
        backoff_s = FIRST_BACKOFF_S
        while True:
            try:
                await self._turn()
            except Exception as error:  # the last line of defence: an announcer must not die silently
                self.problem = f"{self._name}: {error!r}"
                log.error("task_failed", task=self._name, retry_in_s=backoff_s, exc_info=True)
                await asyncio.sleep(backoff_s)
                backoff_s = min(2 * backoff_s, LONGEST_BACKOFF_S)
            else:
                self.problem = ""
                backoff_s = FIRST_BACKOFF_S
