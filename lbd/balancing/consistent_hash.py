"""Consistent hashing: the same client reaches the same member on every worker, process and service engine.

The table is Maglev's (Eisenbud et al., "Maglev: A Fast and Reliable Software Network Load Balancer", NSDI 2016, §3.4).

Hot module: compiled by mypyc, and must do the same when interpreted.
"""

from __future__ import annotations

from array import array
from heapq import heapify, heapreplace
from typing import TYPE_CHECKING, Final

from mmh3 import hash as murmur3_32

from lbd.balancing.balancer import Balancer, checked_weights, eligible_members

if TYPE_CHECKING:
    from mypy_extensions import i64

MAX_MEMBERS: Final = 65535
"""What a table's 16-bit entries can tell apart, one value being kept for an empty slot."""

MAX_PROBES: Final = 32
"""Slots tried for a client whose member is not eligible. With half of the table eligible one in 4e9 clients needs
more; with a single eligible member of a thousand the rest of the work is one pass over the eligible members."""

_EMPTY: Final = 65535

# Fixed for ever: another seed is another table, and moves every client.
_OFFSET_SEED: Final = 0x6C62642D
_SKIP_SEED: Final = 0x736B6970
_CLIENT_SEED: Final = 0x636C6E74
_STEP_SEED: Final = 0x73746570
_WORD: Final = 0xFFFFFFFF


def table_size(members: int) -> int:
    """Return the number of slots for a pool of so many members: a prime, at least 100 slots a member.

    There are four sizes only, for a size that follows the number of members would move 67-98 % of the clients each
    time one is added.

    Raises:
        ValueError: more than `MAX_MEMBERS`.
    """
    if members <= 100:
        return 16381
    if members <= 655:
        return 65537
    if members <= 6553:
        return 655373
    if members <= MAX_MEMBERS:
        return 6553621
    raise ValueError(f"{members} members: a pool with consistent_hash can have {MAX_MEMBERS}")


def build_table(keys: list[str], weights: list[int]) -> bytes:
    """Return the table: for each slot the position in `keys` of its member, as uint16 in the machine's byte order.

    Each member prefers the slots in an order of its own, and members take turns at claiming the next free one they
    prefer. A member of weight w has its turns at the times 0, 1/w, 2/w, …: when another member goes, the order of the
    remaining turns stays, so few slots move; and every member with a weight has at least one slot. Members of
    weight 0 are left out, but count for the size. Only without any key is the table empty: where all weights are 0 it
    is made as if all were 1, for nobody will be picked from it and an empty file can't be mapped.

    The table depends on the set of (key, weight) alone. 16381 slots take 15 ms to fill interpreted and 2 ms compiled,
    65537 slots 80 and 12 ms; with unequal weights twice and five times that. Build it outside the relay's loop.

    Raises:
        ValueError: a key twice, a weight out of range, more weights than keys or fewer, or too many members.
    """
    if len(keys) != len(weights):
        raise ValueError(f"{len(weights)} weights for {len(keys)} keys")
    if len(set(keys)) != len(keys):
        raise ValueError("a key is there twice")
    checked_weights(weights)
    size = table_size(len(keys))
    if not keys:
        return b""
    if not any(weights):
        weights = [1] * len(keys)
    members = [entry[1] for entry in sorted([(keys[i], i) for i in range(len(keys)) if weights[i] > 0])]
    slots = [murmur3_32(keys[member], _OFFSET_SEED, False) % size for member in members]
    skips = [murmur3_32(keys[member], _SKIP_SEED, False) % (size - 1) + 1 for member in members]
    turn_weights = [weights[member] for member in members]
    if min(turn_weights) == max(turn_weights):
        return _fill_evenly(size, members, slots, skips)
    return _fill_by_weight(size, members, slots, skips, turn_weights)


def _claim(table: list[int], member: int, slot: i64, skip: i64) -> i64:
    """Give `member` the first free slot of its preferences from `slot` on, and return the slot that it took."""
    size: i64 = len(table)
    while table[slot] != _EMPTY:
        slot += skip
        if slot >= size:
            slot -= size
    table[slot] = member
    return slot


