"""Logs: one event a line on stderr, key=value on a terminal and JSON otherwise; stdlib loggers take the same way."""

from __future__ import annotations

import atexit
import json
import logging
import math
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping, MutableMapping
from types import TracebackType
from typing import Any, TextIO

import structlog

from lbd.observability.log_writer import LogWriter, put_for
from lbd.observability.rate_cap import RateCap

FOREIGN_EVENTS_PER_S = 20.0
"""Cap on what one stdlib logger (aiohttp's, asyncio's, …) may log: hostile requests make aiohttp log at will."""

_MAX_FRAMES = 20
_MAX_CAUSES = 3
_FIRST_KEYS = ("time", "level", "event")
_active: LogWriter | None = None

Event = MutableMapping[str, Any]
Render = Callable[[Mapping[str, Any]], str]


def configure(stream: TextIO | None = None, level: int = logging.INFO) -> LogWriter:
    """Send structlog and stdlib logging to `stream` (default stderr), one event a line, and return the writer.

    A terminal gets `time level event key=value …`, anything else JSON: one object a line with `time` (UTC, ISO 8601),
    `level`, `event`, the event's own keys, and `exception` as one object without line breaks. A line waits in a bounded
    queue for a writer thread: the caller never waits for the stream. The queue is flushed at exit. Calling it again
    replaces the former writer.
    """
    global _active
    target = sys.stderr if stream is None else stream
    render = render_text if target.isatty() else render_json
    writer = LogWriter(put_for(target), lambda count: render(_lost_event(count)))
    if _active is None:
        atexit.register(close)
    else:
        _active.close()
    _active = writer
    writer.start()
    structlog.configure(
        processors=[
            structlog.contextvars.merge_contextvars,
            structlog.processors.add_log_level,
            structlog.processors.TimeStamper(fmt="iso", utc=True, key="time"),
            _name_logger,
            _fold_exception,
            lambda _logger, _method, event: render(event),
        ],
        wrapper_class=structlog.make_filtering_bound_logger(level),
        logger_factory=lambda *names: _LineLogger(writer, str(names[0]) if names else ""),
        cache_logger_on_first_use=False,
    )
    _route_stdlib(_ForeignHandler(), level)
    sys.excepthook = _log_uncaught
    threading.excepthook = lambda args: _log_uncaught(args.exc_type, args.exc_value, args.exc_traceback)
    return writer


def close() -> None:
    """Write what is queued and stop; does nothing when `configure` was not called."""
    if _active is not None:
        _active.close()


def render_json(event: Mapping[str, Any]) -> str:
    """Render an event as one line of ASCII JSON, whatever its values are."""
    ordered = {key: event[key] for key in _FIRST_KEYS if key in event}
    ordered.update((str(key), value) for key, value in event.items() if key not in _FIRST_KEYS)
    try:
        return json.dumps(ordered, default=_plain, allow_nan=False)
    except (ValueError, TypeError, RecursionError):
        # NaN or infinity (not JSON), an exotic key, or a cycle: every value on its own, as text where it must be.
        return json.dumps({key: _plain_number(value) for key, value in ordered.items()})


def render_text(event: Mapping[str, Any]) -> str:
    """Render an event as `time level event key=value …` on one line; a terminal's control characters come escaped."""
    rest = " ".join(f"{_bare(str(key))}={_bare(value)}" for key, value in event.items() if key not in _FIRST_KEYS)
    first = [_bare(event[key], spaces=True) if key in event else "" for key in ("time", "level", "event")]
    return f"{first[0]} {first[1]:<8} {first[2]} {rest}".rstrip()


def describe_exception(error: BaseException, depth: int = 0) -> dict[str, Any]:
    """Return an exception as plain values: type, message, frames (the innermost last) and what caused it."""
    frames = traceback.extract_tb(error.__traceback__)[-_MAX_FRAMES:]
    described: dict[str, Any] = {
        "type": type(error).__name__,
        "message": _plain(error),
        "frames": [f"{frame.filename}:{frame.lineno} in {frame.name}" for frame in frames],
    }
    cause = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    if cause is not None and depth < _MAX_CAUSES:
        described["cause"] = describe_exception(cause, depth + 1)
    if isinstance(error, BaseExceptionGroup) and depth < _MAX_CAUSES:
        described["exceptions"] = [describe_exception(part, depth + 1) for part in error.exceptions[:_MAX_FRAMES]]
    return described


