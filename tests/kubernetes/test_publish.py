"""Services of type LoadBalancer, published by `lbd run` straight to Pods: from `kubectl apply` to a client's answer."""

from __future__ import annotations

import contextlib
import socket
import time

import pytest

from kit_cluster import ASSIGNED_WITHIN_S, Cluster, elapsed_s, ingress, service_manifest
from kit_daemon import FIRST, KubernetesDaemonFactory
from kit_lifecycle import addresses, is_refused, peek
from kit_publish import (
    FINALIZER,
    SERVED_WITHIN_S,
    answers,
    endpoint,
    eventually_held,
    fetch_or,
    published,
    serving,
    wait_served,
    wait_withdrawn,
    wait_writing,
)
from kit_udp import UdpServer
from lab_servers import PodServer, echo, http
from lab_wait import eventually
from lbd.cli.demo.api_client import ApiError
from lbd.cli.demo.lab import Lab

# -- from apply to answer ----------------------------------------------------------------------------------------------


def test_a_service_gets_an_address_within_2_s_and_curl_of_it_reaches_the_pods(
    cluster: Cluster, lab: Lab, lbd_kubernetes: KubernetesDaemonFactory, pods: list[str]
) -> None:
    wait_writing(lbd_kubernetes(cluster))
    cluster.slice("web", pods)
    applied_s = time.monotonic()
    made = cluster.service("web", selector={"app": "web"})
    assert cluster.wait_ingress(made) == [FIRST[4]]
    assert elapsed_s(applied_s) < ASSIGNED_WITHIN_S
    wait_served(lab, FIRST[4])
    seen = {lab.client.run(["curl", "-sS", "--max-time", "2", f"http://{FIRST[4]}/"]).stdout for _ in range(9)}
    assert seen == {pod.name for pod in lab.pods}


def test_the_status_says_that_lbd_is_a_proxy_and_the_finalizer_is_there_before_it(
    cluster: Cluster, lbd_kubernetes: KubernetesDaemonFactory
) -> None:
    lbd_kubernetes(cluster)
    made = cluster.service("web")
    path = f"/api/v1/namespaces/{cluster.namespace}/services"
    with cluster.watch(path, since=made) as changes:
        for change in changes:
            now = change["object"]
            assert not ingress(now) or FINALIZER in now["metadata"]["finalizers"]
            if ingress(now):
                break
    assert now["status"]["loadBalancer"]["ingress"] == [{"ip": FIRST[4], "ipMode": "Proxy"}]


def test_services_that_were_there_before_lbd_are_published_with_an_address_each(
    cluster: Cluster, lab: Lab, lbd_kubernetes: KubernetesDaemonFactory, pods: list[str]
) -> None:
    made = []
    for name in ("one", "two", "three"):
        cluster.slice(name, pods)
        made.append(cluster.service(name))
    lbd_kubernetes(cluster)
    vips = [cluster.wait_ingress(service)[0] for service in made]
    assert len(set(vips)) == 3
    for vip in vips:
        wait_served(lab, vip)


def test_a_service_whose_slices_come_later_is_served_then(
    cluster: Cluster, lab: Lab, lbd_kubernetes: KubernetesDaemonFactory, pods: list[str]
) -> None:
    lbd_kubernetes(cluster)
    [vip] = cluster.wait_ingress(cluster.service("web"))
    cluster.slice("web", pods[:1])
    assert wait_served(lab, vip) == lab.pods[0].name


def test_ready_within_the_time_of_a_start_when_the_cluster_is_empty(
    cluster: Cluster, lbd_kubernetes: KubernetesDaemonFactory
) -> None:
    daemon = lbd_kubernetes(cluster)
    assert peek(daemon)["vips"] == []


# -- which Services ----------------------------------------------------------------------------------------------------


def test_services_of_another_class_and_of_none_are_not_touched(
    cluster: Cluster, lbd_kubernetes: KubernetesDaemonFactory
) -> None:
    lbd_kubernetes(cluster)
    others = [
        cluster.service("other", loadBalancerClass="example.com/other"),
        cluster.service("none", loadBalancerClass=None),
        cluster.service("inside", type="ClusterIP", loadBalancerClass=None, allocateLoadBalancerNodePorts=None),
    ]
    cluster.wait_ingress(cluster.service("ours"))
    assert [cluster.get(service) for service in others] == others


