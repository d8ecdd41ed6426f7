"""Round robin against the definition of smooth weighted turns, in exact fractions."""

from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lbd.balancing.round_robin import RoundRobin
from lbd.balancing.slow_start import effective_weight

unhurried = settings(deadline=None)
CLIENT = "198.51.100.7"
WEIGHTS = st.lists(st.integers(0, 12), min_size=1, max_size=12).filter(any)


def picks(balancer: RoundRobin, count: int) -> list[int]:
    """The next picks of new connections."""
    return [balancer.pick(CLIENT, []) for _ in range(count)]


def letters(balancer: RoundRobin, count: int) -> str:
    """The next picks, member 0 as a."""
    return "".join("abcdefgh"[member] for member in picks(balancer, count))


class Definition:
    """What smooth weighted turns are: credits in turns, as fractions, of the eligible members."""

    def __init__(self, members: int) -> None:
        self.credits = [Fraction(0)] * members

    def pick(self, weights: list[int]) -> int:
        """The eligible member that is owed most after its gain; the first one of equals."""
        total = sum(weights)
        eligible = [member for member, weight in enumerate(weights) if weight]
        for member in eligible:
            self.credits[member] += Fraction(weights[member], total)
        best = max(eligible, key=lambda member: (self.credits[member], -member))
        self.credits[best] -= 1
        return best


def test_weights_5_1_1_give_the_sequence_that_nginx_documents() -> None:
    assert letters(RoundRobin([5, 1, 1], 0), 14) == "aabacaaaabacaa"


def test_equal_weights_rotate_in_the_order_of_the_pool() -> None:
    assert letters(RoundRobin([3, 3, 3], 0), 7) == "abcabca"


@unhurried
@given(weights=WEIGHTS, start=st.integers(0, 100))
def test_picks_are_those_of_the_definition_shifted_by_start(weights: list[int], start: int) -> None:
    definition = Definition(len(weights))
    cycle = sum(weights)
    expected = [definition.pick(weights) for _ in range(start + 3 * cycle)]
    assert picks(RoundRobin(weights, start), 2 * cycle) == expected[start % cycle :][: 2 * cycle]


@unhurried
@given(weights=WEIGHTS, start=st.integers(0, 100), skipped=st.integers(0, 200))
def test_any_full_cycle_is_exactly_proportional(weights: list[int], start: int, skipped: int) -> None:
    balancer = RoundRobin(weights, start)
    picks(balancer, skipped)
    counted = Counter(picks(balancer, sum(weights)))
    assert [counted[member] for member in range(len(weights))] == weights


@unhurried
@given(weights=WEIGHTS, count=st.integers(1, 300))
def test_at_any_moment_a_member_is_less_than_a_turn_ahead_and_few_behind(weights: list[int], count: int) -> None:
    balancer = RoundRobin(weights, 0)
    counted = [0] * len(weights)
    behind = 1 + math.log2(len(weights))
    for turn in range(1, count + 1):
        counted[balancer.pick(CLIENT, [])] += 1
        for member, weight in enumerate(weights):
            ahead = counted[member] - turn * weight / sum(weights)
            assert -behind <= ahead < 1, (member, ahead)


@unhurried
@given(weights=WEIGHTS)
def test_a_member_with_less_than_half_of_the_weight_has_at_most_two_turns_running(weights: list[int]) -> None:
    sequence = picks(RoundRobin(weights, 0), 2 * sum(weights))
    light = {member for member, weight in enumerate(weights) if 2 * weight < sum(weights)}
    runs = [
        member
        for member, *others in zip(sequence, sequence[1:], sequence[2:], strict=False)
        if {member, *others} == {member}
    ]
    assert not light & set(runs)


CHANGES = st.lists(
    st.tuples(st.lists(st.integers(0, 5), min_size=5, max_size=5).filter(any), st.integers(0, 9)),
    min_size=1,
    max_size=40,
)


@unhurried
@given(changes=CHANGES)
def test_whatever_the_changes_every_member_gets_what_its_weights_entitle_it_to(
    changes: list[tuple[list[int], int]],
) -> None:
    balancer = RoundRobin(changes[0][0], 0)
    counted = [0] * 5
    entitled = [0.0] * 5
    for weights, count in changes:
        balancer.set_weights(weights)
        for _ in range(count):
            member = balancer.pick(CLIENT, [])
            assert weights[member] > 0
            counted[member] += 1
            for each, weight in enumerate(weights):
                entitled[each] += weight / sum(weights)
    for got, due in zip(counted, entitled, strict=True):
        assert abs(got - due) < 3, (counted, entitled)


@unhurried
@given(st.lists(st.sampled_from([1, 2, 100, 1000, 7]), min_size=1, max_size=60))
def test_scaling_all_weights_between_any_two_picks_changes_no_pick(factors: list[int]) -> None:
    for weights in ([5, 1, 1], [2, 2, 2, 2]):
        balancer, undisturbed = RoundRobin(weights, 0), RoundRobin(weights, 0)
        for factor in factors:
            balancer.set_weights([weight * factor for weight in weights])
            assert balancer.pick(CLIENT, []) == undisturbed.pick(CLIENT, [])


def test_a_flap_between_picks_does_not_restart_the_cycle() -> None:
    balancer = RoundRobin([1, 1, 1], 0)
    sequence = []
    for _ in range(100):
        sequence += picks(balancer, 1)
        balancer.set_weights([1, 1, 0])
        balancer.set_weights([1, 1, 1])
    assert sequence == [0, 1, 2] * 33 + [0]


