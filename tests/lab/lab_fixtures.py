"""The fixtures of every test in network namespaces: a fresh lab for each, and daemons in it."""

from __future__ import annotations

import functools
import os
import resource
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from lab_daemon import LBD, Config, Daemon, DaemonFactory
from lbd.cli.demo import sandbox
from lbd.cli.demo.lab import Lab

WANTED_DESCRIPTORS = 20_000
REQUIRED = os.environ.get("LBD_LAB_REQUIRED") == "1"
"""Whether a test that can't run here is a failure: continuous integration must not pass by skipping."""


def raise_descriptor_limit() -> None:
    """Let this process, which plays all clients and Pods, hold thousands of sockets: many users begin with 1,024."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < WANTED_DESCRIPTORS:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(WANTED_DESCRIPTORS, hard), hard))


def judge_skip(report: pytest.TestReport) -> pytest.TestReport:
    """Turn a skip into a failure where the lab is required."""
    if REQUIRED and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome = "failed"
        report.longrepr = f"skipped, but LBD_LAB_REQUIRED=1: {report.longrepr}"
    return report


@pytest.fixture(scope="session")
def sandboxed() -> None:
    """Skip, with the reason, where no sandbox could be made."""
    if not sandbox.inside():
        pytest.skip(f"no sandbox for the lab: {sandbox.why_unavailable() or 'pytest was not started through it'}")


@pytest.fixture
def lab(sandboxed: None, worker_id: str) -> Iterator[Lab]:
    """A lab with three Pods, built for this test; every process in it is killed at the end."""
    with Lab(prefix="" if worker_id == "master" else f"{worker_id}-") as built:
        yield built


@pytest.fixture(params=[4, 6], ids=["ipv4", "ipv6"])
def family(request: pytest.FixtureRequest) -> int:
    """4, then 6: the test runs once over each."""
    value: int = request.param
    return value


@functools.cache
def why_not_compiled() -> str | None:
    """Return why the compiled form can't run, or None if it can; asks `lbd` itself."""
    asked = subprocess.run(
        [LBD, "--version"], env={**os.environ, "LBD_FORM": "compiled"}, capture_output=True, text=True, check=False
    )
    return None if asked.returncode == 0 else asked.stderr.strip().rpartition("\n")[2]


@pytest.fixture(params=["compiled", "interpreted"])
def form(request: pytest.FixtureRequest) -> str:
    """Each form of the hot modules; the compiled one is skipped where it is not built."""
    if request.param == "compiled" and (reason := why_not_compiled()) is not None:
        pytest.skip(reason)
    return str(request.param)


@pytest.fixture
def daemon(lab: Lab, tmp_path: Path) -> Iterator[DaemonFactory]:
    """A function that returns a started Daemon:
    `daemon(config, form="auto", workers=2, start=True, prefix=(), in_lab=None, **environment)`.

    The configuration is a dictionary (what the lab's daemons share is filled in) or a text. Several can be made in
    one test, one after another. At the end each is told to end, and the test fails if it does not or if it wrote a
    traceback.
    """
    made: list[Daemon] = []

    def make(
        config: Config,
        form: str = "auto",
        workers: int = 2,
        *,
        start: bool = True,
        prefix: Sequence[str] = (),
        in_lab: Lab | None = None,
        **environment: str,
    ) -> Daemon:
        directory = tmp_path / f"daemon{len(made)}"
        directory.mkdir()
        daemon = Daemon(in_lab or lab, config, directory, form, workers, prefix, **environment)
        made.append(daemon)
        return daemon.start() if start else daemon

    yield make
    failures = []
    for daemon in made:
        try:
            daemon.close()
        except AssertionError as error:
            failures.append(str(error))
    assert not failures, "\n".join(failures)
