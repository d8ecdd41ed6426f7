"""What the benches share: the two-arm lab with servers in its Pods, and loads from the client's namespace.

Everything but the balancer under test runs on the last CPU that this process may use, the balancer on the first one.
Without a second CPU they share one: requests per second then say nothing, CPU per request still does.
"""

from __future__ import annotations

import contextlib
import os
import resource
import shutil
import signal
import socket
import string
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Self

from lab_readers import LoadResult, read_wrk

from lbd.cli.demo import sandbox
from lbd.cli.demo.lab import FRONT_PREFIX, PREFIX_LENGTH, Lab, Pod
from lbd.cli.demo.namespace import Namespace

HERE = Path(__file__).resolve().parent
CONFIGS = HERE / "configs"
PACKAGES = {
    "wrk": "wrk",
    "nginx": "nginx-light",
    "haproxy": "haproxy",
    "h2load": "nghttp2-client",
    "iperf3": "iperf3",
    "dnsperf": "dnsperf",
    "nsd": "nsd",
}
BULK_BYTES = 64 << 20
START_LIMIT_S = 15.0
HTTP, DNS, DNS_ONE, BULK, BULK_UDP = 80, 53, 54, 5201, 5202
"""The ports of the services that every balancer has; behind `DNS_ONE` a flow ends with its first response."""
HTTP_BEHIND_HEADER = 81
"""Where the Pods want a PROXY protocol header first."""
CONGESTION_CONTROLS = ("cubic", "reno")
"""Linux's default, or, where a namespace of one's own may not choose it, what needs no permission. Without a loss, and
the lab has none, they do the same. A machine's own choice may be BBR, which paces each flow by a timer: with it every
balancer moves less than half as much, and most of its CPU is the timers'."""
_FIRST_EXTRA_ADDRESS = 20
ALL_CPUS = set(os.sched_getaffinity(0))
BALANCER_CPU, OTHER_CPU = {min(ALL_CPUS)}, {max(ALL_CPUS)}


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


def pin(pids: Iterable[int], cpus: set[int]) -> None:
    """Let every thread of these processes run on these CPUs only."""
    for pid in pids:
        for task in os.listdir(f"/proc/{pid}/task"):
            with contextlib.suppress(ProcessLookupError):  # a thread that has just ended
                os.sched_setaffinity(int(task), cpus)


def render(template: str, target: Path, **values: object) -> Path:
    """Write one of the configurations in configs/ with its values filled in, and return the file."""
    target.write_text(string.Template((CONFIGS / template).read_text()).substitute(values))
    return target


