"""Prints what a pick costs, in nanoseconds, and what a table takes to build, in the form that runs (LBD_FORM).

Run it as `python bench/balancing.py`. The loop around the pick is interpreted: its cost (the `nothing` line)
is in every figure. CPU time is measured, so that a busy machine disturbs less.
"""

from __future__ import annotations

import time

from lbd.balancing import balancer as balancer_module
from lbd.balancing.balancer import Balancer
from lbd.balancing.bounded_hash import BoundedHash
from lbd.balancing.consistent_hash import ConsistentHash, build_table
from lbd.balancing.fastest_response import FastestResponse
from lbd.balancing.least_connections import LeastConnections
from lbd.balancing.random_choices import RandomChoices
from lbd.balancing.round_robin import RoundRobin

ROUNDS = 5
CLIENTS = [f"10.{i % 250}.{i // 250 % 250}.{i % 97}" for i in range(20_000)]


class Nothing:
    """Stands in for a balancer: the cost of the loop and of one method call."""

    def pick(self, client: str, tried: list[int]) -> int:
        """Pick nothing."""
        return -1


def ns_per_pick(subject: Balancer | Nothing) -> float:
    """Return the best of some rounds over all clients."""
    best = float("inf")
    tried: list[int] = []
    for _ in range(ROUNDS):
        started = time.process_time_ns()
        for client in CLIENTS:
            subject.pick(client, tried)
        best = min(best, time.process_time_ns() - started)
    return best / len(CLIENTS)


def hashing(weights: list[int], down: int = 0) -> ConsistentHash:
    """Return a balancer over a fresh table of which the first `down` members are not eligible."""
    table = build_table([f"10.0.{i // 250}.{i % 250}:80" for i in range(len(weights))], weights)
    return ConsistentHash([0] * down + weights[down:], memoryview(table).cast("H"))


def least(members: int, weights: list[int], *, busy: bool) -> LeastConnections:
    """Return a balancer over an idle pool, where all are tied, or over one in which all counts differ."""
    own = list(range(members)) if busy else [0] * members
    return LeastConnections(weights, own, [0] * members, 1)


def bounded(members: int, full: int) -> BoundedHash:
    """Return a balancer with a bound of 125 %, over a pool of which the first `full` members are above it."""
    table = build_table([f"10.0.{i // 250}.{i % 250}:80" for i in range(members)], [1] * members)
    own = [200] * full + [100] * (members - full)
    return BoundedHash([1] * members, memoryview(table).cast("H"), own, [0] * members, 125.0)


def fastest(members: int) -> FastestResponse:
    """Return a balancer over a pool whose members have all been measured."""
    balancer = FastestResponse([1] * members, [0] * members, 1)
    for member in range(members):
        balancer.observe(balancer.pick("", []), 100 + member, 0)
    return balancer


def random_choices(weights: list[int]) -> RandomChoices:
    """Return a balancer over a pool in which all counts differ."""
    return RandomChoices(weights, list(range(len(weights))), [0] * len(weights), 1)


def subjects() -> list[tuple[str, Balancer | Nothing]]:
    """Return what is measured, with a name each."""
    rows: list[tuple[str, Balancer | Nothing]] = [("nothing", Nothing())]
    for members in (3, 10, 64, 1000):
        equal, unequal = [1] * members, [1 + i % 5 for i in range(members)]
        rows += [
            (f"round_robin equal {members}", RoundRobin(equal, 0)),
            (f"round_robin weighted {members}", RoundRobin(unequal, 0)),
            (f"least_connections idle {members}", least(members, equal, busy=False)),
            (f"least_connections busy {members}", least(members, equal, busy=True)),
            (f"least_connections weighted {members}", least(members, unequal, busy=True)),
            (f"random {members}", random_choices(equal)),
            (f"random weighted {members}", random_choices(unequal)),
            (f"fastest_response {members}", fastest(members)),
            (f"consistent_hash {members}", hashing(equal)),
            (f"consistent_hash half down {members}", hashing(equal, members // 2)),
            (f"consistent_hash two up {members}", hashing(equal, members - 2)),
            (f"consistent_hash bounded {members}", bounded(members, 0)),
            (f"consistent_hash bounded, a third full {members}", bounded(members, members // 3)),
        ]
    return rows


def main() -> None:
    """Measure and print."""
    print("form:", "interpreted" if str(balancer_module.__file__).endswith(".py") else "compiled")
    for name, subject in subjects():
        print(f"{name:44} {ns_per_pick(subject):9.0f} ns")
    for members in (3, 100, 655, 6553):
        for kind, weights in (("equal", [1] * members), ("weighted", [1 + i % 5 for i in range(members)])):
            keys = [f"10.{i // 250}.{i % 250}.1:80" for i in range(members)]
            started = time.process_time()
            slots = len(build_table(keys, weights)) // 2
            spent_ms = 1e3 * (time.process_time() - started)
            print(f"build_table {kind:8} {members:5} members {slots:7} slots {spent_ms:9.1f} ms")


if __name__ == "__main__":
    main()
