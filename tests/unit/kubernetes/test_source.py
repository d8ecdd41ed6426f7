"""A cluster as a source: what is kept for the next run, and how it ends."""

from __future__ import annotations

import asyncio
import json
import random
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

from aiohttp import web

from lbd.kubernetes.objects.kinds import FINALIZER
from lbd.kubernetes.source import CACHE_NAME, KubernetesSource
from lbd.kubernetes.surroundings import Surroundings
from lbd.model.desired import VirtualService
from lbd.model.kubernetes import AddressPool, AddressRange, Kubernetes

POOL = AddressPool("web", (AddressRange("172.16.101.150", "172.16.101.160"),))
SERVICE = {
    "metadata": {"name": "web", "namespace": "default", "uid": "uid-web", "resourceVersion": "1"},
    "spec": {
        "type": "LoadBalancer",
        "loadBalancerClass": "lbd.io/service-engine",
        "ports": [{"name": "http", "port": 80}],
    },
}


class Api:
    """A cluster with one Service. Handlers wait for an Event where a test keeps them from answering."""

    def __init__(self, services: Sequence[Any] = (SERVICE,), rules: Sequence[Any] = ()) -> None:
        self.items = {"services": list(services), "l4rules": list(rules)}
        self.written: list[str] = []
        self.lease: dict[str, Any] = {}
        self.may_list_slices = asyncio.Event()
        self.may_list_slices.set()
        self.may_write_lease = asyncio.Event()
        self.may_write_lease.set()
        self.asked_for_slices = asyncio.Event()
        self.writes_lease = asyncio.Event()
        self.ends = asyncio.Event()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        if "/leases" in request.path:
            return await self._lease(request)
        if request.method != "GET":
            self.written.append(request.path.rpartition("/namespaces/default/")[2])
            return web.json_response({"metadata": {"resourceVersion": "2"}})
        if "watch" in request.query:
            response = web.StreamResponse()
            await response.prepare(request)
            await self.ends.wait()
            return response
        items = self.items.get(request.path.rpartition("/")[2], [])
        if request.path.endswith("/endpointslices"):
            self.asked_for_slices.set()
            await self.may_list_slices.wait()
        return web.json_response({"kind": "List", "metadata": {"resourceVersion": "1"}, "items": items})

    async def _lease(self, request: web.Request) -> web.StreamResponse:
        if request.method != "GET":
            body = await request.json()
            self.writes_lease.set()
            await self.may_write_lease.wait()
            version = str(int(self.lease.get("metadata", {}).get("resourceVersion", "0")) + 1)
            self.lease = {"metadata": {"resourceVersion": version}, "spec": body["spec"]}
        elif not self.lease:
            said = {"kind": "Status", "code": 404, "reason": "NotFound", "message": "no"}
            return web.json_response(said, status=404)
        return web.json_response(self.lease)


class Posts:
    """What the source has posted."""

    def __init__(self) -> None:
        self.came = asyncio.Event()

    def __call__(self, _services: tuple[VirtualService, ...]) -> None:
        self.came.set()


def source_of(kubeconfig: str, folder: Path, held: Callable[[], Iterable[str]] = tuple) -> KubernetesSource:
    kubernetes = Kubernetes(kubeconfig=kubeconfig, address_pools=(POOL,))
    return KubernetesSource(
        kubernetes,
        Surroundings(),
        service_engine="se-a",
        state_directory=folder,
        held=held,
        rng=random.Random(1),
    )


async def until(is_so: Callable[[], bool]) -> None:
    """Return when something is so that nobody tells."""
    while not is_so():  # noqa: ASYNC110
        await asyncio.sleep(0.005)


def test_what_was_listed_in_part_is_not_kept_for_the_next_run(
    scripted_api: Callable[..., Any], kubeconfig: Any, tmp_path: Path
):
    async def scenario() -> None:
        api, posts = Api(), Posts()
        api.may_list_slices.clear()
        async with scripted_api() as server, asyncio.timeout(10):
            server.handler = api.answer
            source = source_of(kubeconfig.write(server.url), tmp_path)
            await source.start(posts, lambda _routes: None)
            await api.asked_for_slices.wait()
            await until(lambda: any(one.resource == "services" and one.synced for one in source.status().watches))
            await asyncio.sleep(0.02)  # more than changes are gathered for
            await source.close()
        assert not posts.came.is_set()
        assert not (tmp_path / CACHE_NAME).exists(), "the next run would serve Services without a member"

    asyncio.run(scenario())


