"""The DNS check's query, and what an answer to it says. Pure; the only importer of dnspython.

Sources: RFC 1035 (section 4.1.1: the header), RFC 2181; the answer is a member's and may be anything.
"""

from __future__ import annotations

import functools
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

import dns.exception
import dns.message
import dns.name
import dns.rcode
import dns.rdata
import dns.rdataclass
import dns.rdatatype

from lbd.health.probes.http_answer import printable
from lbd.health.result import ProbeResult, Reason
from lbd.model.desired import HealthMonitor

ANSWER_LIMIT_BYTES: Final = 1232
"""Larger answers are not read. Our query offers no EDNS, so an honest one has at most 512 bytes (RFC 1035, 2.3.4); this
is what careful servers keep to even with EDNS (RFC 9715)."""
RECORDS_LIMIT: Final = 48
"""Among so many records of the query's type the expected one must be: in 512 bytes there is room for 30 addresses. To
let dnspython read 4 KiB of compressed names whole took up to 2 s; these records, and nothing else, take some 15 ms at
worst."""

_HEADER = struct.Struct("!HHHHHH")
"""Identifier, flags, and how many questions, answers, authorities and additional records follow."""
_QUESTION_REST_BYTES = 4
_RECORD = struct.Struct("!HHIH")
"""What follows a record's name: type, class, time to live, length."""
_POINTER, _LABEL_LIMIT_BYTES = 0xC0, 63
_IS_ANSWER, _TRUNCATED = 0x8000, 0x0200
_OPCODE_MASK, _RCODE_MASK = 0x7800, 0x000F
_WITHOUT_QUESTION = frozenset({dns.rcode.FORMERR, dns.rcode.SERVFAIL, dns.rcode.NOTIMP, dns.rcode.REFUSED})
"""What a server may say that did not read the question."""


@dataclass(frozen=True, slots=True)
class Query:
    """One question, of which every check sends a copy with an identifier of its own."""

    name: dns.name.Name
    type: dns.rdatatype.RdataType
    without_id: bytes

    def packet(self, identifier: int) -> bytes:
        """Return the query as it goes out: recursion desired, no EDNS."""
        return identifier.to_bytes(2, "big") + self.without_id


@functools.lru_cache(maxsize=1024)
def record_for(kind: dns.rdatatype.RdataType, text: str) -> dns.rdata.Rdata | None:
    """Return the record that a text means, so that `2001:DB8:0::1` is `2001:db8::1` and names differ by no case; None
    if it is no record of this type: then no answer has it."""
    try:
        return dns.rdata.from_text(dns.rdataclass.IN, kind, text, origin=dns.name.root, relativize=False)
    except (dns.exception.DNSException, ValueError):
        return None


@functools.lru_cache(maxsize=1024)
def query_for(name: str, type_name: str) -> Query:
    """Return the query for a name (absolute, with or without its last dot) and a type (`A`, `NS`, `TYPE65`, …).

    Raises:
        ValueError: there is no such name or type.
    """
    try:
        message = dns.message.make_query(name, type_name, id=0)
        question = message.question[0]
        return Query(question.name, question.rdtype, message.to_wire()[2:])
    except dns.exception.DNSException as error:
        raise ValueError(f"no query for {name!r} {type_name!r}: {error}") from error


def carries(packet: bytes, identifier: int) -> bool:
    """Return whether a datagram has this identifier."""
    return packet[:2] == identifier.to_bytes(2, "big")


