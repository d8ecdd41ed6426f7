"""The balancers that the benches compare: how each is started in the SE's namespace, and what it costs."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path

from lab_testbed import BALANCER_CPU, DNS, HTTP, HTTP_BEHIND_HEADER, Testbed, find_tool, pin, render

_BIN = Path(sys.executable).parent
_STOP_LIMIT_S = 10.0


class Balancer:
    """A running balancer. `cpu_s` and `memory_bytes` are of the processes that `pids` names.

    `family` says whose it is, whatever its configuration: `lbd`, `haproxy` or `nginx`. `address` is its HTTP service;
    the others have the same address and the ports that lab_testbed names.
    """

    family = ""

    def __init__(
        self, name: str, bed: Testbed, address: tuple[str, int], argv: list[str], cpus: set[int], **environment: str
    ) -> None:
        self.name = name
        self.bed = bed
        self.address = address
        self.log = bed.directory / f"{name.replace(' ', '-')}.log"
        with self.log.open("wb") as log:
            # Each in a session of its own: the kernel's autogroups share a busy CPU among sessions.
            self.process = bed.lab.se.call(
                subprocess.Popen,
                argv,
                env={**os.environ, **environment},
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        bed.processes.append(self.process)
        try:
            bed.await_answer(bed.lab.client, address, self.process)
        except RuntimeError as error:
            raise RuntimeError(f"{name}: {error}; it said:\n{self.log.read_text()[-2000:]}") from error
        pin(self.all_pids(), cpus)

    def at(self, port: int) -> tuple[str, int]:
        """Return the address of its service on `port`."""
        return self.address[0], port

    def pids(self) -> list[int]:
        """Return the processes that touch clients' bytes."""
        return [self.process.pid]

    def all_pids(self) -> list[int]:
        """Return all its processes."""
        return self.pids()

    def cpu_s(self, pids: list[int] | None = None) -> float:
        """Return the CPU seconds, user and system, that it has used (/proc/PID/task/*/schedstat, in nanoseconds)."""
        total_ns = 0
        for pid in self.pids() if pids is None else pids:
            for task in os.listdir(f"/proc/{pid}/task"):
                total_ns += int(Path(f"/proc/{pid}/task/{task}/schedstat").read_text().split()[0])
        return total_ns / 1e9

    def user_s(self) -> float:
        """Return the user part of it (/proc/PID/stat, in clock ticks)."""
        ticks = 0
        for pid in self.pids():
            ticks += int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11])
        return ticks / os.sysconf("SC_CLK_TCK")

    def memory_bytes(self) -> int:
        """Return the memory that belongs to it alone (USS: private pages, clean and dirty)."""
        total = 0
        for pid in self.pids():
            for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
                if line.startswith(("Private_Clean:", "Private_Dirty:")):
                    total += int(line.split()[1]) * 1024
        return total

    def stop(self) -> None:
        """End it as an operator would; kills it when it does not end in time."""
        self.process.terminate()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(_STOP_LIMIT_S)
        self.process.kill()
        self.process.wait()

    def version(self) -> str:
        """Return what it says it is."""
        return ""


_CLIENT_LIMITS = ", max_connections_per_client: 10000, connection_rate_per_client: 1000000/s"


