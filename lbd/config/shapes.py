"""The shapes of what a configuration file says of this machine and of virtual services, as pydantic models.

Field names are the keys of the file; values are already what the model wants (seconds, bytes, enumerations). What
needs more than one value to judge is not here but in `rules`.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, PlainValidator, ValidatorFunctionWrapHandler, WrapValidator

from lbd.config import quantities, scalars
from lbd.model.address import Endpoint
from lbd.model.desired import (
    DEFAULT_METRICS_LISTEN,
    AdminState,
    Algorithm,
    Bulk,
    HashKey,
    MonitorType,
    OnAllDown,
    OnLimit,
    OnMemberDown,
    Protocol,
    ProxyProtocol,
    Source,
    StatusRange,
)

_Name = Annotated[str, PlainValidator(scalars.name)]
_Address = Annotated[str, PlainValidator(scalars.address)]
_Port = Annotated[int, PlainValidator(scalars.port)]
_Text = Annotated[str, PlainValidator(scalars.text)]
Flag = Annotated[bool, PlainValidator(scalars.flag)]
_Payload = Annotated[bytes, PlainValidator(scalars.payload)]
_CheckCount = Annotated[int, PlainValidator(scalars.check_count)]
_AdminState = Annotated[AdminState, PlainValidator(scalars.one_of(AdminState))]
Network = Annotated[str, PlainValidator(scalars.network)]
Connections = Annotated[int, PlainValidator(scalars.connections)]
Rate = Annotated[float, PlainValidator(quantities.rate)]
_Jitter = Annotated[float, PlainValidator(quantities.jitter)]
_OffOrSilence = Annotated[float, PlainValidator(quantities.duration("1s", "168h", off=True))]
_OffOrUserTimeout = Annotated[float, PlainValidator(quantities.duration("100ms", "24h", off=True))]
_EjectionTime = Annotated[float, PlainValidator(quantities.duration("100ms", "24h"))]
BulkKey = Annotated[Bulk, PlainValidator(scalars.one_of(Bulk))]
SlowConnect = Annotated[float, PlainValidator(quantities.duration("1ms", "5m", off=True))]
_DrainTime = Annotated[float, PlainValidator(quantities.duration("0s", "24h"))]


def _one_or_many(value: object, read_list: ValidatorFunctionWrapHandler) -> Any:
    """Read a list of addresses, or a single one as a list of one."""
    return read_list(value) if isinstance(value, list) else [scalars.address(value)]


class Shape(BaseModel):
    """A mapping of a file, in which only the keys that are fields may stand."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    def has(self, key: str) -> bool:
        """Return whether a key is written, be it with its default. A section is never None: nothing is no value."""
        return key in self.model_fields_set


class ServiceEngineShape(Shape):
    """`service_engine`; `workers` None is auto, `name` None the host name."""

    name: Annotated[str | None, PlainValidator(scalars.name)] = None
    workers: Annotated[int | None, PlainValidator(scalars.workers)] = None
    frontend_interface: Annotated[str, PlainValidator(scalars.interface)] = ""
    frontend_gateway: Annotated[list[_Address], WrapValidator(_one_or_many)] = []
    drain_timeout: _DrainTime = 60.0
    allow_loopback: Flag = False


class MetricsShape(Shape):
    """`metrics`; `listen` None is off."""

    listen: Annotated[Endpoint | None, PlainValidator(scalars.listen)] = DEFAULT_METRICS_LISTEN


class AdminShape(Shape):
    """`admin`."""

    socket: Annotated[str, PlainValidator(scalars.socket_path)] = "/run/lbd/admin.sock"


class MonitorShape(Shape):
    """One of `health_monitors`; which keys belong to which type is a rule."""

    type: Annotated[MonitorType, PlainValidator(scalars.monitor_type)]
    interval: Annotated[float, PlainValidator(quantities.duration("100ms", "1h"))] = 5.0
    timeout: Annotated[float, PlainValidator(quantities.duration("10ms", "5m"))] = 2.0
    rise: _CheckCount = 2
    fall: _CheckCount = 3
    jitter: _Jitter = 0.1
    port: Annotated[int | None, PlainValidator(scalars.port)] = None
    send: _Payload = b""
    expect: _Payload = b""
    path: Annotated[str, PlainValidator(scalars.request_path)] = "/"
    host: Annotated[str | None, PlainValidator(scalars.host)] = None
    method: Annotated[str, PlainValidator(scalars.method)] = "GET"
    expect_status: list[Annotated[StatusRange, PlainValidator(scalars.status_range)]] = [StatusRange(200, 399)]
    expect_text: Annotated[str, PlainValidator(scalars.expected_text)] = ""
    verify_tls: Flag = False
    query_name: Annotated[str, PlainValidator(scalars.query_name)] = "."
    query_type: Annotated[str, PlainValidator(scalars.query_type)] = "NS"
    expect_rcode: list[Annotated[str, PlainValidator(scalars.rcode)]] = ["NOERROR"]
    expect_answer: Annotated[str, PlainValidator(scalars.expected_text)] = ""


class MemberShape(Shape):
    """One of a pool's `members`; `max_connections` 0 is no limit, and not what can be written."""

    address: _Address
    port: _Port
    weight: Annotated[int, PlainValidator(scalars.weight)] = 1
    admin_state: _AdminState = AdminState.ENABLED
    backup: Flag = False
    max_connections: Connections = 0


