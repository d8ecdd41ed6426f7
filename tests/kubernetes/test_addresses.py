"""Which address a Service gets on a real API server, how it changes, and what is said where it can't be had."""

from __future__ import annotations

import time
from typing import Any

from kit_cluster import LBD_NAMESPACE, LEASE, Cluster, elapsed_s, ingress, service_manifest
from kit_daemon import FIRST, KubernetesDaemonFactory
from kit_lifecycle import Held, Sampler, addresses, is_refused, peek, service
from kit_publish import (
    FINALIZER,
    SERVED_WITHIN_S,
    answers,
    eventually_held,
    kubernetes,
    published,
    serving,
    wait_served,
    wait_withdrawn,
    wait_writing,
)
from kit_said import (
    ADDRESS,
    ADDRESS_CONDITION,
    POOL,
    RULE_ANNOTATION,
    SHARED,
    reloaded,
    rule_manifest,
    wait_condition,
    wait_event,
    with_sections,
)
from lab_clients import Load
from lab_servers import echo, http
from lab_wait import eventually
from lbd.cli.demo.lab import Lab

ANOTHER = "172.16.101.177"


def pool(*ranges: str, **more: Any) -> dict[str, Any]:
    """Return an address pool of the configuration."""
    return {"ranges": list(ranges), **more}


def frontend(first: int, last: int | None = None) -> str:
    """Return a range of the lab's frontend network."""
    return f"172.16.101.{first}-172.16.101.{last or first}"


# -- asking for an address ---------------------------------------------------------------------------------------------


def test_an_address_can_be_asked_for_in_every_way_and_the_first_that_says_one_holds(
    cluster: Cluster, lbd_kubernetes: KubernetesDaemonFactory
) -> None:
    wait_writing(lbd_kubernetes(cluster))
    cluster.apply(rule_manifest("by-rule", {"loadBalancerIP": "172.16.101.163"}))
    ako = "ako.vmware.com/load-balancer-ip"
    asking: dict[str, dict[str, Any]] = {
        "172.16.101.160": {"annotations": {ADDRESS: "172.16.101.160"}},
        "172.16.101.161": {"annotations": {ako: "172.16.101.161"}},
        "172.16.101.162": {"loadBalancerIP": "172.16.101.162"},
        "172.16.101.163": {"annotations": {RULE_ANNOTATION: "by-rule"}},
        "172.16.101.164": {
            "annotations": {ADDRESS: "172.16.101.164", ako: "172.16.101.165", RULE_ANNOTATION: "by-rule"},
            "loadBalancerIP": "172.16.101.166",
        },
        "172.16.101.165": {
            "annotations": {ako: "172.16.101.165", RULE_ANNOTATION: "by-rule"},
            "loadBalancerIP": "172.16.101.166",
        },
    }
    made = {address: cluster.service(f"asks-{number}", **how) for number, (address, how) in enumerate(asking.items())}
    for address, asked in made.items():
        assert cluster.wait_ingress(asked) == [address]
        condition = wait_condition(cluster, asked, ADDRESS_CONDITION, "True")
        assert (condition["reason"], condition["message"]) == ("Assigned", f"{address} from pool lab")
        assert wait_event(cluster, asked, "AddressAssigned", f"{address} from pool lab")["type"] == "Normal"


def test_both_addresses_of_a_dual_stack_service_can_be_asked_for(
    cluster: Cluster, lbd_kubernetes: KubernetesDaemonFactory
) -> None:
    lbd_kubernetes(cluster)
    both = {ADDRESS: "fd00:101::0177, 172.16.101.177"}
    made = cluster.service("web", annotations=both, ipFamilyPolicy="RequireDualStack", ipFamilies=["IPv4", "IPv6"])
    assert cluster.wait_ingress(made, 2) == ["172.16.101.177", "fd00:101::177"]


