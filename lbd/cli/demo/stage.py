"""What the demo stands on: the lab, a Pod's process in each Pod's namespace, and the real daemon in the SE's."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from lbd.cli.admin_client import DEFAULT_SOCKET, AdminClient, AdminError
from lbd.cli.demo.lab import Lab, Pod
from lbd.model.status import MemberStatus, Status

DIRECTORY: Final = Path("/run/lbd-demo")
CONFIG_PATH: Final = DIRECTORY / "lbd.yaml"
LOG_PATH: Final = DIRECTORY / "lbd.log"
VIP: Final = "172.16.101.150"
PORT: Final = 80
SERVICE: Final = "web"
METRICS: Final = "127.0.0.1:9407"
_START_TIMEOUT_S: Final = 15.0
_STOP_TIMEOUT_S: Final = 4.0
_POLL_S: Final = 0.02

CONFIG: Final = f"""\
service_engine:
  name: demo-se
  workers: 2
  frontend_interface: front
  drain_timeout: 2s
metrics: {{listen: {METRICS}}}
admin: {{socket: {DEFAULT_SOCKET}}}

health_monitors:
  web-http: {{type: http, path: /, interval: 1s, timeout: 500ms, rise: 2, fall: 2}}

virtual_services:
  - name: {SERVICE}
    vip: {VIP}
    port: {PORT}
    protocol: tcp
    timeouts: {{connect: 1s}}
    pool:
      algorithm: round_robin
      health_monitors: [web-http]
      members:
"""


class StageError(Exception):
    """The demo can't go on; the message says what happened and shows what the daemon said."""


class Stage:
    """Everything that runs in the demo, as a context manager: serving on entry, gone on exit."""

    def __init__(self) -> None:
        self.lab = Lab(pods=3)
        self._processes: dict[Pod, subprocess.Popen[bytes]] = {}
        self._daemon: subprocess.Popen[bytes] | None = None
        self._admin = AdminClient(DEFAULT_SOCKET)
        self._exits = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as exits:
            exits.enter_context(self.lab)
            DIRECTORY.mkdir(exist_ok=True)
            members = "".join(f"        - {{address: {pod.address[4]}, port: {PORT}}}\n" for pod in self.lab.pods)
            CONFIG_PATH.write_text(CONFIG + members)
            for pod in self.lab.pods:
                self.start_pod(pod)
            self._start_daemon()
            exits.callback(self._stop_daemon)
            self._exits = exits.pop_all()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._exits.close()

    # -- Pods ------------------------------------------------------------------------------------------------------

    def start_pod(self, pod: Pod) -> int:
        """Start the Pod's server, wait till it accepts, and return its process number.

        Raises:
            StageError: it does not accept.
        """
        argv = [sys.executable, "-m", "lbd.cli.demo.pod", pod.name, str(PORT), pod.address[4], pod.address[6]]
        process = self._processes[pod] = pod.popen(argv)
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        while True:
            with self.lab.se.socket() as probe:
                probe.settimeout(1.0)
                if probe.connect_ex((pod.address[4], PORT)) == 0:
                    return process.pid
            if process.poll() is not None or time.monotonic() > deadline_s:
                raise StageError(f"the server in {pod.name} did not start")
            time.sleep(_POLL_S)

    def kill_pod(self, pod: Pod) -> tuple[float, float]:
        """Kill the Pod's server with SIGKILL; return the monotonic times between which it died."""
        process = self._processes[pod]
        struck_s = time.monotonic()
        process.kill()
        process.wait()
        return struck_s, time.monotonic()

    def pod_pid(self, pod: Pod) -> int:
        """Return the number of the Pod's process, which may be dead."""
        return self._processes[pod].pid

    def pod_alive(self, pod: Pod) -> bool:
        """Return whether the Pod's server lives."""
        return self._processes[pod].poll() is None

    # -- the daemon ------------------------------------------------------------------------------------------------

    def status(self) -> Status | None:
        """Return what `lbd status` would show, or None while the daemon can't be asked."""
        try:
            return self._admin.status()
        except AdminError:
            return None

    def check_daemon(self) -> None:
        """Raise StageError if the daemon has ended."""
        if self._daemon is not None and (code := self._daemon.poll()) is not None:
            raise StageError(f"`lbd run` ended with status {code}; the end of its log:\n{log_tail()}")

    def _start_daemon(self) -> None:
        """Start `lbd run` and wait till it says READY, and till the VIP answers.

        Raises:
            StageError: it ended, or did neither in time.
        """
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        notify_path = DIRECTORY / "notify.sock"
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify, LOG_PATH.open("ab") as log:
            notify.bind(str(notify_path))
            self._daemon = self.lab.se.popen(
                [sys.executable, "-m", "lbd", "run", "-c", str(CONFIG_PATH)],
                environment=daemon_environment(os.environ, notify_path),
                stdout=log,
                stderr=log,
            )
            while not _says_ready(notify, deadline_s - time.monotonic()):
                self.check_daemon()
                if time.monotonic() > deadline_s:
                    raise StageError(f"`lbd run` did not become ready in {_START_TIMEOUT_S:.0f} s:\n{log_tail()}")
        while True:
            with self.lab.client.socket() as probe:
                probe.settimeout(1.0)
                if probe.connect_ex((VIP, PORT)) == 0:
                    return
            self.check_daemon()
            if time.monotonic() > deadline_s:
                raise StageError(f"{VIP} did not answer in {_START_TIMEOUT_S:.0f} s; the log:\n{log_tail()}")
            time.sleep(_POLL_S)

    def _stop_daemon(self) -> None:
        if self._daemon is None or self._daemon.poll() is not None:
            return
        for _ in range(2):  # the second SIGTERM cuts the drain short
            self._daemon.send_signal(signal.SIGTERM)
            try:
                self._daemon.wait(_STOP_TIMEOUT_S)
                return
            except subprocess.TimeoutExpired:
                continue
        self._daemon.kill()
        self._daemon.wait()


def _says_ready(notify: socket.socket, timeout_s: float) -> bool:
    """Wait for one sd_notify message, at most a tenth of a second at a time, and return whether it says READY=1."""
    readable, _, _ = select.select([notify], [], [], max(0.0, min(timeout_s, 0.1)))
    return bool(readable) and b"READY=1" in notify.recv(4096).split(b"\n")


def daemon_environment(environment: Mapping[str, str], notify_path: Path) -> dict[str, str]:
    """Return the environment that the daemon gets: ours, with systemd's variables for what it would provide."""
    kept = {key: value for key, value in environment.items() if key not in ("WATCHDOG_USEC", "WATCHDOG_PID")}
    return {**kept, "NOTIFY_SOCKET": str(notify_path), "STATE_DIRECTORY": str(DIRECTORY)}


def member_of(status: Status | None, pod: Pod) -> MemberStatus | None:
    """Return the Pod's entry in the status of the demo's virtual service, or None if there is none."""
    if status is None:
        return None
    for service in status.virtual_services:
        for member in service.members:
            if service.name == SERVICE and member.address == pod.address[4]:
                return member
    return None


def log_tail(lines: int = 20) -> str:
    """Return the end of the daemon's log."""
    return "\n".join(LOG_PATH.read_text(errors="replace").splitlines()[-lines:])
