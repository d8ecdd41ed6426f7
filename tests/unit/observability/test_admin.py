"""Claims about the admin API, over real unix sockets."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import stat
import subprocess
import sys
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import uvloop
from structlog.testing import capture_logs

from lbd.model.admin_state import AdminStateChange, AdminStateResult
from lbd.model.desired import AdminState
from lbd.model.status import ReloadResult, Status
from lbd.observability.admin import AdminServer
from lbd.observability.admin_socket import AdminSocketError
from lbd.observability.bounded import Limits
from lbd.observability.status_json import decode, encode

Open = Callable[[], Any]


async def refuse() -> ReloadResult:
    return ReloadResult(False, 7, ("lbd.yaml:12:9: bad", "lbd.yaml:13:1: worse"))


NO_SUCH_SERVICE = AdminStateResult(False, "there is no virtual service 'wbe'; did you mean web?")


async def unknown(_change: AdminStateChange) -> AdminStateResult:
    return NO_SUCH_SERVICE


def serve(
    path: Path,
    source: Callable[[], Status],
    test: Callable[[Open], Awaitable[None]],
    reload: Callable[[], Awaitable[ReloadResult]] = refuse,
    set_admin_state: Callable[[AdminStateChange], Awaitable[AdminStateResult]] = unknown,
    **options: Any,
) -> None:
    """Run `test` against an admin server, and claim that nothing is left of it afterwards."""

    async def main() -> None:
        server = AdminServer(str(path), source, reload, set_admin_state, **options)
        await server.start()
        try:
            await asyncio.wait_for(test(partial(asyncio.open_unix_connection, str(path))), 20)
        finally:
            await server.close()
        assert os.listdir(path.parent) == []
        assert len(asyncio.all_tasks()) == 1, asyncio.all_tasks()

    uvloop.run(main())


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A socket path in a directory that does not exist yet."""
    return tmp_path / "run" / "lbd" / "admin.sock"


def test_status_is_the_snapshot_as_json(make: Any, http: Any, path: Path) -> None:
    async def test(where: Open) -> None:
        answer = await http(where, "GET /v1/status HTTP/1.1\r\nHost: x\r\n\r\n")
        assert (answer.code, answer.headers["content-type"]) == (200, "application/json")
        assert answer.body == encode(make.status())
        assert decode(Status, answer.body) == make.status()

    serve(path, make.status, test)


def test_healthz_says_the_state(make: Any, http: Any, path: Path) -> None:
    async def test(where: Open) -> None:
        answer = await http(where, "GET /v1/healthz HTTP/1.0\r\n\r\n")
        assert (answer.code, json.loads(answer.body)) == (200, {"state": "draining"})

    serve(path, lambda: make.status(state="draining"), test)


def test_the_socket_is_for_its_owner_and_group_only(make: Any, path: Path) -> None:
    async def test(_where: Open) -> None:
        found = os.lstat(path)
        assert stat.S_ISSOCK(found.st_mode)
        assert stat.S_IMODE(found.st_mode) == 0o660

    before = os.umask(0)
    try:
        serve(path, make.status, test)
    finally:
        os.umask(before)


RELOAD = "POST /v1/reload HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"


def test_a_refused_reload_is_422_with_every_error(make: Any, http: Any, path: Path) -> None:
    async def test(where: Open) -> None:
        answer = await http(where, RELOAD)
        assert answer.code == 422
        assert json.loads(answer.body) == {
            "error": "the configuration was refused; the old one stays",
            "success": False,
            "generation": 7,
            "errors": ["lbd.yaml:12:9: bad", "lbd.yaml:13:1: worse"],
        }

    serve(path, make.status, test)


def test_a_reload_is_logged_with_who_asked(make: Any, http: Any, path: Path) -> None:
    async def succeed() -> ReloadResult:
        return ReloadResult(True, 8)

    async def test(where: Open) -> None:
        with capture_logs() as events:
            answer = await http(where, RELOAD)
        assert (answer.code, json.loads(answer.body)) == (200, {"success": True, "generation": 8, "errors": []})
        (event,) = events
        assert event["event"] == "reload_requested"
        assert (event["peer_pid"], event["peer_uid"], event["peer_gid"]) == (os.getpid(), os.getuid(), os.getgid())

    serve(path, make.status, test, succeed)


def ask_for_state(body: str, *, length: int | None = None) -> str:
    size = len(body) if length is None else length
    return f"POST /v1/admin-state HTTP/1.1\r\nHost: x\r\nContent-Length: {size}\r\n\r\n{body}"


