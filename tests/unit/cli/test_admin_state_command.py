"""Claims about `lbd drain`, `lbd disable` and `lbd enable`, against a real admin server on a real unix socket."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import uvloop
from click.testing import CliRunner

from lbd.cli.main import main as lbd
from lbd.model.admin_state import AdminStateChange, AdminStateResult
from lbd.model.desired import AdminState
from lbd.model.status import ReloadResult, Status
from lbd.observability.admin import AdminServer


def no_status() -> Status:
    raise AssertionError("nobody asks for the status")


async def no_reload() -> ReloadResult:
    raise AssertionError("nobody asks for a reload")


@dataclass
class Run:
    exit_code: int
    stdout: str
    stderr: str
    asked: list[AdminStateChange] = field(default_factory=list)


def run(path: Path, result: AdminStateResult, *arguments: str) -> Run:
    """Run `lbd` as its own process against a server that answers so."""
    asked: list[AdminStateChange] = []

    async def answer(change: AdminStateChange) -> AdminStateResult:
        asked.append(change)
        return result

    async def serve() -> Run:
        server = AdminServer(str(path), no_status, no_reload, answer)
        await server.start()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "lbd", *arguments, "--socket", str(path)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        stdout, stderr = await process.communicate()
        await server.close()
        return Run(process.returncode or 0, stdout.decode(), stderr.decode(), asked)

    return uvloop.run(asyncio.wait_for(serve(), 20))


def test_drain_with_a_deadline_says_how_many_connections_are_left_and_for_how_long(tmp_path: Path) -> None:
    result = AdminStateResult(True, "", "enabled", 3)
    seen = run(tmp_path / "a.sock", result, "drain", "web", "[2001:db8::1]:80", "--deadline", "1m30s")
    assert seen.asked == [AdminStateChange("web", AdminState.DRAINING, "[2001:db8::1]:80", 90.0)]
    assert (seen.exit_code, seen.stderr) == (0, "")
    assert seen.stdout == (
        "web/[2001:db8::1]:80 is draining, 3 connections are open, reset in 90 s at the latest\n"
        "the configuration says enabled: it counts again after a restart of lbd\n"
    )


def test_disable_without_a_member_is_of_the_whole_service_and_has_no_deadline_of_its_own(tmp_path: Path) -> None:
    seen = run(tmp_path / "a.sock", AdminStateResult(True, "", "disabled", 0), "disable", "web")
    assert seen.asked == [AdminStateChange("web", AdminState.DISABLED)]
    assert (seen.exit_code, seen.stdout) == (0, "web is disabled, 0 connections are open\n")


def test_one_connection_is_said_in_the_singular(tmp_path: Path) -> None:
    seen = run(tmp_path / "a.sock", AdminStateResult(True, "", "draining", 1), "drain", "web")
    assert seen.stdout == "web is draining, 1 connection is open\n"


def test_enable_says_nothing_of_connections(tmp_path: Path) -> None:
    seen = run(tmp_path / "a.sock", AdminStateResult(True, "", "enabled", 5), "enable", "web", "10.0.0.1:80")
    assert seen.asked == [AdminStateChange("web", AdminState.ENABLED, "10.0.0.1:80")]
    assert (seen.exit_code, seen.stdout) == (0, "web/10.0.0.1:80 is enabled\n")


def test_what_the_daemon_does_not_know_exits_1_with_its_sentence(tmp_path: Path) -> None:
    result = AdminStateResult(False, "there is no virtual service 'wbe'; did you mean web?")
    seen = run(tmp_path / "a.sock", result, "drain", "wbe")
    assert (seen.exit_code, seen.stdout) == (1, "")
    assert seen.stderr == "lbd: there is no virtual service 'wbe'; did you mean web?\n"


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["drain"], "Missing argument 'SERVICE'"),
        (["drain", "web", "--deadline", "60"], "is not a duration"),
        (["drain", "web", "--deadline", "25h"], "too long"),
        (["enable", "web", "--deadline", "60s"], "No such option"),
    ],
)
def test_wrong_usage_exits_2_and_asks_nobody(tmp_path: Path, arguments: list[str], sentence: str) -> None:
    seen = CliRunner().invoke(lbd, arguments, env={"LBD_ADMIN_SOCKET": str(tmp_path / "none.sock")})
    assert seen.exit_code == 2
    assert sentence in seen.stderr


def test_a_daemon_that_can_not_be_reached_exits_1(tmp_path: Path) -> None:
    seen = CliRunner().invoke(lbd, ["drain", "web"], env={"LBD_ADMIN_SOCKET": str(tmp_path / "none.sock")})
    assert seen.exit_code == 1
    assert "none.sock: there is no such socket" in seen.stderr
