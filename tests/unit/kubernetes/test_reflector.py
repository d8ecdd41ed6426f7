"""A reflector keeps the last good state whatever the server does, and reports what has changed and nothing else."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest
import uvloop
from aiohttp import web

from lbd.kubernetes.api.client import ApiClient
from lbd.kubernetes.objects.kinds import ObjectKey
from lbd.kubernetes.objects.parse import parse_rule, parse_slice
from lbd.kubernetes.watching.reflector import Reflector
from lbd.kubernetes.watching.resources import Resource, endpoint_slices, l4_rules
from lbd.model.kubernetes import Kubernetes

A, B, C = (ObjectKey("shop", name) for name in "abc")


def raw(name: str, version: int, address: str = "10.0.0.1", **more: Any) -> dict[str, Any]:
    labels = {"kubernetes.io/service-name": "web"}
    metadata = {"name": name, "namespace": "shop", "resourceVersion": str(version), "labels": labels}
    return {"metadata": metadata, "addressType": "IPv4", "endpoints": [{"addresses": [address]}], **more}


def event(kind: str, item: dict[str, Any]) -> dict[str, Any]:
    return {"type": kind, "object": item}


def bookmark(version: int) -> dict[str, Any]:
    return event("BOOKMARK", {"metadata": {"resourceVersion": str(version)}})


class Api:
    """A collection: `items` is what a list says, `watches` what the watches say, one after the other."""

    def __init__(self, server: Any) -> None:
        self.server = server
        server.handler = self.handle
        self.items: list[dict[str, Any]] = []
        self.version = 10
        self.watches: asyncio.Queue[Callable[[web.Request], Awaitable[web.StreamResponse]]] = asyncio.Queue()
        self.answer_list: Callable[[web.Request], web.Response] = self.list
        self.hold = asyncio.Event()

    async def handle(self, request: web.Request) -> web.StreamResponse:
        if "watch" not in request.query:
            return self.answer_list(request)
        answer = await self.watches.get()
        return await answer(request)

    def list(self, _request: web.Request, token: str = "", items: list[dict[str, Any]] | None = None) -> web.Response:
        metadata = {"resourceVersion": str(self.version), **({"continue": token} if token else {})}
        listed = self.items if items is None else items
        return web.json_response({"kind": "SliceList", "items": listed, "metadata": metadata})

    def say(self, *chunks: dict[str, Any] | bytes, end: bool = False) -> None:
        """Have the next watch say this, and stay open or end."""
        hold = None if end else self.hold
        self.watches.put_nowait(lambda request: self.server.stream(request, *chunks, hold=hold))

    def refuse(self, answer: Callable[[], web.Response]) -> None:
        """Have the next watch answered so."""

        async def handler(_request: web.Request) -> web.StreamResponse:
            return answer()

        self.watches.put_nowait(handler)

    @property
    def asked(self) -> list[str]:
        """What was asked: "list", or "watch" and its version."""
        return [
            f"watch {request.query['resourceVersion']}" if "watch" in request.query else "list"
            for request in self.server.requests
        ]


class Play:
    """A reflector that runs, and what it has reported."""

    def __init__(self, client: ApiClient, kubernetes: Kubernetes, resource: Resource, parse: Any) -> None:
        self.reports: asyncio.Queue[frozenset[ObjectKey]] = asyncio.Queue()
        self.reflector: Reflector[Any] = Reflector(
            client, resource, parse, self.reports.put_nowait, kubernetes, rng=random.Random(1)
        )

    async def report(self) -> frozenset[ObjectKey]:
        return await self.reports.get()

    @property
    def addresses(self) -> dict[ObjectKey, str]:
        return {key: one.endpoints[0].addresses[0] for key, one in self.reflector.objects.items()}

    @property
    def status(self) -> Any:
        return self.reflector.status(time.monotonic())

    async def until(self, true: Callable[[], bool]) -> None:
        """Return when the reflector's status says so."""
        while not true():  # noqa: ASYNC110  (an error is no event that a reflector reports)
            await asyncio.sleep(0.005)


Scene = Callable[[Api, Play], Awaitable[None]]
Run = Callable[..., None]
pytestmark = pytest.mark.usefixtures("impatient")


