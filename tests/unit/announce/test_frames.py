"""The frames, against bytes written out by hand from the RFCs, and the parser against anything."""

from __future__ import annotations

import ipaddress
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbd.announce import frames
from lbd.announce.frames import Heard, Utterance

MAC = bytes.fromhex("020000000001")
OTHER = bytes.fromhex("020000000002")

GARP_REQUEST = bytes.fromhex(
    "ffffffffffff 020000000001 0806"
    "0001 0800 06 04 0001"
    "020000000001 ac106596"  # sender: us, 172.16.101.150
    "000000000000 ac106596"
)
GARP_REPLY = bytes.fromhex(
    "ffffffffffff 020000000001 0806 0001 0800 06 04 0002 020000000001 ac106596 020000000001 ac106596"
)
ARP_PROBE = bytes.fromhex(
    "ffffffffffff 020000000001 0806 0001 0800 06 04 0001 020000000001 00000000 000000000000 ac106596"
)


def internet_checksum(payload: bytes) -> int:
    """Sum byte by byte, as RFC 1071 §4.1 does it in C: not the way of the product."""
    total = 0
    for position, value in enumerate(payload):
        total += value << 8 if position % 2 == 0 else value
    while total >> 16:
        total = (total & 0xFFFF) + (total >> 16)
    return ~total & 0xFFFF


def test_ipv4_announcement_is_an_arp_request_and_a_reply_about_ourselves() -> None:
    assert frames.announcements("172.16.101.150", MAC) == (GARP_REQUEST, GARP_REPLY)


def test_arp_probe_has_no_sender_address_and_so_changes_no_cache() -> None:
    assert frames.probe("172.16.101.150", MAC) == ARP_PROBE


def test_ipv6_announcement_is_an_unsolicited_advertisement_with_override() -> None:
    (frame,) = frames.announcements("2001:db8::150", MAC)
    vip, all_nodes = "20010db8000000000000000000000150", "ff020000000000000000000000000001"
    message = bytes.fromhex("88 00 0000 20000000" + vip + "02 01 020000000001")
    checksum = internet_checksum(bytes.fromhex(vip + all_nodes + "00000020 0000003a") + message)
    assert frame == (
        bytes.fromhex("333300000001 020000000001 86dd" + "60000000 0020 3a ff" + vip + all_nodes)
        + message[:2]
        + checksum.to_bytes(2, "big")
        + message[4:]
    )


def test_ipv6_probe_asks_the_solicited_node_group_from_nowhere() -> None:
    frame = frames.probe("2001:db8::12:3456", MAC)
    vip, group = "20010db8000000000000000000123456", "ff0200000000000000000001ff123456"
    message = bytes.fromhex("87 00 0000 00000000" + vip)
    checksum = internet_checksum(bytes.fromhex("00" * 16 + group + "00000018 0000003a") + message)
    assert frame == (
        bytes.fromhex("3333ff123456 020000000001 86dd" + "60000000 0018 3a ff" + "00" * 16 + group)
        + message[:2]
        + checksum.to_bytes(2, "big")
        + message[4:]
    )
    assert frames.solicited_node_group("2001:db8::12:3456") == "ff02::1:ff12:3456"


@given(vip=st.ip_addresses(v=6).map(str))
def test_every_ipv6_frame_has_a_right_checksum(vip: str) -> None:
    for frame in (*frames.announcements(vip, MAC), frames.probe(vip, MAC)):
        pseudo_header = frame[22:54] + struct.pack("!II", len(frame) - 54, 58)
        assert internet_checksum(pseudo_header + frame[54:]) == 0


@given(vip=st.ip_addresses().filter(lambda a: int(a) != 0 and not a.is_multicast).map(str))
def test_an_announcement_is_heard_as_ownership_and_a_probe_as_a_probe(vip: str) -> None:
    for frame in frames.announcements(vip, OTHER):
        assert frames.parse(frame) == Heard(Utterance.OWNS, vip, OTHER)
    assert frames.parse(frames.probe(vip, OTHER)) == Heard(Utterance.PROBES, vip, OTHER)


def test_an_ordinary_arp_request_from_the_address_claims_it_too() -> None:
    request = GARP_REQUEST[:38] + bytes.fromhex("ac106501")  # asks for 172.16.101.1
    assert frames.parse(request) == Heard(Utterance.OWNS, "172.16.101.150", MAC)


