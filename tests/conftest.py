"""Puts the tests of tests/lab and tests/kubernetes into a sandbox of their own, and runs all others as they are.

So `pytest`, `pytest tests/lab/...` and `make test` work without setting anything up, as root and as an ordinary user,
and pytest-xdist's workers share the one sandbox. A run that includes both kinds is two: first the others, as whoever
runs them, then the lab's, where an ordinary user looks like root. With pytest-xdist the lab's tests that are marked
`alone`, because they measure time, come before its others with nothing beside them. Where no sandbox can be made, the
lab tests are skipped with the reason, or fail if LBD_LAB_REQUIRED=1.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from lbd.cli.demo import sandbox

HERE = Path(__file__).resolve().parent
SANDBOXED = (HERE / "lab", HERE / "kubernetes")
"""The folders whose tests need a sandbox; all of them are meant by "the lab" below."""


def split(config: pytest.Config) -> tuple[list[str], list[str]]:
    """Return the run's arguments that mean tests outside of the lab, and those that mean tests of the lab.

    A folder above the lab is among both, unless the lab is ignored.
    """
    ignored = [Path(config.invocation_params.dir, path).resolve() for path in config.option.ignore or []]
    folders = [folder for folder in SANDBOXED if folder not in ignored]
    others, lab = [], []
    for argument in config.args:
        path = Path(config.invocation_params.dir, argument.partition("::")[0]).resolve()
        if any(path == folder or folder in path.parents for folder in SANDBOXED):
            lab.append(argument)
        else:
            others.append(argument)
            lab += [str(folder) for folder in folders if path in folder.parents]
    return others, lab


def combine(statuses: list[int]) -> int:
    """Return the exit status of several runs: the first failure; "no tests" only if none had any."""
    nothing = int(pytest.ExitCode.NO_TESTS_COLLECTED)
    return next((status for status in statuses if status not in (0, nothing)), min(statuses))


def lab_runs(config: pytest.Config, arguments: list[str]) -> list[list[str]]:
    """Return the arguments of the runs that the lab's tests take: two where they would run beside each other."""
    if not config.getoption("numprocesses", None):
        return [arguments]
    chosen = f"({config.option.markexpr}) and " if config.option.markexpr else ""
    return [["-m", f"{chosen}alone", "-n0", *arguments], ["-m", f"{chosen}not alone", *arguments]]


@pytest.hookimpl(tryfirst=True)
def pytest_cmdline_main(config: pytest.Config) -> int | None:
    """Run the same pytest without the lab's tests, and then them in a sandbox; None where no sandbox is needed."""
    option = config.option
    others, lab = split(config)
    if sandbox.inside() or option.collectonly or option.help or option.version or not lab:
        return None
    if sandbox.why_unavailable() is not None:
        return None  # the fixture `sandboxed` says it, test by test
    given = config.args if config.args_source is pytest.Config.ArgsSource.ARGS else []
    ignoring = [f"--ignore={folder}" for folder in SANDBOXED]
    pytest_again = [sys.executable, "-m", "pytest"]
    pytest_again += [argument for argument in config.invocation_params.args if argument not in given]
    statuses = [subprocess.call([*pytest_again, *ignoring, *others])] if others else []
    for arguments in lab_runs(config, lab):
        if pytest.ExitCode.INTERRUPTED in statuses or (option.maxfail and pytest.ExitCode.TESTS_FAILED in statuses):
            break
        statuses.append(sandbox.run([*pytest_again, *arguments]))
    return combine(statuses)


@pytest.hookimpl(tryfirst=True)
def pytest_configure(config: pytest.Config) -> None:
    """Keep temporary files where they vanish: in the sandbox's memory, or in a folder removed at the end."""
    if hasattr(config, "workerinput") or config.option.basetemp is not None:
        return
    parent = "/run" if sandbox.inside() and os.access("/run", os.W_OK) else None
    folder = tempfile.mkdtemp(prefix="lbd-test-", dir=parent)
    config.option.basetemp = os.path.join(folder, "t")  # one deeper: a test that opens its folders opens no other's
    config.add_cleanup(lambda: shutil.rmtree(folder, ignore_errors=True))
