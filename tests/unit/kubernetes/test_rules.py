"""Claims about the verdict on an L4Rule: what is in force, which generation of it, and what the status says."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lbd.kubernetes.objects.kinds import L4Rule, ObjectKey, RuleStatus
from lbd.kubernetes.rules.judge import Accepted, RuleVerdict, judge_rule
from lbd.model.kubernetes import SYSTEM_PROFILES, ApplicationProfile, Kubernetes

KEY = ObjectKey("default", "my-l4-rule")
GOOD = {"performanceLimits": {"maxConcurrentConnections": 105}}
BETTER = {"performanceLimits": {"maxConcurrentConnections": 200}}
BAD = {"performanceLimits": {"maxConcurrentConnections": -1}}
NAMES_CUSTOM = {"applicationProfileRef": "custom"}
NO_STATUS = RuleStatus()
WITHOUT_CUSTOM = Kubernetes()
WITH_CUSTOM = Kubernetes(profiles=(*SYSTEM_PROFILES, ApplicationProfile("custom", connection_rate=5.0)))


def judged(
    spec: Mapping[str, Any],
    generation: int = 1,
    *,
    status: RuleStatus = NO_STATUS,
    remembered: Accepted | None = None,
    kubernetes: Kubernetes = WITHOUT_CUSTOM,
) -> RuleVerdict:
    return judge_rule(L4Rule(KEY, "uid", "1", generation, spec, status), kubernetes, remembered)


def in_force(verdict: RuleVerdict) -> int | None:
    return None if verdict.in_force is None else verdict.in_force.max_connections


def test_a_good_rule_is_accepted_and_is_what_is_to_be_remembered():
    verdict = judged(GOOD, 7)
    assert verdict.accepted
    assert verdict.error == ""
    assert (in_force(verdict), verdict.generation_in_force) == (105, 7)
    assert verdict.remembered == Accepted(7, GOOD)
    assert verdict.status == RuleStatus("Accepted", "", 7, 7, GOOD)


def test_a_good_edit_replaces_what_was_accepted_before():
    verdict = judged(BETTER, 8, remembered=Accepted(7, GOOD), status=RuleStatus("Accepted", "", 7, 7, GOOD))
    assert (in_force(verdict), verdict.generation_in_force) == (200, 8)
    assert verdict.remembered == Accepted(8, BETTER)


def test_a_bad_rule_that_was_never_good_leaves_nothing_in_force():
    verdict = judged(BAD, 3)
    assert not verdict.accepted
    assert (verdict.in_force, verdict.generation_in_force, verdict.remembered) == (None, 0, None)
    sentence = "spec.performanceLimits.maxConcurrentConnections: -1 is not a number of connections (0-65535)"
    assert verdict.error == sentence
    assert verdict.status == RuleStatus("Rejected", f"{sentence}; no generation of this rule is in force", 3)


def test_a_bad_edit_keeps_what_was_accepted_last_in_force_and_says_so():
    verdict = judged(BAD, 8, remembered=Accepted(7, GOOD))
    assert not verdict.accepted
    assert (in_force(verdict), verdict.generation_in_force) == (105, 7)
    assert verdict.remembered == Accepted(7, GOOD)
    status = verdict.status
    assert status.error == f"{verdict.error}; generation 7, which was accepted, stays in force"
    assert (status.status, status.observed_generation) == ("Rejected", 8)
    assert (status.accepted_generation, status.accepted_spec) == (7, GOOD)


def test_an_engine_that_has_just_started_takes_what_was_accepted_from_the_status():
    verdict = judged(BAD, 8, status=RuleStatus("Rejected", "…", 8, 7, GOOD))
    assert (in_force(verdict), verdict.generation_in_force) == (105, 7)
    assert verdict.remembered == Accepted(7, GOOD)


def test_the_later_of_memory_and_status_is_in_force_until_the_status_is_about_this_generation():
    older, later = Accepted(6, GOOD), Accepted(7, BETTER)
    for remembered, recorded in ((older, later), (later, older)):
        status = RuleStatus("Rejected", "…", 7, recorded.generation, recorded.spec)
        verdict = judged(BAD, 8, remembered=remembered, status=status)
        assert (in_force(verdict), verdict.generation_in_force) == (200, 7)


def test_what_the_writer_has_found_of_this_generation_holds_for_all_whatever_they_have_seen():
    """One that has seen generation 7, which came and went at once, and one that has not."""
    status = RuleStatus("Rejected", "…", 8, 6, GOOD)
    for remembered in (None, Accepted(5, BETTER), Accepted(6, GOOD), Accepted(7, BETTER)):
        verdict = judged(BAD, 8, remembered=remembered, status=status)
        assert (in_force(verdict), verdict.generation_in_force) == (105, 6)
        assert verdict.remembered == Accepted(6, GOOD)


def test_a_status_of_this_generation_without_a_spec_takes_nothing_out_of_force():
    """Another controller's CRD has no place for it."""
    verdict = judged(BAD, 8, remembered=Accepted(7, GOOD), status=RuleStatus("Rejected", "…", 8))
    assert (in_force(verdict), verdict.generation_in_force) == (105, 7)


