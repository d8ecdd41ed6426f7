"""Consistent hashing: one table for everybody, shares by weight, and few flows that move."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections import Counter
from fractions import Fraction
from functools import cache

import mmh3
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lbd.balancing.consistent_hash import MAX_MEMBERS, ConsistentHash, build_table, table_size

CLIENTS = [f"10.{i >> 16}.{i >> 8 & 255}.{i & 255}" for i in range(20_000)]


def keys_of(members: int) -> list[str]:
    """Keys as a pool's members have them."""
    return [f"10.244.{member // 200}.{member % 200}:8080" for member in range(members)]


@cache
def table_of(keys: tuple[str, ...], weights: tuple[int, ...] | None = None) -> bytes:
    """A table, built once."""
    return build_table(list(keys), list(weights or (1,) * len(keys)))


def balancer_of(keys: list[str], weights: list[int] | None = None) -> ConsistentHash:
    """A balancer over these members, all of them eligible."""
    table = table_of(tuple(keys), tuple(weights) if weights else None)
    return ConsistentHash(weights or [1] * len(keys), memoryview(table).cast("H"))


def flows(balancer: ConsistentHash, keys: list[str]) -> list[str]:
    """The member of each client."""
    return [keys[balancer.pick(client, [])] for client in CLIENTS]


def moved(before: list[str], after: list[str]) -> float:
    """The share of clients whose member changed."""
    return sum(one != two for one, two in zip(before, after, strict=True)) / len(before)


def is_prime(number: int) -> bool:
    """By trial division."""
    return number > 1 and all(number % divisor for divisor in range(2, int(number**0.5) + 1))


def test_the_size_is_a_prime_of_at_least_100_slots_a_member_in_four_tiers() -> None:
    counts = [1, 2, 100, 101, 655, 656, 6553, 6554, MAX_MEMBERS]
    sizes = [table_size(members) for members in counts]
    assert sizes[0] == sizes[2] == 16381
    assert sizes[3] == sizes[4] == 65537
    assert all(is_prime(size) and size >= 100 * members for size, members in zip(sizes, counts, strict=True))
    assert len(set(sizes)) == 4


def test_more_members_than_entries_can_name_are_an_error() -> None:
    with pytest.raises(ValueError, match="65536 members"):
        table_size(MAX_MEMBERS + 1)


def table_by_the_paper(keys: list[str], weights: list[int]) -> list[str]:
    """The population as the paper writes it, with whole permutations; turns by (number before / weight, key)."""
    size = table_size(len(keys))
    permutation = {}
    for key in keys:
        offset, skip = mmh3.hash(key, 0x6C62642D, False) % size, mmh3.hash(key, 0x736B6970, False) % (size - 1) + 1
        permutation[key] = iter([(offset + j * skip) % size for j in range(size)])
    turns = sorted(
        (Fraction(turn, weight), key) for key, weight in zip(keys, weights, strict=True) for turn in range(size)
    )
    entries: dict[int, str] = {}
    for _, key in turns[:size]:
        entries[next(slot for slot in permutation[key] if slot not in entries)] = key
    return [entries[slot] for slot in range(size)]


@pytest.mark.parametrize("weights", [[1, 1, 1], [3, 1, 2]])
def test_the_table_is_the_one_of_the_paper(weights: list[int]) -> None:
    keys = ["10.0.0.2:80", "10.0.0.10:80", "10.0.0.1:80"]
    table = memoryview(build_table(keys, weights)).cast("H")
    assert [keys[member] for member in table] == table_by_the_paper(keys, weights)


def test_the_golden_tables() -> None:
    """A change of these digests moves every client of every consistent_hash pool at an upgrade."""
    assert sys.byteorder == "little"
    equal = build_table(["10.10.52.11:80", "10.10.52.12:80", "[2001:db8::1]:443"], [1, 1, 1])
    weighted = build_table(["10.10.52.11:80", "10.10.52.12:80", "[2001:db8::1]:443"], [1, 5, 2])
    large = build_table(keys_of(150), [1 + member % 3 for member in range(150)])
    digests = [hashlib.sha256(table).hexdigest()[:16] for table in (equal, weighted, large)]
    assert digests == ["ef07d8192c14e7e1", "2e04b5b7adf621ab", "e8f61be403a4d90f"]


def test_the_golden_flows() -> None:
    keys = keys_of(10)
    digest = hashlib.sha256(" ".join(flows(balancer_of(keys), keys)).encode()).hexdigest()[:16]
    assert digest == "a278763efb979857"


