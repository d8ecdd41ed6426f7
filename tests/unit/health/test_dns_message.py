"""Claims about what an answer to the DNS check says, without sockets: right, wrong, and every kind of rubbish.

The answers are packed here by hand, so that what reads them is not what wrote them.
"""

from __future__ import annotations

import socket
import struct
import subprocess
import sys
import time
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lbd.health.probes.dns_message import ANSWER_LIMIT_BYTES, RECORDS_LIMIT, carries, judge, query_for, record_for
from lbd.health.result import Outcome, ProbeResult, Reason
from lbd.model.desired import HealthMonitor, MonitorType

ID = 0x1234
ANSWERED, TRUNCATED = 0x8180, 0x0200
NOERROR, FORMERR, SERVFAIL, NXDOMAIN, REFUSED = 0, 1, 2, 3, 5
TYPES = {"A": 1, "NS": 2, "CNAME": 5, "SOA": 6, "PTR": 12, "MX": 15, "RP": 17, "TXT": 16, "AAAA": 28, "SRV": 33}
DNS = HealthMonitor("dns", MonitorType.DNS, query_name="www.example.com", query_type="A")
HERE = b"\xc0\x0c"
"""A pointer to the question's name."""


def name(text: str) -> bytes:
    return b"".join(bytes([len(label)]) + label.encode() for label in text.rstrip(".").split(".") if label) + b"\0"


def record(kind: int, content: bytes, owner: bytes = HERE, record_class: int = 1) -> bytes:
    return owner + struct.pack("!HHIH", kind, record_class, 60, len(content)) + content


def answer(
    monitor: HealthMonitor,
    *records: bytes,
    flags: int = ANSWERED,
    rcode: int = NOERROR,
    question: bytes | None = None,
    counts: tuple[int, int, int, int] | None = None,
) -> bytes:
    if question is None:
        question = name(monitor.query_name) + struct.pack("!HH", TYPES[monitor.query_type], 1)
    if counts is None:
        counts = (1 if question else 0, len(records), 0, 0)
    return struct.pack("!HHHHHH", ID, flags | rcode, *counts) + question + b"".join(records)


def verdict(packet: bytes, monitor: HealthMonitor = DNS) -> ProbeResult:
    return judge(packet, query_for(monitor.query_name, monitor.query_type), monitor)


def test_query_asks_one_question_with_recursion_and_without_edns() -> None:
    packet = query_for("www.example.com", "AAAA").packet(ID)
    assert packet == struct.pack("!HHHHHH", ID, 0x0100, 1, 0, 0, 0) + name("www.example.com") + b"\0\x1c\0\x01"
    assert query_for("www.example.com.", "AAAA").packet(ID) == packet
    assert query_for(".", "NS").packet(7)[12:] == b"\0\0\x02\0\x01"
    assert query_for(".", "TYPE65").packet(7)[12:] == b"\0\0\x41\0\x01"


@pytest.mark.parametrize(
    ("written", "kind"),
    [("a" * 64, "A"), ("a." * 128, "A"), ("a..b", "A"), ("www", "NONSENSE"), ("www", "TYPE65536"), ("www", "")],
)
def test_query_that_cannot_be_asked_is_an_error(written: str, kind: str) -> None:
    with pytest.raises(ValueError, match=r"."):
        query_for(written, kind)


def test_identifier_is_compared_whole() -> None:
    assert carries(b"\x12\x34 and more", ID)
    assert not carries(b"\x12\x35", ID)
    assert not carries(b"\x12", ID)
    assert not carries(b"", 0)


