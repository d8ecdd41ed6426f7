"""Claims about the HTTP and HTTPS checks, against real servers, most of them hostile."""

from __future__ import annotations

import asyncio
import gzip
import os
import pathlib
import random
import socket
import ssl
import time
import tracemalloc
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import uvloop

from lbd.health.probes import tls
from lbd.health.probes.http import HttpProbe, request_of, server_name
from lbd.health.probes.poller import Poller
from lbd.health.result import Outcome, ProbeResult, Reason
from lbd.model.address import Endpoint
from lbd.model.desired import HealthMonitor, MonitorType, StatusRange

CERTIFICATE = pathlib.Path(__file__).parent / "certificate.pem"
WEB = HealthMonitor("web", MonitorType.HTTP, timeout_s=5.0, path="/healthz")
TEXT = replace(WEB, expect_text="all is well")
SECURE = replace(WEB, type=MonitorType.HTTPS)
HEAD = b"HTTP/1.1 200 OK\r\n"


def probe(endpoint: Endpoint, monitor: HealthMonitor) -> ProbeResult:
    async def check() -> ProbeResult:
        poller = Poller()
        poller.open()
        try:
            return await HttpProbe(poller).probe(endpoint, monitor)
        finally:
            poller.close()

    return uvloop.run(check())


def answering(answer: bytes, heard: list[bytes] | None = None) -> Callable[[socket.socket], None]:
    def talk(connection: socket.socket) -> None:
        request = connection.recv(4096)
        if heard is not None:
            heard.append(request)
        connection.sendall(answer)
        connection.recv(4096)

    return talk


def context() -> ssl.SSLContext:
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    made.load_cert_chain(CERTIFICATE)
    return made


def secured(talk: Callable[[socket.socket], None], names: list[str | None] | None = None) -> Callable[..., None]:
    def talk_tls(connection: socket.socket) -> None:
        made = context()
        if names is not None:
            made.sni_callback = lambda _, name, __: names.append(name)
        with made.wrap_socket(connection, server_side=True) as wrapped:
            talk(wrapped)

    return talk_tls


def test_good_answer_passes_and_the_request_is_complete(members: Any, address: str) -> None:
    heard: list[bytes] = []
    endpoint = members.serve(answering(HEAD + b"Content-Length: 2\r\n\r\nok", heard), address)
    assert probe(endpoint, WEB).passed
    lines = heard[0].split(b"\r\n")
    assert lines[0] == b"GET /healthz HTTP/1.1"
    assert f"Host: {endpoint}".encode() in lines
    assert b"Connection: close" in lines
    assert b"Accept-Encoding: identity" in lines
    assert heard[0].endswith(b"\r\n\r\n")


def test_request_says_the_host_and_method_of_the_monitor() -> None:
    request = request_of(Endpoint("10.0.0.1", 8080), replace(WEB, host="web.example", method="HEAD"))
    assert request.startswith(b"HEAD /healthz HTTP/1.1\r\nHost: web.example\r\n")


@pytest.mark.parametrize(
    ("kind", "endpoint", "host"),
    [
        (MonitorType.HTTP, Endpoint("10.0.0.1", 80), b"10.0.0.1"),
        (MonitorType.HTTPS, Endpoint("10.0.0.1", 80), b"10.0.0.1:80"),
        (MonitorType.HTTPS, Endpoint("2001:db8::1", 443), b"[2001:db8::1]"),
        (MonitorType.HTTP, Endpoint("2001:db8::1", 8080), b"[2001:db8::1]:8080"),
    ],
)
def test_host_defaults_to_the_member(kind: MonitorType, endpoint: Endpoint, host: bytes) -> None:
    assert b"\r\nHost: " + host + b"\r\n" in request_of(endpoint, replace(WEB, type=kind))


