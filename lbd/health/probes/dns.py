"""The DNS check: one query over UDP, judged by its response code and, where the monitor expects one, by a record."""

from __future__ import annotations

import asyncio
import random

from lbd.health.probes.datagram import Datagrams
from lbd.health.probes.poller import Poller
from lbd.health.result import ProbeResult, Reason
from lbd.model.address import Endpoint
from lbd.model.desired import HealthMonitor

STRANGERS_LIMIT = 64
"""Datagrams with another identifier than ours are late or forged, and passed over; so many in one check fail it."""


class DnsProbe:
    """Passes when the member answers the query with an expected response code and record."""

    def __init__(self, poller: Poller, rng: random.Random) -> None:
        self._poller = poller
        self._rng = rng

    async def probe(self, endpoint: Endpoint, monitor: HealthMonitor) -> ProbeResult:
        """Check `endpoint` once, within the monitor's timeout."""
        datagrams = Datagrams(self._poller, monitor.timeout_s)
        return await datagrams.ending_with(self._converse(datagrams, endpoint, monitor))

    async def _converse(self, datagrams: Datagrams, endpoint: Endpoint, monitor: HealthMonitor) -> ProbeResult:
        # Here and not above: dnspython takes 55 ms and 4 MB, which only those pay who have a dns monitor.
        from lbd.health.probes import dns_message

        try:
            query = dns_message.query_for(monitor.query_name, monitor.query_type)
        except ValueError as error:
            return ProbeResult.void(Reason.LOCAL_ERROR, str(error))
        identifier = self._rng.randrange(65536)
        problem = datagrams.send_to(endpoint, query.packet(identifier))
        if problem is not None:
            return problem
        for _ in range(STRANGERS_LIMIT):
            answer = await datagrams.receive(dns_message.ANSWER_LIMIT_BYTES + 1)
            if isinstance(answer, ProbeResult):
                return answer
            if dns_message.carries(answer, identifier):
                return dns_message.judge(answer, query, monitor)
            await asyncio.sleep(0)  # a flood must not hold the loop
        return ProbeResult.failure(Reason.UNEXPECTED_ANSWER, f"{STRANGERS_LIMIT} datagrams with another identifier")
