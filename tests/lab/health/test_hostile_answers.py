"""Members that answer a health check in order to hurt the load balancer."""

from __future__ import annotations

import socket
import time

from kit_lifecycle import members, peek, service
from lab_clients import OK, fetch_many
from lab_daemon import DaemonFactory, resident_bytes
from lab_servers import PodServer, http
from lab_wait import eventually
from lbd.cli.demo.lab import Lab

CHECKED_PORT = 8080
HEAD = b"HTTP/1.1 200 OK\r\n"
MONITOR = {
    "type": "http",
    "port": CHECKED_PORT,
    "expect_text": "all is well",
    "interval": "1s",
    "timeout": "1s",
    "rise": 1,
    "fall": 2,
}


def flood(conn: socket.socket, server: PodServer, first: bytes, repeated: bytes) -> None:
    """Send as fast as the other side takes it, and count what it took."""
    conn.recv(4096)
    conn.sendall(first)
    while True:
        server.count(sent=conn.send(repeated))


def endless_headers(conn: socket.socket, server: PodServer) -> None:
    flood(conn, server, HEAD, b"A: b\r\n" * 10_000)


def huge_body(conn: socket.socket, server: PodServer) -> None:
    flood(conn, server, HEAD + b"Content-Length: 99999999999\r\n\r\n", b"x" * 60_000)


def one_byte_a_second(conn: socket.socket, server: PodServer) -> None:
    conn.recv(4096)
    for byte in HEAD + b"Content-Length: 11\r\n\r\nall is well":
        conn.sendall(bytes([byte]))
        server.count(sent=1)
        time.sleep(1.0)


def test_endless_headers_one_byte_a_second_and_a_huge_body_are_bounded_and_each_marks_its_member_down(
    lab: Lab, daemon: DaemonFactory
) -> None:
    """All three at once: time by the timeout, size by limits and buffers; clients of a sound service notice nothing."""
    hostile = {
        "endless headers": (endless_headers, "hostile: answer_too_long (header over 16384 bytes)"),
        "one byte a second": (one_byte_a_second, "hostile: answer_timeout"),
        "huge body": (huge_body, "hostile: unexpected_answer (text not found, not in the first 65536 bytes)"),
    }
    services = [
        service("hostile", lab.vip[4], members(lab.pods, 4), port=81, health_monitors=["hostile"]),
        service("web", lab.vip[4], members(lab.pods, 4), health_monitors=["system-tcp"]),
    ]
    servers = [PodServer(pod, talk, CHECKED_PORT) for pod, (talk, _) in zip(lab.pods, hostile.values(), strict=True)]
    web = [PodServer(pod, http) for pod in lab.pods]
    for server in [*servers, *web]:
        server.start()
    try:
        lbd = daemon({"health_monitors": {"hostile": MONITOR}, "virtual_services": services})

        def all_down() -> bool:
            seen = [peek(lbd).member("hostile", pod.address[4]) for pod in lab.pods]
            assert [(member["health"], member["health_reason"]) for member in seen] == [
                ("down", reason) for _, reason in hostile.values()
            ]
            return True

        eventually(all_down, 10.0)
        memory_bytes = resident_bytes(lbd.pid)
        checked = [server.accepted for server in servers]
        load = fetch_many(lab.client, lab.vip[4], count=50, concurrency=5)
        assert load.kinds == {OK: 50}, load.failures[:3]
        eventually(
            lambda: all(server.accepted >= before + 3 for server, before in zip(servers, checked, strict=True)), 15.0
        )
        assert resident_bytes(lbd.pid) < memory_bytes + 8_000_000
        for server in servers:
            # What was read is at most 80 KiB a check: the rest lies in the two kernels' buffers when the check ends.
            assert server.sent_bytes / server.accepted < 16_000_000
        assert all_down()
    finally:
        for server in [*servers, *web]:
            server.stop()