@pytest.mark.parametrize("others", [[1, 1], [3, 1]])
def test_the_others_share_evenly_while_one_member_flaps_after_every_pick(others: list[int]) -> None:
    balancer = RoundRobin([*others, 2], 0)
    counted = [0, 0, 0]
    entitled = [0.0, 0.0, 0.0]
    for turn in range(400):
        weights = [*others, 2 if turn % 2 else 0]
        balancer.set_weights(weights)
        counted[balancer.pick(CLIENT, [])] += 1
        for member, weight in enumerate(weights):
            entitled[member] += weight / sum(weights)
    assert all(abs(got - due) < 2 for got, due in zip(counted, entitled, strict=True)), (counted, entitled)


@pytest.mark.parametrize("picks_per_tick", [1, 2, 3, 7])
def test_slow_start_ticks_keep_the_shares(picks_per_tick: int) -> None:
    balancer = RoundRobin([100, 100, 0, 100], 0)
    picks(balancer, 5)
    counted = [0] * 4
    entitled = [0.0] * 4
    for tick in range(301):
        weights = [100, 100, effective_weight(1, tick / 10, 30), 100]
        balancer.set_weights(weights)
        for member in picks(balancer, picks_per_tick):
            counted[member] += 1
        for member, weight in enumerate(weights):
            entitled[member] += picks_per_tick * weight / sum(weights)
    assert all(abs(got - due) < 2 for got, due in zip(counted, entitled, strict=True)), (counted, entitled)
    assert Counter(picks(balancer, 40)) == Counter({0: 10, 1: 10, 2: 10, 3: 10})


def test_a_member_that_was_down_long_has_no_turns_to_catch_up_on() -> None:
    for weights in ([1, 1, 1], [3, 2, 1]):
        balancer = RoundRobin(weights, 0)
        balancer.set_weights([weights[0], weights[1], 0])
        picks(balancer, 1000)
        balancer.set_weights(weights)
        counted = Counter(picks(balancer, sum(weights)))
        assert all(abs(counted[member] - weight) <= 1 for member, weight in enumerate(weights)), counted


@pytest.mark.parametrize("weights", [[1, 1, 1, 1], [3, 1, 2, 2]])
def test_workers_begin_at_different_places_and_are_fair_together_from_the_first_connection(weights: list[int]) -> None:
    workers = [RoundRobin(weights, index) for index in range(sum(weights))]
    first = Counter(worker.pick(CLIENT, []) for worker in workers)
    assert [first[member] for member in range(4)] == weights


def test_members_that_become_eligible_one_by_one_before_the_first_pick_do_not_defeat_start() -> None:
    first = []
    for index in range(3):
        worker = RoundRobin([0, 0, 0], index)
        for weights in ([0, 100, 0], [100, 100, 0], [100, 100, 100]):
            worker.set_weights(weights)
        first.append(worker.pick(CLIENT, []))
    assert sorted(first) == [0, 1, 2]


@unhurried
@given(
    weights=st.lists(st.integers(0, 3), min_size=1, max_size=6),
    retries=st.lists(st.sets(st.integers(0, 5), max_size=6), min_size=1, max_size=30),
)
def test_a_tried_or_ineligible_member_is_never_picked_and_minus_one_means_none_is_left(
    weights: list[int], retries: list[set[int]]
) -> None:
    balancer = RoundRobin(weights, 0)
    for tried in retries:
        member = balancer.pick(CLIENT, sorted(tried))
        left = {each for each, weight in enumerate(weights) if weight} - tried
        assert member in left if left else member == -1


@pytest.mark.parametrize("weights", [[1, 1, 1, 1], [2, 1, 1, 1], [2, 2, 2, 4]])
def test_retries_after_a_failing_member_spread_over_the_others_by_weight(weights: list[int]) -> None:
    balancer = RoundRobin(weights, 0)
    served: Counter[int] = Counter()
    rounds = 100 * sum(weights)
    for _ in range(rounds):
        member = balancer.pick(CLIENT, [])
        if member == 0:
            member = balancer.pick(CLIENT, [0])
        served[member] += 1
    for member in (1, 2, 3):
        due = rounds * weights[member] / sum(weights[1:])
        assert abs(served[member] - due) < 0.02 * rounds, served


def test_a_rotation_of_which_only_served_members_are_untried_serves_one_again_and_then_goes_on() -> None:
    balancer = RoundRobin([1, 1, 1, 1], 0)
    assert picks(balancer, 2) == [0, 1]
    assert balancer.pick(CLIENT, [2, 3]) == 0
    assert Counter(picks(balancer, 6)) == Counter([2, 3, 0, 1, 2, 3])


def test_no_eligible_member_gives_minus_one_and_the_rotation_survives_it() -> None:
    balancer = RoundRobin([1, 1, 1], 0)
    assert picks(balancer, 2) == [0, 1]
    balancer.set_weights([0, 0, 0])
    assert picks(balancer, 3) == [-1, -1, -1]
    balancer.set_weights([1, 1, 1])
    assert picks(balancer, 4) == [2, 0, 1, 2]
    assert RoundRobin([], 3).pick(CLIENT, []) == -1


def test_shares_stay_exact_past_the_point_where_gains_are_written_down() -> None:
    balancer = RoundRobin([2, 1, 4], 0)
    cycles = (1 << 16) // 7 + 5
    assert Counter(picks(balancer, 7 * cycles)) == Counter({0: 2 * cycles, 1: cycles, 2: 4 * cycles})


def test_the_largest_weights_do_not_overflow() -> None:
    balancer = RoundRobin([1 << 30, 1 << 30, 1 << 29] * 30, 0)
    counted = Counter(picks(balancer, 75 * 20))
    assert [counted[member] for member in range(90)] == [20, 20, 10] * 30
