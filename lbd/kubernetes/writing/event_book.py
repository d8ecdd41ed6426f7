"""Which Events are due: the same again raises a count, and a flood is thinned out. Pure; the time is an argument.

An Event's name follows from what it says and of whom. So the next leader, or this one after a restart, counts on in the
same object instead of making another one.
"""

from __future__ import annotations

import hashlib
from collections import OrderedDict
from dataclasses import dataclass, replace

from lbd.kubernetes.objects.kinds import ObjectKey

REPEAT_INTERVAL_S = 300.0
"""How often the count of the same Event is raised at most."""
MAX_KNOWN = 4096
MAX_OBJECTS = 4096
BURST_PER_OBJECT = 20
REFILL_PER_OBJECT_S = 60.0
"""What one object may cause: a burst, then one Event in this time. Whoever edits a Service all the time can't flood the
API server."""
MAX_MESSAGE = 1024
"""Characters, as client-go cuts it."""


@dataclass(frozen=True, slots=True)
class About:
    """The object that an Event is about."""

    api_version: str
    kind: str
    key: ObjectKey
    uid: str
    resource_version: str


@dataclass(frozen=True, slots=True)
class Note:
    """An Event. `count` is how often it was noted since it was written last; times are seconds of the wall clock."""

    about: About
    type: str
    reason: str
    message: str
    count: int
    first_unix_s: float
    last_unix_s: float

    @property
    def name(self) -> str:
        """The name of the Event's object."""
        said = "\0".join((self.about.uid, self.type, self.reason, self.message))
        return f"{self.about.key.name[:200].rstrip('-.')}.{hashlib.sha256(said.encode()).hexdigest()[:16]}"


@dataclass(slots=True)
class _Bucket:
    tokens: float
    at_s: float


class EventBook:
    """Notes that wait, and what was written lately; both bounded. `now_s` is monotonic."""

    def __init__(self) -> None:
        self._waiting: OrderedDict[str, Note] = OrderedDict()
        self._written_s: OrderedDict[str, float] = OrderedDict()
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()
        self.dropped_total = 0

    def note(self, about: About, kind: str, reason: str, message: str, now_s: float, unix_s: float) -> None:
        """Take down an Event of the type `kind`, to be written when it is due."""
        note = Note(about, kind, reason, _cut(message), 1, unix_s, unix_s)
        known = self._waiting.get(note.name)
        if known is not None:
            self._waiting[note.name] = replace(known, about=about, count=known.count + 1, last_unix_s=unix_s)
        elif len(self._waiting) >= MAX_KNOWN or not self._may(about.uid, now_s):
            self.dropped_total += 1
        else:
            self._waiting[note.name] = note

    def next_due(self, now_s: float) -> Note | None:
        """Take the oldest note that is due; until `written` it is nowhere."""
        for name, note in self._waiting.items():
            if self._due_s(name) <= now_s:
                del self._waiting[name]
                return note
        return None

    def wait_s(self, now_s: float) -> float | None:
        """Return in which time something is due, None if nothing waits."""
        return max(0.0, min(map(self._due_s, self._waiting)) - now_s) if self._waiting else None

    def is_known(self, note: Note) -> bool:
        """Tell whether it was written lately, so that there is an object to count on in."""
        return note.name in self._written_s

    def written(self, note: Note, now_s: float) -> None:
        """Take down that a note was written."""
        self._written_s[note.name] = now_s
        self._written_s.move_to_end(note.name)
        if len(self._written_s) > MAX_KNOWN:
            self._written_s.popitem(last=False)

    def forget(self, note: Note) -> None:
        """Take down that the object of a note is gone."""
        self._written_s.pop(note.name, None)

    def clear(self) -> None:
        """Drop what waits: somebody else says it now."""
        self._waiting.clear()

    def _due_s(self, name: str) -> float:
        written_s = self._written_s.get(name)
        return 0.0 if written_s is None else written_s + REPEAT_INTERVAL_S

    def _may(self, uid: str, now_s: float) -> bool:
        """A token bucket for each object; the one that was not heard of for longest is forgotten."""
        bucket = self._buckets.pop(uid, None) or _Bucket(BURST_PER_OBJECT, now_s)
        gained = max(0.0, now_s - bucket.at_s) / REFILL_PER_OBJECT_S
        bucket.tokens, bucket.at_s = min(BURST_PER_OBJECT, bucket.tokens + gained), now_s
        self._buckets[uid] = bucket
        if len(self._buckets) > MAX_OBJECTS:
            self._buckets.popitem(last=False)
        if bucket.tokens < 1:
            return False
        bucket.tokens -= 1
        return True


def _cut(message: str) -> str:
    return message if len(message) <= MAX_MESSAGE else message[: MAX_MESSAGE - 1] + "…"
