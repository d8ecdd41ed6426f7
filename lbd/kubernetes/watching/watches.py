"""Everything of a cluster that is watched: one reflector for each kind of object and each namespace."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

from lbd.kubernetes.api.client import ApiClient
from lbd.kubernetes.objects.kinds import KubernetesObject, ObjectKey
from lbd.kubernetes.objects.parse import parse_node, parse_rule, parse_service, parse_slice
from lbd.kubernetes.watching import resources
from lbd.kubernetes.watching.reflector import Reflector
from lbd.kubernetes.watching.resources import Resource
from lbd.model.kubernetes import Kubernetes
from lbd.model.kubernetes_status import WatchStatus

SERVICES, SLICES, RULES, NODES = "services", "endpointslices", "l4rules", "nodes"
"""The kinds, as the API calls them in its paths."""

_PARSERS: Mapping[str, Callable[[object], Any]] = {
    SERVICES: parse_service,
    SLICES: parse_slice,
    RULES: parse_rule,
    NODES: parse_node,
}


@dataclass(frozen=True, slots=True)
class Change:
    """An object is another one now, or gone (None)."""

    kind: str
    key: ObjectKey
    found: KubernetesObject | None


@dataclass(slots=True)
class _Watch:
    reflector: Reflector[Any]
    changed: set[ObjectKey]


class Watches:
    """Runs nothing by itself: the owner runs each of `reflectors`. `on_change` says that there is something to take."""

    def __init__(
        self, client: ApiClient, kubernetes: Kubernetes, on_change: Callable[[], None], rng: random.Random
    ) -> None:
        self._on_change = on_change
        self._watches: list[_Watch] = []
        for resource in _watched(kubernetes):
            changed: set[ObjectKey] = set()
            parse = _PARSERS[resource.plural]
            reflector: Reflector[Any] = Reflector(client, resource, parse, self._note(changed), kubernetes, rng=rng)
            self._watches.append(_Watch(reflector, changed))

    @property
    def reflectors(self) -> tuple[Reflector[Any], ...]:
        """All of them."""
        return tuple(watch.reflector for watch in self._watches)

    @property
    def synced(self) -> bool:
        """Whether all that virtual services are made of was listed since the start: Nodes only make routes."""
        return all(one.synced for one in self.reflectors if one.resource.plural != NODES)

    def status(self) -> tuple[WatchStatus, ...]:
        """Return the state of each."""
        now_s = time.monotonic()
        return tuple(one.status(now_s) for one in self.reflectors)

    def preload(self, objects: Mapping[str, Iterable[dict[str, Any]]]) -> None:
        """Begin with what an earlier run knew, by kind; what is of a namespace that is not watched is left out."""
        for watch in self._watches:
            resource = watch.reflector.resource
            watch.reflector.preload(
                raw for raw in objects.get(resource.plural, ()) if resource.namespace in (None, _namespace_of(raw))
            )
            watch.changed.update(watch.reflector.objects)

    def take_changes(self) -> list[Change]:
        """Return what has changed since the last call."""
        taken: list[Change] = []
        for watch in self._watches:
            reflector = watch.reflector
            kind = reflector.resource.plural
            taken += [Change(kind, key, reflector.objects.get(key)) for key in sorted(watch.changed)]
            watch.changed.clear()
        return taken

    def raw(self, kind: str) -> dict[ObjectKey, dict[str, Any]]:
        """Return all objects of a kind as the API server said them."""
        found: dict[ObjectKey, dict[str, Any]] = {}
        for reflector in self.reflectors:
            if reflector.resource.plural == kind:
                found.update(reflector.raw)
        return found

    def _note(self, changed: set[ObjectKey]) -> Callable[[frozenset[ObjectKey]], None]:
        def note(keys: frozenset[ObjectKey]) -> None:
            changed.update(keys)
            self._on_change()

        return note


def _watched(kubernetes: Kubernetes) -> Iterable[Resource]:
    for resource in (resources.services, resources.endpoint_slices, resources.l4_rules):
        for namespace in kubernetes.namespaces or (None,):
            yield resource(namespace)
    if kubernetes.pod_routes:
        yield resources.nodes()


def _namespace_of(raw: Mapping[str, Any]) -> object:
    metadata = raw.get("metadata")
    return metadata.get("namespace") if isinstance(metadata, dict) else None
