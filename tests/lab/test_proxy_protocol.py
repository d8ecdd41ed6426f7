"""The PROXY protocol, toward members and from proxies in front, and the timeouts and probes of either side.

Members read the header with a reader of their own here, which shares nothing with the relay's.
"""

from __future__ import annotations

import contextlib
import ipaddress
import os
import queue
import re
import socket
import struct
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest

from kit_lifecycle import members, peek
from kit_relay import steady_config
from lab_clients import connect, receive_all
from lab_daemon import Daemon
from lab_servers import PodServer, reset
from lab_wait import eventually
from lbd.cli.demo.lab import NOBODYS_MAC, Lab
from lbd.dataplane import counters

Header = tuple[str, str, int, str, int]
"""Family, client and its port, destination and its port; UNKNOWN has nothing behind it."""

SIGNATURE = bytes.fromhex("0d0a0d0a000d0a515549540a")
GREETING_S = 5.0
TEXT, BINARY, ACCEPTS, CHAINS, RANGED, RETRIES, HALF, MEMBER_HALF, LIFETIME, KEPT, LISTED, USER = range(80, 92)
"""The ports of the services, each on the VIP of each family."""


# -- members that read headers ---------------------------------------------------------------------------------------


def exactly(conn: socket.socket, count: int) -> bytes:
    """Read so many bytes, one at a time: nothing behind them."""
    received = b""
    while len(received) < count:
        byte = conn.recv(1)
        if not byte:
            raise ConnectionError("the header has no end")
        received += byte
    return received


def text_header(conn: socket.socket) -> Header:
    line = b""
    while not line.endswith(b"\r\n"):
        line += exactly(conn, 1)
    found = re.fullmatch(r"PROXY (TCP[46]) (\S+) (\S+) (\d+) (\d+)\r\n", line.decode())
    assert found is not None, line
    return found[1], found[2], int(found[4]), found[3], int(found[5])


def binary_header(conn: socket.socket) -> Header:
    head = exactly(conn, 16)
    signature, command, kind, size = struct.unpack("!12sBBH", head)
    assert (signature, command) == (SIGNATURE, 0x21), head
    block = exactly(conn, size)
    length, name = {0x11: (4, "TCP4"), 0x21: (16, "TCP6")}[kind]
    assert size == 2 * length + 4, block
    client, destination = (str(ipaddress.ip_address(block[at : at + length])) for at in (0, length))
    return (name, client, *struct.unpack("!H", block[-4:-2]), destination, *struct.unpack("!H", block[-2:]))


class HeaderServer(PodServer):
    """Reads a header, puts it into `headers`, then sends back what comes and ends after FIN."""

    def __init__(self, *args: Any, **more: Any) -> None:
        super().__init__(*args, handler=self._serve, **more)
        self.headers: queue.Queue[Header] = queue.Queue()

    def next(self) -> Header:
        """Return the next header that came."""
        return self.headers.get(timeout=10.0)

    @staticmethod
    def _serve(conn: socket.socket, server: PodServer) -> None:
        assert isinstance(server, HeaderServer)
        read = text_header if server.port == TEXT else binary_header
        server.headers.put(read(conn))
        while chunk := conn.recv(65536):
            conn.sendall(chunk)


# -- the daemon ------------------------------------------------------------------------------------------------------


def listed(lab: Lab, family: int) -> list[str]:
    return [f"{lab.client_address[family]}/{32 if family == 4 else 128}"]


def services(lab: Lab) -> Iterator[dict[str, Any]]:
    for family in (4, 6):
        trusted = {"accept_proxy_protocol": listed(lab, family)}
        # 1: speaks version 1, 2: version 2; anybody may be a client of theirs.
        for port, behind, member_port, more in (
            (TEXT, lab.pods[:1], TEXT, {"proxy_protocol": "v1"}),
            (BINARY, lab.pods[:1], BINARY, {"proxy_protocol": "v2"}),
            (ACCEPTS, lab.pods[:1], ACCEPTS, trusted),
            (CHAINS, lab.pods[:1], BINARY, {**trusted, "proxy_protocol": "v2"}),
            (RANGED, lab.pods[:1], ACCEPTS, {**trusted, "source_ranges": ["192.0.2.0/24", "2001:db8::/64"]}),
            (RETRIES, lab.pods[1:], BINARY, {"proxy_protocol": "v2", "timeouts": {"connect": "5s"}}),
            (HALF, lab.pods[:1], ACCEPTS, {"timeouts": {"client_half_closed": "1s"}}),
            (MEMBER_HALF, lab.pods[:1], MEMBER_HALF, {"timeouts": {"member_half_closed": "1s"}}),
            (LIFETIME, lab.pods[:1], ACCEPTS, {"timeouts": {"lifetime": "2s", "lifetime_jitter": "50%"}}),
            (KEPT, lab.pods[:1], ACCEPTS, KEEPS),
            (USER, lab.pods[:1], ACCEPTS, {"timeouts": {"client_user": "2s", "member_user": "2s"}}),
            (LISTED, lab.pods[:1], ACCEPTS, {"accept_proxy_protocol": ["203.0.113.0/24", "2001:db8:9::/48"]}),
        ):
            pool = {"members": members(behind, family, member_port)}
            yield {"name": f"s{family}-{port}", "vip": lab.vip[family], "port": port, "pool": pool, **more}


