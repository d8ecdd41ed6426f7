"""Which members get new connections, with which weight, and why the others get none. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Final

from lbd.balancing.slow_start import effective_weight
from lbd.model.address import Endpoint
from lbd.model.desired import AdminState, Algorithm, Member, OnAllDown, Pool, VirtualService
from lbd.model.status import Health, MemberHealth
from lbd.supervisor.seams import Acceptance

NOBODY: Final[Mapping[Endpoint, float]] = MappingProxyType({})
_WAITING = "waiting for the first health results"


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one member gets: a scaled weight (0: nothing) and, then, the sentence that says why.

    `down` says that it gets nothing and is down or ejected: what it has of UDP flows is to move.
    """

    weight: int
    reason: str = ""
    down: bool = False


@dataclass(frozen=True, slots=True)
class PoolVerdict:
    """The verdicts in the order of the pool's members, and what the service does with new connections."""

    members: tuple[Verdict, ...]
    acceptance: Acceptance
    reason: str = ""

    @property
    def weights(self) -> list[int]:
        """The scaled weights."""
        return [verdict.weight for verdict in self.members]

    @property
    def down(self) -> list[bool]:
        """Which members get nothing because they are down or ejected."""
        return [verdict.down for verdict in self.members]


@dataclass(frozen=True, slots=True)
class _Choice:
    """Who serves. `passed_over` is why another one that is up does not, `reason` what is special about the pool."""

    serving: frozenset[Endpoint]
    acceptance: Acceptance
    passed_over: str
    reason: str = ""


def judge(
    service: VirtualService,
    health: Mapping[Endpoint, MemberHealth],
    up_since_s: Mapping[Endpoint, float],
    first_results: bool,
    now_s: float,
    ejected: Mapping[Endpoint, float] = NOBODY,
) -> PoolVerdict:
    """Judge every member of a service.

    `up_since_s` has an entry for each member in slow start: when it came up. `first_results` says that every member has
    had a health result, or one monitor timeout has passed since it was added. `ejected` are the outliers.

    A member can serve when it is enabled and has a weight; it is up when its health is and it is not ejected. Of these
    rules the first one that applies decides:

    1. Panic: of the members that are no backup, fewer than `panic_threshold_percent` are up. All of them serve, health
       and ejections are not believed, so nobody is counted for rule 2. Not when none is up but a backup is: one that
       is known to be up is better than those that are not.
    2. Fewer than `min_members_up` are up, backups included: the pool counts as down, and `on_all_down` decides.
    3. The members serve that are up and no backup.
    4. None of those: all backups serve that are up.

    Before the first results rule 1 does not apply, rule 2 means waiting, and so does rule 4 until something is known
    of a member that is no backup.
    """
    pool = service.pool
    choice = _choose(pool, health, first_results, ejected)
    verdicts = tuple(
        _judge_member(service, member, health, up_since_s, choice, now_s, ejected) for member in pool.members
    )
    if service.admin_state is not AdminState.ENABLED:
        return PoolVerdict(verdicts, Acceptance.REFUSE, f"the virtual service is {service.admin_state}")
    return PoolVerdict(verdicts, choice.acceptance, choice.reason)


def _choose(
    pool: Pool, health: Mapping[Endpoint, MemberHealth], first_results: bool, ejected: Mapping[Endpoint, float]
) -> _Choice:
    able = [member for member in pool.members if member.admin_state is AdminState.ENABLED and member.weight > 0]
    primaries = [member for member in able if not member.backup]
    up = [m for m in able if health[m.endpoint].health is Health.UP and m.endpoint not in ejected]
    primaries_up = [member for member in up if not member.backup]
    if first_results and _is_panic(pool, len(primaries), len(primaries_up), len(up)):
        return _serve(
            primaries,
            "it is a backup, and the other members serve",
            f"{_of(len(primaries_up), len(primaries))} up, fewer than the panic_threshold of "
            f"{pool.panic_threshold_percent:g}%: health is ignored",
        )
    if len(up) < max(1, pool.min_members_up):
        down_by_ejection = any(health[m.endpoint].health is Health.UP for m in able if m.endpoint in ejected)
        return _too_few(pool, able, len(up), first_results, down_by_ejection)
    if primaries_up:
        return _serve(primaries_up, "it is a backup, and other members are up")
    if not first_results and all(health[member.endpoint].health is Health.UNKNOWN for member in primaries):
        return _Choice(frozenset(), Acceptance.HOLD, f"it is a backup: {_WAITING} of the others", _WAITING)
    return _serve(up, "", f"no member is up but backups: {len(up)} of them {'serves' if len(up) == 1 else 'serve'}")


def _is_panic(pool: Pool, primaries: int, primaries_up: int, up: int) -> bool:
    if not primaries or 100.0 * primaries_up >= pool.panic_threshold_percent * primaries:
        return False
    return primaries_up > 0 or up == 0


def _serve(members: Sequence[Member], passed_over: str, reason: str = "") -> _Choice:
    serving = frozenset(member.endpoint for member in members)
    return _Choice(serving, Acceptance.ACCEPT if serving else Acceptance.REFUSE, passed_over, reason)


def _too_few(pool: Pool, able: Sequence[Member], up: int, first_results: bool, down_by_ejection: bool) -> _Choice:
    """The pool counts as down: `on_all_down` decides, once enough is known."""
    if not first_results:
        return _Choice(frozenset(), Acceptance.HOLD, _WAITING, _WAITING)
    reason = "no member is up and enabled" if pool.members else "the pool has no member"
    if down_by_ejection:
        reason = "outlier_detection has ejected every member that is up"
    if up:
        reason = f"{_of(up, len(able))} up, min_members_up is {pool.min_members_up}: the pool counts as down"
    if able and pool.on_all_down is OnAllDown.SERVE_ALL:
        return _serve(able, "", f"{reason if up else 'no member is up'}: on_all_down is serve_all")
    return _Choice(frozenset(), Acceptance.REFUSE, reason, reason)


def _of(up: int, members: int) -> str:
    return f"{up} of {members} {'member' if members == 1 else 'members'} {'is' if up == 1 else 'are'}"


def _judge_member(
    service: VirtualService,
    member: Member,
    health: Mapping[Endpoint, MemberHealth],
    up_since_s: Mapping[Endpoint, float],
    choice: _Choice,
    now_s: float,
    ejected: Mapping[Endpoint, float],
) -> Verdict:
    if member.endpoint in choice.serving:
        slow_start_s = service.pool.slow_start_s
        came_up_s = up_since_s.get(member.endpoint)
        if came_up_s is None or service.pool.algorithm is Algorithm.CONSISTENT_HASH:
            slow_start_s = 0.0
        up_for_s = now_s - came_up_s if came_up_s is not None else slow_start_s
        return Verdict(effective_weight(member.weight, up_for_s, slow_start_s))
    seen = health[member.endpoint]
    down = seen.health is Health.DOWN or member.endpoint in ejected
    if member.admin_state is not AdminState.ENABLED:
        return Verdict(0, f"admin_state is {member.admin_state}", down)
    if seen.health is not Health.UP:
        return Verdict(0, f"health is {seen.health}: {seen.reason}", down)
    if member.endpoint in ejected:
        return Verdict(0, "ejected by outlier_detection: too many failures in a row", down)
    if not member.weight:
        return Verdict(0, "its weight is 0")
    return Verdict(0, choice.passed_over)
