"""The metrics of a Kubernetes cluster: its API, who writes to it, address pools and routes to Pods. Pure."""

from __future__ import annotations

from collections.abc import Callable

from lbd.model.kubernetes_status import KubernetesStatus
from lbd.observability.exposition import Kind, label_text
from lbd.observability.metric_shapes import Metric, Objects, one

_C, _G = Kind.COUNTER, Kind.GAUGE


def kubernetes_scopes(kubernetes: KubernetesStatus | None) -> dict[str, Objects]:
    """Return the objects that the metrics are of, with their label texts; none where no cluster is watched."""
    if kubernetes is None:
        return {"kubernetes": [], "kubernetes_watch": [], "address_pool": [], "pod_routes": []}
    return {
        "kubernetes": [("", kubernetes)],
        "kubernetes_watch": [
            (label_text(resource=watch.resource, namespace=watch.namespace), watch) for watch in kubernetes.watches
        ],
        "address_pool": [
            (label_text(address_pool=pool.name, family=f"ipv{pool.family}"), pool) for pool in kubernetes.pools
        ],
        "pod_routes": [("", kubernetes.pod_routes)] if kubernetes.pod_routes else [],
    }


def _cluster_metrics() -> list[Metric]:
    scope = "kubernetes"

    def gauge(what: str, help_text: str, value: Callable[[KubernetesStatus], float]) -> Metric:
        return one(f"lbd_kubernetes_{what}", _G, scope, help_text, value)

    def counter(what: str, help_text: str, value: Callable[[KubernetesStatus], float]) -> Metric:
        return one(f"lbd_kubernetes_{what}_total", _C, scope, help_text, value)

    return [
        gauge("api_reachable", "1 if the last request to the API server was answered.", lambda k: k.reachable),
        gauge(
            "api_unreachable_seconds",
            "Since when the API server can't be reached, in seconds; 0 while it can.",
            lambda k: k.unreachable_for_s,
        ),
        gauge("synced", "1 if every watch has listed since the start of the daemon.", lambda k: k.synced),
        gauge("leader", "1 if this service engine is the one that writes to the API.", lambda k: k.leader.leading),
        counter(
            "leader_transitions",
            "Times that who writes to the API has changed, as seen here, in changes.",
            lambda k: k.leader.transitions_total,
        ),
        gauge("services", "Services of type LoadBalancer that are ours, in Services.", lambda k: k.services),
        gauge("services_assigned", "Of them, those that have their addresses, in Services.", lambda k: k.assigned),
        gauge(
            "rules_rejected",
            "L4Rules that are not accepted as they are written, in rules.",
            lambda k: sum(not rule.accepted for rule in k.rules),
        ),
        gauge("object_problems", "Problems of Services and L4Rules, in problems.", lambda k: len(k.object_problems)),
        counter("requests", "Requests to the API server, in requests.", lambda k: k.requests_total),
        counter("writes", "Objects of the API that were changed, in writes.", lambda k: k.writes_total),
        counter(
            "write_conflicts",
            "Writes that were refused because somebody else had changed the object, in writes.",
            lambda k: k.write_conflicts_total,
        ),
        counter("write_failures", "Writes that failed otherwise, in writes.", lambda k: k.write_failures_total),
    ]


def _watch_metrics() -> list[Metric]:
    scope = "kubernetes_watch"
    return [
        one("lbd_kubernetes_watch_synced", _G, scope, "1 if it has listed since the start.", lambda w: w.synced),
        one("lbd_kubernetes_watch_objects", _G, scope, "Objects that it knows, in objects.", lambda w: w.objects),
        one(
            "lbd_kubernetes_watch_age_seconds",
            _G,
            scope,
            "Time since its last sign of life (list, event or bookmark), in seconds.",
            lambda w: w.age_s,
        ),
        one("lbd_kubernetes_watch_relists_total", _C, scope, "Lists after the first one.", lambda w: w.relists_total),
        one("lbd_kubernetes_watch_errors_total", _C, scope, "Errors of lists and watches.", lambda w: w.errors_total),
    ]


def _pool_metrics() -> list[Metric]:
    scope = "address_pool"
    return [
        one("lbd_kubernetes_address_pool_size", _G, scope, "Addresses of a pool, in addresses.", lambda p: p.size),
        one("lbd_kubernetes_address_pool_used", _G, scope, "Of them, those that Services hold.", lambda p: p.used),
    ]


KUBERNETES_METRICS: tuple[Metric, ...] = (
    *_cluster_metrics(),
    *_watch_metrics(),
    *_pool_metrics(),
    one("lbd_kubernetes_pod_routes", _G, "pod_routes", "Routes to Pods' networks that are wanted.", lambda r: r.wanted),
)
"""Present only where a cluster is watched."""
