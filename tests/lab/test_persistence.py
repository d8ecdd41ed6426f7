"""`persistence: {type: client_ip}` as clients see it, over two workers: one daemon for all claims."""

from __future__ import annotations

import os
import signal
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from kit_lifecycle import MONITORS, members, peek, service, workers
from kit_relay import STEADY, greeted_by, route_clients
from kit_udp import UdpClient, UdpServer, udp_service
from lab_clients import connect
from lab_daemon import Daemon
from lab_servers import PodServer, greet_and_hold
from lab_wait import eventually
from lbd.cli.demo.lab import Lab, Pod

KEEPING, SHORT, NETWORK, SMALL, RETURNING, MOVING, CHANGING, DATAGRAMS = 80, 81, 82, 83, 84, 85, 86, 87
"""The services' ports. RETURNING and MOVING have members of their own, whose health is looked at."""
WORKERS = 2
TIMEOUT_S = 1.0
PERSISTENCE: dict[int, dict[str, Any]] = {
    KEEPING: {},
    SHORT: {"timeout": "1s"},
    NETWORK: {"ipv4_prefix": 24, "ipv6_prefix": 112},
    SMALL: {"max_entries": 4},
    RETURNING: {"on_member_down": "keep"},
    MOVING: {"on_member_down": "rebalance"},
    CHANGING: {},
}


class Bench:
    """The lab, its daemon, and clients of a network behind the client's namespace; Pods greet and hold."""

    def __init__(self, prefix: str, directory: Path) -> None:
        self._stack = ExitStack()
        self.lab = self._stack.enter_context(Lab(prefix=prefix))
        try:
            self.clients = {family: route_clients(self.lab, family, 600) for family in (4, 6)}
            self._servers = {
                (pod.name, port): self._stack.enter_context(PodServer(pod, greet_and_hold, port))
                for pod in self.lab.pods
                for port in (80, RETURNING, MOVING)
            }
            for pod in self.lab.pods:
                self._stack.enter_context(UdpServer(pod, port=DATAGRAMS))
            self.daemon = Daemon(self.lab, self.config(), directory, workers=WORKERS).start()
            self._stack.callback(self.daemon.close)
            self.daemon.wait_serving()
        except BaseException:
            self._stack.close()
            raise

    def config(self, changing: dict[str, Any] | None = None) -> dict[str, Any]:
        services = []
        for family, vip in self.lab.vip.items():
            for port, more in PERSISTENCE.items():
                own = port in (RETURNING, MOVING)
                pool = service(f"s{port}-{family}", vip, members(self.lab.pods, family, port if own else 80), port)
                pool["pool"]["health_monitors"] = ["quick"] if own else ["steady"]
                pool["pool"]["persistence"] = {"type": "client_ip", "timeout": "10m", **more}
                if port == CHANGING and changing is not None:
                    pool["pool"]["persistence"] |= changing
                    if not changing:
                        del pool["pool"]["persistence"]
                services.append(pool)
            behind = members(self.lab.pods, family, DATAGRAMS)
            flows = udp_service(f"s{DATAGRAMS}-{family}", vip, behind, DATAGRAMS, udp={"responses": 1})
            flows["pool"] |= {"health_monitors": ["steady"], "persistence": {"type": "client_ip"}}
            services.append(flows)
        return {"health_monitors": {**STEADY, **MONITORS}, "virtual_services": services}

    def server(self, pod: Pod | str, port: int) -> PodServer:
        return self._servers[pod if isinstance(pod, str) else pod.name, port]

    def settle(self) -> None:
        eventually(lambda: not any(one["active_connections"] for one in workers(self.daemon).values()))
        assert not self.daemon.log.matching("worker_fault"), self.daemon.log.tail()

    def close(self) -> None:
        self._stack.close()


