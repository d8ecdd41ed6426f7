"""Shapes that were found good → the desired state."""

from __future__ import annotations

from collections.abc import Sequence

from lbd.config.schema import FileShape, MonitorShape, PoolShape, VirtualServiceShape
from lbd.model.address import Endpoint
from lbd.model.desired import (
    SYSTEM_MONITORS,
    DesiredState,
    HealthMonitor,
    Member,
    Pool,
    Protocol,
    ServiceEngine,
    Timeouts,
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
    return next((shape for shape in shapes if key in shape.model_fields_set), shapes[0])


def _monitor(name: str, shape: MonitorShape) -> HealthMonitor:
    return HealthMonitor(
        name=name,
        type=shape.type,
        interval_s=shape.interval,
        # Who shortens the interval alone wants more checks, not an error about a timeout that was never written.
        timeout_s=shape.timeout if "timeout" in shape.model_fields_set else min(shape.timeout, shape.interval),
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
    )


def _service(shape: VirtualServiceShape, monitors: dict[str, HealthMonitor]) -> VirtualService:
    return VirtualService(
        name=shape.name,
        vip=shape.vip,
        port=shape.port,
        pool=_pool(shape.pool, monitors),
        protocol=Protocol(shape.protocol),
        timeouts=Timeouts(connect_s=shape.timeouts.connect, idle_s=shape.timeouts.idle),
        admin_state=shape.admin_state,
    )


def _pool(shape: PoolShape, monitors: dict[str, HealthMonitor]) -> Pool:
    return Pool(
        members=tuple(
            Member(Endpoint(member.address, member.port), member.weight, member.admin_state) for member in shape.members
        ),
        algorithm=shape.algorithm,
        health_monitors=tuple(monitors[name] for name in shape.health_monitors) or (monitors["system-tcp"],),
        slow_start_s=shape.slow_start,
        on_all_down=shape.on_all_down,
    )
