"""Configuration files: which ones there are, and their bytes as text, whatever is in them."""

from __future__ import annotations

import os
import re
from pathlib import Path

from lbd.config.errors import ConfigError, ConfigErrors

DEFAULT_FOLDER = Path("/etc/lbd")
MAX_FILE_BYTES = 8 * 1024 * 1024
"""65,536 members in the longest usual form are 5 MiB."""

# What YAML 1.2 §5.1 calls printable is all that may stand in a file; the rest has to be written as an escape.
_NOT_PRINTABLE = re.compile("[^\t\n\r\x20-\x7e\x85\xa0-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def default_paths(folder: Path = DEFAULT_FOLDER) -> list[Path]:
    """Return `lbd.yaml` and `conf.d/*.yaml` in lexical order, the files that are read where none is named.

    `lbd.yaml` is among them even if it doesn't exist, unless `conf.d` has files: then it is optional.

    Raises:
        ConfigErrors: `conf.d` is there but can't be listed.
    """
    main, parts_folder = folder / "lbd.yaml", folder / "conf.d"
    try:
        names = os.listdir(parts_folder)
    except FileNotFoundError:
        names = []
    except OSError as error:
        raise ConfigErrors([_unreadable(parts_folder, f"can't be listed: {error.strerror}")]) from error
    parts = [parts_folder / name for name in sorted(names) if name.endswith(".yaml") and not name.startswith(".")]
    return parts if parts and not main.exists() else [main, *parts]


def _unreadable(path: Path, message: str) -> ConfigError:
    return ConfigError(str(path), 1, 1, "", message)


def read_text(path: Path) -> str | ConfigError:
    """Return the text of a file without its byte order mark, or why there is none."""
    try:
        with open(path, "rb", buffering=0) as file:
            content = _read_at_most(file.fileno(), MAX_FILE_BYTES + 1)
    except OSError as error:
        return _unreadable(path, f"can't be read: {error.strerror or error}")
    except ValueError as error:  # a path with a NUL byte
        return _unreadable(path, f"can't be read: {error}")
    if len(content) > MAX_FILE_BYTES:
        return _unreadable(path, f"is larger than {MAX_FILE_BYTES // 1024 // 1024} MiB: this is no configuration file")
    return _decode(path, content)


def _read_at_most(descriptor: int, limit_bytes: int) -> bytes:
    """Read a file, pipe or device to its end or to the limit; a pipe gives its bytes in pieces."""
    pieces: list[bytes] = []
    missing_bytes = limit_bytes
    while missing_bytes and (piece := os.read(descriptor, min(missing_bytes, 1024 * 1024))):
        pieces.append(piece)
        missing_bytes -= len(piece)
    return b"".join(pieces)


def _decode(path: Path, content: bytes) -> str | ConfigError:
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        return _unreadable(path, "is UTF-16: save it as UTF-8")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        # The bytes before the bad one are good UTF-8, but for the byte order mark that was taken off.
        before = error.object[: error.start].decode("utf-8-sig")
        return _at_end_of(path, before, f"the byte 0x{error.object[error.start]:02x} is not UTF-8")
    found = _NOT_PRINTABLE.search(text)
    if found:
        return _at_end_of(path, text[: found.start()], f"the character U+{ord(found[0]):04X} may not stand in YAML")
    return text


def _at_end_of(path: Path, before: str, message: str) -> ConfigError:
    line = before.count("\n") + 1
    return ConfigError(str(path), line, len(before) - (before.rfind("\n") + 1) + 1, "", message)
