"""Claims about `lbd status`, against a real admin server on a real unix socket."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import socket
import subprocess
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import uvloop
from click.testing import CliRunner

from lbd.cli.status import command
from lbd.model.admin_state import AdminStateChange, AdminStateResult
from lbd.model.status import (
    ConfigStatus,
    Health,
    MemberStatus,
    ReloadResult,
    Status,
    Traffic,
    VipState,
    VipStatus,
    VirtualServiceStatus,
)
from lbd.observability.admin import AdminServer
from lbd.observability.status_json import encode

MEMBER = MemberStatus(
    "10.1.0.1",
    8080,
    1,
    1.0,
    "draining",
    Health.UP,
    "",
    9.0,
    False,
    "draining: 3 connections left",
    (),
    0,
    Traffic(3, 77),
)
STATUS = Status(
    version="0.1.0",
    service_engine="se-a",
    state="running",
    form="compiled",
    pid=1,
    uptime_s=5.0,
    frontend_interface="ens192",
    generation=3,
    applied_generation=3,
    config=ConfigStatus(("lbd.yaml",), 3, False, 1700000000.0, 1600000000.0, ("lbd.yaml:12:9: 70000 is not a port",)),
    workers=(),
    vips=(VipStatus("172.16.101.150", "ens192", VipState.OWNED),),
    virtual_services=(
        VirtualServiceStatus(
            "web", "172.16.101.150", 80, "tcp", "round_robin", "enabled", "serving", "", 3, 3, Traffic(), (MEMBER,)
        ),
    ),
    descriptors_used=9,
    descriptors_limit=100,
    loop_lag_s=0.0,
    problems=("something is wrong",),
)


async def no_reload() -> ReloadResult:
    raise AssertionError("lbd status must not reload")


async def no_change(change: AdminStateChange) -> AdminStateResult:
    raise AssertionError(f"lbd status must not ask for {change}")


@contextlib.contextmanager
def daemon(path: Path, status: Status, reload: Callable[[], Awaitable[ReloadResult]] = no_reload) -> Iterator[str]:
    """Run an admin server in a thread of its own, and end it."""
    ready, loops = threading.Event(), []

    async def main() -> None:
        server = AdminServer(str(path), lambda: status, reload, no_change)
        await server.start()
        stop = asyncio.Event()
        loops.append((asyncio.get_running_loop(), stop))
        ready.set()
        await stop.wait()
        await server.close()

    thread = threading.Thread(target=lambda: uvloop.run(main()))
    thread.start()
    assert ready.wait(10)
    try:
        yield str(path)
    finally:
        loop, stop = loops[0]
        loop.call_soon_threadsafe(stop.set)
        thread.join(10)
        assert not thread.is_alive()


def test_the_table_answers_why_a_member_gets_no_traffic(tmp_path: Path) -> None:
    with daemon(tmp_path / "a.sock", STATUS) as path:
        result = CliRunner().invoke(command, ["--socket", path])
    assert (result.exit_code, result.stderr) == (0, "")
    (line,) = [line for line in result.stdout.splitlines() if "10.1.0.1:8080" in line]
    assert line.split()[1:6] == ["up", "draining", "1", "3", "77"]
    assert line.endswith("draining: 3 connections left")
    assert result.stdout.index("lbd.yaml:12:9: 70000 is not a port") < result.stdout.index("VIPS")


def test_json_is_byte_for_byte_what_the_daemon_sent(tmp_path: Path) -> None:
    odd = replace(STATUS, service_engine='ü"\n\x1b')
    with daemon(tmp_path / "a.sock", odd) as path:
        result = CliRunner().invoke(command, ["--json"], env={"LBD_ADMIN_SOCKET": path})
    assert result.exit_code == 0
    assert result.stdout_bytes == encode(odd)
    assert json.loads(result.stdout)["virtual_services"][0]["members"][0]["traffic"]["connections_total"] == 77


def test_piped_it_has_no_colours_and_on_a_terminal_it_has(tmp_path: Path) -> None:
    with daemon(tmp_path / "a.sock", STATUS) as path:
        arguments = [sys.executable, "-m", "lbd", "status", "--socket", path]
        environment = {**os.environ, "TERM": "xterm", "COLUMNS": "80"}
        environment.pop("NO_COLOR", None)
        piped = subprocess.run(arguments, capture_output=True, check=True, env=environment).stdout
        master, slave = pty.openpty()
        process = subprocess.Popen(arguments, stdout=slave, stderr=slave, env=environment)
        os.close(slave)
        seen = _read_to_end(master)
        assert process.wait(10) == 0
    assert b"\x1b" not in piped
    assert b"something is wrong" in piped
    assert b"\x1b[31m  something is wrong" in seen


def _read_to_end(descriptor: int) -> bytes:
    seen = b""
    with contextlib.suppress(OSError):  # EIO is how a terminal's other end says that it was closed
        while part := os.read(descriptor, 65536):
            seen += part
    os.close(descriptor)
    return seen


def test_a_reader_that_goes_away_early_causes_no_traceback(tmp_path: Path) -> None:
    members = tuple(replace(MEMBER, port=port) for port in range(1, 3000))
    service = replace(STATUS.virtual_services[0], members=members)
    with daemon(tmp_path / "a.sock", replace(STATUS, virtual_services=(service,))) as path:
        for option in ([], ["--json"]):
            process = subprocess.Popen(
                [sys.executable, "-m", "lbd", "status", "--socket", path, *option],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
            )
            assert process.stdout is not None
            assert process.stdout.read(10)
            process.stdout.close()
            _, errors = process.communicate(timeout=20)
            assert b"Traceback" not in errors


def check_failure(path: str, *parts: str) -> None:
    result = CliRunner().invoke(command, ["--socket", path])
    assert (result.exit_code, result.stdout) == (1, "")
    assert len(result.stderr.splitlines()) == 1
    for part in (path, *parts):
        assert part in result.stderr


def test_no_socket_is_one_sentence(tmp_path: Path) -> None:
    check_failure(str(tmp_path / "none.sock"), "there is no such socket: lbd does not run", "--socket")


def test_a_socket_where_nobody_listens_is_one_sentence(tmp_path: Path) -> None:
    path = str(tmp_path / "a.sock")
    with socket.socket(socket.AF_UNIX) as dead:
        dead.bind(path)
    check_failure(path, "nothing listens there: lbd was killed")


def test_a_socket_that_one_may_not_use_is_one_sentence(tmp_path: Path) -> None:
    path = str(tmp_path / "a.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        os.chmod(path, 0)
        with ordinary_user(tmp_path):
            check_failure(path, "permission denied: run this as root or as a member of the group")


@contextlib.contextmanager
def ordinary_user(folder: Path) -> Iterator[None]:
    """Be nobody for a moment where the tests run as root: root may use every socket."""
    if os.geteuid() != 0:
        yield
        return
    for each in (folder, *folder.parents[:2]):
        os.chmod(each, 0o755)
    try:
        os.seteuid(65534)
    except OSError:
        pytest.skip("root of a user namespace that has no other user")
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize(
    ("answer", "sentence"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", "is not lbd's admin API"),
        (b"", "closed the connection before it answered"),
        (b"HTTP/1.1 500 no\r\nContent-Length: 17\r\n\r\n" + b'{"error": "oops"}', "lbd answered 500: oops"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\n{}", "Status.version is not there"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 20\r\n\r\n{}", "lbd"),
    ],
    ids=["ssh", "eof", "500", "other version", "cut short"],
)
def test_an_answer_that_is_no_status_is_one_sentence(tmp_path: Path, answer: bytes, sentence: str) -> None:
    path = str(tmp_path / "a.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection:
                connection.recv(65536)
                connection.sendall(answer)

        thread = threading.Thread(target=serve)
        thread.start()
        check_failure(path, sentence)
        thread.join(10)


def test_a_daemon_that_never_answers_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lbd.cli.admin_client.STATUS_TIMEOUT_S", 0.2)
    path = str(tmp_path / "a.sock")
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(path)
        listener.listen()
        check_failure(path, "did not answer in time")


def test_watch_shows_it_again_until_ctrl_c(tmp_path: Path) -> None:
    with daemon(tmp_path / "a.sock", STATUS) as path:
        process = subprocess.Popen(
            [sys.executable, "-m", "lbd", "status", "--watch", "--socket", path], stdout=subprocess.PIPE
        )
        assert process.stdout is not None
        seen = b""
        while seen.count(b"something is wrong") < 2:
            part = os.read(process.stdout.fileno(), 65536)
            assert part, "it ended by itself"
            seen += part
        process.send_signal(2)
        assert process.wait(10) == 0
        process.stdout.close()


def test_json_and_watch_together_are_a_usage_error() -> None:
    assert CliRunner().invoke(command, ["--json", "--watch"]).exit_code == 2
