"""What the demo stands on: the lab, a Pod's process in each Pod's namespace, and the real daemon in the SE's."""

from __future__ import annotations

import subprocess
import sys
import time
from contextlib import ExitStack
from types import TracebackType
from typing import Final, Self

from lbd.cli.admin_client import DEFAULT_SOCKET
from lbd.cli.demo.demo_daemon import METRICS, START_TIMEOUT_S, DemoDaemon, StageError, log_tail
from lbd.cli.demo.lab import Lab, Pod
from lbd.model.status import MemberStatus, Status

VIP: Final = "172.16.101.150"
PORT: Final = 80
SERVICE: Final = "web"
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


class Stage:
    """Everything that runs in the demo, as a context manager: serving on entry, gone on exit."""

    def __init__(self) -> None:
        self.lab = Lab(pods=3)
        self._processes: dict[Pod, subprocess.Popen[bytes]] = {}
        self._daemon = DemoDaemon(self.lab.se)
        self._exits = ExitStack()

    def __enter__(self) -> Self:
        with ExitStack() as exits:
            exits.enter_context(self.lab)
            members = "".join(f"        - {{address: {pod.address[4]}, port: {PORT}}}\n" for pod in self.lab.pods)
            for pod in self.lab.pods:
                self.start_pod(pod)
            exits.callback(self._daemon.stop)
            self._daemon.start(CONFIG + members)
            self._wait_for_the_vip()
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
        process = self._processes[pod] = start_pod_server(self.lab, pod, pod.name)
        return process.pid

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
        return self._daemon.status()

    def check_daemon(self) -> None:
        """Raise StageError if the daemon has ended."""
        self._daemon.check()

    def _wait_for_the_vip(self) -> None:
        """Wait till the VIP answers.

        Raises:
            StageError: the daemon ended, or the VIP does not answer in time.
        """
        deadline_s = time.monotonic() + START_TIMEOUT_S
        while True:
            with self.lab.client.socket() as probe:
                probe.settimeout(1.0)
                if probe.connect_ex((VIP, PORT)) == 0:
                    return
            self.check_daemon()
            if time.monotonic() > deadline_s:
                raise StageError(f"{VIP} did not answer in {START_TIMEOUT_S:.0f} s; the log:\n{log_tail()}")
            time.sleep(_POLL_S)


def start_pod_server(lab: Lab, pod: Pod, name: str) -> subprocess.Popen[bytes]:
    """Start the server of a Pod, which answers with `name`, and wait till it accepts.

    Raises:
        StageError: it does not.
    """
    argv = [sys.executable, "-m", "lbd.cli.demo.pod", name, str(PORT), pod.address[4], pod.address[6]]
    process = pod.popen(argv)
    deadline_s = time.monotonic() + START_TIMEOUT_S
    while True:
        with lab.se.socket() as probe:
            probe.settimeout(1.0)
            if probe.connect_ex((pod.address[4], PORT)) == 0:
                return process
        if process.poll() is not None or time.monotonic() > deadline_s:
            raise StageError(f"the server in {pod.name} did not start")
        time.sleep(_POLL_S)


def member_of(status: Status | None, pod: Pod) -> MemberStatus | None:
    """Return the Pod's entry in the status of the demo's virtual service, or None if there is none."""
    if status is None:
        return None
    for service in status.virtual_services:
        for member in service.members:
            if service.name == SERVICE and member.address == pod.address[4]:
                return member
    return None
