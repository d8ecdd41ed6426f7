"""Sets admin states at run time, and resets what members and services have left when their drain takes too long."""

from __future__ import annotations

from collections.abc import Iterable

import structlog

from lbd.model.admin_state import AdminStateChange, AdminStateResult
from lbd.model.desired import AdminState, DesiredState
from lbd.supervisor.drain_deadlines import DrainDeadlines
from lbd.supervisor.overrides import Override, Overrides, Target, UnknownTargetError, configured_state, target_of
from lbd.supervisor.seams import DataPath
from lbd.supervisor.service_state import ServiceState

log = structlog.get_logger(__name__)

RESET_REASON = "drain_timeout"


class AdminStates:
    """The supervisor's admin states: those of the files, and over them those that were set since lbd started."""

    def __init__(self, configured: DesiredState, data_path: DataPath, now_s: float) -> None:
        self._configured = configured
        self._data_path = data_path
        self._overrides = Overrides()
        self._deadlines = DrainDeadlines()
        self.desired = configured
        """The configuration, with what was set since over it."""
        self._renew(now_s)

    def take_over(self, configured: DesiredState, now_s: float) -> None:
        """Take over a new configuration; what was set of the services and members that it still has stays."""
        self._configured = configured
        self._overrides.keep_only(configured)
        self._renew(now_s)

    def change(self, change: AdminStateChange, states: Iterable[ServiceState], now_s: float) -> AdminStateResult:
        """Set an admin state, or say why that makes no sense."""
        try:
            target = target_of(change, self._configured)
        except UnknownTargetError as error:
            return AdminStateResult(False, str(error))
        configured = configured_state(target, self._configured)
        deadline_s = None if change.deadline_s is None else now_s + change.deadline_s
        self._overrides.set(target, Override(change.admin_state, deadline_s), self._configured)
        self._renew(now_s)
        active = sum(self._active(target, state) for state in states if state.handle.name == target.service)
        log.info(
            "admin_state_set",
            service=target.service,
            member=None if target.endpoint is None else str(target.endpoint),
            admin_state=change.admin_state.value,
            configured=configured.value,
            deadline_s=change.deadline_s,
            connections=active,
        )
        return AdminStateResult(True, "", configured.value, active)

    def sentences(self) -> tuple[str, ...]:
        """Say what was set otherwise than the files have it: a restart forgets that."""
        return tuple(
            f"{target} is {override.admin_state} since it was set so at run time, and the configuration says "
            f"{configured_state(target, self._configured)}: {_how_to_keep(target)}"
            for target, override in self._overrides.known.items()
            if override.admin_state is not configured_state(target, self._configured)
        )

    def end_drains(self, states: Iterable[ServiceState], now_s: float) -> None:
        """Reset what is still open of those whose deadline has passed."""
        due = self._deadlines.due(now_s)
        if not due:
            return
        by_name: dict[str, list[ServiceState]] = {}
        for state in states:
            by_name.setdefault(state.handle.name, []).append(state)
        for target in due:
            services = by_name.get(target.service, [])
            if any(_is_enabled(target, state) for state in services):
                continue  # the change has not arrived yet, and it would get new connections
            for state in services:
                self._reset(target, state)
            self._deadlines.done(target)

    def next_s(self) -> float | None:
        """When the next deadline passes or, where one has to wait for a change to arrive, has passed."""
        return self._deadlines.next_s()

    def _reset(self, target: Target, state: ServiceState) -> None:
        connections = self._active(target, state)
        if not connections:
            return
        handle, endpoint = state.handle, target.endpoint
        if endpoint is None:
            log.warning("service_drain_deadline_passed", service=handle.name, connections=connections)
            self._data_path.reset_connections(handle, RESET_REASON)
        else:
            names = {"service": handle.name, "member": str(endpoint)}
            log.warning("member_drain_deadline_passed", **names, connections=connections)
            self._data_path.reset_member(handle, endpoint, RESET_REASON)

    def _active(self, target: Target, state: ServiceState) -> int:
        if target.endpoint is None:
            return self._data_path.traffic(state.handle).active_connections
        return self._data_path.member_traffic(state.handle, target.endpoint).active_connections

    def _renew(self, now_s: float) -> None:
        self.desired = self._overrides.apply(self._configured)
        self._deadlines.update(self.desired, self._overrides.known, now_s)


def _how_to_keep(target: Target) -> str:
    if "/" in target.service:  # of a cluster's Service, which has no such key
        return "a restart forgets it"
    return "write it there, a restart forgets it"


def _is_enabled(target: Target, state: ServiceState) -> bool:
    """What of the target was applied in the data path."""
    if target.endpoint is None:
        return state.applied.admin_state is AdminState.ENABLED
    members = state.applied.pool.members
    return any(m.endpoint == target.endpoint and m.admin_state is AdminState.ENABLED for m in members)
