"""Events as the API gets them: by the leader, once, and dropped rather than piled up."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from typing import Any

import uvloop

from lbd.kubernetes.api.api_error import ApiError
from lbd.kubernetes.objects.kinds import L4Rule, ObjectKey, Service
from lbd.kubernetes.writing.event_book import REPEAT_INTERVAL_S
from lbd.kubernetes.writing.recorder import BURST, Recorder

WEB = Service(ObjectKey("shop", "web"), "uid-web", "7", "", "LoadBalancer", None, ())
RULE = L4Rule(ObjectKey("shop", "r"), "uid-r", "8", 2)


class Api:
    """The events of the cluster. `fault` runs before each request."""

    def __init__(self) -> None:
        self.events: dict[str, dict[str, Any]] = {}
        self.requests: list[tuple[str, str]] = []
        self.fault: Callable[[str], None] | None = None

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
        self.requests.append((method, path))
        await asyncio.sleep(0)
        if self.fault is not None:
            self.fault(method)
        assert path.startswith("/api/v1/namespaces/shop/events")
        if method == "POST":
            name = body["metadata"]["name"]
            if name in self.events:
                raise ApiError(409, "AlreadyExists", "there is one")
            self.events[name] = dict(body)
            return dict(body)
        name = path.rpartition("/")[2]
        if name not in self.events:
            raise ApiError(404, "NotFound", "no such event")
        if method == "PATCH":
            assert content_type == "application/merge-patch+json"
            self.events[name].update(body)
        return self.events[name]


class World:
    def __init__(self) -> None:
        self.api = Api()
        self.leads = True
        self.now_s = 0.0
        self.recorder = self.another("se-a")

    def another(self, name: str) -> Recorder:
        return Recorder(self.api, lambda: self.leads, name, clock=lambda: self.now_s, now=self.now)

    def now(self) -> datetime:
        return datetime.fromtimestamp(1_800_000_000 + self.now_s, UTC)

    async def settle(self) -> None:
        for _ in range(300):
            await asyncio.sleep(0)


def run(scenario: Callable[[World], Awaitable[None]]) -> None:
    async def play() -> None:
        world = World()
        task = asyncio.create_task(world.recorder.run())
        try:
            await scenario(world)
            assert not task.done()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    uvloop.run(play())


def test_an_event_says_who_what_and_about_which_object() -> None:
    async def scenario(world: World) -> None:
        world.recorder.warning(WEB, "AddressPoolFull", "pool web is full: 51 of 51 addresses are in use")
        world.recorder.normal(RULE, "RuleAccepted", "generation 2 is in force")
        await world.settle()
        first, second = world.api.events.values()
        assert first["involvedObject"] == {
            "apiVersion": "v1",
            "kind": "Service",
            "namespace": "shop",
            "name": "web",
            "uid": "uid-web",
            "resourceVersion": "7",
        }
        assert (first["type"], first["reason"], first["count"]) == ("Warning", "AddressPoolFull", 1)
        assert first["message"] == "pool web is full: 51 of 51 addresses are in use"
        assert first["firstTimestamp"] == first["lastTimestamp"] == "2027-01-15T08:00:00Z"
        assert first["source"] == {"component": "lbd", "host": "se-a"}
        assert second["involvedObject"]["apiVersion"] == "ako.vmware.com/v1alpha2"
        assert (second["involvedObject"]["kind"], second["type"]) == ("L4Rule", "Normal")
        assert world.recorder.written_total == 2

    run(scenario)


def test_the_same_again_raises_the_count_of_the_same_object_after_a_while() -> None:
    async def scenario(world: World) -> None:
        for _ in range(3):
            world.recorder.warning(WEB, "PoolFull", "x")
        await world.settle()
        for _ in range(4):
            world.recorder.warning(WEB, "PoolFull", "x")
        await world.settle()
        assert [method for method, _ in world.api.requests] == ["POST"]
        world.now_s = REPEAT_INTERVAL_S + 1
        world.recorder.warning(WEB, "PoolFull", "x")
        await world.settle()
        (event,) = world.api.events.values()
        assert event["count"] == 8
        assert event["lastTimestamp"] > event["firstTimestamp"]

    run(scenario)


def test_the_next_leader_counts_on_in_the_object_of_the_one_before() -> None:
    async def scenario(world: World) -> None:
        world.recorder.warning(WEB, "PoolFull", "x")
        await world.settle()
        other = world.another("se-b")
        task = asyncio.create_task(other.run())
        other.warning(WEB, "PoolFull", "x")
        await world.settle()
        (event,) = world.api.events.values()
        assert event["count"] == 2
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)

    run(scenario)


def test_an_event_that_has_expired_is_made_anew() -> None:
    async def scenario(world: World) -> None:
        world.recorder.warning(WEB, "PoolFull", "x")
        await world.settle()
        world.api.events.clear()
        world.now_s = REPEAT_INTERVAL_S + 1
        world.recorder.warning(WEB, "PoolFull", "x")
        await world.settle()
        (event,) = world.api.events.values()
        assert event["count"] == 1

    run(scenario)


def test_who_does_not_lead_says_nothing_not_even_later() -> None:
    async def scenario(world: World) -> None:
        world.leads = False
        world.recorder.warning(WEB, "PoolFull", "x")
        world.leads = True
        world.recorder.normal(WEB, "AddressAssigned", "y")
        await world.settle()
        assert [event["message"] for event in world.api.events.values()] == ["y"]

    run(scenario)


def test_what_waits_when_leading_ends_is_not_written() -> None:
    async def scenario(world: World) -> None:
        def lose(_method: str) -> None:
            world.leads = False

        world.api.fault = lose
        for number in range(5):
            world.recorder.warning(WEB, "PoolFull", str(number))
        await world.settle()
        assert len(world.api.requests) == 1

    run(scenario)


def test_a_refused_event_is_dropped_counted_and_holds_up_no_other() -> None:
    async def scenario(world: World) -> None:
        def refuse(_method: str) -> None:
            world.api.fault = None
            raise ApiError(403, "Forbidden", "events is forbidden")

        world.api.fault = refuse
        world.recorder.warning(WEB, "PoolFull", "first")
        world.recorder.warning(WEB, "PoolFull", "second")
        await world.settle()
        assert [event["message"] for event in world.api.events.values()] == ["second"]
        assert (world.recorder.written_total, world.recorder.dropped_total) == (1, 1)

    run(scenario)


def test_while_the_api_is_away_an_event_is_tried_three_times_and_then_dropped() -> None:
    async def scenario(world: World) -> None:
        def away(_method: str) -> None:
            raise ApiError(0, "Unreachable", "connection refused", retry_after_s=0.001)

        world.api.fault = away
        world.recorder.warning(WEB, "PoolFull", "x")
        for _ in range(1000):
            if world.recorder.dropped_total:
                break
            await asyncio.sleep(0.001)
        assert world.recorder.dropped_total == 1
        assert len(world.api.requests) == 3

    run(scenario)


def test_a_flood_about_many_objects_is_slowed_down() -> None:
    async def scenario(world: World) -> None:
        for number in range(500):
            one = Service(ObjectKey("shop", f"s{number}"), f"uid-{number}", "7", "", "LoadBalancer", None, ())
            world.recorder.warning(one, "PoolFull", "x")
        await asyncio.sleep(0.25)
        assert BURST <= world.recorder.written_total <= BURST + 4

    run(scenario)
