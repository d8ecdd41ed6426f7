"""The installed `lbd run` as a process of its own in the SE's namespace, watched only as a user could watch it."""

from __future__ import annotations

import contextlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import IO, Any

import yaml
from prometheus_client.parser import text_string_to_metric_families

import lab_zygote
from lab_wait import eventually
from lbd.cli.admin_client import AdminClient, AdminError
from lbd.cli.demo.lab import Lab

LBD = Path(sys.executable).parent / "lbd"
READY_TIMEOUT_S = 20.0
DEFAULT_ADMIN_SOCKET = "/run/lbd/admin.sock"
METRICS_LISTEN = "127.0.0.1:9407"

Config = Mapping[str, Any] | str
DaemonFactory = Callable[..., "Daemon"]
"""The `daemon` fixture: `daemon(config, form="auto", workers=2, start=True, prefix=(), in_lab=None, **environment)`."""


class LogRecords:
    """The daemon's log as it is written: JSON records in `records`, every other line in `other`."""

    def __init__(self) -> None:
        self.records: list[dict[str, Any]] = []
        self.other: list[str] = []
        self._changed = threading.Condition()

    def follow(self, stream: IO[bytes]) -> None:
        """Read `stream` to its end (in a thread of the daemon's)."""
        for line in stream:
            text = line.decode(errors="replace").rstrip("\n")
            with self._changed:
                try:
                    record = json.loads(text)
                    self.records.append(record if isinstance(record, dict) else {"event": record})
                except ValueError:
                    self.other.append(text)
                self._changed.notify_all()

    def mark(self) -> int:
        """Return the position of now, for `since`."""
        return len(self.records)

    def matching(self, event: str, since: int = 0, **fields: object) -> list[dict[str, Any]]:
        """Return the records of `event` whose fields have these values."""
        wanted = {"event": event, **fields}
        return [
            record
            for record in self.records[since:]
            if all(name in record and record[name] == value for name, value in wanted.items())
        ]

    def wait_for(self, event: str, timeout_s: float = 5.0, since: int = 0, **fields: object) -> dict[str, Any]:
        """Return the first matching record, which may be there already.

        Raises:
            AssertionError: none came within `timeout_s`; shows the log's end.
        """
        with self._changed:
            found = self._changed.wait_for(lambda: self.matching(event, since, **fields), timeout_s)
        assert found, f"no log record {event} {fields} within {timeout_s} s; the log ends:\n{self.tail()}"
        return found[0]

    def tail(self, count: int = 30) -> str:
        """Return the last lines, for a failure's message."""
        return "\n".join([*(json.dumps(record) for record in self.records[-count:]), *self.other[-count:]])

    @property
    def tracebacks(self) -> list[str]:
        """Everything in the log that shows a Python traceback."""
        begun = "Traceback (most recent call last)"
        plain = ["\n".join(self.other)] if any(begun in line for line in self.other) else []
        return plain + [json.dumps(record, indent=1) for record in self.records if begun in json.dumps(record)]


class Metrics:
    """One scrape: samples by name and labels."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.families = {family.name: family for family in text_string_to_metric_families(text)}
        self.samples = [sample for family in self.families.values() for sample in family.samples]

    def matching(self, name: str, **labels: str) -> dict[tuple[tuple[str, str], ...], float]:
        """Return the values of a metric's samples that have these labels (and any others)."""
        return {
            tuple(sorted(sample.labels.items())): sample.value
            for sample in self.samples
            if sample.name == name and all(sample.labels.get(key) == value for key, value in labels.items())
        }

    def value(self, name: str, **labels: str) -> float:
        """Return the value of the one sample that has these labels.

        Raises:
            LookupError: there is none, or more than one.
        """
        found = self.matching(name, **labels)
        if len(found) != 1:
            raise LookupError(f"{name} {labels}: {len(found)} samples {list(found)[:5]}")
        return next(iter(found.values()))

    def total(self, name: str, **labels: str) -> float:
        """Return the sum over all samples that have these labels; 0 if there is none."""
        return sum(self.matching(name, **labels).values())