def test_with_default_class_services_without_a_class_are_ours_and_those_of_another_are_not(
    cluster: Cluster, lbd_kubernetes: KubernetesDaemonFactory
) -> None:
    lbd_kubernetes(cluster, kubernetes={"default_class": True})
    other = cluster.service("other", loadBalancerClass="example.com/other")
    cluster.wait_ingress(cluster.service("none", loadBalancerClass=None))
    assert cluster.get(other) == other


def test_services_of_a_namespace_that_is_not_watched_are_not_touched(
    cluster: Cluster, lbd_kubernetes: KubernetesDaemonFactory
) -> None:
    elsewhere = {**service_manifest("elsewhere"), "metadata": {"name": "elsewhere", "namespace": "default"}}
    made = cluster.apply(elsewhere)
    try:
        lbd_kubernetes(cluster)
        cluster.wait_ingress(cluster.service("ours"))
        assert cluster.get(made) == made
    finally:
        cluster.delete(made)


# -- changes -----------------------------------------------------------------------------------------------------------


def test_a_change_of_ports_keeps_the_address(
    cluster: Cluster, lab: Lab, lbd_kubernetes: KubernetesDaemonFactory
) -> None:
    lbd_kubernetes(cluster)
    addresses_of_pods = [pod.address[4] for pod in lab.pods]
    with serving(lab, http, 80, 81):
        cluster.slice("web", addresses_of_pods, [80, 81])
        made = cluster.service("web", [80])
        [vip] = cluster.wait_ingress(made)
        wait_served(lab, vip, 80)
        assert is_refused(lab.client, vip, 81)
        cluster.service("web", [80, 81])
        wait_served(lab, vip, 81)
        cluster.service("web", [81])
        eventually(lambda: is_refused(lab.client, vip, 80), SERVED_WITHIN_S, "port 80 is closed")
        assert len(answers(lab, vip, 81)) == 3
        assert ingress(cluster.get(made) or {}) == [vip]


def test_a_change_of_ports_leaves_the_connections_of_another_port_alone(
    cluster: Cluster, lab: Lab, lbd_kubernetes: KubernetesDaemonFactory
) -> None:
    lbd_kubernetes(cluster)
    with serving(lab, echo, 80, 81):
        cluster.slice("web", [pod.address[4] for pod in lab.pods], [80, 81])
        [vip] = cluster.wait_ingress(cluster.service("web", [80]))
        held = eventually_held(lab, vip)
        cluster.service("web", [80, 81])
        eventually_held(lab, vip, 81).close()
        assert held.works()
        held.close()


def test_scaled_to_0_refuses_and_scaled_up_serves_again(
    cluster: Cluster, lab: Lab, lbd_kubernetes: KubernetesDaemonFactory, pods: list[str]
) -> None:
    lbd_kubernetes(cluster)
    made, vip = published(cluster, pods)
    wait_served(lab, vip)
    cluster.slice("web", [])
    eventually(lambda: is_refused(lab.client, vip), SERVED_WITHIN_S, "refused")
    assert vip in addresses(lab)
    assert ingress(cluster.get(made) or {}) == [vip]
    cluster.slice("web", pods[1:2])
    assert wait_served(lab, vip) == lab.pods[1].name


def test_endpoints_that_are_null_are_none(
    cluster: Cluster, lab: Lab, lbd_kubernetes: KubernetesDaemonFactory, pods: list[str]
) -> None:
    lbd_kubernetes(cluster)
    _, vip = published(cluster, pods)
    wait_served(lab, vip)
    slice_ = cluster.slice("web", pods)
    cluster.patch({**slice_, "kind": "EndpointSlice", "apiVersion": "discovery.k8s.io/v1"}, {"endpoints": None})
    eventually(lambda: is_refused(lab.client, vip), SERVED_WITHIN_S, "refused")


def test_a_deleted_service_is_let_go_and_its_address_is_withdrawn(
    cluster: Cluster, lab: Lab, lbd_kubernetes: KubernetesDaemonFactory, pods: list[str]
) -> None:
    daemon = lbd_kubernetes(cluster)
    made, vip = published(cluster, pods)
    wait_served(lab, vip)
    assert vip in addresses(lab)
    cluster.delete(made)
    cluster.wait_gone(made, 10.0)
    assert vip not in addresses(lab), "the finalizer is taken off after the address is"
    wait_withdrawn(lab, daemon, vip)


