"""What UDP services promise about every flow, over both families and in both forms."""

from __future__ import annotations

import copy
import os
import random
import signal
import socket
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from kit_lifecycle import members, peek
from kit_relay import steady_config
from kit_udp import (
    BRIEF,
    CROSS,
    FLOWS,
    INTRODUCED,
    ONE_ANSWER,
    PORT,
    SINGLE,
    SMALL,
    SMALL_FLOWS,
    SOL_UDP,
    SPREAD,
    UDP_GRO,
    UdpClient,
    UdpServer,
    echoed,
    send_merged,
    udp_config,
    udp_service,
)
from lab_daemon import Daemon, DaemonFactory, descriptors
from lab_wait import eventually
from lbd.cli.demo.lab import Lab


class UdpBench:
    """A lab and a daemon of one form that serve many tests: each brings its own servers."""

    def __init__(self, form: str, prefix: str, directory: Path) -> None:
        self.lab = Lab(prefix=prefix)
        self.lab.__enter__()
        try:
            self.daemon = Daemon(self.lab, udp_config(self.lab), directory, form).start()
            self.form = str(self.daemon.wait_serving()["form"])
        except BaseException:
            self.lab.close()
            raise

    def close(self) -> None:
        """End the daemon and the lab; AssertionError if it did not end well."""
        try:
            self.daemon.close()
        finally:
            self.lab.close()


class Udp:
    """A bench as one test of one family uses it."""

    def __init__(self, bench: UdpBench, family: int) -> None:
        self.lab = bench.lab
        self.daemon = bench.daemon
        self.family = family
        self._mark = self.daemon.log.mark()

    def client(self, port: int, timeout_s: float = 3.0) -> UdpClient:
        """Return a new client of one of the services."""
        return UdpClient(self.lab.client, self.lab.vip[self.family], port, timeout_s)

    def traffic(self, name: str) -> dict[str, Any]:
        """Return the counters of a service, named without its family."""
        traffic: dict[str, Any] = peek(self.daemon).service(f"{name}{self.family}")["traffic"]
        return traffic

    def settle(self) -> None:
        """Assert that no worker came to harm."""
        assert not self.daemon.log.matching("worker_fault", self._mark), self.daemon.log.tail()


@pytest.fixture(scope="module")
def benches(
    sandboxed: None, worker_id: str, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Callable[[str], UdpBench]]:
    """A function that returns the bench of a form: built when it is first asked for, closed after the last test."""
    made: dict[str, UdpBench] = {}

    def bench(form: str) -> UdpBench:
        if form not in made:
            prefix = "u" + ("" if worker_id == "master" else worker_id) + form[0] + "-"
            made[form] = UdpBench(form, prefix, tmp_path_factory.mktemp(form))
        return made[form]

    yield bench
    for one in made.values():
        one.close()


@pytest.fixture
def udp(benches: Callable[[str], UdpBench], family: int, form: str) -> Iterator[Udp]:
    """The services of a family and form; a fault that a test causes in a worker is a failure."""
    bench = benches(form)
    assert bench.form == form
    used = Udp(bench, family)
    yield used
    used.settle()


def serving(lab: Lab, stack: ExitStack) -> list[UdpServer]:
    """Have every Pod answer with its name."""
    return [stack.enter_context(UdpServer(pod)) for pod in lab.pods]


# -- flows -------------------------------------------------------------------------------------------------------------


def test_a_flow_keeps_its_member_and_its_answers_come_from_the_vip(udp: Udp) -> None:
    before = udp.traffic("flows")
    with ExitStack() as stack:
        servers = serving(udp.lab, stack)
        clients = [stack.enter_context(udp.client(FLOWS)) for _ in range(12)]
        asked = [[client.ask(b"%d" % number) for client in clients] for number in range(4)]
        assert asked[1:] == asked[:1] * 3
        assert Counter(asked[0]).keys() == {pod.name for pod in udp.lab.pods}
        assert len({port for server in servers for _, port in server.received}) >= 12 / 3
        received = sum(len(data) for server in servers for data, _ in server.received)

    def grown() -> dict[str, int]:
        after = udp.traffic("flows")
        return {name: after[name] - before[name] for name in after if isinstance(after[name], int)}

    eventually(lambda: grown()["sent_datagrams_total"] == 48, 5.0, "every answer is counted")
    counted = grown()
    assert counted["connections_total"] == 12
    assert counted["received_datagrams_total"] == 48
    assert counted["received_bytes_total"] == received
    assert counted["sent_bytes_total"] == received + 48 * len(udp.lab.pods[0].name + " ")
    assert counted["moved_flows_total"] == counted["evicted_flows_total"] == 0


