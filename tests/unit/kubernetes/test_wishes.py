"""What is sent to the API, in which order, and what is left out because it stands there already."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from lbd.kubernetes.objects.kinds import (
    ADDRESS_CONDITION,
    FINALIZER,
    RULE_CONDITION,
    Condition,
    L4Rule,
    ObjectKey,
    RuleStatus,
    Service,
)
from lbd.kubernetes.writing.wishes import ServicePatch, ServiceWish, patches, rule_patches
from lbd.model.kubernetes import DEFAULT_LOAD_BALANCER_CLASS

THEN, NOW = "2026-11-29T09:00:00Z", "2026-11-29T10:00:00Z"
NEW = Service(ObjectKey("a", "web"), "u", "7", "", "LoadBalancer", DEFAULT_LOAD_BALANCER_CLASS, ())
ASSIGNED = Condition(ADDRESS_CONDITION, "True", "Assigned", "10.0.0.1 from pool web")
RULE = Condition(RULE_CONDITION, "True", "Accepted", "generation 3 of L4Rule a/r is in force")
OTHERS = Condition("example.com/Other", "True", "X", "y", 0, THEN)
WISH = ServiceWish(("10.0.0.1",), (ASSIGNED,), True)
SERVED = replace(
    NEW,
    finalizers=("x/other", FINALIZER),
    ingress=("10.0.0.1",),
    conditions=(OTHERS, replace(ASSIGNED, last_transition_time=THEN)),
)
MARK = {
    "type": ADDRESS_CONDITION,
    "status": "True",
    "reason": "Assigned",
    "message": "10.0.0.1 from pool web",
    "lastTransitionTime": NOW,
}
INGRESS = {"ingress": [{"ip": "10.0.0.1", "ipMode": "Proxy"}]}


def bodies(made: tuple[ServicePatch, ...]) -> list[tuple[bool, dict[str, Any]]]:
    assert all(one.content_type == "application/strategic-merge-patch+json" for one in made)
    return [(one.status, one.changes) for one in made]


def test_the_finalizer_goes_on_before_the_address_is_published() -> None:
    made = patches(replace(NEW, finalizers=("x/other",), conditions=(OTHERS,)), WISH, NOW)
    assert bodies(made) == [
        (False, {"metadata": {"finalizers": [FINALIZER]}}),  # merged: the other one is not among it
        (True, {"status": {"loadBalancer": INGRESS, "conditions": [MARK]}}),
    ]


def test_every_patch_names_the_version_that_it_is_for() -> None:
    finalizer, status = patches(NEW, WISH, NOW)
    assert finalizer.body("7") == {"metadata": {"finalizers": [FINALIZER], "resourceVersion": "7"}}
    assert status.body("8")["metadata"] == {"resourceVersion": "8"}
    assert "resourceVersion" not in finalizer.changes["metadata"]


def test_what_stands_there_is_not_sent_again() -> None:
    assert patches(SERVED, WISH, NOW) == ()


@pytest.mark.parametrize(
    "service",
    [
        NEW,
        SERVED,
        replace(SERVED, finalizers=()),
        replace(SERVED, conditions=()),
        replace(SERVED, ingress=("10.0.0.9",)),
    ],
)
@pytest.mark.parametrize(
    "wish",
    [
        WISH,
        ServiceWish(),
        ServiceWish(("10.0.0.1", "fd00::1"), (ASSIGNED, RULE), True),
        ServiceWish((), (replace(ASSIGNED, status="False"),), False),
        ServiceWish((), (replace(ASSIGNED, status="False"),), True),
    ],
)
@pytest.mark.parametrize("kind", ["LoadBalancer", "ClusterIP"])
def test_after_the_patches_nothing_is_left_to_do(service: Service, wish: ServiceWish, kind: str) -> None:
    service = replace(service, type=kind)
    made = patches(service, wish, NOW)
    assert patches(made[-1].after if made else service, wish, "2026-11-29T11:00:00Z") == ()
    for number, one in enumerate(made):  # and whoever begins again in the middle does the rest
        assert patches(one.after, wish, NOW) == made[number + 1 :]


def test_a_condition_keeps_its_time_until_its_status_changes() -> None:
    reworded = replace(ASSIGNED, message="10.0.0.1 from pool other", observed_generation=4)
    (one,) = patches(SERVED, replace(WISH, conditions=(reworded,)), NOW)
    assert one.changes["status"]["conditions"] == [
        {**MARK, "message": "10.0.0.1 from pool other", "lastTransitionTime": THEN, "observedGeneration": 4}
    ]
    turned = replace(ASSIGNED, status="False", reason="AddressPoolFull")
    (one,) = patches(SERVED, ServiceWish((), (turned,), True), NOW)
    assert one.changes["status"]["conditions"][0]["lastTransitionTime"] == NOW
    assert one.changes["status"]["loadBalancer"] == {"ingress": None}


def test_conditions_of_others_are_never_sent_and_ours_that_are_not_wished_are_removed() -> None:
    made = patches(
        replace(SERVED, conditions=(*SERVED.conditions, replace(RULE, last_transition_time=THEN))), WISH, NOW
    )
    assert bodies(made) == [(True, {"status": {"conditions": [{"$patch": "delete", "type": RULE_CONDITION}]}})]
    assert made[0].after.conditions == SERVED.conditions


def test_an_address_is_written_with_its_mode_though_somebody_wrote_the_same_one_before() -> None:
    made = patches(replace(NEW, ingress=("10.0.0.1",), finalizers=(FINALIZER,)), WISH, NOW)
    assert made[0].changes["status"]["loadBalancer"] == INGRESS


def test_a_forged_address_is_taken_away() -> None:
    full = replace(ASSIGNED, status="False", reason="AddressPoolFull")
    forged = replace(NEW, ingress=("192.0.2.1",), conditions=(replace(full, last_transition_time=THEN),))
    assert bodies(patches(forged, ServiceWish((), (full,), False), NOW)) == [
        (True, {"status": {"loadBalancer": {"ingress": None}}})
    ]


def test_a_service_without_an_address_gets_a_condition_and_no_finalizer() -> None:
    full = replace(ASSIGNED, status="False", reason="AddressPoolFull")
    made = patches(NEW, ServiceWish((), (full,), False), NOW)
    assert [one.status for one in made] == [True]
    assert FINALIZER not in made[0].after.finalizers


def test_cleaning_up_takes_the_address_back_then_the_finalizer_and_keeps_its_mark_to_the_end() -> None:
    left = replace(SERVED, type="ClusterIP", conditions=(*SERVED.conditions, RULE))
    made = patches(left, ServiceWish(), NOW)
    assert [one.status for one in made] == [True, False, True]
    released = made[0].changes["status"]
    assert released["loadBalancer"] == {"ingress": None}
    assert {"$patch": "delete", "type": RULE_CONDITION} in released["conditions"]
    assert made[1].changes == {"metadata": {"$deleteFromPrimitiveList/finalizers": [FINALIZER]}}
    assert made[1].after.condition(ADDRESS_CONDITION) is not None
    assert made[2].changes == {"status": {"conditions": [{"$patch": "delete", "type": ADDRESS_CONDITION}]}}
    assert made[2].after == replace(
        left, finalizers=("x/other",), ingress=(), conditions=(OTHERS,), resource_version="7"
    )


def test_of_a_service_that_is_deleted_the_finalizer_is_the_last_that_is_touched() -> None:
    made = patches(replace(SERVED, deleting=True), ServiceWish(), NOW)
    assert [one.status for one in made] == [True, False]


def test_cleaning_up_leaves_an_address_that_lbd_did_not_write() -> None:
    others = replace(SERVED, conditions=(replace(ASSIGNED, status="False"),), ingress=("192.0.2.1",))
    made = patches(others, ServiceWish(), NOW)
    assert [one.status for one in made] == [False, True]
    assert all("loadBalancer" not in one.changes.get("status", {}) for one in made)
    assert made[-1].after.ingress == ("192.0.2.1",)


def test_nothing_of_ours_means_nothing_to_do() -> None:
    assert patches(replace(NEW, conditions=(OTHERS,), ingress=("192.0.2.1",)), ServiceWish(), NOW) == ()


def test_no_finalizer_is_added_to_what_is_being_deleted() -> None:
    made = patches(replace(NEW, deleting=True), WISH, NOW)
    assert [one.status for one in made] == [True]


def test_a_long_message_is_cut_and_still_compared_rightly() -> None:
    wish = replace(WISH, conditions=(replace(ASSIGNED, message="x" * 100_000),))
    (one,) = patches(SERVED, wish, NOW)
    assert len(one.changes["status"]["conditions"][0]["message"]) == 4096
    assert patches(one.after, wish, NOW) == ()


STORED = L4Rule(ObjectKey("a", "r"), "u", "7", 3, {}, RuleStatus("Accepted", "", 2, 2, {"x": {"y": 1, "z": 2}}))


def test_a_rule_s_status_is_replaced_as_a_whole_and_only_at_its_version() -> None:
    (one,) = rule_patches(STORED, RuleStatus("Rejected", "no such monitor", 3, 2, {"x": {"y": 1}}))
    assert (one.status, one.content_type) == (True, "application/json-patch+json")
    assert one.body("9") == [
        {"op": "replace", "path": "/metadata/resourceVersion", "value": "9"},
        {
            "op": "add",
            "path": "/status",
            "value": {
                "status": "Rejected",
                "error": "no such monitor",
                "observedGeneration": 3,
                "acceptedGeneration": 2,
                "acceptedSpec": {"x": {"y": 1}},
            },
        },
    ]
    assert rule_patches(one.after, one.after.status) == ()
    assert rule_patches(STORED, STORED.status) == ()


def test_a_rule_that_was_never_accepted_has_no_accepted_spec() -> None:
    (one,) = rule_patches(STORED, RuleStatus("Rejected", "x", 3))
    assert "acceptedSpec" not in one.operations[0]["value"]
