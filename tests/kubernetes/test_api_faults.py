"""What the cluster does to lbd: API servers that die, hang, lie and forget, tokens that change, and rivals.

In all of it clients are served as before: the last good state stays.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from kit_cluster import LBD_ACCOUNT, LBD_NAMESPACE, LEASE, Cluster, ingress
from kit_daemon import KubernetesDaemonFactory
from kit_lifecycle import addresses, is_refused
from kit_proxy import ApiProxy, Mood
from kit_publish import SERVED_WITHIN_S, answers, kubernetes, published, serving, wait_served
from lab_clients import Load
from lab_daemon import Daemon
from lab_wait import eventually
from lbd.cli.demo.api_client import ApiClient, ApiError
from lbd.cli.demo.lab import Lab

QUICK = {"request_timeout": "1s", "watch_timeout": "5s"}
QUICK_LEASE = {"lease": {"duration": "3s", "renew_deadline": "2s", "retry": "300ms"}}
COLLECTIONS = 3
"""Services, EndpointSlices and L4Rules of one namespace."""
BACK_WITHIN_S = 25.0
"""After the API is back: the pause between two attempts, which doubles up to 30 s, and what is to be done then."""
SILENCE_S = 30.0
"""How long a hung watch may go unnoticed with QUICK: the API server's own timeout, and what it may be late."""


@contextlib.contextmanager
def nobody_notices(lab: Lab, vip: str) -> Iterator[Load]:
    """Let clients come all the while, 50 a second; none of them may fail."""
    with Load(lab.client, vip, rate_per_s=50) as load:
        yield load
    assert load.result.failures == []
    assert len(load.result.outcomes) > 50


def wait_away(daemon: Daemon, why: str = "", timeout_s: float = 10.0) -> None:
    """Wait until the status says that the API is away, and why."""

    def away() -> bool:
        now = kubernetes(daemon)
        assert not now["reachable"], now
        assert now["api_error"], "no reason given"
        assert why in now["api_error"], now["api_error"]
        return True

    eventually(away, timeout_s, "unreachable in the status")


# -- killed, hung, lying -----------------------------------------------------------------------------------------------


def test_an_api_server_that_is_killed_and_restarted_costs_no_connection_and_no_storm(
    own_cluster: Cluster, lab: Lab, lbd_kubernetes: KubernetesDaemonFactory, pods: list[str]
) -> None:
    with ApiProxy(own_cluster.server) as proxy:
        daemon = lbd_kubernetes(own_cluster, kubernetes=QUICK, kubeconfig=own_cluster.kubeconfig(url=proxy.url))
        made, vip = published(own_cluster, pods)
        wait_served(lab, vip)
        with nobody_notices(lab, vip):
            own_cluster.server.kill()
            killed_s = time.monotonic()
            wait_away(daemon)
            time.sleep(5.0)  # what is claimed is about this time: how often it asks in it
            away_s = time.monotonic() - killed_s
            asked = proxy.seen(killed_s)
            assert 1 <= len(asked) <= away_s + COLLECTIONS + 2, [
                f"{one.at_s - killed_s:.2f} {one.target}" for one in asked
            ]
            restarted_s = time.monotonic()
            own_cluster.server.start()
            own_cluster.forgive()  # an API server that just starts knows no role yet, and forbids everything
            eventually(lambda: kubernetes(daemon)["reachable"], BACK_WITHIN_S, "reachable again")
            own_cluster.slice("web", pods[:1])
            eventually(lambda: answers(lab, vip) == {lab.pods[0].name}, BACK_WITHIN_S, "the change arrives")
        lists = [
            one.target
            for one in proxy.seen(restarted_s, r"^GET .*/(services|endpointslices|l4rules)\b")
            if not one.watches
        ]
        assert len(lists) <= COLLECTIONS, lists
        assert ingress(own_cluster.get(made) or {}) == [vip]


