"""An announcer that also has the answers of its VIPs leave through the frontend network's gateway."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import structlog

from lbd.announce.announcer import Layer2Announcer
from lbd.announce.errors import AnnounceError, ClaimError, explain
from lbd.announce.netlink_events import AddressEvent, LinkEvent
from lbd.announce.netlink_thread import AddressError
from lbd.announce.return_path_table import ReturnPathTable
from lbd.announce.turns import Turns
from lbd.announce.watch import NetlinkWatch
from lbd.model.address import family_of
from lbd.model.status import VipState, VipStatus

log = structlog.get_logger(__name__)

RESYNC_INTERVAL_S = 10.0
"""Rules and routes that somebody removes are not among the events that we hear: look as often as this."""
_RETRY_INTERVAL_S = 1.0
_GATHER_S = 0.1


@dataclass(slots=True)
class _Side:
    """One address family: its gateway, and the VIPs that are to answer through it.

    `asked` counts the wishes to settle and `done` is the newest one that was fulfilled: callers that wait at the same
    time share one look at the kernel's tables.
    """

    gateway: str | None
    vips: set[str] = field(default_factory=set)
    lock: asyncio.Lock = field(default_factory=asyncio.Lock)
    asked: int = 0
    done: int = 0
    problem: str = ""


class ReturnPathAnnouncer:
    """Does what `inner` does; before a VIP is claimed its return path is there, and it goes after the VIP.

    `gateways` has at most one address of each family. Without one, rules and routes of ours are only swept: those of a
    daemon that had one. What the kernel removes with a link, or somebody by hand, is put back.
    """

    def __init__(self, inner: Layer2Announcer, interface: str, gateways: Sequence[str]) -> None:
        by_family = {family_of(gateway): gateway for gateway in gateways}
        self._inner = inner
        self._interface = interface
        self._table = ReturnPathTable(interface)
        self._sides = {family: _Side(by_family.get(family)) for family in (4, 6)}
        self._changed = asyncio.Event()
        self._watch = NetlinkWatch(self._on_events, self._changed.set)
        self._keeper = Turns("return-path-keeper", self._keep)
        self._started = False

    async def start(self) -> None:
        """Start the announcer; the upkeep of return paths begins with `sweep` or the first claim.

        Raises:
            AnnounceError: the kernel gives no netlink socket, or no list of addresses.
        """
        await self._inner.start()
        if self._started or not any(side.gateway for side in self._sides.values()):
            return
        try:
            self._watch.open()
        except OSError as error:
            raise AnnounceError(f"can't watch {self._interface}: {explain(error)}") from error
        self._started = True

    async def sweep(self, wanted: frozenset[str]) -> tuple[str, ...]:
        """Remove what a killed daemon left: VIPs, rules and routes that are not `wanted`. Returns the VIPs removed.

        Raises:
            AnnounceError: the kernel refused.
        """
        removed = await self._inner.sweep(wanted)
        for family, side in self._sides.items():
            try:
                left = await self._table.rules(family)
                # A VIP that stays has connections that go on: so does its way back, until it is claimed.
                side.vips |= (left & wanted) if side.gateway is not None else set()
                await self._settle(family)
            except (AddressError, OSError) as error:
                raise AnnounceError(f"can't sweep rules and routes: {_reason(error)}") from error
        if self._started:
            self._keeper.start()  # not earlier: it would take what a killed daemon left for surplus
        return removed

    async def claim(self, vip: str) -> None:
        """Make the return path, then own `vip`. Idempotent; does not try twice.

        Raises:
            ClaimError: as the announcer's, or the return path can't be had.
        """
        side = self._side(vip)
        if side is None:
            return await self._inner.claim(vip)
        side.vips.add(vip)
        self._keeper.start()
        try:
            try:
                await self._settle(family_of(vip))
            except (AddressError, OSError) as error:
                raise ClaimError(f"no way back for what {vip} answers: {_reason(error)}") from error
            await self._inner.claim(vip)
        except BaseException:
            side.vips.discard(vip)
            self._changed.set()  # the keeper takes the rule away
            raise

    async def withdraw(self, vip: str, reason: str) -> None:
        """Withdraw `vip`, then remove its return path. Idempotent.

        Raises:
            AnnounceError: the kernel refused.
        """
        await self._inner.withdraw(vip, reason)
        side = self._side(vip)
        if side is None:
            return
        side.vips.discard(vip)
        try:
            await self._settle(family_of(vip))
        except (AddressError, OSError) as error:
            raise AnnounceError(f"can't remove the return path of {vip}: {_reason(error)}") from error

    def status(self) -> tuple[VipStatus, ...]:
        """Return every VIP as the announcer has it, with what is wrong with its return path."""
        return tuple(self._with_problem(status) for status in self._inner.status())

    async def close(self, *, remove_addresses: bool) -> None:
        """Close the announcer, then end the upkeep; with `remove_addresses` the return paths go too.

        Raises:
            AnnounceError: something could not be removed; everything is closed all the same.
        """
        await self._keeper.stop()
        self._watch.close()
        try:
            await self._inner.close(remove_addresses=remove_addresses)
            if remove_addresses and self._started:
                for family, side in self._sides.items():
                    side.vips.clear()
                    await self._settle(family)
        except (AddressError, OSError) as error:
            raise AnnounceError(f"can't remove rules and routes: {_reason(error)}") from error
        finally:
            self._started = False
            await self._table.close()

    def _side(self, vip: str) -> _Side | None:
        """Return the side of a VIP whose family has a gateway."""
        side = self._sides[family_of(vip)]
        return side if side.gateway is not None else None

    def _with_problem(self, status: VipStatus) -> VipStatus:
        side = self._sides[family_of(status.address)]
        if not side.problem or status.state is not VipState.OWNED:
            return status
        return replace(status, reason="; ".join(filter(None, (status.reason, side.problem))))

    async def _settle(self, family: int) -> None:
        """Return after the kernel's tables were made what is wanted, by a pass that began after this call."""
        side = self._sides[family]
        side.asked += 1
        mine = side.asked
        async with side.lock:
            if side.done >= mine:
                return
            begun = side.asked
            changed = await self._table.settle(family, frozenset(side.vips), side.gateway)
            side.done = begun
        side.problem = ""
        if changed.remove or changed.add:
            log.info(
                "return_path_changed", family=family, gateway=side.gateway, interface=self._interface,
                removed=len(changed.remove), added=len(changed.add),
            )  # fmt: skip

    # Keeping.

    def _on_events(self, events: tuple[LinkEvent | AddressEvent, ...]) -> None:
        self._changed.set()

    async def _keep(self) -> None:
        """Wait for a change, then make the tables what they should be."""
        in_trouble = any(side.problem for side in self._sides.values())
        try:
            async with asyncio.timeout(_RETRY_INTERVAL_S if in_trouble else RESYNC_INTERVAL_S):
                await self._changed.wait()
        except TimeoutError:
            pass  # nothing was heard: look anyway
        await asyncio.sleep(_GATHER_S)
        self._changed.clear()
        for family, side in self._sides.items():
            if side.gateway is None:
                continue
            try:
                await self._settle(family)
            except (AddressError, OSError) as error:
                problem = f"no way back for what it answers: {_reason(error)}"
                if problem != side.problem:
                    log.warning("return_path_failed", family=family, gateway=side.gateway, reason=problem)
                side.problem = problem


def _reason(error: AddressError | OSError) -> str:
    """The table's own errors say who must act; what the system says is explained."""
    return str(error) if isinstance(error, AddressError) else explain(error)
