"""A client's connection to a virtual service: which member it gets, how it is reached, how long it may last."""

from __future__ import annotations

import _socket
import errno
import time
from random import random
from typing import Any, Final

from mypy_extensions import i64

from lbd.dataplane.hot.arrival import DIALLING, Arrival
from lbd.dataplane.hot.choice import choose, keep_member
from lbd.dataplane.hot.lane import Lane
from lbd.dataplane.hot.pair import CLOSED, CONNECTING, LINGER_RESET, NOBODY, NOTHING_HELD, RELAYING, Side
from lbd.dataplane.hot.proxy_protocol import make_header
from lbd.dataplane.hot.reactor import EDGE_MASK, EPOLLERR, EPOLLHUP, EPOLLOUT, READABLE, Reactor
from lbd.dataplane.hot.service import LOCAL, REFUSED, RESET, TIMED_OUT, UNREACHABLE, Member, Service
from lbd.dataplane.hot.stream_socket import SETSOCKOPT, TCP, TCP_QUICKACK
from lbd.dataplane.hot.tally import RETRIES, UNSERVED
from lbd.dataplane.hot.tally import TIMED_OUT as ENDED_BY_TIMEOUT
from lbd.dataplane.hot.wheel import TICK_MS

EINPROGRESS: Final = 115
STREAM: Final = 0x80801  # SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC
NONE_TRIED: Final[list[int]] = []
# Called without the look-up on the socket, as in lbd.dataplane.hot.stream_socket.
_SOCKET: Final[Any] = _socket.socket
_CONNECT_EX: Final[Any] = _socket.socket.connect_ex
_FILENO: Final[Any] = _socket.socket.fileno
GRACE_MS: Final = 500
"""How long after the connect timeout members that nobody has tried yet are still tried: timers fire late on a busy
machine, and a client must not be reset for that while there is somebody to serve it."""

