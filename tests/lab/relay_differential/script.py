"""What a conversation is: one causal order of steps for two ends, and the strategies that generate them.

The steps stand in one order over both ends, and an end only ever waits for what stands before: so each script ends
on a direct connection, and an end that waits for ever behind a relay is the relay's fault.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from enum import StrEnum

from hypothesis import strategies as st

CLIENT, SERVER = "client", "server"
ENDS = (CLIENT, SERVER)


def other(end: str) -> str:
    """Return the peer of an end."""
    return SERVER if end == CLIENT else CLIENT


class Do(StrEnum):
    """What one end does in a step; `amount` is bytes for the sends and await_bytes, microseconds for pause."""

    SEND = "send"
    SEND_MORE = "send_more"
    """Send, and keep the last segment back for what comes next: a FIN then arrives together with bytes."""
    PAUSE = "pause"
    AWAIT_BYTES = "await_bytes"
    """Go on once `amount` bytes in all have been read."""
    AWAIT_EOF = "await_eof"
    AWAIT_RESET = "await_reset"
    """Go on once the kernel has seen the connection die, whether or not anything is left to read."""
    AWAIT_ARRIVAL = "await_arrival"
    """Go on once something unread lies in the receive queue."""
    SETTLE = "settle"
    """Go on once the peer's kernel has acknowledged everything sent (SIOCOUTQ is zero)."""
    MEET = "meet"
    """Wait for the other end's step of the same name, outside the connection."""
    STOP_READING = "stop_reading"
    SHUTDOWN = "shutdown"
    CLOSE = "close"
    RESET = "reset"


SENDS = frozenset({Do.SEND, Do.SEND_MORE})


@dataclass(frozen=True, slots=True)
class Step:
    """One action of one end."""

    end: str
    do: Do
    amount: int = 0

    def __str__(self) -> str:
        return f"{self.end[0].upper()}.{self.do}({self.amount or ''})"


@dataclass(frozen=True, slots=True)
class Reading:
    """How an end reads, beside its steps: the first `slow_reads` reads are of `chunk` bytes with `pause_us` after each.

    A `receive_buffer` of 0 leaves SO_RCVBUF alone.
    """

    receive_buffer: int = 0
    chunk: int = 262144
    pause_us: int = 0
    slow_reads: int = 0


@dataclass(frozen=True, slots=True)
class Script:
    """A conversation. `exact` says that nobody resets and nothing is left unread: both ends must see everything."""

    kind: Kind
    steps: tuple[Step, ...]
    client_reading: Reading = Reading()
    server_reading: Reading = Reading()

    @property
    def exact(self) -> bool:
        """True where both ends must see every byte and an EOF."""
        return self.kind in EXACT_KINDS

    def steps_of(self, end: str) -> tuple[Step, ...]:
        """Return the steps of one end, in their order."""
        return tuple(step for step in self.steps if step.end == end)

    def reading_of(self, end: str) -> Reading:
        """Return how an end reads."""
        return self.client_reading if end == CLIENT else self.server_reading

    def planned_bytes(self, end: str) -> int:
        """Return how much an end sends if nothing stops it."""
        return sum(step.amount for step in self.steps if step.end == end and step.do in SENDS)

    def settled_bytes(self, end: str) -> int:
        """Return how much of what an end sends was acknowledged before it went on to reset: that must arrive."""
        sent = settled = 0
        for step in self.steps_of(end):
            if step.do in SENDS:
                sent += step.amount
            elif step.do is Do.SETTLE:
                settled = sent
        return settled

    def __str__(self) -> str:
        readings = "".join(f" {end}={self.reading_of(end)}" for end in ENDS if self.reading_of(end) != Reading())
        return f"{self.kind}: {' '.join(map(str, self.steps))}{readings}"


