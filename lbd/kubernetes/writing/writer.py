"""Writes what Services and L4Rules shall say to the API, until they say it.

For each object the latest wish counts, and no two requests for it are under way at once. A patch that comes too late is
refused by the API server (409); then the newer object, which the reflector brings, is waited for. What was written is
remembered until that object arrives, so that a wish about the older one is not written a second time.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime

import structlog

from lbd.kubernetes.api.api_error import ApiError
from lbd.kubernetes.api.requests import Requests, utc_now
from lbd.kubernetes.objects.kinds import L4Rule, ObjectKey, RuleStatus, Service
from lbd.kubernetes.writing.wishes import Kind, Patch, ServiceWish, Target, patches, rule_patches

log = structlog.get_logger(__name__)

CONCURRENCY = 8
REQUEST_TIMEOUT_S = 4.0
"""Shorter than what lies between a Lease's renew deadline and its end (5 s where nothing else is configured): a request
that began while this one led ends before another does."""
FIRST_RETRY_S = 0.5
LONGEST_RETRY_S = 30.0
BURST = 20
REFILL_S = 1.0
"""How many requests one object may cause: these at once, then one in this time. Somebody else may write the contrary
each time, as another controller does that takes the object for its own."""
_LEADERSHIP_POLL_S = 1.0
_PATHS = {
    Kind.SERVICE: "/api/v1/namespaces/{}/services/{}",
    Kind.RULE: "/apis/ako.vmware.com/v1alpha2/namespaces/{}/l4rules/{}",
}


@dataclass(slots=True, eq=False)
class _Entry:
    """An object and what it shall say. `revision` grows with each new wish or object.

    `superseded` are versions of the object that are known to be older than `stored`.
    """

    stored: Service | L4Rule
    wish: ServiceWish | RuleStatus
    revision: int = 0
    superseded: set[str] = field(default_factory=set)
    is_busy: bool = False
    """It is in the queue, or written just now."""
    failures: int = 0
    problem: str = ""
    retry: asyncio.TimerHandle | None = None
    tokens: float = BURST
    refilled_s: float = 0.0

    def wait_s(self, now_s: float) -> float:
        """Take leave for one request, and return 0; or return in which time there is leave. `now_s` is monotonic."""
        self.tokens = min(float(BURST), self.tokens + (now_s - self.refilled_s) / REFILL_S)
        self.refilled_s = now_s
        if self.tokens < 1:
            return (1 - self.tokens) * REFILL_S
        self.tokens -= 1
        return 0.0

    def take(self, stored: Service | L4Rule, wish: ServiceWish | RuleStatus) -> bool:
        """Take over what is wanted now; tell whether that is news."""
        if stored.uid != self.stored.uid:
            self.superseded.clear()
        elif stored.resource_version in self.superseded:
            stored = _with_written(stored, self.stored)
        if (stored.uid, stored.resource_version) == (self.stored.uid, self.stored.resource_version):
            if wish == self.wish:
                return False
        else:
            self.superseded.clear()
            self.failures = 0
        self.stored, self.wish = stored, wish
        self.revision += 1
        return True

    def wrote(self, patch: Patch, base: str, version: str) -> None:
        """Note that a patch of version `base` made `version` of it. If the reflector was faster, it knows better."""
        if self.stored.resource_version == base and self.stored.uid == patch.after.uid:
            self.superseded.add(base)
            self.stored = _with_version(_with_written(self.stored, patch.after), version)

    def patches(self, now: datetime) -> Sequence[Patch]:
        """Return what is to be written."""
        if isinstance(self.stored, Service):
            assert isinstance(self.wish, ServiceWish)
            return patches(self.stored, self.wish, now.astimezone(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"))
        assert isinstance(self.wish, RuleStatus)
        return rule_patches(self.stored, self.wish)


class Writer:
    """A loop that reconciles. Nothing is sent unless `is_leading`, which is asked right before each request."""

    def __init__(
        self,
        client: Requests,
        is_leading: Callable[[], bool],
        *,
        now: Callable[[], datetime] = utc_now,
        rng: random.Random | None = None,
    ) -> None:
        self._client = client
        self._is_leading = is_leading
        self._now = now
        self._rng = rng or random.Random()
        self._entries: dict[Target, _Entry] = {}
        self._queue: asyncio.Queue[Target] = asyncio.Queue()
        self._parked: set[Target] = set()
        """What was not written because this one doesn't lead."""
        self.writes_total = 0
        self.conflicts_total = 0
        self.failures_total = 0

    def want_service(self, service: Service, wish: ServiceWish) -> None:
        """Have a Service say what is wished; `service` is the newest that the reflector knows."""
        self._want(Target(Kind.SERVICE, service.key), service, wish)

    def want_rule(self, rule: L4Rule, status: RuleStatus) -> None:
        """Have an L4Rule's status be this; `rule` is the newest that the reflector knows."""
        self._want(Target(Kind.RULE, rule.key), rule, status)

    def forget(self, kind: Kind, key: ObjectKey) -> None:
        """Stop writing to an object that is gone, or no business of ours any more."""
        self._drop(Target(kind, key))

    def leadership_changed(self) -> None:
        """Look at once at whether to write."""
        if self._is_leading():
            parked, self._parked = self._parked, set()
            for target in sorted(parked):
                self._enqueue(target)

    @property
    def problems(self) -> Mapping[Target, str]:
        """What could not be written, and why."""
        return {target: entry.problem for target, entry in self._entries.items() if entry.problem}

    async def run(self) -> None:
        """Write until cancelled."""
        self._queue = asyncio.Queue()
        for target, entry in self._entries.items():
            entry.is_busy = False
            self._enqueue(target)
        try:
            async with asyncio.TaskGroup() as group:
                for number in range(CONCURRENCY):
                    group.create_task(self._work(), name=f"kubernetes writer {number}")
                group.create_task(self._watch_leadership(), name="kubernetes writer leadership")
        finally:
            for entry in self._entries.values():
                _cancel_retry(entry)

    def _want(self, target: Target, stored: Service | L4Rule, wish: ServiceWish | RuleStatus) -> None:
        entry = self._entries.get(target)
        if entry is None:
            entry = self._entries[target] = _Entry(stored, wish)
        elif not entry.take(stored, wish):
            return
        if entry.is_busy:
            return  # who writes it looks again
        if entry.patches(self._now()):
            self._enqueue(target)
        else:
            self._done(target, entry)

    def _enqueue(self, target: Target) -> None:
        entry = self._entries.get(target)
        if entry is None or entry.is_busy:
            return
        _cancel_retry(entry)
        entry.is_busy = True
        self._queue.put_nowait(target)

    def _drop(self, target: Target) -> None:
        entry = self._entries.pop(target, None)
        if entry is not None:
            _cancel_retry(entry)
        self._parked.discard(target)

    def _done(self, target: Target, entry: _Entry) -> None:
        _cancel_retry(entry)
        entry.failures, entry.problem = 0, ""
        self._parked.discard(target)

    async def _work(self) -> None:
        while True:
            target = await self._queue.get()
            entry = self._entries.get(target)
            if entry is None:
                continue
            try:
                await self._reconcile(target, entry)
            finally:
                entry.is_busy = False

    async def _watch_leadership(self) -> None:
        """Nobody has to tell: it is looked for, too."""
        while True:
            await asyncio.sleep(_LEADERSHIP_POLL_S)
            if self._parked:
                self.leadership_changed()

    async def _reconcile(self, target: Target, entry: _Entry) -> None:
        """Send patches until the object says what is wished, or one fails."""
        while self._entries.get(target) is entry:
            revision = entry.revision
            todo = entry.patches(self._now())
            if not todo:
                self._done(target, entry)
                return
            if not self._is_leading():
                self._parked.add(target)
                return
            wait_s = entry.wait_s(time.monotonic())
            if wait_s:
                self._later(target, entry, wait_s)
                return
            try:
                await self._send(target, entry, todo[0])
            except ApiError as error:
                if self._failed(target, entry, error, revision != entry.revision):
                    return

    async def _send(self, target: Target, entry: _Entry, patch: Patch) -> None:
        base = entry.stored.resource_version
        path = _PATHS[target.kind].format(target.key.namespace, target.key.name) + ("/status" if patch.status else "")
        answer = await self._client.request(
            "PATCH", path, body=patch.body(base), content_type=patch.content_type, timeout_s=REQUEST_TIMEOUT_S
        )
        metadata = answer.get("metadata")
        version = metadata.get("resourceVersion") if isinstance(metadata, Mapping) else None
        if not isinstance(version, str) or not version:
            raise ApiError(0, "Unusable", "the answer has no resourceVersion")
        self.writes_total += 1
        entry.failures, entry.problem = 0, ""
        entry.wrote(patch, base, version)
        log.info("object_written", object=str(target), status=patch.status)

    def _failed(self, target: Target, entry: _Entry, error: ApiError, is_news: bool) -> bool:
        """Note a failure; tell whether to leave it at that for now. With `is_news` there is something else to try."""
        if self._entries.get(target) is not entry:
            return True
        if error.status == 404:
            self._drop(target)
            return True
        if error.status == 409:
            self.conflicts_total += 1
            if is_news:
                return False
        else:
            self.failures_total += 1
            if str(error) != entry.problem and not error.away:  # that it is away is said once, by who asks it
                log.warning("write_failed", object=str(target), reason=str(error))
            entry.problem = str(error)
        delay_s = min(FIRST_RETRY_S * 2.0 ** min(entry.failures, 16), LONGEST_RETRY_S) * self._rng.uniform(0.8, 1.2)
        entry.failures += 1
        self._later(target, entry, max(delay_s, error.retry_after_s or 0.0))
        return True

    def _later(self, target: Target, entry: _Entry, delay_s: float) -> None:
        _cancel_retry(entry)
        entry.retry = asyncio.get_running_loop().call_later(delay_s, self._enqueue, target)


def _cancel_retry(entry: _Entry) -> None:
    if entry.retry is not None:
        entry.retry.cancel()
        entry.retry = None


def _with_written(known: Service | L4Rule, written: Service | L4Rule) -> Service | L4Rule:
    """Return an object with the part of another one that lbd writes."""
    if isinstance(known, Service):
        assert isinstance(written, Service)
        return replace(
            known,
            resource_version=written.resource_version,
            finalizers=written.finalizers,
            ingress=written.ingress,
            conditions=written.conditions,
        )
    assert isinstance(written, L4Rule)
    return replace(known, resource_version=written.resource_version, status=written.status)


def _with_version(stored: Service | L4Rule, version: str) -> Service | L4Rule:
    return replace(stored, resource_version=version)
