"""Routes to Pods: a Service's Pods live behind Nodes that a real API server knows, and are reached through them.

The lab's Pods are the Nodes here; what lives behind one is a server on an address out of its podCIDR.
"""

from __future__ import annotations

import contextlib
import copy
import json
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
import yaml

from kit_cluster import Cluster
from kit_daemon import FIRST, QUICK_TCP, KubernetesDaemonFactory
from kit_lifecycle import is_refused, peek
from kit_publish import SERVED_WITHIN_S, answers, fetch_or, kubernetes, published, wait_served
from kit_said import RULE_ANNOTATION, backend, reloaded, rule_manifest
from lab_daemon import Daemon
from lab_servers import PodServer, http
from lab_wait import eventually
from lbd.cli.demo.lab import Lab, Pod

POD_CIDRS = {4: ["10.244.1.0/24", "10.244.2.0/24", "10.244.3.0/24"], 6: ["fd00:244:1::/64", "fd00:244:2::/64"]}
OUR_PROTOCOL = "109"
QUICK = {RULE_ANNOTATION: "quick"}
FOLLOWED_WITHIN_S = 5.0


class Nodes:
    """The Nodes of a test; they belong to no namespace, so each is deleted at the end."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self.made: list[dict[str, Any]] = []

    def add(self, pod_cidrs: Sequence[str], addresses: Sequence[str], name: str = "") -> dict[str, Any]:
        """Make a Node with these podCIDRs and InternalIPs; return it."""
        metadata = {"name": name or f"{self._cluster.namespace}-node-{len(self.made)}"}
        spec = {"podCIDR": pod_cidrs[0], "podCIDRs": list(pod_cidrs)} if pod_cidrs else {}
        node = {"apiVersion": "v1", "kind": "Node", "metadata": metadata, "spec": spec}
        self._cluster.admin.create(node)
        self.made.append(node)
        self.move(node, addresses)
        return node

    def move(self, node: dict[str, Any], addresses: Sequence[str]) -> None:
        """Give a Node other InternalIPs, as its kubelet does."""
        status = {"addresses": [{"type": "InternalIP", "address": address} for address in addresses]}
        self._cluster.admin.patch(node, {"status": status}, "status")

    def remove(self, node: dict[str, Any]) -> None:
        """Delete a Node."""
        self._cluster.admin.delete(node)


@pytest.fixture
def nodes(cluster: Cluster) -> Iterator[Nodes]:
    """Nodes that this test makes."""
    made = Nodes(cluster)
    yield made
    for node in made.made:
        made.remove(node)


@contextlib.contextmanager
def behind(node: Pod, *networks: str) -> Iterator[dict[int, str]]:
    """Let a server live behind a Node, on the fifth address of each of its networks: its address of each family.

    The Node takes every address of the network for its own (AnyIP), as if it handed packets on to Pods; of IPv6 just
    this one, because nobody may listen on others.
    """
    by_family = {6 if ":" in one else 4: one.partition("/")[0].removesuffix("0") + "5" for one in networks}
    node.ip(*(f"route add local {one} dev lo" for one in networks if "." in one))
    if 6 in by_family:
        node.ip(f"address add {by_family[6]}/128 dev lo nodad")
    pod = copy.copy(node)
    pod.address = {4: "127.0.0.5", 6: "::1", **by_family}
    with PodServer(pod, http):
        yield by_family


def routes(lab: Lab, family: int = 4, protocol: str = OUR_PROTOCOL) -> dict[str, str]:
    """Return the service engine's routes of a protocol: network → next hop."""
    shown = lab.se.run(["ip", "-N", "-json", f"-{family}", "route", "show", "proto", protocol]).stdout
    return {one["dst"]: one.get("gateway", one["dev"]) for one in json.loads(shown or "[]")}


def wait_routes(lab: Lab, expected: dict[str, str], family: int = 4) -> None:
    """Wait until the routes of lbd are exactly these."""

    def are_there() -> bool:
        now = routes(lab, family)
        assert now == expected, now
        return True

    eventually(are_there, FOLLOWED_WITHIN_S, f"routes {expected}")


def routed(cluster: Cluster, make: KubernetesDaemonFactory, **kubernetes_keys: Any) -> Daemon:
    """Return a daemon that leads to Pods, and a rule `quick` to have them checked often."""
    cluster.apply(rule_manifest("quick", backend(healthMonitorRefs=["quick"])))
    keys = {"pod_routes": True, **kubernetes_keys}
    return make(cluster, kubernetes=keys, config={"health_monitors": {"quick": QUICK_TCP}})


