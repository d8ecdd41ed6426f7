"""Who gets a place under a service's limits, who waits for one, and who is turned away.

A limit over all workers is a lease: the supervisor deals each worker a share, the shares' sum is the limit, and who has
used up its share asks for more while the client waits.

Hot module: compiled by mypyc, and must do the same when interpreted.
"""

from __future__ import annotations

from typing import Final

from mypy_extensions import trait

from lbd.dataplane.hot.client_limits import ClientLimits

# What `Gate.enter` answers besides the place of a `Rejection` in counters.REJECTION_ORDER.
ADMITTED: Final = -1
WAIT: Final = -2

# Places in counters.REJECTION_ORDER.
SOURCE_RANGES: Final = 0
MAX_CONNECTIONS: Final = 1
MAX_CONNECTIONS_PER_CLIENT: Final = 2
CONNECTION_RATE: Final = 3
CONNECTION_RATE_PER_CLIENT: Final = 4
QUEUE_FULL: Final = 5
QUEUE_TIMEOUT: Final = 6
PROXY_HEADER: Final = 7
MAX_THROUGHPUT: Final = 8


@trait
class Entrant:
    """A connection that may have to wait for a place."""

    __slots__ = ()

    def admitted(self) -> None:
        """It has a place now."""

    def refused(self, reason: int) -> None:
        """It gets none; `reason` is a place in counters.REJECTION_ORDER."""


class Gate:
    """See the module. Stands before every connection of a service that has limits."""

    __slots__ = ("wait_ms", "wait_reason")

    def __init__(self) -> None:
        self.wait_ms: int = 0
        self.wait_reason: int = QUEUE_TIMEOUT

    def enter(self, entrant: Entrant, client: str, clients: ClientLimits | None, now_ms: int) -> int:
        """Ask for a place for a connection of `client`: ADMITTED, WAIT (until `wait_ms` have passed, then it is turned
        away for `wait_reason`), or the reason why it gets none."""
        return ADMITTED

    def leave(self, client: str, clients: ClientLimits | None, now_ms: int) -> None:
        """Give up the place of a connection that was admitted."""

    def await_member(self, entrant: Entrant) -> int:
        """Have an admitted connection wait until a member has room: WAIT, or the reason why it may not."""
        return QUEUE_FULL

    def member_freed(self, member_slot: int) -> None:
        """A member with a limit has lost a connection."""

    def gave_up(self, entrant: Entrant) -> None:
        """Somebody who waits has gone, or has waited long enough."""
