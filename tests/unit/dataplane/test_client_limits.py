"""Each client has its own count and its own rate, and their number is bounded."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st

from lbd.dataplane.hot.client_limits import CLIENT_ADMITTED, TOO_FAST, TOO_MANY, ClientLimits

ONE, OTHER = "192.0.2.1", "2001:db8::1"


def test_a_client_gets_as_many_connections_as_it_may_have_and_no_more() -> None:
    clients = ClientLimits(2, 0.0)
    assert [clients.enter(ONE, 0) for _ in range(3)] == [CLIENT_ADMITTED, CLIENT_ADMITTED, TOO_MANY]
    assert clients.enter(OTHER, 0) == CLIENT_ADMITTED
    clients.leave(ONE, 0)
    assert clients.enter(ONE, 0) == CLIENT_ADMITTED
    assert clients.enter(ONE, 0) == TOO_MANY


def test_a_client_may_come_a_seconds_worth_at_once_and_then_at_its_rate() -> None:
    clients = ClientLimits(0, 5.0)
    assert Counter(clients.enter(ONE, 1000) for _ in range(20)) == {CLIENT_ADMITTED: 5, TOO_FAST: 15}
    assert clients.enter(ONE, 1199) == TOO_FAST
    assert clients.enter(ONE, 1200) == CLIENT_ADMITTED
    assert clients.enter(ONE, 1201) == TOO_FAST
    assert clients.enter(OTHER, 1201) == CLIENT_ADMITTED


def test_a_rate_below_one_a_second_lets_one_come_at_once() -> None:
    clients = ClientLimits(0, 0.1)
    assert [clients.enter(ONE, at_ms) for at_ms in (0, 9999, 10_000)] == [CLIENT_ADMITTED, TOO_FAST, CLIENT_ADMITTED]


def test_going_away_and_coming_back_buys_no_new_burst() -> None:
    clients = ClientLimits(0, 2.0)
    for _ in range(2):
        assert clients.enter(ONE, 0) == CLIENT_ADMITTED
        clients.leave(ONE, 0)
    assert clients.enter(ONE, 0) == TOO_FAST


def test_what_another_limit_turned_away_costs_the_client_nothing() -> None:
    clients = ClientLimits(1, 1.0)
    for _ in range(3):
        assert clients.enter(ONE, 0) == CLIENT_ADMITTED
        clients.undo(ONE, 0)
    assert clients.enter(ONE, 0) == CLIENT_ADMITTED


def test_clients_without_connections_are_forgotten_once_their_bucket_is_full() -> None:
    clients = ClientLimits(0, 1.0)
    for number in range(1000):
        assert clients.enter(f"10.0.0.{number}", number) == CLIENT_ADMITTED
        clients.leave(f"10.0.0.{number}", number)
    assert len(clients) <= 1000
    for number in range(1000):
        clients.enter(ONE, 10_000 + number)
        clients.leave(ONE, 10_000 + number)
    assert len(clients) == 1


def test_without_a_rate_a_client_is_forgotten_with_its_last_connection() -> None:
    clients = ClientLimits(3, 0.0)
    clients.enter(ONE, 0)
    clients.enter(ONE, 0)
    clients.leave(ONE, 0)
    assert len(clients) == 1
    clients.leave(ONE, 0)
    assert len(clients) == 0


def test_a_full_table_forgets_who_is_longest_away_and_refuses_when_all_are_there() -> None:
    clients = ClientLimits(1, 0.001, max_clients=3)
    for address in ("a", "b"):
        assert clients.enter(address, 0) == CLIENT_ADMITTED
        clients.leave(address, 0)
    assert clients.enter("c", 0) == CLIENT_ADMITTED
    assert clients.enter("d", 0) == CLIENT_ADMITTED  # instead of a
    assert clients.enter("b", 0) == TOO_FAST, "it was remembered"
    assert len(clients) == 3
    assert clients.enter("e", 0) == CLIENT_ADMITTED  # instead of b
    assert clients.enter("f", 0) == TOO_MANY
    assert len(clients) == 3
    clients.leave("c", 0)
    assert clients.enter("f", 0) == CLIENT_ADMITTED


def test_connections_that_were_there_before_the_limit_are_counted() -> None:
    clients = ClientLimits(2, 1.0)
    for _ in range(3):
        clients.adopt(ONE, 0)
    assert clients.enter(ONE, 0) == TOO_MANY
    clients.leave(ONE, 0)
    clients.leave(ONE, 0)
    assert clients.enter(ONE, 0) == CLIENT_ADMITTED


@given(
    most=st.integers(0, 3),
    rate=st.sampled_from([0.0, 0.5, 2.0]),
    steps=st.lists(st.tuples(st.sampled_from("abc"), st.booleans(), st.integers(0, 700)), max_size=100),
)
def test_no_client_ever_has_more_than_it_may_and_none_comes_faster(
    most: int, rate: float, steps: list[tuple[str, bool, int]]
) -> None:
    clients = ClientLimits(most, rate, max_clients=10)
    active: Counter[str] = Counter()
    came: dict[str, list[int]] = {name: [] for name in "abc"}
    now_ms = 0
    for name, comes, later_ms in steps:
        now_ms += later_ms
        if comes and clients.enter(name, now_ms) == CLIENT_ADMITTED:
            active[name] += 1
            came[name].append(now_ms)
        elif not comes and active[name]:
            active[name] -= 1
            clients.leave(name, now_ms)
        assert not most or max(active.values(), default=0) <= most
    for times in came.values() if rate else ():
        for first in range(len(times)):
            for last in range(first, len(times)):
                assert last - first + 1 <= max(1.0, rate) + rate * (times[last] - times[first]) / 1000 + 1e-6
