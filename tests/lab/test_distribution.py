"""Who gets which connection: shares, weights, hashes, counts and slow start, over two workers."""

from __future__ import annotations

import socket
import threading
import time
from collections import Counter
from collections.abc import Iterable
from contextlib import ExitStack

import pytest

from kit_lifecycle import MONITORS, members, peek, service
from kit_relay import greeted_by, route_clients, says, silent_exchange, steady_config, wait_until
from lab_clients import OK, Load, LoadResult, connect, fetch_many, hold_many
from lab_daemon import Daemon, DaemonFactory
from lab_servers import PodServer, greet_and_hold, hold, http
from lab_wait import eventually
from lbd.cli.demo.lab import Lab, Pod

WORKERS = 2
TOLERANCE = WORKERS + 1
"""Each worker takes turns by itself: it may be one connection before or behind."""


def serving(lab: Lab, stack: ExitStack, pods: Iterable[Pod]) -> dict[str, PodServer]:
    """Start an HTTP server in each Pod and return them by the Pods' names."""
    return {pod.name: stack.enter_context(PodServer(pod, http)) for pod in pods}


# -- round robin -------------------------------------------------------------------------------------------------------


def test_a_thousand_connections_are_spread_evenly_over_three_members(lab: Lab, daemon: DaemonFactory) -> None:
    with ExitStack() as stack:
        servers = serving(lab, stack, lab.pods)
        daemon(steady_config(service("web", lab.vip[4], members(lab.pods, 4)))).wait_serving()
        load = fetch_many(lab.client, lab.vip[4], count=1000)
        assert load.kinds == {OK: 1000}
        for server in servers.values():
            assert abs(server.accepted - 1000 / 3) <= TOLERANCE, load.answers
        assert load.answers == {name: server.accepted for name, server in servers.items()}


def test_a_thousand_connections_follow_the_weights(lab: Lab, daemon: DaemonFactory) -> None:
    weights = [5, 3, 2]
    with ExitStack() as stack:
        serving(lab, stack, lab.pods)
        weighted = [{**member, "weight": weight} for member, weight in zip(members(lab.pods, 4), weights, strict=True)]
        daemon(steady_config(service("web", lab.vip[4], weighted))).wait_serving()
        load = fetch_many(lab.client, lab.vip[4], count=1000)
        assert load.kinds == {OK: 1000}
        for pod, weight in zip(lab.pods, weights, strict=True):
            assert abs(load.answers[pod.name] - 100 * weight) <= TOLERANCE, load.answers


def test_clients_that_never_send_are_spread_as_well(lab: Lab, daemon: DaemonFactory) -> None:
    with ExitStack() as stack:
        for pod in lab.pods:
            stack.enter_context(PodServer(pod, greet_and_hold))
        daemon(steady_config(service("web", lab.vip[4], members(lab.pods, 4)))).wait_serving()
        silent = silent_exchange(len(lab.pods[0].name))
        load = Load(lab.client, lab.vip[4], count=300, concurrency=8, exchange=silent).start().join()
        assert load.kinds == {OK: 300}
        for pod in lab.pods:
            assert abs(load.answers[pod.name] - 100) <= TOLERANCE, load.answers


# -- consistent hash ---------------------------------------------------------------------------------------------------


def answers_by_client(load: LoadResult, clients: list[str]) -> dict[str, str]:
    """Return whom each client got; a load of concurrency 1 ends its connections in the order of its sources."""
    assert load.kinds == {OK: len(load.outcomes)}, load.failures[:3]
    return {clients[place % len(clients)]: outcome.answer for place, outcome in enumerate(load.outcomes)}


def test_a_client_keeps_its_member_on_every_worker_and_over_restarts_and_reorderings(
    lab: Lab, daemon: DaemonFactory, family: int
) -> None:
    clients = route_clients(lab, family, 60)
    one = service("web", lab.vip[family], members(lab.pods, family), algorithm="consistent_hash")
    with ExitStack() as stack:
        serving(lab, stack, lab.pods)
        lbd = daemon(steady_config(one))
        lbd.wait_serving()
        held = hold_many(lab.client, lab.vip[family], count=20)
        eventually(lambda: min(by_worker(lbd).values()) > 0, what="the kernel gives connections to both workers")
        for conn in held:
            conn.close()
        # Each time from another port, so that either worker gets each client.
        loads = [fetch_many(lab.client, lab.vip[family], count=60, concurrency=1, sources=clients) for _ in range(6)]
        first, *others = [answers_by_client(load, clients) for load in loads]
        assert all(other == first for other in others)
        assert set(first.values()) == {pod.name for pod in lab.pods}
        lbd.terminate()
        assert lbd.wait() == 0
        one["pool"]["members"].reverse()
        lbd.write_config(steady_config(one))
        lbd.start().wait_serving()
        load = fetch_many(lab.client, lab.vip[family], count=60, concurrency=1, sources=clients)
        assert answers_by_client(load, clients) == first


