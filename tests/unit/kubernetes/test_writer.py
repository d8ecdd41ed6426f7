"""Writing until the objects say what is wished: latest wish, one leader, no lost update."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import replace
from typing import Any

import uvloop

from lbd.kubernetes.api.api_error import ApiError
from lbd.kubernetes.objects.kinds import ADDRESS_CONDITION, FINALIZER, Condition, L4Rule, ObjectKey, RuleStatus, Service
from lbd.kubernetes.writing.wishes import Kind, ServiceWish, Target
from lbd.kubernetes.writing.writer import BURST, CONCURRENCY, FIRST_RETRY_S, REFILL_S, Writer
from lbd.model.kubernetes import DEFAULT_LOAD_BALANCER_CLASS

MARK = Condition(ADDRESS_CONDITION, "True", "Assigned", "")


def service(name: str = "web", version: str = "1", **other: Any) -> Service:
    return Service(
        ObjectKey("a", name), f"uid-{name}", version, "", "LoadBalancer", DEFAULT_LOAD_BALANCER_CLASS, (), **other
    )


def wish(*addresses: str) -> ServiceWish:
    return ServiceWish(addresses, (MARK,), True)


class Api:
    """Objects with versions: a patch of another version than the current one is a conflict."""

    def __init__(self) -> None:
        self.versions: dict[str, int] = {}
        self.requests: list[tuple[str, Any]] = []
        self.before: Callable[[str], Awaitable[None]] | None = None
        self.under_way = 0
        self.most_under_way = 0
        self.changed = asyncio.Event()

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
        assert method == "PATCH"
        assert timeout_s is not None
        self.requests.append((path, body))
        self.changed.set()
        self.under_way += 1
        self.most_under_way = max(self.most_under_way, self.under_way)
        try:
            await asyncio.sleep(0)
            if self.before is not None:
                await self.before(path)
            name = path.removesuffix("/status")
            is_list = isinstance(body, list)
            version = body[0]["value"] if is_list else body["metadata"]["resourceVersion"]
            if version != str(self.versions.setdefault(name, 1)):
                raise ApiError(409, "Conflict", "the object has been modified")
            self.versions[name] += 1
            return {"metadata": {"resourceVersion": str(self.versions[name])}}
        finally:
            self.under_way -= 1

    @property
    def paths(self) -> list[str]:
        return [path.removeprefix("/api/v1/namespaces/a/services/") for path, _ in self.requests]

    def ingress(self, number: int = -1) -> list[str]:
        return [one["ip"] for one in self.requests[number][1]["status"]["loadBalancer"]["ingress"] or ()]


class World:
    def __init__(self) -> None:
        self.api = Api()
        self.leads = True
        self.writer = Writer(self.api, lambda: self.leads)

    async def until(self, is_so: Callable[[], bool]) -> None:
        for _ in range(5000):
            if is_so():
                return
            await asyncio.sleep(0.001)
        raise AssertionError("it did not become so")

    async def settle(self) -> None:
        """Return when nothing is under way and nothing would begin by itself."""
        for _ in range(50):
            await asyncio.sleep(0)
        await self.until(lambda: self.api.under_way == 0)


def run(scenario: Callable[[World], Awaitable[None]]) -> None:
    async def play() -> None:
        world = World()
        task = asyncio.create_task(world.writer.run())
        try:
            await scenario(world)
            assert not task.done()
        finally:
            task.cancel()
            await asyncio.gather(task, return_exceptions=True)

    uvloop.run(play())


def test_finalizer_and_address_are_written_at_once_and_in_this_order() -> None:
    async def scenario(world: World) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        world.writer.want_service(service(), wish("10.0.0.1"))
        await world.until(lambda: world.writer.writes_total == 2)
        assert loop.time() - began < 0.1
        assert world.api.paths == ["web", "web/status"]
        assert world.api.requests[0][1]["metadata"] == {"finalizers": [FINALIZER], "resourceVersion": "1"}
        assert world.api.requests[1][1]["metadata"] == {"resourceVersion": "2"}
        assert world.api.ingress() == ["10.0.0.1"]

    run(scenario)


def test_the_same_wish_about_the_same_or_an_older_object_is_written_once() -> None:
    async def scenario(world: World) -> None:
        old = service()
        world.writer.want_service(old, wish("10.0.0.1"))
        await world.until(lambda: world.writer.writes_total == 2)
        world.writer.want_service(old, wish("10.0.0.1"))
        between = replace(old, resource_version="2", finalizers=(FINALIZER,))
        world.writer.want_service(between, wish("10.0.0.1"))
        after = replace(between, resource_version="3", ingress=("10.0.0.1",), conditions=(MARK,))
        world.writer.want_service(after, wish("10.0.0.1"))
        await world.settle()
        assert len(world.api.requests) == 2

    run(scenario)


def test_a_new_wish_about_an_object_that_is_older_than_what_was_written_is_written_on_top() -> None:
    async def scenario(world: World) -> None:
        world.writer.want_service(service(), wish("10.0.0.1"))
        await world.until(lambda: world.writer.writes_total == 2)
        world.writer.want_service(service(), wish("10.0.0.2"))
        await world.until(lambda: world.writer.writes_total == 3)
        assert world.api.paths == ["web", "web/status", "web/status"]
        assert world.api.ingress() == ["10.0.0.2"]
        assert world.writer.conflicts_total == 0

    run(scenario)


def test_the_latest_wish_wins_while_one_is_being_written() -> None:
    async def scenario(world: World) -> None:
        release = asyncio.Event()

        async def wait(_path: str) -> None:
            await release.wait()

        world.api.before = wait
        world.writer.want_service(service(), wish("10.0.0.1"))
        await world.until(lambda: world.api.under_way == 1)
        for number in range(2, 100):
            world.writer.want_service(service(), wish(f"10.0.0.{number}"))
        release.set()
        await world.until(lambda: world.writer.writes_total == 2)
        await world.settle()
        assert world.api.paths == ["web", "web/status"]
        assert world.api.ingress() == ["10.0.0.99"]
        assert world.api.most_under_way == 1

    run(scenario)


def test_what_the_reflector_brings_while_a_patch_is_under_way_counts() -> None:
    async def scenario(world: World) -> None:
        def bring(path: str) -> Awaitable[None]:
            async def brought() -> None:
                if path.endswith("/status"):  # our own finalizer patch, and a change by somebody else after it
                    world.api.versions[path.removesuffix("/status")] = 5
                    world.api.before = None
                    world.writer.want_service(service(version="5", finalizers=("x/y", FINALIZER)), wish("10.0.0.1"))

            return brought()

        world.api.before = bring
        loop = asyncio.get_running_loop()
        began = loop.time()
        world.writer.want_service(service(), wish("10.0.0.1"))
        await world.until(lambda: world.writer.writes_total == 2)
        assert loop.time() - began < FIRST_RETRY_S / 2  # it is there already: nothing to wait for
        assert world.writer.conflicts_total == 1
        assert world.api.requests[-1][1]["metadata"]["resourceVersion"] == "5"
        assert len(world.api.requests) == 3

    run(scenario)


def test_what_somebody_did_after_our_patch_is_not_taken_for_it_when_the_reflector_is_faster() -> None:
    async def scenario(world: World) -> None:
        answered = world.api.request

        async def overtake(method: str, path: str, **other: Any) -> dict[str, Any]:
            answer = await answered(method, path, **other)
            if path.endswith("/status") and answer["metadata"]["resourceVersion"] == "3":
                world.api.versions[path.removesuffix("/status")] = 4  # somebody took the address away
                world.writer.want_service(
                    service(version="4", finalizers=(FINALIZER,), conditions=(MARK,)), wish("10.0.0.1")
                )
            return answer

        world.api.request = overtake  # type: ignore[method-assign]
        world.writer.want_service(service(), wish("10.0.0.1"))
        await world.until(lambda: world.writer.writes_total == 3)
        assert world.api.requests[-1][1]["metadata"]["resourceVersion"] == "4"
        assert world.api.ingress() == ["10.0.0.1"]

    run(scenario)


def test_after_a_conflict_the_newer_object_is_waited_for() -> None:
    async def scenario(world: World) -> None:
        world.api.versions["/api/v1/namespaces/a/services/web"] = 9
        world.writer.want_service(service(), wish("10.0.0.1"))
        await world.until(lambda: world.writer.conflicts_total == 1)
        await world.settle()
        assert len(world.api.requests) == 1
        world.writer.want_service(service(), wish("10.0.0.1"))  # no news
        await world.settle()
        assert len(world.api.requests) == 1
        world.writer.want_service(service(version="9"), wish("10.0.0.1"))
        await world.until(lambda: world.writer.writes_total == 2)
        assert world.writer.problems == {}
        assert world.writer.failures_total == 0

    run(scenario)


def test_after_a_conflict_it_is_tried_again_though_nothing_newer_comes() -> None:
    async def scenario(world: World) -> None:
        world.api.versions["/api/v1/namespaces/a/services/web"] = 0
        world.writer.want_service(service(), wish("10.0.0.1"))
        await world.until(lambda: world.writer.conflicts_total == 1)
        world.api.versions["/api/v1/namespaces/a/services/web"] = 1
        await world.until(lambda: world.writer.writes_total == 2)

    run(scenario)


def test_nothing_is_sent_without_the_lease_and_everything_when_it_comes() -> None:
    async def scenario(world: World) -> None:
        world.leads = False
        for number in range(30):
            world.writer.want_service(service(f"s{number}"), wish("10.0.0.1"))
        world.writer.leadership_changed()
        await world.settle()
        assert world.api.requests == []
        world.leads = True
        world.writer.leadership_changed()
        await world.until(lambda: world.writer.writes_total == 60)

    run(scenario)


def test_the_lease_is_looked_at_before_each_request() -> None:
    async def scenario(world: World) -> None:
        async def lose(_path: str) -> None:
            world.leads = False

        world.api.before = lose
        world.writer.want_service(service(), wish("10.0.0.1"))
        await world.until(lambda: world.writer.writes_total == 1)
        await world.settle()
        assert world.api.paths == ["web"]
        world.api.before = None
        world.leads = True  # nobody says so
        await world.until(lambda: world.writer.writes_total == 2)

    run(scenario)


def test_what_the_leader_wrote_is_not_written_again_by_the_next_one() -> None:
    async def scenario(world: World) -> None:
        world.leads = False
        world.writer.want_service(service(), wish("10.0.0.1"))
        await world.settle()
        dated = replace(MARK, last_transition_time="2026-11-29T10:00:00Z")
        written = service(version="3", finalizers=(FINALIZER,), ingress=("10.0.0.1",), conditions=(dated,))
        world.writer.want_service(written, wish("10.0.0.1"))
        world.leads = True
        world.writer.leadership_changed()
        await world.settle()
        assert world.api.requests == []

    run(scenario)


def test_a_failure_is_shown_retried_and_holds_up_no_other() -> None:
    async def scenario(world: World) -> None:
        broken = True

        async def refuse(path: str) -> None:
            if broken and "/bad" in path:
                raise ApiError(403, "Forbidden", "services is forbidden")

        world.api.before = refuse
        world.writer.want_service(service("bad"), wish("10.0.0.1"))
        world.writer.want_service(service("good"), wish("10.0.0.2"))
        await world.until(lambda: world.writer.writes_total == 2 and world.writer.failures_total == 1)
        assert world.writer.problems == {
            Target(Kind.SERVICE, ObjectKey("a", "bad")): "403 Forbidden: services is forbidden"
        }
        broken = False
        await world.until(lambda: world.writer.writes_total == 4)
        assert world.writer.problems == {}

    run(scenario)


def test_a_failure_is_not_repeated_without_pause() -> None:
    async def scenario(world: World) -> None:
        async def refuse(_path: str) -> None:
            raise ApiError(500, "InternalError", "no")

        world.api.before = refuse
        world.writer.want_service(service(), wish("10.0.0.1"))
        await asyncio.sleep(0.3)
        assert len(world.api.requests) == 1

    run(scenario)


def test_an_object_that_is_gone_is_not_written_to_again() -> None:
    async def scenario(world: World) -> None:
        async def gone(_path: str) -> None:
            raise ApiError(404, "NotFound", "services web not found")

        world.api.before = gone
        world.writer.want_service(service(), wish("10.0.0.1"))
        await world.settle()
        await asyncio.sleep(0.7)  # longer than the first retry
        assert len(world.api.requests) == 1
        assert world.writer.problems == {}
        assert world.writer.failures_total == 0

    run(scenario)


def test_what_is_forgotten_is_not_retried_and_no_longer_shown() -> None:
    async def scenario(world: World) -> None:
        async def refuse(_path: str) -> None:
            raise ApiError(403, "Forbidden", "no")

        world.api.before = refuse
        world.writer.want_service(service(), wish("10.0.0.1"))
        await world.until(lambda: bool(world.writer.problems))
        world.writer.forget(Kind.SERVICE, ObjectKey("a", "web"))
        assert world.writer.problems == {}
        await asyncio.sleep(0.7)
        assert len(world.api.requests) == 1

    run(scenario)


def test_a_service_that_was_deleted_and_made_anew_is_another_one() -> None:
    async def scenario(world: World) -> None:
        world.writer.want_service(service(), wish("10.0.0.1"))
        await world.until(lambda: world.writer.writes_total == 2)
        world.api.versions["/api/v1/namespaces/a/services/web"] = 1
        world.writer.want_service(replace(service(), uid="another"), wish("10.0.0.1"))
        await world.until(lambda: world.writer.writes_total == 4)
        assert world.writer.conflicts_total == 0

    run(scenario)


def test_many_objects_are_written_by_few_requests_at_once() -> None:
    async def scenario(world: World) -> None:
        for number in range(500):
            world.writer.want_service(service(f"s{number}"), wish("10.0.0.1"))
        await world.until(lambda: world.writer.writes_total == 1000)
        assert 1 < world.api.most_under_way <= CONCURRENCY

    run(scenario)


def test_an_answer_without_a_version_is_a_failure() -> None:
    async def scenario(world: World) -> None:
        async def odd(method: str, path: str, **_: Any) -> dict[str, Any]:
            return {"metadata": {"resourceVersion": 7}}

        world.api.request = odd  # type: ignore[method-assign, assignment]
        world.writer.want_service(service(), wish("10.0.0.1"))
        await world.until(lambda: world.writer.failures_total == 1)
        assert world.writer.writes_total == 0

    run(scenario)


def test_a_rule_s_status_is_written_to_its_subresource() -> None:
    async def scenario(world: World) -> None:
        rule = L4Rule(ObjectKey("a", "r"), "u", "1", 3)
        status = RuleStatus("Rejected", "no such monitor", 3)
        world.writer.want_rule(rule, status)
        await world.until(lambda: world.writer.writes_total == 1)
        world.writer.want_rule(rule, status)
        world.writer.want_rule(replace(rule, resource_version="2", status=status), status)
        await world.settle()
        ((path, body),) = world.api.requests
        assert path == "/apis/ako.vmware.com/v1alpha2/namespaces/a/l4rules/r/status"
        assert body[1]["value"]["error"] == "no such monitor"

    run(scenario)


def test_wishes_from_before_it_runs_and_from_an_earlier_run_are_not_lost() -> None:
    async def play() -> None:
        world = World()
        world.writer.want_service(service("early"), wish("10.0.0.1"))
        task = asyncio.create_task(world.writer.run())
        await world.until(lambda: world.writer.writes_total == 2)
        await world.settle()
        assert world.api.most_under_way == 1
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        world.writer.want_service(service("late"), wish("10.0.0.2"))
        again = asyncio.create_task(world.writer.run())
        await world.until(lambda: world.writer.writes_total == 4)
        assert not [one for one in asyncio.all_tasks() if one not in (again, asyncio.current_task())][CONCURRENCY + 1 :]
        again.cancel()
        await asyncio.gather(again, return_exceptions=True)

    uvloop.run(play())


def test_one_who_writes_the_contrary_each_time_costs_a_burst_and_then_one_write_a_second():
    async def scenario(world: World) -> None:
        mark = replace(MARK, message="another's")
        path = "/api/v1/namespaces/a/services/web"
        world.writer.want_service(service(finalizers=(FINALIZER,)), wish("10.0.0.1"))
        begun_s = asyncio.get_running_loop().time()
        for _ in range(300):
            await asyncio.sleep(0.001)
            version = world.api.versions[path] = world.api.versions.get(path, 1) + 1
            changed = service(version=str(version), ingress=("10.0.0.2",), conditions=(mark,), finalizers=(FINALIZER,))
            world.writer.want_service(changed, wish("10.0.0.1"))
        took_s = asyncio.get_running_loop().time() - begun_s
        written = len(world.api.requests)
        assert BURST <= written <= BURST + 1 + took_s / REFILL_S
        await world.until(lambda: len(world.api.requests) > written)  # nor is it given up

    run(scenario)
