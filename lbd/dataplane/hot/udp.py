"""The socket on which clients reach a UDP service, and the flows that came through it.

One SO_REUSEPORT socket for each worker: the kernel gives all datagrams of a client's address and port to the same one.
So a flow is known to one worker only, and the table needs no lock.

A query and its answer cost two system calls, one toward the member and one from there, besides a share of those that
take what clients have sent (lbd.dataplane.hot.inbox), give them the answers (outbox), and wait. New flows are bounded
in number and in descriptors: beyond, the flow that was idle longest makes room, among those that never came back after
an answer first (lbd.dataplane.hot.idle_order).

Hot module: compiled by mypyc, and must do the same when interpreted.
"""

from __future__ import annotations

import _socket
from collections.abc import Callable
from typing import Any, Final

from lbd.dataplane.hot.client_log import EVICTED, MEMBER_DOWN, RELEASED
from lbd.dataplane.hot.connection import IDLE, NONE_TRIED
from lbd.dataplane.hot.datagrams import BIG_BYTES, NOTHING, count_of
from lbd.dataplane.hot.entrance import ACCEPT_BATCH
from lbd.dataplane.hot.flow import Flow, FlowHome
from lbd.dataplane.hot.inbox import Inbox, client_of
from lbd.dataplane.hot.lane import Lane
from lbd.dataplane.hot.limits import ADMITTED, MAX_CONNECTIONS, MAX_THROUGHPUT, SOURCE_RANGES
from lbd.dataplane.hot.logged_flow import LoggedFlow
from lbd.dataplane.hot.outbox import Outbox
from lbd.dataplane.hot.reactor import Reactor
from lbd.dataplane.hot.service import Service
from lbd.dataplane.hot.tally import EVICTED_FLOWS, REJECTED, UNSERVED
from lbd.dataplane.hot.tally import TIMED_OUT as ENDED_BY_TIMEOUT
from lbd.dataplane.hot.wheel import Timed

LOOK_INTERVAL_MS: Final = 5000
"""How long a shortened idle timeout may go unnoticed."""
STANDSTILL_MS: Final = 250
"""After so long somebody else may have served this socket: at half the age at which a worker counts as hung."""
DATAGRAM_BATCH: Final = 256
"""How many are taken before the answers have their turn. With as few as connections, a flow that ends with its answers
would end with each of them: the next question of the same client comes in the batch after."""
REFUSING_BATCHES: Final = 64
"""How many batches that wait are still served when no more shall be: the kernel's buffer of a busy service."""


class IdleTimer(Timed):
    """Ends the idle flows of one socket: one timer for all, because the order says who is next."""

    __slots__ = ("listener",)

    def __init__(self, listener: UdpListener) -> None:
        Timed.__init__(self)
        self.listener: UdpListener | None = listener

    def expired(self, now_ms: int) -> None:
        """Look, and look again when the next one may be due."""
        listener = self.listener
        if listener is not None:
            listener.end_idle(now_ms)


