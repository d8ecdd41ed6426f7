"""The CLI's side of the admin API: HTTP over the daemon's unix socket, and one helpful sentence for each failure."""

from __future__ import annotations

import http.client
import json
import socket
from collections.abc import Callable
from typing import Any, NoReturn

import click

from lbd.model.admin_state import AdminStateChange, AdminStateResult
from lbd.model.status import ReloadResult, Status
from lbd.observability.status_json import StatusFormatError, decode, encode

DEFAULT_SOCKET = "/run/lbd/admin.sock"
SOCKET_VARIABLE = "LBD_ADMIN_SOCKET"
STATUS_TIMEOUT_S = 10.0
RELOAD_TIMEOUT_S = 120.0
"""A reload answers when every worker has acknowledged it."""
_MAX_BODY_BYTES = 256 * 1024 * 1024


class AdminError(Exception):
    """The daemon can't be asked, or did not answer as it should; the text says what to do."""


class AdminClient:
    """Asks the daemon behind `socket_path`. Each call is one connection; every method raises `AdminError`."""

    def __init__(self, socket_path: str) -> None:
        self._path = socket_path

    def status_body(self) -> bytes:
        """Return the status as the daemon sent it: JSON."""
        code, body = self._request("GET", "/v1/status", STATUS_TIMEOUT_S)
        if code != 200:
            raise AdminError(f"{self._path}: lbd answered {code}: {_error_text(body)}")
        return body

    def status(self) -> Status:
        """Return the status."""
        try:
            return decode(Status, self.status_body())
        except StatusFormatError as error:
            raise AdminError(
                f"{self._path}: this lbd can't read the daemon's status ({error}): use the same version"
            ) from error

    def reload(self) -> ReloadResult:
        """Make the daemon read its files again, and wait until the result runs everywhere or is refused."""
        code, body = self._request("POST", "/v1/reload", RELOAD_TIMEOUT_S)
        if code not in (200, 422):
            raise AdminError(f"{self._path}: lbd answered {code}: {_error_text(body)}")
        try:
            return decode(ReloadResult, body)
        except StatusFormatError as error:
            raise AdminError(f"{self._path}: this lbd can't read the daemon's answer ({error})") from error

    def set_admin_state(self, change: AdminStateChange) -> AdminStateResult:
        """Set an admin state, and wait until it counts everywhere or is refused."""
        code, body = self._request("POST", "/v1/admin-state", RELOAD_TIMEOUT_S, encode(change))
        if code not in (200, 422):
            raise AdminError(f"{self._path}: lbd answered {code}: {_error_text(body)}")
        try:
            return decode(AdminStateResult, body)
        except StatusFormatError as error:
            raise AdminError(f"{self._path}: this lbd can't read the daemon's answer ({error})") from error

    def _request(self, method: str, path: str, timeout_s: float, body: bytes | None = None) -> tuple[int, bytes]:
        connection = _UnixConnection(self._path, timeout_s)
        try:
            connection.request(method, path, body)
            answer = connection.getresponse()
            return answer.status, answer.read(_MAX_BODY_BYTES)
        except OSError as error:
            raise AdminError(_sentence(self._path, error)) from error
        except http.client.HTTPException as error:
            raise AdminError(f"{self._path}: what listens there is not lbd's admin API: {error!r}") from error
        finally:
            connection.close()


class _UnixConnection(http.client.HTTPConnection):
    """An HTTP connection to a unix socket."""

    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("lbd", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def _sentence(path: str, error: OSError) -> str:
    """Say what an error of the socket means and what to do."""
    if isinstance(error, FileNotFoundError):
        return f"{path}: there is no such socket: lbd does not run, or its admin.socket is elsewhere (use --socket)"
    if isinstance(error, (ConnectionRefusedError, BlockingIOError)):
        return f"{path}: nothing listens there: lbd was killed, or is too busy (look at its log)"
    if isinstance(error, PermissionError):
        return f"{path}: permission denied: run this as root or as a member of the group that owns the socket"
    if isinstance(error, TimeoutError):
        return f"{path}: lbd accepted the request but did not answer in time: look at its log"
    if isinstance(error, ConnectionError):
        return f"{path}: lbd closed the connection before it answered: look at its log"
    return f"{path}: {error.strerror or error}"


def _error_text(body: bytes) -> str:
    try:
        return str(json.loads(body)["error"])
    except (ValueError, KeyError, TypeError):
        return body[:200].decode("utf-8", "replace")


def socket_option(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add `--socket PATH` to a command, as its parameter `socket_path`."""
    return click.option(
        "--socket",
        "socket_path",
        metavar="PATH",
        envvar=SOCKET_VARIABLE,
        default=DEFAULT_SOCKET,
        show_default=True,
        show_envvar=True,
        help="The daemon's admin socket.",
    )(command)


def fail(message: str, code: int) -> NoReturn:
    """Print one message on stderr and leave with `code`."""
    click.echo(f"lbd: {message}", err=True)
    raise SystemExit(code)
