"""A UDP flow: what one client's address and port sends to a service, and what comes back.

It has a socket of its own, connected to its member: the kernel sorts answers by flow, and tells which member an ICMP
error is about. Answers leave through the socket on which clients reach the service, so that the VIP is their source.

What a full send buffer does not take is dropped, as on any way that datagrams go. It shows as the difference between
what was received from clients of the service and what its members got, or between what they sent and clients got.

Hot module: compiled by mypyc, and must do the same when interpreted.
"""

from __future__ import annotations

import _socket
import errno
from typing import Any, Final

from lbd.dataplane.hot.choice import choose, keep_member
from lbd.dataplane.hot.client_log import FAULT, RESPONSES, SUPERSEDED, UNREACHABLE
from lbd.dataplane.hot.connection import KINDS, NONE_TRIED, be_transparent
from lbd.dataplane.hot.datagrams import BIG_BYTES, FAILED, DatagramPort, count_of
from lbd.dataplane.hot.entrance import Entrance
from lbd.dataplane.hot.idle_order import Entry, IdleOrder
from lbd.dataplane.hot.lane import Lane
from lbd.dataplane.hot.limits import MAX_THROUGHPUT
from lbd.dataplane.hot.outbox import Outbox
from lbd.dataplane.hot.proxy_protocol import make_header
from lbd.dataplane.hot.reactor import EPOLLERR, EPOLLIN, Reactor
from lbd.dataplane.hot.service import LOCAL, Member, Service
from lbd.dataplane.hot.tally import MOVED_FLOWS, REJECTED, RETRIES, UNSERVED

DATAGRAM: Final = 0x80802  # SOCK_DGRAM | SOCK_NONBLOCK | SOCK_CLOEXEC
READS: Final = 64
"""How many datagrams of a bulk flow are moved before the others get their turn."""
GREEDY: Final = 4
"""How many events in a row with a single answer end a flow's greed: to read on until nothing is left. A read that finds
nothing costs a system call, another event for what was left two thirds of one to three."""
SATED: Final = -32
"""How many events it then is not greedy for."""
INET: Final = 2
# Called without the look-up on the socket, as in lbd.dataplane.hot.stream_socket.
_SOCKET: Final[Any] = _socket.socket
_SETSOCKOPT: Final[Any] = _socket.socket.setsockopt
_CONNECT: Final[Any] = _socket.socket.connect
MOST_TRIES: Final = 32
"""How many members that fail at once one datagram is worth: with a whole network gone, to try all of a large pool for
each would hold everybody else up."""
REMOVED_SILENCE_MS: Final = 3000
"""So long may a member that is no longer in the pool leave a client who asks without an answer: nobody checks it."""
PAUSE_MS: Final = 10000
"""Who has sent nothing for so long begins to ask anew: the last datagram of before may have wanted no answer."""

DROPPED: Final = (
    errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM, errno.EMSGSIZE, errno.EINVAL, errno.EINTR,
)  # fmt: skip
"""What says nothing about the member: a full buffer, a datagram larger than a way takes. That datagram is lost."""


class FlowHome(Entrance):
    """What a flow needs of the socket that its client reaches the service through."""

    __slots__ = ("flows", "order", "outbox", "port")

    def __init__(
        self,
        reactor: Reactor,
        service: Service,
        lane: Lane,
        identity: int,
        sock: _socket.socket,
        outbox: Outbox,
    ) -> None:
        Entrance.__init__(self, reactor, service, lane, identity, sock)
        sock.setblocking(False)
        self.port: DatagramPort = DatagramPort(sock)
        self.outbox: Outbox = outbox
        self.flows: dict[Any, Flow] = {}
        self.order: IdleOrder = IdleOrder(service.settings.idle_ms)

    def flow_ended(self) -> None:
        """A flow has gone."""


