"""What lbd says of Services and L4Rules, as the tests wait for it, and how a daemon's configuration is changed."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import yaml

from kit_cluster import PATIENCE_S, RULE_API, Cluster
from lab_daemon import Daemon
from lab_wait import eventually
from lbd.cli.demo.api_client import Manifest

ADDRESS_CONDITION = "lbd.io/AddressAssigned"
RULE_CONDITION = "lbd.io/RuleAccepted"
RULE_ANNOTATION = "ako.vmware.com/l4rule"
ADDRESS = "lbd.io/address"
POOL = "lbd.io/address-pool"
SHARED = "lbd.io/shared-vip"


def rule_manifest(name: str, spec: Mapping[str, Any], **metadata: Any) -> dict[str, Any]:
    """Return an L4Rule."""
    return {"apiVersion": RULE_API, "kind": "L4Rule", "metadata": {"name": name, **metadata}, "spec": dict(spec)}


def backend(port: int = 80, **fields: Any) -> dict[str, Any]:
    """Return the spec of a rule about one port, TCP if nothing else is said."""
    return {"backendProperties": [{"port": port, "protocol": "TCP", **fields}]}


def wait_event(cluster: Cluster, about: Manifest, reason: str, *words: str) -> dict[str, Any]:
    """Wait for an Event of this reason whose message has all the words; return the first such one."""

    def said() -> dict[str, Any]:
        events = cluster.events_of(about, reason)
        found = [one for one in events if all(word in one["message"] for word in words)]
        assert found, [(one["reason"], one["message"]) for one in cluster.events_of(about)]
        return found[0]

    return eventually(said, PATIENCE_S, f"an Event {reason} with {words}")


def wait_condition(
    cluster: Cluster, about: Manifest, kind: str, status: str, reason: str = "", *words: str
) -> dict[str, Any]:
    """Wait until a condition has this status, this reason (empty: any) and a message with all the words; return it."""

    def said() -> dict[str, Any]:
        now = cluster.condition(about, kind)
        assert now["status"] == status, now
        assert reason in ("", now["reason"]), now
        assert all(word in now["message"] for word in words), now
        return now

    return eventually(said, PATIENCE_S, f"{kind} {status} {reason} {words}")


def wait_rule(cluster: Cluster, rule: Manifest, status: str, *words: str) -> dict[str, Any]:
    """Wait until a rule's status is about the rule as it is written now, and says this; return the rule."""

    def judged(now: dict[str, Any]) -> bool:
        found = now.get("status", {})
        return (
            found.get("status") == status
            and found.get("observedGeneration") == now["metadata"]["generation"]
            and all(word in found.get("error", "") for word in words)
        )

    return cluster.wait_for(rule, judged, PATIENCE_S, f"{status} {words}")


def with_sections(daemon: Daemon, **sections: Any) -> dict[str, Any]:
    """Return a daemon's configuration with other sections; None takes one out."""
    now = {**yaml.safe_load(daemon.config_path.read_text()), **sections}
    return {key: value for key, value in now.items() if value is not None}


def reloaded(daemon: Daemon, **sections: Any) -> None:
    """Have a daemon take over other sections of its configuration."""
    done = daemon.reload(with_sections(daemon, **sections))
    assert done.returncode == 0, done