def test_what_was_accepted_of_another_object_of_this_name_is_not_in_force():
    """Generations count from 1 again when a rule is deleted and made anew."""
    verdict = judged(BAD, 1, remembered=Accepted(7, GOOD), status=RuleStatus("Accepted", "", 9, 9, GOOD))
    assert (verdict.in_force, verdict.generation_in_force, verdict.remembered) == (None, 0, None)


def test_a_status_without_a_spec_or_a_generation_is_no_record():
    for status in (RuleStatus("Accepted", "", 2, 2, None), RuleStatus("Accepted", "", 2, 0, GOOD)):
        assert judged(BAD, 3, status=status).in_force is None


def test_the_record_is_judged_again_and_may_be_hostile():
    for spec in (BAD, {"x": [[[[[[[[[[[[[[[[[]]]]]]]]]]]]]]]]]}, {"backendProperties": "no"}):
        verdict = judged(BAD, 8, status=RuleStatus("Accepted", "", 7, 7, spec))
        assert (verdict.in_force, verdict.generation_in_force) == (None, 0)


def test_a_profile_that_is_gone_takes_its_rule_out_of_force_and_back_into_it_when_it_returns():
    accepted = judged(NAMES_CUSTOM, 1, kubernetes=WITH_CUSTOM)
    gone = judged(NAMES_CUSTOM, 1, remembered=accepted.remembered, status=accepted.status)
    assert (gone.accepted, gone.in_force, gone.generation_in_force) == (False, None, 0)
    assert gone.status.error.endswith("; generation 1, which was accepted, can't stay in force for the same reason")
    back = judged(NAMES_CUSTOM, 1, remembered=gone.remembered, status=gone.status, kubernetes=WITH_CUSTOM)
    assert back == accepted


def test_what_was_accepted_is_remembered_while_its_profile_is_gone():
    gone = judged(BAD, 2, remembered=Accepted(1, NAMES_CUSTOM))
    assert (gone.in_force, gone.generation_in_force) == (None, 0)
    assert "generation 1, which was accepted, can't stay in force: spec.applicationProfileRef: " in gone.status.error
    assert (gone.status.accepted_generation, gone.status.accepted_spec) == (1, NAMES_CUSTOM)
    back = judged(BAD, 2, remembered=gone.remembered, status=gone.status, kubernetes=WITH_CUSTOM)
    assert back.in_force is not None
    assert back.in_force.application.connection_rate == 5.0


def test_a_changed_profile_changes_the_policy_that_is_in_force():
    slower = Kubernetes(profiles=(*SYSTEM_PROFILES, ApplicationProfile("custom", connection_rate=1.0)))
    verdict = judged(BAD, 2, remembered=Accepted(1, NAMES_CUSTOM), kubernetes=slower)
    assert verdict.in_force is not None
    assert verdict.in_force.application.connection_rate == 1.0


def test_judging_the_written_status_again_changes_nothing():
    for spec, remembered in ((GOOD, None), (BAD, None), (BAD, Accepted(1, GOOD)), (BAD, Accepted(1, NAMES_CUSTOM))):
        once = judged(spec, 2, remembered=remembered)
        assert judged(spec, 2, remembered=once.remembered, status=once.status) == once


def test_what_an_event_can_carry_says_what_is_in_force():
    worst = {"a" * 100 + str(number): number for number in range(100)}
    verdict = judged(worst, 8, remembered=Accepted(7, NAMES_CUSTOM))
    assert len(verdict.status.error.encode()) <= 1024
    assert "; generation 7, which was accepted, can't stay in force: " in verdict.status.error
