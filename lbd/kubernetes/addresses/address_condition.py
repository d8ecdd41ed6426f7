"""What a Service's condition says of its addresses. Pure."""

from __future__ import annotations

from lbd.kubernetes.addresses.allocator import Allocation
from lbd.kubernetes.objects.kinds import ADDRESS_CONDITION, Condition

ASSIGNED = "Assigned"
"""The reason where nothing is wrong."""


def address_condition(allocation: Allocation, observed_generation: int = 0) -> Condition:
    """Return the condition of an allocation.

    It is True exactly where there are addresses, also with a problem: only such addresses are kept when the record is
    read again (`claims.is_given`).
    """
    given = ", ".join(
        f"{address} from pool {pool}" if pool else f"{address}, which no pool has any more"
        for address, pool in zip(allocation.addresses, allocation.pools, strict=True)
    )
    problem = allocation.problem
    return Condition(
        ADDRESS_CONDITION,
        "True" if allocation.addresses else "False",
        ASSIGNED if problem is None else problem.reason,
        "; ".join(filter(None, (given, problem.message if problem else ""))),
        observed_generation,
    )
