"""The Lease that elects who writes: what to do with it at a moment. Pure.

The times in a Lease are other machines' wall clocks and are never compared with ours. A Lease has expired when the one
that looks at it has seen no change of it for its duration, by its own monotonic clock (as client-go does it).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import Enum
from typing import Any

from lbd.model.kubernetes import LeaseSettings

LONGEST_DURATION_S = 600
"""What somebody writes into a Lease does not keep others from leading for longer than this."""
RELEASED_DURATION_S = 1
"""The duration of a Lease that nobody holds."""
_MAX_TEXT = 256


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """What stands in a Lease. `holder` empty: it was given back. Times are as they were written."""

    holder: str = ""
    duration_s: int = 0
    acquired: str = ""
    renewed: str = ""
    transitions: int = 0

    @classmethod
    def read(cls, spec: Mapping[str, Any]) -> LeaseRecord:
        """Read the `spec` of a Lease; what has not the type that it should counts as absent."""

        def text(name: str) -> str:
            value = spec.get(name)
            return value[:_MAX_TEXT] if isinstance(value, str) else ""

        def whole(name: str) -> int:
            value = spec.get(name)
            return value if isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 2**31 else 0

        duration_s, transitions = whole("leaseDurationSeconds"), whole("leaseTransitions")
        return cls(text("holderIdentity"), duration_s, text("acquireTime"), text("renewTime"), transitions)

    def written(self) -> dict[str, Any]:
        """Return the `spec` of a Lease that says so."""
        return {
            "holderIdentity": self.holder,
            "leaseDurationSeconds": self.duration_s,
            "acquireTime": self.acquired,
            "renewTime": self.renewed,
            "leaseTransitions": self.transitions,
        }


@dataclass(frozen=True, slots=True)
class Seen:
    """A Lease as it was seen last. `changed_s` is when its record was first seen as it is, on the monotonic clock."""

    record: LeaseRecord
    resource_version: str
    changed_s: float


class Step(Enum):
    """What to do with the Lease."""

    CREATE = "create"
    ACQUIRE = "acquire"
    RENEW = "renew"
    WAIT = "wait"


@dataclass(frozen=True, slots=True)
class Decision:
    """What to do, and why; of WAIT, until when at the latest nothing else can be done."""

    step: Step
    reason: str
    expires_s: float = 0.0


def observe(before: Seen | None, record: LeaseRecord, resource_version: str, now_s: float) -> Seen:
    """Return what is known after looking; a change of anything but the record is no sign of life of its holder."""
    changed_s = before.changed_s if before is not None and before.record == record else now_s
    return Seen(record, resource_version, changed_s)


def decide(seen: Seen | None, identity: str, term: str, settings: LeaseSettings, now_s: float) -> Decision:
    """Decide about a Lease; None is one that does not exist.

    `term` is the `acquireTime` that this process wrote or tried to write last, empty if none. A Lease that names this
    identity with another one was acquired by somebody else who calls himself so: it is respected like any other.
    """
    if seen is None:
        return Decision(Step.CREATE, "there is no Lease yet")
    record = seen.record
    if not record.holder:
        return Decision(Step.ACQUIRE, "it was given back")
    if record.holder == identity and term and record.acquired == term:
        return Decision(Step.RENEW, "it is ours")
    expires_s = seen.changed_s + _duration_s(record, settings)
    if now_s >= expires_s:
        return Decision(Step.ACQUIRE, f"{record.holder} did not renew it in time")
    return Decision(Step.WAIT, f"{record.holder} holds it", expires_s)


def acquired(before: Seen | None, identity: str, settings: LeaseSettings, now: datetime) -> LeaseRecord:
    """Return the record with which to become its holder."""
    time = timestamp(now)
    transitions = before.record.transitions + 1 if before is not None else 0
    return LeaseRecord(identity, _written_duration_s(settings), time, time, transitions)


def renewed(record: LeaseRecord, settings: LeaseSettings, now: datetime) -> LeaseRecord:
    """Return the record with which its holder stays so."""
    return LeaseRecord(
        record.holder, _written_duration_s(settings), record.acquired, timestamp(now), record.transitions
    )


def released(record: LeaseRecord, now: datetime) -> LeaseRecord:
    """Return the record with which its holder gives it back."""
    return LeaseRecord("", RELEASED_DURATION_S, record.acquired, timestamp(now), record.transitions)


def timestamp(now: datetime) -> str:
    """Return a MicroTime: RFC 3339 in UTC, with microseconds."""
    return now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _duration_s(record: LeaseRecord, settings: LeaseSettings) -> float:
    """The holder's own duration counts, within reason: it may be configured otherwise than ours."""
    return min(record.duration_s, LONGEST_DURATION_S) if record.duration_s else settings.duration_s


def _written_duration_s(settings: LeaseSettings) -> int:
    """The API takes whole seconds from 1; a longer one than configured is safe, a shorter one is not."""
    return max(1, -int(-settings.duration_s // 1))
