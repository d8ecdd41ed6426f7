"""Draining and disabling while lbd runs: who still gets connections, and what is reset when a deadline has passed."""

from __future__ import annotations

import socket
from collections.abc import Sequence

import pytest

from kit_lifecycle import config, is_refused, members, peek, service
from lab_clients import connect
from lab_daemon import Daemon, DaemonFactory
from lab_servers import PodServer, greet_and_hold
from lab_wait import eventually
from lbd.cli.demo.lab import Lab


def greeted(lab: Lab, vip: str, count: int) -> list[tuple[str, socket.socket]]:
    """Return so many open connections, each with the name of the Pod that greeted it."""
    conns = [connect(lab.client, vip) for _ in range(count)]
    return [(conn.recv(100).decode().strip(), conn) for conn in conns]


def names(conns: Sequence[tuple[str, socket.socket]]) -> set[str]:
    """Return the names of the Pods that greeted, and close nothing."""
    return {name for name, _ in conns}


def who_serves(lab: Lab, vip: str) -> set[str]:
    """Return the names of the Pods that get eight new connections, which are closed again."""
    conns = greeted(lab, vip, 8)
    for _, conn in conns:
        conn.close()
    return names(conns)


def is_open(conn: socket.socket) -> bool:
    """Whether nothing has ended a connection on which nobody has anything to say."""
    conn.settimeout(0.02)
    try:
        conn.recv(1)
    except TimeoutError:
        return True
    except ConnectionResetError:
        return False
    return False


def wait_reset(conn: socket.socket) -> None:
    """Wait for a reset: a FIN is none."""
    conn.settimeout(4.0)
    with pytest.raises(ConnectionResetError):
        conn.recv(1)


def command(lbd: Daemon, *arguments: str) -> str:
    """Run an `lbd` command that succeeds, and return what it printed."""
    done = lbd.cli(*arguments, "--socket", str(lbd.directory / "admin.sock"))
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_lbd_drain_moves_new_connections_at_once_and_resets_the_old_ones_after_the_deadline(
    lab: Lab, daemon: DaemonFactory
) -> None:
    with PodServer(lab.pods[0], greet_and_hold), PodServer(lab.pods[1], greet_and_hold):
        vip, pool = lab.vip[4], members(lab.pods[:2], 4)
        one, two = (pod.name for pod in lab.pods[:2])
        member = f"{pool[0]['address']}:80"
        web = service("web", vip, pool, health_monitors=["quick"])
        lbd = daemon(config(web))
        old = greeted(lab, vip, 8)
        on_one = [conn for name, conn in old if name == one]
        assert names(old) == {one, two}

        said = command(lbd, "drain", "web", member, "--deadline", "1m")
        are_open = "1 connection is open" if len(on_one) == 1 else f"{len(on_one)} connections are open"
        assert said.startswith(f"web/{member} is draining, {are_open}, reset in 60 s")
        assert who_serves(lab, vip) == {two}
        status = peek(lbd)
        assert status.member("web", pool[0]["address"])["reason"] == "admin_state is draining"
        assert any(f"web/{member} is draining" in problem for problem in status["problems"]), status["problems"]

        assert lbd.reload(config(service("web", vip, pool, health_monitors=["quick"], slow_start="0s"))).returncode == 0
        assert who_serves(lab, vip) == {two}  # a reload keeps what was set
        assert all(is_open(conn) for _, conn in old)

        command(lbd, "drain", "web", member, "--deadline", "300ms")
        for conn in on_one:
            wait_reset(conn)
        assert all(is_open(conn) for name, conn in old if name == two)
        passed = lbd.log.wait_for("member_drain_deadline_passed", service="web", member=member)
        assert passed["connections"] == len(on_one)

        assert command(lbd, "enable", "web", member) == f"web/{member} is enabled\n"
        eventually(lambda: peek(lbd).member("web", pool[0]["address"])["eligible"])
        assert who_serves(lab, vip) == {one, two}
        assert not peek(lbd)["problems"]

        wrong = lbd.cli("drain", "wbe", "--socket", str(lbd.directory / "admin.sock"))
        assert (wrong.returncode, wrong.stderr) == (
            1,
            "lbd: there is no virtual service 'wbe'; did you mean web?\n",
        )
        for _, conn in old:
            conn.close()


def test_the_pools_drain_timeout_ends_what_a_reload_drains_and_disable_ends_a_whole_service(
    lab: Lab, daemon: DaemonFactory
) -> None:
    with PodServer(lab.pods[0], greet_and_hold), PodServer(lab.pods[1], greet_and_hold):
        vip, (first, second) = lab.vip[6], members(lab.pods[:2], 6)
        one = lab.pods[0].name
        monitored = {"health_monitors": ["quick"], "drain_timeout": "1s"}
        lbd = daemon(config(service("web", vip, [first, second], **monitored)))
        old = greeted(lab, vip, 8)
        drained = service("web", vip, [{**first, "admin_state": "draining"}, second], **monitored)
        assert lbd.reload(config(drained)).returncode == 0
        for name, conn in old:
            if name == one:
                wait_reset(conn)
        left = [conn for name, conn in old if name != one]
        assert left
        assert all(is_open(conn) for conn in left)
        lbd.log.wait_for("member_drain_deadline_passed", service="web")

        command(lbd, "disable", "web", "--deadline", "0s")
        for conn in left:
            wait_reset(conn)
        eventually(lambda: is_refused(lab.client, vip))
        assert lbd.log.wait_for("service_drain_deadline_passed", service="web")["connections"] == len(left)
        assert peek(lbd).service("web")["state"] == "disabled"
        command(lbd, "enable", "web")
        eventually(lambda: peek(lbd).service("web")["state"] == "serving")
        assert who_serves(lab, vip) == {lab.pods[1].name}
