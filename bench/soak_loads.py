"""The mixed load of the soak: programs that run again and again, and clients that behave badly, each in a thread."""

from __future__ import annotations

import contextlib
import socket
import struct
import subprocess
import threading
import time
from collections import Counter, deque
from collections.abc import Callable

from lab_loads import Load
from lab_testbed import Testbed
from soak_daemon import SoakDaemon

SLICE_S = 5
"""How long one run of a generator lasts; the end of the soak waits for it."""
FLAPPING = "flapping member"
"""Its clients may see errors: connections that the member had when it died are reset."""
_SLOW_CLIENTS, _IDLE_CLIENTS, _RESETS_PER_S = 20, 50, 20
_IDLE_CLIENT_LIVES_S = 20.0
_FLAP_S, _RELOAD_S = 15.0, 10.0
_REQUEST = b"GET / HTTP/1.1\r\nHost: soak\r\nConnection: close\r\n\r\n"
_RESET = struct.pack("ii", 1, 0)  # SO_LINGER with no time: closing sends a reset


class MixedLoad:
    """Everything that happens to lbd in the soak. `done`, `errors` and `lost` (queries not answered) count by load;
    `faults` are sentences."""

    def __init__(self, bed: Testbed, daemon: SoakDaemon, loads: list[Load]) -> None:
        """Describe the load; `start` starts it."""
        self.errors: Counter[str] = Counter()
        self.done: Counter[str] = Counter()
        self.lost: Counter[str] = Counter()
        self.faults: list[str] = []
        self._bed = bed
        self._daemon = daemon
        self._address = daemon.lbd.address
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        jobs: list[tuple[str, Callable[[], None]]] = [
            *((load.name, lambda load=load: self._generate(load)) for load in loads),
            ("slow clients", self._slow_clients),
            ("idle clients", self._idle_clients),
            ("resets", self._resets),
            (FLAPPING, self._flap),
            ("reloads", self._reload),
        ]
        self._threads = [threading.Thread(target=self._guard, args=job, name=job[0], daemon=True) for job in jobs]

    def start(self) -> None:
        """Start all threads."""
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        """End all threads; waits for the generators' last runs."""
        self._stopping.set()
        for thread in self._threads:
            thread.join(SLICE_S + 60)
            if thread.is_alive():
                self.faults.append(f"{thread.name} does not end")

    def _guard(self, name: str, job: Callable[[], None]) -> None:
        """Run one job to its end; what stops it early is a fault of the run, not of a silent thread."""
        try:
            job()
        except Exception as error:  # noqa: BLE001 - a thread has nobody else to tell
            self.faults.append(f"{name} stopped: {error!r} {getattr(error, 'stderr', '')}")

    def _count(self, name: str, done: int, errors: int, lost: int = 0) -> None:
        with self._lock:
            self.done[name] += done
            self.errors[name] += errors
            self.lost[name] += lost

    def _generate(self, load: Load) -> None:
        while not self._stopping.is_set():
            try:
                result = load.put(self._bed, self._daemon.lbd, SLICE_S)
                self._count(load.name, result.operations, result.errors, result.lost)
            except (ValueError, subprocess.SubprocessError) as error:
                self._count(load.name, 0, 1)
                self.faults.append(f"{load.name}: {error}")
                self._stopping.wait(1.0)

    def _connect(self) -> socket.socket:
        sock = self._bed.lab.client.socket()
        sock.settimeout(10.0)
        sock.connect(self._address)
        return sock

    def _slow_clients(self) -> None:
        """Send a byte of the request at each turn, then take a byte of the answer at each turn, to its end."""
        clients: deque[tuple[socket.socket, int]] = deque()
        while not self._stopping.wait(0.5 / _SLOW_CLIENTS):
            try:
                sock, position = clients.popleft() if len(clients) >= _SLOW_CLIENTS else (self._connect(), 0)
                if position < len(_REQUEST):
                    sock.sendall(_REQUEST[position : position + 1])
                elif not sock.recv(1 if position < len(_REQUEST) + 20 else 65536):
                    sock.close()
                    self._count("slow clients", 1, 0)
                    continue
                clients.append((sock, position + 1))
            except OSError:
                self._count("slow clients", 0, 1)
        for sock, _ in clients:
            sock.close()

    def _idle_clients(self) -> None:
        """Hold connections on which nothing is ever sent; one that ends by itself is an error."""
        clients: deque[socket.socket] = deque()
        while not self._stopping.wait(_IDLE_CLIENT_LIVES_S / _IDLE_CLIENTS):
            try:
                clients.append(self._connect())
                if len(clients) > _IDLE_CLIENTS:
                    with clients.popleft() as oldest:
                        oldest.setblocking(False)
                        with contextlib.suppress(BlockingIOError):
                            oldest.recv(1)
                            raise ConnectionResetError("an idle connection was closed")
                    self._count("idle clients", 1, 0)
            except OSError:
                self._count("idle clients", 0, 1)
        for sock in clients:
            sock.close()

    def _resets(self) -> None:
        """Ask for much, read little, reset: the balancer holds bytes for a client that is gone."""
        request = b"GET /bulk HTTP/1.1\r\nHost: soak\r\n\r\n"
        while not self._stopping.wait(1 / _RESETS_PER_S):
            try:
                with self._connect() as sock:
                    sock.sendall(request)
                    sock.recv(1000)
                    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _RESET)
                self._count("resets", 1, 0)
            except OSError:
                self._count("resets", 0, 1)

    def _flap(self) -> None:
        """Let a member die and come back."""
        while not self._stopping.wait(_FLAP_S):
            self._daemon.flap()
            self._count("flaps", 1, 0)

    def _reload(self) -> None:
        """Change a weight, and let a service appear or vanish."""
        while not self._stopping.wait(_RELOAD_S):
            try:
                self._daemon.reload()
                self._count("reloads", 1, 0)
            except subprocess.CalledProcessError as error:
                self._count("reloads", 0, 1)
                self.faults.append(f"a reload was refused: {error.stdout}{error.stderr}")


def await_quiet(is_quiet: Callable[[], bool], limit_s: float) -> bool:
    """Return whether it became quiet within the limit."""
    until_s = time.monotonic() + limit_s
    while time.monotonic() < until_s:
        if is_quiet():
            return True
        time.sleep(0.5)
    return False