def test_a_change_of_an_admin_state_arrives_as_asked_and_is_logged_with_who_asked(
    make: Any, http: Any, path: Path
) -> None:
    asked: list[AdminStateChange] = []

    async def accept(change: AdminStateChange) -> AdminStateResult:
        asked.append(change)
        return AdminStateResult(True, "", "enabled", 3)

    async def test(where: Open) -> None:
        body = {"service": "web", "member": "10.0.0.1:80", "admin_state": "draining", "deadline_s": 60}
        with capture_logs() as events:
            answer = await http(where, ask_for_state(json.dumps(body)))
        assert (answer.code, json.loads(answer.body)) == (
            200,
            {"success": True, "configured": "enabled", "active_connections": 3},
        )
        await http(where, ask_for_state('{"service": "web", "admin_state": "enabled"}'))
        assert asked == [
            AdminStateChange("web", AdminState.DRAINING, "10.0.0.1:80", 60.0),
            AdminStateChange("web", AdminState.ENABLED),
        ]
        (event,) = events
        assert (event["event"], event["peer_pid"]) == ("admin_state_requested", os.getpid())

    serve(path, make.status, test, set_admin_state=accept)


def test_a_change_that_makes_no_sense_is_422_with_the_sentence(make: Any, http: Any, path: Path) -> None:
    async def test(where: Open) -> None:
        answer = await http(where, ask_for_state('{"service": "wbe", "admin_state": "draining"}'))
        assert answer.code == 422
        assert json.loads(answer.body)["error"] == NO_SUCH_SERVICE.error

    serve(path, make.status, test)


@pytest.mark.parametrize(
    "body",
    [
        "",
        "no json",
        "[]",
        '{"service": "web"}',
        '{"service": "web", "admin_state": "drained"}',
        '{"service": 1, "admin_state": "enabled"}',
        '{"service": "web", "admin_state": "draining", "deadline_s": "60s"}',
        '{"service": "' + "w" * 5000 + '", "admin_state": "enabled"}',
        "[" * 4000,
    ],
    ids=range(9),
)
def test_a_body_that_is_no_change_is_400_and_changes_nothing(make: Any, http: Any, path: Path, body: str) -> None:
    async def fail(change: AdminStateChange) -> AdminStateResult:
        raise AssertionError(f"{change} was carried out")

    async def test(where: Open) -> None:
        answer = await http(where, ask_for_state(body))
        assert answer.code == 400
        assert json.loads(answer.body)["error"].startswith("not a change of an admin state: ")

    serve(path, make.status, test, set_admin_state=fail)


def test_a_body_that_does_not_come_ends_after_the_time_for_a_request(make: Any, http: Any, path: Path) -> None:
    async def test(where: Open) -> None:
        answer = await http(where, ask_for_state('{"service"', length=100))
        assert answer.code == 408

    serve(path, make.status, test, limits=Limits(connections=4, request_timeout_s=0.2, lifetime_s=10.0))


def test_concurrent_reloads_never_overlap_and_each_caller_gets_one_that_began_after_its_request(
    make: Any, http: Any, path: Path
) -> None:
    begun, running, most = [0], [0], [0]

    async def slow() -> ReloadResult:
        begun[0] += 1
        generation = begun[0]
        running[0] += 1
        most[0] = max(most[0], running[0])
        await asyncio.sleep(0.3)  # longer than twenty requests need to arrive, also on a busy machine
        running[0] -= 1
        return ReloadResult(True, generation)

    async def test(where: Open) -> None:
        answers = await asyncio.gather(*(http(where, RELOAD) for _ in range(20)))
        assert {answer.code for answer in answers} == {200}
        assert most == [1]
        assert begun[0] <= 3, "those who wait share the next reload"
        last = json.loads((await http(where, RELOAD)).body)["generation"]
        assert last == begun[0]
        assert last > max(json.loads(answer.body)["generation"] for answer in answers)

    serve(path, make.status, test, slow)


def test_a_client_that_goes_away_does_not_stop_the_reload(make: Any, http: Any, path: Path) -> None:
    ended = []

    async def slow() -> ReloadResult:
        began.set()
        await let_go.wait()
        ended.append(True)
        return ReloadResult(True, 1)

    async def test(where: Open) -> None:
        _reader, writer = await where()
        writer.write(RELOAD.encode())
        await began.wait()
        writer.transport.abort()
        await http(where, "GET /v1/healthz HTTP/1.0\r\n\r\n")
        let_go.set()
        assert json.loads((await http(where, RELOAD)).body)["success"]
        assert ended == [True, True]

    began, let_go = asyncio.Event(), asyncio.Event()
    serve(path, make.status, test, slow)