class StatusView:
    """What `lbd status --json` said: `raw` is the whole of it."""

    def __init__(self, raw: dict[str, Any]) -> None:
        self.raw = raw

    def __getitem__(self, key: str) -> Any:
        return self.raw[key]

    def service(self, name: str) -> dict[str, Any]:
        """Return a virtual service by its name; LookupError if there is none."""
        return _only(item for item in self.raw["virtual_services"] if item["name"] == name)

    def member(self, service: str, address: str, port: int | None = None) -> dict[str, Any]:
        """Return a member by its address; LookupError if there is none."""
        members = self.service(service)["members"]
        return _only(item for item in members if item["address"] == address and port in (None, item["port"]))

    def vip(self, address: str) -> dict[str, Any]:
        """Return a VIP by its address; LookupError if there is none."""
        return _only(item for item in self.raw["vips"] if item["address"] == address)

    @property
    def worker_pids(self) -> list[int]:
        """The numbers of the living workers' processes."""
        return [worker["pid"] for worker in self.raw["workers"] if worker["state"] != "dead"]

    @property
    def serving(self) -> bool:
        """Whether every VIP is owned, every virtual service serves, and every worker runs what is desired."""
        return (
            all(vip["state"] == "owned" for vip in self.raw["vips"])
            and all(service["state"] == "serving" for service in self.raw["virtual_services"])
            and self.raw["applied_generation"] == self.raw["generation"]
        )


def _only(found: Iterator[dict[str, Any]]) -> dict[str, Any]:
    items = list(found)
    if len(items) != 1:
        raise LookupError(f"{len(items)} found: {items}")
    return items[0]


