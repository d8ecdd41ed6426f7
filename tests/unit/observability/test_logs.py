"""Claims about the log: one event a line, whatever is in it, and nobody ever waits for a slow stderr."""

from __future__ import annotations

import io
import json
import logging
import os
import pty
import subprocess
import sys
import threading
import time
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from lbd.observability import logs
from lbd.observability.log_writer import LogWriter, put_for

pytestmark = pytest.mark.usefixtures("restored_logging")


def logged(emit: Callable[[Any], None], **options: Any) -> list[dict[str, Any]]:
    """Configure, let `emit` log, and return the lines as JSON."""
    stream = io.StringIO()
    logs.configure(stream, **options)
    emit(structlog.get_logger("lbd.test"))
    logs.close()
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_an_event_is_one_line_of_json_with_time_level_event_and_its_keys() -> None:
    (event,) = logged(lambda log: log.warning("member_down", member="10.1.2.3:80", failures=3))
    assert event.pop("time").endswith("Z")
    assert event == {
        "level": "warning",
        "event": "member_down",
        "member": "10.1.2.3:80",
        "failures": 3,
        "logger": "lbd.test",
    }


@pytest.mark.parametrize(
    ("value", "shown"),
    [
        ('a"b\nc\r\n\x1b[31m\x00', 'a"b\nc\r\n\x1b[31m\x00'),
        (b"GET \xff\xfe\n", "GET \\xff\\xfe\n"),
        ("\udcff", "\udcff"),
        ("\u2028\x85", "\u2028\x85"),
        (float("nan"), "nan"),
        ({1, 2}, ["1", "2"]),
        (ValueError("x\ny"), "x\ny"),
        ({"a": {"b": b"\xff"}}, {"a": {"b": "\\xff"}}),
    ],
)
def test_any_value_stays_on_its_line_and_comes_back(value: object, shown: object) -> None:
    (event,) = logged(lambda log: log.info("e", value=value))
    assert event["value"] == shown


def test_a_value_that_contains_itself_or_cannot_be_shown_is_logged_all_the_same() -> None:
    class Broken:
        def __repr__(self) -> str:
            raise RuntimeError

    loop: list[Any] = []
    loop.append(loop)
    first, second = logged(lambda log: (log.info("a", value=loop), log.info("b", value=Broken())))
    assert first["value"] == "[[...]]"
    assert "RuntimeError" in second["value"]


@given(st.dictionaries(st.text(max_size=5), st.text() | st.binary() | st.floats() | st.none(), max_size=4))
def test_rendering_never_breaks_a_line(keys: dict[str, Any]) -> None:
    for render in (logs.render_json, logs.render_text):
        line = render({"time": "t", "level": "info", "event": "e", **keys})
        assert len(line.splitlines()) == 1
    assert json.loads(logs.render_json(keys)).keys() == keys.keys()


def test_an_exception_is_one_field_with_its_frames_and_cause() -> None:
    def fail(log: Any) -> None:
        try:
            try:
                raise KeyError("inner\nline")
            except KeyError as error:
                raise ValueError("outer") from error
        except ValueError:
            log.exception("failed")

    (event,) = logged(fail)
    described = event["exception"]
    assert (event["level"], described["type"], described["message"]) == ("error", "ValueError", "outer")
    assert described["frames"][-1].endswith(" in fail")
    assert described["cause"]["type"] == "KeyError"


def test_a_group_of_exceptions_and_a_chain_without_end_are_bounded() -> None:
    error: BaseException = ValueError("0")
    for number in range(50):
        following = ValueError(str(number + 1))
        following.__cause__ = error
        error = following
    group = ExceptionGroup("many", [ValueError(str(i)) for i in range(100)])
    chain, many = logged(lambda log: (log.error("a", exc_info=error), log.error("b", exc_info=group)))
    assert len(json.dumps(chain)) < 1000
    assert len(many["exception"]["exceptions"]) == 20


def test_levels_below_the_configured_one_are_not_written() -> None:
    events = logged(lambda log: (log.debug("a"), log.info("b"), log.warning("c")), level=logging.WARNING)
    assert [event["event"] for event in events] == ["c"]


def test_stdlib_loggers_and_warnings_take_the_same_way() -> None:
    def emit(_log: Any) -> None:
        logging.getLogger("aiohttp.server").error("bad request from %s", "x\ny")
        logging.getLogger("asyncio").log(35, "odd level %d", "not a number")
        logging.getLogger("aiohttp.access").info("not wanted")
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            warnings.warn("old", DeprecationWarning, stacklevel=1)

    first, second, third = logged(emit)
    assert (first["logger"], first["level"], first["message"]) == ("aiohttp.server", "error", "bad request from x\ny")
    assert "odd level" in second["message"]
    assert (third["logger"], "DeprecationWarning" in third["message"]) == ("py.warnings", True)


