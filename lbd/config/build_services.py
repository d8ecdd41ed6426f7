"""Shapes of virtual services and of what they are made of → the model."""

from __future__ import annotations

from lbd.config.shapes import (
    ClientLogsShape,
    KeepaliveShape,
    KeepaliveSideShape,
    LimitsShape,
    MemberShape,
    OutlierDetectionShape,
    PersistenceShape,
    PoolShape,
    TimeoutsShape,
    UdpShape,
    VirtualServiceShape,
)
from lbd.model.address import Endpoint
from lbd.model.desired import (
    UDP_IDLE_S,
    Algorithm,
    ClientLogs,
    HealthMonitor,
    Keepalive,
    Limits,
    Member,
    OutlierDetection,
    Persistence,
    Pool,
    Protocol,
    Timeouts,
    UdpOptions,
    VirtualService,
)


def virtual_service(shape: VirtualServiceShape, monitors: dict[str, HealthMonitor]) -> VirtualService:
    """Return one of `virtual_services`; `monitors` has all that it can name."""
    client, member = keepalives(shape.keepalive)
    return VirtualService(
        name=shape.name,
        vip=shape.vip,
        port=shape.port,
        pool=_pool(shape.pool, shape.protocol, monitors),
        protocol=shape.protocol,
        timeouts=timeouts(shape.timeouts, shape.protocol),
        admin_state=shape.admin_state,
        source=shape.source,
        proxy_protocol=shape.proxy_protocol,
        accept_proxy_protocol=tuple(shape.accept_proxy_protocol),
        source_ranges=tuple(shape.source_ranges),
        limits=_limits(shape.limits),
        client_keepalive=client,
        member_keepalive=member,
        udp=udp_options(shape.udp),
        bulk=shape.bulk,
        client_logs=_client_logs(shape.client_logs) if shape.has("client_logs") else None,
    )


def timeouts(shape: TimeoutsShape, protocol: Protocol) -> Timeouts:
    """Return `timeouts`, with the default of a protocol for `idle`."""
    return Timeouts(
        connect_s=shape.connect,
        idle_s=UDP_IDLE_S if protocol is Protocol.UDP and not shape.has("idle") else shape.idle,
        client_half_closed_s=shape.client_half_closed,
        member_half_closed_s=shape.member_half_closed,
        client_user_s=shape.client_user,
        member_user_s=shape.member_user,
        lifetime_s=shape.lifetime,
        lifetime_jitter=shape.lifetime_jitter,
    )


def keepalives(shape: KeepaliveShape) -> tuple[Keepalive | None, Keepalive | None]:
    """Return `keepalive` toward clients and toward members."""
    client, member = (_keepalive(getattr(shape, side)) if shape.has(side) else None for side in ("client", "member"))
    return client, member


def udp_options(shape: UdpShape) -> UdpOptions:
    """Return `udp`."""
    return UdpOptions(responses=shape.responses, max_flows=shape.max_flows, per_packet=shape.per_packet)


def _client_logs(shape: ClientLogsShape) -> ClientLogs:
    return ClientLogs(throttle_per_s=shape.throttle, duration_s=shape.duration, slow_connect_s=shape.slow_connect)


def _keepalive(shape: KeepaliveSideShape) -> Keepalive:
    return Keepalive(idle_s=shape.idle, interval_s=shape.interval, probes=shape.probes)


def _limits(shape: LimitsShape) -> Limits:
    return Limits(
        max_connections=shape.max_connections,
        on_limit=shape.on_limit,
        queue_length=shape.queue_length,
        queue_timeout_s=shape.queue_timeout,
        max_connections_per_client=shape.max_connections_per_client,
        connection_rate=shape.connection_rate,
        connection_rate_per_client=shape.connection_rate_per_client,
        max_throughput_bps=shape.max_throughput,
    )


def _pool(shape: PoolShape, protocol: Protocol, monitors: dict[str, HealthMonitor]) -> Pool:
    default_monitor = "system-udp" if protocol is Protocol.UDP else "system-tcp"
    hashed = shape.has("hash") and not shape.has("algorithm")
    return Pool(
        members=tuple(_member(member) for member in shape.members),
        algorithm=Algorithm.CONSISTENT_HASH if hashed else shape.algorithm,
        health_monitors=tuple(monitors[name] for name in shape.health_monitors or (default_monitor,)),
        slow_start_s=shape.slow_start,
        on_all_down=shape.on_all_down,
        hash_key=shape.hash,
        max_load_percent=shape.max_load,
        persistence=persistence(shape.persistence) if shape.has("persistence") else None,
        outlier_detection=_outlier_detection(shape.outlier_detection) if shape.has("outlier_detection") else None,
        min_members_up=shape.min_members_up,
        panic_threshold_percent=shape.panic_threshold,
        drain_timeout_s=shape.drain_timeout,
    )


def _member(shape: MemberShape) -> Member:
    return Member(
        endpoint=Endpoint(shape.address, shape.port),
        weight=shape.weight,
        admin_state=shape.admin_state,
        backup=shape.backup,
        max_connections=shape.max_connections,
    )


def persistence(shape: PersistenceShape) -> Persistence:
    """Return `persistence`."""
    return Persistence(
        timeout_s=shape.timeout,
        ipv4_prefix=shape.ipv4_prefix,
        ipv6_prefix=shape.ipv6_prefix,
        max_entries=shape.max_entries,
        on_member_down=shape.on_member_down,
    )


def _outlier_detection(shape: OutlierDetectionShape) -> OutlierDetection:
    longest_s = shape.max_ejection_time
    return OutlierDetection(
        consecutive_failures=shape.consecutive_failures,
        base_ejection_s=shape.base_ejection_time,
        # As with a monitor's timeout: who lengthens the first ejection alone has not asked for a shorter longest one.
        max_ejection_s=longest_s if shape.has("max_ejection_time") else max(longest_s, shape.base_ejection_time),
        max_ejected_percent=shape.max_ejected,
    )
