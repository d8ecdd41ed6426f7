"""Claims about what is found of rules and Services offline."""

from __future__ import annotations

from typing import Any

import pytest

from lbd.kubernetes.lint import Finding, Verdict, lint
from lbd.kubernetes.objects.manifests import Manifest
from lbd.model.desired import ProxyProtocol
from lbd.model.kubernetes import SYSTEM_PROFILES, AddressPool, AddressRange, ApplicationProfile, Kubernetes

POOLS = (AddressPool("web", (AddressRange("172.16.101.150", "172.16.101.150"),)),)
V1 = ApplicationProfile("v1", proxy_protocol=ProxyProtocol.V1)
BUILT_IN = Kubernetes()
CONFIGURED = Kubernetes(address_pools=POOLS, profiles=(*SYSTEM_PROFILES, V1))
REFERENCE = "there is no application profile"


def rule(name: str = "r", spec: object = None, version: str = "ako.vmware.com/v1alpha2") -> Manifest:
    raw = {"metadata": {"name": name, "namespace": "shop"}, "spec": {} if spec is None else spec}
    return Manifest("rules.yaml", "L4Rule", version, raw)


def service(name: str = "s", rule: str = "", **spec: Any) -> Manifest:
    metadata = {"name": name, "namespace": "shop", "annotations": {"ako.vmware.com/l4rule": rule} if rule else {}}
    given = {"type": "LoadBalancer", "loadBalancerClass": "lbd.io/service-engine"} | {
        "ports": [{"port": 80, "protocol": "TCP"}]
    }
    return Manifest("services.yaml", "Service", "v1", {"metadata": metadata, "spec": given | spec})


def findings(*manifests: Manifest, kubernetes: Kubernetes = BUILT_IN) -> list[Finding]:
    return lint(manifests, kubernetes, with_addresses=kubernetes is not BUILT_IN)


def finding(*manifests: Manifest, kubernetes: Kubernetes = BUILT_IN) -> Finding:
    """Return what is found of the last one."""
    return findings(*manifests, kubernetes=kubernetes)[-1]


def test_a_good_rule_is_accepted():
    assert str(finding(rule())) == "rules.yaml: L4Rule shop/r: Accepted"


def test_a_bad_rule_is_rejected_with_the_daemons_sentence():
    found = finding(rule(spec={"revokeVipRoute": True, "loadBalancerIP": "x"}))
    assert str(found) == (
        "rules.yaml: L4Rule shop/r: Rejected: spec.revokeVipRoute: true is not supported: lbd announces VIPs on "
        'layer 2, without routes; spec.loadBalancerIP: "x" is not an IP address: names are not looked up'
    )
    assert not found.misses_reference


def test_a_rule_that_names_what_is_not_there_says_that_another_configuration_may_have_it():
    manifest = rule(spec={"applicationProfileRef": "v1"})
    assert finding(manifest).misses_reference
    assert finding(manifest, kubernetes=CONFIGURED).verdict is Verdict.ACCEPTED


@pytest.mark.parametrize(
    ("manifest", "sentence"),
    [
        (rule(spec=[1]), "spec is a list, not an object"),
        (rule(version="ako.vmware.com/v1alpha1"), "apiVersion is 'ako.vmware.com/v1alpha1', and lbd reads ako.vmware."),
        (Manifest("f", "L4Rule", "ako.vmware.com/v1alpha2", {"metadata": {}}), "metadata.name is "),
        (Manifest("f", "Service", "v1", {}), "metadata."),
        (Manifest("f", "Service", "", service().raw), "apiVersion is '', and lbd reads v1"),
        (service(name="UPPER"), "metadata.name is 'UPPER'"),
    ],
)
def test_what_is_no_object_at_all_is_rejected(manifest, sentence):
    found = finding(manifest)
    assert found.verdict is Verdict.REJECTED
    assert found.sentence.startswith(sentence)


def test_an_object_without_a_name_is_known_by_its_kind():
    assert finding(Manifest("f", "L4Rule", "ako.vmware.com/v1alpha2", {"metadata": {}})).subject == "L4Rule"


def test_a_service_of_the_name_of_a_rule_is_not_that_rule():
    unusable = Manifest("f", "Service", "v1", {"metadata": {"name": "r", "namespace": "shop"}, "spec": 1})
    assert finding(unusable, service(rule="r")).notes == ("its L4Rule shop/r is not in these files",)


def test_an_object_that_is_there_twice_is_rejected_and_the_first_one_counts():
    first, second, named = findings(rule(), rule(spec={"x": 1}), service(rule="r"))
    assert (first.verdict, second.verdict) == (Verdict.ACCEPTED, Verdict.REJECTED)
    assert second.sentence == "it is there twice, and only one can be applied"
    assert named.notes == ()
    assert [one.verdict for one in findings(rule("a"), service("a"))] == [Verdict.ACCEPTED] * 2


