"""YAML text → a tree in which each key and value knows its line and column.

The tree is built from the parser's events and not from PyYAML's own nodes, for four reasons: PyYAML takes duplicate
keys silently; it resolves scalars as YAML 1.1 (`12:30` is 750, `022` is 18, `on` is true), where this follows the
YAML 1.2 core schema and leaves everything as text that is not a plain decimal number, true, false or null; its
composer recurses in C; and only here can nesting and aliases be bounded before they cost anything.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

import yaml

from lbd.config.errors import ConfigError, Location, path_of, show

MAX_DEPTH = 32
"""Levels of nesting; the schema needs 7. libyaml needs 99 s for 200,000 brackets: stopping here makes that 0."""
MAX_NODES = 1_000_000
"""Values in one file, an alias counted as all that it stands for: 65,536 members with every key are 850,000."""

Plain = str | int | bool | None

# Nodes are named tuples: a frozen dataclass costs four times as much to make, and a file has 100,000 of them.

_DECIMAL = re.compile(r"[-+]?(?:0|[1-9][0-9]{0,17})")
# libyaml refuses "\ud800" by itself, PyYAML's own parser does not.
_SURROGATE = re.compile("[\ud800-\udfff]")
_WORDS: dict[str, bool | None] = {
    **dict.fromkeys(("", "~", "null", "Null", "NULL")),
    **dict.fromkeys(("true", "True", "TRUE"), True),
    **dict.fromkeys(("false", "False", "FALSE"), False),
}


class Scalar(NamedTuple):
    """A single value. `line` and `column` count from 1; `size` is the number of values, `height` that of levels."""

    line: int
    column: int
    value: Plain
    merge_key: bool = False
    """Whether it was written as a plain `<<`."""
    size: int = 1
    height: int = 1


class Entry(NamedTuple):
    """A key of a mapping, where it stands, and its value."""

    line: int
    column: int
    node: Node


class Mapping(NamedTuple):
    """Keys with their values, each key once."""

    line: int
    column: int
    entries: dict[str, Entry]
    size: int
    height: int


class Sequence(NamedTuple):
    """A list."""

    line: int
    column: int
    items: list[Node]
    size: int
    height: int


Node = Scalar | Mapping | Sequence


def plain(node: Node) -> object:
    """Return a tree as dictionaries, lists, text, whole numbers, true, false and None."""
    if isinstance(node, Scalar):
        return node.value
    if isinstance(node, Mapping):
        return {key: plain(entry.node) for key, entry in node.entries.items()}
    return [plain(item) for item in node.items]


def resolve(text: str) -> Plain:
    """Return what a plain scalar stands for: YAML 1.2's null, true, false and decimal numbers, otherwise its text."""
    if text in _WORDS:
        return _WORDS[text]
    return int(text) if _DECIMAL.fullmatch(text) else text


def parse(text: str, file: str) -> tuple[Node | None, list[ConfigError]]:
    """Return the one document of `text`, None where it can't be read to its end, and what is wrong with it as YAML."""
    builder = _Builder(file)
    if not builder.read(text):
        return None, builder.errors
    if not builder.roots:
        builder.errors.append(ConfigError(file, 1, 1, "", "is empty"))
        return None, builder.errors
    return builder.roots[0], builder.errors


def parse_manifests(text: str, file: str, resolve: Callable[[str], Plain]) -> tuple[list[Node], list[ConfigError]]:
    """Return the documents of `text`, as many as it has, and what is wrong with it as YAML.

    `resolve` says what a plain scalar stands for: other programs read such files too, and not as YAML 1.2. Keys that
    are no text are what is written of them.
    """
    builder = _Builder(file, resolve, several=True)
    builder.read(text)
    return builder.roots, builder.errors