def test_an_address_that_cannot_be_had_is_refused_in_words_and_no_other_is_given_instead(
    cluster: Cluster, lbd_kubernetes: KubernetesDaemonFactory
) -> None:
    wait_writing(lbd_kubernetes(cluster))
    holder = cluster.service("holder", annotations={ADDRESS: ANOTHER})
    cluster.wait_ingress(holder)
    refused = {
        "AddressInUse": (ANOTHER, f"{ANOTHER} is in use by Service {cluster.namespace}/holder"),
        "AddressNotInPools": ("192.0.2.7", "192.0.2.7 is in no address pool"),
        "InvalidAddress": ("web.example", "'web.example', which is not an IP address"),
        "FamilyMismatch": ("fd00:101::177", "the Service has no IPv6"),
    }
    for reason, (asked, sentence) in refused.items():
        made = cluster.service(reason.lower(), annotations={ADDRESS: asked})
        wait_condition(cluster, made, ADDRESS_CONDITION, "False", reason, sentence)
        event = wait_event(cluster, made, reason, sentence)
        assert (event["type"], event["source"]["component"]) == ("Warning", "lbd")
        assert ingress(cluster.get(made) or {}) == []
    unlike = cluster.service("pool", annotations={POOL: "nowhere"})
    wait_condition(cluster, unlike, ADDRESS_CONDITION, "False", "UnknownAddressPool", "'nowhere'")
    waiting = {"apiVersion": "v1", "kind": "Service", "metadata": {"name": "addressinuse"}}
    cluster.delete(holder)
    assert cluster.wait_ingress(waiting) == [ANOTHER], "it comes as soon as it is free"


# -- another address ---------------------------------------------------------------------------------------------------


def test_a_service_moves_to_another_address_and_the_old_one_serves_until_then(
    cluster: Cluster, lab: Lab, lbd_kubernetes: KubernetesDaemonFactory
) -> None:
    daemon = lbd_kubernetes(cluster, config={"service_engine": {"drain_timeout": "30s"}})
    holder = cluster.service("holder", annotations={ADDRESS: ANOTHER})
    cluster.wait_ingress(holder)
    with serving(lab, echo):
        made, old = published(cluster, [pod.address[4] for pod in lab.pods])
        held = eventually_held(lab, old)
        cluster.annotate(made, **{ADDRESS: ANOTHER})
        wait_condition(cluster, made, ADDRESS_CONDITION, "True", "AddressInUse", "Service", "holder")
        wait_event(cluster, made, "AddressInUse", ANOTHER)
        assert ingress(cluster.get(made) or {}) == [old]

        def too_early() -> bool:
            """Whether the old address refuses though it still is what the status says."""
            return is_refused(lab.client, old) and ingress(cluster.get(made) or {}) == [old]

        with Sampler(too_early, 0.01) as sampler:
            eventually_held(lab, old).close()
            cluster.delete(holder)
            assert cluster.wait_ingress(made, other_than=old) == [ANOTHER]
            eventually_held(lab, ANOTHER).close()
        assert len(sampler.samples) > 5
        assert not any(early for _, early in sampler.samples)
        wait_condition(cluster, made, ADDRESS_CONDITION, "True", "Assigned", ANOTHER)
        eventually(lambda: is_refused(lab.client, old), SERVED_WITHIN_S, "the old one takes nothing new")
        assert held.works(), "what is established goes on"
        held.close()
        wait_withdrawn(lab, daemon, old)
        eventually_held(lab, ANOTHER).close()
        cluster.annotate(made, **{ADDRESS: None})
        cluster.wait_ingress(cluster.service("after"))
        assert ingress(cluster.get(made) or {}) == [ANOTHER], "who asks for nothing keeps what it has"


