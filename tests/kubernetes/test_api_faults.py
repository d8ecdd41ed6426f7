"""What the API does to lbd: it dies, hangs, lies, forgets, falls silent, and refuses tokens.

In all of it clients are served as before: the last good state stays.
"""

from __future__ import annotations

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from kit_api_faults import (
    BACK_WITHIN_S,
    COLLECTIONS,
    QUICK,
    QUICK_LEASE,
    RENEW_DEADLINE_S,
    leads,
    lease,
    nobody_notices,
    wait_away,
)
from kit_cluster import LBD_ACCOUNT, LBD_NAMESPACE, Cluster, ingress
from kit_daemon import LAST, KubernetesDaemonFactory
from kit_lifecycle import addresses, is_refused, peek
from kit_proxy import ApiProxy, Mood, Seen
from kit_publish import answers, kubernetes, published, wait_served
from lab_daemon import Daemon
from lab_wait import eventually
from lbd.cli.demo.api_client import ApiClient, ApiError
from lbd.cli.demo.lab import Lab

SILENT_FOR_S = 5.0 + 10.0
"""How long a watch may be silent with QUICK: it ends after 5 s, and the server may be late by 10 s."""
ENDS_WITHIN_S = 1.5 + 2.5
"""After SIGTERM, without connections: the Lease is offered back for so long; the rest is a busy machine."""


def assert_no_storm(asked: Sequence[Seen], since_s: float) -> None:
    """Claim that an API that is away is asked once a second, after what was under way when it went."""
    away_s = time.monotonic() - since_s
    assert 1 <= len(asked) <= away_s + COLLECTIONS + 2, [f"{one.at_s - since_s:.2f} {one.target}" for one in asked]


def lists(asked: Sequence[Seen]) -> list[str]:
    """Return those of the requests that list a collection."""
    return [one.target for one in asked if one.method == "GET" and not one.watches and "/leases" not in one.target]


def follows(cluster: Cluster, lab: Lab, vip: str, pods: list[str], number: int, within_s: float) -> None:
    """Leave the Service `web` one Pod, and claim that clients get to that one alone within a time."""
    cluster.slice("web", pods[number : number + 1])
    eventually(lambda: answers(lab, vip) == {lab.pods[number].name}, within_s, "the change arrives")


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
            assert any("the last good state stays" in problem for problem in peek(daemon)["problems"])
            time.sleep(5.0)  # what is claimed is about this time: how often it asks in it
            assert_no_storm(proxy.seen(killed_s), killed_s)
            restarted_s = time.monotonic()
            own_cluster.server.start()
            own_cluster.forgive()  # an API server that just starts knows no role yet, and forbids everything
            follows(own_cluster, lab, vip, pods, 0, BACK_WITHIN_S)
            now = kubernetes(daemon)
            assert (now["reachable"], now["api_error"], now["unreachable_for_s"]) == (True, "", 0.0)
            assert not peek(daemon)["problems"]
        again = proxy.seen(restarted_s)
        assert len(lists(again)) <= COLLECTIONS, lists(again)
        assert len(again) <= time.monotonic() - restarted_s + 4 * COLLECTIONS, [one.target for one in again]
        assert ingress(own_cluster.get(made) or {}) == [vip]


def test_an_api_server_that_hangs_is_noticed_harms_nobody_and_ends_leading_in_time(
    own_cluster: Cluster, lab: Lab, lbd_kubernetes: KubernetesDaemonFactory, pods: list[str]
) -> None:
    daemon = lbd_kubernetes(own_cluster, kubernetes={**QUICK, **QUICK_LEASE})
    _, vip = published(own_cluster, pods)
    wait_served(lab, vip)
    assert leads(daemon)
    with nobody_notices(lab, vip):
        own_cluster.server.pause()
        paused_s = time.monotonic()
        try:
            eventually(lambda: not leads(daemon), RENEW_DEADLINE_S + 0.5, "leads no more")
            wait_away(daemon, "Timeout")
            assert time.monotonic() - paused_s < 5.0, "noticed long before the watches' own timeout"
            assert daemon.cli("status", "--socket", str(daemon.directory / "admin.sock")).returncode == 0
        finally:
            own_cluster.server.resume()
        follows(own_cluster, lab, vip, pods, 1, BACK_WITHIN_S)
        eventually(lambda: leads(daemon), BACK_WITHIN_S, "leads again")
    assert lease(own_cluster)["holderIdentity"] == kubernetes(daemon)["leader"]["identity"]


