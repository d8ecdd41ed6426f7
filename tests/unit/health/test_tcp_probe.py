"""Claims about the TCP check, against real sockets."""

from __future__ import annotations

import asyncio
import contextlib
import errno
import os
import resource
import select
import socket
import struct
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import uvloop

from lbd.health.probes.errors import result_of_errno
from lbd.health.probes.poller import Poller
from lbd.health.probes.stream import Stream
from lbd.health.probes.tcp import ANSWER_LIMIT_BYTES, TcpProbe
from lbd.health.result import Outcome, ProbeResult, Reason
from lbd.model.address import Endpoint
from lbd.model.desired import HealthMonitor, MonitorType

TCP = HealthMonitor("tcp", MonitorType.TCP, timeout_s=5.0)
SHORT = replace(TCP, timeout_s=0.3)
SMTP = replace(TCP, send=b"EHLO lbd\r\n", expect=b"250 ok")


def probe(endpoint: Endpoint, monitor: HealthMonitor = TCP, times: int = 1) -> ProbeResult:
    """Check so many times, all at once; return the last result."""

    async def check() -> ProbeResult:
        poller = Poller()
        poller.open()
        try:
            tcp = TcpProbe(poller)
            return (await asyncio.gather(*(tcp.probe(endpoint, monitor) for _ in range(times))))[-1]
        finally:
            poller.close()

    return uvloop.run(check())


def reset(connection: socket.socket) -> None:
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    connection.close()


def sockets_of(port: int) -> list[str]:
    """Return the states (linux/tcp_states.h, in hexadecimal) of all sockets with this port."""
    states = []
    for name in ("/proc/net/tcp", "/proc/net/tcp6"):
        with open(name) as table:
            for line in table.readlines()[1:]:
                _, local, remote, state = line.split()[:4]
                if f"{port:04X}" in (local.split(":")[1], remote.split(":")[1]):
                    states.append(state)
    return states


def test_listening_member_passes(members: Any, address: str) -> None:
    result = probe(members.serve(members.hold, address))
    assert result.passed
    assert 0 < result.latency_s < 1


def test_refusing_member_fails(members: Any, address: str) -> None:
    result = probe(members.refusing(address))
    assert (result.outcome, result.reason) == (Outcome.FAILED, Reason.CONNECT_REFUSED)


def test_black_hole_fails_when_the_timeout_is_over(members: Any, address: str) -> None:
    began_s = time.monotonic()
    result = probe(members.black_hole(address), SHORT)
    assert (result.outcome, result.reason) == (Outcome.FAILED, Reason.CONNECT_TIMEOUT)
    assert 0.29 <= time.monotonic() - began_s < 1.0
    assert 0.29 <= result.latency_s < 1.0


def test_silent_check_does_not_wake_the_application(members: Any, address: str) -> None:
    listener = members.listen(address)
    assert probe(Endpoint(address, listener.getsockname()[1]), times=5).passed
    assert select.select([listener], [], [], 0.1)[0] == []


@pytest.mark.parametrize("monitor", [TCP, SMTP])
def test_checks_leave_no_time_wait_behind(
    members: Any, monitor: HealthMonitor, eventually: Callable[..., None]
) -> None:
    def talk(connection: socket.socket) -> None:
        connection.recv(100)
        connection.sendall(b"250 ok\r\n")
        connection.recv(100)

    endpoint = members.serve(talk)
    assert probe(endpoint, monitor, times=50).passed
    eventually(lambda: sockets_of(endpoint.port) == ["0A"])  # the listener alone


def test_expected_answer_passes_however_it_is_split(members: Any, address: str) -> None:
    heard = []

    def talk(connection: socket.socket) -> None:
        heard.append(connection.recv(100))
        for part in (b"220 hello\r\n2", b"50", b" o", b"k\r\n"):
            connection.sendall(part)
            time.sleep(0.02)
        members.hold(connection)

    assert probe(members.serve(talk, address), SMTP).passed
    assert heard == [b"EHLO lbd\r\n"]


def test_greeting_is_expected_without_sending(members: Any) -> None:
    def greet(connection: socket.socket) -> None:
        connection.sendall(b"SSH-2.0-OpenSSH\r\n")
        members.hold(connection)

    assert probe(members.serve(greet), replace(TCP, expect=b"SSH-2.0")).passed


def test_other_answer_then_close_fails(members: Any) -> None:
    result = probe(members.serve(lambda connection: (connection.recv(100), connection.sendall(b"550 no"))), SMTP)
    assert (result.outcome, result.reason) == (Outcome.FAILED, Reason.UNEXPECTED_ANSWER)


def test_close_without_an_answer_fails(members: Any) -> None:
    result = probe(members.serve(lambda connection: connection.recv(100)), SMTP)
    assert (result.outcome, result.reason) == (Outcome.FAILED, Reason.CLOSED_EARLY)


def test_reset_instead_of_an_answer_fails(members: Any) -> None:
    result = probe(members.serve(lambda connection: (connection.recv(100), reset(connection))), SMTP)
    assert (result.outcome, result.reason) == (Outcome.FAILED, Reason.RESET)


def test_silence_fails_at_the_timeout(members: Any) -> None:
    result = probe(members.serve(members.hold), replace(SMTP, timeout_s=0.3))
    assert (result.outcome, result.reason) == (Outcome.FAILED, Reason.ANSWER_TIMEOUT)


