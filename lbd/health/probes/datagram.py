"""One UDP conversation of a probe: a connected socket, so that the kernel takes datagrams from the member alone."""

from __future__ import annotations

import socket

from lbd.health.probes.conversation import Conversation
from lbd.health.probes.errors import result_of_errno
from lbd.health.result import ProbeResult, Reason
from lbd.model.address import Endpoint

_IP_RECVERR = 11  # linux/in.h
_IPV6_RECVERR = 25  # linux/in6.h


class Datagrams(Conversation):
    """A UDP socket that lives for one probe. Every ICMP error about what it sent is a result with its reason."""

    __slots__ = ()

    _sends_may_block = False

    def send_to(self, endpoint: Endpoint, content: bytes) -> ProbeResult | None:
        """Make the socket and send one datagram, without waiting; return why not, or None. To be called once."""
        six = endpoint.family == 6
        try:
            kind = socket.SOCK_DGRAM | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
            self._socket = sock = socket.socket(socket.AF_INET6 if six else socket.AF_INET, kind, socket.IPPROTO_UDP)
            # Without it Linux tells a UDP socket "port unreachable" alone, and passes over host, network and filters.
            if six:
                sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_RECVERR, 1)
            else:
                sock.setsockopt(socket.IPPROTO_IP, _IP_RECVERR, 1)
            sock.connect((endpoint.address, endpoint.port))
            sock.send(content)
        except BlockingIOError:
            return ProbeResult.void(Reason.LOCAL_ERROR, "the send buffer is full")
        except OSError as error:
            return result_of_errno(error.errno or 0, at_once=True)
        return None

    async def receive(self, limit_bytes: int) -> bytes | ProbeResult:
        """Return the next datagram, cut to so many bytes, or why there is none."""
        assert self._socket is not None
        while True:
            try:
                return self._socket.recv(limit_bytes)
            except BlockingIOError:
                if self._expired:  # asked after the attempt: what came in time counts, however late this loop is
                    return ProbeResult.failure(Reason.ANSWER_TIMEOUT)
            except OSError as error:
                return result_of_errno(error.errno or 0, at_once=False)
            try:
                await self._wait()
            except OSError as error:
                return result_of_errno(error.errno or 0, at_once=True)
