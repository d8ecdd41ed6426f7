"""Owns VIPs on a layer-2 segment: addresses on an interface, kept there and announced."""

from __future__ import annotations

import asyncio
import ipaddress
import pathlib
import time
import weakref
from collections.abc import Callable

import structlog

from lbd.announce.addresses import AddressTable
from lbd.announce.errors import AnnounceError, ClaimError, explain
from lbd.announce.frames import mac_text
from lbd.announce.held import Vip
from lbd.announce.inventory import ADDRESS_PROTOCOL, Inventory, Link, orphans, ours_among
from lbd.announce.netlink_events import AddressEvent, LinkEvent
from lbd.announce.netlink_thread import AddressError
from lbd.announce.station import Station
from lbd.announce.turns import FIRST_BACKOFF_S, LONGEST_BACKOFF_S, Turns
from lbd.announce.watch import NetlinkWatch
from lbd.model.status import VipState, VipStatus

log = structlog.get_logger(__name__)

STATE_DIRECTORY = pathlib.Path("/var/lib/lbd")
RESYNC_INTERVAL_S = 30.0
"""Look at the whole inventory even if no event came: the net under the events."""
_GATHER_S = 0.1
"""Events that come close together cause one dump."""
_REST = 10.0
_LONGEST_GATHER_S = 1.0
"""After a look that took long, the next one waits _REST times as long, at most this."""
_CLAIM_MAX_AGE_S = 1.0
"""Claims that come one after another share a dump this old: of 500 VIPs each would otherwise decode up to 500."""
_RESTORE_INTERVAL_S = 0.5
"""Between two times that one address is put back: a program that removes it again at once gets no busy loop."""


