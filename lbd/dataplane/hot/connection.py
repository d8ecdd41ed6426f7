"""A client's connection to a virtual service: which member it gets, how it is reached, how long it may be idle."""

from __future__ import annotations

import _socket
import errno
from typing import Final

from lbd.dataplane.hot.pair import (
    CLOSED,
    CONNECTING,
    LINGER_RESET,
    NOBODY,
    NOTHING_HELD,
    RELAYING,
    Pair,
    Side,
)
from lbd.dataplane.hot.reactor import EDGE_MASK, EPOLLERR, EPOLLHUP, EPOLLOUT, READABLE, Reactor
from lbd.dataplane.hot.service import (
    LOCAL,
    REFUSED,
    RESET,
    TIMED_OUT,
    UNREACHABLE,
    Member,
    Service,
)
from lbd.dataplane.hot.wheel import TICK_MS

EINPROGRESS: Final = 115
STREAM: Final = 0x80801  # SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC
NONE_TRIED: Final[list[int]] = []
GRACE_MS: Final = 500
"""How long after the connect timeout members that nobody has tried yet are still tried: timers fire late on a busy
machine, and a client must not be reset for that while there is somebody to serve it."""

_KINDS: Final[dict[int, int]] = {
    errno.ECONNREFUSED: REFUSED,
    errno.ECONNRESET: RESET,
    errno.EPIPE: RESET,
    errno.ETIMEDOUT: TIMED_OUT,
    errno.ENETUNREACH: UNREACHABLE,
    errno.EHOSTUNREACH: UNREACHABLE,
    errno.ENETDOWN: UNREACHABLE,
    errno.EHOSTDOWN: UNREACHABLE,
    errno.ENOPROTOOPT: UNREACHABLE,
    errno.EACCES: LOCAL,
    errno.EPERM: LOCAL,
}
"""What an errno of a failed attempt says about the member; any other one is a fault of our own side."""