def test_what_was_listed_is_kept_for_the_next_run(scripted_api: Callable[..., Any], kubeconfig: Any, tmp_path: Path):
    async def scenario() -> None:
        api, posts = Api(), Posts()
        async with scripted_api() as server, asyncio.timeout(10):
            server.handler = api.answer
            source = source_of(kubeconfig.write(server.url), tmp_path)
            await source.start(posts, lambda _routes: None)
            await posts.came.wait()
            await source.close()

    asyncio.run(scenario())
    kept = json.loads((tmp_path / CACHE_NAME).read_text())
    assert [one["metadata"]["name"] for one in kept["services"]] == ["web"]


def test_the_lease_is_given_back_though_who_waits_for_the_end_is_cancelled(
    scripted_api: Callable[..., Any], kubeconfig: Any, tmp_path: Path
):
    async def scenario() -> None:
        api, posts = Api(), Posts()
        async with scripted_api() as server, asyncio.timeout(10):
            server.handler = api.answer
            source = source_of(kubeconfig.write(server.url), tmp_path)
            await source.start(posts, lambda _routes: None)
            await until(lambda: source.status().leader.leading)
            api.writes_lease.clear()
            api.may_write_lease.clear()
            stopping = asyncio.create_task(source.close())  # as a daemon does at SIGTERM
            await api.writes_lease.wait()
            stopping.cancel()  # it has drained, and ends its tasks
            await asyncio.gather(stopping, return_exceptions=True)
            asyncio.get_running_loop().call_later(0.05, api.may_write_lease.set)
            await source.close()
        assert api.lease["spec"]["holderIdentity"] == ""

    asyncio.run(scenario())


def test_the_data_path_is_asked_once_however_many_services_are_leaving(
    scripted_api: Callable[..., Any], kubeconfig: Any, tmp_path: Path
):
    leaving = [
        {
            "metadata": {
                "name": f"web-{number}",
                "namespace": "default",
                "uid": f"uid-{number}",
                "resourceVersion": "1",
                "deletionTimestamp": "2026-01-01T00:00:00Z",
                "finalizers": [FINALIZER],
            },
            "spec": SERVICE["spec"],
        }
        for number in range(50)
    ]

    async def scenario() -> None:
        api, posts, asked = Api(leaving), Posts(), 0

        def held() -> list[str]:
            nonlocal asked
            asked += 1
            return [f"default/web-{number}:80" for number in range(50)]

        async with scripted_api() as server, asyncio.timeout(10):
            server.handler = api.answer
            source = source_of(kubeconfig.write(server.url), tmp_path, held)
            await source.start(posts, lambda _routes: None)
            await posts.came.wait()
            first = asked
            await until(lambda: asked > first)  # it looks again
            await source.close()
        assert first < 50

    asyncio.run(scenario())


def rule_of(name: str, judged_generation: int) -> dict[str, Any]:
    """Return an L4Rule of generation 3 that somebody with other profiles has rejected."""
    status = {"status": "Rejected", "error": "no such profile", "observedGeneration": judged_generation}
    metadata = {"name": name, "namespace": "default", "uid": f"uid-{name}", "resourceVersion": "1", "generation": 3}
    return {"metadata": metadata, "spec": {}, "status": status}


def test_a_rule_that_another_group_has_judged_is_judged_again_only_if_a_service_of_ours_names_it(
    scripted_api: Callable[..., Any], kubeconfig: Any, tmp_path: Path
):
    """Two groups of one cluster, each with its own profiles, took back each other's verdicts for ever."""
    naming = {**SERVICE, "metadata": {**SERVICE["metadata"], "annotations": {"ako.vmware.com/l4rule": "ours"}}}
    rules = [rule_of("ours", 3), rule_of("theirs", 3), rule_of("new", 2)]

    async def scenario() -> list[str]:
        api, posts = Api([naming], rules), Posts()
        async with scripted_api() as server, asyncio.timeout(10):
            server.handler = api.answer
            source = source_of(kubeconfig.write(server.url), tmp_path)
            await source.start(posts, lambda _routes: None)
            await until(lambda: {"l4rules/ours/status", "l4rules/new/status"} <= set(api.written))
            await asyncio.sleep(0.05)  # what else is to be written comes at the same time
            await source.close()
        return api.written

    assert "l4rules/theirs/status" not in asyncio.run(scenario())
