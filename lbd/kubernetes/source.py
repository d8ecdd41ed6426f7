"""A Kubernetes cluster as a source of virtual services: watches it, decides, and has written back what was decided.

The decisions are `assembly`'s; here are the tasks, the clock and the disk. Nothing is posted before the whole cluster
was listed once, or an earlier run's state was found; and what was posted stays while the API is away.
"""

from __future__ import annotations

import asyncio
import random
import secrets
import time
from collections.abc import Callable, Coroutine, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import structlog

from lbd.kubernetes.addresses.address_pools import shrink_errors
from lbd.kubernetes.api.client import ApiClient
from lbd.kubernetes.assembly import Assembly, Changes
from lbd.kubernetes.node_routes import LeftOut, routes_of
from lbd.kubernetes.objects.claims import is_ours
from lbd.kubernetes.objects.kinds import EndpointSlice, L4Rule, Node, ObjectKey, Service
from lbd.kubernetes.status import cluster_status
from lbd.kubernetes.surroundings import Surroundings
from lbd.kubernetes.watching import cache
from lbd.kubernetes.watching.watches import NODES, RULES, SERVICES, SLICES, Watches
from lbd.kubernetes.writing.elector import Elector
from lbd.kubernetes.writing.recorder import Recorder
from lbd.kubernetes.writing.wishes import Kind
from lbd.kubernetes.writing.writer import Writer
from lbd.model.desired import VirtualService
from lbd.model.kubernetes import Kubernetes
from lbd.model.kubernetes_status import KubernetesStatus, LeaderStatus

log = structlog.get_logger(__name__)

CACHE_NAME = "kubernetes.json"
_GATHER_S = 0.002
"""How long changes are gathered before they are worked off: what belongs together comes together."""
_AT_ONCE = 20
"""Services that are looked at before others have their turn: some 10 ms."""
_RELEASE_POLL_S = 0.1
"""How often it is looked whether a Service that was removed has drained."""
_CACHE_INTERVAL_S = 10.0
_SHOWN_LEFT_OUT = 5
_SHOWN_BROKEN = 20
_RESTART_S = (1.0, 30.0)
"""A task that failed is started again after the first of these, then after twice that, up to the second."""

Post = Callable[[tuple[VirtualService, ...]], None]
PostRoutes = Callable[[Mapping[str, str]], None]