def test_an_address_that_nobody_has_written_yet_is_not_served_and_the_old_one_is(
    cluster: Cluster, lab: Lab, lbd_kubernetes: KubernetesDaemonFactory, pods: list[str]
) -> None:
    """The Lease is somebody else's, who writes nothing: what is a moment otherwise can be looked at."""
    lease = {"duration": "3s", "renew_deadline": "2s", "retry": "200ms"}
    daemon = lbd_kubernetes(cluster, kubernetes={"lease": lease})
    made, old = published(cluster, pods)
    wait_served(lab, old)
    metadata = {"namespace": LBD_NAMESPACE, "name": LEASE}
    stolen = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease", "metadata": metadata}
    cluster.admin.patch(stolen, {"spec": {"holderIdentity": "somebody-else", "leaseDurationSeconds": 60}})
    eventually(lambda: not kubernetes(daemon)["leader"]["leading"], 5.0, "leads no more")
    cluster.annotate(made, **{ADDRESS: ANOTHER})
    late = cluster.service("late")
    eventually(lambda: kubernetes(daemon)["services"] == 2, 5.0, "both are known as they are now")
    assert len(answers(lab, old)) == 3
    assert set(addresses(lab)) >= {old}
    assert ANOTHER not in addresses(lab)
    assert (ingress(cluster.get(made) or {}), ingress(cluster.get(late) or {})) == ([old], [])
    cluster.forget_lease()
    assert cluster.wait_ingress(made, other_than=old) == [ANOTHER]
    wait_served(lab, ANOTHER)
    assert cluster.wait_ingress(late) == [old], "free again, and the lowest"
    eventually(lambda: is_refused(lab.client, old), SERVED_WITHIN_S, "nobody is behind it")


def test_an_address_that_goes_from_one_service_to_another_is_never_in_two_statuses(
    cluster: Cluster, lbd_kubernetes: KubernetesDaemonFactory
) -> None:
    """The last one by name leaves, so that whoever writes in the order of names is wrong."""
    wait_writing(lbd_kubernetes(cluster))
    made = {name: cluster.service(name) for name in ("c", "b", "a")}
    had = {name: cluster.wait_ingress(one)[0] for name, one in made.items()}
    cluster.annotate(made["b"], **{ADDRESS: had["c"]})
    cluster.annotate(made["a"], **{ADDRESS: had["b"]})
    for name in ("b", "a"):
        wait_condition(cluster, made[name], ADDRESS_CONDITION, "True", "AddressInUse")
    wanted = {"c": ANOTHER, "b": had["c"], "a": had["b"]}
    now = dict(had)
    path = f"/api/v1/namespaces/{cluster.namespace}/services"
    with cluster.watch(path, since=cluster.annotate(made["c"], **{ADDRESS: ANOTHER})) as changes:
        for change in changes:
            [now[change["object"]["metadata"]["name"]]] = ingress(change["object"])
            assert len(set(now.values())) == 3, now
            if now == wanted:
                break
    for one in made.values():
        wait_condition(cluster, one, ADDRESS_CONDITION, "True", "Assigned")


def test_a_service_that_becomes_dual_stack_and_back_keeps_its_first_address(
    cluster: Cluster, lab: Lab, lbd_kubernetes: KubernetesDaemonFactory, pods: list[str]
) -> None:
    daemon = lbd_kubernetes(cluster)
    made, vip = published(cluster, pods)
    cluster.slice("web", [pod.address[6] for pod in lab.pods])
    wait_served(lab, vip)
    with Load(lab.client, vip, rate_per_s=40) as load:
        cluster.patch(made, {"spec": {"ipFamilyPolicy": "RequireDualStack"}})
        assert cluster.wait_ingress(made, 2) == [vip, FIRST[6]]
        wait_served(lab, FIRST[6])
        cluster.patch(made, {"spec": {"ipFamilyPolicy": "SingleStack"}})
        assert cluster.wait_ingress(made, 1) == [vip]
        wait_withdrawn(lab, daemon, FIRST[6])
    assert load.result.failures == []


# -- pools -------------------------------------------------------------------------------------------------------------


