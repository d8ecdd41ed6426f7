"""A worker's logs of ended connections, on their way to the supervisor.

Messages of the supervisor turn a service's log on and off, at most ENTRIES_AT_ONCE entries go back at a tick, and none
while the channel is behind: what finds the journal full is counted and left out.
"""

from __future__ import annotations

from typing import Any, Protocol

from lbd.dataplane.channel import Message
from lbd.dataplane.counters import ENDING_ORDER, REJECTION_ORDER
from lbd.dataplane.hot.client_log import ClientLog, Journal
from lbd.dataplane.hot.service import Service

VERSION = 1
"""Of the message with entries: the meaning of the places in one."""
ENTRIES_AT_ONCE = 100
"""About 15 KB, and 0.2 ms."""
MOST_QUEUED = 4
"""Messages that may wait in the channel before entries wait too."""
ENDINGS = (
    "closed",
    "client_reset",
    "member_reset",
    *ENDING_ORDER,
    "unserved",
    "drain_timeout",
    "responses",
    "evicted",
    "unreachable",
    "member_down",
    "superseded",
    "released",
    "fault",
    *(f"rejected_{reason}" for reason in REJECTION_ORDER),
)
"""In the order of lbd.dataplane.hot.client_log's constants."""


class Outlet(Protocol):
    """What is needed of the channel."""

    @property
    def queued(self) -> int: ...

    def send(self, message: Message) -> None: ...


class ClientLogs:
    """The logs of all services of a worker."""

    def __init__(self, outlet: Outlet) -> None:
        self._outlet = outlet
        self.journal = Journal()

    def set(self, service: Service, protocol: str, settings: dict[str, Any] | None) -> None:
        """Log what ends of a service as `settings` say, or (None) nothing from now on."""
        if settings is None:
            if service.log is not None:
                service.log.is_on = False
                service.log = None
            return
        log = service.log
        if log is None:
            log = service.log = ClientLog(self.journal, service.name, protocol, service.settings.address)
        log.throttle_per_s = settings["throttle_per_s"]
        log.slow_connect_us = settings["slow_connect_us"]

    def flush(self) -> None:
        """Send some of what there is. To be called all the time."""
        journal = self.journal
        if not journal.has_news or self._outlet.queued > MOST_QUEUED:
            return
        entries, journal.entries = journal.entries[:ENTRIES_AT_ONCE], journal.entries[ENTRIES_AT_ONCE:]
        left_out = [[log.name, log.left_out, log.left_out_significant] for log in journal.short]
        for log in journal.short:
            log.left_out = log.left_out_significant = 0
        journal.short = []
        for entry in entries:
            entry[9] = ENDINGS[entry[9]]
        self._outlet.send({"type": "client_logs", "version": VERSION, "entries": entries, "left_out": left_out})
