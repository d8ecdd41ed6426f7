"""The standard `process_*` metrics of the supervisor itself: CPU, memory, start time, descriptors."""

from __future__ import annotations

from prometheus_client import ProcessCollector

from lbd.observability.exposition import Family, Kind


def process_families() -> list[Family]:
    """Read this process in /proc, as prometheus-client does; empty where there is no /proc."""
    families = []
    for metric in ProcessCollector(registry=None).collect():
        kind = Kind(metric.type)
        name = f"{metric.name}_total" if kind is Kind.COUNTER else metric.name
        samples = [("", sample.value) for sample in metric.samples]
        families.append(Family(name, kind, metric.documentation, samples))
    return families
