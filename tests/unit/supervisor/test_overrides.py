"""Admin states that were set at run time: what they are of, what they outlive, and when a drain ends."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lbd.model.address import Endpoint
from lbd.model.admin_state import AdminStateChange
from lbd.model.desired import AdminState, DesiredState, Member, Pool, ServiceEngine, VirtualService
from lbd.supervisor.drain_deadlines import DrainDeadlines
from lbd.supervisor.overrides import Override, Overrides, Target, UnknownTargetError, target_of

ONE, TWO, OTHER = Endpoint("10.0.0.1", 80), Endpoint("10.0.0.2", 80), Endpoint("10.9.9.9", 1)
ENABLED, DRAINING, DISABLED = AdminState.ENABLED, AdminState.DRAINING, AdminState.DISABLED
NO_OVERRIDES: dict[Target, Override] = {}


def web(*states: AdminState, drain_timeout_s: float | None = None, name: str = "web") -> VirtualService:
    members = tuple(Member(endpoint, 1, state) for endpoint, state in zip((ONE, TWO), states, strict=False))
    return VirtualService(name, "172.16.0.1", 80, Pool(members, drain_timeout_s=drain_timeout_s))


def configuration(*services: VirtualService) -> DesiredState:
    return DesiredState(1, ServiceEngine("se", 1, "eth0"), services)


CONFIGURED = configuration(web(ENABLED, ENABLED), web(ENABLED, name="dns"))


def states_of(desired: DesiredState) -> list[AdminState]:
    """Of the first service, then of its members."""
    service = desired.virtual_services[0]
    return [service.admin_state, *(member.admin_state for member in service.pool.members)]


def test_an_override_changes_its_target_alone() -> None:
    overrides = Overrides()
    assert overrides.apply(CONFIGURED) is CONFIGURED
    overrides.set(Target("web", TWO), Override(DRAINING), CONFIGURED)
    changed = overrides.apply(CONFIGURED)
    assert states_of(changed) == [ENABLED, ENABLED, DRAINING]
    assert changed.virtual_services[1] is CONFIGURED.virtual_services[1]
    assert changed.virtual_services[0].pool.members[0] == CONFIGURED.virtual_services[0].pool.members[0]
    overrides.set(Target("web"), Override(DISABLED), CONFIGURED)
    assert states_of(overrides.apply(CONFIGURED)) == [DISABLED, ENABLED, DRAINING]


def test_an_override_outlives_a_reload_and_goes_with_its_member() -> None:
    overrides = Overrides()
    overrides.set(Target("web", ONE), Override(DRAINING), CONFIGURED)
    overrides.set(Target("web", TWO), Override(DRAINING), CONFIGURED)
    overrides.set(Target("dns"), Override(DISABLED), CONFIGURED)
    smaller = configuration(web(ENABLED))
    overrides.keep_only(smaller)
    assert states_of(overrides.apply(smaller)) == [ENABLED, DRAINING]
    overrides.keep_only(CONFIGURED)
    assert states_of(overrides.apply(CONFIGURED)) == [ENABLED, DRAINING, ENABLED]  # what came back is a new one
    assert overrides.apply(CONFIGURED).virtual_services[1].admin_state is ENABLED


def test_what_the_files_say_anyway_is_no_override_so_that_the_files_count_again() -> None:
    overrides = Overrides()
    overrides.set(Target("web", ONE), Override(DRAINING), CONFIGURED)
    overrides.set(Target("web", ONE), Override(ENABLED), CONFIGURED)
    assert not overrides.known
    assert states_of(overrides.apply(configuration(web(DISABLED, ENABLED)))) == [ENABLED, DISABLED, ENABLED]


def test_a_member_that_the_files_drain_can_be_enabled() -> None:
    overrides = Overrides()
    drained = configuration(web(DRAINING, ENABLED))
    overrides.set(Target("web", ONE), Override(ENABLED), drained)
    assert states_of(overrides.apply(drained)) == [ENABLED, ENABLED, ENABLED]


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (AdminStateChange("wbe", DRAINING), "there is no virtual service 'wbe'; did you mean web?"),
        (AdminStateChange("x", DRAINING), "there is no virtual service 'x'; there are dns, web"),
        (AdminStateChange("web", DRAINING, "10.0.0.1:81"), "has no member 10.0.0.1:81; did you mean 10.0.0.1:80?"),
        (AdminStateChange("web", DRAINING, "pod1"), "member 'pod1' is not ADDRESS:PORT"),
        (AdminStateChange("web", DRAINING, "pod1:80"), "member 'pod1' does not appear to be an IPv4 or IPv6 address"),
        (AdminStateChange("web", DRAINING, "10.0.0.1:0"), "member 0 is not a port"),
        (AdminStateChange("web", DRAINING, None, -1.0), "-1 is not a deadline"),
        (AdminStateChange("web", DRAINING, None, float("nan")), "nan is not a deadline"),
        (AdminStateChange("web", DRAINING, None, float("inf")), "inf is not a deadline"),
        (AdminStateChange("web", ENABLED, None, 5.0), "a deadline belongs to draining and disabled"),
    ],
)
def test_a_change_that_makes_no_sense_says_what_there_is(change: AdminStateChange, sentence: str) -> None:
    with pytest.raises(UnknownTargetError) as caught:
        target_of(change, CONFIGURED)
    assert sentence in str(caught.value)


def test_an_address_in_another_spelling_is_the_same_member() -> None:
    six = Endpoint("2001:db8::1", 80)
    configured = configuration(replace(web(ENABLED), pool=Pool((Member(six),))))
    assert target_of(AdminStateChange("web", DRAINING, "[2001:DB8:0::1]:80"), configured) == Target("web", six)


def test_in_a_configuration_without_services_the_sentence_is_plain() -> None:
    with pytest.raises(UnknownTargetError, match=r"there is no virtual service 'web'$"):
        target_of(AdminStateChange("web", DRAINING), configuration())


def test_a_members_deadline_counts_from_when_it_stopped_being_enabled() -> None:
    deadlines = DrainDeadlines()
    deadlines.update(configuration(web(ENABLED, ENABLED, drain_timeout_s=30.0)), NO_OVERRIDES, 100.0)
    assert deadlines.next_s() is None
    drained = configuration(web(DRAINING, ENABLED, drain_timeout_s=30.0))
    deadlines.update(drained, NO_OVERRIDES, 110.0)
    deadlines.update(configuration(web(DISABLED, ENABLED, drain_timeout_s=30.0)), NO_OVERRIDES, 120.0)
    assert deadlines.next_s() == 140.0
    assert deadlines.due(139.9) == ()
    assert deadlines.due(140.0) == (Target("web", ONE),)
    deadlines.done(Target("web", ONE))
    assert deadlines.due(150.0) == ()
    assert deadlines.next_s() is None
    deadlines.update(drained, NO_OVERRIDES, 160.0)
    assert deadlines.due(1000.0) == ()  # a reload that changes nothing of it resets nobody again


def test_without_a_drain_timeout_there_is_no_deadline_until_one_is_given() -> None:
    deadlines = DrainDeadlines()
    drained = configuration(web(DRAINING, DRAINING))
    deadlines.update(drained, NO_OVERRIDES, 100.0)
    assert deadlines.next_s() is None
    deadlines.update(drained, {Target("web", TWO): Override(DRAINING, 105.0)}, 101.0)
    assert deadlines.due(105.0) == (Target("web", TWO),)


def test_a_deadline_that_is_given_counts_instead_of_the_pools_and_a_new_one_counts_anew() -> None:
    deadlines = DrainDeadlines()
    drained = configuration(web(DRAINING, drain_timeout_s=30.0))
    deadlines.update(drained, {Target("web", ONE): Override(DRAINING, 200.0)}, 100.0)
    assert deadlines.due(199.0) == ()
    assert deadlines.due(200.0) == (Target("web", ONE),)
    deadlines.done(Target("web", ONE))
    deadlines.update(drained, {Target("web", ONE): Override(DRAINING, 300.0)}, 250.0)
    assert deadlines.due(300.0) == (Target("web", ONE),)


def test_a_member_that_is_enabled_again_is_never_reset_and_a_later_drain_begins_anew() -> None:
    deadlines = DrainDeadlines()
    drained = configuration(web(DRAINING, drain_timeout_s=30.0))
    deadlines.update(drained, NO_OVERRIDES, 100.0)
    deadlines.update(configuration(web(ENABLED, drain_timeout_s=30.0)), NO_OVERRIDES, 120.0)
    assert deadlines.due(1000.0) == ()
    deadlines.update(drained, NO_OVERRIDES, 200.0)
    assert deadlines.next_s() == 230.0


def test_a_service_has_a_deadline_only_when_one_is_given() -> None:
    deadlines = DrainDeadlines()
    drained = configuration(replace(web(ENABLED, drain_timeout_s=30.0), admin_state=DRAINING))
    deadlines.update(drained, NO_OVERRIDES, 100.0)
    assert deadlines.next_s() is None
    deadlines.update(drained, {Target("web"): Override(DRAINING, 110.0)}, 100.0)
    assert deadlines.due(110.0) == (Target("web"),)
