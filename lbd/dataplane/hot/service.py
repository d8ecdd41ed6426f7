"""A virtual service and its members as one worker's relay sees them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from lbd.balancing.balancer import Balancer
from lbd.balancing.fastest_response import FAILED_CONNECT_US
from lbd.dataplane.hot.client_log import ClientLog
from lbd.dataplane.hot.limits import Gate
from lbd.dataplane.hot.meter import Meter
from lbd.dataplane.hot.networks import Networks
from lbd.dataplane.hot.quota import Quota
from lbd.dataplane.hot.tally import ERRORS, Tally

# Kinds of failed attempts: their places in counters.ERROR_ORDER.
REFUSED: Final = 0
RESET: Final = 1
TIMED_OUT: Final = 2
UNREACHABLE: Final = 3
LOCAL: Final = 4

REPORT_INTERVAL_MS: Final = 100
"""A worker reports at most one connect failure per member in this time; the supervisor counts over all workers."""
LOADS_INTERVAL_MS: Final = 10
"""How old the other workers' connection counts may be for least-connections."""


class Member:
    """One member. It outlives changes of the pool while connections refer to it; `index` is -1 once it is removed.

    `quota` is how many connections this worker may have to it, None without a limit. `down` says that it gets nothing
    because it does not work, not because somebody wants it so.
    """

    __slots__ = (
        "active", "address", "down", "failures_in_a_row", "family", "index", "quota", "reported_ms", "slot", "tally",
    )  # fmt: skip

    def __init__(self, slot: int, family: int, address: str, port: int, tally: Tally) -> None:
        self.slot: int = slot
        self.family: int = family
        self.address: tuple[str, int] = (address, port)
        self.tally: Tally = tally
        self.index: int = -1
        self.active: int = 0
        self.quota: Quota | None = None
        self.down: bool = False
        self.failures_in_a_row: int = 0
        self.reported_ms: int = -REPORT_INTERVAL_MS


class Settings:
    """What a virtual service is, beside its pool: times in milliseconds, 0 for off.

    `address` is where it listens. `member_options` are (level, option, value) for each socket toward a member.
    `proxy_version` is that of the header for members, 0 for none. `outlier_after` is after how many failures in a row a
    member is reported.
    """

    __slots__ = (
        "address", "client_half_closed_ms", "connect_ms", "hashes_port", "idle_ms", "keeps_entry", "lifetime_jitter",
        "lifetime_ms", "max_flows", "measures_connects", "member_half_closed_ms", "member_options", "outlier_after",
        "per_packet", "proxy_version", "responses", "source_ranges", "splices", "transparent",
        "trusted_proxies",
    )  # fmt: skip

    def __init__(self, address: tuple[str, int]) -> None:
        self.address: tuple[str, int] = address
        self.connect_ms: int = 5000
        self.idle_ms: int = 600000
        self.client_half_closed_ms: int = 0
        self.member_half_closed_ms: int = 0
        self.lifetime_ms: int = 0
        self.lifetime_jitter: float = 0.0
        self.member_options: list[tuple[int, int, int]] = []
        self.hashes_port: bool = False
        self.measures_connects: bool = False
        self.keeps_entry: bool = False
        self.outlier_after: int = 0
        self.proxy_version: int = 0
        self.transparent: bool = False
        self.splices: bool = False
        self.trusted_proxies: Networks | None = None
        self.source_ranges: Networks | None = None
        self.responses: int = 0
        self.max_flows: int = 0
        self.per_packet: bool = False


