"""Reads, adds and removes routes to Pods through netlink."""

from __future__ import annotations

import errno
import ipaddress
from collections.abc import Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass
from functools import partial
from socket import AF_INET, AF_INET6
from typing import Any

from pyroute2.netlink.exceptions import NetlinkError

from lbd.announce.netlink_thread import NetlinkThread
from lbd.announce.pod_route_plan import (
    MAIN_TABLE,
    ROUTE_PROTOCOL,
    Change,
    LocalAddress,
    PodRoute,
    PresentRoute,
    change,
)

_FAMILIES = {4: AF_INET, 6: AF_INET6}
_RTM_F_FIB_MATCH = 0x2000
"""Have `route get` answer with the entry of the table that decides (Linux 4.13), not with the way of one packet."""
_GONE = (errno.ENOENT, errno.ESRCH, errno.ENODEV)
_NOT_THERE = (errno.ENOENT, errno.EOPNOTSUPP, errno.EAFNOSUPPORT)
"""A dump says so where the table is empty, or where the kernel was built without the family."""


@dataclass(frozen=True, slots=True)
class Settled:
    """What came of a pass: how many routes were removed and added, which destinations have their route now, and what
    failed, as destination → sentence."""

    removed: int
    added: int
    present: frozenset[str]
    problems: Mapping[str, str]


