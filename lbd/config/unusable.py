"""Which addresses no other machine can have, so that they can be neither VIP nor member."""

from __future__ import annotations

import ipaddress

from lbd.model.kubernetes import AddressRange

_IPV4_MAPPED = ipaddress.IPv6Network("::ffff:0:0/96")
_FIRST_OF_KIND = (
    *("0.0.0.0", "127.0.0.0", "169.254.0.0", "224.0.0.0", "255.255.255.255"),
    *("::", "::1", str(_IPV4_MAPPED.network_address), "fe80::", "ff00::"),
)
"""The first address of each block of unusable ones."""


def why_unusable(address: str, allow_loopback: bool) -> str | None:
    """Return why an address in canonical form can be neither VIP nor member, as `a loopback address`, or None.

    The kinds are those of RFC 6890 that no other machine can have: 240.0.0.0/4 is not among them, Pods do use it.
    """
    parsed = ipaddress.ip_address(address)
    if parsed.is_unspecified:
        return "the unspecified address"
    if parsed.is_loopback:
        return None if allow_loopback else "a loopback address"
    if parsed.is_link_local:
        return "a link-local address"
    if parsed.is_multicast:
        return "a multicast address"
    if address == "255.255.255.255":
        return "the broadcast address"
    if parsed in _IPV4_MAPPED:
        return "an IPv4 address in IPv6 form"
    return "an address of 0.0.0.0/8 (this network)" if address.startswith("0.") else None


def first_unusable(addresses: AddressRange, allow_loopback: bool) -> tuple[str, str] | None:
    """Return an address of a range that can't be a VIP, and why; None if all can. It costs the same for any size."""
    # A range that has some of a block begins in the block, or has the block's first address.
    for address in (addresses.first, *(one for one in _FIRST_OF_KIND if one in addresses)):
        reason = why_unusable(address, allow_loopback)
        if reason is not None:
            return address, reason
    return None
