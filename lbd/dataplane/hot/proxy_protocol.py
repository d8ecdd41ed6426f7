"""The PROXY protocol, versions 1 and 2 (specification of HAProxy, 2020-03-05): headers made and read. Pure.

Where the specification leaves a choice: an IPv4 address in IPv6 form (::ffff:0:0/96) is read as IPv4, so that one
client has one name whatever the sender listened on; addresses of unix sockets name nobody; the checksum of version 2 is
verified where a header with addresses of IP has one, and all other additions (TLVs) are passed over.

Hot module: compiled by mypyc, and must do the same when interpreted.
"""

from __future__ import annotations

import _socket
from typing import Final

MAX_HEADER_BYTES: Final = 4096
"""The longest header that is read. Version 2 could say 64 KiB; addresses and usual additions take a few hundred."""

_MAX_TEXT_BYTES: Final = 107  # version 1, with its CRLF
_SIGNATURE: Final = b"\r\n\r\n\0\r\nQUIT\n"
_FIXED_BYTES: Final = 16  # the signature, command, family, and the length of the rest
_PROXY: Final = 0x21
_LOCAL: Final = 0x20
_ADDRESS_BYTES: Final[dict[int, int]] = {0x00: 0, 0x11: 12, 0x21: 36, 0x31: 216}
"""By family and transport, those that a stream may have: none, IPv4, IPv6, unix."""
_TLV_CRC32C: Final = 0x03
_MAPPED: Final = b"\0\0\0\0\0\0\0\0\0\0\xff\xff"
_IPV4: Final = 2
_IPV6: Final = 10
_NAMES_NOBODY: Final[tuple[str, int]] = ("", 0)


class ProxyHeader:
    """What was read of the beginning of a connection. `length` is that of the header: 0 while more bytes are needed to
    tell, -1 when it is none or a malformed one. `client` is ("", 0) where the header names none (LOCAL, UNKNOWN):
    then the connection's own addresses hold. `destination` is where the client connected to. Addresses are written as
    inet_ntop writes them."""

    __slots__ = ("client", "destination", "length")

    def __init__(self, length: int, client: tuple[str, int], destination: tuple[str, int]) -> None:
        self.length: int = length
        self.client: tuple[str, int] = client
        self.destination: tuple[str, int] = destination


def read_header(received: bytes) -> ProxyHeader:
    """Read a header at the beginning of at most MAX_HEADER_BYTES received bytes. Never raises."""
    if not received:
        return _more()
    if received[0] == 0x0D:
        return _read_binary(received)
    return _read_text(received)


def make_header(version: int, client: tuple[str, int], destination: tuple[str, int], *, datagram: bool) -> bytes:
    """Return the header that tells a member who the client is. Addresses of two families are both written as IPv6.

    Version 1 knows no datagrams: there it names nobody.
    """
    is_ipv4 = ":" not in client[0] and ":" not in destination[0]
    if version == 1:
        if datagram:
            return b"PROXY UNKNOWN\r\n"
        family = "TCP4" if is_ipv4 else "TCP6"
        source = _text(client[0], is_ipv4)
        target = _text(destination[0], is_ipv4)
        return f"PROXY {family} {source} {target} {client[1]} {destination[1]}\r\n".encode()
    addresses = _packed(client[0], is_ipv4) + _packed(destination[0], is_ipv4)
    ports = client[1].to_bytes(2, "big") + destination[1].to_bytes(2, "big")
    block = addresses + ports
    kind = (0x10 if is_ipv4 else 0x20) + (2 if datagram else 1)
    return _SIGNATURE + bytes([_PROXY, kind]) + len(block).to_bytes(2, "big") + block


def _more() -> ProxyHeader:
    return ProxyHeader(0, _NAMES_NOBODY, _NAMES_NOBODY)


def _malformed() -> ProxyHeader:
    return ProxyHeader(-1, _NAMES_NOBODY, _NAMES_NOBODY)


def _nobody(length: int) -> ProxyHeader:
    return ProxyHeader(length, _NAMES_NOBODY, _NAMES_NOBODY)


# Version 1: a line of text.


def _read_text(received: bytes) -> ProxyHeader:
    end = received.find(b"\r\n", 0, _MAX_TEXT_BYTES)
    is_whole = end >= 0
    line = received[:end] if is_whole else received[:_MAX_TEXT_BYTES]
    if not is_whole and len(received) >= _MAX_TEXT_BYTES:
        return _malformed()
    # What has no end yet is judged as far as it goes: a stranger need not be waited for.
    words = line.split(b" ")
    last = len(words) - 1
    if not _may_be(words[0], b"PROXY", is_whole or last > 0):
        return _malformed()
    if last == 0:
        return _malformed() if is_whole else _more()
    if _may_be(words[1], b"UNKNOWN", is_whole or last > 1) or line == b"PROXY UNKNOWN\r":
        return _nobody(end + 2) if is_whole else _more()  # what follows it up to the end of the line is to be ignored
    if not is_whole and line.endswith(b"\r"):
        return _read_addresses(line[:-1].split(b" "), True, 0)
    return _read_addresses(words, is_whole, end + 2 if is_whole else 0)


def _may_be(word: bytes, wanted: bytes, is_whole: bool) -> bool:
    """Return whether a word is the wanted one, or can become it."""
    return word == wanted if is_whole else wanted.startswith(word)


