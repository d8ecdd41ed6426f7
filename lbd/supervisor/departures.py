"""The services on their way out, and what they leave behind for a moment."""

from __future__ import annotations

from collections.abc import Collection, Iterable

import structlog

from lbd.model.desired import Protocol as Transport
from lbd.supervisor.plan import DrainView
from lbd.supervisor.seams import DataPath, Handle
from lbd.supervisor.service_state import ServiceState

log = structlog.get_logger(__name__)


class Departures:
    """Drains services, resets what is left at the deadline, lets go of them, and remembers which VIPs were theirs."""

    def __init__(self, data_path: DataPath) -> None:
        self.draining: dict[Handle, tuple[ServiceState, float]] = {}
        """With what was known of them, and when (monotonic) their drain began."""
        self._data_path = data_path
        self._reset_sent: set[Handle] = set()
        self._left: dict[str, str] = {}
        """The services that were removed, by name: the VIPs that they were on."""

    def begin(self, state: ServiceState, reason: str, now_s: float) -> None:
        """Stop accepting; established connections finish."""
        handle = state.handle
        self.draining[handle] = (state, now_s)
        self._data_path.stop_accepting(handle)
        active = self._data_path.traffic(handle).active_connections
        log.info("service_draining", service=handle.name, connections=active, reason=reason)

    def reset(self, handle: Handle) -> None:
        """The deadline has passed: reset what is still open."""
        self._reset_sent.add(handle)
        log.warning("drain_deadline_passed", service=handle.name, listen=str(handle.listen))
        self._data_path.reset_connections(handle, "drain_timeout")

    def remove(self, handle: Handle) -> None:
        """Nothing is left of the service: let go of it."""
        self._data_path.remove(handle)
        self._reset_sent.discard(handle)
        del self.draining[handle]
        self._left[handle.name] = handle.listen.address
        log.info("service_removed", service=handle.name, listen=str(handle.listen))

    def views(self) -> tuple[DrainView, ...]:
        """Return how far each of them is."""
        active = {handle: self._data_path.traffic(handle).active_connections for handle in self.draining}
        # Asked after the counts: a connection is closed before it is counted out.
        undelivered = self._data_path.undelivered() if 0 in active.values() else frozenset()
        return tuple(
            DrainView(
                handle=handle,
                since_s=since_s,
                stopped_accepting=self._data_path.stopped_accepting(handle),
                active_connections=active[handle],
                reset_sent=handle in self._reset_sent,
                undelivered=handle.transport is Transport.TCP and handle.listen in undelivered,
            )
            for handle, (_, since_s) in self.draining.items()
        )

    def left_behind(self, held: Collection[str], used: Iterable[str]) -> Iterable[str]:
        """Return the names of removed services whose VIPs are among those still `held`, and `used` by nobody else."""
        theirs = set(held).difference(used)
        self._left = {name: vip for name, vip in self._left.items() if vip in theirs}
        return self._left
