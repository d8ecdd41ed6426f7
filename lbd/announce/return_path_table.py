"""Reads, adds and removes our policy rules and routes through netlink."""

from __future__ import annotations

import errno
import ipaddress
from collections.abc import Iterator
from functools import partial
from socket import AF_INET, AF_INET6
from typing import Any, TypeVar

from pyroute2.netlink.exceptions import NetlinkError

from lbd.announce.inventory import host_prefix_length
from lbd.announce.netlink_thread import AddressError, NetlinkThread
from lbd.announce.return_path import (
    DEFAULT,
    ROUTE_PROTOCOL,
    RULE_PRIORITY,
    TABLE,
    Change,
    Entry,
    Route,
    Rule,
    change,
    network_of,
    wanted,
)

_T = TypeVar("_T")
_FAMILIES = {4: AF_INET, 6: AF_INET6}
_RTN_UNICAST = 1
_SCOPE_LINK = 253
_GONE = (errno.ENOENT, errno.ESRCH, errno.ENODEV)
_NOT_THERE = (errno.ENOENT, errno.EOPNOTSUPP, errno.EAFNOSUPPORT)
"""A dump says so where the table is empty, or where the kernel was built without policy routing or the family."""


class ReturnPathTable(NetlinkThread):
    """The rules and routes of this network namespace that carry our protocol number. Others are never changed."""

    def __init__(self, interface: str) -> None:
        # Strict checking lets the kernel filter a dump by table: a router's main table may have a million routes.
        super().__init__("lbd-return-path", strict_check=True)
        self._interface = interface

    async def settle(self, family: int, vips: frozenset[str], gateway: str | None) -> Change:
        """Make ours what is wanted for the VIPs of one family; return what was changed.

        Raises:
            AddressError: the kernel refused, or there is no such interface.
            OSError: no netlink socket could be had.
        """
        return await self._in_thread(partial(self._settle, family, vips, gateway))

    async def rules(self, family: int) -> frozenset[str]:
        """Return the VIPs that have a rule of ours.

        Raises:
            AddressError: the kernel refused.
            OSError: no netlink socket could be had.
        """
        return await self._in_thread(lambda: frozenset(rule.vip for rule in self._present_rules(family)))

    # What follows runs in the thread.

    def _settle(self, family: int, vips: frozenset[str], gateway: str | None) -> Change:
        entries: tuple[Entry, ...] = ()
        if vips and gateway is not None:
            index = self._index()
            entries = wanted(vips, gateway, index, self._connected(family, index))
        todo = change(entries, (*self._present_routes(family), *self._present_rules(family)))
        for entry in todo.remove:
            self._do("del", family, entry)
        for entry in todo.add:
            self._do("add", family, entry)
        return todo

    def _index(self) -> int:
        found = self._route().link_lookup(ifname=self._interface)
        if not found:
            raise AddressError(f"there is no interface {self._interface}", errno.ENODEV)
        return int(found[0])

    def _connected(self, family: int, index: int) -> Iterator[str]:
        for message in self._route().get_addr(family=_FAMILIES[family], index=index):
            if message["family"] != _FAMILIES[family] or message["index"] != index:
                continue
            # On a point-to-point link IFA_ADDRESS is the peer, and the prefix length is of the peer's network.
            address = message.get_attr("IFA_ADDRESS") or message.get_attr("IFA_LOCAL")
            network = network_of(address, int(message["prefixlen"]))
            if network is not None:
                yield network

    def _present_rules(self, family: int) -> list[Rule]:
        return [
            Rule(_canonical(message.get_attr("FRA_SRC")))
            for message in self._dump("get_rules", family)
            if message.get_attr("FRA_PROTOCOL") == ROUTE_PROTOCOL
            and message.get_attr("FRA_PRIORITY") == RULE_PRIORITY
            and message.get_attr("FRA_TABLE") == TABLE
            and message.get_attr("FRA_SRC") is not None
            and message["src_len"] == host_prefix_length(message.get_attr("FRA_SRC"))
        ]

    def _present_routes(self, family: int) -> list[Route]:
        return [
            Route(int(message.get_attr("RTA_OIF")), _destination(message, family), _gateway(message))
            for message in self._dump("get_routes", family, table=TABLE)
            if message["proto"] == ROUTE_PROTOCOL
            and message["type"] == _RTN_UNICAST
            and message.get_attr("RTA_TABLE") == TABLE
            and message.get_attr("RTA_OIF") is not None
        ]

    def _dump(self, method: str, family: int, **arguments: int) -> list[Any]:
        try:
            messages = list(getattr(self._route(), method)(family=_FAMILIES[family], **arguments))
        except NetlinkError as error:
            if error.code in _NOT_THERE:
                return []
            raise
        return [message for message in messages if message["family"] == _FAMILIES[family]]

    def _do(self, verb: str, family: int, entry: Entry) -> None:
        arguments: dict[str, Any] = {"family": _FAMILIES[family], "table": TABLE}
        if isinstance(entry, Rule):
            arguments |= {"src": entry.vip, "src_len": host_prefix_length(entry.vip)}
            call = partial(self._route().rule, priority=RULE_PRIORITY, protocol=ROUTE_PROTOCOL, **arguments)
        else:
            arguments |= {"dst": entry.destination, "oif": entry.index, "proto": ROUTE_PROTOCOL}
            if entry.gateway is not None:
                arguments["gateway"] = entry.gateway
            elif family == 4:
                arguments["scope"] = _SCOPE_LINK
            call = partial(self._route().route, **arguments)
        try:
            call(verb)
        except NetlinkError as error:
            if verb == "add" and isinstance(entry, Rule) and error.code == errno.EEXIST:
                return  # the dump before was cut short by a change
            if verb == "del" and error.code in _GONE:
                return
            raise AddressError(_refusal(verb, entry, self._interface, error), error.code) from error


def _canonical(address: str) -> str:
    return str(ipaddress.ip_address(address))  # our canonical form, not inet_ntop's


def _gateway(message: Any) -> str | None:
    gateway = message.get_attr("RTA_GATEWAY")
    return None if gateway is None else _canonical(gateway)


def _destination(message: Any, family: int) -> str:
    destination = message.get_attr("RTA_DST")
    return DEFAULT[family] if destination is None else f"{_canonical(destination)}/{message['dst_len']}"


def _refusal(verb: str, entry: Entry, interface: str, error: NetlinkError) -> str:
    """Say what was refused and, where that is known, who must act."""
    reason = error.args[1] if len(error.args) > 1 else str(error)
    if isinstance(entry, Rule):
        return f"can't {verb} the rule from {entry.vip} to table {TABLE}: {reason}"
    if verb == "add" and error.code == errno.EEXIST:
        return f"somebody else's route to {entry.destination} is in table {TABLE}, which is lbd's: remove it"
    if verb == "add" and entry.gateway is not None and error.code in (errno.ENETUNREACH, errno.EHOSTUNREACH):
        return f"the frontend_gateway {entry.gateway} is in no network of {interface}: correct one of them"
    return f"can't {verb} the route to {entry.destination} in table {TABLE}: {reason}"