KEEPS: dict[str, Any] = {
    "keepalive": {
        "client": {"idle": "100s", "interval": "7s", "probes": 3},
        "member": {"idle": "200s", "interval": "7s", "probes": 3},
    },
}


@pytest.fixture(scope="module")
def bench(sandboxed: None, worker_id: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Lab, Daemon]]:
    """One lab and one daemon for all tests of this file."""
    prefix = "proxy-" if worker_id == "master" else f"{worker_id}-proxy-"
    with Lab(prefix=prefix) as lab:
        daemon = Daemon(lab, steady_config(*services(lab)), tmp_path_factory.mktemp("proxy")).start()
        try:
            daemon.wait_serving()
            yield lab, daemon
        finally:
            daemon.close()


class Front:
    """The bench for one family, with a server in the first Pod for every way to speak."""

    def __init__(self, lab: Lab, daemon: Daemon, family: int) -> None:
        self.lab, self.daemon, self.family = lab, daemon, family
        self.vip = lab.vip[family]
        self.own = lab.client_address[family]
        self.v1, self.v2 = HeaderServer(lab.pods[0], port=TEXT), HeaderServer(lab.pods[0], port=BINARY)
        self.plain = PodServer(lab.pods[0], echo_all, port=ACCEPTS)

    def connect(self, port: int) -> socket.socket:
        return connect(self.lab.client, self.vip, port)

    def traffic(self, port: int) -> dict[str, Any]:
        traffic: dict[str, Any] = peek(self.daemon).service(f"s{self.family}-{port}")["traffic"]
        return traffic

    def rejected(self, port: int, reason: str = "proxy_header") -> int:
        return int(self.traffic(port)["rejected_total"].get(reason, 0))

    def timed_out(self, port: int, reason: str) -> int:
        return int(self.traffic(port)["timed_out_total"].get(reason, 0))


def echo_all(conn: socket.socket, server: PodServer) -> None:
    """Send back what comes; FIN after FIN."""
    while chunk := conn.recv(65536):
        conn.sendall(chunk)


@pytest.fixture
def front(bench: tuple[Lab, Daemon], family: int) -> Iterator[Front]:
    """Afterwards nothing is held for anybody."""
    front = Front(*bench, family)
    with front.v1, front.v2, front.plain:
        yield front
    eventually(lambda: not any(worker["active_connections"] for worker in peek(front.daemon)["workers"]), 10.0)
    eventually(lambda: held_bytes(front.daemon) == 0, 5.0, "nothing is held for anybody")
    assert not front.daemon.log.matching("worker_fault"), front.daemon.log.tail()


def held_bytes(daemon: Daemon) -> int:
    """Return how many bytes the workers say that they hold for slow peers, from the counters that all of them share."""
    folder = Path(f"/proc/{daemon.pid}/fd")
    shared = next(path for path in folder.iterdir() if "lbd-counters" in str(path.readlink()))
    counter_map = counters.CounterMap.open(os.open(shared, os.O_RDWR))
    try:
        rows = range(1, counter_map.rows)
        return sum(counter_map.row_field(row, counters.PENDING_BYTES) for row in rows)
    finally:
        counter_map.close()


def exchange(conn: socket.socket, question: bytes) -> bytes:
    conn.sendall(question)
    return conn.recv(len(question), socket.MSG_WAITALL)


def is_reset(conn: socket.socket, timeout_s: float = 10.0) -> bool:
    conn.settimeout(timeout_s)
    try:
        return conn.recv(1) != conn.recv(1)
    except ConnectionResetError:
        return True


