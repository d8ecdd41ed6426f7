"""A worker's part of the limits that all workers share, and what it tells the supervisor about it.

The supervisor deals each worker a share of every limit; the shares' sum is the limit. Who has used up its share asks
for more, and who is asked gives up what it does not use. While the supervisor is silent, a worker goes on with what
it has.

Hot module: compiled by mypyc, and must do the same when interpreted.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final

from lbd.dataplane.hot.reactor import Chore, Reactor

ASK_AGAIN_MS: Final = 1000
"""A question that nobody has answered is repeated after this time."""
EXHAUSTED_MS: Final = 50
"""How long the answer that nothing is left is believed: a flood of clients must not become one of questions."""
REPORT_MS: Final = 5
"""What was given up is told at most this much later, together with what else is by then."""


class Part:
    """What a worker has of one limit: it may use `share`. `kind` and `slot` name the limit, `number` is that of the
    supervisor's last order."""

    __slots__ = ("is_reported_late", "kind", "number", "share", "slot")

    def __init__(self, kind: str, slot: int) -> None:
        self.kind: str = kind
        self.slot: int = slot
        self.share: int = 0
        self.number: int = 0
        self.is_reported_late: bool = False

    def held(self) -> int:
        """Return what this worker may be using."""
        return self.share


class Quota(Part):
    """Of a limit on how many there are: places, of which `used` are taken. Those that are `leaving` were given up in
    the batch of events that runs now, and are free after it: their sockets are closed then."""

    __slots__ = (
        "asked", "asked_ms", "asked_patiently", "exhausted_until_ms", "is_exhausted", "is_listed", "leaving", "owed",
        "reported", "used",
    )  # fmt: skip

    def __init__(self, kind: str, slot: int, used: int) -> None:
        Part.__init__(self, kind, slot)
        self.used: int = used
        self.leaving: int = 0
        self.asked: int = 0  # how many are wanted, as far as the supervisor knows
        self.asked_ms: int = -ASK_AGAIN_MS
        self.asked_patiently: bool = False  # the supervisor remembers it until there is something
        self.is_exhausted: bool = False  # everybody was asked, and has nothing to give
        self.exhausted_until_ms: int = 0
        self.owed: int = 0  # others want so many, as soon as there are any that nobody uses
        self.reported: int = 1 << 62  # as held, the last time
        self.is_listed: bool = False  # among those that its gate looks at after this batch

    def held(self) -> int:
        """Return how many this worker may be using: more than its share while that was lowered."""
        return max(self.share, self.used)

    def set_share(self, number: int, share: int) -> None:
        """The supervisor has decided."""
        self.number = number
        more = share - self.share
        self.share = share
        if more > 0:
            self.asked = max(0, self.asked - more)
            self.is_exhausted = False
            self.exhausted_until_ms = 0

    def recall(self, number: int, amount: int, standing: bool, waiting: int) -> None:
        """Others want `amount`: give up what nobody here uses or waits for, half of it at least, so that they need not
        ask for each; `standing`: also later."""
        self.number = number
        unused = max(0, self.share - self.used) if not waiting else 0
        given = min(unused, max(amount, unused // 2)) if amount else 0
        self.share -= given
        self.owed = max(0, amount - given) if standing else 0

    def give_back(self) -> None:
        """Give up what others have been waiting for since."""
        given = min(self.owed, self.share - self.used)
        if given > 0:
            self.share -= given
            self.owed -= given

    def exhaust(self, now_ms: int) -> None:
        """Nothing is left of the limit, and the supervisor has forgotten the question unless it was patient."""
        self.is_exhausted = True
        self.exhausted_until_ms = now_ms + EXHAUSTED_MS
        if not self.asked_patiently:
            self.asked = 0

    def look_anew(self) -> None:
        """The limit has changed, or what becomes of those who wait: what the supervisor said holds no longer."""
        self.is_exhausted = False
        self.exhausted_until_ms = 0
        self.asked = 0
        self.asked_patiently = False

    def may_ask(self, waiting: int, is_patient: bool, now_ms: int) -> bool:
        """Return whether the supervisor should be told that so many are wanted."""
        if waiting == 0:
            return False
        if is_patient != self.asked_patiently:
            return is_patient or now_ms >= self.exhausted_until_ms
        if now_ms < self.exhausted_until_ms and not self.asked:
            return False
        return waiting > self.asked or now_ms - self.asked_ms >= ASK_AGAIN_MS

    def is_overdue(self, now_ms: int) -> bool:
        """Return whether somebody has been waiting for an answer for ASK_AGAIN_MS."""
        return self.asked > 0 and self.asked_patiently and now_ms - self.asked_ms >= ASK_AGAIN_MS


class Desk:
    """Speaks with the supervisor for all parts of one worker. `send` takes a message as a dictionary."""

    __slots__ = ("_chore", "_late", "_send", "reactor")

    def __init__(self, reactor: Reactor, send: Callable[[dict[str, object]], None]) -> None:
        self.reactor: Reactor = reactor
        self._send: Callable[[dict[str, object]], None] = send
        self._late: list[Part] = []
        self._chore: Chore = reactor.chore(self._report)

    def ask(self, part: Part, wanted: int, is_patient: bool) -> None:
        """Say that so much more is wanted than the share."""
        self._send(
            {"type": "lease_wanted", "kind": part.kind, "slot": part.slot, "wanted": wanted, "patient": is_patient}
        )

    def ask_places(self, quota: Quota, wanted: int, is_patient: bool) -> None:
        """The same for places, and remember it. What was given up since the last report is said first: else the
        supervisor would look for places that are with the one who asks."""
        if quota.held() < quota.reported:
            self.answer(quota)
        if not quota.asked:
            quota.is_exhausted = False
        quota.asked = wanted
        quota.asked_patiently = is_patient and wanted > 0
        quota.asked_ms = self.reactor.now_ms
        self.ask(quota, wanted, is_patient)

    def answer(self, part: Part) -> None:
        """Say what is held now."""
        held = part.held()
        if isinstance(part, Quota):
            part.reported = held
        self._send(
            {
                "type": "leased",
                "kind": part.kind,
                "slot": part.slot,
                "number": part.number,
                "share": part.share,
                "held": held,
            }
        )

    def report(self, quota: Quota) -> None:
        """Say soon what is held, if that is less than the supervisor knows."""
        if not quota.is_reported_late and quota.held() < quota.reported:
            quota.is_reported_late = True
            self._late.append(quota)
            if not self._chore.due_ms:
                self._chore.due_ms = self.reactor.now_ms + REPORT_MS

    def _report(self, now_ms: int) -> int:
        late = self._late
        self._late = []
        for part in late:
            part.is_reported_late = False
            self.answer(part)
        return 0