class UdpListener(FlowHome):
    """See the module. While it `is_refusing`, the flows that there are go on, and nobody else gets one; `on_vacant` is
    told the service's slot when the last flow of the service in this worker ends then."""

    __slots__ = ("inbox", "is_refusing", "may_free", "on_vacant", "taken_ms", "timer")

    def __init__(
        self,
        reactor: Reactor,
        service: Service,
        lane: Lane,
        identity: int,
        sock: _socket.socket,
        mail: tuple[Inbox, Outbox],
        on_vacant: Callable[[int], None] | None,
    ) -> None:
        FlowHome.__init__(self, reactor, service, lane, identity, sock, mail[1])
        self.inbox: Inbox = mail[0]
        self.port.inherit_merging()
        self.is_refusing: bool = False
        self.may_free: bool = True  # not within a batch of events: one may be for a descriptor that is used again
        self.on_vacant: Callable[[int], None] | None = on_vacant
        self.taken_ms: int = reactor.now_ms
        self.timer: IdleTimer = IdleTimer(self)

    def on_event(self, events: int) -> None:
        """Datagrams wait; they are taken when the events of this batch are over, as connections are."""
        self.reactor.ready_to_accept(self)

    def accept(self) -> None:
        """Take some of what waits."""
        self.take(DATAGRAM_BATCH)

    def pause(self) -> None:
        """Descriptors are used up: go on all the same, flows that are there need none, and a new one makes room."""

    def resume(self) -> None:
        """Take what comes, unless it is to be left alone."""
        if not self.stopped:
            self.watch()

    def set_accepting(self, accepting: bool) -> None:
        """Serve everybody from now on, or nobody: what comes waits in the kernel's buffer."""
        self.is_refusing = False
        FlowHome.set_accepting(self, accepting)

    def refuse(self) -> None:
        """Serve what waits, and from then on only the flows that there are."""
        if not self.stopped and not self.is_refusing:
            self.may_free = False
            for _ in range(REFUSING_BATCHES):
                if self.take(ACCEPT_BATCH):
                    break
            self.may_free = True
        self.is_refusing = True
        self.stopped = False
        self.watch()

    def take(self, most: int) -> bool:
        """Take at most `most` datagrams, or merged pieces; return True if none is left."""
        port = self.port
        now_ms = self.reactor.now_ms
        if now_ms - self.taken_ms > STANDSTILL_MS:
            port.inherit_merging()
        self.taken_ms = now_ms
        while most > 0 and not self.closed:
            count = self.inbox.receive(port, most)
            if count == NOTHING:
                return True
            if count > 0:  # else it is an error about some client: nothing is known of it
                self.pass_on(count)
                if self.inbox.is_dry:
                    return True
            most -= max(count, 1)
        return self.closed

    def pass_on(self, count: int) -> None:
        """Have the flows forward what lies in the inbox."""
        inbox = self.inbox
        port = self.port
        per_packet = self.service.settings.per_packet
        flows = self.flows
        was_reported = False
        for slot in range(count):
            try:
                size = inbox.size(slot)
                sender = inbox.sender(slot)
                segment = 0
                if inbox.is_merged:
                    segment = inbox.segment(slot, size)
                elif size >= BIG_BYTES or port.surplus > 0:
                    port.note(size)
                flow = flows.get(sender) if not per_packet else None
                if flow is None:
                    flow = self.spread(sender) if per_packet else self.welcome(sender, sender, client_of(sender), -1)
                    if flow is None:
                        continue
                self.forward(flow, inbox.content(slot, size), segment)
            except Exception as error:  # noqa: BLE001  # what others have sent lies in the inbox too, and nowhere else
                if not was_reported:  # a fault that each of them meets is told once
                    was_reported = True
                    self.reactor.report("datagram", error)

    def forward(self, flow: Flow, content: bytes | memoryview, segment: int) -> None:
        """Have a flow forward something, if the service's throughput allows it."""
        service = self.service
        size = len(content)
        datagrams = count_of(size, segment)
        tally = service.tally
        meter = service.meter
        if meter is not None:
            if not meter.may_pass(self.reactor.now_ms):
                tally.add(REJECTED + MAX_THROUGHPUT, datagrams)
                return
            meter.spend(size)
        tally.received_bytes += size
        tally.received_datagrams += datagrams
        if not tally.dirty:
            tally.mark()
        flow.forward(content, segment, datagrams)

    def spread(self, sender: bytes) -> Flow | None:
        """Return the client's flow with the member whose turn it is."""
        service = self.service
        client = client_of(sender)
        index = service.pick(client[0], NONE_TRIED, self.reactor.now_ms)
        if index < 0:
            if not self.is_refusing:
                service.tally.add(UNSERVED, 1)
            return None
        key: Any = (sender, service.members[index].slot)
        flow = self.flows.get(key)
        return flow if flow is not None else self.welcome(key, sender, client, index)

    def welcome(self, key: Any, sender: bytes, client: Any, index: int) -> Flow | None:
        """Return a new flow to the member at `index` (-1: to the one that the client shall have); None without one."""
        if self.is_refusing:
            return None
        service = self.service
        settings = service.settings
        reactor = self.reactor
        address: str = client[0]
        ranges = settings.source_ranges
        if ranges is not None and not ranges.contains(address):
            service.tally.add(REJECTED + SOURCE_RANGES, 1)
            return None
        if service.eligible == 0:  # nobody shall make room for a flow that nobody would serve
            service.tally.add(UNSERVED, 1)
            return None
        log = service.log
        flow = Flow(self, key, sender, client) if log is None else LoggedFlow(self, key, sender, client, log)
        gate = service.gate
        if gate is not None:
            answer = gate.enter_flow(address, self.lane.clients, reactor.now_ms)
            if answer != ADMITTED:
                service.tally.add(REJECTED + answer, 1)
                return None
            flow.has_place = True
        if not self.make_room() or not flow.open(index):
            all_full = service.all_full(flow.tried)
            service.tally.add(REJECTED + MAX_CONNECTIONS if all_full else UNSERVED, 1)
            flow.leave(reactor.now_ms)
            return None
        self.flows[key] = flow
        self.order.add(flow, reactor.now_ms)
        service.active += 1
        service.tally.active += 1
        service.tally.total += 1
        service.tally.mark()
        if self.timer.wheel_slot < 0 and settings.idle_ms:
            reactor.wheel.arm(self.timer, reactor.now_ms + min(settings.idle_ms, LOOK_INTERVAL_MS))
        return flow

    def make_room(self) -> bool:
        """Have one flow more fit into the table and the descriptors; False if it does not."""
        reactor = self.reactor
        most = self.service.settings.max_flows
        while (most and len(self.flows) >= most) or reactor.sockets >= reactor.socket_limit:
            longest_idle = self.order.longest_idle()
            if longest_idle is None:
                return False
            assert isinstance(longest_idle, Flow)
            longest_idle.end_for(EVICTED)
            self.service.tally.add(EVICTED_FLOWS, 1)
            if reactor.sockets >= reactor.socket_limit:
                if not self.may_free:
                    return False
                reactor.free_descriptors()
        return True

    def end_idle(self, now_ms: int) -> None:
        """End the flows on which nothing has moved for the idle timeout."""
        idle_ms = self.service.settings.idle_ms
        order = self.order
        order.set_idle(idle_ms)
        if idle_ms == 0 or self.closed:
            return
        before = len(order)
        due_ms = order.end_idle(idle_ms, now_ms)
        if len(order) != before:
            self.service.tally.add(ENDED_BY_TIMEOUT + IDLE, before - len(order))
        if due_ms:
            self.reactor.wheel.arm(self.timer, min(due_ms, now_ms + LOOK_INTERVAL_MS))

    def flow_ended(self) -> None:
        """Tell when nobody is left to be served."""
        tell = self.on_vacant
        if tell is not None and self.is_refusing and self.service.active == 0 and not self.closed:
            tell(self.service.slot)

    def flows_to(self, member_slot: int) -> list[Flow]:
        """Return the flows to a member, or all for -1."""
        found: list[Flow] = []
        for flow in self.flows.values():
            member = flow.member
            if member_slot < 0 or (member is not None and member.slot == member_slot):
                found.append(flow)
        return found

    def weights_changed(self) -> None:
        """While nobody else is served, a flow whose member is down has nothing to go on for."""
        if self.is_refusing:
            for flow in self.flows_to(-1):
                member = flow.member
                if member is None or member.down:
                    flow.end_for(MEMBER_DOWN)

    def close(self) -> None:
        """Let go of the socket, and end the flows: no answer could leave any more."""
        self.outbox.leave(self.port)
        FlowHome.close(self)
        for flow in self.flows_to(-1):
            flow.end_for(RELEASED)
        self.reactor.wheel.disarm(self.timer)
        self.port.descriptor = -1  # soon another socket's
        self.timer.listener = None  # no reference cycle is left behind
