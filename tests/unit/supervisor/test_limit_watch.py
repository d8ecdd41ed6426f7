"""A limit that is reached is said once in a while, with the count; the status says it as long as it lasts."""

from __future__ import annotations

import pytest

from lbd.model.address import Endpoint
from lbd.model.desired import Limits, Member, Pool, VirtualService
from lbd.model.status import Rejection, Traffic
from lbd.supervisor.limit_watch import LimitWatch, limit_text, reason_at_limit

SERVICE = VirtualService(
    *("web", "192.0.2.10", 80),
    Pool((Member(Endpoint("10.0.0.1", 80), max_connections=7),)),
    source_ranges=("10.0.0.0/8",),
    limits=Limits(105, connection_rate=2.5, max_throughput_bps=1000),
)


def rejected(count: int, reason: Rejection = Rejection.MAX_CONNECTIONS) -> Traffic:
    return Traffic(rejected_total={reason: count})


def test_nothing_is_said_while_nobody_is_turned_away() -> None:
    watch = LimitWatch()
    assert [watch.look([(SERVICE, rejected(0))], float(at_s)) for at_s in range(20)] == [[]] * 20


def test_a_flood_is_one_line_in_ten_seconds_and_none_is_missing_in_the_counts() -> None:
    watch = LimitWatch()
    lines = []
    for at_s in range(60):
        lines += watch.look([(SERVICE, rejected(100 * (at_s + 1)))], float(at_s))
    assert len(lines) == 6
    assert [line.rejected for line in lines] == [100] + [1000] * 5
    assert [line.in_s for line in lines] == [1.0] + [10.0] * 5
    assert {(line.service, line.reason, line.limit) for line in lines} == {("web", Rejection.MAX_CONNECTIONS, "105")}


def test_each_reason_and_each_service_has_its_own_line() -> None:
    watch = LimitWatch()
    both = Traffic(rejected_total={Rejection.MAX_CONNECTIONS: 1, Rejection.QUEUE_FULL: 2})
    lines = watch.look([(SERVICE, both)], 0.0)
    assert [(line.reason, line.rejected) for line in lines] == [
        (Rejection.MAX_CONNECTIONS, 1),
        (Rejection.QUEUE_FULL, 2),
    ]


def test_a_service_that_comes_again_under_its_name_is_counted_from_nothing() -> None:
    watch = LimitWatch()
    assert watch.look([(SERVICE, rejected(1000))], 0.0)
    assert not watch.look([], 20.0)
    (line,) = watch.look([(SERVICE, rejected(3))], 40.0)
    assert line.rejected == 3


@pytest.mark.parametrize("reason", Rejection)
def test_every_reason_has_its_limit_in_words(reason: Rejection) -> None:
    assert isinstance(limit_text(SERVICE, reason), str)


@pytest.mark.parametrize(
    ("per_second", "text"),
    [(2 / 60, "2/m"), (1.0, "1/s"), (70 / 60, "70/m"), (1000.0, "1000/s"), (1 / 3600, "1/h"), (7 / 3600, "7/h")],
)
def test_a_rate_is_named_as_the_configuration_writes_rates(per_second: float, text: str) -> None:
    service = VirtualService(
        "web", "192.0.2.10", 80, SERVICE.pool, limits=Limits(connection_rate_per_client=per_second)
    )
    assert limit_text(service, Rejection.CONNECTION_RATE_PER_CLIENT) == text


@pytest.mark.parametrize(
    ("bps", "text"),
    [(64_000, "64kbps"), (1_500_000, "1500kbps"), (8_000_000, "8Mbps"), (10**10, "10Gbps"), (64_001, "64001bps")],
)
def test_a_throughput_is_named_as_the_configuration_writes_throughputs(bps: int, text: str) -> None:
    service = VirtualService("web", "192.0.2.10", 80, SERVICE.pool, limits=Limits(max_throughput_bps=bps))
    assert limit_text(service, Rejection.MAX_THROUGHPUT) == text


def test_the_members_limits_are_named_where_the_service_has_none() -> None:
    service = VirtualService("web", "192.0.2.10", 80, SERVICE.pool)
    assert limit_text(service, Rejection.MAX_CONNECTIONS) == "7 of all members"


def test_the_status_says_that_a_service_is_at_its_limit_and_how_many_wait() -> None:
    assert reason_at_limit(SERVICE, Traffic(active_connections=104)) == ""
    assert reason_at_limit(SERVICE, Traffic(active_connections=105)) == "at its limit of 105 connections"
    full = Traffic(active_connections=117, queued=12)
    assert reason_at_limit(SERVICE, full) == "at its limit of 105 connections (12 queued)"
    free = VirtualService("web", "192.0.2.10", 80, SERVICE.pool)
    assert reason_at_limit(free, Traffic(active_connections=10**6)) == ""
