"""Backoff, slots, and what a service's state remembers."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbd.model.address import Endpoint
from lbd.model.desired import Member, MemberKey, Pool, VirtualService
from lbd.model.status import Health, MemberHealth
from lbd.supervisor.backoff import LONGEST_DELAY_S, Backoff
from lbd.supervisor.eligibility import judge
from lbd.supervisor.seams import Handle
from lbd.supervisor.service_state import ServiceState, first_results_by_s
from lbd.supervisor.slots import Slots, SlotsExhaustedError


def test_delays_double_up_to_the_longest_and_start_over_after_success() -> None:
    backoff: Backoff[str] = Backoff()
    delays = [backoff.failed("bind", "in use", 10.0).retry_at_s - 10.0 for _ in range(8)]
    assert delays == [1, 2, 4, 8, 16, LONGEST_DELAY_S, LONGEST_DELAY_S, LONGEST_DELAY_S]
    backoff.succeeded("bind")
    assert backoff.failures == {}
    assert backoff.failed("bind", "in use", 10.0).retry_at_s == 11.0


def test_a_slot_is_dealt_again_only_when_acknowledged_and_idle() -> None:
    slots: Slots[str] = Slots(1)
    assert slots.take("a") == slots.take("a") == 0
    slots.release("a", generation=5)
    with pytest.raises(SlotsExhaustedError):
        slots.take("b")
    assert slots.reclaim(4, lambda slot: True) == []
    assert slots.reclaim(5, lambda slot: False) == []
    assert slots.in_use == [0]
    assert slots.reclaim(5, lambda slot: True) == [0]
    assert slots.take("b") == 0
    assert slots.key_of(0) == "b"


def test_a_key_that_comes_again_while_its_slot_is_in_use_gets_it_back() -> None:
    """What a member that was removed still has counts under its limit when it is there again."""
    slots: Slots[str] = Slots(2)
    first = slots.take("a")
    slots.release("a", generation=5)
    assert slots.reclaim(5, lambda slot: False) == []
    assert slots.take("a") == first
    assert slots.reclaim(5, lambda slot: True) == []
    assert (slots.take("b"), slots.in_use) == (1 - first, [first, 1 - first])
    slots.release("a", generation=6)
    assert slots.reclaim(6, lambda slot: True) == [first]


@given(st.lists(st.tuples(st.sampled_from("abcdef"), st.booleans(), st.booleans())))
def test_no_two_living_keys_ever_share_a_slot(steps: list[tuple[str, bool, bool]]) -> None:
    slots: Slots[str] = Slots(4)
    living: dict[str, int] = {}
    for generation, (key, add, idle) in enumerate(steps):
        if add:
            try:
                living[key] = slots.take(key)
            except SlotsExhaustedError:
                assert len(slots.in_use) == 4
        else:
            slots.release(key, generation)
            living.pop(key, None)
        slots.reclaim(generation, lambda slot, idle=idle: idle)  # type: ignore[misc]  # bound now, on purpose
        assert len(set(living.values())) == len(living)
        assert all(slots.slot_of(known) == slot for known, slot in living.items())


class Members:
    """A service with two members whose health the test sets."""

    def __init__(self, slow_start_s: float) -> None:
        self.endpoints = [Endpoint("10.0.0.1", 80), Endpoint("10.0.0.2", 80)]
        self.health = dict.fromkeys(self.endpoints, Health.UNKNOWN)
        pool = Pool(tuple(map(Member, self.endpoints)), slow_start_s=slow_start_s)
        service = VirtualService("web", "172.16.0.1", 80, pool)
        health = {endpoint: MemberHealth() for endpoint in self.endpoints}
        self.state = ServiceState(
            Handle("web", service.listen, 1), service, 1, first_results_by_s(service, 0.0), health,
            judge(service, health, {}, False, 0.0),
        )  # fmt: skip

    def weights(self, first: Health, second: Health, now_s: float) -> list[int]:
        self.health = dict(zip(self.endpoints, (first, second), strict=True))
        self.state.refresh(self._health_of, now_s)
        return self.state.verdict.weights

    def _health_of(self, key: MemberKey) -> MemberHealth:
        return MemberHealth(self.health[key.endpoint])


def test_at_the_start_of_all_nobody_is_in_slow_start() -> None:
    members = Members(slow_start_s=10.0)
    assert members.weights(Health.UP, Health.UP, 1.0) == [100, 100]


def test_a_member_that_joins_others_starts_slowly_and_is_done_after_the_time() -> None:
    members = Members(slow_start_s=10.0)
    members.weights(Health.UP, Health.DOWN, 1.0)
    assert members.weights(Health.UP, Health.UP, 100.0) == [100, 1]
    assert members.weights(Health.UP, Health.UP, 105.0) == [100, 50]
    assert members.weights(Health.UP, Health.UP, 110.0) == [100, 100]
    assert members.state.up_since_s == {}


def test_a_member_that_falls_during_slow_start_begins_anew() -> None:
    members = Members(slow_start_s=10.0)
    members.weights(Health.UP, Health.DOWN, 1.0)
    members.weights(Health.UP, Health.UP, 100.0)
    assert members.weights(Health.UP, Health.DOWN, 105.0) == [100, 0]
    assert members.weights(Health.UP, Health.UP, 106.0) == [100, 1]


def test_first_results_are_there_when_all_have_one_or_the_time_is_over() -> None:
    members = Members(slow_start_s=0.0)
    members.weights(Health.DOWN, Health.UNKNOWN, 0.1)
    assert not members.state.first_results(0.1)
    assert members.state.first_results(2.5)
    members.weights(Health.DOWN, Health.UP, 0.2)
    assert members.state.first_results(0.2)
