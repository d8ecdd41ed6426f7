"""Two sockets, the bytes between them, and how each kind of end passes through.

Technique: each socket is registered once, edge-triggered. A side moves what it received to its peer until it is dry,
the peer is full, or its turn (1 MiB) is over. The reads go into one shared buffer; a connection owns memory only while
a peer is slow. A read shorter than the buffer means that the socket is dry, which saves a system call, but only while
no EPOLLRDHUP was seen: a FIN that came with the bytes gives no second event. Seen before the read, and without an
error, it is what follows upon a short one. Only before urgent data a read ends that is not the last one (tcp(7)).

Where a service wants it, bulk is spliced: what a side sends passes through a pipe within the kernel, uncopied, from a
read of BULK_BYTES on until an event brings less than LEAST_BULK_BYTES (ADR 0016). What the peer's kernel does not take
is held as after a read.

Ends: a FIN passes as a FIN. A reset passes as a reset, after the bytes before it have been acknowledged by the other
end's kernel or RESET_DEADLINE_MS has passed, because SO_LINGER(1, 0) throws away what is still in the send buffer.
After loss there is never a clean close.
"""

from __future__ import annotations

import _socket
import struct
from typing import Any, Final

from mypy_extensions import i64

from lbd.dataplane.hot.buffer import DONTWAIT, VIEW
from lbd.dataplane.hot.meter import Meter
from lbd.dataplane.hot.reactor import (
    EPOLLERR,
    EPOLLOUT,
    EPOLLPRI,
    EPOLLRDHUP,
    READABLE,
    Acknowledgement,
    Reactor,
)
from lbd.dataplane.hot.splicing import PIPE
from lbd.dataplane.hot.stream_socket import DRY, StreamSocket, unacknowledged_bytes
from lbd.dataplane.hot.wheel import Timed

TURN_BYTES: Final = 1 << 20
"""What one side moves before the others get their turn: without a bound one bulk stream held the loop 43-162 ms."""
BULK_BYTES: Final = 65536
LEAST_BULK_BYTES: Final = 32768
"""For less than these two, copying costs about as much as the calls that avoid it."""
RESET_DEADLINE_MS: Final = 5000

LINGER_RESET: Final = struct.pack("ii", 1, 0)
NOTHING_HELD: Final = bytearray()
_SHUTDOWN: Final[Any] = _socket.socket.shutdown

# States of a pair.
CONNECTING: Final = 0
RELAYING: Final = 1
BREAKING: Final = 2  # one side was reset; what it had sent before is still being moved to the other
RESETTING: Final = 3  # all of that was sent; waiting until the other's kernel has acknowledged it
CLOSED: Final = 4


