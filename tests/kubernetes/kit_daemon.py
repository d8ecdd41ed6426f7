"""`lbd run` that watches a test's cluster, in a service engine of the lab."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from kit_cluster import Cluster
from lab_daemon import Daemon, DaemonFactory
from lbd.cli.demo.lab import FRONT_PREFIX, Lab
from lbd.cli.demo.management import ManagementNetwork

FIRST, LAST = {4: "172.16.101.150", 6: "fd00:101::150"}, {4: "172.16.101.200", 6: "fd00:101::1ff"}
"""The addresses of the pool that a daemon has if the test says nothing else."""
POOLS = {"lab": {"ranges": [f"{FIRST[family]}-{LAST[family]}" for family in FRONT_PREFIX]}}
QUICK_TCP = {"type": "tcp", "interval": "200ms", "timeout": "150ms", "rise": 1, "fall": 1}


class KubernetesDaemonFactory:
    """Makes daemons for clusters: `lbd_kubernetes(cluster, kubernetes={…}, **sections)`.

    `kubernetes` are keys of that section beside those that are filled in (the kubeconfig and the test's namespace);
    `config` are whole sections (`address_pools`, `profiles`, `health_monitors`, `service_engine`, …). Everything else
    is the fixture `daemon`'s: `workers`, `form`, `start`, `in_lab` (a second_lab), environment variables.
    """

    def __init__(self, lab: Lab, management: ManagementNetwork, daemon: DaemonFactory) -> None:
        self._lab = lab
        self._management = management
        self._daemon = daemon
        self._connected: set[Lab] = set()

    def __call__(
        self,
        cluster: Cluster,
        *,
        kubernetes: Mapping[str, Any] | None = None,
        config: Mapping[str, Any] | None = None,
        kubeconfig: Path | None = None,
        in_lab: Lab | None = None,
        **options: Any,
    ) -> Daemon:
        """Return the daemon, started unless `start=False`."""
        lab = in_lab or self._lab
        if lab not in self._connected:
            self._management.connect(lab.se)
            self._connected.add(lab)
        return self._daemon(
            kubernetes_config(cluster, kubeconfig or cluster.kubeconfig(), kubernetes or {}, config or {}),
            in_lab=lab,
            **options,
        )


def kubernetes_config(
    cluster: Cluster, kubeconfig: Path, kubernetes: Mapping[str, Any], config: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the configuration of a daemon that watches the test's namespace; see KubernetesDaemonFactory."""
    section = {"kubeconfig": str(kubeconfig), "namespaces": [cluster.namespace], **kubernetes}
    return {"address_pools": POOLS, **config, "kubernetes": section}
