"""Judges L4Rules and Services offline, with the code and the words of the daemon. Pure."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

from lbd.kubernetes.addresses.allocator import Allocation, allocate
from lbd.kubernetes.objects.claims import LOAD_BALANCER, is_ours
from lbd.kubernetes.objects.kinds import L4Rule, ObjectKey, Service
from lbd.kubernetes.objects.manifests import RULE_API, RULE_KIND, SERVICE_API, Manifest
from lbd.kubernetes.objects.parse import Unusable, parse_rule, parse_service
from lbd.kubernetes.rules.judge import RuleVerdict, judge_rule
from lbd.kubernetes.rules.rule_book import rule_key_of
from lbd.kubernetes.rules.rule_profiles import THERE_IS_NO
from lbd.kubernetes.translation.translate import translate
from lbd.model.kubernetes import Kubernetes

_EXAMPLE_VIPS = {4: "192.0.2.1", 6: "2001:db8::1"}
"""Of the networks for documentation (RFC 5737, RFC 3849): what a Service becomes does not depend on its address."""


class Verdict(StrEnum):
    """What lbd would do with an object as it is written."""

    ACCEPTED = "Accepted"
    REJECTED = "Rejected"
    IGNORED = "Ignored"


@dataclass(frozen=True, slots=True)
class Finding:
    """What was found of one object: its text is `FILE: L4Rule ns/name: Rejected: sentence`.

    `sentence` is all that is wrong, or why it is ignored; `notes` are what may be as it is meant, or may not.
    """

    file: str
    subject: str
    verdict: Verdict
    sentence: str = ""
    notes: tuple[str, ...] = ()
    misses_reference: bool = False
    """A rule names what isn't there: another configuration may have it."""

    def __str__(self) -> str:
        said = "; ".join((*((self.sentence,) if self.sentence else ()), *(f"note: {note}" for note in self.notes)))
        return f"{self.file}: {self.subject}: {self.verdict}" + (f": {said}" if said else "")


@dataclass(frozen=True, slots=True)
class _Rules:
    """The rules of all files by name, with what was found of them; the first of two with one name counts."""

    verdicts: Mapping[ObjectKey, RuleVerdict]
    unusable: frozenset[ObjectKey]


def lint(manifests: Sequence[Manifest], kubernetes: Kubernetes, *, with_addresses: bool) -> list[Finding]:
    """Return what is found of each object, in their order.

    `with_addresses` says that the configuration's address pools are known, so that what Services ask for is judged too.
    """
    rules: dict[ObjectKey, RuleVerdict] = {}
    unusable: set[ObjectKey] = set()
    found: dict[int, Finding] = {}
    seen: set[tuple[str, ObjectKey]] = set()
    services: dict[int, Service] = {}
    for index, manifest in enumerate(manifests):
        parsed = parse_rule(manifest.raw) if manifest.kind == RULE_KIND else parse_service(manifest.raw)
        finding = _at_first_sight(manifest, parsed, seen)
        if finding is not None:
            found[index] = finding
            if manifest.kind == RULE_KIND and parsed.key is not None:
                unusable.add(parsed.key)
        elif isinstance(parsed, L4Rule):
            rules[parsed.key] = judge_rule(parsed, kubernetes, None)
            found[index] = _rule_finding(manifest, rules[parsed.key])
        elif isinstance(parsed, Service):
            services[index] = replace(parsed, ingress=(), deleting=False, finalizers=(), conditions=())
    known = _Rules(rules, frozenset(unusable))
    allocations = _allocations(list(services.values()), kubernetes, known) if with_addresses else {}
    for index, service in services.items():
        found[index] = _service_finding(manifests[index], service, kubernetes, known, allocations)
    return [found[index] for index in range(len(manifests))]


