"""Runs a command in namespaces of its own, where it may build networks and from where nothing is left behind.

The command gets fresh mount, network and PID namespaces, and a user namespace unless it is root's (real root keeps
real capabilities, so that what is tried out is what will run). Inside, /run is empty and in memory, STATE_DIRECTORY
lies there too, /proc shows only the sandbox, and the process above the command reaps orphans as an init does. When the
command ends, or the caller is killed, the kernel kills every process in the sandbox and the networks vanish.

`python -m lbd.cli.demo.sandbox COMMAND [ARGUMENT ...]` does it from a shell.
"""

from __future__ import annotations

import ctypes
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NoReturn

VARIABLE: Final = "LBD_SANDBOX"
"""Set inside: the command that enters the sandbox from where it was started, to be followed by a command to run."""

# linux/sched.h, linux/mount.h, linux/prctl.h
_CLONE_NEWNS: Final = 0x00020000
_CLONE_NEWUSER: Final = 0x10000000
_CLONE_NEWPID: Final = 0x20000000
_CLONE_NEWNET: Final = 0x40000000
_MS_REC_PRIVATE: Final = 0x4000 | 0x40000
_MS_NOSUID_NODEV: Final = 0x2 | 0x4
_MS_NOEXEC: Final = 0x8
_PR_SET_PDEATHSIG: Final = 1

_EXIT_UNAVAILABLE: Final = 1
_STATE_DIRECTORY: Final = "/run/lbd-state"
_PASSED_ON: Final = frozenset({signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGQUIT, signal.SIGUSR1})
_MASKED: Final = _PASSED_ON | {signal.SIGCHLD}

_libc = ctypes.CDLL(None, use_errno=True)


class SandboxError(Exception):
    """This machine doesn't let us make the namespaces; the message says what to enable."""


def inside() -> bool:
    """Return whether this process runs in a sandbox."""
    return VARIABLE in os.environ


def run(argv: Sequence[str], environment: Mapping[str, str] | None = None) -> int:
    """Run a command in a sandbox of its own and return its exit status (128 + N for a death by signal N).

    SIGTERM, SIGINT, SIGHUP, SIGQUIT and SIGUSR1 sent to this process
    are passed on to the command while it runs.

    Raises:
        SandboxError: the namespaces can't be made.
    """
    report_end, verdict_end = os.pipe()
    previous_mask = signal.pthread_sigmask(signal.SIG_BLOCK, _MASKED)
    try:
        child = os.fork()
        if child == 0:
            os.close(report_end)
            _child(argv, environment, verdict_end, previous_mask)
        os.close(verdict_end)
        with open(report_end, encoding="utf-8") as report:  # ends when the command starts, or the child gives up
            failure = report.read()
        status = _wait_passing_signals_on(child)
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, previous_mask)
    if failure:
        raise SandboxError(failure)
    return status


def why_unavailable() -> str | None:
    """Return why no sandbox can be made here, or None if one can. Makes one to find out (some 20 ms)."""
    try:
        status = run(["/bin/true"])
    except SandboxError as error:
        return str(error)
    return None if status == 0 else f"/bin/true ended with status {status} in the sandbox"


def _child(
    argv: Sequence[str], environment: Mapping[str, str] | None, verdict_end: int, mask: set[int | signal.Signals]
) -> NoReturn:
    """In the forked child: make the namespaces, become or watch the init, never return."""
    failure = "the sandbox failed in a way that it does not know"
    try:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        user_namespace = _unshare()
        init = os.fork()
        if init == 0:
            _init(argv, environment, verdict_end, mask, user_namespace)
        os.close(verdict_end)
        failure = ""
        os._exit(_wait_passing_signals_on(init))
    except SandboxError as error:
        failure = str(error)
    except OSError as error:
        failure = f"the sandbox could not be made: {error}"
    finally:
        if failure:
            os.write(verdict_end, failure.encode())
        os._exit(_EXIT_UNAVAILABLE)


def _unshare() -> bool:
    """Leave the caller's namespaces; what is forked from here on lives in the new ones. Return whether the user
    namespace is among them."""
    uid, gid = os.geteuid(), os.getegid()
    flags = _CLONE_NEWNS | _CLONE_NEWNET | _CLONE_NEWPID
    if uid == 0 and _libc.unshare(flags) == 0:
        return False
    if _libc.unshare(flags | _CLONE_NEWUSER) != 0:
        raise SandboxError(_why_forbidden(ctypes.get_errno()))
    try:
        Path("/proc/self/setgroups").write_text("deny")
        Path("/proc/self/uid_map").write_text(f"0 {uid} 1")
        Path("/proc/self/gid_map").write_text(f"0 {gid} 1")
    except OSError as error:
        raise SandboxError(_why_forbidden(error.errno or 0)) from error
    return True