@pytest.mark.parametrize(
    ("rcode", "expected", "reason"),
    [
        (NOERROR, ("NOERROR",), Reason.NONE),
        (NXDOMAIN, ("NOERROR",), Reason.UNEXPECTED_STATUS),
        (NXDOMAIN, ("NOERROR", "NXDOMAIN"), Reason.NONE),
        (NOERROR, ("NXDOMAIN",), Reason.UNEXPECTED_STATUS),
        (SERVFAIL, ("NOERROR",), Reason.UNEXPECTED_STATUS),
        (13, ("NOERROR",), Reason.UNEXPECTED_STATUS),
    ],
)
def test_response_code_decides(rcode: int, expected: tuple[str, ...], reason: Reason) -> None:
    assert verdict(answer(DNS, rcode=rcode), replace(DNS, expect_rcode=expected)).reason is reason


def test_reason_names_the_response_code() -> None:
    assert verdict(answer(DNS, rcode=SERVFAIL)).text == "unexpected_status (SERVFAIL)"


@pytest.mark.parametrize(("rcode", "passed"), [(FORMERR, True), (REFUSED, True), (SERVFAIL, True), (NOERROR, False)])
def test_only_a_server_that_did_not_read_the_question_may_leave_it_out(rcode: int, passed: bool) -> None:
    everything = replace(DNS, expect_rcode=("NOERROR", "FORMERR", "REFUSED", "SERVFAIL"))
    assert verdict(answer(DNS, rcode=rcode, question=b""), everything).passed is passed


@pytest.mark.parametrize(
    "question",
    [
        name("www.example.org") + b"\0\x01\0\x01",
        name("www.example.com") + b"\0\x1c\0\x01",
        name("www.example.com") + b"\0\x01\0\x03",
        name("example.com") + b"\0\x01\0\x01",
    ],
    ids=["name", "type", "class", "parent"],
)
def test_answer_to_another_question_fails(question: bytes) -> None:
    result = verdict(answer(DNS, question=question))
    assert (result.outcome, result.text) == (Outcome.FAILED, "unexpected_answer (an answer to another question)")


def test_case_of_the_question_does_not_matter() -> None:
    assert verdict(answer(DNS, question=name("WWW.eXample.COM") + b"\0\x01\0\x01")).passed


def test_echoed_query_is_no_answer() -> None:
    assert verdict(query_for("www.example.com", "A").packet(ID)).text == "unexpected_answer (a query, not an answer)"


def test_other_operation_is_no_answer() -> None:
    assert verdict(answer(DNS, flags=ANSWERED | 0x2800)).reason is Reason.UNEXPECTED_ANSWER


@pytest.mark.parametrize(
    ("kind", "expected", "content"),
    [
        ("A", "10.0.0.1", b"\x0a\0\0\x01"),
        ("AAAA", "2001:DB8:0::1", socket.inet_pton(socket.AF_INET6, "2001:db8::1")),
        ("NS", "NS1.example.com.", name("ns1.example.com")),
        ("NS", "ns1.example.com", b"\x03ns1\xc0\x10"),
        ("NS", "ns1.example.com", name("NS1.Example.Com")),
        ("CNAME", "web.example.com.", b"\x03web\xc0\x10"),
        ("PTR", "host.example.", name("host.example")),
        ("MX", "10 mail.example.com.", b"\0\x0a" + name("mail.example.com")),
        ("TXT", '"all is well"', b"\x0ball is well"),
        ("TXT", "well", b"\x04well"),
        ("TXT", '"a" "b"', b"\x01a\x01b"),
        ("SRV", "0 5 5060 sip.example.", b"\0\0\0\x05\x13\xc4" + name("sip.example")),
        ("SOA", "a. b. 1 2 3 4 5", name("a") + name("b") + struct.pack("!IIIII", 1, 2, 3, 4, 5)),
    ],
)
def test_expected_record_is_found_by_its_value_wherever_it_stands(kind: str, expected: str, content: bytes) -> None:
    monitor = replace(DNS, query_type=kind, expect_answer=expected)
    others = [record(TYPES["CNAME"] if kind != "CNAME" else 1, name("x") if kind != "CNAME" else b"\1\2\3\4")]
    wanted = record(TYPES[kind], content)
    assert verdict(answer(monitor, wanted), monitor).passed
    assert verdict(answer(monitor, *others, wanted), monitor).passed
    assert verdict(answer(monitor, *others), monitor).text == "unexpected_answer (no record)"
    assert not verdict(answer(monitor, record(TYPES[kind], content, record_class=3)), monitor).passed
    assert not verdict(answer(monitor, wanted, counts=(1, 0, 1, 0)), monitor).passed  # an authority, not an answer


