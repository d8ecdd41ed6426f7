"""A process in which one system call is forbidden, as by a container's filter."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
from collections.abc import Callable

import pytest

CALLS = {
    "x86_64": {"recvmmsg": 299, "sendmmsg": 307, "splice": 275},
    "aarch64": {"recvmmsg": 243, "sendmmsg": 269, "splice": 76},
}


def said_where_forbidden(call: str, do: Callable[[], object]) -> str:
    """Return what `do` returns or raises in a forked process in which a system call fails with EPERM, as text."""
    number = CALLS.get(platform.machine(), {}).get(call)
    if number is None:
        pytest.skip("the numbers of system calls are known for two kinds of processors")
    ours, theirs = os.pipe()
    pid = os.fork()
    if pid == 0:
        said = "nothing"
        try:
            _forbid(number)
            said = str(do())
        except BaseException as error:  # noqa: BLE001  # the test is told, and this process ends in any case
            said = str(error)
        finally:
            os.write(theirs, said.encode())
            os._exit(0)
    os.waitpid(pid, 0)
    said = os.read(ours, 1000).decode()
    os.close(ours)
    os.close(theirs)
    return said


def _forbid(number: int) -> None:
    """Have a system call fail with EPERM in this process (seccomp(2))."""
    allow, refuse = 0x7FFF0000, 0x00050001
    program = ((0x20, 0, 0, 0), (0x15, 0, 1, number), (0x06, 0, 0, refuse), (0x06, 0, 0, allow))
    memory = ctypes.create_string_buffer(b"".join(struct.pack("HBBI", *line) for line in program))
    head = struct.pack("@HP", len(program), ctypes.addressof(memory))
    libc = ctypes.CDLL(None, use_errno=True)
    assert libc.prctl(38, 1, 0, 0, 0) == 0  # PR_SET_NO_NEW_PRIVS
    assert libc.prctl(22, 2, head, 0, 0) == 0  # PR_SET_SECCOMP, SECCOMP_MODE_FILTER
