"""What the tests of published Services share: Pods that serve, clients that ask, and what to wait for."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any

from kit_cluster import Cluster
from kit_lifecycle import Held, addresses, peek
from lab_clients import fetch, fetch_many
from lab_daemon import Daemon
from lab_servers import Handler, PodServer, http
from lab_wait import eventually
from lbd.cli.demo.lab import Lab

FINALIZER = "service.kubernetes.io/load-balancer-cleanup"
SERVED_WITHIN_S = 8.0
"""From the address in the status to the first answer; the address is claimed and the members are checked meanwhile."""


@contextlib.contextmanager
def serving(lab: Lab, handler: Handler = http, *ports: int) -> Iterator[list[PodServer]]:
    """Let every Pod of the lab serve on these ports (80 if none is given)."""
    with contextlib.ExitStack() as stack:
        yield [stack.enter_context(PodServer(pod, handler, port)) for port in ports or (80,) for pod in lab.pods]


def kubernetes(daemon: Daemon) -> dict[str, Any]:
    """Return what `lbd status` says of the cluster."""
    found: dict[str, Any] = peek(daemon)["kubernetes"]
    return found


def wait_writing(daemon: Daemon) -> None:
    """Wait until a daemon knows the cluster and is the one that writes to it."""

    def writes() -> bool:
        now = kubernetes(daemon)
        assert now["synced"], now
        return bool(now["leader"]["leading"])

    eventually(writes, 10.0, "synced and leading")


def published(cluster: Cluster, pods: Sequence[str], name: str = "web", **options: Any) -> tuple[dict[str, Any], str]:
    """Publish a Service of these Pods on port 80; return it and its address."""
    cluster.slice(name, pods)
    made = cluster.service(name, **options)
    return made, cluster.wait_ingress(made)[0]


def answers(lab: Lab, vip: str, port: int = 80, count: int = 30) -> set[str]:
    """Return who answers `count` clients, none of whom may fail."""
    result = fetch_many(lab.client, vip, port, count=count)
    assert result.failures == []
    return set(result.answers)


def wait_served(lab: Lab, vip: str, port: int = 80) -> str:
    """Wait until a client gets an answer; return it."""

    def fetched() -> str:
        try:
            return fetch(lab.client, vip, port)
        except (OSError, EOFError) as error:
            raise AssertionError(repr(error)) from error

    return eventually(fetched, SERVED_WITHIN_S, f"{vip}:{port} answers")


def wait_withdrawn(lab: Lab, daemon: Daemon, vip: str) -> None:
    """Wait until neither the interface nor `lbd status` has the address."""
    eventually(lambda: vip not in addresses(lab), 10.0, f"{vip} is off the interface")
    eventually(lambda: vip not in [one["address"] for one in peek(daemon)["vips"]], 5.0, f"{vip} is off the status")


def eventually_held(lab: Lab, vip: str, port: int = 80) -> Held:
    """Return a connection to an echo server that works, as soon as there can be one."""

    def connected() -> Held:
        try:
            held = Held(lab.client, vip, port)
        except OSError as error:
            raise AssertionError(repr(error)) from error
        assert held.works(), "connected, but silent"
        return held

    return eventually(connected, SERVED_WITHIN_S, f"{vip}:{port} echoes")


def endpoint(address: str, **conditions: bool) -> dict[str, Any]:
    """Return an endpoint with these conditions; others are absent."""
    return {"addresses": [address], "conditions": conditions}


def fetch_or(lab: Lab, vip: str) -> str:
    """Return who answers, or an empty text where nobody does."""
    try:
        return fetch(lab.client, vip)
    except (OSError, EOFError):
        return ""
