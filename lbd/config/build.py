"""Shapes that were found good → the desired state."""

from __future__ import annotations

from collections.abc import Sequence

from lbd.config.schema import (
    FileShape,
    KeepaliveSideShape,
    LimitsShape,
    MemberShape,
    MonitorShape,
    OutlierDetectionShape,
    PersistenceShape,
    PoolShape,
    TimeoutsShape,
    VirtualServiceShape,
)
from lbd.model.address import Endpoint
from lbd.model.desired import (
    SYSTEM_MONITORS,
    UDP_IDLE_S,
    Algorithm,
    DesiredState,
    HealthMonitor,
    Keepalive,
    Limits,
    Member,
    OutlierDetection,
    Persistence,
    Pool,
    Protocol,
    ServiceEngine,
    Timeouts,
    UdpOptions,
    VirtualService,
)


def build(shapes: Sequence[FileShape], generation: int, *, host_name: str, processors: int) -> DesiredState:
    """Return the desired state of files that have passed all rules.

    `host_name` is the service engine's name and `processors` its number of workers where the files don't say.
    """
    monitors = {monitor.name: monitor for monitor in SYSTEM_MONITORS}
    for shape in shapes:
        monitors.update({name: _monitor(name, monitor) for name, monitor in shape.health_monitors.items()})
    engine = _section(shapes, "service_engine").service_engine
    return DesiredState(
        generation=generation,
        service_engine=ServiceEngine(
            name=engine.name or host_name,
            workers=engine.workers or processors,
            frontend_interface=engine.frontend_interface,
            drain_timeout_s=engine.drain_timeout,
            frontend_gateways=tuple(engine.frontend_gateway),
        ),
        virtual_services=tuple(_service(service, monitors) for shape in shapes for service in shape.virtual_services),
        metrics_listen=_section(shapes, "metrics").metrics.listen,
        admin_socket=_section(shapes, "admin").admin.socket,
    )


def _section(shapes: Sequence[FileShape], key: str) -> FileShape:
    """Return the file that has a section written down, otherwise any: they have the same defaults."""
    return next((shape for shape in shapes if shape.has(key)), shapes[0])


def _monitor(name: str, shape: MonitorShape) -> HealthMonitor:
    return HealthMonitor(
        name=name,
        type=shape.type,
        interval_s=shape.interval,
        # Who shortens the interval alone wants more checks, not an error about a timeout that was never written.
        timeout_s=shape.timeout if shape.has("timeout") else min(shape.timeout, shape.interval),
        rise=shape.rise,
        fall=shape.fall,
        jitter=shape.jitter,
        port=shape.port,
        send=shape.send,
        expect=shape.expect,
        path=shape.path,
        host=shape.host,
        method=shape.method,
        expect_status=tuple(shape.expect_status),
        expect_text=shape.expect_text,
        verify_tls=shape.verify_tls,
        query_name=shape.query_name,
        query_type=shape.query_type,
        expect_rcode=tuple(shape.expect_rcode),
        expect_answer=shape.expect_answer,
    )


def _service(shape: VirtualServiceShape, monitors: dict[str, HealthMonitor]) -> VirtualService:
    keepalive = shape.keepalive
    return VirtualService(
        name=shape.name,
        vip=shape.vip,
        port=shape.port,
        pool=_pool(shape.pool, shape.protocol, monitors),
        protocol=shape.protocol,
        timeouts=_timeouts(shape.timeouts, shape.protocol),
        admin_state=shape.admin_state,
        source=shape.source,
        proxy_protocol=shape.proxy_protocol,
        accept_proxy_protocol=tuple(shape.accept_proxy_protocol),
        source_ranges=tuple(shape.source_ranges),
        limits=_limits(shape.limits),
        client_keepalive=_keepalive(keepalive.client) if keepalive.has("client") else None,
        member_keepalive=_keepalive(keepalive.member) if keepalive.has("member") else None,
        udp=UdpOptions(responses=shape.udp.responses, max_flows=shape.udp.max_flows, per_packet=shape.udp.per_packet),
    )


def _timeouts(shape: TimeoutsShape, protocol: Protocol) -> Timeouts:
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
        persistence=_persistence(shape.persistence) if shape.has("persistence") else None,
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


def _persistence(shape: PersistenceShape) -> Persistence:
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
