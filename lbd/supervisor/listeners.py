"""The listening sockets: the supervisor makes them, keeps a copy of each, and hands them to workers.

One SO_REUSEPORT socket per worker and service. What is queued in a socket outlives the worker that accepts from it, so
a worker's death or restart refuses nobody.
"""

from __future__ import annotations

import ctypes
import socket
import struct

from lbd.model.address import Endpoint

BACKLOG = 4096
"""The kernel cuts it to net.core.somaxconn."""
_IP_FREEBIND = 15
_IPV6_FREEBIND = 78
_SO_ATTACH_FILTER = 26
_DROP_SYN = b"".join(
    struct.pack("=HBBI", *instruction)
    for instruction in (
        (0x30, 0, 0, 13),  # ldb [13]: the flags; a TCP socket's filter sees the segment from its header on
        (0x45, 0, 1, 0x02),  # jset #SYN
        (0x06, 0, 0, 0),  # ret #0: drop
        (0x06, 0, 0, 0xFFFFFFFF),  # ret #-1: keep
    )
)
"""Classic BPF (Documentation/networking/filter.rst of the kernel)."""


class ListeningSocket:
    """One bound socket that can listen, stop and listen again without being bound anew."""

    def __init__(self, identity: int, listen: Endpoint) -> None:
        """Bind to `listen`, whose address need not be on any interface yet.

        Raises:
            OSError: e.g. EADDRINUSE, when another process has the port; EACCES without CAP_NET_BIND_SERVICE.
        """
        self.identity = identity
        self.listening = False
        family = socket.AF_INET6 if listen.family == 6 else socket.AF_INET
        self._sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            self._prepare(family)
            self._sock.bind((listen.address, listen.port))
        except OSError:
            self._sock.close()
            raise

    def _prepare(self, family: int) -> None:
        sock = self._sock
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted sockets inherit it: a call saved for each
        if family == socket.AF_INET6:
            sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
        else:
            sock.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)

    @property
    def descriptor(self) -> int:
        """The descriptor to hand to a worker."""
        return self._sock.fileno()

    def listen(self) -> None:
        """Let the kernel queue new connections.

        Raises:
            OSError: EADDRINUSE, when another process listens there meanwhile.
        """
        if not self.listening:
            self._sock.listen(BACKLOG)
            self.listening = True

    def refuse(self) -> None:
        """Stop listening: whoever waits in the queue is reset, new connections are refused. The port stays bound.

        shutdown(2) takes a listening socket out of that state for every process that holds it.
        """
        if self.listening:
            self._sock.shutdown(socket.SHUT_RDWR)
            self.listening = False

    def drop_new(self) -> None:
        """Leave further SYNs unanswered: the handshakes under way can end, the queue be emptied, the socket be closed.

        A client that tries meanwhile sends its SYN again a second later, and meets whoever listens then.
        """
        program = ctypes.create_string_buffer(_DROP_SYN)
        head = struct.pack("@HP", len(_DROP_SYN) // 8, ctypes.addressof(program))
        self._sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, head)

    def close(self) -> None:
        """Let go of it."""
        self._sock.close()
        self.listening = False
