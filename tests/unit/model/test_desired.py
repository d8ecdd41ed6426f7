"""The desired state as a value: it can't be changed, it can be compared, and its names say what they mean."""

from __future__ import annotations

import dataclasses
import pickle

import pytest

from lbd.model import desired, status
from lbd.model.address import Endpoint
from lbd.model.desired import (
    SYSTEM_MONITORS,
    AdminState,
    DesiredState,
    HealthMonitor,
    Member,
    MemberKey,
    MonitorType,
    Pool,
    ServiceEngine,
    StatusRange,
    VirtualService,
)

POOL = Pool((Member(Endpoint("10.1.0.1", 80)), Member(Endpoint("2001:db8::1", 80))))


def state(*vips: str) -> DesiredState:
    services = tuple(VirtualService(f"s{index}", vip, 80 + index, POOL) for index, vip in enumerate(vips))
    return DesiredState(1, ServiceEngine("se", 1, "eth0"), services)


def test_vips_are_each_there_once_in_the_order_of_the_services():
    assert state("10.0.0.2", "10.0.0.1", "10.0.0.2").vips == ("10.0.0.2", "10.0.0.1")
    assert state().vips == ()


def test_service_knows_its_family_and_where_it_listens():
    service = state("2001:db8::5").virtual_services[0]
    assert (service.family, str(service.listen)) == (6, "[2001:db8::5]:80")


@pytest.mark.parametrize(("status", "inside"), [(199, False), (200, True), (204, True), (299, True), (300, False)])
def test_status_range_has_both_its_ends(status, inside):
    assert (status in StatusRange(200, 299)) is inside


def test_status_range_prints_as_it_is_written():
    assert (str(StatusRange(204, 204)), str(StatusRange(200, 399))) == ("204", "200-399")


def test_built_in_monitors_are_one_of_each_name_and_begin_with_system():
    assert [monitor.name for monitor in SYSTEM_MONITORS] == ["system-tcp", "system-ping", "system-http", "system-udp"]
    assert [f"system-{monitor.type}" for monitor in SYSTEM_MONITORS] == [monitor.name for monitor in SYSTEM_MONITORS]


def test_pool_without_monitors_is_checked_by_tcp():
    assert POOL.health_monitors == (HealthMonitor("system-tcp", MonitorType.TCP),)


def test_member_key_prints_service_and_endpoint():
    assert str(MemberKey("web", Endpoint("2001:db8::1", 80))) == "web/[2001:db8::1]:80"


def test_equal_states_are_equal_and_a_changed_weight_is_seen():
    assert state("10.0.0.1") == state("10.0.0.1")
    other = Pool((dataclasses.replace(POOL.members[0], weight=2), POOL.members[1]))
    assert other != POOL
    assert hash(state("10.0.0.1")) == hash(state("10.0.0.1"))


@pytest.mark.parametrize("module", [desired, status])
def test_every_value_is_frozen_and_has_no_room_for_more(module):
    kinds = [kind for kind in vars(module).values() if isinstance(kind, type) and dataclasses.is_dataclass(kind)]
    assert len(kinds) > 5
    for kind in kinds:
        assert kind.__dataclass_params__.frozen, kind
        assert not hasattr(object.__new__(kind), "__dict__"), kind


def test_a_value_cannot_be_changed():
    with pytest.raises(dataclasses.FrozenInstanceError):
        state().generation = 2
    with pytest.raises(dataclasses.FrozenInstanceError):
        POOL.members[0].endpoint.port = 1


def test_admin_state_and_health_are_two_things():
    assert {str(one) for one in AdminState}.isdisjoint({str(one) for one in status.Health})


def test_a_state_survives_being_copied_between_processes():
    assert pickle.loads(pickle.dumps(state("10.0.0.1"))) == state("10.0.0.1")