class Service:
    """A virtual service: its settings, its pool, its limits, its counts.

    `report(member_slot, error, in_a_row)` is told of connect failures. `load_bases` is given to algorithms that look at
    the loads: for each member the places in `view` where the other workers keep their active count. `gate` and `meter`
    are None without limits, `log` where nobody wants to know of what has ended.
    """

    __slots__ = (
        "_loads_ms", "_report", "active", "balancer", "by_slot", "eligible", "gate", "limits_members", "load_bases",
        "log", "members", "meter", "name", "other_active", "own_active", "settings", "slot", "tally", "version", "view",
    )  # fmt: skip

    def __init__(
        self,
        slot: int,
        name: str,
        tally: Tally,
        view: memoryview,
        report: Callable[[int, int, int], None],
        settings: Settings,
    ) -> None:
        self.slot: int = slot
        self.name: str = name
        self.tally: Tally = tally
        self.view: memoryview = view
        self._report: Callable[[int, int, int], None] = report
        self.settings: Settings = settings
        self.gate: Gate | None = None
        self.meter: Meter | None = None
        self.log: ClientLog | None = None
        self.limits_members: bool = False
        self.members: list[Member] = []
        self.by_slot: dict[int, Member] = {}
        self.balancer: Balancer = Balancer([])
        self.own_active: list[int] = []
        self.other_active: list[int] = []
        self.load_bases: list[list[int]] = []
        self._loads_ms: int = 0
        self.version: int = 0
        self.eligible: int = 0
        self.active: int = 0

    @property
    def is_guarded(self) -> bool:
        """Whether something is asked of a connection before a member is picked for it."""
        settings = self.settings
        return self.gate is not None or settings.source_ranges is not None or settings.trusted_proxies is not None

    def set_pool(
        self,
        members: list[Member],
        balancer: Balancer,
        own_active: list[int],
        other_active: list[int],
        load_bases: list[list[int]],
    ) -> None:
        """Replace the pool; connections stay with the members they have."""
        for member in self.members:
            member.index = -1
        for index, member in enumerate(members):
            member.index = index
        self.members = members
        self.by_slot = {member.slot: member for member in members}
        self.balancer = balancer
        self.own_active = own_active
        self.other_active = other_active
        self.load_bases = load_bases
        self._loads_ms = 0
        self.version += 1
        self.note_weights()

    def set_weights(self, weights: list[int], down: list[bool]) -> None:
        """Change the effective weights of the members (0 means not eligible), and which of them are down."""
        self.balancer.set_weights(weights)
        for index, member in enumerate(self.members):
            member.down = down[index]
        self.note_weights()

    def note_weights(self) -> None:
        """Count the eligible members."""
        eligible = 0
        for weight in self.balancer.weights:
            if weight > 0:
                eligible += 1
        self.eligible = eligible

    def can_take(self, index: int) -> bool:
        """Return whether a member is eligible and has room for one more connection."""
        quota = self.members[index].quota
        return self.balancer.weights[index] > 0 and (quota is None or quota.used < quota.share)

    def pick(self, client: str, tried: list[int], now_ms: int) -> int:
        """Return the index of the member for a new connection, or -1.

        A member without room is passed over; when that leaves none, `gate` knows who waits for one.
        """
        if self.load_bases and now_ms - self._loads_ms >= LOADS_INTERVAL_MS:
            self._loads_ms = now_ms
            view = self.view
            for index, bases in enumerate(self.load_bases):
                load = 0
                for base in bases:
                    load += view[base]
                self.other_active[index] = load
        self.balancer.now_ms = now_ms
        index = self.balancer.pick(client, tried)
        if self.limits_members:
            passed_over = tried
            while index >= 0 and not self.can_take(index):
                passed_over = [*passed_over, index]
                self.note_full(index)
                index = self.balancer.pick(client, passed_over)
        return index

    def note_full(self, index: int) -> None:
        """An eligible member has no room in this worker: others may have some to give."""
        quota = self.members[index].quota
        if quota is not None and self.gate is not None:
            self.gate.member_is_full(quota)

    def all_full(self, tried: list[int]) -> bool:
        """Return whether somebody eligible was left out only because there is no room with it."""
        if not self.limits_members:
            return False
        weights = self.balancer.weights
        return any(weights[index] > 0 and index not in tried for index in range(len(weights)))

    def member_opened(self, member: Member) -> None:
        """Count an attempt to reach a member: it is active from here on."""
        member.active += 1
        quota = member.quota
        if quota is not None:
            quota.used += 1
        member.tally.active += 1
        member.tally.mark()
        if member.index >= 0:
            self.own_active[member.index] += 1

    def member_closed(self, member: Member) -> None:
        """Count the end of an attempt or of a connection."""
        member.active -= 1
        member.tally.active -= 1
        member.tally.mark()
        if member.index >= 0:
            self.own_active[member.index] -= 1
        quota = member.quota
        if quota is not None and self.gate is not None:
            self.gate.member_freed(quota)

    def member_connected(self, member: Member, connect_us: int, now_ms: int) -> None:
        """Count a connection that a member has accepted; `connect_us` (-1: not measured) is how long that took."""
        member.tally.total += 1
        member.tally.mark()
        if connect_us >= 0 and member.index >= 0:
            self.balancer.observe(member.index, connect_us, now_ms)

    def member_failed(self, member: Member, error: int, now_ms: int) -> None:
        """Count a failed attempt, and report it unless the fault is our own."""
        self.tally.add(ERRORS + error, 1)
        member.tally.add(ERRORS + error, 1)
        if error == LOCAL:
            return
        if self.settings.measures_connects and member.index >= 0:
            self.balancer.observe(member.index, FAILED_CONNECT_US, now_ms)
        member.failures_in_a_row += 1
        outlier_after = self.settings.outlier_after
        is_outlier = outlier_after > 0 and member.failures_in_a_row % outlier_after == 0
        if is_outlier or now_ms - member.reported_ms >= REPORT_INTERVAL_MS:
            member.reported_ms = now_ms
            self._report(member.slot, error, member.failures_in_a_row)