class Connection(Pair):
    """A client's connection to a virtual service. Lives from accept to the close of both sockets; leaves no reference
    cycle."""

    __slots__ = (
        "client_address", "deadline_ms", "give_up_ms", "member", "service", "tried", "tried_version", "unsent",
    )  # fmt: skip

    def __init__(self, reactor: Reactor, service: Service, client: Side, client_address: str) -> None:
        Pair.__init__(self, reactor, client)
        self.service: Service = service
        self.client_address: str = client_address
        self.member: Member | None = None
        self.unsent: bytearray = NOTHING_HELD  # the first bytes, when the member that they were for has failed
        self.deadline_ms: int = 0  # of this attempt to connect
        self.give_up_ms: int = reactor.now_ms + service.connect_ms  # of all attempts
        self.tried: list[int] = NONE_TRIED
        self.tried_version: int = service.version

    def start(self) -> None:
        """Count the connection and connect to a member."""
        service = self.service
        service.active += 1
        tally = service.tally
        tally.active += 1
        tally.total += 1
        self.mark(None)
        self.connect()
        if self.state != CLOSED:
            self.reactor.add(self.client.descriptor, self.client, EDGE_MASK)

    def connect(self) -> None:
        """Begin an attempt at the next member; without one, reset the client."""
        service = self.service
        reactor = self.reactor
        if self.tried_version != service.version:
            self.tried = NONE_TRIED
            self.tried_version = service.version
        while True:
            index = service.pick(self.client_address, self.tried, reactor.now_ms)
            if index < 0 or reactor.now_ms >= self.give_up_ms + GRACE_MS:
                self.unserved()
                return
            member = service.members[index]
            if self.tried:
                service.tally.retries += 1
                service.members[self.tried[-1]].tally.retries += 1  # it is marked: its failure was noted just now
            error = self.attempt(member)
            if error == 0:
                break
            self.note_failure(member, _KINDS.get(error, LOCAL))
        attempt_ms = max(self.give_up_ms - reactor.now_ms, TICK_MS)
        if service.eligible > len(self.tried) + 1:
            # With somebody else to try, half of the time that is left: however many members are black holes, the client
            # waits little longer than the connect timeout.
            attempt_ms = max(attempt_ms // 2, TICK_MS)
        self.deadline_ms = reactor.now_ms + attempt_ms
        reactor.wheel.arm(self, self.deadline_ms)

    def attempt(self, member: Member) -> int:
        """Start connecting to `member`; return 0, or the errno of a failure at once."""
        service = self.service
        try:
            sock = _socket.socket(member.family, STREAM, 6)
        except OSError as error:
            return error.errno or errno.EMFILE
        self.reactor.sockets += 1
        sock.setsockopt(6, 1, 1)  # IPPROTO_TCP, TCP_NODELAY
        error_number: int = sock.connect_ex(member.address)
        if error_number != 0 and error_number != EINPROGRESS:
            sock.close()
            self.reactor.sockets -= 1
            return error_number
        upstream = Side(sock, sock.fileno(), False)
        if self.unsent:
            upstream.held = self.unsent
            upstream.full = True
            self.unsent = NOTHING_HELD
        upstream.link(self.client, self)
        self.upstream = upstream
        self.client.peer = upstream
        self.member = member
        service.member_opened(member)
        self.mark(member)
        self.reactor.add(upstream.descriptor, upstream, EDGE_MASK)
        return 0

    def on_upstream_event(self, events: int) -> None:
        """The attempt has ended, one way or the other."""
        upstream = self.upstream
        if events & (EPOLLERR | EPOLLHUP):
            error: int = upstream.sock.getsockopt(1, 4)  # SOL_SOCKET, SO_ERROR
            if error in (errno.ECONNRESET, errno.EPIPE, 0):
                # It was accepted and then reset: what the member had sent is still there. The error is eaten now.
                self.established()
                upstream.failed()
            else:
                self.attempt_failed(_KINDS.get(error, LOCAL))
        elif events & EPOLLOUT:
            self.established()
            if upstream.full:
                upstream.flush()
            elif self.client.read_eof:  # the FIN went to the member before, which was lost
                self.pass_fin(self.client)
            elif self.client.readable:
                self.client.pump()
            if self.state == RELAYING and events & READABLE:
                upstream.note_readable(events)
                upstream.pump()

    def established(self) -> None:
        """The member has accepted."""
        self.state = RELAYING
        self.active_ms = self.reactor.now_ms
        member = self.member
        assert member is not None
        member.tally.total += 1
        self.mark(member)
        idle_ms = self.service.idle_ms
        if 0 < idle_ms < self.service.connect_ms:  # else the look at the connect deadline re-arms in time
            self.reactor.wheel.arm(self, self.reactor.now_ms + idle_ms)

    def upstream_lost(self) -> None:
        """The member accepted, and reset before it said or took anything: that is a failed attempt."""
        self.attempt_failed(RESET)

    def attempt_failed(self, kind: int) -> None:
        """Go on with another member; nothing was forwarded yet."""
        member = self.member
        assert member is not None
        self.note_failure(member, kind)
        self.reset_ms = 0
        self.unsent = self.upstream.held
        self.upstream.held = NOTHING_HELD
        self.upstream.full = False
        self.release_upstream()
        self.connect()

    def note_failure(self, member: Member, kind: int) -> None:
        """Count a failed attempt and don't pick this member again."""
        self.service.member_failed(member, kind, self.reactor.now_ms)
        self.mark(member)
        self.tried = [*self.tried, member.index]

    def release_upstream(self) -> None:
        """Close the member's socket, and count it out."""
        upstream = self.upstream
        member = self.member
        if upstream is not NOBODY:
            self.reactor.close(upstream.descriptor, upstream.sock)
            upstream.peer = NOBODY
            self.upstream = NOBODY
        if member is not None:
            self.service.member_closed(member)
            self.mark(member)
            self.member = None

    def unserved(self) -> None:
        """No member could be reached: reset the client."""
        self.service.tally.unserved += 1
        self.close(True)

    def count(self, from_client: bool, received: int, sent: int) -> None:
        """Count bytes: `received` by us from the client, or `sent` by us to it."""
        self.active_ms = self.reactor.now_ms
        if sent:
            self.touched = True
        member = self.member
        if member is None:
            return
        moved = received if from_client else sent
        if moved == 0:
            return
        service_tally = self.service.tally
        member_tally = member.tally
        if from_client:
            service_tally.received_bytes += moved
            member_tally.received_bytes += moved
        else:
            service_tally.sent_bytes += moved
            member_tally.sent_bytes += moved
        if not member_tally.dirty or not service_tally.dirty:
            self.mark(member)

    def mark(self, member: Member | None) -> None:
        """Have the tallies flushed at the end of the batch."""
        dirty = self.reactor.dirty
        tally = self.service.tally
        if not tally.dirty:
            tally.dirty = True
            dirty.append(tally)
        if member is not None and not member.tally.dirty:
            member.tally.dirty = True
            dirty.append(member.tally)

    def expired(self, now_ms: int) -> None:
        """The wheel came round: act on the deadline that holds now, or look again later."""
        if self.state == CLOSED:
            return
        if self.state == CONNECTING:
            if now_ms >= self.deadline_ms:
                self.attempt_failed(TIMED_OUT)
            else:
                self.reactor.wheel.arm(self, self.deadline_ms)
        elif self.reset_ms:
            if now_ms >= self.reset_ms:
                self.close(True)
            else:
                self.reactor.wheel.arm(self, self.reset_ms)
        elif self.service.idle_ms:
            idle_deadline_ms = self.active_ms + self.service.idle_ms
            if now_ms >= idle_deadline_ms:
                self.close(True)
            else:
                self.reactor.wheel.arm(self, idle_deadline_ms)

    def close(self, reset: bool) -> None:
        """Close both sockets, with FIN or with RST, and let go of everything."""
        if self.state == CLOSED:
            return
        self.state = CLOSED
        reactor = self.reactor
        reactor.wheel.disarm(self)
        client = self.client
        upstream = self.upstream
        client.drop_held()
        if self.unsent:
            reactor.hold(-len(self.unsent))
            self.unsent = NOTHING_HELD
        reactor.close(client.descriptor, client.sock)
        if upstream is not NOBODY:
            upstream.drop_held()
            if reset:
                upstream.sock.setsockopt(1, 13, LINGER_RESET)  # SOL_SOCKET, SO_LINGER
        if reset:
            client.sock.setsockopt(1, 13, LINGER_RESET)
        self.release_upstream()
        self.service.active -= 1
        self.service.tally.active -= 1
        self.mark(None)
        client.peer = NOBODY
        self.client = NOBODY
