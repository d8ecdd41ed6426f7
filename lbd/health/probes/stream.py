"""One TCP conversation of a probe: connect, send, receive, within one total time. Outcomes are values.

It ends with a reset (`SO_LINGER` 1, 0), as HAProxy's checks do: a FIN from us would leave one TIME_WAIT per check for a
minute, and connection tracking on the way would keep each as long.
"""

from __future__ import annotations

import errno
import socket
import struct

from lbd.health.probes.conversation import Conversation
from lbd.health.probes.errors import result_of_errno
from lbd.health.result import ProbeResult, Reason
from lbd.model.address import Endpoint

_RESET_ON_CLOSE = struct.pack("ii", 1, 0)

_IN_PROGRESS = frozenset({errno.EINPROGRESS, errno.EALREADY, errno.EINTR})
_CONNECTED = frozenset({0, errno.EISCONN})


class Stream(Conversation):
    """A TCP connection that lives for one probe; `close` resets it. Calls are made one after the other."""

    __slots__ = ()

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
