"""From what an HTTP server answers to a JSON object or an ApiError: it may be no API server at all. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from lbd.kubernetes.api.api_error import ApiError
from lbd.kubernetes.objects.fields import shown, whole

MAX_RETRY_AFTER_S = 60.0
"""No longer, whatever a server says: it would be away for as long as it likes."""
_NOT_FOUND = b"404 page not found"
"""What an API server says, as plain text, of a group or version that it doesn't have."""
_SHOWN_BODY = 200


def read_answer(status: int, headers: Mapping[str, str], body: bytes) -> dict[str, Any]:
    """Return the JSON object of a successful answer. `headers` must find names in any case.

    Raises:
        ApiError: the server said no, or this is no answer of an API server. A refusal (4xx) that a proxy or another
            server could have made has status 0: a 404 of one of these must not pass for "there are no objects".
    """
    if 200 <= status <= 299:
        return read_object(body)
    retry_after_s = _retry_after(headers)
    if 300 <= status <= 399:
        where = headers.get("Location", "")
        raise ApiError(0, "Redirected", f"the server sends us to {where!r}, and credentials don't follow")
    try:
        said = read_object(body)
    except ApiError:
        if status >= 500 or status == 429 or "Audit-Id" in headers or body.strip() == _NOT_FOUND:
            raise ApiError(status, _reason(status), _words(body), retry_after_s) from None
        raise ApiError(0, "NotAnApiServer", f"HTTP {status} with {_words(body)}", retry_after_s) from None
    return _refuse(status, said, retry_after_s)


def read_object(body: bytes) -> dict[str, Any]:
    """Return a JSON object.

    Raises:
        ApiError: with status 0: it is something else.
    """
    try:
        said = json.loads(body)
    except (ValueError, RecursionError):
        raise ApiError(0, "NotAnApiServer", f"expected a JSON object, got {_words(body)}") from None
    if not isinstance(said, dict):
        raise ApiError(0, "NotAnApiServer", f"expected a JSON object, got {shown(said)}")
    return said


def status_error(said: Mapping[str, Any]) -> ApiError:
    """Return what an object of kind Status says, as an ERROR event of a watch has one; status 0 if it is none."""
    code = whole(said.get("code"), 100, 599)
    if said.get("kind") != "Status" or code is None:
        return ApiError(0, "NotAnApiServer", "expected an object of kind Status")
    reason, message = said.get("reason"), said.get("message")
    return ApiError(
        code,
        reason if isinstance(reason, str) and reason else _reason(code),
        message if isinstance(message, str) and message else "no message",
    )


def _refuse(status: int, said: Mapping[str, Any], retry_after_s: float | None) -> dict[str, Any]:
    """Raise the ApiError of a refusal in JSON."""
    if said.get("kind") != "Status" and status < 500 and status != 429:
        raise ApiError(0, "NotAnApiServer", f"HTTP {status} with JSON that is no Status", retry_after_s)
    reason, message, details = said.get("reason"), said.get("message"), said.get("details")
    asked_s = whole(details.get("retryAfterSeconds"), 1, 2**31) if isinstance(details, dict) else None
    if retry_after_s is None and asked_s is not None:
        retry_after_s = min(float(asked_s), MAX_RETRY_AFTER_S)
    raise ApiError(
        status,
        reason if isinstance(reason, str) and reason else _reason(status),
        message if isinstance(message, str) and message else "no message",
        retry_after_s,
    )


def _retry_after(headers: Mapping[str, str]) -> float | None:
    """Return what Retry-After says in seconds; its other form, a date, is not read: clocks differ."""
    written = headers.get("Retry-After", "")
    if not (written.isascii() and written.isdecimal() and len(written) <= 9):
        return None
    return min(float(written), MAX_RETRY_AFTER_S)


def _reason(status: int) -> str:
    return f"HTTP {status}"


def _words(body: bytes) -> str:
    """Return the begin of a body, as one can show it."""
    if not body:
        return "nothing"
    return repr(body[:_SHOWN_BODY].decode("utf-8", "replace")) + ("…" if len(body) > _SHOWN_BODY else "")
