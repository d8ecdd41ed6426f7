"""TLS over a probe's stream, by OpenSSL on memory buffers: so every byte from the member is counted and bounded."""

from __future__ import annotations

import functools
import ssl

from lbd.health.probes.stream import Stream
from lbd.health.result import ProbeResult, Reason

WIRE_LIMIT_BYTES = 262144
"""What a member may send in one check, handshake included: OpenSSL takes certificate chains up to 100 KiB."""
_READ_BYTES = 16384


@functools.cache
def client_context(verify: bool) -> ssl.SSLContext:
    """Return the context for checks, with or without verification of the member's certificate.

    Verification uses the system's certificate authorities, read once (some 30 ms).
    """
    if verify:
        return ssl.create_default_context()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    return context


class TlsStream:
    """A connected stream with TLS on it; the same calls as `Stream`. The one who made the stream closes it."""

    __slots__ = ("_incoming", "_outgoing", "_received_bytes", "_stream", "_tls")

    def __init__(self, stream: Stream, *, server_name: str, verify: bool) -> None:
        """Prepare the handshake. `server_name` is what SNI says (not for an IP address) and what is verified."""
        self._stream = stream
        self._incoming = ssl.MemoryBIO()
        self._outgoing = ssl.MemoryBIO()
        self._received_bytes = 0
        context = client_context(verify)
        self._tls = context.wrap_bio(self._incoming, self._outgoing, server_hostname=server_name)

    async def handshake(self) -> ProbeResult | None:
        """Perform the handshake; return why it failed, or None."""
        while True:
            try:
                self._tls.do_handshake()
            except ssl.SSLWantReadError:
                problem = await self._exchange()
                if problem is None:
                    continue
                if problem.reason is Reason.ANSWER_TIMEOUT:
                    return ProbeResult.failure(Reason.TLS_TIMEOUT, problem.detail)
                return problem
            except ssl.SSLError as error:
                return _failure(error)
            return await self._flush()

    async def send_all(self, content: bytes) -> ProbeResult | None:
        """Send everything; return why not, or None."""
        try:
            self._tls.write(content)
        except ssl.SSLError as error:
            return _failure(error)
        return await self._flush()

    async def receive(self, limit_bytes: int) -> bytes | ProbeResult:
        """Return the next bytes, at most so many; none at the end of the stream; or why there are none."""
        while True:
            try:
                return self._tls.read(limit_bytes)
            except ssl.SSLWantReadError:
                problem = await self._exchange()
                if problem is not None:
                    return problem
            except ssl.SSLZeroReturnError:
                return b""
            except (
                ssl.SSLEOFError
            ):  # closed without close_notify, as many servers do: the HTTP framing tells if it hurts
                return b""
            except ssl.SSLError as error:
                return _failure(error)

    async def _exchange(self) -> ProbeResult | None:
        """Send what TLS has to say, then feed it the next bytes of the member."""
        problem = await self._flush()
        if problem is not None:
            return problem
        allowed = WIRE_LIMIT_BYTES - self._received_bytes
        if allowed <= 0:
            return ProbeResult.failure(Reason.ANSWER_TOO_LONG, f"over {WIRE_LIMIT_BYTES} bytes of TLS")
        part = await self._stream.receive(min(_READ_BYTES, allowed))
        if isinstance(part, ProbeResult):
            return part
        if part:
            self._received_bytes += len(part)
            self._incoming.write(part)
        else:
            self._incoming.write_eof()
        return None

    async def _flush(self) -> ProbeResult | None:
        return await self._stream.send_all(self._outgoing.read()) if self._outgoing.pending else None


def _failure(error: ssl.SSLError) -> ProbeResult:
    if isinstance(error, ssl.SSLCertVerificationError):
        return ProbeResult.failure(Reason.TLS_FAILED, error.verify_message)
    if isinstance(error, ssl.SSLEOFError):
        return ProbeResult.failure(Reason.TLS_FAILED, "closed in the handshake")
    return ProbeResult.failure(Reason.TLS_FAILED, str(error.reason or "protocol error").lower().replace("_", " "))
