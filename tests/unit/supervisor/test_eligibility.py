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


def members(primaries: int, backups: int = 0, **settings: object) -> Pool:
    """A pool of so many members; the last ones are backups."""
    made = tuple(
        Member(Endpoint(f"10.0.1.{number}", 80), backup=number >= primaries) for number in range(primaries + backups)
    )
    return replace(Pool(made), **settings)  # type: ignore[arg-type]  # by name


def seen_with(
    of: Pool, *health: MemberHealth, ejected: tuple[int, ...] = (), first_results: bool = True
) -> PoolVerdict:
    """The verdict on a pool whose members have this health, of which some are ejected."""
    endpoints = [member.endpoint for member in of.members]
    web = VirtualService("web", "172.16.0.1", 80, of)
    out = {endpoints[place]: 200.0 for place in ejected}
    seen = judge(web, dict(zip(endpoints, health, strict=True)), {}, first_results, 100.0, out)
    assert all(member.reason for member in seen.members if not member.weight), seen
    assert not any(member.reason or member.down for member in seen.members if member.weight), seen
    assert (seen.acceptance is Acceptance.ACCEPT) == any(seen.weights)
    return seen


def test_backups_get_connections_only_while_no_other_member_is_up() -> None:
    of = members(2, 2)
    assert seen_with(of, UP, DOWN, UP, UP).weights == [100, 0, 0, 0]
    seen = seen_with(of, DOWN, DOWN, UP, UP)
    assert seen.weights == [0, 0, 100, 100]
    assert seen.reason == "no member is up but backups: 2 of them serve"
    assert seen_with(of, DOWN, DOWN, DOWN, UP).weights == [0, 0, 0, 100]
    assert seen_with(of, DOWN, DOWN, DOWN, DOWN).acceptance is Acceptance.REFUSE
    assert seen_with(of, UP, UP, UP, DOWN).members[2].reason == "it is a backup, and other members are up"


def test_backups_stand_in_for_members_that_are_ejected_or_not_enabled() -> None:
    of = members(1, 1)
    assert seen_with(of, UP, UP, ejected=(0,)).weights == [0, 100]
    drained = replace(of, members=(replace(of.members[0], admin_state=AdminState.DRAINING), of.members[1]))
    assert seen_with(drained, UP, UP).weights == [0, 100]
    weightless = replace(of, members=(replace(of.members[0], weight=0), of.members[1]))
    seen = seen_with(weightless, UP, UP)
    assert seen.weights == [0, 100]
    assert seen.members[0].reason == "its weight is 0"


def test_backups_wait_at_the_start_until_something_is_known_of_the_others() -> None:
    of = members(2, 1)
    assert seen_with(of, UNKNOWN, UNKNOWN, UP, first_results=False).acceptance is Acceptance.HOLD
    assert seen_with(of, DOWN, UNKNOWN, UP, first_results=False).weights == [0, 0, 100]
    assert seen_with(of, UNKNOWN, UNKNOWN, UP).weights == [0, 0, 100]


def test_an_ejected_member_gets_nothing_and_is_down_for_the_data_path() -> None:
    seen = seen_with(members(3), UP, UP, DOWN, ejected=(1,))
    assert seen.weights == [100, 0, 0]
    assert seen.down == [False, True, True]
    assert seen.members[1].reason == "ejected by outlier_detection: too many failures in a row"


def test_down_is_who_is_dead_not_who_is_only_left_alone() -> None:
    of = members(3, 1)
    states = (AdminState.DRAINING, AdminState.DISABLED, AdminState.ENABLED, AdminState.ENABLED)
    of = replace(of, members=tuple(replace(m, admin_state=s) for m, s in zip(of.members, states, strict=True)))
    assert seen_with(of, UP, UNKNOWN, UP, UP).down == [False] * 4
    assert seen_with(of, DOWN, UNKNOWN, UP, DOWN).down == [True, False, False, True]
    panicking = members(2, panic_threshold_percent=100.0)
    assert seen_with(panicking, UP, DOWN).down == [False, False]  # it is served, so it is not given up


def test_a_pool_whose_every_member_is_ejected_says_that_and_not_that_none_is_up() -> None:
    seen = seen_with(members(3), UP, UP, DOWN, ejected=(0, 1))
    assert seen.acceptance is Acceptance.REFUSE
    assert seen.reason == "outlier_detection has ejected every member that is up"
    assert seen_with(members(3), DOWN, DOWN, DOWN, ejected=(0,)).reason == "no member is up and enabled"


