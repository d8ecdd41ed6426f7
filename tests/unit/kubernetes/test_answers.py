"""Whatever answers, it becomes a JSON object or an error that says what it was: short, in one line."""

from __future__ import annotations

import json

import pytest
from multidict import CIMultiDict

from lbd.kubernetes.api.answers import read_answer, read_object, status_error
from lbd.kubernetes.api.api_error import MAX_MESSAGE, ApiError

HTML = b"<html>\r\n<head><title>502 Bad Gateway</title></head>\r\n<body>nginx</body></html>"


def answer(status: int, body: object, **headers: str) -> ApiError:
    raw = body if isinstance(body, bytes) else json.dumps(body).encode()
    named = CIMultiDict({name.replace("_", "-"): value for name, value in headers.items()})
    with pytest.raises(ApiError) as caught:
        read_answer(status, named, raw)
    return caught.value


def refusal(code: int, reason: str, message: str = "m", **more: object) -> dict[str, object]:
    return {"kind": "Status", "status": "Failure", "code": code, "reason": reason, "message": message, **more}


def test_a_json_object_is_the_answer():
    assert read_answer(201, CIMultiDict(), b'{"kind": "Service"}') == {"kind": "Service"}


@pytest.mark.parametrize(
    "body", [b"", b"null", b"[]", b'"ok"', b"7", HTML, b"{", b'{"a": 1} x', b"\xff\xfe", b"[" * 100_000, b"1" * 5000]
)
def test_a_success_that_is_no_json_object_is_no_answer_of_an_api_server(body):
    error = answer(200, body)
    assert (error.status, error.reason) == (0, "NotAnApiServer")
    assert len(error.message) < 300
    assert error.away


def test_what_the_api_says_of_a_refusal_is_kept():
    error = answer(409, refusal(409, "AlreadyExists", 'services "web" already exists'))
    assert (error.status, error.reason, error.message) == (409, "AlreadyExists", 'services "web" already exists')
    assert str(error) == '409 AlreadyExists: services "web" already exists'
    assert not error.away


def test_a_proxys_502_is_a_502_and_readable():
    error = answer(502, HTML)
    assert (error.status, error.reason, error.away) == (502, "HTTP 502", True)
    assert "502 Bad Gateway" in error.message
    assert "\n" not in str(error)


@pytest.mark.parametrize("status", [400, 401, 403, 404, 407, 410, 422])
@pytest.mark.parametrize("body", [HTML, b"", {"error": "not found"}])
def test_a_refusal_that_no_api_server_has_made_is_no_answer(status, body):
    error = answer(status, body)
    assert (error.status, error.reason) == (0, "NotAnApiServer")
    assert error.away


def test_a_group_that_is_not_installed_is_a_404_though_it_is_said_in_plain_text():
    assert answer(404, b"404 page not found\n").status == 404
    assert answer(404, b"gone", Audit_Id="5f1c").status == 404


@pytest.mark.parametrize("status", [301, 302, 307, 308, 304])
def test_a_redirect_is_not_followed_and_says_where_to(status):
    error = answer(status, b"", location="https://login.example/")
    assert (error.status, error.reason) == (0, "Redirected")
    assert "https://login.example/" in error.message


@pytest.mark.parametrize(
    ("header", "wait_s"),
    [("7", 7.0), ("0", 0.0), ("999999", 60.0), ("-1", None), ("1e3", None), ("soon", None), ("9" * 500, None),
     ("Wed, 21 Oct 2026 07:28:00 GMT", None), ("٣", None)],
)  # fmt: skip
def test_retry_after_is_bounded_and_only_in_seconds(header, wait_s):
    assert answer(503, HTML, retry_after=header).retry_after_s == wait_s
    assert answer(429, refusal(429, "TooManyRequests"), retry_after=header).retry_after_s == wait_s


def test_retry_after_may_stand_in_the_body():
    body = refusal(429, "TooManyRequests", details={"retryAfterSeconds": 3})
    assert answer(429, body).retry_after_s == 3.0
    assert answer(429, body, Retry_After="9").retry_after_s == 9.0
    for hostile in ({"retryAfterSeconds": "3"}, {"retryAfterSeconds": True}, [3], None):
        assert answer(429, refusal(429, "TooManyRequests", details=hostile)).retry_after_s is None


def test_a_hostile_message_is_bounded_and_has_no_control_characters():
    error = answer(403, refusal(403, "Forbidden\nX", "a\x1b[31m\r\nb" + "c" * 100_000))
    assert len(error.message) == MAX_MESSAGE
    assert error.message.startswith("a?[31m b")
    assert error.reason == "Forbidden X"
    assert answer(403, refusal(403, "Forbidden", 7)).message == "no message"  # type: ignore[arg-type]


def test_an_error_event_is_what_its_status_says():
    error = status_error(refusal(410, "Expired", "too old resource version: 1 (9)"))
    assert (error.status, error.reason) == (410, "Expired")
    for hostile in ({}, {"kind": "Status"}, {"kind": "Status", "code": "410"}, {"kind": "Pod", "code": 410}):
        assert status_error(hostile).status == 0


def test_an_object_may_be_nested_but_not_without_end():
    assert read_object(b'{"a": {"b": [1]}}') == {"a": {"b": [1]}}
    with pytest.raises(ApiError):
        read_object(b'{"a":' * 100_000)
