"""The shapes of what a configuration file says of a Kubernetes cluster; see `shapes`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field, PlainValidator

from lbd.config import kubernetes_scalars, quantities, scalars
from lbd.config.kubernetes_scalars import ProfileType
from lbd.config.shapes import (
    BulkKey,
    Connections,
    Flag,
    KeepaliveShape,
    Network,
    PersistenceShape,
    Rate,
    Shape,
    SlowConnect,
    TimeoutsShape,
    UdpShape,
)
from lbd.model.desired import UDP_IDLE_S, Bulk, ProxyProtocol, Source
from lbd.model.kubernetes import DEFAULT_LOAD_BALANCER_CLASS, AddressRange

_Namespace = Annotated[str, PlainValidator(kubernetes_scalars.namespace)]
_LabelValue = Annotated[str, PlainValidator(kubernetes_scalars.label_value)]
_Range = Annotated[AddressRange, PlainValidator(kubernetes_scalars.address_range)]


class LeaseShape(Shape):
    """The `lease` of `kubernetes`."""

    namespace: _Namespace = "lbd-system"
    name: Annotated[str, PlainValidator(kubernetes_scalars.object_name)] = "lbd"
    duration: Annotated[float, PlainValidator(kubernetes_scalars.lease_duration)] = 15.0
    renew_deadline: Annotated[float, PlainValidator(kubernetes_scalars.renew_deadline)] = 10.0
    retry: Annotated[float, PlainValidator(kubernetes_scalars.retry)] = 2.0


class KubernetesShape(Shape):
    """`kubernetes`; that there is exactly one way to the cluster is a rule."""

    kubeconfig: Annotated[str | None, PlainValidator(kubernetes_scalars.kubeconfig)] = None
    in_cluster: Flag = False
    context: Annotated[str | None, PlainValidator(kubernetes_scalars.context)] = None
    load_balancer_class: Annotated[str, PlainValidator(kubernetes_scalars.load_balancer_class)] = (
        DEFAULT_LOAD_BALANCER_CLASS
    )
    default_class: Flag = False
    namespaces: list[_Namespace] = Field(default_factory=list)
    pod_cidrs: list[Network] = Field(default_factory=list)
    pod_routes: Flag = False
    backend_interface: Annotated[str, PlainValidator(scalars.interface)] = ""
    resync: Annotated[float, PlainValidator(quantities.duration("10s", "168h"))] = 3600.0
    request_timeout: Annotated[float, PlainValidator(quantities.duration("1s", "5m"))] = 10.0
    watch_timeout: Annotated[float, PlainValidator(quantities.duration("5s", "1h"))] = 300.0
    lease: LeaseShape = LeaseShape()


class AddressPoolShape(Shape):
    """One of `address_pools`."""

    ranges: list[_Range]
    auto_assign: Flag = True
    namespaces: list[_Namespace] = Field(default_factory=list)
    service_selector: dict[str, _LabelValue] = Field(default_factory=dict)
    priority: Annotated[int, PlainValidator(kubernetes_scalars.priority)] = 0


class ProfileShape(Shape):
    """One of `profiles`; which keys belong to which type is a rule. 0 is no limit, and can't be written."""

    type: Annotated[ProfileType, PlainValidator(kubernetes_scalars.profile_type)]
    persistence: PersistenceShape = PersistenceShape(type="client_ip")
    source: Annotated[Source, PlainValidator(scalars.one_of(Source))] = Source.SNAT
    proxy_protocol: Annotated[ProxyProtocol | None, PlainValidator(scalars.one_of(ProxyProtocol))] = None
    accept_proxy_protocol: list[Network] = Field(default_factory=list)
    max_connections_per_client: Connections = 0
    connection_rate: Rate = 0.0
    connection_rate_per_client: Rate = 0.0
    timeouts: TimeoutsShape = TimeoutsShape()
    udp_idle: Annotated[float, PlainValidator(quantities.duration("1s", "168h"))] = UDP_IDLE_S
    keepalive: KeepaliveShape = KeepaliveShape()
    udp: UdpShape = UdpShape()
    bulk: BulkKey = Bulk.COPY
    slow_connect: SlowConnect = 0.0
    source_ranges: list[Network] = Field(default_factory=list)
