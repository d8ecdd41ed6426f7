"""Sets of networks, and whether an address is in one of them.

Hot module: compiled by mypyc, and must do the same when interpreted.
"""

from __future__ import annotations

import _socket
from bisect import bisect_right
from ipaddress import IPv4Network, collapse_addresses, ip_network


class Networks:
    """The networks that `cidrs` names, of either family. An IPv4 address in IPv6 form (::ffff:0:0/96) is taken as IPv4.

    Addresses are compared as their packed bytes, in sorted disjoint ranges: a look-up costs one bisection.
    """

    __slots__ = ("_firsts4", "_firsts6", "_lasts4", "_lasts6")

    def __init__(self, cidrs: list[str]) -> None:
        parsed = [ip_network(cidr) for cidr in cidrs]
        four = sorted(collapse_addresses([net for net in parsed if isinstance(net, IPv4Network)]))
        six = sorted(collapse_addresses([net for net in parsed if not isinstance(net, IPv4Network)]))
        self._firsts4: list[bytes] = [net.network_address.packed for net in four]
        self._lasts4: list[bytes] = [net.broadcast_address.packed for net in four]
        self._firsts6: list[bytes] = [net.network_address.packed for net in six]
        self._lasts6: list[bytes] = [net.broadcast_address.packed for net in six]

    def contains(self, address: str) -> bool:
        """Return whether an address, in any text form without a scope, is in one of the networks."""
        if ":" not in address:
            packed: bytes = _socket.inet_pton(2, address)
            return _in_ranges(packed, self._firsts4, self._lasts4)
        packed = _socket.inet_pton(10, address.partition("%")[0])
        if packed.startswith(b"\0\0\0\0\0\0\0\0\0\0\xff\xff"):
            return _in_ranges(packed[12:], self._firsts4, self._lasts4)
        return _in_ranges(packed, self._firsts6, self._lasts6)


def _in_ranges(packed: bytes, firsts: list[bytes], lasts: list[bytes]) -> bool:
    place: int = bisect_right(firsts, packed)
    return place > 0 and packed <= lasts[place - 1]
