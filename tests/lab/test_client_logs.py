"""Client logs: a line for each connection and flow that ends, as much as was asked for, for as long as was asked."""

from __future__ import annotations

import os
import socket
import struct
import threading
import time
from collections import Counter
from typing import Any

import pytest

from kit_lifecycle import Held, members, peek, service
from kit_relay import steady_config
from kit_udp import UdpServer
from lab_clients import OK, connect, fetch, fetch_many, receive_all
from lab_daemon import Daemon, DaemonFactory
from lab_servers import PodServer, echo, greet_and_hold, http, resets_after
from lab_wait import eventually
from lbd.cli.demo.lab import Lab

ALL = {"throttle": 0, "duration": "1h"}
RESET = struct.pack("ii", 1, 0)


def logged(name: str, vip: str, pool: list[dict[str, Any]], logs: dict[str, Any] | None = None, **more: Any) -> Any:
    """Return a service with client logs."""
    own = {key: more.pop(key) for key in ("protocol", "udp", "timeouts", "source_ranges") if key in more}
    return {**service(name, vip, pool, **more), **own, "client_logs": ALL if logs is None else logs}


def ended(lbd: Daemon, **fields: object) -> dict[str, Any]:
    """Wait for the line of an ended connection."""
    return lbd.log.wait_for("connection_ended", **fields)


def text(address: str, port: int) -> str:
    return f"[{address}]:{port}" if ":" in address else f"{address}:{port}"


@pytest.mark.parametrize("family", [4, 6])
def test_a_connection_that_ends_in_order_is_told_with_everything_that_is_known(
    lab: Lab, daemon: DaemonFactory, form: str, family: int
) -> None:
    vip = lab.vip[family]
    with PodServer(lab.pods[0], echo):
        lbd = daemon(steady_config(logged("web", vip, members(lab.pods[:1], family))), form=form)
        begun_s = time.monotonic()
        with connect(lab.client, vip) as conn:
            local = conn.getsockname()
            conn.sendall(b"x" * 1000)
            assert conn.recv(1000, socket.MSG_WAITALL) == b"x" * 1000
            conn.sendall(b"y" * 234)
            conn.shutdown(socket.SHUT_WR)
            assert receive_all(conn) == b"y" * 234
        took_s = time.monotonic() - begun_s
        line = ended(lbd)
    assert line["service"] == "web"
    assert line["protocol"] == "tcp"
    assert line["client"] == text(local[0], local[1])
    assert line["vip"] == text(vip, 80)
    assert line["member"] == text(lab.pods[0].address[family], 80)
    assert (line["received_bytes"], line["sent_bytes"]) == (1234, 1234)
    assert 0.0 <= line["duration_s"] <= took_s + 0.1
    assert 0.0 < line["connect_s"] <= took_s
    assert (line["ending"], line["significant"]) == ("closed", False)