class Clients:
    """A bench as one test of one family uses it; every test has 50 clients of its own."""

    given = 0

    def __init__(self, bench: Bench, family: int) -> None:
        self.bench = bench
        self.family = family
        first = Clients.given % 550
        self.addresses = bench.clients[family][first : first + 50]
        Clients.given += 50

    def connect(self, port: int, client: str) -> socket.socket:
        return connect(self.bench.lab.client, self.bench.lab.vip[self.family], port, source=client)

    def who(self, port: int, client: str) -> str:
        """Return the member that a connection gets, which is closed and counted out at the return."""
        with self.connect(port, client) as conn:
            name = greeted_by(conn)
        eventually(lambda: not self.traffic(port)["active_connections"])
        return name

    def traffic(self, port: int) -> dict[str, Any]:
        traffic: dict[str, Any] = peek(self.bench.daemon).service(f"s{port}-{self.family}")["traffic"]
        return traffic

    def by_worker(self, count: int) -> dict[int, list[str]]:
        """Return which of the first `count` clients each worker gets."""
        found: dict[int, list[str]] = {index: [] for index in range(WORKERS)}
        for client in self.addresses[:count]:
            with self.connect(KEEPING, client) as conn:
                greeted_by(conn)
                now = eventually(
                    lambda: [i for i, one in workers(self.bench.daemon).items() if one["active_connections"]]
                )
                assert len(now) == 1
                found[now[0]].append(client)
            eventually(lambda: not self.traffic(KEEPING)["active_connections"])
        return found


@pytest.fixture(scope="module")
def bench(sandboxed: None, worker_id: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bench]:
    prefix = "p" + ("" if worker_id == "master" else worker_id) + "-"
    built = Bench(prefix, tmp_path_factory.mktemp("persistence"))
    yield built
    built.close()


@pytest.fixture
def clients(bench: Bench, family: int) -> Iterator[Clients]:
    yield Clients(bench, family)
    bench.settle()


def test_a_client_keeps_its_member_from_whatever_port_it_comes(clients: Clients) -> None:
    kept = {client: clients.who(KEEPING, client) for client in clients.addresses[:12]}
    assert len(set(kept.values())) > 1
    for client, name in kept.items():
        held = [clients.connect(KEEPING, client) for _ in range(6)]
        assert {greeted_by(conn) for conn in held} == {name}
        for conn in held:
            conn.close()


def test_connections_that_a_new_client_opens_at_once_get_one_member(clients: Clients) -> None:
    for client in clients.addresses[:6]:
        held = [clients.connect(KEEPING, client) for _ in range(6)]
        assert len({greeted_by(conn) for conn in held}) == 1
        for conn in held:
            conn.close()


def test_both_workers_have_their_share_of_the_clients(clients: Clients) -> None:
    assert min(len(found) for found in clients.by_worker(30).values()) >= 3  # by chance once in 100,000 runs


def test_the_timeout_counts_from_the_end_of_the_last_connection(clients: Clients) -> None:
    client = clients.addresses[0]
    first = clients.connect(SHORT, client)
    second = clients.connect(SHORT, client)
    name = greeted_by(first)
    assert greeted_by(second) == name
    first.close()
    time.sleep(1.5 * TIMEOUT_S)  # nothing is to happen in this time
    assert clients.traffic(SHORT)["persistence_entries"] == 1
    ended_s = time.monotonic()
    second.close()
    eventually(lambda: not clients.traffic(SHORT)["persistence_entries"])
    assert time.monotonic() - ended_s >= TIMEOUT_S


def test_clients_of_one_network_share_their_member(clients: Clients) -> None:
    before = clients.traffic(NETWORK)["persistence_entries"]
    assert len({clients.who(NETWORK, client) for client in clients.addresses[:12]}) == 1
    assert clients.traffic(NETWORK)["persistence_entries"] <= before + 1


def test_the_longest_idle_client_of_a_full_table_makes_room(clients: Clients) -> None:
    first, second, third = max(clients.by_worker(7).values(), key=len)[:3]

    def evictions() -> int:
        return int(clients.traffic(SMALL)["persistence_evictions_total"])

    kept = {client: clients.who(SMALL, client) for client in (first, second)}
    assert clients.who(SMALL, first) == kept[first]
    before = evictions()
    kept[third] = clients.who(SMALL, third)
    assert evictions() == before + 1
    assert clients.who(SMALL, first) == kept[first]
    assert clients.who(SMALL, third) == kept[third]
    assert evictions() == before + 1
    clients.who(SMALL, second)
    assert evictions() == before + 2
    assert clients.traffic(SMALL)["persistence_entries"] <= PERSISTENCE[SMALL]["max_entries"]
    metrics = clients.bench.daemon.metrics()
    name = f"s{SMALL}-{clients.family}"
    assert metrics.value("lbd_virtual_service_persistence_evictions_total", virtual_service=name) == before + 2
    assert 2 <= metrics.value("lbd_virtual_service_persistence_entries", virtual_service=name) <= 4


