"""By which way the answers of VIPs leave, as policy rules and routes: what should be there, and what to change. Pure.

For each VIP a rule `from VIP lookup TABLE`, and in that table, for each family, the networks of the frontend interface
and a default route through its gateway. The rules come before the main table's, so that a default route on another
interface no longer draws the answers there.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass

from lbd.announce.inventory import ADDRESS_PROTOCOL

ROUTE_PROTOCOL = ADDRESS_PROTOCOL
"""RTA_PROTOCOL and FRA_PROTOCOL of our routes and rules; /etc/iproute2/rt_protos knows nobody of this number. It must
never change: an old daemon's rules would become nobody's."""
TABLE = 10800
"""The routing table of our own. Above 255, where people and distributions seldom number theirs by hand."""
RULE_PRIORITY = 10800
"""After the local table (0), or VIPs would not reach themselves; before the main one (32766)."""

DEFAULT = {4: "0.0.0.0/0", 6: "::/0"}


@dataclass(frozen=True, slots=True, order=True)
class Route:
    """A route of our table through the link with `index`; `gateway` None means that the destination is on the link."""

    index: int
    destination: str
    gateway: str | None = None


@dataclass(frozen=True, slots=True, order=True)
class Rule:
    """What comes from `vip` is looked up in our table."""

    vip: str


Entry = Route | Rule


@dataclass(frozen=True, slots=True)
class Change:
    """What to remove and then what to add, each in its order."""

    remove: tuple[Entry, ...]
    add: tuple[Entry, ...]


def wanted(vips: Iterable[str], gateway: str | None, index: int, connected: Iterable[str]) -> tuple[Entry, ...]:
    """Return what should be there for VIPs of one family, in the order in which to add it.

    `connected` are the networks on the link with `index`: without them, clients there would be reached through the
    gateway. Nothing is wanted without a VIP or without a gateway.
    """
    rules = tuple(Rule(vip) for vip in sorted(vips))
    if gateway is None or not rules:
        return ()
    on_link = tuple(Route(index, network) for network in sorted(set(connected)))
    return (*on_link, Route(index, DEFAULT[6 if ":" in gateway else 4], gateway), *rules)


def change(wanted: Iterable[Entry], present: Iterable[Entry]) -> Change:
    """Return how to come from what is present of ours to what is wanted.

    Rules go before the routes that they lead to, and come after them: never does a rule lead into an empty table.
    """
    wanted_in_order = dict.fromkeys(wanted)
    there = set(present)
    surplus = sorted(there - wanted_in_order.keys(), key=lambda entry: (isinstance(entry, Route), repr(entry)))
    return Change(tuple(surplus), tuple(entry for entry in wanted_in_order if entry not in there))


def network_of(address: str, prefix_length: int) -> str | None:
    """Return the network that an address on a link makes directly reachable, or None.

    A host address makes none, and a link-local one none that could be told apart from those of other links.
    """
    interface = ipaddress.ip_interface(f"{address}/{prefix_length}")
    if interface.network.num_addresses == 1 or interface.is_link_local:
        return None
    return str(interface.network)
