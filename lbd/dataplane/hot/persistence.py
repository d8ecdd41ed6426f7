"""Which member each client had: the table behind `persistence: {type: client_ip}`.

The entries lie in memory that outlives the worker (lbd.dataplane.persistence_memory); a dictionary and a list beside it
say where, and which has been without a connection for longest. All that is made anew from the memory in one pass.

Who maps a lane's memory is its owner until somebody else does; only the owner makes, frees and orders entries. A former
owner whose connections are still open counts them in a column of its own, so that nobody needs a lock, nobody's end can
leave a count behind (the supervisor clears a dead worker's column), and no count falls below zero. It still finds what
it knows, but remembers no new clients; if the lane is its own by right (it hung, and an heir had the lane), it
becomes the owner again with the next connection.

Hot module: compiled by mypyc, and must do the same when interpreted.
"""

from __future__ import annotations

import _socket
from collections.abc import Container
from typing import Any, Final

from lbd.dataplane.hot.tally import EVICTED_ENTRIES, Tally

# Places in the header, as in lbd.dataplane.persistence_memory.
OWNER_WORD: Final = 4
USED_WORD: Final = 5
ENTRIES_WORD: Final = 6
COLUMN_WORDS: Final = 16

NOBODY: Final = -1
UNLINKED: Final = -2
FREE: Final = 0
MEMBER_GONE: Final = -1
MAPPED: Final = b"\0\0\0\0\0\0\0\0\0\0\xff\xff"
ZEROS: Final = b"\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0"
EXPIRED_AT_ONCE: Final = 4
"""Entries freed before each new one: more than are made, so that they cannot pile up."""
EVICTION_TRIES: Final = 8
ENTRY_BITS: Final = 24
ENTRY_MASK: Final = 0xFFFFFF


