"""The status snapshot as JSON and back: one field of JSON for each field of `lbd.model.status.Status`."""

from __future__ import annotations

import dataclasses
import functools
import json
import math
import types
import typing
from enum import StrEnum
from typing import Any, TypeVar

T = TypeVar("T")


class StatusFormatError(ValueError):
    """The JSON is not a status that this version of lbd understands; the text says where."""


def encode(value: object) -> bytes:
    """Return a status (or another dataclass of the model) as one line of JSON; NaN and infinity become null."""
    try:
        text = json.dumps(value, default=_fields, allow_nan=False)
    except ValueError:
        text = json.dumps(_finite(value), allow_nan=False)
    return text.encode() + b"\n"


def decode(kind: type[T], body: bytes) -> T:
    """Read what `encode` wrote. Keys that are not known are skipped: a newer daemon may have more.

    Raises:
        StatusFormatError: it is not JSON, a field is missing or has another type.
    """
    try:
        value = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise StatusFormatError(f"not JSON: {error}") from error
    return typing.cast(T, _decode(kind, value, kind.__name__))


def _fields(value: object) -> dict[str, Any]:
    # dataclasses.asdict copies deeply: 10 times as long for 5,000 members.
    return {name: getattr(value, name) for name in _names(typing.cast(Any, type(value)))}


@functools.cache
def _names(kind: type[Any]) -> tuple[str, ...]:
    return tuple(field.name for field in dataclasses.fields(kind))


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if dataclasses.is_dataclass(value):
        value = _fields(value)
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


@functools.cache
def _hints(kind: type) -> dict[str, tuple[Any, bool]]:
    """Return for each field its type, and whether it has a default."""
    hints = typing.get_type_hints(kind)
    missing = dataclasses.MISSING
    return {
        field.name: (hints[field.name], field.default is not missing or field.default_factory is not missing)
        for field in dataclasses.fields(kind)
    }


def _decode(hint: Any, value: Any, where: str) -> Any:
    origin = typing.get_origin(hint)
    if origin is types.UnionType:
        inner = next(part for part in typing.get_args(hint) if part is not type(None))
        return None if value is None else _decode(inner, value, where)
    if origin is tuple:
        _expect(isinstance(value, list), where, "a list")
        inner = typing.get_args(hint)[0]
        return tuple(_decode(inner, item, f"{where}[{index}]") for index, item in enumerate(value))
    if origin is dict:
        _expect(isinstance(value, dict), where, "an object")
        key_hint, item_hint = typing.get_args(hint)
        return {_decode(key_hint, k, where): _decode(item_hint, item, f"{where}.{k}") for k, item in value.items()}
    if dataclasses.is_dataclass(hint):
        return _decode_object(typing.cast(type, hint), value, where)
    if issubclass(hint, StrEnum):
        try:
            return hint(value)
        except ValueError as error:
            raise StatusFormatError(f"{where} is not one of {', '.join(hint)}") from error
    if hint is float:
        _expect(value is None or (isinstance(value, (int, float)) and not isinstance(value, bool)), where, "a number")
        return math.nan if value is None else float(value)
    _expect(type(value) is hint, where, f"of type {hint.__name__}")
    return value


def _decode_object(kind: type, value: Any, where: str) -> Any:
    _expect(isinstance(value, dict), where, "an object")
    given = {}
    for name, (hint, has_default) in _hints(kind).items():
        if name in value:
            given[name] = _decode(hint, value[name], f"{where}.{name}")
        else:
            _expect(has_default, f"{where}.{name}", "there")
    return kind(**given)


def _expect(holds: bool, where: str, what: str) -> None:
    if not holds:
        raise StatusFormatError(f"{where} is not {what}")
