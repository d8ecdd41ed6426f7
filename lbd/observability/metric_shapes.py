"""The shapes a metric can have: one sample an object, one for each state, one for each value of a label, an info."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any

from lbd.observability.exposition import Kind, Sample, label_text

Objects = list[tuple[str, Any]]
"""Label text and the part of the status that it names."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One row of the table. `labels` are in the order of the output; `samples` makes the samples of all objects."""

    name: str
    kind: Kind
    labels: tuple[str, ...]
    help: str
    scope: str
    samples: Callable[[Objects], Iterable[Sample]]


LABELS: dict[str, tuple[str, ...]] = {
    "process": (),
    "config": (),
    "worker": ("worker",),
    "vip": ("vip", "interface"),
    "virtual_service": ("virtual_service",),
    "udp_virtual_service": ("virtual_service",),
    "member": ("virtual_service", "member"),
    "udp_member": ("virtual_service", "member"),
    "monitor": ("virtual_service", "member", "monitor"),
    "kubernetes": (),
    "kubernetes_watch": ("resource", "namespace"),
    "address_pool": ("address_pool", "family"),
    "pod_routes": (),
}
"""The labels that name an object of each scope."""


def one(name: str, kind: Kind, scope: str, help_text: str, value: Callable[[Any], float]) -> Metric:
    """A metric with one sample for each object."""
    return Metric(name, kind, LABELS[scope], help_text, scope, lambda objects: [(k, value(o)) for k, o in objects])


def optional(name: str, kind: Kind, scope: str, help_text: str, value: Callable[[Any], float | None]) -> Metric:
    """A metric without a sample where the value is not known yet."""

    def samples(objects: Objects) -> list[Sample]:
        return [(labels, number) for labels, item in objects if (number := value(item)) is not None]

    return Metric(name, kind, LABELS[scope], help_text, scope, samples)


def split(
    name: str,
    kind: Kind,
    scope: str,
    help_text: str,
    label: str,
    words: Iterable[str],
    values: Callable[[Any], Iterable[float]],
) -> Metric:
    """A metric with one sample for each object and each of the fixed `words` of one more label."""
    suffixes = [label_text(**{label: str(word)}) for word in words]

    def samples(objects: Objects) -> list[Sample]:
        return [
            (f"{labels},{suffix}" if labels else suffix, number)
            for labels, item in objects
            for suffix, number in zip(suffixes, values(item), strict=True)
        ]

    return Metric(name, kind, (*LABELS[scope], label), help_text, scope, samples)


def states(name: str, scope: str, help_text: str, known: Iterable[str], state: Callable[[Any], str]) -> Metric:
    """A metric that is 1 for the state that holds and 0 for the others; all 0 for a state that is not `known`."""
    words = tuple(str(word) for word in known)
    rows = {word: tuple(int(word == other) for other in words) for word in words}
    none_holds = (0,) * len(words)
    help_text = f"{help_text}: 1 for the one that holds, 0 for the others."
    return split(name, Kind.GAUGE, scope, help_text, "state", words, lambda item: rows.get(state(item), none_holds))


def infos(name: str, scope: str, help_text: str, names: tuple[str, ...], values: Callable[[Any], Any]) -> Metric:
    """A metric that is always 1 and whose labels are the information."""

    def samples(objects: Objects) -> list[Sample]:
        rows = ((labels, label_text(**dict(zip(names, values(item), strict=True)))) for labels, item in objects)
        return [(f"{labels},{info}" if labels else info, 1) for labels, info in rows]

    return Metric(name, Kind.INFO, (*LABELS[scope], *names), f"{help_text}; always 1.", scope, samples)
