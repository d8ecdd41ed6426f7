"""Keeps routes to Pods in the kernel's main table."""

from __future__ import annotations

import asyncio
import ipaddress
from collections.abc import Iterable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace

import structlog

from lbd.announce.errors import AnnounceError, explain
from lbd.announce.netlink_events import AddressEvent, LinkEvent
from lbd.announce.netlink_thread import AddressError
from lbd.announce.pod_route_table import PodRouteTable, Settled
from lbd.announce.turns import Turns
from lbd.announce.watch import NetlinkWatch
from lbd.model.kubernetes_status import PodRoutesStatus

log = structlog.get_logger(__name__)

RESYNC_INTERVAL_S = 10.0
"""Routes that somebody removes are not among the events that we hear: look as often as this."""
FIRST_RETRY_S = 1.0
LONGEST_RETRY_S = 60.0
_GATHER_S = 0.1
_SHOWN_PROBLEMS = 5


@dataclass(frozen=True, slots=True)
class Failure:
    """A route that can't be: why, how often it was tried in a row, and when (monotonic) it is tried again."""

    reason: str
    tries: int
    tried_at_s: float
    retry_at_s: float


class PodRoutes:
    """Makes the routes of the last `set_wanted`, and keeps them so: puts back what a link or somebody takes away.

    They carry a protocol number of their own, and only those with it are ever removed. `interface` is the link that
    they lead through; empty: the kernel finds the one that the next hop is on.
    """

    def __init__(self, interface: str = "") -> None:
        self._table = PodRouteTable(interface)
        self._lock = asyncio.Lock()
        self._changed = asyncio.Event()
        self._watch = NetlinkWatch(self._on_events, self._hurry)
        self._keeper = Turns("pod-routes-keeper", self._keep)
        self._wanted: Mapping[str, str] | None = None
        self._present: frozenset[str] = frozenset()
        self._failures: dict[str, Failure] = {}
        self._trouble = ""
        self._started = False

    async def start(self) -> None:
        """Begin the upkeep. Nothing is added or removed before the first `set_wanted`: a source that has not spoken is
        unknown, not empty.

        Raises:
            AnnounceError: the kernel gives no netlink socket.
        """
        if self._started:
            return
        try:
            self._watch.open()
        except OSError as error:
            raise AnnounceError(f"can't watch links for routes to Pods: {explain(error)}") from error
        self._started = True
        self._keeper.start()

    async def set_wanted(self, routes: Mapping[str, str]) -> None:
        """Have these routes, destination → next hop, and no other of ours; return after the kernel was asked.

        The last call wins, and one that changes nothing costs nothing. What can't be is in `problem` and tried again.

        Raises:
            ValueError: a destination is no network, or a next hop no address.
        """
        wanted = {str(ipaddress.ip_network(to)): str(ipaddress.ip_address(hop)) for to, hop in routes.items()}
        before, self._wanted = self._wanted, wanted
        if before == wanted:
            return
        for to in [to for to in self._failures if (before or {}).get(to) != wanted.get(to)]:
            del self._failures[to]  # it deserves a new try
        await self._settle()
        if self._failures or self._trouble:
            self._changed.set()  # the keeper's wait is of a time when all was well

    @property
    def known(self) -> bool:
        """False until the first wish: what a killed daemon left stays until then."""
        return self._wanted is not None

    @property
    def present(self) -> int:
        """How many of the wanted routes are there."""
        return len(self._present)

    @property
    def problem(self) -> str:
        """What is wrong, in one line; empty while all is well."""
        troubles = [text for text in (self._trouble, self._watch.problem, self._keeper.problem) if text]
        failures = [failure.reason for _, failure in sorted(self._failures.items())]
        problems = troubles + failures
        more = f"; and {len(problems) - _SHOWN_PROBLEMS} more" if len(problems) > _SHOWN_PROBLEMS else ""
        return "; ".join(problems[:_SHOWN_PROBLEMS]) + more

    def status(self) -> PodRoutesStatus:
        """Return how it stands."""
        return PodRoutesStatus(len(self._wanted or ()), self.problem)

    async def close(self, *, remove: bool) -> None:
        """End the upkeep; with `remove` every route of ours goes.

        Raises:
            AnnounceError: something could not be removed; everything is closed all the same.
        """
        await self._keeper.stop()
        self._watch.close()
        try:
            if remove:
                async with self._lock:
                    settled = await self._table.settle({})
                if settled.problems:
                    raise AnnounceError("; ".join(settled.problems.values()))
        except (AddressError, OSError) as error:
            raise AnnounceError(f"can't remove routes to Pods: {_reason(error)}") from error
        finally:
            self._wanted, self._present, self._failures = None, frozenset(), {}
            self._trouble = ""
            self._started = False
            await self._table.close()

    async def _settle(self) -> None:
        """Make the table what is wanted now; what fails is noted."""
        async with self._lock:
            if self._wanted is None:
                return
            wanted, now_s = self._wanted, asyncio.get_running_loop().time()
            not_now = {to for to, failure in self._failures.items() if to in wanted and failure.retry_at_s > now_s}
            try:
                settled = await self._table.settle(wanted, not_now)
            except (AddressError, OSError) as error:
                self._note_trouble(f"routes to Pods can't be kept: {_reason(error)}")
                return
            self._trouble = ""
            self._present = settled.present
            latest = self._wanted if self._wanted is not None else {}
            outdated = {to for to in wanted.keys() | latest.keys() if wanted.get(to) != latest.get(to)}
            self._note(settled, not_now - outdated, outdated, now_s)

    def _note(self, settled: Settled, not_now: AbstractSet[str], outdated: AbstractSet[str], now_s: float) -> None:
        """Remember what failed; what became `outdated` meanwhile gets its own pass."""
        before = self._failures
        waiting = {to: before[to] for to in not_now if to in before and to not in settled.present}
        fresh = {to: reason for to, reason in settled.problems.items() if to not in waiting and to not in outdated}
        self._failures = waiting | {to: failed(before.get(to), reason, now_s) for to, reason in fresh.items()}
        new = [to for to, failure in self._failures.items() if to not in before or before[to].reason != failure.reason]
        for to in sorted(new)[:_SHOWN_PROBLEMS]:
            log.warning("pod_route_failed", destination=to, reason=self._failures[to].reason)
        if len(new) > _SHOWN_PROBLEMS:
            log.warning("pod_routes_failed", more=len(new) - _SHOWN_PROBLEMS)
        if settled.added or settled.removed:
            log.info(
                "pod_routes_changed", added=settled.added, removed=settled.removed, present=len(settled.present)
            )  # fmt: skip

    def _note_trouble(self, trouble: str) -> None:
        if trouble != self._trouble:
            log.warning("pod_routes_failed", reason=trouble)
        self._trouble = trouble

    # Keeping.

    def _on_events(self, events: Iterable[LinkEvent | AddressEvent]) -> None:
        self._hurry()

    def _hurry(self) -> None:
        """A link or an address changed: what failed may be possible now, but not ten times a second."""
        for to, failure in self._failures.items():
            due_s = min(failure.retry_at_s, failure.tried_at_s + FIRST_RETRY_S)
            self._failures[to] = replace(failure, retry_at_s=due_s)
        self._changed.set()

    def _wait_s(self) -> float:
        if self._trouble:
            return FIRST_RETRY_S
        now_s = asyncio.get_running_loop().time()
        next_s = min((failure.retry_at_s for failure in self._failures.values()), default=now_s + RESYNC_INTERVAL_S)
        return min(max(next_s - now_s, FIRST_RETRY_S), RESYNC_INTERVAL_S)

    async def _keep(self) -> None:
        """Wait for a change, then make the table what it should be."""
        try:
            async with asyncio.timeout(self._wait_s()):
                await self._changed.wait()
        except TimeoutError:
            pass  # nothing was heard: look anyway
        await asyncio.sleep(_GATHER_S)
        self._changed.clear()
        await self._settle()


def failed(before: Failure | None, reason: str, now_s: float) -> Failure:
    """Return what to remember of one more failure: the next try comes after 1 s, then twice that, up to a minute."""
    tries = before.tries + 1 if before is not None else 1
    return Failure(reason, tries, now_s, now_s + min(FIRST_RETRY_S * 2.0 ** min(tries - 1, 16), LONGEST_RETRY_S))


def _reason(error: AddressError | OSError) -> str:
    return str(error) if isinstance(error, AddressError) else explain(error)