def test_pools_are_tried_by_priority_and_only_for_whom_they_admit(
    cluster: Cluster, lbd_kubernetes: KubernetesDaemonFactory
) -> None:
    pools = {
        "low": pool(frontend(150, 151)),
        "high": pool(frontend(160), priority=10),
        "reserved": pool(frontend(165, 166), auto_assign=False, priority=20),
        "elsewhere": pool(frontend(170), namespaces=["another"], priority=30),
        "web-only": pool(frontend(175, 176), service_selector={"app": "web", "tier": "front"}, priority=40),
        "here": pool(frontend(180), namespaces=[cluster.namespace], auto_assign=False),
    }
    watched = {"namespaces": [cluster.namespace, "another"]}
    wait_writing(lbd_kubernetes(cluster, kubernetes=watched, config={"address_pools": pools}))

    def given(name: str, **options: Any) -> list[str]:
        return cluster.wait_ingress(cluster.service(name, **options))

    def refused(name: str, reason: str, *words: str, **options: Any) -> None:
        made = cluster.service(name, **options)
        wait_condition(cluster, made, ADDRESS_CONDITION, "False", reason, *words)
        assert ingress(cluster.get(made) or {}) == []

    assert given("first") == ["172.16.101.160"]
    assert given("second") == ["172.16.101.150"], "high is full"
    assert given("web", labels={"app": "web", "tier": "front", "more": "yes"}) == ["172.16.101.175"]
    assert given("half", labels={"app": "web"}) == ["172.16.101.151"], "all labels, not one of them"
    assert given("asks", annotations={POOL: "reserved"}) == ["172.16.101.165"]
    assert given("asks-for-it", annotations={ADDRESS: "172.16.101.166"}) == ["172.16.101.166"]
    assert given("asks-several", annotations={POOL: "reserved, here"}) == ["172.16.101.180"], "reserved is full"
    refused("a", "AddressPoolNotAllowed", "elsewhere", annotations={POOL: "elsewhere"})
    refused("b", "AddressPoolNotAllowed", "172.16.101.170", annotations={ADDRESS: "172.16.101.170"})
    refused("c", "AddressPoolNotAllowed", "172.16.101.176", annotations={ADDRESS: "172.16.101.176"})
    both = {POOL: "reserved", ADDRESS: "172.16.101.176"}
    refused("d", "AddressNotInPools", "reserved", annotations=both, labels={"app": "web", "tier": "front"})


def test_a_service_moves_to_a_pool_that_it_asks_for_and_keeps_what_it_has_where_that_is_full(
    cluster: Cluster, lbd_kubernetes: KubernetesDaemonFactory
) -> None:
    pools = {"first": pool(frontend(150, 155)), "second": pool(frontend(160), auto_assign=False)}
    wait_writing(lbd_kubernetes(cluster, config={"address_pools": pools}))
    one, two = cluster.service("one"), cluster.service("two")
    cluster.wait_ingress(one)
    [of_two] = cluster.wait_ingress(two)
    cluster.annotate(one, **{POOL: "second"})
    assert cluster.wait_ingress(one, other_than=FIRST[4]) == ["172.16.101.160"]
    cluster.annotate(two, **{POOL: "second"})
    wait_condition(cluster, two, ADDRESS_CONDITION, "True", "AddressPoolFull", "pool second is full: 1 of 1")
    assert ingress(cluster.get(two) or {}) == [of_two]
    cluster.annotate(one, **{POOL: "first"})
    assert cluster.wait_ingress(two, other_than=of_two) == ["172.16.101.160"]