def test_monitor_cannot_break_out_of_its_request() -> None:
    monitor = replace(WEB, path="/a b\r\nX: y\r\n\r\n", host="h\r\nEvil: yes", method="GE\nT")
    head, _, rest = request_of(Endpoint("10.0.0.1", 80), monitor).partition(b"\r\n\r\n")
    assert rest == b""
    assert head.count(b"\r\n") == 5
    assert b"/a%20b%0D%0AX:%20y" in head


def test_query_and_escapes_stay_as_written() -> None:
    request = request_of(Endpoint("10.0.0.1", 80), replace(WEB, path="/a%20b?x=1&y=[2]#frag"))
    assert request.startswith(b"GET /a%20b?x=1&y=[2]#frag HTTP/1.1\r\n")


def test_server_name_is_the_host_without_its_port() -> None:
    endpoint = Endpoint("10.0.0.1", 443)
    assert server_name(endpoint, SECURE) == "10.0.0.1"
    assert server_name(endpoint, replace(SECURE, host="web.example:8443")) == "web.example"
    assert server_name(endpoint, replace(SECURE, host="[2001:db8::1]:8443")) == "2001:db8::1"


def test_redirect_is_an_answer_and_is_not_followed(members: Any) -> None:
    elsewhere = members.listen()
    location = f"http://127.0.0.1:{elsewhere.getsockname()[1]}/".encode()
    endpoint = members.serve(answering(b"HTTP/1.1 302 Found\r\nLocation: " + location + b"\r\n\r\n"))
    assert probe(endpoint, WEB).passed
    result = probe(endpoint, replace(WEB, expect_status=(StatusRange(200, 299),)))
    assert (result.outcome, result.text) == (Outcome.FAILED, "unexpected_status (302)")
    elsewhere.setblocking(False)
    with pytest.raises(BlockingIOError):
        elsewhere.accept()


def test_text_split_across_packets_is_found(members: Any) -> None:
    def talk(connection: socket.socket) -> None:
        connection.recv(4096)
        for part in (b"HTTP/1", b".1 200 OK\r", b"\nContent-Length: 11\r\n\r", b"\nall ", b"is we", b"ll"):
            connection.sendall(part)
            time.sleep(0.02)
        members.hold(connection)

    assert probe(members.serve(talk), TEXT).passed


def test_text_after_64_kib_is_not_found(members: Any) -> None:
    body = b"x" * 65530 + b"all is well"
    result = probe(members.serve(answering(HEAD + b"Content-Length: %d\r\n\r\n" % len(body) + body)), TEXT)
    assert (result.outcome, result.reason) == (Outcome.FAILED, Reason.UNEXPECTED_ANSWER)


def test_refusing_member_fails(members: Any, address: str) -> None:
    assert probe(members.refusing(address), WEB).reason is Reason.CONNECT_REFUSED


def test_black_hole_fails_at_the_timeout(members: Any) -> None:
    assert probe(members.black_hole(), replace(WEB, timeout_s=0.3)).reason is Reason.CONNECT_TIMEOUT


def gzip_bomb() -> bytes:
    bomb = gzip.compress(b"\0" * 30_000_000)
    return HEAD + b"Content-Encoding: gzip\r\nContent-Length: %d\r\n\r\n" % len(bomb) + bomb


CHUNKED = HEAD + b"Transfer-Encoding: chunked\r\n\r\n"
HOSTILE = {
    "interim answers": (b"", b"HTTP/1.1 100 Continue\r\n\r\n" * 2000, Reason.ANSWER_TOO_LONG),
    "headers": (HEAD, b"A: b\r\n" * 10000, Reason.ANSWER_TOO_LONG),
    "header line": (HEAD + b"A: ", b"b" * 65536, Reason.ANSWER_TOO_LONG),
    "body": (HEAD + b"Content-Length: 99999999999\r\n\r\n", b"x" * 65536, Reason.UNEXPECTED_ANSWER),
    "body without end": (HEAD + b"\r\n", b"x" * 65536, Reason.UNEXPECTED_ANSWER),
    "tiny chunks": (CHUNKED, b"1\r\na\r\n" * 10000, Reason.UNEXPECTED_ANSWER),
    "chunk extension": (CHUNKED + b"1;", b"a" * 65536, Reason.MALFORMED_ANSWER),
    "garbage": (b"", b"\x00\xff garbage" * 1000, Reason.MALFORMED_ANSWER),
    "garbage status": (b"HTTP/1.1 two hundred\r\n\r\n", b"x", Reason.MALFORMED_ANSWER),
    "gzip bomb": (gzip_bomb(), b"", Reason.UNEXPECTED_ANSWER),
}


