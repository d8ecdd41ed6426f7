"""When a VIP is announced, and when a conflict is answered. Pure: time is passed in as monotonic seconds."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

BURST_INTERVAL_S = 1.0
BURST_REPEATS = 5
"""After the first announcement: one each second for 5 s. A switch that just saw its port come up may drop the first
ones, and gratuitous ARP is not acknowledged."""
STEADY_INTERVAL_S = 60.0
"""For ever after: a firewall was seen to keep a stale entry for four hours."""
DEFEND_INTERVAL_S = 10.0
"""DEFEND_INTERVAL of RFC 5227 §1.1: two hosts that defend without it answer each other without end."""
CONFLICT_MEMORY_S = 60.0
"""How long after the last foreign announcement a conflict counts as present: one steady interval of a peer."""


@dataclass(frozen=True, slots=True)
class Timeline:
    """The next announcement of one VIP is due at `due_s`; `sent` have gone since the beginning."""

    due_s: float
    sent: int = 0

    @classmethod
    def begin(cls, now_s: float) -> Self:
        """Return the timeline of an address that just came, or that neighbours may have forgotten: due at once."""
        return cls(now_s)

    def is_due(self, now_s: float) -> bool:
        """Tell whether to announce now."""
        return now_s >= self.due_s

    def after_sending(self, now_s: float) -> Self:
        """Return the timeline after an announcement at `now_s`. One that comes late is not made up for by a crowd."""
        interval_s = BURST_INTERVAL_S if self.sent < BURST_REPEATS else STEADY_INTERVAL_S
        return replace(self, due_s=max(self.due_s + interval_s, now_s + interval_s / 2), sent=self.sent + 1)

    def after_failure(self, now_s: float) -> Self:
        """Return the timeline after an attempt that the kernel did not take: the same announcement in a second."""
        return replace(self, due_s=now_s + BURST_INTERVAL_S)


@dataclass(frozen=True, slots=True)
class Conflict:
    """Somebody else announced our address: the last one's MAC, how often in all, and when we answered last."""

    owner_mac: bytes
    last_heard_s: float
    heard_total: int
    last_defended_s: float | None

    def is_present(self, now_s: float) -> bool:
        """Tell whether it was heard recently enough to be shown as what is wrong now."""
        return now_s - self.last_heard_s < CONFLICT_MEMORY_S


def hear_conflict(known: Conflict | None, owner_mac: bytes, now_s: float) -> tuple[Conflict, bool]:
    """Count one foreign announcement; the second value says whether to answer it by announcing now.

    The address is not given up: of the choices in RFC 5227 §2.4 this is (c), for a host that needs the address.
    """
    last_defended_s = known.last_defended_s if known else None
    defend = last_defended_s is None or now_s - last_defended_s >= DEFEND_INTERVAL_S
    heard_total = known.heard_total + 1 if known else 1
    return Conflict(owner_mac, now_s, heard_total, now_s if defend else last_defended_s), defend
