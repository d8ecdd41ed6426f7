"""The relay of one worker: listeners that accept, and what the worker program tells it to do."""

from __future__ import annotations

import _socket
import errno
from collections.abc import Callable
from typing import Final

from lbd.dataplane.hot.connection import Connection
from lbd.dataplane.hot.lane import Lane
from lbd.dataplane.hot.pair import Side
from lbd.dataplane.hot.reactor import EPOLLIN, Acceptor, Handler, Reactor
from lbd.dataplane.hot.service import Service

ACCEPT_BATCH: Final = 64
PURGE_BATCH: Final = 64
_OUT_OF_RESOURCES: Final = (errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ENOBUFS)


class Listener(Entrance):
    """The listening socket of a TCP service."""

    __slots__ = ()

    def on_event(self, events: int) -> None:
        """New connections wait, or the socket was made to stop listening: then it leaves epoll, which would spin."""
        if events & EPOLLIN:
            self.reactor.ready_to_accept(self)
        else:
            self.unwatch()

    def take(self, most: int) -> bool:
        """Accept at most `most` connections; return True if the queue was emptied."""
        reactor = self.reactor
        sock = self.sock
        family = sock.family
        service = self.service
        guarded = service.is_guarded
        meter = service.meter
        for _ in range(most):
            if self.closed:
                return True
            if reactor.sockets + 2 > reactor.socket_limit:
                reactor.pause_accepting()
                return False
            try:
                descriptor, address = sock._accept()  # type: ignore[attr-defined]  # accept() without two more calls
            except BlockingIOError:
                return True
            except OSError as error:
                if error.errno in _OUT_OF_RESOURCES:
                    reactor.pause_accepting()
                    return False
                if error.errno == errno.EINVAL:  # it was made to stop listening
                    return True
                continue  # that client has gone already (ECONNABORTED and the like, accept(2))
            reactor.sockets += 1
            client = Side(_socket.socket(family, 1, 6, descriptor), descriptor, True)
            connection = Connection(reactor, service, self.lane, client, (address[0], address[1]))
            connection.meter = meter
            connection.start(guarded)
        return False

    def pause(self) -> None:
        """Leave new connections in the kernel's queue."""
        self.unwatch()

    def resume(self) -> None:
        """Take new connections, unless they are to be left alone for another reason."""
        if not self.stopped and not self.reactor.paused:
            self.watch()


class Relay:
    """All services and listeners of one worker."""

    __slots__ = ("listeners", "reactor", "services")

    def __init__(self, reactor: Reactor) -> None:
        self.reactor: Reactor = reactor
        self.services: dict[int, Service] = {}
        self.listeners: dict[int, Listener] = {}

    def listen(self, identity: int, slot: int, lane: Lane, sock: _socket.socket, accepting: bool) -> None:
        """Accept on `sock` for the service in `slot`, now or once `set_accepting` says so. `identity` names the
        listening socket among all processes; `lane` is its state."""
        if identity in self.listeners:
            sock.close()
            listener = self.listeners[identity]
        else:
            listener = Listener(self.reactor, self.services[slot], lane, identity, sock)
            self.listeners[identity] = listener
            self.reactor.acceptors.append(listener)
        listener.stopped = not accepting
        if accepting:
            listener.resume()
        else:
            listener.pause()

    def set_accepting(self, slot: int, accepting: bool) -> None:
        """Stop or start accepting for a service whose sockets stop or start to listen."""
        for listener in self.listeners.values():
            if listener.service.slot == slot:
                listener.stopped = not accepting
                if accepting:
                    listener.resume()
                else:
                    listener.pause()

    def unlisten(self, identity: int) -> None:
        """Take what is queued, then let go of the listening socket."""
        listener = self.listeners.pop(identity, None)
        if listener is None:
            return
        while not self.reactor.paused and not listener.stopped and not listener.take(ACCEPT_BATCH):
            pass
        self.reactor.acceptors.remove(listener)
        listener.close()
        self.reactor.end_turn()

    def abandon(self, identity: int) -> None:
        """Let go of a listening socket and leave its queue to the others who hold it."""
        listener = self.listeners.pop(identity, None)
        if listener is not None:
            self.reactor.acceptors.remove(listener)
            listener.close()

    def connections(self, slot: int) -> list[Connection]:
        """Return the connections of the service in `slot`, or all for -1."""
        found: list[Connection] = []
        for handler in self.reactor.handlers():
            if isinstance(handler, Side) and handler.is_client:
                pair = handler.pair
                if isinstance(pair, Connection) and (slot < 0 or pair.service.slot == slot):
                    found.append(pair)
        return found

    def reset_connections(self, slot: int, member_slot: int, done: Callable[[int], None]) -> None:
        """Begin to reset what is open for the service in `slot` (-1: everything) to the member in `member_slot` (-1: to
        all); `done` is told how many they were when the last one is closed."""
        doomed: list[Connection] = []
        for connection in self.connections(slot):
            member = connection.member
            if member_slot < 0 or (member is not None and member.slot == member_slot):
                doomed.append(connection)
        self.reactor.again(Purge(self.reactor, doomed, done))
