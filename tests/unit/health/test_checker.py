"""Claims about the checker as the supervisor sees it: real members, a real loop, uvloop as in the daemon."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import random
import resource
import socket
import struct
import threading
import time
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from dataclasses import replace
from typing import Any

import pytest
import structlog
import uvloop

from lbd.health.checker import HealthChecker
from lbd.health.runner import PLACES
from lbd.model.address import Endpoint
from lbd.model.desired import HealthMonitor, MemberKey, MonitorType
from lbd.model.status import ConnectError, Health, MemberHealth

TCP = HealthMonitor("tcp", MonitorType.TCP, interval_s=0.1, timeout_s=0.3, rise=2, fall=2)
WEB = HealthMonitor("web", MonitorType.HTTP, interval_s=0.1, timeout_s=1.0, rise=2, fall=2)
LONG = replace(TCP, interval_s=60.0, timeout_s=30.0)


class Watcher:
    """Records what the checker says and lets a test wait for it."""

    def __init__(self) -> None:
        self.changes: list[tuple[MemberKey, MemberHealth]] = []
        self._changed = asyncio.Event()

    def __call__(self, key: MemberKey, health: MemberHealth) -> None:
        self.changes.append((key, health))
        self._changed.set()

    async def until(self, condition: Callable[[], bool], within_s: float = 8.0) -> None:
        async with asyncio.timeout(within_s):
            while not condition():
                self._changed.clear()
                await self._changed.wait()


@contextlib.asynccontextmanager
async def checking(**options: Any) -> AsyncIterator[tuple[HealthChecker, Watcher]]:
    watcher = Watcher()
    checker = HealthChecker(watcher, rng=random.Random(1), **options)
    await checker.start()
    try:
        yield checker, watcher
    finally:
        await checker.close()
        assert asyncio.all_tasks() == {asyncio.current_task()}


async def until(condition: Callable[[], bool], within_s: float = 8.0) -> None:
    """Poll a condition that nothing announces."""
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110  (statistics have no event)
            await asyncio.sleep(0.005)


def run(test: Coroutine[Any, Any, None]) -> None:
    uvloop.run(test)


def key_of(endpoint: Endpoint, service: str = "web") -> MemberKey:
    return MemberKey(service, endpoint)


def test_members_of_every_outcome_get_their_first_result_and_reason(members: Any, address: str) -> None:
    good = key_of(members.serve(members.hold, address))
    refusing = key_of(members.refusing(address))
    hole = key_of(members.black_hole(address))

    async def test() -> None:
        async with checking() as (checker, watcher):
            keys = [good, refusing, hole]
            assert checker.health_of(good).health is Health.UNKNOWN
            checker.set_targets(dict.fromkeys(keys, (TCP,)))
            assert not checker.first_results_in(keys)
            await checker.wait_first_results(keys)
            await watcher.until(lambda: len(watcher.changes) >= 3)
            seen = {key: (health.health, health.reason) for key, health in watcher.changes[:3]}
            assert seen == {
                good: (Health.UP, ""),
                refusing: (Health.DOWN, "tcp: connect_refused"),
                hole: (Health.DOWN, "tcp: connect_timeout"),
            }
            assert checker.health_of(good).health is Health.UP
            assert checker.health_of(good).monitors[0].latency_s is not None

    run(test())


def test_first_result_of_a_handful_comes_at_once(members: Any) -> None:
    endpoint = members.serve(members.hold)

    async def test() -> None:
        async with checking() as (checker, _):
            keys = [key_of(endpoint, f"service {index}") for index in range(10)]
            began_s = time.monotonic()
            checker.set_targets(dict.fromkeys(keys, (LONG,)))
            await checker.wait_first_results(keys)
            assert time.monotonic() - began_s < 0.5
            assert all(checker.health_of(key).health is Health.UP for key in keys)

    run(test())


def test_waiting_for_first_results_ends_after_one_monitor_timeout(members: Any) -> None:
    """512 places are full of black holes: the member that waits for a place is not waited for any longer."""
    hole = members.black_hole()
    patient = replace(LONG, timeout_s=0.4, name="patient")

    async def test() -> None:
        async with checking(places=1) as (checker, _):
            checker.set_targets({key_of(hole, "first"): (LONG,)})
            await until(lambda: checker.statistics().in_flight == 1)
            late = key_of(hole, "second")
            began_s = time.monotonic()
            checker.set_targets({key_of(hole, "first"): (LONG,), late: (patient,)})
            await checker.wait_first_results([late])
            assert 0.35 < time.monotonic() - began_s < 1.0
            assert checker.first_results_in([late])
            assert checker.health_of(late).health is Health.UNKNOWN
            await checker.wait_first_results([key_of(hole, "never heard of")])

    run(test())


def test_member_goes_down_after_fall_and_up_after_rise(members: Any) -> None:
    healthy = True

    def talk(connection: socket.socket) -> None:
        connection.recv(4096)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n" if healthy else b"HTTP/1.1 503 Busy\r\n\r\n")
        connection.recv(4096)

    key = key_of(members.serve(talk))

    async def test() -> None:
        nonlocal healthy
        async with checking() as (checker, watcher):
            with structlog.testing.capture_logs() as logs:
                checker.set_targets({key: (WEB,)})
                await watcher.until(lambda: checker.health_of(key).health is Health.UP)
                healthy = False
                await watcher.until(lambda: checker.health_of(key).health is Health.DOWN)
                healthy = True
                await watcher.until(lambda: checker.health_of(key).health is Health.UP)
            reasons = [(health.health, health.reason) for _, health in watcher.changes]
            assert reasons == [
                (Health.UP, ""),
                (Health.DOWN, "web: unexpected_status (503)"),
                (Health.UP, ""),
            ]
            assert [entry["event"] for entry in logs] == ["member_up", "member_down", "member_up"]
            down = logs[1]
            assert (down["service"], down["member"], down["monitor"]) == ("web", str(key.endpoint), "web")
            assert down["reason"] == "unexpected_status (503)"

    run(test())


def test_hundreds_of_udp_checks_wait_at_once_without_a_thread_and_leave_nothing_behind(
    members: Any, descriptors: Callable[[], int]
) -> None:
    open_port, closed_port = members.answer_datagrams(lambda _: []), members.refusing_datagrams()
    udp = replace(LONG, name="udp", type=MonitorType.UDP)

    async def test() -> None:
        async with checking() as (checker, _):
            threads, before = threading.active_count(), descriptors()
            good = [key_of(open_port, f"service {index}") for index in range(300)]
            bad = [key_of(closed_port, f"service {index}") for index in range(300)]
            checker.set_targets(dict.fromkeys([*good, *bad], (udp,)))
            await until(lambda: checker.statistics().in_flight >= 50)
            assert threading.active_count() == threads
            await checker.wait_first_results([*good, *bad])
            assert {checker.health_of(key).health for key in good} == {Health.UP}
            assert {checker.health_of(key).reason for key in bad} == {"udp: connect_refused"}
            assert descriptors() <= before

    run(test())


def test_monitor_may_check_another_port(members: Any) -> None:
    status_port = members.serve(members.hold).port
    key = key_of(members.refusing())

    async def test() -> None:
        async with checking() as (checker, _):
            checker.set_targets({key: (replace(TCP, port=status_port),)})
            await checker.wait_first_results([key])
            assert checker.health_of(key).health is Health.UP

    run(test())


def test_same_snapshot_again_changes_nothing(members: Any) -> None:
    endpoint = members.serve(members.hold)
    key = key_of(endpoint)

    async def test() -> None:
        async with checking() as (checker, watcher):
            for _ in range(50):
                checker.set_targets({key: (replace(LONG),)})
                await asyncio.sleep(0.005)
            assert checker.statistics().checks_total == 1
            assert len(watcher.changes) == 1

    run(test())


def test_bad_snapshot_raises_and_changes_nothing(members: Any) -> None:
    key, other = key_of(members.serve(members.hold)), MemberKey("other", Endpoint("127.0.0.1", 9))

    async def test() -> None:
        async with checking() as (checker, _):
            checker.set_targets({key: (TCP,)})
            for bad in ((), (TCP, replace(WEB, name="tcp"))):
                with pytest.raises(ValueError):
                    checker.set_targets({other: bad})
            assert checker.statistics().targets == 1
            await checker.wait_first_results([key])
            assert checker.health_of(key).health is Health.UP

    run(test())


def test_result_in_flight_of_a_removed_member_is_dropped(members: Any, descriptors: Callable[[], int]) -> None:
    key = key_of(members.black_hole())

    async def test() -> None:
        async with checking() as (checker, watcher):
            before = descriptors()
            checker.set_targets({key: (TCP,)})
            await until(lambda: checker.statistics().in_flight == 1)
            checker.set_targets({})
            await until(lambda: checker.statistics().in_flight == 0)
            assert descriptors() <= before
            await asyncio.sleep(TCP.timeout_s * 1.5)
            assert watcher.changes == []
            assert checker.health_of(key).health is Health.UNKNOWN

    run(test())


def test_removing_while_many_are_in_flight_or_wait_leaks_no_place(members: Any) -> None:
    hole, good = members.black_hole(), members.serve(members.hold)

    async def test() -> None:
        async with checking(places=4) as (checker, _):
            for round_number in range(5):
                checker.set_targets({key_of(hole, f"{round_number} {index}"): (LONG,) for index in range(20)})
                await until(lambda: checker.statistics().in_flight == 4)
                assert checker.statistics().waiting_for_place == 16
            checker.set_targets({key_of(good): (TCP,)})
            await checker.wait_first_results([key_of(good)])
            assert checker.health_of(key_of(good)).health is Health.UP
            assert checker.statistics().waiting_for_place == 0

    run(test())


def test_removal_at_the_moment_of_the_launch_leaks_no_place(members: Any) -> None:
    """A task cancelled before its first step never runs: its place must come back all the same."""
    hole, good = members.black_hole(), members.serve(members.hold)

    async def test() -> None:
        async with checking(places=1) as (checker, _):
            loop = asyncio.get_running_loop()
            launch = checker._runner._launch

            def launch_then_remove(check: Any) -> None:
                launch(check)
                loop.call_soon(lambda: None)
                if check.key == key_of(hole):
                    checker.set_targets({key_of(good): (TCP,)})

            checker._runner._launch = launch_then_remove  # type: ignore[method-assign]  # the moment has no event
            checker.set_targets({key_of(hole): (LONG,)})
            await until(lambda: checker.health_of(key_of(good)).health is Health.UP)

    run(test())


def test_member_that_comes_back_after_removal_starts_unknown_and_is_checked_anew(members: Any) -> None:
    key = key_of(members.serve(members.hold))

    async def test() -> None:
        async with checking() as (checker, watcher):
            for count in (1, 2, 3):
                checker.set_targets({key: (LONG,)})
                assert checker.health_of(key).health is Health.UNKNOWN
                await watcher.until(lambda expected=count: len(watcher.changes) == expected)
                checker.set_targets({})

    run(test())


def test_reload_that_adds_a_failing_monitor_keeps_the_member_up_until_it_has_failed(members: Any) -> None:
    key = key_of(members.serve(members.hold))

    async def test() -> None:
        async with checking() as (checker, watcher):
            checker.set_targets({key: (TCP,)})
            await checker.wait_first_results([key])
            checker.set_targets({key: (TCP, replace(WEB, timeout_s=0.3))})
            assert checker.health_of(key).health is Health.UP
            await watcher.until(lambda: checker.health_of(key).health is Health.DOWN)
            assert [health.health for _, health in watcher.changes] == [Health.UP, Health.DOWN]
            checker.set_targets({key: (TCP,)})
            assert checker.health_of(key).health is Health.UP
            assert watcher.changes[-1][1].health is Health.UP

    run(test())


def test_connect_failures_of_the_relay_take_a_member_down_until_its_checks_have_passed_again(members: Any) -> None:
    key = key_of(members.serve(members.hold))
    offset_s = 0.0

    async def test() -> None:
        nonlocal offset_s
        async with checking(clock=lambda: time.monotonic() + offset_s) as (checker, watcher):
            checker.set_targets({key: (replace(TCP, interval_s=0.5),)})
            await checker.wait_first_results([key])
            for _ in range(100):
                checker.report_passive(key, ConnectError.LOCAL)
                checker.report_passive(MemberKey("gone", key.endpoint), ConnectError.REFUSED)
            assert checker.health_of(key).passive_failures == 0
            for _ in range(100):
                checker.report_passive(key, ConnectError.RESET)
            assert checker.health_of(key).passive_failures == 1
            offset_s += 0.15
            checker.report_passive(key, ConnectError.RESET)
            assert checker.health_of(key).health is Health.DOWN
            assert watcher.changes[-1][1].reason == "traffic: connect_reset"
            await watcher.until(lambda: checker.health_of(key).health is Health.UP)
            assert checker.health_of(key).passive_failures == 0

    run(test())


def test_check_during_which_the_loop_was_late_is_void_and_repeated(members: Any) -> None:
    key = key_of(members.black_hole())

    async def test() -> None:
        async with checking() as (checker, watcher):
            checker.set_targets({key: (TCP,)})
            await until(lambda: checker.statistics().in_flight == 1)
            time.sleep(0.5)  # noqa: ASYNC251  (this is the fault)
            await until(lambda: checker.statistics().voids_total == 1)
            assert checker.health_of(key).health is Health.UNKNOWN
            assert "loop_late" in checker.health_of(key).reason
            assert checker.statistics().loop_lag_max_s > 0.4
            await watcher.until(lambda: checker.health_of(key).health is Health.DOWN)

    run(test())


def test_check_that_passes_counts_though_the_loop_was_late(members: Any) -> None:
    def talk(connection: socket.socket) -> None:
        connection.recv(4096)
        members.stopping.wait(0.1)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
        connection.recv(4096)

    key = key_of(members.serve(talk))

    async def test() -> None:
        async with checking() as (checker, watcher):
            checker.set_targets({key: (replace(WEB, interval_s=30.0, timeout_s=0.8),)})
            await until(lambda: checker.statistics().in_flight == 1)
            time.sleep(0.5)  # noqa: ASYNC251  (this is the fault)
            await watcher.until(lambda: checker.health_of(key).health is Health.UP)
            assert checker.statistics().voids_total == 0

    run(test())


@contextlib.contextmanager
def no_descriptor_free() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    lowest_free = os.dup(0)
    os.close(lowest_free)
    resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_lack_of_descriptors_never_takes_a_member_down(members: Any) -> None:
    key = key_of(members.serve(members.hold))

    async def test() -> None:
        async with checking() as (checker, watcher):
            checker.set_targets({key: (TCP,)})
            await checker.wait_first_results([key])
            with no_descriptor_free():
                await until(lambda: checker.statistics().voids_total >= 2 * TCP.fall)
            assert checker.health_of(key).health is Health.UP
            status = checker.health_of(key).monitors[0]
            assert "EMFILE" in status.reason
            assert status.failures_total == 0
            passed = status.checks_total
            await until(lambda: checker.health_of(key).monitors[0].checks_total > passed)
            assert len(watcher.changes) == 1

    run(test())


def test_defect_in_a_probe_is_void_logged_and_does_not_end_its_checks(members: Any) -> None:
    good, bad = key_of(members.serve(members.hold)), key_of(members.serve(members.hold), "bad")
    defect = replace(WEB, type=MonitorType.HTTPS, host=".starts-with-a-dot")  # the TLS library raises ValueError

    async def test() -> None:
        async with checking() as (checker, _):
            with structlog.testing.capture_logs() as logs:
                checker.set_targets({good: (TCP,), bad: (defect,)})
                await until(lambda: checker.statistics().voids_total >= 2)
                await checker.wait_first_results([good])
            assert checker.health_of(good).health is Health.UP
            assert checker.health_of(bad).health is Health.UNKNOWN
            assert "check_crashed" in checker.health_of(bad).reason
            assert [entry["log_level"] for entry in logs if entry["event"] == "check_crashed"][:2] == ["error", "error"]

    run(test())


@pytest.fixture
def no_capabilities() -> Iterator[None]:
    """Takes the effective capabilities from this thread and gives them back (capset(2), version 3 of its header)."""
    libc = ctypes.CDLL(None, use_errno=True)
    header = struct.pack("Ii", 0x20080522, 0)
    before = ctypes.create_string_buffer(24)
    assert libc.capget(header, before) == 0
    words = list(struct.unpack("6I", before.raw))
    words[0] = words[3] = 0
    assert libc.capset(header, struct.pack("6I", *words)) == 0
    yield
    assert libc.capset(header, before.raw) == 0


@pytest.mark.usefixtures("no_capabilities")
def test_ping_without_its_capability_says_so_and_the_member_stays_unknown() -> None:
    key = MemberKey("web", Endpoint("127.0.0.1", 80))

    async def test() -> None:
        async with checking() as (checker, watcher):
            checker.set_targets({key: (HealthMonitor("ping", MonitorType.PING, interval_s=0.1),)})
            await watcher.until(lambda: "CAP_NET_RAW" in checker.health_of(key).reason)
            assert checker.health_of(key).health is Health.UNKNOWN

    run(test())


def test_thousand_members_are_all_checked_again_and_again_and_leave_nothing_behind(
    members: Any, descriptors: Callable[[], int]
) -> None:
    port = members.serve(lambda _: None, "0.0.0.0").port
    keys = [MemberKey("web", Endpoint(f"127.8.{index // 250}.{index % 250 + 1}", port)) for index in range(1000)]
    monitor = replace(TCP, interval_s=1.0, timeout_s=40.0)

    async def test() -> None:
        before = descriptors()
        async with checking() as (checker, watcher):
            with structlog.testing.capture_logs() as logs:
                checker.set_targets(dict.fromkeys(keys, (monitor,)))
                await checker.wait_first_results(keys)
            assert len(logs) == 1000
            assert all(checker.health_of(key).health is Health.UP for key in keys)
            await until(lambda: checker.statistics().checks_total >= 3000, within_s=60)
            assert len(watcher.changes) == 1000
            assert checker.statistics().in_flight <= PLACES
        assert descriptors() <= before

    run(test())


def test_close_ends_what_is_in_flight_and_may_be_called_twice(members: Any, descriptors: Callable[[], int]) -> None:
    hole = members.black_hole()

    async def test() -> None:
        before = descriptors()
        async with checking(places=5) as (checker, watcher):
            checker.set_targets({key_of(hole, f"{index}"): (LONG,) for index in range(20)})
            await until(lambda: checker.statistics().in_flight == 5)
            await checker.close()
            assert checker.statistics().in_flight == 0
            assert watcher.changes == []
        assert descriptors() <= before

    run(test())


def test_targets_may_be_set_before_the_start(members: Any) -> None:
    key = key_of(members.serve(members.hold))

    async def test() -> None:
        checker = HealthChecker(Watcher(), rng=random.Random(1))
        checker.set_targets({key: (TCP,)})
        await checker.start()
        await checker.wait_first_results([key])
        assert checker.health_of(key).health is Health.UP
        await checker.close()

    run(test())
