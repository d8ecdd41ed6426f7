"""What Prometheus is told of a cluster."""

from __future__ import annotations

import re
from pathlib import Path

from kit_cluster import Cluster
from kit_daemon import KubernetesDaemonFactory
from kit_publish import published, wait_writing
from lab_wait import eventually

REFERENCE = Path(__file__).resolve().parents[2] / "docs" / "reference" / "metrics.md"


def test_the_metrics_of_a_cluster_are_those_of_the_reference_and_say_what_is(
    cluster: Cluster, lbd_kubernetes: KubernetesDaemonFactory, pods: list[str]
) -> None:
    lbd = lbd_kubernetes(cluster, kubernetes={"pod_routes": True})
    wait_writing(lbd)
    published(cluster, pods)

    def told() -> bool:
        metrics = lbd.metrics()
        assert metrics.value("lbd_kubernetes_services_assigned") == metrics.value("lbd_kubernetes_services") == 1
        assert metrics.value("lbd_kubernetes_leader") == metrics.value("lbd_kubernetes_api_reachable") == 1
        assert metrics.value("lbd_kubernetes_address_pool_used", address_pool="lab", family="ipv4") == 1
        assert metrics.value("lbd_kubernetes_writes_total") >= 2
        assert metrics.value("lbd_kubernetes_watch_objects", resource="endpointslices") == 1
        return True

    eventually(told)
    documented = set(re.findall(r"^\| `(lbd_kubernetes_\w+)` \|", REFERENCE.read_text(), re.MULTILINE))
    assert {one.name for one in lbd.metrics().samples if one.name.startswith("lbd_kubernetes_")} == documented
