"""Says what is wrong with what the two ends saw: pure, and the same rules for a direct connection and a relayed one.

Without a reset both ends must have seen every byte and an EOF. With one, what arrived is a prefix and its end is a
reset, except where a FIN stood before the reset: then all bytes and an EOF are right too. What was acknowledged before
a reset must arrive before it.
"""

from __future__ import annotations

from dataclasses import dataclass

from .ends import Ended, Seen
from .script import CLIENT, ENDS, Do, Script, other


@dataclass(frozen=True, slots=True)
class Outcome:
    """What both ends of one run saw. `extra_connections` reached the server beside the one of the script."""

    client: Seen
    server: Seen
    extra_connections: int = 0

    def of(self, end: str) -> Seen:
        """Return what an end saw."""
        return self.client if end == CLIENT else self.server

    def __str__(self) -> str:
        return f"client {self.client}; server {self.server}"


def faults(script: Script, outcome: Outcome) -> list[str]:
    """Return what is wrong with one run, as sentences; empty if nothing is."""
    found = []
    if outcome.extra_connections:
        found.append(f"{outcome.extra_connections} more connections than the client made reached the server")
    if outcome.server.ended is Ended.NOT_CONNECTED and _may_be_missed(script):
        return found  # the client reset it before anything told it that a server was there
    for end in ENDS:
        found += [f"{end}: {text}" for text in _faults_of(script, end, outcome.of(end), outcome.of(other(end)))]
    return found


def differences(script: Script, direct: Outcome, relayed: Outcome) -> list[str]:
    """Return in what a run without resets differs from the direct one; empty for a script with resets."""
    if not script.exact:
        return []
    found = []
    for end in ENDS:
        one, two = direct.of(end), relayed.of(end)
        if (one.received_bytes, one.ended) != (two.received_bytes, two.ended):
            found.append(
                f"{end}: direct {one.received_bytes} bytes, {one.ended}; relayed {two.received_bytes}, {two.ended}"
            )
    return found


def _may_be_missed(script: Script) -> bool:
    """Return whether the client may be gone before a relay has reached a member: nothing in it waits for the server."""
    aborts = any(step.do in (Do.RESET, Do.CLOSE) for step in script.steps_of(CLIENT)) and not script.exact
    return aborts and not any(
        step.do in (Do.AWAIT_EOF, Do.AWAIT_ARRIVAL, Do.MEET) or (step.do is Do.AWAIT_BYTES and step.amount)
        for step in script.steps_of(CLIENT)
    )


def _faults_of(script: Script, end: str, seen: Seen, peer: Seen) -> list[str]:
    found = []
    if seen.spoiled_at is not None:
        found.append(f"byte {seen.spoiled_at} is not the one that was sent")
    if seen.received_bytes > peer.sent_bytes:
        found.append(f"received {seen.received_bytes} bytes of {peer.sent_bytes} sent")
    if seen.before_its_cause:
        found.append(seen.before_its_cause)
    match seen.ended:
        case Ended.HUNG:
            found.append(f"hung: {seen.stuck_at or 'no end came'}")
        case Ended.NOT_CONNECTED:
            found.append("no connection came")
        case Ended.EOF if seen.received_bytes < peer.sent_bytes:
            found.append(f"clean close after loss: {seen.received_bytes} of {peer.sent_bytes} bytes")
    if script.exact:
        found += _inexact(script, end, seen)
    elif seen.ended is Ended.RESET:
        settled = script.settled_bytes(other(end))
        if seen.received_bytes < settled:
            found.append(f"{settled} bytes were acknowledged before the reset, {seen.received_bytes} arrived")
    return found


def _inexact(script: Script, end: str, seen: Seen) -> list[str]:
    found = []
    closes = any(step.do is Do.CLOSE for step in script.steps_of(end))
    expected_end = Ended.OWN_CLOSE if closes else Ended.EOF
    expected_bytes = script.planned_bytes(other(end))
    if seen.ended is not expected_end and seen.ended is not Ended.HUNG:
        found.append(f"{seen.ended} instead of {expected_end}")
    if seen.received_bytes != expected_bytes:
        found.append(f"received {seen.received_bytes} of {expected_bytes} bytes")
    if seen.reset_while_sending:
        found.append("a send failed in a conversation without resets")
    return found
