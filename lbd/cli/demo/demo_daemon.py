"""The real daemon of a demo, in the service engine's namespace."""

from __future__ import annotations

import os
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Final

from lbd.cli.admin_client import DEFAULT_SOCKET, AdminClient, AdminError
from lbd.cli.demo.namespace import Namespace
from lbd.model.status import Status

DIRECTORY: Final = Path("/run/lbd-demo")
CONFIG_PATH: Final = DIRECTORY / "lbd.yaml"
LOG_PATH: Final = DIRECTORY / "lbd.log"
METRICS: Final = "127.0.0.1:9407"
START_TIMEOUT_S: Final = 15.0
_STOP_TIMEOUT_S: Final = 4.0


class StageError(Exception):
    """The demo can't go on; the message says what happened and shows what the daemon said."""


class DemoDaemon:
    """`lbd run` with a configuration of the demo's. `stop()` ends it."""

    def __init__(self, engine: Namespace) -> None:
        self._engine = engine
        self._process: subprocess.Popen[bytes] | None = None
        self._admin = AdminClient(DEFAULT_SOCKET)

    def start(self, config: str, *more: Path) -> None:
        """Start it with this configuration, and that of `more` files, and wait till it says READY.

        Raises:
            StageError: it ended, or did not say so in 15 s.
        """
        DIRECTORY.mkdir(exist_ok=True)
        CONFIG_PATH.write_text(config)
        deadline_s = time.monotonic() + START_TIMEOUT_S
        notify_path = DIRECTORY / "notify.sock"
        files = [word for path in (CONFIG_PATH, *more) for word in ("-c", str(path))]
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify, LOG_PATH.open("ab") as log:
            notify.bind(str(notify_path))
            self._process = self._engine.popen(
                [sys.executable, "-m", "lbd", "run", *files],
                environment=daemon_environment(os.environ, notify_path),
                stdout=log,
                stderr=log,
            )
            while not _says_ready(notify, deadline_s - time.monotonic()):
                self.check()
                if time.monotonic() > deadline_s:
                    raise StageError(f"`lbd run` did not become ready in {START_TIMEOUT_S:.0f} s:\n{log_tail()}")

    def status(self) -> Status | None:
        """Return what `lbd status` would show, or None while the daemon can't be asked."""
        try:
            return self._admin.status()
        except AdminError:
            return None

    def check(self) -> None:
        """Raise StageError if the daemon has ended."""
        if self._process is not None and (code := self._process.poll()) is not None:
            raise StageError(f"`lbd run` ended with status {code}; the end of its log:\n{log_tail()}")

    def stop(self) -> None:
        """End it, with its drain cut short."""
        if self._process is None or self._process.poll() is not None:
            return
        for _ in range(2):  # the second SIGTERM cuts the drain short
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(_STOP_TIMEOUT_S)
                return
            except subprocess.TimeoutExpired:
                continue
        self._process.kill()
        self._process.wait()


def _says_ready(notify: socket.socket, timeout_s: float) -> bool:
    """Wait for one sd_notify message, at most a tenth of a second at a time, and return whether it says READY=1."""
    readable, _, _ = select.select([notify], [], [], max(0.0, min(timeout_s, 0.1)))
    return bool(readable) and b"READY=1" in notify.recv(4096).split(b"\n")


def daemon_environment(environment: Mapping[str, str], notify_path: Path) -> dict[str, str]:
    """Return the environment that the daemon gets: ours, with systemd's variables for what it would provide."""
    kept = {key: value for key, value in environment.items() if key not in ("WATCHDOG_USEC", "WATCHDOG_PID")}
    return {**kept, "NOTIFY_SOCKET": str(notify_path), "STATE_DIRECTORY": str(DIRECTORY)}


def log_tail(lines: int = 20) -> str:
    """Return the end of the daemon's log."""
    return "\n".join(LOG_PATH.read_text(errors="replace").splitlines()[-lines:])
