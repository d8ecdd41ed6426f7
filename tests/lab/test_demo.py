"""`lbd demo` as its user runs it: the installed command, in a sandbox of its own."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import time
from pathlib import Path
from types import TracebackType
from typing import Self

import pytest

from lab_daemon import LBD, descendants, wait_dead
from lab_wait import eventually

pytestmark = pytest.mark.usefixtures("sandboxed")
DEADLINE_S = 30.0
PLACES = [Path("/run/lbd-demo"), Path("/run/netns/client"), Path("/run/lbd/admin.sock"), Path("/var/lib/lbd/journal")]
"""What a demo makes in its sandbox and must not make outside of it."""


class Demo:
    """A running `lbd demo`. At the end of the `with` block no process of it may be left, and no file of the machine."""

    def __init__(self, *flags: str, **environment: str) -> None:
        self.process = subprocess.Popen(
            [LBD, "demo", *flags],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env={**os.environ, **environment},
        )
        self.below: set[int] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.process.kill()
        self.process.wait()
        for pid in self.below:
            wait_dead(pid)
        left = [place for place in PLACES if place.exists()]
        assert left == []

    def read_until(self, text: str) -> str:
        """Read lines until one contains `text`, and return them all."""
        assert self.process.stdout is not None
        lines = []
        for line in self.process.stdout:
            lines.append(line)
            if text in line:
                self.below.update(descendants(self.process.pid))
                return "".join(lines)
        raise AssertionError(f"the demo ended before {text!r}:\n{''.join(lines)}")

    def end(self, timeout_s: float = DEADLINE_S) -> str:
        """Wait till it has ended and return the rest of what it wrote."""
        output, _ = self.process.communicate(timeout=timeout_s)
        return output


def test_the_demo_loses_a_pod_and_no_request_within_30_s() -> None:
    begun_s = time.monotonic()
    with Demo() as demo:
        output = demo.read_until("owns 172.16.101.150")
        assert len(demo.below) >= 8, "init, play, three Pods, supervisor and two workers"
        output += demo.end()
        assert demo.process.returncode == 0, output
    assert time.monotonic() - begun_s < DEADLINE_S
    happened = [output.index(text) for text in ("killed pod2", "lbd sees pod2 down", "revived", "answers again")]
    assert happened == sorted(happened)
    assert "No request failed from the kill on." in output
    rows = {name.strip(): int(count) for name, count in re.findall(r"│ ([a-z0-9 ]+?) +│ +(\d+) (?:│|ms)", output)}
    answered = [rows[f"answered by pod{number}"] for number in (1, 2, 3)]
    assert min(answered) > 100
    assert answered[1] < min(answered[0], answered[2]), "the killed Pod missed its share while it was dead"
    assert sum(answered) + rows["cut off at the moment of the kill"] == rows["requests"]


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
def test_a_signal_ends_the_demo_with_everything_in_it(number: signal.Signals) -> None:
    with Demo() as demo:
        demo.read_until("owns 172.16.101.150")
        demo.process.send_signal(number)
        demo.end(8.0)
        assert demo.process.returncode == (-number if number == signal.SIGKILL else 130)


def test_a_demo_whose_daemon_does_not_start_says_why_and_exits_1() -> None:
    with Demo(LBD_FORM="nonsense") as demo:
        output = demo.end()
        assert demo.process.returncode == 1
        assert "LBD_FORM=nonsense" in output


def test_the_commands_that_a_kept_demo_prints_work_from_outside() -> None:
    with Demo("--keep") as demo:
        output = demo.read_until("It stays until Ctrl-C") + demo.read_until("eth0 up")
        commands = dict(re.findall(r"^# (.*)\n(nsenter .*)$", output, re.MULTILINE))

        def run(what: str) -> str:
            argv = shlex.split(commands[what])
            return subprocess.run(argv, capture_output=True, text=True, check=True, timeout=10).stdout

        asked = "ask the VIP as the client, again and again"
        assert {run(asked).strip() for _ in range(9)} == {"pod1", "pod2", "pod3"}
        assert "172.16.101.150" in run("what lbd says")
        assert 'lbd_member_health{virtual_service="web"' in run("its metrics")
        run("take a Pod's network away")
        eventually(lambda: "down" in run("what lbd says"), 10.0)
        assert {run(asked).strip() for _ in range(6)} == {"pod2", "pod3"}
        run("and bring it back")
        eventually(lambda: run(asked).strip() == "pod1", 15.0)
        demo.process.send_signal(signal.SIGINT)
        demo.end(8.0)
        assert demo.process.returncode == 0, output