@pytest.fixture
def play(scripted_api, kubeconfig) -> Run:
    """Run a scene on uvloop; the reflector runs from the scene's begin, after `prepare`."""

    def run(
        scene: Scene,
        prepare: Callable[[Api, Play], None] = lambda _api, _play: None,
        resource: Resource = endpoint_slices(),  # noqa: B008  (frozen)
        parse: Any = parse_slice,
        **settings: Any,
    ) -> None:
        async def whole() -> None:
            async with scripted_api() as server:
                kubernetes = Kubernetes(kubeconfig=kubeconfig.write(server.url), request_timeout_s=3.0, **settings)
                client = ApiClient(kubernetes, rng=random.Random(1))
                api, one = Api(server), Play(client, kubernetes, resource, parse)
                prepare(api, one)
                running = asyncio.create_task(one.reflector.run(), name="reflector")
                try:
                    async with asyncio.timeout(10):
                        await scene(api, one)
                    assert not running.done()
                finally:
                    running.cancel()
                    await asyncio.wait([running])
                    await client.close()

        uvloop.run(whole())

    return run


def test_it_lists_then_watches_from_there(play):
    def prepare(api: Api, _play: Play) -> None:
        api.items = [raw("a", 3), raw("b", 4)]
        api.say(event("MODIFIED", raw("a", 11, "10.0.0.9")))

    async def scene(api: Api, play: Play) -> None:
        assert await play.report() == {A, B}
        assert play.reflector.synced
        assert await play.report() == {A}
        assert play.addresses == {A: "10.0.0.9", B: "10.0.0.1"}
        assert api.asked == ["list", "watch 10"]
        listed, watched = api.server.requests
        assert listed.path == "/apis/discovery.k8s.io/v1/endpointslices"
        assert dict(listed.query) == {"limit": "200", "labelSelector": "kubernetes.io/service-name"}
        assert watched.query["allowWatchBookmarks"] == "true"
        assert 240 <= int(watched.query["timeoutSeconds"]) <= 300
        assert watched.query["labelSelector"] == "kubernetes.io/service-name"
        status = play.status
        assert (status.resource, status.namespace, status.synced, status.objects) == ("endpointslices", "", True, 2)
        assert (status.relists_total, status.errors_total, status.last_error) == (0, 0, "")
        assert status.age_s < 5

    play(scene, prepare)


def test_an_empty_collection_is_reported_once_as_listed(play):
    async def scene(_api: Api, play: Play) -> None:
        assert not play.reflector.synced
        assert await play.report() == frozenset()
        assert play.reflector.synced

    play(scene)


def test_events_that_come_together_are_one_report(play):
    def prepare(api: Api, _play: Play) -> None:
        lines = [event("ADDED", raw(name, 11 + index)) for index, name in enumerate("abc")]
        api.say(b"".join(json.dumps(line).encode() + b"\n" for line in [*lines, event("DELETED", raw("b", 20))]))

    async def scene(_api: Api, play: Play) -> None:
        await play.report()
        assert await play.report() == {A, B, C}
        assert set(play.addresses) == {A, C}

    play(scene, prepare)


def test_a_list_comes_in_pages_and_counts_only_as_a_whole(play):
    def prepare(api: Api, _play: Play) -> None:
        pages = {"": ("t1", [raw("a", 1)]), "t1": ("t2", [raw("b", 2)]), "t2": ("", [raw("c", 3)])}
        api.answer_list = lambda request: api.list(request, *pages[request.query.get("continue", "")])

    async def scene(api: Api, play: Play) -> None:
        assert await play.report() == {A, B, C}
        assert [request.query.get("continue") for request in api.server.requests[:3]] == [None, "t1", "t2"]

    play(scene, prepare)


