"""What is wrong with a configuration: every error with its place, so that the operator can fix all of them at once."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

Location = tuple[str | int, ...]
"""The way from the top of a file to a value: keys and list indices."""

_SHOWN_CHARACTERS = 60
_PLAIN_KEY = re.compile(r"[A-Za-z0-9_-]+")


@dataclass(frozen=True, slots=True, order=True)
class ConfigError:
    """One thing that is wrong; `line` and `column` count from 1, `path` is empty where the file as a whole is meant.

    Its text is always one line:
    `lbd.yaml:12:9: virtual_services[0].pool.members[1].port: 70000 is not a port (1-65535)`
    """

    file: str
    line: int
    column: int
    path: str
    message: str

    def __str__(self) -> str:
        where = f"{self.path}: " if self.path else ""
        return f"{self.file}:{self.line}:{self.column}: {where}{self.message}"


class ConfigErrors(Exception):  # noqa: N818 - it carries many errors, and says so
    """A configuration that can't be used, with all its errors: file by file as given, each from top to bottom."""

    def __init__(self, errors: Iterable[ConfigError]) -> None:
        self.errors = tuple(errors)
        super().__init__("\n".join(map(str, self.errors)))


class Place(NamedTuple):
    """Where a value stands: in which file, on which line and column (from 1), and on which way from the top."""

    file: str
    line: int
    column: int
    location: Location

    @property
    def position(self) -> str:
        """`lbd.yaml:12:9`, to point at a place from the message of another one."""
        return f"{self.file}:{self.line}:{self.column}"

    def error(self, message: str, *below: str) -> ConfigError:
        """Return the error `message` at this place; `below` names keys under it that have no place of their own."""
        return ConfigError(self.file, self.line, self.column, path_of((*self.location, *below)), message)


def path_of(location: Location) -> str:
    """Return a location as `virtual_services[0].pool`; a key that would be ambiguous stands as `["a.b"]`."""
    text = ""
    for part in location:
        if isinstance(part, int):
            text += f"[{part}]"
        elif _PLAIN_KEY.fullmatch(part):
            text += f".{part}" if text else part
        else:
            text += f"[{show(part)}]"
    return text


def show(value: object) -> str:
    """Return a value of a YAML file as it may stand in a message: one line, printable, cut when long."""
    if value is None:
        return "nothing"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, str):
        cut = value if len(value) <= _SHOWN_CHARACTERS else value[: _SHOWN_CHARACTERS - 1] + "…"
        return json.dumps(cut, ensure_ascii=not cut.isprintable())
    if isinstance(value, list):
        return "a list"
    return "a mapping" if isinstance(value, dict) else str(value)
