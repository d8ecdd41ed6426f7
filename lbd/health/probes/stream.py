"""One TCP conversation of a probe: connect, send, receive, within one total time. Outcomes are values.

It ends with a reset (`SO_LINGER` 1, 0), as HAProxy's checks do: a FIN from us would leave one TIME_WAIT per check for a
minute, and connection tracking on the way would keep each as long.
"""

from __future__ import annotations

import asyncio
import errno
import os
import socket
import struct

from lbd.health.probes.poller import Poller
from lbd.health.result import ProbeResult, Reason
from lbd.model.address import Endpoint

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)

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

_IN_PROGRESS = frozenset({errno.EINPROGRESS, errno.EALREADY, errno.EINTR})
_CONNECTED = frozenset({0, errno.EISCONN})


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


class Stream:
    """A connection that lives for one probe. Always `close` it; every other call is made one after the other."""

    __slots__ = ("_expired", "_poller", "_registered", "_socket", "_timer", "_waiter")

    def __init__(self, poller: Poller, timeout_s: float) -> None:
        """Start the total time; no socket is made yet."""
        self._poller = poller
        self._socket: socket.socket | None = None
        self._registered = False
        self._expired = False
        self._waiter: asyncio.Future[None] | None = None
        self._timer = poller.loop.call_later(timeout_s, self._expire)

    def close(self) -> None:
        """Reset the connection and free everything; idempotent."""
        self._timer.cancel()
        if self._socket is not None:
            self._poller.forget(self._socket.fileno())
            self._socket.close()
            self._socket = None

    async def connect(self, endpoint: Endpoint, *, quiet: bool = False) -> ProbeResult | None:
        """Connect; return why not, or None.

        `quiet` is for a probe that says nothing: without the quick acknowledgement our reset takes the place of the
        handshake's last packet, so that the member's kernel proves that it listens and its application, which would
        log an aborted connection every few seconds, is not woken.
        """
        family = socket.AF_INET6 if endpoint.family == 6 else socket.AF_INET
        address = (endpoint.address, endpoint.port)
        try:
            kind = socket.SOCK_STREAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
            self._socket = sock = socket.socket(family, kind, socket.IPPROTO_TCP)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET_ON_CLOSE)
            if quiet:
                sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 0)
            code = sock.connect_ex(address)
            at_once = True
            while code in _IN_PROGRESS:
                if not self._registered:
                    self._poller.register(sock.fileno())
                    self._registered = True
                if not await self._wait():
                    return ProbeResult.failure(Reason.CONNECT_TIMEOUT)
                # Connecting again tells error, success and a false wake-up apart in one call.
                code = sock.connect_ex(address)
                at_once = False
        except OSError as error:
            return result_of_errno(error.errno or 0, at_once=True)
        return None if code in _CONNECTED else result_of_errno(code, at_once=at_once)

    async def send_all(self, content: bytes) -> ProbeResult | None:
        """Send everything; return why not, or None."""
        assert self._socket is not None
        view = memoryview(content)
        while view:
            try:
                view = view[self._socket.send(view) :]
            except BlockingIOError:
                if not await self._wait():
                    return ProbeResult.failure(Reason.ANSWER_TIMEOUT, "the request could not be sent")
            except OSError as error:
                return result_of_errno(error.errno or 0, at_once=False, late=Reason.RESET)
        return None

    async def receive(self, limit_bytes: int) -> bytes | ProbeResult:
        """Return the next bytes, at most so many; none at the end of the stream; or why there are none."""
        assert self._socket is not None
        while True:
            try:
                return self._socket.recv(limit_bytes)
            except BlockingIOError:
                if not await self._wait():
                    return ProbeResult.failure(Reason.ANSWER_TIMEOUT)
            except OSError as error:
                return result_of_errno(error.errno or 0, at_once=False, late=Reason.RESET)

    async def _wait(self) -> bool:
        """Wait for an event; False when the total time is up."""
        assert self._socket is not None
        if self._expired:
            return False
        descriptor = self._socket.fileno()
        if not self._registered:  # connected at once
            self._poller.register(descriptor)
            self._registered = True
        self._waiter = self._poller.waiter(descriptor)
        await self._waiter
        return not self._expired

    def _expire(self) -> None:
        self._expired = True
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)
