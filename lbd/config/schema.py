"""The shape of one configuration file, and what is wrong with single values of it as sentences with a place."""

from __future__ import annotations

from typing import Any, get_args

from pydantic import BaseModel, Field, ValidationError
from pydantic_core import ErrorDetails

from lbd.config import scalars
from lbd.config.errors import ConfigError, Location, Place, show
from lbd.config.shapes import AdminShape, MetricsShape, MonitorShape, ServiceEngineShape, Shape, VirtualServiceShape
from lbd.config.shapes_kubernetes import AddressPoolShape, KubernetesShape, ProfileShape
from lbd.config.tree import Mapping, Node, Sequence


class FileShape(Shape):
    """A whole file; whether `kubernetes` is written has a meaning of its own."""

    service_engine: ServiceEngineShape = ServiceEngineShape()
    metrics: MetricsShape = MetricsShape()
    admin: AdminShape = AdminShape()
    health_monitors: dict[str, MonitorShape] = Field(default_factory=dict)
    virtual_services: list[VirtualServiceShape] = Field(default_factory=list)
    kubernetes: KubernetesShape = KubernetesShape()
    address_pools: dict[str, AddressPoolShape] = Field(default_factory=dict)
    profiles: dict[str, ProfileShape] = Field(default_factory=dict)


def place_of(file: str, root: Node, location: Location) -> Place:
    """Return where the value at `location` stands, or the innermost value around it that exists."""
    node = root
    for part in location:
        if isinstance(node, Mapping) and part in node.entries:
            node = node.entries[str(part)].node
        elif isinstance(node, Sequence) and isinstance(part, int) and part < len(node.items):
            node = node.items[part]
        else:
            break
    return Place(file, node.line, node.column, location)


def key_place_of(file: str, root: Node, location: Location) -> Place:
    """Return where the key at the end of `location` stands."""
    node: Node = root
    for part in location[:-1]:
        if isinstance(node, Mapping):
            node = node.entries[str(part)].node
        elif isinstance(node, Sequence) and isinstance(part, int):
            node = node.items[part]
    assert isinstance(node, Mapping)
    entry = node.entries[str(location[-1])]
    return Place(file, entry.line, entry.column, location)


def judge(file: str, root: Node, values: object) -> tuple[FileShape | None, list[ConfigError]]:
    """Return the file's values as shapes, or None and all that is wrong with each of them by itself."""
    try:
        return FileShape.model_validate(values), []
    except ValidationError as error:
        details = error.errors(include_url=False, include_context=True)
    return None, [_sentence(file, root, detail) for detail in details]


def _sentence(file: str, root: Node, detail: ErrorDetails) -> ConfigError:
    location: Location = detail["loc"]
    value = detail["input"]
    kind = detail["type"]
    if kind == "extra_forbidden":
        return key_place_of(file, root, location).error(_why_unknown(location))
    return place_of(file, root, location).error(_why_wrong(kind, location, value, detail))


def _why_wrong(kind: str, location: Location, value: object, detail: ErrorDetails) -> str:
    match kind:
        case "missing":
            return "is required"
        case _ if value is None:
            return "has no value: write one, or remove the key" if location else "is empty"
        case "value_error":
            return str(detail["ctx"]["error"])
        case "list_type":
            return f"must be a list, not {show(value)}"
        case "model_type" | "dict_type":
            return f"must be a mapping, not {show(value)}"
        case _:
            return detail["msg"]


def _why_unknown(location: Location) -> str:
    key = str(location[-1])
    known = list(shape_at(location[:-1]).model_fields)
    close = scalars.did_you_mean(key, known)
    return "is an unknown key" + (close or f"; known here: {', '.join(known)}")


def shape_at(location: Location) -> type[BaseModel]:
    """Return the shape of the mapping that is expected at `location`."""
    shape: Any = FileShape
    for part in location:
        # A list's or dictionary's shape is the last argument of its type; the index or name itself adds nothing.
        if isinstance(shape, type) and issubclass(shape, Shape):
            shape = shape.model_fields[str(part)].annotation
        else:
            shape = get_args(shape)[-1]
    assert isinstance(shape, type)
    assert issubclass(shape, Shape)
    return shape
