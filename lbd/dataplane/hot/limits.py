"""Who gets a place under a service's limits, who waits for one, and who is turned away.

A limit over all workers is dealt in shares (see `quota`): who finds the share of this worker used up waits while the
supervisor is asked for more. With `is_patient` a client then waits in a queue until a place is free, without he is
turned away as soon as the supervisor has said that nothing is left, and after ASKING_MS at the latest.

Hot module: compiled by mypyc, and must do the same when interpreted.
"""

from __future__ import annotations

from typing import Final

from lbd.dataplane.hot.client_limits import CLIENT_ADMITTED, TOO_MANY, ClientLimits
from lbd.dataplane.hot.line import Entrant, Line
from lbd.dataplane.hot.quota import Desk, Quota
from lbd.dataplane.hot.rate import Rate
from lbd.dataplane.hot.reactor import Handler

# What `Gate.enter` answers besides the place of a `Rejection` in counters.REJECTION_ORDER.
ADMITTED: Final = -1
WAIT: Final = -2

# Places in counters.REJECTION_ORDER.
SOURCE_RANGES: Final = 0
MAX_CONNECTIONS: Final = 1
MAX_CONNECTIONS_PER_CLIENT: Final = 2
CONNECTION_RATE: Final = 3
CONNECTION_RATE_PER_CLIENT: Final = 4
QUEUE_FULL: Final = 5
QUEUE_TIMEOUT: Final = 6
PROXY_HEADER: Final = 7
MAX_THROUGHPUT: Final = 8

ASKING_MS: Final = 300
"""How long a client waits for the supervisor's answer: it takes a millisecond, but may not come at all."""
MOST_ASKING: Final = 1024
"""How many wait for that answer in one worker."""
MOST_IN_VAIN: Final = 8
ONE_CONNECTION: Final = 1_000_000
"""In the units of a `Rate` of connections: its shares may be less than one a second."""


