"""Who of the group writes: holds the Lease, renews it in time, gives it back."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, Protocol

from lbd.model.kubernetes import LeaseSettings


class Requests(Protocol):
    """What is needed of the API client."""

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Mapping[str, Any] | None = None,
        content_type: str | None = None,
        timeout_s: float | None = None,
    ) -> Any: ...


def utc_now() -> datetime:
    """Return the time of the wall clock in UTC; it is only ever written, never compared."""
    return datetime.now(UTC)


class Elector:
    """Takes part in the election that a Lease decides. `identity` is this process' alone."""

    def __init__(
        self,
        client: Requests,
        settings: LeaseSettings,
        identity: str,
        *,
        on_change: Callable[[bool], None] = lambda _leading: None,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = utc_now,
        rng: random.Random | None = None,
    ) -> None:
        raise NotImplementedError

    @property
    def leading(self) -> bool:
        """False as soon as `renew_deadline_s` has passed since the last successful renewal began, whatever hangs."""
        raise NotImplementedError

    @property
    def holder(self) -> str:
        """Who holds the Lease as it was last seen; empty: nobody."""
        raise NotImplementedError

    @property
    def transitions_total(self) -> int:
        """How often this process began or ceased to lead."""
        raise NotImplementedError

    @property
    def error(self) -> str:
        """Why the last request failed; empty when it did not."""
        raise NotImplementedError

    async def run(self) -> None:
        """Take part until cancelled; then give the Lease back if it is held."""
        raise NotImplementedError
