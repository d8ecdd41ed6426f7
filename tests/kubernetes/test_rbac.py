"""config/kubernetes/rbac.yaml: what the ServiceAccount may do, as a real API server judges it."""

from __future__ import annotations

import pytest

from kit_cluster import LBD_NAMESPACE, LBD_USER, Cluster
from lbd.cli.demo.api_client import ApiClient, ApiError

EVERYWHERE = [
    ("get", "", "services"),
    ("list", "", "services"),
    ("watch", "", "services"),
    ("patch", "", "services"),
    ("patch", "", "services/status"),
    ("get", "discovery.k8s.io", "endpointslices"),
    ("list", "discovery.k8s.io", "endpointslices"),
    ("watch", "discovery.k8s.io", "endpointslices"),
    ("get", "ako.vmware.com", "l4rules"),
    ("list", "ako.vmware.com", "l4rules"),
    ("watch", "ako.vmware.com", "l4rules"),
    ("patch", "ako.vmware.com", "l4rules/status"),
    ("create", "", "events"),
    ("get", "", "events"),
    ("patch", "", "events"),
    ("get", "", "nodes"),
    ("list", "", "nodes"),
    ("watch", "", "nodes"),
]
VERBS = ("get", "list", "watch", "create", "update", "patch", "delete", "deletecollection")
RESOURCES = [
    *(("", name) for name in ("services", "services/status", "services/finalizers", "events", "nodes", "nodes/status")),
    *(
        ("", name)
        for name in ("secrets", "configmaps", "pods", "pods/exec", "serviceaccounts", "serviceaccounts/token")
    ),
    *(("", name) for name in ("namespaces", "endpoints", "nodes/proxy", "services/proxy", "persistentvolumes")),
    ("discovery.k8s.io", "endpointslices"),
    ("ako.vmware.com", "l4rules"),
    ("ako.vmware.com", "l4rules/status"),
    ("coordination.k8s.io", "leases"),
    ("events.k8s.io", "events"),
    ("rbac.authorization.k8s.io", "clusterroles"),
    ("rbac.authorization.k8s.io", "clusterrolebindings"),
    ("apiextensions.k8s.io", "customresourcedefinitions"),
    ("*", "*"),
]


def may(cluster: Cluster, verb: str, group: str, resource: str, namespace: str = "", name: str = "") -> bool:
    """Ask the API server whether lbd's ServiceAccount may do this; without a namespace in all of them."""
    plural, _, subresource = resource.partition("/")
    what = {"verb": verb, "group": group, "resource": plural, "subresource": subresource}
    answer = cluster.admin.request(
        "POST",
        "/apis/authorization.k8s.io/v1/subjectaccessreviews",
        {
            "apiVersion": "authorization.k8s.io/v1",
            "kind": "SubjectAccessReview",
            "spec": {
                "user": LBD_USER,
                "groups": ["system:serviceaccounts", f"system:serviceaccounts:{LBD_NAMESPACE}", "system:authenticated"],
                "resourceAttributes": {**what, "namespace": namespace, "name": name},
            },
        },
    )
    return bool(answer["status"]["allowed"])


def test_everywhere_lbd_may_do_this_and_nothing_else(cluster: Cluster) -> None:
    asked = [(verb, group, resource) for group, resource in RESOURCES for verb in VERBS]
    allowed = [one for one in asked if may(cluster, *one)]
    assert sorted(allowed) == sorted(EVERYWHERE)


def test_of_leases_lbd_may_have_its_own_in_its_own_namespace(cluster: Cluster) -> None:
    def leases(namespace: str, name: str) -> set[str]:
        return {verb for verb in VERBS if may(cluster, verb, "coordination.k8s.io", "leases", namespace, name)}

    assert leases(LBD_NAMESPACE, "lbd") == {"get", "patch", "create"}
    assert leases(LBD_NAMESPACE, "other") == {"create"}  # RBAC can't bind a create to a name
    assert leases("kube-system", "lbd") == set()
    assert leases(cluster.namespace, "lbd") == set()


def test_with_its_token_lbd_writes_what_it_must(cluster: Cluster) -> None:
    """The real requests, for a rule may be right and about the wrong resource."""
    service = cluster.service("web")
    account = ApiClient(cluster.server.url, cluster.server.ca_path, cluster.token())
    finalizers = {"metadata": {"finalizers": ["service.kubernetes.io/load-balancer-cleanup"]}}
    assert account.patch(service, finalizers)["metadata"]["finalizers"] == finalizers["metadata"]["finalizers"]
    ingress = {"loadBalancer": {"ingress": [{"ip": "172.16.101.150", "ipMode": "Proxy"}]}}
    assert account.patch(service, {"status": ingress}, "status")["status"]["loadBalancer"] == ingress["loadBalancer"]
    lease = {
        "apiVersion": "coordination.k8s.io/v1",
        "kind": "Lease",
        "metadata": {"name": "lbd", "namespace": LBD_NAMESPACE},
        "spec": {"holderIdentity": "a", "leaseDurationSeconds": 15},
    }
    made = account.create(lease)
    renewed = {"metadata": {"resourceVersion": made["metadata"]["resourceVersion"]}, "spec": {"holderIdentity": "b"}}
    assert account.patch(lease, renewed)["spec"]["holderIdentity"] == "b"
    event = {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {"name": "web.1", "namespace": cluster.namespace},
        "involvedObject": {"kind": "Service", "name": "web", "namespace": cluster.namespace},
    }
    assert account.patch(account.create(event), {"count": 2})["count"] == 2
    with pytest.raises(ApiError, match="cannot delete resource"):
        account.delete(service)
    cluster.forgive()
    cluster.forget_lease()


def test_the_token_secret_is_of_the_account(cluster: Cluster) -> None:
    """The API server of the tests has no controller that fills it; that it takes it is what can be seen."""
    meta = {"name": "lbd-token", "namespace": LBD_NAMESPACE}
    found = cluster.get({"apiVersion": "v1", "kind": "Secret", "metadata": meta})
    assert found is not None
    assert found["type"] == "kubernetes.io/service-account-token"
    assert found["metadata"]["annotations"]["kubernetes.io/service-account.name"] == "lbd"
