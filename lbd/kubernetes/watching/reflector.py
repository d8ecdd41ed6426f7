"""Keeps a copy of a collection of the API: lists it, then watches it, and never loses it to an error."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Iterable, Mapping
from contextlib import aclosing
from typing import Any, Generic, TypeVar

import structlog

from lbd.kubernetes.api.api_error import ApiError
from lbd.kubernetes.api.client import ApiClient
from lbd.kubernetes.objects.kinds import KubernetesObject, ObjectKey
from lbd.kubernetes.objects.parse import Unusable
from lbd.kubernetes.watching.object_store import ObjectStore
from lbd.kubernetes.watching.resources import Resource
from lbd.kubernetes.watching.watch_events import GARBAGE, read_event, read_page
from lbd.kubernetes.watching.watch_pace import NOT_INSTALLED, SHORT_S, Next, Pace
from lbd.model.kubernetes import Kubernetes
from lbd.model.kubernetes_status import WatchStatus

log = structlog.get_logger(__name__)

MAX_OBJECTS = 200_000
GRACE_S = 10.0
"""What a server may take longer to end a watch than `timeoutSeconds` says."""
_OBJECTS_A_TURN = 50

T = TypeVar("T", bound=KubernetesObject)


class Reflector(Generic[T]):
    """`objects` is the last good state of the collection. Only `run` changes it, and then calls `on_change` with the
    keys of what is another one now, or is gone; also once, perhaps with none, when it has listed for the first time.

    What `parse` refuses is `unusable`; an object that was good before stays in `objects` as it was. `raw` is what
    `objects` was made of, for `preload` of another run.
    """

    def __init__(
        self,
        client: ApiClient,
        resource: Resource,
        parse: Callable[[object], T | Unusable],
        on_change: Callable[[frozenset[ObjectKey]], None],
        kubernetes: Kubernetes,
        *,
        rng: random.Random,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._client = client
        self.resource = resource
        self._on_change = on_change
        self._kubernetes = kubernetes
        self._rng = rng
        self._clock = clock
        self._store = ObjectStore(parse, namespaced=resource.namespaced)
        self._pace = Pace(rng)
        self._version = ""
        self._list_at_s = 0.0
        self._alive_s = clock()
        self._open_s: float | None = None
        """Since when the watch that is open now is open."""
        self._seen = False
        """Whether anything came of the last one."""
        self._synced = False
        self._error = ""
        self._relists_total = 0
        self._errors_total = 0
        self.objects: Mapping[ObjectKey, T] = self._store.objects
        self.raw: Mapping[ObjectKey, dict[str, Any]] = self._store.raw
        self.unusable: Mapping[ObjectKey, Unusable] = self._store.unusable

    @property
    def synced(self) -> bool:
        """Whether it has listed since it was made."""
        return self._synced

    def preload(self, raws: Iterable[dict[str, Any]]) -> None:
        """Begin with what an earlier run had as `raw`; what is no object of this collection is left out."""
        for raw in raws:
            try:
                self._store.put(self._store.name(raw), raw)
            except ApiError as error:
                log.warning("kubernetes_cache_entry_refused", resource=self.resource.plural, error=error.message)
        self._store.forget_versions()  # a file on a disk may say anything of a version

    def status(self, now_s: float) -> WatchStatus:
        """Return how it goes."""
        works = self._open_s is not None and now_s >= self._open_s + SHORT_S
        error = "" if works else self._error
        if not error and self.unusable:
            key, one = next(iter(self.unusable.items()))
            error = f"{len(self.unusable)} can't be used, one of them {key}: {one.reason}"
        return WatchStatus(
            resource=self.resource.plural,
            namespace=self.resource.namespace or "",
            synced=self._synced,
            objects=len(self.objects),
            age_s=max(0.0, now_s - self._alive_s),
            relists_total=self._relists_total,
            errors_total=self._errors_total,
            last_error=error,
        )

    async def run(self) -> None:
        """List and watch until cancelled."""
        doing = Next.LIST
        while True:
            try:
                await (self._list() if doing is Next.LIST else self._watch())
            except ApiError as error:
                error = self._explained(doing, error)
                self._failed(error)
                doing, delay_s = self._pace.after_error(doing, error)
                self._drop_what_is_missing()
            else:
                doing, delay_s = Next.WATCH, self._watched() if doing is Next.WATCH else 0.0
            finally:
                self._open_s = None
            if self._clock() >= self._list_at_s:
                doing = Next.LIST
            await asyncio.sleep(delay_s)

    # Listing.

    async def _list(self) -> None:
        """Make the state that of the API.

        Raises:
            ApiError: nothing has changed.
        """
        self._relists_total += self._synced and not self._pace.missing
        try:
            items, version = await self._pages()
        except ApiError as error:
            if error.status != 410:
                raise
            items, version = await self._pages()  # the list had grown too old while its pages were read
        keys = [self._store.name(item) for item in items]
        changed: set[ObjectKey] = set()
        try:
            for index, (key, item) in enumerate(zip(keys, items, strict=True)):
                changed |= self._store.put(key, item)
                if index % _OBJECTS_A_TURN == _OBJECTS_A_TURN - 1:
                    await asyncio.sleep(0)
            changed |= self._store.keep_only(frozenset(keys))
            self._version = version
            self._listed()
        finally:
            self._report(changed)

    async def _pages(self) -> tuple[list[dict[str, Any]], str]:
        """Return all objects, and the version of the collection."""
        query = {"limit": str(self.resource.page_limit)}
        if self.resource.label_selector:
            query["labelSelector"] = self.resource.label_selector
        items: list[dict[str, Any]] = []
        while True:
            page = read_page(await self._client.request("GET", self.resource.path, query=query))
            items += page.items
            self._alive_s = self._clock()
            if not page.continue_token:
                return items, page.version
            if len(items) > MAX_OBJECTS or not page.items:
                raise ApiError(200, GARBAGE, f"the list has no end: {len(items)} objects, and an offer of more")
            query["continue"] = page.continue_token

    def _listed(self) -> None:
        """The state is that of the API, as of now."""
        self._pace.listed()
        interval_s = self._kubernetes.resync_s * self._rng.uniform(0.9, 1.1)
        self._list_at_s = self._clock() + interval_s if interval_s else float("inf")
        self._works()

    def _report(self, changed: set[ObjectKey]) -> None:
        first = not self._synced and bool(self._version)
        self._synced = self._synced or first
        if changed or first:
            self._on_change(frozenset(changed))

    # Watching.

    async def _watch(self) -> None:
        """Take over what changes, until the server ends the watch or its time is over.

        Raises:
            ApiError: it failed; what came before is taken over.
        """
        timeout_s = self._kubernetes.watch_timeout_s * self._rng.uniform(0.8, 1.0)
        timeout_s = max(1.0, min(timeout_s, self._list_at_s - self._clock()))
        query = {
            "watch": "1",
            "allowWatchBookmarks": "true",
            "resourceVersion": self._version,
            "timeoutSeconds": str(int(timeout_s)),
        }
        if self.resource.label_selector:
            query["labelSelector"] = self.resource.label_selector
        self._seen = False
        events = self._client.batches(self.resource.path, query=query, idle_timeout_s=timeout_s + GRACE_S)
        try:
            async with asyncio.timeout(None) as deadline, aclosing(events):
                async for batch in events:
                    if self._open_s is None:  # what went before was the wait for leave to ask
                        self._open_s = self._alive_s = self._clock()
                        deadline.reschedule(asyncio.get_running_loop().time() + timeout_s + 2 * GRACE_S)
                    self._take(batch)
        except TimeoutError:
            pass  # this server doesn't end a watch by itself: an end of ours is as good

    def _watched(self) -> float:
        """A watch has ended in order; return after how many seconds the next one begins."""
        lasted_s = self._clock() - self._open_s if self._open_s is not None else 0.0
        if lasted_s >= SHORT_S:
            self._works()
        elif not self._seen:
            self._failed(ApiError(200, "Ended", "watch: the server ended it at once, with nothing in it"))
        return self._pace.after_watch(lasted_s, seen=self._seen)

    def _take(self, batch: list[dict[str, Any]]) -> None:
        """Take over events that came together, and report them together."""
        changed: set[ObjectKey] = set()
        try:
            for raw in batch:
                event = read_event(raw)
                changed |= self._store.apply(event)
                self._version = event.version
                self._alive_s = self._clock()
                self._seen = True
                self._pace.alive()
                self._works()
        finally:
            self._report(changed)

    # Working and failing.

    def _works(self) -> None:
        if self._error:
            log.info("kubernetes_watch_works", resource=self.resource.plural, namespace=self.resource.namespace)
        self._error = ""

    def _failed(self, error: ApiError) -> None:
        where = {"resource": self.resource.plural, "namespace": self.resource.namespace}
        missing = error.reason == NOT_INSTALLED
        self._errors_total += not missing
        if error.message != self._error and missing:
            log.info("kubernetes_resource_not_installed", **where)
        elif error.message != self._error:
            log.warning("kubernetes_watch_failed", **where, error=error.message)
        self._error = error.message

    def _drop_what_is_missing(self) -> None:
        """A collection that is not there has no objects: that is an answer. What was known goes if it stays so."""
        if not self._pace.missing:
            return
        self._alive_s = self._clock()
        changed = self._store.keep_only(()) if self._pace.missing_for_good else frozenset()
        first, self._synced = not self._synced, True
        if changed or first:
            self._on_change(changed)

    def _explained(self, doing: Next, error: ApiError) -> ApiError:
        """Return the error with a message that says what was tried, and what to do."""
        reason, message = error.reason, f"{doing}: {error}"
        if error.status == 404 and self.resource.custom and doing is Next.LIST:
            reason = message = NOT_INSTALLED
        elif error.status == 403:
            message = f"no permission to {doing} {self.resource.plural} {self.resource.scope}: {error.message}"
        return ApiError(error.status, reason, message, error.retry_after_s)
