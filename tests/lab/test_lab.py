"""The lab itself: what the other lab tests stand on."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import time
from pathlib import Path

import pytest

from lab_clients import OK, REFUSED, TIMED_OUT, Load, add_client_addresses, connect, fetch, fetch_many, receive_all
from lab_servers import (
    PodServer,
    full_backlog,
    http,
    pattern_digest,
    receive_digest,
    replies_after_fin,
    resets_after,
    send_pattern,
    sends_then_resets,
    streams,
    swallows,
)
from lab_wait import eventually
from lab_wire import Arp, Capture, Neighbor
from lbd.cli.demo import sandbox
from lbd.cli.demo.lab import Lab, Pod


def test_nothing_is_routed_between_frontend_and_pods(lab: Lab, family: int) -> None:
    with PodServer(lab.pods[0], http) as server, pytest.raises(OSError, match="unreachable"):
        connect(lab.client, lab.pods[0].address[family])
    assert server.accepted == 0


def test_the_service_engine_reaches_every_pod_and_the_client(lab: Lab, family: int) -> None:
    for pod in lab.pods:
        with PodServer(pod, http):
            assert fetch(lab.se, pod.address[family]) == pod.name
    with pytest.raises(ConnectionRefusedError):
        connect(lab.client, lab.se_front_address[family])


def test_a_fresh_address_answers_within_50_ms(lab: Lab, family: int) -> None:
    """No duplicate address detection, no spanning tree: lab tests may measure from the first packet on."""
    took_s = []
    for pod in lab.pods:  # a packet may get lost on a busy machine; what is claimed of all would delay each
        with PodServer(pod, http):
            begun_s = time.monotonic()
            connect(lab.se, pod.address[family]).close()
            took_s.append(time.monotonic() - begun_s)
    assert min(took_s) < 0.05


def test_a_stopped_server_refuses_and_a_started_one_serves_again(lab: Lab, family: int) -> None:
    address = lab.pods[0].address[family]
    with PodServer(lab.pods[0], http) as server:
        server.stop()
        with pytest.raises(ConnectionRefusedError):
            connect(lab.se, address)
        server.start()
        assert fetch(lab.se, address) == lab.pods[0].name


def test_a_black_hole_of_one_port_answers_nothing_and_ends(lab: Lab, family: int) -> None:
    address = lab.pods[0].address[family]
    with PodServer(lab.pods[0], http) as server, PodServer(lab.pods[0], http, port=81):
        server.black_hole()
        with pytest.raises(TimeoutError):
            connect(lab.se, address, timeout_s=0.2)
        assert fetch(lab.se, address, 81) == lab.pods[0].name
        server.end_black_hole()
        assert fetch(lab.se, address) == lab.pods[0].name


def test_a_black_hole_of_a_pod_swallows_pings_too_and_ends(lab: Lab, family: int) -> None:
    pod = lab.pods[0]
    with PodServer(pod, http):
        lab.black_hole(pod)
        with pytest.raises(TimeoutError):
            connect(lab.se, pod.address[family], timeout_s=0.2)
        lab.end_black_hole(pod)
        assert fetch(lab.se, pod.address[family]) == pod.name


def test_a_full_backlog_times_out(lab: Lab, family: int) -> None:
    with full_backlog(lab.pods[0], family=family), pytest.raises(TimeoutError):
        connect(lab.se, lab.pods[0].address[family], timeout_s=0.2)


def test_streams_arrive_with_their_digest(lab: Lab, family: int) -> None:
    size = (1 << 24) + 12345
    with PodServer(lab.pods[0], streams(size)), connect(lab.se, lab.pods[0].address[family]) as conn:
        assert receive_digest(conn) == (size, pattern_digest(size))


def test_swallowed_bytes_are_answered_with_their_digest(lab: Lab) -> None:
    size = (1 << 24) + 7
    with PodServer(lab.pods[0], swallows(pause_s=0.001, pauses=3)), connect(lab.se, lab.pods[0].address[4]) as conn:
        send_pattern(conn, size)
        conn.shutdown(socket.SHUT_WR)
        assert receive_all(conn).decode() == f"{size} {pattern_digest(size)}"


def test_the_late_replier_answers_only_after_fin(lab: Lab) -> None:
    with PodServer(lab.pods[0], replies_after_fin(100_000)), connect(lab.se, lab.pods[0].address[4]) as conn:
        conn.sendall(b"question")
        conn.settimeout(0.05)
        with pytest.raises(TimeoutError):
            conn.recv(1)
        conn.settimeout(5.0)
        conn.shutdown(socket.SHUT_WR)
        assert receive_digest(conn) == (100_000, pattern_digest(100_000))


def test_the_resetters_reset(lab: Lab) -> None:
    with PodServer(lab.pods[0], resets_after(5)), connect(lab.se, lab.pods[0].address[4]) as conn:
        conn.sendall(b"12345")
        with pytest.raises(ConnectionResetError):
            conn.recv(1)
    with PodServer(lab.pods[1], sends_then_resets(1000)), connect_before_the_reset(lab, lab.pods[1]) as conn:
        assert len(conn.recv(4096, socket.MSG_WAITALL)) == 1000
        with pytest.raises(ConnectionResetError):
            conn.recv(1)


def connect_before_the_reset(lab: Lab, pod: Pod) -> socket.socket:
    """Return a connection to a server that resets at once: now and then the reset overtakes connect() itself."""
    for _ in range(20):
        with contextlib.suppress(ConnectionResetError):
            return connect(lab.se, pod.address[4])
    raise AssertionError("every connection was reset before it was one")


def test_a_load_reports_each_connection(lab: Lab, family: int) -> None:
    address = lab.pods[0].address[family]
    with PodServer(lab.pods[0], http) as server:
        load = Load(lab.se, address, rate_per_s=200, timeout_s=5.0).start()
        eventually(lambda: len(load.result.outcomes) >= 20)
        server.stop()
        eventually(lambda: load.result.kinds[REFUSED] >= 5)
        server.start()
        stopped_before = load.result.kinds[OK]
        eventually(lambda: load.result.kinds[OK] >= stopped_before + 5)
        result = load.stop()
        in_flight_at_the_stop = len(result.outcomes) - result.kinds[OK] - result.kinds[REFUSED]
        assert in_flight_at_the_stop <= 3, result.kinds
        assert result.answers == {lab.pods[0].name: result.kinds[OK]}
        server.black_hole()
        silent = Load(lab.se, address, count=2, concurrency=2, timeout_s=0.2).start().join()
        assert silent.kinds == {TIMED_OUT: 2}
        assert 0.2 <= silent.worst_latency_s < 1.0


def test_many_fetches_from_many_addresses(lab: Lab, family: int) -> None:
    with PodServer(lab.pods[0], http):
        pass
    sources = add_client_addresses(lab, family, 5)
    listener = lab.se.socket(socket.AF_INET if family == 4 else socket.AF_INET6)
    listener.bind((lab.se_front_address[family], 80))
    listener.listen()
    seen = set()
    with listener:
        load = Load(lab.client, lab.se_front_address[family], count=5, sources=sources, timeout_s=5.0).start()
        for _ in range(5):
            conn, source = listener.accept()
            seen.add(source[0])
            conn.close()
        assert len(load.join().failures) == 5  # closed without an answer
    assert seen == set(sources)
    assert fetch_many(lab.client, lab.se_front_address[family], count=3).kinds == {REFUSED: 3}


def test_the_capture_sees_arp_and_neighbour_discovery(lab: Lab) -> None:
    with Capture(lab.client, "eth0") as capture:
        for family in (4, 6):
            with pytest.raises(ConnectionRefusedError):
                connect(lab.client, lab.se_front_address[family])
        asked = capture.wait_for(Arp, lambda arp: arp.target_ip == lab.se_front_address[4])
        assert asked[0].sender_mac == lab.client_mac
        reply = capture.wait_for(Arp, lambda arp: arp.operation == 2)[0]
        assert (reply.sender_ip, reply.sender_mac) == (lab.se_front_address[4], lab.front_mac)
        solicited = capture.wait_for(Neighbor, lambda packet: packet.type == 136 and packet.solicited)[0]
        assert (solicited.target_ip, solicited.option_mac) == ("fd00:101::1", lab.front_mac)
        assert solicited.hop_limit == 255


def test_unplugging_takes_the_carrier_and_plugging_restores_both_families(lab: Lab, family: int) -> None:
    carrier = ["cat", "/sys/class/net/front/carrier"]
    in_se = ["ip", "netns", "exec", lab.se.name]
    lab.unplug_client()
    assert lab.se.run([*in_se, *carrier], check=False).stdout.strip() == "0"
    with pytest.raises(OSError, match=r".*") as caught:
        connect(lab.client, lab.se_front_address[family], timeout_s=0.2)
    assert caught.value.errno != errno.ECONNREFUSED
    lab.plug_client()
    with pytest.raises(ConnectionRefusedError):
        connect(lab.client, lab.se_front_address[family])


def test_closing_kills_what_runs_in_the_lab_and_removes_it(sandboxed: None, tmp_path: Path) -> None:
    with Lab(pods=1, prefix="gone-") as lab:
        stubborn = lab.pods[0].popen(["sh", "-c", "trap '' TERM INT HUP; sleep 1000 & wait"])
        eventually(lambda: len(lab.processes()) == 2)
    assert stubborn.wait(1) == -9
    assert not [name for name in os.listdir("/run/netns") if name.startswith("gone-")]


def test_a_lab_that_fails_half_way_leaves_nothing(sandboxed: None) -> None:
    with Lab(pods=1, prefix="first-"), pytest.raises(Exception, match="netns"), Lab(pods=1, prefix="first-"):
        pass
    assert not [name for name in os.listdir("/run/netns") if name.startswith("first-")]


def test_orphans_in_the_sandbox_are_reaped(sandboxed: None) -> None:
    """Tests that kill a supervisor look at whether its workers end: a zombie would look alive."""
    with os.popen("sh -c 'sleep 0.05 & echo $!'") as shell:
        orphan = int(shell.read())
    eventually(lambda: not Path(f"/proc/{orphan}").exists())


def test_a_sandbox_can_be_made_inside_a_sandbox(sandboxed: None) -> None:
    assert sandbox.why_unavailable() is None