class Testbed:
    """The lab with nginx in three Pods, as a context manager. `directory` is in memory and vanishes with it.

    With `datagrams`, NSD answers in each Pod too, and the first one takes bulk over UDP. `congestion_control` is that
    of all sockets in the lab: the one asked for, or the first of CONGESTION_CONTROLS that the kernel permits.
    """

    __test__ = False

    def __init__(self, *, datagrams: bool = False, congestion_control: str = "") -> None:
        self.lab = Lab(pods=3)
        self.directory = Path()
        self.congestion_control = congestion_control
        self.processes: list[subprocess.Popen[bytes]] = []
        self._datagrams = datagrams
        self._stack = ExitStack()
        self._extra_addresses = _FIRST_EXTRA_ADDRESS

    def __enter__(self) -> Self:
        pin([os.getpid()], OTHER_CPU)
        resource.setrlimit(resource.RLIMIT_NOFILE, (resource.getrlimit(resource.RLIMIT_NOFILE)[1],) * 2)
        try:
            self.directory = Path(self._stack.enter_context(tempfile.TemporaryDirectory(dir="/run")))
            self.directory.chmod(0o755)
            self._stack.enter_context(self.lab)
            self._choose_congestion_control()
            self._start_servers()
        except BaseException:
            self._stop()
            raise
        return self

    def _choose_congestion_control(self) -> None:
        choices = [self.congestion_control] if self.congestion_control else list(CONGESTION_CONTROLS)
        for name in choices:
            try:
                for namespace in (self.lab.client, self.lab.se, *self.lab.pods):
                    namespace.set_sysctl("net/ipv4/tcp_congestion_control", name)
            except OSError as error:
                if name == choices[-1]:
                    raise RuntimeError(f"the kernel does not permit the congestion control {name}: {error}") from error
            else:
                self.congestion_control = name
                return

    def _start_servers(self) -> None:
        with (self.directory / "bulk").open("wb") as bulk:
            bulk.truncate(BULK_BYTES)
        for pod in self.lab.pods:
            self.start_nginx(pod)
        for pod, process in zip(self.lab.pods, self.processes, strict=True):
            self.await_answer(self.lab.se, (pod.address[4], HTTP), process)
        if self._datagrams:
            shutil.copy(CONFIGS / "bench.zone", self.directory / "bench.zone")
            for pod in self.lab.pods:
                values = {"directory": self.directory, "name": pod.name, "address": pod.address[4]}
                config = render("nsd.conf", self.directory / f"{pod.name}-nsd.conf", **values)
                nsd = pod.popen([find_tool("nsd") or "nsd", "-d", "-c", str(config)])
                self.processes.append(nsd)
                self.await_name(self.lab.se, (pod.address[4], DNS), nsd)
            sink = [sys.executable, str(HERE / "udp_bulk.py"), "sink", str(BULK_UDP)]
            self.processes.append(self.lab.pods[0].popen(sink))

    def start_nginx(self, pod: Pod) -> subprocess.Popen[bytes]:
        """Start nginx in a Pod and return it; nobody waits for its first answer here."""
        config = render("nginx-pod.conf", self.directory / f"{pod.name}.conf", directory=self.directory, name=pod.name)
        argv = [find_tool("nginx") or "nginx", "-c", str(config), "-p", str(self.directory)]
        process = pod.popen(argv)
        self.processes.append(process)
        return process

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stop()

    def _stop(self) -> None:
        for process in self.processes:
            process.kill()
            process.wait()
        self._stack.close()

    def front_address(self) -> str:
        """Add one more address to the SE's front interface and return it."""
        address = f"{FRONT_PREFIX[4]}{self._extra_addresses}"
        self._extra_addresses += 1
        self.lab.se.ip(f"address add {address}/{PREFIX_LENGTH[4]} dev front")
        return address

    @contextlib.contextmanager
    def spread_over_all_cpus(self) -> Iterator[None]:
        """Let Pods, clients and this process use every CPU, as balancers with several workers need them."""
        everything = [os.getpid(), *(process.pid for process in self.processes if process.poll() is None)]
        pin(everything, ALL_CPUS)
        try:
            yield
        finally:
            pin([pid for pid in everything if Path(f"/proc/{pid}").exists()], OTHER_CPU)

    def await_answer(self, origin: Namespace, address: tuple[str, int], process: subprocess.Popen[bytes]) -> None:
        """Return when `process` answers an HTTP request to `address` from a namespace.

        Raises:
            RuntimeError: it ended, or did not answer within START_LIMIT_S.
        """
        request = b"GET / HTTP/1.1\r\nHost: bench\r\nConnection: close\r\n\r\n"
        self._await(origin, socket.SOCK_STREAM, address, request, process)

    def await_name(self, origin: Namespace, address: tuple[str, int], process: subprocess.Popen[bytes]) -> None:
        """Return when `process` answers a DNS query to `address` from a namespace.

        Raises:
            RuntimeError: it ended, or did not answer within START_LIMIT_S.
        """
        query = bytes.fromhex("0001010000010000000000000377777705") + b"bench" + bytes.fromhex("0000010001")
        self._await(origin, socket.SOCK_DGRAM, address, query, process)

    def _await(
        self,
        origin: Namespace,
        kind: int,
        address: tuple[str, int],
        request: bytes,
        process: subprocess.Popen[bytes],
    ) -> None:
        until_s = time.monotonic() + START_LIMIT_S
        problem: object = "nothing was tried"
        while time.monotonic() < until_s and process.poll() is None:
            with origin.socket(kind=kind) as sock:
                sock.settimeout(1.0 if kind == socket.SOCK_STREAM else 0.2)
                try:
                    sock.connect(address)
                    sock.sendall(request)
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

    @contextlib.contextmanager
    def iperf3_server(self) -> Iterator[None]:
        """Run an iperf3 server in the first Pod for one test: a client that was cut off can't keep it busy."""
        pod = self.lab.pods[0]
        server = pod.popen(["iperf3", "-s", "-1", "-p", str(BULK)], stdout=subprocess.DEVNULL)
        try:
            until_s = time.monotonic() + START_LIMIT_S
            while not pod.call(_listens, BULK):  # a connection to find out would be taken for the test
                if time.monotonic() > until_s or server.poll() is not None:
                    raise RuntimeError(f"iperf3 does not listen in {pod.name}")
                time.sleep(0.01)
            yield
        finally:
            server.send_signal(signal.SIGKILL)
            server.wait()

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


def _listens(port: int) -> bool:
    """Return whether a TCP socket listens on `port` in the calling thread's namespace (proc(5), /proc/net/tcp)."""
    for table in ("tcp", "tcp6"):
        for line in Path(f"/proc/thread-self/net/{table}").read_text().splitlines()[1:]:
            local, _, state = line.split()[1:4]
            if state == "0A" and local.endswith(f":{port:04X}"):
                return True
    return False
