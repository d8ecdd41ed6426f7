"""What one check of one member gave: an outcome with its reason, as a value."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from typing import Self


class Outcome(StrEnum):
    """VOID says that the check proves nothing about the member: the fault was on our own side."""

    PASSED = "passed"
    FAILED = "failed"
    VOID = "void"


class Reason(StrEnum):
    """Why a check ended as it did. The words appear in logs, in `lbd status` and in the admin API."""

    NONE = ""
    NOT_CHECKED_YET = "not checked yet"

    CONNECT_REFUSED = "connect_refused"
    CONNECT_RESET = "connect_reset"
    CONNECT_TIMEOUT = "connect_timeout"
    CONNECT_FAILED = "connect_failed"
    UNREACHABLE = "unreachable"
    RESET = "reset"
    CLOSED_EARLY = "closed_early"
    ANSWER_TIMEOUT = "answer_timeout"
    ANSWER_TOO_LONG = "answer_too_long"
    UNEXPECTED_ANSWER = "unexpected_answer"
    UNEXPECTED_STATUS = "unexpected_status"
    MALFORMED_ANSWER = "malformed_answer"
    TLS_FAILED = "tls_failed"
    TLS_TIMEOUT = "tls_timeout"

    LOCAL_ERROR = "local_error"
    NOT_PERMITTED = "not_permitted"
    LOOP_LATE = "loop_late"
    CHECK_CRASHED = "check_crashed"


@dataclass(frozen=True, slots=True)
class ProbeResult:
    """The end of one check. `detail` is bounded, printable, and adds to `reason` what a person needs."""

    outcome: Outcome
    reason: Reason = Reason.NONE
    detail: str = ""
    latency_s: float = 0.0

    @property
    def passed(self) -> bool:
        """True only for a check that proves the member good."""
        return self.outcome is Outcome.PASSED

    @property
    def text(self) -> str:
        """The reason as one phrase: `unexpected_status (503)`."""
        return f"{self.reason} ({self.detail})" if self.detail else str(self.reason)

    def after(self, latency_s: float) -> Self:
        """Return the same result with the time that the check took."""
        return replace(self, latency_s=latency_s)

    @classmethod
    def success(cls) -> Self:
        """Return the result of a check that passed."""
        return cls(Outcome.PASSED)

    @classmethod
    def failure(cls, reason: Reason, detail: str = "") -> Self:
        """Return a result that counts against the member."""
        return cls(Outcome.FAILED, reason, detail)

    @classmethod
    def void(cls, reason: Reason, detail: str = "") -> Self:
        """Return a result that counts for nothing; the check is repeated soon."""
        return cls(Outcome.VOID, reason, detail)
