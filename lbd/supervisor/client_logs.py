"""Client logs: which services have them and until when, and the lines that come of what workers tell.

Workers tell what has ended; here is decided what is written, so that a service's throttle holds over all workers.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

import structlog

from lbd.dataplane.channel import Message
from lbd.dataplane.client_logs import VERSION
from lbd.dataplane.hot.client_log import SIGNIFICANT_PER_S
from lbd.model.desired import ClientLogs, VirtualService

log = structlog.get_logger(__name__)

LOOK_INTERVAL_S = 1.0
"""How often is looked whose time is over, and said what was left out."""
LINES_PER_S = 2000
"""Of all services together, whatever their throttles say: writing one takes 0.1 ms of the supervisor's time."""


class Listener(Protocol):
    """A worker."""

    def send(self, message: Message) -> None: ...


@dataclass(slots=True)
class _Wish:
    """What was asked for of a service, and since when; `is_over` when its time is."""

    logs: ClientLogs
    since_s: float
    is_over: bool = False


class Window:
    """How many lines were written in the second that runs now."""

    def __init__(self) -> None:
        self._begun_s = float("-inf")
        self._count = 0

    def admits(self, most: int, now_s: float) -> bool:
        """Whether there may be one more of `most` a second (0: any number); if so, it is counted."""
        if now_s - self._begun_s >= 1.0:
            self._begun_s = now_s
            self._count = 0
        if most and self._count >= most:
            return False
        self._count += 1
        return True


@dataclass(slots=True)
class _Said:
    """What was written of a service, and what was not since that was said."""

    plain: Window
    significant: Window
    left_out: int = 0
    left_out_significant: int = 0


class ClientLogDesk:
    """The client logs of all services. `clock` is monotonic, in seconds."""

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._wishes: dict[str, _Wish] = {}
        self._told: dict[int, tuple[VirtualService, dict[str, int] | None]] = {}
        """By the counters' slot of a service: the service, and what the workers were told of its log."""
        self._said: dict[str, _Said] = {}
        self._all = Window()

    def follow(self, slot: int, service: VirtualService, workers: Iterable[Listener]) -> None:
        """A service is there, or has changed, and the workers know of it. The time of its log runs from when it was
        asked for first as it is: not from another change of the service."""
        logs, known = service.client_logs, self._wishes.get(service.name)
        if logs is None:
            self._wishes.pop(service.name, None)
        elif known is None or known.logs != logs:
            self._wishes[service.name] = _Wish(logs, self._clock())
            for_s = logs.duration_s or None
            log.info("client_logs_begun", service=service.name, for_s=for_s, throttle_per_s=logs.throttle_per_s)
        self._tell(slot, service, workers)

    def join(self, slot: int, worker: Listener) -> None:
        """A new worker has been told of a service."""
        if slot in self._told:
            self._send(slot, *self._told[slot], (worker,))

    def forget(self, slot: int) -> None:
        """A service is removed."""
        gone = self._told.pop(slot, None)
        if gone is not None and all(service.name != gone[0].name for service, _ in self._told.values()):
            self._wishes.pop(gone[0].name, None)

    def look(self, workers: Sequence[Listener]) -> None:
        """End the logs whose time is over, and say how much was left out since the last time: a line for each service
        at most. To be called every LOOK_INTERVAL_S."""
        now_s = self._clock()
        for name, wish in self._wishes.items():
            if not wish.is_over and wish.logs.duration_s and now_s >= wish.since_s + wish.logs.duration_s:
                wish.is_over = True
                log.info("client_logs_ended", service=name, after_s=wish.logs.duration_s)
                for slot, (service, _) in list(self._told.items()):
                    if service.name == name:
                        self._tell(slot, service, workers)
        for name, said in list(self._said.items()):
            if said.left_out or said.left_out_significant:
                count = said.left_out + said.left_out_significant
                names = {"service": name, "count": count, "significant": said.left_out_significant}
                log.info("connection_logs_throttled", **names)
                said.left_out = said.left_out_significant = 0
            elif name not in self._wishes:
                del self._said[name]

    def take(self, message: Message) -> None:
        """Write what a worker tells, as far as that may be."""
        if message["version"] != VERSION:
            log.error("client_logs_not_understood", version=message["version"])
            return
        now_s = self._clock()
        for name, plain, significant in message["left_out"]:
            said = self._of(name)
            said.left_out += plain
            said.left_out_significant += significant
        for entry in message["entries"]:
            self._write(entry, now_s)

    def _write(self, entry: list[Any], now_s: float) -> None:
        name, protocol, vip, client, member, duration_ms, received, sent, connect_us, ending, significant = entry
        wish = self._wishes.get(name)
        if wish is None or wish.is_over:
            return
        said = self._of(name)
        window, most = said.plain, wish.logs.throttle_per_s
        if significant:
            window, most = said.significant, SIGNIFICANT_PER_S
        if not (window.admits(most, now_s) and self._all.admits(LINES_PER_S, now_s)):
            said.left_out += not significant
            said.left_out_significant += significant
            return
        log.info(
            "connection_ended",
            service=name,
            protocol=protocol,
            client=_text(client),
            vip=_text(vip),
            member=None if member is None else _text(member),
            duration_s=duration_ms / 1000,
            received_bytes=received,
            sent_bytes=sent,
            connect_s=None if connect_us < 0 else connect_us / 1e6,
            ending=ending,
            significant=significant,
        )

    def _of(self, name: str) -> _Said:
        if name not in self._said:
            self._said[name] = _Said(Window(), Window())
        return self._said[name]

    def _tell(self, slot: int, service: VirtualService, workers: Iterable[Listener]) -> None:
        wish = self._wishes.get(service.name)
        settings = None
        if wish is not None and not wish.is_over:
            slow_us = int(wish.logs.slow_connect_s * 1e6)
            settings = {"throttle_per_s": wish.logs.throttle_per_s, "slow_connect_us": slow_us}
        before = self._told.get(slot, (None, None))[1]
        if settings is None and before is None:
            self._told.pop(slot, None)
            return
        self._told[slot] = service, settings
        if settings != before:
            self._send(slot, service, settings, workers)

    @staticmethod
    def _send(slot: int, service: VirtualService, settings: dict[str, int] | None, workers: Iterable[Listener]) -> None:
        protocol = service.protocol.value
        for worker in workers:
            worker.send({"type": "client_logs", "slot": slot, "protocol": protocol, "settings": settings})


def _text(endpoint: Sequence[Any]) -> str:
    """Return ADDRESS:PORT."""
    address, port = endpoint
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"
