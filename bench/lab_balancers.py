"""The balancers that the benches compare: how each is started in the SE's namespace, and what it costs."""

from __future__ import annotations

import json
import os
import string
import subprocess
import sys
import tempfile
from pathlib import Path

from lab_testbed import BALANCER_CPU, CONFIGS, Testbed, find_tool

_BIN = Path(sys.executable).parent


class Balancer:
    """A running balancer. `cpu_s` and `memory_bytes` are of the processes that `pids` names."""

    def __init__(self, name: str, bed: Testbed, address: tuple[str, int], argv: list[str], **environment: str) -> None:
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
        for pid in self.all_pids():
            for task in os.listdir(f"/proc/{pid}/task"):
                os.sched_setaffinity(int(task), BALANCER_CPU)

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

    def version(self) -> str:
        """Return what it says it is."""
        return ""


class Lbd(Balancer):
    """The real `lbd run` with one worker; its cost is the worker's, the supervisor's is told apart."""

    def __init__(self, bed: Testbed, form: str = "auto") -> None:
        vip = bed.lab.vip[4]
        self._admin = bed.directory / "admin.sock"
        config = bed.directory / "lbd.yaml"
        members = "".join(f"\n        - {{address: {pod.address[4]}, port: 80}}" for pod in bed.lab.pods)
        template = string.Template((CONFIGS / "lbd.yaml").read_text())
        config.write_text(template.substitute(vip=vip, port=80, members=members, admin=self._admin))
        self._supervisor_only: list[int] = []
        state = tempfile.mkdtemp(dir=bed.directory)
        argv = [str(_BIN / "lbd"), "run", "-c", str(config)]
        super().__init__("lbd", bed, (vip, 80), argv, LBD_FORM=form, STATE_DIRECTORY=state)

    def status(self) -> dict[str, object]:
        """Return what `lbd status --json` says."""
        argv = [str(_BIN / "lbd"), "status", "--json", "--socket", str(self._admin)]
        answer: dict[str, object] = json.loads(subprocess.run(argv, check=True, capture_output=True).stdout)
        return answer

    def pids(self) -> list[int]:
        """Return the worker's process."""
        if not self._supervisor_only:
            self._supervisor_only = [self.process.pid]
            workers = self.status()["workers"]
            assert isinstance(workers, list)
            self._workers = [int(worker["pid"]) for worker in workers]
        return self._workers

    def all_pids(self) -> list[int]:
        """Return the worker and the supervisor."""
        return [*self.pids(), self.process.pid]

    def version(self) -> str:
        """Return its version and the form of its relay."""
        status = self.status()
        return f"lbd {status['version']}, {status['form']}"


class HAProxy(Balancer):
    """Debian's HAProxy with one thread, configured by configs/haproxy.cfg."""

    def __init__(self, bed: Testbed) -> None:
        address = (bed.lab.se_front_address[4], 8081)
        servers = "".join(f"    server {pod.name} {pod.address[4]}:80 check\n" for pod in bed.lab.pods)
        config = bed.directory / "haproxy.cfg"
        template = string.Template((CONFIGS / "haproxy.cfg").read_text())
        config.write_text(template.substitute(vip=address[0], port=address[1], servers=servers))
        super().__init__("haproxy", bed, address, [find_tool("haproxy") or "haproxy", "-db", "-f", str(config)])

    def version(self) -> str:
        """Return its version."""
        return _first_line([find_tool("haproxy") or "haproxy", "-v"])


class Nginx(Balancer):
    """Debian's nginx with its stream module and one worker, configured by configs/nginx-stream.conf."""

    MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")

    def __init__(self, bed: Testbed) -> None:
        address = (bed.lab.se_front_address[4], 8082)
        servers = "".join(f"        server {pod.address[4]}:80;\n" for pod in bed.lab.pods)
        config = bed.directory / "nginx-stream.conf"
        template = string.Template((CONFIGS / "nginx-stream.conf").read_text())
        modules = f"load_module {self.MODULE};"
        values = {"vip": address[0], "port": address[1], "servers": servers, "directory": bed.directory}
        config.write_text(template.substitute(modules=modules, **values))
        argv = [find_tool("nginx") or "nginx", "-c", str(config), "-p", str(bed.directory)]
        super().__init__("nginx", bed, address, argv)

    def version(self) -> str:
        """Return its version."""
        return _first_line([find_tool("nginx") or "nginx", "-v"])


class Baseline(Balancer):
    """Any relay script that is called `SCRIPT LISTEN_IP PORT MEMBER:PORT…`, as it is or compiled by mypyc."""

    def __init__(self, bed: Testbed, script: Path, *, compiled: bool) -> None:
        address = (bed.lab.se_front_address[4], 8083)
        where = [address[0], str(address[1]), *(f"{pod.address[4]}:80" for pod in bed.lab.pods)]
        argv = [sys.executable, str(script), *where]
        folder = bed.directory
        if compiled:
            folder = compile_script(script)
            run = f"import sys, {script.stem} as relay; relay.main_sync(sys.argv)"
            argv = [sys.executable, "-c", run, *where]
        super().__init__("baseline", bed, address, argv, PYTHONPATH=str(folder))
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
