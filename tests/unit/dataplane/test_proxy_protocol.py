"""The PROXY protocol's headers, read and made: strict, quick to refuse, and never more than the header."""

from __future__ import annotations

import struct
from ipaddress import IPv4Address, IPv6Address, ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbd.dataplane.hot.proxy_protocol import MAX_HEADER_BYTES, crc32c, make_header, read_header

SIGNATURE = b"\r\n\r\n\0\r\nQUIT\n"
NOBODY = ("", 0)

ports = st.integers(0, 65535)
ipv4 = st.ip_addresses(v=4).map(str)
ipv6 = st.ip_addresses(v=6).map(str)
ends = st.tuples(ipv4, ports) | st.tuples(ipv6, ports)
versions = st.sampled_from((1, 2))


def one_name(address: str) -> str:
    """The address as `ipaddress` has it, IPv4 in IPv6 form as IPv4."""
    parsed = ip_address(address)
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
        return str(parsed.ipv4_mapped)
    return str(parsed)


def binary(kind: int, block: bytes, command: int = 0x21) -> bytes:
    return SIGNATURE + bytes([command, kind]) + struct.pack("!H", len(block)) + block


def ipv4_block(additions: bytes = b"") -> bytes:
    return bytes([192, 0, 2, 1, 198, 51, 100, 2]) + struct.pack("!HH", 4711, 443) + additions


def tlv(kind: int, value: bytes) -> bytes:
    return struct.pack("!BH", kind, len(value)) + value


def with_checksum(additions: bytes = b"") -> bytes:
    header = binary(0x11, ipv4_block(additions + tlv(3, bytes(4))))
    return header[:-4] + struct.pack("!I", crc32c(header))


VALID = (
    b"PROXY TCP4 192.0.2.1 198.51.100.2 4711 443\r\n",
    b"PROXY TCP4 255.255.255.255 255.255.255.255 65535 65535\r\n",
    b"PROXY TCP4 0.0.0.0 0.0.0.0 0 0\r\n",
    b"PROXY TCP6 2001:db8::1 2001:DB8:0:0:0:0:0:2 4711 443\r\n",
    b"PROXY TCP6 ::ffff:192.0.2.1 ::1 4711 443\r\n",
    b"PROXY TCP6 " + b" ".join([b"ffff:" * 7 + b"ffff"] * 2) + b" 65535 65535\r\n",
    b"PROXY UNKNOWN\r\n",
    b"PROXY UNKNOWN " + b"\xff any \r thing" + b"x" * 78 + b"\r\n",
    binary(0x11, ipv4_block()),
    binary(0x21, bytes(36)),
    binary(0x31, bytes(216)),
    binary(0x00, b""),
    binary(0x00, b"whatever"),
    binary(0x00, b"", command=0x20),
    binary(0x77, b"of a family that nobody knows", command=0x20),
    binary(0x11, ipv4_block(tlv(4, bytes(100)) + tlv(0xE0, b""))),
    binary(0x11, ipv4_block(tlv(4, bytes(MAX_HEADER_BYTES - 16 - 12 - 3)))),
    with_checksum(),
    with_checksum(tlv(2, b"example.org")),
)

