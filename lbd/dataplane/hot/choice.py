"""Which member a client gets: the one that it keeps, else the algorithm's choice. The same for connections and flows.

Hot module: compiled by mypyc, and must do the same when interpreted.
"""

from __future__ import annotations

from lbd.dataplane.hot.lane import Lane
from lbd.dataplane.hot.service import Member, Service


def choose(service: Service, lane: Lane, client: str, port: int, tried: list[int], now_ms: int) -> int:
    """Return the index of the member to try for a client's address and port, none of `tried`; or -1."""
    entries = lane.entries
    if entries is not None:
        kept = service.by_slot.get(entries.find(client, now_ms))
        if kept is not None and kept.index not in tried:
            if service.can_take(kept.index):
                return kept.index
            if service.balancer.weights[kept.index] > 0:
                service.note_full(kept.index)
    if service.settings.hashes_port:
        client = f"{client}:{port}"
    return service.pick(client, tried, now_ms)


def keep_member(service: Service, lane: Lane, client: str, entry: int, member: Member, now_ms: int) -> int:
    """Note in the lane's persistence table whom a client has, unless it is to return to another one that is down or
    without room now. To a member that is draining or disabled it is not to return.

    `entry` (-1: none) is what this connection or flow held there until now; returns what it holds from here on.
    """
    entries = lane.entries
    if entries is None:
        return -1
    if entry >= 0:
        entries.leave(entry, now_ms)
    if service.settings.keeps_entry:
        kept = service.by_slot.get(entries.find(client, now_ms))
        if kept is not None and (kept.down or service.balancer.weights[kept.index] > 0):
            member = kept
    return entries.enter(client, member.slot, now_ms)
