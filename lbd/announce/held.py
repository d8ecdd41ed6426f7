"""What is known of one VIP that was asked for."""

from __future__ import annotations

import math
from dataclasses import dataclass

from lbd.announce.frames import mac_text
from lbd.announce.timeline import Conflict, Timeline
from lbd.model.status import VipState, VipStatus


@dataclass(slots=True)
class Vip:
    """A VIP from the first claim to the end of its withdrawal.

    `held` is true from a claim that succeeded to the withdrawal, even while the address is missing: it is then to be
    put back. `timeline` None means that it is not announced.
    """

    address: str
    state: VipState = VipState.CLAIMING
    reason: str = ""
    owner_mac: str | None = None
    adopted: bool = False
    held: bool = False
    announcements_total: int = 0
    conflict: Conflict | None = None
    timeline: Timeline | None = None
    restored_s: float = -math.inf
    """When it was last put back."""

    def hold(self, *, adopted: bool, now_s: float) -> None:
        """The address is on the interface: announce it from the beginning."""
        self.state, self.reason, self.owner_mac = VipState.OWNED, "", None
        self.adopted, self.held = adopted, True
        self.timeline = Timeline.begin(now_s)

    def fail(self, reason: str, owner_mac: str | None = None) -> None:
        """The address is not on the interface, and this is why. What is held stays so, and is tried again."""
        self.state = VipState.FOREIGN_OWNER if owner_mac else VipState.FAILED
        self.reason, self.owner_mac, self.timeline = reason, owner_mac, None

    def release(self, reason: str) -> None:
        """It is being withdrawn: no longer announced, defended or put back."""
        self.state, self.reason = VipState.WITHDRAWING, reason
        self.held, self.timeline = False, None

    def conflict_reason(self, now_s: float) -> str:
        """Return what is wrong if somebody else announced the address lately, else an empty string."""
        if self.conflict is None or not self.conflict.is_present(now_s):
            return ""
        return f"{mac_text(self.conflict.owner_mac)} announces it too: find and stop that station"

    def status(self, interface: str, hindrance: str, now_s: float) -> VipStatus:
        """Return the snapshot; `hindrance` is what keeps every VIP of the interface from being announced, or empty."""
        reason, owner_mac = self.reason, self.owner_mac
        if self.held and self.state is VipState.OWNED:
            conflict_reason = self.conflict_reason(now_s)
            if conflict_reason and self.conflict is not None:
                owner_mac = mac_text(self.conflict.owner_mac)
            reason = "; ".join(filter(None, (reason, conflict_reason, hindrance)))
        return VipStatus(
            address=self.address,
            interface=interface,
            state=self.state,
            reason=reason,
            owner_mac=owner_mac,
            adopted=self.adopted,
            announcements_total=self.announcements_total,
            conflicts_total=self.conflict.heard_total if self.conflict else 0,
        )
