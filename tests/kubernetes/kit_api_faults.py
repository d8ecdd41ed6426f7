"""What the tests of faults of the API and of groups share: short times, clients that go on, and who leads."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from typing import Any

from kit_cluster import LBD_NAMESPACE, LEASE, Asked, Cluster
from kit_lifecycle import addresses
from kit_publish import kubernetes
from lab_clients import Load
from lab_daemon import Daemon
from lab_wait import eventually
from lbd.cli.demo.lab import Lab

QUICK = {"request_timeout": "1s", "watch_timeout": "5s"}
LEASE_DURATION_S, RENEW_DEADLINE_S, LEASE_RETRY_S = 3.0, 2.0, 0.3
QUICK_LEASE = {"lease": {"duration": "3s", "renew_deadline": "2s", "retry": "300ms"}}
COLLECTIONS = 3
"""Services, EndpointSlices and L4Rules of one namespace."""
BACK_WITHIN_S = 20.0
"""After the API is back: the longest pause between two attempts (12.5 s), and what is to be done then."""


@contextlib.contextmanager
def nobody_notices(lab: Lab, vip: str) -> Iterator[Load]:
    """Let clients come all the while, 50 a second; none of them may fail."""
    with Load(lab.client, vip, rate_per_s=50) as load:
        yield load
    assert load.result.failures == []
    assert len(load.result.outcomes) > 50


def wait_away(daemon: Daemon, why: str = "") -> None:
    """Wait until the status says that the API is away, and why."""

    def away() -> bool:
        now = kubernetes(daemon)
        assert not now["reachable"], now
        assert now["api_error"], "no reason given"
        assert why in now["api_error"], now["api_error"]
        return True

    eventually(away, 10.0, "unreachable in the status")


def leads(daemon: Daemon) -> bool:
    """Tell whether a daemon says that it is the one who writes."""
    return bool(kubernetes(daemon)["leader"]["leading"])


def lease_manifest() -> dict[str, Any]:
    """Return what names lbd's Lease."""
    metadata = {"namespace": LBD_NAMESPACE, "name": LEASE}
    return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata}


def lease(cluster: Cluster) -> dict[str, Any]:
    """Return what lbd's Lease says."""
    found = cluster.admin.get(lease_manifest())
    assert found is not None
    spec: dict[str, Any] = found["spec"]
    return spec


def hold_lease(cluster: Cluster, holder: str, duration_s: int) -> None:
    """Write into the Lease that somebody else holds it from now on, whoever holds it."""
    now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
    change: Mapping[str, object] = {"holderIdentity": holder, "renewTime": now, "leaseDurationSeconds": duration_s}
    cluster.admin.patch(lease_manifest(), {"spec": change})


def writes(cluster: Cluster, since: int | None = None, *, of: Daemon | None = None) -> list[Asked]:
    """Return what was written to the cluster by lbd other than to its Lease: all of it, or that of one daemon."""
    source = management_address(of.lab) if of is not None else None
    return [
        one
        for one in cluster.asked(since=since)
        if one.verb not in ("get", "list", "watch") and one.resource != "leases" and source in (None, one.source)
    ]


def management_address(lab: Lab) -> str:
    """Return the address from which a lab's service engine asks the API server."""
    [address] = [one for one in addresses(lab, "mgmt") if ":" not in one]
    return address
