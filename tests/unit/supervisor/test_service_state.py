"""What an open service remembers: ejections are judged, and end, and outlive a change of the pool."""

from __future__ import annotations

from dataclasses import replace

from lbd.model.address import Endpoint
from lbd.model.desired import AdminState, Member, MemberKey, OutlierDetection, Pool, VirtualService
from lbd.model.status import Health, MemberHealth
from lbd.supervisor.eligibility import judge
from lbd.supervisor.seams import Handle
from lbd.supervisor.service_state import ServiceState

ENDPOINTS = [Endpoint(f"10.0.0.{number}", 80) for number in (1, 2, 3)]
WEB = VirtualService(
    "web",
    "172.16.0.1",
    80,
    Pool(tuple(Member(endpoint) for endpoint in ENDPOINTS), outlier_detection=OutlierDetection()),
)


def everybody_up(_key: MemberKey) -> MemberHealth:
    return MemberHealth(Health.UP, "")


def opened(service: VirtualService = WEB) -> ServiceState:
    health = {member.endpoint: everybody_up(MemberKey("web", member.endpoint)) for member in service.pool.members}
    verdict = judge(service, health, {}, True, 100.0)
    return ServiceState(Handle("web", service.listen, 1), service, 1, 100.0, health, verdict)


def test_an_ejected_member_loses_its_weight_until_the_ejection_ends() -> None:
    state = opened()
    assert state.outliers.failures_reported(ENDPOINTS[1], 5, 100.0)
    assert state.refresh(everybody_up, 100.0)
    assert state.verdict.weights == [100, 0, 100]
    assert not state.refresh(everybody_up, 129.0)
    assert state.refresh(everybody_up, 130.0)
    assert state.verdict.weights == [100, 100, 100]


def test_a_changed_pool_keeps_ejections_and_a_disabled_member_loses_its_own() -> None:
    state = opened()
    state.outliers.failures_reported(ENDPOINTS[1], 5, 100.0)
    heavier = replace(WEB, pool=replace(WEB.pool, slow_start_s=1.0))
    state.apply(heavier, 2, 101.0)
    assert ENDPOINTS[1] in state.outliers.ejected(101.0)
    disabled = replace(WEB.pool.members[1], admin_state=AdminState.DISABLED)
    members = (WEB.pool.members[0], disabled, WEB.pool.members[2])
    state.apply(replace(WEB, pool=replace(WEB.pool, members=members)), 3, 102.0)
    assert state.outliers.ejected(102.0) == {}


def test_the_workers_are_told_when_a_draining_member_turns_out_to_be_down() -> None:
    draining = replace(WEB.pool.members[0], admin_state=AdminState.DRAINING)
    state = opened(replace(WEB, pool=replace(WEB.pool, members=(draining, *WEB.pool.members[1:]))))

    def first_one_down(key: MemberKey) -> MemberHealth:
        return MemberHealth(Health.DOWN if key.endpoint == ENDPOINTS[0] else Health.UP, "gone")

    assert not state.refresh(everybody_up, 100.0)
    assert state.refresh(first_one_down, 101.0)
    assert state.verdict.down == [True, False, False]
