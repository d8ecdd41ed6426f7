"""A connection whose end is logged. Those of services without a log know nothing of it, and pay nothing for it.

Hot module: compiled by mypyc, and must do the same when interpreted.
"""

from __future__ import annotations

import time

from mypy_extensions import i64

from lbd.dataplane.hot.client_log import (
    CLIENT_RESET,
    DRAIN_TIMEOUT,
    FAULT,
    IDLE,
    MEMBER_RESET,
    REJECTED,
    UNKNOWN,
    UNSERVED,
    ClientLog,
)
from lbd.dataplane.hot.client_log import CLOSED as IN_ORDER
from lbd.dataplane.hot.connection import Connection
from lbd.dataplane.hot.lane import Lane
from lbd.dataplane.hot.pair import CLOSED, CONNECTING, Side
from lbd.dataplane.hot.reactor import Reactor
from lbd.dataplane.hot.service import Member, Service


class LoggedConnection(Connection):
    """Measures what its log says, and says it when it ends."""

    __slots__ = ("began_ms", "connect_us", "ending", "log", "received_bytes", "sent_bytes")

    def __init__(
        self, reactor: Reactor, service: Service, lane: Lane, client: Side, address: tuple[str, int], log: ClientLog
    ) -> None:
        Connection.__init__(self, reactor, service, lane, client, address)
        self.log: ClientLog = log
        self.began_ms: int = reactor.now_ms
        self.connect_us: int = -1
        self.ending: int = UNKNOWN
        self.received_bytes: i64 = 0
        self.sent_bytes: i64 = 0

    def attempt(self, member: Member) -> int:
        """Note when the attempt begins."""
        self.dialled_us = time.monotonic_ns() // 1000
        return Connection.attempt(self, member)

    def established(self) -> None:
        """Note how long the member took."""
        self.connect_us = time.monotonic_ns() // 1000 - self.dialled_us
        Connection.established(self)

    def count(self, from_client: bool, received: i64, sent: i64) -> None:
        """Count the bytes for the log too."""
        if from_client:
            self.received_bytes += received
        else:
            self.sent_bytes += sent
        Connection.count(self, from_client, received, sent)

    def unserved(self) -> None:
        """Note why it ends."""
        self.ending = UNSERVED
        Connection.unserved(self)

    def refused(self, reason: int) -> None:
        """Note why it ends."""
        self.ending = REJECTED + reason
        Connection.refused(self, reason)

    def timed_out(self, reason: int) -> None:
        """Note why it ends."""
        self.ending = IDLE + reason
        Connection.timed_out(self, reason)

    def purge(self) -> None:
        """Note why it ends."""
        self.ending = DRAIN_TIMEOUT
        Connection.purge(self)

    def on_fault(self) -> None:
        """Note why it ends."""
        self.ending = FAULT
        Connection.on_fault(self)

    def close(self, reset: bool) -> None:
        """Say how it ended, while it knows with whom it was."""
        if self.state == CLOSED:
            return
        ending = self.ending
        if ending < 0:
            ending = self.who_reset() if reset else IN_ORDER
        member = self.member
        self.log.note(
            self.client_address,
            None if member is None else member.address,
            self.began_ms,
            int(self.received_bytes),
            int(self.sent_bytes),
            -1 if member is None else self.connect_us,
            ending,
            ending == IN_ORDER,
            self.reactor.now_ms,
        )
        Connection.close(self, reset)

    def who_reset(self) -> int:
        """Return whose reset is passed on. One that was seen, but not what came before it, shows in what the other side
        has not taken yet."""
        if self.client.broken or self.state == CONNECTING:
            return CLIENT_RESET
        if self.upstream.broken or not self.upstream.full:
            return MEMBER_RESET
        return CLIENT_RESET
