"""Addresses and endpoints."""

from __future__ import annotations

import functools
import ipaddress
from dataclasses import dataclass
from typing import Self


def family_of(address: str) -> int:
    """Return 4 or 6.

    Raises:
        ValueError: `address` is not an IP address.
    """
    return ipaddress.ip_address(address).version


@functools.lru_cache(maxsize=65_536)
def _canonical(address: str) -> str:
    """Return an address in its canonical form. Members are made again with every change of their pool.

    Raises:
        ValueError: `address` is not an IP address.
    """
    return str(ipaddress.ip_address(address))


@dataclass(frozen=True, slots=True, order=True)
class Endpoint:
    """An IP address and a port where something listens; the address is in its canonical text form."""

    address: str
    port: int

    def __post_init__(self) -> None:
        canonical = _canonical(self.address)
        if canonical != self.address:
            object.__setattr__(self, "address", canonical)
        if not 0 < self.port < 65536:
            raise ValueError(f"{self.port} is not a port (1-65535)")

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `10.0.0.1:80` or `[2001:db8::1]:80`.

        Raises:
            ValueError: `text` is neither.
        """
        address, colon, port = text.rpartition(":")
        if not colon or not port.isdecimal():
            raise ValueError(f"{text!r} is not ADDRESS:PORT")
        if address.startswith("[") and address.endswith("]"):
            address = address[1:-1]
        return cls(address, int(port))

    @property
    def family(self) -> int:
        """4 or 6."""
        return 6 if ":" in self.address else 4

    def __str__(self) -> str:
        return f"[{self.address}]:{self.port}" if self.family == 6 else f"{self.address}:{self.port}"
