"""From the supervisor's messages to the services, members and balancers of a worker's relay."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

from lbd.balancing.balancer import Balancer
from lbd.balancing.bounded_hash import BoundedHash
from lbd.balancing.consistent_hash import ConsistentHash
from lbd.balancing.fastest_response import FastestResponse
from lbd.balancing.least_connections import LeastConnections
from lbd.balancing.random_choices import RandomChoices
from lbd.balancing.round_robin import RoundRobin
from lbd.dataplane import counters
from lbd.dataplane.channel import Message
from lbd.dataplane.hot.networks import Networks
from lbd.dataplane.hot.relay import Relay
from lbd.dataplane.hot.service import Member, Service, Settings
from lbd.dataplane.hot.tally import Tally
from lbd.dataplane.limits_builder import LimitsBuilder

_FAMILIES = {4: socket.AF_INET, 6: socket.AF_INET6}
_TCP_KEEPALIVE = (socket.TCP_KEEPIDLE, socket.TCP_KEEPINTVL, socket.TCP_KEEPCNT)
_TCP_USER_TIMEOUT = 18


class ServiceBuilder:
    """Keeps the relay's services in step with the messages, and their `limits`. `report` is told of members'
    failures."""

    def __init__(
        self,
        relay: Relay,
        counter_map: counters.CounterMap,
        row: int,
        index: int,
        report: Callable[[int, int, int], None],
        limits: LimitsBuilder,
    ) -> None:
        self._relay = relay
        self._counters = counter_map
        self._row = row
        self._index = index
        self._report = report
        self.limits = limits
        self._members: dict[int, Member] = {}
        self._pooled_no_more: set[int] = set()
        """The slots of members that no pool has any more; connections may use them still."""
        self._algorithms: dict[int, tuple[object, ...]] = {}
        """By service slot: what a change of makes a new balancer necessary."""

    def set(self, message: Message, descriptors: list[int]) -> None:
        """Add a service, or change its pool and settings; connections stay as they are."""
        slot = message["slot"]
        service = self._relay.services.get(slot)
        if service is None:
            tally = self._tally(counters.service_base(self._row, slot))
            settings = Settings((message["address"], message["port"]))
            service = Service(slot, message["name"], tally, self._counters.view, self._report, settings)
            self._relay.services[slot] = service
        _set_settings(service.settings, message)
        members = [self._member(entry) for entry in message["members"]]
        self._pooled_no_more |= {member.slot for member in service.members}
        self._pooled_no_more -= {member.slot for member in members}
        self._set_pool(service, members, message, descriptors)
        self.limits.set(service, message)
        service.set_weights(message["weights"], message["down"])
        self._relay.weights_changed(slot)

    def set_weights(self, message: Message) -> None:
        """Change the members' effective weights, unless the pool is another one meanwhile."""
        service = self._relay.services.get(message["slot"])
        if service is not None and [member.slot for member in service.members] == message["members"]:
            service.set_weights(message["weights"], message["down"])
            if service.gate is not None:
                service.gate.wake_all()
            self._relay.weights_changed(service.slot)

    def remove(self, slot: int) -> None:
        """Forget a service; its connections go on until they end or are reset."""
        service = self._relay.services.get(slot)
        if service is not None:
            self.limits.remove(service)
            self._pooled_no_more |= {member.slot for member in service.members}
        self._relay.remove(slot)
        self._algorithms.pop(slot, None)

    def forget_unused_members(self) -> None:
        """Forget the members that no pool has and no connection uses."""
        for slot in list(self._pooled_no_more):
            if not self._members[slot].active:
                del self._members[slot]
                self._pooled_no_more.discard(slot)

    def _set_pool(self, service: Service, members: list[Member], message: Message, descriptors: list[int]) -> None:
        algorithm = (message["algorithm"], message["hash_key"], message["max_load_percent"])
        unchanged = service.members == members and self._algorithms.get(service.slot) == algorithm
        if unchanged and message["algorithm"] != "consistent_hash":
            return  # the balancer stays, and with it whose turn it is
        self._algorithms[service.slot] = algorithm
        own_active = [member.active for member in members]
        other_active = [0] * len(members)
        balancer = self._balancer(message, own_active, other_active, descriptors)
        load_bases: list[list[int]] = []
        if message["algorithm"] in ("least_connections", "random") or message["max_load_percent"]:
            others = [row for row in range(1, self._counters.rows) if row != self._row]
            load_bases = [[counters.member_base(row, member.slot) for row in others] for member in members]
        service.set_pool(members, balancer, own_active, other_active, load_bases)

    def _balancer(self, message: Message, own: list[int], others: list[int], descriptors: list[int]) -> Balancer:
        algorithm, weights = message["algorithm"], message["weights"]
        if algorithm == "consistent_hash" and descriptors:  # a pool without members has no table
            # A copy, not a mapping: mmap would hold a descriptor for each service.
            table = os.pread(descriptors[0], os.fstat(descriptors[0]).st_size, 0)
            os.close(descriptors[0])
            view = memoryview(table).cast("H")
            if message["max_load_percent"]:
                return BoundedHash(weights, view, own, others, message["max_load_percent"])
            return ConsistentHash(weights, view)
        seed = (self._index + 1) * 0x9E3779B9
        if algorithm == "least_connections":
            return LeastConnections(weights, own, others, seed)
        if algorithm == "random":
            return RandomChoices(weights, own, others, seed)
        if algorithm == "fastest_response":
            return FastestResponse(weights, own, seed)
        return RoundRobin(weights, self._index)

    def _member(self, entry: dict[str, Any]) -> Member:
        """Return the member of a slot: the same one as before, as long as the slot means the same endpoint."""
        slot, family = entry["slot"], _FAMILIES[entry["family"]]
        member = self._members.get(slot)
        if member is None or member.address != (entry["address"], entry["port"]):
            tally = self._tally(counters.member_base(self._row, slot))
            member = self._members[slot] = Member(slot, family, entry["address"], entry["port"], tally)
        return member

    def _tally(self, base: int) -> Tally:
        return Tally(self._counters.view, base, self._relay.reactor.dirty)


def _set_settings(settings: Settings, message: Message) -> None:
    for name in (
        "connect_ms",
        "idle_ms",
        "client_half_closed_ms",
        "member_half_closed_ms",
        "lifetime_ms",
        "lifetime_jitter",
        "outlier_after",
        "proxy_version",
        "transparent",
        "splices",
        "keeps_entry",
    ):
        setattr(settings, name, message[name])
    settings.hashes_port = message["algorithm"] == "consistent_hash" and message["hash_key"] == "source_ip_port"
    settings.measures_connects = message["algorithm"] == "fastest_response"
    settings.trusted_proxies = _networks(message["accept_proxy_protocol"])
    settings.source_ranges = _networks(message["source_ranges"])
    settings.member_options = _member_options(message)
    if message["udp"] is not None:
        settings.responses = message["udp"]["responses"]
        settings.max_flows = message["udp"]["max_flows"]
        settings.per_packet = message["udp"]["per_packet"]


def _networks(cidrs: list[str]) -> Networks | None:
    return Networks(cidrs) if cidrs else None


def _member_options(message: Message) -> list[tuple[int, int, int]]:
    options: list[tuple[int, int, int]] = []
    if message["member_keepalive"] is not None:
        options.append((socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1))
        options += [
            (socket.IPPROTO_TCP, name, value)
            for name, value in zip(_TCP_KEEPALIVE, message["member_keepalive"], strict=True)
        ]
    if message["member_user_ms"]:
        options.append((socket.IPPROTO_TCP, _TCP_USER_TIMEOUT, message["member_user_ms"]))
    return options
