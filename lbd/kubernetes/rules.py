"""L4Rules: whether one is accepted as it is written, and what is in force. Pure.

A rule that is edited into a rejected one keeps what was accepted last in force, and says so.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lbd.kubernetes.objects import L4Rule, RuleStatus
from lbd.kubernetes.rule_policy import RulePolicy
from lbd.model.kubernetes import Kubernetes

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
    was accepted last; None and 0 where there was none or its references no longer resolve. `remembered` is what to hand
    to the next judgement, `status` what the rule's status shall say; its `error` also says what is in force instead.
    """

    accepted: bool
    error: str
    in_force: RulePolicy | None
    generation_in_force: int
    remembered: Accepted | None
    status: RuleStatus


def judge_rule(rule: L4Rule, kubernetes: Kubernetes, remembered: Accepted | None) -> RuleVerdict:
    """Judge a rule as it is written now; `remembered` is what was accepted last, as far as it is known here.

    What the rule's own status says was accepted counts too: the later generation of the two is in force.
    """
    raise NotImplementedError
