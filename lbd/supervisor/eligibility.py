"""Which members get new connections, with which weight, and why the others get none. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from lbd.balancing.slow_start import effective_weight
from lbd.model.address import Endpoint
from lbd.model.desired import AdminState, Algorithm, Member, OnAllDown, VirtualService
from lbd.model.status import Health, MemberHealth
from lbd.supervisor.seams import Acceptance


@dataclass(frozen=True, slots=True)
class Verdict:
    """What one member gets: a scaled weight (0: nothing) and, then, the sentence that says why."""

    weight: int
    reason: str = ""
    down: bool = False
    """It gets nothing because it does not work, not because somebody wants it so."""


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
        """Which members get nothing because they do not work."""
        return [verdict.down for verdict in self.members]


def judge(
    service: VirtualService,
    health: Mapping[Endpoint, MemberHealth],
    up_since_s: Mapping[Endpoint, float],
    first_results: bool,
    now_s: float,
) -> PoolVerdict:
    """Judge every member of a service.

    `up_since_s` has an entry for each member in slow start: when it came up. `first_results` says that every member has
    had a health result, or one monitor timeout has passed since it was added.
    """
    pool = service.pool
    enabled = [member for member in pool.members if member.admin_state is AdminState.ENABLED]
    any_up = any(health[member.endpoint].health is Health.UP for member in enabled)
    serve_all = first_results and not any_up and pool.on_all_down is OnAllDown.SERVE_ALL
    verdicts = tuple(_judge_member(service, member, health, up_since_s, serve_all, now_s) for member in pool.members)
    if service.admin_state is not AdminState.ENABLED:
        return PoolVerdict(verdicts, Acceptance.REFUSE, f"the virtual service is {service.admin_state}")
    if any(verdict.weight for verdict in verdicts):
        reason = "no member is up: on_all_down is serve_all" if serve_all else ""
        return PoolVerdict(verdicts, Acceptance.ACCEPT, reason)
    if not first_results:
        return PoolVerdict(verdicts, Acceptance.HOLD, "waiting for the first health results")
    if not pool.members:
        return PoolVerdict(verdicts, Acceptance.REFUSE, "the pool has no member")
    return PoolVerdict(verdicts, Acceptance.REFUSE, "no member is up and enabled")


def _judge_member(
    service: VirtualService,
    member: Member,
    health: Mapping[Endpoint, MemberHealth],
    up_since_s: Mapping[Endpoint, float],
    serve_all: bool,
    now_s: float,
) -> Verdict:
    if member.admin_state is not AdminState.ENABLED:
        return Verdict(0, f"admin_state is {member.admin_state}")
    seen = health[member.endpoint]
    if seen.health is not Health.UP and not serve_all:
        return Verdict(0, f"health is {seen.health}: {seen.reason}", down=seen.health is Health.DOWN)
    slow_start_s = service.pool.slow_start_s
    came_up_s = up_since_s.get(member.endpoint)
    if came_up_s is None or service.pool.algorithm is Algorithm.CONSISTENT_HASH:
        slow_start_s = 0.0
    up_for_s = now_s - came_up_s if came_up_s is not None else slow_start_s
    return Verdict(effective_weight(member.weight, up_for_s, slow_start_s))
