"""Two electors and one Lease: never two leaders, whatever hangs."""

from __future__ import annotations

import asyncio
import random
from collections.abc import Awaitable, Callable, Mapping
from contextlib import suppress
from typing import Any

import uvloop
from aiohttp import web

from lbd.kubernetes.api.api_error import ApiError
from lbd.kubernetes.api.client import ApiClient
from lbd.kubernetes.writing.elector import Elector
from lbd.model.kubernetes import Kubernetes, LeaseSettings

SETTINGS = LeaseSettings(duration_s=0.45, renew_deadline_s=0.3, retry_s=0.06)
"""Short, so that a test may wait for a deadline; the API's whole seconds make the written duration 1 s."""

Fault = Callable[[str], Awaitable[None]]


async def nothing(_method: str) -> None:
    pass


class Api:
    """One Lease, with the API server's optimistic concurrency. `fault` runs before each request of a client."""

    def __init__(self) -> None:
        self.lease: dict[str, Any] | None = None
        self.version = 0
        self.writes: list[tuple[str, dict[str, Any]]] = []

    def client(self, fault: Fault = nothing) -> ApiOfOne:
        return ApiOfOne(self, fault)

    def answer(self, method: str, body: Any) -> dict[str, Any]:
        if method == "GET":
            if self.lease is None:
                raise ApiError(404, "NotFound", "no such lease")
            return self.lease
        if method == "POST":
            if self.lease is not None:
                raise ApiError(409, "AlreadyExists", "there is one")
        elif self.lease is None:
            raise ApiError(404, "NotFound", "no such lease")
        elif body["metadata"]["resourceVersion"] != self.lease["metadata"]["resourceVersion"]:
            raise ApiError(409, "Conflict", "the object has been modified")
        self.version += 1
        self.writes.append((method, body))
        self.lease = {"metadata": {"resourceVersion": str(self.version)}, "spec": dict(body["spec"])}
        return self.lease


class ApiOfOne:
    def __init__(self, api: Api, fault: Fault) -> None:
        self.api = api
        self.fault = fault
        self.lose_answers = False
        self.timeouts_s: list[float] = []

    async def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str | None = None,
        timeout_s: float | None = None,
    ) -> dict[str, Any]:
        assert timeout_s is not None
        self.timeouts_s.append(timeout_s)
        assert path.startswith("/apis/coordination.k8s.io/v1/namespaces/lbd-system/leases")
        assert (content_type == "application/merge-patch+json") == (method == "PATCH")
        try:
            async with asyncio.timeout(timeout_s):
                await self.fault(method)
        except TimeoutError:
            raise ApiError(0, "Timeout", "no answer in time") from None
        answer = self.api.answer(method, body)
        if self.lose_answers and method != "GET":
            raise ApiError(0, "Timeout", "the answer was lost")
        await asyncio.sleep(0)
        return answer


class Watched:
    """An elector that runs, and what it said of itself."""

    def __init__(self, client: ApiOfOne, identity: str, settings: LeaseSettings = SETTINGS) -> None:
        self.changes: list[bool] = []
        self.changed = asyncio.Event()
        self.elector = Elector(client, settings, identity, on_change=self._note, rng=random.Random(1))
        self.task = asyncio.create_task(self.elector.run())

    def _note(self, leading: bool) -> None:
        assert leading == self.elector.leading
        self.changes.append(leading)
        self.changed.set()

    async def until(self, leading: bool) -> None:
        async with asyncio.timeout(5):
            while self.elector.leading != leading or not self.changes or self.changes[-1] != leading:
                self.changed.clear()
                await self.changed.wait()

    async def stop(self) -> None:
        self.task.cancel()
        with suppress(asyncio.CancelledError):
            await self.task


async def until(is_so: Callable[[], bool]) -> None:
    for _ in range(5000):
        if is_so():
            return
        await asyncio.sleep(0.001)
    raise AssertionError("it did not become so")


def test_the_first_creates_the_lease_and_the_second_waits() -> None:
    async def scenario() -> None:
        api = Api()
        first = Watched(api.client(), "se-a")
        await first.until(True)
        second = Watched(api.client(), "se-b")
        await asyncio.sleep(3 * SETTINGS.retry_s)
        assert first.elector.leading
        assert not second.elector.leading
        assert second.elector.holder == first.elector.holder == "se-a"
        assert second.changes == []
        assert second.elector.transitions_total == 0
        await first.stop()
        await second.stop()

    uvloop.run(scenario())