def test_a_vip_of_one_family_serves_members_of_the_other(udp: Udp) -> None:
    with UdpServer(udp.lab.pods[0]), udp.client(CROSS) as client:
        assert client.ask() == udp.lab.pods[0].name


def test_a_flow_ends_after_the_answers_that_were_asked_for(udp: Udp) -> None:
    with UdpServer(udp.lab.pods[0]) as server, udp.client(ONE_ANSWER) as client:
        client.ask()
        eventually(lambda: udp.traffic("one_answer")["active_connections"] == 0, 5.0, "the flow has ended")
        client.ask()
        assert server.received[0][1] != server.received[1][1]
        # A resolver asks for A and AAAA at once, from one port.
        for question in (b"A", b"AAAA"):
            client.send(question)
        assert {client.receive().partition(b" ")[2] for _ in range(2)} == {b"A", b"AAAA"}
    eventually(lambda: udp.traffic("one_answer")["active_connections"] == 0, 5.0, "every flow has ended")


def test_per_packet_each_datagram_has_its_own_member(udp: Udp) -> None:
    with ExitStack() as stack:
        servers = serving(udp.lab, stack)
        client = stack.enter_context(udp.client(SPREAD))
        assert Counter(client.ask() for _ in range(9)) == {pod.name: 3 for pod in udp.lab.pods}
        assert [len({port for _, port in server.received}) for server in servers] == [1, 1, 1]


def test_an_idle_flow_ends_and_one_that_is_used_does_not(udp: Udp) -> None:
    with UdpServer(udp.lab.pods[0]) as server, udp.client(BRIEF) as busy, udp.client(BRIEF) as idle:
        before = udp.traffic("brief")["timed_out_total"]["idle"]
        idle.ask(b"idle")

        def one_has_ended() -> bool:
            busy.ask(b"busy")
            return udp.traffic("brief")["timed_out_total"]["idle"] == before + 1

        eventually(one_has_ended, 10.0, "the idle flow has ended")
        assert len({port for data, port in server.received if data == b"busy"}) == 1
        idle.ask(b"idle")
        assert len({port for data, port in server.received if data == b"idle"}) == 2
    eventually(lambda: udp.traffic("brief")["active_connections"] == 0, 10.0, "all flows have ended")


def test_udp_flow_table_full_a_flood_ends_only_its_own_flows(udp: Udp) -> None:
    with UdpServer(udp.lab.pods[0]) as server, ExitStack() as stack:
        regulars = [stack.enter_context(udp.client(SMALL)) for _ in range(4)]
        for client in regulars:
            client.ask(b"regular")
            client.ask(b"regular")
        before = udp.traffic("small")["evicted_flows_total"]
        for number in range(200):
            stack.enter_context(udp.client(SMALL)).send(b"flood")
            if number % 50 == 49:
                for client in regulars:
                    assert client.ask(b"regular")
        traffic = udp.traffic("small")
        assert traffic["active_connections"] <= SMALL_FLOWS
        assert traffic["evicted_flows_total"] - before >= 200 - SMALL_FLOWS
        assert len({port for data, port in server.received if data == b"regular"}) == 4


