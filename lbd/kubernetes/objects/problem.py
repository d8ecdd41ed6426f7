"""What is wrong with a Service, as its users are told. Pure."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Problem:
    """What a Service can't have as it asks for it: `reason` is a CamelCase word for an Event, `message` a sentence."""

    reason: str
    message: str
