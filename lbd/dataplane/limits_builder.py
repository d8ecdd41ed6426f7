"""From the supervisor's messages to the gates, meters and quotas of a worker's services."""

from __future__ import annotations

from typing import Any

from lbd.dataplane.channel import Message
from lbd.dataplane.hot.arrival import DIALLING
from lbd.dataplane.hot.client_limits import ClientLimits
from lbd.dataplane.hot.connection import Connection
from lbd.dataplane.hot.limits import ONE_CONNECTION, Gate
from lbd.dataplane.hot.meter import Meter
from lbd.dataplane.hot.quota import Desk, Part, Quota
from lbd.dataplane.hot.rate import Rate
from lbd.dataplane.hot.relay import Relay
from lbd.dataplane.hot.service import Member, Service
from lbd.dataplane.limit_kinds import CONNECTIONS, MEMBER, RATE, THROUGHPUT

_BURST_MS = 1000
"""Of a connection rate; a second's worth may come at once."""
_RESERVE = 8


class LimitsBuilder:
    """Keeps the limits of the relay's services in step with the messages. `index` is this worker's place."""

    def __init__(self, relay: Relay, desk: Desk, index: int) -> None:
        self._relay = relay
        self._desk = desk
        self._index = index
        self._parts: dict[tuple[str, int], Part] = {}
        self._gates: dict[tuple[str, int], Gate] = {}
        """Who hears of a quota's changes."""
        self._limited: dict[int, dict[int, Member]] = {}
        """By service slot: the members that have a limit, by their slots."""
        self._per_client: dict[int, tuple[int, float]] = {}
        """By service slot: connections of a client, and new ones a second; 0: no limit."""

    def set(self, service: Service, message: Message) -> None:
        """Follow a service's definition; connections that there are already are counted, none is ended."""
        limits = message["limits"]
        limited = frozenset(entry["slot"] for entry in message["members"] if entry["max_connections"])
        if service.gate is None and (limited or _has_limits(limits)):
            service.gate = Gate(self._desk)
            self._count_in(service)
        gate = service.gate
        if gate is not None:
            share, rest = divmod(limits["queue_length"], limits["workers"])
            gate.set_queue(limits["patient"], share + (self._index < rest), limits["queue_timeout_ms"])
            self._set_places(service, gate, limits["max_connections"])
            self._set_rate(service, gate, limits["connection_rate"])
            self._set_members(service, gate, limited)
        self._set_clients(service, (limits["max_connections_per_client"], limits["connection_rate_per_client"]))
        if gate is not None and not limited and not _has_limits(limits):
            service.gate = None
        self._set_meter(service, limits["max_throughput"])

    def remove(self, service: Service) -> None:
        """Forget a service."""
        for kind in (CONNECTIONS, RATE):
            self._drop(kind, service.slot)
        self._set_meter(service, 0)
        for slot in self._limited.pop(service.slot, {}):
            self._drop(MEMBER, slot)
        self._per_client.pop(service.slot, None)

    def clients(self, slot: int) -> ClientLimits | None:
        """Return new counts of clients for a listening socket of the service in `slot`, None where it needs none."""
        most, rate = self._per_client.get(slot, (0, 0.0))
        return ClientLimits(most, rate) if most or rate else None

    def take(self, message: Message) -> None:
        """Carry out an order about a share, and answer it."""
        key = (message["kind"], message["slot"])
        part = self._parts.get(key)
        if part is None:
            return  # it was removed meanwhile, and the supervisor has forgotten it too
        order, number, amount = message["order"], message["number"], message["amount"]
        now_ms = self._desk.reactor.now_ms
        if isinstance(part, Rate):
            if order == "share":
                part.set_share(number, amount, now_ms)
            elif order == "recall":
                part.recall(number, amount, message["fair"], now_ms)
        elif isinstance(part, Quota):
            gate = self._gates[key]
            if order == "share":
                part.set_share(number, amount)
            elif order == "recall":
                part.recall(number, amount, message["standing"], gate.waiting_for(part))
            else:
                part.exhaust(now_ms)
            gate.changed(part)
        if order != "exhausted":
            self._desk.answer(part)

    def sample(self, now_ms: int) -> None:
        """Let rates look at their use, and whoever waits ask again; to be called every 100 ms or so."""
        for key, part in self._parts.items():
            if isinstance(part, Rate):
                part.sample(self._desk, now_ms)
            elif isinstance(part, Quota) and part.is_overdue(now_ms):
                self._gates[key].ask_again()

    def _add(self, part: Part) -> None:
        """From now on this worker takes part in dealing the limit: say so."""
        self._parts[part.kind, part.slot] = part
        self._desk.ask(part, 0, False)

    def _drop(self, kind: str, slot: int) -> None:
        self._parts.pop((kind, slot), None)
        self._gates.pop((kind, slot), None)

    def _connections(self, service: Service) -> list[Connection]:
        """The connections of a service; those of a new one need not be looked for among all."""
        return self._relay.connections(service.slot) if service.active else []

    def _count_in(self, service: Service) -> None:
        """Who is through already has a place."""
        for connection in self._connections(service):
            if connection.stage == DIALLING:
                connection.has_place = True
        for listener in self._relay.udp_listeners(service.slot):
            for flow in listener.flows_to(-1):
                flow.has_place = True

    def _places_taken(self, service: Service) -> int:
        connections = sum(connection.has_place for connection in self._connections(service))
        return connections + sum(len(each.flows_to(-1)) for each in self._relay.udp_listeners(service.slot))

    def _set_places(self, service: Service, gate: Gate, limit: int) -> None:
        if limit and gate.places is None:
            quota = Quota(CONNECTIONS, service.slot, self._places_taken(service))
            gate.places = quota
            self._gates[CONNECTIONS, service.slot] = gate
            self._add(quota)
        elif not limit and gate.places is not None:
            gate.open()
            self._drop(CONNECTIONS, service.slot)

    def _set_rate(self, service: Service, gate: Gate, limit: int) -> None:
        if limit and gate.rate is None:
            gate.rate = Rate(RATE, service.slot, self._relay.reactor.now_ms, _BURST_MS, ONE_CONNECTION, 1.0, _RESERVE)
            gate.rate.limit = limit
            self._add(gate.rate)
        elif not limit and gate.rate is not None:
            gate.rate = None
            self._drop(RATE, service.slot)
        elif gate.rate is not None:
            gate.rate.limit = limit

    def _set_members(self, service: Service, gate: Gate, limited: frozenset[int]) -> None:
        """The members that are new in the pool, or limited anew, get a quota; those that are not any more lose it."""
        before = self._limited.get(service.slot, {})
        for slot, member in before.items():
            if slot not in limited:
                member.quota = None
                self._drop(MEMBER, slot)
        now = {member.slot: member for member in service.members if member.slot in limited}
        for slot, member in now.items():
            if member.quota is None:
                member.quota = Quota(MEMBER, slot, member.active)
                self._gates[MEMBER, slot] = gate
                self._add(member.quota)
        self._limited[service.slot] = now
        service.limits_members = bool(now)
        gate.wake_all()

    def _set_clients(self, service: Service, limits: tuple[int, float]) -> None:
        if limits == self._per_client.get(service.slot, (0, 0.0)):
            return
        self._per_client[service.slot] = limits
        now_ms = self._relay.reactor.now_ms
        for listener in self._relay.listeners.values():
            lane = listener.lane
            if listener.service is not service:
                continue
            if lane.clients is not None and any(limits):
                lane.clients.set_limits(*limits)
                continue
            lane.clients = self.clients(service.slot)
            if lane.clients is not None:
                for address in self._addresses(service, lane):
                    lane.clients.adopt(address, now_ms)

    def _addresses(self, service: Service, lane: Any) -> list[str]:
        """The client of every connection and flow that came through a lane and is through, or waits for a place."""
        found = [
            connection.client_address[0]
            for connection in self._connections(service)
            if connection.lane is lane and (connection.has_place or connection.is_waiting)
        ]
        for listener in self._relay.udp_listeners(service.slot):
            if listener.lane is lane:
                found += [flow.client[0] for flow in listener.flows_to(-1)]
        return found

    def _set_meter(self, service: Service, limit: int) -> None:
        meter = service.meter
        if limit and meter is not None:
            meter.rate.limit = limit
            return
        if limit:
            service.meter = Meter(self._relay.reactor, service.slot)
            service.meter.rate.limit = limit
            self._add(service.meter.rate)
        elif meter is not None:
            service.meter = None
            meter.end()
            self._drop(THROUGHPUT, service.slot)
        if service.meter is not meter:
            for connection in self._connections(service):
                connection.meter = service.meter


def _has_limits(limits: dict[str, Any]) -> bool:
    """Return whether anything is asked of a connection before it is let in."""
    names = ("max_connections", "connection_rate", "max_connections_per_client", "connection_rate_per_client")
    return any(limits[name] for name in names)
