"""Which Services are ours, which were, and which are none of our business."""

from __future__ import annotations

from dataclasses import replace

import pytest

from lbd.kubernetes.objects.claims import is_given, is_left, is_ours
from lbd.kubernetes.objects.kinds import ADDRESS_CONDITION, FINALIZER, Condition, ObjectKey, Service
from lbd.model.kubernetes import DEFAULT_LOAD_BALANCER_CLASS, Kubernetes

CLUSTER = Kubernetes()
DEFAULT = Kubernetes(default_class=True)
MARK = Condition(ADDRESS_CONDITION, "True", "Assigned", "")
OURS = Service(ObjectKey("shop", "web"), "u", "1", "", "LoadBalancer", DEFAULT_LOAD_BALANCER_CLASS, ())
SERVED = replace(OURS, finalizers=(FINALIZER,), conditions=(MARK,), ingress=("10.0.0.1",))


@pytest.mark.parametrize(
    ("service", "kubernetes", "ours"),
    [
        (OURS, CLUSTER, True),
        (OURS, DEFAULT, True),
        (replace(OURS, load_balancer_class=None), CLUSTER, False),
        (replace(OURS, load_balancer_class=None), DEFAULT, True),
        (replace(OURS, load_balancer_class="metallb.io/x"), DEFAULT, False),
        (replace(OURS, load_balancer_class=""), DEFAULT, False),
        (replace(OURS, type="ClusterIP"), CLUSTER, False),
        (replace(OURS, type="NodePort", load_balancer_class=None), DEFAULT, False),
        (replace(OURS, deleting=True), CLUSTER, False),
        (OURS, Kubernetes(namespaces=("shop", "blog")), True),
        (OURS, Kubernetes(namespaces=("blog",)), False),
        (OURS, Kubernetes(load_balancer_class="example.com/other"), False),
    ],
)
def test_what_is_ours(service: Service, kubernetes: Kubernetes, ours: bool) -> None:
    assert is_ours(service, kubernetes) is ours


@pytest.mark.parametrize(
    ("service", "kubernetes", "left"),
    [
        (SERVED, CLUSTER, False),
        (replace(SERVED, deleting=True), CLUSTER, True),
        (replace(SERVED, type="ClusterIP", load_balancer_class=None), CLUSTER, True),
        (replace(SERVED, type="ClusterIP", load_balancer_class=None, deleting=True), CLUSTER, True),
        # The finalizer came off, and then the daemon died: the condition is still to be taken away.
        (replace(SERVED, type="ClusterIP", load_balancer_class=None, finalizers=()), CLUSTER, True),
        # The finalizer was put on, and then the daemon died: without us it could never be deleted.
        (replace(OURS, deleting=True, finalizers=(FINALIZER,)), CLUSTER, True),
        # Finalizers of those that never were ours stay.
        (replace(OURS, type="ClusterIP", load_balancer_class=None, finalizers=(FINALIZER,)), DEFAULT, False),
        (replace(OURS, load_balancer_class=None, deleting=True, finalizers=(FINALIZER,)), DEFAULT, False),
        (replace(OURS, load_balancer_class=None, deleting=True, finalizers=(FINALIZER,)), CLUSTER, False),
        (replace(OURS, load_balancer_class="x.io/y", deleting=True, finalizers=(FINALIZER,)), DEFAULT, False),
        # Another group of ours looks after these: its class, its namespaces.
        (replace(SERVED, load_balancer_class="x.io/y"), CLUSTER, False),
        (replace(SERVED, load_balancer_class="x.io/y", deleting=True), CLUSTER, False),
        (replace(SERVED, deleting=True), Kubernetes(namespaces=("blog",)), False),
        (replace(SERVED, type="ClusterIP"), Kubernetes(namespaces=("blog",)), False),
        (SERVED, Kubernetes(namespaces=("blog",)), False),
        (replace(SERVED, load_balancer_class=None), CLUSTER, False),
        (replace(SERVED, load_balancer_class=None, deleting=True), DEFAULT, True),
        (replace(SERVED, deleting=True, finalizers=()), CLUSTER, False),
    ],
)
def test_what_is_left(service: Service, kubernetes: Kubernetes, left: bool) -> None:
    assert is_left(service, kubernetes) is left


def test_only_our_true_condition_says_that_an_address_was_given() -> None:
    assert is_given(SERVED)
    assert not is_given(replace(SERVED, conditions=()))
    assert not is_given(replace(SERVED, conditions=(replace(MARK, status="False"),)))
    assert not is_given(replace(SERVED, conditions=(replace(MARK, type="example.com/AddressAssigned"),)))
