"""Who is to be checked. Pure."""

from __future__ import annotations

from lbd.model.desired import AdminState, HealthMonitor, MemberKey, VirtualService
from lbd.supervisor.service_index import Difference

Targets = dict[MemberKey, tuple[HealthMonitor, ...]]


def targets_of(service: VirtualService) -> Targets:
    """What to check of a service: every member that is not disabled, unless the service is."""
    if service.admin_state is AdminState.DISABLED:
        return {}
    return {
        MemberKey(service.name, member.endpoint): service.pool.health_monitors
        for member in service.pool.members
        if member.admin_state is not AdminState.DISABLED
    }


def changed_targets(difference: Difference) -> tuple[Targets, set[MemberKey]]:
    """Return who is to be checked of the services that differ, and who is not any more."""
    wanted: Targets = {}
    for service in difference.now:
        wanted.update(targets_of(service))
    gone = {key for service in difference.before for key in targets_of(service) if key not in wanted}
    return wanted, gone
