"""The UDP check: send one datagram; wait for the expected answer or, where none is expected, for an ICMP error."""

from __future__ import annotations

from lbd.health.probes.datagram import Datagrams
from lbd.health.probes.http_answer import printable
from lbd.health.probes.poller import Poller
from lbd.health.result import ProbeResult, Reason
from lbd.model.address import Endpoint
from lbd.model.desired import HealthMonitor

SILENCE_S = 0.1
"""So long without an ICMP error is a pass where no answer is expected: many round trips to a Pod, and so short that the
first checks of 5,000 members, which follow each other within a second, find room in the runner's 512 places."""
_ANSWER_LIMIT_BYTES = 65535


class UdpProbe:
    """With `expect`, passes when the member's first answer contains it.

    Without, passes when the member answers anything, or when no ICMP error has come in `SILENCE_S` (or the monitor's
    timeout, if that is shorter): so a host that is gone without a word passes, which a ping check beside it finds.
    """

    def __init__(self, poller: Poller) -> None:
        self._poller = poller

    async def probe(self, endpoint: Endpoint, monitor: HealthMonitor) -> ProbeResult:
        """Check `endpoint` once, within the monitor's timeout."""
        datagrams = Datagrams(self._poller, monitor.timeout_s if monitor.expect else min(SILENCE_S, monitor.timeout_s))
        return await datagrams.ending_with(_converse(datagrams, endpoint, monitor))


async def _converse(datagrams: Datagrams, endpoint: Endpoint, monitor: HealthMonitor) -> ProbeResult:
    # An empty datagram where there is nothing to send: without one nothing could be refused.
    problem = datagrams.send_to(endpoint, monitor.send)
    if problem is not None:
        return problem
    answer = await datagrams.receive(_ANSWER_LIMIT_BYTES if monitor.expect else 1)
    if isinstance(answer, ProbeResult):
        silent = answer.reason is Reason.ANSWER_TIMEOUT
        return ProbeResult.success() if silent and not monitor.expect else answer
    if monitor.expect in answer:
        return ProbeResult.success()
    return ProbeResult.failure(Reason.UNEXPECTED_ANSWER, f"{len(answer)} bytes: {printable(answer)}")
