"""Files → desired state, or all their errors."""

from __future__ import annotations

import functools
import os
from collections.abc import Sequence
from pathlib import Path

from lbd.config import rules, scalars
from lbd.config.build import build
from lbd.config.errors import ConfigError, ConfigErrors
from lbd.config.facts import Cursor, gather
from lbd.config.files import read_text
from lbd.config.schema import FileShape, judge
from lbd.config.tree import parse, plain
from lbd.model.desired import DesiredState

MAX_WORKERS = 64


def load(paths: Sequence[Path], generation: int, *, allow_loopback: bool = False) -> DesiredState:
    """Return the desired state that the files describe together, as generation `generation`.

    `allow_loopback` permits loopback VIPs and members, as `service_engine.allow_loopback` in one of the files does.
    This blocks while it reads and parses: a daemon calls it in a thread.

    Raises:
        ConfigErrors: something is wrong with the files; it carries every error that could be found.
        ValueError: `paths` is empty.
    """
    if not paths:
        raise ValueError("no configuration file to load")
    errors: list[ConfigError] = _given_twice(paths)
    tops: list[Cursor] = []
    shapes: list[FileShape] = []
    for path in paths if not errors else ():
        top, shape, found = _load_file(path)
        errors += found
        tops += [top] if top else []
        shapes += [shape] if shape else []
    facts = gather(tuple(tops), complete=len(tops) == len(paths), allow_loopback=allow_loopback)
    for rule in rules.RULES:
        errors += rule(facts)
    host_name = os.uname().nodename
    if not errors:
        errors += _host_name_errors(host_name, tops)
    if errors:
        order = {str(path): index for index, path in enumerate(paths)}
        raise ConfigErrors(sorted(errors, key=lambda error: (order[error.file], error.line, error.column)))
    return build(shapes, generation, host_name=host_name, processors=processors())


@functools.cache
def processors() -> int:
    """Return how many CPUs this process may use, at most the number of workers that there can be.

    Asked once: a reload must not see another number than the start, which only a restart could follow.
    """
    return min(len(os.sched_getaffinity(0)), MAX_WORKERS)


def _load_file(path: Path) -> tuple[Cursor | None, FileShape | None, list[ConfigError]]:
    file = str(path)
    text = read_text(path)
    if isinstance(text, ConfigError):
        return None, None, [text]
    root, errors = parse(text, file)
    if root is None:
        return None, None, errors
    shape, wrong = judge(file, root, plain(root))
    return Cursor.top(file, root), shape, errors + wrong


def _given_twice(paths: Sequence[Path]) -> list[ConfigError]:
    errors: list[ConfigError] = []
    first: dict[str, Path] = {}
    for path in paths:
        try:
            real = os.path.realpath(path)
        except (OSError, ValueError):  # reading it will say what is wrong with it
            continue
        if real in first:
            errors.append(ConfigError(str(path), 1, 1, "", f"is the same file as {first[real]}"))
        first.setdefault(real, path)
    return errors


def _host_name_errors(host_name: str, tops: Sequence[Cursor]) -> list[ConfigError]:
    if any(top.at("service_engine", "name") for top in tops):
        return []
    try:
        scalars.name(host_name)
    except ValueError as error:
        message = f"is required, because the host name can't stand in for it: {error}"
        sections = [section for top in tops if (section := top.at("service_engine"))]
        return [(sections or tops)[0].place.error(message, *(["name"] if sections else ["service_engine", "name"]))]
    return []