def test_a_library_cannot_flood_the_log() -> None:
    def emit(_log: Any) -> None:
        for _ in range(5000):
            logging.getLogger("aiohttp.server").error("Error handling request")
        logging.getLogger("asyncio").error("another logger is not silenced by it")

    events = logged(emit)
    assert len(events) < 100
    assert events[-1]["logger"] == "asyncio"


def test_an_uncaught_exception_in_a_thread_is_an_event() -> None:
    def emit(_log: Any) -> None:
        def run() -> None:
            raise ValueError("boom")

        thread = threading.Thread(target=run)
        thread.start()
        thread.join()

    (event,) = logged(emit)
    assert (event["event"], event["level"], event["exception"]["message"]) == ("uncaught_exception", "critical", "boom")


def test_configuring_twice_writes_each_event_once_and_to_the_new_stream() -> None:
    first, second = io.StringIO(), io.StringIO()
    logs.configure(first)
    logs.configure(second)
    structlog.get_logger().info("once")
    logging.getLogger("x").error("twice?")
    logs.close()
    assert first.getvalue() == ""
    assert len(second.getvalue().splitlines()) == 2


def test_on_a_terminal_it_is_key_value_and_nothing_a_terminal_would_obey() -> None:
    master, slave = pty.openpty()
    with os.fdopen(slave, "w") as terminal:
        logs.configure(terminal)
        log = structlog.get_logger("lbd.test")
        log.info("member_down", member="10.1.2.3:80", reason="connection refused", latency_s=0.25)
        log.info("hostile", answer="\x1b]0;owned\x07\nline", equals="a=b", empty="")
        try:
            raise ValueError("no\nway")
        except ValueError:
            log.exception("failed")
        logs.close()
        lines = os.read(master, 65536).decode().replace("\r\n", "\n").splitlines()
    os.close(master)
    assert [line.split(" ")[1] for line in lines] == ["info", "info", "error"]
    assert 'member_down member=10.1.2.3:80 reason="connection refused" latency_s=0.25 logger=lbd.test' in lines[0]
    assert r'answer="\u001b]0;owned\u0007\nline" equals="a=b" empty=""' in lines[1]
    assert r'exception="ValueError: no\nway at ' in lines[2]
    assert not any("\x1b" in line for line in lines)


def test_a_stuck_stderr_does_not_hold_the_caller_and_the_loss_is_said() -> None:
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as stream:
        log_writer = LogWriter(put_for(stream), lambda count: f"lost {count}", max_lines=100)
        log_writer.start()
        log_writer.write("x" * 1_000_000)  # more than a pipe holds: the thread is stuck in it
        began_s = time.monotonic()
        for number in range(5000):
            log_writer.write(f"line {number}")
        assert time.monotonic() - began_s < 0.5
        received = bytearray()
        drained = threading.Thread(target=lambda: received.extend(_read_all(reader)))
        drained.start()
        log_writer.close()
    drained.join(10)
    os.close(reader)
    lines = received.decode().splitlines()
    lost = [int(line.split()[1]) for line in lines if line.startswith("lost")]
    assert sum(lost) >= 5000 - 2 * 100
    assert len(lines) - 1 - len(lost) + sum(lost) == 5000, "each line is written or counted"


def _read_all(descriptor: int) -> bytes:
    return b"".join(iter(lambda: os.read(descriptor, 65536), b""))


def _read_until(descriptor: int, end: bytes) -> bytes:
    received = b""
    while not (end in received and received.endswith(b"\n")):
        received += os.read(descriptor, 65536)
    return received


def test_a_stderr_that_is_stuck_for_ever_does_not_keep_the_process_from_ending() -> None:
    script = (
        "import structlog, sys\n"
        "from lbd.observability import logs\n"
        "logs.configure()\n"
        "for _ in range(3): structlog.get_logger().info('e', value='x' * 200_000)\n"
    )
    reader, writer = os.pipe()  # nobody reads it
    process = subprocess.Popen([sys.executable, "-c", script], stderr=writer)
    os.close(writer)
    assert process.wait(20) == 0
    os.close(reader)


def test_a_stderr_that_is_gone_or_non_blocking_breaks_nothing() -> None:
    reader, writer = os.pipe()
    os.set_blocking(writer, False)
    with os.fdopen(writer, "w") as stream:
        log_writer = LogWriter(put_for(stream), lambda count: f"lost {count}")
        log_writer.start()
        log_writer.write("y" * 300_000)
        assert len(_read_until(reader, b"y\n")) == 300_001
        os.close(reader)
        log_writer.write("into nothing")
        log_writer.close()
        log_writer.write("after the end")


def test_what_is_logged_just_before_the_end_is_written() -> None:
    script = (
        "import structlog\n"
        "from lbd.observability import logs\n"
        "logs.configure()\n"
        "structlog.get_logger().info('last_words')\n"
        "raise ValueError('the end')\n"
    )
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    events = [json.loads(line) for line in ended.stderr.splitlines()]
    assert [event["event"] for event in events] == ["last_words", "uncaught_exception"]
    assert events[1]["exception"]["message"] == "the end"