def test_a_lease_that_is_given_back_is_taken_at_the_next_look() -> None:
    async def scenario() -> None:
        api = Api()
        first = Watched(api.client(), "se-a", LeaseSettings(duration_s=60.0, renew_deadline_s=40.0, retry_s=0.05))
        await first.until(True)
        second = Watched(api.client(), "se-b", LeaseSettings(duration_s=60.0, renew_deadline_s=40.0, retry_s=0.05))
        await first.stop()
        assert first.changes == [True, False]
        assert api.lease is not None
        assert api.lease["spec"]["holderIdentity"] == ""
        assert api.lease["spec"]["leaseDurationSeconds"] == 1
        await second.until(True)
        assert api.lease["spec"]["leaseTransitions"] == 1
        assert first.elector.transitions_total == 2
        await second.stop()

    uvloop.run(scenario())


def test_a_lease_is_given_back_though_a_renewal_was_under_way_when_it_was_stopped() -> None:
    async def scenario() -> None:
        class Slow(ApiOfOne):
            async def request(self, method: str, path: str, **other: Any) -> dict[str, Any]:
                answer = await super().request(method, path, **other)
                if method == "PATCH" and not stopped:
                    under_way.set()
                    await asyncio.Event().wait()  # done, but nobody hears of it
                return answer

        stopped = False
        under_way = asyncio.Event()
        api = Api()
        one = Watched(Slow(api, nothing), "se-a", LeaseSettings(duration_s=60.0, renew_deadline_s=40.0, retry_s=0.05))
        async with asyncio.timeout(5):
            await under_way.wait()
        stopped = True
        await one.stop()
        assert api.lease is not None
        assert api.lease["spec"]["holderIdentity"] == ""
        assert one.changes == [True, False]

    uvloop.run(scenario())


def test_what_somebody_else_holds_by_now_is_not_given_back() -> None:
    async def scenario() -> None:
        api = Api()
        one = Watched(api.client(), "se-a", LeaseSettings(duration_s=60.0, renew_deadline_s=40.0, retry_s=30.0))
        await one.until(True)
        spec = {"holderIdentity": "se-b", "leaseDurationSeconds": 60, "acquireTime": "x", "renewTime": "y"}
        api.lease = {"metadata": {"resourceVersion": "stolen"}, "spec": spec}
        await one.stop()
        assert api.lease["spec"] == spec

    uvloop.run(scenario())


def test_stopping_does_not_wait_for_an_api_that_hangs() -> None:
    async def scenario() -> None:
        hung = asyncio.Event()

        async def hang(_method: str) -> None:
            if hung.is_set():
                await asyncio.Event().wait()

        one = Watched(Api().client(hang), "se-a", LeaseSettings(duration_s=60.0, renew_deadline_s=40.0, retry_s=30.0))
        await one.until(True)
        hung.set()
        async with asyncio.timeout(3):
            await one.stop()
        assert not one.elector.leading

    uvloop.run(scenario())


def test_while_the_api_hangs_leading_ends_at_the_deadline_and_before_another_leads() -> None:
    async def scenario() -> None:
        api = Api()
        hung = asyncio.Event()

        async def hang(method: str) -> None:
            if hung.is_set():
                await asyncio.Event().wait()

        first = Watched(api.client(hang), "se-a")
        await first.until(True)
        second = Watched(api.client(), "se-b")
        loop = asyncio.get_running_loop()
        hung.set()
        began = loop.time()
        both = False

        async def look() -> None:
            nonlocal both
            while True:
                both |= first.elector.leading and second.elector.leading
                await asyncio.sleep(0.001)

        looking = asyncio.create_task(look())
        await first.until(False)
        assert loop.time() - began <= SETTINGS.renew_deadline_s + 0.1
        assert not second.elector.leading
        await second.until(True)
        assert not both
        looking.cancel()
        await first.stop()
        await second.stop()

    uvloop.run(scenario())


def test_an_api_that_hangs_is_seen_to_be_away_by_who_asks_it_most_often(scripted_api, kubeconfig) -> None:
    async def scenario() -> None:
        async with scripted_api() as server:
            kubernetes = Kubernetes(kubeconfig=kubeconfig.write(server.url))
            client = ApiClient(kubernetes, rng=random.Random(1))
            elector = Elector(client, SETTINGS, "se-a", rng=random.Random(1))

            async def hang(_request: web.Request) -> web.StreamResponse:
                await asyncio.Event().wait()
                raise AssertionError

            await client.request("GET", "/api")
            server.handler = hang
            task = asyncio.create_task(elector.run())
            await until(lambda: client.status().error != "")
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)
            await client.close()
            assert client.status().error == "Timeout: no answer in 0.1 s"
            assert len(server.requests) == 2

    uvloop.run(scenario())


def test_leading_ends_by_the_clock_even_if_the_loop_never_comes_back_to_the_elector() -> None:
    async def scenario() -> None:
        now_s = 100.0
        elector = Elector(Api().client(), LeaseSettings(), "se-a", clock=lambda: now_s)
        task = asyncio.create_task(elector.run())
        await until(lambda: elector.leading)
        now_s = 109.999
        assert elector.leading
        now_s = 110.0
        assert not elector.leading
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    uvloop.run(scenario())


