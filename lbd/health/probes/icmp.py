"""ICMP and ICMPv6 echo as bytes, and the kernel filters that let only answers to our own echoes wake us. Pure.

Sources: RFC 792, RFC 1071 (checksum), RFC 4443; linux/icmp.h, linux/icmpv6.h, linux/filter.h for the filters.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

HEADER = struct.Struct("!BBHHH")
"""Type, code, checksum, identifier, sequence number."""
_IPV4_HEADER_BYTES = 20
_IPV6_HEADER_BYTES = 40


@dataclass(frozen=True, slots=True, eq=False)
class Family:
    """The numbers of one of the two protocols."""

    version: int
    echo_request: int
    echo_reply: int
    errors: dict[int, str]
    """Error messages that mean "the echo did not arrive", by type."""
    unreachable: dict[int, str]
    """The codes of the first of them."""


IPV4 = Family(
    4,
    echo_request=8,
    echo_reply=0,
    errors={3: "destination unreachable", 11: "time exceeded on the way"},
    unreachable={0: "network", 1: "host", 2: "protocol", 9: "net prohibited", 10: "host prohibited", 13: "filtered"},
)
IPV6 = Family(
    6,
    echo_request=128,
    echo_reply=129,
    errors={1: "destination unreachable", 3: "time exceeded on the way"},
    unreachable={0: "no route", 1: "prohibited", 3: "address", 5: "source policy", 6: "route rejected"},
)


@dataclass(frozen=True, slots=True)
class EchoAnswer:
    """An answer to the echo with this sequence number: the reply with its payload, or the error that came instead, with
    the (packed) address that the quoted echo was for."""

    sequence: int
    payload: bytes = b""
    error: str = ""
    destination: bytes = b""


def checksum(packet: bytes) -> int:
    """Return the Internet checksum (RFC 1071); zero over a packet that contains a right one."""
    if len(packet) % 2:
        packet += b"\0"
    total: int = sum(struct.unpack(f"!{len(packet) // 2}H", packet))
    total = (total >> 16) + (total & 0xFFFF)
    return ~(total + (total >> 16)) & 0xFFFF


def echo_request(family: Family, identifier: int, sequence: int, payload: bytes) -> bytes:
    """Return an echo request. ICMPv6 leaves the checksum to the kernel: it covers the addresses."""
    packet = HEADER.pack(family.echo_request, 0, 0, identifier, sequence) + payload
    if family is IPV6:
        return packet
    return HEADER.pack(family.echo_request, 0, checksum(packet), identifier, sequence) + payload


def parse(family: Family, packet: bytes, identifier: int) -> EchoAnswer | None:
    """Read what a raw socket received (IPv4: with the IP header); None if it answers none of our echoes."""
    if family is IPV4:
        if len(packet) < _IPV4_HEADER_BYTES:
            return None
        packet = packet[(packet[0] & 0x0F) * 4 :]
        if checksum(packet) != 0:  # a raw socket gets the packet before the kernel has verified it
            return None
    if len(packet) < HEADER.size:
        return None
    kind, code, _, answered, sequence = HEADER.unpack_from(packet)
    if kind == family.echo_reply:
        return EchoAnswer(sequence, packet[HEADER.size :]) if answered == identifier else None
    if kind not in family.errors:
        return None
    quoted = _quoted_echo(family, packet[HEADER.size :])
    if quoted is None or quoted[0] != identifier:
        return None
    name = family.unreachable.get(code, f"code {code}") if kind == next(iter(family.errors)) else ""
    error = f"{family.errors[kind]}{': ' if name else ''}{name}"
    return EchoAnswer(quoted[1], error=error, destination=quoted[2])


def _quoted_echo(family: Family, quoted: bytes) -> tuple[int, int, bytes] | None:
    """Return identifier, sequence number and destination of the echo request that an error message quotes."""
    if len(quoted) < _IPV4_HEADER_BYTES:
        return None
    inner = quoted[(quoted[0] & 0x0F) * 4 :] if family is IPV4 else quoted[_IPV6_HEADER_BYTES:]
    if len(inner) < HEADER.size or inner[0] != family.echo_request:
        return None
    _, _, _, identifier, sequence = HEADER.unpack_from(inner)
    return identifier, sequence, quoted[16:20] if family is IPV4 else quoted[24:40]


def type_filter(family: Family) -> bytes:
    """Return the value of ICMP_FILTER or ICMP6_FILTER: only echo replies and the error messages pass.

    A set bit blocks its type; the kernel looks at it before it copies the packet.
    """
    passing = {family.echo_reply, *family.errors}
    words = 1 if family is IPV4 else 8
    blocked = [0xFFFFFFFF] * words
    for kind in passing:
        blocked[kind >> 5] &= ~(1 << (kind & 31)) & 0xFFFFFFFF
    return struct.pack(f"={words}I", *blocked)


_LDB, _LDH, _LDX_IP_HEADER, _JEQ, _RET = 0x50, 0x48, 0xB1, 0x15, 0x06
_PASS, _DROP = 0xFFFF, 0


def identifier_program(family: Family, identifier: int) -> list[tuple[int, int, int, int]]:
    """Return a classic BPF program that passes only replies to, and errors about, echoes with this identifier.

    Without it a flood of forged replies or errors to any of our addresses would fill the socket's queue and push out
    the true ones: all members would look down. Each instruction is (code, jump if true, jump if false, value).
    """
    if family is IPV4:  # the packet begins with the IP header: X holds its length
        start, first = [(_LDX_IP_HEADER, 0, 0, 0)], 0
        quoted = HEADER.size + _IPV4_HEADER_BYTES
    else:
        start, first = [(0x01, 0, 0, 0)], 0  # ldx #0: the packet begins with the ICMPv6 header
        quoted = HEADER.size + _IPV6_HEADER_BYTES
    one, other = family.errors
    return [
        *start,
        (_LDB, 0, 0, first),
        (_JEQ, 4, 0, family.echo_reply),
        (_JEQ, 1, 0, one),
        (_JEQ, 0, 5, other),
        (_LDH, 0, 0, quoted + 4),
        (_JEQ, 2, 3, identifier),
        (_LDH, 0, 0, 4),
        (_JEQ, 0, 1, identifier),
        (_RET, 0, 0, _PASS),
        (_RET, 0, 0, _DROP),
    ]


def packed_program(program: list[tuple[int, int, int, int]]) -> bytes:
    """Return a program as an array of `struct sock_filter`."""
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in program)