def _syntax_error(error: yaml.YAMLError, text: str, file: str) -> ConfigError:
    mark = getattr(error, "problem_mark", None) or getattr(error, "context_mark", None)
    line, column = (mark.line + 1, mark.column + 1) if mark else (1, 1)
    problem = getattr(error, "problem", None) or str(error).splitlines()[0]
    context = getattr(error, "context", None)
    message = f"is not YAML: {problem}" + (f" ({context})" if context else "")
    lines = text.split("\n", line)
    here = lines[line - 1] if line <= len(lines) else ""
    if "\t" in here[: len(here) - len(here.lstrip())] or here[column - 1 : column] == "\t":
        message += "; indent with spaces, not with tabs"
    return ConfigError(file, line, column, "", message)


class _UnreadableError(Exception):
    """Ends the reading of a file; carries its ConfigError."""


@dataclass(slots=True)
class _Key:
    text: str | None
    """None for a key that has been reported and is left out."""
    line: int
    column: int
    merge: bool = False


@dataclass(slots=True)
class _Frame:
    """A mapping or list whose end has not come yet."""

    line: int
    column: int
    anchor: str | None
    entries: dict[str, Entry] | None = None
    items: list[Node] = field(default_factory=list)
    key: _Key | None = None
    merges: list[Mapping] = field(default_factory=list)
    size: int = 1
    height: int = 1


