"""The desired state as the merge of its sources: what the files say, and what a Kubernetes cluster adds. Pure."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from lbd.model.address import Endpoint
from lbd.model.desired import DesiredState, Protocol, VirtualService

MAX_TAKEN = 20

_Listen = tuple[str, int, Protocol]


class Merge:
    """Keeps the last word of each source. A source that has not spoken adds nothing, and takes nothing away.

    One VIP, port and protocol belong to one virtual service: the files' goes first, then whoever had it, then the first
    one by name. `problems` says who had to give way.
    """

    def __init__(self, files: DesiredState) -> None:
        self._files = files
        self._cluster: tuple[VirtualService, ...] = ()
        self._holders: dict[_Listen, str] = {}
        self.problems: tuple[str, ...] = ()

    def files_say(self, desired: DesiredState) -> DesiredState:
        """Take over a new word of the files; it brings the generation of the whole."""
        self._files = desired
        return self._merged(desired.generation)

    def cluster_says(self, services: tuple[VirtualService, ...], generation: int) -> DesiredState:
        """Take over a new word of the cluster, which makes generation `generation` of the whole."""
        self._cluster = services
        return self._merged(generation)

    def why_not(self, desired: DesiredState) -> tuple[str, ...]:
        """Return why the files may not say this from now on: it would take addresses that Services have.

        At most MAX_TAKEN sentences. What the files have already is no news.
        """
        known = {service.vip for service in self._files.virtual_services}
        owners = {service.vip: service.name.rpartition(":")[0] for service in reversed(self._cluster)}
        found = {
            service.vip: f'virtual_services: VIP {service.vip} of "{service.name}" is that of Service '
            f"{owners[service.vip]}: delete the Service or give it another address first"
            for service in reversed(desired.virtual_services)
            if service.vip in owners and service.vip not in known
        }
        return tuple(found[vip] for vip in sorted(found))[:MAX_TAKEN]

    def _merged(self, generation: int) -> DesiredState:
        taken = {_listen(service): f'"{service.name}" of the files' for service in self._files.virtual_services}
        metrics = self._files.metrics_listen
        if metrics is not None:
            taken.setdefault((metrics.address, metrics.port, Protocol.TCP), "the metrics")
        kept: dict[_Listen, VirtualService] = {}
        problems: list[str] = []
        for service in self._in_order():
            listen = _listen(service)
            if listen in taken:
                where = f"{Endpoint(service.vip, service.port)}/{service.protocol}"
                problems.append(f"{service.name} is not served: {where} belongs to {taken[listen]}")
                continue
            taken[listen] = service.name
            kept[listen] = service
        self._holders = {listen: service.name for listen, service in kept.items()}
        self.problems = tuple(problems)
        served = {service.name for service in kept.values()}
        cluster = tuple(service for service in self._cluster if service.name in served)
        return replace(self._files, generation=generation, virtual_services=(*self._files.virtual_services, *cluster))

    def _in_order(self) -> Iterable[VirtualService]:
        """The cluster's services, those first that have their place already."""
        holding: list[VirtualService] = []
        others: list[VirtualService] = []
        for service in self._cluster:
            (holding if self._holders.get(_listen(service)) == service.name else others).append(service)
        return (*holding, *others)


def _listen(service: VirtualService) -> _Listen:
    return service.vip, service.port, service.protocol