def test_a_good_service_is_accepted():
    assert str(finding(service())) == "services.yaml: Service shop/s: Accepted"


def test_what_a_service_has_that_cannot_be_used_is_named():
    found = finding(service(loadBalancerIP="nowhere", sessionAffinity="Cookie"))
    assert found.verdict is Verdict.REJECTED
    assert "spec.loadBalancerIP is 'nowhere'" in found.sentence
    assert "spec.sessionAffinity is 'Cookie'" in found.sentence


@pytest.mark.parametrize(
    ("manifest", "kubernetes", "sentence"),
    [
        (service(type="ClusterIP"), BUILT_IN, "it is of type ClusterIP, and lbd serves those of type LoadBalancer"),
        (
            service(loadBalancerClass="other/class"),
            BUILT_IN,
            "its loadBalancerClass is other/class: lbd.io/service-eng",
        ),
        (service(loadBalancerClass=None), BUILT_IN, "it has no loadBalancerClass: lbd.io/service-engine is what lbd"),
        (service(), Kubernetes(namespaces=("a", "b")), "lbd looks after the namespaces a, b"),
    ],
)
def test_a_service_that_is_not_lbds_is_ignored_and_that_is_said(manifest, kubernetes, sentence):
    found = finding(manifest, kubernetes=kubernetes)
    assert found.verdict is Verdict.IGNORED
    assert found.sentence.startswith(sentence)


def test_a_service_without_a_class_is_judged_where_that_is_lbds_too():
    kubernetes = Kubernetes(default_class=True, address_pools=POOLS)
    assert finding(service(loadBalancerClass=None), kubernetes=kubernetes).verdict is Verdict.ACCEPTED


def test_a_service_that_names_a_rule_elsewhere_says_so_and_is_accepted():
    found = finding(rule("other"), service(rule="r"))
    assert str(found) == "services.yaml: Service shop/s: Accepted: note: its L4Rule shop/r is not in these files"


def test_a_rule_may_be_in_a_later_file_and_in_another_namespace():
    first, _rule = findings(service(rule="shop/r"), rule())
    assert first.notes == ()
    assert finding(rule(), service(rule="elsewhere/r")).notes == ("its L4Rule elsewhere/r is not in these files",)


@pytest.mark.parametrize("bad", [rule(spec={"x": 1}), rule(spec=7)])
def test_a_service_whose_rule_is_rejected_says_so(bad):
    note = "its L4Rule shop/r is rejected: without an accepted one the defaults hold"
    assert finding(bad, service(rule="r")).notes == (note,)


def test_what_a_rule_asks_for_and_its_service_cannot_have_is_noted():
    ports = [{"port": 53, "protocol": "UDP"}]
    found = finding(rule(spec={"applicationProfileRef": "v1"}), service(rule="r", ports=ports), kubernetes=CONFIGURED)
    assert found.verdict is Verdict.ACCEPTED
    (note,) = found.notes
    assert note.startswith('proxy_protocol of the application profile "v1" does not apply to UDP port 53')


def test_an_address_in_no_pool_is_rejected_where_the_pools_are_known():
    asking = service(loadBalancerIP="172.16.101.7")
    assert finding(asking).verdict is Verdict.ACCEPTED
    found = finding(asking, kubernetes=CONFIGURED)
    assert found.verdict is Verdict.REJECTED
    assert "172.16.101.7" in found.sentence


def test_the_address_that_a_rule_asks_for_is_its_services():
    asking = rule(spec={"loadBalancerIP": "172.16.101.7"})
    found = finding(asking, service(rule="r"), kubernetes=CONFIGURED)
    assert "172.16.101.7" in found.sentence
    good = rule(spec={"loadBalancerIP": "172.16.101.150"})
    assert finding(good, service(rule="r"), kubernetes=CONFIGURED).verdict is Verdict.ACCEPTED


def test_what_a_manifest_says_of_the_cluster_does_not_count():
    """As in the output of `kubectl get -o yaml`: that an address is taken there says nothing about this file."""
    exported = service()
    raw = dict(exported.raw) | {"status": {"loadBalancer": {"ingress": [{"ip": "10.0.0.1"}]}}}
    raw["metadata"] = {**raw["metadata"], "deletionTimestamp": "2026-11-29T10:00:00Z"}
    assert finding(Manifest("f", "Service", "v1", raw), kubernetes=CONFIGURED).verdict is Verdict.ACCEPTED
