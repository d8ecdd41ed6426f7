"""The udp and dns monitors of a running daemon: servers in the Pods that answer, refuse, lie, vanish and come back."""

from __future__ import annotations

import contextlib
import random
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest
import uvloop

from kit_lifecycle import members, peek, service
from lab_daemon import Daemon, DaemonFactory
from lab_servers import PodServer, http
from lab_wait import eventually
from lbd.cli.demo.lab import Lab, Pod
from lbd.health.probes.dns import DnsProbe
from lbd.health.probes.poller import Poller
from lbd.health.probes.udp import UdpProbe
from lbd.health.result import Outcome, ProbeResult, Reason
from lbd.model.address import Endpoint
from lbd.model.desired import HealthMonitor, MonitorType

UDP_PORT, DNS_PORT, OPEN_PORT = 7, 53, 9
QUICK = {"interval": "300ms", "timeout": "300ms", "rise": 1, "fall": 2}
MONITORS = {
    "echo": {"type": "udp", "port": UDP_PORT, "send": "who's there?", "expect": "there?", **QUICK},
    "open": {"type": "udp", "port": OPEN_PORT, **QUICK},
    "names": {
        "type": "dns",
        "port": DNS_PORT,
        "query_name": "www.example.com",
        "query_type": "A",
        "expect_answer": "192.0.2.80",
        **QUICK,
    },
}
Answer = Callable[[bytes], bytes | None]


class DatagramServer:
    """Answers datagrams in a Pod, on both its addresses; a context manager: between two uses the Pod refuses."""

    def __init__(self, pod: Pod, port: int, answer: Answer) -> None:
        self.pod = pod
        self.port = port
        self.answer = answer
        self._stopping = False
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []

    def __enter__(self) -> DatagramServer:
        self._stopping = False
        for family, number in ((socket.AF_INET, 4), (socket.AF_INET6, 6)):
            bound = self.pod.socket(family, socket.SOCK_DGRAM)
            bound.bind((self.pod.address[number], self.port))
            thread = threading.Thread(target=self._serve, args=(bound,), daemon=True)
            thread.start()
            self._sockets.append(bound)
            self._threads.append(thread)
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        """Close the ports; idempotent."""
        self._stopping = True
        for bound in self._sockets:
            with contextlib.suppress(OSError):  # it says ENOTCONN, and wakes the reader all the same
                bound.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5.0)
        for bound in self._sockets:
            bound.close()
        self._sockets.clear()
        self._threads.clear()

    def _serve(self, bound: socket.socket) -> None:
        while not self._stopping:
            packet, source = bound.recvfrom(65535)
            answer = None if self._stopping else self.answer(packet)
            if answer is not None:
                bound.sendto(answer, source)


def says(address: str, rcode: int = 0) -> Answer:
    """Return a name server of one record."""
    record = b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, 60, 4) + socket.inet_aton(address)

    def answer(query: bytes) -> bytes:
        return query[:2] + struct.pack("!HHHHH", 0x8180 | rcode, 1, 1, 0, 0) + query[12:] + record

    return answer


def echo(packet: bytes) -> bytes:
    return packet


def keep_silent(_: bytes) -> None:
    return None


def health(lbd: Daemon, pods: list[Pod], family: int, name: str) -> dict[str, tuple[str, str]]:
    """Return health and reason of each Pod by its name."""
    seen = ((pod.name, peek(lbd).member(name, pod.address[family])) for pod in pods)
    return {pod: (member["health"], member["health_reason"]) for pod, member in seen}


