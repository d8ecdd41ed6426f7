"""Deals the limits of all services to the workers: `leases` with the messages around it."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence

from lbd.dataplane.channel import Message
from lbd.dataplane.limit_kinds import CONNECTIONS, MEMBER, RATE, THROUGHPUT
from lbd.model.desired import VirtualService
from lbd.supervisor.leases import Lease, Order
from lbd.supervisor.service_message import rate_units, throughput_units
from lbd.supervisor.worker_process import WorkerProcess

Key = tuple[str, int]
"""Kind of a limit, and the counters' slot of the service or member that it is of."""


def limits_of(service: VirtualService, slot: int, member_slots: Sequence[int]) -> dict[Key, int]:
    """Return the limits of a service that are dealt in shares, in the units in which they are; without those that are
    not set. `member_slots` are in the order of the members."""
    limits = service.limits
    found = {
        (CONNECTIONS, slot): limits.max_connections,
        (RATE, slot): rate_units(limits),
        (THROUGHPUT, slot): throughput_units(limits),
    }
    for member, member_slot in zip(service.pool.members, member_slots, strict=True):
        found[MEMBER, member_slot] = member.max_connections
    return {key: limit for key, limit in found.items() if limit}


class LeaseDesk:
    """The shares of every limit. `places` is how many workers there should be."""

    def __init__(self, places: int) -> None:
        self._places = places
        self._leases: dict[Key, Lease[WorkerProcess]] = {}
        self._of: dict[int, set[Key]] = {}
        """By service slot: its limits."""
        self._numbers = itertools.count(1)

    def open(self, slot: int, limits: Mapping[Key, int], workers: Iterable[WorkerProcess]) -> None:
        """A new service has these limits, and these workers have just been told of it."""
        self._add(slot, limits, workers, fresh=True)

    def update(self, slot: int, limits: Mapping[Key, int], workers: Iterable[WorkerProcess]) -> None:
        """A service has these limits now, and these workers have just been told: for a limit that is new they may
        have connections already."""
        for key in self._of.get(slot, set()) - limits.keys():
            del self._leases[key]
        known = {key for key in limits if key in self._leases}
        self._of[slot] = known
        for key in known:
            lease = self._leases[key]
            if lease.limit != limits[key]:
                self._send(key, lease.set_limit(limits[key]))
        self._add(slot, {key: limits[key] for key in limits if key not in known}, workers, fresh=False)

    def close(self, slot: int) -> None:
        """A service is removed."""
        for key in self._of.pop(slot, set()):
            del self._leases[key]

    def join(self, slot: int, worker: WorkerProcess) -> None:
        """A new worker has been told of a service."""
        for key in self._of.get(slot, ()):
            self._send(key, self._leases[key].join(worker, fresh=True))

    def leave(self, place: int) -> None:
        """The worker in a place has ended: what it held is free."""
        for key, lease in self._leases.items():
            for worker in lease.ceilings:
                if worker.index == place:
                    self._send(key, lease.leave(worker))

    def take(self, worker: WorkerProcess, message: Message) -> None:
        """A worker wants more of a limit, or says what it holds."""
        key = (message["kind"], message["slot"])
        lease = self._leases.get(key)
        if lease is None:
            return  # removed meanwhile
        if message["type"] == "lease_wanted":
            self._send(key, lease.want(worker, message["wanted"], patient=message["patient"]))
        else:
            self._send(key, lease.answer(worker, message["number"], message["share"], message["held"]))

    def _add(self, slot: int, limits: Mapping[Key, int], workers: Iterable[WorkerProcess], *, fresh: bool) -> None:
        held = list(workers)
        for key, limit in limits.items():
            lease = self._leases[key] = Lease(limit, self._places, lambda: next(self._numbers))
            self._of.setdefault(slot, set()).add(key)
            for worker in held:
                self._send(key, lease.join(worker, fresh=fresh))

    @staticmethod
    def _send(key: Key, orders: Iterable[Order[WorkerProcess]]) -> None:
        for order in orders:
            order.worker.send(
                {
                    "type": "lease",
                    "kind": key[0],
                    "slot": key[1],
                    "order": order.kind.value,
                    "number": order.number,
                    "amount": order.amount,
                    "fair": order.fair,
                    "standing": order.standing,
                }
            )
