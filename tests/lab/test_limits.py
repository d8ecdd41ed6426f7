"""What a virtual service takes at most, over two workers: never more, all of it, and what becomes of the others."""

from __future__ import annotations

import errno
import os
import signal
import socket
import threading
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from typing import Any

import pytest

from kit_lifecycle import config, members, peek, service
from kit_relay import steady_config, wait_until
from kit_udp import PORT, UdpClient, UdpServer, udp_service
from lab_clients import OK, RESET, Load, add_client_addresses, socket_family
from lab_daemon import Daemon, DaemonFactory
from lab_servers import PodServer, greet_and_hold, http
from lab_wait import eventually
from lbd.cli.demo.lab import Lab

LIMIT = 21
QUEUED = 8
SLACK_S = 3.0
"""Much more than the supervisor and the workers need to agree: a slow machine is no failure."""


class Client:
    """A connection that is through once the Pod's greeting has come."""

    def __init__(self, lab: Lab, address: str, port: int = 80, source: str | None = None) -> None:
        self.conn = lab.client.socket(socket_family(address))
        if source is not None:
            self.conn.bind((source, 0))
        self.conn.settimeout(10.0)
        with suppress(ConnectionResetError):  # it may come that quickly; `recv` says it again, as an end
            self.conn.connect((address, port))

    def fate(self, timeout_s: float) -> str:
        """Return `in`, `reset`, or `waits` if neither came in time."""
        self.conn.settimeout(timeout_s)
        try:
            return "in" if self.conn.recv(100) else "reset"
        except TimeoutError:
            return "waits"
        except OSError as error:
            return "reset" if error.errno in (errno.ECONNRESET, errno.ENOTCONN) else repr(error)

    def close(self) -> None:
        """End it."""
        self.conn.close()


class Clients:
    """Clients of a service, all closed at the end of the `with` block."""

    def __init__(self, lab: Lab) -> None:
        self._lab = lab
        self.made: list[Client] = []

    def __enter__(self) -> Clients:
        return self

    def __exit__(self, *_: object) -> None:
        for client in self.made:
            client.close()

    def come(self, count: int, address: str, port: int = 80, sources: Sequence[str | None] = (None,)) -> list[Client]:
        """Connect so many, one right after the other."""
        new: list[Client] = []
        for number in range(count):
            new.append(Client(self._lab, address, port, sources[number % len(sources)]))
            self.made.append(new[-1])
        return new