def test_a_client_keeps_its_member_when_the_worker_that_knew_it_is_killed(clients: Clients) -> None:
    kept = {client: clients.who(KEEPING, client) for client in clients.addresses[:10]}
    for index in range(WORKERS):
        before = workers(clients.bench.daemon)[index]
        held = [clients.connect(KEEPING, client) for client in kept]
        assert [greeted_by(conn) for conn in held] == list(kept.values())
        os.kill(before["pid"], signal.SIGKILL)
        eventually(lambda before=before: workers(clients.bench.daemon)[before["index"]]["pid"] != before["pid"])
        for conn in held:
            conn.close()
        during = {client: greeted_by(clients.connect(KEEPING, client)) for client in kept}
        assert during == kept
        eventually(lambda: all(one["state"] == "running" for one in workers(clients.bench.daemon).values()), 20.0)
        eventually(lambda: not clients.traffic(KEEPING)["active_connections"])
    assert {client: clients.who(KEEPING, client) for client in kept} == kept


def test_the_flows_of_a_client_go_to_one_member(clients: Clients) -> None:
    lab = clients.bench.lab

    def who() -> str:
        with UdpClient(lab.client, lab.vip[clients.family], DATAGRAMS) as client:
            return client.ask()

    kept = who()
    assert {who() for _ in range(12)} == {kept}
    assert clients.traffic(DATAGRAMS)["persistence_entries"] == 1
    for worker in workers(clients.bench.daemon).values():
        os.kill(worker["pid"], signal.SIGKILL)
        eventually(lambda pid=worker["pid"]: pid not in peek(clients.bench.daemon).worker_pids)
        eventually(lambda: all(one["state"] == "running" for one in workers(clients.bench.daemon).values()), 20.0)
        assert {who() for _ in range(6)} == {kept}


def test_a_client_whose_member_goes_down_moves_or_returns_as_told(clients: Clients) -> None:
    client = clients.addresses[0]
    daemon = clients.bench.daemon
    ports = (RETURNING, MOVING)
    kept = {port: clients.who(port, client) for port in ports}

    def health(port: int) -> str:
        pod = next(pod for pod in clients.bench.lab.pods if pod.name == kept[port])
        return str(peek(daemon).member(f"s{port}-{clients.family}", pod.address[clients.family])["health"])

    for port in ports:
        clients.bench.server(kept[port], port).stop()
    for port in ports:
        eventually(lambda port=port: health(port) == "down")
    others = {port: clients.who(port, client) for port in ports}
    assert all(others[port] != kept[port] for port in ports)
    for port in ports:
        clients.bench.server(kept[port], port).start()
    for port in ports:
        eventually(lambda port=port: health(port) == "up")
    assert {clients.who(RETURNING, client) for _ in range(3)} == {kept[RETURNING]}
    assert {clients.who(MOVING, client) for _ in range(3)} == {others[MOVING]}


def test_a_reload_keeps_the_entries_unless_they_mean_something_else(bench: Bench) -> None:
    clients = Clients(bench, 4)
    kept = {client: clients.who(CHANGING, client) for client in clients.addresses[:6]}
    bench.daemon.reload(bench.config({"timeout": "5m", "on_member_down": "keep"}))
    assert {client: clients.who(CHANGING, client) for client in kept} == kept
    assert clients.traffic(CHANGING)["persistence_entries"] == len(kept)
    with clients.connect(CHANGING, clients.addresses[0]) as held:  # of the old table: its end is no business of the new
        assert greeted_by(held) == kept[clients.addresses[0]]
        bench.daemon.reload(bench.config({"ipv4_prefix": 16}))
        assert clients.traffic(CHANGING)["persistence_entries"] == 0
        several = [clients.connect(CHANGING, client) for client in clients.addresses[:8]]
        assert len({greeted_by(conn) for conn in several}) == 1
        for conn in several:
            conn.close()
    bench.daemon.reload(bench.config({}))
    assert clients.traffic(CHANGING)["persistence_entries"] == 0
    seen = {greeted_by(clients.connect(CHANGING, clients.addresses[0])) for _ in range(12)}
    assert len(seen) == len(bench.lab.pods)
    bench.daemon.reload(bench.config())