class Kind(StrEnum):
    """How a conversation ends; A is the end that the name starts with, B the other one."""

    CLIENT_FIN_FIRST = "client_fin_first"
    SERVER_FIN_FIRST = "server_fin_first"
    CLIENT_FIN_WHILE_SERVER_TALKS = "client_fin_while_server_talks"
    SERVER_FIN_WHILE_CLIENT_TALKS = "server_fin_while_client_talks"
    SIMULTANEOUS_FIN = "simultaneous_fin"
    CLIENT_CLOSE = "client_close"
    SERVER_CLOSE = "server_close"
    CLIENT_RESET = "client_reset"
    SERVER_RESET = "server_reset"
    CLIENT_SETTLED_RESET = "client_settled_reset"
    SERVER_SETTLED_RESET = "server_settled_reset"
    CLIENT_RESET_AFTER_OWN_FIN = "client_reset_after_own_fin"
    SERVER_RESET_AFTER_OWN_FIN = "server_reset_after_own_fin"
    CLIENT_RESET_AFTER_SERVER_FIN = "client_reset_after_server_fin"
    SERVER_RESET_AFTER_CLIENT_FIN = "server_reset_after_client_fin"
    CLIENT_CLOSE_UNREAD = "client_close_unread"
    SERVER_CLOSE_UNREAD = "server_close_unread"
    CLIENT_CLOSE_MIDSTREAM = "client_close_midstream"
    SERVER_CLOSE_MIDSTREAM = "server_close_midstream"
    BOTH_RESET = "both_reset"


HALF_CLOSE_ORDERS = frozenset(
    {
        Kind.CLIENT_FIN_FIRST,
        Kind.SERVER_FIN_FIRST,
        Kind.CLIENT_FIN_WHILE_SERVER_TALKS,
        Kind.SERVER_FIN_WHILE_CLIENT_TALKS,
        Kind.SIMULTANEOUS_FIN,
    }
)
SETTLED_KINDS = frozenset({Kind.CLIENT_SETTLED_RESET, Kind.SERVER_SETTLED_RESET})
EXACT_KINDS = HALF_CLOSE_ORDERS | {Kind.CLIENT_CLOSE, Kind.SERVER_CLOSE}

MOST_BYTES = 6_000_000
"""What one end sends in all, but for single bytes more."""
PAUSES_US = st.integers(50, 4000)
SIZES = st.one_of(
    st.just(1),
    st.integers(1, 2_000),
    st.integers(1, 2_000),
    st.integers(2_000, 120_000),
    st.integers(100_000, 400_000),
    st.sampled_from([65_536, 262_143, 262_144, 262_145, 524_288]),
    # Now and then more than all kernel buffers on the way hold.
    st.sampled_from([0, 0, 0, 0, 0, 1]).flatmap(lambda big: st.integers(1_500_000, 4_000_000) if big else st.just(7)),
)
SLOW = st.builds(
    Reading,
    receive_buffer=st.sampled_from([0, 8192, 16_384, 65_536]),
    chunk=st.sampled_from([1, 100, 4096, 65_536]),
    pause_us=st.integers(200, 20_000),
    slow_reads=st.integers(1, 12),
)
READINGS = st.one_of(st.just(Reading()), st.just(Reading()), SLOW)


