"""What the API shall say of a Service: its wish, and what to tell its users by Events. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from lbd.kubernetes.addresses.address_condition import address_condition
from lbd.kubernetes.addresses.allocator import Allocation
from lbd.kubernetes.objects.kinds import FINALIZER, RULE_CONDITION, Condition, Service
from lbd.kubernetes.objects.problem import Problem
from lbd.kubernetes.rules.rule_book import NamedRule
from lbd.kubernetes.writing.wishes import ServiceWish

ADDRESS_ASSIGNED = "AddressAssigned"
RULE_NOT_FOUND = "RuleNotFound"
RULE_REJECTED = "RuleRejected"


@dataclass(frozen=True, slots=True)
class Note:
    """Something to say once about a Service; `is_warning`: somebody has to do something about it."""

    reason: str
    message: str
    is_warning: bool = True


@dataclass(frozen=True, slots=True)
class Decision:
    """Of one Service: `problems` are all that it has now, `notes` what has not been said yet."""

    service: Service
    wish: ServiceWish
    problems: tuple[Problem, ...] = ()
    notes: tuple[Note, ...] = ()


def decide(
    service: Service, allocation: Allocation, translated: Iterable[Problem], rule: NamedRule, before: Decision | None
) -> Decision:
    """Decide about a Service that is ours; `before` is what was decided last, None if nothing was said yet."""
    addresses = allocation.addresses
    conditions = [address_condition(allocation)]
    if (about_rule := _rule_condition(rule)) is not None:
        conditions.append(about_rule)
    problems = [
        *([allocation.problem] if allocation.problem else ()),
        *_rule_problems(rule),
        *(Problem("Unusable", complaint) for complaint in service.complaints),
        *translated,
    ]
    known = set(before.problems) if before is not None else set()
    notes = [Note(one.reason, one.message) for one in problems if one not in known]
    already_said = before is not None and before.wish.addresses == addresses
    if addresses and addresses != service.ingress and not already_said:
        notes.append(Note(ADDRESS_ASSIGNED, conditions[0].message, is_warning=False))
    # A Service that never had an address needs no cleaning up; one that had keeps the finalizer until it was done.
    wish = ServiceWish(addresses, tuple(conditions), bool(addresses) or FINALIZER in service.finalizers)
    return Decision(service, wish, tuple(problems), tuple(notes))


def decide_left(service: Service) -> Decision:
    """Decide about a Service that was ours, of which nothing is left in the data path."""
    return Decision(service, ServiceWish())


def _rule_problems(rule: NamedRule) -> list[Problem]:
    if rule.key is None:
        return []
    if rule.verdict is None:
        message = f"there is no L4Rule {rule.key}: the defaults hold"
        if not rule.is_watched:
            message = f"L4Rule {rule.key} is in a namespace that kubernetes.namespaces does not have: the defaults hold"
        return [Problem(RULE_NOT_FOUND, message)]
    if rule.verdict.accepted:
        return []
    return [Problem(RULE_REJECTED, f"L4Rule {rule.key} is rejected: {rule.verdict.status.error}")]


def _rule_condition(rule: NamedRule) -> Condition | None:
    if rule.key is None:
        return None
    problems = _rule_problems(rule)
    if problems:
        return Condition(RULE_CONDITION, "False", problems[0].reason, problems[0].message)
    assert rule.verdict is not None
    in_force = f"generation {rule.verdict.generation_in_force} of L4Rule {rule.key} is in force"
    return Condition(RULE_CONDITION, "True", "Accepted", in_force)