class Layer2Announcer:
    """Claims VIPs on `interface`: puts them there as host addresses with lbd's tag, and announces them.

    The interface is known by name: it may come, go and come back as another one. On one that resolves no neighbours
    (loopback, NOARP) addresses are added and nothing is announced. `state_directory` is used on kernels that don't keep
    the tag. `address_protocol` and `event_buffer_bytes` are for tests. All methods belong to one event loop.
    """

    def __init__(
        self,
        interface: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        state_directory: pathlib.Path = STATE_DIRECTORY,
        address_protocol: int = ADDRESS_PROTOCOL,
        event_buffer_bytes: int = 1 << 20,
    ) -> None:
        self._interface = interface
        self._clock = clock
        self._vips: dict[str, Vip] = {}
        self._locks: weakref.WeakValueDictionary[str, asyncio.Lock] = weakref.WeakValueDictionary()
        self._table = AddressTable(state_directory, address_protocol)
        self._station = Station(interface, self._vips, clock)
        self._watch = NetlinkWatch(self._on_events, self._on_lost_events, event_buffer_bytes)
        self._changed = asyncio.Event()
        self._link_fell = False
        self._failures = 0
        self._gather_s = _GATHER_S
        self._tasks = (
            Turns("vip-keeper", self._keep),
            Turns("vip-announcements", self._station.announce_due),
        )
        self._running = False

    async def start(self) -> None:
        """Start to watch the interface; it need not exist yet. Does nothing if it is started.

        Raises:
            AnnounceError: the kernel gives no netlink socket, or no list of addresses.
        """
        if self._running:
            return
        try:
            self._watch.open()
            self._station.notice(await self._table.inventory(), fell=False)
        except (AddressError, OSError) as error:
            await self.close(remove_addresses=False)
            raise AnnounceError(f"can't watch {self._interface}: {explain(error)}") from error
        self._running = True
        self._changed.set()
        for task in self._tasks:
            task.start()

    async def sweep(self, wanted: frozenset[str]) -> tuple[str, ...]:
        """Remove what a killed daemon left: our addresses that are not `wanted`, or wanted but on another interface.

        A wanted one on our interface stays, so that its connections live on until it is claimed. Returns what was
        removed.

        Raises:
            AnnounceError: the kernel refused.
        """
        keep = frozenset(map(_canonical, wanted)) | frozenset(self._vips)
        try:
            removed = await self._table.remove_ours(
                lambda inventory: orphans(inventory, self._interface, keep),
            )
        except (AddressError, OSError) as error:
            raise AnnounceError(f"can't sweep: {explain(error)}") from error
        for entry in removed:
            log.info("vip_orphan_removed", vip=entry.address, interface_index=entry.index)
        return tuple(dict.fromkeys(entry.address for entry in removed))

    async def claim(self, vip: str) -> None:
        """Own `vip`: ask the neighbours, add the address, announce it. Idempotent; does not try twice.

        Not asked when the address is on the interface already. One that somebody else put there is used and shown as
        adopted.

        Raises:
            ClaimError: somebody else owns it, or it can't be had now; the reason is in `status` too.
        """
        vip = _canonical(vip)
        async with self._lock(vip):
            if not self._running:
                raise ClaimError("the announcer is not running")
            record = self._vips.setdefault(vip, Vip(vip))
            if not record.held:
                record.state, record.reason, record.owner_mac = VipState.CLAIMING, "", None
            try:
                await self._take(record)
            except ClaimError as error:
                self._claim_failed(record, error)
                raise
            except (AddressError, OSError) as error:
                failure = ClaimError(f"can't claim {vip} on {self._interface}: {explain(error)}")
                self._claim_failed(record, failure)
                raise failure from error
            except asyncio.CancelledError:
                if not record.held:
                    record.fail("the claim was cancelled")
                raise

    async def withdraw(self, vip: str, reason: str) -> None:
        """Stop to announce `vip` and remove it if lbd added it; `reason` goes to the log. Idempotent.

        Raises:
            AnnounceError: the kernel refused; the VIP is then shown as withdrawing.
        """
        vip = _canonical(vip)
        async with self._lock(vip):
            record = self._vips.get(vip)
            if record is not None:
                record.release(reason)
            try:
                removed = await self._table.remove_ours(
                    lambda inventory: ours_among(inventory, self._interface, frozenset((vip,))),
                )
            except (AddressError, OSError) as error:
                failure = AnnounceError(f"can't withdraw {vip} from {self._interface}: {explain(error)}")
                if record is not None:
                    record.release(failure.reason)
                raise failure from error
            if self._vips.pop(vip, None) is not None or removed:
                log.info("vip_withdrawn", vip=vip, interface=self._interface, reason=reason, removed=bool(removed))

    def status(self) -> tuple[VipStatus, ...]:
        """Return every VIP that was claimed, tried or is being withdrawn, with what is wrong with it now."""
        now_s = self._clock()
        problems = (self._station.hindrance, self._watch.problem, *(task.problem for task in self._tasks))
        hindrance = "; ".join(filter(None, problems))
        return tuple(vip.status(self._interface, hindrance, now_s) for vip in self._vips.values())

    async def close(self, *, remove_addresses: bool) -> None:
        """End the tasks and close the sockets; with `remove_addresses` withdraw all VIPs first. Does nothing twice.

        Raises:
            AnnounceError: an address could not be removed; everything is closed all the same.
        """
        self._running = False
        for task in self._tasks:
            await task.stop()
        self._watch.close()
        self._station.close()
        vips = frozenset(self._vips)
        self._vips.clear()
        try:
            if remove_addresses and vips:
                removed = await self._table.remove_ours(lambda inventory: ours_among(inventory, self._interface, vips))
                log.info("vips_withdrawn", interface=self._interface, reason="closing", removed=len(removed))
        except (AddressError, OSError) as error:
            raise AnnounceError(f"can't remove the VIPs from {self._interface}: {explain(error)}") from error
        finally:
            await self._table.close()

    # Claiming.

    async def _take(self, record: Vip) -> None:
        # An address that somebody added since then is found when ours is added exclusively.
        inventory = await self._table.inventory(max_age_s=_CLAIM_MAX_AGE_S)
        link = inventory.link(self._interface)
        if link is None:
            raise ClaimError(f"there is no interface {self._interface}")
        present = inventory.find(link.index, record.address)
        if record.held and present:
            return
        if not present and not record.held:
            await self._ask_neighbours(record.address, link, inventory)
        if not self._running:
            raise ClaimError("the announcer is closing")
        added = not present and await self._table.add(link.index, record.address)
        if not present and not added:  # somebody was faster
            present = (await self._table.inventory()).find(link.index, record.address)
        adopted = not added and not any(entry.ours for entry in present)
        record.hold(adopted=adopted, now_s=self._clock())
        self._station.wake()
        log.info("vip_claimed", vip=record.address, interface=self._interface, added=added, adopted=adopted)

    async def _ask_neighbours(self, vip: str, link: Link, inventory: Inventory) -> None:
        if not link.resolves:
            return
        if not link.running:
            raise ClaimError(f"{link.name} is down or has no carrier: can't ask whether somebody else has {vip}")
        rival = await self._station.ask(vip, link, inventory.macs)
        if rival is not None:
            does = "has" if rival.owns else "is claiming"
            raise ClaimError(f"{mac_text(rival.mac)} {does} {vip} already", mac_text(rival.mac))

    def _claim_failed(self, record: Vip, error: ClaimError) -> None:
        log.warning(
            "vip_claim_failed",
            vip=record.address,
            interface=self._interface,
            reason=error.reason,
            owner_mac=error.owner_mac,
        )
        record.fail(error.reason, error.owner_mac)

    def _lock(self, vip: str) -> asyncio.Lock:
        """Return the lock that keeps claim, withdrawal and upkeep of one VIP apart; it lives while it is used."""
        lock = self._locks.get(vip)
        if lock is None:
            self._locks[vip] = lock = asyncio.Lock()
        return lock

    # Keeping.

    def _on_events(self, events: tuple[LinkEvent | AddressEvent, ...]) -> None:
        for event in events:
            if isinstance(event, LinkEvent) and event.index == self._station.link_index and not event.running:
                self._link_fell = True
        self._changed.set()

    def _on_lost_events(self) -> None:
        """The lost ones may have been of the link: announcing once too often is harmless."""
        self._link_fell = True
        self._changed.set()

    async def _keep(self) -> None:
        """Wait for a change, then make the interface what it should be."""
        patience_s = RESYNC_INTERVAL_S
        if self._failures:
            patience_s = min(FIRST_BACKOFF_S * 2 ** min(self._failures - 1, 10), LONGEST_BACKOFF_S)
        try:
            async with asyncio.timeout(patience_s):
                await self._changed.wait()
        except TimeoutError:
            pass  # nothing was heard for long: look anyway
        await asyncio.sleep(self._gather_s)
        self._changed.clear()
        begun_s = self._clock()
        try:
            failed = await self._reconcile()
        except BaseException:
            self._changed.set()  # what was heard still has to be looked at
            raise
        self._failures = self._failures + 1 if failed else 0
        # Hundreds of VIPs that come one by one are as many events, and each look takes as long as there are VIPs.
        self._gather_s = min(max(_GATHER_S, _REST * (self._clock() - begun_s)), _LONGEST_GATHER_S)

    async def _reconcile(self) -> bool:
        """Put back what is missing and renew what is known; return whether something is left to be done soon."""
        # What is held is noted before the dump: a VIP claimed after it would look missing.
        held = [record for record in self._vips.values() if record.held]
        inventory = await self._table.inventory()
        fell, self._link_fell = self._link_fell, False
        self._station.notice(inventory, fell=fell)
        link = inventory.link(self._interface)
        if link is None:
            for record in held:
                record.fail(f"there is no interface {self._interface}")
            return bool(held)
        return not all([await self._keep_address(record, link, inventory) for record in held])

    async def _keep_address(self, record: Vip, link: Link, inventory: Inventory) -> bool:
        """Put the address back if it is missing; return False if it could not be, or was put back a moment ago."""
        present = inventory.find(link.index, record.address)
        if present and record.state is VipState.OWNED:
            record.adopted = not any(entry.ours for entry in present)
            return True
        async with self._lock(record.address):
            now_s = self._clock()
            if not record.held or not self._running:
                return True
            if now_s - record.restored_s < _RESTORE_INTERVAL_S:
                return False
            if present:
                record.hold(adopted=not any(entry.ours for entry in present), now_s=now_s)
            else:
                try:
                    added = await self._table.add(link.index, record.address)
                except AddressError as error:
                    self._restore_failed(record, explain(error))
                    return False
                if not added:
                    self._changed.set()  # somebody put it there meanwhile: the next dump shows who
                    return True
                record.hold(adopted=False, now_s=now_s)
            record.restored_s = now_s
        self._station.wake()
        log.warning("vip_restored", vip=record.address, interface=self._interface, reason="it was not on the interface")
        return True

    def _restore_failed(self, record: Vip, why: str) -> None:
        reason = f"it vanished from {self._interface} and can't be put back: {why}"
        if record.reason != reason:
            log.error("vip_restore_failed", vip=record.address, interface=self._interface, reason=reason)
        record.fail(reason)


def _canonical(vip: str) -> str:
    try:
        return str(ipaddress.ip_address(vip))
    except ValueError as error:
        raise ClaimError(str(error)) from error
