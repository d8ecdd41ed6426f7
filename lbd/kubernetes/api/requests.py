"""What the users of the API client need of it."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

MERGE_PATCH = "application/merge-patch+json"
"""RFC 7386."""


class Requests(Protocol):
    """What is needed of the API client. It raises `ApiError`, also when `timeout_s` is over, whatever hangs."""

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str | None = None,
        timeout_s: float | None = None,
    ) -> dict[str, Any]: ...


def utc_now() -> datetime:
    """Return the time of the wall clock in UTC; it is only ever written, never compared."""
    return datetime.now(UTC)