def test_members_follow_their_udp_and_dns_servers_down_and_up_again(
    lab: Lab, daemon: DaemonFactory, family: int
) -> None:
    """Three services, one per monitor, over the same Pods: one that is well, one whose server changes, one silent."""
    well, changing, silent = lab.pods
    services = [
        service(name, lab.vip[family], members(lab.pods, family), port=port, health_monitors=[name])
        for port, name in enumerate(MONITORS, 80)
    ]
    up = ("up", "")
    with contextlib.ExitStack() as stack:
        for pod in lab.pods:
            stack.enter_context(PodServer(pod, http))
        servers = [
            stack.enter_context(DatagramServer(pod, port, answer))
            for port, answer in ((UDP_PORT, echo), (DNS_PORT, says("192.0.2.80")), (OPEN_PORT, keep_silent))
            for pod in (well, changing)
        ]
        for port in (UDP_PORT, DNS_PORT, OPEN_PORT):
            stack.enter_context(DatagramServer(silent, port, keep_silent))
        lbd = daemon({"health_monitors": MONITORS, "virtual_services": services})

        def looks(changed: dict[str, tuple[str, str]]) -> bool:
            seen = {name: health(lbd, lab.pods, family, name) for name in MONITORS}
            assert {name: of[well.name] for name, of in seen.items()} == dict.fromkeys(MONITORS, up)
            assert {name: of[changing.name] for name, of in seen.items()} == changed
            assert {name: of[silent.name] for name, of in seen.items()} == {
                "echo": ("down", "echo: answer_timeout"),
                "open": up,  # no answer is expected: that nothing refuses is all it asks
                "names": ("down", "names: answer_timeout"),
            }
            return True

        eventually(lambda: looks(dict.fromkeys(MONITORS, up)), 10.0)
        for server in servers[1::2]:
            server.stop()
        eventually(lambda: looks({name: ("down", f"{name}: connect_refused") for name in MONITORS}), 10.0)
        with (
            DatagramServer(changing, UDP_PORT, lambda _: b"nobody"),
            DatagramServer(changing, DNS_PORT, says("192.0.2.80", rcode=2)),
            DatagramServer(changing, OPEN_PORT, lambda _: b"nobody"),
        ):
            liars = {
                "echo": ("down", "echo: unexpected_answer (6 bytes: 'nobody')"),
                "open": up,
                "names": ("down", "names: unexpected_status (SERVFAIL)"),
            }
            eventually(lambda: looks(liars), 10.0)
        for server in servers[1::2]:
            stack.enter_context(server)
        eventually(lambda: looks(dict.fromkeys(MONITORS, up)), 10.0)


# -- the network says no -----------------------------------------------------------------------------------------------

BEYOND = {4: "198.51.100.7", 6: "2001:db8:1::7"}
SILENT_UDP = HealthMonitor("open", MonitorType.UDP, timeout_s=5.0)
ASKING_UDP = replace(SILENT_UDP, expect=b"yes")
DNS = HealthMonitor("names", MonitorType.DNS, timeout_s=5.0)


def probe_from_the_se(lab: Lab, address: str, monitor: HealthMonitor) -> ProbeResult:
    """Check once in the SE's namespace, as the daemon would."""

    async def check() -> ProbeResult:
        poller = Poller()
        poller.open()
        probe: Any = DnsProbe(poller, random.Random(1)) if monitor.type is MonitorType.DNS else UdpProbe(poller)
        try:
            result: ProbeResult = await probe.probe(Endpoint(address, 53), monitor)
            return result
        finally:
            poller.close()

    return lab.se.call(uvloop.run, check())


@pytest.fixture
def router(lab: Lab) -> Iterator[Callable[[int, str], None]]:
    """A function that makes the first Pod the router to BEYOND, with a route there of this kind: `unreachable`, …"""
    pod = lab.pods[0]
    pod.set_sysctl("net/ipv4/ip_forward", 1)
    pod.set_sysctl("net/ipv6/conf/all/forwarding", 1)
    pod.set_sysctl("net/ipv4/icmp_ratelimit", 0)
    pod.set_sysctl("net/ipv6/icmp/ratelimit", 0)

    def route(family: int, kind: str) -> None:
        pod.ip(f"route replace {kind} {BEYOND[family]}")
        lab.se.ip(f"route replace {BEYOND[family]} via {pod.address[family]}")

    return route


@pytest.mark.parametrize("monitor", [SILENT_UDP, ASKING_UDP, DNS], ids=["udp", "udp-expect", "dns"])
def test_router_that_says_unreachable_fails_the_check_before_its_time_is_up(
    lab: Lab, router: Callable[[int, str], None], family: int, monitor: HealthMonitor
) -> None:
    router(family, "unreachable")
    result = probe_from_the_se(lab, BEYOND[family], monitor)
    assert (result.outcome, result.reason) == (Outcome.FAILED, Reason.UNREACHABLE)
    assert result.latency_s < 4.0


def test_firewall_on_the_way_fails_the_check_and_one_of_our_own_makes_it_void(
    lab: Lab, router: Callable[[int, str], None], family: int
) -> None:
    """Both may say EACCES: what a packet brought back is the member's, what the call itself says is ours."""
    router(family, "prohibit")
    far = probe_from_the_se(lab, BEYOND[family], SILENT_UDP)
    assert (far.outcome, far.reason) == (
        Outcome.FAILED,
        Reason.UNREACHABLE if family == 4 else Reason.CONNECT_FAILED,
    )
    lab.se.ip(f"route replace prohibit {BEYOND[family]}")
    own = probe_from_the_se(lab, BEYOND[family], SILENT_UDP)
    assert (own.outcome, own.reason) == (Outcome.VOID, Reason.NOT_PERMITTED)


def test_member_without_a_route_fails_at_once(lab: Lab, family: int) -> None:
    result = probe_from_the_se(lab, BEYOND[family], DNS)
    assert (result.outcome, result.reason) == (Outcome.FAILED, Reason.UNREACHABLE)
    assert result.latency_s < 2.0
