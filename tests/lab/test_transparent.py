"""`source: transparent`: Pods see the client, answer to it by way of the service engine, and see nothing else change.

The Pods' route to the clients' network goes through the service engine, which forwards nothing: an answer that reaches
the client was delivered to the relay.
"""

from __future__ import annotations

import json
import signal
import socket
from collections.abc import Sequence
from typing import Any

import pytest

from kit_lifecycle import Held, members, peek
from kit_relay import steady_config
from lab_clients import connect, receive_all
from lab_daemon import Daemon, DaemonFactory
from lab_servers import PodServer, echo, pattern_digest, receive_digest, streams
from lab_wait import eventually
from lbd.cli.demo.lab import FRONT_PREFIX, Lab, Pod
from test_service_privileges import effective

CAP_NET_RAW = 0x2000
TABLE = 10801
FOREIGN_TABLE = 4711


@pytest.fixture
def lab(lab: Lab) -> Lab:
    """The lab with a way from the Pods to the clients through the service engine."""
    for pod in lab.pods:
        pod.ip(
            *(
                f"route add {prefix}/{24 if family == 4 else 64} via {lab.se_back_address[family]}"
                for family, prefix in ((4, f"{FRONT_PREFIX[4]}0"), (6, FRONT_PREFIX[6]))
            )
        )
    return lab


def web(lab: Lab, family: int, pods: Sequence[Pod], port: int = 80, **more: Any) -> dict[str, Any]:
    """A transparent service of one family."""
    more = {"source": "transparent", **more}
    pool = {"members": members(pods, family, port)}
    return {"name": f"web{family}-{port}", "vip": lab.vip[family], "port": port, "pool": pool, **more}


def both(lab: Lab, pods: Sequence[Pod], **more: Any) -> dict[str, Any]:
    return steady_config(*(web(lab, family, pods, **more) for family in (4, 6)))


def look(lab: Lab, *words: str) -> list[dict[str, Any]]:
    """Return what `ip WORDS` shows in the SE, of both families; `ip` fails where there is no such table."""
    done = [lab.se.run(["ip", "-details", "-json", f"-{family}", *words], check=False) for family in (4, 6)]
    return [entry for one in done if one.returncode == 0 for entry in json.loads(one.stdout)]


def rules(lab: Lab) -> set[tuple[str, int]]:
    """Return address and port of each rule into the daemon's table."""
    return {(rule["src"], rule["sport"]) for rule in look(lab, "rule", "show") if rule["table"] == str(TABLE)}


def wanted(pods: Sequence[Pod], port: int = 80) -> set[tuple[str, int]]:
    return {(pod.address[family], port) for pod in pods for family in (4, 6)}


def traces(lab: Lab) -> list[dict[str, Any]]:
    """Return all that a daemon may have left."""
    return [rule for rule in look(lab, "rule", "show") if rule["table"] == str(TABLE)] + look(
        lab, "route", "show", "table", str(TABLE)
    )


def foreign(lab: Lab) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """What belongs to the operator."""
    return [rule for rule in look(lab, "rule", "show") if rule["table"] != str(TABLE)], look(
        lab, "route", "show", "table", str(FOREIGN_TABLE)
    )


def add_operators_own(lab: Lab) -> None:
    """A rule like one of ours, but without our tag and into another table, and a local route there."""
    for family in (4, 6):
        source = lab.pods[0].address[family]
        for command in (
            f"rule add from {source} ipproto tcp sport 8080 lookup {FOREIGN_TABLE} priority {TABLE}",
            f"route add local default dev lo table {FOREIGN_TABLE}",
        ):
            lab.se.run(["ip", f"-{family}", *command.split()])


def capabilities(daemon: Daemon) -> set[int]:
    return {effective(pid) for pid in peek(daemon).worker_pids}


def test_members_see_the_client_and_answer_through_the_service_engine(lab: Lab, daemon: DaemonFactory) -> None:
    add_operators_own(lab)
    before = foreign(lab)
    size = 3_000_000
    with PodServer(lab.pods[0], streams(size)) as first, PodServer(lab.pods[1], echo) as second:
        running = daemon(both(lab, lab.pods[:1]))
        assert not running.wait_serving()["problems"]
        assert capabilities(running) == {CAP_NET_RAW}
        assert rules(lab) == wanted(lab.pods[:1])
        for family in (4, 6):
            with connect(lab.client, lab.vip[family]) as conn:
                assert receive_digest(conn) == (size, pattern_digest(size))
        assert sorted(first.sources) == sorted([lab.client_address[4], lab.client_address[6]])

        assert running.reload(both(lab, lab.pods[1:2])).returncode == 0
        held = [Held(lab.client, lab.vip[family]) for family in (4, 6)]
        assert all(one.works() for one in held)
        assert sorted(second.sources) == sorted([lab.client_address[4], lab.client_address[6]])
        eventually(lambda: rules(lab) == wanted(lab.pods[1:2]), 15.0)

        # A member that leaves keeps its connections, and its rule for as long as they last.
        assert running.reload(both(lab, lab.pods[2:])).returncode == 0
        lab.se.ip("link add shake type bridge", "link set shake up")  # an event: the daemon looks at its rules
        eventually(lambda: rules(lab) == wanted(lab.pods[1:]), 5.0)
        assert all(one.works() for one in held)
        for one in held:
            one.close()
        eventually(lambda: rules(lab) == wanted(lab.pods[2:]), 25.0)

    assert foreign(lab) == before
    running.close()
    assert traces(lab) == []
    assert foreign(lab) == before


