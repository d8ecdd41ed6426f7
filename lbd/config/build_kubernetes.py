"""Shapes of `kubernetes`, `address_pools` and `profiles` → the model."""

from __future__ import annotations

from collections.abc import Sequence

from lbd.config.build_services import keepalives, persistence, timeouts, udp_options
from lbd.config.kubernetes_scalars import ProfileType
from lbd.config.schema import FileShape
from lbd.config.shapes_kubernetes import AddressPoolShape, LeaseShape, ProfileShape
from lbd.model.desired import HealthMonitor, Protocol
from lbd.model.kubernetes import (
    SYSTEM_PROFILES,
    AddressPool,
    AnalyticsProfile,
    ApplicationProfile,
    Kubernetes,
    LeaseSettings,
    NetworkProfile,
    NetworkSecurityPolicy,
    PersistenceProfile,
    Profile,
)


def kubernetes(shapes: Sequence[FileShape], monitors: tuple[HealthMonitor, ...]) -> Kubernetes | None:
    """Return the cluster that the files describe together, None if they have none; `monitors` are all there are."""
    shape = next((one.kubernetes for one in shapes if one.has("kubernetes")), None)
    if shape is None:
        return None
    return Kubernetes(
        kubeconfig=shape.kubeconfig,
        context=shape.context,
        load_balancer_class=shape.load_balancer_class,
        default_class=shape.default_class,
        namespaces=tuple(shape.namespaces),
        pod_cidrs=tuple(shape.pod_cidrs),
        pod_routes=shape.pod_routes,
        backend_interface=shape.backend_interface,
        resync_s=shape.resync,
        request_timeout_s=shape.request_timeout,
        watch_timeout_s=shape.watch_timeout,
        lease=_lease(shape.lease),
        address_pools=tuple(_pool(name, pool) for one in shapes for name, pool in one.address_pools.items()),
        profiles=SYSTEM_PROFILES + tuple(_profile(*item) for one in shapes for item in one.profiles.items()),
        health_monitors=monitors,
    )


def _lease(shape: LeaseShape) -> LeaseSettings:
    return LeaseSettings(
        namespace=shape.namespace,
        name=shape.name,
        duration_s=shape.duration,
        renew_deadline_s=shape.renew_deadline,
        retry_s=shape.retry,
    )


def _pool(name: str, shape: AddressPoolShape) -> AddressPool:
    return AddressPool(
        name=name,
        ranges=tuple(shape.ranges),
        auto_assign=shape.auto_assign,
        namespaces=tuple(shape.namespaces),
        service_labels=tuple(shape.service_selector.items()),
        priority=shape.priority,
    )


def _profile(name: str, shape: ProfileShape) -> Profile:
    match shape.type:
        case ProfileType.PERSISTENCE:
            return PersistenceProfile(name, persistence(shape.persistence))
        case ProfileType.APPLICATION:
            return _application(name, shape)
        case ProfileType.NETWORK:
            return _network(name, shape)
        case ProfileType.ANALYTICS:
            return AnalyticsProfile(name, shape.slow_connect)
        case ProfileType.NETWORK_SECURITY:
            return NetworkSecurityPolicy(name, tuple(shape.source_ranges))


def _application(name: str, shape: ProfileShape) -> ApplicationProfile:
    return ApplicationProfile(
        name,
        source=shape.source,
        proxy_protocol=shape.proxy_protocol,
        accept_proxy_protocol=tuple(shape.accept_proxy_protocol),
        max_connections_per_client=shape.max_connections_per_client,
        connection_rate=shape.connection_rate,
        connection_rate_per_client=shape.connection_rate_per_client,
    )


def _network(name: str, shape: ProfileShape) -> NetworkProfile:
    client, member = keepalives(shape.keepalive)
    return NetworkProfile(
        name,
        timeouts=timeouts(shape.timeouts, Protocol.TCP),
        udp_idle_s=shape.udp_idle,
        client_keepalive=client,
        member_keepalive=member,
        udp=udp_options(shape.udp),
        bulk=shape.bulk,
    )