def test_a_full_pool_is_said_with_the_count_and_the_address_comes_by_itself(
    cluster: Cluster, lab: Lab, lbd_kubernetes: KubernetesDaemonFactory, pods: list[str]
) -> None:
    daemon = lbd_kubernetes(cluster, config={"address_pools": {"small": pool(frontend(150, 151))}})
    (one, first), (_, second) = published(cluster, pods, "one"), published(cluster, pods, "two")
    late = cluster.service("late")
    cluster.slice("late", pods)
    sentence = "pool small is full: 2 of 2 addresses are in use"
    wait_condition(cluster, late, ADDRESS_CONDITION, "False", "AddressPoolFull", sentence)
    assert wait_event(cluster, late, "AddressPoolFull", sentence)["type"] == "Warning"
    assert FINALIZER not in (cluster.get(late) or {})["metadata"].get("finalizers", []), "there is nothing to clean up"
    now = kubernetes(daemon)
    assert [(one["name"], one["used"], one["size"]) for one in now["pools"]] == [("small", 2, 2)]
    assert [one["message"] for one in now["object_problems"]] == [sentence]
    cluster.delete(one)
    assert cluster.wait_ingress(late) == [first]
    assert first != second
    wait_served(lab, first)
    wait_condition(cluster, late, ADDRESS_CONDITION, "True", "Assigned", first)


def test_an_enlarged_pool_gives_to_who_waits(cluster: Cluster, lbd_kubernetes: KubernetesDaemonFactory) -> None:
    daemon = lbd_kubernetes(cluster, config={"address_pools": {"small": pool(frontend(150))}})
    cluster.wait_ingress(cluster.service("one"))
    late = cluster.service("late")
    wait_condition(cluster, late, ADDRESS_CONDITION, "False", "AddressPoolFull")
    reloaded(daemon, address_pools={"small": pool(frontend(150, 152))})
    assert cluster.wait_ingress(late) == ["172.16.101.151"]


def test_a_reload_that_takes_a_live_vip_out_of_its_pool_is_refused_by_name_and_changes_nothing(
    cluster: Cluster, lab: Lab, lbd_kubernetes: KubernetesDaemonFactory, pods: list[str]
) -> None:
    daemon = lbd_kubernetes(cluster)
    made, vip = published(cluster, pods)
    wait_served(lab, vip)
    generation = peek(daemon)["generation"]
    smaller = {"lab": pool(frontend(151, 152)), "other": pool(frontend(160))}
    refused = daemon.reload(with_sections(daemon, address_pools=smaller))
    assert refused.returncode == 78
    assert f"address_pools.lab no longer has {vip}, which Service {cluster.namespace}/web has" in refused.stderr
    now = peek(daemon)
    assert (now["generation"], now["config"]["last_reload_success"]) == (generation, False)
    assert {one["name"] for one in now["kubernetes"]["pools"]} == {"lab"}
    assert len(answers(lab, vip)) == 3
    assert cluster.wait_ingress(cluster.service("next")) == ["172.16.101.151"], "the old pools hold"
    elsewhere = {"lab": pool(frontend(151, 152)), "other": pool(frontend(150))}
    reloaded(daemon, address_pools=elsewhere)
    wait_condition(cluster, made, ADDRESS_CONDITION, "True", "Assigned", "pool other")
    cluster.delete(made)
    cluster.wait_gone(made, 10.0)
    reloaded(daemon, address_pools=smaller)


def test_an_address_that_no_pool_has_any_more_at_a_start_is_kept_served_and_reported(
    cluster: Cluster, lab: Lab, lbd_kubernetes: KubernetesDaemonFactory, pods: list[str]
) -> None:
    daemon = lbd_kubernetes(cluster)
    made, vip = published(cluster, pods)
    wait_served(lab, vip)
    daemon.terminate()
    daemon.wait()
    daemon.write_config(with_sections(daemon, address_pools={"lab": pool(frontend(160, 170))}))
    daemon.start()
    wait_served(lab, vip)
    sentence = f"{vip} is in no address pool any more; the Service keeps it"
    wait_condition(cluster, made, ADDRESS_CONDITION, "True", "AddressOutsidePools", sentence)
    wait_event(cluster, made, "AddressOutsidePools", sentence)
    assert sentence in [one["message"] for one in kubernetes(daemon)["object_problems"]]
    assert ingress(cluster.get(made) or {}) == [vip]
    assert cluster.wait_ingress(cluster.service("next")) == ["172.16.101.160"]
    cluster.annotate(made, **{POOL: "lab"})
    assert cluster.wait_ingress(made, other_than=vip) == ["172.16.101.161"]
    wait_served(lab, "172.16.101.161")


