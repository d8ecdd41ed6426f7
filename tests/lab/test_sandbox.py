"""The sandbox: what it hides, what it passes on, and that nothing outlives it. These make a sandbox in the sandbox."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from lab_daemon import descendants, wait_dead
from lbd.cli.demo import sandbox

pytestmark = pytest.mark.usefixtures("sandboxed")
SANDBOX = [sys.executable, "-m", "lbd.cli.demo.sandbox"]


def shell(script: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*SANDBOX, "sh", "-c", script], capture_output=True, text=True, check=False, timeout=20)


def test_the_command_sees_only_itself_and_an_empty_run_with_its_loopback_up() -> None:
    done = shell("ls /run $STATE_DIRECTORY; ls -d /proc/[0-9]* | wc -l; ip -brief link")
    assert done.stderr == ""
    *folders, processes, link = done.stdout.splitlines()
    assert folders == ["/run:", "lbd-state", "", "/run/lbd-state:"]
    assert int(processes) <= 4  # init, sh, ls, wc
    assert link.split()[0] == "lo"
    assert "UP" in link


def test_the_exit_status_is_the_command_s() -> None:
    assert shell("exit 42").returncode == 42
    assert shell("kill -KILL $$").returncode == 128 + signal.SIGKILL


def test_a_command_that_does_not_exist_is_named() -> None:
    done = subprocess.run([*SANDBOX, "/no/such/program"], capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "/no/such/program: No such file or directory" in done.stderr
    with pytest.raises(sandbox.SandboxError, match="No such file"):
        sandbox.run(["/no/such/program"])


def test_networks_made_inside_are_not_seen_outside() -> None:
    assert (
        shell("ip netns add inner && ip link add left type veth peer name right && ip netns").stdout.split()[0]
        == "inner"
    )
    assert not Path("/run/netns/inner").exists()
    assert not Path("/sys/class/net/left").exists()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_the_caller_reaches_the_command(number: signal.Signals) -> None:
    script = (
        f"import signal,sys; signal.signal({int(number)}, lambda *_: sys.exit(9));"
        "print('set', flush=True); signal.pause()"
    )
    with subprocess.Popen([*SANDBOX, sys.executable, "-c", script], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        process.send_signal(number)
        assert process.wait(5) == 9


def test_killing_the_caller_kills_what_ran_inside_even_if_it_ignores_signals() -> None:
    script = "trap '' TERM INT HUP; setsid sleep 1000 & readlink /proc/self; while :; do sleep 1; done"
    with subprocess.Popen([*SANDBOX, "sh", "-c", script], stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        process.stdout.readline()
        inside = descendants(process.pid)
        assert len(inside) >= 4
        process.kill()
        for pid in inside:
            wait_dead(pid)


def test_an_orphan_is_reaped_and_ends_with_the_command() -> None:
    orphan = "sh -c 'sleep 0.01 & echo $!' > /run/pid; sleep 0.1; ls -d /proc/$(cat /run/pid) 2>&1"
    done = shell(f"{orphan}; sleep 1000 & exit 3")
    assert done.returncode == 3
    assert "No such file" in done.stdout


def test_the_way_in_that_is_told_inside_works_from_outside() -> None:
    with subprocess.Popen(
        [*SANDBOX, "sh", "-c", f"touch /run/mark; echo ${sandbox.VARIABLE}; read end"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        way_in = process.stdout.readline().split()
        seen = subprocess.run([*way_in, "ls", "/run"], capture_output=True, text=True, check=True)
        assert "mark" in seen.stdout.split()
        process.communicate("end\n")


def test_where_namespaces_are_forbidden_one_sentence_says_what_to_do() -> None:
    """A process that may have no more user namespaces and has no capability is such a place."""
    script = (
        "import ctypes; from lbd.cli.demo import sandbox;"
        "sandbox._libc.unshare = lambda flags: ctypes.set_errno(1) or -1;"
        "print(sandbox.why_unavailable())"
    )
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, env=dict(os.environ)
    )
    assert done.stdout.count("\n") == 1
    assert "run as root" in done.stdout