class Daemon:
    """One `lbd run`. `start()` returns when it has said READY; `close()` ends it and fails on what it did wrong."""

    def __init__(
        self,
        lab: Lab,
        config: Config,
        directory: Path,
        form: str = "auto",
        workers: int = 2,
        prefix: Sequence[str] = (),
        **environment: str,
    ) -> None:
        """`prefix` goes before `lbd run` on the command line, to start it with less than the test has."""
        self.lab = lab
        self.workers = workers
        self._prefix = prefix
        self.directory = directory
        self.config_path = directory / "lbd.yaml"
        self.log = LogRecords()
        self.output = LogRecords()
        self.notifications: list[dict[str, str]] = []
        self.process: subprocess.Popen[bytes] | lab_zygote.ForkedProcess | None = None
        self._environment = {**os.environ, "LBD_FORM": form, "STATE_DIRECTORY": str(directory / "state"), **environment}
        self._notified = threading.Condition()
        self._threads: list[threading.Thread] = []
        self.write_config(config)

    def write_config(self, config: Config) -> str:
        """Write the configuration file (a dictionary gets what the lab's daemons share) and return its text."""
        text = config if isinstance(config, str) else yaml.safe_dump(self._complete(config), sort_keys=False)
        self.config_path.write_text(text)
        return text

    def _complete(self, config: Mapping[str, Any]) -> dict[str, Any]:
        engine = {"name": "se-lab", "workers": self.workers, "frontend_interface": "front", "drain_timeout": "2s"}
        return {
            **config,
            "service_engine": {**engine, **config.get("service_engine", {})},
            "metrics": config.get("metrics", {"listen": METRICS_LISTEN}),
            "admin": config.get("admin", {"socket": str(self.directory / "admin.sock")}),
        }

    def _setting(self, section: str, key: str, default: str) -> str:
        try:
            loaded = yaml.safe_load(self.config_path.read_text())
            return str(loaded[section][key])
        except (yaml.YAMLError, KeyError, TypeError):  # a test may have written a bad file
            return default

    # -- life ------------------------------------------------------------------------------------------------------

    @property
    def pid(self) -> int:
        """The supervisor's process number."""
        assert self.process is not None, "not started"
        return self.process.pid

    def start(self, *, wait_ready: bool = True, timeout_s: float = READY_TIMEOUT_S) -> Daemon:
        """Start it (again), and wait for READY=1 on its notify socket.

        Raises:
            AssertionError: it ended, or said nothing within `timeout_s`; shows its log.
        """
        self._admin_socket = self._setting("admin", "socket", DEFAULT_ADMIN_SOCKET)
        self._metrics_listen = self._setting("metrics", "listen", METRICS_LISTEN)
        (self.directory / "state").mkdir(exist_ok=True)
        notify_path = self.directory / "notify.sock"
        notify_path.unlink(missing_ok=True)
        self.notifications.clear()
        notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        notify.bind(str(notify_path))
        notify_path.chmod(0o666)  # as systemd's: a daemon that runs as another user may write to it
        arguments = ["run", "-c", str(self.config_path)]
        environment = {**self._environment, "NOTIFY_SOCKET": str(notify_path)}
        if self._prefix:
            self.process = self.lab.se.popen(
                [*self._prefix, str(LBD), *arguments],
                environment=environment,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
        else:
            self.process = lab_zygote.popen(arguments, str(self.lab.se.path), environment)
        assert self.process.stdout is not None
        assert self.process.stderr is not None
        self._thread(self.log.follow, self.process.stderr)
        self._thread(self.output.follow, self.process.stdout)
        self._thread(self._follow_notifications, notify, self.process.pid)
        if wait_ready:
            self.wait_notification("READY", timeout_s)
        return self

    def _thread(self, target: Any, *args: object) -> None:
        thread = threading.Thread(target=target, args=args, daemon=True, name=f"daemon-{target.__name__}")
        thread.start()
        self._threads.append(thread)

    def _follow_notifications(self, notify: socket.socket, pid: int) -> None:
        ended = os.pidfd_open(pid)
        poller = select.poll()
        poller.register(notify, select.POLLIN)
        poller.register(ended, select.POLLIN)
        with notify:
            while True:
                ready = {number for number, _ in poller.poll()}
                if notify.fileno() in ready:
                    message = notify.recv(65536).decode()
                    state = dict(line.split("=", 1) for line in message.splitlines() if "=" in line)
                else:
                    state = {"ENDED": "1"}
                with self._notified:
                    self.notifications.append(state)
                    self._notified.notify_all()
                if "ENDED" in state:
                    os.close(ended)
                    return

    def wait_notification(self, key: str, timeout_s: float = 5.0, since: int = 0) -> dict[str, str]:
        """Return the first sd_notify message with `key` (READY, RELOADING, STOPPING, WATCHDOG, …; ENDED is ours).

        Raises:
            AssertionError: none came before the daemon ended or `timeout_s` passed.
        """

        def found() -> dict[str, str] | None:
            return next((state for state in self.notifications[since:] if key in state or "ENDED" in state), None)

        with self._notified:
            state = self._notified.wait_for(found, timeout_s)
        assert state is not None, f"no {key} within {timeout_s} s; the log ends:\n{self.log.tail()}"
        if key not in state:
            code = self.wait()
            raise AssertionError(f"lbd run ended with {code} before {key}:\n{self.log.tail()}\n{self.output.tail()}")
        return state

    @property
    def running(self) -> bool:
        """Whether the supervisor's process lives."""
        return self.process is not None and self.process.poll() is None

    def signal(self, number: int) -> None:
        """Send a signal to the supervisor."""
        os.kill(self.pid, number)

    def terminate(self) -> None:
        """Send SIGTERM and return at once."""
        self.signal(signal.SIGTERM)

    def kill(self) -> None:
        """Kill the supervisor alone, as `kill -9` does, and collect it; its workers notice by themselves."""
        self.signal(signal.SIGKILL)
        self.wait()

    def wait(self, timeout_s: float = 10.0) -> int:
        """Wait till the supervisor has ended, with its log read to the end if no worker holds it; return its status.

        Raises:
            subprocess.TimeoutExpired: it lives on after `timeout_s`.
        """
        assert self.process is not None, "not started"
        code = self.process.wait(timeout_s)
        for thread in self._threads:
            thread.join(0.5)
        return code

    def close(self) -> None:
        """End it and assert that it ended when told, and that no traceback was logged in all its life."""
        if self.running:
            self.terminate()
            try:
                self.wait(3.0)
            except subprocess.TimeoutExpired:
                with contextlib.suppress(ProcessLookupError):  # it may have ended this moment
                    self.terminate()  # the second one ends it at once
                try:
                    self.wait(5.0)
                except subprocess.TimeoutExpired:
                    self.kill()
                    raise AssertionError(f"lbd run outlived two SIGTERMs; the log ends:\n{self.log.tail()}") from None
        tracebacks = self.log.tracebacks + self.output.tracebacks
        assert not tracebacks, "the daemon wrote tracebacks:\n" + "\n".join(tracebacks)

    # -- watching --------------------------------------------------------------------------------------------------

    def cli(self, *arguments: str, timeout_s: float = 15.0) -> subprocess.CompletedProcess[str]:
        """Run an `lbd` command in the SE's namespace and return it with its output, whatever its exit status."""
        return lab_zygote.run(arguments, str(self.lab.se.path), timeout_s)

    def status(self) -> StatusView:
        """Return what `lbd status --json` prints, asked of the admin socket directly.

        Raises:
            AssertionError: the daemon does not answer.
        """
        try:
            return StatusView(json.loads(AdminClient(self._admin_socket).status_body()))
        except AdminError as error:
            raise AssertionError(f"{error}\n{self.log.tail()}") from error

    def wait_serving(self, timeout_s: float = 10.0) -> StatusView:
        """Wait until every VIP is owned and every service serves what is desired; return the status that said so."""

        def serving() -> StatusView:
            status = self.status()
            assert status.serving, {key: status[key] for key in ("vips", "virtual_services", "problems")}
            return status

        return eventually(serving, timeout_s, "serving")

    def metrics(self) -> Metrics:
        """Return a scrape of the metrics, over HTTP in the SE's namespace."""
        host, _, port = self._metrics_listen.rpartition(":")
        host = host.strip("[]")
        with self.lab.se.socket(socket.AF_INET6 if ":" in host else socket.AF_INET) as conn:
            conn.settimeout(5.0)
            conn.connect((host, int(port)))
            conn.sendall(b"GET /metrics HTTP/1.1\r\nHost: lbd\r\nConnection: close\r\n\r\n")
            answer = b"".join(iter(lambda: conn.recv(65536), b""))
        head, _, body = answer.partition(b"\r\n\r\n")
        assert head.split()[1] == b"200", head
        assert b"chunked" not in head.lower(), "the scrape is chunked; this client reads whole answers"
        return Metrics(body.decode())

    def reload(self, config: Config | None = None) -> subprocess.CompletedProcess[str]:
        """Write a new configuration (None: leave the file) and run `lbd reload`; return it, whatever it said."""
        if config is not None:
            self.write_config(config)
        return self.cli("reload", "--socket", self._admin_socket)

    @property
    def worker_pids(self) -> list[int]:
        """The numbers of the living workers' processes, from `lbd status`."""
        return self.status().worker_pids


def descriptors(pid: int) -> int:
    """Return how many file descriptors a process has open."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def resident_bytes(pid: int) -> int:
    """Return how much memory of a process is resident (VmRSS)."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise LookupError(f"process {pid} has no VmRSS: it has ended")


def alive(pid: int) -> bool:
    """Return whether a process lives (a zombie does not)."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_dead(pid: int, timeout_s: float = 5.0) -> float:
    """Wait till a process has ended; return how many seconds that took."""
    begun_s = time.monotonic()
    eventually(lambda: not alive(pid), timeout_s, f"process {pid} ended")
    return time.monotonic() - begun_s


def descendants(pid: int) -> list[int]:
    """Return the processes below `pid`, whichever of a parent's threads started them."""
    children = [
        int(child) for task in Path(f"/proc/{pid}/task").iterdir() for child in (task / "children").read_text().split()
    ]
    return children + [below for child in children for below in descendants(child)]