def test_an_api_server_that_loses_its_storage_harms_nobody_and_ends_leading_in_time(
    own_cluster: Cluster, lab: Lab, lbd_kubernetes: KubernetesDaemonFactory, pods: list[str]
) -> None:
    daemon = lbd_kubernetes(own_cluster, kubernetes={**QUICK, **QUICK_LEASE})
    _, vip = published(own_cluster, pods)
    wait_served(lab, vip)
    with nobody_notices(lab, vip):
        own_cluster.server.kill_etcd()
        eventually(lambda: not leads(daemon), RENEW_DEADLINE_S + 0.5, "leads no more")
        wait_away(daemon)
        own_cluster.server.start()
        follows(own_cluster, lab, vip, pods, 1, BACK_WITHIN_S)
        eventually(lambda: leads(daemon), BACK_WITHIN_S, "leads again")


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
            assert_no_storm([one for one in proxy.seen(changed_s) if one.mood is mood], changed_s)
            proxy.behave(Mood.PASS)
            follows(cluster, lab, vip, pods, 2, BACK_WITHIN_S)
        assert ingress(cluster.get(made) or {}) == [vip]


def test_a_watch_that_has_silently_died_is_noticed_and_made_anew(
    cluster: Cluster, lab: Lab, lbd_kubernetes: KubernetesDaemonFactory, pods: list[str]
) -> None:
    with ApiProxy(cluster.server) as proxy:
        daemon = lbd_kubernetes(cluster, kubernetes=QUICK, kubeconfig=cluster.kubeconfig(url=proxy.url))
        _, vip = published(cluster, pods)
        wait_served(lab, vip)
        with nobody_notices(lab, vip):
            forgotten_s = time.monotonic()
            proxy.forget_connections()
            cluster.slice("web", pods[:1])
            eventually(
                lambda: min(one["age_s"] for one in kubernetes(daemon)["watches"]) > 6.0,
                SILENT_FOR_S,
                "no sign of life",
            )
            assert len(answers(lab, vip)) == 3, "what nobody said is not known"
            left_s = forgotten_s + SILENT_FOR_S + 4.0 - time.monotonic()
            eventually(lambda: answers(lab, vip) == {lab.pods[0].name}, left_s, "the change arrives")
        assert lists(proxy.seen(forgotten_s)) == [], "it goes on where it was"


# -- forgotten ---------------------------------------------------------------------------------------------------------


