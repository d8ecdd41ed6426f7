"""Which Services are ours to serve, and which are ours to clean up. Pure."""

from __future__ import annotations

from lbd.kubernetes.objects.kinds import ADDRESS_CONDITION, FINALIZER, Service
from lbd.model.kubernetes import Kubernetes

LOAD_BALANCER = "LoadBalancer"


def is_ours(service: Service, kubernetes: Kubernetes) -> bool:
    """Tell whether to serve it: of our class, in a namespace that we look after, and not being deleted."""
    return service.type == LOAD_BALANCER and not service.deleting and _is_of_our_class(service, kubernetes)


def is_left(service: Service, kubernetes: Kubernetes) -> bool:
    """Tell whether it was ours and is no longer: it is to be drained, then cleaned up with a `ServiceWish()`.

    It carries our finalizer and our condition, and is being deleted or no longer of type LoadBalancer. In the latter
    case the finalizer may be off already. Of one that is being deleted an explicit class is mark enough: it may have
    got the finalizer just before the daemon died. A Service that is still a LoadBalancer of another class or namespace
    is never touched: another group of ours may serve it.
    """
    marked = service.condition(ADDRESS_CONDITION) is not None
    if service.type != LOAD_BALANCER:
        return marked and kubernetes.watches(service.key.namespace)
    if FINALIZER not in service.finalizers or not service.deleting:
        return False
    return (marked or service.load_balancer_class is not None) and _is_of_our_class(service, kubernetes)


def is_given(service: Service) -> bool:
    """Tell whether the addresses in its status are what lbd gave it, and not what somebody else wrote there.

    Whoever may write a Service's status could otherwise draw the traffic of any address to it (CVE-2020-8554).
    """
    condition = service.condition(ADDRESS_CONDITION)
    return condition is not None and condition.status == "True"


def _is_of_our_class(service: Service, kubernetes: Kubernetes) -> bool:
    if not kubernetes.watches(service.key.namespace):
        return False
    if service.load_balancer_class is None:
        return kubernetes.default_class
    return service.load_balancer_class == kubernetes.load_balancer_class
