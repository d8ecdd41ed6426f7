"""The sockets of UDP services, bound by the supervisor as those of TCP services are.

A UDP socket cannot stop to listen and listen again: whoever sends to it is refused (ICMP port unreachable) only where
no socket is bound. Connecting it to nobody, or binding it to a device that does not exist, would refuse too, but takes
the socket out of its SO_REUSEPORT group for good (`udp_lib_rehash` of Linux): afterwards one worker got everything. So
it is closed, and bound anew.
"""

from __future__ import annotations

import socket

from lbd.model.address import Endpoint
from lbd.model.desired import Keepalive
from lbd.supervisor.listeners import ListeningSocket, bind_early
from lbd.supervisor.steering import Group, Instruction

RECEIVE_BYTES = 8 << 20
"""What waits while a worker is busy with others or being replaced: a second of 50,000 queries."""
SEND_BYTES = 4 << 20
"""All answers of the service leave through this one socket."""
_SO_ATTACH_FILTER = 26
_SO_SNDBUFFORCE = 32
_SO_RCVBUFFORCE = 33
_DROP_ALL: tuple[Instruction, ...] = ((0x06, 0, 0, 0),)


class DatagramSocket(ListeningSocket):
    """One socket that is bound while it `listening`, and closed otherwise: then its `descriptor` is -1."""

    def __init__(self, identity: int, listen: Endpoint, group: Group) -> None:
        """Describe it; `listen` binds it, in the SO_REUSEPORT group of which `group` keeps the order."""
        self.identity = identity
        self.listening = False
        self._group = group
        self._address = (listen.address, listen.port)
        self._family = socket.AF_INET6 if listen.family == 6 else socket.AF_INET
        self._is_quiet = False
        self._sock = self._unbound()

    def _unbound(self) -> socket.socket:
        sock = socket.socket(self._family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        sock.close()
        return sock

    def set_client_options(self, keepalive: Keepalive | None, user_timeout_s: float) -> None:
        """Nothing of this is UDP's."""

    def listen(self) -> None:
        """Bind, and let the kernel queue datagrams.

        Raises:
            OSError: EADDRINUSE, when another process has the port; EACCES without CAP_NET_BIND_SERVICE.
        """
        if self.listening:
            return
        self._sock = socket.socket(self._family, socket.SOCK_DGRAM | socket.SOCK_NONBLOCK)
        try:
            self._sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            bind_early(self._sock)
            self._grow(_SO_RCVBUFFORCE, socket.SO_RCVBUF, RECEIVE_BYTES)
            self._grow(_SO_SNDBUFFORCE, socket.SO_SNDBUF, SEND_BYTES)
            if self._is_quiet:
                self.drop_new()
            self._sock.bind(self._address)
        except OSError:
            self._sock.close()
            raise
        self.listening = True
        self._group.joined(self.identity)

    def _grow(self, by_force: int, option: int, size: int) -> None:
        try:
            self._sock.setsockopt(socket.SOL_SOCKET, by_force, size)
        except PermissionError:  # without CAP_NET_ADMIN net.core.rmem_max and wmem_max are the limit
            self._sock.setsockopt(socket.SOL_SOCKET, option, size)

    def refuse(self) -> None:
        """Nothing: flows go on, and only workers know whether there are any. `close` refuses."""

    def drop_new(self) -> None:
        """Drop whatever comes, until `take_new`."""
        self._is_quiet = True
        if self._sock.fileno() >= 0:
            self._attach(_SO_ATTACH_FILTER, _DROP_ALL)

    def take_new(self) -> None:
        """Receive again."""
        self._is_quiet = False
        if self._sock.fileno() >= 0:
            super().take_new()