def test_addresses_stay_when_lbd_is_killed_and_the_pools_have_other_priorities_then(
    cluster: Cluster, lab: Lab, lbd_kubernetes: KubernetesDaemonFactory, pods: list[str]
) -> None:
    pools = {"one": pool(frontend(150, 152)), "two": pool(frontend(160, 169))}
    daemon = lbd_kubernetes(cluster, config={"address_pools": pools})
    made = [published(cluster, pods, name) for name in ("a", "b", "c", "d")]
    wait_served(lab, made[-1][1])
    cluster.delete(made[0][0])
    cluster.wait_gone(made[0][0], 10.0)
    daemon.kill()
    early = cluster.service("early")
    cluster.forget_lease()
    daemon.write_config(with_sections(daemon, address_pools={**pools, "two": pool(frontend(160, 169), priority=5)}))
    daemon.start()
    assert cluster.wait_ingress(early) == ["172.16.101.161"]
    for kept, vip in made[1:]:
        wait_served(lab, vip)
        assert ingress(cluster.get(kept) or {}) == [vip]


# -- addresses of others -----------------------------------------------------------------------------------------------


def test_an_address_of_the_files_is_never_given(
    cluster: Cluster, lab: Lab, lbd_kubernetes: KubernetesDaemonFactory, pods: list[str]
) -> None:
    members = [{"address": lab.pods[0].address[4], "port": 80}]
    files = [service("of-the-files", FIRST[4], members)]
    daemon = lbd_kubernetes(cluster, config={"virtual_services": files})
    wait_writing(daemon)
    wait_served(lab, FIRST[4])
    asking = cluster.service("asking", annotations={ADDRESS: FIRST[4]})
    wait_condition(cluster, asking, ADDRESS_CONDITION, "False", "AddressInUse", FIRST[4], "of-the-files")
    wait_event(cluster, asking, "AddressInUse", FIRST[4])
    made, vip = published(cluster, pods)
    assert vip == "172.16.101.151"
    wait_served(lab, vip)
    more = [*files, service("too-much", vip, members, port=81)]
    refused = daemon.reload(with_sections(daemon, virtual_services=more))
    assert refused.returncode == 78
    assert f'VIP {vip} of "too-much" is that of Service {cluster.namespace}/web' in refused.stderr
    assert ingress(cluster.get(made) or {}) == [vip]
    assert len(answers(lab, vip)) == 3
    reloaded(daemon, virtual_services=None)
    assert cluster.wait_ingress(asking) == [FIRST[4]]


def test_an_address_that_somebody_else_wrote_into_a_status_is_not_honoured(
    cluster: Cluster, lab: Lab, lbd_kubernetes: KubernetesDaemonFactory, pods: list[str]
) -> None:
    pools = {"lab": pool(frontend(150, 170)), "reserved": pool(frontend(180), auto_assign=False)}
    daemon = lbd_kubernetes(cluster, config={"address_pools": pools}, start=False)
    forged = {
        "client": lab.client_address[4],
        "engine": lab.se_front_address[4],
        "pod": pods[0],
        "loopback": "127.0.0.1",
        "reserved": "172.16.101.180",
    }
    made = {name: cluster.service(name) for name in forged}
    daemon.start()
    victim, vip = published(cluster, pods, "victim")
    for service_ in made.values():
        cluster.wait_ingress(service_)
    daemon.terminate()
    daemon.wait()
    fresh = {}
    for name, address in {**forged, "victims": vip}.items():
        written = service_manifest(f"forged-{name}")
        fresh[name] = cluster.apply(written)
        cluster.slice(f"forged-{name}", pods)
        cluster.patch_status(written, {"loadBalancer": {"ingress": [{"ip": address}]}})
    mark = daemon.log.mark()
    daemon.start()
    for name, address in {**forged, "victims": vip}.items():
        [given] = cluster.wait_ingress(fresh[name], other_than=address)
        assert given.startswith("172.16.101.1")
        wait_served(lab, given)
    assert ingress(cluster.get(victim) or {}) == [vip]
    wait_served(lab, vip)
    announced = {record.get("vip", record.get("address")) for record in daemon.log.records[mark:]}
    assert not announced & set(forged.values()) - {pods[0]}
    assert not set(addresses(lab)) & {"127.0.0.1", lab.client_address[4], pods[0], "172.16.101.180"}