def test_the_ways_in_which_a_connection_ends_are_told_apart(lab: Lab, daemon: DaemonFactory, form: str) -> None:
    vip, pod = lab.vip[4], lab.pods[:1]
    over = threading.Event()
    brief = {"idle": "1s"}
    services = [
        logged("echo", vip, members(pod, 4)),
        logged("resets", vip, members(pod, 4, 81), port=81),
        logged("nobody", vip, members(pod, 4, 82), port=82),
        logged("idle", vip, members(pod, 4), port=83, timeouts=brief),
        logged("lifetime", vip, members(pod, 4), port=84, timeouts={"lifetime": "1s"}),
        logged("strangers", vip, members(pod, 4), port=85, source_ranges=["192.0.2.0/24"]),
        logged("slow", vip, members(pod, 4, 86), {**ALL, "slow_connect": "500ms"}, port=86),
        logged("half", vip, members(pod, 4, 87), port=87, timeouts={"client_half_closed": "1s"}),
    ]
    with (
        PodServer(lab.pods[0], echo),
        PodServer(lab.pods[0], resets_after(5), 81),
        PodServer(lab.pods[0], lambda _conn, _server: over.wait(20.0) and None, 87),
        PodServer(lab.pods[0], echo, 86) as late,
    ):
        lbd = daemon(steady_config(*services), form=form)
        with connect(lab.client, vip) as conn:
            conn.sendall(b"hello")
            assert conn.recv(5, socket.MSG_WAITALL) == b"hello"
            conn.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RESET)
        with connect(lab.client, vip, 81) as conn:
            conn.sendall(b"12345")
            with pytest.raises(ConnectionResetError):
                receive_all(conn)
        with pytest.raises(ConnectionResetError), connect(lab.client, vip, 82) as conn:
            receive_all(conn)
        held = [Held(lab.client, vip, 83), Held(lab.client, vip, 84)]
        assert all(one.works() for one in held)
        with pytest.raises(ConnectionResetError), connect(lab.client, vip, 85) as conn:
            receive_all(conn)
        late.black_hole()
        slow = Held(lab.client, vip, 86)
        slow.conn.sendall(b"hello")
        eventually(lambda: peek(lbd).service("slow")["traffic"]["active_connections"] == 1)
        late.end_black_hole()  # the next SYN comes a second after the first
        assert slow.conn.recv(5, socket.MSG_WAITALL) == b"hello"
        slow.conn.shutdown(socket.SHUT_WR)
        assert receive_all(slow.conn) == b""
        slow.close()
        half = connect(lab.client, vip, 87)
        half.sendall(b"hello")
        half.shutdown(socket.SHUT_WR)
        expected = {
            "echo": "client_reset",
            "resets": "member_reset",
            "nobody": "unserved",
            "idle": "idle",
            "lifetime": "lifetime",
            "strangers": "rejected_source_ranges",
            "slow": "closed",
            "half": "client_half_closed",
        }
        for name, ending in expected.items():
            line = ended(lbd, service=name)
            assert (line["ending"], line["significant"]) == (ending, True), line
        assert ended(lbd, service="echo")["received_bytes"] == 5
        assert ended(lbd, service="slow")["connect_s"] > 0.5
        for name in ("nobody", "strangers"):
            assert ended(lbd, service=name)["member"] is None
            assert ended(lbd, service=name)["connect_s"] is None
        over.set()
        half.close()


def test_what_a_drain_cuts_off_is_told(lab: Lab, daemon: DaemonFactory, form: str) -> None:
    vip = lab.vip[4]
    with PodServer(lab.pods[0], greet_and_hold):
        lbd = daemon(steady_config(logged("web", vip, members(lab.pods[:1], 4))), form=form)
        held = connect(lab.client, vip)
        held.recv(100)
        asked = ("web", text(lab.pods[0].address[4], 80), "--deadline", "0s")
        assert lbd.cli("drain", *asked, "--socket", str(lbd.directory / "admin.sock")).returncode == 0
        line = ended(lbd, service="web")
        assert (line["ending"], line["significant"]) == ("drain_timeout", True)
        held.close()


def test_flows_are_told_when_they_end(lab: Lab, daemon: DaemonFactory, form: str) -> None:
    vip = lab.vip[4]
    udp = {"protocol": "udp"}
    services = [
        logged("answered", vip, members(lab.pods[:1], 4, 53), port=5301, udp={"responses": 1}, **udp),
        logged("idle", vip, members(lab.pods[:1], 4, 53), port=5302, timeouts={"idle": "1s"}, **udp),
        logged("small", vip, members(lab.pods[:1], 4, 53), port=5303, udp={"max_flows": 1}, **udp),
    ]
    with UdpServer(lab.pods[0]):
        lbd = daemon(steady_config(*services), workers=1, form=form)
        clients = [lab.client.call(socket.socket, socket.AF_INET, socket.SOCK_DGRAM) for _ in range(4)]
        for client, port in zip(clients, (5301, 5302, 5303, 5303), strict=True):
            client.settimeout(5.0)
            client.connect((vip, port))
            client.send(b"question")
            answer = client.recv(100)
            assert answer == lab.pods[0].name.encode() + b" question"
        line = ended(lbd, service="answered")
        assert (line["ending"], line["significant"], line["protocol"]) == ("responses", False, "udp")
        assert line["client"] == text(*clients[0].getsockname())
        assert line["member"] == text(lab.pods[0].address[4], 53)
        assert (line["received_bytes"], line["sent_bytes"]) == (8, len(answer))
        line = ended(lbd, service="idle")
        assert (line["ending"], line["significant"]) == ("idle", False)
        assert (line["received_bytes"], line["sent_bytes"]) == (8, len(answer))
        line = ended(lbd, service="small")
        assert (line["ending"], line["significant"]) == ("evicted", True)
        for client in clients:
            client.close()


