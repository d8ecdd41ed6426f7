"""The HTTP and HTTPS checks: one request on a connection of its own, judged by status and text."""

from __future__ import annotations

import asyncio
import urllib.parse

from lbd import __version__
from lbd.health.probes.http_answer import AnswerReader
from lbd.health.probes.poller import Poller
from lbd.health.probes.stream import Stream
from lbd.health.probes.tls import TlsStream
from lbd.health.result import ProbeResult
from lbd.model.address import Endpoint
from lbd.model.desired import HealthMonitor, MonitorType

_READ_BYTES = 8192
_DEFAULT_PORT = {MonitorType.HTTP: 80, MonitorType.HTTPS: 443}
_KEPT = "".join(map(chr, range(0x21, 0x7F)))
"""Printable ASCII stays as the operator wrote it; blanks, controls and the rest are escaped, so that no monitor can
break out of its request line or header field."""


class HttpProbe:
    """Passes when the member answers with an expected status and, where the monitor expects text, has it in its body.

    Redirects are answers like any other: they are never followed.
    """

    def __init__(self, poller: Poller) -> None:
        self._poller = poller

    async def probe(self, endpoint: Endpoint, monitor: HealthMonitor) -> ProbeResult:
        """Check `endpoint` once, within the monitor's timeout from the first packet to the verdict."""
        stream = Stream(self._poller, monitor.timeout_s)
        return await stream.ending_with(self._converse(stream, endpoint, monitor))

    async def _converse(self, stream: Stream, endpoint: Endpoint, monitor: HealthMonitor) -> ProbeResult:
        problem = await stream.connect(endpoint)
        if problem is not None:
            return problem
        channel: Stream | TlsStream = stream
        if monitor.type is MonitorType.HTTPS:
            name = server_name(endpoint, monitor)
            channel = secured = TlsStream(stream, server_name=name, verify=monitor.verify_tls)
            problem = await secured.handshake()
            if problem is not None:
                return problem
        problem = await channel.send_all(request_of(endpoint, monitor))
        return problem if problem is not None else await _read_answer(channel, monitor)


async def _read_answer(channel: Stream | TlsStream, monitor: HealthMonitor) -> ProbeResult:
    reader = AnswerReader(monitor)
    while True:
        part = await channel.receive(_READ_BYTES)
        if isinstance(part, ProbeResult):
            return part
        verdict = reader.feed(part) if part else reader.end()
        if verdict is not None:
            return verdict
        # Bytes that are there already don't make `receive` wait: let the others have a turn between two parts.
        await asyncio.sleep(0)


def request_of(endpoint: Endpoint, monitor: HealthMonitor) -> bytes:
    """Return the request that the monitor sends. No encoding is accepted: nothing of an answer is ever decompressed."""
    host = monitor.host
    if host is None:
        address = f"[{endpoint.address}]" if endpoint.family == 6 else endpoint.address
        host = address if endpoint.port == _DEFAULT_PORT[monitor.type] else f"{address}:{endpoint.port}"
    lines = (
        f"{_escaped(monitor.method)} {_escaped(monitor.path)} HTTP/1.1",
        f"Host: {_escaped(host)}",
        f"User-Agent: lbd/{__version__} (health check)",
        "Accept: */*",
        "Accept-Encoding: identity",
        "Connection: close",
    )
    return ("\r\n".join(lines) + "\r\n\r\n").encode("ascii")


def server_name(endpoint: Endpoint, monitor: HealthMonitor) -> str:
    """Return the name for SNI and verification: the monitor's host without a port, else the member's address."""
    if not monitor.host:
        return endpoint.address
    parsed = urllib.parse.urlsplit(f"//{monitor.host}")
    return parsed.hostname or endpoint.address


def _escaped(text: str) -> str:
    return urllib.parse.quote(text, safe=_KEPT)
