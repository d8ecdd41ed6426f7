"""From the answers to list and watch to values; what is no such answer is an ApiError. Pure."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from lbd.kubernetes.api.answers import status_error
from lbd.kubernetes.api.api_error import ApiError
from lbd.kubernetes.objects.fields import is_text, shown

GARBAGE = "Garbage"
"""The reason of an ApiError with status 200: it is JSON, and not what was asked for."""


class EventType(StrEnum):
    """What a watch says; an ERROR is raised instead."""

    ADDED = "ADDED"
    MODIFIED = "MODIFIED"
    DELETED = "DELETED"
    BOOKMARK = "BOOKMARK"


@dataclass(frozen=True, slots=True)
class WatchEvent:
    """An event, and the version of the collection after it."""

    type: EventType
    object: dict[str, Any]
    version: str


@dataclass(frozen=True, slots=True)
class ListPage:
    """A part of a list. `continue_token` is empty in the last one."""

    items: list[dict[str, Any]]
    version: str
    continue_token: str


def read_page(answer: Mapping[str, Any]) -> ListPage:
    """Read the answer to a list.

    Raises:
        ApiError: it is none. An answer that only looks like an empty list would empty every pool.
    """
    kind, items, metadata = answer.get("kind"), answer.get("items"), answer.get("metadata")
    if not (isinstance(kind, str) and kind.endswith("List") and "items" in answer and isinstance(metadata, dict)):
        raise ApiError(200, GARBAGE, f"expected a list, got an object of kind {shown(kind)}")
    if items is None:
        items = []
    if not isinstance(items, list) or not all(isinstance(item, dict) for item in items):
        raise ApiError(200, GARBAGE, f"the items of a {shown(kind)} are no list of objects")
    token = metadata.get("continue")
    if token is not None and not is_text(token, 16384):
        raise ApiError(200, GARBAGE, f"continue is {shown(token)}, not a token")
    return ListPage(items, _version(metadata), token or "")


def read_event(raw: Mapping[str, Any]) -> WatchEvent:
    """Read an event of a watch.

    Raises:
        ApiError: it is an ERROR, or no event.
    """
    kind, said = raw.get("type"), raw.get("object")
    if not isinstance(said, dict):
        raise ApiError(200, GARBAGE, f"expected an event of a watch, got {shown(kind)} with {shown(said)}")
    if kind == "ERROR":
        raise status_error(said)
    if not isinstance(kind, str) or kind not in EventType.__members__:
        raise ApiError(200, GARBAGE, f"a watch has no event {shown(kind)}")
    metadata = said.get("metadata")
    if not isinstance(metadata, dict):
        raise ApiError(200, GARBAGE, f"the object of {kind} has no metadata")
    return WatchEvent(EventType(kind), said, _version(metadata))


def _version(metadata: Mapping[str, Any]) -> str:
    version = metadata.get("resourceVersion")
    if not is_text(version, 128) or not version:
        raise ApiError(200, GARBAGE, f"resourceVersion is {shown(version)}, not a version")
    return version
