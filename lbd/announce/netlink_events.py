"""Reads the messages of rtnetlink's multicast groups. Pure: bytes in, values out.

Only what an event says at a glance is read (which kind, which link, its flags): an event is a reason to look at the
whole inventory again, not a source of truth, so that a lost one costs nothing but time.
"""

from __future__ import annotations

import struct
from dataclasses import dataclass

RTM_NEWLINK, RTM_DELLINK = 16, 17
RTM_NEWADDR, RTM_DELADDR = 20, 21
IFF_UP = 0x1
IFF_LOOPBACK = 0x8
IFF_RUNNING = 0x40
IFF_NOARP = 0x80

_HEADER = struct.Struct("=IHHII")
_IFINFOMSG = struct.Struct("=BxHiII")
_IFADDRMSG = struct.Struct("=BBBBI")


@dataclass(frozen=True, slots=True)
class LinkEvent:
    """A link changed; `running` is its state after that (False for a deleted one)."""

    index: int
    running: bool


@dataclass(frozen=True, slots=True)
class AddressEvent:
    """An address was added to or removed from a link."""

    index: int


def is_running(flags: int) -> bool:
    """Tell whether a link with these flags is up and can carry frames (carrier, and not dormant)."""
    return flags & (IFF_UP | IFF_RUNNING) == IFF_UP | IFF_RUNNING


def parse_events(datagram: bytes) -> tuple[LinkEvent | AddressEvent, ...]:
    """Return the link and address events of one datagram; a message that is cut short ends the reading."""
    events: list[LinkEvent | AddressEvent] = []
    offset = 0
    while offset + _HEADER.size <= len(datagram):
        length, kind, _, _, _ = _HEADER.unpack_from(datagram, offset)
        body = offset + _HEADER.size
        if length < _HEADER.size or offset + length > len(datagram):
            break
        body_bytes = length - _HEADER.size
        if kind in (RTM_NEWLINK, RTM_DELLINK) and body_bytes >= _IFINFOMSG.size:
            _, _, index, flags, _ = _IFINFOMSG.unpack_from(datagram, body)
            events.append(LinkEvent(index, kind == RTM_NEWLINK and is_running(flags)))
        elif kind in (RTM_NEWADDR, RTM_DELADDR) and body_bytes >= _IFADDRMSG.size:
            events.append(AddressEvent(_IFADDRMSG.unpack_from(datagram, body)[4]))
        offset += (length + 3) & ~3
    return tuple(events)