def test_members_get_a_proxy_protocol_header_before_the_first_datagram_alone(udp: Udp) -> None:
    with UdpServer(udp.lab.pods[0], echoed), udp.client(INTRODUCED) as client:
        client.send(b"one")
        first = client.receive()
        assert first[:12] == b"\r\n\r\n\0\r\nQUIT\n"
        assert first[12] == 0x21  # version 2, PROXY
        assert first[13] == (0x12 if udp.family == 4 else 0x22)  # and datagrams
        assert first.endswith(b"one")
        host = client.sock.getsockname()[0]
        assert socket.inet_pton(client.sock.family, host) == first[16 : 16 + (4 if udp.family == 4 else 16)]
        client.send(b"two")
        assert client.receive() == b"two"


# -- boundaries --------------------------------------------------------------------------------------------------------


def test_boundaries_stay_when_datagrams_are_merged(udp: Udp) -> None:
    chance = random.Random(3)
    with UdpServer(udp.lab.pods[0], echoed) as server, udp.client(SINGLE) as client:
        client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
        sent: list[bytes] = []
        for turn in range(60):
            segment = 1200 if turn < 40 else chance.choice([40, 700, 1200, 1300])
            data = chance.randbytes(segment * chance.randint(1, 20) + chance.choice([0, 1, segment // 2]))
            datagrams = [data[at : at + segment] for at in range(0, len(data), segment)]
            send_merged(client.sock, data, segment)
            answers = [client.receive() for _ in datagrams]
            assert answers == datagrams
            sent += datagrams
        assert [data for data, _ in server.received] == sent


def test_boundaries_stay_when_a_member_answers_with_merged_datagrams(udp: Udp) -> None:
    chance = random.Random(4)
    pod = udp.lab.pods[0]
    address = pod.address[udp.family]
    with pod.socket(socket.AF_INET6 if udp.family == 6 else socket.AF_INET, socket.SOCK_DGRAM) as member:
        member.bind((address, PORT))
        member.settimeout(3.0)
        with udp.client(SINGLE) as client:
            client.send(b"go")
            _, flow = member.recvfrom(100)
            member.connect(flow)
            before = udp.traffic("single")["sent_datagrams_total"]
            count = 0
            for _ in range(60):
                data = chance.randbytes(1200 * chance.randint(1, 20) + chance.choice([0, 1, 600]))
                datagrams = [data[at : at + 1200] for at in range(0, len(data), 1200)]
                send_merged(member, data, 1200)
                assert [client.receive() for _ in datagrams] == datagrams
                count += len(datagrams)
            eventually(
                lambda: udp.traffic("single")["sent_datagrams_total"] - before == count, 5.0, "each is counted"
            )  # at the end of the batch, which the client need not wait for
            client.sock.setsockopt(SOL_UDP, UDP_GRO, 1)
            send_merged(member, bytes(12_000), 1200)
            assert len(client.receive()) == 12_000  # merging is on: it left in one piece, too
            client.sock.setsockopt(SOL_UDP, UDP_GRO, 0)
            # Single ones of any size must not stick together now.
            sizes = [chance.choice([1, 40, 1199, 1200, 1201, 8000]) for _ in range(200)]
            for at in range(0, len(sizes), 10):
                for size in sizes[at : at + 10]:
                    member.send(bytes(size))
                assert [len(client.receive()) for _ in range(10)] == sizes[at : at + 10]


def test_a_datagram_of_the_greatest_size_arrives_whole_both_ways(udp: Udp) -> None:
    with UdpServer(udp.lab.pods[0], echoed), udp.client(SINGLE) as client:
        for size in (0, 1, 1472, 1473, 9000, 65507 if udp.family == 4 else 65487):
            data = random.Random(size).randbytes(size)
            client.send(data)
            assert client.receive() == data


# -- members that fail -------------------------------------------------------------------------------------------------


def test_a_flow_whose_member_is_unreachable_moves_at_once(udp: Udp) -> None:
    with ExitStack() as stack:
        servers = {server.pod.name: server for server in serving(udp.lab, stack)}
        clients = [stack.enter_context(udp.client(FLOWS)) for _ in range(6)]
        names = [client.ask() for client in clients]
        victim = names[0]
        before = udp.traffic("flows")
        servers[victim].stop()
        for client, name in zip(clients, names, strict=True):
            now, lost = client.ask_again()
            assert now != victim
            assert lost <= (1 if name == victim else 0)
            assert now == name or name == victim
        after = udp.traffic("flows")
        assert after["moved_flows_total"] - before["moved_flows_total"] >= names.count(victim)
        refused = after["connect_errors_total"]["refused"] - before["connect_errors_total"]["refused"]
        assert refused >= names.count(victim)
        assert after["connections_total"] == before["connections_total"]


# -- the life of services and processes --------------------------------------------------------------------------------


QUICK: dict[str, Any] = {
    "quick": {
        "type": "udp",
        "interval": "200ms",
        "timeout": "200ms",
        "rise": 1,
        "fall": 1,
        "send": "?",
        "expect": "pod",
    }
}


def flows_config(lab: Lab, **more: Any) -> dict[str, Any]:
    """Return one UDP service whose members are checked often."""
    everybody = members(lab.pods, 4, PORT)
    one = udp_service("dns", lab.vip[4], everybody, PORT, health_monitors=["quick"], **more)
    return {"health_monitors": QUICK, "virtual_services": [one]}


def test_flows_outlive_a_reload_and_a_member_that_drains_and_leave_one_that_is_down(
    lab: Lab, daemon: DaemonFactory
) -> None:
    with ExitStack() as stack:
        servers = {server.pod.name: server for server in serving(lab, stack)}
        config = flows_config(lab, on_all_down="refuse")
        lbd = daemon(config)
        lbd.wait_serving()
        clients = [stack.enter_context(UdpClient(lab.client, lab.vip[4], PORT)) for _ in range(9)]
        names = [client.ask() for client in clients]
        drained = copy.deepcopy(config)
        drained["virtual_services"][0]["pool"]["members"][0]["admin_state"] = "draining"
        assert lbd.reload(drained).returncode == 0
        assert [client.ask() for client in clients] == names
        assert lbd.reload(config).returncode == 0

        victim = lab.pods[1]
        servers[victim.name].black_hole()
        eventually(lambda: peek(lbd).member("dns", victim.address[4])["health"] == "down", 10.0, "the member is down")
        moved = [client.ask() for client in clients]
        assert victim.name not in moved
        assert [now for now, name in zip(moved, names, strict=True) if name != victim.name] == [
            name for name in names if name != victim.name
        ]

        for server in servers.values():
            server.stop()
        eventually(lambda: peek(lbd).service("dns")["state"] == "no_member_up", 10.0, "no member is up")
        newcomer = stack.enter_context(UdpClient(lab.client, lab.vip[4], PORT))
        eventually(newcomer.is_refused, 5.0, "clients are refused")
        assert peek(lbd).service("dns")["traffic"]["active_connections"] == 0
        for server in servers.values():
            server.start()
        eventually(lambda: peek(lbd)["virtual_services"][0]["state"] == "serving", 10.0, "it serves again")
        assert newcomer.ask_again()[0] in servers
        many = [stack.enter_context(UdpClient(lab.client, lab.vip[4], PORT)) for _ in range(40)]
        for client in many:
            client.ask()
        assert all(worker["active_connections"] > 5 for worker in peek(lbd)["workers"])


def test_a_killed_worker_costs_a_flow_its_member_and_nothing_more(lab: Lab, daemon: DaemonFactory) -> None:
    with ExitStack() as stack:
        serving(lab, stack)
        lbd = daemon(steady_config(udp_service("dns", lab.vip[4], members(lab.pods, 4, PORT), PORT)))
        lbd.wait_serving()
        clients = [stack.enter_context(UdpClient(lab.client, lab.vip[4], PORT)) for _ in range(12)]
        for client in clients:
            client.ask()
        os.kill(peek(lbd).worker_pids[0], signal.SIGKILL)
        for client in clients:
            client.ask_again()
        eventually(lambda: len(peek(lbd).worker_pids) == 2 and peek(lbd).serving, 15.0, "the worker is replaced")
        for client in clients:
            client.ask_again()


def test_a_service_that_is_removed_serves_its_flows_until_the_drain_ends_and_nobody_else(
    lab: Lab, daemon: DaemonFactory
) -> None:
    with ExitStack() as stack:
        serving(lab, stack)
        everybody = members(lab.pods, 4, PORT)
        staying = udp_service("staying", lab.vip[4], everybody, 5400)
        going = udp_service("going", lab.vip[4], everybody, PORT)
        lbd = daemon(steady_config(staying, going, drain_timeout="5s"))
        lbd.wait_serving()
        old = stack.enter_context(UdpClient(lab.client, lab.vip[4], PORT))
        name = old.ask()
        before = [descriptors(pid) for pid in peek(lbd).worker_pids]
        assert lbd.reload(steady_config(staying, drain_timeout="5s")).returncode == 0
        assert old.ask() == name
        new = stack.enter_context(UdpClient(lab.client, lab.vip[4], PORT))
        new.sock.settimeout(0.2)
        with pytest.raises((TimeoutError, ConnectionRefusedError)):
            new.ask()
        assert old.ask() == name
        eventually(old.is_refused, 20.0, "the drain ends at its deadline")
        assert sum(descriptors(pid) for pid in peek(lbd).worker_pids) < sum(before)


def test_a_service_that_drains_ends_although_a_worker_dies_meanwhile(lab: Lab, daemon: DaemonFactory) -> None:
    with ExitStack() as stack:
        serving(lab, stack)
        everybody = members(lab.pods, 4, PORT)
        staying = udp_service("staying", lab.vip[4], everybody, 5400)
        going = udp_service("going", lab.vip[6], members(lab.pods, 6, PORT), PORT)
        lbd = daemon(steady_config(staying, going))
        lbd.wait_serving()
        assert len(peek(lbd)["vips"]) == 2
        clients = [stack.enter_context(UdpClient(lab.client, lab.vip[6], PORT)) for _ in range(12)]
        for client in clients:
            client.ask()
        assert lbd.reload(steady_config(staying)).returncode == 0
        for pid in peek(lbd).worker_pids:
            os.kill(pid, signal.SIGKILL)
        eventually(lambda: len(peek(lbd)["vips"]) == 1, 20.0, "the service is removed, and its VIP withdrawn")


def test_a_renamed_service_takes_over_its_address_with_every_client(lab: Lab, daemon: DaemonFactory) -> None:
    with ExitStack() as stack:
        serving(lab, stack)
        everybody = members(lab.pods, 4, PORT)
        lbd = daemon(steady_config(udp_service("before", lab.vip[4], everybody, PORT), drain_timeout="60s"))
        lbd.wait_serving()
        clients = [stack.enter_context(UdpClient(lab.client, lab.vip[4], PORT)) for _ in range(12)]
        for client in clients:
            client.ask()
        renamed = udp_service("after", lab.vip[4], everybody, PORT)
        assert lbd.reload(steady_config(renamed, drain_timeout="60s")).returncode == 0
        for client in clients:
            assert client.ask_again()[0]
        assert peek(lbd).service("after")["traffic"]["active_connections"] == 12


def test_tcp_and_udp_share_a_vip_and_port(lab: Lab, daemon: DaemonFactory) -> None:
    from kit_lifecycle import service
    from lab_clients import fetch
    from lab_servers import PodServer, http

    with ExitStack() as stack:
        serving(lab, stack)
        for pod in lab.pods:
            stack.enter_context(PodServer(pod, http, PORT))
        everybody = members(lab.pods, 4, PORT)
        tcp = service("tcp", lab.vip[4], everybody, PORT)
        udp = udp_service("udp", lab.vip[4], everybody, PORT)
        lbd = daemon(steady_config(tcp, udp))
        lbd.wait_serving()
        names = {pod.name for pod in lab.pods}
        with UdpClient(lab.client, lab.vip[4], PORT) as client:
            assert client.ask() in names
            assert fetch(lab.client, lab.vip[4], PORT) in names
            assert lbd.reload(steady_config(udp)).returncode == 0
            assert client.ask() in names
            changed = {**tcp, "name": "udp"}
            assert lbd.reload(steady_config(changed)).returncode == 0
            lbd.wait_serving()
            assert fetch(lab.client, lab.vip[4], PORT) in names
