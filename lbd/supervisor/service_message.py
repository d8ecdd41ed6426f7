"""A virtual service as the message that workers get, and the memory that goes with it. Pure but for that memory."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Sequence

from lbd.balancing.consistent_hash import build_table
from lbd.dataplane.channel import Message
from lbd.model.desired import (
    AdminState,
    Algorithm,
    Bulk,
    Keepalive,
    Limits,
    OnLimit,
    OnMemberDown,
    Persistence,
    Pool,
    Protocol,
    ProxyProtocol,
    Source,
    VirtualService,
)

_PROXY_VERSIONS = {None: 0, ProxyProtocol.V1: 1, ProxyProtocol.V2: 2}


def service_message(
    service: VirtualService,
    slot: int,
    member_slots: Sequence[int],
    weights: Sequence[int],
    down: Sequence[bool],
    workers: int,
) -> Message:
    """Return the definition of a service for one of `workers`; `weights` and `down` in the order of the members."""
    pool = service.pool
    timeouts = service.timeouts
    return {
        "type": "service",
        "slot": slot,
        "name": service.name,
        "protocol": service.protocol.value,
        "address": service.vip,
        "port": service.port,
        "algorithm": pool.algorithm.value,
        "hash_key": pool.hash_key.value,
        "max_load_percent": pool.max_load_percent,
        "members": [
            {
                "slot": member_slot,
                "family": member.endpoint.family,
                "address": member.endpoint.address,
                "port": member.endpoint.port,
                "max_connections": member.max_connections,
            }
            for member, member_slot in zip(pool.members, member_slots, strict=True)
        ],
        "weights": list(weights),
        "down": list(down),
        "connect_ms": _ms(timeouts.connect_s),
        "idle_ms": _ms(timeouts.idle_s),
        "client_half_closed_ms": _ms(timeouts.client_half_closed_s),
        "member_half_closed_ms": _ms(timeouts.member_half_closed_s),
        "member_user_ms": _ms(timeouts.member_user_s),
        "lifetime_ms": _ms(timeouts.lifetime_s),
        "lifetime_jitter": timeouts.lifetime_jitter,
        "member_keepalive": _keepalive(service.member_keepalive),
        "transparent": service.source is Source.TRANSPARENT,
        "splices": service.bulk is Bulk.SPLICE,
        "proxy_version": _PROXY_VERSIONS[service.proxy_protocol],
        "accept_proxy_protocol": list(service.accept_proxy_protocol),
        "source_ranges": list(service.source_ranges),
        "outlier_after": pool.outlier_detection.consecutive_failures if pool.outlier_detection else 0,
        "persistence": _persistence(pool.persistence),
        "keeps_entry": pool.persistence is not None and pool.persistence.on_member_down is OnMemberDown.KEEP,
        "limits": _limits(service.limits, workers),
        "udp": _udp(service),
    }


def _ms(seconds: float) -> int:
    return int(seconds * 1000)


def _limits(limits: Limits, workers: int) -> dict[str, int | float | bool]:
    return {
        "workers": workers,
        "max_connections": limits.max_connections,
        "patient": limits.on_limit is OnLimit.QUEUE,
        "queue_length": limits.queue_length,
        "queue_timeout_ms": _ms(limits.queue_timeout_s),
        "max_connections_per_client": limits.max_connections_per_client,
        "connection_rate_per_client": limits.connection_rate_per_client,
        "connection_rate": rate_units(limits),
        "max_throughput": throughput_units(limits),
    }


def rate_units(limits: Limits) -> int:
    """Return `connection_rate` as it is dealt: in millionths of a connection a second."""
    return int(limits.connection_rate * 1_000_000)


def throughput_units(limits: Limits) -> int:
    """Return `max_throughput_bps` as it is dealt: in bytes a second."""
    return limits.max_throughput_bps // 8


def _keepalive(keepalive: Keepalive | None) -> list[int] | None:
    return None if keepalive is None else [keepalive.idle_s, keepalive.interval_s, keepalive.probes]


def _persistence(persistence: Persistence | None) -> dict[str, int] | None:
    if persistence is None:
        return None
    return {
        "timeout_ms": _ms(persistence.timeout_s),
        "ipv4_prefix": persistence.ipv4_prefix,
        "ipv6_prefix": persistence.ipv6_prefix,
    }


def _udp(service: VirtualService) -> dict[str, int] | None:
    if service.protocol is not Protocol.UDP:
        return None
    udp = service.udp
    return {"responses": udp.responses, "max_flows": udp.max_flows, "per_packet": udp.per_packet}


def hash_members(pool: Pool) -> tuple[tuple[str, int], ...]:
    """What a consistent-hash table is made of: a disabled or draining member has no place in it."""
    if pool.algorithm is not Algorithm.CONSISTENT_HASH:
        return ()
    return tuple(
        (str(member.endpoint), member.weight if member.admin_state is AdminState.ENABLED else 0)
        for member in pool.members
    )


async def hash_table(pool: Pool) -> int | None:
    """Return a descriptor of memory that holds the pool's table, or None if its algorithm needs none.

    Built in a thread: 65,537 places take longer than the loop may stand still.
    """
    members = hash_members(pool)
    if not members:
        return None
    table = await asyncio.to_thread(build_table, [key for key, _ in members], [weight for _, weight in members])
    descriptor = os.memfd_create("lbd-hash-table", os.MFD_CLOEXEC)
    os.write(descriptor, table)
    return descriptor