@pytest.mark.parametrize(
    ("kind", "expected", "content"),
    [("A", "10.0.0.1", b"\x0a\0\0\x02"), ("TXT", "Well", b"\x04well"), ("TXT", '"a b"', b"\x01a\x01b")],
)
def test_other_record_fails_and_is_shown(kind: str, expected: str, content: bytes) -> None:
    monitor = replace(DNS, query_type=kind, expect_answer=expected)
    result = verdict(answer(monitor, record(TYPES[kind], content)), monitor)
    assert (result.outcome, result.reason) == (Outcome.FAILED, Reason.UNEXPECTED_ANSWER)
    assert result.detail.startswith("1 other records, first '")


def test_expected_record_does_not_excuse_the_response_code() -> None:
    monitor = replace(DNS, expect_answer="10.0.0.1")
    packet = answer(monitor, record(1, b"\x0a\0\0\x01"), rcode=SERVFAIL)
    assert verdict(packet, monitor).text == "unexpected_status (SERVFAIL)"


@pytest.mark.parametrize(
    ("kind", "text"),
    [("A", "10.0.0"), ("A", "::1"), ("MX", "mail."), ("TXT", '"open'), ("A", "\ud800"), ("SRV", "\\#")],
)
def test_text_that_is_no_record_of_the_type_is_never_met(kind: str, text: str) -> None:
    monitor = replace(DNS, query_type=kind, expect_answer=text)
    content = {"A": b"\x0a\0\0\x01", "MX": b"\0\x01" + name("a"), "TXT": b"\x01a", "SRV": b"\0" * 6 + name("a")}[kind]
    assert verdict(answer(monitor, record(TYPES[kind], content)), monitor).reason is Reason.UNEXPECTED_ANSWER
    assert record_for(query_for("x", kind).type, text) is None


def test_truncated_answer_passes_by_its_code_and_counts_for_the_records_that_came() -> None:
    packet = answer(DNS, record(1, b"\x0a\0\0\x01"), flags=ANSWERED | TRUNCATED)
    assert verdict(packet).passed
    assert verdict(packet, replace(DNS, expect_answer="10.0.0.1")).passed
    missing = verdict(packet, replace(DNS, expect_answer="10.0.0.2"))
    assert missing.text == "unexpected_answer (1 other records, first '10.0.0.1', truncated)"


def test_answer_is_read_up_to_its_limit_and_not_beyond() -> None:
    packet = answer(DNS)
    assert verdict(packet + bytes(ANSWER_LIMIT_BYTES - len(packet))).passed
    assert verdict(packet + bytes(ANSWER_LIMIT_BYTES - len(packet) + 1)).reason is Reason.ANSWER_TOO_LONG


def test_records_are_read_up_to_their_limit_and_not_beyond() -> None:
    monitor = replace(DNS, expect_answer="10.0.0.1")
    others = [record(1, struct.pack("!I", index)) for index in range(RECORDS_LIMIT)]
    wanted = record(1, b"\x0a\0\0\x01")
    assert verdict(answer(monitor, *others[1:], wanted), monitor).passed
    assert verdict(answer(monitor, *others, wanted), monitor).reason is Reason.ANSWER_TOO_LONG