class _LineLogger:
    """What structlog calls with a finished line."""

    def __init__(self, writer: LogWriter, name: str) -> None:
        self.name = name
        self.msg = writer.write

    debug = info = warning = error = critical = exception = fatal = log = lambda self, line: self.msg(line)


class _ForeignHandler(logging.Handler):
    """Turns a stdlib record into an event, at most `FOREIGN_EVENTS_PER_S` for each logger."""

    def __init__(self) -> None:
        super().__init__()
        self._caps: dict[str, RateCap] = {}

    def emit(self, record: logging.LogRecord) -> None:
        """Log the record through structlog."""
        admission = self._caps.setdefault(record.name, RateCap(FOREIGN_EVENTS_PER_S)).admit(time.monotonic())
        if not admission.log:
            return
        try:
            message = record.getMessage()
        except (TypeError, ValueError):
            message = f"{record.msg} {record.args!r}"
        keys: dict[str, Any] = {"suppressed": admission.suppressed} if admission.suppressed else {}
        if record.exc_info:
            keys["exc_info"] = record.exc_info
        level = max(logging.DEBUG, record.levelno // 10 * 10)  # structlog knows the five levels, not those between
        structlog.get_logger(record.name).log(min(level, logging.CRITICAL), "library_event", message=message, **keys)


def _route_stdlib(handler: logging.Handler, level: int) -> None:
    root = logging.getLogger()
    for former in root.handlers[:]:
        root.removeHandler(former)
    root.addHandler(handler)
    root.setLevel(max(level, logging.WARNING))
    logging.captureWarnings(True)


def _log_uncaught(kind: type[BaseException], error: BaseException | None, trace: TracebackType | None) -> None:
    if issubclass(kind, KeyboardInterrupt) or error is None:
        sys.__excepthook__(kind, error or kind(), trace)
        return
    structlog.get_logger(__name__).critical("uncaught_exception", exc_info=(kind, error, trace))


def _name_logger(logger: Any, _method: str, event: Event) -> Event:
    if name := getattr(logger, "name", ""):
        event["logger"] = name
    return event


def _fold_exception(_logger: Any, _method: str, event: Event) -> Event:
    """Replace `exc_info` with `exception`: one value, so that an event stays one line."""
    exc_info = event.pop("exc_info", None)
    if exc_info is None or exc_info is False:
        return event
    error = exc_info if isinstance(exc_info, BaseException) else None
    if isinstance(exc_info, tuple):
        error = exc_info[1]
    elif error is None:
        error = sys.exc_info()[1]
    if error is not None:
        event["exception"] = describe_exception(error)
    return event


def _lost_event(count: int) -> dict[str, Any]:
    now = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    return {"time": now, "level": "error", "event": "log_lines_lost", "lines": count}


def _plain(value: object) -> Any:
    """Return something that JSON takes, for a value that it doesn't."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return bytes(value).decode("utf-8", "backslashreplace")
    if isinstance(value, (set, frozenset)):
        return sorted(map(str, value))
    try:
        return str(value)
    except Exception as error:  # noqa: BLE001 - a broken __str__ of whatever was logged must not stop the one who logs
        return f"<{type(value).__name__} whose text can't be made: {type(error).__name__}>"


def _plain_number(value: object) -> Any:
    if value is None or isinstance(value, (bool, int)) or (isinstance(value, float) and math.isfinite(value)):
        return value
    return _plain(value)


def _bare(value: object, spaces: bool = False) -> str:
    """Return a value as it stands where that is unambiguous and printable, else quoted and escaped."""
    if isinstance(value, float):
        return f"{value:.6g}"
    if isinstance(value, Mapping) and "frames" in value:
        value = _exception_line(value)
    text = value if isinstance(value, str) else _plain(value)
    plain = text.isprintable() and '"' not in text and (spaces or not (" " in text or "=" in text)) and text != ""
    return text if plain else json.dumps(text)


def _exception_line(described: Mapping[str, Any]) -> str:
    where = " < ".join(reversed(described["frames"]))
    line = f"{described['type']}: {described['message']}" + (f" at {where}" if where else "")
    return f"{line}; caused by {_exception_line(described['cause'])}" if "cause" in described else line
