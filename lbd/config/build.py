"""Shapes that were found good → the desired state."""

from __future__ import annotations

from collections.abc import Sequence

from lbd.config.build_kubernetes import kubernetes
from lbd.config.build_services import virtual_service
from lbd.config.schema import FileShape
from lbd.config.shapes import MonitorShape
from lbd.model.desired import SYSTEM_MONITORS, DesiredState, HealthMonitor, ServiceEngine


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
        virtual_services=tuple(
            virtual_service(service, monitors) for shape in shapes for service in shape.virtual_services
        ),
        metrics_listen=_section(shapes, "metrics").metrics.listen,
        admin_socket=_section(shapes, "admin").admin.socket,
        kubernetes=kubernetes(shapes, tuple(monitors.values())),
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
