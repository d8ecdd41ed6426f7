"""Claims about what a person reads."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

import pytest
from rich.console import Console

from lbd.model.status import Health, Rejection, Status, Traffic
from lbd.observability.table import show, why
from lbd.observability.words import bytes_text, count_text, duration_text, latency_text, visible, weight_text


def shown(status: Status, width: int | None = None) -> str:
    """Return what is printed into a pipe, or on a terminal of `width` columns without its colours."""
    stream = io.StringIO()
    if width is None:
        show(status, Console(file=stream))
    else:
        show(status, Console(file=stream, width=width, force_terminal=True, color_system=None))
    return stream.getvalue()


def line_with(text: str, part: str) -> str:
    (line,) = [line for line in text.splitlines() if part in line]
    return line


def test_a_member_has_its_state_numbers_and_last_of_all_why(make: Any) -> None:
    text = shown(make.status())
    header = line_with(text, "member ").split()
    assert header == ["member", "health", "admin", "weight", "active", "total", "in", "out", "check", "why"]
    up = line_with(text, "10.1.0.1:8080")
    assert up.split()[:9] == ["10.1.0.1:8080", "up", "enabled", "2.5/10", "211", "212", "213B", "214B", "12ms"]
    assert up.endswith("slow start: gets less than its weight for now")
    down = line_with(text, "[2001:db8::5]:8080")
    assert down.split()[1] == "down"
    assert down.endswith("  web-http: status 503, not 200-399")


def test_into_a_pipe_each_member_is_one_line_without_colours(make: Any) -> None:
    reason = "a very long reason " * 30
    text = shown(make.status(virtual_services=(make.service(members=(make.member(reason=reason),)),)))
    assert line_with(text, "10.1.0.1:8080").endswith(reason.strip())
    assert "\x1b" not in text


@pytest.mark.parametrize("width", [80, 100, 132, 200])
def test_on_a_terminal_no_line_is_wider_and_no_reason_is_cut(make: Any, width: int) -> None:
    reason = "system-tcp: connection refused by 10.1.0.1:8080 for 14 s, and the relay saw it 3 times"
    members = (make.member(reason=reason), make.member(address="10.255.255.254", reason=""))
    text = shown(make.status(virtual_services=(make.service(members=members),)), width)
    assert max(map(len, text.splitlines())) <= width
    assert " ".join(reason.split()) in " ".join(text.split())
    assert "10.255.255.254:8080" in text


def test_on_80_columns_the_reason_stands_under_its_member(make: Any) -> None:
    lines = shown(make.status(), 80).splitlines()
    (at,) = [number for number, line in enumerate(lines) if "[2001:db8::5]:8080" in line]
    assert lines[at + 1] == "      why: web-http: status 503, not 200-399"


def test_addresses_that_leave_no_room_get_a_line_of_their_own(make: Any) -> None:
    long = make.member(address="2001:db8:1111:2222:3333:4444:5555:6666", reason="it is down")
    lines = shown(make.status(virtual_services=(make.service(members=(long,)),)), 80).splitlines()
    (at,) = [number for number, line in enumerate(lines) if "6666" in line]
    assert lines[at].strip() == "[2001:db8:1111:2222:3333:4444:5555:6666]:8080"
    assert lines[at + 1].split()[:2] == ["up", "enabled"]
    assert lines[at + 2].strip() == "why: it is down"


def test_problems_and_config_errors_come_first(make: Any) -> None:
    text = shown(make.status())
    lines = text.splitlines()
    assert lines[0] == "se-a  running  lbd 0.1.0 compiled  generation 21 of 22  up 1h02m  1 of 2 workers"
    assert lines[2] == "PROBLEMS"
    assert "2023-11-14 22:15:00 UTC was refused; generation 22 stays" in lines[3]
    assert lines[4].strip() == "lbd.yaml:12:9: bad"
    assert lines[5].strip() == "VIP 2001:db8::1 is owned by 52:54:00:00:00:01: remove it there"
    assert text.index("PROBLEMS") < text.index("VIPS") < text.index("VIRTUAL SERVICES") < text.index("WORKERS")


def test_problems_are_red_on_a_terminal(make: Any) -> None:
    stream = io.StringIO()
    show(make.status(), Console(file=stream, width=120, force_terminal=True, color_system="standard"))
    assert "\x1b[31m  VIP 2001:db8::1 is owned by" in stream.getvalue()


def test_without_problems_there_is_no_such_heading(make: Any) -> None:
    status = make.status()
    status = replace(status, problems=(), config=replace(status.config, last_reload_success=True, errors=()))
    assert "PROBLEMS" not in shown(status)


def test_vips_services_and_workers_say_what_is_odd(make: Any) -> None:
    text = shown(make.status())
    foreign = line_with(text, "foreign_owner")
    assert "claimed by another; owner 52:54:00:00:00:01; the address was there before lbd" in foreign
    assert line_with(text, "172.16.101.150  ").split() == ["172.16.101.150", "ens192", "owned", "41"]
    assert "web  172.16.101.150:80/tcp  least_connections  serving  generation 21 of 22" in text
    assert (
        "101 active, 102 total, 9.0PB in, 104B out, 107 connect errors (timed_out), 105 retries, 106 unserved" in text
    )
    assert ", 219 rejected (max_connections 109, queue_full 110)" in text
    hung = line_with(text, "hung")
    assert hung.endswith("silent for 33ms, has capabilities 3000")


def test_one_reason_is_named_without_its_count(make: Any) -> None:
    service = make.status().virtual_services[0]
    traffic = Traffic(rejected_total={Rejection.SOURCE_RANGES: 3, Rejection.QUEUE_FULL: 0})
    status = replace(make.status(), virtual_services=(replace(service, traffic=traffic),))
    assert shown(status).count(", 3 rejected (source_ranges)\n") == 1


@pytest.mark.parametrize(
    ("effective", "expected", "said"),
    [
        ("2000", "0", "has capabilities 2000"),
        ("2000", "2000", "has CAP_NET_RAW, as transparent services need"),
        ("0", "2000", "has capabilities 0"),
        ("3000", "2000", "has capabilities 3000"),
        ("0", "0", None),
        ("?", "2000", None),
        ("", "0", None),
    ],
)
def test_capabilities_are_odd_unless_transparent_services_need_them(
    make: Any, effective: str, expected: str, said: str | None
) -> None:
    worker = make.worker(0, effective_capabilities=effective, expected_capabilities=expected)
    text = shown(make.status(workers=(worker,)))
    assert (said is None) == ("capabilities" not in text and "CAP_NET_RAW" not in text)
    assert said is None or said in text


def test_an_empty_daemon_is_said_in_words(make: Any) -> None:
    text = shown(make.status(vips=(), virtual_services=(), workers=()))
    for words in ("no VIP is configured", "no virtual service is configured", "no worker runs"):
        assert words in text
    assert "the pool has no member" in shown(make.status(virtual_services=(make.service(members=()),)))


def test_text_of_others_cannot_command_the_terminal_or_rich(make: Any) -> None:
    reason = "503 \x1b[2J\x1b]0;owned\x07 [red]x[/red] [/]\nnext"
    status = make.status(problems=(reason,), virtual_services=(make.service(name=reason, reason=reason),))
    for text in (shown(status), shown(status, 80)):
        assert "\x1b" not in text
        assert "\x07" not in text
        assert "[red]x[/red] [/]" in text
        assert "\\x1b[2J" in text


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"reason": "draining: 3 left", "eligible": False}, "draining: 3 left"),
        ({"eligible": False, "health": Health.DOWN, "health_reason": "refused"}, "refused"),
        ({"eligible": False}, "not eligible"),
        ({"effective_weight": 10.0}, ""),
        ({"effective_weight": 10.0, "health": Health.UNKNOWN, "health_reason": "not checked yet"}, "not checked yet"),
    ],
)
def test_every_member_that_gets_nothing_has_a_reason(make: Any, changes: dict[str, Any], sentence: str) -> None:
    assert why(make.member(**changes)) == sentence


def test_a_wide_and_a_narrow_table_say_the_same_of_100_members(make: Any) -> None:
    members = tuple(make.member(address=f"10.0.0.{i}", traffic=Traffic(connections_total=i)) for i in range(100))
    status = make.status(virtual_services=(make.service(members=members),))
    for text in (shown(status), shown(status, 80)):
        assert all(f"10.0.0.{i}:8080" in text for i in range(100))


def test_words_for_amounts() -> None:
    assert [count_text(n) for n in (0, 999, 1000, 12_345, 999_949, 999_950, 10**15)] == [
        "0",
        "999",
        "1.0k",
        "12.3k",
        "999.9k",
        "1.0M",
        "1.0P",
    ]
    assert [bytes_text(n) for n in (0, 999, 1500, 10**9)] == ["0B", "999B", "1.5kB", "1.0GB"]
    assert [duration_text(s) for s in (0, 59.9, 60, 3599, 3600, 86_399, 86_400, -1, float("nan"))] == [
        "0s",
        "59s",
        "1m00s",
        "59m59s",
        "1h00m",
        "23h59m",
        "1d00h",
        "0s",
        "-",
    ]
    assert [latency_text(s) for s in (None, 0.0004, 0.0125, 0.9, 2.06, float("nan"))] == [
        "-",
        "0.4ms",
        "12ms",
        "900ms",
        "2.1s",
        "-",
    ]
    assert [weight_text(10, w) for w in (10.0, 2.5, float("nan"))] == ["10", "2.5/10", "10"]
    assert visible("a\x1b\n\u202eü") == "a\\x1b\\n\\u202eü"