class Side(StreamSocket):
    """One of the two sockets of a relayed pair."""

    __slots__ = (
        "broken", "ends_cleanly", "fin_seen", "full", "has_spoken", "has_turn", "held", "is_bulk", "is_client",
        "owes_ack", "pair", "peer", "read_eof", "readable",
    )  # fmt: skip

    def __init__(self, sock: _socket.socket, descriptor: int, is_client: bool) -> None:
        StreamSocket.__init__(self, sock, descriptor, is_client)
        self.is_client: bool = is_client
        self.held: bytearray = NOTHING_HELD  # received from the peer, not yet taken by this side's kernel
        self.full: bool = False  # `held` is not empty
        self.readable: bool = False
        self.fin_seen: bool = False  # or urgent data was: a short read does not say that the socket is dry
        self.ends_cleanly: bool = False  # but the FIN that was seen follows upon it, and no error
        self.read_eof: bool = False
        self.broken: bool = False  # reset: nothing more can be sent to it
        self.is_bulk: bool = False  # what it sends is spliced
        self.has_spoken: bool = False  # something was read from it
        self.has_turn: bool = False  # it will be asked to go on when the others had their turn
        self.owes_ack: bool = not is_client  # of the upstream's handshake: see `acknowledge`

    def link(self, peer: Side, pair: Pair) -> None:
        """Make this one of the sides of `pair`."""
        self.peer: Side = peer
        self.pair: Pair = pair

    def leave(self) -> None:
        """The descriptor is closed with this batch, and soon another socket's."""
        self.forget()
        self.peer = NOBODY

    def on_event(self, events: int) -> None:
        """Handle an edge: note it, then move what can be moved."""
        pair = self.pair
        if pair.state == CONNECTING:
            if not self.is_client:
                pair.on_upstream_event(events)
            elif events & EPOLLERR and not self.has_bytes():
                pair.close(True)  # the client gave up before it said anything
            elif events & READABLE:
                self.note_readable(events)
                pair.on_client_event(events)
            return
        if self.broken:
            return
        if self.full and events & EPOLLOUT:
            self.flush()
            if pair.state == CLOSED or self.broken:
                return
        if events & READABLE:
            self.note_readable(events)
            if events & EPOLLERR and (self.read_eof or pair.state != RELAYING):
                self.failed()  # no read will ever tell
            elif events & EPOLLERR and self.peer.full:
                pair.expect_reset()
            elif not self.has_turn:  # else it would move more than the others
                self.pump()

    def on_turn(self) -> None:
        """Go on after the others had their turn."""
        self.has_turn = False
        if self.descriptor < 0:
            return  # the connection has ended, or goes on with another upstream
        if self.owes_ack:
            self.acknowledge()
        if self.pair.state != CLOSED and self.readable:
            self.pump()

    def queue(self) -> None:
        """Get another turn, behind the others: one, however often it is asked for."""
        if not self.has_turn:
            self.has_turn = True
            self.pair.reactor.again(self)

    def on_fault(self) -> None:
        """Reset both ends."""
        self.pair.on_fault()

    def note_readable(self, events: int) -> None:
        """Remember that there is something to read, or an end to see."""
        self.readable = True
        if events & (EPOLLRDHUP | EPOLLPRI):
            self.fin_seen = True
            self.ends_cleanly = events & (EPOLLRDHUP | EPOLLPRI | EPOLLERR) == EPOLLRDHUP

    def pump(self) -> None:
        """Move what this side received to its peer until it is dry, the peer is full, or the turn is over."""
        pair = self.pair
        peer = self.peer
        if peer.full or self.read_eof or (pair.state != RELAYING and not self.broken):
            return
        reactor = pair.reactor
        size: i64 = reactor.read_bytes
        meter = pair.meter
        moved: i64 = 0
        splices: bool = self.is_bulk and self.may_splice()
        while moved < TURN_BYTES:
            if size == 0:
                reactor.starved.append(self)
                break
            if meter is not None:
                allowance = meter.allowance(reactor.now_ms)
                if allowance < size:
                    size = allowance
                    if size <= 0:
                        meter.wait(self)
                        break
            if splices:
                passed = self.splice(size)
                if passed < 0:
                    break
                moved += passed
                if moved < LEAST_BULK_BYTES:
                    splices = self.is_bulk = False
                if passed:
                    continue
            received = self.receive(size)
            if received <= 0:
                self.stopped(received)
                break
            if self.is_blocking:
                self.speak()
            sent = peer.send(received)
            if sent < 0:
                peer.hold(VIEW[:received])  # still there if the connection can be retried elsewhere
                pair.count(self.is_client, received, 0)
                peer.failed()
                return
            pair.count(self.is_client, received, sent)
            moved += received
            if meter is not None:
                meter.spend(received)
            if received >= BULK_BYTES and pair.splices and not self.is_bulk:
                self.become_bulk()
                splices = self.may_splice()
            if sent != received:
                peer.hold(VIEW[sent:received])
                break
            if received < size and not self.fin_seen and not self.broken:
                self.readable = False
                break
            if received < size and self.ends_cleanly and not self.broken:
                self.on_eof()  # the FIN was there before this read, so nothing comes between
                break
        else:
            self.queue()

    def stopped(self, received: i64) -> None:
        """A read gave no bytes, for the reason that it returned."""
        if received == 0:
            self.on_eof()
        elif received == DRY:
            self.readable = False
            if self.broken:
                self.pair.drained(self)
        elif self.broken:  # it was noticed by something that leaves the error to be read, such as shutdown()
            self.pair.drained(self)
        else:
            self.failed()

    def speak(self) -> None:
        """The client says something: with the second thing it pays to set both sockets up for more, as many say one."""
        if self.has_spoken:
            self.unblock()
        self.has_spoken = True

    def unblock(self) -> None:
        """Set both sockets up for more."""
        if self.is_blocking:
            self.stop_blocking()
            self.peer.stop_delaying()

    def become_bulk(self) -> None:
        """Much comes from this side at once: from now on it is spliced, for which neither socket may block."""
        self.is_bulk = True
        self.unblock()
        self.peer.unblock()

    def may_splice(self) -> bool:
        """Return whether a splice tells enough: behind a FIN, urgent data or a reset only a read does."""
        return PIPE.works and not self.fin_seen and not self.broken

    def splice(self, size: i64) -> i64:
        """Move up to `size` bytes to the peer through the pipe, and return how many; 0: it takes a read to go on.

        -1: that is all for now, because this side is dry, its peer is full, or one of them has failed. A short splice
        does not say that a side is dry: the pipe may be full of small pieces.
        """
        pair = self.pair
        peer = self.peer
        try:
            received = PIPE.move(self.descriptor, peer.descriptor, size)
        except BlockingIOError:
            self.readable = False
            return -1
        except OSError:
            self.failed()
            return -1
        if received == 0:
            return 0
        left = PIPE.left
        more: i64 = 0
        if left:
            # A splice can be short for other reasons; after a write that is, the kernel tells when there is room.
            more = peer.send(left)
            if more < 0:
                peer.hold(VIEW[:left])
                pair.count(self.is_client, received, received - left)
                peer.failed()
                return -1
        pair.count(self.is_client, received, received - left + more)
        meter = pair.meter
        if meter is not None:
            meter.spend(received)
        if more != left:
            peer.hold(VIEW[more:left])
            return -1
        return received

    def acknowledge(self) -> None:
        """Have the kernel acknowledge this upstream's answer to our connect now, unless the client's bytes did."""
        self.owes_ack = False
        if self.pair.state == RELAYING and not self.peer.has_spoken:
            self.acknowledge_now()

    def hold(self, unsent: memoryview) -> None:
        """Keep bytes that this side's kernel did not take, until it is writable."""
        self.held = bytearray(unsent)
        self.full = True
        self.pair.reactor.hold(len(unsent))

    def drop_held(self) -> int:
        """Forget the bytes held for this side, and return how many they were."""
        dropped = len(self.held)
        if self.full:
            self.held = NOTHING_HELD
            self.full = False
            self.pair.reactor.hold(-dropped)
        return dropped

    def flush(self) -> None:
        """Send what is held; then let the peer go on."""
        pair = self.pair
        sent = 0
        self.stop_delaying()
        try:
            sent = self.sock.send(self.held, DONTWAIT)
        except BlockingIOError:
            return
        except OSError:
            self.failed()
            return
        pair.count(not self.is_client, 0, sent)
        if sent < len(self.held):
            del self.held[:sent]
            pair.reactor.hold(-sent)
            return
        self.drop_held()
        peer = self.peer
        if pair.state == RESETTING:
            pair.await_acknowledgement()
        elif peer.read_eof:
            pair.pass_fin(peer)
        elif peer.readable:
            peer.pump()

    def on_eof(self) -> None:
        """The other end sent FIN, or, after a reset was noticed, there is nothing more to read."""
        self.readable = False
        if self.broken:
            self.pair.drained(self)
            return
        self.read_eof = True
        self.pair.pass_fin(self)

    def failed(self) -> None:
        """This side was reset. What its kernel received before still goes to the peer; then the peer is reset.

        A failing `send` eats the error: `recv` then gives the rest and an EOF, which is no FIN.
        """
        pair = self.pair
        if pair.state == CLOSED:
            return
        if self.broken or pair.state != RELAYING:
            pair.close(True)  # both are gone
            return
        if pair.touched:
            self.drop_held()
        self.broken = True
        self.readable = True
        pair.state = BREAKING
        pair.expect_reset()
        if self.read_eof:
            pair.drained(self)
        else:
            self.pump()