def test_a_service_deleted_while_lbd_was_away_is_let_go_when_it_is_back(
    cluster: Cluster, lab: Lab, lbd_kubernetes: KubernetesDaemonFactory, pods: list[str]
) -> None:
    daemon = lbd_kubernetes(cluster)
    made, vip = published(cluster, pods)
    wait_served(lab, vip)
    daemon.terminate()
    daemon.wait()
    cluster.delete(made)
    assert cluster.get(made) is not None, "the finalizer keeps it"
    daemon.start()
    cluster.wait_gone(made, 10.0)
    wait_withdrawn(lab, daemon, vip)


def test_a_service_that_becomes_a_cluster_ip_loses_address_finalizer_and_status(
    cluster: Cluster, lab: Lab, lbd_kubernetes: KubernetesDaemonFactory, pods: list[str]
) -> None:
    daemon = lbd_kubernetes(cluster)
    made, vip = published(cluster, pods)
    wait_served(lab, vip)
    change = {"type": "ClusterIP", "loadBalancerClass": None, "allocateLoadBalancerNodePorts": None}
    cluster.patch(made, {"spec": change})
    cluster.wait_for(made, lambda now: FINALIZER not in now["metadata"].get("finalizers", []), 10.0, "let go")
    assert ingress(cluster.get(made) or {}) == []
    wait_withdrawn(lab, daemon, vip)
    cluster.patch(made, {"spec": {"type": "LoadBalancer", "loadBalancerClass": "lbd.io/service-engine"}})
    wait_served(lab, cluster.wait_ingress(made)[0])


def test_a_restart_of_lbd_keeps_every_address(
    cluster: Cluster, lab: Lab, lbd_kubernetes: KubernetesDaemonFactory, pods: list[str]
) -> None:
    daemon = lbd_kubernetes(cluster)
    made = [published(cluster, pods, name) for name in ("one", "two", "three")]
    cluster.delete(made[0][0])
    cluster.wait_gone(made[0][0], 10.0)
    daemon.terminate()
    daemon.wait()
    early = cluster.service("a-new-one")
    daemon.start()
    for service, vip in made[1:]:
        wait_served(lab, vip)
        assert ingress(cluster.get(service) or {}) == [vip]
    assert cluster.wait_ingress(early)[0] not in [vip for _, vip in made[1:]]


# -- what a Service can say --------------------------------------------------------------------------------------------


def test_udp_and_tcp_share_an_address_and_a_port(
    cluster: Cluster, lab: Lab, lbd_kubernetes: KubernetesDaemonFactory
) -> None:
    lbd_kubernetes(cluster)
    ports = [{"name": "dns", "port": 53, "protocol": "UDP"}, {"name": "dns-tcp", "port": 53, "protocol": "TCP"}]
    with serving(lab, http, 53), contextlib.ExitStack() as stack:
        for pod in lab.pods:
            stack.enter_context(UdpServer(pod))
        cluster.slice("dns", [pod.address[4] for pod in lab.pods], ports)
        vips = cluster.wait_ingress(cluster.service("dns", ports))
        assert vips == [FIRST[4]]
        wait_served(lab, vips[0], 53)

        def asked() -> bytes:
            with lab.client.socket(kind=socket.SOCK_DGRAM) as client:
                client.settimeout(0.5)
                client.connect((vips[0], 53))
                try:
                    client.send(b"who?")
                    return client.recv(100)
                except OSError as error:
                    raise AssertionError(repr(error)) from error

        name, _, question = eventually(asked, SERVED_WITHIN_S, "an answer over UDP").partition(b" ")
        assert name.decode() in [pod.name for pod in lab.pods]
        assert question == b"who?"


def test_dual_stack_gives_an_address_of_each_family_in_the_order_of_the_spec(
    cluster: Cluster, lab: Lab, lbd_kubernetes: KubernetesDaemonFactory, pods: list[str]
) -> None:
    lbd_kubernetes(cluster)
    cluster.slice("web", pods)
    cluster.slice("web", [pod.address[6] for pod in lab.pods])
    made = cluster.service("web", ipFamilyPolicy="RequireDualStack", ipFamilies=["IPv6", "IPv4"])
    vips = cluster.wait_ingress(made, 2)
    assert vips == [FIRST[6], FIRST[4]]
    for vip in vips:
        wait_served(lab, vip)
        assert len(answers(lab, vip)) == 3


def test_a_service_without_selector_is_served_by_slices_that_somebody_wrote(
    cluster: Cluster, lab: Lab, lbd_kubernetes: KubernetesDaemonFactory, pods: list[str]
) -> None:
    lbd_kubernetes(cluster)
    made, vip = published(cluster, pods)
    assert "selector" not in made["spec"]
    wait_served(lab, vip)


