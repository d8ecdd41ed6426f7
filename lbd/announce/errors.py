"""What a caller of an announcer may have to handle."""

from __future__ import annotations

import errno
import os

from lbd.announce.netlink_thread import AddressError

_WHO_MUST_ACT = {
    errno.EPERM: "the daemon needs CAP_NET_ADMIN and CAP_NET_RAW",
    errno.EACCES: "the kernel refuses it there: for an IPv6 VIP, enable IPv6 on the interface (sysctl disable_ipv6)",
    errno.ENODEV: "the interface is gone",
    errno.ENETDOWN: "the interface is down",
    errno.EMFILE: "the daemon has no descriptor left: raise LimitNOFILE",
}


class AnnounceError(Exception):
    """An action on a VIP failed; `reason` says why and who must act."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


class ClaimError(AnnounceError):
    """A VIP could not be claimed; `owner_mac` is the station that has it, if that is why. Try again later."""

    def __init__(self, reason: str, owner_mac: str | None = None) -> None:
        super().__init__(reason)
        self.owner_mac = owner_mac


def explain(error: AddressError | OSError) -> str:
    """Return a refusal of the kernel as a sentence: what, why, and who must act where that is known."""
    code = error.code if isinstance(error, AddressError) else error.errno
    if code is None:
        return str(error)
    text = os.strerror(code) if code > 0 else str(error)
    return f"{text}: {_WHO_MUST_ACT[code]}" if code in _WHO_MUST_ACT else text
