"""Sends and hears Ethernet frames on one interface."""

from __future__ import annotations

import ctypes
import errno
import ipaddress
import socket
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial

import structlog

from lbd.announce.frames import (
    ETHERTYPE_ARP,
    ETHERTYPE_IPV6,
    NEIGHBOUR_ADVERTISEMENT,
    NEIGHBOUR_SOLICITATION,
    solicited_node_group,
)
from lbd.announce.inventory import Link
from lbd.announce.poller import Poller

log = structlog.get_logger(__name__)

_SO_ATTACH_FILTER = 26
_FRAME_BYTES = 2048
"""More than any ARP or neighbour discovery packet has; a longer one is cut, and then not understood."""
_READS_PER_WAKE = 64
_BUSY = (errno.EAGAIN, errno.ENOBUFS)

_LOAD_BYTE, _JUMP_IF_EQUAL, _RETURN = 0x30, 0x15, 0x06
_NEIGHBOUR_DISCOVERY_ONLY = (
    # Classic BPF, (code, jump if true, jump if false, operand): without it every IPv6 packet of a busy interface would
    # wake the loop. Offsets: next header at 14 + 6, ICMPv6 type at 14 + 40.
    (_LOAD_BYTE, 0, 0, 20),
    (_JUMP_IF_EQUAL, 0, 4, socket.IPPROTO_ICMPV6),
    (_LOAD_BYTE, 0, 0, 54),
    (_JUMP_IF_EQUAL, 1, 0, NEIGHBOUR_SOLICITATION),
    (_JUMP_IF_EQUAL, 0, 1, NEIGHBOUR_ADVERTISEMENT),
    (_RETURN, 0, 0, _FRAME_BYTES),
    (_RETURN, 0, 0, 0),
)


class PacketLink:
    """Two AF_PACKET sockets on one interface, for ARP and for IPv6 neighbour discovery.

    `on_frame` is called in the loop with each frame heard. Needs CAP_NET_RAW.
    """

    def __init__(self, on_frame: Callable[[bytes], None]) -> None:
        self._on_frame = on_frame
        self._poller = Poller()
        self._sockets: dict[int, socket.socket] = {}
        self._index: int | None = None

    def open(self, link: Link) -> None:
        """Open the sockets on `link`; does nothing if they are open on it (same index) already.

        Raises:
            OSError: no CAP_NET_RAW, or the interface is gone.
        """
        if self._index == link.index:
            return
        self.close()
        try:
            for ethertype in (ETHERTYPE_ARP, ETHERTYPE_IPV6):
                packet = _packet_socket(link.name, ethertype)
                self._sockets[ethertype] = packet
                self._poller.add(packet, partial(self._read, packet))
        except BaseException:
            self.close()
            raise
        self._index = link.index

    def close(self) -> None:
        """Close the sockets; does nothing twice."""
        self._poller.close()
        for packet in self._sockets.values():
            packet.close()
        self._sockets.clear()
        self._index = None

    def send(self, frame: bytes) -> bool:
        """Send a whole frame; False if the kernel's queue is full just now.

        Raises:
            OSError: the link is down (ENETDOWN) or gone (ENXIO, ENODEV), or `open` has not succeeded (ENOTCONN).
        """
        packet = self._sockets.get(int.from_bytes(frame[12:14], "big"))
        if packet is None:
            raise OSError(errno.ENOTCONN, "no packet socket is open on the interface")
        try:
            packet.send(frame)
        except OSError as error:
            if error.errno in _BUSY:
                return False
            raise
        return True

    @contextmanager
    def listening_for(self, vip: str) -> Iterator[None]:
        """Be a member of the group where others ask about an IPv6 `vip`, as RFC 4862 §5.4.2 demands while probing.

        Without it the NIC, and a switch with MLD snooping, would not give us another node's solicitation.

        Raises:
            OSError: no socket could be had, or IPv6 is not available on the interface.
        """
        if ":" not in vip:
            yield
            return
        group = ipaddress.IPv6Address(solicited_node_group(vip)).packed
        with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as member:
            request = struct.pack("=16sI", group, self._index or 0)
            member.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, request)
            yield

    def _read(self, packet: socket.socket) -> None:
        for _ in range(_READS_PER_WAKE):
            if packet.fileno() < 0:
                return
            try:
                frame = packet.recv(_FRAME_BYTES)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                # ENETDOWN, once, when the link goes down or is deleted; the socket works again when it is up.
                log.debug("packet_socket_error", reason=error.strerror)
                return
            self._on_frame(frame)


def _packet_socket(interface: str, ethertype: int) -> socket.socket:
    """Return a socket bound to `interface`. It is made without a protocol so that nothing arrives before the filter."""
    packet = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, 0)
    try:
        if ethertype == ETHERTYPE_IPV6:
            _attach_filter(packet)
        packet.bind((interface, ethertype))
    except BaseException:
        packet.close()
        raise
    return packet


def _attach_filter(packet: socket.socket) -> None:
    """Attach the classic BPF program; struct sock_fprog holds a pointer, hence ctypes. The kernel copies it."""
    program = b"".join(struct.pack("=HBBI", *instruction) for instruction in _NEIGHBOUR_DISCOVERY_ONLY)
    memory = ctypes.create_string_buffer(program, len(program))
    fprog = struct.pack("@HP", len(_NEIGHBOUR_DISCOVERY_ONLY), ctypes.addressof(memory))
    packet.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, fprog)
