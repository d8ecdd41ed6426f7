"""One synthetic snapshot whose every number is different, and helpers that speak raw HTTP."""

from __future__ import annotations

import asyncio
import logging
import sys
import threading
from collections.abc import Awaitable, Callable, Iterator
from dataclasses import dataclass, replace
from typing import Any

import pytest
import structlog

from lbd.model.kubernetes_status import (
    KubernetesStatus,
    LeaderStatus,
    ObjectProblem,
    PodRoutesStatus,
    PoolUsage,
    RuleInForce,
    WatchStatus,
)
from lbd.model.status import (
    ConfigStatus,
    ConnectError,
    Ending,
    Health,
    MemberStatus,
    MonitorStatus,
    Rejection,
    Status,
    Traffic,
    VipState,
    VipStatus,
    VirtualServiceStatus,
    WorkerStatus,
)
from lbd.observability import logs


def make_member(**changes: Any) -> MemberStatus:
    member = MemberStatus(
        address="10.1.0.1",
        port=8080,
        weight=10,
        effective_weight=2.5,
        admin_state="enabled",
        health=Health.UP,
        health_reason="",
        health_for_s=61.5,
        eligible=True,
        reason="",
        monitors=(MonitorStatus("system-tcp", Health.UP, "", 0.0125, 201, 202),),
        passive_failures=203,
        traffic=Traffic(211, 212, 213, 214, 215, 0, {ConnectError.REFUSED: 216, ConnectError.LOCAL: 217}),
    )
    return replace(member, **changes)


def make_service(**changes: Any) -> VirtualServiceStatus:
    down = make_member(
        address="2001:db8::5",
        health=Health.DOWN,
        eligible=False,
        reason="web-http: status 503, not 200-399",
        monitors=(MonitorStatus("web-http", Health.DOWN, "status 503", None, 301, 302),),
        traffic=Traffic(),
    )
    service = VirtualServiceStatus(
        name="web",
        vip="172.16.101.150",
        port=80,
        protocol="tcp",
        algorithm="least_connections",
        admin_state="enabled",
        state="serving",
        reason="",
        generation=21,
        wanted_generation=22,
        traffic=Traffic(
            *(101, 102, 2**53 + 1, 104, 105, 106),
            connect_errors_total={ConnectError.TIMED_OUT: 107},
            queued=108,
            rejected_total={Rejection.MAX_CONNECTIONS: 109, Rejection.QUEUE_FULL: 110},
            timed_out_total={Ending.IDLE: 111},
            persistence_entries=112,
            persistence_evictions_total=113,
        ),
        members=(make_member(), down),
    )
    return replace(service, **changes)


def make_worker(index: int = 0, **changes: Any) -> WorkerStatus:
    worker = WorkerStatus(
        index, 4000 + index, "running", "compiled", 21, 31, 0.032, 0.132, 36, 0.033, 34, 20000, True, "0", 35
    )
    return replace(worker, **changes)


def make_kubernetes(**changes: Any) -> KubernetesStatus:
    kubernetes = KubernetesStatus(
        server="https://10.0.0.1:6443",
        reachable=False,
        api_error="no answer within 10 s",
        unreachable_for_s=401.5,
        synced=False,
        leader=LeaderStatus(True, "se-a_1", "se-a_1", 402),
        services=403,
        assigned=404,
        watches=(
            WatchStatus("services", "", True, 405, 406.5, 407, 408),
            WatchStatus("l4rules", "shop", False, 409, 410.5, 411, 412, "forbidden: may not list l4rules"),
        ),
        pools=(PoolUsage("web", 4, 51, 413), PoolUsage("web", 6, 2**64, 414)),
        rules=(
            RuleInForce("default/good", True, 3, 3, 2),
            RuleInForce("default/bad", False, 5, 4, 1, "spec.lbAlgorithm: LB_ALGORITHM_FEWEST_TASKS is not supported"),
        ),
        object_problems=(
            ObjectProblem(
                "Service", "default/late", "PoolExhausted", "pool web is full: 51 of 51 addresses are in use"
            ),
        ),
        writes_total=415,
        write_conflicts_total=416,
        write_failures_total=417,
        requests_total=418,
        pod_routes=PodRoutesStatus(419, "10.244.1.0/24 is somebody else's route"),
    )
    return replace(kubernetes, **changes)


def make_status(**changes: Any) -> Status:
    status = Status(
        version="0.1.0",
        service_engine="se-a",
        state="running",
        form="compiled",
        pid=4242,
        uptime_s=3725.5,
        frontend_interface="ens192",
        generation=22,
        applied_generation=21,
        config=ConfigStatus(("lbd.yaml",), 22, False, 1700000100.5, 1700000000.25, ("lbd.yaml:12:9: bad",), 9, 2),
        workers=(make_worker(0), make_worker(1, state="hung", effective_capabilities="3000", accepting=False)),
        vips=(
            VipStatus("172.16.101.150", "ens192", VipState.OWNED, announcements_total=41),
            VipStatus("2001:db8::1", "ens192", VipState.FOREIGN_OWNER, "claimed by another", "52:54:00:00:00:01", True),
        ),
        virtual_services=(make_service(),),
        descriptors_used=51,
        descriptors_limit=20052,
        loop_lag_s=0.0053,
        problems=("VIP 2001:db8::1 is owned by 52:54:00:00:00:01: remove it there",),
        kubernetes=make_kubernetes(),
    )
    return replace(status, **changes)


@dataclass(frozen=True)
class Make:
    """The builders, for tests that want a snapshot of their own."""

    status: Callable[..., Status] = make_status
    service: Callable[..., VirtualServiceStatus] = make_service
    member: Callable[..., MemberStatus] = make_member
    worker: Callable[..., WorkerStatus] = make_worker


@pytest.fixture
def make() -> Make:
    return Make()


@dataclass(frozen=True)
class Answer:
    code: int
    headers: dict[str, str]
    body: bytes


Open = Callable[[], Awaitable[tuple[asyncio.StreamReader, asyncio.StreamWriter]]]


async def ask(open_connection: Open, request: str) -> Answer:
    """Send one raw request and read the answer to the end of the connection."""
    reader, writer = await open_connection()
    writer.write(request.encode())
    raw = await asyncio.wait_for(reader.read(), 20)
    writer.close()
    head, _, body = raw.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    headers = {name.lower(): value for name, _, value in (line.partition(": ") for line in lines)}
    return Answer(int(first.split()[1]), headers, body)


@pytest.fixture
def http() -> Callable[[Open, str], Awaitable[Answer]]:
    return ask


@pytest.fixture
def restored_logging() -> Iterator[None]:
    """Undo what `logs.configure` sets process-wide."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    hooks = sys.excepthook, threading.excepthook
    yield
    logs.close()
    structlog.reset_defaults()
    logging.captureWarnings(False)
    root.handlers[:], sys.excepthook, threading.excepthook = handlers, *hooks
    root.setLevel(level)
