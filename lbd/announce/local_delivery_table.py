"""Reads, adds and removes the rules and routes of local delivery through netlink."""

from __future__ import annotations

import errno
import ipaddress
from functools import partial
from socket import AF_INET, AF_INET6
from typing import Any

from pyroute2.netlink.exceptions import NetlinkError

from lbd.announce.inventory import host_prefix_length
from lbd.announce.local_delivery import (
    RULE_PRIORITY,
    TABLE,
    TAG,
    AnswersOf,
    Change,
    Entry,
    EverythingIsLocal,
    Members,
    change,
    wanted,
)
from lbd.announce.netlink_thread import AddressError, NetlinkThread

_FAMILIES = {4: AF_INET, 6: AF_INET6}
_EVERYTHING = {4: "0.0.0.0/0", 6: "::/0"}
_RTN_LOCAL = 2
_SCOPE_HOST = 254
_LOOPBACK_INDEX = 1
"""LOOPBACK_IFINDEX: `lo` has this number in every network namespace."""
_GONE = (errno.ENOENT, errno.ESRCH, errno.ENODEV)
_NOT_THERE = (errno.ENOENT, errno.EOPNOTSUPP, errno.EAFNOSUPPORT)
"""A dump says so where the table is empty, or where the kernel was built without policy routing or the family."""


class LocalDeliveryTable(NetlinkThread):
    """The rules and routes of this network namespace that carry our protocol number, in our table. Others are never
    changed."""

    def __init__(self) -> None:
        super().__init__("lbd-local-delivery", strict_check=True)

    async def settle(self, family: int, members: Members) -> Change:
        """Make ours what is wanted for the members of one family; return what was changed.

        Raises:
            AddressError: the kernel refused.
            OSError: no netlink socket could be had.
        """
        return await self._in_thread(partial(self._settle, family, members))

    # What follows runs in the thread.

    def _settle(self, family: int, members: Members) -> Change:
        todo = change(wanted(members, family), [*self._present_routes(family), *self._present_rules(family)])
        for entry in todo.remove:
            self._do("del", family, entry)
        for entry in todo.add:
            self._do("add", family, entry)
        return todo

    def _present_rules(self, family: int) -> list[AnswersOf]:
        found = []
        for message in self._dump("get_rules", family):
            source, ports = message.get_attr("FRA_SRC"), message.get_attr("FRA_SPORT_RANGE")
            if (
                message.get_attr("FRA_PROTOCOL") == TAG
                and message.get_attr("FRA_PRIORITY") == RULE_PRIORITY
                and message.get_attr("FRA_TABLE") == TABLE
                and source is not None
                and ports is not None
                and message["src_len"] == host_prefix_length(source)
            ):
                address = str(ipaddress.ip_address(source))  # our canonical form, not inet_ntop's
                found.append(AnswersOf(address, int(ports.partition(":")[0]), message.get_attr("FRA_IP_PROTO")))
        return found

    def _present_routes(self, family: int) -> list[EverythingIsLocal]:
        return [
            EverythingIsLocal()
            for message in self._dump("get_routes", family, table=TABLE)
            if message["proto"] == TAG
            and message["type"] == _RTN_LOCAL
            and message.get_attr("RTA_TABLE") == TABLE
            and message.get_attr("RTA_DST") is None
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
        if isinstance(entry, AnswersOf):
            arguments |= {"src": entry.address, "src_len": host_prefix_length(entry.address)}
            arguments |= {"ip_proto": entry.ip_protocol, "sport_range": f"{entry.port}:{entry.port}"}
            call = partial(self._route().rule, priority=RULE_PRIORITY, protocol=TAG, **arguments)
        else:
            arguments |= {"dst": _EVERYTHING[family], "oif": _LOOPBACK_INDEX, "type": _RTN_LOCAL, "proto": TAG}
            if family == 4:
                arguments["scope"] = _SCOPE_HOST
            call = partial(self._route().route, **arguments)
        try:
            call(verb)
        except NetlinkError as error:
            if verb == "add" and isinstance(entry, AnswersOf) and error.code == errno.EEXIST:
                return  # the dump before was cut short by a change
            if verb == "del" and error.code in _GONE:
                return
            raise AddressError(_refusal(verb, entry, error), error.code) from error


def _refusal(verb: str, entry: Entry, error: NetlinkError) -> str:
    """Say what was refused and, where that is known, who must act."""
    reason = error.args[1] if len(error.args) > 1 else str(error)
    if verb == "add" and isinstance(entry, EverythingIsLocal):
        if error.code == errno.EEXIST:
            return f"somebody else's default route is in table {TABLE}, which is lbd's: remove it"
        if error.code == errno.ENETDOWN:
            return "the interface lo is down: set it up"
    if verb == "add" and error.code in (errno.EINVAL, errno.EOPNOTSUPP, errno.EAFNOSUPPORT):
        return f"can't add {entry} ({reason}): `source: transparent` needs policy routing by port (Linux 4.17)"
    return f"can't {verb} {entry}: {reason}"
