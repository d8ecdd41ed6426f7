"""What the rules need to know of all files together, gathered from the trees as far as single values can be read.

A value that is wrong by itself is left out (its own error says so), so that one mistake doesn't hide another.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TypeVar

from lbd.config import scalars
from lbd.config.errors import Location, Place
from lbd.config.tree import Mapping, Node, Scalar, Sequence
from lbd.model.address import Endpoint
from lbd.model.desired import Protocol

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class Cursor:
    """A value of a file with the way to it; `key_line` and `key_column` are those of the key that it belongs to."""

    file: str
    node: Node
    location: Location
    key_line: int
    key_column: int

    @classmethod
    def top(cls, file: str, root: Node) -> Cursor:
        """Return the cursor of a whole file."""
        return cls(file, root, (), root.line, root.column)

    @property
    def place(self) -> Place:
        """Where the value stands."""
        return Place(self.file, self.node.line, self.node.column, self.location)

    @property
    def key_place(self) -> Place:
        """Where the value's key stands."""
        return Place(self.file, self.key_line, self.key_column, self.location)

    def entries(self) -> Iterator[tuple[str, Cursor]]:
        """Return keys and values of a mapping, nothing for anything else."""
        if isinstance(self.node, Mapping):
            for key, entry in self.node.entries.items():
                yield key, Cursor(self.file, entry.node, (*self.location, key), entry.line, entry.column)

    def items(self) -> Iterator[Cursor]:
        """Return the items of a list, nothing for anything else."""
        if isinstance(self.node, Sequence):
            for index, item in enumerate(self.node.items):
                yield Cursor(self.file, item, (*self.location, index), item.line, item.column)

    def at(self, *keys: str) -> Cursor | None:
        """Return the value under nested keys, None where there is none."""
        found = self
        for key in keys:
            entry = found.node.entries.get(key) if isinstance(found.node, Mapping) else None
            if entry is None:
                return None
            found = Cursor(found.file, entry.node, (*found.location, key), entry.line, entry.column)
        return found

    @property
    def written(self) -> str:
        """A single value as it was written, for a message."""
        return str(self.node.value) if isinstance(self.node, Scalar) else ""

    def read(self, reader: Callable[[object], _T]) -> _T | None:
        """Return what the value means, None if `reader` refuses it."""
        try:
            return reader(self.node.value) if isinstance(self.node, Scalar) else None
        except ValueError:
            return None

    def read_at(self, reader: Callable[[object], _T], *keys: str) -> _T | None:
        """Return what the value under nested keys means, None if there is none or `reader` refuses it."""
        found = self.at(*keys)
        return None if found is None else found.read(reader)


@dataclass(frozen=True, slots=True)
class ServiceFacts:
    """A virtual service; `members` are those of its pool. Its protocol is TCP where none is written."""

    cursor: Cursor
    name: str | None
    vip: str | None
    port: int | None
    protocol: Protocol | None
    members: tuple[tuple[Cursor, str | None, int | None], ...]

    @property
    def pool(self) -> Cursor | None:
        """Its pool as far as there is one."""
        return self.cursor.at("pool")

    @property
    def shown(self) -> str:
        """The service as a message names it."""
        return f'virtual service "{self.name}"' if self.name else f"virtual service at {self.cursor.place.position}"

    @property
    def listen(self) -> Endpoint | None:
        """Where it listens, None unless address and port can be read."""
        return None if self.vip is None or self.port is None else Endpoint(self.vip, self.port)


@dataclass(frozen=True, slots=True)
class Facts:
    """All files. `complete` is False when one of them could not be read: then nothing can be said to be missing."""

    files: tuple[Cursor, ...]
    complete: bool
    services: tuple[ServiceFacts, ...]
    monitors: dict[str, Cursor]
    """By name; the first one of each."""
    address_pools: dict[str, Cursor]
    """By name; the first one of each."""
    profiles: dict[str, Cursor]
    """By name; the first one of each."""
    allow_loopback: bool

    def sections(self, *keys: str) -> Iterator[Cursor]:
        """Return the value under nested keys of each file that has one."""
        for file in self.files:
            found = file.at(*keys)
            if found is not None:
                yield found


def gather(files: tuple[Cursor, ...], complete: bool, allow_loopback: bool) -> Facts:
    """Return what can be known of the files. A file's own `allow_loopback: true` counts for all of them."""
    services: list[ServiceFacts] = []
    for file in files:
        section = file.at("virtual_services")
        services.extend(_service(cursor) for cursor in (section.items() if section else ()))
        switch = file.at("service_engine", "allow_loopback")
        allow_loopback = allow_loopback or (switch is not None and switch.read(scalars.flag) is True)
    return Facts(
        files,
        complete,
        tuple(services),
        monitors=_named(files, "health_monitors"),
        address_pools=_named(files, "address_pools"),
        profiles=_named(files, "profiles"),
        allow_loopback=allow_loopback,
    )


def _named(files: tuple[Cursor, ...], key: str) -> dict[str, Cursor]:
    """Return what the files define in the mapping under `key`, the first one of each name."""
    first: dict[str, Cursor] = {}
    for file in files:
        section = file.at(key)
        for name, cursor in section.entries() if section else ():
            first.setdefault(name, cursor)
    return first


def _service(cursor: Cursor) -> ServiceFacts:
    members = cursor.at("pool", "members")
    protocol = cursor.at("protocol")
    return ServiceFacts(
        cursor,
        cursor.read_at(scalars.name, "name"),
        cursor.read_at(scalars.address, "vip"),
        cursor.read_at(scalars.port, "port"),
        Protocol.TCP if protocol is None else protocol.read(scalars.protocol),
        tuple(
            (member, member.read_at(scalars.address, "address"), member.read_at(scalars.port, "port"))
            for member in (members.items() if members else ())
        ),
    )