ANY_A = replace(DNS, expect_answer="10.0.0.1")
MALFORMED = {
    "no header": b"\x12\x34\x81\x80",
    "no question": answer(DNS, question=b"", counts=(1, 0, 0, 0)),
    "many questions": answer(DNS, counts=(65535, 0, 0, 0)),
    "two questions": answer(DNS, question=(name("www.example.com") + b"\0\x01\0\x01") * 2, counts=(2, 0, 0, 0)),
    "cut in the question": answer(DNS)[:20],
    "question that points to itself": answer(DNS, question=b"\xc0\x0c\0\x01\0\x01"),
    "question that points ahead": answer(DNS, question=b"\xc0\xff\0\x01\0\x01"),
    "reserved label type": answer(DNS, question=b"\x80www\0\0\x01\0\x01"),
    "name too long": answer(DNS, question=b"\x01a" * 200 + b"\0\0\x01\0\x01"),
}
MALFORMED_RECORDS = {
    "no record": answer(ANY_A, counts=(1, 1, 0, 0)),
    "endless records": answer(ANY_A, counts=(1, 65535, 0, 0)),
    "address of three bytes": answer(ANY_A, record(1, b"\x0a\0\0")),
    "length beyond the end": answer(ANY_A, HERE + struct.pack("!HHIH", 1, 1, 60, 400) + b"\x0a\0\0\x01"),
    "cut in the owner": answer(ANY_A, b"\x3fabc", counts=(1, 1, 0, 0)),
    "reserved label type": answer(ANY_A, record(1, b"\x0a\0\0\x02", owner=b"\x40" + b"w" * 64 + b"\0")),
    "other record's length beyond the end": answer(ANY_A, HERE + struct.pack("!HHIH", 16, 1, 60, 400) + b"\1a"),
}


@pytest.mark.parametrize("case", MALFORMED)
def test_malformed_answer_fails_with_that_reason(case: str) -> None:
    for monitor in (DNS, ANY_A):
        result = verdict(MALFORMED[case], monitor)
        assert (result.outcome, result.reason) == (Outcome.FAILED, Reason.MALFORMED_ANSWER), monitor


@pytest.mark.parametrize("case", MALFORMED_RECORDS)
def test_malformed_records_fail_where_one_is_expected_and_are_not_read_where_none_is(case: str) -> None:
    result = verdict(MALFORMED_RECORDS[case], ANY_A)
    assert (result.outcome, result.reason) == (Outcome.FAILED, Reason.MALFORMED_ANSWER)
    assert verdict(MALFORMED_RECORDS[case], DNS).passed


LONG_NAME = b"\x01a" * 126 + b"\0"


@pytest.mark.parametrize(
    ("kind", "expected", "before", "after"),
    [
        ("NS", "x.", b"", b""),
        ("MX", "1 x.", b"\0\x02", b""),
        ("SOA", "x. x. 1 2 3 4 5", b"", struct.pack("!IIIII", 1, 2, 3, 4, 5)),
        ("SRV", "0 0 0 x.", b"\0" * 6, b""),
        ("CNAME", "x.", b"", b""),
    ],
)
def test_answer_full_of_compressed_names_is_judged_in_a_fraction_of_a_second(
    kind: str, expected: str, before: bytes, after: bytes
) -> None:
    """Every record's name is a pointer to 126 labels: to read 4 KiB of that took the parser up to 2 s."""
    monitor = replace(DNS, query_type=kind, expect_answer=expected)
    there = struct.pack("!H", 0xC000 | len(answer(monitor)))
    records = [record(TYPES[kind], before + b"\0" + after, owner=LONG_NAME)]
    while len(answer(monitor, *records)) < ANSWER_LIMIT_BYTES - 64:
        records.append(record(TYPES[kind], before + there + after, owner=there))
    packet = answer(monitor, *records)
    verdict(answer(monitor), monitor)
    began_s = time.process_time()
    assert verdict(packet, monitor).outcome is Outcome.FAILED
    assert time.process_time() - began_s < 0.3


# -- rubbish -----------------------------------------------------------------------------------------------------------

