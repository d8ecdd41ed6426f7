"""A network namespace that this process builds, runs commands in, and opens sockets in."""

from __future__ import annotations

import ctypes
import os
import socket
import subprocess
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import IO, Any, Final, ParamSpec, TypeVar

_CLONE_NEWNET: Final = 0x40000000  # linux/sched.h
_libc = ctypes.CDLL(None, use_errno=True)

P = ParamSpec("P")
R = TypeVar("R")

Stream = int | IO[Any] | None


class Namespace:
    """A named network namespace (`ip netns exec NAME …` reaches it from a shell in the same sandbox).

    Its thread has entered the namespace; a socket belongs to the namespace of the thread that made it, for ever, so
    sockets from `socket()` can be used by any thread.
    """

    def __init__(self, name: str) -> None:
        """Describe the namespace `name`; `ip netns add` has made it, or will before the first use."""
        self.name = name
        self.path = Path("/run/netns") / name
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=f"netns-{name}", initializer=self.enter)

    def enter(self) -> None:
        """Move the calling thread into the namespace, for good. For threads that the caller owns.

        Raises:
            OSError: there is no such namespace, or entering it is not permitted.
        """
        descriptor = os.open(self.path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            if _libc.setns(descriptor, _CLONE_NEWNET) != 0:
                number = ctypes.get_errno()
                raise OSError(number, f"entering {self.path}: {os.strerror(number)}")
        finally:
            os.close(descriptor)

    def call(self, function: Callable[P, R], *args: P.args, **kwargs: P.kwargs) -> R:
        """Return what `function` returns when it is called in the namespace. Calls come one after another."""
        return self._thread.submit(function, *args, **kwargs).result()

    def socket(self, family: int = socket.AF_INET, kind: int = socket.SOCK_STREAM, protocol: int = 0) -> socket.socket:
        """Return a new socket of this namespace."""
        return self.call(socket.socket, family, kind, protocol)

    def set_sysctl(self, key: str, value: object, *, optional: bool = False) -> None:
        """Write one kernel setting of the namespace, named with slashes: `net/ipv4/ip_forward`.

        Raises:
            OSError: the kernel refuses it, or has no such setting and it is not `optional`.
        """
        path = Path("/proc/sys") / key

        def write() -> None:
            if not optional or path.exists():
                path.write_text(str(value))

        self.call(write)

    def popen(
        self,
        argv: Sequence[str],
        *,
        environment: Mapping[str, str] | None = None,
        stdout: Stream = None,
        stderr: Stream = None,
    ) -> subprocess.Popen[bytes]:
        """Start a command in the namespace, in a process group of its own (a Ctrl-C does not reach it).

        The namespace's thread forks it, so it is inside from its first instruction.
        """
        return self.call(
            subprocess.Popen,
            argv,
            env=environment,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            process_group=0,
        )

    def run(
        self, argv: Sequence[str], *, check: bool = True, timeout_s: float = 30.0
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the namespace to its end and return it with its output as text.

        Raises:
            subprocess.CalledProcessError: it failed and `check` is set.
            subprocess.TimeoutExpired: it took longer than `timeout_s`, and was killed.
        """
        with self.popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE) as process:
            try:
                output, complaint = process.communicate(timeout=timeout_s)
            except BaseException:
                process.kill()
                raise
        done = subprocess.CompletedProcess(list(argv), process.returncode, output.decode(), complaint.decode())
        if check:
            done.check_returncode()
        return done

    def ip(self, *commands: str) -> None:
        """Run commands of `ip` (without the leading `ip`) in the namespace, in one process.

        Raises:
            subprocess.CalledProcessError: one of them failed; the others after it were not tried.
        """
        ip_batch(["ip", "-netns", self.name, "-batch", "-"], commands)

    def close(self) -> None:
        """End the namespace's thread. The namespace itself stays."""
        self._thread.shutdown(wait=True)


def ip_batch(argv: Sequence[str], commands: Sequence[str]) -> None:
    """Feed `commands` to one `ip -batch -`.

    Raises:
        subprocess.CalledProcessError: with what `ip` said in its `stderr`, and as a note.
    """
    done = subprocess.run(argv, input="\n".join(commands) + "\n", text=True, capture_output=True, check=False)
    if done.returncode != 0:
        error = subprocess.CalledProcessError(done.returncode, argv, done.stdout, done.stderr)
        error.add_note(f"{done.stderr.strip()}\nin:\n" + "\n".join(commands))
        raise error