def problems(daemon: Daemon, *words: str) -> list[str]:
    """Return the problems in `lbd status --json` that have all the words."""
    return [one for one in peek(daemon)["problems"] if all(word in one for word in words)]


@pytest.mark.parametrize("family", [4, 6])
def test_a_pod_behind_a_node_is_reached_through_it_and_no_more_when_the_node_is_gone(
    cluster: Cluster, lab: Lab, lbd_kubernetes: KubernetesDaemonFactory, nodes: Nodes, family: int
) -> None:
    first, second = lab.pods[:2]
    networks = POD_CIDRS[family]
    daemon = routed(cluster, lbd_kubernetes)
    with behind(first, networks[0]) as here, behind(second, networks[1]) as there:
        _, vip = published(cluster, [here[family], there[family]], annotations=QUICK, ipFamilies=[f"IPv{family}"])
        assert vip == FIRST[family]
        eventually(lambda: is_refused(lab.client, vip), SERVED_WITHIN_S, "nobody is reached")
        one = nodes.add([networks[0]], [first.address[family]])
        nodes.add([networks[1]], [second.address[family]])
        wait_routes(lab, {networks[0]: first.address[family], networks[1]: second.address[family]}, family)
        wait_served(lab, vip)
        eventually(lambda: answers(lab, vip) == {first.name, second.name}, SERVED_WITHIN_S, "both answer")
        assert kubernetes(daemon)["pod_routes"] == {"wanted": 2, "problem": ""}
        nodes.remove(one)
        wait_routes(lab, {networks[1]: second.address[family]}, family)
        eventually(lambda: {fetch_or(lab, vip) for _ in range(4)} == {second.name}, SERVED_WITHIN_S, "one is left")
        daemon.terminate()
        daemon.wait()
        assert routes(lab, family) == {}, "none is left behind"


def test_a_node_that_gets_another_address_takes_its_route_along_and_both_families_have_one(
    cluster: Cluster, lab: Lab, lbd_kubernetes: KubernetesDaemonFactory, nodes: Nodes
) -> None:
    first, second = lab.pods[:2]
    both = [POD_CIDRS[4][0], POD_CIDRS[6][0]]
    routed(cluster, lbd_kubernetes)
    node = nodes.add(both, list(first.address.values()))
    for family, network in zip((4, 6), both, strict=True):
        wait_routes(lab, {network: first.address[family]}, family)
    with behind(second, *both) as addresses:
        _, vip = published(cluster, [addresses[4]], annotations=QUICK)
        nodes.move(node, list(second.address.values()))
        for family, network in zip((4, 6), both, strict=True):
            wait_routes(lab, {network: second.address[family]}, family)
        assert wait_served(lab, vip) == second.name
    nodes.move(node, [])
    for family in (4, 6):
        wait_routes(lab, {}, family)


def test_a_hostile_pod_cidr_gets_no_route_and_the_status_names_it(
    cluster: Cluster, lab: Lab, lbd_kubernetes: KubernetesDaemonFactory, nodes: Nodes, pods: list[str]
) -> None:
    daemon = routed(cluster, lbd_kubernetes)
    _, vip = published(cluster, pods)
    wait_served(lab, vip)
    before = routes(lab, protocol="kernel")
    evil = lab.pods[2].address[4]
    nodes.add([POD_CIDRS[4][0]], [lab.pods[0].address[4]], f"{cluster.namespace}-good")
    wait_routes(lab, {POD_CIDRS[4][0]: lab.pods[0].address[4]})
    hostile = {
        "0.0.0.0/0": "wider",
        "172.16.101.64/26": "overlaps 172.16.101.0/24 (the frontend network)",
        "172.16.101.192/28": 'overlaps the address pool "lab"',
        "10.10.52.0/25": f"has {lab.se_back_address[4]}, which is a VIP or this service engine's own",
        "10.244.1.128/25": f"overlaps that of Node {cluster.namespace}-good",
    }
    for network in hostile:
        nodes.add([network], [evil])
    for network, why in hostile.items():
        eventually(
            lambda asked=(network, why): problems(daemon, "no route to the Pods of Node", *asked),
            5.0,
            f"{network} {why}",
        )
    assert routes(lab) == {POD_CIDRS[4][0]: lab.pods[0].address[4]}
    assert routes(lab, protocol="kernel") == before
    assert len(answers(lab, vip)) == 3
    shown = daemon.cli("status", "--socket", str(daemon.directory / "admin.sock")).stdout
    assert all(network in shown for network in hostile)
    nodes.add(["192.0.0.0/8"], [evil])
    eventually(lambda: problems(daemon, "1 more podCIDRs have no route: the log names them"), 5.0, "counted")
    daemon.log.wait_for("pod_route_left_out", pod_cidr="192.0.0.0/8")
    for node in nodes.made[1:]:
        nodes.remove(node)
    eventually(lambda: not problems(daemon, "no route"), 5.0, "nothing to say any more")


