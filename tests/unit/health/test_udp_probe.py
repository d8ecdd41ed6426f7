"""Claims about the UDP check, against real sockets."""

from __future__ import annotations

import asyncio
import os
import resource
import socket
import time
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import uvloop

from lbd.health.probes import udp
from lbd.health.probes.poller import Poller
from lbd.health.probes.udp import SILENCE_S, UdpProbe
from lbd.health.result import Outcome, ProbeResult, Reason
from lbd.model.address import Endpoint
from lbd.model.desired import SYSTEM_MONITORS, HealthMonitor, MonitorType

SILENT = HealthMonitor("udp", MonitorType.UDP, timeout_s=5.0)
ASKING = replace(SILENT, send=b"are you there?", expect=b"I am")


def probe(endpoint: Endpoint, monitor: HealthMonitor, times: int = 1) -> ProbeResult:
    """Check so many times, all at once; return the last result."""

    async def check() -> ProbeResult:
        poller = Poller()
        poller.open()
        try:
            prober = UdpProbe(poller)
            return (await asyncio.gather(*(prober.probe(endpoint, monitor) for _ in range(times))))[-1]
        finally:
            poller.close()

    return uvloop.run(check())


def test_expected_answer_passes_and_its_latency_is_the_round_trip(members: Any, address: str) -> None:
    endpoint = members.answer_datagrams(lambda _: [b"yes, I am."], address)
    result = probe(endpoint, ASKING)
    assert result.passed
    assert 0 < result.latency_s < 1.0
    assert members.heard == [b"are you there?"]


def test_other_answer_fails_at_once_even_if_the_right_one_follows(members: Any, address: str) -> None:
    result = probe(members.answer_datagrams(lambda _: [b"\x00no\n", b"I am"], address), ASKING)
    assert (result.outcome, result.reason) == (Outcome.FAILED, Reason.UNEXPECTED_ANSWER)
    assert result.detail == "4 bytes: '\\x00no\\n'"
    assert result.latency_s < 2.0


def test_answer_without_content_is_not_the_expected_one(members: Any) -> None:
    assert probe(members.answer_datagrams(lambda _: [b""]), ASKING).reason is Reason.UNEXPECTED_ANSWER


def test_expected_bytes_are_found_at_the_end_of_the_largest_datagram(members: Any) -> None:
    assert probe(members.answer_datagrams(lambda _: [b"x" * 65503 + b"I am"]), ASKING).passed


def test_huge_answer_is_a_short_reason(members: Any) -> None:
    result = probe(members.answer_datagrams(lambda _: [b"\xff" * 65507]), ASKING)
    assert result.reason is Reason.UNEXPECTED_ANSWER
    assert len(result.detail) < 300
    assert result.detail.isprintable()


def test_silence_fails_at_the_timeout_where_an_answer_is_expected(members: Any, address: str) -> None:
    began_s = time.monotonic()
    result = probe(members.answer_datagrams(lambda _: [], address), replace(ASKING, timeout_s=0.4))
    assert (result.outcome, result.reason) == (Outcome.FAILED, Reason.ANSWER_TIMEOUT)
    assert 0.39 <= time.monotonic() - began_s < 1.5


@pytest.mark.parametrize("monitor", [SILENT, ASKING], ids=["silent", "asking"])
def test_port_unreachable_fails_before_the_time_is_up(members: Any, address: str, monitor: HealthMonitor) -> None:
    result = probe(members.refusing_datagrams(address), monitor)
    assert (result.outcome, result.reason) == (Outcome.FAILED, Reason.CONNECT_REFUSED)
    assert result.latency_s < 2.0


def test_silence_passes_after_the_grace_where_nothing_is_expected(members: Any, address: str) -> None:
    result = probe(members.answer_datagrams(lambda _: [], address), SILENT)
    assert result.passed
    assert SILENCE_S * 0.95 <= result.latency_s < 2.0
    assert members.heard == [b""]  # without a datagram nothing could be refused