class PodRouteTable(NetlinkThread):
    """The routes of this network namespace's main table that carry our protocol number. Others are never changed.

    `interface` is the only link that they may lead through; empty: the kernel finds the one that the next hop is on.
    """

    def __init__(self, interface: str = "") -> None:
        # Strict checking lets the kernel filter a dump by protocol: a router's main table may have a million routes.
        super().__init__("lbd-pod-routes", strict_check=True)
        self._interface = interface

    async def settle(self, wanted: Mapping[str, str], not_now: AbstractSet[str] = frozenset()) -> Settled:
        """Make ours what is wanted, destination → next hop; what is in `not_now` is not added.

        A route that the kernel refuses does not keep the others from being there.

        Raises:
            AddressError: the kernel refused to show its routes or addresses.
            OSError: no netlink socket could be had.
        """
        return await self._in_thread(partial(self._settle, wanted, not_now))

    # What follows runs in the thread.

    def _settle(self, wanted: Mapping[str, str], not_now: AbstractSet[str]) -> Settled:
        index = self._index()
        problems: dict[str, str] = {}
        if index == 0:
            problems = {to: f"no route to {to}: there is no interface {self._interface}" for to in wanted}
            wanted = {}
        present = [route for family in (4, 6) for route in self._present(family)]
        todo = change(wanted, present, self._addresses() if wanted else (), index)
        problems |= {to: f"no route to {to}: {reason}" for to, reason in todo.refused.items()}
        removed = self._remove(todo, problems)
        missing = {route.destination for route in todo.add}
        there = wanted.keys() - missing - todo.refused.keys()
        added = set()
        for route in todo.add:
            if route.destination in not_now:
                continue
            problem = self._add(route, index)
            if problem is None:
                added.add(route.destination)
            else:
                problems[route.destination] = problem
        return Settled(removed, len(added), frozenset(there | added), problems)

    def _remove(self, todo: Change, problems: dict[str, str]) -> int:
        removed = 0
        for route in todo.remove:
            try:
                self._delete(route)
                removed += 1
            except NetlinkError as error:
                problems[route.destination] = f"can't remove the route to {route.destination}: {_text(error)}"
        return removed

    def _index(self) -> int | None:
        """Return the interface's number, 0 if there is none of that name, None without a name."""
        if not self._interface:
            return None
        found = self._route().link_lookup(ifname=self._interface)
        return int(found[0]) if found else 0

    def _addresses(self) -> Iterator[LocalAddress]:
        for message in self._route().get_addr():
            # On a point-to-point link IFA_ADDRESS is the peer, and the prefix length is of the peer's network.
            on_link = message.get_attr("IFA_ADDRESS") or message.get_attr("IFA_LOCAL")
            if on_link is not None and message["family"] in (AF_INET, AF_INET6):
                address = message.get_attr("IFA_LOCAL") or on_link
                yield LocalAddress.of(int(message["index"]), _canonical(address), on_link, int(message["prefixlen"]))

    def _present(self, family: int) -> Iterator[PresentRoute]:
        try:
            messages = list(
                self._route().get_routes(family=_FAMILIES[family], table=MAIN_TABLE, proto=ROUTE_PROTOCOL)
            )  # fmt: skip
        except NetlinkError as error:
            if error.code in _NOT_THERE:
                return
            raise
        for message in messages:
            if (
                message["family"] == _FAMILIES[family]
                and message["proto"] == ROUTE_PROTOCOL
                and message.get_attr("RTA_TABLE") == MAIN_TABLE
                and message.get_attr("RTA_DST") is not None  # a default route is never ours, whatever its tag says
            ):
                gateway = message.get_attr("RTA_GATEWAY")
                yield PresentRoute(
                    f"{_canonical(message.get_attr('RTA_DST'))}/{message['dst_len']}",
                    "" if gateway is None else _canonical(gateway),
                    int(message.get_attr("RTA_OIF") or 0),
                    int(message.get_attr("RTA_PRIORITY") or 0),
                )

    def _delete(self, route: PresentRoute) -> None:
        shown = {"gateway": route.next_hop, "oif": route.index, "priority": route.metric}
        arguments: dict[str, Any] = {name: value for name, value in shown.items() if value}
        try:
            self._route().route(
                "del", dst=route.destination, table=MAIN_TABLE, proto=ROUTE_PROTOCOL, **arguments
            )  # fmt: skip
        except NetlinkError as error:
            if error.code not in _GONE:
                raise

    def _add(self, route: PodRoute, index: int | None) -> str | None:
        """Add a route; return why that can't be, as a sentence that says who must act."""
        others = self._route_of_somebody_else(route.destination)
        if others is not None:
            return f"no route to {route.destination} by lbd: {others} is there already, and stays"
        arguments: dict[str, Any] = {"dst": route.destination, "gateway": route.next_hop}
        if index is not None:
            arguments["oif"] = index
        try:
            # pyroute2's "add" is exclusive (NLM_F_EXCL): it never replaces, and never joins a multipath route.
            self._route().route("add", table=MAIN_TABLE, proto=ROUTE_PROTOCOL, **arguments)
        except NetlinkError as error:
            return self._refusal(route, error)
        return None

    def _route_of_somebody_else(self, destination: str) -> str | None:
        """Describe the route of another protocol to exactly this destination, whatever its metric.

        The kernel adds ours beside one of another metric, and then one of the two hides the other.
        """
        network = ipaddress.ip_network(destination)
        try:
            messages = self._route().route("get", dst=str(network.network_address), flags=_RTM_F_FIB_MATCH)
        except NetlinkError:
            return None  # no route, or one that forbids: then adding ours fails if it is for the same destination
        for message in messages:
            found, table = message.get_attr("RTA_DST"), message.get_attr("RTA_TABLE")
            same = found is not None and f"{_canonical(found)}/{message['dst_len']}" == destination
            if same and table == MAIN_TABLE and message["proto"] != ROUTE_PROTOCOL:
                gateway = message.get_attr("RTA_GATEWAY")
                via = f"via {_canonical(gateway)}, " if gateway is not None else ""
                return f"somebody else's route ({via}protocol {message['proto']})"
        return None

    def _refusal(self, route: PodRoute, error: NetlinkError) -> str:
        where = f"of {self._interface}" if self._interface else "of this machine"
        reason = f"{_text(error)} (next hop {route.next_hop})"
        if error.code == errno.EEXIST:
            reason = "somebody else's route to it is there already, and stays"
        elif error.code in (errno.ENETUNREACH, errno.EHOSTUNREACH):
            reason = f"the Node's address {route.next_hop} is in no network {where}, so it can't be the next hop"
        elif error.code == errno.ENETDOWN:
            reason = f"the interface {self._interface or 'to its Node'} is down"
        return f"no route to {route.destination}: {reason}"


def _canonical(address: str) -> str:
    return str(ipaddress.ip_address(address))  # our canonical form, not inet_ntop's


def _text(error: NetlinkError) -> str:
    return str(error.args[1] if len(error.args) > 1 else error)
