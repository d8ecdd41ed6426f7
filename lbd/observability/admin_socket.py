"""The unix socket of the admin API: made with its mode, in place of a dead daemon's, never of a living one's."""

from __future__ import annotations

import contextlib
import os
import socket
import stat
import struct
from dataclasses import dataclass

SOCKET_MODE = 0o660
_BACKLOG = 32
_LONGEST_PATH_BYTES = 107
"""sun_path of unix(7) has 108 bytes with its terminating zero."""


class AdminSocketError(OSError):
    """The admin socket can't be made; the text names the path and what to do."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Who is at the other end of a unix socket (SO_PEERCRED, unix(7))."""

    pid: int
    uid: int
    gid: int


def peer_of(connection: socket.socket) -> Peer:
    """Return who connected."""
    shape = struct.Struct("3i")
    return Peer(*shape.unpack(connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, shape.size)))


class AdminSocket:
    """A listening unix socket at `path`, and its removal."""

    def __init__(self, path: str) -> None:
        self.path = path
        self._identity: tuple[int, int] | None = None

    def open(self) -> socket.socket:
        """Make the parent directory where it is missing, listen with mode 0660, and return the socket.

        The socket is made beside its place and renamed into it: nobody can connect to it with another mode, and a stale
        file is replaced in one step.

        Raises:
            AdminSocketError: a living daemon answers at the path, something that is no socket is there, the path is
                too long or not writable.
        """
        temporary = f"{self.path}.{os.getpid()}"
        if len(os.fsencode(temporary)) > _LONGEST_PATH_BYTES:
            raise AdminSocketError(f"{self.path}: too long for a unix socket: set a shorter admin.socket")
        listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        try:
            os.makedirs(os.path.dirname(self.path) or ".", mode=0o755, exist_ok=True)
            self._refuse_living()
            with contextlib.suppress(FileNotFoundError):
                os.unlink(temporary)  # left by a daemon with our process id that died between these lines
            listener.bind(temporary)
            os.chmod(temporary, SOCKET_MODE)
            listener.listen(_BACKLOG)
            os.rename(temporary, self.path)
            found = os.lstat(self.path)
        except OSError as error:
            listener.close()
            if isinstance(error, AdminSocketError):
                raise
            raise AdminSocketError(
                error.errno, f"{self.path}: can't make the admin socket: {error.strerror}"
            ) from error
        self._identity = (found.st_dev, found.st_ino)
        return listener

    def remove(self) -> None:
        """Remove the file if it is still the one that `open` made; another daemon's is left alone."""
        if self._identity is None:
            return
        with contextlib.suppress(FileNotFoundError):
            found = os.lstat(self.path)
            if (found.st_dev, found.st_ino) == self._identity:
                os.unlink(self.path)
        self._identity = None

    def _refuse_living(self) -> None:
        try:
            if not stat.S_ISSOCK(os.lstat(self.path).st_mode):
                raise AdminSocketError(f"{self.path}: is there and is no socket: remove it or set another admin.socket")
        except FileNotFoundError:
            return
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            probe.setblocking(False)
            try:
                probe.connect(self.path)
                owner = f" (process {peer_of(probe).pid})"
            except (ConnectionRefusedError, FileNotFoundError):
                return
            except BlockingIOError:
                owner = ""  # its backlog is full: it lives, but is too busy to say who it is
        raise AdminSocketError(f"{self.path}: another lbd{owner} listens there: stop it or set another admin.socket")
