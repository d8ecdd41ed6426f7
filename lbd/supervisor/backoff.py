"""When a failed action is tried again. Pure."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import Generic, TypeVar

What = TypeVar("What", bound=Hashable)

FIRST_DELAY_S = 1.0
LONGEST_DELAY_S = 30.0


@dataclass(frozen=True, slots=True)
class Failure:
    """The last failure of an action, and how many there were in a row."""

    reason: str
    count: int
    retry_at_s: float

    def due(self, now_s: float) -> bool:
        """Whether the next try may begin."""
        return self.retry_at_s <= now_s


class Backoff(Generic[What]):
    """Remembers what failed. The delay doubles from FIRST_DELAY_S to LONGEST_DELAY_S."""

    def __init__(self) -> None:
        self._failures: dict[What, Failure] = {}

    def failed(self, what: What, reason: str, now_s: float) -> Failure:
        """Note a failure, and say when to try again."""
        before = self._failures.get(what)
        count = before.count + 1 if before else 1
        delay_s = min(FIRST_DELAY_S * 2 ** min(count - 1, 16), LONGEST_DELAY_S)
        failure = self._failures[what] = Failure(reason, count, now_s + delay_s)
        return failure

    def succeeded(self, what: What) -> None:
        """Forget its failures."""
        if self._failures:  # hashing an action is not free
            self._failures.pop(what, None)

    def keep(self, still: Callable[[What], bool]) -> None:
        """Forget the failures of what is not to be done any more."""
        if self._failures:
            self._failures = {what: failure for what, failure in self._failures.items() if still(what)}

    def clear(self) -> None:
        """Forget everything: everything deserves a new try."""
        self._failures.clear()

    @property
    def failures(self) -> dict[What, Failure]:
        """What has failed and was not done since."""
        return dict(self._failures)