def judge(packet: bytes, query: Query, monitor: HealthMonitor) -> ProbeResult:
    """Return what a datagram with the query's identifier says of the member.

    The response code alone decides, unless the monitor expects an answer: only then the records are read. In a
    truncated message those count that came.
    """
    if len(packet) > ANSWER_LIMIT_BYTES:
        return ProbeResult.failure(Reason.ANSWER_TOO_LONG, f"over {ANSWER_LIMIT_BYTES} bytes")
    if len(packet) < _HEADER.size:
        return ProbeResult.failure(Reason.MALFORMED_ANSWER, f"{len(packet)} bytes")
    _, flags, questions, *_ = _HEADER.unpack_from(packet)
    if not flags & _IS_ANSWER:
        return ProbeResult.failure(Reason.UNEXPECTED_ANSWER, "a query, not an answer")
    if flags & _OPCODE_MASK:
        return ProbeResult.failure(Reason.UNEXPECTED_ANSWER, "not an answer to a query")
    if questions > 1:
        return ProbeResult.failure(Reason.MALFORMED_ANSWER, f"{questions} questions")
    rcode = dns.rcode.Rcode(flags & _RCODE_MASK)
    try:
        message = dns.message.from_wire(packet, question_only=True)
        if not _is_for(message, query, rcode):
            return ProbeResult.failure(Reason.UNEXPECTED_ANSWER, "an answer to another question")
        if dns.rcode.to_text(rcode) not in monitor.expect_rcode:
            return ProbeResult.failure(Reason.UNEXPECTED_STATUS, dns.rcode.to_text(rcode))
        return _find(packet, query, monitor.expect_answer) if monitor.expect_answer else ProbeResult.success()
    except Exception as error:  # noqa: BLE001  (dnspython reads each record type in its own way, on a stranger's bytes)
        return ProbeResult.failure(Reason.MALFORMED_ANSWER, type(error).__name__)


def _is_for(message: dns.message.Message, query: Query, rcode: dns.rcode.Rcode) -> bool:
    if not message.question:
        return rcode in _WITHOUT_QUESTION
    asked = message.question[0]
    return asked.name == query.name and asked.rdtype == query.type and asked.rdclass == dns.rdataclass.IN


def _find(packet: bytes, query: Query, expected: str) -> ProbeResult:
    """Look for the expected record among those of the query's type in the answer section."""
    wanted = record_for(query.type, expected)
    wanted_text = wanted.to_text().lower() if wanted is not None else None
    seen = 0
    first = ""
    for start, length in _records(packet, query.type):
        if seen == RECORDS_LIMIT:
            return ProbeResult.failure(Reason.ANSWER_TOO_LONG, f"not in the first {RECORDS_LIMIT} records")
        record = dns.rdata.from_wire(dns.rdataclass.IN, query.type, packet, start, length)
        text = record.to_text()
        # The texts first: to compare two records of 127 labels takes dnspython 1.3 ms, their texts 30 us.
        if text.lower() == wanted_text and record == wanted:
            return ProbeResult.success()
        first = first or printable(text.encode())
        seen += 1
    truncated = _HEADER.unpack_from(packet)[1] & _TRUNCATED
    hint = f"{seen} other records, first {first}" if seen else "no record"
    return ProbeResult.failure(Reason.UNEXPECTED_ANSWER, hint + (", truncated" if truncated else ""))


def _records(packet: bytes, kind: int) -> Iterator[tuple[int, int]]:
    """Yield where the content of each record of this type begins in the answer section, and its length.

    Owners' names are stepped over, not read: so the time is linear in the packet's size.
    """
    _, _, questions, answers, _, _ = _HEADER.unpack_from(packet)
    at = _HEADER.size
    for _ in range(questions):
        at = _after_name(packet, at) + _QUESTION_REST_BYTES
    for _ in range(answers):
        at = _after_name(packet, at)
        if at + _RECORD.size > len(packet):
            raise dns.exception.FormError
        record_kind, record_class, _, length = _RECORD.unpack_from(packet, at)
        at += _RECORD.size
        if at + length > len(packet):
            raise dns.exception.FormError
        if record_kind == kind and record_class == dns.rdataclass.IN:
            yield at, length
        at += length


def _after_name(packet: bytes, at: int) -> int:
    """Return where a name ends: after its empty label or after its pointer (RFC 1035, 4.1.4)."""
    while at < len(packet):
        length = packet[at]
        if length >= _POINTER:
            return at + 2
        if length > _LABEL_LIMIT_BYTES:
            break
        at += 1 + length
        if length == 0:
            return at
    raise dns.exception.FormError
