"""What an error of a socket call says about a member: a failed check, or nothing because the fault was our own."""

from __future__ import annotations

import errno
import os

from lbd.health.result import ProbeResult, Reason

MEMBER_ERRORS: dict[int, Reason] = {
    errno.ECONNREFUSED: Reason.CONNECT_REFUSED,
    errno.ECONNRESET: Reason.CONNECT_RESET,
    errno.ECONNABORTED: Reason.CONNECT_RESET,
    errno.EPIPE: Reason.CONNECT_RESET,
    errno.ETIMEDOUT: Reason.CONNECT_TIMEOUT,
    errno.EHOSTUNREACH: Reason.UNREACHABLE,
    errno.ENETUNREACH: Reason.UNREACHABLE,
    errno.EHOSTDOWN: Reason.UNREACHABLE,
    errno.ENETDOWN: Reason.UNREACHABLE,
    errno.ENONET: Reason.UNREACHABLE,
}
"""Errors that say something about the member or the way to it, whenever they come."""

LOCAL_ERRORS = frozenset(
    {errno.EADDRNOTAVAIL, errno.EADDRINUSE, errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EPERM}
)
"""Errors of our own side, whenever they come: no free port, descriptor or memory, or a local firewall."""


def result_of_errno(code: int, *, at_once: bool, late: Reason | None = None) -> ProbeResult:
    """Return what an error of a socket call means for the member.

    An unlisted error that a call returns `at_once` came from this machine (EACCES from a prohibiting route, say), so it
    is void; one that came later was caused by a packet (EACCES: an ICMPv6 "administratively prohibited"). `late` names
    a reset that comes after the connection was made.
    """
    name = errno.errorcode.get(code, str(code))
    reason = MEMBER_ERRORS.get(code)
    if reason is not None:
        return ProbeResult.failure(late if late is not None and reason is Reason.CONNECT_RESET else reason)
    if at_once or code in LOCAL_ERRORS:
        reason = Reason.NOT_PERMITTED if code in (errno.EPERM, errno.EACCES) else Reason.LOCAL_ERROR
        return ProbeResult.void(reason, f"{name}: {os.strerror(code)}")
    return ProbeResult.failure(Reason.CONNECT_FAILED, f"{name}: {os.strerror(code)}")
