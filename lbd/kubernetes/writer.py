"""Writes what Services and L4Rules shall say to the API, until they say it."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from lbd.kubernetes.elector import Requests
from lbd.kubernetes.objects import L4Rule, ObjectKey, RuleStatus, Service
from lbd.kubernetes.wishes import Kind, ServiceWish, Target


class Writer:
    """A loop that reconciles: the latest wish for an object wins, and nothing is sent unless this one leads."""

    writes_total: int
    conflicts_total: int
    failures_total: int

    def __init__(self, client: Requests, is_leading: Callable[[], bool]) -> None:
        raise NotImplementedError

    def want_service(self, service: Service, wish: ServiceWish) -> None:
        """Have a Service say what is wished; `service` is the newest that the reflector knows."""
        raise NotImplementedError

    def want_rule(self, rule: L4Rule, status: RuleStatus) -> None:
        """Have an L4Rule's status be this."""
        raise NotImplementedError

    def forget(self, kind: Kind, key: ObjectKey) -> None:
        """Stop writing to an object that is gone."""
        raise NotImplementedError

    def leadership_changed(self) -> None:
        """Look at once at whether to write."""
        raise NotImplementedError

    @property
    def problems(self) -> Mapping[Target, str]:
        """What could not be written, and why."""
        raise NotImplementedError

    async def run(self) -> None:
        """Write until cancelled."""
        raise NotImplementedError
