"""What the kernel has: links and addresses as values, and the decisions about what is ours. Pure."""

from __future__ import annotations

from dataclasses import dataclass, replace

ADDRESS_PROTOCOL = 0x6C
"""The IFA_PROTO that marks an address as lbd's. 1-3 are the kernel's own (if_addr.h), the rest is free; systemd and
NetworkManager use none. It must never change: an old daemon's addresses would become nobody's."""


@dataclass(frozen=True, slots=True)
class Link:
    """A network interface. `running` says up and with carrier; `resolves` that neighbours are found by ARP or NDP."""

    index: int
    name: str
    mac: bytes
    running: bool
    resolves: bool


@dataclass(frozen=True, slots=True)
class InterfaceAddress:
    """An address on an interface, canonical text. `created_cs` is the kernel's creation stamp, 1/100 s since boot.

    `protocol` is IFA_PROTO, None where the kernel keeps none or the creator gave none. `ours` says that lbd added it.
    """

    index: int
    address: str
    prefix_length: int
    protocol: int | None = None
    created_cs: int = 0
    ours: bool = False

    @property
    def is_host(self) -> bool:
        """Tell whether it is a /32 or /128, as every address of lbd is."""
        return self.prefix_length == host_prefix_length(self.address)


@dataclass(frozen=True, slots=True)
class Inventory:
    """Links and addresses of this network namespace at one moment."""

    links: tuple[Link, ...] = ()
    addresses: tuple[InterfaceAddress, ...] = ()

    def link(self, name: str) -> Link | None:
        """Return the link that has this name now."""
        return next((link for link in self.links if link.name == name), None)

    def find(self, index: int, vip: str) -> tuple[InterfaceAddress, ...]:
        """Return the entries for `vip` on one link: more than one if it is there with several prefix lengths."""
        return tuple(entry for entry in self.addresses if entry.index == index and entry.address == vip)

    def with_entry(self, entry: InterfaceAddress) -> Inventory:
        """Return the inventory after one address was added."""
        return replace(self, addresses=(*self.addresses, entry))

    def without(self, entry: InterfaceAddress) -> Inventory:
        """Return the inventory after one address was removed."""
        return replace(self, addresses=tuple(other for other in self.addresses if other != entry))

    @property
    def macs(self) -> frozenset[bytes]:
        """Our own MACs: with two interfaces on one segment, the answer of the other one is not a foreign owner's."""
        return frozenset(link.mac for link in self.links)


def host_prefix_length(address: str) -> int:
    """Return 128 for an IPv6 address and 32 for an IPv4 one."""
    return 128 if ":" in address else 32


def orphans(inventory: Inventory, interface: str, wanted: frozenset[str]) -> tuple[InterfaceAddress, ...]:
    """Return our addresses that nobody wants, or that are wanted but sit on another interface than `interface`."""
    home = inventory.link(interface)
    home_index = home.index if home else None
    return tuple(
        entry
        for entry in inventory.addresses
        if entry.ours and (entry.address not in wanted or entry.index != home_index)
    )


def ours_among(inventory: Inventory, interface: str, vips: frozenset[str]) -> tuple[InterfaceAddress, ...]:
    """Return our addresses on `interface` that are among `vips`."""
    home = inventory.link(interface)
    return tuple(
        entry
        for entry in inventory.addresses
        if home and entry.index == home.index and entry.ours and entry.address in vips
    )
