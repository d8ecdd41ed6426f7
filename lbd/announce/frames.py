"""The Ethernet frames of layer-2 address ownership, built and read as bytes. Pure; addresses are canonical text.

IPv4 speaks ARP (RFC 826, RFC 5227), IPv6 speaks neighbour discovery (RFC 4861, RFC 4862). The builders return whole
frames without padding (drivers pad to the minimum as they do for the kernel's own ARP). The parser is fed with
whatever comes from the wire: it returns None for everything that it does not fully understand and never raises.
"""

from __future__ import annotations

import ipaddress
import struct
from dataclasses import dataclass
from enum import StrEnum

MAC_BYTES = 6
BROADCAST_MAC = b"\xff" * MAC_BYTES
ETHERTYPE_ARP = 0x0806
ETHERTYPE_IPV6 = 0x86DD

NEIGHBOUR_SOLICITATION = 135
NEIGHBOUR_ADVERTISEMENT = 136

_NO_MAC = b"\x00" * MAC_BYTES
_ETHERNET = struct.Struct("!6s6sH")
_ARP = struct.Struct("!HHBBH6s4s6s4s")
_ARP_ETHERNET_IPV4 = (1, 0x0800, 6, 4)
"""Hardware type, protocol type and the lengths of their addresses: the only combination understood here."""
_ARP_REQUEST, _ARP_REPLY = 1, 2
_IPV6 = struct.Struct("!IHBB16s16s")
_IPV6_VERSION = 6 << 28
_ICMPV6 = 58
_HOP_LIMIT = 255
"""Neighbour discovery must carry it: a packet that crossed a router has less (RFC 4861 §7.1)."""
_ND = struct.Struct("!BBHI16s")
"""Type, code, checksum, flags (NA) or reserved (NS), target."""
_NA_OVERRIDE = 1 << 29
_OPTION_TARGET_MAC = 2
_ALL_NODES = ipaddress.IPv6Address("ff02::1")
_UNSPECIFIED = ipaddress.IPv6Address("::")
_SOLICITED_NODE_PREFIX = ipaddress.IPv6Address("ff02::1:ff00:0").packed[:13]


class Utterance(StrEnum):
    """What a neighbour said about an address."""

    OWNS = "owns"
    """It uses the address: any ARP packet with it as sender, any neighbour advertisement for it."""
    PROBES = "probes"
    """It is about to use the address and asks first: an ARP probe, a neighbour solicitation from `::`."""


@dataclass(frozen=True, slots=True)
class Heard:
    """One utterance of the station `mac` about `address` (canonical text)."""

    utterance: Utterance
    address: str
    mac: bytes


def mac_text(mac: bytes) -> str:
    """Return the usual notation, `02:00:00:00:00:01`."""
    return mac.hex(":")


def announcements(vip: str, mac: bytes) -> tuple[bytes, ...]:
    """Return the frames of one announcement of `vip` by `mac`.

    IPv4: a gratuitous ARP in both forms, because some stacks update their cache on one of them only. IPv6: one
    unsolicited neighbour advertisement.
    """
    address = ipaddress.ip_address(vip)
    if isinstance(address, ipaddress.IPv4Address):
        # RFC 5227 §3 is the request form; in the reply form the target's hardware address is that of the
        # cache entry (RFC 5944 §4.6).
        return (
            _arp(_ARP_REQUEST, mac, address.packed, _NO_MAC, address.packed),
            _arp(_ARP_REPLY, mac, address.packed, mac, address.packed),
        )
    return (_unsolicited_advertisement(address, mac),)


def probe(vip: str, mac: bytes) -> bytes:
    """Return the frame that asks whether somebody uses `vip`, and that changes nobody's cache.

    IPv4: an ARP probe, whose sender address is 0.0.0.0 (RFC 5227 §2.1.1). IPv6: a neighbour solicitation from `::` to
    the solicited-node group, without a source option, as for duplicate address detection (RFC 4862 §5.4.2).
    """
    address = ipaddress.ip_address(vip)
    if isinstance(address, ipaddress.IPv4Address):
        return _arp(_ARP_REQUEST, mac, bytes(4), _NO_MAC, address.packed)
    group = ipaddress.IPv6Address(solicited_node_group(vip))
    solicitation = _ND.pack(NEIGHBOUR_SOLICITATION, 0, 0, 0, address.packed)
    return _neighbour_discovery(mac, _UNSPECIFIED, group, solicitation)


def solicited_node_group(vip: str) -> str:
    """Return the multicast group where questions about the IPv6 address `vip` are asked (RFC 4291 §2.7.1)."""
    return str(ipaddress.IPv6Address(_SOLICITED_NODE_PREFIX + ipaddress.IPv6Address(vip).packed[13:]))


def icmpv6_checksum(source: bytes, destination: bytes, message: bytes) -> int:
    """Return the checksum of `message` between two packed addresses (RFC 4443 §2.3); 0 if it is there and right."""
    covered = source + destination + struct.pack("!II", len(message), _ICMPV6) + message + b"\x00" * (len(message) % 2)
    total: int = sum(struct.unpack(f"!{len(covered) // 2}H", covered))
    while total > 0xFFFF:
        total = (total & 0xFFFF) + (total >> 16)
    return total ^ 0xFFFF


