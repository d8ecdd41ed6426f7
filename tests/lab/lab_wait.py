"""Waiting for what happens, never for time to pass."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TypeVar

POLL_S = 0.02

T = TypeVar("T")


def eventually(predicate: Callable[[], T], timeout_s: float = 5.0, what: str = "") -> T:
    """Return the first true value of `predicate`, asked every 20 ms.

    An AssertionError or LookupError inside it counts as "not yet", so that a predicate may assert.

    Raises:
        AssertionError: nothing true came within `timeout_s`; says what was seen last.
    """
    deadline_s = time.monotonic() + timeout_s
    while True:
        try:
            seen: object = predicate()
            if seen:
                return seen  # type: ignore[return-value]  # it is the predicate's own value
        except (AssertionError, LookupError) as error:
            seen = error
        if time.monotonic() > deadline_s:
            name = what or getattr(predicate, "__name__", "predicate")
            raise AssertionError(f"not within {timeout_s} s: {name}; last seen: {seen!r}")
        time.sleep(POLL_S)