MONITORS = [
    DNS,
    ANY_A,
    replace(DNS, query_type="TXT", expect_answer='"all is well"'),
    replace(DNS, query_type="NS", expect_answer="ns.example."),
    replace(DNS, query_type="SOA", expect_answer="a. b. 1 2 3 4 5"),
    replace(DNS, query_type="SRV", expect_answer="0 0 1 a."),
    replace(DNS, query_type="MX", expect_answer="1 a.", expect_rcode=("NOERROR", "NXDOMAIN", "SERVFAIL")),
]
numbers = st.integers(0, 65535)
labels = st.one_of(st.binary(max_size=8).map(lambda text: bytes([len(text)]) + text), st.binary(max_size=4))
pointers = st.integers(0xC000, 0xFFFF).map(lambda value: struct.pack("!H", value))
names = st.tuples(st.lists(labels, max_size=4).map(b"".join), st.one_of(st.just(b"\0"), pointers)).map(b"".join)
contents = st.one_of(names, st.binary(max_size=40), st.tuples(st.binary(max_size=6), names).map(b"".join))


def is_a_verdict(result: ProbeResult) -> None:
    assert result.outcome in (Outcome.PASSED, Outcome.FAILED)
    assert result.passed is (result.reason is Reason.NONE)
    assert result.detail.isprintable()
    assert len(result.detail) < 300


@given(st.sampled_from(MONITORS), st.binary(max_size=ANSWER_LIMIT_BYTES + 10))
@settings(max_examples=300, deadline=None)
def test_rubbish_is_a_verdict_and_never_an_exception(monitor: HealthMonitor, rubbish: bytes) -> None:
    is_a_verdict(verdict(rubbish, monitor))
    is_a_verdict(verdict(struct.pack("!HHHHHH", ID, ANSWERED, 1, 1, 0, 0) + rubbish, monitor))
    is_a_verdict(verdict(answer(monitor, rubbish), monitor))


@given(st.data())
@settings(max_examples=200, deadline=None)
def test_almost_right_answer_is_a_verdict_and_never_an_exception(data: st.DataObject) -> None:
    monitor = data.draw(st.sampled_from(MONITORS))
    kind = st.one_of(st.just(TYPES[monitor.query_type]), numbers)
    records = data.draw(
        st.lists(st.builds(record, kind, contents, owner=names, record_class=st.sampled_from([1, 1, 1, 3])), max_size=4)
    )
    question = data.draw(st.one_of(st.none(), st.tuples(names, st.binary(min_size=4, max_size=4)).map(b"".join)))
    counts = data.draw(st.one_of(st.none(), st.tuples(st.integers(0, 2), numbers, numbers, numbers)))
    flags = data.draw(st.one_of(st.just(ANSWERED), st.integers(0x8000, 0xFFFF)))
    packet = bytearray(answer(monitor, *records, flags=flags & 0xFFF0, question=question, counts=counts))
    for _ in range(data.draw(st.integers(0, 3))):
        packet[data.draw(st.integers(2, len(packet) - 1))] = data.draw(st.integers(0, 255))
    is_a_verdict(verdict(bytes(packet[: data.draw(st.integers(2, len(packet)))]), monitor))


@given(st.lists(st.tuples(st.sampled_from([1, 5, 28]), st.binary(min_size=4, max_size=4)), max_size=12))
@settings(max_examples=200, deadline=None)
def test_verdict_is_whether_the_record_is_among_those_of_its_type(records: list[tuple[int, bytes]]) -> None:
    packed = [record(kind, content) for kind, content in records]
    wanted = any(kind == 1 and content == b"\x0a\0\0\x01" for kind, content in records)
    assert verdict(answer(ANY_A, *packed), ANY_A).passed is wanted
    assert verdict(answer(ANY_A, *packed, record(1, b"\x0a\0\0\x01")), ANY_A).passed


def test_dnspython_is_not_imported_without_a_dns_monitor() -> None:
    program = "import sys, lbd.health.checker, lbd.health.probes.dns; sys.exit('dns' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0
