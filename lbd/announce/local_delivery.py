"""Which packets to clients' own addresses are to be delivered on this machine, as policy rules and a route. Pure.

With `source: transparent` a member sees the client's address and answers to it. For each such member there is a rule
`from MEMBER ipproto PROTOCOL sport PORT lookup TABLE`, and in that table, for each family, one route that makes every
address ours. All else that members send goes where it went before.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lbd.announce.inventory import ADDRESS_PROTOCOL
from lbd.model.address import Endpoint
from lbd.model.desired import Protocol

TAG = ADDRESS_PROTOCOL
"""RTA_PROTOCOL and FRA_PROTOCOL of our route and rules, as in `return_path`. It must never change."""
TABLE = 10801
"""The routing table of our own, beside that of the return path."""
RULE_PRIORITY = 10801
"""After the local table (0), whose addresses are ours in any case; before the main one (32766)."""
IP_PROTOCOLS = {Protocol.TCP: 6, Protocol.UDP: 17}

Members = frozenset[tuple[Protocol, Endpoint]]
"""Whose answers are wanted here."""


@dataclass(frozen=True, slots=True, order=True)
class EverythingIsLocal:
    """The route of our table: `local default dev lo`."""

    def __str__(self) -> str:
        return f"the local default route in table {TABLE}"


@dataclass(frozen=True, slots=True, order=True)
class AnswersOf:
    """The rule for what a member sends from the port that it serves on; `ip_protocol` is IANA's number."""

    address: str
    port: int
    ip_protocol: int

    def __str__(self) -> str:
        return f"the rule from {self.address} port {self.port} to table {TABLE}"


Entry = EverythingIsLocal | AnswersOf


@dataclass(frozen=True, slots=True)
class Change:
    """What to remove and then what to add, each in its order."""

    remove: tuple[Entry, ...]
    add: tuple[Entry, ...]


def wanted(members: Members, family: int) -> frozenset[Entry]:
    """Return what should be there for the members of one family; nothing without a member."""
    rules = frozenset(
        AnswersOf(endpoint.address, endpoint.port, IP_PROTOCOLS[protocol])
        for protocol, endpoint in members
        if endpoint.family == family
    )
    return rules | {EverythingIsLocal()} if rules else frozenset()


def change(wanted: Iterable[Entry], present: Iterable[Entry]) -> Change:
    """Return how to come from what is present of ours to what is wanted.

    Rules go before the route that they lead to, and come after it: never does a rule lead into an empty table.
    """
    needed, there = frozenset(wanted), frozenset(present)
    remove, add = _in_order(there - needed), _in_order(needed - there)
    return Change(tuple(reversed(remove)), add)


def _in_order(entries: Iterable[Entry]) -> tuple[Entry, ...]:
    return tuple(sorted(entries, key=lambda entry: (isinstance(entry, AnswersOf), repr(entry))))
