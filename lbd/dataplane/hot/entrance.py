"""What a worker serves clients through: a socket that the supervisor has bound and holds open too.

Hot module: compiled by mypyc, and must do the same when interpreted.
"""

from __future__ import annotations

import _socket
from typing import Final

from lbd.dataplane.hot.lane import Lane
from lbd.dataplane.hot.reactor import EPOLLIN, Acceptor, Reactor
from lbd.dataplane.hot.service import Service

ACCEPT_BATCH: Final = 64


class Entrance(Acceptor):
    """One such socket; `identity` names it among all processes. Closing it here loses nothing that is queued."""

    __slots__ = ("closed", "descriptor", "identity", "lane", "reactor", "service", "sock", "stopped", "watched")

    def __init__(self, reactor: Reactor, service: Service, lane: Lane, identity: int, sock: _socket.socket) -> None:
        self.reactor: Reactor = reactor
        self.sock: _socket.socket = sock
        self.service: Service = service
        self.lane: Lane = lane
        self.identity: int = identity
        self.descriptor: int = sock.fileno()
        self.watched: bool = False
        self.stopped: bool = False  # told not to accept, or the socket no longer listens
        self.closed: bool = False

    def accept(self) -> None:
        """Take some of what waits; what is left is reported again: these sockets are level-triggered."""
        self.take(ACCEPT_BATCH)

    def take(self, most: int) -> bool:
        """Take at most `most` of what waits; return True if nothing is left."""
        return True

    def watch(self) -> None:
        """Have what comes reported."""
        if not self.watched and not self.closed:
            self.watched = True
            self.reactor.add(self.descriptor, self, EPOLLIN)

    def unwatch(self) -> None:
        """Leave what comes in the kernel's queue."""
        if self.watched:
            self.watched = False
            self.reactor.forget(self.descriptor)

    def set_accepting(self, accepting: bool) -> None:
        """Take new connections and flows from now on, or leave them in the kernel's queue."""
        self.stopped = not accepting
        if accepting:
            self.resume()
        else:
            self.unwatch()

    def on_fault(self) -> None:
        """Go on: the client that caused it is lost, the socket is not."""

    def close(self) -> None:
        """Leave epoll first (the supervisor's copy would keep the registration alive), then close our descriptor."""
        self.unwatch()
        self.closed = True
        self.sock.close()