class PersistenceTable:
    """The clients of one lane, in memory that outlives the worker.

    An entry is open while the client has a connection; when the last one ends, it joins the end of the list of the idle
    ones, whose first is the first to time out and the first to make room.
    """

    __slots__ = (
        "_capacity", "_column", "_columns", "_free", "_header", "_index", "_ipv4_prefix", "_ipv6_prefix", "_is_ours",
        "_keys", "_last_client", "_last_key", "_left", "_members", "_newer", "_newest", "_older", "_oldest", "_open",
        "_others", "_stamp", "_tally", "_turn", "_worker", "timeout_ms",
    )  # fmt: skip

    def __init__(
        self,
        memory: Any,
        is_ours: bool,
        tally: Tally,
        stamp: int,
        timeout_ms: int,
        ipv4_prefix: int,
        ipv6_prefix: int,
    ) -> None:
        """`memory` is a LaneMemory of lbd.dataplane.persistence_memory (hot modules import no others). `is_ours` says
        that this worker is the one that has the lane when nobody is missing. `tally` counts what had to make room.
        `stamp` differs from that of every other table of this process: what was entered in a table that has been
        replaced since is not left in the new one."""
        self._worker: int = memory.worker
        self._columns: list[memoryview] = memory.columns
        self._capacity: int = memory.capacity
        self._header: memoryview = memory.header
        self._keys: memoryview = memory.keys
        self._members: memoryview = memory.members
        self._left: memoryview = memory.left
        self._column: memoryview = self._columns[self._worker]
        self._others: list[memoryview] = []
        self._is_ours: bool = is_ours
        self._tally: Tally = tally
        self._stamp: int = stamp << ENTRY_BITS
        self.timeout_ms: int = timeout_ms
        self._ipv4_prefix: int = ipv4_prefix
        self._ipv6_prefix: int = ipv6_prefix
        self._last_client: str = ""
        self._last_key: bytes = b""
        self._turn: int = 0
        self._index: dict[bytes, int] = {}
        self._free: list[int] = []
        # By entry: our open connections, and the neighbours in the list of idle entries.
        self._open: list[int] = []
        self._older: list[int] = []
        self._newer: list[int] = []
        self._oldest: int = NOBODY
        self._newest: int = NOBODY

    def take_over(self, now_ms: int) -> None:
        """Become the lane's owner. What nobody has open any more is idle since its last connection ended, or, if that
        ended with its worker, from now on."""
        header = self._header
        worker = self._worker
        header[COLUMN_WORDS + worker] = 1
        turn: int = header[OWNER_WORD]
        self._turn = turn + 1
        header[OWNER_WORD] = turn + 1
        self._others = []
        for other, column in enumerate(self._columns):
            if other != worker and header[COLUMN_WORDS + other]:
                self._others.append(column)
        used: int = header[USED_WORD]
        self._open += [0] * (used - len(self._open))
        self._older = [NOBODY] * used
        self._newer = [UNLINKED] * used
        self._index = {}
        self._free = []
        self._chain(self._read(used, now_ms))
        header[ENTRIES_WORD] = len(self._index)

    def _chain(self, idle: list[int]) -> None:
        """Make the list of idle entries; what `_link` does for each, in half the time."""
        older = self._older
        newer = self._newer
        before = NOBODY
        self._oldest = idle[0] & ENTRY_MASK if idle else NOBODY
        for packed in idle:
            entry = packed & ENTRY_MASK
            older[entry] = before
            if before >= 0:
                newer[before] = entry
            before = entry
        if before >= 0:
            newer[before] = NOBODY
        self._newest = before

    def _read(self, used: int, now_ms: int) -> list[int]:
        """Read all entries; return the idle ones in order, each as time << ENTRY_BITS | entry."""
        keys: bytes = self._keys[: 16 * used].tobytes()
        members: list[int] = self._members[:used].tolist()
        left: list[int] = self._left[:used].tolist()
        index = self._index
        opened = self._open
        idle: list[int] = []
        for entry in range(used):
            key = keys[16 * entry : 16 * entry + 16]
            member = members[entry]
            if member == FREE or key in index:
                self._members[entry] = FREE
                self._free.append(entry)
                continue
            index[key] = entry
            if opened[entry]:
                continue
            since_ms = left[entry]
            if since_ms == 0:
                since_ms = now_ms
                self._left[entry] = now_ms
            idle.append(since_ms << ENTRY_BITS | entry)
        idle.sort()
        return idle

    def find(self, client: str, now_ms: int) -> int:
        """Return the slot of the member that `client` keeps, or -1."""
        is_owner = self._is_owner(now_ms)
        key = self._key(client)
        entry = self._index.get(key, NOBODY)
        if entry < 0:
            return NOBODY
        member: int = self._members[entry]
        if member <= 0 or (not is_owner and self._keys[16 * entry : 16 * entry + 16].tobytes() != key):
            return NOBODY
        if self._open[entry] == 0 and self._left[entry] + self.timeout_ms <= now_ms and not self._open_elsewhere(entry):
            return NOBODY
        return member - 1

    def enter(self, client: str, member_slot: int, now_ms: int) -> int:
        """Have `client` keep a member while the connection that this counts is open, and for the timeout afterwards;
        return what `leave` needs, or -1 where there is no room for one more client."""
        is_owner = self._is_owner(now_ms)
        key = self._key(client)
        entry = self._index.get(key, NOBODY)
        if not is_owner:
            if entry < 0 or self._keys[16 * entry : 16 * entry + 16].tobytes() != key:
                return NOBODY
        elif entry < 0:
            entry = self._take(now_ms)
            if entry < 0:
                return NOBODY
            self._keys[16 * entry : 16 * entry + 16] = key
            self._left[entry] = 0
            self._index[key] = entry
            self._header[ENTRIES_WORD] = len(self._index)
        elif self._open[entry] == 0:
            self._unlink(entry)
            self._left[entry] = 0
        opened = self._open[entry] + 1
        self._open[entry] = opened
        self._column[entry] = opened
        self._members[entry] = member_slot + 1
        return self._stamp | entry

    def leave(self, entered: int, now_ms: int) -> None:
        """Count the end of a connection; `entered` is what `enter` returned."""
        entry = entered ^ self._stamp
        if entered < 0 or entry > ENTRY_MASK:
            return
        opened = self._open[entry] - 1
        self._open[entry] = opened
        self._column[entry] = opened
        if opened:
            return
        if self._turn == self._header[OWNER_WORD]:
            self._left[entry] = now_ms
            self._link(entry)
            if self._members[entry] == MEMBER_GONE and not self._open_elsewhere(entry):
                self._release(entry)
        elif self._left[entry]:  # else the owner has it open too, and counts from there
            self._left[entry] = now_ms

    def expire(self, now_ms: int, most: int) -> None:
        """Free at most `most` entries whose time has passed."""
        if self._turn != self._header[OWNER_WORD]:
            return
        for _ in range(most):
            entry = self._oldest
            if entry < 0 or self._left[entry] + self.timeout_ms > now_ms:
                return
            if self._open_elsewhere(entry):
                self._stay(entry, now_ms)
            else:
                self._release(entry)

    def purge(self, kept: Container[int]) -> None:
        """Forget the members that are not among the `kept` slots: a slot may be another member's soon."""
        if self._turn != self._header[OWNER_WORD]:
            return
        members: list[int] = self._members[: len(self._open)].tolist()
        for entry, member in enumerate(members):
            if member > 0 and member - 1 not in kept:
                if self._newer[entry] == UNLINKED or self._open_elsewhere(entry):
                    self._members[entry] = MEMBER_GONE
                else:
                    self._release(entry)

    def _is_owner(self, now_ms: int) -> bool:
        """Return whether the lane is ours now; who has a right to it takes it back."""
        if self._turn == self._header[OWNER_WORD]:
            return True
        if self._is_ours:
            self.take_over(now_ms)
            return True
        return False

    def _key(self, client: str) -> bytes:
        if client == self._last_client:
            return self._last_key
        key: bytes
        if ":" in client:
            if "%" in client:
                client = client[: client.index("%")]
            key = _socket.inet_pton(10, client)
            if self._ipv6_prefix < 128:
                key = cut(key, self._ipv6_prefix)
        else:
            key = _socket.inet_pton(2, client)
            if self._ipv4_prefix < 32:
                key = cut(key, self._ipv4_prefix)
            key = MAPPED + key
        self._last_client = client
        self._last_key = key
        return key

    def _take(self, now_ms: int) -> int:
        """Return a free entry, or -1 when every client has a connection open."""
        self.expire(now_ms, EXPIRED_AT_ONCE)
        if self._free:
            return self._free.pop()
        used = len(self._open)
        if used < self._capacity:
            self._grow()
            self._header[USED_WORD] = used + 1
            return used
        for _ in range(EVICTION_TRIES):
            entry = self._oldest
            if entry < 0:
                return NOBODY
            if self._open_elsewhere(entry):
                self._stay(entry, now_ms)
            else:
                self._tally.add(EVICTED_ENTRIES, 1)
                self._release(entry)
                return self._free.pop()
        return NOBODY

    def _grow(self) -> None:
        self._open.append(0)
        self._older.append(NOBODY)
        self._newer.append(UNLINKED)

    def _release(self, entry: int) -> None:
        """Free an idle entry."""
        self._unlink(entry)
        self._members[entry] = FREE
        del self._index[self._keys[16 * entry : 16 * entry + 16].tobytes()]
        self._free.append(entry)
        self._header[ENTRIES_WORD] = len(self._index)

    def _open_elsewhere(self, entry: int) -> bool:
        for column in self._others:  # noqa: SIM110 - a generator costs more than the loop
            if column[entry]:
                return True
        return False

    def _stay(self, entry: int, now_ms: int) -> None:
        """Put an entry that a former owner has open behind the others."""
        self._left[entry] = now_ms
        self._unlink(entry)
        self._link(entry)

    def _link(self, entry: int) -> None:
        """Put an entry at the end of the list of idle ones."""
        newest = self._newest
        self._older[entry] = newest
        self._newer[entry] = NOBODY
        if newest < 0:
            self._oldest = entry
        else:
            self._newer[newest] = entry
        self._newest = entry

    def _unlink(self, entry: int) -> None:
        older = self._older[entry]
        newer = self._newer[entry]
        if older < 0:
            self._oldest = newer
        else:
            self._newer[older] = newer
        if newer < 0:
            self._newest = older
        else:
            self._older[newer] = older
        self._newer[entry] = UNLINKED


def cut(packed: bytes, prefix: int) -> bytes:
    """Return an address with all bits behind the prefix zero."""
    whole = prefix // 8
    head = packed[:whole]
    if prefix % 8:
        last: int = packed[whole] & (0xFF00 >> prefix % 8) & 0xFF
        head += bytes([last])
    return head + ZEROS[: len(packed) - len(head)]