# -- toward members --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("port", [TEXT, BINARY])
def test_a_member_learns_who_the_client_is_before_the_first_byte(front: Front, port: int) -> None:
    server = front.v1 if port == TEXT else front.v2
    with front.connect(port) as silent:
        expected = (f"TCP{front.family}", front.own, silent.getsockname()[1], front.vip, port)
        assert server.next() == expected  # of a client that says nothing
        assert exchange(silent, b"hello") == b"hello"
        received = front.traffic(port)["received_bytes_total"]
    with front.connect(port) as conn:
        conn.sendall(b"all I have to say")
        conn.shutdown(socket.SHUT_WR)
        assert receive_all(conn) == b"all I have to say"
    assert server.next()[2] != expected[2]
    with front.connect(port) as conn:
        conn.shutdown(socket.SHUT_WR)
        assert receive_all(conn) == b""
    assert server.next()[0] == f"TCP{front.family}"
    assert server.headers.empty()
    eventually(lambda: front.traffic(port)["received_bytes_total"] == received + 17, 5.0, "headers are not counted")


def test_whoever_takes_over_gets_one_header_and_all_that_the_client_said(front: Front) -> None:
    def resets_unread(conn: socket.socket, server: PodServer) -> None:
        reset(conn)

    with (
        PodServer(front.lab.pods[1], resets_unread, port=BINARY) as failing,
        HeaderServer(front.lab.pods[2], port=BINARY) as working,
    ):
        for _ in range(6):
            with front.connect(RETRIES) as conn:  # what the failing Pod got was a header alone: another may take over
                assert working.next()[1:3] == (front.own, conn.getsockname()[1])
                assert exchange(conn, b"hello") == b"hello"
        assert failing.accepted > 0
        failing.stop()  # refuses now
        said = b"once" * 5000
        for _ in range(6):
            with front.connect(RETRIES) as conn:
                conn.sendall(said)
                conn.shutdown(socket.SHUT_WR)
                assert receive_all(conn) == said
                assert working.next()[1:3] == (front.own, conn.getsockname()[1])
        assert working.accepted == 12
        assert working.headers.empty()


def test_nothing_is_held_when_nobody_takes_over(front: Front) -> None:
    for _ in range(4):  # both Pods refuse
        with contextlib.suppress(ConnectionResetError), front.connect(RETRIES) as conn:  # it may come that early
            conn.sendall(b"x" * 1000)
            assert is_reset(conn)


# -- from proxies in front -------------------------------------------------------------------------------------------

CLIENT = {4: ("192.0.2.7", 4711), 6: ("2001:db8::7", 4711)}
TARGET = {4: ("198.51.100.9", 443), 6: ("2001:db8::9", 443)}


def text(family: int) -> bytes:
    (client, port), (target, target_port) = CLIENT[family], TARGET[family]
    return f"PROXY TCP{family} {client} {target} {port} {target_port}\r\n".encode()


def binary(family: int, additions: bytes = b"") -> bytes:
    (client, port), (target, target_port) = CLIENT[family], TARGET[family]
    block = ipaddress.ip_address(client).packed + ipaddress.ip_address(target).packed
    block += struct.pack("!HH", port, target_port) + additions
    return SIGNATURE + struct.pack("!BBH", 0x21, 0x11 if family == 4 else 0x21, len(block)) + block


def test_the_header_of_a_trusted_proxy_is_taken_off_however_it_comes(front: Front) -> None:
    for header in (text(front.family), binary(front.family), binary(front.family, b"\x04\x01\x00" + bytes(256))):
        with front.connect(ACCEPTS) as conn:  # together with what follows
            assert exchange(conn, header + b"hello")[:5] == b"hello"
        with front.connect(ACCEPTS) as conn:  # by itself
            conn.sendall(header)
            time.sleep(0.05)
            assert exchange(conn, b"later") == b"later"
        with front.connect(ACCEPTS) as conn:  # with the end
            conn.sendall(header + b"and that was it")
            conn.shutdown(socket.SHUT_WR)
            assert receive_all(conn) == b"and that was it"
        with front.connect(ACCEPTS) as conn:
            conn.sendall(header)
            conn.shutdown(socket.SHUT_WR)
            assert receive_all(conn) == b""
    with front.connect(ACCEPTS) as conn:  # in single bytes
        conn.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in text(front.family) + b"x":
            conn.sendall(bytes([byte]))
            time.sleep(0.001)
        assert conn.recv(10) == b"x"
    large = bytes(range(256)) * 8000
    with front.connect(ACCEPTS) as conn:
        conn.settimeout(20.0)
        conn.sendall(text(front.family) + large[:1_000_000])
        conn.shutdown(socket.SHUT_WR)
        assert receive_all(conn) == large[:1_000_000]
    assert front.rejected(ACCEPTS) == 0


