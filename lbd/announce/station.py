"""Our presence on one interface's segment: announces the VIPs in time, probes, and notices rivals."""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Callable, Mapping

import structlog

from lbd.announce.errors import explain
from lbd.announce.frames import Utterance, announcements, mac_text, parse
from lbd.announce.held import Vip
from lbd.announce.inventory import Inventory, Link
from lbd.announce.link import PacketLink
from lbd.announce.prober import Prober, Rival
from lbd.announce.timeline import Timeline, hear_conflict

log = structlog.get_logger(__name__)

_IDLE_S = 60.0


class Station:
    """Speaks for `vips`, a mapping that its owner changes, on the link that `notice` last told of.

    Starts no task: its owner calls `announce_due` again and again.
    """

    def __init__(self, interface: str, vips: Mapping[str, Vip], clock: Callable[[], float]) -> None:
        self._interface = interface
        self._vips = vips
        self._clock = clock
        self._packets = PacketLink(self._hear)
        self._prober = Prober(self._packets)
        self._link: Link | None = None
        self._own_macs: frozenset[bytes] = frozenset()
        self._due = asyncio.Event()
        self._packet_problem = ""

    @property
    def link_index(self) -> int | None:
        """The index of the link that `notice` last told of."""
        return self._link.index if self._link else None

    @property
    def hindrance(self) -> str:
        """Why nothing can be announced now; empty if all is well, or if this interface needs no announcements."""
        if self._link is None:
            return f"there is no interface {self._interface}"
        if not self._link.resolves:
            return ""
        if not self._link.running:
            return f"{self._interface} is down or has no carrier: not announced"
        return f"not announced: {self._packet_problem}" if self._packet_problem else ""

    def notice(self, inventory: Inventory, *, fell: bool) -> None:
        """Take the state of the link; `fell` says that it was down for a moment since the last call.

        When it has come back, is another one of the same name or has another MAC, every VIP is announced anew.
        """
        before, self._link = self._link, inventory.link(self._interface)
        self._own_macs = inventory.macs
        if self._link is None:
            self._packets.close()
            if before is not None:
                log.warning("interface_gone", interface=self._interface)
            return
        is_new = before is None or (before.index, before.mac) != (self._link.index, self._link.mac)
        self._open_packets(self._link)
        if before is not None and before.running and not self._link.running:
            log.warning("link_down", interface=self._interface)
        if self._link.running and (is_new or fell or (before is not None and not before.running)):
            if before is not None:
                log.info("link_back", interface=self._interface, mac=mac_text(self._link.mac))
            self._begin_again()

    def wake(self) -> None:
        """Let `announce_due` look again: a VIP came or its timeline changed."""
        self._due.set()

    async def ask(self, vip: str, link: Link, own_macs: frozenset[bytes]) -> Rival | None:
        """Return who uses `vip` on the segment of `link`, or None.

        Raises:
            OSError: the neighbours could not be asked.
        """
        self._own_macs |= own_macs
        self._packets.open(link)
        return await self._prober.ask(vip, link.mac)

    async def announce_due(self) -> None:
        """Announce what is due now, then wait until something is due again or `wake` is called."""
        self._due.clear()
        now_s = self._clock()
        next_due_s = now_s + _IDLE_S
        for vip in list(self._vips.values()):
            if vip.timeline is not None and vip.timeline.is_due(now_s):
                self._announce(vip, now_s)
            if vip.timeline is not None:
                next_due_s = min(next_due_s, vip.timeline.due_s)
        try:
            async with asyncio.timeout(max(0.0, next_due_s - now_s)):
                await self._due.wait()
        except TimeoutError:
            pass  # the next announcement is due

    def close(self) -> None:
        """Close the sockets."""
        self._packets.close()
        self._link = None

    def _open_packets(self, link: Link) -> None:
        if not link.resolves:
            self._packets.close()
            return
        try:
            self._packets.open(link)
        except OSError as error:
            self._problem(explain(error))
        else:
            self._packet_problem = ""

    def _problem(self, reason: str) -> None:
        if reason != self._packet_problem:
            log.warning("announcement_failed", interface=self._interface, reason=reason)
        self._packet_problem = reason

    def _begin_again(self) -> None:
        now_s = self._clock()
        for vip in self._vips.values():
            if vip.timeline is not None:
                vip.timeline = Timeline.begin(now_s)
        self._due.set()

    def _announce(self, vip: Vip, now_s: float) -> None:
        """Announce and move the timeline on; without a link that is all: one that comes back begins anew."""
        assert vip.timeline is not None, "only what has a timeline is announced"
        if self._link is None or not self._link.resolves or not self._link.running or self._send(vip, self._link):
            vip.timeline = vip.timeline.after_sending(now_s)
        else:
            vip.timeline = vip.timeline.after_failure(now_s)

    def _send(self, vip: Vip, link: Link) -> bool:
        """Send one announcement; False if the kernel did not take all of it."""
        try:
            self._packets.open(link)
            sent = [self._packets.send(frame) for frame in announcements(vip.address, link.mac)]
        except OSError as error:
            self._problem(explain(error))
            if error.errno != errno.ENETDOWN:
                # Bound to a link that was deleted, even if one with its index is back: opened anew by the next attempt.
                self._packets.close()
            return False
        if all(sent):
            self._packet_problem = ""
            vip.announcements_total += 1
        return all(sent)

    def _hear(self, frame: bytes) -> None:
        heard = parse(frame)
        if heard is None or heard.mac in self._own_macs or self._prober.hear(heard):
            return
        vip = self._vips.get(heard.address)
        if vip is None or not vip.held or heard.utterance is not Utterance.OWNS:
            return
        vip.conflict, defend = hear_conflict(vip.conflict, heard.mac, self._clock())
        if defend:
            log.warning(
                "vip_conflict", vip=vip.address, owner_mac=mac_text(heard.mac), conflicts_total=vip.conflict.heard_total
            )
            if self._link is not None and self._link.running:
                self._send(vip, self._link)