def test_a_reload_that_raises_is_a_500_in_json_without_the_detail(make: Any, http: Any, path: Path) -> None:
    async def broken() -> ReloadResult:
        raise RuntimeError("detail")

    async def test(where: Open) -> None:
        with capture_logs() as events:
            answer = await http(where, RELOAD)
        assert (answer.code, json.loads(answer.body)) == (500, {"error": "lbd failed; its log says why"})
        failed = [event for event in events if event["event"] == "http_request_failed"]
        assert [str(event["exc_info"]) for event in failed] == ["detail"]

    serve(path, make.status, test, broken)


@pytest.mark.parametrize(
    ("request_line", "code"),
    [("GET /v1/reload", 405), ("POST /v1/status", 405), ("DELETE /v1/healthz", 405), ("GET /", 404), ("GET /v2", 404)],
)
def test_a_wrong_request_is_an_error_in_json(make: Any, http: Any, path: Path, request_line: str, code: int) -> None:
    async def test(where: Open) -> None:
        answer = await http(where, f"{request_line} HTTP/1.0\r\n\r\n")
        assert answer.code == code
        assert list(json.loads(answer.body)) == ["error"]

    serve(path, make.status, test)


def test_clients_that_hang_are_cut_and_do_not_keep_others_out(make: Any, http: Any, path: Path) -> None:
    async def test(where: Open) -> None:
        hanging = [await where() for _ in range(12)]
        for _, writer in hanging:
            writer.write(b"POST /v1/reload HTTP/1.1\r\nX: ")
        assert (await http(where, "GET /v1/healthz HTTP/1.0\r\n\r\n")).code == 200
        for reader, writer in hanging:
            try:
                assert await reader.read() == b"", "cut by the server, with no answer"
            except ConnectionError:
                pass  # it was already cut when its half of a request was written
            writer.close()

    serve(path, make.status, test, limits=Limits(connections=4, request_timeout_s=0.3, lifetime_s=1))


def test_the_socket_of_a_killed_daemon_is_replaced(make: Any, http: Any, path: Path) -> None:
    path.parent.mkdir(parents=True)
    script = (
        "import os, socket, sys\n"
        "s = socket.socket(socket.AF_UNIX); s.bind(sys.argv[1]); s.listen(); os.kill(os.getpid(), 9)"
    )
    subprocess.run([sys.executable, "-c", script, str(path)], check=False)
    assert path.exists()

    async def test(where: Open) -> None:
        assert (await http(where, "GET /v1/healthz HTTP/1.0\r\n\r\n")).code == 200

    serve(path, make.status, test)


def test_the_socket_of_a_living_daemon_is_never_taken(make: Any, http: Any, path: Path) -> None:
    async def test(where: Open) -> None:
        second = AdminServer(str(path), make.status, refuse, unknown)
        with pytest.raises(AdminSocketError, match=f"another lbd \\(process {os.getpid()}\\)") as caught:
            await second.start()
        assert str(path) in str(caught.value)
        await second.close()
        assert (await http(where, "GET /v1/healthz HTTP/1.0\r\n\r\n")).code == 200, "the first one goes on"

    serve(path, make.status, test)


def test_a_living_daemon_whose_backlog_is_full_counts_as_living(make: Any, path: Path) -> None:
    path.parent.mkdir(parents=True)
    with socket.socket(socket.AF_UNIX) as busy:
        busy.bind(str(path))
        busy.listen(0)
        waiting = []
        for _ in range(3):
            client = socket.socket(socket.AF_UNIX)
            client.setblocking(False)
            client.connect_ex(str(path))
            waiting.append(client)
        with pytest.raises(AdminSocketError, match="another lbd"):
            uvloop.run(AdminServer(str(path), make.status, refuse, unknown).start())
        for client in waiting:
            client.close()


def test_a_file_that_is_no_socket_is_left_alone(make: Any, path: Path) -> None:
    path.parent.mkdir(parents=True)
    path.write_text("precious")
    with pytest.raises(AdminSocketError, match="is no socket"):
        uvloop.run(AdminServer(str(path), make.status, refuse, unknown).start())
    assert path.read_text() == "precious"
    assert os.listdir(path.parent) == [path.name]


def test_a_path_that_is_too_long_is_said(make: Any, tmp_path: Path) -> None:
    with pytest.raises(AdminSocketError, match="too long for a unix socket"):
        uvloop.run(AdminServer(str(tmp_path / ("x" * 120)), make.status, refuse, unknown).start())


def test_close_leaves_the_socket_of_a_successor_alone(make: Any, path: Path) -> None:
    async def main() -> None:
        first = AdminServer(str(path), make.status, refuse, unknown)
        await first.start()
        os.unlink(path)
        successor = socket.socket(socket.AF_UNIX)
        successor.bind(str(path))
        await first.close()
        os.lstat(path)
        successor.close()

    uvloop.run(main())