def test_a_continue_token_that_has_expired_begins_the_list_again(play):
    def prepare(api: Api, _play: Play) -> None:
        asked: list[str] = []

        def answer(request: web.Request) -> web.Response:
            token = request.query.get("continue", "")
            asked.append(token)
            if token:
                if asked.count("t") == 1:
                    return api.server.refuse(410, "Expired")  # type: ignore[no-any-return]
                return api.list(request, "", [raw("b", 2)])
            return api.list(request, "t", [raw("a", 1)])

        api.answer_list = answer

    async def scene(_api: Api, play: Play) -> None:
        assert await play.report() == {A, B}
        assert play.status.errors_total == 0

    play(scene, prepare)


@pytest.mark.parametrize("items", [[{}], [raw("a", 1), {"metadata": {}}], ["x"]])
def test_a_list_with_something_nameless_in_it_is_refused_as_a_whole(play, items):
    def prepare(api: Api, play: Play) -> None:
        play.reflector.preload([raw("b", 1)])
        api.items = items

    async def scene(_api: Api, play: Play) -> None:
        await play.until(lambda: play.status.errors_total > 1)
        assert set(play.addresses) == {B}
        assert not play.status.synced
        assert play.reports.empty()

    play(scene, prepare)


def expired_event() -> dict[str, Any]:
    return event("ERROR", {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old"})


@pytest.mark.parametrize("how", ["status", "event"])
def test_a_version_that_is_too_old_lists_again_and_reports_only_what_was_missed(play, how):
    def prepare(api: Api, _play: Play) -> None:
        api.items = [raw("a", 1), raw("b", 2), raw("c", 3)]

    async def scene(api: Api, play: Play) -> None:
        await play.report()
        api.items, api.version = [raw("a", 1), raw("c", 30, "10.0.0.7")], 40
        if how == "status":
            api.refuse(lambda: api.server.refuse(410, "Expired"))
        else:
            api.say(expired_event(), end=True)
        assert await play.report() == {B, C}
        assert play.addresses == {A: "10.0.0.1", C: "10.0.0.7"}
        await api.server.wait_for(4)
        assert api.asked == ["list", "watch 10", "list", "watch 40"]
        assert play.status.relists_total == 1

    play(scene, prepare)


def test_a_list_that_says_the_same_again_reports_nothing(play):
    def prepare(api: Api, _play: Play) -> None:
        api.items = [raw("a", 1)]

    async def scene(api: Api, play: Play) -> None:
        await play.report()
        api.say(expired_event(), end=True)
        await api.server.wait_for(4)
        assert play.reports.empty()

    play(scene, prepare)


GARBAGE = [
    b"<html>502</html>\n", b'"str"\n', b"{}\n", b'{"type": "ADDED", "object": null}\n', b'{"type": "ADDED"',
    b'{"type": "MODIFIED", "object": {"metadata": {"resourceVersion": "9"}}}\n',
]  # fmt: skip


@pytest.mark.parametrize("garbage", GARBAGE)
def test_garbage_in_a_watch_is_counted_and_the_state_stays(play, garbage):
    def prepare(api: Api, _play: Play) -> None:
        api.items = [raw("a", 1)]
        api.say(event("ADDED", raw("b", 11)), garbage, end=True)

    async def scene(api: Api, play: Play) -> None:
        assert await play.report() == {A}
        assert await play.report() == {B}
        api.items = [raw("a", 1), raw("b", 11)]
        api.say(event("ADDED", raw("c", 12)))
        assert await play.report() == {C}
        assert play.status.errors_total == 1
        assert play.status.last_error == ""
        assert set(play.addresses) == {A, B, C}

    play(scene, prepare)


@pytest.mark.parametrize(
    "answer",
    [
        lambda: web.Response(status=502, text="<html>Bad Gateway</html>"),
        lambda: web.Response(status=200),
        lambda: web.json_response({"kind": "Status"}),
        lambda: web.Response(status=500),
        lambda: web.json_response({"kind": "SliceList", "items": [], "metadata": {}}),
    ],
)
def test_a_list_that_fails_keeps_what_an_earlier_run_knew(play, answer):
    def prepare(api: Api, play: Play) -> None:
        play.reflector.preload([raw("a", 1), {"metadata": 5}, raw("b", 2, addressType="FQDN")])
        api.answer_list = lambda _request: answer()

    async def scene(api: Api, play: Play) -> None:
        await play.until(lambda: play.status.errors_total >= 2)
        status = play.status
        assert (status.synced, status.objects) == (False, 1)
        assert status.last_error.startswith("list: ")
        api.items, api.answer_list = [raw("a", 1), raw("c", 5)], api.list
        assert await play.report() == {B, C}
        assert set(play.addresses) == {A, C}
        assert play.status.last_error == ""

    play(scene, prepare)


def test_a_watch_goes_on_where_it_was_after_the_server_was_away(play):
    def prepare(api: Api, _play: Play) -> None:
        api.items = [raw("a", 1)]
        api.say(event("ADDED", raw("b", 11)), bookmark(15), end=True)
        for _answer in range(5):
            api.refuse(lambda: web.Response(status=503, text="starting"))
        api.say(event("ADDED", raw("c", 16)))

    async def scene(api: Api, play: Play) -> None:
        reports = [await play.report() for _report in range(3)]
        assert reports == [{A}, {B}, {C}]
        assert api.asked == ["list", "watch 10", *["watch 15"] * 6]
        assert play.status.relists_total == 0

    play(scene, prepare)


def test_an_error_is_forgotten_when_a_watch_has_lasted_though_nothing_came(play, monkeypatch):
    for module in ("reflector", "watch_pace"):
        monkeypatch.setattr(f"lbd.kubernetes.watching.{module}.SHORT_S", 0.1)

    def prepare(api: Api, _play: Play) -> None:
        async def quiet(request: web.Request) -> web.StreamResponse:
            hold = asyncio.Event()
            asyncio.get_running_loop().call_later(0.15, hold.set)
            return await api.server.stream(request, hold=hold)

        api.refuse(lambda: web.Response(status=503, text="starting"))
        api.watches.put_nowait(quiet)
        api.say()

    async def scene(api: Api, play: Play) -> None:
        await play.report()
        await play.until(lambda: "503" in play.status.last_error)
        await play.until(lambda: len(api.asked) == 4)
        assert play.status.last_error == ""

    play(scene, prepare)


def test_a_server_that_ends_every_watch_at_once_is_not_asked_without_pause(play):
    def prepare(api: Api, _play: Play) -> None:
        for _watch in range(100):
            api.say(end=True)

    async def scene(api: Api, play: Play) -> None:
        await play.report()
        await asyncio.sleep(0.5)  # 25 s of the backoffs that are 50 times as short here
        assert 3 <= len(api.asked) <= 8
        assert play.status.last_error == "watch: the server ended it at once, with nothing in it"
        assert play.status.errors_total >= 2

    play(scene, prepare)


def test_a_collection_that_is_not_installed_has_no_objects_and_is_no_error(play):
    def prepare(api: Api, _play: Play) -> None:
        api.answer_list = lambda _request: web.Response(status=404, text="404 page not found\n")

    async def scene(api: Api, play: Play) -> None:
        assert await play.report() == frozenset()
        status = play.status
        assert (status.synced, status.objects, status.errors_total) == (True, 0, 0)
        assert (status.last_error, status.relists_total) == ("not installed", 0)
        api.items = [{"metadata": {"name": "a", "namespace": "shop", "resourceVersion": "1"}, "spec": {}}]
        api.answer_list = api.list
        assert await play.report() == {A}
        assert play.status.last_error == ""

    play(scene, prepare, l4_rules(), parse_rule)


def test_a_404_once_takes_no_rule_away_but_if_it_stays_so_does(play):
    def prepare(api: Api, play: Play) -> None:
        play.reflector.preload([{"metadata": {"name": "a", "namespace": "shop", "resourceVersion": "1"}}])
        api.answer_list = lambda _request: web.Response(status=404, text="404 page not found\n")

    async def scene(api: Api, play: Play) -> None:
        assert await play.report() == frozenset()
        assert set(play.reflector.objects) == {A}
        assert await play.report() == {A}
        assert len(api.asked) == 3
        assert set(play.reflector.objects) == set()

    play(scene, prepare, l4_rules(), parse_rule)


def test_a_404_for_what_every_cluster_has_is_an_error(play):
    def prepare(api: Api, _play: Play) -> None:
        api.answer_list = lambda _request: web.Response(status=404, text="404 page not found\n")

    async def scene(_api: Api, play: Play) -> None:
        await play.until(lambda: play.status.errors_total > 0)
        assert not play.status.synced
        assert "404" in play.status.last_error

    play(scene, prepare)


@pytest.mark.parametrize("verb", ["list", "watch"])
def test_a_missing_permission_is_named(play, verb):
    said = 'endpointslices is forbidden: User "weak" cannot'

    def prepare(api: Api, _play: Play) -> None:
        if verb == "list":
            api.answer_list = lambda _request: api.server.refuse(403, "Forbidden", said)
        else:
            for _watch in range(50):
                api.refuse(lambda: api.server.refuse(403, "Forbidden", said))

    async def scene(_api: Api, play: Play) -> None:
        await play.until(lambda: bool(play.status.last_error))
        assert play.status.last_error == f"no permission to {verb} endpointslices in namespace shop: {said}"

    play(scene, prepare, endpoint_slices("shop"))


def test_a_namespace_has_its_own_path(play):
    async def scene(api: Api, play: Play) -> None:
        await play.report()
        assert api.server.requests[0].path == "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices"
        assert play.status.namespace == "shop"

    play(scene, resource=endpoint_slices("shop"))


def test_an_object_that_becomes_unusable_stays_in_force_and_the_status_says_so(play):
    def prepare(api: Api, _play: Play) -> None:
        api.items = [raw("a", 1)]
        api.say(event("MODIFIED", raw("a", 11, addressType="FQDN")))

    async def scene(_api: Api, play: Play) -> None:
        await play.report()
        assert await play.report() == {A}
        assert play.addresses == {A: "10.0.0.1"}
        assert play.status.last_error.startswith("1 can't be used, one of them shop/a: addressType is 'FQDN'")

    play(scene, prepare)


def test_what_was_preloaded_and_has_not_changed_is_not_reported(play):
    def prepare(api: Api, play: Play) -> None:
        play.reflector.preload([raw("a", 1), raw("b", 2)])
        assert set(play.addresses) == {A, B}
        api.items = [raw("a", 1), raw("b", 3, "10.0.0.5")]

    async def scene(_api: Api, play: Play) -> None:
        assert not play.status.synced
        assert await play.report() == {B}

    play(scene, prepare)


def test_what_was_preloaded_is_not_believed_in_its_version(play):
    def prepare(api: Api, play: Play) -> None:
        play.reflector.preload([raw("a", 1, "10.0.0.66"), raw("b", 2, endpoints=7), raw("c", 3)])
        api.items = [raw("a", 1), raw("b", 2), raw("c", 3)]

    async def scene(_api: Api, play: Play) -> None:
        assert await play.report() == {A, B}
        assert play.addresses == dict.fromkeys((A, B, C), "10.0.0.1")
        assert play.status.last_error == ""

    play(scene, prepare)


def test_it_lists_again_after_the_resync_time(play):
    def prepare(api: Api, _play: Play) -> None:
        api.items = [raw("a", 1)]
        for version in range(11, 61):
            api.say(bookmark(version), end=True)

    async def scene(api: Api, play: Play) -> None:
        await play.report()
        api.items = []  # an event that never came
        assert await play.report() == {A}
        assert play.status.relists_total >= 1

    play(scene, prepare, resync_s=0.05)


def test_a_watch_that_the_server_never_ends_is_ended(play, monkeypatch):
    monkeypatch.setattr("lbd.kubernetes.watching.reflector.GRACE_S", 0.05)

    def prepare(api: Api, _play: Play) -> None:
        async def endless(request: web.Request) -> web.StreamResponse:
            response = await api.server.stream(request)
            version = 100
            while True:
                version += 1
                await response.write(json.dumps(bookmark(version)).encode() + b"\n")
                await asyncio.sleep(0.01)

        api.watches.put_nowait(endless)
        api.say(event("ADDED", raw("b", 1000)))

    async def scene(_api: Api, play: Play) -> None:
        await play.report()
        assert await play.report() == {B}
        assert play.status.errors_total == 0

    play(scene, prepare, watch_timeout_s=0.1)
