"""The listening sockets: the supervisor makes them, keeps a copy of each, and hands them to workers.

One SO_REUSEPORT socket per worker and service. What is queued in a socket outlives the worker that accepts from it, so
a worker's death or restart refuses nobody.
"""

from __future__ import annotations

import ctypes
import errno
import socket
import struct
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from lbd.model.address import Endpoint
from lbd.model.desired import Keepalive
from lbd.supervisor.steering import Group, Instruction, assemble

BACKLOG = 4096
"""The kernel cuts it to net.core.somaxconn."""
_IP_FREEBIND = 15
_IPV6_FREEBIND = 78
_SO_ATTACH_FILTER = 26
_SO_DETACH_FILTER = 27
_SO_ATTACH_REUSEPORT_CBPF = 51
_SO_DETACH_REUSEPORT_BPF = 68
_DROP_SYN: tuple[Instruction, ...] = (
    (0x30, 0, 0, 13),  # ldb [13]: the flags; a TCP socket's filter sees the segment from its header on
    (0x45, 0, 1, 0x02),  # jset #SYN
    (0x06, 0, 0, 0),  # ret #0: drop
    (0x06, 0, 0, 0xFFFFFFFF),  # ret #-1: keep
)
"""Classic BPF (Documentation/networking/filter.rst of the kernel)."""


def bind_early(sock: socket.socket) -> None:
    """Let a socket be bound to an address that is on no interface yet, and to nothing of the other family."""
    if sock.family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        sock.setsockopt(socket.IPPROTO_IPV6, _IPV6_FREEBIND, 1)
    else:
        sock.setsockopt(socket.IPPROTO_IP, _IP_FREEBIND, 1)


class ListeningSocket:
    """One bound socket that can listen, stop and listen again without being bound anew."""

    def __init__(self, identity: int, listen: Endpoint, group: Group) -> None:
        """Bind to `listen`, whose address need not be on any interface yet. `group` is told when this one is in the
        SO_REUSEPORT group and when it is not.

        Raises:
            OSError: e.g. EADDRINUSE, when another process has the port; EACCES without CAP_NET_BIND_SERVICE.
        """
        self.identity = identity
        self.listening = False
        self._group = group
        family = socket.AF_INET6 if listen.family == 6 else socket.AF_INET
        self._sock = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        try:
            self._prepare()
            self._sock.bind((listen.address, listen.port))
        except OSError:
            self._sock.close()
            raise

    def _prepare(self) -> None:
        sock = self._sock
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)  # accepted sockets inherit it: a call saved for each
        bind_early(sock)

    def set_client_options(self, keepalive: Keepalive | None, user_timeout_s: float) -> None:
        """Have connections accepted from now on probe silent clients, and give up on those who acknowledge nothing
        (0: never before TCP does): a socket inherits both from the one that listens. None and 0 take them back."""
        sock = self._sock
        if keepalive is not None:
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPIDLE, keepalive.idle_s)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPINTVL, keepalive.interval_s)
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_KEEPCNT, keepalive.probes)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, keepalive is not None)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, int(user_timeout_s * 1000))

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
            self._group.joined(self.identity)

    def refuse(self) -> None:
        """Stop listening: whoever waits in the queue is reset, new connections are refused. The port stays bound.

        shutdown(2) takes a listening socket out of that state for every process that holds it.
        """
        if self.listening:
            self._sock.shutdown(socket.SHUT_RDWR)
            self._left()

    def drop_new(self) -> None:
        """Leave further SYNs unanswered: the handshakes under way can end, the queue be emptied, the socket be closed.

        A client that tries meanwhile sends its SYN again a second later, and meets whoever listens then.
        """
        self._attach(_SO_ATTACH_FILTER, _DROP_SYN)

    def take_new(self) -> None:
        """Answer SYNs again."""
        self._sock.setsockopt(socket.SOL_SOCKET, _SO_DETACH_FILTER, 0)

    def steer(self, program: Sequence[Instruction] | None) -> None:
        """Have a program choose which socket of the group gets a client, or the kernel's hash for None.

        Raises:
            OSError: the kernel refuses the program.
        """
        if program is not None:
            self._attach(_SO_ATTACH_REUSEPORT_CBPF, program)
            return
        try:
            self._sock.setsockopt(socket.SOL_SOCKET, _SO_DETACH_REUSEPORT_BPF, 0)
        except OSError as error:
            if error.errno != errno.ENOENT:  # there is none
                raise

    def _attach(self, option: int, program: Sequence[Instruction]) -> None:
        instructions = assemble(program)
        memory = ctypes.create_string_buffer(instructions)
        head = struct.pack("@HP", len(program), ctypes.addressof(memory))
        self._sock.setsockopt(socket.SOL_SOCKET, option, head)

    def close(self) -> None:
        """Let go of it. It leaves its group when no worker holds it any more, which should be the case."""
        self._sock.close()
        self._left()

    def _left(self) -> None:
        if self.listening:
            self.listening = False
            self._group.left(self.identity)


@contextmanager
def quiet(sockets: Sequence[ListeningSocket]) -> Iterator[None]:
    """Leave SYNs unanswered for as long as the group is not in order: no client shall reach the wrong socket."""
    for sock in sockets:
        sock.drop_new()
    try:
        yield
    finally:
        for sock in sockets:
            sock.take_new()
