"""L4Rules: whether one is accepted as it is written, and what is in force. Pure.

A rule that is edited into a rejected one keeps what was accepted last in force, and says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lbd.kubernetes.objects.fields import shown
from lbd.kubernetes.objects.kinds import NOBODY, L4Rule, RuleStatus
from lbd.kubernetes.rules.rule_fields import read_spec
from lbd.kubernetes.rules.rule_policy import RulePolicy
from lbd.kubernetes.rules.rule_profiles import Catalog
from lbd.kubernetes.rules.rule_reading import joined
from lbd.model.kubernetes import Kubernetes, NetworkSecurityPolicy

ACCEPTED, REJECTED = "Accepted", "Rejected"
"""The words of `status.status`."""


@dataclass(frozen=True, slots=True)
class Accepted:
    """The spec that was accepted last, and the rule's generation then."""

    generation: int
    spec: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class RuleVerdict:
    """What was found of a rule.

    `accepted` is about the spec as it is written now, and `error` names all that is wrong with it, as one line.
    `in_force` is the policy of `generation_in_force`: of this generation if it is accepted, otherwise of the one that
    was accepted last; None and 0 where there was none or its references no longer resolve (if it restricted clients,
    `in_force` lets nobody in meanwhile). `remembered` is what to hand to the next judgement, `status` what the rule's
    status shall say; its `error` also says what is in force instead.
    """

    accepted: bool
    error: str
    in_force: RulePolicy | None
    generation_in_force: int
    remembered: Accepted | None
    status: RuleStatus


def judge_rule(rule: L4Rule, kubernetes: Kubernetes, remembered: Accepted | None) -> RuleVerdict:
    """Judge a rule as it is written now; `remembered` is what was accepted last, as far as it is known here.

    What the rule's own status says was accepted counts too. Where it is about the rule as it is written now it is the
    record; until then the later generation of the two is in force.
    """
    catalog = Catalog(kubernetes)
    policy, errors = read_spec(rule.spec, catalog)
    if not errors:
        now = Accepted(rule.generation, rule.spec)
        status = RuleStatus(ACCEPTED, "", rule.generation, rule.generation, rule.spec)
        return RuleVerdict(True, "", policy, rule.generation, now, status)
    return _rejected(rule, joined(errors), catalog, _last_accepted(rule, remembered))


def _last_accepted(rule: L4Rule, remembered: Accepted | None) -> Accepted | None:
    """Return what was accepted last. A generation that the rule has not reached is that of another object.

    Of two quick edits one service engine may have seen both and another one just the second: the record decides.
    """
    status = rule.status
    recorded = None
    if status.accepted_spec is not None and 0 < status.accepted_generation <= rule.generation:
        recorded = Accepted(status.accepted_generation, status.accepted_spec)
        if status.observed_generation == rule.generation:
            return recorded
    if remembered is None or remembered.generation > rule.generation:
        return recorded
    return remembered if recorded is None or remembered.generation > recorded.generation else recorded


def _rejected(rule: L4Rule, error: str, catalog: Catalog, last: Accepted | None) -> RuleVerdict:
    if last is None:
        status = RuleStatus(REJECTED, f"{error}; no generation of this rule is in force", rule.generation)
        return RuleVerdict(False, error, None, 0, None, status)
    policy, errors = read_spec(last.spec, catalog)
    found = f"generation {last.generation}, which was accepted,"
    guard = _guard_of(last) if errors else None
    if not errors:
        instead = f"{found} stays in force"
    elif joined(errors) == error:
        instead = f"{found} can't stay in force for the same reason"
    else:
        instead = f"{found} can't stay in force: {errors[0]}"
    if guard is not None:
        instead += (
            f"; it restricts clients by networkSecurityPolicyRef {shown(guard.name)}, so nobody is let in meanwhile"
        )
    # What was accepted stays on record even so: it is in force again as soon as its references resolve again.
    status = RuleStatus(REJECTED, f"{error}; {instead}", rule.generation, last.generation, last.spec)
    if not errors:
        return RuleVerdict(False, error, policy, last.generation, last, status)
    in_force = None if guard is None else RulePolicy(network_security=guard)
    return RuleVerdict(False, error, in_force, 0, last, status)


def _guard_of(last: Accepted) -> NetworkSecurityPolicy | None:
    """Return a policy that lets nobody in where an accepted rule restricted clients in a way that isn't known any more:
    a profile that is missing must not open a Service to everybody."""
    name = last.spec.get("networkSecurityPolicyRef")
    return NetworkSecurityPolicy(name, NOBODY) if isinstance(name, str) and name else None
