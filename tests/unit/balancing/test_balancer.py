"""What every balancer promises, and golden picks that hold in both forms."""

from __future__ import annotations

import hashlib

import pytest

from lbd.balancing.balancer import MAX_WEIGHT, Balancer
from lbd.balancing.bounded_hash import BoundedHash
from lbd.balancing.consistent_hash import ConsistentHash, build_table
from lbd.balancing.fastest_response import FastestResponse
from lbd.balancing.least_connections import LeastConnections
from lbd.balancing.random_choices import RandomChoices
from lbd.balancing.round_robin import RoundRobin


def balancers(weights: list[int], own: list[int] | None = None) -> list[Balancer]:
    """One of each, over the same members and the same counts."""
    table = build_table([f"10.0.0.{member}:80" for member in range(len(weights))], weights)
    own = own if own is not None else [0] * len(weights)
    others = [0] * len(weights)
    return [
        RoundRobin(weights, 3),
        LeastConnections(weights, own, others, 42),
        RandomChoices(weights, own, others, 42),
        FastestResponse(weights, own, 42),
        ConsistentHash(weights, memoryview(table).cast("H")),
        BoundedHash(weights, memoryview(table).cast("H"), own, others, 125.0),
    ]


@pytest.mark.parametrize("balancer", balancers([1, 2, 1]), ids=lambda balancer: type(balancer).__name__)
@pytest.mark.parametrize("weights", [[1, 1], [1, 1, 1, 1], [1, -1, 1], [1, MAX_WEIGHT + 1, 1]])
def test_weights_that_do_not_fit_are_refused_and_change_nothing(balancer: Balancer, weights: list[int]) -> None:
    with pytest.raises(ValueError, match="weight"):
        balancer.set_weights(weights)
    assert balancer.weights == [1, 2, 1]
    assert balancer.pick("192.0.2.1", []) in (0, 1, 2)


@pytest.mark.parametrize("balancer", balancers([1, 2, 1]), ids=lambda balancer: type(balancer).__name__)
def test_a_list_that_the_caller_changes_later_changes_nothing(balancer: Balancer) -> None:
    weights = [0, 1, 0]
    balancer.set_weights(weights)
    weights[:] = [1, 0, 1]
    assert {balancer.pick(f"192.0.2.{i}", []) for i in range(20)} == {1}


@pytest.mark.parametrize("balancer", balancers([0, 0, 0]), ids=lambda balancer: type(balancer).__name__)
def test_without_an_eligible_member_the_answer_is_minus_one_until_one_comes(balancer: Balancer) -> None:
    assert balancer.pick("192.0.2.1", []) == -1
    balancer.set_weights([0, 0, 5])
    assert balancer.pick("192.0.2.1", []) == 2
    assert balancer.pick("192.0.2.1", [2]) == -1
    balancer.set_weights([0, 0, 0])
    assert balancer.pick("192.0.2.1", [2]) == -1


def script(balancer: Balancer, members: int, own: list[int]) -> str:
    """A digest of 3,000 picks with retries, opens, closes and changed weights between them."""
    picked = []
    for turn in range(3000):
        tried = [turn % members, (turn * 7) % members] if turn % 11 == 0 else []
        balancer.now_ms = 17 * turn
        member = balancer.pick(f"10.{turn % 200}.{turn % 7}.9", tried)
        picked.append(member)
        if isinstance(balancer, FastestResponse):
            balancer.observe(member, 100 + (member * 37 + turn) % 400, 17 * turn + turn % 5)
        own[member] += turn % 3
        if own[member] > 20:
            own[member] = 0
        if turn % 97 == 0:
            balancer.set_weights([(1 + (turn + i) % 4) * 100 * (i % 9 != turn % 9) for i in range(members)])
    return hashlib.sha256(repr(picked).encode()).hexdigest()[:16]


GOLDEN = {
    ("RoundRobin", 7): "79793c08e14248ac",
    ("LeastConnections", 7): "a43b3cd17053cd66",
    ("RandomChoices", 7): "f726a9c2cbff20a4",
    ("FastestResponse", 7): "393836856a1fe181",
    ("ConsistentHash", 7): "ed88be0e1fb4b43f",
    ("BoundedHash", 7): "8526753f8dcee4e4",
    ("RoundRobin", 90): "8579c8efe9436a9b",
    ("LeastConnections", 90): "c7d5a789c5ac92e5",
    ("RandomChoices", 90): "833565510ade25bd",
    ("FastestResponse", 90): "9d1ef509d1f434ae",
    ("ConsistentHash", 90): "ce541ccb12ff6426",
    ("BoundedHash", 90): "0cee4dd9910cb44b",
}


@pytest.mark.parametrize("members", [7, 90])
@pytest.mark.parametrize("which", range(6), ids=[type(balancer).__name__ for balancer in balancers([1])])
def test_picks_are_the_golden_ones_whichever_form_runs(which: int, members: int) -> None:
    own = [0] * members
    balancer = balancers([1 + i % 3 for i in range(members)], own)[which]
    assert script(balancer, members, own) == GOLDEN[type(balancer).__name__, members]
