"""Claims about echo packets and the filters, without sockets: the filter program runs in an interpreter of our own."""

from __future__ import annotations

import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbd.health.probes import icmp
from lbd.health.probes.icmp import IPV4, IPV6, Family

IDENTIFIER, SEQUENCE, TOKEN = 0x1234, 0x0042, b"sixteen bytes ok"
TARGET = {4: ipaddress.ip_address("192.0.2.7").packed, 6: ipaddress.ip_address("2001:db8::7").packed}
families = pytest.mark.parametrize("family", [IPV4, IPV6], ids=["ipv4", "ipv6"])


def ip_header(family: Family, options: bytes = b"") -> bytes:
    """Return an IP header to TARGET, as an error quotes it."""
    if family is IPV4:
        first = 0x45 + len(options) // 4
        return bytes([first]) + b"\0" * 8 + bytes([1]) + b"\0" * 6 + TARGET[4] + options
    return b"\x60" + b"\0" * 5 + bytes([58]) + b"\x40" + b"\0" * 16 + TARGET[6]


def received(family: Family, message: bytes, options: bytes = b"") -> bytes:
    """Return what a raw socket gets: IPv4 with its header and a right checksum."""
    if family is IPV6:
        return message
    message = message[:2] + b"\0\0" + message[4:]
    return ip_header(family, options) + message[:2] + struct.pack("!H", icmp.checksum(message)) + message[4:]


def reply(family: Family, identifier: int = IDENTIFIER, payload: bytes = TOKEN) -> bytes:
    return icmp.HEADER.pack(family.echo_reply, 0, 0, identifier, SEQUENCE) + payload


def error(family: Family, kind: int, code: int = 1, identifier: int = IDENTIFIER) -> bytes:
    quoted = icmp.HEADER.pack(family.echo_request, 0, 0, identifier, SEQUENCE) + TOKEN
    return icmp.HEADER.pack(kind, code, 0, 0, 0) + ip_header(family) + quoted


def passes(program: list[tuple[int, int, int, int]], packet: bytes) -> bool:
    """Run a classic BPF program (linux/filter.h): what it reads past the end drops the packet."""
    accumulator = index = at = 0
    while True:
        code, if_true, if_false, value = program[at]
        at += 1
        if code == 0xB1:
            index = (packet[value] & 0x0F) * 4
        elif code == 0x01:
            index = value
        elif code in (0x50, 0x48):
            size = 1 if code == 0x50 else 2
            piece = packet[index + value : index + value + size]
            if len(piece) < size:
                return False
            accumulator = int.from_bytes(piece, "big")
        elif code == 0x15:
            at += if_true if accumulator == value else if_false
        else:
            assert code == 0x06
            return value > 0


@given(st.binary(min_size=1, max_size=200))
def test_packet_with_its_checksum_sums_up_to_zero(payload: bytes) -> None:
    assert icmp.checksum(icmp.echo_request(IPV4, IDENTIFIER, SEQUENCE, payload)) == 0


def test_checksum_is_that_of_rfc_1071() -> None:
    assert icmp.checksum(bytes.fromhex("0001f203f4f5f6f7")) == 0xFFFF - 0xDDF2


@families
def test_reply_gives_sequence_and_payload(family: Family) -> None:
    for options in (b"", b"\1" * 8):
        packet = received(family, reply(family), options)
        assert icmp.parse(family, packet, IDENTIFIER) == icmp.EchoAnswer(SEQUENCE, TOKEN)


@families
def test_error_gives_sequence_destination_and_words(family: Family) -> None:
    for kind in family.errors:
        answer = icmp.parse(family, received(family, error(family, kind)), IDENTIFIER)
        assert answer is not None
        assert (answer.sequence, answer.destination) == (SEQUENCE, TARGET[family.version])
        assert family.errors[kind] in answer.error


@families
def test_foreign_packets_answer_nothing(family: Family) -> None:
    for message in (
        reply(family, identifier=1),
        error(family, next(iter(family.errors)), identifier=1),
        icmp.HEADER.pack(family.echo_request, 0, 0, IDENTIFIER, SEQUENCE) + TOKEN,
        icmp.HEADER.pack(13, 0, 0, IDENTIFIER, SEQUENCE),
    ):
        assert icmp.parse(family, received(family, message), IDENTIFIER) is None


def test_reply_with_a_wrong_checksum_answers_nothing() -> None:
    packet = received(IPV4, reply(IPV4))
    assert icmp.parse(IPV4, packet[:-1] + b"!", IDENTIFIER) is None


@families
@given(packet=st.binary(max_size=120))
def test_rubbish_is_never_an_exception(family: Family, packet: bytes) -> None:
    icmp.parse(family, packet, IDENTIFIER)
    for whole in (reply(family), error(family, next(iter(family.errors)))):
        for size in range(len(whole)):
            icmp.parse(family, received(family, whole[:size]), IDENTIFIER)


@families
def test_filter_program_passes_what_is_ours_and_drops_the_rest(family: Family) -> None:
    program = icmp.identifier_program(family, IDENTIFIER)
    assert passes(program, received(family, reply(family)))
    assert not passes(program, received(family, reply(family, identifier=IDENTIFIER + 1)))
    for kind in family.errors:
        assert passes(program, received(family, error(family, kind)))
        assert not passes(program, received(family, error(family, kind, identifier=IDENTIFIER + 1)))
    for kind in set(range(256)) - set(family.errors) - {family.echo_reply}:
        assert not passes(program, received(family, icmp.HEADER.pack(kind, 0, 0, IDENTIFIER, SEQUENCE) + b"\0" * 60))
    assert not passes(program, received(family, b"\x03"))


@families
def test_type_filter_lets_replies_and_errors_through(family: Family) -> None:
    words = struct.unpack(f"={1 if family is IPV4 else 8}I", icmp.type_filter(family))
    open_types = {kind for kind in range(32 * len(words)) if not words[kind >> 5] & (1 << (kind & 31))}
    assert open_types == {family.echo_reply, *family.errors}