def test_the_throttle_holds_over_all_workers_and_what_was_left_out_is_counted(
    lab: Lab, daemon: DaemonFactory, form: str
) -> None:
    vip = lab.vip[4]
    with PodServer(lab.pods[0], http):
        logs = {"throttle": 5, "duration": "1h"}
        lbd = daemon(steady_config(logged("web", vip, members(lab.pods[:1], 4), logs)), form=form)
        begun_s = time.monotonic()
        assert fetch_many(lab.client, vip, count=400, concurrency=8).kinds == {OK: 400}
        eventually(lambda: written(lbd) + left_out(lbd) == 400, 5.0)
        seconds = time.monotonic() - begun_s
        assert 5 <= written(lbd) <= 5 * (int(seconds) + 1)
        said = lbd.log.matching("connection_logs_throttled", service="web")
        assert len(said) <= int(seconds) + 1
        assert {line["significant"] for line in said} == {0}


def written(lbd: Daemon) -> int:
    return len(lbd.log.matching("connection_ended"))


def left_out(lbd: Daemon) -> int:
    return sum(line["count"] for line in lbd.log.matching("connection_logs_throttled"))


def test_a_flood_of_significant_ends_does_not_fill_the_disk(lab: Lab, daemon: DaemonFactory) -> None:
    vip = lab.vip[4]
    strangers = logged("web", vip, members(lab.pods[:1], 4), {"throttle": 1, "duration": "1h"})
    lbd = daemon(steady_config({**strangers, "source_ranges": ["192.0.2.0/24"]}))
    begun_s = time.monotonic()
    fetch_many(lab.client, vip, count=600, concurrency=8)
    eventually(lambda: written(lbd) + left_out(lbd) == 600, 5.0)
    assert 100 <= written(lbd) <= 100 * (int(time.monotonic() - begun_s) + 1)
    assert Counter(line["ending"] for line in lbd.log.matching("connection_ended")).keys() == {"rejected_source_ranges"}


def test_the_time_runs_from_when_it_was_asked_for_and_a_change_of_the_pool_does_not_give_more(
    lab: Lab, daemon: DaemonFactory
) -> None:
    vip = lab.vip[4]
    logs = {"throttle": 0, "duration": "2s"}
    with PodServer(lab.pods[0], http), PodServer(lab.pods[1], http):
        lbd = daemon(steady_config(logged("web", vip, members(lab.pods[:1], 4), logs)))
        fetch(lab.client, vip)
        ended(lbd)
        assert lbd.reload(steady_config(logged("web", vip, members(lab.pods[:2], 4), logs))).returncode == 0
        over = lbd.log.wait_for("client_logs_ended", service="web")
        assert over["after_s"] == 2.0
        before = written(lbd)
        fetch(lab.client, vip)
        again = steady_config(logged("web", vip, members(lab.pods[:2], 4), {**logs, "duration": "1h"}))
        assert lbd.reload(again).returncode == 0
        fetch(lab.client, vip)
        eventually(lambda: written(lbd) == before + 1, 5.0)
        assert len(lbd.log.matching("client_logs_begun")) == 2


def test_a_worker_that_takes_the_place_of_another_logs_too(lab: Lab, daemon: DaemonFactory) -> None:
    vip = lab.vip[4]
    with PodServer(lab.pods[0], http):
        lbd = daemon(steady_config(logged("web", vip, members(lab.pods[:1], 4))), workers=1)
        fetch(lab.client, vip)
        ended(lbd)
        mark = lbd.log.mark()
        os.kill(lbd.worker_pids[0], 9)
        fetch(lab.client, vip)
        lbd.log.wait_for("connection_ended", since=mark)


def test_without_client_logs_nothing_is_told(lab: Lab, daemon: DaemonFactory) -> None:
    vip = lab.vip[4]
    with PodServer(lab.pods[0], http):
        other = logged("other", vip, members(lab.pods[:1], 4), port=81)
        lbd = daemon(steady_config(service("web", vip, members(lab.pods[:1], 4)), other))
        fetch(lab.client, vip)
        fetch(lab.client, vip, 81)
        ended(lbd, service="other")
        assert lbd.log.matching("connection_ended", service="web") == []
