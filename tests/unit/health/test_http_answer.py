"""Claims about the reader of HTTP answers, without sockets: every split, every limit, every kind of rubbish."""

from __future__ import annotations

import gzip
import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lbd.health.probes.http_answer import BODY_LIMIT_BYTES, HEAD_LIMIT_BYTES, AnswerReader
from lbd.health.result import ProbeResult, Reason
from lbd.model.desired import HealthMonitor, MonitorType, StatusRange

WEB = HealthMonitor("web", MonitorType.HTTP)
TEXT = replace(WEB, expect_text="all is well")
OK = b"HTTP/1.1 200 OK\r\n"


def judge(monitor: HealthMonitor, *parts: bytes) -> ProbeResult:
    """Feed the parts, then end the stream; return the verdict."""
    reader = AnswerReader(monitor)
    for part in parts:
        verdict = reader.feed(part)
        if verdict is not None:
            return verdict
    return reader.end()


def chunked(*chunks: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks) + b"0\r\n\r\n"


@pytest.mark.parametrize(
    ("answer", "reason"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", Reason.NONE),
        (b"HTTP/1.0 204 No Content\r\n\r\n", Reason.NONE),
        (b"HTTP/1.1 200\r\n\r\n", Reason.NONE),
        (b"HTTP/1.1 200 \r\n\r\n", Reason.NONE),
        (b"HTTP/1.1 200 OK\nServer: bare LF\n\n", Reason.NONE),
        (b"HTTP/1.1 302 Found\r\nLocation: http://elsewhere/\r\n\r\n", Reason.NONE),
        (
            b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\nHTTP/1.1 200 OK\r\n\r\n",
            Reason.NONE,
        ),
        (b"HTTP/1.1 404 Not Found\r\n\r\n", Reason.UNEXPECTED_STATUS),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", Reason.UNEXPECTED_STATUS),
        (b"HTTP/1.1 503 x\r\n\r\n", Reason.UNEXPECTED_STATUS),
        (b"", Reason.CLOSED_EARLY),
        (b"HTTP/1.1 200 OK\r\nA: b\r\n", Reason.MALFORMED_ANSWER),
        (b"HTTP/1.1 100 Continue\r\n\r\n", Reason.MALFORMED_ANSWER),
        (b"SSH-2.0-OpenSSH_9.2\r\n", Reason.MALFORMED_ANSWER),
        (b"\x00\xff" * 500, Reason.MALFORMED_ANSWER),
        (b"HTTP/1.1 2x0 OK\r\n\r\n", Reason.MALFORMED_ANSWER),
        (b"HTTP/1.1 99 OK\r\n\r\n", Reason.MALFORMED_ANSWER),
        (b"HTTP/1.1 20000 OK\r\n\r\n", Reason.MALFORMED_ANSWER),
        (b"HTTP/2 200 OK\r\n\r\n", Reason.MALFORMED_ANSWER),
        (b"\r\nHTTP/1.1 200 OK\r\n\r\n", Reason.MALFORMED_ANSWER),
    ],
)
def test_status_line_decides(answer: bytes, reason: Reason) -> None:
    assert judge(WEB, answer).reason is reason
    assert judge(WEB, *(bytes([byte]) for byte in answer)).reason is reason


def test_ranges_are_inclusive() -> None:
    monitor = replace(WEB, expect_status=(StatusRange(200, 204), StatusRange(301, 301)))
    wanted = {200: True, 204: True, 205: False, 300: False, 301: True, 302: False}
    assert {status: judge(monitor, b"HTTP/1.1 %d x\r\n\r\n" % status).passed for status in wanted} == wanted


@pytest.mark.parametrize(
    ("answer", "passed", "detail"),
    [
        (OK + b"\r\nsays: all is well", True, ""),
        (OK + b"Content-Length: 11\r\n\r\nall is well", True, ""),
        (OK + b"Content-Length: 5\r\n\r\nall is well", False, "text not found"),
        (OK + b"Content-Length: 500\r\n\r\nall is", False, "text not found, cut short"),
        (OK + b"Content-Length: many\r\n\r\nall is well", True, ""),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(b"all", b" is ", b"well"), True, ""),
        (OK + b"transfer-encoding:CHUNKED\r\n\r\n" + chunked(b"a", b"l", b"l is well"), True, ""),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n5;x=y\r\nall i\r\n6\ns well\n0\n\n", True, ""),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n" + chunked(b"all is") + b"all is well", False, "text not found"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n5\r\nall", False, "text not found, cut short"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\nzz\r\nall is well", False, "chunk size b'zz\\r\\n'"),
        (OK + b"Transfer-Encoding: chunked\r\n\r\n\r\n\r\n\r\n", False, "chunk size '\\r\\n'"),
        (b"HTTP/1.1 204 x\r\n\r\nall is well", False, "the answer has no body"),
        (b"HTTP/1.1 500 all is well\r\n\r\nall is well", False, "500"),
        (
            OK + b"Content-Encoding: gzip\r\n\r\n" + gzip.compress(b"all is well", mtime=0),
            False,
            "text not found, encoded as 'gzip'",
        ),
    ],
)
def test_expected_text_must_be_in_the_body(answer: bytes, passed: bool, detail: str) -> None:
    for parts in ([answer], [bytes([byte]) for byte in answer]):
        result = judge(TEXT, *parts)
        assert result.passed is passed
        assert result.detail.replace("b'", "'") == detail.replace("b'", "'")


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_verdict_does_not_depend_on_how_the_answer_is_split(data: st.DataObject) -> None:
    body = data.draw(
        st.sampled_from([b"all is well", b"x" * 200 + b"all is well", b"all is wel", b"all is all is well"])
    )
    cuts = sorted(data.draw(st.lists(st.integers(0, len(body)), max_size=5)))
    chunks = [body[start:end] for start, end in zip([0, *cuts], [*cuts, len(body)], strict=True) if start < end]
    framed = data.draw(st.booleans())
    answer = OK + (b"Transfer-Encoding: chunked\r\n\r\n" + chunked(*chunks) if framed else b"\r\n" + body)
    places = sorted(data.draw(st.lists(st.integers(0, len(answer)), max_size=8)))
    parts = [answer[start:end] for start, end in zip([0, *places], [*places, len(answer)], strict=True) if start < end]
    assert judge(TEXT, *parts).passed is (b"all is well" in body)


