"""The Kubernetes side of the daemon: the source with what it needs of this machine, and the routes to Pods."""

from __future__ import annotations

import asyncio
import ipaddress
import random
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from pathlib import Path

import structlog

from lbd.announce.addresses import AddressTable
from lbd.announce.inventory import Inventory
from lbd.announce.pod_routes import PodRoutes
from lbd.kubernetes.source import KubernetesSource
from lbd.kubernetes.surroundings import Surroundings
from lbd.model.desired import DesiredState, VirtualService
from lbd.model.kubernetes import Kubernetes
from lbd.model.kubernetes_status import KubernetesStatus

log = structlog.get_logger(__name__)


class Cluster:
    """The cluster that the configuration names. `held` is the supervisor's; `post` gets every new snapshot."""

    def __init__(
        self,
        kubernetes: Kubernetes,
        desired: DesiredState,
        state_directory: Path,
        held: Callable[[], Iterable[str]],
        post: Callable[[tuple[VirtualService, ...]], None],
    ) -> None:
        self._kubernetes = kubernetes
        self._desired = desired
        self._state_directory = state_directory
        self._post = post
        self._inventory = Inventory()
        self._source = KubernetesSource(
            kubernetes,
            surroundings(desired, self._inventory),
            service_engine=desired.service_engine.name,
            state_directory=state_directory,
            held=held,
            rng=random.Random(),
        )
        self._routes = PodRoutes(kubernetes.backend_interface) if kubernetes.pod_routes else None
        self._wanted_routes: Mapping[str, str] | None = None
        self._routes_changed = asyncio.Event()
        self._router: asyncio.Task[None] | None = None

    async def load(self) -> tuple[VirtualService, ...] | None:
        """Return what an earlier run served, None if nothing is known of one. Raises OSError or AddressError."""
        table = AddressTable(self._state_directory)
        try:
            self._inventory = await table.inventory()
        finally:
            await table.close()
        self._source.reconfigure(self._kubernetes, surroundings(self._desired, self._inventory))
        return await self._source.load()

    async def start(self) -> None:
        """Watch from now on."""
        if self._routes is not None:
            await self._routes.start()
            self._router = asyncio.create_task(self._lead_to_pods(self._routes), name="routes to Pods")
        await self._source.start(self._post, self._want_routes)

    def files_say(self, desired: DesiredState) -> None:
        """Take over what a reload has changed."""
        assert desired.kubernetes is not None, "adding or removing the section needs a restart"
        self._kubernetes = desired.kubernetes
        self._desired = desired
        self._source.reconfigure(desired.kubernetes, surroundings(desired, self._inventory))

    def why_not(self, desired: DesiredState) -> tuple[str, ...]:
        """Return why a reload is refused because of what the cluster's Services have."""
        return self._source.why_not(desired.kubernetes) if desired.kubernetes is not None else ()

    def status(self) -> KubernetesStatus:
        """Return the snapshot's part about the cluster."""
        status = self._source.status()
        return status if self._routes is None else replace(status, pod_routes=self._routes.status())

    @property
    def problems(self) -> tuple[str, ...]:
        """Sentences about what is wrong now."""
        routes = (self._routes.problem,) if self._routes is not None and self._routes.problem else ()
        return (*self._source.problems, *routes)

    async def stop_watching(self) -> None:
        """Post nothing more, and let another service engine write."""
        await self._source.close()

    async def close(self) -> None:
        """Take the routes away: nothing drains any more that needs them.

        Raises:
            AnnounceError: some are left.
        """
        await self._source.close()
        if self._router is not None:
            self._router.cancel()
            await asyncio.gather(self._router, return_exceptions=True)
        if self._routes is not None:
            await self._routes.close(remove=True)

    def _want_routes(self, routes: Mapping[str, str]) -> None:
        if routes != self._wanted_routes:
            self._wanted_routes = dict(routes)
            self._routes_changed.set()

    async def _lead_to_pods(self, routes: PodRoutes) -> None:
        while True:
            await self._routes_changed.wait()
            self._routes_changed.clear()
            await routes.set_wanted(self._wanted_routes or {})


def surroundings(desired: DesiredState, inventory: Inventory) -> Surroundings:
    """Return what this machine and the files have beside the cluster; `desired` is what the files say. Pure."""
    taken = {entry.address: "this machine" for entry in inventory.addresses if not entry.ours}
    taken |= dict.fromkeys(desired.service_engine.frontend_gateways, "frontend_gateway")
    taken |= {service.vip: f'virtual service "{service.name}"' for service in desired.virtual_services}
    front = inventory.link(desired.service_engine.frontend_interface)
    networks = {
        str(ipaddress.ip_network(f"{entry.address}/{entry.prefix_length}", strict=False)): "the frontend network"
        for entry in inventory.addresses
        if front is not None and entry.index == front.index and not entry.ours and not entry.is_host
    }
    return Surroundings(taken, networks)
