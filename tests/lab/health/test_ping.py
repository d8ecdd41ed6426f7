"""Claims about the ping check. Each test runs in a network namespace of its own: some change the kernel's settings."""

from __future__ import annotations

import asyncio
import contextlib
import ctypes
import os
import pathlib
import random
import socket
import struct
import subprocess
import time
from collections.abc import AsyncIterator, Iterator

import pytest
import uvloop

from lbd.health.checker import HealthChecker
from lbd.health.probes import icmp
from lbd.health.probes.ping import PingProbe
from lbd.health.probes.poller import Poller
from lbd.health.probes.tcp import TcpProbe
from lbd.health.result import Outcome, ProbeResult, Reason
from lbd.health.runner import PLACES
from lbd.model.address import Endpoint
from lbd.model.desired import HealthMonitor, MemberKey, MonitorType
from lbd.model.status import Health, MemberHealth

PING = HealthMonitor("ping", MonitorType.PING, interval_s=0.2, timeout_s=0.4, rise=1, fall=1)
ECHO_IGNORE = {
    4: pathlib.Path("/proc/sys/net/ipv4/icmp_echo_ignore_all"),
    6: pathlib.Path("/proc/sys/net/ipv6/icmp/echo_ignore_all"),
}


CLONE_NEWNET = 0x40000000

pytestmark = pytest.mark.lab


@pytest.fixture(autouse=True)
def own_network(sandboxed: None) -> Iterator[None]:
    """Moves this thread, and what it starts, to a new network namespace with `lo` up, and back."""
    libc = ctypes.CDLL(None, use_errno=True)
    before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        if libc.unshare(CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), "no network namespace can be made")
        try:
            ip("link", "set", "lo", "up")
            yield
        finally:
            assert libc.setns(before, CLONE_NEWNET) == 0
    finally:
        os.close(before)


@contextlib.asynccontextmanager
async def pinging() -> AsyncIterator[PingProbe]:
    ping = PingProbe(random.Random(1))
    try:
        yield ping
    finally:
        ping.close()


def probe(address: str, monitor: HealthMonitor = PING) -> ProbeResult:
    async def check() -> ProbeResult:
        async with pinging() as ping:
            return await ping.probe(Endpoint(address, 1), monitor)

    return uvloop.run(check())


def ip(*words: str) -> None:
    subprocess.run(["ip", *words], check=True)


def answer_echoes(family: int, answer: bool) -> None:
    """Let the kernel answer echo requests, or not."""
    ECHO_IGNORE[family].write_text("0" if answer else "1")


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1"])
def test_address_that_answers_passes(address: str) -> None:
    result = probe(address)
    assert result.passed
    assert 0 < result.latency_s < 0.4


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_address_that_keeps_silent_fails_at_the_timeout(address: str) -> None:
    answer_echoes(6 if ":" in address else 4, False)
    began_s = time.monotonic()
    result = probe(address)
    assert (result.outcome, result.reason, result.detail) == (
        Outcome.FAILED,
        Reason.ANSWER_TIMEOUT,
        "no echo reply",
    )
    assert 0.35 < time.monotonic() - began_s < 1.0


@pytest.mark.parametrize("address", ["192.0.2.1", "2001:db8::1"])
def test_address_without_a_route_fails_at_once(address: str) -> None:
    result = probe(address)
    assert (result.outcome, result.reason) == (Outcome.FAILED, Reason.UNREACHABLE)
    assert result.latency_s < 0.2


