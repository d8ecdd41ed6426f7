"""How many bytes a service may still move.

Hot module: compiled by mypyc, and must do the same when interpreted.
"""

from __future__ import annotations

from lbd.dataplane.hot.reactor import Handler


class Meter:
    """The byte budget of one service in one worker."""

    __slots__ = ()

    def allowance(self, now_ms: int) -> int:
        """Return how many bytes may be moved now; 0 or less: none, `wait` for more."""
        return 1 << 30

    def spend(self, moved_bytes: int) -> None:
        """Count bytes that were moved."""

    def wait(self, handler: Handler) -> None:
        """Give `handler` another turn as soon as there is an allowance."""
