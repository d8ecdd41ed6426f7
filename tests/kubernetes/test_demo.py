"""`lbd demo --kubernetes` as its user runs it: the installed command, in a sandbox of its own."""

from __future__ import annotations

import os
import re
import shlex
import signal
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest

from build_apiserver import why_not
from lab_daemon import LBD, descendants, wait_dead
from lbd.cli.demo import manifests

DEADLINE_S = 60.0
PLACES = [Path("/run/lbd-demo"), Path("/run/netns/client"), Path("/run/lbd/admin.sock"), Path("/sys/class/net/mgmt0")]
"""What a demo makes in its sandbox and must not make outside of it; a network of this process's tests has another."""


@pytest.fixture(autouse=True)
def _apiserver(sandboxed: None) -> None:
    if (reason := why_not(os.environ)) is not None:
        pytest.skip(reason)


@contextmanager
def demo(*flags: str, **environment: str) -> Iterator[subprocess.Popen[str]]:
    """Start a demo; at the end nothing of it may be left."""
    before = [place for place in PLACES if place.exists()]
    process = subprocess.Popen(
        [LBD, "demo", "--kubernetes", *flags],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **environment},
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()
    assert [place for place in PLACES if place.exists()] == before


def read_until(process: subprocess.Popen[str], text: str) -> tuple[str, set[int]]:
    """Read lines until one contains `text`; return them, and the processes that run then."""
    assert process.stdout is not None
    lines = []
    for line in process.stdout:
        lines.append(line)
        if text in line:
            return "".join(lines), set(descendants(process.pid))
    raise AssertionError(f"the demo ended before {text!r}:\n{''.join(lines)}")


def in_order(output: str, texts: Sequence[str]) -> bool:
    """Tell whether all these are in the output, one after another."""
    position = 0
    for text in texts:
        position = output.find(text, position)
        assert position >= 0, f"{text!r} is not there, or earlier:\n{output}"
        position += len(text)
    return True


def test_the_example_of_the_field_happens_from_apply_to_delete() -> None:
    begun_s = time.monotonic()
    with demo() as process:
        output, _ = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 0, output
    assert time.monotonic() - begun_s < DEADLINE_S
    assert "FAILED" not in output
    assert in_order(
        output,
        [
            "l4rules.ako.vmware.com created",
            "$ kubectl apply -f deployment.yaml\ndeployment.apps/avi-demo-test created",
            "service/avi-demo-test created",
            "<pending>",
            "172.16.101.150   80/TCP",
            "$ for i in",
            "round_robin  serving",
            "$ kubectl apply -f l4rule.yaml\nl4rule.ako.vmware.com/my-l4-rule created",
            "service/avi-demo-test annotated",
            "my-l4-rule   Accepted   1",
            "consistent_hash  serving",
            "monitors: system-ping, system-tcp; persistence: 1 client",
            '"event": "connection_ended", "service": "default/avi-demo-test:80"',
            "my-l4-rule patched",
            "my-l4-rule   Rejected   1",
            'healthMonitorRefs[0]: there is no health monitor "No-Such"',
            "generation 1, which was accepted, stays in force",
            "still consistent_hash",
            "the long connection never broke",
            'service "avi-demo-test" deleted',
            "no longer has 172.16.101.150",
            "All of it happened",
        ],
    )
    took = re.search(r"EXTERNAL-IP 172\.16\.101\.150 (\d+) ms after", output)
    assert took is not None
    assert int(took[1]) < 2000
    requests = re.search(r"(\d+) requests from beginning to end, 0 failed", output)
    assert requests is not None
    assert int(requests[1]) > 100


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_signal_ends_the_demo_with_the_api_server_in_it(number: signal.Signals) -> None:
    with demo() as process:
        _, below = read_until(process, "rolebinding.rbac.authorization.k8s.io/lbd-lease created")
        assert len(below) >= 4, "init, play, etcd and kube-apiserver"
        process.send_signal(number)
        process.communicate(timeout=10.0)
        assert process.returncode == (-number if number == signal.SIGKILL else 130)
        for pid in below:
            wait_dead(pid)


def test_a_daemon_that_does_not_start_is_said_and_exits_1() -> None:
    with demo(LBD_FORM="nonsense") as process:
        output, _ = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 1
        assert "LBD_FORM=nonsense" in output


def test_without_an_api_server_a_sentence_says_how_to_get_one(tmp_path: Path) -> None:
    with demo(KUBEBUILDER_ASSETS=str(tmp_path)) as process:
        output, _ = process.communicate(timeout=DEADLINE_S)
        assert process.returncode == 1
        assert output == f"lbd: KUBEBUILDER_ASSETS={tmp_path} has no kube-apiserver and no etcd that can be executed\n"


def test_the_commands_that_a_kept_demo_prints_work_from_outside() -> None:
    with demo("--keep") as process:
        output, _ = read_until(process, "It stays until Ctrl-C")
        more, _ = read_until(process, "ip netns exec client")
        commands = dict(re.findall(r"^# (.*)\n(nsenter .*)$", output + more, re.MULTILINE))
        said = subprocess.run(
            shlex.split(commands["what lbd says"]), capture_output=True, text=True, check=True, timeout=20
        ).stdout
        assert "KUBERNETES" in said
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=15.0)
        assert process.returncode == 0


def test_the_manifests_of_the_demo_are_those_that_are_shipped() -> None:
    assert manifests.folder() == Path(__file__).resolve().parents[2] / "config" / "kubernetes"
