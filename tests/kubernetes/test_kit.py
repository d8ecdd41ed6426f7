"""The kit: a real API server that the lab's service engine reaches, and that can be broken and repaired."""

from __future__ import annotations

import http.client
import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from kit_cluster import Cluster, service_manifest
from kit_proxy import ApiProxy, Mood
from lab_wait import eventually
from lbd.cli.demo.api_client import ApiClient, ApiError
from lbd.cli.demo.apiserver import ApiServer
from lbd.cli.demo.lab import Lab
from lbd.cli.demo.management import ManagementNetwork


def test_the_api_server_is_the_version_that_go_mod_asks_for(cluster: Cluster) -> None:
    version = cluster.admin.request("GET", "/version")
    assert (int(version["major"]), int(version["minor"].rstrip("+"))) >= (1, 34)
    assert version["gitVersion"].startswith(f"v{version['major']}.{version['minor']}.")


def test_a_service_is_applied_changed_and_deleted(cluster: Cluster) -> None:
    made = cluster.service("web", [80], annotations={"lbd.io/address": "172.16.101.151"})
    assert made["metadata"]["annotations"] == {"lbd.io/address": "172.16.101.151"}
    assert made["spec"]["loadBalancerClass"] == "lbd.io/service-engine"
    changed = cluster.service("web", [80, {"name": "dns", "port": 53, "protocol": "UDP"}])
    assert [port["port"] for port in changed["spec"]["ports"]] == [80, 53]
    assert "annotations" not in changed["metadata"]
    assert changed["metadata"]["uid"] == made["metadata"]["uid"]
    assert cluster.delete(made)
    cluster.wait_gone(made)
    assert not cluster.delete(made)


def test_a_finalizer_keeps_a_deleted_service_and_the_end_of_a_test_removes_it(cluster: Cluster) -> None:
    made = cluster.service("web")
    cluster.patch(made, {"metadata": {"finalizers": ["service.kubernetes.io/load-balancer-cleanup"]}})
    cluster.delete(made)
    kept = cluster.get(made)
    assert kept is not None
    assert kept["metadata"]["deletionTimestamp"]
    cluster.slice("web", ["10.10.52.11"])
    cluster.clear()
    assert cluster.get(made) is None
    assert cluster.admin.objects("discovery.k8s.io/v1", "EndpointSlice", cluster.namespace) == []


def test_the_status_is_patched_and_waited_for_and_shown_as_kubectl_shows_it(cluster: Cluster) -> None:
    made = cluster.service("web")
    assert cluster.admin.table("v1", "Service", cluster.namespace)[1][0][3] == "<pending>"
    cluster.patch_status(made, {"loadBalancer": {"ingress": [{"ip": "172.16.101.150", "ipMode": "Proxy"}]}})
    assert cluster.wait_ingress(made) == ["172.16.101.150"]
    headings, rows = cluster.admin.table("v1", "Service", cluster.namespace, "web")
    assert headings == ["NAME", "TYPE", "CLUSTER-IP", "EXTERNAL-IP", "PORT(S)", "AGE"]
    assert rows[0][3] == "172.16.101.150"


def test_waiting_in_vain_shows_the_object(cluster: Cluster) -> None:
    made = cluster.service("web")
    with pytest.raises(AssertionError, match="loadBalancerClass"):
        cluster.wait_ingress(made, timeout_s=0.1)


def test_events_are_those_of_the_object(cluster: Cluster) -> None:
    made, other = cluster.service("web"), cluster.service("other")
    for number, about in enumerate([made, other]):
        cluster.create(
            {
                "apiVersion": "v1",
                "kind": "Event",
                "metadata": {"name": f"event-{number}"},
                "involvedObject": {
                    "kind": "Service",
                    "namespace": cluster.namespace,
                    "name": about["metadata"]["name"],
                    "uid": about["metadata"]["uid"],
                },
                "reason": "Allocated",
                "message": f"for {number}",
            }
        )
    assert [event["message"] for event in cluster.events_of(made)] == ["for 0"]
    assert cluster.events_of(made, "Exhausted") == []


_LIST = """
import json, ssl, sys, urllib.request
context = ssl.create_default_context(cafile=sys.argv[2])
asked = urllib.request.Request(sys.argv[1], headers={"Authorization": "Bearer " + sys.argv[3]})
print(len(json.load(urllib.request.urlopen(asked, context=context))["items"]))
"""


def test_the_service_engine_reaches_the_api_server_with_lbd_s_own_token(
    cluster: Cluster, lab: Lab, management: ManagementNetwork
) -> None:
    management.connect(lab.se)
    cluster.service("web")
    url = f"{cluster.server.url}/api/v1/namespaces/{cluster.namespace}/services"
    done = lab.se.run([sys.executable, "-c", _LIST, url, str(cluster.server.ca_path), cluster.token()])
    assert done.stdout == "1\n"
    eventually(lambda: cluster.asked(verb="list", resource="services"), 5.0, "the audit log")


