"""What the relay, distribution, failure and metrics tests share: a monitor that keeps out of the way, ends of streams
as values, a client network of any size, and one daemon for many claims about the relay."""

from __future__ import annotations

import asyncio
import fcntl
import functools
import socket
import struct
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from kit_lifecycle import members, peek, service
from lab_clients import connect
from lab_daemon import Daemon, StatusView, descriptors, resident_bytes
from lab_servers import CHUNK, Handler, PodServer, pattern_digest
from lab_wait import eventually
from lbd.cli.demo.lab import Lab
from lbd.cli.demo.namespace import Namespace

STEADY: dict[str, dict[str, object]] = {"steady": {"type": "ping", "interval": "1h", "timeout": "1s", "fall": 100}}
"""A monitor that makes every Pod up at start, with a server or without, and then keeps quiet: no connection that a Pod
sees comes from it, and what the relay does about a failing member is the relay's own doing."""

FIN, RESET = "fin", "reset"
"""How a stream ended for the one who read it."""

ONE, THREE, IDLE, HASTY, SMALL = 80, 81, 82, 83, 84
"""The ports of `RelayBench`'s services."""
BULK = {4: "copy", 6: "splice"}
"""How the services of a family pass bulk."""
IDLE_S, HASTY_CONNECT_S, THREE_CONNECT_S = 1.0, 0.5, 1.0

digest_of = functools.cache(pattern_digest)


def steady_config(*services: dict[str, Any], **engine: object) -> dict[str, Any]:
    """Return a configuration in which every service that names no monitor has the steady one."""
    for one in services:
        one["pool"].setdefault("health_monitors", list(STEADY))
    return {"service_engine": engine, "health_monitors": STEADY, "virtual_services": list(services)}


class RelayBench:
    """A lab and a daemon of one form that serve many tests: each brings its own servers, on the Pods' port 80.

    Services on the VIP of each family, by port: ONE has the first Pod, THREE all of them and a connect timeout of
    THREE_CONNECT_S, IDLE the first and an idle timeout of IDLE_S, HASTY the first and a connect timeout of
    HASTY_CONNECT_S, SMALL the second.
    """

    def __init__(self, form: str, prefix: str, directory: Path) -> None:
        self.lab = Lab(prefix=prefix)
        self.lab.__enter__()
        try:
            self.daemon = Daemon(self.lab, self._config(), directory, form).start()
            self.form = str(self.daemon.wait_serving()["form"])
        except BaseException:
            self.lab.close()
            raise

    def _config(self) -> dict[str, Any]:
        pods = self.lab.pods
        services = []
        for family, vip in self.lab.vip.items():
            for port, name, behind, timeouts in (
                (ONE, "one", pods[:1], {"connect": "5s"}),
                (THREE, "three", pods, {"connect": f"{THREE_CONNECT_S * 1000:.0f}ms"}),
                (IDLE, "idle", pods[:1], {"idle": f"{IDLE_S}s".replace(".0", "")}),
                (HASTY, "hasty", pods[:1], {"connect": f"{HASTY_CONNECT_S * 1000:.0f}ms"}),
                (SMALL, "small", pods[1:2], {}),
            ):
                one = service(f"{name}{family}", vip, members(behind, family), port, timeouts=timeouts)
                services.append({**one, "bulk": BULK[family]})
        return steady_config(*services)

    def close(self) -> None:
        """End the daemon and the lab; AssertionError if it did not end well."""
        try:
            self.daemon.close()
        finally:
            self.lab.close()


class Relay:
    """A bench as one test of one family uses it. `settle()` at the end: everything is as it was."""

    def __init__(self, bench: RelayBench, family: int) -> None:
        self.bench = bench
        self.lab = bench.lab
        self.daemon = bench.daemon
        self.form = bench.form
        self.family = family
        self.vip = self.lab.vip[family]
        self.worker_pids = peek(self.daemon).worker_pids
        self._descriptors = {pid: descriptors(pid) for pid in self.worker_pids}
        self._mark = self.daemon.log.mark()

    def connect(self, port: int = ONE, **more: Any) -> socket.socket:
        """Return a client's connection to one of the services."""
        return connect(self.lab.client, self.vip, port, **more)

    def traffic(self, name: str) -> dict[str, Any]:
        """Return the counters of a service, named without its family."""
        traffic: dict[str, Any] = peek(self.daemon).service(f"{name}{self.family}")["traffic"]
        return traffic

    def settle(self) -> None:
        """Assert that no connection is left, neither counted nor as a descriptor, and that no worker came to harm."""
        eventually(self._nothing_active, 8.0, "no active connection is left")
        assert not self.daemon.log.matching("worker_fault", self._mark), self.daemon.log.tail()
        assert peek(self.daemon).worker_pids == self.worker_pids

    def _nothing_active(self) -> bool:
        status = peek(self.daemon)
        active = {each["name"]: each["traffic"]["active_connections"] for each in status["virtual_services"]}
        assert not any(active.values()), active
        assert not any(worker["active_connections"] for worker in status["workers"])
        assert {pid: descriptors(pid) for pid in self.worker_pids} == self._descriptors
        return True