class KubernetesSource:
    """One cluster. `held` returns the names of the virtual services of which anything is left in the data path."""

    def __init__(
        self,
        kubernetes: Kubernetes,
        surroundings: Surroundings,
        *,
        service_engine: str,
        state_directory: Path,
        held: Callable[[], Iterable[str]],
        rng: random.Random,
    ) -> None:
        self._kubernetes = kubernetes
        self._surroundings = surroundings
        self._held = held
        self._rng = rng
        self._cache_path = state_directory / CACHE_NAME
        self._changed = asyncio.Event()
        self._client = ApiClient(kubernetes, rng=rng)
        self._identity = f"{service_engine}_{secrets.token_hex(4)}"
        self._elector = Elector(self._client, kubernetes.lease, self._identity, on_change=self._on_leadership, rng=rng)
        self._writer = Writer(self._client, lambda: self._elector.leading)
        self._recorder = Recorder(self._client, lambda: self._elector.leading, service_engine)
        self._watches = Watches(self._client, kubernetes, self._changed.set, rng)
        self._assembly = Assembly(kubernetes, surroundings.taken)
        self._nodes: dict[ObjectKey, Node] = {}
        self._routes: dict[str, str] = {}
        self._left_out: tuple[LeftOut, ...] = ()
        self._post: Post | None = None
        self._post_routes: PostRoutes | None = None
        self._posted: tuple[VirtualService, ...] | None = None
        self._has_earlier_state = False
        self._cached_s = 0.0
        self._cache_is_old = False
        self._failed: dict[str, str] = {}
        self._tasks: list[asyncio.Task[None]] = []
        self._caching: asyncio.Task[None] | None = None
        self._ending: asyncio.Task[None] | None = None

    async def load(self) -> tuple[VirtualService, ...] | None:
        """Return what an earlier run served, and begin with that; None if nothing is known of one."""
        known = await asyncio.to_thread(cache.read, self._cache_path, _name_of(self._kubernetes))
        if known is None:
            return None
        self._watches.preload(known)
        self._has_earlier_state = True
        self._take_over()
        self._posted = self._settle().virtual_services
        log.info("kubernetes_earlier_state_used", services=len(self._posted))
        return self._posted

    async def start(self, post: Post, post_routes: PostRoutes) -> None:
        """Watch, and post every new snapshot from now on."""
        self._post = post
        self._post_routes = post_routes
        runs: list[tuple[str, Callable[[], Coroutine[Any, Any, None]]]] = [
            ("kubernetes", self._run),
            ("kubernetes elector", self._elector.run),
            ("kubernetes writer", self._writer.run),
            ("kubernetes events", self._recorder.run),
        ]
        runs += [
            (f"watch {reflector.resource.plural} {reflector.resource.scope}", reflector.run)
            for reflector in self._watches.reflectors
        ]
        self._tasks = [asyncio.create_task(self._keep_running(name, run), name=name) for name, run in runs]
        self._changed.set()

    async def close(self) -> None:
        """Post nothing more, give the Lease back, and keep what is known for the next run.

        Who calls it again waits for the same end: one that is cancelled on the way must not keep the Lease from others.
        """
        self._post = self._post_routes = None
        if self._ending is None:
            self._ending = asyncio.create_task(self._end(), name="end of kubernetes")
        await asyncio.shield(self._ending)

    async def _end(self) -> None:
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        if self._caching is not None:
            await self._caching
        if self._cache_is_due:
            await self._write_cache()
        await self._client.close()

    def reconfigure(self, kubernetes: Kubernetes, surroundings: Surroundings) -> None:
        """Take over pools, profiles, monitors and the files' addresses after a reload."""
        self._kubernetes = kubernetes
        self._surroundings = surroundings
        self._assembly.reconfigure(kubernetes, surroundings.taken)
        self._find_routes()
        self._changed.set()

    def why_not(self, kubernetes: Kubernetes) -> tuple[str, ...]:
        """Return why a reload to this configuration is refused: it would take what Services have."""
        ours = [one for one in self._assembly.services.values() if is_ours(one, self._kubernetes)]
        shrunk = shrink_errors(self._kubernetes, kubernetes, ours)
        return (*shrunk, *self._assembly.rules_broken_by(kubernetes)[:_SHOWN_BROKEN])

    def status(self) -> KubernetesStatus:
        """Return the snapshot that everybody reads, without the routes to Pods."""
        writer, elector = self._writer, self._elector
        return cluster_status(
            self._kubernetes,
            self._client.status(),
            LeaderStatus(elector.leading, elector.holder, self._identity, elector.transitions_total),
            self._watches.status(),
            self._assembly,
            (writer.writes_total, writer.conflicts_total, writer.failures_total),
            writer.problems,
        )

    @property
    def problems(self) -> tuple[str, ...]:
        """Sentences about what is wrong now, other than with single objects."""
        found = [f"{name} failed and is started again: {why}" for name, why in self._failed.items()]
        found += [str(one) for one in self._left_out[:_SHOWN_LEFT_OUT]]
        if len(self._left_out) > _SHOWN_LEFT_OUT:
            found.append(f"{len(self._left_out) - _SHOWN_LEFT_OUT} more podCIDRs have no route: the log names them")
        status = self._client.status()
        if not status.reachable:
            stays = "; the last good state stays" if self._knows_the_cluster else ""
            return (*found, f"the Kubernetes API can't be reached, or refuses lbd's credentials: {status.error}{stays}")
        if self._elector.error and not self._elector.holder:
            found.append(f"nobody is known to write to the API, and this one can't be elected: {self._elector.error}")
        for watch in self._watches.status():
            if watch.last_error and not watch.synced:
                found.append(f"{watch.resource} can't be watched: {watch.last_error}")
        return tuple(found)

    def _is_ours_to_judge(self, rule: L4Rule) -> bool:
        """Tell whether to write what was found of a rule: a Service of ours names it, or nobody has judged it yet.

        Two groups in one cluster, with profiles of their own, would otherwise take back each other's verdicts for ever.
        """
        return bool(self._assembly.services_naming(rule.key)) or rule.status.observed_generation != rule.generation

    @property
    def _knows_the_cluster(self) -> bool:
        """Whether everything was listed, now or by an earlier run: a part of it would say that the rest isn't there."""
        return self._has_earlier_state or self._watches.synced

    @property
    def _cache_is_due(self) -> bool:
        return self._cache_is_old and self._knows_the_cluster

    # -- the loop --------------------------------------------------------------------------------------------------

    async def _run(self) -> None:
        while True:
            wait_s = _RELEASE_POLL_S if self._assembly.leaving else None
            if self._cache_is_due:
                wait_s = min(wait_s or _CACHE_INTERVAL_S, _CACHE_INTERVAL_S)
            try:
                async with asyncio.timeout(wait_s):
                    await self._changed.wait()
            except TimeoutError:
                pass  # what is leaving may be gone, or the cache is due
            else:
                await asyncio.sleep(_GATHER_S)
            self._changed.clear()
            self._take_over()
            if self._knows_the_cluster:
                while self._assembly.work_off(self._are_released(), _AT_ONCE):  # noqa: ASYNC110  (others have a turn)
                    await asyncio.sleep(0)
                self._speak(self._settle())
            if self._cache_is_due and time.monotonic() - self._cached_s >= _CACHE_INTERVAL_S:
                await self._write_cache()

    def _take_over(self) -> None:
        nodes_changed = False
        for change in self._watches.take_changes():
            found = change.found
            if change.kind == SERVICES:
                self._assembly.put_service(change.key, found if isinstance(found, Service) else None)
            elif change.kind == SLICES:
                self._assembly.put_slice(change.key, found if isinstance(found, EndpointSlice) else None)
            elif change.kind == RULES:
                self._assembly.put_rule(change.key, found if isinstance(found, L4Rule) else None)
            else:
                nodes_changed = True
                if isinstance(found, Node):
                    self._nodes[change.key] = found
                else:
                    self._nodes.pop(change.key, None)
            self._cache_is_old = True
        if nodes_changed:
            self._find_routes()

    def _settle(self) -> Changes:
        return self._assembly.settle(self._are_released())

    def _are_released(self) -> Callable[[ObjectKey], bool]:
        """Return what tells whether nothing of a Service is left here. The data path is asked once, if
        somebody wants to know: a namespace that is deleted may have 500 of them, ten times a second."""
        owners: set[str] | None = None

        def is_released(key: ObjectKey) -> bool:
            nonlocal owners
            if owners is None:
                owners = {name.rpartition(":")[0] for name in self._held()}
            return str(key) not in owners

        return is_released

    def _speak(self, changes: Changes) -> None:
        services = changes.virtual_services
        if self._post is not None and not _are_the_same(services, self._posted):
            self._posted = services
            self._post(services)
        if self._post_routes is not None and self._kubernetes.pod_routes:
            self._post_routes(self._routes)
        for decision in changes.decisions:
            self._writer.want_service(decision.service, decision.wish)
            for note in decision.notes:
                say = self._recorder.warning if note.is_warning else self._recorder.normal
                say(decision.service, note.reason, note.message)
        for rule, verdict in changes.rules:
            if not self._is_ours_to_judge(rule):
                self._writer.forget(Kind.RULE, rule.key)
                continue
            self._writer.want_rule(rule, verdict.status)
            if rule.status.status != verdict.status.status or rule.status.error != verdict.status.error:
                if verdict.accepted:
                    self._recorder.normal(rule, "RuleAccepted", f"generation {rule.generation} is in force")
                else:
                    self._recorder.warning(rule, "RuleRejected", verdict.status.error)
        for key in changes.gone:
            self._writer.forget(Kind.SERVICE, key)
        for key in changes.rules_gone:
            self._writer.forget(Kind.RULE, key)

    def _find_routes(self) -> None:
        if not self._kubernetes.pod_routes:
            return
        before = self._left_out
        self._routes, self._left_out = routes_of(
            self._nodes.values(),
            pod_cidrs=self._kubernetes.pod_cidrs,
            address_pools=self._kubernetes.address_pools,
            own_addresses=self._surroundings.taken,
            networks=self._surroundings.networks,
            held=self._routes,
        )
        for one in self._left_out:
            if one not in before:
                log.warning("pod_route_left_out", node=str(one.node), pod_cidr=one.pod_cidr, reason=one.reason)

    def _on_leadership(self, leading: bool) -> None:
        log.info("kubernetes_leadership", leading=leading, identity=self._identity, holder=self._elector.holder)
        self._writer.leadership_changed()
        if leading:
            self._assembly.repeat()  # what the one before has not said is ours to say
            self._changed.set()

    async def _write_cache(self) -> None:
        """Write it, whoever is cancelled meanwhile: two threads would write one file."""
        self._cached_s = time.monotonic()
        self._cache_is_old = False
        self._caching = asyncio.create_task(self._cache(self._worth_keeping()), name="kubernetes cache")
        await asyncio.shield(self._caching)

    async def _cache(self, objects: dict[str, Sequence[dict[str, Any]]]) -> None:
        try:
            await asyncio.to_thread(cache.write, self._cache_path, _name_of(self._kubernetes), objects)
        except (OSError, ValueError, RecursionError) as error:  # objects are others': the daemon must end all the same
            log.warning("kubernetes_cache_not_written", path=str(self._cache_path), reason=str(error))

    def _worth_keeping(self) -> dict[str, Sequence[dict[str, Any]]]:
        """Return what is needed to serve again what is served now."""
        services = self._assembly.services
        ours = {key for key, service in services.items() if is_ours(service, self._kubernetes)}
        slices = self._assembly.slices_of(ours)
        raw_services, raw_slices = self._watches.raw(SERVICES), self._watches.raw(SLICES)
        return {
            SERVICES: [raw_services[key] for key in sorted(ours) if key in raw_services],
            SLICES: [raw_slices[key] for key in sorted(slices) if key in raw_slices],
            RULES: list(self._watches.raw(RULES).values()),
            NODES: list(self._watches.raw(NODES).values()),
        }

    async def _keep_running(self, name: str, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        """Run a task for ever: one that ends by a fault of ours is said, and started again."""
        wait_s, longest_s = _RESTART_S
        while True:
            begun_s = time.monotonic()
            try:
                await run()
                why = "it ended"
            except Exception as error:
                why = f"{type(error).__name__}: {error}"
                log.error("task_failed", task=name, error=repr(error), exc_info=error)
            self._failed[name] = why
            if time.monotonic() - begun_s > longest_s:
                wait_s = _RESTART_S[0]
            await asyncio.sleep(wait_s)
            wait_s = min(wait_s * 2, longest_s)
            del self._failed[name]


def _name_of(kubernetes: Kubernetes) -> str:
    """Return what names the cluster in the cache: known also when the kubeconfig can't be read now."""
    return f"{kubernetes.kubeconfig or 'in-cluster'}#{kubernetes.context or ''}"


def _are_the_same(services: tuple[VirtualService, ...], posted: tuple[VirtualService, ...] | None) -> bool:
    """Tell whether nothing has changed: what did not change is the same object."""
    return (
        posted is not None
        and len(services) == len(posted)
        and all(one is other for one, other in zip(services, posted, strict=True))
    )
