"""What the clients of one listening socket share, whichever worker accepts from it at the moment.

A client that must meet the same state every time (persistence, limits per client) is steered to the same socket of the
service's group by its address, so that this state has one writer. Who takes over a socket takes over its lane.

Hot module: compiled by mypyc, and must do the same when interpreted.
"""

from __future__ import annotations

from lbd.dataplane.hot.client_limits import ClientLimits
from lbd.dataplane.hot.persistence import PersistenceTable


class Lane:
    """The state of one listening socket: `entries` of persistence and the counts of `clients`, None where the service
    has no use for them."""

    __slots__ = ("clients", "entries")

    def __init__(self, entries: PersistenceTable | None, clients: ClientLimits | None) -> None:
        self.entries: PersistenceTable | None = entries
        self.clients: ClientLimits | None = clients
