"""Who of the group writes: holds the Lease, renews it in time, gives it back.

Leading ends by the clock and not by an answer: whatever hangs, `leading` is false when the renew deadline has passed,
which is before anybody else may take the Lease.
"""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Mapping
from datetime import datetime
from typing import Any

import structlog

from lbd.kubernetes.api.api_error import ApiError
from lbd.kubernetes.api.requests import MERGE_PATCH, Requests, utc_now
from lbd.kubernetes.writing.lease import (
    Decision,
    LeaseRecord,
    Seen,
    Step,
    acquired,
    decide,
    observe,
    released,
    renewed,
)
from lbd.model.kubernetes import LeaseSettings

log = structlog.get_logger(__name__)

_RELEASE_TIMEOUT_S = 1.5
_SHORTEST_TIMEOUT_S = 0.05
_JITTER = 0.2
"""Share of the retry interval by which it is shortened at random: candidates don't ask all at once."""


def _ignore(_leading: bool) -> None:
    pass


class Elector:
    """Takes part in the election that a Lease decides. `identity` is this process' alone.

    `on_change` is told when leading begins and ends. `clock` is monotonic.
    """

    def __init__(
        self,
        client: Requests,
        settings: LeaseSettings,
        identity: str,
        *,
        on_change: Callable[[bool], None] = _ignore,
        clock: Callable[[], float] = time.monotonic,
        now: Callable[[], datetime] = utc_now,
        rng: random.Random | None = None,
    ) -> None:
        self._client = client
        self._settings = settings
        self._identity = identity
        self._on_change = on_change
        self._clock = clock
        self._now = now
        self._rng = rng or random.Random()
        self._collection = f"/apis/coordination.k8s.io/v1/namespaces/{settings.namespace}/leases"
        self._path = f"{self._collection}/{settings.name}"
        self._seen: Seen | None = None
        self._term = ""
        self._is_known = False
        self._renewed_s: float | None = None
        self._reported = False
        self._transitions_total = 0
        self._error = ""

    @property
    def leading(self) -> bool:
        """False as soon as `renew_deadline_s` has passed since the last successful renewal began, whatever hangs."""
        return self._renewed_s is not None and self._clock() < self._renewed_s + self._settings.renew_deadline_s

    @property
    def holder(self) -> str:
        """Who holds the Lease as it was last seen; empty: nobody."""
        return self._seen.record.holder if self._seen is not None else ""

    @property
    def transitions_total(self) -> int:
        """How often this process began or ceased to lead."""
        return self._transitions_total

    @property
    def error(self) -> str:
        """Why the last request failed; empty when it did not."""
        return self._error

    async def run(self) -> None:
        """Take part until cancelled; then give the Lease back if it is held."""
        try:
            while True:
                await self._turn()
                self._report()
                await self._pause()
                self._report()
        finally:
            await self._give_back()

    async def _turn(self) -> None:
        """Look at the Lease, unless it is known to be ours, and do with it what is to be done."""
        try:
            if not (self.leading and self._is_known):
                await self._look()
                self._is_known = True
            decision = decide(self._seen, self._identity, self._term, self._settings, self._clock())
            await self._do(decision)
            self._error = ""
        except ApiError as error:
            self._failed(error)

    async def _do(self, decision: Decision) -> None:
        began_s = self._clock()
        if decision.step is Step.WAIT:
            self._renewed_s = None
            return
        if decision.step is Step.RENEW and self._seen is not None:
            record = renewed(self._seen.record, self._settings, self._now())
        else:
            record = acquired(self._seen, self._identity, self._settings, self._now())
            self._term = record.acquired  # before asking: an answer that is lost may have been a yes
        await self._write(record)
        if decision.step is not Step.RENEW:
            log.info("lease_acquired", lease=self._settings.name, identity=self._identity, reason=decision.reason)
        self._renewed_s = began_s

    async def _look(self) -> None:
        try:
            answer = await self._ask("GET", self._path)
        except ApiError as error:
            if error.status != 404:
                raise
            self._seen = None
            return
        self._observe(answer)

    async def _write(self, record: LeaseRecord) -> None:
        body: dict[str, Any] = {"spec": record.written()}
        if self._seen is None:
            body |= {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease"}
            body["metadata"] = {"name": self._settings.name, "namespace": self._settings.namespace}
            answer = await self._ask("POST", self._collection, body)
        else:
            body["metadata"] = {"resourceVersion": self._seen.resource_version}
            answer = await self._ask("PATCH", self._path, body, MERGE_PATCH)
        self._observe(answer)

    def _observe(self, answer: Mapping[str, Any]) -> None:
        metadata, spec = answer.get("metadata"), answer.get("spec")
        version = metadata.get("resourceVersion") if isinstance(metadata, Mapping) else None
        if not isinstance(version, str) or not version:
            raise ApiError(0, "Unusable", "the answer is not a Lease: it has no resourceVersion")
        record = LeaseRecord.read(spec if isinstance(spec, Mapping) else {})
        self._seen = observe(self._seen, record, version, self._clock())

    async def _ask(self, method: str, path: str, body: Any = None, content_type: str | None = None) -> dict[str, Any]:
        """Make a request that ends before leading does: what hangs must not keep us from saying that it has ended.

        That is left to the client: one that is cut off from here would know nothing of an API that hangs.
        """
        timeout_s = self._settings.renew_deadline_s / 2
        if self._renewed_s is not None:
            left_s = self._renewed_s + self._settings.renew_deadline_s - self._clock()
            timeout_s = min(timeout_s, left_s) if left_s > 0 else timeout_s
        timeout_s = max(timeout_s, _SHORTEST_TIMEOUT_S)
        return await self._client.request(method, path, body=body, content_type=content_type, timeout_s=timeout_s)

    def _failed(self, error: ApiError) -> None:
        self._is_known = False  # an answer that was lost may have been a yes
        if error.status in (404, 409):
            self._renewed_s = None  # somebody else has written or removed it
            self._seen = None if error.status == 404 else self._seen
        if str(error) != self._error and not error.away:  # that it is away is said once, by who asks it
            log.warning("lease_failed", lease=self._settings.name, identity=self._identity, reason=str(error))
        self._error = str(error)

    def _report(self) -> None:
        leading = self.leading
        if leading == self._reported:
            return
        self._reported = leading
        self._transitions_total += 1
        self._on_change(leading)

    async def _pause(self) -> None:
        """Wait until something is to be done: the next look or renewal, or the moment in which leading ends."""
        retry_s = self._settings.retry_s * (1 - _JITTER * self._rng.random())
        if self._renewed_s is not None and self.leading:
            retry_s = min(retry_s, self._renewed_s + self._settings.renew_deadline_s - self._clock())
        elif not self._error:
            decision = decide(self._seen, self._identity, self._term, self._settings, self._clock())
            if decision.step is Step.WAIT:
                retry_s = min(retry_s, max(0.0, decision.expires_s - self._clock()))
        await asyncio.sleep(max(retry_s, _SHORTEST_TIMEOUT_S))

    async def _give_back(self) -> None:
        """Stop leading, then say so in the Lease, so that nobody has to wait for it to expire."""
        held = self.leading
        self._renewed_s = None
        self._report()
        if not held:
            return
        try:
            async with asyncio.timeout(_RELEASE_TIMEOUT_S):
                try:
                    await self._release()
                except ApiError as error:
                    if error.status != 409:
                        raise
                    await self._look()  # the renewal that was under way has come through
                    await self._release()
        except (ApiError, TimeoutError) as error:
            log.warning("lease_not_given_back", lease=self._settings.name, reason=str(error) or "no answer in time")

    async def _release(self) -> None:
        now_s = self._clock()
        if decide(self._seen, self._identity, self._term, self._settings, now_s).step is not Step.RENEW:
            return  # it is somebody else's by now
        assert self._seen is not None
        await self._write(released(self._seen.record, self._now()))