class Growth:
    """By how much the resident memory of each process grew at most while the `with` block ran."""

    def __init__(self, pids: Sequence[int]) -> None:
        self._before = {pid: resident_bytes(pid) for pid in pids}
        self._most = dict(self._before)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True, name="growth")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join()

    def _watch(self) -> None:
        while not self._stopping.wait(0.02):
            self.look()

    def look(self) -> None:
        """Look now."""
        for pid in self._most:
            self._most[pid] = max(self._most[pid], resident_bytes(pid))

    @property
    def bytes(self) -> int:
        """The growth of the process that grew most."""
        return max(self._most[pid] - before for pid, before in self._before.items())


# -- ends of streams ---------------------------------------------------------------------------------------------------


def read_to_the_end(conn: socket.socket) -> tuple[bytes, str]:
    """Return what came, and whether FIN or a reset ended it; TimeoutError if nothing did."""
    received = bytearray()
    try:
        while chunk := conn.recv(CHUNK):
            received += chunk
    except ConnectionResetError:
        return bytes(received), RESET
    return bytes(received), FIN


def how_it_ends(namespace: Namespace, address: str, port: int = 80, say: bytes = b"") -> tuple[bytes, str]:
    """Connect, say something, and return what came and how it ended.

    A reset that follows the handshake at once may show in any of the three.
    """
    try:
        with connect(namespace, address, port) as conn:
            conn.sendall(say)
            return read_to_the_end(conn)
    except (ConnectionResetError, BrokenPipeError):
        return b"", RESET


def notes_ends(ends: list[tuple[bytes, str]]) -> Handler:
    """Return a handler that reads to the end and appends what came and how it ended."""

    def handler(conn: socket.socket, server: PodServer) -> None:
        received, end = read_to_the_end(conn)
        server.count(received=len(received))
        ends.append((received, end))

    return handler


def wait_acknowledged(conn: socket.socket) -> None:
    """Wait until the peer's kernel has taken everything that was sent (SIOCOUTQ is 0)."""

    def nothing_queued() -> bool:
        return struct.unpack("i", fcntl.ioctl(conn, 0x5411, b"\0" * 4)) == (0,)

    eventually(nothing_queued, 10.0, "everything was acknowledged")


def silent_exchange(name_length: int) -> Callable[[socket.socket], Any]:
    """Return an exchange that sends nothing and expects a greeting of `name_length` bytes and a newline."""

    async def exchange(conn: socket.socket) -> str:
        greeting = b""
        while len(greeting) <= name_length:
            chunk = await asyncio.get_running_loop().sock_recv(conn, 100)
            if not chunk:
                raise EOFError(f"the greeting ends after {greeting!r}")
            greeting += chunk
        return greeting.decode().strip()

    return exchange


def greeted_by(conn: socket.socket) -> str:
    """Return the Pod's name that `greet_and_hold` sends."""
    greeting = b""
    while not greeting.endswith(b"\n"):
        chunk = conn.recv(100)
        assert chunk, f"the greeting ends after {greeting!r}"
        greeting += chunk
    return greeting.decode().strip()


# -- clients of a routed network ---------------------------------------------------------------------------------------

CLIENT_NETWORK = {4: "10.200", 6: "fd00:c"}


def route_clients(lab: Lab, family: int, count: int) -> list[str]:
    """Give the client a whole network behind it (every address of it is local there, and the SE has a route to it),
    and return `count` (up to 60,000) of its addresses: no neighbour has to be resolved for each."""
    prefix = CLIENT_NETWORK[family]
    if family == 4:
        network, addresses = f"{prefix}.0.0/16", [f"{prefix}.{n // 250}.{n % 250 + 1}" for n in range(count)]
    else:
        network, addresses = f"{prefix}::/64", [f"{prefix}::{n + 1:x}" for n in range(count)]
    lab.client.set_sysctl("net/ipv6/ip_nonlocal_bind", 1)  # IPv4 binds to any address of a local route, IPv6 does not
    lab.client.ip(f"route add local {network} dev lo")
    lab.se.ip(f"route add {network} via {lab.client_address[family]} dev front")
    return addresses


def says(text: str) -> Handler:
    """Return an HTTP handler as `http`, whose answer is `text`."""
    body = text.encode()

    def handler(conn: socket.socket, server: PodServer) -> None:
        while True:
            request = b""
            while not request.endswith(b"\r\n\r\n"):
                chunk = conn.recv(CHUNK)
                if not chunk:
                    return
                request += chunk
            conn.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))
            if b"connection: close" in request.lower():
                return

    return handler


def served(status: StatusView, name: str) -> dict[str, bool]:
    """Return for each member of a service whether it is eligible."""
    return {member["address"]: member["eligible"] for member in status.service(name)["members"]}


def wait_until(moment_s: float) -> None:
    """Sleep until a monotonic moment: for tests in which time itself is what is claimed."""
    if (left_s := moment_s - time.monotonic()) > 0:
        time.sleep(left_s)
