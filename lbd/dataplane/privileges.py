"""Giving up every privilege, for good: a worker reads what strangers send and needs none, or CAP_NET_RAW alone."""

from __future__ import annotations

import ctypes
import os
import pwd
import struct

NO_CAPABILITY = "0"
"""What `effective_capabilities` says of a worker."""
CAP_NET_RAW_ALONE = "2000"
"""What it says of one that may use addresses of others as its own (IP_TRANSPARENT, ip(7))."""

_PR_SET_KEEPCAPS = 8
_PR_CAPBSET_DROP = 24
_PR_SET_NO_NEW_PRIVS = 38
_PR_CAP_AMBIENT = 47
_PR_CAP_AMBIENT_CLEAR_ALL = 4
_CAPABILITY_VERSION_3 = 0x20080522
_LAST_CAPABILITY = 63
_CAP_NET_RAW = 13
_NOBODY_UID = 65534


def drop_all(user: str, *, keep_net_raw: bool = False) -> None:
    """Become `user` where we are root and that uid is mapped here, and lose every capability, also for what we execute.

    Where `user` does not exist, `nobody` serves. In a user namespace that maps neither, the uid stays and the
    capabilities go all the same. `keep_net_raw` leaves CAP_NET_RAW to this process, and to nothing that it executes.

    Raises:
        PermissionError: other capabilities than these are effective afterwards.
    """
    libc = ctypes.CDLL(None, use_errno=True)
    for capability in range(_LAST_CAPABILITY + 1):
        libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)  # refused without CAP_SETPCAP: capset below is what counts
    libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    kept = 1 << _CAP_NET_RAW if keep_net_raw else 0
    if keep_net_raw:
        libc.prctl(_PR_SET_KEEPCAPS, 1, 0, 0, 0)  # or the change of the uid takes what is permitted; it ends at execve
    if os.geteuid() == 0:
        _become(user)
    libc.prctl(_PR_SET_KEEPCAPS, 0, 0, 0, 0)
    header = struct.pack("=Ii", _CAPABILITY_VERSION_3, 0)
    libc.capset(header, struct.pack("=6I", kept, kept, 0, 0, 0, 0))  # effective, permitted, inheritable; twice 32 bits
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if (left := effective_capabilities(os.getpid())) != f"{kept:x}":
        wanted = " but CAP_NET_RAW, which the daemon needs itself" if keep_net_raw else ""
        raise PermissionError(f"all capabilities{wanted} should have been dropped; {left} are left")


def _become(user: str) -> None:
    try:
        entry = pwd.getpwnam(user)
        uid, gid = entry.pw_uid, entry.pw_gid
    except KeyError:
        uid = gid = _NOBODY_UID
    if uid == os.geteuid() or not (_is_mapped(uid, "uid") and _is_mapped(gid, "gid")):
        return
    os.setgroups([])
    os.setresgid(gid, gid, gid)
    os.setresuid(uid, uid, uid)


def _is_mapped(identity: int, kind: str) -> bool:
    with open(f"/proc/self/{kind}_map") as table:
        ranges = [tuple(map(int, line.split())) for line in table]
    return any(first <= identity < first + count for first, _, count in ranges)


def effective_capabilities(pid: int) -> str:
    """Return a process's effective capabilities in hexadecimal without leading zeros, "?" if it is gone."""
    try:
        with open(f"/proc/{pid}/status") as lines:
            for line in lines:
                if line.startswith("CapEff:"):
                    return f"{int(line.split()[1], 16):x}"
    except OSError:
        pass  # it has ended meanwhile
    return "?"
