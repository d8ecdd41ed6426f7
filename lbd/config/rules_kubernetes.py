"""What must hold within `kubernetes`, and between it and what is there for its sake; see `rules`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from lbd.config import judging, kubernetes_scalars, scalars
from lbd.config.errors import ConfigError
from lbd.config.facts import Cursor, Facts
from lbd.config.shapes_kubernetes import LeaseShape
from lbd.config.tree import Mapping

MAX_NAMESPACES = 256
"""Each is watched by itself."""
MAX_POD_CIDRS = 1024

_DEPENDENTS = (
    ("address_pools", "its addresses are for the Services of a cluster"),
    ("profiles", "only the rules of a cluster can name a profile"),
)
_LEASE_ORDER = (
    ("retry", "renew_deadline", "the Lease must be tried again before it is given up"),
    ("renew_deadline", "duration", "who leads must stop before another one may begin"),
)
_LEASE_READERS = {
    "retry": kubernetes_scalars.retry,
    "renew_deadline": kubernetes_scalars.renew_deadline,
    "duration": kubernetes_scalars.lease_duration,
}


def way_to_the_cluster(facts: Facts) -> Iterator[ConfigError]:
    """There is exactly one way to the cluster, and a context is one of a kubeconfig."""
    for section in facts.sections("kubernetes"):
        if not isinstance(section.node, Mapping):
            continue
        kubeconfig, switch, context = (section.at(key) for key in ("kubeconfig", "in_cluster", "context"))
        is_inside = switch.read(scalars.flag) if switch else False
        if kubeconfig is None and is_inside is False:
            yield section.key_place.error("needs one of kubeconfig: PATH and in_cluster: true, to find the cluster")
        if switch is not None and kubeconfig is not None and is_inside:
            yield switch.place.error("can't be had with kubeconfig: write one of the two")
        elif context is not None and is_inside:
            yield context.key_place.error("belongs to kubeconfig, and here the Pod's own service account is used")


def parts_of_a_cluster(facts: Facts) -> Iterator[ConfigError]:
    """Pools and profiles are there for a cluster, and a cluster needs a pool."""
    if not facts.complete:
        return
    cluster = next(facts.sections("kubernetes"), None)
    if cluster is None:
        for key, reason in _DEPENDENTS:
            for section in facts.sections(key):
                yield section.key_place.error(f"needs kubernetes: {reason}")
    elif not facts.address_pools and all(isinstance(one.node, Mapping) for one in facts.sections("address_pools")):
        message = "needs addresses for its Services: write address_pools: {NAME: {ranges: [FIRST-LAST]}}"
        yield cluster.key_place.error(message)


def lists(facts: Facts) -> Iterator[ConfigError]:
    """A list of namespaces or networks has some, each once."""
    for section in facts.sections("kubernetes"):
        yield from judging.each_once(
            section.at("namespaces"),
            kubernetes_scalars.namespace,
            empty="name a namespace, or remove the key (all of them are watched then)",
            most=MAX_NAMESPACES,
            what="namespaces",
        )
        yield from judging.each_once(
            section.at("pod_cidrs"),
            scalars.network,
            empty="name a network, or remove the key (Pods may have any address then)",
            most=MAX_POD_CIDRS,
            what="networks",
        )


def routes(facts: Facts) -> Iterator[ConfigError]:
    """The backend interface is that of the routes to Pods."""
    for section in facts.sections("kubernetes"):
        interface, switch = section.at("backend_interface"), section.at("pod_routes")
        if interface is not None and (switch is None or switch.read(scalars.flag) is False):
            yield interface.key_place.error("belongs to pod_routes: true, and here no routes are made")


def lease(facts: Facts) -> Iterator[ConfigError]:
    """A leader tries again before it gives up, and gives up before its Lease expires."""
    for section in facts.sections("kubernetes", "lease"):
        for shorter, longer, reason in _LEASE_ORDER:
            low, high = section.at(shorter), section.at(longer)
            low_s, high_s = _time_of(low, shorter), _time_of(high, longer)
            if low_s is None or high_s is None or low_s < high_s:
                continue
            if low is not None:
                yield low.place.error(f"{low.written} is not shorter than {longer} ({high_s:g}s): {reason}")
            elif high is not None:
                yield high.place.error(f"{high.written} is not longer than {shorter} ({low_s:g}s): {reason}")


def _time_of(cursor: Cursor | None, key: str) -> float | None:
    """Return what is written, None if it is wrong by itself, or the default of a key that is not written."""
    if cursor is not None:
        return cursor.read(_LEASE_READERS[key])
    default: float = LeaseShape.model_fields[key].default
    return default


RULES: tuple[Callable[[Facts], Iterable[ConfigError]], ...] = (
    way_to_the_cluster,
    parts_of_a_cluster,
    lists,
    routes,
    lease,
)
