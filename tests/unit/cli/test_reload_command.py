"""Claims about `lbd reload`, against a real admin server on a real unix socket."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

import uvloop
from click.testing import CliRunner

from lbd.cli.reload import command
from lbd.model.admin_state import AdminStateChange, AdminStateResult
from lbd.model.status import ReloadResult, Status
from lbd.observability.admin import AdminServer


def no_status() -> Status:
    raise AssertionError("lbd reload must not ask for the status")


async def no_change(change: AdminStateChange) -> AdminStateResult:
    raise AssertionError(f"lbd reload must not ask for {change}")


@dataclass(frozen=True)
class Result:
    exit_code: int
    stdout: str
    stderr: str


def run_reload(path: Path, reload: Callable[[], Awaitable[ReloadResult]]) -> Result:
    """Run the command as its own process against a server that lives as long as it does."""

    async def main() -> Result:
        server = AdminServer(str(path), no_status, reload, no_change)
        await server.start()
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "lbd", "reload", "--socket", str(path)),
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.PIPE,
        )
        stdout, stderr = await process.communicate()
        await server.close()
        assert process.returncode is not None
        return Result(process.returncode, stdout.decode(), stderr.decode())

    return uvloop.run(asyncio.wait_for(main(), 20))


def test_a_reload_that_worked_prints_the_new_generation(tmp_path: Path) -> None:
    async def succeed() -> ReloadResult:
        return ReloadResult(True, 8)

    result = run_reload(tmp_path / "a.sock", succeed)
    assert (result.exit_code, result.stdout, result.stderr) == (0, "generation 8 runs\n", "")


def test_a_bad_configuration_prints_every_error_and_exits_78(tmp_path: Path) -> None:
    errors = tuple(f"lbd.yaml:{line}:1: virtual_services[{line}].port: 70000 is not a port" for line in range(300))

    async def refuse() -> ReloadResult:
        return ReloadResult(False, 7, errors)

    result = run_reload(tmp_path / "a.sock", refuse)
    assert (result.exit_code, result.stdout) == (78, "")
    assert result.stderr.splitlines() == [*errors, "lbd: the configuration was refused; generation 7 stays"]


def test_a_daemon_that_failed_at_it_exits_1(tmp_path: Path) -> None:
    async def fail() -> ReloadResult:
        raise RuntimeError("detail")

    result = run_reload(tmp_path / "a.sock", fail)
    assert result.exit_code == 1
    assert "lbd answered 500: lbd failed; its log says why" in result.stderr


def test_a_daemon_that_cannot_be_reached_exits_1(tmp_path: Path) -> None:
    result = CliRunner().invoke(command, [], env={"LBD_ADMIN_SOCKET": str(tmp_path / "none.sock")})
    assert (result.exit_code, result.stdout) == (1, "")
    assert "none.sock: there is no such socket" in result.stderr
