"""One row of each virtual service for the metrics, also while an earlier incarnation of it drains.

A service that moves to another port, or is removed and added again, is there twice for a time. A scrape with one series
twice would be refused as a whole.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import fields, replace
from typing import Any

from lbd.model.status import MemberStatus, Traffic, VirtualServiceStatus


def merged(services: Iterable[VirtualServiceStatus]) -> list[VirtualServiceStatus]:
    """Return one row of each name: the state of the incarnation that does not drain, the traffic of all together."""
    by_name: dict[str, VirtualServiceStatus] = {}
    for service in services:
        other = by_name.get(service.name)
        by_name[service.name] = service if other is None else _merge(other, service)
    return list(by_name.values())


def _merge(one: VirtualServiceStatus, other: VirtualServiceStatus) -> VirtualServiceStatus:
    leading, draining = (other, one) if one.state == "draining" else (one, other)
    members = {(member.address, member.port): member for member in leading.members}
    for member in draining.members:
        known = members.setdefault((member.address, member.port), member)
        if known is not member:
            members[member.address, member.port] = _with_traffic_of(known, member)
    return replace(leading, members=tuple(members.values()), traffic=_sum_of(leading.traffic, draining.traffic))


def _with_traffic_of(member: MemberStatus, draining: MemberStatus) -> MemberStatus:
    return replace(member, traffic=_sum_of(member.traffic, draining.traffic))


def _sum_of(one: Traffic, other: Traffic) -> Traffic:
    return Traffic(**{each.name: _sum(getattr(one, each.name), getattr(other, each.name)) for each in fields(Traffic)})


def _sum(one: Any, other: Any) -> Any:
    """Return the sum of two counts, or of two counts by reason."""
    if isinstance(one, dict):
        return {reason: one.get(reason, 0) + other.get(reason, 0) for reason in sorted(one.keys() | other.keys())}
    return one + other
