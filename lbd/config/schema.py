"""The shape of one configuration file as pydantic models, and its errors as sentences with a place.

Field names are the keys of the file; values are already what the model wants (seconds, bytes, enumerations). What
needs more than one value to judge is not here but in `rules`.
"""

from __future__ import annotations

from typing import Annotated, Any, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    PlainValidator,
    ValidationError,
    ValidatorFunctionWrapHandler,
    WrapValidator,
)
from pydantic_core import ErrorDetails

from lbd.config import scalars
from lbd.config.errors import ConfigError, Location, Place, show
from lbd.config.tree import Mapping, Node, Sequence
from lbd.model.address import Endpoint
from lbd.model.desired import DEFAULT_METRICS_LISTEN, AdminState, Algorithm, MonitorType, OnAllDown, StatusRange

_Name = Annotated[str, PlainValidator(scalars.name)]
_Address = Annotated[str, PlainValidator(scalars.address)]
_Port = Annotated[int, PlainValidator(scalars.port)]
_Text = Annotated[str, PlainValidator(scalars.text)]
_Flag = Annotated[bool, PlainValidator(scalars.flag)]
_Payload = Annotated[bytes, PlainValidator(scalars.payload)]
_CheckCount = Annotated[int, PlainValidator(scalars.check_count)]
_AdminState = Annotated[AdminState, PlainValidator(scalars.one_of(AdminState))]


def _one_or_many(value: object, read_list: ValidatorFunctionWrapHandler) -> Any:
    """Read a list of addresses, or a single one as a list of one."""
    return read_list(value) if isinstance(value, list) else [scalars.address(value)]


class _Shape(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ServiceEngineShape(_Shape):
    """`service_engine`; `workers` None is auto, `name` None the host name."""

    name: Annotated[str | None, PlainValidator(scalars.name)] = None
    workers: Annotated[int | None, PlainValidator(scalars.workers)] = None
    frontend_interface: Annotated[str, PlainValidator(scalars.interface)] = ""
    frontend_gateway: Annotated[list[_Address], WrapValidator(_one_or_many)] = []
    drain_timeout: Annotated[float, PlainValidator(scalars.duration("0s", "24h"))] = 60.0
    allow_loopback: _Flag = False


class MetricsShape(_Shape):
    """`metrics`; `listen` None is off."""

    listen: Annotated[Endpoint | None, PlainValidator(scalars.listen)] = DEFAULT_METRICS_LISTEN


class AdminShape(_Shape):
    """`admin`."""

    socket: Annotated[str, PlainValidator(scalars.socket_path)] = "/run/lbd/admin.sock"


class MonitorShape(_Shape):
    """One of `health_monitors`; which keys belong to which type is a rule."""

    type: Annotated[MonitorType, PlainValidator(scalars.monitor_type)]
    interval: Annotated[float, PlainValidator(scalars.duration("100ms", "1h"))] = 5.0
    timeout: Annotated[float, PlainValidator(scalars.duration("10ms", "5m"))] = 2.0
    rise: _CheckCount = 2
    fall: _CheckCount = 3
    jitter: Annotated[float, PlainValidator(scalars.jitter)] = 0.1
    port: Annotated[int | None, PlainValidator(scalars.port)] = None
    send: _Payload = b""
    expect: _Payload = b""
    path: Annotated[str, PlainValidator(scalars.request_path)] = "/"
    host: Annotated[str | None, PlainValidator(scalars.host)] = None
    method: Annotated[str, PlainValidator(scalars.method)] = "GET"
    expect_status: list[Annotated[StatusRange, PlainValidator(scalars.status_range)]] = [StatusRange(200, 399)]
    expect_text: Annotated[str, PlainValidator(scalars.expected_text)] = ""
    verify_tls: _Flag = False


class MemberShape(_Shape):
    """One of a pool's `members`."""

    address: _Address
    port: _Port
    weight: Annotated[int, PlainValidator(scalars.weight)] = 1
    admin_state: _AdminState = AdminState.ENABLED


class PoolShape(_Shape):
    """The `pool` of a virtual service."""

    algorithm: Annotated[Algorithm, PlainValidator(scalars.one_of(Algorithm))] = Algorithm.ROUND_ROBIN
    slow_start: Annotated[float, PlainValidator(scalars.duration("0s", "1h"))] = 0.0
    on_all_down: Annotated[OnAllDown, PlainValidator(scalars.one_of(OnAllDown))] = OnAllDown.REFUSE
    health_monitors: list[_Text] = []
    members: list[MemberShape]


class TimeoutsShape(_Shape):
    """The `timeouts` of a virtual service."""

    connect: Annotated[float, PlainValidator(scalars.duration("10ms", "5m"))] = 5.0
    idle: Annotated[float, PlainValidator(scalars.duration("1s", "168h"))] = 600.0


class VirtualServiceShape(_Shape):
    """One of `virtual_services`."""

    name: _Name
    vip: _Address
    port: _Port
    protocol: Annotated[str, PlainValidator(scalars.protocol)] = "tcp"
    admin_state: _AdminState = AdminState.ENABLED
    pool: PoolShape
    timeouts: TimeoutsShape = TimeoutsShape()


class FileShape(_Shape):
    """A whole file."""

    service_engine: ServiceEngineShape = ServiceEngineShape()
    metrics: MetricsShape = MetricsShape()
    admin: AdminShape = AdminShape()
    health_monitors: dict[str, MonitorShape] = {}
    virtual_services: list[VirtualServiceShape] = []


_LATER = {
    "kubernetes": "members from Kubernetes are",
    "persistence": "persistence is",
    "limits": "limits are",
}
"""Keys that people will know from the documentation of a later version."""


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
    if key in _LATER:
        return f"is an unknown key: {_LATER[key]} not supported by this version"
    close = scalars.did_you_mean(key, known)
    return "is an unknown key" + (close or f"; known here: {', '.join(known)}")


def shape_at(location: Location) -> type[BaseModel]:
    """Return the shape of the mapping that is expected at `location`."""
    shape: Any = FileShape
    for part in location:
        # A list's or dictionary's shape is the last argument of its type; the index or name itself adds nothing.
        if isinstance(shape, type) and issubclass(shape, _Shape):
            shape = shape.model_fields[str(part)].annotation
        else:
            shape = get_args(shape)[-1]
    assert isinstance(shape, type)
    assert issubclass(shape, _Shape)
    return shape
