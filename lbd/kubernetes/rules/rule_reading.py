"""Reads the spec of an L4Rule, whatever stands in it: every mistake becomes a sentence that names its field. Pure."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TypeVar

from lbd.config import scalars
from lbd.config.errors import Location, path_of, show

_T = TypeVar("_T")

MAX_VALUES = 10_000
"""In one spec; 256 backends with every field are 4,000."""
MAX_CHARACTERS = 256 * 1024
MAX_DEPTH = 12
"""Levels of nesting; the fields need 5."""
MAX_ITEMS = 256
"""Of one list."""
MAX_REFERENCE_CHARACTERS = 253
_SENTENCE_CHARACTERS = 250
_KEY_CHARACTERS = 60
MAX_ERRORS = 128
"""A spec with so many mistakes is read no further: looking for what could be meant takes 0.1 ms each."""
_MAX_SENTENCES = 8
_SHOWN_FIELDS = 4
MAX_ERROR_CHARACTERS = 800
"""Of all sentences together: an Event takes 1024, and what is in force instead must fit in too."""


class Section:
    """A mapping of the spec: gives its values as they are meant, and notes in `errors` what is wrong with them.

    Raises:
        ValueError: it is no mapping.
    """

    def __init__(self, value: object, location: Location, known: Collection[str], errors: list[str]) -> None:
        if not isinstance(value, Mapping):
            raise ValueError(f"must be a mapping, not {show(value)}")
        self._location = location
        self._errors = errors
        self._values: Mapping[object, object] = value
        self._note_unknown(known)

    def _note_unknown(self, known: Collection[str]) -> None:
        for key in self._values:
            if self._has_enough:
                return
            if not isinstance(key, str):
                self._errors.append(sentence(self._location, f"the key {show(key)} must be text"))
            elif key not in known:
                all_known = f"; known here: {', '.join(known)}" if len(known) <= _SHOWN_FIELDS else ""
                self.wrong(key, f"is an unknown field{scalars.did_you_mean(key, list(known)) or all_known}")

    @property
    def _has_enough(self) -> bool:
        return len(self._errors) >= MAX_ERRORS

    def wrong(self, key: str, message: str) -> None:
        """Note what is wrong with a field."""
        self._errors.append(sentence((*self._location, key), message))

    def has(self, key: str) -> bool:
        """Return whether a field is written."""
        return key in self._values

    def take(self, key: str, reader: Callable[[object], _T], default: _T) -> _T:
        """Return what a field means, the default where it is not written or wrong."""
        return self._read((*self._location, key), self._values[key], reader, default) if self.has(key) else default

    def reference(self, key: str, resolve: Callable[[str], _T], default: _T) -> _T:
        """Return what a name stands for, the default where it is not written, empty or wrong."""
        return (
            default if self._values.get(key) == "" else self.take(key, lambda value: resolve(reference(value)), default)
        )

    def require(self, key: str, reader: Callable[[object], _T]) -> _T | None:
        """Return what a field means; None, and a note, where it is not written or wrong."""
        if not self.has(key):
            self.wrong(key, "is required")
            return None
        return self._read((*self._location, key), self._values[key], reader, None)

    def refuse(self, key: str, why: str) -> None:
        """Note that a field can't be had, if anything is written there."""
        if self.has(key) and self._values[key] not in ("", [], {}):
            self.wrong(key, why)

    def section(self, key: str, known: Collection[str]) -> Section | None:
        """Return the mapping of a field; None where nothing is written and, with a note, where it is no mapping."""
        if key not in self._values:
            return None
        try:
            return Section(self._values[key], (*self._location, key), known, self._errors)
        except ValueError as error:
            self.wrong(key, str(error))
            return None

    def items(self, key: str, reader: Callable[[object, Location], _T]) -> Iterator[_T]:
        """Return what the items of a list mean, without those that `reader` refuses with ValueError."""
        value = self._values.get(key, [])
        if not isinstance(value, list):
            self.wrong(key, f"must be a list, not {show(value)}")
            return
        if len(value) > MAX_ITEMS:
            self.wrong(key, f"has {len(value)} items, more than the {MAX_ITEMS} that are possible")
        for index, item in enumerate(value[:MAX_ITEMS]):
            if self._has_enough:
                return
            location = (*self._location, key, index)
            try:
                yield reader(item, location)
            except ValueError as error:
                self._errors.append(sentence(location, str(error)))

    def sections(self, key: str, known: Collection[str]) -> Iterator[Section]:
        """Return the mappings of a list."""
        yield from self.items(key, lambda item, location: Section(item, location, known, self._errors))

    def _read(self, location: Location, value: object, reader: Callable[[object], _T], default: _T) -> _T:
        try:
            if value is None:
                raise ValueError("has no value: write one, or remove the field")
            return reader(value)
        except ValueError as error:
            self._errors.append(sentence(location, str(error)))
            return default


def reference(value: object) -> str:
    """Return the name that a reference gives.

    Raises:
        ValueError: it is no text, or too long for a name.
    """
    written = scalars.text(value)
    if len(written) > MAX_REFERENCE_CHARACTERS:
        raise ValueError(f"{show(written)} is too long for a name (at most {MAX_REFERENCE_CHARACTERS} characters)")
    return written


def sentence(location: Location, message: str) -> str:
    """Return one mistake as `spec.backendProperties[0].port: 0 is not a port (1-65535)`, on one line, cut when long."""
    short = (part if isinstance(part, int) else _cut(part, _KEY_CHARACTERS) for part in location)
    return _cut(f"{path_of(('spec', *short))}: {message}", _SENTENCE_CHARACTERS)


def joined(sentences: list[str]) -> str:
    """Return all mistakes as one line, the first of them where they are many."""
    shown = sentences[:_MAX_SENTENCES]
    more = len(sentences) - len(shown)
    return _cut("; ".join(shown), MAX_ERROR_CHARACTERS) + (f"; and {more} more" if more else "")


def _cut(text: str, limit: int) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def why_too_big(spec: object) -> str | None:
    """Return why a spec is not looked at in detail, or None."""
    values = characters = 0
    level: list[object] = [spec]
    for _depth in range(MAX_DEPTH):
        below: list[object] = []
        for value in level:
            if isinstance(value, str):
                characters += len(value)
            elif isinstance(value, (Mapping, list)):
                # Counted before they are looked at: what refers to one list many times is larger than it is.
                values += len(value)
                if values > MAX_VALUES:
                    return f"has more than {MAX_VALUES} values"
                below.extend((*value, *value.values()) if isinstance(value, Mapping) else value)
        if characters > MAX_CHARACTERS:
            return f"has more than {MAX_CHARACTERS} characters"
        if not below:
            return None
        level = below
    return f"is nested more than {MAX_DEPTH} levels deep"