def test_an_api_server_that_hangs_is_noticed_and_harms_nobody(
    own_cluster: Cluster, lab: Lab, lbd_kubernetes: KubernetesDaemonFactory, pods: list[str]
) -> None:
    daemon = lbd_kubernetes(own_cluster, kubernetes={**QUICK, **QUICK_LEASE})
    _, vip = published(own_cluster, pods)
    wait_served(lab, vip)
    with nobody_notices(lab, vip):
        own_cluster.server.pause()
        try:
            wait_away(daemon, timeout_s=SILENCE_S)
        finally:
            own_cluster.server.resume()
        own_cluster.slice("web", pods[1:2])
        eventually(lambda: answers(lab, vip) == {lab.pods[1].name}, BACK_WITHIN_S, "the change arrives")


@pytest.mark.parametrize("mood", [mood for mood in Mood if mood is not Mood.PASS])
def test_an_api_that_answers_nonsense_is_asked_once_a_second_and_believed_in_nothing(
    cluster: Cluster, lab: Lab, lbd_kubernetes: KubernetesDaemonFactory, pods: list[str], mood: Mood
) -> None:
    with ApiProxy(cluster.server) as proxy:
        daemon = lbd_kubernetes(cluster, kubernetes=QUICK, kubeconfig=cluster.kubeconfig(url=proxy.url))
        made, vip = published(cluster, pods)
        wait_served(lab, vip)
        with nobody_notices(lab, vip):
            proxy.behave(mood)
            changed_s = time.monotonic()
            wait_away(daemon, "502" if mood is Mood.BAD_GATEWAY else "")
            time.sleep(4.0)  # as above
            away_s = time.monotonic() - changed_s
            asked = [one for one in proxy.seen(changed_s) if one.mood is mood]
            assert 1 <= len(asked) <= away_s + COLLECTIONS + 2, [
                f"{one.at_s - changed_s:.2f} {one.target}" for one in asked
            ]
            proxy.behave(Mood.PASS)
            cluster.slice("web", pods[2:])
            eventually(lambda: answers(lab, vip) == {lab.pods[2].name}, BACK_WITHIN_S, "the change arrives")
        assert ingress(cluster.get(made) or {}) == [vip]


def test_what_was_deleted_while_lbd_was_cut_off_and_etcd_forgot_is_found_on_its_return(
    own_cluster: Cluster, lab: Lab, lbd_kubernetes: KubernetesDaemonFactory, pods: list[str]
) -> None:
    with ApiProxy(own_cluster.server) as proxy:
        daemon = lbd_kubernetes(own_cluster, kubernetes=QUICK, kubeconfig=own_cluster.kubeconfig(url=proxy.url))
        kept, kept_vip = published(own_cluster, pods, "kept")
        deleted, deleted_vip = published(own_cluster, pods, "deleted")
        _, emptied_vip = published(own_cluster, pods, "emptied")
        for vip in (kept_vip, deleted_vip, emptied_vip):
            wait_served(lab, vip)
        with nobody_notices(lab, kept_vip):
            proxy.behave(Mood.BAD_GATEWAY)
            wait_away(daemon)
            own_cluster.delete(deleted)
            slice_ = {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "emptied-4"}}
            assert own_cluster.delete(slice_)
            own_cluster.service("new")
            own_cluster.forget_history()
            own_cluster.forgive()  # as above
            assert deleted_vip in addresses(lab), "what is not known to be deleted is served"
            proxy.behave(Mood.PASS)
            own_cluster.wait_gone(deleted, BACK_WITHIN_S)
            eventually(lambda: is_refused(lab.client, emptied_vip), BACK_WITHIN_S, "the emptied one refuses")
            assert deleted_vip not in addresses(lab)
        assert ingress(own_cluster.get(kept) or {}) == [kept_vip]
        new = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "new"}}
        [vip] = own_cluster.wait_ingress(new, timeout_s=BACK_WITHIN_S)
        assert vip not in (kept_vip, emptied_vip)


