"""The relay of one worker: listeners that accept, and what the worker program tells it to do."""

from __future__ import annotations

import _socket
import errno
from collections.abc import Callable
from typing import Any, Final

from lbd.dataplane.hot.client_log import DRAIN_TIMEOUT
from lbd.dataplane.hot.connection import Connection
from lbd.dataplane.hot.entrance import ACCEPT_BATCH, Entrance
from lbd.dataplane.hot.flow import Flow
from lbd.dataplane.hot.inbox import Inbox
from lbd.dataplane.hot.lane import Lane
from lbd.dataplane.hot.logged_connection import LoggedConnection
from lbd.dataplane.hot.messages import require_calls
from lbd.dataplane.hot.outbox import Outbox
from lbd.dataplane.hot.pair import Side
from lbd.dataplane.hot.reactor import EPOLLIN, Handler, Reactor
from lbd.dataplane.hot.service import Service
from lbd.dataplane.hot.udp import UdpListener

DATAGRAM_TYPE: Final = 2  # SOCK_DGRAM
PURGE_BATCH: Final = 32
# accept() without two more calls; and without the look-up on the socket, as in lbd.dataplane.hot.stream_socket.
_ACCEPT: Final[Any] = _socket.socket._accept  # type: ignore[attr-defined]
_SOCKET: Final[Any] = _socket.socket
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
        log = service.log
        splices = service.settings.splices
        for _ in range(most):
            if self.closed:
                return True
            if reactor.sockets + 2 > reactor.socket_limit:
                reactor.pause_accepting()
                return False
            try:
                descriptor, address = _ACCEPT(sock)
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
            client = Side(_SOCKET(family, 1, 6, descriptor), descriptor, True)
            if log is None:
                connection = Connection(reactor, service, self.lane, client, (address[0], address[1]))
            else:
                connection = LoggedConnection(reactor, service, self.lane, client, (address[0], address[1]), log)
            connection.meter = meter
            connection.splices = splices
            connection.start(guarded)
        return False

    def pause(self) -> None:
        """Leave new connections in the kernel's queue."""
        self.unwatch()

    def resume(self) -> None:
        """Take new connections, unless they are to be left alone for another reason."""
        if not self.stopped and not self.reactor.paused:
            self.watch()


class Purge(Handler):
    """Resets connections and flows, PURGE_BATCH at a turn, and tells `done` how many they were: ten thousand at once
    held the loop for a third of a second."""

    __slots__ = ("_count", "_done", "_doomed", "_flows", "_reactor")

    def __init__(
        self, reactor: Reactor, doomed: list[Connection], flows: list[Flow], done: Callable[[int], None]
    ) -> None:
        self._reactor: Reactor = reactor
        self._doomed: list[Connection] = doomed
        self._flows: list[Flow] = flows
        self._count: int = len(doomed) + len(flows)
        self._done: Callable[[int], None] = done

    def on_turn(self) -> None:
        """Reset some."""
        doomed = self._doomed
        for _ in range(min(PURGE_BATCH, len(doomed))):
            doomed.pop().purge()
        flows = self._flows
        for _ in range(min(PURGE_BATCH, len(flows))):
            flows.pop().end_for(DRAIN_TIMEOUT)
        self.on_fault()

    def on_fault(self) -> None:
        """Go on with the rest, also without the one that caused it."""
        if self._doomed or self._flows:
            self._reactor.again(self)
        else:
            self._done(self._count)


class Relay:
    """All services and listening sockets of one worker. `on_vacant` is told the slot of a UDP service that refuses new
    flows when its last one has ended here."""

    __slots__ = ("_mail", "listeners", "on_vacant", "reactor", "services")

    def __init__(self, reactor: Reactor, on_vacant: Callable[[int], None] | None = None) -> None:
        self.reactor: Reactor = reactor
        self.on_vacant: Callable[[int], None] | None = on_vacant
        self._mail: tuple[Inbox, Outbox] | None = None  # where there is a UDP service
        self.services: dict[int, Service] = {}
        self.listeners: dict[int, Entrance] = {}

    def listen(self, identity: int, slot: int, lane: Lane, sock: _socket.socket, accepting: bool) -> None:
        """Serve clients of `sock` for the service in `slot`, now or once `set_accepting` says so. `identity` names the
        socket among all processes; `lane` is its state."""
        if identity in self.listeners:
            sock.close()
            listener = self.listeners[identity]
        else:
            listener = self._entrance(identity, self.services[slot], lane, sock)
            self.listeners[identity] = listener
            self.reactor.acceptors.append(listener)
        listener.set_accepting(accepting)

    def _entrance(self, identity: int, service: Service, lane: Lane, sock: _socket.socket) -> Entrance:
        if sock.type == DATAGRAM_TYPE:
            if self._mail is None:
                require_calls()
                self._mail = (Inbox(), Outbox(self.reactor))
            return UdpListener(self.reactor, service, lane, identity, sock, self._mail, self.on_vacant)
        return Listener(self.reactor, service, lane, identity, sock)

    def set_accepting(self, slot: int, accepting: bool) -> None:
        """Stop or start accepting for a service whose sockets stop or start to listen."""
        for listener in self.listeners.values():
            if listener.service.slot == slot:
                listener.set_accepting(accepting)

    def refuse(self, slot: int) -> int:
        """Take what is queued for the UDP service in `slot`, then nobody but its flows; return how many they are."""
        for listener in self.udp_listeners(slot):
            listener.refuse()
        self.reactor.end_turn()
        service = self.services.get(slot)
        return service.active if service is not None else 0

    def weights_changed(self, slot: int) -> None:
        """Members of the service in `slot` may have gone down."""
        for listener in self.udp_listeners(slot):
            listener.weights_changed()
        self.reactor.end_turn()

    def udp_listeners(self, slot: int) -> list[UdpListener]:
        """Return the sockets of the UDP service in `slot`, or of all for -1."""
        return [
            listener
            for listener in self.listeners.values()
            if isinstance(listener, UdpListener) and (slot < 0 or listener.service.slot == slot)
        ]

    def unlisten(self, identity: int) -> None:
        """Take what is queued, then let go of the listening socket. Flows end with it."""
        listener = self.listeners.get(identity)
        if listener is None:
            return
        while not self.reactor.paused and not listener.stopped and not listener.take(ACCEPT_BATCH):
            pass
        self.abandon(identity)
        self.reactor.end_turn()

    def abandon(self, identity: int) -> None:
        """Let go of a listening socket and leave its queue to the others who hold it. Flows end with it."""
        listener = self.listeners.pop(identity, None)
        if listener is not None:
            self.reactor.acceptors.remove(listener)
            listener.close()

    def remove(self, slot: int) -> None:
        """Forget a service; its connections go on until they end or are reset, its flows end."""
        for listener in self.udp_listeners(slot):
            self.abandon(listener.identity)
        self.services.pop(slot, None)
        self.reactor.end_turn()

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
        all), connections and flows; `done` is told how many they were when the last one is closed."""
        doomed: list[Connection] = []
        for connection in self.connections(slot):
            member = connection.member
            if member_slot < 0 or (member is not None and member.slot == member_slot):
                doomed.append(connection)
        flows: list[Flow] = []
        for listener in self.udp_listeners(slot):
            flows.extend(listener.flows_to(member_slot))
        self.reactor.again(Purge(self.reactor, doomed, flows, done))