def test_grace_is_never_longer_than_the_timeout(members: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(udp, "SILENCE_S", 5.0)
    result = probe(members.answer_datagrams(lambda _: []), replace(SILENT, timeout_s=0.1))
    assert result.passed
    assert result.latency_s < 3.0


@pytest.mark.parametrize("answer", [b"", b"anything"])
def test_any_answer_passes_at_once_where_nothing_is_expected(
    members: Any, answer: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(udp, "SILENCE_S", 5.0)
    result = probe(members.answer_datagrams(lambda _: [answer]), replace(SILENT, send=b"ping"))
    assert result.passed
    assert result.latency_s < 3.0
    assert members.heard == [b"ping"]


def test_built_in_monitor_tells_an_open_port_from_a_closed_one(members: Any) -> None:
    monitor = next(each for each in SYSTEM_MONITORS if each.name == "system-udp")
    assert probe(members.answer_datagrams(lambda _: []), monitor).passed
    assert probe(members.refusing_datagrams(), monitor).reason is Reason.CONNECT_REFUSED


def test_loop_that_was_late_still_hears_what_came_in_time(members: Any) -> None:
    """The loop sleeps through the whole timeout: the answer waits in the socket."""
    endpoint = members.answer_datagrams(lambda _: [b"I am"])

    async def check() -> ProbeResult:
        poller = Poller()
        poller.open()
        task = asyncio.create_task(UdpProbe(poller).probe(endpoint, replace(ASKING, timeout_s=0.2)))
        await asyncio.sleep(0)
        time.sleep(0.4)  # noqa: ASYNC251  (the late loop is what is tried)
        result = await task
        poller.close()
        return result

    assert uvloop.run(check()).passed


def test_stranger_is_not_heard(address: str) -> None:
    """The right answer from another port of the member's host: the kernel keeps it from a connected socket."""
    family = socket.AF_INET6 if ":" in address else socket.AF_INET

    async def check() -> ProbeResult:
        poller = Poller()
        poller.open()
        with socket.socket(family, socket.SOCK_DGRAM) as member, socket.socket(family, socket.SOCK_DGRAM) as stranger:
            member.bind((address, 0))
            member.settimeout(5)
            endpoint = Endpoint(address, member.getsockname()[1])
            task = asyncio.create_task(UdpProbe(poller).probe(endpoint, ASKING))
            _, source = await asyncio.to_thread(member.recvfrom, 100)
            stranger.sendto(b"I am", source)
            member.sendto(b"no", source)
            result = await task
        poller.close()
        return result

    assert uvloop.run(check()).text == "unexpected_answer (2 bytes: 'no')"


def test_lack_of_descriptors_is_void(members: Any) -> None:
    endpoint = members.answer_datagrams(lambda _: [b"I am"])

    async def check() -> ProbeResult:
        poller = Poller()
        poller.open()
        soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
        lowest_free = os.dup(0)
        os.close(lowest_free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
        try:
            return await UdpProbe(poller).probe(endpoint, ASKING)
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
            poller.close()

    result = uvloop.run(check())
    assert (result.outcome, result.reason) == (Outcome.VOID, Reason.LOCAL_ERROR)
    assert "EMFILE" in result.detail


def test_checks_free_their_descriptors_even_when_cancelled(members: Any, descriptors: Callable[[], int]) -> None:
    endpoint = members.answer_datagrams(lambda _: [])

    async def check() -> list[int]:
        poller = Poller()
        poller.open()
        prober = UdpProbe(poller)
        counts = [descriptors()]
        tasks = [asyncio.create_task(prober.probe(endpoint, ASKING)) for _ in range(20)]
        await asyncio.sleep(0)
        counts.append(descriptors())
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        counts.append(descriptors())
        await asyncio.gather(*(prober.probe(endpoint, SILENT) for _ in range(20)))
        counts.append(descriptors())
        poller.close()
        return counts

    before, during, cancelled, done = uvloop.run(check())
    assert during == before + 20
    assert cancelled == done == before