def parse(frame: bytes) -> Heard | None:
    """Return what a frame says about an address, or None if it says nothing or is malformed; never raises."""
    if len(frame) < _ETHERNET.size:
        return None
    _, source_mac, ethertype = _ETHERNET.unpack_from(frame)
    if ethertype == ETHERTYPE_ARP:
        return _parse_arp(frame)
    if ethertype == ETHERTYPE_IPV6:
        return _parse_neighbour_discovery(frame, source_mac)
    return None


def _arp(operation: int, sender_mac: bytes, sender: bytes, target_mac: bytes, target: bytes) -> bytes:
    return _ETHERNET.pack(BROADCAST_MAC, sender_mac, ETHERTYPE_ARP) + _ARP.pack(
        *_ARP_ETHERNET_IPV4, operation, sender_mac, sender, target_mac, target
    )


def _unsolicited_advertisement(address: ipaddress.IPv6Address, mac: bytes) -> bytes:
    """RFC 4861 §7.2.6: to all nodes, not Solicited, with Override so that caches which hold another MAC change it."""
    message = _ND.pack(NEIGHBOUR_ADVERTISEMENT, 0, 0, _NA_OVERRIDE, address.packed)
    message += struct.pack("!BB6s", _OPTION_TARGET_MAC, 1, mac)
    return _neighbour_discovery(mac, address, _ALL_NODES, message)


def _neighbour_discovery(
    mac: bytes, source: ipaddress.IPv6Address, group: ipaddress.IPv6Address, message: bytes
) -> bytes:
    checksum = icmpv6_checksum(source.packed, group.packed, message)
    # Multicast over Ethernet: 33:33 and the last four bytes of the group (RFC 2464 §7).
    ethernet = _ETHERNET.pack(b"\x33\x33" + group.packed[12:], mac, ETHERTYPE_IPV6)
    ipv6 = _IPV6.pack(_IPV6_VERSION, len(message), _ICMPV6, _HOP_LIMIT, source.packed, group.packed)
    return ethernet + ipv6 + message[:2] + checksum.to_bytes(2, "big") + message[4:]


def _is_station(mac: bytes) -> bool:
    """Tell whether a MAC can belong to a station: neither a group address nor all zeros."""
    return not mac[0] & 1 and mac != _NO_MAC


def _parse_arp(frame: bytes) -> Heard | None:
    if len(frame) < _ETHERNET.size + _ARP.size:
        return None
    *kind, operation, sender_mac, sender, _, target = _ARP.unpack_from(frame, _ETHERNET.size)
    if tuple(kind) != _ARP_ETHERNET_IPV4 or operation not in (_ARP_REQUEST, _ARP_REPLY) or not _is_station(sender_mac):
        return None
    if sender != bytes(4):
        return Heard(Utterance.OWNS, str(ipaddress.IPv4Address(sender)), sender_mac)
    if operation == _ARP_REQUEST:
        return Heard(Utterance.PROBES, str(ipaddress.IPv4Address(target)), sender_mac)
    return None


def _parse_neighbour_discovery(frame: bytes, source_mac: bytes) -> Heard | None:
    start = _ETHERNET.size + _IPV6.size
    if len(frame) < start + _ND.size:
        return None
    version, payload_bytes, next_header, hop_limit, source, destination = _IPV6.unpack_from(frame, _ETHERNET.size)
    message = frame[start : start + payload_bytes]
    if (
        version >> 28 != 6
        or next_header != _ICMPV6
        or hop_limit != _HOP_LIMIT
        or not _ND.size <= payload_bytes == len(message)
        or icmpv6_checksum(source, destination, message) != 0
        or not _is_station(source_mac)
    ):
        return None
    kind, code, _, _, target = _ND.unpack_from(message)
    if code != 0 or target[0] == 0xFF:
        return None
    address = str(ipaddress.IPv6Address(target))
    if kind == NEIGHBOUR_SOLICITATION:
        return Heard(Utterance.PROBES, address, source_mac) if source == _UNSPECIFIED.packed else None
    if kind == NEIGHBOUR_ADVERTISEMENT:
        mac = _target_mac(message[_ND.size :], source_mac)
        return Heard(Utterance.OWNS, address, mac) if mac is not None else None
    return None


def _target_mac(options: bytes, otherwise: bytes) -> bytes | None:
    """Return the MAC in the target link-layer option, `otherwise` without that option, None if options are malformed.

    An option of length 0 makes the whole packet invalid (RFC 4861 §4.6), and would be an endless loop.
    """
    mac: bytes | None = otherwise
    while options:
        option_bytes = 8 * options[1] if len(options) >= 2 else 0
        if not 0 < option_bytes <= len(options):
            return None
        if options[0] == _OPTION_TARGET_MAC and option_bytes == 8:
            mac = options[2:8] if _is_station(options[2:8]) else None
        options = options[option_bytes:]
    return mac