class PersistenceShape(Shape):
    """The `persistence` of a pool."""

    type: Annotated[str, PlainValidator(scalars.persistence_type)]
    timeout: Annotated[float, PlainValidator(quantities.duration("1s", "168h"))] = 600.0
    ipv4_prefix: Annotated[int, PlainValidator(scalars.ipv4_prefix)] = 32
    ipv6_prefix: Annotated[int, PlainValidator(scalars.ipv6_prefix)] = 128
    max_entries: Annotated[int, PlainValidator(scalars.clients)] = 100_000
    on_member_down: Annotated[OnMemberDown, PlainValidator(scalars.one_of(OnMemberDown))] = OnMemberDown.REBALANCE


class OutlierDetectionShape(Shape):
    """The `outlier_detection` of a pool."""

    consecutive_failures: Annotated[int, PlainValidator(scalars.failures)] = 5
    base_ejection_time: _EjectionTime = 30.0
    max_ejection_time: _EjectionTime = 300.0
    max_ejected: Annotated[float, PlainValidator(quantities.percentage(1, 100))] = 10.0


class PoolShape(Shape):
    """The `pool` of a virtual service; whether `hash` and the two sections are written has a meaning of its own."""

    algorithm: Annotated[Algorithm, PlainValidator(scalars.one_of(Algorithm))] = Algorithm.ROUND_ROBIN
    hash: Annotated[HashKey, PlainValidator(scalars.one_of(HashKey))] = HashKey.SOURCE_IP
    max_load: Annotated[float, PlainValidator(quantities.max_load)] = 0.0
    persistence: PersistenceShape = PersistenceShape(type="client_ip")
    slow_start: Annotated[float, PlainValidator(quantities.duration("0s", "1h"))] = 0.0
    on_all_down: Annotated[OnAllDown, PlainValidator(scalars.one_of(OnAllDown))] = OnAllDown.REFUSE
    min_members_up: Annotated[int, PlainValidator(scalars.members_up)] = 1
    panic_threshold: Annotated[float, PlainValidator(quantities.percentage(0, 100))] = 0.0
    outlier_detection: OutlierDetectionShape = OutlierDetectionShape()
    drain_timeout: Annotated[float | None, PlainValidator(quantities.duration("0s", "24h"))] = None
    health_monitors: list[_Text] = []
    members: list[MemberShape]


class TimeoutsShape(Shape):
    """The `timeouts` of a virtual service; the default of `idle` is that of TCP."""

    connect: Annotated[float, PlainValidator(quantities.duration("10ms", "5m"))] = 5.0
    idle: Annotated[float, PlainValidator(quantities.duration("1s", "168h"))] = 600.0
    client_half_closed: _OffOrSilence = 0.0
    member_half_closed: _OffOrSilence = 0.0
    client_user: _OffOrUserTimeout = 0.0
    member_user: _OffOrUserTimeout = 0.0
    lifetime: Annotated[float, PlainValidator(quantities.duration("1s", "8760h", off=True))] = 0.0
    lifetime_jitter: _Jitter = 0.1


class KeepaliveSideShape(Shape):
    """One side of `keepalive`."""

    idle: Annotated[int, PlainValidator(quantities.keepalive_seconds)] = 60
    interval: Annotated[int, PlainValidator(quantities.keepalive_seconds)] = 10
    probes: Annotated[int, PlainValidator(scalars.probes)] = 5


class KeepaliveShape(Shape):
    """The `keepalive` of a virtual service; a side that is not written has none."""

    client: KeepaliveSideShape = KeepaliveSideShape()
    member: KeepaliveSideShape = KeepaliveSideShape()


class LimitsShape(Shape):
    """The `limits` of a virtual service; 0 is no limit, and not what can be written."""

    max_connections: Connections = 0
    on_limit: Annotated[OnLimit, PlainValidator(scalars.one_of(OnLimit))] = OnLimit.REFUSE
    queue_length: Annotated[int, PlainValidator(scalars.queue_length)] = 100
    queue_timeout: Annotated[float, PlainValidator(quantities.duration("10ms", "5m"))] = 5.0
    max_connections_per_client: Connections = 0
    connection_rate: Rate = 0.0
    connection_rate_per_client: Rate = 0.0
    max_throughput: Annotated[int, PlainValidator(quantities.throughput)] = 0


class UdpShape(Shape):
    """The `udp` of a virtual service."""

    responses: Annotated[int, PlainValidator(scalars.responses)] = 0
    max_flows: Annotated[int, PlainValidator(scalars.flows)] = 16384
    per_packet: Flag = False


class ClientLogsShape(Shape):
    """The `client_logs` of a virtual service."""

    throttle: Annotated[int, PlainValidator(scalars.throttle)] = 10
    duration: Annotated[float, PlainValidator(quantities.duration("1s", "8760h", off=True, zero="ever"))] = 1800.0
    slow_connect: SlowConnect = 0.0


class VirtualServiceShape(Shape):
    """One of `virtual_services`; without `client_logs` there are none, and `{}` takes their defaults."""

    name: _Name
    vip: _Address
    port: _Port
    protocol: Annotated[Protocol, PlainValidator(scalars.protocol)] = Protocol.TCP
    admin_state: _AdminState = AdminState.ENABLED
    pool: PoolShape
    source: Annotated[Source, PlainValidator(scalars.one_of(Source))] = Source.SNAT
    proxy_protocol: Annotated[ProxyProtocol | None, PlainValidator(scalars.one_of(ProxyProtocol))] = None
    accept_proxy_protocol: list[Network] = []
    source_ranges: list[Network] = []
    limits: LimitsShape = LimitsShape()
    timeouts: TimeoutsShape = TimeoutsShape()
    keepalive: KeepaliveShape = KeepaliveShape()
    udp: UdpShape = UdpShape()
    client_logs: ClientLogsShape = ClientLogsShape()
    bulk: BulkKey = Bulk.COPY