class Flow(Entry):
    """One flow. `sender` is its client's address as the kernel writes it, `client` as Python does, `key` its place
    among the flows of its home."""

    __slots__ = (
        "asked_ms", "awaited", "batch", "client", "entry", "greed", "has_place", "home", "is_closed", "is_introduced",
        "key", "member", "port", "sender", "tried", "tried_version",
    )  # fmt: skip

    def __init__(self, home: FlowHome, key: Any, sender: bytes, client: Any) -> None:
        Entry.__init__(self)
        self.home: FlowHome = home
        self.key: Any = key
        self.sender: bytes = sender
        self.client: Any = client
        self.member: Member | None = None
        self.port: DatagramPort | None = None
        self.entry: int = -1  # of the client in the lane's persistence table
        self.asked_ms: int = 0  # since when it asks a member that is no longer in the pool; 0: it was answered
        self.awaited: int = 0  # answers, with which the flow ends
        self.has_place: bool = False  # under the limits of the service
        self.is_introduced: bool = False  # the member has had the PROXY protocol header
        self.is_closed: bool = False
        self.batch: int = 0  # of the reactor, in which the member answered last
        self.greed: int = 0
        self.tried: list[int] = NONE_TRIED  # since the last answer
        self.tried_version: int = 0

    def open(self, index: int) -> bool:
        """Connect to the member at `index` (-1: choose one), or to another one; False if there is none."""
        home = self.home
        service = home.service
        if self.tried_version != service.version:
            self.tried = NONE_TRIED
            self.tried_version = service.version
        for _ in range(MOST_TRIES):
            if index < 0:
                address: str = self.client[0]
                index = choose(service, home.lane, address, self.client[1], self.tried, home.reactor.now_ms)
                if index < 0:
                    return False
            member = service.members[index]
            if self.tried:
                service.tally.add(RETRIES, 1)
                service.members[self.tried[-1]].tally.add(RETRIES, 1)
            error = self.connect(member)
            if error == 0:
                return True
            self.note_failure(member, error)
            index = -1
        return False

    def connect(self, member: Member) -> int:
        """Make a socket toward `member`; return 0, or the errno of a failure."""
        home = self.home
        reactor = home.reactor
        settings = home.service.settings
        try:
            sock: _socket.socket = _SOCKET(member.family, DATAGRAM, 17)
        except OSError as error:
            return error.errno or errno.EMFILE
        try:
            if member.family == INET:
                _SETSOCKOPT(sock, 0, 11, 1)  # IPPROTO_IP, IP_RECVERR: also an unreachable host or network is told
            else:
                _SETSOCKOPT(sock, 41, 25, 1)  # IPPROTO_IPV6, IPV6_RECVERR
            if settings.transparent:
                be_transparent(sock, member.family, self.client[0])
            _CONNECT(sock, member.address)
        except OSError as error:
            sock.close()
            return error.errno or errno.EINVAL
        reactor.sockets += 1
        port = DatagramPort(sock)
        self.port = port
        self.member = member
        self.asked_ms = 0
        self.is_introduced = settings.proxy_version == 0
        home.service.member_opened(member)
        home.service.member_connected(member, -1, reactor.now_ms)
        if not settings.per_packet:
            address: str = self.client[0]
            self.entry = keep_member(home.service, home.lane, address, self.entry, member, reactor.now_ms)
        reactor.add(port.descriptor, self, EPOLLIN)
        return 0

    def forward(self, content: bytes | memoryview, segment: int, count: int) -> None:
        """Send `count` datagrams, merged if it is more than one, to the member; to another one if that fails."""
        home = self.home
        member = self.member
        now_ms = home.reactor.now_ms
        if member is not None and (member.down or (member.index < 0 and self.is_abandoned(now_ms))):
            self.leave_member()
            if self.is_closed:
                return
        home.order.asked(self, now_ms)
        error = self.send(content, segment)
        tries = 1
        while error:
            if error in DROPPED or not self.failed(error) or tries >= MOST_TRIES:
                return
            error = self.send(content, segment)
            tries += 1
        member = self.member
        if member is not None:
            tally = member.tally
            tally.received_bytes += len(content)
            tally.received_datagrams += count
            if not tally.dirty:
                tally.mark()
        responses = home.service.settings.responses
        if responses:
            self.awaited += count * responses

    def send(self, content: bytes | memoryview, segment: int) -> int:
        """Send to the member, behind the header if that is due; return 0 or an errno."""
        port = self.port
        assert port is not None
        if self.is_introduced:
            return port.send(content, segment)
        settings = self.home.service.settings
        address: tuple[str, int] = (self.client[0], self.client[1])
        header = make_header(settings.proxy_version, address, settings.address, datagram=True)
        first = segment if segment else len(content)
        try:
            port.sock.send(header + bytes(content[:first]))
        except OSError as error:
            return error.errno or errno.EIO
        self.is_introduced = True
        return port.send(content[first:], segment) if first < len(content) else 0

    def on_event(self, events: int) -> None:
        """The member has answered, or cannot be reached."""
        port = self.port
        if port is None:
            return
        error = port.pending_error() if events & EPOLLERR else 0
        if events & EPOLLIN:
            greed = self.greed
            outbox = self.home.outbox
            for count in range(READS):
                size = port.receive(outbox.room())
                if size < 0:
                    if size == FAILED:
                        error = port.error
                    elif greed > 0:
                        self.greed = GREEDY if count > 1 else greed - 1 if greed > 1 else SATED
                    break
                segment = port.segment
                self.answer(size, segment)
                if self.is_closed:
                    return
                if greed <= 0 and size < BIG_BYTES:
                    self.count_event()
                    break
        if error and error not in DROPPED:
            self.failed(error)

    def count_event(self) -> None:
        """Notice whether answers come faster than one a batch: then it pays to look for the next one."""
        batch = self.home.reactor.batches
        if self.greed < 0:
            self.greed += 1
        elif batch == self.batch + 1:
            self.greed = GREEDY
        self.batch = batch

    def answer(self, size: int, segment: int) -> None:
        """Send what lies in the outbox to the client."""
        home = self.home
        service = home.service
        member = self.member
        assert member is not None
        count = count_of(size, segment)
        tally = member.tally
        tally.sent_bytes += size
        tally.sent_datagrams += count
        if not tally.dirty:
            tally.mark()
        if member.failures_in_a_row:
            member.failures_in_a_row = 0
        if self.tried:
            self.tried = NONE_TRIED
        self.is_answered = True
        self.asked_ms = 0
        now_ms = home.reactor.now_ms
        home.order.used(self, now_ms)
        meter = service.meter
        if meter is not None:
            if not meter.may_pass(now_ms):
                service.tally.add(REJECTED + MAX_THROUGHPUT, count)
                return
            meter.spend(size)
        if count == 1:
            home.outbox.add(home.port, service.tally, size, self.sender)
        else:
            self.answer_merged(size, segment, count)
        if service.settings.responses:
            self.awaited -= count
            if self.awaited <= 0:
                self.end_for(RESPONSES)

    def answer_merged(self, size: int, segment: int, count: int) -> None:
        """Send a piece of several datagrams, behind what came before."""
        home = self.home
        home.outbox.flush()
        if home.port.send_merged_to(home.outbox.last_answer()[:size], segment, self.client) == 0:
            tally = home.service.tally
            tally.sent_bytes += size
            tally.sent_datagrams += count
            tally.mark()

    def failed(self, error: int) -> bool:
        """The member cannot be reached: move to another one; False if there is none, and the flow has ended."""
        member = self.member
        assert member is not None
        self.note_failure(member, error)
        return self.move(-1)

    def note_failure(self, member: Member, error: int) -> None:
        """Count a failure, and don't choose this member again before an answer came."""
        home = self.home
        home.service.member_failed(member, KINDS.get(error, LOCAL), home.reactor.now_ms)
        if member.index >= 0:
            self.tried = [*self.tried, member.index]

    def is_abandoned(self, now_ms: int) -> bool:
        """Whether a member that is no longer in the pool has left the client without an answer for long."""
        if self.asked_ms == 0 or now_ms - self.used_ms > PAUSE_MS:
            self.asked_ms = now_ms
        return now_ms - self.asked_ms > REMOVED_SILENCE_MS

    def leave_member(self) -> None:
        """Move away from a member that does not work. Where there is nobody to move to the flow stays, or ends if that
        member is no longer in the pool."""
        home = self.home
        address: str = self.client[0]
        index = choose(home.service, home.lane, address, self.client[1], NONE_TRIED, home.reactor.now_ms)
        member = self.member
        if index >= 0 and home.service.members[index] is not member:
            self.move(index)
        elif index < 0 and member is not None and member.index < 0:
            self.end_for(UNREACHABLE)

    def move(self, index: int) -> bool:
        """Change the member; False if there is none, and the flow has ended."""
        self.release()
        service = self.home.service
        if not self.open(index):
            service.tally.add(UNSERVED, 1)
            self.end_for(UNREACHABLE)
            return False
        service.tally.add(MOVED_FLOWS, 1)
        member = self.member
        if service.settings.per_packet and member is not None:
            flows = self.home.flows
            flows.pop(self.key, None)
            self.key = (self.sender, member.slot)
            other = flows.get(self.key)
            if other is not None:
                other.end_for(SUPERSEDED)
            flows[self.key] = self
        return True

    def release(self) -> None:
        """Close the socket toward the member, and count it out."""
        port = self.port
        member = self.member
        if port is not None:
            self.home.reactor.close(port.descriptor, port.sock)
            port.descriptor = -1  # soon another socket's
            self.port = None
        if member is not None:
            self.home.service.member_closed(member)
            self.member = None

    def end_for(self, why: int) -> None:
        """End for one of the reasons in lbd.dataplane.hot.client_log. Nobody asks for it where nothing is logged."""
        self.end()

    def end(self) -> None:
        """Close the flow and let go of everything."""
        if self.is_closed:
            return
        self.is_closed = True
        home = self.home
        service = home.service
        now_ms = home.reactor.now_ms
        self.release()
        home.flows.pop(self.key, None)
        home.order.remove(self)
        self.leave(now_ms)
        service.active -= 1
        service.tally.active -= 1
        service.tally.mark()
        home.flow_ended()

    def leave(self, now_ms: int) -> None:
        """Give back the places in the persistence table and under the limits."""
        lane = self.home.lane
        if self.entry >= 0 and lane.entries is not None:
            lane.entries.leave(self.entry, now_ms)
            self.entry = -1
        gate = self.home.service.gate
        if self.has_place and gate is not None:
            self.has_place = False
            address: str = self.client[0]
            gate.leave(address, lane.clients, now_ms)

    def on_fault(self) -> None:
        """Give it up."""
        self.end_for(FAULT)