class _Builder:
    """Makes trees of documents out of events; what can be reported without giving up goes to `errors`."""

    def __init__(self, file: str, resolve: Callable[[str], Plain] = resolve, *, several: bool = False) -> None:
        self.roots: list[Node] = []
        self.errors: list[ConfigError] = []
        self._file = file
        self._resolve = resolve
        self._several = several
        self._frames: list[_Frame] = []
        self._anchors: dict[str, Node] = {}
        self._documents = 0
        self._nodes = 0

    def read(self, text: str) -> bool:
        """Read a file; return whether it could be read to its end."""
        loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
        try:
            for event in yaml.parse(text, Loader=loader):
                self.take(event)
        except yaml.YAMLError as error:
            self.errors.append(_syntax_error(error, text, self._file))
            return False
        except _UnreadableError as error:
            self.errors.append(error.args[0])
            return False
        return True

    def take(self, event: yaml.Event) -> None:
        mark = event.start_mark
        assert mark is not None  # every event of a parser has one; only those made by hand for a dumper have none
        line, column = mark.line + 1, mark.column + 1
        if isinstance(event, yaml.ScalarEvent):
            if event.tag is not None:
                self._refuse_tag(event.tag, line, column)
            if not event.value.isascii() and _SURROGATE.search(event.value):
                raise self._fatal(line, column, "has half of a surrogate pair, which is no character")
            is_plain = event.implicit[0]
            value = self._resolve(event.value) if is_plain else event.value
            scalar = Scalar(line, column, value, merge_key=is_plain and value == "<<")
            self._complete(scalar, event.anchor, line, column)
        elif isinstance(event, yaml.AliasEvent):
            self._complete(self._aliased(event.anchor, line, column), None, line, column)
        elif isinstance(event, yaml.MappingStartEvent):
            if event.tag is not None:
                self._refuse_tag(event.tag, line, column)
            self._open(_Frame(line, column, event.anchor, entries={}))
        elif isinstance(event, yaml.SequenceStartEvent):
            if event.tag is not None:
                self._refuse_tag(event.tag, line, column)
            self._open(_Frame(line, column, event.anchor))
        elif isinstance(event, (yaml.MappingEndEvent, yaml.SequenceEndEvent)):
            self._close()
        elif isinstance(event, yaml.DocumentStartEvent):
            self._documents += 1
            self._anchors.clear()
            if self._documents > 1 and not self._several:
                raise self._fatal(line, column, "a second YAML document begins here; a file may have only one")

    def _location(self) -> Location:
        way: list[str | int] = []
        for frame in self._frames:
            if frame.entries is None:
                way.append(len(frame.items))
            elif frame.key is not None and frame.key.text is not None:
                way.append(frame.key.text)
        return tuple(way)

    def _error(self, line: int, column: int, message: str) -> ConfigError:
        return ConfigError(self._file, line, column, path_of(self._location()), message)

    def _fatal(self, line: int, column: int, message: str) -> _UnreadableError:
        return _UnreadableError(self._error(line, column, message))

    def _refuse_tag(self, tag: str, line: int, column: int) -> None:
        written = tag.replace("tag:yaml.org,2002:", "!!")
        self.errors.append(self._error(line, column, f"has the tag {show(written)}; tags are not supported"))

    def _aliased(self, anchor: str | None, line: int, column: int) -> Node:
        if anchor is not None and anchor in self._anchors:
            return self._anchors[anchor]
        if any(frame.anchor == anchor for frame in self._frames):
            raise self._fatal(line, column, f"*{anchor} stands inside of what it refers to")
        raise self._fatal(line, column, f"*{anchor} refers to an anchor that is not defined above")

    def _open(self, frame: _Frame) -> None:
        self._judge_depth(1, frame.line, frame.column)
        self._frames.append(frame)

    def _judge_depth(self, height: int, line: int, column: int) -> None:
        if len(self._frames) + height > MAX_DEPTH:
            raise self._fatal(line, column, f"is nested more than {MAX_DEPTH} levels deep")

    def _complete(self, node: Node, anchor: str | None, line: int, column: int) -> None:
        """Give a finished node, or an alias's, to the collection around it; it is used at `line` and `column`."""
        self._judge_depth(node.height, line, column)
        self._count(node.size, line, column)
        self._attach(node, anchor, line, column)

    def _count(self, nodes: int, line: int, column: int) -> None:
        self._nodes += nodes
        if self._nodes > MAX_NODES:
            raise self._fatal(line, column, f"the file has more than {MAX_NODES} values, aliases counted in full")

    def _attach(self, node: Node, anchor: str | None, line: int, column: int) -> None:
        if anchor is not None:
            self._anchors[anchor] = node
        if not self._frames:
            self.roots.append(node)
            return
        frame = self._frames[-1]
        frame.size += node.size
        frame.height = max(frame.height, node.height + 1)
        if frame.entries is None:
            frame.items.append(node)
        elif frame.key is None:
            frame.key = self._key(node, line, column)
        else:
            self._put(frame, frame.entries, frame.key, node)
            frame.key = None

    def _key(self, node: Node, line: int, column: int) -> _Key:
        if not isinstance(node, Scalar):
            self.errors.append(self._error(line, column, "a key must be text, not a list or a mapping"))
            return _Key(None, line, column)
        if not isinstance(node.value, str) and self._several:
            return _Key(json.dumps(node.value), line, column)
        if not isinstance(node.value, str):
            self.errors.append(self._error(line, column, f"the key {show(node.value)} must be text: put it in quotes"))
            return _Key(None, line, column)
        return _Key(node.value, line, column, node.merge_key)

    def _put(self, frame: _Frame, entries: dict[str, Entry], key: _Key, node: Node) -> None:
        if key.merge:
            merged = node.items if isinstance(node, Sequence) else [node]
            if not all(isinstance(mapping, Mapping) for mapping in merged):
                self.errors.append(self._error(key.line, key.column, "takes a mapping or a list of mappings"))
            frame.merges.extend(mapping for mapping in merged if isinstance(mapping, Mapping))
        elif key.text is not None and key.text in entries:
            first = entries[key.text]
            message = f"is a duplicate key; the first one is at {self._file}:{first.line}:{first.column}"
            self.errors.append(self._error(key.line, key.column, message))
        elif key.text is not None:
            entries[key.text] = Entry(key.line, key.column, node)

    def _close(self) -> None:
        frame = self._frames.pop()
        self._count(1, frame.line, frame.column)
        if frame.entries is None:
            node: Node = Sequence(frame.line, frame.column, frame.items, frame.size, frame.height)
        else:
            # A key written in the mapping wins over a merged one, and an earlier merge over a later.
            for key, entry in _merged(frame.merges):
                frame.entries.setdefault(key, entry)
            node = Mapping(frame.line, frame.column, frame.entries, frame.size, frame.height)
        self._attach(node, frame.anchor, frame.line, frame.column)


def _merged(merges: list[Mapping]) -> Iterator[tuple[str, Entry]]:
    for mapping in merges:
        yield from mapping.entries.items()
