"""Who gets new connections, and the sentence for those who don't."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lbd.model.address import Endpoint
from lbd.model.desired import AdminState, Algorithm, Member, OnAllDown, Pool, VirtualService
from lbd.model.status import Health, MemberHealth
from lbd.supervisor.eligibility import PoolVerdict, judge
from lbd.supervisor.seams import Acceptance

ENDPOINTS = [Endpoint(f"10.0.0.{number}", 80) for number in (1, 2, 3)]
UP, DOWN, UNKNOWN = (MemberHealth(health, f"seen {health}") for health in (Health.UP, Health.DOWN, Health.UNKNOWN))


def pool(*admin_states: AdminState, on_all_down: OnAllDown = OnAllDown.REFUSE) -> Pool:
    states = admin_states or (AdminState.ENABLED,) * 3
    members = tuple(Member(endpoint, 1, state) for endpoint, state in zip(ENDPOINTS, states, strict=True))
    return Pool(members, on_all_down=on_all_down)


def verdict(
    *health: MemberHealth, of: Pool | None = None, first_results: bool = True, **service: object
) -> PoolVerdict:
    web = replace(VirtualService("web", "172.16.0.1", 80, of or pool()), **service)  # type: ignore[arg-type]  # by name
    return judge(web, dict(zip(ENDPOINTS, health, strict=True)), {}, first_results, 100.0)


def test_only_members_that_are_up_get_connections() -> None:
    seen = verdict(UP, DOWN, UNKNOWN)
    assert seen.weights == [100, 0, 0]
    assert [member.reason for member in seen.members] == [
        "",
        "health is down: seen down",
        "health is unknown: seen unknown",
    ]
    assert seen.acceptance is Acceptance.ACCEPT


@pytest.mark.parametrize("state", [AdminState.DRAINING, AdminState.DISABLED])
def test_a_member_that_is_not_enabled_gets_none_though_it_is_up(state: AdminState) -> None:
    seen = verdict(UP, UP, UP, of=pool(state, AdminState.ENABLED, AdminState.ENABLED))
    assert seen.weights == [0, 100, 100]
    assert seen.members[0].reason == f"admin_state is {state}"


def test_connections_wait_until_the_first_results_are_there() -> None:
    assert verdict(UNKNOWN, UNKNOWN, DOWN, first_results=False).acceptance is Acceptance.HOLD
    assert verdict(UP, UNKNOWN, UNKNOWN, first_results=False).acceptance is Acceptance.ACCEPT


def test_a_pool_without_a_member_up_refuses() -> None:
    seen = verdict(DOWN, DOWN, UNKNOWN)
    assert seen.acceptance is Acceptance.REFUSE
    assert seen.reason == "no member is up and enabled"


def test_serve_all_tries_every_enabled_member_once_all_are_known_to_be_down() -> None:
    everybody = pool(AdminState.ENABLED, AdminState.ENABLED, AdminState.DISABLED, on_all_down=OnAllDown.SERVE_ALL)
    assert verdict(DOWN, DOWN, DOWN, of=everybody).weights == [100, 100, 0]
    assert verdict(DOWN, DOWN, UP, of=everybody).weights == [100, 100, 0]
    assert verdict(UP, DOWN, DOWN, of=everybody).weights == [100, 0, 0]
    assert verdict(UNKNOWN, DOWN, DOWN, of=everybody, first_results=False).weights == [0, 0, 0]


@pytest.mark.parametrize("state", [AdminState.DRAINING, AdminState.DISABLED])
def test_a_service_that_is_not_enabled_refuses(state: AdminState) -> None:
    seen = verdict(UP, UP, UP, admin_state=state)
    assert seen.acceptance is Acceptance.REFUSE
    assert seen.reason == f"the virtual service is {state}"


def test_an_empty_pool_refuses_and_says_so() -> None:
    seen = judge(VirtualService("web", "172.16.0.1", 80, Pool(())), {}, {}, True, 0.0)
    assert (seen.acceptance, seen.reason) == (Acceptance.REFUSE, "the pool has no member")


@pytest.mark.parametrize(
    ("up_for_s", "weight"), [(0.0, 1), (3.0, 10), (15.0, 50), (29.9, 99), (30.0, 100), (99.0, 100)]
)
def test_slow_start_grows_linearly(up_for_s: float, weight: int) -> None:
    web = VirtualService("web", "172.16.0.1", 80, replace(pool(), slow_start_s=30.0))
    health = dict.fromkeys(ENDPOINTS, UP)
    seen = judge(web, health, {ENDPOINTS[0]: 100.0 - up_for_s}, True, 100.0)
    assert seen.weights == [weight, 100, 100]


def test_slow_start_does_not_apply_to_hashing() -> None:
    hashing = replace(pool(), slow_start_s=30.0, algorithm=Algorithm.CONSISTENT_HASH)
    seen = judge(
        VirtualService("web", "172.16.0.1", 80, hashing),
        dict.fromkeys(ENDPOINTS, UP),
        {ENDPOINTS[0]: 99.0},
        True,
        100.0,
    )
    assert seen.weights == [100, 100, 100]
