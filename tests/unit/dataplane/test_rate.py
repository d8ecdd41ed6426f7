"""A rate that is dealt in shares: no window sees more than the shares say, and what is not used can be given away."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from lbd.dataplane.hot.meter import BURST_MS, LEAST_BYTES, REFILL, RESERVE, SMALLEST_BYTES, Meter
from lbd.dataplane.hot.quota import Desk
from lbd.dataplane.hot.rate import Rate
from lbd.dataplane.hot.reactor import Reactor


def never(where: str, error: BaseException) -> None:
    raise AssertionError(f"{where}: {error!r}")


def asked_of(said: list[dict[str, Any]]) -> Callable[[dict[str, object]], None]:
    return said.append


def connection_rate(share: int, limit: int = 100) -> Rate:
    """Return a rate in whole units, with a second of burst."""
    rate = Rate("rate", 0, 0, 1000, 1, 1.0, 8)
    rate.limit = limit
    rate.set_share(1, share, 0)
    return rate


def throughput(share: int) -> Rate:
    rate = Rate("throughput", 0, 0, BURST_MS, LEAST_BYTES, REFILL, RESERVE)
    rate.set_share(1, share, 0)
    return rate


def test_a_rate_begins_with_one_unit_and_fills_to_a_second_of_its_share() -> None:
    rate = connection_rate(10)
    assert [rate.take(1, 0) for _ in range(2)] == [True, False]
    assert sum(rate.take(1, 60_000) for _ in range(100)) == 10


def test_without_a_share_nothing_comes() -> None:
    rate = connection_rate(0)
    assert not rate.take(1, 10**9)


def test_what_was_saved_under_a_larger_share_is_lost_with_it() -> None:
    rate = connection_rate(50)
    assert rate.available(10_000) == 50
    rate.set_share(2, 5, 10_000)
    assert rate.available(10_000) == 5


def test_an_idle_worker_gives_a_rate_away_but_for_a_reserve() -> None:
    rate = connection_rate(48)
    rate.recall(2, 52, 48, 1000)
    assert rate.share == 6, "an eighth of an even share stays"
    assert rate.number == 2


def test_a_busy_worker_keeps_what_it_uses_up_to_a_fair_share() -> None:
    said: list[dict[str, Any]] = []
    desk = Desk(Reactor(never, 0), asked_of(said))
    rate = connection_rate(80)
    for at_ms in range(0, 2000, 10):
        rate.take(1, at_ms)
        if at_ms % 100 == 0:
            rate.sample(desk, at_ms)
    rate.recall(2, 20, 50, 2000)
    assert rate.share == 60
    rate.recall(3, 40, 50, 2000)
    assert rate.share == 50
    rate.recall(4, 40, 50, 2000)
    assert rate.share == 50


def test_who_turned_somebody_away_asks_for_all_the_rest_and_not_all_the_time() -> None:
    said: list[dict[str, Any]] = []
    desk = Desk(Reactor(never, 0), asked_of(said))
    rate = connection_rate(10, limit=25)
    rate.sample(desk, 100)
    assert not said
    while rate.take(1, 200):
        pass
    rate.sample(desk, 200)
    assert [(each["type"], each["wanted"]) for each in said] == [("lease_wanted", 15)]
    assert not rate.take(1, 250)
    rate.sample(desk, 300)
    assert len(said) == 1
    assert not rate.take(100, 390)
    rate.sample(desk, 400)
    assert len(said) == 2


@given(
    share=st.integers(20_000, 10**9),
    steps=st.lists(st.tuples(st.integers(0, 60), st.integers(1, 10**8)), min_size=1, max_size=150),
)
def test_no_second_sees_more_bytes_than_the_share(share: int, steps: list[tuple[int, int]]) -> None:
    rate = throughput(share)
    now_ms = 0
    moved: list[tuple[int, int]] = []
    for later_ms, wanted in steps:
        now_ms += later_ms
        size = min(wanted, rate.available(now_ms))
        if size > 0:
            rate.spend(size)
            moved.append((now_ms, size))
    for first_ms, _ in moved:
        within = sum(size for at_ms, size in moved if first_ms <= at_ms < first_ms + 1000)
        assert within <= share * 1.0 + max(0, LEAST_BYTES - share * BURST_MS // 1000) + 1


def test_a_datagram_may_pass_while_anything_is_left_and_its_debt_is_paid_first() -> None:
    meter = Meter(Reactor(never, 0), 0)
    begun_ms = meter.reactor.now_ms
    meter.rate.set_share(1, 8_000, begun_ms)
    assert meter.may_pass(begun_ms + 1000)
    meter.spend(1400)
    assert meter.allowance(begun_ms + 1000) == 0
    assert meter.may_pass(begun_ms + 1000)
    meter.spend(1400)
    meter.rate.is_short = False
    assert not meter.may_pass(begun_ms + 1000)
    assert meter.rate.is_short
    assert meter.may_pass(begun_ms + 1500)


def test_a_meter_lets_nothing_pass_below_a_segments_worth_and_counts_that_as_short() -> None:
    meter = Meter(Reactor(never, 0), 0)
    begun_ms = meter.reactor.now_ms
    meter.rate.set_share(1, 1_000_000, begun_ms)
    allowance = meter.allowance(begun_ms + 40)
    assert allowance > SMALLEST_BYTES
    meter.spend(allowance - 100)
    assert not meter.rate.is_short
    assert meter.allowance(begun_ms + 40) == 0
    assert meter.rate.is_short
