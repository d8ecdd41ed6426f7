"""Which member each client had: the table behind `persistence: {type: client_ip}`.

Hot module: compiled by mypyc, and must do the same when interpreted.
"""

from __future__ import annotations


class PersistenceTable:
    """The clients of one lane, in memory that outlives the worker."""

    __slots__ = ()

    def find(self, client: str, now_ms: int) -> int:
        """Return the slot of the member that `client` keeps, or -1."""
        return -1

    def enter(self, client: str, member_slot: int, now_ms: int) -> int:
        """Have `client` keep a member while the connection that this counts is open, and for the timeout afterwards;
        return the entry, for `leave`."""
        return -1

    def leave(self, entry: int, now_ms: int) -> None:
        """Count the end of a connection."""