def test_a_headless_service_of_type_load_balancer_is_refused_by_kubernetes_itself(cluster: Cluster) -> None:
    with pytest.raises(ApiError, match="clusterIP"):
        cluster.service("web", clusterIP="None")


def test_slices_are_merged_each_with_its_own_number_for_a_named_port(
    cluster: Cluster, lab: Lab, lbd_kubernetes: KubernetesDaemonFactory
) -> None:
    lbd_kubernetes(cluster)
    first, second, third = lab.pods
    with PodServer(first, http, 80), PodServer(second, http, 8080), PodServer(third, http, 8080):
        cluster.slice("web", [first.address[4]], [{"name": "http", "port": 80}], name="web-old")
        cluster.slice("web", [second.address[4]], [{"name": "http", "port": 8080}], name="web-new")
        twice = [second.address[4], third.address[4]]
        cluster.slice("web", twice, [{"name": "http", "port": 8080}], name="web-newer")
        ports = [{"name": "http", "port": 80, "targetPort": "web"}]
        [vip] = cluster.wait_ingress(cluster.service("web", ports))
        eventually(lambda: answers(lab, vip) == {pod.name for pod in lab.pods}, SERVED_WITHIN_S, "all three answer")


def test_each_port_of_a_service_goes_to_the_pods_port_of_its_name(
    cluster: Cluster, lab: Lab, lbd_kubernetes: KubernetesDaemonFactory
) -> None:
    lbd_kubernetes(cluster)
    pod = lab.pods[0]
    with PodServer(pod, http, 8001), PodServer(pod, echo, 8002):
        targets = [{"name": "b", "port": 8002}, {"name": "a", "port": 8001}]
        cluster.slice("web", [pod.address[4]], targets)
        ports = [{"name": "a", "port": 80, "targetPort": 8001}, {"name": "b", "port": 81, "targetPort": 8002}]
        [vip] = cluster.wait_ingress(cluster.service("web", ports))
        wait_served(lab, vip, 80)
        assert answers(lab, vip, 80) == {pod.name}
        for _ in range(6):
            eventually_held(lab, vip, 81).close()


# -- ready, serving, terminating ---------------------------------------------------------------------------------------


def test_an_endpoint_that_is_not_ready_gets_nothing_and_one_that_says_nothing_is_ready(
    cluster: Cluster, lab: Lab, lbd_kubernetes: KubernetesDaemonFactory, pods: list[str]
) -> None:
    lbd_kubernetes(cluster)
    cluster.slice("web", [endpoint(pods[0], ready=False, serving=False), {"addresses": [pods[1]]}, endpoint(pods[2])])
    [vip] = cluster.wait_ingress(cluster.service("web"))
    ready = {pod.name for pod in lab.pods[1:]}
    wait_served(lab, vip)
    eventually(lambda: answers(lab, vip) == ready, SERVED_WITHIN_S, "both ready ones answer")


def test_a_terminating_pod_gets_no_new_connection_and_keeps_those_it_has(
    cluster: Cluster, lab: Lab, lbd_kubernetes: KubernetesDaemonFactory
) -> None:
    lbd_kubernetes(cluster, config={"service_engine": {"drain_timeout": "30s"}})
    with serving(lab, echo) as servers:
        pods = [pod.address[4] for pod in lab.pods]
        _, vip = published(cluster, pods[:1])
        held = eventually_held(lab, vip)
        leaving = endpoint(pods[0], ready=False, serving=True, terminating=True)
        cluster.slice("web", [leaving, endpoint(pods[1], ready=True)])

        def only_the_other() -> bool:
            before = servers[0].received_bytes
            for _ in range(4):
                eventually_held(lab, vip).close()
            return servers[0].received_bytes == before

        eventually(only_the_other, SERVED_WITHIN_S, "the terminating Pod gets nothing new")
        assert held.works()
        held.close()


def test_where_all_are_terminating_those_that_still_serve_are_used(
    cluster: Cluster, lab: Lab, lbd_kubernetes: KubernetesDaemonFactory, pods: list[str]
) -> None:
    lbd_kubernetes(cluster)
    _, vip = published(cluster, pods[:1])
    wait_served(lab, vip)
    cluster.slice(
        "web",
        [
            endpoint(pods[0], ready=False, serving=False, terminating=True),
            endpoint(pods[1], ready=False, serving=True, terminating=True),
        ],
    )
    eventually(lambda: fetch_or(lab, vip) == lab.pods[1].name, SERVED_WITHIN_S, "the one that serves answers")
    assert answers(lab, vip) == {lab.pods[1].name}
