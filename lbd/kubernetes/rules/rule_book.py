"""All L4Rules, which Services name them, and what each has in force. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from lbd.kubernetes.objects.kinds import RULE_ANNOTATION, L4Rule, ObjectKey, Service
from lbd.kubernetes.rules.judge import Accepted, RuleVerdict, judge_rule
from lbd.kubernetes.rules.rule_policy import RulePolicy
from lbd.model.kubernetes import Kubernetes


@dataclass(frozen=True, slots=True)
class NamedRule:
    """The rule that a Service names: `key` None if it names none, `verdict` None if there is no such rule, or none that
    is seen: `is_watched` tells whether its namespace is."""

    key: ObjectKey | None = None
    verdict: RuleVerdict | None = None
    is_watched: bool = True

    @property
    def policy(self) -> RulePolicy | None:
        """What of it is in force."""
        return None if self.verdict is None else self.verdict.in_force


@dataclass(frozen=True, slots=True)
class Judged:
    """What was judged again, for which Services something else is in force or said now, and which rules are gone."""

    judged: tuple[tuple[L4Rule, RuleVerdict], ...]
    affected: frozenset[ObjectKey]
    gone: tuple[ObjectKey, ...]


class RuleBook:
    """Judges rules again when they or the configuration change, and knows which Services that touches."""

    def __init__(self, kubernetes: Kubernetes) -> None:
        self._kubernetes = kubernetes
        self._rules: dict[ObjectKey, L4Rule] = {}
        self._dirty: set[ObjectKey] = set()
        self._remembered: dict[ObjectKey, Accepted] = {}
        self._named_by: dict[ObjectKey, set[ObjectKey]] = {}
        self._names: dict[ObjectKey, ObjectKey] = {}
        self.judged: dict[ObjectKey, tuple[L4Rule, RuleVerdict]] = {}
        """As they were judged last."""

    def put(self, key: ObjectKey, rule: L4Rule | None) -> None:
        """Take over a rule as it is now, None if it is gone."""
        if rule is None:
            self._rules.pop(key, None)
            self._remembered.pop(key, None)
        else:
            before = self._rules.get(key)
            if before is not None and before.uid != rule.uid:
                self._remembered.pop(key, None)  # another rule of the same name
            self._rules[key] = rule
        self._dirty.add(key)

    def named(self, service_key: ObjectKey, service: Service | None) -> None:
        """Take over which rule a Service of ours names now; None: it is gone, or not ours."""
        before = self._names.pop(service_key, None)
        rule_key = rule_key_of(service) if service is not None else None
        if rule_key is not None:
            self._names[service_key] = rule_key
        if rule_key == before:
            return
        for key in (before, rule_key):
            if key in self._rules:
                self._dirty.add(key)  # whether it is ours to write about may be another matter now
        if before is not None:
            self._named_by[before].discard(service_key)
            if not self._named_by[before]:
                del self._named_by[before]
        if rule_key is not None:
            self._named_by.setdefault(rule_key, set()).add(service_key)

    def reconfigure(self, kubernetes: Kubernetes) -> None:
        """Take over a new configuration: profiles and monitors that rules name may have changed."""
        self._kubernetes = kubernetes
        self.repeat()

    def repeat(self) -> None:
        """Judge all of them again."""
        self._dirty.update(self._rules)

    def settle(self) -> Judged:
        """Judge what has changed."""
        affected: set[ObjectKey] = set()
        judged: list[tuple[L4Rule, RuleVerdict]] = []
        gone: list[ObjectKey] = []
        dirty, self._dirty = self._dirty, set()
        for key in sorted(dirty):
            before = self.judged.pop(key, None)
            rule = self._rules.get(key)
            if rule is not None:
                verdict = judge_rule(rule, self._kubernetes, self._remembered.get(key))
                if verdict.remembered is not None:
                    self._remembered[key] = verdict.remembered
                self.judged[key] = (rule, verdict)
                judged.append((rule, verdict))
                if before is not None and before[1] == verdict:
                    continue
            else:
                gone.append(key)
            affected |= self._named_by.get(key, set())
        return Judged(tuple(judged), frozenset(affected), tuple(gone))

    def of(self, service: Service) -> NamedRule:
        """Return the rule that a Service names."""
        key = self._names.get(service.key)
        if key is None:
            return NamedRule()
        found = self.judged.get(key)
        return NamedRule(key, None if found is None else found[1], self._kubernetes.watches(key.namespace))

    def broken_by(self, kubernetes: Kubernetes) -> tuple[str, ...]:
        """Return a sentence for each rule in force, of those that Services name, that would not be with `kubernetes`:
        what a rule forbids, as its source ranges do, must not end because a profile was removed."""
        broken: list[str] = []
        for key in sorted(self._named_by):
            rule, verdict = self.judged.get(key, (None, None))
            if rule is None or verdict is None or not verdict.generation_in_force:
                continue
            after = judge_rule(rule, kubernetes, verdict.remembered)
            if not after.generation_in_force:
                broken.append(f"L4Rule {key} is in force and would be no more: {after.error}")
        return tuple(broken)

    def services_of(self, key: ObjectKey) -> int:
        """How many Services name a rule."""
        return len(self._named_by.get(key, ()))

    def addresses(self, services: Iterable[Service]) -> Mapping[ObjectKey, str]:
        """Return the address that its rule asks for, of each Service whose rule does."""
        asked: dict[ObjectKey, str] = {}
        for service in services:
            policy = self.of(service).policy
            if policy is not None and policy.load_balancer_ip:
                asked[service.key] = policy.load_balancer_ip
        return asked


def rule_key_of(service: Service) -> ObjectKey | None:
    """Return the key of the rule that a Service names as `[namespace/]name`, None if it names none."""
    written = (service.annotation(RULE_ANNOTATION) or "").strip()
    if not written:
        return None
    namespace, slash, name = written.partition("/")
    return ObjectKey(namespace, name) if slash else ObjectKey(service.key.namespace, written)
