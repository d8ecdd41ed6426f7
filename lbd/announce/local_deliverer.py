"""Keeps what members send to clients' own addresses coming to this machine."""

from __future__ import annotations

import asyncio
from collections.abc import Callable

import structlog

from lbd.announce.errors import AnnounceError, explain
from lbd.announce.local_delivery import Members
from lbd.announce.local_delivery_table import LocalDeliveryTable
from lbd.announce.netlink_events import AddressEvent, LinkEvent
from lbd.announce.netlink_thread import AddressError
from lbd.announce.turns import Turns
from lbd.announce.watch import NetlinkWatch

log = structlog.get_logger(__name__)

RESYNC_INTERVAL_S = 10.0
"""Rules and routes that somebody removes are not among the events that we hear: look as often as this."""
_RETRY_INTERVAL_S = 1.0
_GATHER_S = 0.1


class LocalDeliveryError(OSError):
    """Answers to clients can't be had; the text says why and who must act."""


class LocalDeliverer:
    """Makes the rules and routes what `members()` needs, and keeps them so.

    `is_used` False: nobody will need any, and what a killed daemon left is only swept at the start.
    """

    def __init__(self, members: Callable[[], Members], *, is_used: bool) -> None:
        self._members = members
        self._is_used = is_used
        self._table = LocalDeliveryTable()
        self._lock = asyncio.Lock()
        self._changed = asyncio.Event()
        self._watch = NetlinkWatch(self._on_events, self._changed.set)
        self._keeper = Turns("local-delivery-keeper", self._keep)
        self._started = False
        self._may_have_added = False
        self.problem = ""
        """Why answers to clients may not arrive; empty while all is well."""

    async def start(self) -> None:
        """Remove what a killed daemon left and nobody needs, and begin the upkeep.

        Raises:
            AnnounceError: the kernel refused.
        """
        self._may_have_added = self._may_have_added or self._is_used
        try:
            await self.settle()
            if self._is_used and not self._started:
                self._watch.open()
                self._keeper.start()
                self._started = True
        except OSError as error:
            reason = str(error) if isinstance(error, LocalDeliveryError) else explain(error)
            raise AnnounceError(f"can't have answers to clients delivered here: {reason}") from error

    async def settle(self) -> None:
        """Return after the kernel's tables were made what is needed now.

        Raises:
            LocalDeliveryError: the kernel refused.
        """
        async with self._lock:
            members = self._members()
            try:
                for family in (4, 6):
                    await self._settle(family, members)
            except (AddressError, OSError) as error:
                reason = str(error) if isinstance(error, AddressError) else explain(error)
                self._note_problem(reason)
                raise LocalDeliveryError(reason) from error
            self.problem = ""

    async def _settle(self, family: int, members: Members) -> None:
        changed = await self._table.settle(family, members)
        if changed.remove or changed.add:
            log.info(
                "local_delivery_changed", family=family, removed=len(changed.remove), added=len(changed.add)
            )  # fmt: skip

    def look_again(self) -> None:
        """Settle soon: somebody may be needed no more."""
        self._changed.set()

    async def close(self, *, remove: bool) -> None:
        """End the upkeep; with `remove` everything of ours goes.

        Raises:
            AnnounceError: something could not be removed; everything is closed all the same.
        """
        await self._keeper.stop()
        self._watch.close()
        try:
            if remove and self._may_have_added:  # also where the start has failed halfway
                async with self._lock:
                    for family in (4, 6):
                        await self._settle(family, frozenset())
        except (AddressError, OSError) as error:
            reason = str(error) if isinstance(error, AddressError) else explain(error)
            raise AnnounceError(f"can't remove the rules of transparent services: {reason}") from error
        finally:
            self._started = self._may_have_added = False
            await self._table.close()

    def _note_problem(self, reason: str) -> None:
        problem = f"what members answer to clients may not arrive here: {reason}"
        if problem != self.problem:
            log.warning("local_delivery_failed", reason=reason)
        self.problem = problem

    # Keeping.

    def _on_events(self, events: tuple[LinkEvent | AddressEvent, ...]) -> None:
        self._changed.set()

    async def _keep(self) -> None:
        """Wait for a change, then make the tables what they should be."""
        try:
            async with asyncio.timeout(_RETRY_INTERVAL_S if self.problem else RESYNC_INTERVAL_S):
                await self._changed.wait()
        except TimeoutError:
            pass  # nothing was heard: look anyway
        await asyncio.sleep(_GATHER_S)
        self._changed.clear()
        try:
            await self.settle()
        except LocalDeliveryError:
            pass  # noted as the problem, and tried again
