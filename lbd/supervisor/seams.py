"""The three seams where a second implementation is planned: announcing, the data path, and sources of endpoints."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from lbd.model.address import Endpoint
from lbd.model.desired import DesiredState, MemberKey, VirtualService
from lbd.model.desired import Protocol as Transport
from lbd.model.status import ConnectError, Traffic, VipStatus, WorkerStatus


class Acceptance(StrEnum):
    """What a virtual service does with a new connection."""

    HOLD = "hold"
    """It waits in the kernel's queue: health is not known yet."""
    ACCEPT = "accept"
    REFUSE = "refuse"
    """It is refused: nothing listens."""


@dataclass(frozen=True, slots=True)
class Handle:
    """Names one incarnation of a virtual service in the data path: a service that is removed and added again while
    the first one drains is two of them."""

    name: str
    listen: Endpoint
    incarnation: int
    transport: Transport = Transport.TCP

    def __str__(self) -> str:
        return f"{self.name}@{self.listen}"


class Announcer(Protocol):
    """Owns VIPs: layer 2 now, BGP later. Methods are idempotent; errors say who must act."""

    async def start(self) -> None: ...

    async def sweep(self, wanted: frozenset[str]) -> tuple[str, ...]: ...

    async def claim(self, vip: str) -> None: ...

    async def withdraw(self, vip: str, reason: str) -> None: ...

    def status(self) -> tuple[VipStatus, ...]: ...

    async def close(self, *, remove_addresses: bool) -> None: ...


class DataPath(Protocol):
    """Moves the bytes: user-space relay workers now, a kernel fast path later."""

    async def start(self) -> None: ...

    async def open(self, handle: Handle, service: VirtualService, weights: Sequence[int], down: Sequence[bool]) -> None:
        """Bind, and give the service to every worker, holding new connections. Raises OSError with the reason."""
        ...

    async def update(
        self,
        handle: Handle,
        service: VirtualService,
        weights: Sequence[int],
        down: Sequence[bool],
        generation: int,
    ) -> None: ...

    def set_weights(self, handle: Handle, weights: Sequence[int], down: Sequence[bool]) -> None: ...

    def set_acceptance(self, handle: Handle, acceptance: Acceptance) -> None: ...

    def stop_accepting(self, handle: Handle) -> None:
        """Take what is queued, then close the listening sockets; established connections go on."""
        ...

    def stopped_accepting(self, handle: Handle) -> bool: ...

    def reset_connections(self, handle: Handle, reason: str) -> None: ...

    def reset_member(self, handle: Handle, endpoint: Endpoint, reason: str) -> None: ...

    def remove(self, handle: Handle) -> None: ...

    def undelivered(self) -> frozenset[Endpoint]:
        """Where clients have not acknowledged all that was sent to them on connections that have ended since."""
        ...

    def finish_generation(self, generation: int) -> None:
        """Everything of this generation has been sent: have the workers acknowledge it."""
        ...

    def acknowledged_generation(self) -> int: ...

    def traffic(self, handle: Handle) -> Traffic: ...

    def member_traffic(self, handle: Handle, endpoint: Endpoint) -> Traffic: ...

    def workers(self) -> tuple[WorkerStatus, ...]: ...

    async def close(self) -> None: ...


class EndpointSource(Protocol):
    """Posts whole snapshots of what is wanted, never deltas: the latest wins, and no queue can overflow."""

    async def start(self, post: Callable[[DesiredState], None]) -> None: ...

    async def close(self) -> None: ...


MemberFailure = Callable[[MemberKey, ConnectError, int], None]
"""Told of connect failures that the relay saw: of whom, which, and how many in a row one worker has seen now."""
