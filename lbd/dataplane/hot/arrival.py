"""What happens to a client's connection before a member is picked for it.

Who comes through a trusted proxy says first who he really is (the PROXY protocol); then the service's source ranges and
limits decide. A service that asks nothing of all this skips it.

Hot module: compiled by mypyc, and must do the same when interpreted.
"""

from __future__ import annotations

from typing import Final

from lbd.dataplane.hot.buffer import DONTWAIT
from lbd.dataplane.hot.lane import Lane
from lbd.dataplane.hot.limits import ADMITTED, PROXY_HEADER, SOURCE_RANGES, WAIT
from lbd.dataplane.hot.line import Entrant
from lbd.dataplane.hot.pair import CLOSED, NOTHING_HELD, Pair, Side
from lbd.dataplane.hot.proxy_protocol import MAX_HEADER_BYTES, read_header
from lbd.dataplane.hot.reactor import EPOLLRDHUP, Reactor
from lbd.dataplane.hot.service import Service
from lbd.dataplane.hot.stream_socket import PEEK
from lbd.dataplane.hot.tally import QUEUED, REJECTED

GREETING_MS: Final = 5000
"""How long a client of a trusted proxy may take for its PROXY protocol header."""

# Stages of a pair that is CONNECTING.
DIALLING: Final = 0
GREETING: Final = 1
WAITING: Final = 2


class Arrival(Pair, Entrant):
    """A connection on its way to a member. `client_address` is the client's own, also behind a trusted proxy, and
    `destination` where it connected to."""

    __slots__ = (
        "client_address", "deadline_ms", "destination", "has_place", "lane", "service", "stage", "unsent",
        "waits_until_ms",
    )  # fmt: skip

    def __init__(self, reactor: Reactor, service: Service, lane: Lane, client: Side, address: tuple[str, int]) -> None:
        Pair.__init__(self, reactor, client)
        self.service: Service = service
        self.lane: Lane = lane
        self.client_address: tuple[str, int] = address
        self.destination: tuple[str, int] = service.settings.address
        self.stage: int = DIALLING
        self.deadline_ms: int = 0  # of this stage, or of this attempt to connect
        self.has_place: bool = False  # under the limits of the service
        self.waits_until_ms: int = 0  # for a place, and for a member with room
        self.unsent: bytearray = NOTHING_HELD  # the client's first bytes, when the member that they were for has failed

    def arrive(self) -> None:
        """Ask what the service wants to know first, then go on with `connect`."""
        trusted = self.service.settings.trusted_proxies
        if trusted is not None and trusted.contains(self.client_address[0]):
            self.stage = GREETING
            self.look_again_at(self.reactor.now_ms + GREETING_MS)
            return  # the header's arrival is an event
        self.enter()

    def on_client_event(self, events: int) -> None:
        """The client sent something, or ended, before it had a member."""
        if self.stage == GREETING:
            self.greet(events & EPOLLRDHUP != 0)

    def greet(self, ended: bool) -> None:
        """Read the PROXY protocol header as far as it is there: nothing behind it is taken from the socket."""
        client = self.client
        try:
            received: bytes = client.sock.recv(MAX_HEADER_BYTES, PEEK)
        except BlockingIOError:
            return
        except OSError:
            self.close(True)
            return
        header = read_header(received)
        if header.length <= 0:
            if header.length < 0 or ended or len(received) == 0 or len(received) >= MAX_HEADER_BYTES:
                self.refused(PROXY_HEADER)
            return
        client.sock.recv(header.length, DONTWAIT)
        client.readable = len(received) > header.length or client.fin_seen
        if header.client[0]:
            self.client_address = header.client
            self.destination = header.destination
        self.enter()

    def enter(self) -> None:
        """Pass the source ranges and the limits."""
        self.stage = DIALLING
        ranges = self.service.settings.source_ranges
        if ranges is not None and not ranges.contains(self.client_address[0]):
            self.refused(SOURCE_RANGES)
            return
        gate = self.service.gate
        if gate is not None:
            answer = gate.enter(self, self.client_address[0], self.lane.clients, self.reactor.now_ms)
            if answer != ADMITTED:
                self.turned_down(answer)
                return
            self.has_place = True
        self.connect()

    def turned_down(self, answer: int) -> None:
        """Wait in the gate's queue, or go."""
        if answer != WAIT:
            self.refused(answer)
            return
        gate = self.service.gate
        assert gate is not None
        self.stage = WAITING
        self.service.tally.add(QUEUED, 1)
        if not self.waits_until_ms:  # however often it waits
            self.waits_until_ms = self.reactor.now_ms + gate.wait_ms
        self.look_again_at(self.waits_until_ms)

    def await_member(self) -> None:
        """Wait until a member has room: all that are eligible are full."""
        gate = self.service.gate
        assert gate is not None
        self.turned_down(gate.await_member(self))

    def admitted(self) -> None:
        """A place is free after a wait."""
        if self.state == CLOSED or self.stage != WAITING:
            return
        self.stop_waiting()
        self.has_place = True
        self.connect()

    def refused(self, reason: int) -> None:
        """Reset the client; `reason` is a place in counters.REJECTION_ORDER."""
        if self.state != CLOSED:
            self.service.tally.add(REJECTED + reason, 1)
            self.close(True)

    @property
    def is_waiting(self) -> bool:
        """Whether it waits for a place, or for a member with room."""
        return self.stage == WAITING

    def stop_waiting(self) -> None:
        """Leave the stage of waiting."""
        self.stage = DIALLING
        self.service.tally.add(QUEUED, -1)

    def waited_too_long(self) -> None:
        """The deadline of this stage has passed."""
        if self.stage == GREETING:
            self.refused(PROXY_HEADER)
            return
        gate = self.service.gate
        assert gate is not None
        self.refused(gate.wait_reason)

    def leave(self) -> None:
        """Give back whatever this holds under the limits; called once, at the close."""
        gate = self.service.gate
        if self.stage == WAITING:
            self.stop_waiting()
            if gate is not None:
                gate.gave_up(self)
            if not self.has_place and self.lane.clients is not None:
                self.lane.clients.leave(self.client_address[0], self.reactor.now_ms)
        if self.has_place:
            self.has_place = False
            if gate is not None:
                gate.leave(self.client_address[0], self.lane.clients, self.reactor.now_ms)

    def look_again_at(self, deadline_ms: int) -> None:
        """Have `expired` called then."""
        self.deadline_ms = deadline_ms
        self.reactor.wheel.arm(self, deadline_ms)

    def connect(self) -> None:
        """Begin an attempt at a member. Here for the subclass to say how."""
