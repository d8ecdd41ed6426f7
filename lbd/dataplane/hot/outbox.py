"""Answers on their way to clients of UDP services: those of one batch of events leave with one call.

A member's answer is received right into a slot, gets the client's address beside it, and waits there until the batch
ends or DEFERRED_EVENTS of it have passed, another service has answers, or all slots are taken. Answers of one flow stay
in order.

Hot module: compiled by mypyc, and must do the same when interpreted.
"""

from __future__ import annotations

from lbd.dataplane.hot.buffer import DONTWAIT
from lbd.dataplane.hot.datagrams import DatagramPort
from lbd.dataplane.hot.messages import SENDMMSG, SLOTS, Messages
from lbd.dataplane.hot.reactor import Deferred, Reactor
from lbd.dataplane.hot.tally import Tally


class Outbox(Deferred):
    """A worker's, for all its sockets. Slots from `_first` up to `_next` wait; `_next` is where an answer may lie that
    was not added yet."""

    __slots__ = ("_bytes", "_first", "_is_due", "_messages", "_next", "_port", "_reactor", "_tally")

    def __init__(self, reactor: Reactor) -> None:
        self._reactor: Reactor = reactor
        self._messages: Messages = Messages(SLOTS)
        self._port: DatagramPort | None = None
        self._tally: Tally | None = None
        self._first: int = 0
        self._next: int = 0
        self._bytes: int = 0
        self._is_due: bool = False

    def room(self) -> memoryview:
        """Return where the next answer is to be received."""
        if self._next == SLOTS:
            self.flush()
            self._first = 0
            self._next = 0
        return self._messages.views[self._next]

    def last_answer(self) -> memoryview:
        """Return the memory of the answer that was received last."""
        return self._messages.views[self._next]

    def add(self, port: DatagramPort, tally: Tally, size: int, client: bytes) -> None:
        """Have the answer that was received last, of `size` bytes, leave by `port` to the sockaddr `client`. What has
        left is counted in `tally`, the service's."""
        if port is not self._port:
            self.flush()
            self._port = port
            self._tally = tally
        self._messages.address_to(self._next, size, client)
        self._next += 1
        self._bytes += size
        if not self._is_due:
            self._is_due = True
            self._reactor.deferred.append(self)

    def finish(self) -> None:
        """Send what waits."""
        self._is_due = False
        self.flush()
        self._first = 0
        self._next = 0

    def flush(self) -> None:
        """Send what waits, but for an answer that was not added yet. What a full buffer does not take is lost."""
        first = self._first
        end = self._next
        if first == end:
            return
        port = self._port
        tally = self._tally
        assert port is not None
        assert tally is not None
        messages = self._messages
        left = end - first
        left_bytes = self._bytes
        self._first = end
        self._bytes = 0
        while first < end:
            sent: int = SENDMMSG(port.descriptor, messages.pointers[first], end - first, DONTWAIT)
            if sent <= 0:  # the first one's fault: a full buffer, or nowhere to send it
                sent = 1
                left -= 1
                left_bytes -= messages.addressed_size(first)
            first += sent
        tally.sent_bytes += left_bytes
        tally.sent_datagrams += left
        if not tally.dirty:
            tally.mark()

    def leave(self, port: DatagramPort) -> None:
        """Send what waits for `port`, which is about to be closed."""
        if port is self._port:
            self.flush()
            self._port = None
            self._tally = None