@pytest.fixture
def far_network() -> Iterator[None]:
    """A router in a namespace behind a veth pair that answers for 198.51.100.0/24 and 2001:db8:1::/64 "unreachable"."""
    holder = subprocess.Popen(["unshare", "-n", "cat"], stdin=subprocess.PIPE)
    try:
        deadline_s = time.monotonic() + 5
        while os.readlink(f"/proc/{holder.pid}/ns/net") == os.readlink("/proc/thread-self/ns/net"):
            assert time.monotonic() < deadline_s
            time.sleep(0.01)
        ip("link", "add", "near", "type", "veth", "peer", "name", "far", "netns", str(holder.pid))
        ip("link", "set", "near", "up")
        ip("address", "add", "192.0.2.1/24", "dev", "near")
        ip("address", "add", "2001:db8::1/64", "dev", "near", "nodad")
        inside = ["nsenter", "-n", "-t", str(holder.pid), "sh", "-c"]
        script = """
            ip link set lo up; ip link set far up
            ip address add 192.0.2.2/24 dev far; ip address add 2001:db8::2/64 dev far nodad
            ip route add unreachable 198.51.100.0/24; ip route add prohibit 2001:db8:1::/64
            echo 1 > /proc/sys/net/ipv4/ip_forward; echo 1 > /proc/sys/net/ipv6/conf/all/forwarding
            echo 0 > /proc/sys/net/ipv4/icmp_ratelimit; echo 0 > /proc/sys/net/ipv6/icmp/ratelimit"""
        subprocess.run([*inside, script], check=True)
        ip("route", "add", "198.51.100.0/24", "via", "192.0.2.2")
        ip("route", "add", "2001:db8:1::/64", "via", "2001:db8::2")
        yield
    finally:
        assert holder.stdin is not None
        holder.stdin.close()
        holder.wait(5)


@pytest.mark.usefixtures("far_network")
@pytest.mark.parametrize(
    ("address", "router", "words"),
    [
        ("198.51.100.7", "192.0.2.2", "destination unreachable: host"),
        ("2001:db8:1::7", "2001:db8::2", "destination unreachable: prohibited"),
    ],
)
def test_router_that_says_unreachable_fails_the_check_before_the_timeout(address: str, router: str, words: str) -> None:
    monitor = HealthMonitor("ping", MonitorType.PING, timeout_s=5.0)
    result = probe(address, monitor)
    assert (result.outcome, result.reason) == (Outcome.FAILED, Reason.UNREACHABLE)
    assert result.detail == f"{words}, says {router}"
    assert result.latency_s < 4.0


@pytest.mark.usefixtures("far_network")
@pytest.mark.parametrize("address", ["192.0.2.2", "2001:db8::2"])
def test_neighbour_answers_over_a_real_link(address: str) -> None:
    assert probe(address, HealthMonitor("ping", MonitorType.PING, timeout_s=5.0)).passed


@pytest.mark.usefixtures("far_network")
def test_neighbour_that_does_not_exist_fails() -> None:
    result = probe("192.0.2.99", HealthMonitor("ping", MonitorType.PING, timeout_s=6.0))
    assert (result.outcome, result.reason) == (Outcome.FAILED, Reason.UNREACHABLE)


def test_as_many_echoes_as_may_be_in_flight_each_find_their_answer_in_one_burst() -> None:
    async def check() -> list[ProbeResult]:
        async with pinging() as ping:
            monitor = HealthMonitor("ping", MonitorType.PING, timeout_s=5.0)
            targets = [Endpoint(f"127.7.{index // 250}.{index % 250 + 1}", 1) for index in range(PLACES)]
            return await asyncio.gather(*(ping.probe(each, monitor) for each in targets))

    assert all(result.passed for result in uvloop.run(check()))