def test_what_is_no_header_resets_that_connection_alone(front: Front) -> None:
    before = front.rejected(ACCEPTS)
    with front.connect(ACCEPTS) as good, front.connect(ACCEPTS) as slow:
        assert exchange(good, text(front.family) + b"hello")[:5] == b"hello"
        slow_since_s = time.monotonic()
        slow.sendall(text(front.family)[:-1])
        oversized = SIGNATURE + b"\x21\x11\xff\xff" + bytes(8000)
        bad = (b"GET / HTTP/1.1\r\n\r\n", b"\x16", b"PROXY TCP4 x", b"PROXY UNKNOWN " + b"y" * 200, oversized)
        for number, wrong in enumerate(bad, 1):
            with front.connect(ACCEPTS) as conn:
                with contextlib.suppress(OSError):
                    conn.sendall(wrong)
                assert is_reset(conn)
            eventually(lambda wanted=before + number: front.rejected(ACCEPTS) == wanted)
        with front.connect(ACCEPTS) as conn:  # an end in the middle of a header
            conn.sendall(text(front.family)[:20])
            conn.shutdown(socket.SHUT_WR)
            assert is_reset(conn)
        with front.connect(ACCEPTS) as conn:  # an end before it
            conn.shutdown(socket.SHUT_WR)
            assert is_reset(conn)
        eventually(lambda: front.rejected(ACCEPTS) == before + len(bad) + 2)
        assert front.plain.open == 1  # nobody of them got to the member
        assert is_reset(slow, 3 * GREETING_S)
        assert time.monotonic() - slow_since_s >= GREETING_S - 0.2
        eventually(lambda: front.rejected(ACCEPTS) == before + len(bad) + 3)
        assert exchange(good, b"still here") == b"still here"


def test_a_stranger_s_header_is_nothing_but_bytes(front: Front) -> None:
    said = text(front.family) + b"hello"
    with front.connect(LISTED) as conn:
        assert exchange(conn, said) == said


def test_the_first_client_of_a_chain_is_passed_on(front: Front) -> None:
    for header in (text(front.family), binary(front.family)):
        with front.connect(CHAINS) as conn:
            assert exchange(conn, header + b"hello")[:5] == b"hello"
            assert front.v2.next() == (f"TCP{front.family}", *CLIENT[front.family], *TARGET[front.family])
    unknown = (b"PROXY UNKNOWN\r\n", SIGNATURE + b"\x20\x00\x00\x00")
    for header in unknown:
        with front.connect(CHAINS) as conn:
            conn.sendall(header)
            assert front.v2.next()[1:] == (front.own, conn.getsockname()[1], front.vip, CHAINS)
    other = 10 - front.family
    with front.connect(CHAINS) as conn:
        conn.sendall(text(other))
        assert front.v2.next() == (f"TCP{other}", *CLIENT[other], *TARGET[other])


def test_source_ranges_are_about_the_client_in_the_header(front: Front) -> None:
    before = front.rejected(RANGED, "source_ranges")
    with front.connect(RANGED) as conn:
        assert exchange(conn, text(front.family) + b"hello")[:5] == b"hello"
    for outside in (b"PROXY UNKNOWN\r\n", b"PROXY TCP4 203.0.113.1 192.0.2.1 1 2\r\n"):
        with front.connect(RANGED) as conn:
            conn.sendall(outside)
            assert is_reset(conn)
    eventually(lambda: front.rejected(RANGED, "source_ranges") == before + 2)
    assert front.rejected(RANGED) == 0


# -- timeouts and probes ---------------------------------------------------------------------------------------------


def test_silence_after_the_client_s_end_is_bounded_from_that_end_on(front: Front) -> None:
    front.plain.handler = waits_for_reset
    with front.connect(HALF) as conn:
        conn.sendall(b"hello")
        time.sleep(1.5)  # longer than the timeout: silence before the end does not count
        conn.shutdown(socket.SHUT_WR)
        half_closed_s = time.monotonic()
        assert is_reset(conn)
        assert 0.8 <= time.monotonic() - half_closed_s < 6.0
    eventually(lambda: front.timed_out(HALF, "client_half_closed") == 1)


def waits_for_reset(conn: socket.socket, server: PodServer) -> None:
    """Read to the end and say nothing until the other side resets."""
    while conn.recv(65536):
        pass
    deadline_s = time.monotonic() + 20.0
    while time.monotonic() < deadline_s and not conn.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR):
        time.sleep(0.05)


