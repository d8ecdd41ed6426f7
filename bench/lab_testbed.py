"""What the benches share: the two-arm lab with nginx in its Pods, and loads from the client's namespace.

Everything but the balancer under test runs on the last CPU that this process may use, the balancer on the first one.
Without a second CPU they share one: requests per second then say nothing, CPU per request still does.
"""

from __future__ import annotations

import os
import re
import resource
import shutil
import socket
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

from lbd.cli.demo import sandbox
from lbd.cli.demo.lab import Lab
from lbd.cli.demo.namespace import Namespace

CONFIGS = Path(__file__).resolve().parent / "configs"
PACKAGES = {"wrk": "wrk", "nginx": "nginx-light", "haproxy": "haproxy"}
BULK_BYTES = 64 << 20
START_LIMIT_S = 15.0
_CPUS = sorted(os.sched_getaffinity(0))
BALANCER_CPU, OTHER_CPU = {_CPUS[0]}, {_CPUS[-1]}


def find_tool(name: str) -> str | None:
    """Return the path of a program, also where only root's PATH leads."""
    return shutil.which(name, path=os.environ.get("PATH", "") + ":/usr/sbin:/sbin")


def missing_tools(names: Sequence[str]) -> str:
    """Return a sentence that names the Debian packages of the programs that are not installed, or an empty string."""
    packages = [PACKAGES[name] for name in names if find_tool(name) is None]
    return f"this bench needs more programs: on Debian, apt-get install {' '.join(packages)}" if packages else ""


def enter_sandbox(tools: Sequence[str]) -> int | None:
    """Run this very program in a sandbox and return its exit status; None inside of it, to do the work."""
    if sandbox.inside():
        return None
    if sentence := missing_tools(tools):
        print(sentence, file=sys.stderr)
        return 1
    try:
        return sandbox.run([sys.executable, *sys.argv])
    except sandbox.SandboxError as error:
        print(error, file=sys.stderr)
        return 1


@dataclass(frozen=True, slots=True)
class LoadResult:
    """What one run of wrk got: `errors` counts failed connects, reads, writes, timeouts and answers other than 2xx."""

    requests: int
    duration_s: float
    received_bytes: int
    errors: int
    p99_ms: float

    @property
    def per_second(self) -> float:
        """Requests per second."""
        return self.requests / self.duration_s


_UNITS = {"": 1, "K": 1 << 10, "M": 1 << 20, "G": 1 << 30}
_MILLISECONDS = {"us": 0.001, "ms": 1.0, "s": 1000.0, "m": 60000.0}


def read_wrk(output: str) -> LoadResult:
    """Read wrk's report.

    Raises:
        ValueError: it is no report.
    """
    total = re.search(r"(\d+) requests in ([\d.]+)(ms|s|m), ([\d.]+)([KMG]?)B read", output)
    p99 = re.search(r"99%\s+([\d.]+)(us|ms|s|m)\b", output)
    if total is None or p99 is None:
        raise ValueError(f"wrk said: {output}")
    socket_errors = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", output)
    wrong = re.search(r"Non-2xx or 3xx responses: (\d+)", output)
    return LoadResult(
        requests=int(total[1]),
        duration_s=float(total[2]) * _MILLISECONDS[total[3]] / 1000,
        received_bytes=int(float(total[4]) * _UNITS[total[5]]),
        errors=sum(map(int, socket_errors.groups() if socket_errors else ())) + int(wrong[1] if wrong else 0),
        p99_ms=float(p99[1]) * _MILLISECONDS[p99[2]],
    )


class Testbed:
    """The lab with nginx in three Pods, as a context manager. `directory` is in memory and vanishes with it."""

    def __init__(self) -> None:
        self.lab = Lab(pods=3)
        self.directory = Path()
        self.processes: list[subprocess.Popen[bytes]] = []
        self._stack = ExitStack()

    def __enter__(self) -> Self:
        os.sched_setaffinity(0, OTHER_CPU)
        resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
        self.directory = Path(self._stack.enter_context(tempfile.TemporaryDirectory(dir="/run")))
        self.directory.chmod(0o755)
        self._stack.enter_context(self.lab)
        with (self.directory / "bulk").open("wb") as bulk:
            bulk.truncate(BULK_BYTES)
        for pod in self.lab.pods:
            config = self.directory / f"{pod.name}.conf"
            template = string.Template((CONFIGS / "nginx-pod.conf").read_text())
            config.write_text(template.substitute(directory=self.directory, name=pod.name))
            self.processes.append(
                pod.popen([find_tool("nginx") or "nginx", "-c", str(config), "-p", str(self.directory)])
            )
        for pod, process in zip(self.lab.pods, self.processes, strict=True):
            self.await_answer(self.lab.se, (pod.address[4], 80), process)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
        self._stack.close()

    def await_answer(self, origin: Namespace, address: tuple[str, int], process: subprocess.Popen[bytes]) -> None:
        """Return when `process` answers an HTTP request to `address` from a namespace.

        Raises:
            RuntimeError: it ended, or did not answer within START_LIMIT_S.
        """
        until_s = time.monotonic() + START_LIMIT_S
        problem: object = "nothing was tried"
        while time.monotonic() < until_s and process.poll() is None:
            with origin.socket() as sock:
                sock.settimeout(1.0)
                try:
                    sock.connect(address)
                    sock.sendall(b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n")
                    problem = sock.recv(64)
                    if problem:
                        return
                except OSError as failure:
                    problem = failure
            time.sleep(0.02)
        raise RuntimeError(f"{address} does not answer: {problem!r}")

    def load(
        self, address: tuple[str, int], duration_s: int, connections: int, path: str = "/", *, close: bool = False
    ) -> LoadResult:
        """Ask for `path` over `connections` connections for some time, with `close` over a new connection each time."""
        argv = ["wrk", "-t1", f"-c{connections}", f"-d{duration_s}s", "--timeout", "10s", "--latency"]
        argv += ["-H", "Connection: close"] if close else []
        done = self.lab.client.run([*argv, f"http://{address[0]}:{address[1]}{path}"], timeout_s=duration_s + 30)
        return read_wrk(done.stdout)

    def open_idle(self, address: tuple[str, int], count: int) -> list[socket.socket]:
        """Open `count` connections, let each get one answer, and return them."""
        opened = self.lab.client.call(_connect_all, address, count)
        request = b"GET / HTTP/1.1\r\nHost: bench\r\n\r\n"
        for sock in opened:
            sock.sendall(request)
            if not sock.recv(4096):
                raise RuntimeError(f"{address} closed one of {count} idle connections")
        return opened


def _connect_all(address: tuple[str, int], count: int) -> list[socket.socket]:
    return [socket.create_connection(address, timeout=10) for _ in range(count)]