class Gate(Handler):
    """See the module. Stands before every connection of a service that has limits, of which None are not set.

    `queue_length` is how many may wait in this worker. What was given up in a batch of events is free after it.
    """

    __slots__ = (
        "_changed", "_desk", "_freed", "_in_vain", "_is_waking", "_knocked", "_line", "_member_line", "_scheduled",
        "_short", "_wanted", "is_patient", "places", "queue_length", "rate", "wait_ms", "wait_reason",
    )  # fmt: skip

    def __init__(self, desk: Desk) -> None:
        self._desk: Desk = desk
        self.places: Quota | None = None
        self.rate: Rate | None = None
        self.is_patient: bool = False
        self.queue_length: int = 0
        self.wait_ms: int = ASKING_MS
        self.wait_reason: int = MAX_CONNECTIONS
        self._line: Line = Line()
        self._member_line: Line = Line()
        self._changed: list[Quota] = []  # something was given up, or came, in this batch
        self._freed: int = 0  # places with members, since the last turn
        self._knocked: bool = False  # somebody who may not wait found no place
        self._short: list[Quota] = []  # of members that were passed over since the last turn
        self._wanted: list[Quota] = []  # of members for which somebody waits
        self._is_waking: bool = False
        self._in_vain: list[Entrant] = []
        self._scheduled: bool = False

    def set_queue(self, is_patient: bool, length: int, timeout_ms: int) -> None:
        """Change what becomes of those who find no place: refused, or queued."""
        self.is_patient = is_patient
        self.queue_length = length
        self.wait_ms = timeout_ms if is_patient else ASKING_MS
        self.wait_reason = QUEUE_TIMEOUT if is_patient else MAX_CONNECTIONS
        if self.places is not None:
            self.places.look_anew()
        for quota in self._wanted:
            quota.look_anew()
        self._schedule()

    def enter(self, entrant: Entrant, client: str, clients: ClientLimits | None, now_ms: int) -> int:
        """Ask for a place for a connection of `client`: ADMITTED, WAIT (until `wait_ms` have passed, then it is turned
        away for `wait_reason`), or the reason why it gets none. Who waits is counted among the client's connections."""
        answer = self._pass(client, clients, now_ms)
        places = self.places
        if answer != ADMITTED or places is None:
            return answer
        if places.used < places.share and len(self._line) == 0:
            places.used += 1
            return ADMITTED
        if self._has_no_room(self._line, places, now_ms):
            if clients is not None:
                clients.undo(client, now_ms)
            return QUEUE_FULL if self.is_patient else MAX_CONNECTIONS
        self._line.append(entrant)
        self._schedule()
        return WAIT

    def enter_flow(self, client: str, clients: ClientLimits | None, now_ms: int) -> int:
        """The same for what can't wait: ADMITTED, or the reason why it gets no place. Where this worker has used up its
        share more is asked for, so that another try may succeed."""
        answer = self._pass(client, clients, now_ms)
        places = self.places
        if answer != ADMITTED or places is None:
            return answer
        if places.used < places.share and len(self._line) == 0:
            places.used += 1
            return ADMITTED
        if clients is not None:
            clients.undo(client, now_ms)
        self._knocked = True
        self._schedule()
        return MAX_CONNECTIONS

    def leave(self, client: str, clients: ClientLimits | None, now_ms: int) -> None:
        """Give up the place of a connection that was admitted."""
        if clients is not None:
            clients.leave(client, now_ms)
        if self.places is not None:
            self._give_up(self.places)

    def await_member(self, entrant: Entrant) -> int:
        """Have an admitted connection wait until a member has room: WAIT, or the reason why it may not."""
        line = self._member_line
        if self._is_waking:
            self._in_vain.append(entrant)
            return WAIT
        length = len(line)
        most = max(MOST_ASKING, self.queue_length)
        if length >= most or (length >= self.queue_length and self.is_patient and self._members_exhausted()):
            return QUEUE_FULL if self.is_patient else MAX_CONNECTIONS
        line.append(entrant)
        self._schedule()
        return WAIT

    def member_is_full(self, quota: Quota) -> None:
        """A member was passed over for want of room: ask for more."""
        if quota not in self._short:
            self._short.append(quota)
            self._schedule()

    def member_freed(self, quota: Quota) -> None:
        """A member with a limit has lost a connection."""
        self._freed += 1
        self._give_up(quota)

    def gave_up(self, entrant: Entrant) -> None:
        """Somebody who waits has gone, or has waited long enough."""
        self._line.remove(entrant)
        self._member_line.remove(entrant)
        self._schedule()

    def waiting_for(self, quota: Quota) -> int:
        """Return how many wait for more of a quota of this gate."""
        return len(self._line if quota is self.places else self._member_line)

    def changed(self, quota: Quota) -> None:
        """The supervisor has said something about a quota of this gate."""
        if quota.kind == "member":
            self._freed += max(0, quota.share - quota.used)
        self._look_at(quota)

    def open(self) -> None:
        """There is no limit on places any more: let everybody in who waits for one."""
        self.places = None
        while True:
            entrant = self._line.first()
            if entrant is None:
                return
            entrant.admitted()

    def ask_again(self) -> None:
        """Somebody has waited for long: whoever was asked to give something up may have given it to somebody else."""
        self._schedule()

    def wake_all(self) -> None:
        """Members, their weights or their limits have changed: let everybody look who waits for one."""
        for quota in self._wanted:  # who still wants it asks anew
            if quota.asked and self.is_patient:
                self._desk.ask_places(quota, 0, True)
        self._wanted = []
        self._freed = len(self._member_line)
        self._schedule()

    def on_turn(self) -> None:
        """The batch is over: deal out what has become free, and tell the supervisor what is wanted and what is not."""
        self._scheduled = False
        self._desk.reactor.free_descriptors()  # also those of whom another turn has just closed
        changed = self._changed
        self._changed = []
        for quota in changed:
            quota.is_listed = False
            quota.used -= quota.leaving
            quota.leaving = 0
        if self.places is not None:
            self._deal_places(self.places)
        self._deal_members()
        for quota in changed:
            if not self.waiting_for(quota):
                quota.give_back()
            self._desk.report(quota)

    def on_fault(self) -> None:
        """Go on with the next one."""
        self._schedule()

    def _schedule(self) -> None:
        if not self._scheduled:
            self._scheduled = True
            self._desk.reactor.again(self)

    def _pass(self, client: str, clients: ClientLimits | None, now_ms: int) -> int:
        if clients is not None:
            answer = clients.enter(client, now_ms)
            if answer != CLIENT_ADMITTED:
                return MAX_CONNECTIONS_PER_CLIENT if answer == TOO_MANY else CONNECTION_RATE_PER_CLIENT
        rate = self.rate
        if rate is not None and not rate.take(ONE_CONNECTION, now_ms):
            if clients is not None:
                clients.undo(client, now_ms)
            return CONNECTION_RATE
        return ADMITTED

    def _give_up(self, quota: Quota) -> None:
        quota.leaving += 1
        self._look_at(quota)

    def _look_at(self, quota: Quota) -> None:
        if not quota.is_listed:
            quota.is_listed = True
            self._changed.append(quota)
            self._schedule()

    def _has_no_room(self, line: Line, places: Quota, now_ms: int) -> bool:
        """Return whether nobody more may wait. Up to MOST_ASKING may as long as the supervisor has not answered."""
        length = len(line)
        if places.leaving > length:
            return False
        if length >= max(MOST_ASKING, self.queue_length):
            return True
        if now_ms >= places.exhausted_until_ms and not (places.is_exhausted and self.is_patient and length):
            return False
        return not self.is_patient or length >= self.queue_length

    def _deal_places(self, places: Quota) -> None:
        line = self._line
        while places.used < places.share:
            entrant = line.first()
            if entrant is None:
                break
            places.used += 1
            entrant.admitted()
        if places.is_exhausted:
            self._turn_away(line)
            places.is_exhausted = self.is_patient and len(line) > 0
        waiting = len(line)
        if waiting == 0 and places.asked and self.is_patient:
            self._desk.ask_places(places, 0, True)
        wanted = max(waiting, 1) if self._knocked else waiting
        self._knocked = False
        is_patient = self.is_patient and waiting > 0
        if places.may_ask(wanted, is_patient, self._desk.reactor.now_ms):
            self._desk.ask_places(places, wanted, is_patient)

    def _deal_members(self) -> None:
        self._wake()
        line = self._member_line
        short = self._short
        self._short = []
        waiting = len(line)
        if waiting:
            for quota in short:
                if quota not in self._wanted:
                    self._wanted.append(quota)
            if self._members_exhausted():
                self._turn_away(line)
                waiting = len(line)
        now_ms = self._desk.reactor.now_ms
        is_patient = self.is_patient and waiting > 0
        for quota in self._wanted if waiting else short:
            if quota.may_ask(max(waiting, 1), is_patient, now_ms):
                self._desk.ask_places(quota, max(waiting, 1), is_patient)
        if not waiting and self._wanted:
            for quota in self._wanted:
                if quota.asked and self.is_patient:
                    self._desk.ask_places(quota, 0, True)
            self._wanted = []

    def _wake(self) -> None:
        """Let as many look for a member as places have become free. Who finds none, because that member has failed him
        before, stands first again, and somebody else may look."""
        line = self._member_line
        freed = self._freed
        self._freed = 0
        self._is_waking = True
        while freed > 0 and len(self._in_vain) < MOST_IN_VAIN:
            entrant = line.first()
            if entrant is None:
                break
            before = len(self._in_vain)
            entrant.admitted()
            if len(self._in_vain) == before:
                freed -= 1
        self._is_waking = False
        while self._in_vain:
            line.prepend(self._in_vain.pop())

    def _members_exhausted(self) -> bool:
        """Return whether for all members that somebody waits for the supervisor has said that nothing is left."""
        for quota in self._wanted:
            if not quota.is_exhausted:
                return False
        return len(self._wanted) > 0

    def _turn_away(self, line: Line) -> None:
        """Nothing is left: refuse all who wait, or those who came last until the queue is as long as it may be."""
        keep = self.queue_length if self.is_patient else 0
        while len(line) > keep:
            entrant = line.last()
            if entrant is None:
                return
            entrant.refused(QUEUE_FULL if self.is_patient else MAX_CONNECTIONS)
