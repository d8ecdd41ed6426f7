"""Why a Service does not get the address that it wants: reasons and sentences. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from lbd.kubernetes.objects.problem import Problem
from lbd.model.kubernetes import AddressPool

FAMILY_NAMES = {4: "IPv4", 6: "IPv6"}
_MOST_NAMED = 5


def in_use(address: str, owner: object) -> Problem:
    """Somebody else has the address."""
    return Problem("AddressInUse", f"{address} is in use by {owner}")


def in_no_pool(address: str) -> Problem:
    """The address asked for is none of those that Services may have."""
    return Problem("AddressNotInPools", f"{address} is in no address pool")


def in_other_pool(address: str, asked: Sequence[str]) -> Problem:
    """The address asked for is not in the pool asked for."""
    return Problem("AddressNotInPools", f"{address} is not in {_named(asked)}, which the Service also asks for")


def not_admitted(pools: Sequence[AddressPool], address: str = "") -> Problem:
    """The pools are not for this Service."""
    subject = f"{address} is in {_named(pool.name for pool in pools)}, which" if address else _pools(pools)
    does = "does" if address or len(pools) == 1 else "do"
    return Problem(
        "AddressPoolNotAllowed", f"{subject} {does} not admit this Service: its namespace or labels don't fit"
    )


def no_pool(pools: Sequence[AddressPool], family: int, asked: Sequence[str]) -> Problem:
    """There is no pool to take an address of this family from."""
    name = FAMILY_NAMES[family]
    if asked:
        return Problem("NoAddressPool", f"{_named(asked)} has no {name} addresses")
    if not pools:
        return Problem("NoAddressPool", f"no address pool has {name} addresses")
    return Problem(
        "NoAddressPool", f"{_pools(pools)} must be asked for: no other pool has {name} addresses for this Service"
    )


def full(pools: Sequence[AddressPool], family: int) -> Problem:
    """All addresses of the pools are in use."""
    said = []
    for pool in pools[:_MOST_NAMED]:
        size = pool.size(family)
        both = any(one.family != family for one in pool.ranges)
        what = f"{FAMILY_NAMES[family]} addresses" if both else "addresses"
        said.append(f"pool {pool.name} is full: {size} of {size} {what} are in use")
    return Problem("AddressPoolFull", "; ".join(said))


def kept_outside(address: str) -> Problem:
    """An address that is served and that no pool has any more."""
    return Problem("AddressOutsidePools", f"{address} is in no address pool any more; the Service keeps it")


def kept_not_admitted(address: str, pools: Sequence[AddressPool]) -> Problem:
    """An address that is served though its pool would not give it to this Service now."""
    named = _named(pool.name for pool in pools)
    return Problem("AddressPoolNotAllowed", f"{named} no longer admits this Service; it keeps {address}")


def shared_elsewhere(address: str, other: str, current: str) -> Problem:
    """Those that share a VIP ask for different addresses."""
    message = f"the Service asks for {address}, but shares a VIP with {other}, which has {current or 'none'}"
    return Problem("SharedVipConflict", message)


def shared_pool_elsewhere(asked: Sequence[str], other: str, current: str) -> Problem:
    """Those that share a VIP ask for different pools."""
    message = f"the Service asks for {_named(asked)}, but shares a VIP with {other}, which has {current}"
    return Problem("SharedVipConflict", message)


def combined(found: Iterable[Problem]) -> Problem | None:
    """Return one problem that says all of them; the first gives the reason."""
    unique = list(dict.fromkeys(found))
    if not unique:
        return None
    return Problem(unique[0].reason, "; ".join(dict.fromkeys(problem.message for problem in unique)))


def _named(names: Iterable[str]) -> str:
    listed = list(names)
    return ("pool " if len(listed) == 1 else "pools ") + ", ".join(listed[:_MOST_NAMED])


def _pools(pools: Sequence[AddressPool]) -> str:
    return _named(pool.name for pool in pools)