def test_only_what_lies_in_the_pod_network_that_is_configured_gets_a_route(
    cluster: Cluster, lab: Lab, lbd_kubernetes: KubernetesDaemonFactory, nodes: Nodes
) -> None:
    daemon = routed(cluster, lbd_kubernetes, pod_cidrs=["10.244.0.0/23"])
    first, second = lab.pods[:2]
    nodes.add([POD_CIDRS[4][0]], [first.address[4]])
    nodes.add([POD_CIDRS[4][1]], [second.address[4]])
    wait_routes(lab, {POD_CIDRS[4][0]: first.address[4]})
    assert problems(daemon, "no route", POD_CIDRS[4][1], "pod_cidrs")
    section = yaml.safe_load(daemon.config_path.read_text())["kubernetes"]
    reloaded(daemon, kubernetes={**section, "pod_cidrs": ["10.244.0.0/16"]})
    wait_routes(lab, {POD_CIDRS[4][0]: first.address[4], POD_CIDRS[4][1]: second.address[4]})
    assert not problems(daemon, "no route")


def test_a_route_of_somebody_else_is_left_alone_and_said_and_so_is_a_node_that_is_not_near(
    cluster: Cluster, lab: Lab, lbd_kubernetes: KubernetesDaemonFactory, nodes: Nodes
) -> None:
    theirs = lab.pods[2].address[4]
    lab.se.ip(f"route add {POD_CIDRS[4][0]} via {theirs} proto static")
    daemon = routed(cluster, lbd_kubernetes)
    nodes.add([POD_CIDRS[4][0]], [lab.pods[0].address[4]])
    nodes.add([POD_CIDRS[4][1]], ["198.51.100.7"])
    nodes.add([POD_CIDRS[4][2]], [lab.pods[1].address[4]])
    wait_routes(lab, {POD_CIDRS[4][2]: lab.pods[1].address[4]})
    eventually(lambda: problems(daemon, POD_CIDRS[4][0], f"somebody else's route (via {theirs}"), 5.0)
    assert problems(daemon, POD_CIDRS[4][1], "198.51.100.7 is in no network of this machine")
    assert kubernetes(daemon)["pod_routes"]["wanted"] == 3
    daemon.terminate()
    daemon.wait()
    assert (routes(lab), routes(lab, protocol="static")) == ({}, {POD_CIDRS[4][0]: theirs})


def test_routes_outlive_an_lbd_that_is_killed_and_follow_the_nodes_when_it_is_back(
    cluster: Cluster, lab: Lab, lbd_kubernetes: KubernetesDaemonFactory, nodes: Nodes
) -> None:
    first, second = lab.pods[:2]
    daemon = routed(cluster, lbd_kubernetes)
    gone = nodes.add([POD_CIDRS[4][0]], [first.address[4]])
    nodes.add([POD_CIDRS[4][1]], [second.address[4]])
    both = {POD_CIDRS[4][0]: first.address[4], POD_CIDRS[4][1]: second.address[4]}
    wait_routes(lab, both)
    daemon.kill()
    assert routes(lab) == both
    nodes.remove(gone)
    nodes.add([POD_CIDRS[4][2]], [first.address[4]])
    cluster.forget_lease()
    daemon.start()
    wait_routes(lab, {POD_CIDRS[4][1]: second.address[4], POD_CIDRS[4][2]: first.address[4]})


def test_without_pod_routes_nodes_are_none_of_lbds_business(
    cluster: Cluster, lab: Lab, lbd_kubernetes: KubernetesDaemonFactory, nodes: Nodes
) -> None:
    nodes.add([POD_CIDRS[4][0]], [lab.pods[0].address[4]])
    daemon = lbd_kubernetes(cluster)
    cluster.wait_ingress(cluster.service("web"))
    assert routes(lab) == {}
    assert kubernetes(daemon)["pod_routes"] is None
    assert cluster.asked(resource="nodes") == []