class Pair(Timed, Acknowledgement):
    """Two sides and how one's end becomes the other's. What they belong to, and how the upstream is found, is for a
    subclass: it says what the hooks at the end do."""

    __slots__ = ("active_ms", "client", "meter", "reactor", "reset_ms", "splices", "state", "touched", "upstream")

    def __init__(self, reactor: Reactor, client: Side) -> None:
        Timed.__init__(self)
        self.reactor: Reactor = reactor
        self.client: Side = client
        self.upstream: Side = NOBODY
        self.state: int = CONNECTING
        self.touched: bool = False  # a byte was forwarded: no other upstream can take over
        self.active_ms: int = reactor.now_ms
        self.reset_ms: int = 0  # a reset was seen: when to end in any case
        self.meter: Meter | None = None  # slows both directions down
        self.splices: bool = False  # what is bulk
        client.link(NOBODY, self)

    def pass_fin(self, finished: Side) -> None:
        """All that `finished` ever sends is with its peer's kernel: pass the FIN on, or close after the second one."""
        peer = finished.peer
        if peer.full:
            return  # its flush comes back here
        if peer.read_eof:
            if not finished.full:
                self.close(False)
            return
        if not finished.is_client:
            self.touched = True  # the client has an answer, if an empty one: no other upstream may give a second
        try:
            _SHUTDOWN(peer.sock, 1)
        except OSError:
            peer.failed()
        else:
            self.half_closed(finished)

    def drained(self, broken: Side) -> None:
        """All that `broken` had sent before its reset is with its peer's kernel or held for it."""
        if self.state == CLOSED:
            return
        if not broken.is_client and not self.touched and not self.client.full:
            self.state = CONNECTING
            self.upstream_lost()
            return
        self.state = RESETTING
        if not broken.peer.full:
            self.await_acknowledgement()

    def await_acknowledgement(self) -> None:
        """Reset the surviving side as soon as its kernel has nothing unacknowledged."""
        if not self.check():
            self.reactor.await_acknowledgement(self)

    def check(self) -> bool:
        """Reset and return True when everything was acknowledged, or the connection has ended already."""
        if self.state == CLOSED:
            return True
        survivor = self.upstream if self.client.broken else self.client
        if unacknowledged_bytes(survivor.descriptor):
            return False
        self.close(True)
        return True

    def expect_reset(self) -> None:
        """A reset was seen: end with a reset of both within RESET_DEADLINE_MS, whatever the slow side does."""
        self.reset_ms = self.reactor.now_ms + RESET_DEADLINE_MS
        self.reactor.wheel.arm(self, self.reset_ms)

    def on_fault(self) -> None:
        """Reset both ends: what an unexpected exception left behind is not to be trusted."""
        self.close(True)

    # Hooks.

    def count(self, from_client: bool, received: i64, sent: i64) -> None:
        """Bytes have moved: `received` by us from one side, of which `sent` went to the other."""

    def on_upstream_event(self, events: int) -> None:
        """Something happened to the upstream while it was connecting."""

    def on_client_event(self, events: int) -> None:
        """The client sent something, or ended, before the upstream was connected; it was noted."""

    def half_closed(self, finished: Side) -> None:
        """The FIN of a side was passed on; the other direction is open still."""

    def upstream_lost(self) -> None:
        """The upstream was reset before a byte was forwarded, so that another one can take over."""

    def close(self, reset: bool) -> None:
        """Close both sockets, with FIN or with RST, and let go of everything."""


_closed_socket = _socket.socket()
_closed_socket.close()
NOBODY: Final = Side(_closed_socket, -1, False)
"""Stands where a side is missing, so that no attribute is optional on the hot path."""
