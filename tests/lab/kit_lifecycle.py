"""What the lifecycle, reload and scale tests share: configurations, held connections, and a look at addresses."""

from __future__ import annotations

import contextlib
import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from lab_clients import connect
from lab_daemon import Daemon, StatusView
from lab_servers import receive_digest
from lbd.cli.admin_client import AdminClient
from lbd.cli.demo.lab import Lab, Pod
from lbd.cli.demo.namespace import Namespace

MONITORS = {"quick": {"type": "tcp", "interval": "300ms", "timeout": "300ms", "rise": 1, "fall": 1}}
"""A monitor that sees a change within a fraction of a second, for the tests that wait for one."""


def members(pods: Iterable[Pod], family: int, port: int = 80, **more: object) -> list[dict[str, Any]]:
    """Return the members that stand for Pods, as the configuration wants them."""
    return [{"address": pod.address[family], "port": port, **more} for pod in pods]


def service(name: str, vip: str, pool_members: Sequence[dict[str, Any]], port: int = 80, **more: Any) -> dict[str, Any]:
    """Return a virtual service; `more` are further keys of its pool, but some of them are its own."""
    own = {key: more.pop(key) for key in ("admin_state", "limits", "timeouts") if key in more}
    return {"name": name, "vip": vip, "port": port, **own, "pool": {"members": list(pool_members), **more}}


def config(*services: dict[str, Any], **engine: object) -> dict[str, Any]:
    """Return a configuration with these services and settings of the service engine, and the quick monitor."""
    return {"service_engine": engine, "health_monitors": MONITORS, "virtual_services": list(services)}


def peek(daemon: Daemon) -> StatusView:
    """Return what `lbd status --json` prints, asked of the admin socket directly: 5 ms instead of a new process."""
    return StatusView(json.loads(AdminClient(str(daemon.directory / "admin.sock")).status_body()))


def workers(daemon: Daemon) -> dict[int, dict[str, Any]]:
    """Return the workers' status by their index."""
    return {worker["index"]: worker for worker in peek(daemon)["workers"]}


def addresses(lab: Lab, interface: str = "front") -> dict[str, dict[str, Any]]:
    """Return the addresses of an interface of the SE: what `ip` says about each, but the times that run."""
    shown = json.loads(lab.se.run(["ip", "-json", "address", "show", "dev", interface]).stdout)
    return {
        entry["local"]: {key: value for key, value in entry.items() if not key.endswith("_life_time")}
        for link in shown
        for entry in link.get("addr_info", [])
    }


def is_refused(namespace: Namespace, address: str, port: int = 80) -> bool:
    """Tell whether a new connection is refused; one that is accepted is closed, one that hangs is neither."""
    try:
        connect(namespace, address, port, timeout_s=0.3).close()
    except ConnectionRefusedError:
        return True
    except TimeoutError:
        return False
    return False


class Held:
    """A connection to an echo server that is held open and can be asked whether it still works."""

    def __init__(self, namespace: Namespace, address: str, port: int = 80) -> None:
        self.conn = connect(namespace, address, port)

    def works(self) -> bool:
        """Send something and return whether something came back; False when the connection has ended or is silent."""
        question = b"are you there?"
        try:
            self.conn.sendall(question)
            return self.conn.recv(len(question), socket.MSG_WAITALL) == question
        except OSError:
            return False

    def how_it_ends(self, timeout_s: float = 10.0) -> str:
        """Wait for the end: `fin`, `reset`, or `nothing` within `timeout_s`."""
        self.conn.settimeout(timeout_s)
        try:
            while self.conn.recv(65536):
                pass
        except ConnectionResetError:
            return "reset"
        except TimeoutError:
            return "nothing"
        return "fin"

    def close(self) -> None:
        """Close it."""
        self.conn.close()


def hold_working(namespace: Namespace, address: str, count: int, port: int = 80) -> list[Held]:
    """Return `count` held connections, each tried once."""
    held = [Held(namespace, address, port) for _ in range(count)]
    assert all(one.works() for one in held)
    return held


class Download(threading.Thread):
    """A transfer from the service to a client that reads slowly at first; `result` is its size and SHA-256.

    With `half_close` the client sends FIN before it reads, so that the service has nothing more to wait for from it.
    """

    def __init__(
        self, namespace: Namespace, address: str, *, lasts_s: float, half_close: bool = False, slow_for: int = 40
    ) -> None:
        super().__init__(daemon=True, name="download")
        self.conn = connect(namespace, address, timeout_s=20.0)
        self.result: tuple[int, str] | None = None
        self.error: OSError | None = None
        self.ended_s = 0.0
        self._pace = (lasts_s / slow_for, slow_for)
        if half_close:
            self.conn.shutdown(socket.SHUT_WR)
        self.start()

    def run(self) -> None:
        pause_s, pauses = self._pace
        try:
            self.result = receive_digest(self.conn, pause_s=pause_s, pauses=pauses)
        except OSError as error:
            self.error = error
        self.ended_s = time.monotonic()
        self.conn.close()


class Sampler:
    """Calls `sample` all the time in a thread while its `with` block runs; `samples` are (monotonic time, value).

    `sample` may raise OSError or AssertionError: there is nothing to see then.
    """

    def __init__(self, sample: Callable[[], Any], interval_s: float = 0.05) -> None:
        self.samples: list[tuple[float, Any]] = []
        self._sample = sample
        self._interval_s = interval_s
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="sampler")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stopping.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._stopping.wait(self._interval_s):
            with contextlib.suppress(OSError, AssertionError, LookupError):
                self.samples.append((time.monotonic(), self._sample()))


def process_field(pid: int, field: str) -> str:
    """Return one line's value of /proc/PID/status."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        name, _, value = line.partition(":")
        if name == field:
            return value.strip()
    raise LookupError(field)


def waited_for_cpu_s(pid: int) -> float:
    """Return how long the main thread of a process was ready to run and had no CPU: load of others."""
    return int(Path(f"/proc/{pid}/schedstat").read_text().split()[1]) / 1e9


def slowness() -> float:
    """Return how many times as long as on the reference machine a fixed piece of Python takes here now, at least 1.

    What a claim about CPU seconds allows is stretched by it: other tests that run beside slow a processor down, too.
    """
    begun_s = time.thread_time()
    sum(number * number % 7 for number in range(1_000_000))
    return max(1.0, (time.thread_time() - begun_s) / REFERENCE_LOOP_S)


REFERENCE_LOOP_S = 0.06
"""CPython 3.11 on the machine for which the limits were set (AMD EPYC, 2 cores), with nothing beside it."""


def used_cpu_s(pid: int) -> float:
    """Return how much CPU time a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
