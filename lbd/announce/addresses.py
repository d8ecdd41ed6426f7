"""Reads, adds and removes addresses through netlink.

Measured: 0.5 ms an address added, 30 ms for a dump of 400.
"""

from __future__ import annotations

import errno
import ipaddress
import pathlib
import time
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any, TypeVar

import structlog
from pyroute2.netlink import NLM_F_DUMP_INTR
from pyroute2.netlink.exceptions import NetlinkError
from pyroute2.netlink.rtnl.ifaddrmsg import IFA_F_NODAD

from lbd.announce.inventory import (
    ADDRESS_PROTOCOL,
    InterfaceAddress,
    Inventory,
    Link,
    host_prefix_length,
)
from lbd.announce.journal import Journal
from lbd.announce.netlink_events import IFF_LOOPBACK, IFF_NOARP, is_running
from lbd.announce.netlink_thread import NetlinkThread

log = structlog.get_logger(__name__)

_T = TypeVar("_T")
_ARPHRD_ETHER = 1
_FOREVER = 0xFFFF_FFFF
_DUMP_TRIES = 5
_GONE = (errno.EADDRNOTAVAIL, errno.ENODEV)

Choose = Callable[[Inventory], tuple[InterfaceAddress, ...]]


class AddressTable(NetlinkThread):
    """The addresses of this network namespace, and which of them are ours.

    `protocol` is the tag; a test passes 0, which no kernel keeps, to get the behaviour of one before 5.18.
    """

    def __init__(self, state_directory: pathlib.Path, protocol: int = ADDRESS_PROTOCOL) -> None:
        super().__init__("lbd-netlink")
        self._protocol = protocol
        self._journal = Journal(state_directory)
        self._journal_error = ""
        self._tags_are_kept: bool | None = None
        self._shared: tuple[float, Inventory] | None = None

    async def inventory(self, max_age_s: float = 0.0) -> Inventory:
        """Return links and addresses from a dump that was begun after this call, or at most `max_age_s` before it.

        Callers that wait at the same time share one: 200 claims at once would otherwise make 200. What was added and
        removed here since a dump is in it.

        Raises:
            AddressError: the kernel refused.
            OSError: no netlink socket could be had.
        """
        return await self._in_thread(partial(self._dump, time.monotonic() - max_age_s))

    async def add(self, index: int, vip: str) -> bool:
        """Add `vip` as a host address with our tag; False if somebody's is there already, which stays untouched.

        IPv6 without duplicate address detection (the caller has probed) and with preferred lifetime 0, or RFC 6724
        might choose it as the source toward the members.

        Raises:
            AddressError: the kernel refused.
        """
        return await self._in_thread(lambda: self._add(index, vip))

    async def remove_ours(self, choose: Choose) -> tuple[InterfaceAddress, ...]:
        """Remove what `choose` picks from a dump begun after this call, as far as it is ours, and return that.

        `choose` runs in the thread and must be pure. One that vanished meanwhile counts as removed.

        Raises:
            AddressError: the kernel refused one; the ones before it are gone.
        """
        return await self._in_thread(partial(self._remove_ours, choose, time.monotonic()))

    # What follows runs in the thread.

    def _forget_socket(self) -> None:
        self._shared = None
        super()._forget_socket()

    def _dump(self, asked_s: float) -> Inventory:
        if self._shared is not None and self._shared[0] >= asked_s:
            return self._shared[1]
        began_s = time.monotonic()
        links = tuple(_link(message) for message in self._whole_dump("get_links"))
        found = tuple(filter(None, map(_interface_address, self._whole_dump("get_addr"))))
        self._with_journal(partial(self._journal.confirm, found))
        inventory = Inventory(links, tuple(replace(entry, ours=self._is_ours(entry)) for entry in found))
        self._shared = (began_s, inventory)
        return inventory

    def _whole_dump(self, method: str) -> list[Any]:
        """Dump again if the kernel says that something changed meanwhile and entries may be missing.

        The last try is taken as it is: an address wrongly thought missing is added exclusively, which harms nothing.
        """
        messages: list[Any] = []
        for _ in range(_DUMP_TRIES):
            messages = list(getattr(self._route(), method)())
            if not any(message["header"]["flags"] & NLM_F_DUMP_INTR for message in messages):
                break
        return messages

    def _is_ours(self, entry: InterfaceAddress) -> bool:
        return entry.is_host and (entry.protocol == self._protocol or self._journal.owns(entry))

    def _add(self, index: int, vip: str) -> bool:
        ahead = not self._tags_are_kept
        if ahead:
            self._with_journal(partial(self._journal.note, index, vip))
        shared, self._shared = self._shared, None  # nobody may share a dump without this address
        attributes: dict[str, Any] = {
            "index": index,
            "address": vip,
            "prefixlen": host_prefix_length(vip),
            "IFA_PROTO": self._protocol,
        }
        if ":" in vip:
            attributes |= {
                "IFA_FLAGS": IFA_F_NODAD,
                "IFA_CACHEINFO": {"ifa_preferred": 0, "ifa_valid": _FOREVER},
            }
        try:
            self._route().addr("add", **attributes)  # NLM_F_CREATE | NLM_F_EXCL
        except NetlinkError as error:
            if ahead:
                self._with_journal(partial(self._journal.forget, index, vip))
            if error.code == errno.EEXIST:
                return False
            raise
        if ahead:
            self._learn_about_tags(index, vip)
        elif shared is not None:
            entry = InterfaceAddress(index, vip, host_prefix_length(vip), self._protocol, ours=True)
            self._shared = (shared[0], shared[1].with_entry(entry))
        return True

    def _learn_about_tags(self, index: int, vip: str) -> None:
        """After the first address look whether its tag comes back; from then on it is known."""
        if self._tags_are_kept is None:
            added = self._dump(time.monotonic()).find(index, vip)
            if not added:
                return
            self._tags_are_kept = any(entry.protocol == self._protocol for entry in added)
            if not self._tags_are_kept:
                log.warning(
                    "address_tags_not_kept", reason="kernel before 5.18", journal=str(self._journal.path),
                    journal_error=self._journal_error or None,
                )  # fmt: skip
        if self._tags_are_kept:
            self._with_journal(partial(self._journal.forget, index, vip))

    def _with_journal(self, action: Callable[[], None]) -> None:
        """Serving a VIP matters more than remembering it: a journal that can't be written is logged, once a reason.

        While it is not known whether the kernel keeps tags it may well not be needed, so that is not yet a warning.
        """
        try:
            action()
        except OSError as error:
            if str(error) != self._journal_error and self._tags_are_kept is False:
                log.warning("address_journal_failed", reason=str(error), consequence="orphans can't be swept")
            self._journal_error = str(error)

    def _remove_ours(self, choose: Choose, asked_s: float) -> tuple[InterfaceAddress, ...]:
        chosen = tuple(entry for entry in choose(self._dump(asked_s)) if entry.ours)
        for entry in chosen:
            try:
                self._route().addr("del", index=entry.index, address=entry.address, prefixlen=entry.prefix_length)
            except NetlinkError as error:
                if error.code not in _GONE:
                    raise
            if self._shared is not None:
                self._shared = (self._shared[0], self._shared[1].without(entry))
            self._with_journal(partial(self._journal.forget, entry.index, entry.address))
        return chosen


def _link(message: Any) -> Link:
    flags = int(message["flags"])
    mac = message.get_attr("IFLA_ADDRESS") or ""
    ethernet = message["ifi_type"] == _ARPHRD_ETHER and not flags & (IFF_NOARP | IFF_LOOPBACK)
    return Link(
        index=int(message["index"]),
        name=str(message.get_attr("IFLA_IFNAME")),
        mac=bytes.fromhex(mac.replace(":", "")),
        running=is_running(flags),
        resolves=ethernet,
    )


def _interface_address(message: Any) -> InterfaceAddress | None:
    # IFA_LOCAL is the address itself; on a point-to-point link IFA_ADDRESS is the peer's.
    address = message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS")
    if address is None:
        return None
    cacheinfo = message.get_attr("IFA_CACHEINFO")
    return InterfaceAddress(
        index=int(message["index"]),
        address=str(ipaddress.ip_address(address)),  # our canonical form, not inet_ntop's
        prefix_length=int(message["prefixlen"]),
        protocol=message.get_attr("IFA_PROTO"),
        created_cs=int(cacheinfo["cstamp"]) if cacheinfo else 0,
    )
