"""Netlink messages as the kernel lays them out, and as an attacker would."""

from __future__ import annotations

import struct

from hypothesis import given
from hypothesis import strategies as st

from lbd.announce.netlink_events import AddressEvent, LinkEvent, parse_events

UP_AND_RUNNING = 0x1 | 0x40


def message(kind: int, body: bytes) -> bytes:
    padding = -len(body) % 4
    return struct.pack("=IHHII", 16 + len(body), kind, 0, 0, 0) + body + bytes(padding)


def link(kind: int, index: int, flags: int) -> bytes:
    return message(kind, struct.pack("=BxHiII", 0, 1, index, flags, 0) + b"\x05\x00\x0e\x00\x07")


def address(kind: int, index: int) -> bytes:
    return message(kind, struct.pack("=BBBBI", 2, 32, 0, 0, index))


def test_several_messages_of_one_datagram_are_all_read() -> None:
    datagram = link(16, 7, UP_AND_RUNNING) + address(21, 7) + message(24, bytes(12)) + address(20, 8) + link(16, 9, 0x1)
    assert parse_events(datagram) == (LinkEvent(7, True), AddressEvent(7), AddressEvent(8), LinkEvent(9, False))


def test_a_deleted_link_is_not_running_whatever_its_flags_say() -> None:
    assert parse_events(link(17, 7, UP_AND_RUNNING)) == (LinkEvent(7, False),)


def test_a_message_cut_short_ends_the_reading() -> None:
    datagram = address(20, 3) + address(20, 4)
    assert parse_events(datagram[:-1]) == (AddressEvent(3),)
    assert parse_events(message(20, b"\x02\x20")) == ()


@given(st.binary(max_size=300))
def test_random_bytes_never_raise_and_the_reading_ends(datagram: bytes) -> None:
    parse_events(datagram)
    parse_events(link(16, 7, 0) + datagram)
