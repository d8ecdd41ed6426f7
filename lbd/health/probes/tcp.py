"""The TCP check: connect; optionally send something and wait for an expected answer."""

from __future__ import annotations

from lbd.health.probes.poller import Poller
from lbd.health.probes.stream import Stream
from lbd.health.result import ProbeResult, Reason
from lbd.model.address import Endpoint
from lbd.model.desired import HealthMonitor

ANSWER_LIMIT_BYTES = 65536
"""In so much of the answer the expected bytes must lie."""


class TcpProbe:
    """Passes when the member accepts a connection and, where the monitor expects bytes, these come in the answer."""

    def __init__(self, poller: Poller) -> None:
        self._poller = poller

    async def probe(self, endpoint: Endpoint, monitor: HealthMonitor) -> ProbeResult:
        """Check `endpoint` once, within the monitor's timeout."""
        stream = Stream(self._poller, monitor.timeout_s)
        return await stream.ending_with(self._converse(stream, endpoint, monitor))

    async def _converse(self, stream: Stream, endpoint: Endpoint, monitor: HealthMonitor) -> ProbeResult:
        silent = not monitor.send and not monitor.expect
        problem = await stream.connect(endpoint, quiet=silent)
        if problem is None and monitor.send:
            problem = await stream.send_all(monitor.send)
        if problem is not None:
            return problem
        return await _expect(stream, monitor.expect) if monitor.expect else ProbeResult.success()


async def _expect(stream: Stream, expected: bytes) -> ProbeResult:
    answer = bytearray()
    while len(answer) < ANSWER_LIMIT_BYTES:
        part = await stream.receive(ANSWER_LIMIT_BYTES - len(answer))
        if isinstance(part, ProbeResult):
            return part
        if not part:
            return ProbeResult.failure(
                Reason.CLOSED_EARLY if not answer else Reason.UNEXPECTED_ANSWER, f"{len(answer)} bytes, then closed"
            )
        searched = max(0, len(answer) - len(expected) + 1)
        answer += part
        if answer.find(expected, searched) >= 0:
            return ProbeResult.success()
    return ProbeResult.failure(Reason.ANSWER_TOO_LONG, f"not in the first {ANSWER_LIMIT_BYTES} bytes")