def test_below_min_members_up_the_pool_counts_as_down_and_says_with_which_numbers() -> None:
    of = members(3, min_members_up=2)
    assert seen_with(of, UP, UP, DOWN).weights == [100, 100, 0]
    seen = seen_with(of, UP, DOWN, DOWN)
    assert seen.weights == [0, 0, 0]
    assert seen.acceptance is Acceptance.REFUSE
    assert seen.reason == "1 of 3 members is up, min_members_up is 2: the pool counts as down"
    assert seen.members[0].reason == seen.reason
    assert seen.down == [False, True, True]
    assert seen_with(of, UP, UP, DOWN, ejected=(1,)).acceptance is Acceptance.REFUSE


def test_backups_that_are_up_count_for_min_members_up() -> None:
    of = members(2, 1, min_members_up=2)
    assert seen_with(of, UP, DOWN, UP).weights == [100, 0, 0]
    assert seen_with(of, DOWN, DOWN, UP).acceptance is Acceptance.REFUSE


def test_below_min_members_up_serve_all_serves_everybody() -> None:
    of = members(2, 1, min_members_up=2, on_all_down=OnAllDown.SERVE_ALL)
    seen = seen_with(of, UP, DOWN, DOWN)
    assert seen.weights == [100, 100, 100]
    assert seen.reason == (
        "1 of 3 members is up, min_members_up is 2: the pool counts as down: on_all_down is serve_all"
    )


def test_connections_wait_at_the_start_until_min_members_are_up() -> None:
    of = members(3, min_members_up=2)
    assert seen_with(of, UP, UNKNOWN, UNKNOWN, first_results=False).acceptance is Acceptance.HOLD
    assert seen_with(of, UP, UP, UNKNOWN, first_results=False).weights == [100, 100, 0]


def test_in_a_panic_health_and_ejections_are_ignored() -> None:
    of = members(4, 1, panic_threshold_percent=50.0)
    assert seen_with(of, UP, UP, DOWN, DOWN, UP).weights == [100, 100, 0, 0, 0]  # 50 % are not fewer than 50 %
    seen = seen_with(of, UP, DOWN, DOWN, DOWN, UP)
    assert seen.weights == [100, 100, 100, 100, 0]
    assert seen.reason == "1 of 4 members is up, fewer than the panic_threshold of 50%: health is ignored"
    assert seen.members[4].reason == "it is a backup, and the other members serve"
    assert seen_with(of, UP, UP, DOWN, DOWN, DOWN, ejected=(0,)).weights == [100, 100, 100, 100, 0]


def test_a_panic_comes_before_min_members_up() -> None:
    of = members(4, panic_threshold_percent=50.0, min_members_up=3)
    assert seen_with(of, UP, DOWN, DOWN, DOWN).weights == [100] * 4
    assert seen_with(of, UP, UP, DOWN, DOWN).acceptance is Acceptance.REFUSE  # no panic: two are not three


def test_a_backup_that_is_up_is_better_than_a_panic_without_anybody_up() -> None:
    of = members(2, 1, panic_threshold_percent=50.0)
    assert seen_with(of, DOWN, DOWN, UP).weights == [0, 0, 100]
    assert seen_with(of, DOWN, DOWN, DOWN).weights == [100, 100, 0]


def test_there_is_no_panic_before_the_first_results() -> None:
    of = members(3, panic_threshold_percent=90.0)
    assert seen_with(of, UP, UNKNOWN, UNKNOWN, first_results=False).weights == [100, 0, 0]


def test_members_that_are_not_enabled_count_in_no_share() -> None:
    of = members(4, panic_threshold_percent=60.0)
    off = replace(
        of, members=tuple(replace(m, admin_state=AdminState.DISABLED) for m in of.members[:2]) + of.members[2:]
    )
    assert seen_with(off, UNKNOWN, UNKNOWN, UP, UP).weights == [0, 0, 100, 100]
    assert seen_with(off, UNKNOWN, UNKNOWN, UP, DOWN).weights == [0, 0, 100, 100]  # one of two: a panic
    assert seen_with(replace(off, members=off.members[:2]), UNKNOWN, UNKNOWN).acceptance is Acceptance.REFUSE