_ELSEWHERE = """
import hashlib
from lbd.balancing.consistent_hash import ConsistentHash, build_table
keys = [f"10.244.{member // 200}.{member % 200}:8080" for member in range(30)]
weights = [1 + member % 3 for member in range(30)]
table = build_table(keys, weights)
balancer = ConsistentHash([1, 0] * 15, memoryview(table).cast("H"))
picks = [balancer.pick(f"192.0.2.{i}", [2]) for i in range(250)]
print(hashlib.sha256(table).hexdigest(), hashlib.sha256(repr(picks).encode()).hexdigest())
"""


def test_every_process_has_the_same_table_and_picks_whatever_its_string_hashes() -> None:
    outputs = {
        subprocess.run(
            [sys.executable, "-c", _ELSEWHERE],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("0", "1", "random")
    }
    assert len(outputs) == 1
    weights = [1 + member % 3 for member in range(30)]
    assert outputs.pop().split()[0] == hashlib.sha256(build_table(keys_of(30), weights)).hexdigest()


@settings(max_examples=15, deadline=None)
@given(
    pool=st.dictionaries(st.text(min_size=1, max_size=12), st.integers(0, 6), min_size=1, max_size=12),
    shuffle=st.randoms(use_true_random=False),
)
def test_the_table_does_not_depend_on_the_order_of_the_members(pool: dict[str, int], shuffle: object) -> None:
    keys = list(pool)
    other = list(pool)
    shuffle.shuffle(other)  # type: ignore[attr-defined]  # hypothesis gives a random.Random without saying so
    one = memoryview(build_table(keys, [pool[key] for key in keys])).cast("H")
    two = memoryview(build_table(other, [pool[key] for key in other])).cast("H")
    assert [keys[member] for member in one] == [other[member] for member in two]


@settings(max_examples=15, deadline=None)
@given(weights=st.lists(st.integers(0, 50), min_size=1, max_size=80).filter(any))
def test_slots_are_shared_by_weight_to_within_one_and_nobody_with_a_weight_is_left_out(weights: list[int]) -> None:
    counted = Counter(memoryview(build_table(keys_of(len(weights)), weights)).cast("H"))
    slots = table_size(len(weights))
    for member, weight in enumerate(weights):
        due = slots * weight / sum(weights)
        assert (counted[member] > 0) == (weight > 0)
        assert abs(counted[member] - due) <= 1 + len(weights) * weight / sum(weights), (member, due)
        assert abs(counted[member] - due) <= max(0.01 * due, 2)


def test_only_ratios_of_weights_matter() -> None:
    keys = keys_of(6)
    assert build_table(keys, [1, 2, 3, 1, 2, 3]) == build_table(keys, [7, 14, 21, 7, 14, 21])
    assert build_table(keys, [4] * 6) == build_table(keys, [1] * 6)


def test_equal_and_almost_equal_weights_give_almost_the_same_table() -> None:
    keys = keys_of(10)
    equal = flows(balancer_of(keys), keys)
    almost = flows(balancer_of(keys, [1000] * 9 + [999]), keys)
    assert moved(equal, almost) < 0.02


def test_a_tiny_weight_beside_large_ones_still_has_a_slot() -> None:
    counted = Counter(memoryview(build_table(keys_of(100), [1000] * 99 + [1])).cast("H"))
    assert counted[99] >= 1
    assert len(counted) == 100


def test_flows_are_shared_evenly() -> None:
    keys = keys_of(10)
    counted = Counter(flows(balancer_of(keys), keys))
    assert all(abs(counted[key] - 2000) < 200 for key in keys), counted


@pytest.mark.parametrize(
    ("keys", "weights", "error"),
    [
        (["a", "b", "a"], [1, 1, 1], "twice"),
        (["a", "b"], [1], "weights for"),
        (["a", "b"], [1, -1], "not a weight"),
    ],
)
def test_what_is_not_a_pool_is_refused(keys: list[str], weights: list[int], error: str) -> None:
    with pytest.raises(ValueError, match=error):
        build_table(keys, weights)


def test_a_view_of_another_format_is_refused() -> None:
    with pytest.raises(ValueError, match="'H'"):
        ConsistentHash([1], memoryview(build_table(["a"], [1])))


def test_a_pool_without_members_has_an_empty_table_and_no_pick() -> None:
    assert build_table([], []) == b""
    assert ConsistentHash([], memoryview(b"").cast("H")).pick("192.0.2.1", []) == -1


def test_a_pool_of_which_no_member_has_a_weight_has_a_table_that_can_be_mapped_and_no_pick() -> None:
    table = build_table(["a", "b"], [0, 0])
    assert len(table) == 2 * 16381
    assert ConsistentHash([0, 0], memoryview(table).cast("H")).pick("192.0.2.1", []) == -1


def test_removing_or_adding_one_of_2_to_100_moves_at_most_its_share_and_two_percent() -> None:
    everyone = keys_of(100)
    before = flows(balancer_of(everyone[:1]), everyone)
    for members in range(2, 101):
        keys = everyone[:members]
        after = flows(balancer_of(keys), keys)
        assert moved(before, after) <= 1 / members + 0.02, members
        before = after


@pytest.mark.parametrize("weights", [[1] * 12, [1 + member % 4 for member in range(12)]], ids=["equal", "weighted"])
@pytest.mark.parametrize("gone", [0, 3, 11])
def test_removing_any_member_moves_little_but_its_own_flows(weights: list[int], gone: int) -> None:
    keys = keys_of(12)
    before = flows(balancer_of(keys, weights), keys)
    left = keys[:gone] + keys[gone + 1 :]
    after = flows(balancer_of(left, weights[:gone] + weights[gone + 1 :]), left)
    assert moved(before, after) <= weights[gone] / sum(weights) + 0.02
    disabled = [0 if member == gone else weight for member, weight in enumerate(weights)]
    assert flows(balancer_of(keys, disabled), keys) == after


@pytest.mark.parametrize("weights", [[1] * 10, [1, 2, 3, 4, 5, 5, 4, 3, 2, 1]], ids=["equal", "weighted"])
def test_a_flap_moves_the_flows_of_that_member_alone_evenly_over_the_others_and_they_return(
    weights: list[int],
) -> None:
    keys = keys_of(10)
    balancer = balancer_of(keys, weights)
    before = flows(balancer, keys)
    for down in (0, 4, 9):
        balancer.set_weights([0 if member == down else 100 * weight for member, weight in enumerate(weights)])
        during = flows(balancer, keys)
        assert all((one == two) == (one != keys[down]) for one, two in zip(before, during, strict=True))
        took = Counter(two for one, two in zip(before, during, strict=True) if one == keys[down])
        for member, weight in enumerate(weights):
            due = before.count(keys[down]) * weight / (sum(weights) - weights[down])
            assert member == down or abs(took[keys[member]] - due) < 0.2 * due + 25, (member, due, took)
        balancer.set_weights(weights)
        assert flows(balancer, keys) == before


@pytest.mark.parametrize("up", [2, 3, 10])
def test_in_a_pool_that_is_mostly_down_flows_are_even_and_each_further_loss_moves_only_its_own(up: int) -> None:
    keys = keys_of(600)
    balancer = balancer_of(keys)
    eligible = [600 // up * each for each in range(up)]
    balancer.set_weights([int(member in eligible) for member in range(600)])
    before = flows(balancer, keys)
    counted = Counter(before)
    assert all(abs(counted[keys[member]] - 20_000 / up) < 0.15 * 20_000 / up for member in eligible), counted
    gone = eligible.pop()
    balancer.set_weights([int(member in eligible) for member in range(600)])
    after = flows(balancer, keys)
    assert all((one == two) == (one != keys[gone]) for one, two in zip(before, after, strict=True))


def test_the_only_eligible_member_of_many_is_always_found() -> None:
    keys = keys_of(600)
    balancer = balancer_of(keys)
    balancer.set_weights([int(member == 599) for member in range(600)])
    assert set(flows(balancer, keys)) == {keys[599]}


def test_retries_visit_every_eligible_member_once_in_an_order_of_the_clients_own() -> None:
    keys = keys_of(8)
    balancer = balancer_of(keys)
    balancer.set_weights([1, 1, 0, 1, 1, 1, 0, 1])
    orders = set()
    for client in CLIENTS[:200]:
        tried: list[int] = []
        while (member := balancer.pick(client, tried)) >= 0:
            assert member not in tried
            assert balancer.pick(client, tried) == member
            tried.append(member)
        assert sorted(tried) == [0, 1, 3, 4, 5, 7]
        orders.add(tuple(tried))
    assert len(orders) > 100
    second = Counter(balancer.pick(client, [balancer.pick(client, [])]) for client in CLIENTS)
    assert all(abs(second[member] - 20_000 / 6) < 500 for member in (0, 1, 3, 4, 5, 7)), second


def test_slow_start_and_scaled_weights_move_nobody() -> None:
    keys = keys_of(5)
    balancer = balancer_of(keys)
    before = flows(balancer, keys)
    balancer.set_weights([100, 1, 37, 100, 99])
    assert flows(balancer, keys) == before


def test_ipv6_clients_are_spread_too() -> None:
    balancer = balancer_of(keys_of(4))
    counted = Counter(balancer.pick(f"2001:db8::{i:x}", []) for i in range(4000))
    assert all(abs(counted[member] - 1000) < 150 for member in range(4)), counted