def test_trickling_answer_is_bounded_by_the_one_timeout(members: Any) -> None:
    began_s = time.monotonic()
    endpoint = members.serve(lambda connection: members.trickle(connection, b"2" * 1000))
    assert probe(endpoint, replace(SMTP, timeout_s=0.5)).reason is Reason.ANSWER_TIMEOUT
    assert time.monotonic() - began_s < 1.0


def test_endless_answer_is_bounded_by_its_size(members: Any) -> None:
    endpoint = members.serve(lambda connection: members.flood(connection, b"", b"x" * 65536))
    result = probe(endpoint, SMTP)
    assert (result.outcome, result.reason) == (Outcome.FAILED, Reason.ANSWER_TOO_LONG)
    assert result.latency_s < 4.0


def test_answer_at_the_very_end_of_the_limit_passes_and_one_byte_later_fails(members: Any) -> None:
    def talk_at(offset: int) -> Callable[[socket.socket], None]:
        def talk(connection: socket.socket) -> None:
            connection.sendall(b"x" * offset + b"250 ok" + b"x" * 1000)
            members.hold(connection)

        return talk

    last = ANSWER_LIMIT_BYTES - len(SMTP.expect)
    assert probe(members.serve(talk_at(last)), SMTP).passed
    assert probe(members.serve(talk_at(last + 1)), SMTP).reason is Reason.ANSWER_TOO_LONG


def test_big_request_that_nobody_reads_times_out(members: Any) -> None:
    monitor = replace(SMTP, send=b"x" * 20_000_000, timeout_s=0.3)
    assert probe(members.serve(members.hold), monitor).reason is Reason.ANSWER_TIMEOUT


def test_timeout_that_is_over_between_two_steps_ends_the_next_one(members: Any) -> None:
    endpoint = members.serve(members.hold)

    async def check() -> bytes | ProbeResult:
        poller = Poller()
        poller.open()
        stream = Stream(poller, 0.1)
        assert await stream.connect(endpoint) is None
        await asyncio.sleep(0.3)
        result = await asyncio.wait_for(stream.receive(100), 2.0)
        stream.close()
        poller.close()
        return result

    result = uvloop.run(check())
    assert isinstance(result, ProbeResult)
    assert result.reason is Reason.ANSWER_TIMEOUT


@contextlib.contextmanager
def no_descriptor_free() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_lack_of_descriptors_is_void_and_passes_again_when_there_are_some(members: Any) -> None:
    endpoint = members.serve(members.hold)

    async def check() -> list[ProbeResult]:
        poller = Poller()
        poller.open()
        tcp = TcpProbe(poller)
        with no_descriptor_free():
            results = [await tcp.probe(endpoint, TCP)]
        results.append(await tcp.probe(endpoint, TCP))
        poller.close()
        return results

    without, with_descriptors = uvloop.run(check())
    assert (without.outcome, without.reason) == (Outcome.VOID, Reason.LOCAL_ERROR)
    assert "EMFILE" in without.detail
    assert with_descriptors.passed


def test_cancelled_check_frees_its_descriptor(members: Any, descriptors: Callable[[], int]) -> None:
    endpoint = members.black_hole()

    async def check() -> tuple[int, int, int]:
        poller = Poller()
        poller.open()
        before = descriptors()
        task = asyncio.create_task(TcpProbe(poller).probe(endpoint, TCP))
        await asyncio.sleep(0)
        during = descriptors()
        task.cancel()
        await asyncio.wait([task])
        after = descriptors()
        poller.close()
        return before, during, after

    before, during, after = uvloop.run(check())
    assert during == before + 1
    assert after == before


@pytest.mark.parametrize(
    ("code", "at_once", "outcome", "reason"),
    [
        (errno.ECONNREFUSED, True, Outcome.FAILED, Reason.CONNECT_REFUSED),
        (errno.ECONNREFUSED, False, Outcome.FAILED, Reason.CONNECT_REFUSED),
        (errno.ECONNRESET, False, Outcome.FAILED, Reason.CONNECT_RESET),
        (errno.ETIMEDOUT, False, Outcome.FAILED, Reason.CONNECT_TIMEOUT),
        (errno.ENETUNREACH, True, Outcome.FAILED, Reason.UNREACHABLE),
        (errno.EHOSTUNREACH, False, Outcome.FAILED, Reason.UNREACHABLE),
        (errno.EADDRNOTAVAIL, True, Outcome.VOID, Reason.LOCAL_ERROR),
        (errno.EADDRNOTAVAIL, False, Outcome.VOID, Reason.LOCAL_ERROR),
        (errno.EMFILE, True, Outcome.VOID, Reason.LOCAL_ERROR),
        (errno.ENFILE, True, Outcome.VOID, Reason.LOCAL_ERROR),
        (errno.ENOBUFS, True, Outcome.VOID, Reason.LOCAL_ERROR),
        (errno.ENOMEM, True, Outcome.VOID, Reason.LOCAL_ERROR),
        (errno.EAFNOSUPPORT, True, Outcome.VOID, Reason.LOCAL_ERROR),
        (errno.EPERM, True, Outcome.VOID, Reason.NOT_PERMITTED),
        (errno.EPERM, False, Outcome.VOID, Reason.NOT_PERMITTED),
        (errno.EACCES, True, Outcome.VOID, Reason.NOT_PERMITTED),
        (errno.EACCES, False, Outcome.FAILED, Reason.CONNECT_FAILED),
    ],
)
def test_errors_of_our_own_side_are_void(code: int, at_once: bool, outcome: Outcome, reason: Reason) -> None:
    result = result_of_errno(code, at_once=at_once)
    assert (result.outcome, result.reason) == (outcome, reason)
