"""What is on the wire: an AF_PACKET capture in a namespace, and the few headers that lab tests look at."""

from __future__ import annotations

import ipaddress
import socket
import struct
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import Self, TypeVar

from lbd.cli.demo.namespace import Namespace

ETH_P_ALL = 0x0003  # linux/if_ether.h
ETH_P_ARP = 0x0806
ETH_P_IPV6 = 0x86DD
NEIGHBOR_SOLICITATION = 135  # RFC 4861
NEIGHBOR_ADVERTISEMENT = 136


@dataclass(frozen=True, slots=True)
class Arp:
    """An ARP packet (RFC 826). `operation` 1 is a request, 2 a reply."""

    at_s: float
    destination_mac: str
    source_mac: str
    operation: int
    sender_mac: str
    sender_ip: str
    target_mac: str
    target_ip: str

    @property
    def gratuitous(self) -> bool:
        """Whether it announces its sender's own address."""
        return self.sender_ip == self.target_ip

    @property
    def probe(self) -> bool:
        """Whether it asks for an address without claiming it (RFC 5227)."""
        return self.operation == 1 and self.sender_ip == "0.0.0.0"


@dataclass(frozen=True, slots=True)
class Neighbor:
    """A neighbour solicitation or advertisement (RFC 4861). `option_mac` is its link-layer address option."""

    at_s: float
    destination_mac: str
    source_mac: str
    source_ip: str
    destination_ip: str
    hop_limit: int
    type: int
    override: bool
    solicited: bool
    target_ip: str
    option_mac: str | None


Packet = Arp | Neighbor
T = TypeVar("T", Arp, Neighbor)


def _mac(raw: bytes) -> str:
    return raw.hex(":")


def parse(frame: bytes, at_s: float) -> Packet | None:
    """Return the frame as an Arp or a Neighbor, or None if it is neither."""
    if len(frame) < 42:
        return None
    kind = struct.unpack_from("!H", frame, 12)[0]
    if kind == ETH_P_ARP:
        return Arp(
            at_s,
            _mac(frame[0:6]),
            _mac(frame[6:12]),
            struct.unpack_from("!H", frame, 20)[0],
            _mac(frame[22:28]),
            socket.inet_ntoa(frame[28:32]),
            _mac(frame[32:38]),
            socket.inet_ntoa(frame[38:42]),
        )
    if kind == ETH_P_IPV6 and frame[20] == socket.IPPROTO_ICMPV6 and len(frame) >= 78:
        return _neighbor(frame, at_s)
    return None


def _neighbor(frame: bytes, at_s: float) -> Neighbor | None:
    if frame[54] not in (NEIGHBOR_SOLICITATION, NEIGHBOR_ADVERTISEMENT):
        return None
    return Neighbor(
        at_s,
        _mac(frame[0:6]),
        _mac(frame[6:12]),
        str(ipaddress.IPv6Address(frame[22:38])),
        str(ipaddress.IPv6Address(frame[38:54])),
        frame[21],
        frame[54],
        bool(frame[58] & 0x20),
        bool(frame[58] & 0x40),
        str(ipaddress.IPv6Address(frame[62:78])),
        _mac(frame[80:86]) if len(frame) >= 86 and frame[78] in (1, 2) else None,
    )


class Capture:
    """Every frame that an interface sends or receives, from entry to exit of the `with` block."""

    def __init__(self, namespace: Namespace, interface: str) -> None:
        self.frames: list[tuple[float, bytes]] = []
        self.packets: list[Packet] = []
        self._namespace = namespace
        self._interface = interface
        self._changed = threading.Condition()
        self._socket: socket.socket | None = None
        self._thread = threading.Thread(target=self._read, daemon=True, name=f"capture-{interface}")
        self._stopping = False

    def __enter__(self) -> Self:
        self._socket = self._namespace.call(socket.socket, socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 8 << 20)
        self._socket.bind((self._interface, ETH_P_ALL))
        self._socket.settimeout(0.05)
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping = True
        self._thread.join()
        if self._socket is not None:
            self._socket.close()

    def _read(self) -> None:
        assert self._socket is not None
        while not self._stopping:
            try:
                frame = self._socket.recv(65536)
            except TimeoutError:
                continue
            except OSError:
                continue  # ENETDOWN: the link went down; it comes up again or the block ends
            at_s = time.monotonic()
            packet = parse(frame, at_s)
            with self._changed:
                self.frames.append((at_s, frame))
                if packet is not None:
                    self.packets.append(packet)
                self._changed.notify_all()

    def seen(self, kind: type[T], predicate: Callable[[T], bool] = lambda packet: True) -> list[T]:
        """Return the packets of a kind seen so far that fulfil `predicate`."""
        return [packet for packet in list(self.packets) if isinstance(packet, kind) and predicate(packet)]

    def wait_for(
        self,
        kind: type[T],
        predicate: Callable[[T], bool] = lambda packet: True,
        timeout_s: float = 5.0,
        count: int = 1,
    ) -> list[T]:
        """Wait till `count` packets fulfil `predicate` and return them all.

        Raises:
            AssertionError: fewer came within `timeout_s`; shows what did.
        """
        with self._changed:
            self._changed.wait_for(lambda: len(self.seen(kind, predicate)) >= count, timeout_s)
        found = self.seen(kind, predicate)
        assert len(found) >= count, f"{len(found)} of {count} within {timeout_s} s; seen: {self.packets}"
        return found
