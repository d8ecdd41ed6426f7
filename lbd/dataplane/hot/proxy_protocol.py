"""The PROXY protocol, versions 1 and 2 (specification of HAProxy, 2020-03-05): headers made and read. Pure.

Hot module: compiled by mypyc, and must do the same when interpreted.
"""

from __future__ import annotations

from typing import Final

MAX_HEADER_BYTES: Final = 4096


class ProxyHeader:
    """What was read of the beginning of a connection. `length` is that of the header: 0 while more bytes are needed to
    tell, -1 when it is none or a malformed one. `client` is ("", 0) where the header names none (LOCAL, UNKNOWN):
    then the connection's own addresses hold. `destination` is where the client connected to."""

    __slots__ = ("client", "destination", "length")

    def __init__(self, length: int, client: tuple[str, int], destination: tuple[str, int]) -> None:
        self.length: int = length
        self.client: tuple[str, int] = client
        self.destination: tuple[str, int] = destination


def read_header(received: bytes) -> ProxyHeader:
    """Read a header at the beginning of at most MAX_HEADER_BYTES received bytes."""
    return ProxyHeader(-1, ("", 0), ("", 0))


def make_header(version: int, client: tuple[str, int], destination: tuple[str, int], *, datagram: bool) -> bytes:
    """Return the header that tells a member who the client is. Addresses of two families are both written as IPv6."""
    return b""