def test_a_status_that_somebody_clears_says_the_same_address_again(
    cluster: Cluster, lab: Lab, lbd_kubernetes: KubernetesDaemonFactory, pods: list[str]
) -> None:
    lbd_kubernetes(cluster)
    first = cluster.service("first")
    cluster.wait_ingress(first)
    made, vip = published(cluster, pods)
    wait_served(lab, vip)
    cluster.delete(first)
    cluster.wait_gone(first, 10.0)
    for status in ({"loadBalancer": None}, {"loadBalancer": None, "conditions": None}):
        cluster.patch_status(made, status)
        assert cluster.wait_ingress(made) == [vip], "not the lowest that is free"
        wait_condition(cluster, made, ADDRESS_CONDITION, "True", "Assigned", vip)
    wait_served(lab, vip)


# -- sharing -----------------------------------------------------------------------------------------------------------


def test_services_share_an_address_and_who_wants_a_port_twice_waits_for_it(
    cluster: Cluster, lab: Lab, lbd_kubernetes: KubernetesDaemonFactory
) -> None:
    daemon = lbd_kubernetes(cluster)
    addresses_of_pods = [pod.address[4] for pod in lab.pods]
    with serving(lab, http, 80, 81):
        for name, port in (("http", 80), ("more", 81), ("again", 80)):
            cluster.slice(name, addresses_of_pods, [port])
        web = cluster.service("http", [80], annotations={SHARED: "front"})
        [vip] = cluster.wait_ingress(web)
        more = cluster.service("more", [81], annotations={"ako.vmware.com/enable-shared-vip": "front"})
        assert cluster.wait_ingress(more) == [vip]
        for port in (80, 81):
            wait_served(lab, vip, port)
        again = cluster.service("again", [80], annotations={SHARED: "front"})
        sentence = f"port 80/TCP of shared VIP 'front' is Service {cluster.namespace}/http's"
        wait_condition(cluster, again, ADDRESS_CONDITION, "False", "SharedVipConflict", sentence)
        wait_event(cluster, again, "SharedVipConflict", sentence)
        assert ingress(cluster.get(again) or {}) == []
        with Load(lab.client, vip, 81, rate_per_s=40) as load:
            cluster.delete(web)
            assert cluster.wait_ingress(again) == [vip]
            wait_served(lab, vip, 80)
            cluster.wait_gone(web, 10.0)
            cluster.annotate(more, **{"ako.vmware.com/enable-shared-vip": "front", SHARED: None})
        assert load.result.failures == [], "its neighbours come and go"
        cluster.delete(more)
        cluster.wait_gone(more, 10.0)
        eventually(lambda: is_refused(lab.client, vip, 81), SERVED_WITHIN_S, "refused")
        assert len(answers(lab, vip, 80)) == 3
        cluster.delete(again)
        wait_withdrawn(lab, daemon, vip)


