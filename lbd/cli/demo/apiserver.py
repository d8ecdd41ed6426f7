"""Starts a real kube-apiserver with its etcd, for the demo and the tests: a cluster without nodes and controllers."""

from __future__ import annotations

import http.client
import os
import secrets
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from types import TracebackType
from typing import Final, Self

from lbd.cli.demo.api_client import ApiClient, ApiError
from lbd.cli.demo.apiserver_binary import Binaries

_START_TIMEOUT_S: Final = 60.0
_POLL_S: Final = 0.05
SERVICE_NETWORKS: Final = "10.96.0.0/16,fd00:96::/112"
ADMIN: Final = "admin"


class ApiServerError(Exception):
    """The API server or its etcd did not start, or has ended; the message shows the end of its log."""


class ApiServer:
    """One kube-apiserver and its etcd, as a context manager: ready on entry, killed on exit.

    Nothing but them runs: Pods, Nodes and EndpointSlices are what one writes, and no controller deletes anything.
    `url`, `ca_path` and `admin` (a client that may do everything) stay valid when it is killed and started again.
    """

    def __init__(
        self,
        binaries: Binaries,
        directory: Path,
        address: str,
        *,
        flags: Sequence[str] = (),
        prepare: Callable[[ApiClient], None] | None = None,
    ) -> None:
        """Describe an API server that listens on `address` (not on loopback) at a free port, and keeps its data in
        `directory`. `flags` are added to kube-apiserver's; `prepare` is called once it is ready, on entry."""
        self.address = address
        self.port = _free_port(address)
        self.url = f"https://{address}:{self.port}"
        self.etcd_url = f"http://127.0.0.1:{_free_port('127.0.0.1')}"
        self.directory = directory
        self.ca_path = directory / "certs" / "apiserver.crt"
        self.key_path = directory / "certs" / "apiserver.key"
        self.admin = ApiClient(self.url, self.ca_path, secrets.token_urlsafe(24))
        self._binaries = binaries
        self._flags = list(flags)
        self._prepare = prepare
        self._etcd: subprocess.Popen[bytes] | None = None
        self._apiserver: subprocess.Popen[bytes] | None = None

    def __enter__(self) -> Self:
        try:
            self.start()
            if self._prepare is not None:
                self._prepare(self.admin)
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # -- life ------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Start what does not run, on the same data and port, and wait until it is ready (2 to 5 s).

        Raises:
            ApiServerError: it ended, or was not ready within a minute.
        """
        self.directory.mkdir(parents=True, exist_ok=True)
        tokens = self.directory / "tokens.csv"
        tokens.write_text(f'{self.admin.token},{ADMIN},{ADMIN},"system:masters"\n')
        tokens.chmod(0o600)
        if self._etcd is None or self._etcd.poll() is not None:
            self._etcd = self._popen("etcd", [*self._binaries.etcd, *self._etcd_flags()])
        if self._apiserver is None or self._apiserver.poll() is not None:
            self._apiserver = self._popen("kube-apiserver", [*self._binaries.kube_apiserver, *self._apiserver_flags()])
        deadline_s = time.monotonic() + _START_TIMEOUT_S
        while not self.ready():
            self.check()
            if time.monotonic() > deadline_s:
                raise ApiServerError(f"kube-apiserver was not ready in {_START_TIMEOUT_S:.0f} s:\n{self.log_tail()}")
            time.sleep(_POLL_S)

    def ready(self) -> bool:
        """Return whether it answers and says that it is ready."""
        try:
            self.admin.request("GET", "/readyz")
        except (ApiError, OSError, http.client.HTTPException):
            return False
        return True

    def check(self) -> None:
        """Raise ApiServerError if one of the two has ended."""
        for name, process in (("etcd", self._etcd), ("kube-apiserver", self._apiserver)):
            if process is not None and process.poll() is not None:
                raise ApiServerError(f"{name} ended with status {process.returncode}:\n{self.log_tail(name)}")

    def kill(self) -> None:
        """Kill kube-apiserver as `kill -9` does; etcd keeps the data. `start()` brings it back."""
        _kill(self._apiserver)

    def kill_etcd(self) -> None:
        """Kill etcd; kube-apiserver lives on and can answer nothing. `start()` brings it back on the same data."""
        _kill(self._etcd)

    def pause(self) -> None:
        """Stop kube-apiserver where it stands (SIGSTOP): connections stay open, nothing answers."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        """Let it go on (SIGCONT)."""
        self._signal(signal.SIGCONT)

    def close(self) -> None:
        """Kill both. Can be called again."""
        _kill(self._apiserver)
        _kill(self._etcd)

    @property
    def pid(self) -> int:
        """The number of kube-apiserver's process."""
        assert self._apiserver is not None, "not started"
        return self._apiserver.pid

    def _signal(self, number: int) -> None:
        os.kill(self.pid, number)

    # -- how they are started --------------------------------------------------------------------------------------

    def _popen(self, name: str, argv: Sequence[str]) -> subprocess.Popen[bytes]:
        with self._log_path(name).open("ab") as log:
            return subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, process_group=0)

    def _etcd_flags(self) -> list[str]:
        return [
            f"--data-dir={self.directory / 'etcd'}",
            f"--listen-client-urls={self.etcd_url}",
            f"--advertise-client-urls={self.etcd_url}",
            "--listen-peer-urls=http://127.0.0.1:0",
            "--unsafe-no-fsync",  # the data needn't outlive this machine
        ]

    def _apiserver_flags(self) -> list[str]:
        return [
            f"--etcd-servers={self.etcd_url}",
            f"--cert-dir={self.directory / 'certs'}",  # makes itself a certificate for its address there
            f"--bind-address={self.address}",
            f"--advertise-address={self.address}",
            f"--secure-port={self.port}",
            "--authorization-mode=RBAC",
            f"--token-auth-file={self.directory / 'tokens.csv'}",
            # Any RSA key can sign tokens; this one is there when they are first needed.
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={self.key_path}",
            f"--service-account-signing-key-file={self.key_path}",
            "--disable-admission-plugins=ServiceAccount",  # no controller makes the accounts that it asks for
            f"--service-cluster-ip-range={SERVICE_NETWORKS}",
            *self._flags,
        ]

    def _log_path(self, name: str) -> Path:
        return self.directory / f"{name}.log"

    def log_tail(self, name: str = "kube-apiserver", lines: int = 20) -> str:
        """Return the end of a log."""
        return "\n".join(self._log_path(name).read_text(errors="replace").splitlines()[-lines:])


def _kill(process: subprocess.Popen[bytes] | None) -> None:
    if process is not None:
        process.kill()
        process.wait()


def _free_port(address: str) -> int:
    with socket.socket() as probe:
        probe.bind((address, 0))
        return int(probe.getsockname()[1])
