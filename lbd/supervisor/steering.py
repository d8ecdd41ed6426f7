"""Which listening socket of a service a client's connections go to: always the same one, where that matters.

Persistence and limits per client need a client to meet the same state every time. So its address decides which socket
of the service's SO_REUSEPORT group gets it, by a classic BPF program that the kernel runs for each new connection or
datagram (SO_ATTACH_REUSEPORT_CBPF, socket(7); it needs no capability). What a socket's clients share is its lane.

The program answers with a place in the kernel's array of the group. Sockets stand there in the order in which they
began to listen (UDP: were bound); one that stops leaves its place to the last one (`reuseport_detach_sock` of the
kernel). `Group` keeps that order, so that a lane stays with its socket whoever else comes and goes.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass

from lbd.model.desired import VirtualService

Instruction = tuple[int, int, int, int]
"""code, jump if true, jump if false, constant: `struct sock_filter` of <linux/filter.h>."""

_LOAD_WORD = 0x20
_LOAD_CONSTANT = 0x00
_AND = 0x54
_MULTIPLY = 0x24
_SHIFT_RIGHT = 0x74
_MODULO = 0x94
_XOR_X = 0xAC
_TO_X = 0x07
_JUMP_IF_EQUAL = 0x15
_RETURN = 0x06
_RETURN_A = 0x16

_NETWORK_HEADER = 0xFFF00000
"""SKF_NET_OFF: offsets from here are into the IP header, whatever transport the program runs for."""
_SOURCE_OFFSET = {4: 12, 6: 8}
"""Where the source address lies in an IPv4 (RFC 791) and an IPv6 header (RFC 8200)."""
_ADDRESS_BITS = {4: 32, 6: 128}


@dataclass(frozen=True, slots=True)
class Steering:
    """Which of a client's bits decide about its lane; `lane_of_all` has a value where one lane must get everybody."""

    family: int
    prefix: int
    lane_of_all: int | None = None


def steering_of(service: VirtualService, lanes: int) -> Steering | None:
    """Return how the clients of a service go to its `lanes` sockets; None where it does not matter.

    Behind proxies that name the real client (`accept_proxy_protocol`) the kernel does not see who that is: then one
    lane gets everybody, and one worker serves the whole service. Which one depends on the service's name.
    """
    persistence = service.pool.persistence
    limits = service.limits
    if persistence is None and not limits.max_connections_per_client and not limits.connection_rate_per_client:
        return None
    if service.accept_proxy_protocol:
        return Steering(service.family, 0, zlib.crc32(service.name.encode()) % lanes)
    prefix = _ADDRESS_BITS[service.family]
    if persistence is not None:  # clients of one prefix share an entry; a client's own limits fit into the same lane
        prefix = persistence.ipv4_prefix if service.family == 4 else persistence.ipv6_prefix
    return Steering(service.family, prefix)


def program(steering: Steering, places: Sequence[int], seed: int) -> list[Instruction]:
    """Return the program that answers with `places[lane]`; the lane follows from the client's address and `seed`."""
    if steering.lane_of_all is not None:
        return [(_RETURN, 0, 0, places[steering.lane_of_all])]
    instructions = [(_LOAD_CONSTANT, 0, 0, seed & 0xFFFFFFFF)]
    for word, mask in enumerate(_masks(steering)):
        instructions.append((_TO_X, 0, 0, 0))
        instructions.append((_LOAD_WORD, 0, 0, _NETWORK_HEADER + _SOURCE_OFFSET[steering.family] + 4 * word))
        if mask != 0xFFFFFFFF:
            instructions.append((_AND, 0, 0, mask))
        instructions.append((_XOR_X, 0, 0, 0))
        instructions += _mixed()
    instructions.append((_MODULO, 0, 0, len(places)))
    for lane, place in enumerate(places):
        if lane != place:
            instructions += [(_JUMP_IF_EQUAL, 0, 1, lane), (_RETURN, 0, 0, place)]
    return [*instructions, (_RETURN_A, 0, 0, 0)]


def _masks(steering: Steering) -> list[int]:
    """The mask of each 32-bit word of the address that has a bit of the prefix."""
    mask = (1 << steering.prefix) - 1 << 128 - steering.prefix
    return [mask >> 96 - 32 * word & 0xFFFFFFFF for word in range((steering.prefix + 31) // 32)]


def _mixed() -> list[Instruction]:
    """Spread every bit of A over all of A: the finalizer of MurmurHash3 (Appleby, 2011)."""
    mixed: list[Instruction] = []
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 0)):
        mixed += [(_TO_X, 0, 0, 0), (_SHIFT_RIGHT, 0, 0, shift), (_XOR_X, 0, 0, 0)]
        if factor:
            mixed.append((_MULTIPLY, 0, 0, factor))
    return mixed


def assemble(instructions: Sequence[Instruction]) -> bytes:
    """Return the program as the kernel reads it."""
    return b"".join(struct.pack("=HBBI", *instruction) for instruction in instructions)


class Group:
    """The sockets of one SO_REUSEPORT group, by their identities, in the kernel's order."""

    def __init__(self) -> None:
        self._order: list[int] = []

    def joined(self, identity: int) -> None:
        """A socket began to listen (UDP: was bound)."""
        self._order.append(identity)

    def left(self, identity: int) -> None:
        """A socket stopped, or was closed by its last holder: the last one takes its place."""
        place = self._order.index(identity)
        self._order[place] = self._order[-1]
        del self._order[-1]

    def places(self, identities: Sequence[int]) -> list[int] | None:
        """Return where these sockets stand; None unless all of them are in."""
        if any(identity not in self._order for identity in identities):
            return None
        return [self._order.index(identity) for identity in identities]