def test_the_same_name_in_another_namespace_shares_nothing(
    cluster: Cluster, lbd_kubernetes: KubernetesDaemonFactory
) -> None:
    other = f"{cluster.namespace}-other"
    cluster.admin.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": other}})
    wait_writing(lbd_kubernetes(cluster, kubernetes={"namespaces": [cluster.namespace, other]}))
    written = service_manifest("web", [81], annotations={SHARED: "front"})
    there = cluster.apply({**written, "metadata": {**written["metadata"], "namespace": other}})
    try:
        [vip] = cluster.wait_ingress(cluster.service("web", [80], annotations={SHARED: "front"}))
        assert cluster.wait_ingress(there) not in ([], [vip])
    finally:
        cluster.delete(there)
        cluster.wait_gone(there, 10.0)


# -- the end -----------------------------------------------------------------------------------------------------------


def test_a_deleted_service_stays_until_its_connections_have_ended(
    cluster: Cluster, lab: Lab, lbd_kubernetes: KubernetesDaemonFactory
) -> None:
    daemon = lbd_kubernetes(cluster, config={"service_engine": {"drain_timeout": "60s"}})
    with serving(lab, echo):
        made, vip = published(cluster, [pod.address[4] for pod in lab.pods])
        held = [eventually_held(lab, vip), Held(lab.client, vip)]
        assert all(one.works() for one in held)
        cluster.delete(made)
        eventually(lambda: is_refused(lab.client, vip), SERVED_WITHIN_S, "nothing new")
        held[0].close()
        eventually(lambda: peek(daemon).service(f"{cluster.namespace}/web:80")["traffic"]["active_connections"] == 1)
        waiting = cluster.service("waiting", annotations={ADDRESS: vip})
        wait_condition(cluster, waiting, ADDRESS_CONDITION, "False", "AddressInUse", "which is being removed")
        assert held[1].works()
        now = cluster.get(made)
        assert now is not None
        assert FINALIZER in now["metadata"]["finalizers"]
        held[1].close()
        cluster.wait_gone(made, 10.0)
        assert cluster.wait_ingress(waiting) == [vip], "not before nothing of the old one is left"


def test_a_deleted_service_is_let_go_at_the_deadline_whoever_is_connected(
    cluster: Cluster, lab: Lab, lbd_kubernetes: KubernetesDaemonFactory
) -> None:
    lbd_kubernetes(cluster, config={"service_engine": {"drain_timeout": "1s"}})
    with serving(lab, echo):
        made, vip = published(cluster, [pod.address[4] for pod in lab.pods])
        held = eventually_held(lab, vip)
        begun_s = time.monotonic()
        cluster.delete(made)
        assert held.how_it_ends() == "reset"
        assert elapsed_s(begun_s) > 0.8
        cluster.wait_gone(made, 10.0)
        assert vip not in addresses(lab)


# -- many --------------------------------------------------------------------------------------------------------------


def test_30_services_of_the_same_moment_get_30_addresses_and_none_is_ever_written_twice(
    cluster: Cluster, lab: Lab, lbd_kubernetes: KubernetesDaemonFactory
) -> None:
    daemon = lbd_kubernetes(cluster)
    wait_writing(daemon)
    first, *others = [service_manifest(f"web-{number}") for number in range(30)]
    made = cluster.create(first)
    seen: dict[str, list[str]] = {}
    with cluster.watch(f"/api/v1/namespaces/{cluster.namespace}/services", since=made) as changes:
        cluster.create_many(others, threads=10)
        for change in changes:
            now = change["object"]
            name, given = now["metadata"]["name"], ingress(now)
            assert given or name not in seen, "what was written stays"
            if given:
                assert seen.setdefault(name, given) == given, "and does not change"
            if len(seen) == 30:
                break
    given = [address for one in seen.values() for address in one]
    assert sorted(given) == [f"172.16.101.{number}" for number in range(150, 180)]
    eventually(lambda: set(given) <= set(addresses(lab)), 20.0, "all are on the interface")
    assert [one["used"] for one in kubernetes(daemon)["pools"] if one["family"] == 4] == [30]