MALFORMED = (
    b"GET / HTTP/1.1\r\n\r\n",
    b"\x16\x03\x01",
    b"\0",
    b"p",
    b"PROXYTCP4 ",
    b"PROXY\r\n",
    b"PROXY \r\n",
    b"PROXY  TCP4 192.0.2.1 198.51.100.2 4711 443\r\n",
    b"PROXY TCP5 ",
    b"PROXY TCP4\r\n",
    b"PROXY TCP4  192.0.2.1 198.51.100.2 4711 443\r\n",
    b"PROXY TCP4 192.0.2.1  198.51.100.2 4711 443\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 4711 443 \r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 4711\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 4711 443 1\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 4711 443\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 4711 443\rX",
    b"PROXY TCP4 192.0.2.01 198.51.100.2 4711 443\r\n",
    b"PROXY TCP4 192.0.2.256 198.51.100.2 4711 443\r\n",
    b"PROXY TCP4 192.0.2 198.51.100.2 4711 443\r\n",
    b"PROXY TCP4 192.0.2.1\t198.51.100.2 4711 443\r\n",
    b"PROXY TCP4 192.0.2.1\0 198.51.100.2 4711 443\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 04711 443\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 65536 443\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 -1 443\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 +1 443\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.2 4_7 443\r\n",
    b"PROXY TCP4 192.0.2.1 198.51.100.2  443\r\n",
    b"PROXY TCP4 2001:db8::1 2001:db8::2 4711 443\r\n",
    b"PROXY TCP6 192.0.2.1 198.51.100.2 4711 443\r\n",
    b"PROXY TCP6 fe80::1%eth0 2001:db8::2 4711 443\r\n",
    b"PROXY TCP6 2001:db8::1::2 2001:db8::2 4711 443\r\n",
    b"PROXY UDP4 192.0.2.1 198.51.100.2 4711 443\r\n",
    b"PROXY UNKNOWNX\r\n",
    b"PROXY UNKNOWN " + b"x" * 92 + b"\r\n",
    b"PROXY UNKNOWN " + b"x" * 93,
    b"\r\n\r\n\0\r\nQUIT\r",
    b"\r\nG",
    SIGNATURE + b"\x11",
    SIGNATURE + b"\x22",
    SIGNATURE + b"\x21\x12",
    SIGNATURE + b"\x21\x22",
    SIGNATURE + b"\x21\x32",
    SIGNATURE + b"\x21\x01",
    SIGNATURE + b"\x21\x10",
    SIGNATURE + b"\x21\x41",
    SIGNATURE + b"\x21\x11\xff",
    SIGNATURE + b"\x21\x11" + struct.pack("!H", MAX_HEADER_BYTES - 16 + 1),
    SIGNATURE + b"\x20\x00" + struct.pack("!H", MAX_HEADER_BYTES - 16 + 1),
    binary(0x11, ipv4_block()[:-1]),
    binary(0x21, bytes(35)),
    binary(0x31, bytes(215)),
    binary(0x11, ipv4_block(b"\x04\x00")),
    binary(0x11, ipv4_block(b"\x04\x00\x02x")),
    binary(0x11, ipv4_block(tlv(3, bytes(3)))),
    binary(0x11, ipv4_block(tlv(3, bytes(4)))),
)


@pytest.mark.parametrize("header", VALID)
def test_every_beginning_of_a_valid_header_asks_for_more(header: bytes) -> None:
    for end in range(len(header)):
        assert read_header(header[:end]).length == 0, header[:end]
    assert read_header(header).length == len(header)


@pytest.mark.parametrize("header", VALID)
@pytest.mark.parametrize("behind", [b"\0", b"\r\n", b"PROXY UNKNOWN\r\n", b"x" * (MAX_HEADER_BYTES - 16)])
def test_what_follows_a_header_is_no_part_of_it(header: bytes, behind: bytes) -> None:
    alone, followed = read_header(header), read_header((header + behind)[:MAX_HEADER_BYTES])
    assert followed.length == len(header)
    assert (followed.client, followed.destination) == (alone.client, alone.destination)


@pytest.mark.parametrize("bytes_", MALFORMED)
def test_what_can_be_no_header_is_refused_at_once(bytes_: bytes) -> None:
    header = read_header(bytes_)
    assert (header.length, header.client, header.destination) == (-1, NOBODY, NOBODY)
    assert read_header(bytes_ + b"\r\n").length == -1


def test_the_longest_line_has_107_bytes() -> None:
    assert max(len(header) for header in VALID if header.startswith(b"PROXY")) == 107


@pytest.mark.parametrize(
    "header",
    [
        b"PROXY UNKNOWN 192.0.2.1 198.51.100.2 4711 443\r\n",
        binary(0x31, bytes(216)),
        binary(0x00, ipv4_block()),
        binary(0x11, ipv4_block(), command=0x20),
    ],
)
def test_some_headers_name_nobody(header: bytes) -> None:
    read = read_header(header)
    assert (read.length, read.client, read.destination) == (len(header), NOBODY, NOBODY)


