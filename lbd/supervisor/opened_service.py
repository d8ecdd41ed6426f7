"""A service as the workers have it."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

from lbd.model.desired import Protocol, VirtualService
from lbd.supervisor.lanes import Lanes
from lbd.supervisor.listeners import ListeningSocket
from lbd.supervisor.seams import Acceptance
from lbd.supervisor.udp_refusal import UdpRefusal
from lbd.supervisor.worker_process import WorkerProcess, WorkerState


@dataclass(slots=True)
class OpenedService:
    """What the data path remembers of a service that is open in it."""

    service: VirtualService
    slot: int
    weights: list[int]
    down: list[bool]
    sockets: list[ListeningSocket]
    lanes: Lanes
    table: int | None = None
    """Descriptor of the consistent-hash table's memory, which the workers map."""
    acceptance: Acceptance = Acceptance.HOLD
    stopping: bool = False
    unlisten_at_s: float | None = None
    """When the handshakes under way have had their time, and the workers are told to empty the queue."""
    unlistening: set[tuple[WorkerProcess, int]] = field(default_factory=set)
    """(worker, listener) that have not said yet that they let go."""
    let_go: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when the last one of them has."""
    refusal: UdpRefusal[WorkerProcess] = field(default_factory=UdpRefusal)

    @property
    def is_udp(self) -> bool:
        """Whether it has flows rather than connections."""
        return self.service.protocol is Protocol.UDP

    def lends(self, index: int) -> bool:
        """Whether there is a socket for the worker in this place."""
        return not self.stopping and not self.refusal.is_vacating and self.sockets[index].descriptor >= 0

    @property
    def is_held(self) -> bool:
        """Whether a living worker has not let go of a socket yet that it was told to."""
        return any(worker.state is not WorkerState.DEAD for worker, _ in self.unlistening)