def test_an_lbd_that_starts_while_the_api_is_away_serves_what_it_served_before(
    cluster: Cluster, lab: Lab, lbd_kubernetes: KubernetesDaemonFactory, pods: list[str]
) -> None:
    with ApiProxy(cluster.server) as proxy:
        daemon = lbd_kubernetes(cluster, kubernetes=QUICK, kubeconfig=cluster.kubeconfig(url=proxy.url))
        _, vip = published(cluster, pods)
        wait_served(lab, vip)
        proxy.behave(Mood.BAD_GATEWAY)
        daemon.terminate()
        daemon.wait()
        daemon.start()
        wait_served(lab, vip)
        assert not kubernetes(daemon)["synced"]
        cluster.slice("web", pods[:1])
        proxy.behave(Mood.PASS)
        eventually(lambda: answers(lab, vip) == {lab.pods[0].name}, BACK_WITHIN_S, "the change arrives")


# -- tokens ------------------------------------------------------------------------------------------------------------


def revocable_token(cluster: Cluster, name: str) -> tuple[dict[str, Any], str]:
    """Return a Secret and a token of lbd's account that is worth nothing once the Secret is deleted."""
    secret = cluster.admin.create(
        {"apiVersion": "v1", "kind": "Secret", "metadata": {"name": name, "namespace": LBD_NAMESPACE}}
    )
    bound = {"apiVersion": "v1", "kind": "Secret", "name": name, "uid": secret["metadata"]["uid"]}
    path = f"/api/v1/namespaces/{LBD_NAMESPACE}/serviceaccounts/{LBD_ACCOUNT}/token"
    answer = cluster.admin.request(
        "POST",
        path,
        {"apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": {"boundObjectRef": bound}},
    )
    return {**secret, "apiVersion": "v1", "kind": "Secret"}, str(answer["status"]["token"])


def wait_revoked(cluster: Cluster, token: str) -> None:
    """Wait until the API server takes a token no more (it remembers a good one for 10 s)."""

    def revoked() -> bool:
        client = ApiClient(cluster.server.url, cluster.server.ca_path, token)
        try:
            client.objects("v1", "Service", cluster.namespace)
        except ApiError as error:
            return error.status == 401
        return False

    eventually(revoked, 20.0, "401")


def replace_file(path: Path, content: str) -> None:
    """Write a file as a kubelet does: whole or not at all."""
    fresh = path.with_suffix(".new")
    fresh.write_text(content)
    fresh.replace(path)