class Lbd(Balancer):
    """The real `lbd run`; its cost is the workers', the supervisor's is told apart.

    `client_limits` off leaves the limits per client out: they steer a client to one worker, and all loads of the bench
    come from one client. `port` is that of the service that is awaited,
    `values` are those that its `template` has beyond lbd.yaml.
    """

    family = "lbd"

    def __init__(
        self,
        bed: Testbed,
        form: str = "auto",
        *,
        name: str = "lbd",
        workers: int = 1,
        cpus: set[int] = BALANCER_CPU,
        client_limits: bool = True,
        template: str = "lbd.yaml",
        port: int = HTTP,
        values: Mapping[str, object] | None = None,
    ) -> None:
        vip = bed.lab.vip[4]
        self._admin = bed.directory / "admin.sock"
        self._template, self.config = template, bed.directory / "lbd.yaml"
        self._values: dict[str, object] = {
            "vip": vip,
            "workers": workers,
            "admin": self._admin,
            "metrics": 9407,
            "http": _members(bed, HTTP),
            "headed": _members(bed, HTTP_BEHIND_HEADER),
            "dns": _members(bed, DNS),
            "bulk": bed.lab.pods[0].address[4],
            "client_limits": _CLIENT_LIMITS if client_limits else "",
            **(values or {}),
        }
        render(template, self.config, **self._values)
        self._workers: list[int] = []
        state = tempfile.mkdtemp(dir=bed.directory)
        argv = [str(_BIN / "lbd"), "run", "-c", str(self.config)]
        super().__init__(name, bed, (vip, port), argv, cpus, LBD_FORM=form, STATE_DIRECTORY=state)

    def command(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """Run one of lbd's commands that talk to the daemon."""
        argv = [str(_BIN / "lbd"), *arguments, "--socket", str(self._admin)]
        return subprocess.run(argv, check=True, capture_output=True, text=True)

    def status(self) -> dict[str, object]:
        """Return what `lbd status --json` says."""
        answer: dict[str, object] = json.loads(self.command("status", "--json").stdout)
        return answer

    def reload(self, **values: object) -> None:
        """Write the configuration anew with other values and let the daemon read it.

        Raises:
            subprocess.CalledProcessError: it refused it; with the reasons in `stdout` and `stderr`.
        """
        self._values.update(values)
        render(self._template, self.config, **self._values)
        self.command("reload")

    def pids(self) -> list[int]:
        """Return the workers' processes, as they were first."""
        if not self._workers:
            workers = self.status()["workers"]
            assert isinstance(workers, list)
            self._workers = [int(worker["pid"]) for worker in workers]
        return self._workers

    def all_pids(self) -> list[int]:
        """Return the workers and the supervisor."""
        return [*self.pids(), self.process.pid]

    def version(self) -> str:
        """Return its version and the form of its relay."""
        status = self.status()
        return f"lbd {status['version']}, {status['form']}"


def _members(bed: Testbed, port: int) -> str:
    """Return a pool's members in YAML, each with a limit of its own."""
    return ", ".join(f"{{address: {pod.address[4]}, port: {port}, max_connections: 50000}}" for pod in bed.lab.pods)


class HAProxy(Balancer):
    """Debian's HAProxy, configured by configs/haproxy-default.cfg or haproxy-tuned.cfg (with or without splicing)."""

    family = "haproxy"

    def __init__(
        self,
        bed: Testbed,
        *,
        tuned: bool = True,
        splice: bool = False,
        threads: int = 1,
        cpus: set[int] = BALANCER_CPU,
    ) -> None:
        name = f"haproxy {('splice' if splice else 'tuned') if tuned else 'default'}"
        address = (bed.front_address(), HTTP)
        config = render(
            f"haproxy-{'tuned' if tuned else 'default'}.cfg",
            bed.directory / f"{name.replace(' ', '-')}-{threads}.cfg",
            vip=address[0],
            threads=threads,
            bulk=bed.lab.pods[0].address[4],
            servers="\n".join(f"    server {pod.name} {pod.address[4]}:80 check" for pod in bed.lab.pods),
            # Pipes take descriptors, which maxconn leaves few of; bulk needs two for each connection.
            pipes="    maxpipes 64" if splice else "",
            splice="    option splice-request\n    option splice-response" if splice else "",
        )
        super().__init__(name, bed, address, [find_tool("haproxy") or "haproxy", "-db", "-f", str(config)], cpus)

    def version(self) -> str:
        """Return its version."""
        return _first_line([find_tool("haproxy") or "haproxy", "-v"])


class Nginx(Balancer):
    """Debian's nginx with its stream module, configured by configs/nginx-default.conf or nginx-tuned.conf."""

    family = "nginx"
    MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")

    def __init__(self, bed: Testbed, *, tuned: bool = True, workers: int = 1, cpus: set[int] = BALANCER_CPU) -> None:
        name = f"nginx {'tuned' if tuned else 'default'}"
        address = (bed.front_address(), HTTP)
        file = f"nginx-{'tuned' if tuned else 'default'}"
        self._count = workers
        config = render(
            f"{file}.conf",
            bed.directory / f"{file}-{workers}.conf",
            vip=address[0],
            workers=workers,
            modules=f"load_module {self.MODULE};",
            http="\n".join(f"        server {pod.address[4]}:80;" for pod in bed.lab.pods),
            dns="\n".join(f"        server {pod.address[4]}:53;" for pod in bed.lab.pods),
            bulk=bed.lab.pods[0].address[4],
            directory=bed.directory,
            name=f"{file}-{workers}",
        )
        argv = [find_tool("nginx") or "nginx", "-c", str(config), "-p", str(bed.directory)]
        super().__init__(name, bed, address, argv, cpus)

    def pids(self) -> list[int]:
        """Return the workers: the children of its master, which touches no byte.

        Raises:
            RuntimeError: they have not all started in time.
        """
        children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children")
        until_s = time.monotonic() + _STOP_LIMIT_S
        while len(found := [int(pid) for pid in children.read_text().split()]) < self._count:
            if time.monotonic() > until_s:
                raise RuntimeError(f"nginx has {len(found)} of {self._count} workers: {self.log.read_text()[-2000:]}")
            time.sleep(0.01)
        return found

    def version(self) -> str:
        """Return its version."""
        return _first_line([find_tool("nginx") or "nginx", "-v"])


class Baseline(Balancer):
    """Any relay script that is called `SCRIPT LISTEN_IP PORT MEMBER:PORT…`, as it is or compiled by mypyc."""

    family = "baseline"

    def __init__(self, bed: Testbed, script: Path, *, compiled: bool) -> None:
        address = (bed.front_address(), HTTP)
        where = [address[0], str(address[1]), *(f"{pod.address[4]}:80" for pod in bed.lab.pods)]
        argv = [sys.executable, str(script), *where]
        folder = bed.directory
        if compiled:
            folder = compile_script(script)
            run = f"import sys, {script.stem} as relay; relay.main_sync(sys.argv)"
            argv = [sys.executable, "-c", run, *where]
        super().__init__("baseline", bed, address, argv, BALANCER_CPU, PYTHONPATH=str(folder))
        self._version = f"{script.name}, {'compiled' if compiled else 'interpreted'}"

    def version(self) -> str:
        """Return which script it is."""
        return self._version


def compile_script(script: Path) -> Path:
    """Compile a module with mypyc in a folder of its own and return the folder with the result.

    Raises:
        RuntimeError: mypyc or the C compiler failed; with what they said.
    """
    folder = Path(tempfile.mkdtemp(dir="/run"))
    (folder / "source").mkdir()
    (folder / "source" / script.name).write_bytes(script.read_bytes())
    argv = [sys.executable, "-m", "mypyc", script.name]
    environment = {**os.environ, "MYPYC_OPT_LEVEL": "3", "MYPY_CACHE_DIR": str(folder / "cache")}
    done = subprocess.run(argv, cwd=folder / "source", env=environment, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"mypyc failed on {script}:\n{done.stdout[-2000:]}{done.stderr[-2000:]}")
    for shared_object in (folder / "source").glob("*.so"):
        shared_object.rename(folder / shared_object.name)
    return folder


def _first_line(argv: list[str]) -> str:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    return (done.stdout or done.stderr).partition("\n")[0]