KINDS: Final[dict[int, int]] = {
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

# Why a timeout ends a connection: places in counters.ENDING_ORDER.
IDLE: Final = 0
CLIENT_HALF_CLOSED: Final = 1
MEMBER_HALF_CLOSED: Final = 2
LIFETIME: Final = 3


class Connection(Arrival):
    """A client's connection to a virtual service. Lives from accept to the close of both sockets; leaves no reference
    cycle."""

    __slots__ = (
        "dialled_us", "ends_ms", "entry", "give_up_ms", "header_left", "member", "tried", "tried_version",
    )  # fmt: skip

    def __init__(self, reactor: Reactor, service: Service, lane: Lane, client: Side, address: tuple[str, int]) -> None:
        Arrival.__init__(self, reactor, service, lane, client, address)
        self.member: Member | None = None
        self.entry: int = -1  # of the client in the lane's persistence table
        self.give_up_ms: int = 0  # of all attempts to connect
        self.ends_ms: int = 0  # of its lifetime
        self.dialled_us: int = 0
        self.header_left: int = 0  # of the PROXY protocol header, bytes that the member does not have yet
        self.tried: list[int] = NONE_TRIED
        self.tried_version: int = 0

    def start(self, guarded: bool) -> None:
        """Count the connection and connect to a member; `guarded`: once the service lets it in."""
        service = self.service
        service.active += 1
        tally = service.tally
        tally.active += 1
        tally.total += 1
        tally.mark()
        if guarded:
            self.arrive()
        else:
            self.connect()
        if self.state != CLOSED:
            self.reactor.add(self.client.descriptor, self.client, EDGE_MASK)

    def connect(self) -> None:
        """Begin to look for a member."""
        self.give_up_ms = self.reactor.now_ms + self.service.settings.connect_ms
        self.dial()

    def dial(self) -> None:
        """Begin an attempt at the next member; without one, reset the client."""
        service = self.service
        reactor = self.reactor
        if self.tried_version != service.version:
            self.tried = NONE_TRIED
            self.tried_version = service.version
        while True:
            index = self.choose()
            if index < 0 and service.all_full(self.tried):
                self.await_member()
                return
            if index < 0 or reactor.now_ms >= self.give_up_ms + GRACE_MS:
                self.unserved()
                return
            member = service.members[index]
            if self.tried:
                service.tally.add(RETRIES, 1)
                service.members[self.tried[-1]].tally.add(RETRIES, 1)
            error = self.attempt(member)
            if error == 0:
                break
            self.note_failure(member, KINDS.get(error, LOCAL))
        attempt_ms = max(self.give_up_ms - reactor.now_ms, TICK_MS)
        if service.eligible > len(self.tried) + 1:
            # With somebody else to try, half of the time that is left: however many members are black holes, the client
            # waits little longer than the connect timeout.
            attempt_ms = max(attempt_ms // 2, TICK_MS)
        self.look_again_at(reactor.now_ms + attempt_ms)

    def choose(self) -> int:
        """Return the index of the member to try, or -1."""
        host, port = self.client_address
        return choose(self.service, self.lane, host, port, self.tried, self.reactor.now_ms)

    def attempt(self, member: Member) -> int:
        """Start connecting to `member`; return 0, or the errno of a failure at once."""
        service = self.service
        settings = service.settings
        try:
            sock: _socket.socket = _SOCKET(member.family, STREAM, 6)
        except OSError as error:
            return error.errno or errno.EMFILE
        self.reactor.sockets += 1
        if settings.measures_connects:
            self.dialled_us = time.monotonic_ns() // 1000
        try:
            for level, option, value in settings.member_options:
                sock.setsockopt(level, option, value)
            if settings.transparent:
                be_transparent(sock, member.family, self.client_address[0])
            SETSOCKOPT(sock, TCP, TCP_QUICKACK, 0)  # the client's bytes may carry the handshake's last ACK
            error_number: int = _CONNECT_EX(sock, member.address)
        except OSError as error:
            error_number = error.errno or errno.EINVAL
        if error_number != 0 and error_number != EINPROGRESS:
            sock.close()
            self.reactor.sockets -= 1
            return error_number
        upstream = Side(sock, _FILENO(sock), False)
        if self.unsent:
            upstream.held = self.unsent
            upstream.full = True
            self.unsent = NOTHING_HELD
        if settings.proxy_version:
            self.introduce(upstream)
        if self.client.has_spoken:  # to a member that has failed
            upstream.stop_delaying()
        upstream.link(self.client, self)
        self.upstream = upstream
        self.client.peer = upstream
        self.member = member
        service.member_opened(member)
        self.reactor.add(upstream.descriptor, upstream, EDGE_MASK)
        if self.lane.entries is not None:  # from here on: what the client opens meanwhile goes to the same member
            now_ms = self.reactor.now_ms
            self.entry = keep_member(service, self.lane, self.client_address[0], self.entry, member, now_ms)
        return 0

    def introduce(self, upstream: Side) -> None:
        """Put the PROXY protocol header before what the member gets."""
        version = self.service.settings.proxy_version
        header = make_header(version, self.client_address, self.destination, datagram=False)
        upstream.held = bytearray(header) + upstream.held
        upstream.full = True
        self.header_left = len(header)
        self.reactor.hold(self.header_left)

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
                self.attempt_failed(KINDS.get(error, LOCAL))
        elif events & EPOLLOUT:
            self.established()
            if upstream.full:
                upstream.flush()
            elif self.client.read_eof:  # the FIN went to the member before, which was lost
                self.pass_fin(self.client)
            elif self.client.readable:
                self.client.pump()
            if not self.client.has_spoken and self.upstream is upstream:
                upstream.queue()  # acknowledges, if the rest of this batch brings nothing to send
            if self.state == RELAYING and events & READABLE:
                upstream.note_readable(events)
                upstream.pump()

    def established(self) -> None:
        """The member has accepted."""
        self.state = RELAYING
        now_ms = self.reactor.now_ms
        self.active_ms = now_ms
        member = self.member
        assert member is not None
        settings = self.service.settings
        connect_us = time.monotonic_ns() // 1000 - self.dialled_us if settings.measures_connects else -1
        self.service.member_connected(member, connect_us, now_ms)
        if settings.lifetime_ms and not self.ends_ms:
            spread = settings.lifetime_jitter * (2 * random() - 1)
            self.ends_ms = now_ms + int(settings.lifetime_ms * (1 + spread))
        elif settings.idle_ms == 0 or settings.idle_ms >= settings.connect_ms:
            return  # the look at the connect deadline re-arms in time
        self.reactor.wheel.arm(self, self.end()[0])

    def upstream_lost(self) -> None:
        """The member accepted, and reset before it said or took anything: that is a failed attempt."""
        self.attempt_failed(RESET)

    def attempt_failed(self, kind: int) -> None:
        """Go on with another member; nothing was forwarded yet."""
        member = self.member
        assert member is not None
        self.note_failure(member, kind)
        self.reset_ms = 0
        held = self.upstream.held
        if self.header_left:
            del held[: self.header_left]
            self.reactor.hold(-self.header_left)
            self.header_left = 0
        self.unsent = held if held else NOTHING_HELD
        self.upstream.held = NOTHING_HELD
        self.upstream.full = False
        self.release_upstream()
        self.dial()

    def note_failure(self, member: Member, kind: int) -> None:
        """Count a failed attempt and don't pick this member again."""
        self.service.member_failed(member, kind, self.reactor.now_ms)
        self.tried = [*self.tried, member.index]

    def release_upstream(self) -> None:
        """Close the member's socket, and count it out."""
        upstream = self.upstream
        member = self.member
        if upstream is not NOBODY:
            self.reactor.close(upstream.descriptor, upstream.sock)
            upstream.leave()
            self.upstream = NOBODY
        if member is not None:
            self.service.member_closed(member)
            self.member = None

    def unserved(self) -> None:
        """No member could be reached: reset the client."""
        self.service.tally.add(UNSERVED, 1)
        self.close(True)

    def count(self, from_client: bool, received: i64, sent: i64) -> None:
        """Count bytes: `received` by us from the client, or `sent` by us to it."""
        self.active_ms = self.reactor.now_ms
        if sent:
            if self.header_left and from_client:
                sent = self.count_header(sent)
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
            if member.failures_in_a_row:
                member.failures_in_a_row = 0
        if not member_tally.dirty or not service_tally.dirty:
            member_tally.mark()
            service_tally.mark()

    def count_header(self, sent: i64) -> i64:
        """Return how many of the bytes that the member took were the client's, not our header's."""
        of_header: i64 = min(sent, self.header_left)
        self.header_left -= of_header
        return sent - of_header

    def half_closed(self, finished: Side) -> None:
        """One side has sent its FIN: another timeout may hold from now on, and the silence that it bounds begins."""
        self.active_ms = self.reactor.now_ms
        settings = self.service.settings
        if settings.client_half_closed_ms if finished.is_client else settings.member_half_closed_ms:
            self.reactor.wheel.arm(self, self.end()[0])

    def end(self) -> tuple[int, int]:
        """Return when the connection ends if nothing moves until then, and why; (0, IDLE) if it never does."""
        settings = self.service.settings
        ends_ms = self.active_ms + settings.idle_ms if settings.idle_ms else 0
        reason = IDLE
        if settings.client_half_closed_ms and self.client.read_eof:
            other_ms = self.active_ms + settings.client_half_closed_ms
            if ends_ms == 0 or other_ms < ends_ms:
                ends_ms, reason = other_ms, CLIENT_HALF_CLOSED
        if settings.member_half_closed_ms and self.upstream.read_eof:
            other_ms = self.active_ms + settings.member_half_closed_ms
            if ends_ms == 0 or other_ms < ends_ms:
                ends_ms, reason = other_ms, MEMBER_HALF_CLOSED
        if self.ends_ms and (ends_ms == 0 or self.ends_ms < ends_ms):
            return self.ends_ms, LIFETIME
        return ends_ms, reason

    def expired(self, now_ms: int) -> None:
        """The wheel came round: act on the deadline that holds now, or look again later."""
        if self.state == CLOSED:
            return
        if self.state == CONNECTING:
            if now_ms < self.deadline_ms:
                self.reactor.wheel.arm(self, self.deadline_ms)
            elif self.stage == DIALLING:
                self.attempt_failed(TIMED_OUT)
            else:
                self.waited_too_long()
            return
        if self.reset_ms:
            if now_ms >= self.reset_ms:
                self.close(True)
            else:
                self.reactor.wheel.arm(self, self.reset_ms)
            return
        deadline_ms, reason = self.end()
        if deadline_ms == 0:
            return
        if now_ms >= deadline_ms:
            self.timed_out(reason)
        else:
            self.reactor.wheel.arm(self, deadline_ms)

    def timed_out(self, reason: int) -> None:
        """Reset both; `reason` is a place in counters.ENDING_ORDER."""
        self.service.tally.add(ENDED_BY_TIMEOUT + reason, 1)
        self.close(True)

    def purge(self) -> None:
        """Reset both, because somebody wants an end of it."""
        self.close(True)

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
        if self.stage or self.has_place:
            self.leave()
        if self.entry >= 0 and self.lane.entries is not None:
            self.lane.entries.leave(self.entry, reactor.now_ms)
        self.service.active -= 1
        tally = self.service.tally
        tally.active -= 1
        tally.mark()
        client.leave()
        self.client = NOBODY


def be_transparent(sock: _socket.socket, family: int, client: str) -> None:
    """Have the member see the client's own address.

    Raises:
        OSError: EPERM without CAP_NET_RAW, EAFNOSUPPORT and the like for a client of another family than the member.
    """
    if family == 2:
        sock.setsockopt(0, 19, 1)  # IPPROTO_IP, IP_TRANSPARENT
    else:
        sock.setsockopt(41, 75, 1)  # IPPROTO_IPV6, IPV6_TRANSPARENT
    sock.setsockopt(0, 24, 1)  # IP_BIND_ADDRESS_NO_PORT: the port is chosen at connect, one per member
    sock.bind((client, 0))