def test_a_removed_member_moves_its_own_clients_and_few_others_and_returns_to_the_same(
    lab: Lab, daemon: DaemonFactory
) -> None:
    """Nine members, and 1,200 clients; a removal may move a ninth of them and 2 % more."""
    ports = (80, 81, 82)
    clients = route_clients(lab, 6, 1200)
    pool = [member for port in ports for member in members(lab.pods, 6, port)]

    def config(left: list[dict[str, object]]) -> dict[str, object]:
        return steady_config(service("web", lab.vip[6], left, algorithm="consistent_hash"))

    def whom() -> dict[str, str]:
        return answers_by_client(
            fetch_many(lab.client, lab.vip[6], count=1200, concurrency=1, sources=clients), clients
        )

    with ExitStack() as stack:
        servers = {
            f"{pod.address[6]} {port}": stack.enter_context(PodServer(pod, says(f"{pod.address[6]} {port}"), port))
            for pod in lab.pods
            for port in ports
        }
        lbd = daemon(config(pool))
        lbd.wait_serving()
        before = whom()
        assert set(before.values()) == set(servers)
        gone = f"{pool[4]['address']} {pool[4]['port']}"
        servers[gone].stop()  # down, but in the table: its clients move, and nobody else
        while_down = whom()
        assert {client for client in clients if while_down[client] != before[client]} == {
            client for client in clients if before[client] == gone
        }
        assert lbd.reload(config(pool[:4] + pool[5:])).returncode == 0
        without = whom()
        moved = {client for client in clients if without[client] != before[client]}
        assert {client for client in clients if before[client] == gone} <= moved
        assert len(moved) <= (1 / len(pool) + 0.02) * len(clients)
        servers[gone].start()
        assert lbd.reload(config(pool)).returncode == 0
        assert whom() == before


# -- least connections -------------------------------------------------------------------------------------------------


def active(lbd: Daemon) -> dict[str, int]:
    """Return the active connections of the service and of each of its members, as `lbd status` says."""
    web = peek(lbd).service("web")
    by_member = {member["address"]: member["traffic"]["active_connections"] for member in web["members"]}
    return {"web": web["traffic"]["active_connections"], **by_member}


def test_a_member_that_holds_its_connections_gets_fewer_new_ones(lab: Lab, daemon: DaemonFactory) -> None:
    slow, *quick = lab.pods
    release = threading.Event()

    def answers_late(conn: socket.socket, server: PodServer) -> None:
        release.wait(1.0)
        http(conn, server)

    with ExitStack() as stack:
        late = stack.enter_context(PodServer(slow, answers_late))
        others = serving(lab, stack, quick)
        lbd = daemon(steady_config(service("web", lab.vip[4], members(lab.pods, 4), algorithm="least_connections")))
        lbd.wait_serving()
        with Load(lab.client, lab.vip[4], rate_per_s=150) as load:
            time.sleep(2.5)  # the load is what is tried
        release.set()
        assert set(load.result.kinds) == {OK}
        assert late.accepted <= len(load.result.outcomes) / 20, (late.accepted, load.result.answers)
        assert late.accepted >= 2  # two seconds have passed: it has answered, and been given more
        counts = [server.accepted for server in others.values()]
        assert max(counts) <= 1.5 * min(counts), counts
        eventually(lambda: set(active(lbd).values()) == {0}, what="active connections return to zero")


SEEN_BY_OTHERS_S = 0.025
"""A worker looks at what the others count every 10 ms."""


