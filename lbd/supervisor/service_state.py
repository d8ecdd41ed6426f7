"""What the supervisor remembers of one virtual service that is open in the data path."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from lbd.model.address import Endpoint
from lbd.model.desired import AdminState, MemberKey, VirtualService
from lbd.model.status import Health, MemberHealth
from lbd.supervisor.eligibility import PoolVerdict, judge
from lbd.supervisor.outliers import Outliers
from lbd.supervisor.seams import Acceptance, Handle

SLOW_START_STEP_S = 0.25
"""How often the weight of a member in slow start grows."""
FIRST_RESULT_GRACE_S = 0.5
"""Added to the longest monitor timeout: a check may start a little late."""


@dataclass(slots=True)
class ServiceState:
    """An open service: what was applied of it, and what its members' health means for it now."""

    handle: Handle
    applied: VirtualService
    revision: int
    """Of the change that the workers must have acknowledged before it counts as theirs."""
    first_results_by_s: float
    health: dict[Endpoint, MemberHealth]
    verdict: PoolVerdict
    generation: int = 0
    """Of the desired state from which it was applied."""
    acceptance: Acceptance = Acceptance.HOLD
    up_since_s: dict[Endpoint, float] = field(default_factory=dict)
    """Of the members in slow start."""
    decided: bool = False
    """The verdict was made with first results: only a change of health or of the definition can change it, not time."""
    was_decided: bool = False
    """It was once: a VIP is not held up again by members that are added later."""
    outliers: Outliers = field(default_factory=Outliers)

    def __post_init__(self) -> None:
        self._configure_outliers()

    def next_change_s(self, now_s: float) -> float | None:
        """When the verdict may come out differently just because time has passed, or None if it can't."""
        ends = [self.outliers.next_change_s()]
        if self.up_since_s:
            ends.append(now_s + SLOW_START_STEP_S)
        if not self.decided:
            ends.append(self.first_results_by_s)
        return min((end_s for end_s in ends if end_s is not None), default=None)

    def apply(self, service: VirtualService, revision: int, now_s: float) -> None:
        """Take over a changed definition; new members get time for their first result."""
        known = {member.endpoint for member in self.applied.pool.members}
        if any(member.endpoint not in known for member in service.pool.members):
            if self.was_decided:  # else the first decision would be put off for as long as members are added
                self.first_results_by_s = first_results_by_s(service, now_s)
            self.decided = False
        self.applied = service
        self.revision = revision
        self._configure_outliers()

    def _configure_outliers(self) -> None:
        pool = self.applied.pool
        enabled = [member.endpoint for member in pool.members if member.admin_state is AdminState.ENABLED]
        self.outliers.configure(pool.outlier_detection, enabled)

    def first_results(self, now_s: float) -> bool:
        """True when every enabled member has a health result, or had the time for one."""
        return (
            self.decided
            or now_s >= self.first_results_by_s
            or all(
                self.health[member.endpoint].health is not Health.UNKNOWN
                for member in self.applied.pool.members
                if member.admin_state is AdminState.ENABLED
            )
        )

    def refresh(self, health_of: Callable[[MemberKey], MemberHealth], now_s: float) -> bool:
        """Read the members' health and judge again; return True when weights changed, or who is down."""
        pool = self.applied.pool
        before = self.health
        self.health = {
            member.endpoint: health_of(MemberKey(self.applied.name, member.endpoint)) for member in pool.members
        }
        self._note_slow_start(before, now_s)
        known = self.verdict.weights, self.verdict.down
        self.decided = self.first_results(now_s)
        self.was_decided |= self.decided
        ejected = self.outliers.ejected(now_s)
        self.verdict = judge(self.applied, self.health, self.up_since_s, self.decided, now_s, ejected)
        return known != (self.verdict.weights, self.verdict.down)

    def _note_slow_start(self, before: dict[Endpoint, MemberHealth], now_s: float) -> None:
        """Slow start is for a member that joins others who serve already: at the start of all, nobody is spared."""
        slow_start_s = self.applied.pool.slow_start_s
        others_up = any(health.health is Health.UP for health in before.values())
        for endpoint, health in self.health.items():
            was_up = endpoint in before and before[endpoint].health is Health.UP
            if health.health is Health.UP and not was_up and slow_start_s and others_up:
                self.up_since_s[endpoint] = now_s
        self.up_since_s = {
            endpoint: since_s
            for endpoint, since_s in self.up_since_s.items()
            if now_s - since_s < slow_start_s and endpoint in self.health and self.health[endpoint].health is Health.UP
        }


def first_results_by_s(service: VirtualService, now_s: float) -> float:
    """Return when every member has had the time for its first health result."""
    longest_s = max((monitor.timeout_s for monitor in service.pool.health_monitors), default=0.0)
    return now_s + longest_s + FIRST_RESULT_GRACE_S
