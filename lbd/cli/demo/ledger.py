"""The books of the demo's traffic: what became of each request, and what may be said of it. Pure."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

SOON_S = 1.0
"""How far back "now" reaches."""


@dataclass(frozen=True, slots=True)
class Request:
    """One request on a connection of its own. Times are monotonic seconds; `pod` answered, or `error` says why none."""

    started_s: float
    ended_s: float
    pod: str = ""
    error: str = ""

    @property
    def failed(self) -> bool:
        """Whether no Pod answered."""
        return not self.pod

    @property
    def latency_s(self) -> float:
        """From connect() to the end of the answer."""
        return self.ended_s - self.started_s


class Ledger:
    """All requests in the order in which they ended. One thread adds; any may read."""

    def __init__(self) -> None:
        self._requests: list[Request] = []

    def add(self, request: Request) -> None:
        """Enter a request that has ended."""
        self._requests.append(request)

    @property
    def total(self) -> int:
        """How many requests have ended."""
        return len(self._requests)

    def by_pod(self, since_s: float = 0.0) -> Counter[str]:
        """Return how many requests that started at `since_s` or later each Pod answered."""
        return Counter(request.pod for request in list(self._requests) if request.pod and request.started_s >= since_s)

    def lately(self, now_s: float) -> Counter[str]:
        """Return how many answers of each Pod ended within the last second."""
        found: Counter[str] = Counter()
        for request in reversed(list(self._requests)):
            if request.ended_s < now_s - SOON_S:
                break
            if request.pod:
                found[request.pod] += 1
        return found

    def failures(self, since_s: float = 0.0) -> list[Request]:
        """Return the failed requests that started at `since_s` or later."""
        return [request for request in list(self._requests) if request.failed and request.started_s >= since_s]

    def count(self, since_s: float = 0.0) -> int:
        """Return how many requests started at `since_s` or later and have ended."""
        return sum(1 for request in list(self._requests) if request.started_s >= since_s)

    def cut_off(self, struck_s: float, dead_s: float) -> list[Request]:
        """Return the failed requests that were under way while a Pod died, between these two times."""
        return [request for request in self.failures() if request.started_s < dead_s and request.ended_s >= struck_s]

    def worst_latency_s(self, since_s: float = 0.0, until_s: float = float("inf")) -> float:
        """Return the longest latency of the answered requests that started in the interval; 0 if there is none."""
        return max(
            (
                request.latency_s
                for request in list(self._requests)
                if not request.failed and since_s <= request.started_s < until_s
            ),
            default=0.0,
        )

    def first_answer_s(self, pod: str, since_s: float) -> float | None:
        """Return when `pod` answered first after `since_s`, or None if it has not."""
        return next(
            (request.ended_s for request in list(self._requests) if request.pod == pod and request.ended_s >= since_s),
            None,
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """What the demo has shown. `unexcused` are the failures that no dying Pod excuses: one of them is a failed demo."""

    unexcused: tuple[Request, ...]
    cut_off: tuple[Request, ...]

    @property
    def passed(self) -> bool:
        """Whether every request that had to be answered was."""
        return not self.unexcused


def judge(ledger: Ledger, struck_s: float, dead_s: float) -> Verdict:
    """Judge every request: only those under way while the Pod died may have failed.

    `struck_s` is when the signal was sent, `dead_s` when the process was known to be gone; it died in between.
    """
    excused = ledger.cut_off(struck_s, dead_s)
    return Verdict(tuple(request for request in ledger.failures() if request not in excused), tuple(excused))
