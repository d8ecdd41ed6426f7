"""The one snapshot that status, metrics and the admin API read, made from what the supervisor knows."""

from __future__ import annotations

import os
import resource
import time
from dataclasses import replace

from lbd.model.desired import Member, MemberKey, VirtualService
from lbd.model.status import (
    ConfigStatus,
    Health,
    MemberHealth,
    MemberStatus,
    Status,
    Traffic,
    VirtualServiceStatus,
    WorkerStatus,
)
from lbd.supervisor.eligibility import Verdict
from lbd.supervisor.limit_watch import reason_at_limit
from lbd.supervisor.plan import Open, describe, key_of
from lbd.supervisor.seams import Acceptance, DataPath
from lbd.supervisor.service_state import ServiceState
from lbd.supervisor.supervisor import Supervisor

_WEIGHT_SCALE = 100.0
_STATES = {Acceptance.ACCEPT: "serving", Acceptance.HOLD: "starting", Acceptance.REFUSE: "no_member_up"}


class Snapshots:
    """Takes snapshots. `loop_lag_s` is the supervisor's own, measured by its owner."""

    def __init__(self, version: str, supervisor: Supervisor, data_path: DataPath) -> None:
        self._version = version
        self._supervisor = supervisor
        self._data_path = data_path
        self._started_s = time.monotonic()
        self.loop_lag_s = 0.0

    def take(self, config: ConfigStatus) -> Status:
        """Return what is now."""
        supervisor = self._supervisor
        desired = supervisor.desired
        engine = desired.service_engine
        workers = tuple(self._worker(worker) for worker in self._data_path.workers())
        forms = {worker.form for worker in workers if worker.form}
        state = "draining" if supervisor.stopping else "running" if supervisor.applied_generation else "starting"
        return Status(
            version=self._version,
            service_engine=engine.name,
            state=state,
            form=forms.pop() if len(forms) == 1 else "mixed" if forms else "",
            pid=os.getpid(),
            uptime_s=time.monotonic() - self._started_s,
            frontend_interface=engine.frontend_interface,
            generation=desired.generation,
            applied_generation=supervisor.applied_generation,
            config=config,
            workers=workers,
            vips=supervisor.vips.status(() if supervisor.stopping else desired.vips, engine.frontend_interface),
            virtual_services=self._services(),
            descriptors_used=len(os.listdir("/proc/self/fd")) - 1,
            descriptors_limit=resource.getrlimit(resource.RLIMIT_NOFILE)[0],
            loop_lag_s=self.loop_lag_s,
            problems=self._problems(workers, config),
        )

    def _worker(self, worker: WorkerStatus) -> WorkerStatus:
        return replace(worker, generation=self._supervisor.generation_of(worker.generation))

    def _services(self) -> tuple[VirtualServiceStatus, ...]:
        supervisor = self._supervisor
        wanted = supervisor.desired.virtual_services
        if supervisor.stopping:  # nothing is wanted any more: what is not open is gone, not about to be opened
            wanted = tuple(service for service in wanted if key_of(service) in supervisor.services)
        statuses = [self._service(service, supervisor.services.get(key_of(service))) for service in wanted]
        for state, since_s in supervisor.draining.values():
            reason = f"draining for {time.monotonic() - since_s:.0f} s, until its connections have ended"
            statuses.append(self._open_service(state.applied, state, "draining", reason))
        return tuple(statuses)

    def _service(self, service: VirtualService, state: ServiceState | None) -> VirtualServiceStatus:
        if state is None:
            failure = self._supervisor.backoff.failures.get(Open(service))
            name, reason = ("failed", failure.reason) if failure else ("starting", "not opened yet")
            nothing = Verdict(0, f"the virtual service is not open: {reason}")
            members = tuple(self._member(member, None, nothing, name) for member in service.pool.members)
            wanted_generation = self._supervisor.desired.generation
            return replace(_unopened(service, name, reason), wanted_generation=wanted_generation, members=members)
        if service.admin_state != "enabled":
            return self._open_service(service, state, service.admin_state.value, state.verdict.reason)
        if state.applied != service:
            return self._open_service(service, state, _STATES[state.acceptance], "a change is being applied")
        return self._open_service(service, state, _STATES[state.acceptance], state.verdict.reason)

    def _open_service(
        self, service: VirtualService, state: ServiceState, name: str, reason: str
    ) -> VirtualServiceStatus:
        verdicts = dict(zip((m.endpoint for m in state.applied.pool.members), state.verdict.members, strict=True))
        members = tuple(
            self._member(member, state, verdicts.get(member.endpoint), name) for member in service.pool.members
        )
        acknowledged = self._data_path.acknowledged_generation()
        traffic = self._data_path.traffic(state.handle)
        return replace(
            _unopened(service, name, reason or reason_at_limit(service, traffic)),
            generation=state.generation if acknowledged >= state.revision else 0,
            wanted_generation=state.generation,
            traffic=traffic,
            members=members,
        )

    def _member(
        self, member: Member, state: ServiceState | None, verdict: Verdict | None, service_state: str
    ) -> MemberStatus:
        health = MemberHealth()
        if state is not None:
            health = self._supervisor.health_of(MemberKey(state.handle.name, member.endpoint))
        if verdict is None:
            verdict = Verdict(0, "it is being added")
        traffic = Traffic()
        if state is not None:
            traffic = self._data_path.member_traffic(state.handle, member.endpoint)
        reason = verdict.reason
        if not reason and service_state not in ("serving", "starting"):
            reason = f"the virtual service is {service_state.replace('_', ' ')}"
        if not reason and 0 < member.max_connections <= traffic.active_connections:
            reason = f"at its limit of {member.max_connections} connections"
        seen = health.health is not Health.UNKNOWN
        return MemberStatus(
            address=member.endpoint.address,
            port=member.endpoint.port,
            weight=member.weight,
            effective_weight=verdict.weight / _WEIGHT_SCALE,
            admin_state=member.admin_state.value,
            health=health.health,
            health_reason=health.reason,
            health_for_s=time.monotonic() - health.since_s if seen else 0.0,
            eligible=verdict.weight > 0 and service_state == "serving",
            reason=reason,
            monitors=health.monitors,
            passive_failures=health.passive_failures,
            traffic=traffic,
        )

    def _problems(self, workers: tuple[WorkerStatus, ...], config: ConfigStatus) -> tuple[str, ...]:
        problems = [
            f"{describe(action)} failed {failure.count} times: {failure.reason}"
            for action, failure in self._supervisor.backoff.failures.items()
        ]
        problems += self._supervisor.admin_states.sentences()
        for worker in workers:
            if worker.state in ("hung", "dead"):
                problems.append(f"worker {worker.index} is {worker.state}: the others serve its connections meanwhile")
            elif worker.state == "running" and not worker.accepting:
                problems.append(
                    f"worker {worker.index} accepts nothing: {worker.descriptors_used} of {worker.descriptors_limit} "
                    "descriptors are in use; raise LimitNOFILE or add service engines"
                )
            if worker.effective_capabilities not in (worker.expected_capabilities, "?"):
                problems.append(
                    f"worker {worker.index} has capabilities {worker.effective_capabilities} "
                    f"instead of {worker.expected_capabilities}"
                )
        if not config.last_reload_success:
            problems.append(
                f"the last reload was refused, generation {config.generation} stays: {len(config.errors)} errors"
            )
        return tuple(problems)


def _unopened(service: VirtualService, state: str, reason: str) -> VirtualServiceStatus:
    """Return the status of a service of which nothing but its configuration is known."""
    return VirtualServiceStatus(
        name=service.name,
        vip=service.vip,
        port=service.port,
        protocol=service.protocol.value,
        algorithm=service.pool.algorithm.value,
        admin_state=service.admin_state.value,
        state=state,
        reason=reason,
        generation=0,
        wanted_generation=0,
        traffic=Traffic(),
        members=(),
    )