@dataclass
class Writing:
    """A script while it is drawn: what stands so far, and what each end has sent by then."""

    draw: Callable[[st.SearchStrategy[int]], int]
    steps: list[Step] = field(default_factory=list)
    sent: dict[str, int] = field(default_factory=lambda: {CLIENT: 0, SERVER: 0})

    def add(self, end: str, do: Do, amount: int = 0) -> None:
        """Append a step."""
        self.steps.append(Step(end, do, amount))
        if do in SENDS:
            self.sent[end] += amount

    def send(self, end: str, do: Do = Do.SEND) -> None:
        """Let an end send something."""
        left = MOST_BYTES - self.sent[end]
        self.add(end, do, max(1, min(self.draw(SIZES), left)))

    def last_send(self, end: str) -> None:
        """Let an end that shuts down or closes next send something, or not: with the FIN, or just before it."""
        choice = self.draw(st.integers(0, 2))
        if choice:
            self.send(end, Do.SEND if choice == 1 else Do.SEND_MORE)

    def maybe_send(self, end: str, at_most: int = 1) -> None:
        """Let an end send up to `at_most` times, with a pause before some."""
        for _ in range(self.draw(st.integers(0, at_most))):
            self.maybe_pause(end)
            self.send(end)

    def maybe_pause(self, end: str) -> None:
        """Let an end pause, or not."""
        if self.draw(st.integers(0, 2)) == 0:
            self.add(end, Do.PAUSE, self.draw(PAUSES_US))

    def await_all(self, end: str) -> None:
        """Let an end wait for all that the other has sent so far."""
        self.add(end, Do.AWAIT_BYTES, self.sent[other(end)])

    def talk(self) -> None:
        """Let both ends send, pause and wait for each other a few times."""
        for choice in [self.draw(st.integers(0, 7)) for _ in range(self.draw(st.integers(0, 6)))]:
            end = ENDS[choice % 2]
            if choice < 4:
                self.send(end)
            elif choice < 6:
                self.add(end, Do.PAUSE, self.draw(PAUSES_US))
            elif self.sent[other(end)]:
                self.add(end, Do.AWAIT_BYTES, self.draw(st.integers(1, self.sent[other(end)])))


def _fin_first(script: Writing, a: str, b: str) -> None:
    script.last_send(a)
    script.add(a, Do.SHUTDOWN)
    script.maybe_pause(b)
    script.add(b, Do.AWAIT_EOF)
    script.maybe_pause(b)
    script.send(b)
    script.last_send(b)
    script.add(b, Do.SHUTDOWN)


def _fin_while_other_talks(script: Writing, a: str, b: str) -> None:
    script.last_send(a)
    script.add(a, Do.SHUTDOWN)
    script.send(b)
    script.maybe_send(b, 3)
    if script.draw(st.booleans()):
        script.add(b, Do.AWAIT_EOF)
        script.maybe_send(b)
    script.add(b, Do.SHUTDOWN)


def _simultaneous_fin(script: Writing, a: str, b: str) -> None:
    if script.draw(st.booleans()):
        script.add(a, Do.MEET)
        script.add(b, Do.MEET)
    script.last_send(a)
    script.last_send(b)
    script.add(a, Do.SHUTDOWN)
    script.add(b, Do.SHUTDOWN)


def _clean_close(script: Writing, a: str, b: str) -> None:
    script.await_all(a)
    script.maybe_send(a)
    script.last_send(a)
    script.add(a, Do.CLOSE)
    script.add(b, Do.AWAIT_EOF)


def _reset(script: Writing, a: str, b: str) -> None:
    script.maybe_send(a)
    script.maybe_pause(a)
    script.add(a, Do.RESET)
    script.maybe_send(b, 3)


def _settled_reset(script: Writing, a: str, b: str) -> None:
    script.send(a)
    script.maybe_send(b)
    script.add(a, Do.SETTLE)
    script.add(a, Do.RESET)
    script.maybe_send(b, 2)


def _reset_after_own_fin(script: Writing, a: str, b: str) -> None:
    script.last_send(a)
    script.add(a, Do.SHUTDOWN)
    script.add(b, Do.AWAIT_EOF)
    script.add(b, Do.MEET)
    script.add(a, Do.MEET)
    if script.draw(st.booleans()):  # else it stays idle: only an event tells of the reset
        script.send(b)
    script.add(a, Do.RESET)
    script.add(b, Do.AWAIT_RESET)


def _reset_after_peer_fin(script: Writing, a: str, b: str) -> None:
    script.add(b, Do.SHUTDOWN)
    script.add(a, Do.AWAIT_EOF)
    script.maybe_send(a, 2)
    script.add(a, Do.RESET)