def test_silence_after_the_member_s_end_is_bounded(front: Front) -> None:
    def ends_at_once(conn: socket.socket, server: PodServer) -> None:
        conn.shutdown(socket.SHUT_WR)
        while conn.recv(65536):
            pass

    with PodServer(front.lab.pods[0], ends_at_once, port=MEMBER_HALF), front.connect(MEMBER_HALF) as conn:
        assert conn.recv(1) == b""
        since_s = time.monotonic()
        for _ in range(4):  # movement counts
            time.sleep(0.4)
            conn.sendall(b"x")
        eventually(lambda: front.timed_out(MEMBER_HALF, "member_half_closed") == 1, 10.0)
        assert time.monotonic() - since_s > 2.0


def test_a_lifetime_ends_also_who_is_busy_and_not_all_at_once(front: Front) -> None:
    begun_s = time.monotonic()
    open_ones = [front.connect(LIFETIME) for _ in range(12)]
    ends_s: list[float] = []
    while open_ones and time.monotonic() - begun_s < 20.0:
        for conn in list(open_ones):
            try:
                busy = exchange(conn, b"x") == b"x"
            except OSError:
                busy = False
            if not busy:
                ends_s.append(time.monotonic() - begun_s)
                open_ones.remove(conn)
                conn.close()
        time.sleep(0.02)
    assert len(ends_s) == 12
    assert min(ends_s) > 0.8
    assert max(ends_s) < 10.0
    assert max(ends_s) - min(ends_s) > 0.15
    eventually(lambda: front.timed_out(LIFETIME, "lifetime") == 12)


def keepalive_timers(lab: Lab, words: Sequence[str]) -> list[float]:
    """Return the minutes and seconds of the keep-alive timers that `ss` shows, in seconds."""
    shown = lab.se.run(["ss", "-Htno", "state", "established", *words]).stdout
    return [
        60.0 * int(found[1] or 0) + float(found[2])
        for found in re.finditer(r"timer:\(keepalive,(?:(\d+)min)?([\d.]+)?(?:sec)?,", shown)
    ]


def test_both_sides_are_probed_as_configured(front: Front) -> None:
    client, member = f"[{front.vip}]:{KEPT}", f"[{front.lab.pods[0].address[front.family]}]:{ACCEPTS}"
    with front.connect(KEPT) as conn:
        assert exchange(conn, b"hello") == b"hello"
        toward_client = eventually(lambda: keepalive_timers(front.lab, ["src", client]))
        toward_member = eventually(lambda: keepalive_timers(front.lab, ["dst", member]))
        assert all(40 <= seconds <= 100 for seconds in toward_client), toward_client
        assert all(120 <= seconds <= 200 for seconds in toward_member), toward_member

    # What is taken back is taken back from new connections; sides that nobody configured were never probed.
    without = [{key: value for key, value in each.items() if key != "keepalive"} for each in services(front.lab)]
    assert front.daemon.reload(steady_config(*without)).returncode == 0
    try:
        with front.connect(KEPT) as conn:
            assert exchange(conn, b"hello") == b"hello"
            assert keepalive_timers(front.lab, ["src", client]) == []
            assert keepalive_timers(front.lab, ["dst", member]) == []
    finally:
        assert front.daemon.reload(steady_config(*services(front.lab))).returncode == 0
    with front.connect(KEPT) as conn:
        assert exchange(conn, b"hello") == b"hello"
        assert eventually(lambda: keepalive_timers(front.lab, ["src", client]))


def lost(lab: Lab, address: str, interface: str, verb: str) -> None:
    """Let everything that the SE sends to an address vanish (`replace`), or no more (`del`)."""
    tail = f"lladdr {NOBODYS_MAC} dev {interface} nud permanent" if verb == "replace" else f"dev {interface}"
    lab.se.ip(f"neigh {verb} {address} {tail}")


@pytest.mark.parametrize("side", ["client", "member"])
def test_a_side_that_acknowledges_nothing_is_given_up(front: Front, side: str) -> None:
    pod = front.lab.pods[0].address[front.family]
    address, interface = (front.own, "front") if side == "client" else (pod, "back")
    with front.connect(USER) as conn:
        assert exchange(conn, b"hello") == b"hello"
        lost(front.lab, address, interface, "replace")
        try:
            conn.sendall(b"to a member that hears, for a client that does not; or to one that does not hear")
            eventually(lambda: front.traffic(USER)["active_connections"] == 0, 15.0)
        finally:
            lost(front.lab, address, interface, "del")