def test_an_ipv4_client_in_ipv6_form_has_the_name_of_the_ipv4_client() -> None:
    mapped = bytes(10) + b"\xff\xff" + bytes([192, 0, 2, 1])
    block = mapped + IPv6Address("2001:db8::2").packed + struct.pack("!HH", 4711, 443)
    for header in (binary(0x21, block), b"PROXY TCP6 ::FFFF:c000:201 2001:db8::2 4711 443\r\n"):
        read = read_header(header)
        assert (read.client, read.destination) == (("192.0.2.1", 4711), ("2001:db8::2", 443))


def test_the_checksum_is_castagnolis() -> None:
    assert crc32c(b"123456789") == 0xE3069283  # the check value of every catalogue of checksums


@given(st.integers(0, 8 * (len(with_checksum()) - 16) - 1))
def test_a_checksum_finds_any_flipped_bit(bit: int) -> None:
    header = bytearray(with_checksum(tlv(4, b"")))
    header[16 + bit // 8] ^= 1 << bit % 8
    read = read_header(bytes(header))
    place = 16 + bit // 8
    in_types = place == 28 or place == 31  # a checksum that is called something else is not looked at
    assert read.length == -1 or in_types, (place, read.length)


@given(versions, ends, ends)
def test_what_is_made_is_read_again(version: int, client: tuple[str, int], destination: tuple[str, int]) -> None:
    header = make_header(version, client, destination, datagram=False)
    assert len(header) <= 107
    read = read_header(header)
    assert read.length == len(header)
    assert (one_name(read.client[0]), read.client[1]) == (one_name(client[0]), client[1])
    assert (one_name(read.destination[0]), read.destination[1]) == (one_name(destination[0]), destination[1])
    assert all(read_header(header[:end]).length == 0 for end in range(len(header)))


@given(ends, ends)
def test_the_form_of_a_header_depends_on_both_families(client: tuple[str, int], destination: tuple[str, int]) -> None:
    both_ipv4 = all(isinstance(ip_address(end[0]), IPv4Address) for end in (client, destination))
    text = make_header(1, client, destination, datagram=False).split(b" ")
    assert text[1] == (b"TCP4" if both_ipv4 else b"TCP6")
    assert all((b"." in word) == both_ipv4 for word in text[2:4] if b"::ffff:" in word or both_ipv4)
    stream, datagram = (make_header(2, client, destination, datagram=datagram) for datagram in (False, True))
    assert stream[12:16] == bytes([0x21, 0x11, 0, 12] if both_ipv4 else [0x21, 0x21, 0, 36])
    assert datagram == stream[:13] + bytes([stream[13] + 1]) + stream[14:]


def test_a_scope_is_left_out() -> None:
    for version in (1, 2):
        scoped = make_header(version, ("fe80::1%eth0", 1), ("fe80::2%eth0", 2), datagram=False)
        assert scoped == make_header(version, ("fe80::1", 1), ("fe80::2", 2), datagram=False)


def test_version_1_names_nobody_for_datagrams() -> None:
    header = make_header(1, ("192.0.2.1", 1), ("192.0.2.2", 2), datagram=True)
    assert header == b"PROXY UNKNOWN\r\n"


@given(
    st.binary(max_size=300)
    | st.binary(max_size=300).map(lambda tail: SIGNATURE + tail)
    | st.binary(max_size=120).map(lambda tail: b"PROXY TCP4 " + tail)
    | st.text("PROXY TCP46UNKW.:0123456789abf\r\n", max_size=130).map(lambda text: ("PROXY " + text).encode())
    | st.tuples(st.sampled_from(VALID), st.integers(0, 300), st.binary(max_size=3)).map(
        lambda case: case[0][: case[1]] + case[2] + case[0][case[1] + 1 :]
    )
)
def test_nothing_makes_it_raise_or_read_too_far_or_change_its_mind(received: bytes) -> None:
    received = received[:MAX_HEADER_BYTES]
    whole = read_header(received)
    assert -1 <= whole.length <= len(received)
    assert (whole.client == NOBODY) == (whole.destination == NOBODY)
    if whole.length <= 0:
        assert whole.client == NOBODY
    else:
        ip_address(whole.client[0] or "::")
        assert read_header(received[: whole.length]).client == whole.client
    for end in range(len(received)):
        earlier = read_header(received[:end])
        if earlier.length:  # decided: for good
            assert (earlier.length, earlier.client) == (whole.length, whole.client)