def fates(clients: Sequence[Client], timeout_s: float = SLACK_S) -> list[str]:
    """Return what became of each client within a time that all have together."""
    found: list[str] = [""] * len(clients)

    def ask(position: int) -> None:
        found[position] = clients[position].fate(timeout_s)

    threads = [threading.Thread(target=ask, args=(position,)) for position in range(len(clients))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return found


def those(clients: Sequence[Client], found: Sequence[str], fate: str) -> list[Client]:
    """Return the clients that had this fate."""
    return [client for client, one in zip(clients, found, strict=True) if one == fate]


def traffic(lbd: Daemon, name: str = "web") -> dict[str, Any]:
    """Return a service's counters."""
    counted: dict[str, Any] = peek(lbd).service(name)["traffic"]
    return counted


def rejected(lbd: Daemon, reason: str, name: str = "web") -> int:
    """Return how many connections of a service a limit has turned away."""
    return int(traffic(lbd, name)["rejected_total"][reason])


def by_worker(lbd: Daemon) -> dict[int, int]:
    """Return the connections of each worker."""
    return {worker["index"]: worker["active_connections"] for worker in peek(lbd)["workers"]}


# -- connections of a service ------------------------------------------------------------------------------------------


def test_a_storm_gets_exactly_the_limit_and_the_others_a_quick_reset_and_another_service_notices_nothing(
    lab: Lab, daemon: DaemonFactory, form: str
) -> None:
    vip = lab.vip[4]
    limited = service("web", vip, members(lab.pods[:1], 4), limits={"max_connections": LIMIT})
    free = service("free", vip, members(lab.pods[1:2], 4), 81)
    with PodServer(lab.pods[0], greet_and_hold) as server, PodServer(lab.pods[1], http), Clients(lab) as clients:
        lbd = daemon(steady_config(limited, free), form)
        lbd.wait_serving()
        with Load(lab.client, vip, 81, rate_per_s=50) as load:
            for _ in range(3):
                came = clients.come(3 * LIMIT, vip)
                began_s = time.monotonic()
                found = fates(came)
                assert Counter(found) == {"in": LIMIT, "reset": 2 * LIMIT}
                assert time.monotonic() - began_s < SLACK_S
                assert server.open == LIMIT
                reason = f"at its limit of {LIMIT} connections"
                eventually(lambda reason=reason: peek(lbd).service("web")["reason"] == reason)
                for client in those(came, found, "in"):
                    client.close()
                eventually(lambda: traffic(lbd)["active_connections"] == 0)
        assert server.accepted == 3 * LIMIT, "never one too many"
        assert set(load.result.kinds) == {OK}
        assert rejected(lbd, "max_connections") == 6 * LIMIT
        assert (
            lbd.metrics().value(
                "lbd_virtual_service_rejected_connections_total", virtual_service="web", reason="max_connections"
            )
            == 6 * LIMIT
        )
        line = lbd.log.wait_for("limit_reached", service="web", reason="max_connections", limit=str(LIMIT))
        assert 0 < line["rejected"] <= 6 * LIMIT
        assert len(lbd.log.matching("limit_reached")) <= 2, "one line in ten seconds, however many are turned away"


def test_all_of_the_limit_can_be_used_through_one_worker_and_comes_back_when_it_dies(
    lab: Lab, daemon: DaemonFactory
) -> None:
    """Clients of one address are steered to one worker: the places of the other one must follow them."""
    vip = lab.vip[4]
    limits = {"max_connections": LIMIT, "max_connections_per_client": LIMIT}
    with PodServer(lab.pods[0], greet_and_hold) as server, Clients(lab) as clients:
        lbd = daemon(steady_config(service("web", vip, members(lab.pods[:1], 4), limits=limits)))
        lbd.wait_serving()
        came = clients.come(LIMIT, vip)
        assert set(fates(came)) == {"in"}
        busy = eventually(lambda: [worker for worker, count in by_worker(lbd).items() if count == LIMIT])
        (other,) = add_client_addresses(lab, 4, 1)
        assert fates(clients.come(2, vip, sources=[other])) == ["reset", "reset"]
        pid = next(worker["pid"] for worker in peek(lbd)["workers"] if worker["index"] == busy[0])
        os.kill(pid, signal.SIGKILL)
        lbd.log.wait_for("worker_died", worker=busy[0])
        eventually(lambda: server.open == 0)
        eventually(lambda: all(worker["state"] == "running" for worker in peek(lbd)["workers"]))
        again = clients.come(LIMIT, vip)
        assert set(fates(again)) == {"in"}
        assert fates(clients.come(2, vip, sources=[other])) == ["reset", "reset"]
        assert server.open == LIMIT


def test_a_queue_serves_whom_it_can_in_time_and_refuses_the_rest(lab: Lab, daemon: DaemonFactory, form: str) -> None:
    vip = lab.vip[4]
    limits = {"max_connections": 4, "on_limit": "queue", "queue_length": QUEUED, "queue_timeout": "5s"}
    with PodServer(lab.pods[0], greet_and_hold) as server, Clients(lab) as clients:
        lbd = daemon(steady_config(service("web", vip, members(lab.pods[:1], 4), limits=limits)), form)
        lbd.wait_serving()
        inside = clients.come(4, vip)
        assert set(fates(inside)) == {"in"}
        waiting = clients.come(40, vip)
        found = fates(waiting, 1.0)
        queued = those(waiting, found, "waits")
        assert Counter(found) == {"waits": QUEUED, "reset": 40 - QUEUED}
        eventually(lambda: traffic(lbd)["queued"] == QUEUED)
        assert peek(lbd).service("web")["reason"] == f"at its limit of 4 connections ({QUEUED} queued)"
        assert rejected(lbd, "queue_full") == 40 - QUEUED
        for client in inside[:3]:  # whichever worker had them, and whichever has those who wait
            client.close()
        eventually(lambda: server.accepted == 7)
        eventually(lambda: traffic(lbd)["queued"] == QUEUED - 3)
        found = fates(queued, 8.0)
        assert Counter(found) == {"in": 3, "reset": QUEUED - 3}, "the others have waited for 5 s"
        assert rejected(lbd, "queue_timeout") == QUEUED - 3
        assert server.accepted == 7
        eventually(lambda: traffic(lbd)["queued"] == 0)


def test_a_place_that_one_worker_frees_goes_to_who_waits_in_another(lab: Lab, daemon: DaemonFactory) -> None:
    """Clients of one address are steered to one worker; seven addresses are hardly ever all of one."""
    vip = lab.vip[4]
    first, *others = add_client_addresses(lab, 4, 8)
    limits = {"max_connections": 4, "on_limit": "queue", "queue_length": 100, "queue_timeout": "30s"}
    with PodServer(lab.pods[0], greet_and_hold) as server, Clients(lab) as clients:
        lbd = daemon(
            steady_config(
                service("web", vip, members(lab.pods[:1], 4), limits={**limits, "max_connections_per_client": 4})
            )
        )
        lbd.wait_serving()
        inside = clients.come(4, vip, sources=[first])
        assert set(fates(inside)) == {"in"}
        waiting = clients.come(len(others), vip, sources=others)
        eventually(lambda: traffic(lbd)["queued"] == len(others))
        for client in inside:
            client.close()
        eventually(lambda: server.accepted == 8)
        assert server.open <= 4
        for client in waiting:
            assert client.fate(SLACK_S) in ("in", "waits")
            client.close()
        eventually(lambda: traffic(lbd)["active_connections"] == 0)


def test_who_leaves_the_queue_is_forgotten_and_the_longest_waiting_comes_first(lab: Lab, daemon: DaemonFactory) -> None:
    """One worker, so that there is one queue."""
    vip = lab.vip[4]
    limits = {"max_connections": 1, "on_limit": "queue", "queue_length": 10, "queue_timeout": "30s"}
    with PodServer(lab.pods[0], greet_and_hold) as server, Clients(lab) as clients:
        lbd = daemon(steady_config(service("web", vip, members(lab.pods[:1], 4), limits=limits)), workers=1)
        lbd.wait_serving()
        (inside,) = clients.come(1, vip)
        assert inside.fate(SLACK_S) == "in"
        waiting = clients.come(5, vip)
        eventually(lambda: traffic(lbd)["queued"] == 5)
        waiting[0].conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        waiting[0].close()
        eventually(lambda: traffic(lbd)["queued"] == 4)
        inside.close()
        for client in waiting[1:]:
            assert client.fate(SLACK_S) == "in"
            client.close()
        assert server.accepted == 5
        eventually(lambda: traffic(lbd)["active_connections"] == 0)


def test_a_reload_sets_lowers_raises_and_removes_a_limit_with_connections_open(lab: Lab, daemon: DaemonFactory) -> None:
    vip = lab.vip[4]

    def config(most: int | None) -> dict[str, Any]:
        limits = {} if most is None else {"limits": {"max_connections": most}}
        return steady_config(service("web", vip, members(lab.pods[:1], 4), **limits))

    with PodServer(lab.pods[0], greet_and_hold) as server, Clients(lab) as clients:
        lbd = daemon(config(None))
        lbd.wait_serving()
        before = clients.come(10, vip)
        assert set(fates(before)) == {"in"}
        assert lbd.reload(config(12)).returncode == 0
        assert Counter(fates(clients.come(6, vip))) == {"in": 2, "reset": 4}, "those who were there are counted"
        assert lbd.reload(config(5)).returncode == 0
        assert set(fates(clients.come(3, vip))) == {"reset"}
        assert server.open == 12, "nobody is ended"
        for client in before[:8]:
            client.close()
        eventually(lambda: traffic(lbd)["active_connections"] == 4)
        time.sleep(0.2)  # a worker believes for 50 ms that nothing is left
        assert Counter(fates(clients.come(4, vip))) == {"in": 1, "reset": 3}
        assert lbd.reload(config(8)).returncode == 0
        assert Counter(fates(clients.come(6, vip))) == {"in": 3, "reset": 3}
        assert lbd.reload(config(None)).returncode == 0
        assert set(fates(clients.come(30, vip))) == {"in"}


def test_a_reload_that_raises_a_limit_lets_all_in_who_wait_even_if_it_ends_the_queue(
    lab: Lab, daemon: DaemonFactory
) -> None:
    vip = lab.vip[4]

    def config(**limits: object) -> dict[str, Any]:
        return steady_config(service("web", vip, members(lab.pods[:1], 4), limits=limits))

    with PodServer(lab.pods[0], greet_and_hold), Clients(lab) as clients:
        lbd = daemon(config(max_connections=1, on_limit="queue", queue_length=20, queue_timeout="30s"))
        lbd.wait_serving()
        assert set(fates(clients.come(1, vip))) == {"in"}
        waiting = clients.come(6, vip)
        eventually(lambda: traffic(lbd)["queued"] == 6)
        assert lbd.reload(config(max_connections=100)).returncode == 0
        assert set(fates(waiting)) == {"in"}
        assert rejected(lbd, "max_connections") == 0


# -- members -----------------------------------------------------------------------------------------------------------


def test_a_member_never_gets_more_than_its_own_limit_and_the_others_get_the_rest(
    lab: Lab, daemon: DaemonFactory
) -> None:
    vip = lab.vip[4]
    small, large = lab.pods[:2]
    pool = [*members([small], 4, max_connections=3), *members([large], 4, max_connections=20)]
    with PodServer(small, greet_and_hold) as few, PodServer(large, greet_and_hold) as many, Clients(lab) as clients:
        # One address, so one worker: the other one's room with the members must follow.
        lbd = daemon(steady_config(service("web", vip, pool, limits={"max_connections_per_client": 100})))
        lbd.wait_serving()
        came = clients.come(15, vip)
        assert set(fates(came)) == {"in"}
        assert few.open <= 3
        assert few.open + many.open == 15
        assert Counter(fates(clients.come(20, vip))) == {"in": 8, "reset": 12}
        assert (few.accepted, many.accepted) == (3, 20)
        assert rejected(lbd, "max_connections") == 12
        member = peek(lbd).member("web", small.address[4])
        assert member["reason"] == "at its limit of 3 connections"
        for members_now in (pool[1:], pool):
            web = service("web", vip, members_now, limits={"max_connections_per_client": 100})
            assert lbd.reload(steady_config(web)).returncode == 0
        assert set(fates(clients.come(10, vip))) == {"reset"}, "a member that was gone for a while has what it has"
        for client in came:
            client.close()
        eventually(lambda: few.open + many.open == 8)
        assert set(fates(clients.come(10, vip))) == {"in"}


def test_who_finds_all_members_full_waits_until_one_has_room(lab: Lab, daemon: DaemonFactory, form: str) -> None:
    vip = lab.vip[4]
    limits = {"max_connections": 100, "on_limit": "queue", "queue_length": 50, "queue_timeout": "20s"}
    pool = members(lab.pods[:2], 4, max_connections=2)
    with (
        PodServer(lab.pods[0], greet_and_hold) as one,
        PodServer(lab.pods[1], greet_and_hold) as other,
        Clients(lab) as clients,
    ):
        lbd = daemon(steady_config(service("web", vip, pool, limits=limits)), form)
        lbd.wait_serving()
        came = clients.come(12, vip)
        found = fates(came, 0.7)
        assert Counter(found) == {"in": 4, "waits": 8}
        assert (one.open, other.open) == (2, 2)
        eventually(lambda: traffic(lbd)["queued"] == 8)
        inside, waiting = those(came, found, "in"), those(came, found, "waits")
        for served in range(0, 8, 2):
            for client in inside:
                client.close()
            eventually(lambda served=served: one.accepted + other.accepted == 4 + min(8, 4 * (served // 2 + 1)))
            assert max(one.open, other.open) <= 2
            found = fates(waiting, 0.7)
            inside, waiting = those(waiting, found, "in"), those(waiting, found, "waits")
            if not waiting:
                break
        assert not waiting
        eventually(lambda: traffic(lbd)["queued"] == 0)


def test_who_waits_for_a_member_gets_the_one_that_comes_up_meanwhile(lab: Lab, daemon: DaemonFactory) -> None:
    vip = lab.vip[4]
    limits = {"max_connections": 100, "on_limit": "queue", "queue_length": 50, "queue_timeout": "60s"}
    pool = [*members(lab.pods[:1], 4, max_connections=2), *members(lab.pods[1:2], 4)]
    with (
        PodServer(lab.pods[0], greet_and_hold) as full,
        PodServer(lab.pods[1], greet_and_hold) as late,
        Clients(lab) as clients,
    ):
        late.stop()
        lbd = daemon(config(service("web", vip, pool, health_monitors=["quick"], limits=limits)))
        lbd.wait_serving()
        eventually(lambda: peek(lbd).member("web", lab.pods[1].address[4])["health"] == "down")
        came = clients.come(6, vip)
        found = fates(came, 0.7)
        assert Counter(found) == {"in": 2, "waits": 4}
        late.start()
        assert fates(those(came, found, "waits"), 20.0) == ["in"] * 4
        assert (full.open, late.open) == (2, 4)


# -- clients and rates -------------------------------------------------------------------------------------------------


def test_each_client_gets_its_own_limit_whichever_worker_serves_it(
    lab: Lab, daemon: DaemonFactory, family: int
) -> None:
    vip = lab.vip[family]
    sources = add_client_addresses(lab, family, 6)
    limits = {"max_connections_per_client": 3}
    with PodServer(lab.pods[0], greet_and_hold) as server, Clients(lab) as clients:
        lbd = daemon(steady_config(service("web", vip, members(lab.pods[:1], family), limits=limits)))
        lbd.wait_serving()
        for source in sources:
            came = clients.come(5, vip, sources=[source])
            assert Counter(fates(came)) == {"in": 3, "reset": 2}
        eventually(lambda: traffic(lbd)["active_connections"] == 3 * len(sources))
        assert rejected(lbd, "max_connections_per_client") == 2 * len(sources)
        clients.made[0].close()
        eventually(lambda: server.open == 3 * len(sources) - 1)
        eventually(lambda: traffic(lbd)["active_connections"] == server.open)
        assert Counter(fates(clients.come(3, vip, sources=sources[:1]))) == {"in": 1, "reset": 2}


def test_new_connections_come_no_faster_than_the_rates_of_a_client_and_of_the_service(
    lab: Lab, daemon: DaemonFactory
) -> None:
    vip = lab.vip[4]
    greedy, modest = add_client_addresses(lab, 4, 2)
    pool = members(lab.pods[:1], 4)
    with PodServer(lab.pods[0], http):
        lbd = daemon(
            steady_config(
                service("all", vip, pool, 80, limits={"connection_rate": "40/s"}),
                service("each", vip, pool, 81, limits={"connection_rate_per_client": "10/s"}),
            )
        )
        lbd.wait_serving()
        lasts_s = 3.0
        with Load(lab.client, vip, 80, rate_per_s=120) as load:
            wait_until(time.monotonic() + lasts_s)
        kinds = load.result.kinds
        assert set(kinds) == {OK, RESET}
        assert 0.8 * 40 * lasts_s <= kinds[OK] <= 40 * (lasts_s + 1) + 2, kinds
        assert rejected(lbd, "connection_rate", "all") == kinds[RESET]
        with (
            Load(lab.client, vip, 81, rate_per_s=60, sources=[greedy]) as load,
            Load(lab.client, vip, 81, rate_per_s=5, sources=[modest]) as other,
        ):
            wait_until(time.monotonic() + lasts_s)
        assert 0.8 * 10 * lasts_s <= load.result.kinds[OK] <= 10 * (lasts_s + 1) + 2, load.result.kinds
        assert set(other.result.kinds) == {OK}


# -- throughput --------------------------------------------------------------------------------------------------------


def sends_for_ever(conn: socket.socket, server: PodServer) -> None:
    """Send until the other end is done."""
    block = bytes(65536)
    while True:
        conn.sendall(block)


class Reading(threading.Thread):
    """Reads from connections, and notes what came when."""

    def __init__(self, conn: socket.socket) -> None:
        super().__init__(daemon=True)
        self.conn = conn
        self.came: list[tuple[float, int]] = []
        self.stopping = False

    def run(self) -> None:
        """Read until told to stop."""
        buffer = bytearray(1 << 18)
        while not self.stopping:
            count = self.conn.recv_into(buffer)
            self.came.append((time.monotonic(), count))


@pytest.mark.parametrize("streams", [1, 8])
def test_a_service_moves_its_throughput_and_no_more_shared_by_all_its_streams(
    lab: Lab, daemon: DaemonFactory, streams: int
) -> None:
    vip, limit_bytes = lab.vip[4], 100_000_000 / 8
    with PodServer(lab.pods[0], sends_for_ever), Clients(lab) as clients:
        limits = {"max_throughput": "100Mbps"}
        lbd = daemon(steady_config(service("web", vip, members(lab.pods[:1], 4), limits=limits)))
        lbd.wait_serving()
        readings = [Reading(client.conn) for client in clients.come(streams, vip)]
        for reading in readings:
            reading.start()
        time.sleep(1.5)  # until the shares have settled and the buffers are full
        begun_s, begun = time.monotonic(), traffic(lbd)["sent_bytes_total"]
        time.sleep(3.0)
        took_s, moved = time.monotonic() - begun_s, traffic(lbd)["sent_bytes_total"] - begun
        for reading in readings:
            reading.stopping = True
        for reading in readings:
            reading.join()
        share = moved / took_s / limit_bytes
        parts = [sum(count for at_s, count in each.came if at_s >= begun_s) for each in readings]
        assert 0.75 <= share <= 1.02, share
        assert min(parts) >= 0.5 * sum(parts) / 2 / streams, "half of the limit is each worker's, for all its streams"


def test_a_reload_slows_connections_that_are_there_and_lets_them_go_again(lab: Lab, daemon: DaemonFactory) -> None:
    vip = lab.vip[4]

    def config(**limits: str) -> dict[str, Any]:
        return steady_config(service("web", vip, members(lab.pods[:1], 4), **({"limits": limits} if limits else {})))

    def bytes_in_a_second() -> float:
        begun_s, begun = time.monotonic(), traffic(lbd)["sent_bytes_total"]
        time.sleep(1.0)
        moved = traffic(lbd)["sent_bytes_total"] - begun
        return float(moved / (time.monotonic() - begun_s))

    with PodServer(lab.pods[0], sends_for_ever), Clients(lab) as clients:
        lbd = daemon(config())
        lbd.wait_serving()
        readings = [Reading(client.conn) for client in clients.come(2, vip)]
        for reading in readings:
            reading.start()
        assert lbd.reload(config(max_throughput="40Mbps")).returncode == 0
        assert bytes_in_a_second() <= 1.05 * 5_000_000
        assert lbd.reload(config()).returncode == 0
        eventually(lambda: bytes_in_a_second() > 10_000_000)
        for reading in readings:
            reading.stopping = True
        for reading in readings:
            reading.join()


# -- datagrams ---------------------------------------------------------------------------------------------------------


def test_a_udp_service_opens_flows_up_to_its_limit_and_drops_what_is_above_its_throughput(
    lab: Lab, daemon: DaemonFactory
) -> None:
    vip, most = lab.vip[4], 5
    pool = members(lab.pods[:1], 4, PORT)
    with UdpServer(lab.pods[0]) as server, ExitStack() as stack:
        lbd = daemon(
            steady_config(
                udp_service("flows", vip, pool, 53, limits={"max_connections": most}),
                udp_service("bytes", vip, pool, 54, limits={"max_throughput": "64kbps"}),
            )
        )
        lbd.wait_serving()
        clients = [stack.enter_context(UdpClient(lab.client, vip, 53)) for _ in range(3 * most)]
        for client in clients[:most]:  # whichever worker each of them reaches
            assert client.ask_again()[0] == lab.pods[0].name
        for client in clients[most:]:
            client.send(b"in vain")
        eventually(lambda: rejected(lbd, "max_connections", "flows") >= 2 * most)
        assert traffic(lbd, "flows")["active_connections"] == most
        assert not [data for data, _ in server.received if data == b"in vain"]
        for client in clients[:most]:
            assert client.ask_again()[0] == lab.pods[0].name
        # What a question leaves of the budget is less than a segment's worth: its answer passes all the same.
        assert stack.enter_context(UdpClient(lab.client, vip, 54)).ask_again()[0] == lab.pods[0].name
        flood = stack.enter_context(UdpClient(lab.client, vip, 54))
        for _ in range(50):
            flood.send(bytes(1000))
        eventually(lambda: rejected(lbd, "max_throughput", "bytes") >= 30)
        eventually(lambda: sum(len(data) == 1000 for data, _ in server.received) <= 20)


# -- faults ------------------------------------------------------------------------------------------------------------


def test_workers_keep_the_limit_and_serve_while_the_supervisor_stands_still(lab: Lab, daemon: DaemonFactory) -> None:
    vip = lab.vip[4]
    with PodServer(lab.pods[0], greet_and_hold) as server, Clients(lab) as clients:
        lbd = daemon(steady_config(service("web", vip, members(lab.pods[:1], 4), limits={"max_connections": LIMIT})))
        lbd.wait_serving()
        lbd.signal(signal.SIGSTOP)
        try:
            found = fates(clients.come(4 * LIMIT, vip))
        finally:
            lbd.signal(signal.SIGCONT)
        assert set(found) == {"in", "reset"}
        assert found.count("in") == LIMIT, "each worker has its share, and there are enough clients for both"
        assert server.open == LIMIT


def test_a_hung_worker_keeps_its_share_and_its_place_is_served_within_the_limit(
    lab: Lab, daemon: DaemonFactory
) -> None:
    vip = lab.vip[4]
    with PodServer(lab.pods[0], greet_and_hold) as server, Clients(lab) as clients:
        lbd = daemon(steady_config(service("web", vip, members(lab.pods[:1], 4), limits={"max_connections": LIMIT})))
        lbd.wait_serving()
        pid = peek(lbd).worker_pids[0]
        os.kill(pid, signal.SIGSTOP)
        try:
            lbd.log.wait_for("worker_hung", pid=pid)
            found = fates(clients.come(2 * LIMIT, vip))
            assert set(found) == {"in", "reset"}
            assert found.count("in") == server.open <= LIMIT - LIMIT // 2, "what the other one holds is not dealt"
        finally:
            os.kill(pid, signal.SIGCONT)
        lbd.log.wait_for("worker_recovered", pid=pid)
        again = fates(clients.come(2 * LIMIT, vip))
        assert set(again) == {"in", "reset"}
        assert found.count("in") + again.count("in") == LIMIT