@given(st.binary(max_size=300), st.binary(max_size=300))
@settings(max_examples=300, deadline=None)
def test_rubbish_is_a_verdict_and_never_an_exception(head: bytes, tail: bytes) -> None:
    for answer in (head, OK + head + b"\r\n\r\n" + tail, OK + b"Transfer-Encoding: chunked\r\n\r\n" + tail):
        result = judge(TEXT, answer)
        assert result.passed is (result.reason is Reason.NONE)
        assert result.detail.isprintable()
        assert len(result.detail) < 300


FLOODS = {
    "endless interim answers": (b"", b"HTTP/1.1 100 Continue\r\n\r\n", Reason.ANSWER_TOO_LONG),
    "endless header fields": (OK, b"A: b\r\n", Reason.ANSWER_TOO_LONG),
    "endless header line": (OK + b"A: ", b"b", Reason.ANSWER_TOO_LONG),
    "blanks in a header": (OK + b"A: ", b" ", Reason.ANSWER_TOO_LONG),
    "endless status line": (b"HTTP/1.1 200 ", b"x", Reason.ANSWER_TOO_LONG),
    "endless body": (OK + b"Content-Length: 99999999999\r\n\r\n", b"x", Reason.UNEXPECTED_ANSWER),
    "almost the text": (OK + b"\r\n", b"all is wel", Reason.UNEXPECTED_ANSWER),
    "tiny chunks": (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n", Reason.UNEXPECTED_ANSWER),
    "chunk extension": (OK + b"Transfer-Encoding: chunked\r\n\r\n1;", b"x", Reason.MALFORMED_ANSWER),
    "huge chunk": (OK + b"Transfer-Encoding: chunked\r\n\r\nffffffffffffffff\r\n", b"x", Reason.UNEXPECTED_ANSWER),
    "nested zeros": (OK + b"Transfer-Encoding: chunked\r\n\r\n", b"0", Reason.MALFORMED_ANSWER),
}


@pytest.mark.parametrize("name", FLOODS)
@pytest.mark.parametrize("part_bytes", [1, 16384])
def test_flood_ends_at_its_limit_in_linear_time(name: str, part_bytes: int) -> None:
    first, repeated, reason = FLOODS[name]
    limit = len(first) + HEAD_LIMIT_BYTES + BODY_LIMIT_BYTES + 2 * 16384
    stream = (first + repeated * (limit // len(repeated) + 1))[:limit]
    reader = AnswerReader(TEXT)
    began_s = time.process_time()
    verdict = None
    for start in range(0, limit, part_bytes):
        verdict = reader.feed(stream[start : start + part_bytes])
        if verdict is not None:
            break
    assert verdict is not None
    assert verdict.reason is reason
    assert time.process_time() - began_s < 1.0


_pieces = st.one_of(
    st.sampled_from(
        [
            OK,
            b"HTTP/1.1 100 Continue\r\n",
            b"HTTP/1.1 204 x\r\n",
            b"HTTP/1.0 503 x\n",
            b"\r\n",
            b"\n",
            b"\r",
            b" ",
            b"Content-Length: 11\r\n",
            b"Content-Length: 99999999999999999999\r\n",
            b"Content-Length: -1\r\n",
            b"Transfer-Encoding: chunked\r\n",
            b"Content-Encoding: br\r\n",
            b"b;x=y\r\n",
            b"5\r\n",
            b"0\r\n",
            b"ffffffffffffffff\r\n",
            b"all is ",
            b"well",
        ]
    ),
    st.binary(max_size=12),
)


@given(st.data())
@settings(max_examples=300, deadline=None)
def test_almost_right_answer_is_one_verdict_however_it_is_split(data: st.DataObject) -> None:
    """What HTTP is made of, in any order: never an exception, and the same verdict from any two ways to cut it."""
    answer = data.draw(st.sampled_from([b"", OK, OK + b"Transfer-Encoding: chunked\r\n\r\n", OK + b"\r\n"]))
    answer += b"".join(data.draw(st.lists(_pieces, max_size=12)))
    places = sorted(data.draw(st.lists(st.integers(0, len(answer)), max_size=6)))
    parts = [answer[start:end] for start, end in zip([0, *places], [*places, len(answer)], strict=True) if start < end]
    monitor = data.draw(st.sampled_from([WEB, TEXT, replace(TEXT, method="HEAD")]))
    whole = judge(monitor, *([answer] if answer else []))
    split = judge(monitor, *parts)
    assert (whole.outcome, whole.reason) == (split.outcome, split.reason)
    for result in (whole, split):
        assert result.passed is (result.reason is Reason.NONE)
        assert result.detail.isprintable()
        assert len(result.detail) < 300
