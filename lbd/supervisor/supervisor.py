"""The supervisor's loop: desired state in, plan, actions out; again after every event."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Mapping
from dataclasses import replace
from typing import Protocol

import structlog

from lbd.model.address import Endpoint
from lbd.model.admin_state import AdminStateChange, AdminStateResult
from lbd.model.desired import AdminState, DesiredState, HealthMonitor, MemberKey, VirtualService
from lbd.model.desired import Protocol as Transport
from lbd.model.status import ConnectError, MemberHealth, VipState
from lbd.supervisor.admin_states import AdminStates
from lbd.supervisor.backoff import Backoff
from lbd.supervisor.eligibility import judge
from lbd.supervisor.outliers import Refusal
from lbd.supervisor.plan import (
    Accept,
    Action,
    Actual,
    Claim,
    Drain,
    DrainView,
    Open,
    Remove,
    Reset,
    ServiceKey,
    ServiceView,
    Update,
    Withdraw,
    key_of,
    plan,
)
from lbd.supervisor.seams import Acceptance, Announcer, DataPath, Handle
from lbd.supervisor.service_state import ServiceState, first_results_by_s
from lbd.supervisor.slots import SlotsExhaustedError
from lbd.supervisor.vips import VipDesk

log = structlog.get_logger(__name__)

DRAIN_POLL_S = 0.05
SLOW_START_STEP_S = 0.25
LONG_PASS_S = 0.002
REST_LIMIT_S = 0.05
"""After a pass longer than LONG_PASS_S the loop rests as long as that took, at most REST_LIMIT_S: with hundreds of
services events come faster than passes end, and one pass answers all that came meanwhile."""
IDLE_POLL_S = 5.0
"""How long the loop sleeps when nothing is under way; every event wakes it at once."""


class HealthSource(Protocol):
    """What the loop needs of the health checker."""

    def set_targets(self, targets: Mapping[MemberKey, tuple[HealthMonitor, ...]]) -> None: ...

    def health_of(self, key: MemberKey) -> MemberHealth: ...

    def report_passive(self, key: MemberKey, error: ConnectError) -> None: ...


class Supervisor:
    """Keeps what is in step with what is desired. `wake` may be called from any callback on the event loop."""

    def __init__(self, desired: DesiredState, data_path: DataPath, announcer: Announcer, health: HealthSource) -> None:
        self.admin_states = AdminStates(desired, data_path, time.monotonic())
        self.services: dict[ServiceKey, ServiceState] = {}
        self.draining: dict[Handle, tuple[ServiceState, float]] = {}
        """Services on their way out, and when (monotonic) their drain began."""
        self.backoff: Backoff[Action] = Backoff()
        self.vips = VipDesk(announcer, self.backoff, self.wake)
        self._data_path = data_path
        self._health = health
        self._reset_sent: set[Handle] = set()
        self._opening: VirtualService | None = None
        self._left: dict[str, str] = {}
        """The services that were removed, by name: the VIPs that they were the last to use."""
        self._incarnations = itertools.count(1)
        self._revision = 0
        self._revisions: dict[int, int] = {}
        self._wanted_anew = True
        self._stale: set[str] = set()
        self._woken = asyncio.Event()
        self._settled = asyncio.Event()
        self.stopping = False

    def wake(self) -> None:
        """Something has happened: plan again."""
        self._woken.set()

    def health_changed(self, key: MemberKey) -> None:
        """A member's health has changed: judge its service again."""
        self._stale.add(key.service)
        self.wake()

    def member_failed(self, key: MemberKey, error: ConnectError, in_a_row: int) -> None:
        """The relay could not reach a member, `in_a_row` times without a success between them in one worker."""
        self._health.report_passive(key, error)
        self.outlier_reported(key.service, key.endpoint, in_a_row)

    def outlier_reported(self, service_name: str, endpoint: Endpoint, consecutive: int) -> None:
        """A worker has seen so many failures of a member in a row: eject it, if that is wanted and allowed."""
        now_s = time.monotonic()
        names = {"service": service_name, "member": str(endpoint), "failures": consecutive}
        for state in self.services.values():
            if state.handle.name != service_name:
                continue
            outcome = state.outliers.failures_reported(endpoint, consecutive, now_s)
            if isinstance(outcome, Refusal):
                log.warning("member_ejection_refused", **names, reason=outcome.reason)
            elif outcome is not None:
                log.warning("member_ejected", **names, for_s=outcome.for_s, ejections=outcome.count)
                self._stale.add(service_name)
                self.wake()

    def health_of(self, key: MemberKey) -> MemberHealth:
        """Return what is known of a member's health now."""
        return self._health.health_of(key)

    def set_desired(self, desired: DesiredState) -> None:
        """Take over a new desired state: the whole of it, never a difference."""
        self.admin_states.take_over(desired, time.monotonic())
        self._want_anew()

    def set_admin_state(self, change: AdminStateChange) -> AdminStateResult:
        """Set an admin state over the one that the sources say, until lbd ends."""
        result = self.admin_states.change(change, self.services.values(), time.monotonic())
        if result.success:
            self._want_anew()
        return result

    @property
    def desired(self) -> DesiredState:
        """What is wanted: the sources' state, with the admin states that were set since."""
        return self.admin_states.desired

    def _want_anew(self) -> None:
        self.backoff.clear()
        self._wanted_anew = True
        self._settled.clear()
        self.wake()

    def drain_all(self) -> None:
        """Let go of everything in order; `run` returns when nothing is left."""
        self.stopping = True
        self.backoff.clear()
        self.wake()

    async def run(self) -> None:
        """Plan and act until `drain_all` was called and everything is gone."""
        while True:
            self._woken.clear()
            begun_s = time.monotonic()
            await self._pass(begun_s)
            took_s = time.monotonic() - begun_s
            if self.stopping and not (self.services or self.draining or self.vips.held):
                self._settled.set()  # nobody shall wait for what is no longer wanted
                return
            if took_s > LONG_PASS_S:
                await asyncio.sleep(min(took_s, REST_LIMIT_S))
            try:
                async with asyncio.timeout(self._sleep_s(time.monotonic())):
                    await self._woken.wait()
            except TimeoutError:
                pass  # time itself is the event: a deadline, a retry, a step of slow start

    def holds(self, service_prefix: str) -> bool:
        """Return whether something is left here of the services whose names begin so: one that is open, on its way in
        or out, or a VIP that none but them has used."""
        here = [*(state.handle for state in self.services.values()), *self.draining]
        names = [handle.name for handle in here]
        if self._opening is not None:
            names.append(self._opening.name)
        held = self.vips.states.keys() - {handle.listen.address for handle in here}
        self._left = {name: vip for name, vip in self._left.items() if vip in held}
        return any(name.startswith(service_prefix) for name in (*names, *self._left))

    async def settled(self) -> None:
        """Return when everything desired was done, or has failed and is shown with its reason."""
        await self._settled.wait()

    def generation_of(self, revision: int) -> int:
        """Return the configuration's generation that a worker runs who has acknowledged `revision`."""
        return max((known for at, known in self._revisions.items() if at <= revision), default=0)

    @property
    def applied_generation(self) -> int:
        """The newest generation that all running workers have acknowledged."""
        return self.generation_of(self._data_path.acknowledged_generation())

    async def _pass(self, now_s: float) -> None:
        wanted = self._wanted()
        if self._wanted_anew:
            self._wanted_anew = False
            self._health.set_targets(_targets(wanted))
            changed = True
        else:
            changed = False
        self._refresh(wanted, now_s)
        for action in plan(wanted, self._actual(now_s), now_s):
            done = await self._do(action, now_s)
            changed |= done and isinstance(action, Open | Update)
            self.wake()  # what was done may be what another action waited for
        if changed:
            self._revisions = {at: known for at, known in self._revisions.items() if at >= self._revision - 64}
            self._revisions[self._revision + 1] = wanted.generation
            self._revision += 1
            self._data_path.finish_generation(self._revision)
        self.admin_states.end_drains(self.services.values(), now_s)
        if not self._wanted_anew and self._is_settled(wanted, now_s):
            self._settled.set()

    def _wanted(self) -> DesiredState:
        if not self.stopping:
            return self.desired
        return replace(self.desired, virtual_services=())

    def _refresh(self, wanted: DesiredState, now_s: float) -> None:
        """Judge again. What is about to be drained or updated keeps its weights: its queue is still to be served."""
        self._end_ejections(now_s)
        stale, self._stale = self._stale, set()
        for service in wanted.virtual_services:
            state = self.services.get(key_of(service))
            if state is None or state.applied != service:
                continue
            state.applied = service  # equal, and from now on the same: the next comparison is a short one
            if service.name not in stale and not state.changes_with_time:
                continue
            if state.refresh(self._health.health_of, now_s):
                self._stop_accepting_first(state)
                self._data_path.set_weights(state.handle, state.verdict.weights, state.verdict.down)

    def _end_ejections(self, now_s: float) -> None:
        for state in self.services.values():
            for endpoint in state.outliers.take_ended(now_s):
                log.info("member_ejection_ended", service=state.handle.name, member=str(endpoint))
                self._stale.add(state.handle.name)

    def _actual(self, now_s: float) -> Actual:
        acknowledged = self._data_path.acknowledged_generation()
        services = {
            key: ServiceView(
                handle=state.handle,
                applied=state.applied,
                acknowledged=state.revision <= acknowledged,
                first_results=state.first_results(now_s),
                acceptance=state.acceptance,
                wanted_acceptance=state.verdict.acceptance,
            )
            for key, state in self.services.items()
        }
        draining = self._draining_views()
        retry_at_s = {action: failure.retry_at_s for action, failure in self.backoff.failures.items()}
        return Actual(services, draining, self.vips.states, retry_at_s)

    def _draining_views(self) -> tuple[DrainView, ...]:
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

    async def _do(self, action: Action, now_s: float) -> bool:
        try:
            await self._carry_out(action, now_s)
        except (OSError, SlotsExhaustedError) as error:
            failure = self.backoff.failed(action, str(error), now_s)
            log.error("action_failed", action=describe(action), reason=str(error), failures=failure.count)
            return False
        if not isinstance(action, Claim | Withdraw):  # those end later, and say so then
            self.backoff.succeeded(action)
        return True

    async def _carry_out(self, action: Action, now_s: float) -> None:
        if isinstance(action, Open):
            await self._open(action.service, now_s)
        elif isinstance(action, Update):
            await self._update(action, now_s)
        elif isinstance(action, Accept):
            self._accept(action)
        elif isinstance(action, Drain):
            self._drain(action, now_s)
        elif isinstance(action, Reset):
            self._reset_sent.add(action.handle)
            log.warning("drain_deadline_passed", service=action.handle.name, listen=str(action.handle.listen))
            self._data_path.reset_connections(action.handle, "drain_timeout")
        elif isinstance(action, Remove):
            self._remove(action.handle)
        elif isinstance(action, Claim):
            self.vips.claim(action)
        else:
            self.vips.withdraw(action)

    def _remove(self, handle: Handle) -> None:
        self._data_path.remove(handle)
        self._reset_sent.discard(handle)
        del self.draining[handle]
        self._left[handle.name] = handle.listen.address
        log.info("service_removed", service=handle.name, listen=str(handle.listen))

    async def _open(self, service: VirtualService, now_s: float) -> None:
        key = key_of(service)
        handle = Handle(key.name, key.listen, next(self._incarnations), key.protocol)
        health = {
            member.endpoint: self._health.health_of(MemberKey(service.name, member.endpoint))
            for member in service.pool.members
        }
        verdict = judge(service, health, {}, False, now_s)
        self._opening = service
        try:
            await self._data_path.open(handle, service, verdict.weights, verdict.down)
        finally:
            self._opening = None
        self.services[key] = ServiceState(
            handle, service, self._revision + 1, first_results_by_s(service, now_s), health, verdict
        )
        log.info("service_opened", service=service.name, listen=str(handle.listen), members=len(service.pool.members))

    async def _update(self, action: Update, now_s: float) -> None:
        state = self.services[key_of(action.service)]
        before = state.applied, state.revision
        state.apply(action.service, self._revision + 1, now_s)
        state.refresh(self._health.health_of, now_s)
        self._stop_accepting_first(state)
        try:
            verdict = state.verdict
            await self._data_path.update(
                state.handle, action.service, verdict.weights, verdict.down, self._revision + 1
            )
        except (OSError, SlotsExhaustedError):
            state.applied, state.revision = before  # so that it is planned again
            raise
        log.info("service_updated", service=action.service.name, members=len(action.service.pool.members))

    def _accept(self, action: Accept) -> None:
        state = self.services[_key_of(action.handle)]
        self._set_acceptance(state, action.acceptance)

    def _stop_accepting_first(self, state: ServiceState) -> None:
        """Before the last weight goes: a worker that has no member to give would reset whom it accepts."""
        if state.acceptance is Acceptance.ACCEPT and state.verdict.acceptance is not Acceptance.ACCEPT:
            self._set_acceptance(state, state.verdict.acceptance)

    def _set_acceptance(self, state: ServiceState, acceptance: Acceptance) -> None:
        self._data_path.set_acceptance(state.handle, acceptance)
        state.acceptance = acceptance
        log.info(
            "service_acceptance_changed",
            service=state.handle.name,
            acceptance=acceptance.value,
            reason=state.verdict.reason,
        )

    def _drain(self, action: Drain, now_s: float) -> None:
        state = self.services.pop(_key_of(action.handle))
        self.draining[action.handle] = (state, now_s)
        self._data_path.stop_accepting(action.handle)
        active = self._data_path.traffic(action.handle).active_connections
        reason = "stopping" if self.stopping else action.reason
        log.info("service_draining", service=action.handle.name, connections=active, reason=reason)

    def _sleep_s(self, now_s: float) -> float:
        until_s = [now_s + IDLE_POLL_S]
        if self.draining:
            until_s.append(now_s + DRAIN_POLL_S)
        until_s += [retry.retry_at_s for retry in self.backoff.failures.values() if retry.retry_at_s > now_s]
        deadline_s = self.admin_states.next_s()
        if deadline_s is not None:
            until_s.append(max(deadline_s, now_s + DRAIN_POLL_S))
        for state in self.services.values():
            if state.up_since_s:
                until_s.append(now_s + SLOW_START_STEP_S)
            if state.first_results_by_s > now_s:
                until_s.append(state.first_results_by_s)
            ejection_ends_s = state.outliers.next_change_s()
            if ejection_ends_s is not None:
                until_s.append(ejection_ends_s)
        return max(0.01, min(until_s) - now_s)

    def _is_settled(self, wanted: DesiredState, now_s: float) -> bool:
        acknowledged = self._data_path.acknowledged_generation()
        failures = self.backoff.failures
        for service in wanted.virtual_services:
            state = self.services.get(key_of(service))
            if state is None:
                if Open(service) not in failures:
                    return False
            elif state.revision > acknowledged or state.applied != service or not state.first_results(now_s):
                return False
        states = self.vips.states
        unsettled = (VipState.CLAIMING, VipState.WITHDRAWING)
        return self._revision > 0 and all(
            states.get(vip) not in unsettled and (vip in states or self._all_failed(vip, wanted)) for vip in wanted.vips
        )

    def _all_failed(self, vip: str, wanted: DesiredState) -> bool:
        failures = self.backoff.failures
        return all(Open(service) in failures for service in wanted.virtual_services if service.vip == vip)


def _targets(desired: DesiredState) -> dict[MemberKey, tuple[HealthMonitor, ...]]:
    """What to check: every member that is not disabled, of every service that is not."""
    return {
        MemberKey(service.name, member.endpoint): service.pool.health_monitors
        for service in desired.virtual_services
        if service.admin_state is not AdminState.DISABLED
        for member in service.pool.members
        if member.admin_state is not AdminState.DISABLED
    }


def _key_of(handle: Handle) -> ServiceKey:
    return ServiceKey(handle.name, handle.listen, handle.transport)


def describe(action: Action) -> str:
    """Return an action as words for logs and `lbd status`."""
    if isinstance(action, Open):
        return f"open {action.service.name} on {action.service.listen}"
    if isinstance(action, Claim | Withdraw):
        return f"{type(action).__name__.lower()} {action.vip}"
    return f"{type(action).__name__.lower()} {action.handle}"