def _fill_evenly(size: int, members: list[int], slots: list[int], skips: list[int]) -> bytes:
    table = [_EMPTY] * size
    free = size
    while True:
        for rank, member in enumerate(members):
            slots[rank] = _claim(table, member, slots[rank], skips[rank])
            free -= 1
            if free == 0:
                return array("H", table).tobytes()


def _fill_by_weight(size: int, members: list[int], slots: list[int], skips: list[int], weights: list[int]) -> bytes:
    """As `_fill_evenly`, with the turns in the order of (time, key); times are fractions of 2**32."""
    table = [_EMPTY] * size
    turns_taken = [0] * len(members)
    queue = [(0, rank) for rank in range(len(members))]
    heapify(queue)
    for _ in range(size):
        rank = queue[0][1]
        slots[rank] = _claim(table, members[rank], slots[rank], skips[rank])
        turns_taken[rank] += 1
        heapreplace(queue, ((turns_taken[rank] << 32) // weights[rank], rank))
    return array("H", table).tobytes()


class ConsistentHash(Balancer):
    """Picks by a hash of the client's address: no state, so nothing to keep over a restart.

    `table` is a view, cast to "H", of `build_table`'s result; it holds the configured weights. `weights` say only who
    is eligible. A client whose member is not eligible, or was tried, goes to the next eligible one of a sequence of its
    own; so while a member is down only its clients move, evenly over the others, and they return with it.
    """

    def __init__(self, weights: list[int], table: memoryview) -> None:
        super().__init__(weights)
        if table.format != "H":
            raise ValueError(f"the table is a view of {table.format!r}, not of 'H'")
        self._table: memoryview = table
        self._size: int = len(table)
        self._eligible: list[int] = eligible_members(self.weights)

    def set_weights(self, weights: list[int]) -> None:
        """Replace the weights: 0 or not 0 is all that counts.

        Raises:
            ValueError: another number of members, or a weight out of range.
        """
        super().set_weights(weights)
        self._eligible = eligible_members(self.weights)

    def pick(self, client: str, tried: list[int]) -> int:
        """Return the client's member, its next choice when that is not eligible or tried, or -1 without any."""
        if self._size == 0:
            return -1
        hashed: int = murmur3_32(client, _CLIENT_SEED, False)
        slot = hashed % self._size
        member: int = self._table[slot]
        if self.weights[member] > 0 and not (tried and member in tried):
            return member
        return self._next_choice(client, slot, tried)

    def _next_choice(self, client: str, slot: int, tried: list[int]) -> int:
        """Walk the table by double hashing: its size is prime, so every step visits every slot in the end."""
        weights = self.weights
        candidates = self._eligible
        if tried:
            candidates = [member for member in candidates if member not in tried]
        if len(candidates) <= 1:
            return candidates[0] if candidates else -1
        hashed = step_hash(client)
        step = hashed % (self._size - 1) + 1
        for _ in range(MAX_PROBES):
            slot += step
            if slot >= self._size:
                slot -= self._size
            member: int = self._table[slot]
            if weights[member] > 0 and not (tried and member in tried):
                return member
        return highest_random(hashed, candidates)


def client_hash(client: str) -> int:
    """Return the hash that says where in the table a client's sequence begins."""
    hashed: int = murmur3_32(client, _CLIENT_SEED, False)
    return hashed


def step_hash(client: str) -> int:
    """Return the hash that says with which step a client's sequence goes on."""
    hashed: int = murmur3_32(client, _STEP_SEED, False)
    return hashed


def highest_random(hashed: int, candidates: list[int]) -> int:
    """Return the candidate whose mix with the client's hash is highest (Thaler and Ravishankar, 1998).

    Unlike a number modulo the candidates it moves only the clients of the one that goes. Two rounds of xor, shift and
    multiply mix the bits; a factor of 27 bits keeps every product under 63.
    """
    best = -1
    best_score: i64 = -1
    seed: i64 = hashed
    for member in candidates:
        score: i64 = member
        score = (score * 0x9E3779B1 + seed) & _WORD
        score = ((score ^ (score >> 16)) * 0x45D9F3B) & _WORD
        score = ((score ^ (score >> 16)) * 0x45D9F3B) & _WORD
        score ^= score >> 16
        if score > best_score:
            best = member
            best_score = score
    return best
