"""Reads the answer to an HTTP/1.1 check, as far as the check needs it. Pure: bytes in, a verdict out.

It is our own reader because aiohttp's client does not bound what a hostile member costs. Measured (3.14.5): an endless
row of `100 Continue` held the event loop for 1.8 s, took 181 MB, and overran a timeout of 2 s by 1.1 s; endless chunk
extensions burned the CPU for the whole timeout; and a plain check cost four times as much CPU. Here every byte counts
toward a limit, nothing is decompressed, and reading stops as soon as the verdict is certain.

Syntax as in RFC 9112, a bare LF taken for a line end (section 2.2).
"""

from __future__ import annotations

import re

from lbd.health.result import ProbeResult, Reason
from lbd.model.desired import HealthMonitor

HEAD_LIMIT_BYTES = 16384
"""Status line and header fields, those of interim (1xx) answers included."""
BODY_LIMIT_BYTES = 65536
"""How much of the body, chunk framing included, is searched for the expected text."""
_CHUNK_LINE_LIMIT_BYTES = 1024

_STATUS_LINE = re.compile(rb"HTTP/1\.[0-9] ([1-9][0-9]{2})(?: [^\r\n]*)?\r?\n")
_HEAD_END = re.compile(rb"\n\r?\n")
_CHUNK_SIZE = re.compile(rb"([0-9A-Fa-f]{1,16})[ \t]*(?:;[^\r\n]*)?\r?\n")
_BODILESS = frozenset({101, 204, 304})


class AnswerReader:
    """Collects the parts of one answer until it is clear whether the monitor's expectations are met."""

    def __init__(self, monitor: HealthMonitor) -> None:
        self._monitor = monitor
        self._text = monitor.expect_text.encode()
        self._raw = bytearray()
        self._searched = 0
        self._head_bytes = 0
        self._body: _Body | None = None

    def feed(self, part: bytes) -> ProbeResult | None:
        """Take the next bytes; return the verdict once it is certain."""
        if self._body is not None:
            return self._body.feed(part)
        self._searched = max(0, len(self._raw) - 2)
        self._raw += part
        return self._read_heads()

    def end(self) -> ProbeResult:
        """The connection has ended without a verdict; return it now."""
        if self._body is not None:
            return self._body.end()
        if self._raw or self._head_bytes:
            return ProbeResult.failure(Reason.MALFORMED_ANSWER, "closed inside the header")
        return ProbeResult.failure(Reason.CLOSED_EARLY, "no answer")

    def _read_heads(self) -> ProbeResult | None:
        while True:
            if not b"HTTP/1.".startswith(bytes(self._raw[:7])):
                return ProbeResult.failure(Reason.MALFORMED_ANSWER, f"not HTTP: {printable(self._raw)}")
            end = _HEAD_END.search(self._raw, self._searched)
            size = end.end() if end is not None else len(self._raw)
            if self._head_bytes + size > HEAD_LIMIT_BYTES:
                return ProbeResult.failure(Reason.ANSWER_TOO_LONG, f"header over {HEAD_LIMIT_BYTES} bytes")
            if end is None:
                return None
            self._head_bytes += size
            head, rest = bytes(self._raw[:size]), bytes(self._raw[size:])
            match = _STATUS_LINE.match(head)
            if match is None:
                return ProbeResult.failure(Reason.MALFORMED_ANSWER, f"status line {printable(head)}")
            status = int(match[1])
            if 100 <= status < 200 and status != 101:
                self._raw = bytearray(rest)
                self._searched = 0
                continue
            return self._judge(status, head[match.end() :], rest)

    def _judge(self, status: int, fields: bytes, rest: bytes) -> ProbeResult | None:
        if not any(status in allowed for allowed in self._monitor.expect_status):
            return ProbeResult.failure(Reason.UNEXPECTED_STATUS, str(status))
        if not self._text:
            return ProbeResult.success()
        if status in _BODILESS or self._monitor.method == "HEAD":
            return ProbeResult.failure(Reason.UNEXPECTED_ANSWER, "the answer has no body")
        self._body = _Body.framed(self._text, fields)
        return self._body.feed(rest)