def test_a_token_that_is_replaced_on_disk_is_used_and_one_that_comes_late_too(
    cluster: Cluster, lab: Lab, lbd_kubernetes: KubernetesDaemonFactory, pods: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "lbd.token"
    first, first_token = revocable_token(cluster, f"{cluster.namespace}-first")
    second, second_token = revocable_token(cluster, f"{cluster.namespace}-second")
    path.write_text(first_token)
    with ApiProxy(cluster.server) as proxy:
        kubeconfig = cluster.kubeconfig(url=proxy.url, tokenFile=str(path))
        daemon = lbd_kubernetes(cluster, kubernetes=QUICK, kubeconfig=kubeconfig)
        _, vip = published(cluster, pods)
        wait_served(lab, vip)
        with nobody_notices(lab, vip):
            replace_file(path, second_token)
            cluster.admin.delete(first)
            wait_revoked(cluster, first_token)
            proxy.break_connections()
            cluster.slice("web", pods[:1])
            eventually(lambda: answers(lab, vip) == {lab.pods[0].name}, BACK_WITHIN_S, "the second token is used")

            cluster.admin.delete(second)  # and nothing better is on the disk yet
            wait_revoked(cluster, second_token)
            proxy.break_connections()
            cluster.slice("web", pods[1:2])
            eventually(lambda: "401" in str(kubernetes(daemon)["watches"]), 10.0, "401 in the status")
            replace_file(path, cluster.token())
            eventually(lambda: answers(lab, vip) == {lab.pods[1].name}, BACK_WITHIN_S, "the third token is used")


# -- rivals ------------------------------------------------------------------------------------------------------------


def test_two_that_start_at_once_give_each_service_one_address_by_one_writer(
    cluster: Cluster, lab: Lab, second_lab: Lab, lbd_kubernetes: KubernetesDaemonFactory, pods: list[str]
) -> None:
    names = [f"web-{number}" for number in range(10)]
    for name in names:
        cluster.slice(name, pods)
        cluster.service(name)
    with serving(second_lab):
        daemons = [
            lbd_kubernetes(
                cluster,
                kubernetes=QUICK_LEASE,
                config={"service_engine": {"name": f"se-{number}"}},
                in_lab=in_lab,
                start=False,
            )
            for number, in_lab in enumerate((lab, second_lab))
        ]
        for daemon in daemons:
            daemon.start(wait_ready=False)
        for daemon in daemons:
            daemon.wait_notification("READY", 20.0)
        services = [{"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}} for name in names]
        vips = [cluster.wait_ingress(service, timeout_s=10.0)[0] for service in services]
        assert len(set(vips)) == len(names)
        for vip in vips:
            wait_served(lab, vip)
            wait_served(second_lab, vip)
        assert sorted(kubernetes(daemon)["leader"]["leading"] for daemon in daemons) == [False, True]
        written = [asked for asked in cluster.asked(verb="patch") if asked.resource.startswith("services")]
        assert len({asked.source for asked in written}) == 1

        leader = next(daemon for daemon in daemons if kubernetes(daemon)["leader"]["leading"])
        other = next(daemon for daemon in daemons if daemon is not leader)
        leader.kill()
        late = cluster.service("late")
        [late_vip] = cluster.wait_ingress(late, timeout_s=15.0)
        assert late_vip not in vips
        assert kubernetes(other)["leader"]["leading"]
        assert [cluster.wait_ingress(service)[0] for service in services] == vips


def lease(cluster: Cluster) -> dict[str, Any]:
    """Return lbd's Lease."""
    metadata = {"namespace": LBD_NAMESPACE, "name": LEASE}
    found = cluster.admin.get({"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata})
    assert found is not None
    return {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", **found}


def test_who_has_lost_the_lease_writes_nothing_serves_on_and_takes_it_when_it_is_free(
    cluster: Cluster, lab: Lab, lbd_kubernetes: KubernetesDaemonFactory, pods: list[str]
) -> None:
    daemon = lbd_kubernetes(cluster, kubernetes=QUICK_LEASE)
    _, vip = published(cluster, pods)
    wait_served(lab, vip)
    with nobody_notices(lab, vip):
        now = datetime.now(UTC).isoformat(timespec="microseconds").replace("+00:00", "Z")
        stolen = {"holderIdentity": "somebody-else", "renewTime": now, "leaseDurationSeconds": 6}
        cluster.admin.patch(lease(cluster), {"spec": stolen})
        eventually(lambda: not kubernetes(daemon)["leader"]["leading"], 5.0, "leads no more")
        eventually(lambda: kubernetes(daemon)["leader"]["holder"] == "somebody-else", 5.0, "knows who leads")
        mark = cluster.audit_mark()
        late = cluster.service("late")
        cluster.slice("web", pods[:1])
        eventually(lambda: answers(lab, vip) == {lab.pods[0].name}, SERVED_WITHIN_S, "endpoints change all the same")
        assert ingress(cluster.get(late) or {}) == []
        assert [one for one in cluster.asked(since=mark, verb="patch") if "services" in one.resource] == []
        [late_vip] = cluster.wait_ingress(late, timeout_s=15.0)
        assert late_vip != vip
        assert lease(cluster)["spec"]["holderIdentity"] != "somebody-else"
        assert kubernetes(daemon)["leader"]["leading"]


def test_a_lease_that_is_given_back_on_stop_is_taken_at_once(
    cluster: Cluster, lab: Lab, second_lab: Lab, lbd_kubernetes: KubernetesDaemonFactory
) -> None:
    first = lbd_kubernetes(cluster)  # with the usual 15 s
    cluster.wait_ingress(cluster.service("web"))
    second = lbd_kubernetes(cluster, config={"service_engine": {"name": "se-second"}}, in_lab=second_lab)
    assert not kubernetes(second)["leader"]["leading"]
    first.terminate()
    first.wait()
    eventually(lambda: kubernetes(second)["leader"]["leading"], 5.0, "the other leads")
    cluster.wait_ingress(cluster.service("late"))