def test_what_lbd_may_not_have_is_recorded(cluster: Cluster) -> None:
    lbd = ApiClient(cluster.server.url, cluster.server.ca_path, cluster.token())
    mark = cluster.audit_mark()
    with pytest.raises(ApiError, match="secrets is forbidden"):
        lbd.objects("v1", "Secret", cluster.namespace)
    [asked] = eventually(lambda: cluster.asked(since=mark, status=403))
    assert (asked.verb, asked.resource) == ("list", "secrets")
    cluster.forgive()


def test_a_killed_api_server_comes_back_with_its_data(own_cluster: Cluster) -> None:
    made = own_cluster.service("web")
    own_cluster.server.kill()
    assert not own_cluster.server.ready()
    own_cluster.server.start()
    again = own_cluster.get(made)
    assert again is not None
    assert again["metadata"]["uid"] == made["metadata"]["uid"]
    own_cluster.server.kill_etcd()
    own_cluster.server.start()
    assert own_cluster.get(made) == again


def test_a_paused_api_server_takes_connections_and_says_nothing(own_cluster: Cluster) -> None:
    own_cluster.server.pause()
    hasty = ApiClient(own_cluster.server.url, own_cluster.server.ca_path, own_cluster.admin.token, timeout_s=0.3)
    with pytest.raises(TimeoutError):
        hasty.request("GET", "/readyz")
    own_cluster.server.resume()
    assert own_cluster.server.ready()


def test_a_watch_from_before_a_compaction_gets_410(own_cluster: Cluster) -> None:
    before = own_cluster.service("web")["metadata"]["resourceVersion"]
    own_cluster.service("web", [81])
    own_cluster.forget_history()
    path = f"/api/v1/namespaces/{own_cluster.namespace}/services"
    answer = own_cluster.admin.request("GET", path, watch="true", resourceVersion=before, timeoutSeconds="1")
    assert (answer["type"], answer["object"]["code"]) == ("ERROR", 410)


def test_nothing_is_left_of_an_api_server_that_was_closed(own_server: ApiServer) -> None:
    pid = own_server.pid
    own_server.close()
    assert not Path(f"/proc/{pid}").exists()
    assert not own_server.ready()


# -- the proxy in front ------------------------------------------------------------------------------------------------


@pytest.fixture
def proxied(cluster: Cluster) -> Iterator[tuple[ApiProxy, ApiClient]]:
    """A proxy before the shared API server, and an administrator that asks through it."""
    with ApiProxy(cluster.server) as proxy:
        yield proxy, ApiClient(proxy.url, cluster.server.ca_path, cluster.admin.token, timeout_s=5.0)


def test_the_proxy_passes_requests_on_and_counts_them(cluster: Cluster, proxied: tuple[ApiProxy, ApiClient]) -> None:
    proxy, client = proxied
    made = client.apply(cluster.placed(service_manifest("web")))
    assert cluster.get(made) == made
    assert client.get(made) == made
    assert [(one.method, one.mood) for one in proxy.requests] == [("PATCH", Mood.PASS), ("GET", Mood.PASS)]
    assert len(proxy.seen(pattern=r"^GET .*/services/web$")) == 1
    assert proxy.seen(since_s=time.monotonic()) == []


def test_the_proxy_passes_a_watch_on_as_it_comes(cluster: Cluster, proxied: tuple[ApiProxy, ApiClient]) -> None:
    proxy, client = proxied
    path = f"/api/v1/namespaces/{cluster.namespace}/services"
    with client.stream(path, watch="true") as lines:
        cluster.service("web")
        assert json.loads(next(lines))["object"]["metadata"]["name"] == "web"
        cluster.delete(service_manifest("web"))
        assert json.loads(next(lines))["type"] == "DELETED"
        proxy.break_connections()
        with pytest.raises((StopIteration, OSError, http.client.HTTPException)):
            next(lines)
    assert proxy.requests[0].watches


def test_the_proxy_misbehaves_as_told(cluster: Cluster, proxied: tuple[ApiProxy, ApiClient]) -> None:
    proxy, client = proxied
    proxy.behave(Mood.BAD_GATEWAY)
    with pytest.raises(ApiError) as refused:
        client.objects("v1", "Service")
    assert refused.value.status == 502
    assert "<h1>502 Bad Gateway</h1>" in refused.value.message
    proxy.behave(Mood.EMPTY)
    assert client.request("GET", "/api/v1/services") == {}
    proxy.behave(Mood.SILENT)
    hasty = ApiClient(proxy.url, cluster.server.ca_path, cluster.admin.token, timeout_s=0.2)
    with pytest.raises(TimeoutError):
        hasty.request("GET", "/api/v1/services")
    proxy.behave(Mood.PASS)
    assert client.objects("v1", "Service")