def test_rules_are_put_back_and_what_a_killed_daemon_left_is_swept(lab: Lab, daemon: DaemonFactory) -> None:
    add_operators_own(lab)
    before = foreign(lab)
    with PodServer(lab.pods[0], echo):
        running = daemon(both(lab, lab.pods[:1]))
        running.wait_serving()
        held = [Held(lab.client, lab.vip[family]) for family in (4, 6)]
        assert all(one.works() for one in held)
        for family in (4, 6):
            lab.se.run(["ip", f"-{family}", "rule", "del", "priority", str(TABLE), "table", str(TABLE)])
            lab.se.run(["ip", f"-{family}", "route", "flush", "table", str(TABLE)])
        lab.se.ip("link add shake type bridge", "link set shake up")
        eventually(lambda: rules(lab) == wanted(lab.pods[:1]), 5.0)
        assert all(one.works() for one in held)

        running.kill()
        assert rules(lab) == wanted(lab.pods[:1])
        assert all(one.works() for one in held), "the workers drain, and need the rules"
        again = daemon(both(lab, lab.pods[:1]))
        assert all(one.works() for one in held), "rules of wanted members stay in place while a daemon starts"
        with connect(lab.client, lab.vip[4]) as conn:
            conn.sendall(b"hello")
            assert conn.recv(5) == b"hello"
        again.kill()
        assert traces(lab)

        plain = daemon(both(lab, lab.pods[:1], source="snat"))
        plain.wait_serving()
        assert traces(lab) == []
        assert capabilities(plain) == {0}
    assert foreign(lab) == before


def test_the_first_transparent_service_needs_a_restart(lab: Lab, daemon: DaemonFactory) -> None:
    with PodServer(lab.pods[0], echo) as server:
        running = daemon(both(lab, lab.pods[:1], source="snat"))
        running.wait_serving()
        refused = running.reload(both(lab, lab.pods[:1]))
        assert refused.returncode != 0
        assert "restart" in refused.stderr + refused.stdout
        assert "CAP_NET_RAW" in refused.stderr + refused.stdout
        assert capabilities(running) == {0}
        assert traces(lab) == []
        with connect(lab.client, lab.vip[4]) as conn:
            conn.sendall(b"hello")
            assert conn.recv(5) == b"hello"
        assert server.sources == [lab.se_back_address[4]]

        # The other way round nothing needs a restart: the capability is kept, and may be used again.
        running.terminate()
        running.wait()
        running.write_config(both(lab, lab.pods[:1]))
        running.start()
        running.wait_serving()
        for source in ("snat", "transparent"):
            assert running.reload(both(lab, lab.pods[:1], source=source)).returncode == 0
            assert capabilities(running) == {CAP_NET_RAW}
            assert not peek(running)["problems"]
        with connect(lab.client, lab.vip[6]) as conn:
            conn.sendall(b"hello")
            assert conn.recv(5) == b"hello"
        assert server.sources[-1] == lab.client_address[6]


def test_a_foreign_route_in_our_table_is_a_problem_that_is_told(lab: Lab, daemon: DaemonFactory) -> None:
    with PodServer(lab.pods[0], echo):
        running = daemon(both(lab, lab.pods[:1]))
        running.wait_serving()
        lab.se.run(["ip", "route", "flush", "table", str(TABLE)])
        lab.se.run(["ip", "route", "add", "local", "default", "dev", "lo", "table", str(TABLE)])
        lab.se.ip("link add shake type bridge", "link set shake up")
        problem = eventually(lambda: peek(running)["problems"], 5.0)[0]
        assert f"table {TABLE}" in problem
        assert "remove it" in problem
        lab.se.run(["ip", "route", "del", "local", "default", "dev", "lo", "table", str(TABLE)])
        eventually(lambda: not peek(running)["problems"], 5.0)
        with connect(lab.client, lab.vip[4]) as conn:
            conn.shutdown(socket.SHUT_WR)
            assert receive_all(conn) == b""


def test_a_start_that_fails_halfway_leaves_no_rule_behind(lab: Lab, daemon: DaemonFactory) -> None:
    lab.se.run(["ip", "-6", "route", "add", "local", "default", "dev", "lo", "table", str(TABLE)])
    running = daemon(both(lab, lab.pods[:1]), start=False).start(wait_ready=False)
    assert running.wait() == 1  # those of IPv4 were there already
    assert rules(lab) == set()
    assert len(look(lab, "route", "show", "table", str(TABLE))) == 1


def test_datagrams_come_from_the_client_too(lab: Lab, daemon: DaemonFactory) -> None:
    port = 5300
    sockets = {}
    for family in (4, 6):
        sock = lab.pods[0].socket(socket.AF_INET if family == 4 else socket.AF_INET6, socket.SOCK_DGRAM)
        sock.bind((lab.pods[0].address[family], port))
        sock.settimeout(5.0)
        sockets[family] = sock
    running = daemon(both(lab, lab.pods[:1], port=port, protocol="udp"))
    running.wait_serving()
    for family, pod in sockets.items():
        with lab.client.socket(pod.family, socket.SOCK_DGRAM) as client:
            client.settimeout(5.0)
            client.connect((lab.vip[family], port))
            client.send(b"question")
            question, source = pod.recvfrom(100)
            assert (question, source[0]) == (b"question", lab.client_address[family])
            pod.sendto(b"answer", source)
            assert client.recv(100) == b"answer"
        pod.close()
    running.signal(signal.SIGTERM)
    running.wait()
    assert traces(lab) == []