def test_forged_answers_are_not_believed() -> None:
    """Replies with the right identifier and sequence number, but from another address or without our token."""
    answer_echoes(4, False)

    async def check() -> ProbeResult:
        async with pinging() as ping:
            task = asyncio.create_task(ping.probe(Endpoint("127.0.0.1", 1), PING))
            await asyncio.sleep(0)
            await asyncio.sleep(0)
            echo_socket = ping._sockets[4]
            sequence = next(iter(echo_socket._waiting))
            for source, payload in (("127.0.0.1", b"no token at all."), ("127.0.0.2", echo_socket._token)):
                message = icmp.HEADER.pack(0, 0, 0, echo_socket._identifier, sequence) + payload
                total = struct.pack("!H", icmp.checksum(message))
                with socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP) as forger:
                    forger.bind((source, 0))
                    forger.sendto(message[:2] + total + message[4:], ("127.0.0.1", 0))
            return await task

    result = uvloop.run(check())
    assert (result.outcome, result.reason) == (Outcome.FAILED, Reason.ANSWER_TIMEOUT)


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_foreign_echoes_neither_wake_us_nor_push_out_our_answers(address: str) -> None:
    """Without the filter 20,000 foreign replies overflow the receive buffer; with it none of them arrives."""
    version = 6 if ":" in address else 4
    family = icmp.IPV6 if version == 6 else icmp.IPV4

    async def check() -> tuple[ProbeResult, int]:
        async with pinging() as ping:
            assert (await ping.probe(Endpoint(address, 1), PING)).passed
            echo_socket = ping._sockets[version]
            arrived = 0
            read = echo_socket._socket.recvfrom
            kind = socket.AF_INET6 if version == 6 else socket.AF_INET
            protocol = socket.IPPROTO_ICMPV6 if version == 6 else socket.IPPROTO_ICMP
            with socket.socket(kind, socket.SOCK_RAW, protocol) as foreign:
                other = (echo_socket._identifier + 1) % 65536
                for sequence in range(20_000):  # each request makes the kernel send a reply, too
                    foreign.sendto(icmp.echo_request(family, other, sequence, b"x" * 16), (address, 0))
            with contextlib.suppress(BlockingIOError):
                while True:
                    read(2048)
                    arrived += 1
            return await ping.probe(Endpoint(address, 1), PING), arrived

    result, arrived = uvloop.run(check())
    assert result.passed
    assert arrived == 0


def test_checker_takes_a_member_down_and_up_again_by_ping() -> None:
    keys = [MemberKey("web", Endpoint(address, 80)) for address in ("127.0.0.1", "::1")]

    async def test() -> None:
        changed = asyncio.Event()

        def on_change(_: MemberKey, __: MemberHealth) -> None:
            changed.set()

        async def until(wanted: list[Health]) -> None:
            async with asyncio.timeout(8):
                while [checker.health_of(key).health for key in keys] != wanted:
                    changed.clear()
                    await changed.wait()

        checker = HealthChecker(on_change, rng=random.Random(1))
        await checker.start()
        checker.set_targets(dict.fromkeys(keys, (PING,)))
        await until([Health.UP, Health.UP])
        answer_echoes(4, False)
        await until([Health.DOWN, Health.UP])
        assert checker.health_of(keys[0]).reason == "ping: answer_timeout (no echo reply)"
        answer_echoes(4, True)
        await until([Health.UP, Health.UP])
        await checker.close()

    uvloop.run(test())


def test_lack_of_a_free_port_is_void() -> None:
    """EADDRNOTAVAIL: one local port to go out from, and it is taken for this member."""
    ports = pathlib.Path("/proc/sys/net/ipv4/ip_local_port_range")

    async def check(endpoint: Endpoint) -> ProbeResult:
        poller = Poller()
        poller.open()
        result = await TcpProbe(poller).probe(endpoint, HealthMonitor("tcp", MonitorType.TCP))
        poller.close()
        return result

    with socket.socket() as listener, socket.socket() as user:
        listener.bind(("127.0.0.1", 9))
        listener.listen()
        endpoint = Endpoint("127.0.0.1", 9)
        ports.write_text("40000 40000")
        assert uvloop.run(check(endpoint)).passed
        user.connect(("127.0.0.1", 9))
        result = uvloop.run(check(endpoint))
    assert (result.outcome, result.reason) == (Outcome.VOID, Reason.LOCAL_ERROR)
    assert "EADDRNOTAVAIL" in result.detail


def test_local_firewall_is_void() -> None:
    """A prohibiting route of our own: EACCES at once."""
    ip("route", "add", "prohibit", "198.51.100.0/24")
    result = probe("198.51.100.1")
    assert (result.outcome, result.reason) == (Outcome.VOID, Reason.NOT_PERMITTED)