def test_least_connections_counts_the_connections_of_all_workers(lab: Lab, daemon: DaemonFactory) -> None:
    """Those of one worker at one member are kept, the others closed; then no worker may give that member another
    before the rest have as many."""
    with ExitStack() as stack:
        for pod in lab.pods:
            stack.enter_context(PodServer(pod, greet_and_hold))
        lbd = daemon(steady_config(service("web", lab.vip[4], members(lab.pods, 4), algorithm="least_connections")))
        lbd.wait_serving()
        held: dict[tuple[int, str], list[socket.socket]] = {}
        counts: Counter[str] = Counter()
        for _ in range(60):
            before = by_worker(lbd)
            conn = connect(lab.client, lab.vip[4])
            name = greeted_by(conn)
            worker = eventually(lambda before=before: [w for w, n in by_worker(lbd).items() if n > before[w]])[0]
            held.setdefault((worker, name), []).append(conn)
            counts[name] += 1
            time.sleep(SEEN_BY_OTHERS_S)  # this is what a quick machine would not leave them
        assert max(counts.values()) - min(counts.values()) <= WORKERS - 1, counts
        (worker, full), kept = max(held.items(), key=lambda item: len(item[1]))
        for place, conns in held.items():
            for conn in conns if place != (worker, full) else ():
                conn.close()
        eventually(lambda: active(lbd)["web"] == len(kept), what="the others have ended")
        more = 2 * len(kept) - 2
        new = hold_many(lab.client, lab.vip[4], count=more)
        got = Counter(greeted_by(conn) for conn in new)
        for conn in (*kept, *new):
            conn.close()
        assert got[full] <= WORKERS - 1, (got, len(kept))
        eventually(lambda: set(active(lbd).values()) == {0}, what="active connections return to zero")
        assert set(by_worker(lbd).values()) == {0}


def by_worker(lbd: Daemon) -> dict[int, int]:
    """Return the active connections of each worker."""
    return {worker["index"]: worker["active_connections"] for worker in peek(lbd)["workers"]}


# -- slow start --------------------------------------------------------------------------------------------------------


def test_a_member_that_comes_up_gets_a_linearly_growing_share(lab: Lab, daemon: DaemonFactory) -> None:
    """While its weight is a share s of the other's, the member that came up gets s / (1 + s) of the connections."""
    slow_start_s, rate_per_s = 4.0, 150
    fresh, steady = lab.pods[:2]
    config = steady_config(
        service("web", lab.vip[4], members((fresh, steady), 4), slow_start="4s", health_monitors=["quick"])
    )
    config["health_monitors"] = MONITORS
    with PodServer(fresh, http) as server, PodServer(steady, http):
        lbd = daemon(config)
        lbd.wait_serving()
        at_start = fetch_many(lab.client, lab.vip[4], count=100)
        assert abs(at_start.answers[fresh.name] - 50) <= TOLERANCE, "nobody is spared when all begin together"
        mark = lbd.log.mark()
        server.stop()
        lbd.log.wait_for("member_down", since=mark)
        with Load(lab.client, lab.vip[4], rate_per_s=rate_per_s) as load:
            server.start()
            lbd.log.wait_for("member_up", since=mark)
            up_s = time.monotonic()
            wait_until(up_s + slow_start_s + 1.0)
        result = load.result
        assert set(result.kinds) == {OK}
        shares = []
        for second in range(5):
            answers = Counter(
                outcome.answer for outcome in result.outcomes if second <= outcome.started_s - up_s < second + 1
            )
            shares.append(answers[fresh.name] / answers.total())
    expected = [grown / (1 + grown) for grown in (0.125, 0.375, 0.625, 0.875)] + [0.5]
    assert shares == pytest.approx(expected, abs=0.07), (shares, expected)


def test_a_held_connection_is_not_moved_when_a_member_comes_up(lab: Lab, daemon: DaemonFactory) -> None:
    with PodServer(lab.pods[0], hold) as one:
        config = steady_config(service("web", lab.vip[4], members(lab.pods[:2], 4), health_monitors=["quick"]))
        config["health_monitors"] = MONITORS
        lbd = daemon(config)
        lbd.wait_serving()
        held = hold_many(lab.client, lab.vip[4], count=10)
        eventually(lambda: active(lbd)[lab.pods[0].address[4]] == 10)
        mark = lbd.log.mark()
        with PodServer(lab.pods[1], hold):
            lbd.log.wait_for("member_up", since=mark)
            assert active(lbd)[lab.pods[0].address[4]] == 10
            eventually(lambda: one.open == 10)
            for conn in held:
                conn.close()
            eventually(lambda: set(active(lbd).values()) == {0})
