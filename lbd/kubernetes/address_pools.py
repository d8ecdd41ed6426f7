"""Address pools: which addresses they have, which are free, and which a reload would take away. Pure."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from lbd.kubernetes.objects import Service
from lbd.model.kubernetes import Kubernetes
from lbd.model.kubernetes_status import PoolUsage


def pool_usage(kubernetes: Kubernetes, used: Iterable[str]) -> tuple[PoolUsage, ...]:
    """Return how full each pool is, for each family that it has addresses of.

    `used` are all addresses that Services hold or others have taken; an address may come more than once.
    """
    raise NotImplementedError


def shrink_errors(old: Kubernetes, new: Kubernetes, services: Iterable[Service]) -> tuple[str, ...]:
    """Return a sentence for each address that a Service has and that no pool of `new` has any more, 20 at most."""
    raise NotImplementedError