def _read_addresses(words: list[bytes], is_whole: bool, length: int) -> ProxyHeader:
    """Read `PROXY TCP4 client destination port port`; the last word may be the beginning of one unless `is_whole`.
    `length` 0: the line's end is not there yet."""
    last = len(words) - 1
    transport = words[1]
    if last == 1 and not is_whole:
        return _more() if b"TCP4".startswith(transport) or b"TCP6".startswith(transport) else _malformed()
    if (transport != b"TCP4" and transport != b"TCP6") or last > 5 or (is_whole and last != 5):
        return _malformed()
    family = _IPV4 if transport == b"TCP4" else _IPV6
    addresses: list[str] = []
    ports: list[int] = []
    for place in range(2, last + 1):
        word = words[place]
        if place == last and not is_whole:
            if not (_begins_address(word, family) if place < 4 else _begins_port(word)):
                return _malformed()
        elif place < 4:
            address = _read_address(word, family)
            if not address:
                return _malformed()
            addresses.append(address)
        else:
            if not word or not _begins_port(word):
                return _malformed()
            ports.append(int(word))
    if length == 0:
        return _more()
    return ProxyHeader(length, (addresses[0], ports[0]), (addresses[1], ports[1]))


def _begins_address(word: bytes, family: int) -> bool:
    if family == _IPV4:
        return len(word) <= 15 and all(byte == 0x2E or 0x30 <= byte <= 0x39 for byte in word)
    return len(word) <= 45 and all(
        byte == 0x2E or 0x30 <= byte <= 0x3A or 0x41 <= byte <= 0x46 or 0x61 <= byte <= 0x66 for byte in word
    )


def _begins_port(word: bytes) -> bool:
    """Return whether a word is, or begins, a number of at most 65535 without a leading zero."""
    if len(word) > 5 or (len(word) > 1 and word[0] == 0x30):
        return False
    return all(0x30 <= byte <= 0x39 for byte in word) and (not word or int(word) <= 65535)


def _read_address(word: bytes, family: int) -> str:
    """Return an address, or "" if it is none."""
    if not _begins_address(word, family):
        return ""
    try:
        packed: bytes = _socket.inet_pton(family, word.decode())
    except OSError:
        return ""
    return _name(packed)


# Version 2: binary.


def _read_binary(received: bytes) -> ProxyHeader:
    signature = received[: len(_SIGNATURE)]
    if not _SIGNATURE.startswith(signature):
        return _malformed()
    count = len(received)
    if count < 13:
        return _more()
    command: int = received[12]
    if command != _PROXY and command != _LOCAL:
        return _malformed()
    if count < 14:
        return _more()
    address_bytes = 0
    kind: int = received[13]
    if command == _PROXY:
        address_bytes = _ADDRESS_BYTES.get(kind, -1)
        if address_bytes < 0:
            return _malformed()
    if count < _FIXED_BYTES:
        return _malformed() if count == 15 and received[14] << 8 > MAX_HEADER_BYTES - _FIXED_BYTES else _more()
    rest: int = received[14] << 8 | received[15]
    length = _FIXED_BYTES + rest
    if length > MAX_HEADER_BYTES or rest < address_bytes:
        return _malformed()
    if count < length:
        return _more()
    if command == _LOCAL or (kind != 0x11 and kind != 0x21):
        return _nobody(length)
    if not _additions_hold(received[:length], _FIXED_BYTES + address_bytes):
        return _malformed()
    half = (address_bytes - 4) // 2
    second = _FIXED_BYTES + half
    ports = second + half
    client = _name(received[_FIXED_BYTES:second])
    destination = _name(received[second:ports])
    return ProxyHeader(
        length,
        (client, int.from_bytes(received[ports : ports + 2], "big")),
        (destination, int.from_bytes(received[ports + 2 : ports + 4], "big")),
    )


def _additions_hold(header: bytes, start: int) -> bool:
    """Return whether the TLVs end where the header does, and a checksum among them is right."""
    place = start
    end = len(header)
    while place < end:
        if place + 3 > end:
            return False
        size: int = header[place + 1] << 8 | header[place + 2]
        value = place + 3
        if value + size > end:
            return False
        if header[place] == _TLV_CRC32C:
            if size != 4:
                return False
            blanked = header[:value] + b"\0\0\0\0" + header[value + 4 :]
            if crc32c(blanked) != int.from_bytes(header[value : value + 4], "big"):
                return False
        place = value + size
    return True


def _crc_table() -> list[int]:
    table: list[int] = []
    for byte in range(256):
        rest = byte
        for _ in range(8):
            rest = rest >> 1 ^ 0x82F63B78 if rest & 1 else rest >> 1
        table.append(rest)
    return table


_CRC_TABLE: Final[list[int]] = _crc_table()


def crc32c(content: bytes) -> int:
    """Return the checksum of RFC 4960, appendix B (Castagnoli's polynomial, reflected)."""
    table = _CRC_TABLE
    rest = 0xFFFFFFFF
    for byte in content:
        rest = rest >> 8 ^ table[(rest ^ byte) & 0xFF]
    return rest ^ 0xFFFFFFFF


# Addresses.


def _name(packed: bytes) -> str:
    if len(packed) == 16 and packed.startswith(_MAPPED):
        packed = packed[12:]
    name: str = _socket.inet_ntop(_IPV4 if len(packed) == 4 else _IPV6, packed)
    return name


def _packed(address: str, is_ipv4: bool) -> bytes:
    packed: bytes
    if ":" not in address:
        packed = _socket.inet_pton(_IPV4, address)
        return packed if is_ipv4 else _MAPPED + packed
    packed = _socket.inet_pton(_IPV6, address.partition("%")[0])
    return packed


def _text(address: str, is_ipv4: bool) -> str:
    """The grammar of version 1 has no scope and no dotted part: IPv4 in IPv6 form is written in hexadecimal."""
    if is_ipv4:
        return address
    packed = _packed(address, False)
    if packed.startswith(_MAPPED):
        return f"::ffff:{packed[12] << 8 | packed[13]:x}:{packed[14] << 8 | packed[15]:x}"
    name: str = _socket.inet_ntop(_IPV6, packed)
    return name
