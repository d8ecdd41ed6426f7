"""Asks the neighbours whether one of them uses an address."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass

from lbd.announce.frames import Heard, Utterance, probe
from lbd.announce.link import PacketLink

PROBES = 3
PROBE_INTERVAL_S = 0.07
"""Three probes in 210 ms: short enough to claim 200 VIPs within seconds, and one lost frame hides no owner. RFC 5227
§2.1.1 takes up to 7 s, which a failover can't wait."""


@dataclass(frozen=True, slots=True)
class Rival:
    """A station that uses the address already, or that claims it at the same moment and goes first."""

    mac: bytes
    owns: bool


def goes_first(other_mac: bytes, own_mac: bytes) -> bool:
    """Tell who of two stations that probe for the same address at the same moment may have it: the lower MAC.

    By RFC 5227 §2.1.1 both would give way, and two service engines that start together might do so for ever. A station
    that knows nothing of this rule gives way by the RFC, or sees our announcement before its own probing ends.
    """
    return other_mac < own_mac


class Prober:
    """Probes for addresses on one link. Many at once, but each address once."""

    def __init__(self, link: PacketLink) -> None:
        self._link = link
        self._asking: dict[str, tuple[bytes, asyncio.Future[Rival]]] = {}

    async def ask(self, vip: str, own_mac: bytes) -> Rival | None:
        """Return who has or gets `vip` before us, or None after about 200 ms without an objection.

        Raises:
            OSError: the probes could not be sent, so that silence would mean nothing.
        """
        answer: asyncio.Future[Rival] = asyncio.get_running_loop().create_future()
        self._asking[vip] = own_mac, answer
        sent = 0
        try:
            with self._link.listening_for(vip):
                for _ in range(PROBES):
                    sent += self._link.send(probe(vip, own_mac))
                    await asyncio.wait({answer}, timeout=PROBE_INTERVAL_S)
                    if answer.done():
                        return answer.result()
        finally:
            del self._asking[vip]
        if not sent:
            raise BlockingIOError("no probe could be sent: the interface's queue is full")
        return None

    def hear(self, heard: Heard) -> bool:
        """Take what a neighbour said; True if it was about an address that is being probed for."""
        own_mac, answer = self._asking.get(heard.address, (b"", None))
        if answer is None:
            return False
        owns = heard.utterance is Utterance.OWNS
        if not answer.done() and (owns or goes_first(heard.mac, own_mac)):
            answer.set_result(Rival(heard.mac, owns))
        return True
