"""A UDP flow whose end is logged. Those of services without a log know nothing of it, and pay nothing for it.

Hot module: compiled by mypyc, and must do the same when interpreted.
"""

from __future__ import annotations

from typing import Any

from mypy_extensions import i64

from lbd.dataplane.hot.client_log import IDLE, RESPONSES, SUPERSEDED, ClientLog
from lbd.dataplane.hot.flow import Flow, FlowHome
from lbd.dataplane.hot.service import Member


class LoggedFlow(Flow):
    """Measures what its log says, and says it when it ends."""

    __slots__ = (
        "began_ms", "ending", "is_answering", "log", "received_bytes", "sent_before", "sent_bytes", "served_by",
    )  # fmt: skip

    def __init__(self, home: FlowHome, key: Any, sender: bytes, client: Any, log: ClientLog) -> None:
        Flow.__init__(self, home, key, sender, client)
        self.log: ClientLog = log
        self.began_ms: int = home.reactor.now_ms
        self.ending: int = IDLE
        self.served_by: Member | None = None
        self.received_bytes: i64 = 0
        self.sent_bytes: i64 = 0
        self.is_answering: bool = False
        self.sent_before: i64 = 0  # by the service, to all clients since the last flush

    def connect(self, member: Member) -> int:
        """Note who serves."""
        error = Flow.connect(self, member)
        if error == 0:
            self.served_by = member
        return error

    def forward(self, content: bytes | memoryview, segment: int, count: int) -> None:
        """Count what the client has sent."""
        self.received_bytes += len(content)
        Flow.forward(self, content, segment, count)

    def answer(self, size: int, segment: int) -> None:
        """Count what has reached the client: it may not be all, and the flow may end with it. So nothing waits here."""
        self.home.outbox.flush()
        self.sent_before = self.home.service.tally.sent_bytes
        self.is_answering = True
        Flow.answer(self, size, segment)
        self.note_sent()

    def note_sent(self) -> None:
        """Add what the service has sent since the answer came."""
        if self.is_answering:
            self.is_answering = False
            self.home.outbox.flush()
            self.sent_bytes += self.home.service.tally.sent_bytes - self.sent_before

    def end_for(self, why: int) -> None:
        """Note why it ends."""
        if not self.is_closed:
            self.ending = why
        Flow.end_for(self, why)

    def end(self) -> None:
        """Say how it ended."""
        if self.is_closed:
            return
        self.note_sent()
        member = self.served_by
        ending = self.ending
        client: tuple[str, int] = (self.client[0], self.client[1])
        self.log.note(
            client,
            None if member is None else member.address,
            self.began_ms,
            int(self.received_bytes),
            int(self.sent_bytes),
            -1,
            ending,
            ending in (IDLE, RESPONSES, SUPERSEDED),
            self.home.reactor.now_ms,
        )
        Flow.end(self)
