"""Who waits until what is wanted has arrived. The unit is the VIP, with all services on it."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from dataclasses import dataclass, field


@dataclass(slots=True, eq=False)
class _Wait:
    """`number` is that of the change that it must have seen; `pending` are the VIPs that are waited for, then."""

    number: int
    done: asyncio.Event = field(default_factory=asyncio.Event)
    pending: set[str] | None = None


class Settling:
    """Which VIPs are not as they are wanted, and who waits for them.

    Each wait is for what was wanted when it began, and for each VIP to have been in order once since: where changes
    come all the time, there is always something that is not.
    """

    def __init__(self) -> None:
        self._unsettled: set[str] = set()
        self._waits: set[_Wait] = set()

    async def wait(self, number: int) -> None:
        """Wait until the change of this number has arrived, or nobody waits for anything any more."""
        wait = _Wait(number)
        self._waits.add(wait)
        try:
            await wait.done.wait()
        finally:
            self._waits.discard(wait)

    def note(self, settled: Iterable[str], unsettled: Iterable[str], number: int) -> None:
        """Take what was found out about VIPs in a pass; all changes up to `number` were taken over in it."""
        settled = set(settled)
        self._unsettled -= settled
        self._unsettled |= set(unsettled)
        for wait in self._waits:
            if wait.pending is None and number >= wait.number:
                wait.pending = set(self._unsettled)
            if wait.pending is not None:
                wait.pending -= settled
                if not wait.pending:
                    wait.done.set()

    def end(self) -> None:
        """Nobody shall wait for what is no longer wanted."""
        for wait in self._waits:
            wait.done.set()
