"""What the kernel still delivers for connections that the relay has closed.

close(2) returns at once, and the last megabytes of an answer may wait in the socket for a slow client. Without its
address the kernel no longer hears the client's acknowledgements, so a VIP must not go before they have come.
"""

from __future__ import annotations

import os
import socket
import struct
import sys

from lbd.model.address import Endpoint

_NETLINK_SOCK_DIAG = 4
_SOCK_DIAG_BY_FAMILY = 20  # linux/sock_diag.h
_NLM_F_REQUEST_DUMP = 0x301
_NLMSG_ERROR, _NLMSG_DONE = 2, 3
_FIN_WAIT1, _LAST_ACK, _CLOSING = 4, 9, 11  # net/tcp_states.h: closed here, and the FIN at the end not acknowledged
_STATES = 1 << _FIN_WAIT1 | 1 << _LAST_ACK | 1 << _CLOSING
_HEADER = struct.Struct("=IHHII")  # struct nlmsghdr
_REQUEST = struct.Struct("=BBBxI48x")  # struct inet_diag_req_v2: any socket in these states
_LOCAL = struct.Struct("!4xH2x16s")
"""The local end in struct inet_diag_msg; IPv4 uses the first four bytes of the address."""
_READ_BYTES = 1 << 16


def undelivered() -> frozenset[Endpoint]:
    """Return the local ends of closed connections whose bytes, or whose FIN, the other end has not acknowledged.

    Raises:
        OSError: the kernel can't say (it has no inet_diag).
    """
    return _local_ends(socket.AF_INET, 4) | _local_ends(socket.AF_INET6, 16)


def _local_ends(family: socket.AddressFamily, address_bytes: int) -> frozenset[Endpoint]:
    request = _REQUEST.pack(family, socket.IPPROTO_TCP, 0, _STATES)
    found: set[tuple[bytes, int]] = set()
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, _NETLINK_SOCK_DIAG) as diag:
        diag.send(_HEADER.pack(_HEADER.size + len(request), _SOCK_DIAG_BY_FAMILY, _NLM_F_REQUEST_DUMP, 1, 0) + request)
        while True:
            answer = diag.recv(_READ_BYTES)
            while answer:
                length, kind, *_ = _HEADER.unpack_from(answer)
                body = answer[_HEADER.size : length]
                if kind == _NLMSG_DONE:
                    return frozenset(Endpoint(socket.inet_ntop(family, address), port) for address, port in found)
                if kind == _NLMSG_ERROR:
                    number = -int.from_bytes(body[:4], sys.byteorder, signed=True)
                    raise OSError(number, f"can't ask for closing connections: {os.strerror(number)}")
                port, address = _LOCAL.unpack_from(body)
                found.add((address[:address_bytes], port))
                answer = answer[(length + 3) & ~3 :]