def _at_first_sight(
    manifest: Manifest, parsed: L4Rule | Service | Unusable, seen: set[tuple[str, ObjectKey]]
) -> Finding | None:
    """Return what is wrong with an object as a whole; None if it is to be looked at."""
    subject = f"{manifest.kind} {parsed.key}" if parsed.key is not None else manifest.kind
    wanted = RULE_API if manifest.kind == RULE_KIND else SERVICE_API
    if manifest.api_version != wanted:
        why = f"apiVersion is {manifest.api_version[:60]!r}, and lbd reads {wanted}"
    elif isinstance(parsed, Unusable):
        why = parsed.reason
    elif (manifest.kind, parsed.key) in seen:
        why = "it is there twice, and only one can be applied"
    else:
        seen.add((manifest.kind, parsed.key))
        return None
    return Finding(manifest.file, subject, Verdict.REJECTED, why)


def _rule_finding(manifest: Manifest, verdict: RuleVerdict) -> Finding:
    subject = f"{manifest.kind} {_key(manifest)}"
    if verdict.accepted:
        return Finding(manifest.file, subject, Verdict.ACCEPTED)
    misses = THERE_IS_NO in verdict.error
    return Finding(manifest.file, subject, Verdict.REJECTED, verdict.error, misses_reference=misses)


def _service_finding(
    manifest: Manifest,
    service: Service,
    kubernetes: Kubernetes,
    rules: _Rules,
    allocations: Mapping[ObjectKey, Allocation],
) -> Finding:
    subject = f"{manifest.kind} {service.key}"
    ignored = _why_ignored(service, kubernetes)
    if ignored:
        return Finding(manifest.file, subject, Verdict.IGNORED, ignored)
    wrong = list(service.complaints)
    allocation = allocations.get(service.key)
    if allocation is not None and allocation.problem is not None:
        wrong.append(allocation.problem.message)
    notes = (*_rule_notes(service, rules), *_translation_notes(service, kubernetes, rules))
    verdict = Verdict.REJECTED if wrong else Verdict.ACCEPTED
    return Finding(manifest.file, subject, verdict, "; ".join(wrong), notes)


def _key(manifest: Manifest) -> str:
    metadata = manifest.raw["metadata"]
    return f"{metadata['namespace']}/{metadata['name']}"


def _why_ignored(service: Service, kubernetes: Kubernetes) -> str:
    if is_ours(service, kubernetes):
        return ""
    if service.type != LOAD_BALANCER:
        return f"it is of type {service.type}, and lbd serves those of type {LOAD_BALANCER}"
    if not kubernetes.watches(service.key.namespace):
        return f"lbd looks after the namespaces {', '.join(kubernetes.namespaces)}"
    ours = f"{kubernetes.load_balancer_class} is what lbd serves"
    if service.load_balancer_class is None:
        return f"it has no loadBalancerClass: {ours}, and Services without a class only with default_class: true"
    return f"its loadBalancerClass is {service.load_balancer_class}: {ours}"


def _allocations(services: list[Service], kubernetes: Kubernetes, rules: _Rules) -> Mapping[ObjectKey, Allocation]:
    """Return what the Services would get in a cluster without others."""
    asked: dict[ObjectKey, str] = {}
    for service in services:
        key = rule_key_of(service)
        verdict = rules.verdicts.get(key) if key is not None else None
        if verdict is not None and verdict.in_force is not None and verdict.in_force.load_balancer_ip:
            asked[service.key] = verdict.in_force.load_balancer_ip
    return allocate(services, kubernetes, {}, asked)


def _rule_notes(service: Service, rules: _Rules) -> Iterator[str]:
    key = rule_key_of(service)
    if key is None or (key in rules.verdicts and rules.verdicts[key].accepted):
        return
    if key in rules.verdicts or key in rules.unusable:
        yield f"its L4Rule {key} is rejected: without an accepted one the defaults hold"
    else:
        yield f"its L4Rule {key} is not in these files"


def _translation_notes(service: Service, kubernetes: Kubernetes, rules: _Rules) -> Iterator[str]:
    key = rule_key_of(service)
    verdict = rules.verdicts.get(key) if key is not None else None
    placed = replace(service, ingress=tuple(_EXAMPLE_VIPS[family] for family in service.ip_families))
    policy = verdict.in_force if verdict is not None else None
    for problem in translate(placed, (), policy, kubernetes, frozenset()).problems:
        yield problem.message
