"""What many rules ask in the same words: names that are defined once, and lists that have each thing once."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from lbd.config.errors import ConfigError, Place
from lbd.config.facts import Cursor
from lbd.config.tree import Sequence


def refusal(place: Place, reader: Callable[[object], object], value: object) -> Iterator[ConfigError]:
    """Say what `reader` has against a value, at a place."""
    try:
        reader(value)
    except ValueError as error:
        yield place.error(str(error))


def defined_once(first: dict[str, Cursor], name: str, cursor: Cursor) -> Iterator[ConfigError]:
    """Refuse a second definition of a name; `first` has the first one of each."""
    if first[name].key_place != cursor.key_place:
        yield cursor.key_place.error(f"is already defined at {first[name].key_place.position}")


def each_once(
    section: Cursor | None, reader: Callable[[object], object], *, empty: str, most: int | None = None, what: str = ""
) -> Iterator[ConfigError]:
    """Refuse a list that is empty, has a thing twice, or has more than `most`.

    `empty` says what to do instead of writing an empty list, `what` is what the list has.
    """
    if section is None or not isinstance(section.node, Sequence):
        return
    if not section.node.items:
        yield section.place.error(f"is empty: {empty}")
    first: dict[object, Place] = {}
    for index, cursor in enumerate(section.items()):
        if index == most:
            yield cursor.place.error(f"is one more than the {most} {what} that are possible")
        value = cursor.read(reader)
        if value is None:
            continue
        if value in first:
            yield cursor.place.error(f"{value} is already in this list, at {first[value].position}")
        first.setdefault(value, cursor.place)


def and_words(words: list[str]) -> str:
    """Return `a, b and c`."""
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} and {words[-1]}"
