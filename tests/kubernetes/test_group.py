"""Service engines of one group: all serve, one writes, and another one takes over when that one can't any more."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from kit_api_faults import (
    BACK_WITHIN_S,
    LEASE_DURATION_S,
    LEASE_RETRY_S,
    QUICK,
    QUICK_LEASE,
    hold_lease,
    leads,
    lease,
    management_address,
    nobody_notices,
    writes,
)
from kit_cluster import Cluster, ingress, service_manifest, slice_manifest
from kit_daemon import KubernetesDaemonFactory
from kit_lifecycle import addresses, peek
from kit_proxy import ApiProxy, Mood
from kit_publish import SERVED_WITHIN_S, answers, eventually_held, kubernetes, published, serving, wait_served
from lab_daemon import Daemon
from lab_servers import PodServer, echo
from lab_wait import eventually
from lbd.cli.demo.lab import Lab

TOOK_OVER_WITHIN_S = LEASE_DURATION_S + LEASE_RETRY_S + 1.5
"""After the last renewal of one that died: the Lease expires, and the other looks at it. The rest is a busy machine."""


class Group:
    """Two service engines of one group, each with a lab of its own that has the same addresses."""

    def __init__(self, cluster: Cluster, labs: Sequence[Lab], make: KubernetesDaemonFactory) -> None:
        self.cluster = cluster
        self.labs = labs
        self.daemons: list[Daemon] = []
        self._make = make

    def add(self, *, start: bool = True, lease_settings: dict[str, Any] | None = None, **options: Any) -> Daemon:
        """Return another service engine in the next lab, started and with the cluster known to it."""
        number = len(self.daemons)
        made = self._make(
            self.cluster,
            kubernetes={**QUICK, **(lease_settings or QUICK_LEASE)},
            config={"service_engine": {"name": f"se-{number}"}},
            in_lab=self.labs[number],
            start=start,
            **options,
        )
        self.daemons.append(made)
        if start:
            eventually(lambda: kubernetes(made)["synced"], 10.0, "synced")
        return made

    def add_two(self) -> tuple[Daemon, Daemon]:
        """Return one that leads and one that follows it."""
        leader = self.add()
        eventually(lambda: leads(leader), 5.0, "the first leads")
        follower = self.add()
        eventually(lambda: kubernetes(follower)["leader"]["holder"] == identity(leader), 5.0, "knows who leads")
        assert not leads(follower)
        return leader, follower


@pytest.fixture
def group(
    cluster: Cluster, lab: Lab, second_lab: Lab, lbd_kubernetes: KubernetesDaemonFactory, pods: list[str]
) -> Iterator[Group]:
    """A group without members yet; the Pods of both labs serve."""
    with serving(second_lab):
        yield Group(cluster, (lab, second_lab), lbd_kubernetes)


def identity(daemon: Daemon) -> str:
    """Return what a daemon calls itself in the Lease."""
    return str(kubernetes(daemon)["leader"]["identity"])


def named(name: str) -> dict[str, Any]:
    """Return what names a Service."""
    return {"apiVersion": "v1", "kind": "Service", "metadata": {"name": name}}


def served_by(daemon: Daemon) -> dict[str, Any]:
    """Return what a daemon serves: each virtual service with its address, port and members."""
    status = peek(daemon)
    assert status.serving, [(one["name"], one["state"]) for one in status["virtual_services"]]
    return {
        one["name"]: (one["vip"], one["port"], one["protocol"], sorted(member["address"] for member in one["members"]))
        for one in status["virtual_services"]
    }


def ever_given(cluster: Cluster, since: dict[str, Any]) -> dict[str, list[str]]:
    """Return all addresses that each Service has had since an object was written, in the order in which it had them."""
    end = cluster.apply(service_manifest("the-end", type="ClusterIP", loadBalancerClass=None, **_NO_NODE_PORTS))
    given: dict[str, list[str]] = {}
    with cluster.watch(f"/api/v1/namespaces/{cluster.namespace}/services", since=since) as changes:
        for change in changes:
            now = change["object"]
            assert change["type"] != "ERROR", now
            if now["metadata"]["name"] == end["metadata"]["name"]:
                return given
            had = given.setdefault(now["metadata"]["name"], [])
            had += [one for one in ingress(now) if one not in had]
    raise AssertionError("the watch ended")


_NO_NODE_PORTS = {"allocateLoadBalancerNodePorts": None}


@contextlib.contextmanager
def frozen(daemon: Daemon) -> Iterator[None]:
    """Stop a supervisor as a debugger does; its workers go on."""
    os.kill(daemon.pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(daemon.pid, signal.SIGCONT)


# -- one writer --------------------------------------------------------------------------------------------------------


def test_two_that_start_at_once_give_20_services_one_address_each_by_one_writer_and_both_serve_them(
    cluster: Cluster, group: Group, pods: list[str]
) -> None:
    names = [f"web-{number:02}" for number in range(20)]
    before = cluster.slice("before", pods)
    cluster.create_many([slice_manifest(name, pods) for name in names])
    daemons = [group.add(start=False) for _ in range(2)]
    for daemon in daemons:
        daemon.start(wait_ready=False)
    cluster.create_many([service_manifest(name) for name in names])
    greedy = cluster.service("greedy", annotations={"lbd.io/address": "198.51.100.1"})
    vips = {name: cluster.wait_ingress(named(name), timeout_s=15.0) for name in names}
    assert len({vip for [vip] in vips.values()}) == 20

    first, second = daemons
    eventually(lambda: len(served_by(first)) == 20 and served_by(first) == served_by(second), 20.0, "the same")
    for lab in group.labs:
        assert {wait_served(lab, vip) for [vip] in vips.values()} <= {pod.name for pod in lab.pods}
    assert sorted(leads(daemon) for daemon in daemons) == [False, True]
    eventually(lambda: cluster.condition(greedy, "lbd.io/AddressAssigned")["status"] == "False", 5.0, "greedy is told")
    assert ever_given(cluster, before) == {**vips, "greedy": []}, "no Service ever had another address"

    leader = next(daemon for daemon in daemons if leads(daemon))
    patches = [(one.name, one.resource) for one in writes(cluster) if one.verb == "patch" and one.resource != "events"]
    once = [(name, resource) for name in names for resource in ("services", "services/status")]
    once.append(("greedy", "services/status"))
    assert sorted(patches) == sorted(once), "the finalizer, and the status, are written once"
    assert {one.source for one in writes(cluster)} == {management_address(leader.lab)}
    assert [kubernetes(daemon)["write_conflicts_total"] for daemon in daemons] == [0, 0]

    mark = cluster.audit_mark()
    time.sleep(5.0)  # the claim is about this time
    assert writes(cluster, mark) == [], "a settled cluster is not written to"
    renewals = [one for one in cluster.asked(since=mark, resource="leases") if one.verb != "get"]
    assert {one.source for one in renewals} == {management_address(leader.lab)}
    assert [leads(daemon) for daemon in daemons] == [daemon is leader for daemon in daemons]


# -- another one takes over --------------------------------------------------------------------------------------------


def test_when_the_writer_is_killed_the_other_takes_over_as_the_lease_expires_and_writes_nothing_again(
    cluster: Cluster, group: Group, pods: list[str]
) -> None:
    leader, other = group.add_two()
    made = [published(cluster, pods, name) for name in ("one", "two", "three")]
    for _, vip in made:
        wait_served(other.lab, vip)
    mark = cluster.audit_mark()
    with nobody_notices(other.lab, made[0][1]):
        leader.kill()
        killed_s = time.monotonic()
        late = cluster.service("late")
        eventually(lambda: leads(other), TOOK_OVER_WITHIN_S, "the other leads")
        assert time.monotonic() - killed_s > LEASE_DURATION_S / 2, "not while the dead one may still write"
        [late_vip] = cluster.wait_ingress(late)
    assert late_vip not in [vip for _, vip in made]
    assert {one.name for one in writes(cluster, mark) if one.resource != "events"} == {"late"}

    holder = lease(cluster)["holderIdentity"]
    leader.start()
    for vip in (late_vip, *(vip for _, vip in made)):
        eventually(lambda vip=vip: vip in addresses(leader.lab), SERVED_WITHIN_S, f"{vip} is back")  # type: ignore[misc]
    eventually(lambda: kubernetes(leader)["leader"]["holder"] == holder, 5.0, "it knows who leads now")
    assert not leads(leader)
    assert lease(cluster)["holderIdentity"] == holder


def test_when_the_writer_stops_in_order_the_other_takes_over_at_once_while_the_first_still_drains(
    cluster: Cluster, group: Group, pods: list[str]
) -> None:
    slow_to_expire = {"lease": {"duration": "30s", "renew_deadline": "20s", "retry": "500ms"}}
    leader = group.add(lease_settings=slow_to_expire)
    other = group.add(lease_settings=slow_to_expire)
    assert [leads(leader), leads(other)] == [True, False]
    with PodServer(leader.lab.pods[0], echo, 81):
        cluster.slice("held", pods[:1], [81])
        held_vip = cluster.wait_ingress(cluster.service("held", [81]))[0]
        held = eventually_held(leader.lab, held_vip, 81)
        leader.terminate()
        stopped_s = time.monotonic()
        eventually(lambda: leads(other), 5.0, "the other leads")
        assert time.monotonic() - stopped_s < 0.5 + 1.0, "it was given back, and looked at every 0.5 s"
        assert leader.running, "it drains"
        cluster.wait_ingress(cluster.service("late"), timeout_s=5.0)
        assert held.works(), "a connection that drains"
        held.close()
        assert leader.wait(5.0) == 0
    assert leads(other)


def test_a_writer_that_is_cut_off_stops_leading_before_the_other_begins_and_serves_on(
    cluster: Cluster, group: Group, pods: list[str]
) -> None:
    with ApiProxy(cluster.server) as proxy:
        leader = group.add(kubeconfig=cluster.kubeconfig("cut-off", url=proxy.url))
        eventually(lambda: leads(leader), 5.0, "the first leads")
        other = group.add()
        made, vip = published(cluster, pods)
        for lab in group.labs:
            wait_served(lab, vip)
        with nobody_notices(leader.lab, vip):
            mark = cluster.audit_mark()
            proxy.behave(Mood.SILENT)
            cut_off_s = time.monotonic()

            def taken_over() -> bool:
                both = [leads(leader), leads(other)]
                assert both != [True, True]
                return both == [False, True]

            until_s = cut_off_s + TOOK_OVER_WITHIN_S
            while not taken_over():  # unlike in eventually(), two that lead are a failure at once
                assert time.monotonic() < until_s, "not taken over in time"
                time.sleep(0.02)
            [late_vip] = cluster.wait_ingress(cluster.service("late"))
            cluster.slice("late", pods)
            cluster.slice("web", pods[:1])
            eventually(
                lambda: answers(other.lab, vip) == {other.lab.pods[0].name},
                SERVED_WITHIN_S,
                "the other follows the change",
            )
            assert len(answers(leader.lab, vip)) == 3, "the one that is cut off serves what it knows"
            proxy.behave(Mood.PASS)
            eventually(
                lambda: answers(leader.lab, vip) == {leader.lab.pods[0].name}, BACK_WITHIN_S * 2, "it has come back"
            )
            wait_served(leader.lab, late_vip)
            eventually(lambda: kubernetes(leader)["leader"]["holder"] == identity(other), 5.0, "it follows")
        assert [leads(leader), leads(other)] == [False, True]
        assert {one.source for one in writes(cluster, mark)} == {management_address(other.lab)}
        assert ingress(cluster.get(made) or {}) == [vip]


def test_a_writer_that_was_frozen_writes_nothing_when_it_wakes(cluster: Cluster, group: Group, pods: list[str]) -> None:
    leader, other = group.add_two()
    _, vip = published(cluster, pods)
    for lab in group.labs:
        wait_served(lab, vip)
    with nobody_notices(leader.lab, vip):
        with frozen(leader):
            mark = cluster.audit_mark()
            eventually(lambda: leads(other), TOOK_OVER_WITHIN_S, "the other leads")
            cluster.slice("late", pods)
            [late_vip] = cluster.wait_ingress(cluster.service("late"))
        wait_served(leader.lab, late_vip)
        eventually(lambda: kubernetes(leader)["leader"]["holder"] == identity(other), 5.0, "it follows")
    assert not leads(leader)
    assert {one.source for one in writes(cluster, mark)} == {management_address(other.lab)}


# -- the Lease is lost -------------------------------------------------------------------------------------------------


def test_who_has_lost_the_lease_writes_nothing_serves_on_says_who_holds_it_and_takes_it_when_it_is_free(
    cluster: Cluster, lab: Lab, lbd_kubernetes: KubernetesDaemonFactory, pods: list[str]
) -> None:
    daemon = lbd_kubernetes(cluster, kubernetes={**QUICK, **QUICK_LEASE})
    _, vip = published(cluster, pods)
    leaving, leaving_vip = published(cluster, pods, "leaving")
    wait_served(lab, vip)
    wait_served(lab, leaving_vip)
    with nobody_notices(lab, vip):
        hold_lease(cluster, "somebody-else", 6)
        eventually(lambda: not leads(daemon), 2.0, "leads no more")
        eventually(lambda: kubernetes(daemon)["leader"]["holder"] == "somebody-else", 5.0, "knows who leads")
        mark = cluster.audit_mark()
        late = cluster.service("late")
        cluster.slice("web", pods[:1])
        cluster.delete(leaving)
        eventually(lambda: answers(lab, vip) == {lab.pods[0].name}, SERVED_WITHIN_S, "members change all the same")
        eventually(lambda: leaving_vip not in addresses(lab), SERVED_WITHIN_S, "and what is deleted is withdrawn")
        text = daemon.cli("status", "--socket", str(daemon.directory / "admin.sock")).stdout
        assert "somebody-else" in text
        if lease(cluster)["holderIdentity"] == "somebody-else":  # on a slow machine its 6 s are over by now
            assert ingress(cluster.get(late) or {}) == []
            assert writes(cluster, mark) == []
        [late_vip] = cluster.wait_ingress(late, timeout_s=15.0)
        cluster.wait_gone(leaving, 10.0)
        assert late_vip != vip
    assert lease(cluster)["holderIdentity"] == identity(daemon)
    assert leads(daemon)


def test_a_lease_that_is_deleted_is_made_anew_by_one(cluster: Cluster, group: Group) -> None:
    leader, other = group.add_two()
    cluster.forget_lease()

    def settled() -> bool:
        holder = lease(cluster)["holderIdentity"]
        return {identity(leader): leads(leader), identity(other): leads(other)} == {
            identity(one): identity(one) == holder for one in (leader, other)
        }

    eventually(settled, 5.0, "one leads, and the Lease names it")
    cluster.wait_ingress(cluster.service("late"))
    assert len({one.source for one in writes(cluster)}) == 1