def test_what_was_deleted_while_lbd_was_cut_off_and_etcd_forgot_is_found_on_its_return(
    own_cluster: Cluster, lab: Lab, lbd_kubernetes: KubernetesDaemonFactory, pods: list[str]
) -> None:
    with ApiProxy(own_cluster.server) as proxy:
        daemon = lbd_kubernetes(own_cluster, kubernetes=QUICK, kubeconfig=own_cluster.kubeconfig(url=proxy.url))
        kept, kept_vip = published(own_cluster, pods, "kept")
        deleted, deleted_vip = published(own_cluster, pods, "deleted")
        vanished, vanished_vip = published(own_cluster, pods, "vanished")
        _, emptied_vip = published(own_cluster, pods, "emptied")
        for vip in (kept_vip, deleted_vip, vanished_vip, emptied_vip):
            wait_served(lab, vip)
        with nobody_notices(lab, kept_vip):
            proxy.behave(Mood.BAD_GATEWAY)
            wait_away(daemon)
            own_cluster.delete(deleted)
            own_cluster.patch(vanished, {"metadata": {"finalizers": None}})
            own_cluster.delete(vanished)
            assert own_cluster.get(vanished) is None
            slice_ = {"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "metadata": {"name": "emptied-4"}}
            assert own_cluster.delete(slice_)
            new = own_cluster.service("new", annotations={"lbd.io/address": LAST[4]})
            own_cluster.forget_history()
            own_cluster.forgive()  # as above
            held = addresses(lab)
            assert {deleted_vip, vanished_vip} <= held.keys(), "what is not known to be deleted is served"
            proxy.behave(Mood.PASS)
            own_cluster.wait_gone(deleted, BACK_WITHIN_S)
            eventually(lambda: vanished_vip not in addresses(lab), BACK_WITHIN_S, "the vanished one is withdrawn")
            eventually(lambda: is_refused(lab.client, emptied_vip), BACK_WITHIN_S, "the emptied one refuses")
            assert deleted_vip not in addresses(lab)
            relists = {one["resource"]: one["relists_total"] for one in kubernetes(daemon)["watches"]}
            assert relists["services"] == relists["endpointslices"] == 1
        assert ingress(own_cluster.get(kept) or {}) == [kept_vip]
        assert own_cluster.wait_ingress(new) == [LAST[4]]


# -- started while it is away ------------------------------------------------------------------------------------------


def test_an_lbd_that_starts_while_the_api_is_away_serves_at_once_what_it_served_before(
    cluster: Cluster, lab: Lab, lbd_kubernetes: KubernetesDaemonFactory, pods: list[str]
) -> None:
    with ApiProxy(cluster.server) as proxy:
        daemon = lbd_kubernetes(cluster, kubernetes=QUICK, kubeconfig=cluster.kubeconfig(url=proxy.url))
        _, vip = published(cluster, pods)
        wait_served(lab, vip)
        proxy.behave(Mood.BAD_GATEWAY)
        daemon.terminate()
        daemon.wait()
        assert vip not in addresses(lab)
        daemon.start()
        assert len(answers(lab, vip)) == 3, "READY is said when it serves"
        wait_away(daemon, "502")
        assert not kubernetes(daemon)["synced"]
        proxy.behave(Mood.PASS)
        follows(cluster, lab, vip, pods, 0, BACK_WITHIN_S)
        eventually(lambda: kubernetes(daemon)["synced"], 5.0, "synced")


def test_an_lbd_that_starts_without_anything_known_while_the_api_is_away_sweeps_no_vip_before_the_first_list(
    cluster: Cluster, lab: Lab, lbd_kubernetes: KubernetesDaemonFactory, pods: list[str]
) -> None:
    with ApiProxy(cluster.server) as proxy:
        daemon = lbd_kubernetes(cluster, kubernetes=QUICK, kubeconfig=cluster.kubeconfig(url=proxy.url))
        _, vip = published(cluster, pods)
        vanished, vanished_vip = published(cluster, pods, "vanished")
        wait_served(lab, vip)
        wait_served(lab, vanished_vip)
        daemon.kill()
        proxy.behave(Mood.BAD_GATEWAY)
        cache_of(daemon).unlink(missing_ok=True)
        cluster.patch(vanished, {"metadata": {"finalizers": None}})
        cluster.delete(vanished)
        daemon.start()
        wait_away(daemon, "502")
        assert any("502" in problem for problem in peek(daemon)["problems"])
        assert {vip, vanished_vip} <= addresses(lab).keys()
        assert not kubernetes(daemon)["synced"]
        proxy.behave(Mood.PASS)
        wait_served_within(lab, vip, BACK_WITHIN_S)
        daemon.log.wait_for("orphan_removed", vip=vanished_vip)
        assert vanished_vip not in addresses(lab)
        assert not daemon.log.matching("orphan_removed", vip=vip)


def test_a_cache_that_is_damaged_or_hostile_is_no_obstacle(
    cluster: Cluster, lab: Lab, lbd_kubernetes: KubernetesDaemonFactory, pods: list[str]
) -> None:
    daemon = lbd_kubernetes(cluster, kubernetes=QUICK)
    _, vip = published(cluster, pods)
    wait_served(lab, vip)
    daemon.terminate()
    daemon.wait()
    written = cache_of(daemon).read_text()
    statuses = [one["status"] for one in json.loads(written)["services"]]
    assert vip in str(statuses)
    for damaged in (written[: len(written) // 2], hostile(json.loads(written))):
        cache_of(daemon).write_text(damaged)
        daemon.start()
        wait_served(lab, vip)
        eventually(lambda: kubernetes(daemon)["synced"], 5.0, "synced")
        daemon.terminate()
        assert daemon.wait() == 0
        now = json.loads(cache_of(daemon).read_text())
        assert [one["status"] for one in now["services"]] == statuses, "what the API says is kept for the next run"


def cache_of(daemon: Daemon) -> Path:
    """Return where a daemon keeps what it knows of the cluster."""
    return daemon.directory / "state" / "kubernetes.json"


def hostile(document: dict[str, Any]) -> str:
    """Return a cache whose objects are not what they should be, one kind of wrong after the other."""
    [service] = document["services"]
    return json.dumps(
        {
            **document,
            "services": [
                {},
                {"metadata": None},
                {**service, "spec": 7},
                {**service, "metadata": {**service["metadata"], "name": ["web"]}},
                {**service, "status": {"loadBalancer": {"ingress": [{"ip": "10.96.0.1"}, {"ip": "169.254.1.1"}, 7]}}},
            ],
            "endpointslices": [{"metadata": {"name": "x", "namespace": "y"}, "endpoints": {"a": "b"}}],
        }
    )


def wait_served_within(lab: Lab, vip: str, timeout_s: float) -> None:
    """Wait longer than usual until a client gets an answer."""
    eventually(lambda: not is_refused(lab.client, vip), timeout_s, f"{vip} accepts")
    wait_served(lab, vip)


# -- stopped while it is away ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("mood", [Mood.SILENT, Mood.BAD_GATEWAY])
def test_lbd_ends_in_time_when_it_is_told_to_whatever_the_api_does(
    cluster: Cluster, lab: Lab, lbd_kubernetes: KubernetesDaemonFactory, pods: list[str], mood: Mood
) -> None:
    with ApiProxy(cluster.server) as proxy:
        daemon = lbd_kubernetes(cluster, kubeconfig=cluster.kubeconfig(url=proxy.url))
        _, vip = published(cluster, pods)
        wait_served(lab, vip)
        proxy.behave(mood, break_connections=False)
        assert leads(daemon)
        ends_in_time(daemon)  # it holds the Lease and can't give it back
        assert vip not in addresses(lab)

        daemon.start()
        ends_in_time(daemon)  # it has not listed yet
        proxy.behave(Mood.PASS)
        daemon.start()
        proxy.behave(mood)
        wait_away(daemon)
        ends_in_time(daemon)  # it waits for its turn to ask
        assert vip not in addresses(lab)


def ends_in_time(daemon: Daemon) -> None:
    """Send SIGTERM, and claim that it ends in order and in time."""
    told_s = time.monotonic()
    daemon.terminate()
    assert daemon.wait() == 0
    assert time.monotonic() - told_s < ENDS_WITHIN_S


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


def test_a_token_that_is_replaced_on_disk_is_used_without_a_restart_and_one_that_comes_late_too(
    cluster: Cluster, lab: Lab, lbd_kubernetes: KubernetesDaemonFactory, pods: list[str], tmp_path: Path
) -> None:
    path = tmp_path / "lbd.token"
    path.write_text(cluster.token())
    secret, revocable = revocable_token(cluster, f"{cluster.namespace}-revocable")
    with ApiProxy(cluster.server) as proxy:
        kubeconfig = cluster.kubeconfig(url=proxy.url, tokenFile=str(path))
        daemon = lbd_kubernetes(cluster, kubernetes=QUICK, kubeconfig=kubeconfig)
        _, vip = published(cluster, pods)
        wait_served(lab, vip)
        with nobody_notices(lab, vip):
            replace_file(path, revocable)
            replaced_s = time.monotonic()
            eventually(lambda: proxy.seen(replaced_s + 2.5), 5.0, "a request after the files are looked at")
            assert {one.authorization for one in proxy.seen(replaced_s + 2.5)} == {f"Bearer {revocable}"}

            cluster.admin.delete(secret)  # and nothing better is on the disk yet
            wait_revoked(cluster, revocable)
            proxy.break_connections()
            refused_s = time.monotonic()
            wait_away(daemon, "401")
            time.sleep(4.0)  # what is claimed is about this time
            assert len(answers(lab, vip)) == 3
            assert_no_storm(proxy.seen(refused_s), refused_s)
            replace_file(path, cluster.token())
            follows(cluster, lab, vip, pods, 1, BACK_WITHIN_S)
        assert kubernetes(daemon)["reachable"]