class _Body:
    """Searches a body for the text. `left` is what the framing still promises: None up to the end of the stream."""

    def __init__(self, text: bytes, *, left: int | None, chunked: bool, encoding: str) -> None:
        self._text = text
        self._left = left
        self._chunked = chunked
        self._encoding = encoding
        self._raw = bytearray()
        self._read_bytes = 0
        self._window = bytearray()
        self._after_content = False

    @classmethod
    def framed(cls, text: bytes, fields: bytes) -> _Body:
        """Return a body with the framing that the header fields give (RFC 9112 section 6.3)."""
        named: dict[bytes, bytes] = {}
        for line in fields.split(b"\n"):  # not a regular expression: spaces made one take quadratic time
            name, _, value = line.partition(b":")
            named[name.lower()] = value.strip()
        encoding = named.get(b"content-encoding", b"identity").lower()
        length = named.get(b"content-length", b"")
        chunked = named.get(b"transfer-encoding", b"").lower().endswith(b"chunked")
        left = 0 if chunked else int(length) if length.isdigit() and len(length) < 19 else None
        return cls(text, left=left, chunked=chunked, encoding="" if encoding == b"identity" else printable(encoding))

    def feed(self, part: bytes) -> ProbeResult | None:
        """Take raw bytes of the body; return the verdict once it is certain."""
        part = part[: BODY_LIMIT_BYTES - self._read_bytes]
        self._read_bytes += len(part)
        verdict = self._feed_chunked(part) if self._chunked else self._feed_plain(part)
        if verdict is None and self._read_bytes >= BODY_LIMIT_BYTES:
            return self._missing(f"not in the first {BODY_LIMIT_BYTES} bytes")
        return verdict

    def end(self) -> ProbeResult:
        """The stream has ended."""
        cut = self._chunked or self._left
        return self._missing("cut short") if cut else self._missing()

    def _missing(self, detail: str = "") -> ProbeResult:
        hints = [hint for hint in (detail, self._encoding and f"encoded as {self._encoding}") if hint]
        return ProbeResult.failure(Reason.UNEXPECTED_ANSWER, ", ".join(["text not found", *hints]))

    def _take(self, content: bytes) -> ProbeResult | None:
        self._window += content
        if self._text in self._window:
            return ProbeResult.success()
        del self._window[: max(0, len(self._window) - len(self._text) + 1)]
        return None

    def _feed_plain(self, part: bytes) -> ProbeResult | None:
        content = part if self._left is None else part[: self._left]
        verdict = self._take(content)
        if verdict is None and self._left is not None:
            self._left -= len(content)
            if self._left == 0:
                return self._missing()
        return verdict

    def _feed_chunked(self, part: bytes) -> ProbeResult | None:
        """Search what the chunks of this part contain, all at once: one search per chunk held the loop for 50 ms."""
        contents: list[bytes] = []
        problem = self._unpack(part, contents)
        found = self._take(b"".join(contents))
        return found if found is not None else problem

    def _unpack(self, part: bytes, contents: list[bytes]) -> ProbeResult | None:
        """Append the contents of the chunks in `part`; return why no more will come, or None."""
        raw = bytes(self._raw) + part
        at = 0
        while at < len(raw):
            if self._left:
                content = raw[at : at + self._left]
                contents.append(content)
                self._left -= len(content)
                self._after_content = True
                at += len(content)
                continue
            line_end = raw.find(b"\n", at, at + _CHUNK_LINE_LIMIT_BYTES) + 1
            if not line_end:
                if len(raw) - at >= _CHUNK_LINE_LIMIT_BYTES:
                    return ProbeResult.failure(Reason.MALFORMED_ANSWER, "chunk line too long")
                break
            line, at = raw[at:line_end], line_end
            if self._after_content and line in (b"\r\n", b"\n"):
                self._after_content = False
                continue
            match = _CHUNK_SIZE.fullmatch(line)
            if match is None:
                return ProbeResult.failure(Reason.MALFORMED_ANSWER, f"chunk size {printable(line)}")
            self._left = int(match[1], 16)
            if self._left == 0:
                return self._missing()
        self._raw = bytearray(raw[at:])
        return None


def printable(raw: bytes | bytearray, limit: int = 40) -> str:
    """Return the start of what a member sent, safe for a log line: ASCII, escaped, bounded."""
    return ascii(bytes(raw[:limit]).decode("latin-1")) + ("..." if len(raw) > limit else "")