def _close_unread(script: Writing, a: str, b: str) -> None:
    script.await_all(a)
    script.add(a, Do.STOP_READING)
    script.add(a, Do.MEET)  # or what it has yet to read could be all there will ever be
    script.add(b, Do.MEET)
    script.send(b)
    script.maybe_send(a)
    script.add(a, Do.AWAIT_ARRIVAL)
    script.add(a, Do.CLOSE)
    script.maybe_send(b, 2)


def _close_midstream(script: Writing, a: str, b: str) -> None:
    script.send(b)
    script.maybe_send(a)
    script.maybe_pause(a)
    script.add(a, Do.CLOSE)
    script.send(b)
    script.maybe_send(b, 2)


def _both_reset(script: Writing, a: str, b: str) -> None:
    script.maybe_send(a)
    script.maybe_send(b)
    script.maybe_pause(a)
    script.maybe_pause(b)
    script.add(a, Do.RESET)
    script.add(b, Do.RESET)


Ending = Callable[[Writing, str, str], None]
_ENDINGS: dict[Kind, tuple[Ending, str]] = {
    Kind.CLIENT_FIN_FIRST: (_fin_first, CLIENT),
    Kind.SERVER_FIN_FIRST: (_fin_first, SERVER),
    Kind.CLIENT_FIN_WHILE_SERVER_TALKS: (_fin_while_other_talks, CLIENT),
    Kind.SERVER_FIN_WHILE_CLIENT_TALKS: (_fin_while_other_talks, SERVER),
    Kind.SIMULTANEOUS_FIN: (_simultaneous_fin, CLIENT),
    Kind.CLIENT_CLOSE: (_clean_close, CLIENT),
    Kind.SERVER_CLOSE: (_clean_close, SERVER),
    Kind.CLIENT_RESET: (_reset, CLIENT),
    Kind.SERVER_RESET: (_reset, SERVER),
    Kind.CLIENT_SETTLED_RESET: (_settled_reset, CLIENT),
    Kind.SERVER_SETTLED_RESET: (_settled_reset, SERVER),
    Kind.CLIENT_RESET_AFTER_OWN_FIN: (_reset_after_own_fin, CLIENT),
    Kind.SERVER_RESET_AFTER_OWN_FIN: (_reset_after_own_fin, SERVER),
    Kind.CLIENT_RESET_AFTER_SERVER_FIN: (_reset_after_peer_fin, CLIENT),
    Kind.SERVER_RESET_AFTER_CLIENT_FIN: (_reset_after_peer_fin, SERVER),
    Kind.CLIENT_CLOSE_UNREAD: (_close_unread, CLIENT),
    Kind.SERVER_CLOSE_UNREAD: (_close_unread, SERVER),
    Kind.CLIENT_CLOSE_MIDSTREAM: (_close_midstream, CLIENT),
    Kind.SERVER_CLOSE_MIDSTREAM: (_close_midstream, SERVER),
    Kind.BOTH_RESET: (_both_reset, CLIENT),
}


@st.composite
def scripts(draw: st.DrawFn, kind: Kind) -> Script:
    """Draw a conversation that ends in a given way."""
    script = Writing(draw)
    script.talk()
    ending, first = _ENDINGS[kind]
    ending(script, first, other(first))
    # Only a slow reader leaves acknowledged bytes on the way when the reset comes.
    readings = st.one_of(READINGS, SLOW) if kind in SETTLED_KINDS else READINGS
    return Script(kind, tuple(script.steps), draw(readings), draw(readings))


def batches(lanes: int) -> st.SearchStrategy[tuple[Script, ...]]:
    """Draw one script a lane; the kinds follow each other, so that each is as frequent as every other."""
    kinds = list(Kind)
    return st.tuples(*(scripts(kinds[lane % len(kinds)]) for lane in range(lanes)))
