"""Claims about the DNS check, against real sockets."""

from __future__ import annotations

import asyncio
import random
import struct
import time
from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest
import uvloop

from lbd.health.probes.dns import STRANGERS_LIMIT, DnsProbe
from lbd.health.probes.poller import Poller
from lbd.health.result import Outcome, ProbeResult, Reason
from lbd.model.address import Endpoint
from lbd.model.desired import HealthMonitor, MonitorType

DNS = HealthMonitor("dns", MonitorType.DNS, timeout_s=5.0, query_name="www.example.com", query_type="A")
SHORT = replace(DNS, timeout_s=0.4)


def probe(endpoint: Endpoint, monitor: HealthMonitor = DNS, times: int = 1) -> list[ProbeResult]:
    async def check() -> list[ProbeResult]:
        poller = Poller()
        poller.open()
        try:
            dns = DnsProbe(poller, random.Random(1))
            return [await dns.probe(endpoint, monitor) for _ in range(times)]
        finally:
            poller.close()

    return uvloop.run(check())


def answer(query: bytes, *, rcode: int = 0, address: bytes = b"\x0a\0\0\x01", identifier: bytes | None = None) -> bytes:
    """Answer a query with one address."""
    header = struct.pack("!HHHHH", 0x8180 | rcode, 1, 1, 0, 0)
    record = b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 60, 4) + address
    return (query[:2] if identifier is None else identifier) + header + query[12:] + record


def other(query: bytes) -> bytes:
    """Return another identifier than the query's."""
    return bytes([query[0] ^ 0xFF, query[1]])


def test_answer_passes(members: Any, address: str) -> None:
    (result,) = probe(members.answer_datagrams(lambda query: [answer(query)], address))
    assert result.passed
    assert 0 < result.latency_s < 2.0


def test_each_check_has_an_identifier_of_its_own(members: Any) -> None:
    assert all(result.passed for result in probe(members.answer_datagrams(lambda query: [answer(query)]), times=20))
    assert len({query[:2] for query in members.heard}) > 15
    assert len({query[2:] for query in members.heard}) == 1


def test_wrong_code_and_wrong_record_fail(members: Any) -> None:
    (result,) = probe(members.answer_datagrams(lambda query: [answer(query, rcode=2)]))
    assert (result.outcome, result.text) == (Outcome.FAILED, "unexpected_status (SERVFAIL)")
    endpoint = members.answer_datagrams(lambda query: [answer(query)])
    assert probe(endpoint, replace(DNS, expect_answer="10.0.0.1"))[0].passed
    (result,) = probe(endpoint, replace(DNS, expect_answer="10.0.0.9"))
    assert result.text == "unexpected_answer (1 other records, first '10.0.0.1')"


def test_port_unreachable_fails_at_once(members: Any, address: str) -> None:
    (result,) = probe(members.refusing_datagrams(address))
    assert (result.outcome, result.reason) == (Outcome.FAILED, Reason.CONNECT_REFUSED)
    assert result.latency_s < 2.0


def test_silence_fails_at_the_timeout(members: Any) -> None:
    (result,) = probe(members.answer_datagrams(lambda _: []), SHORT)
    assert (result.outcome, result.reason) == (Outcome.FAILED, Reason.ANSWER_TIMEOUT)
    assert 0.39 <= result.latency_s < 1.5


def test_answers_with_another_identifier_are_passed_over(members: Any) -> None:
    """Failing ones before the right one: forged, or late answers to an earlier query."""

    def talk(query: bytes) -> Iterable[bytes]:
        return [b"", b"\x00", *[answer(query, rcode=2, identifier=other(query))] * 20, answer(query)]

    assert probe(members.answer_datagrams(talk))[0].passed


def test_answers_with_another_identifier_alone_fail_at_the_timeout(members: Any) -> None:
    (result,) = probe(members.answer_datagrams(lambda query: [answer(query, identifier=other(query))] * 5), SHORT)
    assert (result.outcome, result.reason) == (Outcome.FAILED, Reason.ANSWER_TIMEOUT)


def test_flood_of_other_identifiers_is_bounded_and_fails(members: Any) -> None:
    (result,) = probe(members.answer_datagrams(lambda query: [answer(query, identifier=other(query))] * 200))
    assert (result.outcome, result.reason) == (Outcome.FAILED, Reason.UNEXPECTED_ANSWER)
    assert result.detail == f"{STRANGERS_LIMIT} datagrams with another identifier"
    assert result.latency_s < 4.0


HOSTILE: dict[str, tuple[Callable[[bytes], bytes], Reason]] = {
    "the query itself": (lambda query: query, Reason.UNEXPECTED_ANSWER),
    "64 KiB": (lambda query: answer(query) + b"\xff" * 60_000, Reason.ANSWER_TOO_LONG),
    "cut": (lambda query: answer(query)[:20], Reason.MALFORMED_ANSWER),
    "pointer loop": (lambda query: answer(query)[:12] + b"\xc0\x0c\0\x01\0\x01", Reason.MALFORMED_ANSWER),
    "noise": (lambda query: query[:2] + random.Random(1).randbytes(400), Reason.UNEXPECTED_ANSWER),
    "identifier alone": (lambda query: query[:2], Reason.MALFORMED_ANSWER),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_answer_is_a_failed_check(members: Any, case: str) -> None:
    reply, reason = HOSTILE[case]
    (result,) = probe(members.answer_datagrams(lambda query: [reply(query)]), replace(DNS, expect_answer="10.0.0.1"))
    assert (result.outcome, result.reason) == (Outcome.FAILED, reason)
    assert result.latency_s < 4.0


@pytest.mark.parametrize(
    "monitor",
    [replace(DNS, query_type="NONSENSE"), replace(DNS, query_name="a..b")],
)
def test_question_that_cannot_be_asked_is_void(members: Any, monitor: HealthMonitor) -> None:
    (result,) = probe(members.answer_datagrams(lambda query: [answer(query)]), monitor)
    assert (result.outcome, result.reason) == (Outcome.VOID, Reason.LOCAL_ERROR)
    assert members.heard == []


def test_checks_free_their_descriptors(members: Any, descriptors: Callable[[], int]) -> None:
    endpoint = members.answer_datagrams(lambda query: [answer(query)])

    async def check() -> tuple[int, int]:
        poller = Poller()
        poller.open()
        dns = DnsProbe(poller, random.Random(1))
        before = descriptors()
        results = await asyncio.gather(*(dns.probe(endpoint, DNS) for _ in range(50)))
        assert all(result.passed for result in results)
        after = descriptors()
        poller.close()
        return before, after

    before, after = uvloop.run(check())
    assert after == before


def test_late_loop_still_hears_the_answer(members: Any) -> None:
    endpoint = members.answer_datagrams(lambda query: [answer(query)])

    async def check() -> ProbeResult:
        poller = Poller()
        poller.open()
        task = asyncio.create_task(DnsProbe(poller, random.Random(1)).probe(endpoint, SHORT))
        await asyncio.sleep(0)
        time.sleep(0.6)  # noqa: ASYNC251  (the late loop is what is tried)
        result = await task
        poller.close()
        return result

    assert uvloop.run(check()).passed
