"""From all objects of a cluster to virtual services and to what the API shall say of them. Pure.

What changed is noted object by object, and `settle` works off just that: a change costs what it touches, however large
the cluster is. What touches everything, as a reload does, can be worked off in turns before. The Services' own status
is the record of their addresses, so every service engine of a group comes to the same virtual services, whoever of them
writes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, replace
from itertools import islice

from lbd.kubernetes.addresses.allocator import Allocation, allocate
from lbd.kubernetes.decisions import Decision, decide, decide_left
from lbd.kubernetes.objects.claims import is_given, is_left, is_ours
from lbd.kubernetes.objects.kinds import EndpointSlice, L4Rule, ObjectKey, Service
from lbd.kubernetes.rules.judge import RuleVerdict
from lbd.kubernetes.rules.rule_book import RuleBook
from lbd.kubernetes.translation.forbidden import Forbidden
from lbd.kubernetes.translation.translate import Translation, translate
from lbd.model.desired import VirtualService
from lbd.model.kubernetes import Kubernetes


@dataclass(frozen=True, slots=True)
class Changes:
    """What a settling came to. `virtual_services` are all, in the order of their Services; the rest is what was looked
    at again."""

    virtual_services: tuple[VirtualService, ...]
    decisions: tuple[Decision, ...]
    rules: tuple[tuple[L4Rule, RuleVerdict], ...]
    gone: tuple[ObjectKey, ...]
    """Services that no longer exist, or are not ours and never were."""
    rules_gone: tuple[ObjectKey, ...]


class Assembly:
    """Everything that is known of the cluster. `taken` are addresses that others use here, with who does."""

    def __init__(self, kubernetes: Kubernetes, taken: Mapping[str, str]) -> None:
        self._kubernetes = kubernetes
        self._taken = dict(taken)
        self._forbidden = Forbidden(taken, kubernetes.address_pools)
        self._rules = RuleBook(kubernetes)
        self._services: dict[ObjectKey, Service] = {}
        self._slices: dict[ObjectKey, dict[ObjectKey, EndpointSlice]] = {}
        """By Service, then by their own key."""
        self._owner: dict[ObjectKey, ObjectKey] = {}
        """The Service of each slice."""
        self._dirty: set[ObjectKey] = set()
        self._allocate_anew = True
        self._allocated_to: dict[str, list[ObjectKey]] = {}
        """By address; more than one where Services share it."""
        self._recorded: dict[str, set[ObjectKey]] = {}
        """Which Services say an address in their status."""
        self._waiting: set[ObjectKey] = set()
        """Services that are to have an address which the status of another one still says, that is to leave it."""
        self._promised: dict[ObjectKey, tuple[tuple[str, ...], tuple[str, ...]]] = {}
        """What a Service's status said when something was allocated to it, and what was."""
        self._decided: dict[ObjectKey, Decision] = {}
        self._say_again: set[ObjectKey] = set()
        """Of whom everything that is wrong is to be said again."""
        self._outcome: dict[ObjectKey, Decision | None] = {}
        """Of the Services that were looked at since `settle` returned last; None: none of our business."""
        self._rule_outcome: dict[ObjectKey, tuple[L4Rule, RuleVerdict] | None] = {}
        self._translations: dict[ObjectKey, Translation] = {}
        self.allocations: Mapping[ObjectKey, Allocation] = {}
        self.leaving: set[ObjectKey] = set()
        """Services that were ours, until what they had here is gone."""

    @property
    def taken(self) -> Mapping[str, str]:
        """Addresses that others use here, with who does."""
        return self._taken

    @property
    def services(self) -> Mapping[ObjectKey, Service]:
        """All Services that are known, ours or not."""
        return self._services

    @property
    def rules(self) -> Mapping[ObjectKey, tuple[L4Rule, RuleVerdict]]:
        """All rules, as they were judged last."""
        return self._rules.judged

    @property
    def decided(self) -> Mapping[ObjectKey, Decision]:
        """What was decided last of each Service that is ours or was."""
        return self._decided

    def slices_of(self, services: AbstractSet[ObjectKey]) -> set[ObjectKey]:
        """Return the EndpointSlices of some Services."""
        return {key for service in services for key in self._slices.get(service, ())}

    def rules_broken_by(self, kubernetes: Kubernetes) -> tuple[str, ...]:
        """Return a sentence for each rule in force that would not be with another configuration."""
        return self._rules.broken_by(kubernetes)

    def services_naming(self, rule: ObjectKey) -> int:
        """How many Services name a rule."""
        return self._rules.services_of(rule)

    def put_service(self, key: ObjectKey, service: Service | None) -> None:
        """Take over a Service as it is now, None if it is gone."""
        before = self._services.pop(key, None)
        if service is not None:
            self._services[key] = service
        self._record(key, before, service)
        self._rules.named(key, service if service is not None and is_ours(service, self._kubernetes) else None)
        concerned = [one for one in (before, service) if one is not None and self._concerns(one)]
        if not concerned and key not in self._decided and key not in self.leaving:
            return  # a cluster has thousands of Services that are nobody's load balancer
        self._dirty.add(key)
        if before is None or service is None or not self._says_what_was_wished(before, service):
            self._allocate_anew = True

    def put_slice(self, key: ObjectKey, endpoint_slice: EndpointSlice | None) -> None:
        """Take over an EndpointSlice as it is now, None if it is gone."""
        owner = self._owner.pop(key, None)
        if owner is not None:
            self._slices[owner].pop(key, None)
            if not self._slices[owner]:
                del self._slices[owner]
            self._dirty.add(owner)
        if endpoint_slice is not None:
            owner = ObjectKey(key.namespace, endpoint_slice.service)
            self._owner[key] = owner
            self._slices.setdefault(owner, {})[key] = endpoint_slice
            self._dirty.add(owner)

    def put_rule(self, key: ObjectKey, rule: L4Rule | None) -> None:
        """Take over an L4Rule as it is now, None if it is gone."""
        self._rules.put(key, rule)

    def reconfigure(self, kubernetes: Kubernetes, taken: Mapping[str, str]) -> None:
        """Take over a new configuration: everything is looked at again."""
        if kubernetes == self._kubernetes and dict(taken) == self._taken:
            return
        self._kubernetes = kubernetes
        self._taken = dict(taken)
        self._forbidden = Forbidden(taken, kubernetes.address_pools)
        self._rules.reconfigure(kubernetes)
        self.repeat()

    def repeat(self) -> None:
        """Look at everything again, and say again what is wrong: somebody listens who did not before."""
        self._dirty.update(self._services)
        self._allocate_anew = True
        self._rules.repeat()
        self._say_again.update(self._decided)

    def work_off(self, is_released: Callable[[ObjectKey], bool], most: int) -> bool:
        """Look at `most` of the Services that something has changed for; tell whether there are more. `settle` returns
        what came of it, and `is_released` is as there."""
        found = self._rules.settle()
        self._rule_outcome.update({rule.key: (rule, verdict) for rule, verdict in found.judged})
        self._rule_outcome.update(dict.fromkeys(found.gone))
        self._dirty |= found.affected
        if found.judged or found.gone:
            self._allocate_anew = True
        if self._allocate_anew:
            self._allocate()
        for key in list(islice(self._dirty, most)):
            self._dirty.discard(key)
            decision = self._look_at(key, is_released)
            if decision is not None or not (key in self.leaving or key in self._waiting):
                self._outcome[key] = decision
            elif self._outcome.pop(key, None) is not None:
                self._say_again.add(key)  # what was found a moment ago is out of date, and nobody has heard of it
        return bool(self._dirty)

    def settle(self, is_released: Callable[[ObjectKey], bool]) -> Changes:
        """Work off what has changed; `is_released` tells whether nothing of a Service is left in the data path."""
        self._dirty |= self.leaving
        while self.work_off(is_released, max(1, len(self._dirty))):
            pass
        outcome, self._outcome = self._outcome, {}
        rules, self._rule_outcome = self._rule_outcome, {}
        return Changes(
            self._virtual_services(),
            tuple(decision for key in sorted(outcome) if (decision := outcome[key]) is not None),
            tuple(judged for key in sorted(rules) if (judged := rules[key]) is not None),
            tuple(key for key in sorted(outcome) if outcome[key] is None),
            tuple(key for key in sorted(rules) if rules[key] is None),
        )

    def _allocate(self) -> None:
        before, services = self.allocations, self._services
        # A status that says something else by now is the record, and what was promised before holds no longer. One that
        # somebody has cleared says nothing.
        promised = {
            key: addresses
            for key, (then, addresses) in self._promised.items()
            if key in services and services[key].ingress != addresses and services[key].ingress in (then, ())
        }
        self.allocations = allocate(
            services.values(), self._kubernetes, self._taken, self._rules.addresses(services.values()), promised
        )
        self._promised = {
            key: (services[key].ingress, one.addresses) for key, one in self.allocations.items() if one.addresses
        }
        self._allocate_anew = False
        self._allocated_to = {}
        for key, one in self.allocations.items():
            for address in one.addresses:
                self._allocated_to.setdefault(address, []).append(key)
        for key in self.allocations.keys() | before.keys():
            if self.allocations.get(key) != before.get(key):
                self._dirty.add(key)
        self._dirty |= self._waiting

    def _record(self, key: ObjectKey, before: Service | None, now: Service | None) -> None:
        """Note what a status says now."""
        old, new = (set() if one is None else set(one.ingress) for one in (before, now))
        for address in old - new:
            self._recorded[address].discard(key)
            if not self._recorded[address]:
                del self._recorded[address]
            self._dirty |= self._waiting
        for address in new - old:
            self._recorded.setdefault(address, set()).add(key)

    def _must_wait(self, service: Service, allocation: Allocation) -> bool:
        """Tell whether a status would say an address that another one still says: two requests come in any order, and
        one of them may be refused."""
        return any(
            self._is_left_by(other, address)
            for address in allocation.addresses
            if address not in service.ingress
            for other in self._recorded.get(address, ())
        )

    def _is_left_by(self, key: ObjectKey, address: str) -> bool:
        """Tell whether lbd gave a Service an address that it is to have no more."""
        service = self._services[key]
        if not (is_given(service) and is_ours(service, self._kubernetes)):
            return False
        return address not in self.allocations.get(key, Allocation()).addresses

    def _look_at(self, key: ObjectKey, is_released: Callable[[ObjectKey], bool]) -> Decision | None:
        """Translate a Service again; return what the API shall say of it, or None if that is none of our business."""
        service = self._services.get(key)
        says_again = key in self._say_again
        self._say_again.discard(key)
        if service is not None and is_ours(service, self._kubernetes):
            self.leaving.discard(key)
            return self._serve(service, None if says_again else self._decided.get(key))
        self._translations.pop(key, None)
        self._decided.pop(key, None)
        self._waiting.discard(key)
        if service is None or not is_left(service, self._kubernetes):
            self.leaving.discard(key)
            return None
        if not is_released(key):
            self.leaving.add(key)
            return None
        self.leaving.discard(key)
        return decide_left(service)

    def _serve(self, service: Service, before: Decision | None) -> Decision | None:
        """Translate a Service of ours, and decide about it if what it is to have is free by all that is written."""
        key = service.key
        allocation = self.allocations.get(key, Allocation())
        held = replace(service, ingress=tuple(filter(self._is_held_by(service, allocation), service.ingress)))
        rule = self._rules.of(service)
        slices = self._slices.get(key, {})
        translation = translate(
            held, [slices[one] for one in sorted(slices)], rule.policy, self._kubernetes, self._forbidden
        )
        self._translations[key] = _with_old_objects(translation, self._translations.get(key))
        if self._must_wait(service, allocation):
            self._waiting.add(key)
            if before is None:
                self._say_again.add(key)
                self._decided.setdefault(key, decide(service, allocation, translation.problems, rule, None))
            return None
        self._waiting.discard(key)
        decision = decide(service, allocation, translation.problems, rule, before)
        self._decided[key] = decision
        return decision

    def _concerns(self, service: Service) -> bool:
        return is_ours(service, self._kubernetes) or is_left(service, self._kubernetes)

    def _says_what_was_wished(self, before: Service, now: Service) -> bool:
        """Tell whether nothing but the record of a Service has changed, and that to what was allocated, if at all."""
        is_as_allocated = now.ingress == self.allocations.get(now.key, Allocation()).addresses
        if not is_as_allocated and (now.ingress, is_given(now)) != (before.ingress, is_given(before)):
            return False
        with_record = replace(
            before,
            resource_version=now.resource_version,
            ingress=now.ingress,
            conditions=now.conditions,
            finalizers=now.finalizers,
        )
        return with_record == now

    def _is_held_by(self, service: Service, allocation: Allocation) -> Callable[[str], bool]:
        """Tell of an address in the status whether to serve it: it was given, or is about to be moved to another."""
        given = is_given(service)

        def is_held(address: str) -> bool:
            if address in allocation.addresses:
                return True
            return given and not self._is_another_ones(address) and address not in self._taken

        return is_held

    def _is_another_ones(self, address: str) -> bool:
        """Tell whether the status of whoever an address was allocated to says so: until then it is not served there,
        and may go on to be served where it was."""
        return any(address in self._services[key].ingress for key in self._allocated_to.get(address, ()))

    def _virtual_services(self) -> tuple[VirtualService, ...]:
        return tuple(
            service for key in sorted(self._translations) for service in self._translations[key].virtual_services
        )


def _with_old_objects(new: Translation, old: Translation | None) -> Translation:
    """Keep the objects of virtual services that did not change: who compares them then is done at once."""
    if old is None:
        return new
    before = {service.name: service for service in old.virtual_services}
    return replace(
        new, virtual_services=tuple(_same(service, before.get(service.name)) for service in new.virtual_services)
    )


def _same(new: VirtualService, old: VirtualService | None) -> VirtualService:
    return old if old is not None and old == new else new
