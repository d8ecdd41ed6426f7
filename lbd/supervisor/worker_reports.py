"""What workers say that is for people: as events of the log."""

from __future__ import annotations

import structlog

from lbd.dataplane.channel import Message

log = structlog.get_logger(__name__)


def log_report(worker: int, message: Message) -> None:
    """Log what the worker in this place has said."""
    kind = message["type"]
    if kind == "reset_done":
        _log_reset(worker, message)
    elif kind == "accepting":
        event = "descriptor_limit_recovered" if message["accepting"] else "descriptor_limit_reached"
        log.warning(event, worker=worker, used=message["used"], limit=message["limit"])
    elif kind == "fault":
        names = {name: message[name] for name in ("where", "error", "trace")}
        log.error("worker_fault", worker=worker, **names)
    else:
        log.error("unknown_worker_message", worker=worker, kind=kind)


def _log_reset(worker: int, message: Message) -> None:
    """The service itself may be gone by now: its last connections just were."""
    if message["connections"]:
        log.warning(
            "connections_reset",
            service=message["service"],
            member=message["endpoint"],
            worker=worker,
            connections=message["connections"],
            reason=message["reason"],
        )
