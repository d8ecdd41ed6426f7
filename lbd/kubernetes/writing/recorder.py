"""Tells users about Services and L4Rules by Events, sparingly; `event_book` says when."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import structlog

from lbd.kubernetes.api.api_error import ApiError
from lbd.kubernetes.api.requests import MERGE_PATCH, Requests, utc_now
from lbd.kubernetes.objects.kinds import L4Rule, Service
from lbd.kubernetes.writing.event_book import About, EventBook, Note
from lbd.kubernetes.writing.writer import REQUEST_TIMEOUT_S

log = structlog.get_logger(__name__)

COMPONENT = "lbd"
PER_S = 10.0
"""Events that are written a second, after a burst of BURST."""
BURST = 50
MAX_TRIES = 3
_RETRY_S = 2.0


class Recorder:
    """Writes Events (core/v1) while this one leads; what is noted while it doesn't is another one's to say.

    `instance` names this service engine. `clock` is monotonic.
    """

    def __init__(
        self,
        client: Requests,
        is_leading: Callable[[], bool],
        instance: str,
        *,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = utc_now,
    ) -> None:
        self._client = client
        self._is_leading = is_leading
        self._instance = instance
        self._clock = clock
        self._now = now
        self._book = EventBook()
        self._noted = asyncio.Event()
        self._tokens = float(BURST)
        self._refilled_s = clock()
        self._failed_total = 0
        self.written_total = 0

    @property
    def dropped_total(self) -> int:
        """How many Events were never written: too many, or refused."""
        return self._book.dropped_total + self._failed_total

    def normal(self, about: Service | L4Rule, reason: str, message: str) -> None:
        """Say something that is as it should be. Returns at once."""
        self._note(about, "Normal", reason, message)

    def warning(self, about: Service | L4Rule, reason: str, message: str) -> None:
        """Say something that somebody has to do something about. Returns at once."""
        self._note(about, "Warning", reason, message)

    async def run(self) -> None:
        """Write until cancelled."""
        while True:
            self._noted.clear()
            wait_s = self._book.wait_s(self._clock())
            if wait_s is None or wait_s > 0:
                try:
                    async with asyncio.timeout(wait_s):
                        await self._noted.wait()
                except TimeoutError:
                    pass  # a count is due to be raised
            if not self._is_leading():
                self._book.clear()
                continue
            await self._take_token()
            note = self._book.next_due(self._clock())
            if note is not None:
                await self._write(note)

    def _note(self, about: Service | L4Rule, kind: str, reason: str, message: str) -> None:
        if not self._is_leading():
            return
        self._book.note(_about(about), kind, reason, message, self._clock(), self._now().timestamp())
        self._noted.set()

    async def _take_token(self) -> None:
        now_s = self._clock()
        self._tokens = min(float(BURST), self._tokens + (now_s - self._refilled_s) * PER_S)
        self._refilled_s = now_s
        if self._tokens < 1:
            await asyncio.sleep((1 - self._tokens) / PER_S)
        self._tokens -= 1

    async def _write(self, note: Note) -> None:
        """Write a note, again if the API is away; what is refused is dropped and counted."""
        for attempt in range(MAX_TRIES):
            if not self._is_leading():
                return
            try:
                await self._write_once(note)
            except ApiError as error:
                if error.away and attempt + 1 < MAX_TRIES:
                    await asyncio.sleep(error.retry_after_s or _RETRY_S)
                    continue
                self._failed_total += 1
                log.warning("event_not_written", about=str(note.about.key), event_reason=note.reason, error=str(error))
                return
            self._book.written(note, self._clock())
            self.written_total += 1
            return

    async def _write_once(self, note: Note) -> None:
        if self._book.is_known(note):
            try:
                return await self._count_on(note)
            except ApiError as error:
                if error.status != 404:
                    raise
                self._book.forget(note)  # Events live for an hour
        try:
            await self._ask("POST", _collection(note), self._event(note))
        except ApiError as error:
            if error.status != 409:
                raise
            await self._count_on(note)

    async def _count_on(self, note: Note) -> None:
        """Raise the count of an Event that is there."""
        path = f"{_collection(note)}/{note.name}"
        there = await self._ask("GET", path)
        count = there.get("count")
        before = count if isinstance(count, int) and not isinstance(count, bool) and 0 <= count < 2**30 else 0
        changes = {"count": before + note.count, "lastTimestamp": _timestamp(note.last_unix_s)}
        await self._ask("PATCH", path, changes, MERGE_PATCH)

    async def _ask(
        self, method: str, path: str, body: Mapping[str, Any] | None = None, content_type: str | None = None
    ) -> dict[str, Any]:
        return await self._client.request(
            method, path, body=body, content_type=content_type, timeout_s=REQUEST_TIMEOUT_S
        )

    def _event(self, note: Note) -> dict[str, Any]:
        about = note.about
        return {
            "apiVersion": "v1",
            "kind": "Event",
            "metadata": {"name": note.name, "namespace": about.key.namespace},
            "involvedObject": {
                "apiVersion": about.api_version,
                "kind": about.kind,
                "namespace": about.key.namespace,
                "name": about.key.name,
                "uid": about.uid,
                "resourceVersion": about.resource_version,
            },
            "type": note.type,
            "reason": note.reason,
            "message": note.message,
            "count": note.count,
            "firstTimestamp": _timestamp(note.first_unix_s),
            "lastTimestamp": _timestamp(note.last_unix_s),
            "source": {"component": COMPONENT, "host": self._instance},
            "reportingComponent": COMPONENT,
            "reportingInstance": self._instance,
        }


def _about(about: Service | L4Rule) -> About:
    if isinstance(about, Service):
        return About("v1", "Service", about.key, about.uid, about.resource_version)
    return About("ako.vmware.com/v1alpha2", "L4Rule", about.key, about.uid, about.resource_version)


def _collection(note: Note) -> str:
    return f"/api/v1/namespaces/{note.about.key.namespace}/events"


def _timestamp(unix_s: float) -> str:
    return datetime.fromtimestamp(unix_s, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
