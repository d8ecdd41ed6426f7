"""Starts `lbd` commands by a fork of a process that has imported them: 0.6 s of CPU less for each daemon.

What runs is `lbd.cli.main.main` with its arguments, environment, network namespace and standard streams, in a process
of its own. What a fork can't show is shown elsewhere: the demo's tests and daemons with a `prefix` execute `lbd`.
"""

from __future__ import annotations

import array
import ctypes
import functools
import json
import os
import select
import signal
import socket
import struct
import subprocess
import sys
from collections.abc import Mapping, Sequence

_CLONE_NEWNET = 0x40000000
_REPORT = struct.Struct("i")


class ForkedProcess:
    """A process that the zygote started, as far as it is used like a `subprocess.Popen`."""

    def __init__(self, reports: int, stdout: int | None = None, stderr: int | None = None) -> None:
        self._reports = reports
        self.returncode: int | None = None
        self.stdout = os.fdopen(stdout, "rb") if stdout is not None else None
        self.stderr = os.fdopen(stderr, "rb") if stderr is not None else None
        self.pid: int = _REPORT.unpack(os.read(reports, _REPORT.size))[0]

    def poll(self) -> int | None:
        """Return the exit status, or None while it runs."""
        return self._await(0.0)

    def wait(self, timeout: float | None = None) -> int:
        """Return the exit status once it has ended.

        Raises:
            subprocess.TimeoutExpired: it runs on.
        """
        status = self._await(timeout)
        if status is None:
            assert timeout is not None
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
        return status

    def _await(self, timeout_s: float | None) -> int | None:
        if self.returncode is not None:
            return self.returncode
        poller = select.poll()
        poller.register(self._reports, select.POLLIN)
        if poller.poll(None if timeout_s is None else timeout_s * 1000):
            self.returncode = _REPORT.unpack(os.read(self._reports, _REPORT.size))[0]
            os.close(self._reports)
        return self.returncode


class Zygote:
    """The process that has imported everything, in one form of the hot modules."""

    def __init__(self, form: str) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._socket = ours
        subprocess.Popen(
            [sys.executable, __file__, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            env={**os.environ, "LBD_FORM": form},
            stdin=subprocess.DEVNULL,
        )
        theirs.close()

    def start(self, argv: Sequence[str], netns: str, environment: Mapping[str, str], stdout: int, stderr: int) -> int:
        """Start `lbd` with these arguments; return the descriptor on which its number and its end are reported."""
        reports, theirs = os.pipe()
        request = json.dumps({"argv": list(argv), "netns": netns, "environment": dict(environment)}).encode()
        rights = array.array("i", [stdout, stderr, theirs])
        self._socket.sendmsg([request], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        os.close(theirs)
        return reports


@functools.cache
def zygote(form: str) -> Zygote:
    """Return this test process's zygote of a form."""
    return Zygote(form)


def popen(argv: Sequence[str], netns: str, environment: Mapping[str, str]) -> ForkedProcess:
    """Start `lbd` in a network namespace, its output in pipes."""
    stdout, their_stdout = os.pipe()
    stderr, their_stderr = os.pipe()
    form = environment.get("LBD_FORM", "auto")
    reports = zygote(form).start(argv, netns, environment, their_stdout, their_stderr)
    os.close(their_stdout)
    os.close(their_stderr)
    return ForkedProcess(reports, stdout, stderr)


def run(argv: Sequence[str], netns: str, timeout_s: float) -> subprocess.CompletedProcess[str]:
    """Run an `lbd` command to its end and return it with its output.

    Raises:
        subprocess.TimeoutExpired: it took longer, and was killed.
    """
    streams = [os.memfd_create(name) for name in ("stdout", "stderr")]
    try:
        environment = dict(os.environ)
        reports = zygote(environment.get("LBD_FORM", "auto")).start(argv, netns, environment, *streams)
        process = ForkedProcess(reports)
        try:
            code = process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)
            raise
        output, complaint = (os.pread(stream, os.fstat(stream).st_size, 0).decode() for stream in streams)
    finally:
        for stream in streams:
            os.close(stream)
    return subprocess.CompletedProcess(["lbd", *argv], code, output, complaint)


# -- the zygote's side -------------------------------------------------------------------------------------------------


def _serve(requests: socket.socket) -> list[str] | None:
    """Fork for each request; return its arguments in the process that is to carry it out, None at the end."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the monitors
    while True:
        body, ancillary, _, _ = requests.recvmsg(1 << 20, socket.CMSG_SPACE(3 * 4))
        if not body:
            return None
        descriptors = array.array("i", ancillary[0][2]).tolist()
        if os.fork() == 0:
            requests.close()
            return _monitor(json.loads(body), *descriptors)
        for descriptor in descriptors:
            os.close(descriptor)


def _monitor(request: dict[str, object], stdout: int, stderr: int, reports: int) -> list[str]:
    """Fork the process itself, and report its number and how it ends."""
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    pid = os.fork()
    if pid == 0:
        os.close(reports)
        return _become(request, stdout, stderr)
    os.close(stdout)
    os.close(stderr)
    os.write(reports, _REPORT.pack(pid))
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    os.write(reports, _REPORT.pack(code))
    os._exit(0)


def _become(request: dict[str, object], stdout: int, stderr: int) -> list[str]:
    os.setpgid(0, 0)
    namespace = os.open(str(request["netns"]), os.O_RDONLY)
    if ctypes.CDLL(None, use_errno=True).setns(namespace, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")
    os.close(namespace)
    os.dup2(stdout, 1)
    os.dup2(stderr, 2)
    os.closerange(3, 64)
    environment, argv = request["environment"], request["argv"]
    assert isinstance(environment, dict)
    assert isinstance(argv, list)
    os.environ.clear()
    os.environ.update(environment)
    return argv


def _main() -> None:
    requests = socket.socket(fileno=int(sys.argv[1]))
    from lbd.cli import admin_state, check, daemon, reload, run, status  # noqa: F401  # what the commands would import
    from lbd.cli.main import main

    argv = _serve(requests)
    if argv is not None:
        main(args=argv, prog_name="lbd")


if __name__ == "__main__":
    _main()