def test_the_deadline_counts_from_when_the_renewal_was_asked_for() -> None:
    async def scenario() -> None:
        now_s = 100.0

        async def slow(method: str) -> None:
            nonlocal now_s
            if method == "POST":
                now_s += 4.0

        elector = Elector(Api().client(slow), LeaseSettings(), "se-a", clock=lambda: now_s)
        task = asyncio.create_task(elector.run())
        await until(lambda: elector.leading)
        assert now_s == 104.0
        now_s = 110.0
        assert not elector.leading
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    uvloop.run(scenario())


def test_every_request_ends_before_leading_would() -> None:
    async def scenario() -> None:
        api = Api()
        client = api.client()
        one = Watched(client, "se-a")
        await one.until(True)
        await asyncio.sleep(3 * SETTINGS.retry_s)
        assert client.timeouts_s
        assert all(0 < timeout_s < SETTINGS.renew_deadline_s for timeout_s in client.timeouts_s)
        await one.stop()

    uvloop.run(scenario())


def test_a_conflict_ends_leading_at_once() -> None:
    async def scenario() -> None:
        api = Api()
        one = Watched(api.client(), "se-a")
        await one.until(True)
        spec = {"holderIdentity": "se-b", "leaseDurationSeconds": 1, "acquireTime": "x", "renewTime": "y"}
        api.lease = {"metadata": {"resourceVersion": "stolen"}, "spec": spec}
        await one.until(False)
        assert api.lease["spec"] == spec  # what is not ours was not written over
        await one.until(True)  # and nobody renewed it
        assert one.changes == [True, False, True]
        await one.stop()

    uvloop.run(scenario())


def test_a_lease_that_was_deleted_is_made_anew() -> None:
    async def scenario() -> None:
        api = Api()
        one = Watched(api.client(), "se-a")
        await one.until(True)
        api.lease = None
        await one.until(False)
        await one.until(True)
        assert [method for method, _ in api.writes].count("POST") == 2
        await one.stop()

    uvloop.run(scenario())


def test_a_write_whose_answer_was_lost_is_known_as_our_own() -> None:
    async def scenario() -> None:
        api = Api()
        client = api.client()
        client.lose_answers = True
        one = Watched(client, "se-a", LeaseSettings(duration_s=60.0, renew_deadline_s=1.0, retry_s=0.05))
        await until(lambda: bool(api.writes))
        assert not one.elector.leading
        client.lose_answers = False
        await one.until(True)  # and does not wait 60 s for itself
        await one.stop()

    uvloop.run(scenario())


def test_a_renewal_whose_answer_was_lost_does_not_end_leading() -> None:
    async def scenario() -> None:
        api = Api()
        client = api.client()
        one = Watched(client, "se-a", LeaseSettings(duration_s=60.0, renew_deadline_s=30.0, retry_s=0.05))
        await one.until(True)
        client.lose_answers = True
        await until(lambda: bool(one.elector.error))
        client.lose_answers = False
        written = len(api.writes)
        await until(lambda: len(api.writes) > written and not one.elector.error)
        assert one.changes == [True]
        await one.stop()

    uvloop.run(scenario())


def test_two_that_call_themselves_the_same_do_not_both_lead() -> None:
    async def scenario() -> None:
        api = Api()
        first, second = Watched(api.client(), "se"), Watched(api.client(), "se")
        for _ in range(60):
            await asyncio.sleep(0.01)
            assert not (first.elector.leading and second.elector.leading)
        assert first.elector.leading or second.elector.leading
        await first.stop()
        await second.stop()

    uvloop.run(scenario())


def test_an_answer_that_is_no_lease_gives_no_leadership() -> None:
    async def scenario() -> None:
        class Odd(ApiOfOne):
            async def request(self, method: str, path: str, **_: Any) -> dict[str, Any]:
                return {"kind": "Status"}

        one = Watched(Odd(Api(), nothing), "se-a")
        await asyncio.sleep(0.15)
        assert not one.elector.leading
        assert "not a Lease" in one.elector.error
        await one.stop()

    uvloop.run(scenario())


def test_while_the_api_is_away_it_is_not_asked_more_often_than_the_retry_interval() -> None:
    async def scenario() -> None:
        asked = 0

        async def away(_method: str) -> None:
            nonlocal asked
            asked += 1
            raise ApiError(0, "Unreachable", "connection refused")

        one = Watched(Api().client(away), "se-a", LeaseSettings(duration_s=3.0, renew_deadline_s=2.0, retry_s=0.1))
        await asyncio.sleep(0.5)
        assert 3 <= asked <= 7
        assert one.elector.error == "Unreachable: connection refused"
        await one.stop()

    uvloop.run(scenario())