def test_padding_behind_a_frame_changes_nothing() -> None:
    for frame in (GARP_REPLY, *frames.announcements("2001:db8::1", OTHER)):
        assert frames.parse(frame + bytes(18)) == frames.parse(frame) is not None


def test_the_mac_of_an_advertisement_without_option_is_the_sender_of_the_frame() -> None:
    assert frames.parse(advertisement(options=b"")) == Heard(Utterance.OWNS, "2001:db8::1", OTHER)


def advertisement(
    *, options: bytes, hop_limit: int = 255, code: int = 0, target: str = "2001:db8::1", kind: int = 136
) -> bytes:
    """An NA with a right checksum and whatever else the test wants to be wrong."""
    source = ipaddress.IPv6Address("2001:db8::1").packed
    destination = ipaddress.IPv6Address("ff02::1").packed
    message = struct.pack("!BBHI16s", kind, code, 0, 1 << 29, ipaddress.IPv6Address(target).packed) + options
    checksum = internet_checksum(source + destination + struct.pack("!II", len(message), 58) + message)
    header = struct.pack("!IHBB16s16s", 6 << 28, len(message), 58, hop_limit, source, destination)
    ethernet = bytes.fromhex("333300000001") + OTHER + b"\x86\xdd"
    return ethernet + header + message[:2] + checksum.to_bytes(2, "big") + message[4:]


@pytest.mark.parametrize(
    "frame",
    [
        pytest.param(advertisement(options=b"", hop_limit=254), id="crossed a router"),
        pytest.param(advertisement(options=b"", code=1), id="code is not 0"),
        pytest.param(advertisement(options=b"", target="ff02::5"), id="target is multicast"),
        pytest.param(advertisement(options=b"\x02\x00" + OTHER), id="option of length 0"),
        pytest.param(advertisement(options=b"\x02\x02" + OTHER), id="option longer than the packet"),
        pytest.param(advertisement(options=b"\x02"), id="half an option"),
        pytest.param(advertisement(options=b"\x02\x01" + b"\xff" * 6), id="broadcast as MAC"),
        pytest.param(advertisement(options=b"", kind=134), id="router advertisement"),
        pytest.param(advertisement(options=b"", kind=135), id="solicitation that is no probe"),
        pytest.param(advertisement(options=b"")[:-1] + b"\xff", id="wrong checksum"),
        pytest.param(GARP_REQUEST[:20] + b"\x00\x03" + GARP_REQUEST[22:], id="RARP"),
        pytest.param(GARP_REQUEST[:14] + b"\x00\x06" + GARP_REQUEST[16:], id="not Ethernet"),
        pytest.param(GARP_REQUEST[:22] + b"\xff" * 6 + GARP_REQUEST[28:], id="broadcast as sender"),
        pytest.param(ARP_PROBE[:20] + b"\x00\x02" + ARP_PROBE[22:], id="reply from nowhere"),
        pytest.param(GARP_REQUEST[:-1], id="ARP cut short"),
        pytest.param(b"", id="nothing"),
    ],
)
def test_what_is_not_valid_is_not_heard(frame: bytes) -> None:
    assert frames.parse(frame) is None


GOOD = (
    GARP_REQUEST,
    GARP_REPLY,
    ARP_PROBE,
    advertisement(options=b"\x02\x01" + OTHER),
    frames.probe("2001:db8::1", MAC),
)


@given(st.binary(max_size=200))
def test_random_bytes_never_raise(frame: bytes) -> None:
    frames.parse(frame)


@given(frame=st.sampled_from(GOOD), cut=st.integers(0, 120), noise=st.binary(max_size=60), at=st.integers(0, 120))
def test_damaged_frames_never_raise_and_never_name_a_group_as_owner(
    frame: bytes, cut: int, noise: bytes, at: int
) -> None:
    heard = frames.parse((frame[:at] + noise + frame[at + len(noise) :])[:cut])
    assert heard is None or not heard.mac[0] & 1


@given(st.binary(max_size=64).filter(lambda options: len(options) % 2 == 0))
def test_whatever_options_an_advertisement_has_the_parser_ends(options: bytes) -> None:
    heard = frames.parse(advertisement(options=options))
    assert heard is None or heard.address == "2001:db8::1"
