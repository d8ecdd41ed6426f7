"""From a cluster's objects to virtual services: what each change comes to, and what it costs."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import pytest

from lbd.kubernetes import assembly as assembly_module
from lbd.kubernetes.assembly import Assembly, Changes
from lbd.kubernetes.objects.kinds import (
    ADDRESS_CONDITION,
    FINALIZER,
    NOBODY,
    RULE_ANNOTATION,
    RULE_CONDITION,
    Condition,
    EndpointSlice,
    L4Rule,
    ObjectKey,
    RuleStatus,
    Service,
    ServicePort,
    SliceEndpoint,
)
from lbd.kubernetes.rules import rule_book
from lbd.kubernetes.writing.wishes import ServiceWish
from lbd.model.desired import Algorithm, Protocol
from lbd.model.kubernetes import SYSTEM_PROFILES, AddressPool, AddressRange, Kubernetes, NetworkSecurityPolicy

POOL = AddressPool("web", (AddressRange("172.16.101.150", "172.16.101.160"),))
KUBERNETES = Kubernetes(address_pools=(POOL,))
GIVEN = Condition(ADDRESS_CONDITION, "True", "Assigned", "")
HASHED = {
    "backendProperties": [
        {
            "port": 80,
            "protocol": "TCP",
            "lbAlgorithm": "LB_ALGORITHM_CONSISTENT_HASH",
            "lbAlgorithmHash": "LB_ALGORITHM_CONSISTENT_HASH_SOURCE_IP_ADDRESS",
        }
    ]
}
BAD = {"vsDatascriptRefs": ["a-script"]}


def service(name: str = "web", **changes: Any) -> Service:
    made = Service(
        key=ObjectKey("default", name),
        uid=f"uid-{name}",
        resource_version="1",
        created="2026-01-01T00:00:00Z",
        type="LoadBalancer",
        load_balancer_class="lbd.io/service-engine",
        ports=(ServicePort("http", 80, Protocol.TCP),),
    )
    return replace(made, **changes)


def published(name: str = "web", address: str = "172.16.101.150", **changes: Any) -> Service:
    """Return a Service that says what the writer wrote."""
    return service(name, **{"ingress": (address,), "conditions": (GIVEN,), "finalizers": (FINALIZER,), **changes})


def slice_of(name: str = "web", *addresses: str, **changes: Any) -> EndpointSlice:
    endpoints = tuple(SliceEndpoint((address,)) for address in addresses)
    made = EndpointSlice(ObjectKey("default", f"{name}-1"), name, 4, (("http", 8080, Protocol.TCP),), endpoints)
    return replace(made, **changes)


def rule(spec: Mapping[str, Any], generation: int = 1, name: str = "tuned") -> L4Rule:
    return L4Rule(ObjectKey("default", name), "uid-rule", "1", generation, spec)


class Cluster:
    """An assembly with the objects of a test, and what it said last."""

    def __init__(self, *objects: Service | EndpointSlice | L4Rule, taken: Mapping[str, str] | None = None) -> None:
        self.assembly = Assembly(KUBERNETES, taken or {})
        self.held: set[ObjectKey] = set()
        self.changes = self.put(*objects)

    def put(self, *objects: Service | EndpointSlice | L4Rule) -> Changes:
        for one in objects:
            put: Callable[[ObjectKey, Any], None] = {
                Service: self.assembly.put_service,
                EndpointSlice: self.assembly.put_slice,
                L4Rule: self.assembly.put_rule,
            }[type(one)]
            put(one.key, one)
        return self.settle()

    def settle(self) -> Changes:
        self.changes = self.assembly.settle(lambda key: key not in self.held)
        return self.changes

    @property
    def members(self) -> dict[str, list[str]]:
        return {
            one.name: [member.endpoint.address for member in one.pool.members] for one in self.changes.virtual_services
        }


def wish_of(changes: Changes, name: str = "web") -> ServiceWish:
    (found,) = [one.wish for one in changes.decisions if one.service.key.name == name]
    return found


def notes_of(changes: Changes) -> list[str]:
    return [note.reason for one in changes.decisions for note in one.notes]


# -- addresses: the status is the record -------------------------------------------------------------------------------


def test_an_address_that_is_to_move_is_served_until_the_status_says_the_new_one_also_when_another_waits_for_it():
    full = AddressPool("web", (AddressRange("172.16.101.150", "172.16.101.150"),))
    asked = AddressPool("asked", (AddressRange("172.16.101.200", "172.16.101.200"),), auto_assign=False)
    cluster = Cluster(published("moves"), service("waits", created="2026-01-02T00:00:00Z"))
    cluster.assembly.reconfigure(replace(KUBERNETES, address_pools=(full, asked)), {})
    annotations = (("lbd.io/address", "172.16.101.200"),)
    changes = cluster.put(published("moves", annotations=annotations))
    assert [one.service.key.name for one in changes.decisions] == ["moves"]
    assert wish_of(changes, "moves").addresses == ("172.16.101.200",)
    assert [(one.name, one.vip) for one in changes.virtual_services] == [("default/moves:80", "172.16.101.150")]

    changes = cluster.put(
        published("moves", "172.16.101.200", annotations=annotations), published("waits", "172.16.101.150")
    )
    assert [(one.name, one.vip) for one in changes.virtual_services] == [
        ("default/moves:80", "172.16.101.200"),
        ("default/waits:80", "172.16.101.150"),
    ]


def test_a_service_without_an_address_gets_one_wished_and_nothing_is_served_yet():
    cluster = Cluster(service(), slice_of("web", "10.10.52.11"))
    assert cluster.members == {}
    wish = wish_of(cluster.changes)
    assert wish.addresses == ("172.16.101.150",)
    assert wish.finalizer
    assert [(one.type, one.status) for one in wish.conditions] == [(ADDRESS_CONDITION, "True")]
    assert notes_of(cluster.changes) == ["AddressAssigned"]


def test_what_the_status_says_is_served():
    cluster = Cluster(published(), slice_of("web", "10.10.52.11", "10.10.52.12"))
    assert cluster.members == {"default/web:80": ["10.10.52.11", "10.10.52.12"]}
    assert cluster.changes.virtual_services[0].vip == "172.16.101.150"
    assert notes_of(cluster.changes) == []


def test_an_address_that_lbd_did_not_give_is_not_served():
    forged = service(ingress=("172.16.101.250",))
    assert Cluster(forged, slice_of("web", "10.10.52.11")).members == {}


def test_two_services_that_claim_one_address_are_not_both_served_on_it():
    second = published("second", created="2026-02-01T00:00:00Z")
    cluster = Cluster(published("first"), second)
    assert [one.name for one in cluster.changes.virtual_services] == ["default/first:80"]
    assert wish_of(cluster.changes, "second").addresses == ("172.16.101.151",)


def test_an_address_is_served_until_the_status_says_another_one():
    asking = published(annotations=(("lbd.io/address", "172.16.101.155"),))
    cluster = Cluster(asking)
    assert [one.vip for one in cluster.changes.virtual_services] == ["172.16.101.150"]
    assert wish_of(cluster.changes).addresses == ("172.16.101.155",)
    cluster.put(replace(asking, ingress=("172.16.101.155",)))
    assert [one.vip for one in cluster.changes.virtual_services] == ["172.16.101.155"]


def test_who_comes_while_an_address_is_being_written_gets_another_one():
    """Both are of the same second, and the later one is first by name."""
    cluster = Cluster(service("b"))
    assert wish_of(cluster.changes, "b").addresses == ("172.16.101.150",)
    cluster.put(service("a"))
    assert wish_of(cluster.changes, "a").addresses == ("172.16.101.151",)
    assert cluster.assembly.allocations[ObjectKey("default", "b")].addresses == ("172.16.101.150",)
    cluster.put(published("b"), service("0"))
    assert wish_of(cluster.changes, "0").addresses == ("172.16.101.152",)
    assert cluster.assembly.allocations[ObjectKey("default", "a")].addresses == ("172.16.101.151",)


def test_what_a_status_says_goes_before_what_was_to_be_written():
    """Another service engine was the writer, and it had come to something else."""
    cluster = Cluster(service("b"), service("c"))
    cluster.put(published("b", "172.16.101.151"))
    assert cluster.assembly.allocations[ObjectKey("default", "b")].addresses == ("172.16.101.151",)
    assert cluster.assembly.allocations[ObjectKey("default", "c")].addresses == ("172.16.101.150",)
    cluster.assembly.put_service(ObjectKey("default", "c"), None)
    cluster.put(service("d"))
    assert wish_of(cluster.changes, "d").addresses == ("172.16.101.150",)


def test_a_status_that_somebody_clears_gets_the_same_address_again():
    cluster = Cluster(published("b", "172.16.101.155"), service("a"))
    cluster.put(published("b", "172.16.101.155", ingress=()), service("0"))
    assert wish_of(cluster.changes, "b").addresses == ("172.16.101.155",)
    cluster.put(service("b", resource_version="2"))
    assert cluster.assembly.allocations[ObjectKey("default", "b")].addresses == ("172.16.101.155",)


def asks(address: str) -> tuple[tuple[str, str], ...]:
    return (("lbd.io/address", address),)


def test_who_gets_an_address_that_another_one_leaves_waits_until_its_status_says_so():
    leaving = published("z", annotations=asks("172.16.101.155"))
    waiting = published("a", "172.16.101.151", annotations=asks("172.16.101.150"))
    new = service("b", created="2026-02-01T00:00:00Z", annotations=asks("172.16.101.151"))
    cluster = Cluster(leaving, waiting, new)
    assert {one.service.key.name: one.wish.addresses for one in cluster.changes.decisions} == {"z": ("172.16.101.155",)}
    assert cluster.changes.gone == ()
    assert {one.vip for one in cluster.changes.virtual_services} == {"172.16.101.150", "172.16.101.151"}
    cluster.put(replace(leaving, ingress=("172.16.101.155",)))
    assert wish_of(cluster.changes, "a").addresses == ("172.16.101.150",)
    assert [one for one in cluster.changes.decisions if one.service.key.name == "b"] == []
    cluster.put(replace(waiting, ingress=("172.16.101.150",)))
    assert wish_of(cluster.changes, "b").addresses == ("172.16.101.151",)
    assert notes_of(cluster.changes) == ["AddressAssigned"]


@pytest.mark.parametrize("end", [None, {"type": "ClusterIP", "finalizers": (), "conditions": (), "ingress": ()}])
def test_who_waits_is_looked_at_again_when_the_other_one_is_gone(end: dict[str, Any] | None):
    leaving = published("z", annotations=asks("172.16.101.155"))
    waiting = published("a", "172.16.101.151", annotations=asks("172.16.101.150"))
    cluster = Cluster(leaving, waiting)
    cluster.assembly.put_service(leaving.key, None if end is None else replace(leaving, **end))
    assert wish_of(cluster.settle(), "a").addresses == ("172.16.101.150",)


def test_who_waits_and_goes_is_not_waited_for():
    leaving = published("z", annotations=asks("172.16.101.155"))
    waiting = service("a", annotations=asks("172.16.101.150"))
    cluster = Cluster(leaving, waiting)
    cluster.assembly.put_service(waiting.key, None)
    assert cluster.settle().gone == (waiting.key,)
    cluster.put(replace(leaving, ingress=("172.16.101.155",)))
    assert [one.service.key.name for one in cluster.changes.decisions] == ["z"]


def test_who_has_to_wait_after_a_first_look_is_not_written_by_what_was_found_then():
    leaving, new = published("z"), service("a", created="2026-02-01T00:00:00Z", **NAMING)
    cluster = Cluster(leaving)
    cluster.assembly.put_service(new.key, new)
    assert not cluster.assembly.work_off(lambda _key: True, 10)
    asking = replace(new, annotations=(*NAMING["annotations"], *asks("172.16.101.150")))
    cluster.put(asking, replace(leaving, annotations=asks("172.16.101.155")))
    assert [one.service.key.name for one in cluster.changes.decisions] == ["z"]
    cluster.put(published("z", "172.16.101.155", annotations=asks("172.16.101.155")))
    assert wish_of(cluster.changes, "a").addresses == ("172.16.101.150",)
    assert notes_of(cluster.changes) == ["RuleNotFound", "AddressAssigned"]


def test_who_waits_for_one_that_joins_it_waits_no_more():
    shared = (("lbd.io/shared-vip", "front"),)
    leaving = published("z", annotations=asks("172.16.101.155"))
    waiting = service("a", annotations=(*asks("172.16.101.150"), *shared))
    cluster = Cluster(leaving, waiting)
    assert [one.service.key.name for one in cluster.changes.decisions] == ["z"]
    cluster.put(published("z", annotations=shared, ports=(ServicePort("more", 81, Protocol.TCP),)))
    assert wish_of(cluster.changes, "a").addresses == ("172.16.101.150",)
    assert wish_of(cluster.changes, "z").addresses == ("172.16.101.150",)


def test_an_address_that_somebody_wrote_into_another_status_is_not_waited_for():
    forged = service("z", ingress=("172.16.101.150",), annotations=asks("172.16.101.155"))
    assert wish_of(Cluster(forged, service("a", annotations=asks("172.16.101.150"))).changes, "a").addresses == (
        "172.16.101.150",
    )


def test_an_address_of_the_files_is_not_given_away():
    cluster = Cluster(service(), taken={"172.16.101.150": 'virtual service "web"'})
    assert wish_of(cluster.changes).addresses == ("172.16.101.151",)


def test_a_full_pool_is_a_problem_with_the_count_and_said_once():
    many = [published(f"s{i:02}", f"172.16.101.{150 + i}") for i in range(11)]
    cluster = Cluster(*many, service("late", created="2026-03-01T00:00:00Z"))
    late = cluster.assembly.decided[ObjectKey("default", "late")]
    assert "11 of 11" in late.problems[0].message
    assert not late.wish.finalizer
    assert notes_of(cluster.changes) == [late.problems[0].reason]
    again = cluster.put(service("late", created="2026-03-01T00:00:00Z", resource_version="2"))
    assert notes_of(again) == []


# -- members -----------------------------------------------------------------------------------------------------------


def test_slices_are_merged_moved_and_taken_away():
    other = slice_of("web", "10.10.52.12", key=ObjectKey("default", "web-2"))
    cluster = Cluster(published(), slice_of("web", "10.10.52.11"), other)
    assert cluster.members == {"default/web:80": ["10.10.52.11", "10.10.52.12"]}
    cluster.put(replace(other, service="somebody-else"))
    assert cluster.members == {"default/web:80": ["10.10.52.11"]}
    cluster.assembly.put_slice(ObjectKey("default", "web-1"), None)
    cluster.settle()
    assert cluster.members == {"default/web:80": []}


def test_slices_that_come_before_their_service_are_kept_for_it():
    cluster = Cluster(slice_of("web", "10.10.52.11"))
    cluster.put(published())
    assert cluster.members == {"default/web:80": ["10.10.52.11"]}


def test_a_member_with_an_address_of_a_pool_is_refused():
    cluster = Cluster(published(), slice_of("web", "10.10.52.11", "172.16.101.153"))
    assert cluster.members == {"default/web:80": ["10.10.52.11"]}
    assert "172.16.101.153" in cluster.assembly.decided[ObjectKey("default", "web")].problems[0].message


# -- rules -------------------------------------------------------------------------------------------------------------

NAMING = {"annotations": ((RULE_ANNOTATION, "tuned"),)}


def test_a_rule_is_in_force_for_the_services_that_name_it():
    cluster = Cluster(published(**NAMING), published("other", "172.16.101.151"), rule(HASHED))
    algorithms = {one.name: one.pool.algorithm for one in cluster.changes.virtual_services}
    assert algorithms["default/web:80"] is Algorithm.CONSISTENT_HASH
    assert algorithms["default/other:80"] is not Algorithm.CONSISTENT_HASH
    (found,) = [one for one in wish_of(cluster.changes).conditions if one.type == RULE_CONDITION]
    assert found.status == "True"


def test_a_rejected_edit_keeps_what_was_accepted_last_and_says_so():
    cluster = Cluster(published(**NAMING), rule(HASHED))
    before = cluster.changes.virtual_services
    changes = cluster.put(rule(BAD, generation=2))
    assert changes.virtual_services[0] is before[0]
    ((_, verdict),) = changes.rules
    assert (verdict.accepted, verdict.generation_in_force) == (False, 1)
    assert notes_of(changes) == ["RuleRejected"]
    (found,) = [one for one in wish_of(changes).conditions if one.type == RULE_CONDITION]
    assert found.status == "False"
    assert "vsDatascriptRefs" in found.message


def test_a_rule_that_is_not_there_is_a_problem_until_it_comes():
    cluster = Cluster(published(**NAMING))
    assert notes_of(cluster.changes) == ["RuleNotFound"]
    changes = cluster.put(rule(HASHED))
    assert changes.virtual_services[0].pool.algorithm is Algorithm.CONSISTENT_HASH
    assert cluster.assembly.decided[ObjectKey("default", "web")].problems == ()


def test_a_rule_in_a_namespace_that_is_not_watched_is_not_said_to_be_missing():
    elsewhere = published(annotations=((RULE_ANNOTATION, "rules/tuned"),))
    (said,) = Cluster(elsewhere).assembly.decided[ObjectKey("default", "web")].problems
    assert said.message == "there is no L4Rule rules/tuned: the defaults hold"
    narrow = Assembly(replace(KUBERNETES, namespaces=("default",)), {})
    narrow.put_service(elsewhere.key, elsewhere)
    narrow.settle(lambda _key: True)
    (said,) = narrow.decided[elsewhere.key].problems
    assert said.reason == "RuleNotFound"
    assert "rules/tuned is in a namespace that kubernetes.namespaces does not have" in said.message


def test_a_rule_that_goes_leaves_the_defaults():
    cluster = Cluster(published(**NAMING), rule(HASHED))
    cluster.assembly.put_rule(ObjectKey("default", "tuned"), None)
    changes = cluster.settle()
    assert changes.virtual_services[0].pool.algorithm is not Algorithm.CONSISTENT_HASH
    assert changes.rules_gone == (ObjectKey("default", "tuned"),)


def test_a_rule_that_was_deleted_and_made_again_has_nothing_to_fall_back_to():
    cluster = Cluster(published(**NAMING), rule(HASHED, generation=1))
    changes = cluster.put(replace(rule(BAD, generation=1), uid="uid-another"))
    ((_, verdict),) = changes.rules
    assert (verdict.accepted, verdict.generation_in_force) == (False, 0)


GUARDED = {"networkSecurityPolicyRef": "office"}
OFFICE = NetworkSecurityPolicy("office", ("10.0.0.0/8",))


def guarded(*objects: Service | L4Rule) -> Cluster:
    cluster = Cluster()
    cluster.assembly.reconfigure(replace(KUBERNETES, profiles=(*SYSTEM_PROFILES, OFFICE)), {})
    cluster.put(*objects)
    return cluster


def test_a_configuration_without_a_profile_of_a_rule_in_force_is_said_to_break_it():
    cluster = guarded(published(**NAMING), rule(GUARDED))
    (sentence,) = cluster.assembly.rules_broken_by(KUBERNETES)
    assert sentence.startswith("L4Rule default/tuned is in force and would be no more: ")
    assert "office" in sentence


def test_a_restriction_that_is_not_known_any_more_lets_nobody_in_instead_of_everybody():
    accepted = RuleStatus("Accepted", "", 1, 1, GUARDED)
    cluster = Cluster(published(**NAMING), slice_of("web", "10.10.52.11"), replace(rule(GUARDED), status=accepted))
    (served,) = cluster.changes.virtual_services
    assert served.source_ranges == NOBODY
    rejected, nobody = cluster.assembly.decided[ObjectKey("default", "web")].problems
    assert (rejected.reason, nobody.reason) == ("RuleRejected", "NobodyLetIn")
    assert "nobody is let in" in rejected.message
    cluster.assembly.reconfigure(replace(KUBERNETES, profiles=(*SYSTEM_PROFILES, OFFICE)), {})
    (served,) = cluster.settle().virtual_services
    assert served.source_ranges == ("10.0.0.0/8",)


def test_a_restriction_that_never_was_accepted_closes_nothing():
    cluster = Cluster(published(**NAMING), rule(GUARDED))
    assert cluster.changes.virtual_services[0].source_ranges == ()


def test_a_rule_that_nobody_names_or_that_is_not_in_force_breaks_no_reload():
    assert guarded(published(), rule(GUARDED)).assembly.rules_broken_by(KUBERNETES) == ()
    assert guarded(published(**NAMING), rule(BAD)).assembly.rules_broken_by(KUBERNETES) == ()
    keeping = replace(KUBERNETES, profiles=(*SYSTEM_PROFILES, OFFICE))
    assert guarded(published(**NAMING), rule(GUARDED)).assembly.rules_broken_by(keeping) == ()


def test_a_rule_that_only_services_of_another_class_name_is_named_by_nobody_here():
    other = published(**NAMING, load_balancer_class="somebody.else/lb")
    cluster = Cluster(other, rule(HASHED))
    assert cluster.assembly.services_naming(ObjectKey("default", "tuned")) == 0
    changes = cluster.put(published("ours", "172.16.101.151", **NAMING))
    assert cluster.assembly.services_naming(ObjectKey("default", "tuned")) == 1
    assert [one.key.name for one, _ in changes.rules] == ["tuned"]  # it is ours to write about from now on


def test_a_rule_of_another_namespace_can_be_named():
    naming = published(annotations=((RULE_ANNOTATION, "shop/tuned"),))
    cluster = Cluster(naming, replace(rule(HASHED), key=ObjectKey("shop", "tuned")))
    assert cluster.changes.virtual_services[0].pool.algorithm is Algorithm.CONSISTENT_HASH


# -- leaving -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("change", [{"deleting": True}, {"type": "ClusterIP"}], ids=["deleted", "another type"])
def test_a_service_that_leaves_is_cleaned_up_when_nothing_of_it_is_left_here(change: dict[str, Any]):
    cluster = Cluster(published())
    cluster.held = {ObjectKey("default", "web")}
    changes = cluster.put(published(**change))
    assert changes.virtual_services == ()
    assert changes.decisions == ()
    assert cluster.assembly.leaving == cluster.held
    cluster.held = set()
    changes = cluster.settle()
    assert wish_of(changes) == ServiceWish()
    assert cluster.assembly.leaving == set()


def test_the_address_of_a_service_that_leaves_is_not_given_to_another_before_it_is_gone():
    cluster = Cluster(published())
    cluster.held = {ObjectKey("default", "web")}
    cluster.put(published(deleting=True))
    changes = cluster.put(service("next"))
    assert wish_of(changes, "next").addresses == ("172.16.101.151",)
    cluster.put(published("next", "172.16.101.151"))
    cluster.assembly.put_service(ObjectKey("default", "web"), None)
    assert cluster.put(service("after", created="2026-05-01T00:00:00Z")).gone == (ObjectKey("default", "web"),)
    assert wish_of(cluster.changes, "after").addresses == ("172.16.101.150",)


def test_a_service_that_comes_back_before_it_was_cleaned_up_is_served_again():
    cluster = Cluster(published())
    cluster.held = {ObjectKey("default", "web")}
    cluster.put(published(type="ClusterIP"))
    changes = cluster.put(published())
    assert cluster.assembly.leaving == set()
    assert [one.vip for one in changes.virtual_services] == ["172.16.101.150"]


def test_a_service_of_another_class_is_touched_by_nobody():
    cluster = Cluster(published(load_balancer_class="somebody.else/lb"))
    assert cluster.changes.virtual_services == ()
    assert cluster.changes.decisions == ()


# -- cost --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def counted(monkeypatch: pytest.MonkeyPatch) -> dict[str, int]:
    """How often the three expensive decisions are made."""
    counts = {"translate": 0, "allocate": 0, "judge_rule": 0}

    def counting(module: Any, name: str) -> None:
        real = getattr(module, name)

        def count(*arguments: Any) -> Any:
            counts[name] += 1
            return real(*arguments)

        monkeypatch.setattr(module, name, count)

    counting(assembly_module, "translate")
    counting(assembly_module, "allocate")
    counting(rule_book, "judge_rule")
    return counts


def fifty() -> Cluster:
    pool = replace(POOL, ranges=(AddressRange("172.16.1.1", "172.16.1.250"),))
    cluster = Cluster()
    cluster.assembly.reconfigure(replace(KUBERNETES, address_pools=(pool,)), {})
    cluster.put(
        *(published(f"s{i:02}", f"172.16.1.{i + 1}", **NAMING if i < 2 else {}) for i in range(50)), rule(HASHED)
    )
    return cluster


def test_a_change_of_one_slice_costs_one_translation(counted: dict[str, int]):
    cluster = fifty()
    before = cluster.changes.virtual_services
    counted.update(translate=0, allocate=0, judge_rule=0)
    after = cluster.put(slice_of("s07", "10.10.52.11")).virtual_services
    assert counted == {"translate": 1, "allocate": 0, "judge_rule": 0}
    assert [one.name for one, other in zip(after, before, strict=True) if one is not other] == ["default/s07:80"]


def test_what_was_written_to_a_status_costs_no_allocation(counted: dict[str, int]):
    cluster = fifty()
    counted.update(translate=0, allocate=0, judge_rule=0)
    cluster.put(published("s07", "172.16.1.8", resource_version="2", finalizers=(FINALIZER, "another")))
    assert counted == {"translate": 1, "allocate": 0, "judge_rule": 0}


def test_a_finalizer_that_comes_before_the_address_costs_no_allocation(counted: dict[str, int]):
    cluster = fifty()
    cluster.put(service("late"))
    counted.update(translate=0, allocate=0, judge_rule=0)
    cluster.put(service("late", resource_version="2", finalizers=(FINALIZER,)))
    assert counted["allocate"] == 0


def test_a_condition_that_somebody_takes_away_is_wished_again_and_costs_no_traffic(counted: dict[str, int]):
    cluster = Cluster(published("kept", "172.16.101.250"))
    counted.update(translate=0, allocate=0, judge_rule=0)
    changes = cluster.put(published("kept", "172.16.101.250", resource_version="2", conditions=()))
    assert counted["allocate"] == 0
    assert [one.vip for one in changes.virtual_services] == ["172.16.101.250"]
    assert wish_of(changes, "kept").conditions[0].status == "True"


def test_a_change_of_a_rule_costs_the_services_that_name_it(counted: dict[str, int]):
    cluster = fifty()
    counted.update(translate=0, allocate=0, judge_rule=0)
    cluster.put(rule({}, generation=2))
    assert counted["judge_rule"] == 1
    assert counted["translate"] == 2


def test_services_that_are_nobodys_load_balancer_cost_nothing(counted: dict[str, int]):
    cluster = fifty()
    counted.update(translate=0, allocate=0, judge_rule=0)
    changes = cluster.put(service("inner", type="ClusterIP"), slice_of("inner", "10.10.52.11"))
    assert counted["allocate"] == 0
    assert changes.decisions == ()


def test_after_a_new_configuration_everything_is_looked_at_and_what_did_not_change_is_the_same(counted: dict[str, int]):
    cluster = fifty()
    before = cluster.changes.virtual_services
    counted.update(translate=0, allocate=0, judge_rule=0)
    pool = replace(POOL, name="renamed", ranges=(AddressRange("172.16.1.1", "172.16.1.250"),))
    cluster.assembly.reconfigure(replace(KUBERNETES, address_pools=(pool,)), {})
    after = cluster.settle().virtual_services
    assert counted == {"translate": 50, "allocate": 1, "judge_rule": 1}
    assert all(one is other for one, other in zip(after, before, strict=True))


def test_a_pool_that_shrank_under_an_address_keeps_it_and_says_so():
    cluster = Cluster(published(), slice_of("web", "10.10.52.11"))
    smaller = replace(POOL, ranges=(AddressRange("172.16.101.155", "172.16.101.160"),))
    cluster.assembly.reconfigure(replace(KUBERNETES, address_pools=(smaller,)), {})
    changes = cluster.settle()
    assert [one.vip for one in changes.virtual_services] == ["172.16.101.150"]
    assert wish_of(changes).addresses == ("172.16.101.150",)
    assert len(notes_of(changes)) == 1


def test_who_begins_to_lead_hears_again_what_is_wrong():
    cluster = Cluster(published(**NAMING))
    assert notes_of(cluster.settle()) == []
    cluster.assembly.repeat()
    assert notes_of(cluster.settle()) == ["RuleNotFound"]


def test_what_touches_all_services_is_worked_off_in_turns_and_said_as_a_whole(monkeypatch: pytest.MonkeyPatch):
    names = [f"web-{number}" for number in range(5)]
    cluster = Cluster(*(published(name, f"172.16.101.{150 + number}") for number, name in enumerate(names)))
    looked_at: list[str] = []
    translate = assembly_module.translate

    def noting(one: Service, *rest: Any) -> Any:
        looked_at.append(one.key.name)
        return translate(one, *rest)

    monkeypatch.setattr(assembly_module, "translate", noting)
    cluster.assembly.repeat()
    assert cluster.assembly.work_off(lambda _key: True, 2)
    assert len(looked_at) == 2
    assert len(cluster.assembly.decided) == 5, "nobody who asks meanwhile is told that Services are gone"
    assert cluster.assembly.work_off(lambda _key: True, 2)
    changes = cluster.settle()
    assert sorted(looked_at) == names, "each once"
    assert [one.service.key.name for one in changes.decisions] == names
    assert not cluster.assembly.work_off(lambda _key: True, 2)
    assert cluster.settle().decisions == ()


def test_a_service_that_is_gone_is_gone_also_when_it_was_worked_off_before():
    cluster = Cluster(published())
    cluster.assembly.put_service(ObjectKey("default", "web"), None)
    assert not cluster.assembly.work_off(lambda _key: True, 2)
    assert cluster.settle().gone == (ObjectKey("default", "web"),)
