"""Claims about the status as JSON."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lbd.model.status import MemberStatus, MonitorStatus, ReloadResult, Status, Traffic
from lbd.observability.status_json import StatusFormatError, decode, encode

st.register_type_strategy(float, st.floats(allow_nan=False, allow_infinity=False))


@settings(max_examples=100, deadline=None)
@given(member=st.from_type(MemberStatus))
def test_any_member_comes_back_as_it_was(member: MemberStatus) -> None:
    assert decode(MemberStatus, encode(member)) == member


def test_the_whole_status_comes_back_as_it_was(make: Any) -> None:
    assert decode(Status, encode(make.status())) == make.status()


def test_json_has_a_key_for_each_field_under_the_models_names(make: Any) -> None:
    value = json.loads(encode(make.status()))
    assert list(value) == list(Status.__dataclass_fields__)
    member = value["virtual_services"][0]["members"][0]
    assert (member["health"], member["traffic"]["connect_errors_total"]) == ("up", {"refused": 216, "local": 217})


@pytest.mark.parametrize("number", [math.nan, math.inf, -math.inf])
def test_a_number_that_json_lacks_becomes_null_and_nothing_else_changes(make: Any, number: float) -> None:
    body = encode(make.status(loop_lag_s=number))
    assert b"NaN" not in body
    assert b"Infinity" not in body
    back = decode(Status, body)
    assert math.isnan(back.loop_lag_s)
    assert replace(back, loop_lag_s=0.0053) == make.status()


def test_it_is_one_line_of_ascii_whatever_the_names_are(make: Any) -> None:
    body = encode(make.status(service_engine='a\nb"ü\udcff\x1b'))
    assert body.count(b"\n") == 1
    assert body.isascii()
    assert decode(Status, body).service_engine == 'a\nb"ü\udcff\x1b'


def test_keys_of_a_newer_daemon_are_skipped_and_defaults_of_an_older_one_filled_in() -> None:
    body = b'{"name": "m", "health": "up", "colour": {"x": [1]}}'
    assert decode(MonitorStatus, body) == MonitorStatus("m", "up")  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("kind", "body", "where"),
    [
        (ReloadResult, b"", "not JSON"),
        (ReloadResult, b"[" * 100_000, "not JSON"),
        (ReloadResult, b"[]", "ReloadResult is not an object"),
        (ReloadResult, b'{"success": true}', "ReloadResult.generation is not there"),
        (ReloadResult, b'{"success": 1, "generation": 1}', "ReloadResult.success is not of type bool"),
        (ReloadResult, b'{"success": true, "generation": true}', "ReloadResult.generation is not of type int"),
        (ReloadResult, b'{"success": true, "generation": 1, "errors": "x"}', "ReloadResult.errors is not a list"),
        (MonitorStatus, b'{"name": "m", "health": ["up"]}', "MonitorStatus.health is not one of up, down, unknown"),
        (MonitorStatus, b'{"name": "m", "health": "up", "latency_s": "1"}', "MonitorStatus.latency_s is not a number"),
        (Traffic, b'{"connect_errors_total": {"odd": 1}}', "Traffic.connect_errors_total is not one of"),
    ],
)
def test_what_is_no_status_is_said_with_its_place(kind: type, body: bytes, where: str) -> None:
    with pytest.raises(StatusFormatError) as caught:
        decode(kind, body)
    assert where in str(caught.value)