async def probe_and_watch_the_loop(endpoint: Endpoint, monitor: HealthMonitor) -> tuple[ProbeResult, float]:
    """Return the result and the loop's worst lag meanwhile."""
    poller = Poller()
    poller.open()
    worst_s = 0.0

    async def watch() -> None:
        nonlocal worst_s
        while True:
            began_s = time.monotonic()
            await asyncio.sleep(0.005)
            worst_s = max(worst_s, time.monotonic() - began_s - 0.005)

    watching = asyncio.create_task(watch())
    try:
        return await HttpProbe(poller).probe(endpoint, monitor), worst_s
    finally:
        watching.cancel()
        poller.close()


@pytest.mark.parametrize("secure", [False, True], ids=["http", "https"])
@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_answer_is_a_failed_check_bounded_in_size_and_time(members: Any, name: str, secure: bool) -> None:
    first, repeated, reason = HOSTILE[name]

    def talk(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(first)
        if repeated:
            members.flood(connection, b"", repeated)
        connection.recv(1)

    endpoint = members.serve(secured(talk) if secure else talk)
    monitor = replace(TEXT, type=MonitorType.HTTPS if secure else MonitorType.HTTP)
    result, lag_s = uvloop.run(probe_and_watch_the_loop(endpoint, monitor))
    assert (result.outcome, result.reason) == (Outcome.FAILED, reason)
    assert result.latency_s < 4.0
    assert lag_s < 0.6
    tracemalloc.start()  # in a second run: it slows everything down
    try:
        assert probe(endpoint, monitor).reason is reason
        peak_bytes = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert peak_bytes < 3_000_000


def test_one_byte_at_a_time_is_bounded_by_the_one_timeout(members: Any) -> None:
    began_s = time.monotonic()
    endpoint = members.serve(lambda connection: members.trickle(connection, HEAD + b"A: b\r\n" * 1000))
    assert probe(endpoint, replace(WEB, timeout_s=0.6)).reason is Reason.ANSWER_TIMEOUT
    assert time.monotonic() - began_s < 1.2


def test_https_passes_without_verification(members: Any, address: str) -> None:
    names: list[str | None] = []
    heard: list[bytes] = []
    talk = secured(answering(HEAD + b"Content-Length: 11\r\n\r\nall is well", heard), names)
    endpoint = members.serve(talk, address)
    monitor = replace(SECURE, expect_text="all is well")
    assert probe(endpoint, monitor).passed
    assert names == [None]
    assert probe(endpoint, replace(monitor, host="member.test")).passed
    assert names == [None, "member.test"]
    assert b"\r\nHost: member.test\r\n" in heard[1]


@pytest.fixture
def trusted_certificate() -> Iterator[None]:
    """Makes the test's certificate the system's only authority."""
    tls.client_context.cache_clear()
    os.environ["SSL_CERT_FILE"] = str(CERTIFICATE)
    yield
    del os.environ["SSL_CERT_FILE"]
    tls.client_context.cache_clear()


def test_verification_refuses_a_certificate_of_nobody(members: Any) -> None:
    endpoint = members.serve(secured(answering(HEAD + b"\r\n")))
    result = probe(endpoint, replace(SECURE, verify_tls=True))
    assert (result.outcome, result.reason) == (Outcome.FAILED, Reason.TLS_FAILED)
    assert "certificate" in result.detail


@pytest.mark.usefixtures("trusted_certificate")
def test_verification_accepts_the_right_name_only(members: Any) -> None:
    endpoint = members.serve(secured(answering(HEAD + b"\r\n")))
    verified = replace(SECURE, verify_tls=True)
    assert probe(endpoint, verified).passed  # by its address
    assert probe(endpoint, replace(verified, host="member.test")).passed
    result = probe(endpoint, replace(verified, host="other.test"))
    assert (result.outcome, result.reason) == (Outcome.FAILED, Reason.TLS_FAILED)
    assert "mismatch" in result.detail.lower()


def test_plain_http_server_fails_an_https_check(members: Any) -> None:
    result = probe(members.serve(answering(b"HTTP/1.1 400 Bad Request\r\n\r\n")), SECURE)
    assert (result.outcome, result.reason) == (Outcome.FAILED, Reason.TLS_FAILED)


@pytest.mark.parametrize(
    "garbage",
    [b"\x16\x03\x01" + b"\xff" * 200, b"\x00" * 500, random.Random(1).randbytes(1000), b""],
    ids=["record", "zeros", "random", "nothing"],
)
def test_garbage_instead_of_a_handshake_fails(members: Any, garbage: bytes) -> None:
    def talk(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(garbage)
        connection.shutdown(socket.SHUT_WR)
        connection.recv(4096)

    result = probe(members.serve(talk), SECURE)
    assert (result.outcome, result.reason) == (Outcome.FAILED, Reason.TLS_FAILED)


def test_endless_handshake_is_bounded_by_its_size(members: Any) -> None:
    record = b"\x16\x03\x03\x40\x00" + b"\x0b\xff\xff\xff" + b"\0" * (0x4000 - 4)
    endpoint = members.serve(lambda connection: (connection.recv(4096), members.flood(connection, b"", record)))
    result = probe(endpoint, SECURE)
    assert result.outcome is Outcome.FAILED
    assert result.reason in (Reason.TLS_FAILED, Reason.ANSWER_TOO_LONG)
    assert result.latency_s < 4.0


def test_endless_tls_alerts_are_bounded(members: Any) -> None:
    endpoint = members.serve(
        lambda connection: (
            connection.recv(4096),
            members.flood(connection, b"", b"\x15\x03\x03\x00\x02\x01\x5a" * 999),
        )
    )
    assert probe(endpoint, SECURE).outcome is Outcome.FAILED


def test_tiny_records_are_bounded_by_their_size_on_the_wire(members: Any) -> None:
    def talk(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        connection.sendall(HEAD + b"\r\n")
        for _ in range(40_000):
            connection.sendall(b"x")

    result = probe(members.serve(secured(talk)), replace(SECURE, expect_text="all is well", timeout_s=20.0))
    assert (result.outcome, result.reason) == (Outcome.FAILED, Reason.ANSWER_TOO_LONG)
    assert "of TLS" in result.detail


def test_silent_handshake_fails_at_the_timeout(members: Any) -> None:
    result = probe(members.serve(members.hold), replace(SECURE, timeout_s=0.3))
    assert (result.outcome, result.reason) == (Outcome.FAILED, Reason.TLS_TIMEOUT)


def test_silence_after_the_handshake_fails_at_the_timeout(members: Any) -> None:
    result = probe(members.serve(secured(members.hold)), replace(SECURE, timeout_s=0.5))
    assert (result.outcome, result.reason) == (Outcome.FAILED, Reason.ANSWER_TIMEOUT)


def test_https_checks_free_their_descriptors(members: Any, descriptors: Callable[[], int]) -> None:
    endpoint = members.serve(secured(answering(HEAD + b"\r\n")))

    async def check() -> tuple[int, int]:
        poller = Poller()
        poller.open()
        http = HttpProbe(poller)
        before = descriptors()
        results = await asyncio.gather(*(http.probe(endpoint, SECURE) for _ in range(20)))
        assert all(result.passed for result in results)
        members.close()  # so that its threads hold no descriptor of theirs
        after = descriptors()
        poller.close()
        return before, after

    before, after = uvloop.run(check())
    assert after <= before
