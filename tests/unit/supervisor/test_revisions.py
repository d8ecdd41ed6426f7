"""Which generation a revision stands for, however many changes come; and what differs between two desired states."""

from __future__ import annotations

import random

from kit_supervisor import endpoints, service
from lbd.supervisor.plan import key_of
from lbd.supervisor.revisions import KEPT, Revisions
from lbd.supervisor.service_index import NO_DIFFERENCE, Wanted


def test_a_revision_stands_for_the_generation_with_which_it_was_finished() -> None:
    revisions = Revisions()
    assert (revisions.generation_of(0), revisions.generation_of(-1), revisions.next) == (0, 0, 1)
    assert [revisions.finish(generation) for generation in (1, 2, 40)] == [1, 2, 3]
    assert [revisions.generation_of(revision) for revision in (-1, 0, 1, 2, 3)] == [0, 0, 1, 2, 40]


def test_a_worker_that_is_thousands_of_changes_behind_still_has_a_generation() -> None:
    revisions = Revisions()
    for generation in range(1, 3 * KEPT):
        revisions.finish(10 * generation)
    newest = revisions.newest
    assert revisions.generation_of(newest) == 10 * newest
    assert revisions.generation_of(newest - KEPT + 1) == 10 * (newest - KEPT + 1)
    assert revisions.generation_of(newest - KEPT) == 0


def test_a_difference_is_what_has_changed_and_the_index_follows_it() -> None:
    wanted = Wanted()
    first, second = service(1, endpoints(1, 2)), service(2, endpoints(2, 2))
    assert wanted.take((first, second)).now == (first, second)
    assert wanted.take((second, first)) == NO_DIFFERENCE
    equal = service(1, endpoints(1, 2))
    assert wanted.take((equal, second)) == NO_DIFFERENCE
    changed = service(1, endpoints(1, 3))
    difference = wanted.take((changed, second))
    assert (difference.now, difference.before) == ((changed,), (equal,))
    moved = service(2, endpoints(2, 2), "172.16.9.9")
    difference = wanted.take((changed, moved))
    assert (difference.now, difference.before) == ((moved,), (second,))
    assert difference.vips == {second.vip, moved.vip}
    assert difference.gone == set()
    assert list(wanted.named(moved.name)) == [key_of(moved)]
    assert wanted.on(second.vip) == {}
    assert wanted.take(()).gone == {changed.name, moved.name}
    assert wanted.all == {}


def test_an_index_that_follows_differences_has_what_one_that_was_made_anew_has() -> None:
    rng = random.Random(7)
    wanted = Wanted()
    kept = [service(number, endpoints(number, 1)) for number in range(20)]
    for _ in range(200):
        number = rng.randrange(20)
        vip = f"172.16.8.{1 + rng.randrange(5)}"
        kept[number] = service(number, endpoints(number, rng.randrange(3)), vip, 80 + number)
        services = tuple(one for one in kept if rng.random() < 0.8)
        wanted.take(services)
        fresh = Wanted()
        fresh.take(services)
        assert wanted.all == fresh.all
        for one in kept:
            assert wanted.on(one.vip) == fresh.on(one.vip)
            assert wanted.named(one.name) == fresh.named(one.name)