def _why_forbidden(number: int) -> str:
    switches = (
        ("/proc/sys/kernel/unprivileged_userns_clone", "0", "kernel.unprivileged_userns_clone=1"),
        (
            "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "kernel.apparmor_restrict_unprivileged_userns=0",
        ),
        ("/proc/sys/user/max_user_namespaces", "0", "user.max_user_namespaces=10000"),
    )
    for path, forbidding, remedy in switches:
        if Path(path).exists() and Path(path).read_text().strip() == forbidding:
            return (
                f"this machine forbids user namespaces to ordinary users: run `sudo sysctl -w {remedy}`, or run as root"
            )
    return (
        f"this machine forbids user, mount, network or PID namespaces ({os.strerror(number)}): "
        "in a container, start it with --privileged; elsewhere, run as root"
    )


def _init(
    argv: Sequence[str],
    environment: Mapping[str, str] | None,
    verdict_end: int,
    mask: set[int | signal.Signals],
    user_namespace: bool,
) -> NoReturn:
    """As process 1 of the sandbox: furnish it, start the command, reap until the command has ended."""
    failure = "the sandbox's init failed in a way that it does not know"
    try:
        _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)
        number_outside = os.readlink("/proc/self")  # this /proc is still the caller's
        way_in = f"nsenter --target {number_outside} {'--user --preserve-credentials ' if user_namespace else ''}"
        _furnish()
        command = os.fork()
        if command == 0:
            signal.pthread_sigmask(signal.SIG_SETMASK, mask)
            ours = {VARIABLE: f"{way_in}--mount --net --pid", "STATE_DIRECTORY": _STATE_DIRECTORY}
            os.execvpe(argv[0], list(argv), {**(environment or os.environ), **ours})
        os.close(verdict_end)
        failure = ""
        os._exit(_wait_passing_signals_on(command))
    except SandboxError as error:
        failure = str(error)
    except OSError as error:
        failure = f"{argv[0]}: {error.strerror}" if os.getpid() != 1 else f"the sandbox could not be furnished: {error}"
    finally:
        if failure:
            os.write(verdict_end, failure.encode())
        os._exit(_EXIT_UNAVAILABLE)


def _furnish() -> None:
    """Give the sandbox its own /proc, an empty /run, and a loopback that works."""
    _mount("none", "/", None, _MS_REC_PRIVATE, "")
    _mount("proc", "/proc", "proc", _MS_NOSUID_NODEV | _MS_NOEXEC, "")
    _mount("tmpfs", "/run", "tmpfs", _MS_NOSUID_NODEV, "mode=0755")
    os.mkdir(_STATE_DIRECTORY)
    if os.spawnvp(os.P_WAIT, "ip", ["ip", "link", "set", "lo", "up"]) != 0:
        raise SandboxError("`ip link set lo up` failed: install iproute2")


def _mount(source: str, target: str, kind: str | None, flags: int, options: str) -> None:
    result = _libc.mount(
        source.encode(), target.encode(), kind.encode() if kind else None, ctypes.c_ulong(flags), options.encode()
    )
    if result != 0:
        raise SandboxError(f"mounting {target} in the sandbox failed: {os.strerror(ctypes.get_errno())}")


def _wait_passing_signals_on(child: int) -> int:
    """Wait for `child`, reap whatever else ends, pass signals on, and return the child's exit status.

    Ctrl-C and Ctrl-\\ at the terminal (si_code SI_KERNEL, above zero) have reached the child already, since it is in
    the same process group; they are passed on only when they were sent to this very process.
    """
    while True:
        arrived = signal.sigwaitinfo(_MASKED)
        if arrived.si_signo != signal.SIGCHLD:
            if arrived.si_code <= 0 or arrived.si_signo not in (signal.SIGINT, signal.SIGQUIT):
                os.kill(child, arrived.si_signo)
            continue
        status = _reap(child)
        if status is not None:
            return status if status >= 0 else 128 - status


def _reap(child: int) -> int | None:
    """Collect every child that has ended; return the status of `child` if it was among them."""
    result = None
    while True:
        try:
            pid, status = os.waitpid(-1 if os.getpid() == 1 else child, os.WNOHANG)
        except ChildProcessError:
            return result
        if pid == 0:
            return result
        if pid == child:
            result = os.waitstatus_to_exitcode(status)
            if os.getpid() != 1:
                return result


def main() -> NoReturn:
    """The command line: run what the arguments say."""
    if len(sys.argv) < 2:
        sys.exit("usage: python -m lbd.cli.demo.sandbox COMMAND [ARGUMENT ...]")
    try:
        sys.exit(run(sys.argv[1:]))
    except SandboxError as error:
        sys.exit(f"lbd: {error}")


if __name__ == "__main__":
    main()
