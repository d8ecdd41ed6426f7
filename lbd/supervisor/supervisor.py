"""The supervisor's loop: desired state in, plan, actions out; again after every event."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Collection, Mapping
from dataclasses import replace
from typing import Protocol

import structlog

from lbd.model.address import Endpoint
from lbd.model.admin_state import AdminStateChange, AdminStateResult
from lbd.model.desired import DesiredState, HealthMonitor, MemberKey, VirtualService
from lbd.model.status import ConnectError, MemberHealth, VipState
from lbd.supervisor.admin_states import AdminStates
from lbd.supervisor.agenda import Agenda
from lbd.supervisor.backoff import Backoff
from lbd.supervisor.departures import Departures
from lbd.supervisor.eligibility import judge
from lbd.supervisor.health_targets import changed_targets
from lbd.supervisor.outliers import Refusal
from lbd.supervisor.plan import (
    Accept,
    Action,
    Actual,
    Claim,
    Drain,
    Open,
    Remove,
    Reset,
    ServiceKey,
    ServiceView,
    Update,
    Withdraw,
    describe,
    key_of,
    plan,
    vip_of,
)
from lbd.supervisor.revisions import Revisions
from lbd.supervisor.seams import Acceptance, Announcer, DataPath, Handle
from lbd.supervisor.service_index import Difference, ServiceIndex, Wanted
from lbd.supervisor.service_state import ServiceState, first_results_by_s
from lbd.supervisor.settling import Settling
from lbd.supervisor.slots import SlotsExhaustedError
from lbd.supervisor.vips import VipDesk

log = structlog.get_logger(__name__)

DRAIN_POLL_S = 0.05
LONG_PASS_S = 0.002
REST_LIMIT_S = 0.05
"""After a pass longer than LONG_PASS_S the loop rests as long as that took, at most REST_LIMIT_S: with hundreds of
services events come faster than passes end, and one pass answers all that came meanwhile."""


class HealthSource(Protocol):
    """What the loop needs of the health checker."""

    def change_targets(
        self, targets: Mapping[MemberKey, tuple[HealthMonitor, ...]], gone: Collection[MemberKey] = ()
    ) -> None: ...

    def health_of(self, key: MemberKey) -> MemberHealth: ...

    def report_passive(self, key: MemberKey, error: ConnectError) -> None: ...


class Supervisor:
    """Keeps what is in step with what is desired. `wake` may be called from any callback on the event loop."""

    def __init__(self, desired: DesiredState, data_path: DataPath, announcer: Announcer, health: HealthSource) -> None:
        self.admin_states = AdminStates(desired, data_path, time.monotonic())
        self.backoff: Backoff[Action] = Backoff()
        self.vips = VipDesk(announcer, self.backoff, self._vip_moved)
        self._data_path = data_path
        self._health = health
        self._wanted = Wanted()
        self._open_services: ServiceIndex[ServiceState] = ServiceIndex()
        self._agenda = Agenda()
        self._settling = Settling()
        self._revisions = Revisions()
        self._departures = Departures(data_path)
        self._opening: VirtualService | None = None
        self._incarnations = itertools.count(1)
        self._changes = 1
        """How often something else was wanted, and how often that was taken over."""
        self._changes_taken = 0
        self._stale: set[str] = set()
        self._woken = asyncio.Event()
        self.stopping = False

    @property
    def services(self) -> Mapping[ServiceKey, ServiceState]:
        """What is open in the data path, and not on its way out."""
        return self._open_services.all

    @property
    def draining(self) -> Mapping[Handle, tuple[ServiceState, float]]:
        """Services on their way out, and when (monotonic) their drain began."""
        return self._departures.draining

    def wake(self) -> None:
        """Something has happened: plan again."""
        self._woken.set()

    def _vip_moved(self, vip: str) -> None:
        self._agenda.touch((vip,))
        self.wake()

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
        for state in self._open_services.named(service_name).values():
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
        self._changes += 1
        self.wake()

    def retry_failed(self) -> None:
        """Try everything that has failed again at once: somebody may have removed the cause."""
        self._agenda.touch(vip_of(action) for action in self.backoff.failures)
        self.backoff.clear()
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
                self._settling.end()
                return
            if took_s > LONG_PASS_S:
                await asyncio.sleep(min(took_s, REST_LIMIT_S))
            try:
                async with asyncio.timeout(self._sleep_s(time.monotonic())):
                    await self._woken.wait()
            except TimeoutError:
                pass  # time itself is the event: a deadline, a retry, a step of slow start

    def held(self) -> set[str]:
        """Return the names of the services of which something is left here: that are open, on their way in or out, or
        whose VIP is still here and nobody else's."""
        here = [*(state.handle for state in self.services.values()), *self.draining]
        names = {handle.name for handle in here}
        if self._opening is not None:
            names.add(self._opening.name)
        names.update(self._departures.left_behind(self.vips.states, (handle.listen.address for handle in here)))
        return names

    async def settled(self) -> None:
        """Return when everything that is desired now was done, or has failed and is shown with its reason."""
        await self._settling.wait(self._changes)

    def generation_of(self, revision: int) -> int:
        """Return the desired state's generation that a worker runs who has acknowledged `revision`."""
        return self._revisions.generation_of(revision)

    @property
    def applied_generation(self) -> int:
        """The newest generation that all running workers have acknowledged."""
        return self.generation_of(self._data_path.acknowledged_generation())

    async def _pass(self, now_s: float) -> None:
        """Take over what is wanted, judge whose health has changed, do what can be done, and see what is settled."""
        changes = self._changes
        changed = changes != self._changes_taken
        self._changes_taken = changes
        desired = self.desired
        self._take_over(desired)
        self._judge(now_s)
        self._agenda.acknowledged(self._data_path.acknowledged_generation())
        self._agenda.touch(vip_of(action) for action, failure in self.backoff.failures.items() if failure.due(now_s))
        vips = self._agenda.take(now_s, self._all_vips)
        for action in plan(self._desired_on(desired, vips), self._actual_on(vips, now_s), now_s):
            done = await self._do(action, desired.generation, now_s)
            changed |= done and isinstance(action, Open | Update)
            self._agenda.touch((vip_of(action),))  # what was done may be what another action waited for
            self.wake()
        if changed:
            self._data_path.finish_generation(self._revisions.finish(desired.generation))
        self.admin_states.end_drains(self.services.values(), now_s)
        self._note_settled(vips, changes, now_s)

    def _take_over(self, desired: DesiredState) -> None:
        difference = self._wanted.take(() if self.stopping else desired.virtual_services)
        if not (difference.now or difference.before):
            return
        self._agenda.touch(difference.vips)
        if not self.stopping:  # what drains is checked to the end
            self._health.change_targets(*changed_targets(difference))
        self._forget_failures(difference)

    def _forget_failures(self, difference: Difference) -> None:
        """What has changed deserves a new try; what has not, waits for its turn, however often something else does."""
        before = {key_of(service) for service in difference.before}

        def deserves_no_other(action: Action) -> bool:
            if isinstance(action, Claim | Withdraw):
                return bool(self._wanted.on(action.vip)) is isinstance(action, Claim)
            return not isinstance(action, Open | Update) or key_of(action.service) not in before

        self.backoff.keep(deserves_no_other)

    def _all_vips(self) -> set[str]:
        everything = {key.listen.address for key in self._wanted.all.keys() | self.services.keys()}
        return everything | self.vips.states.keys()

    def _judge(self, now_s: float) -> None:
        """Judge again. What is about to be drained or updated keeps its weights: its queue is still to be served."""
        stale, self._stale = self._stale, set()
        keys = {key for name in stale for key in self._open_services.named(name)}
        for key in keys.union(self._agenda.take_due(now_s)):
            state = self.services.get(key)
            if state is None or state.applied != self._wanted.all.get(key):
                continue
            self._agenda.touch((key.listen.address,))
            for endpoint in state.outliers.take_ended(now_s):
                log.info("member_ejection_ended", service=key.name, member=str(endpoint))
            if state.refresh(self._health.health_of, now_s):
                self._stop_accepting_first(state)
                self._data_path.set_weights(state.handle, state.verdict.weights, state.verdict.down)
            self._agenda.judge_at(key, state.next_change_s(now_s))

    def _desired_on(self, desired: DesiredState, vips: set[str]) -> DesiredState:
        services = tuple(service for vip in vips for service in self._wanted.on(vip).values())
        return replace(desired, virtual_services=services)

    def _actual_on(self, vips: set[str], now_s: float) -> Actual:
        acknowledged = self._data_path.acknowledged_generation()
        services = {
            key: ServiceView(
                handle=state.handle,
                applied=state.applied,
                acknowledged=state.revision <= acknowledged,
                first_results=state.was_decided or state.first_results(now_s),
                acceptance=state.acceptance,
                wanted_acceptance=state.verdict.acceptance,
            )
            for vip in vips
            for key, state in self._open_services.on(vip).items()
        }
        states = {vip: state for vip in vips if (state := self.vips.state(vip)) is not None}
        retry_at_s = {action: failure.retry_at_s for action, failure in self.backoff.failures.items()}
        return Actual(services, self._departures.views(), states, retry_at_s)

    async def _do(self, action: Action, generation: int, now_s: float) -> bool:
        try:
            await self._carry_out(action, generation, now_s)
        except (OSError, SlotsExhaustedError) as error:
            failure = self.backoff.failed(action, str(error), now_s)
            log.error("action_failed", action=describe(action), reason=str(error), failures=failure.count)
            return False
        if not isinstance(action, Claim | Withdraw):  # those end later, and say so then
            self.backoff.succeeded(action)
        return True

    async def _carry_out(self, action: Action, generation: int, now_s: float) -> None:
        if isinstance(action, Open):
            await self._open(action.service, generation, now_s)
        elif isinstance(action, Update):
            await self._update(action, generation, now_s)
        elif isinstance(action, Accept):
            self._accept(action)
        elif isinstance(action, Drain):
            self._drain(action, now_s)
        elif isinstance(action, Reset):
            self._departures.reset(action.handle)
        elif isinstance(action, Remove):
            self._remove(action.handle)
        elif isinstance(action, Claim):
            self.vips.claim(action)
        else:
            self.vips.withdraw(action)

    def _remove(self, handle: Handle) -> None:
        self._departures.remove(handle)
        self.backoff.keep(lambda action: isinstance(action, Open | Claim | Withdraw) or action.handle != handle)

    async def _open(self, service: VirtualService, generation: int, now_s: float) -> None:
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
        by_s = first_results_by_s(service, now_s)
        state = ServiceState(handle, service, self._revisions.next, by_s, health, verdict, generation)
        self._open_services.put(key, state)
        self._stale.add(key.name)
        log.info("service_opened", service=service.name, listen=str(handle.listen), members=len(service.pool.members))

    async def _update(self, action: Update, generation: int, now_s: float) -> None:
        key = key_of(action.service)
        state = self.services[key]
        before = state.applied, state.revision, state.generation
        revision = self._revisions.next
        state.apply(action.service, revision, now_s)
        state.generation = generation
        state.refresh(self._health.health_of, now_s)
        self._agenda.judge_at(key, state.next_change_s(now_s))
        self._stop_accepting_first(state)
        try:
            verdict = state.verdict
            await self._data_path.update(state.handle, action.service, verdict.weights, verdict.down, revision)
        except (OSError, SlotsExhaustedError):
            state.applied, state.revision, state.generation = before  # so that it is planned again
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
        key = _key_of(action.handle)
        state = self._open_services.pop(key)
        self._agenda.judge_at(key, None)
        self._departures.begin(state, "stopping" if self.stopping else action.reason, now_s)

    def _sleep_s(self, now_s: float) -> float:
        until_s = [self._agenda.next_s()]
        if self.draining:
            until_s.append(now_s + DRAIN_POLL_S)
        until_s += [retry.retry_at_s for retry in self.backoff.failures.values() if retry.retry_at_s > now_s]
        deadline_s = self.admin_states.next_s()
        if deadline_s is not None:
            until_s.append(max(deadline_s, now_s + DRAIN_POLL_S))
        return max(0.01, min(until_s) - now_s)

    def _note_settled(self, vips: set[str], changes: int, now_s: float) -> None:
        """See which of the VIPs that were looked at are in order now."""
        acknowledged = self._data_path.acknowledged_generation()
        for vip in vips:
            if any(state.revision > acknowledged for state in self._open_services.on(vip).values()):
                self._agenda.await_workers(vip)
        settled = {vip for vip in vips if self._is_settled(vip, acknowledged, now_s)}
        self._settling.note(settled, vips - settled, changes)

    def _is_settled(self, vip: str, acknowledged: int, now_s: float) -> bool:
        wanted = self._wanted.on(vip)
        if not wanted:
            return True
        failures = self.backoff.failures
        all_failed = True
        for key, service in wanted.items():
            state = self.services.get(key)
            if state is None:
                if Open(service) not in failures:
                    return False
                continue
            all_failed = False
            if state.revision > acknowledged or state.applied != service or not state.first_results(now_s):
                return False
        known = self.vips.state(vip)
        return all_failed if known is None else known not in (VipState.CLAIMING, VipState.WITHDRAWING)


def _key_of(handle: Handle) -> ServiceKey:
    return ServiceKey(handle.name, handle.listen, handle.transport)
