"""The client against a server that does what no API server does: all ends in time, with an error that says it."""

from __future__ import annotations

import asyncio
import json
import random
import time
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from typing import Any

import pytest
import uvloop
from aiohttp import web

from lbd.kubernetes.api import client as client_module
from lbd.kubernetes.api.client import ApiClient, ApiError
from lbd.model.kubernetes import Kubernetes

Scene = Callable[[Any, ApiClient], Awaitable[None]]
Play = Callable[..., None]


@pytest.fixture
def play(scripted_api, kubeconfig) -> Play:
    """Run a scene with a server and a client of it, on uvloop as the daemon does."""

    def run(scene: Scene, *, request_timeout_s: float = 5.0, user: dict[str, Any] | None = None) -> None:
        async def whole() -> None:
            async with scripted_api() as api:
                path = kubeconfig.write(api.url, user)
                kubernetes = Kubernetes(kubeconfig=path, request_timeout_s=request_timeout_s)
                client = ApiClient(kubernetes, rng=random.Random(1))
                try:
                    async with asyncio.timeout(20):
                        await scene(api, client)
                finally:
                    await client.close()

        uvloop.run(whole())

    return run


async def failure(asking: Awaitable[object]) -> ApiError:
    with pytest.raises(ApiError) as caught:
        await asking
    return caught.value


async def watched(client: ApiClient, idle_timeout_s: float = 5.0) -> list[list[dict[str, Any]]]:
    """Return what a watch brought together, until its end."""
    async with aclosing(client.batches("/w", query={"watch": "1"}, idle_timeout_s=idle_timeout_s)) as batches:
        return [batch async for batch in batches]


async def collect(client: ApiClient, seen: list[object]) -> None:
    async for event in client.stream("/w", query={}, idle_timeout_s=5):
        seen.append(event)  # noqa: PERF401  (what came before an error counts)


def answering(answer: Callable[[], web.Response]) -> Callable[[web.Request], Awaitable[web.StreamResponse]]:
    async def handler(_request: web.Request) -> web.StreamResponse:
        return answer()

    return handler


def test_a_request_is_sent_as_it_was_meant(play):
    async def scene(api: Any, client: ApiClient) -> None:
        api.handler = answering(lambda: web.json_response({"kind": "Service"}, status=201))
        answer = await client.request(
            "PATCH", "/api/v1/namespaces/shop/services/web", query={"fieldManager": "lbd", "x": "a b&c"},
            body={"a": "é"}, content_type="application/merge-patch+json",
        )  # fmt: skip
        assert answer == {"kind": "Service"}
        (request,), (body,) = api.requests, api.bodies
        assert (request.method, request.path) == ("PATCH", "/api/v1/namespaces/shop/services/web")
        assert dict(request.query) == {"fieldManager": "lbd", "x": "a b&c"}
        assert request.headers["Content-Type"] == "application/merge-patch+json"
        assert request.headers["Authorization"] == "Bearer first"
        assert json.loads(body) == {"a": "é"}

    play(scene)


def test_a_request_without_a_content_type_is_json(play):
    async def scene(api: Any, client: ApiClient) -> None:
        await client.request("POST", "/x", body={})
        await client.request("GET", "/x")
        assert api.requests[0].headers["Content-Type"] == "application/json"
        assert "Content-Type" not in api.requests[1].headers

    play(scene)


def test_a_client_that_has_asked_nothing_yet_has_no_answer_and_no_error(kubeconfig):
    client = ApiClient(Kubernetes(kubeconfig="/nowhere"))
    status = client.status()
    assert (status.server, status.reachable, status.error, status.requests_total) == ("", False, "", 0)


@pytest.mark.parametrize(
    ("answer", "status", "said"),
    [
        (lambda: web.Response(status=502, text="<html>Bad Gateway</html>"), 502, "Bad Gateway"),
        (lambda: web.Response(status=200), 0, "got nothing"),
        (lambda: web.json_response("ok"), 0, "got 'ok'"),
        (lambda: web.json_response([1]), 0, "got a list"),
        (lambda: web.Response(status=200, text="<html>log in</html>", content_type="text/html"), 0, "log in"),
        (lambda: web.Response(status=404, text="<html>no</html>", content_type="text/html"), 0, "HTTP 404"),
        (lambda: web.Response(body=b"\x1f\x8b\x08junk", headers={"Content-Encoding": "gzip"}), 0, "expected"),
    ],
)  # fmt: skip
def test_what_is_no_answer_of_an_api_server_is_an_error_and_the_server_is_away(play, answer, status, said):
    async def scene(api: Any, client: ApiClient) -> None:
        api.handler = answering(answer)
        error = await failure(client.request("GET", "/x"))
        assert error.status == status
        assert said in error.message
        assert not client.status().reachable
        assert said in client.status().error

    play(scene)


def test_what_the_api_refuses_is_an_answer(play):
    async def scene(api: Any, client: ApiClient) -> None:
        api.handler = answering(lambda: api.refuse(409, "Conflict", "the object has been modified"))
        error = await failure(client.request("PUT", "/x", body={}))
        assert (error.status, error.reason, error.message) == (409, "Conflict", "the object has been modified")
        assert client.status().reachable

    play(scene)


def test_a_redirect_is_not_followed_with_our_credentials(play):
    async def scene(api: Any, client: ApiClient) -> None:
        api.handler = answering(lambda: web.Response(status=307, headers={"Location": f"{api.url}/elsewhere"}))
        assert (await failure(client.request("GET", "/x"))).reason == "Redirected"
        assert len(api.requests) == 1

    play(scene)


def test_a_proxy_of_the_environment_is_not_asked(play, monkeypatch):
    for name in ("http_proxy", "HTTP_PROXY", "https_proxy", "ALL_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")

    async def scene(_api: Any, client: ApiClient) -> None:
        assert await client.request("GET", "/x") == {}

    play(scene)


def test_a_proxy_of_the_kubeconfig_is_asked(scripted_api, kubeconfig):
    async def scene() -> None:
        async with scripted_api() as proxy:
            path = kubeconfig.write("http://api.example:8080", **{"proxy-url": proxy.url})
            client = ApiClient(Kubernetes(kubeconfig=path))
            assert await client.request("GET", "/x") == {}
            await client.close()
            assert proxy.requests[0].headers["Host"] == "api.example:8080"

    uvloop.run(scene())


def test_nobody_listening_is_an_error_that_says_so(play):
    async def scene(api: Any, client: ApiClient) -> None:
        client._store._load = _other_server(client, "http://127.0.0.1:1")
        error = await failure(client.request("GET", "/x"))
        assert (error.status, error.reason) == (0, "Unreachable")
        assert "127.0.0.1:1" in error.message

    play(scene)


def _other_server(client: ApiClient, server: str) -> Callable[[], Any]:
    load = client._store._load

    def loaded() -> Any:
        from dataclasses import replace

        return replace(load(), server=server)

    return loaded


def test_a_server_that_hangs_ends_in_time(play):
    async def scene(api: Any, client: ApiClient) -> None:
        async def hang(_request: web.Request) -> web.StreamResponse:
            await asyncio.Event().wait()
            raise AssertionError

        api.handler = hang
        started_s = time.monotonic()
        error = await failure(client.request("GET", "/x"))
        assert (error.status, error.reason) == (0, "Timeout")
        assert 0.3 <= time.monotonic() - started_s < 2.0

    play(scene, request_timeout_s=0.3)


def test_an_answer_that_drips_ends_in_time(play):
    async def scene(api: Any, client: ApiClient) -> None:
        async def drip(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            while True:
                await response.write(b" ")
                await asyncio.sleep(0.02)

        api.handler = drip
        assert (await failure(client.request("GET", "/x"))).reason == "Timeout"

    play(scene, request_timeout_s=0.3)


def test_whoever_asks_may_have_less_time_than_the_configuration_gives(play):
    async def scene(api: Any, client: ApiClient) -> None:
        async def hang(_request: web.Request) -> web.StreamResponse:
            await asyncio.Event().wait()
            raise AssertionError

        api.handler = hang
        started_s = time.monotonic()
        assert (await failure(client.request("GET", "/x", timeout_s=1.0))).reason == "Timeout"
        assert (await failure(client.request("GET", "/x", timeout_s=0.2))).reason == "Away"
        assert time.monotonic() - started_s < 5.0
        assert len(api.requests) == 1

    play(scene, request_timeout_s=30.0)


def test_an_answer_that_breaks_off_is_an_error(play):
    async def scene(api: Any, client: ApiClient) -> None:
        async def broken(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse()
            response.content_length = 100
            await response.prepare(request)
            await response.write(b'{"a": 1}')
            assert request.transport is not None
            request.transport.abort()
            return response

        api.handler = broken
        error = await failure(client.request("GET", "/x"))
        assert (error.status, error.reason) == (0, "Unreachable")

    play(scene)


def test_an_answer_without_end_is_cut(play, monkeypatch):
    monkeypatch.setattr(client_module, "MAX_BODY", 1 << 20)

    async def scene(api: Any, client: ApiClient) -> None:
        sent = 0

        async def endless(request: web.Request) -> web.StreamResponse:
            nonlocal sent
            response = web.StreamResponse()
            await response.prepare(request)
            while sent < 100 << 20:
                await response.write(b"x" * 65536)
                sent += 65536
            return response

        api.handler = endless
        assert (await failure(client.request("GET", "/x"))).reason == "TooLarge"
        assert sent < 20 << 20

    play(scene)


@pytest.mark.usefixtures("impatient")
def test_a_token_that_was_replaced_is_used_at_once(play, kubeconfig):
    async def scene(api: Any, client: ApiClient) -> None:
        await client.request("GET", "/x")
        kubeconfig.write_token("second")
        await client.request("GET", "/x")
        assert [request.headers["Authorization"] for request in api.requests] == ["Bearer first", "Bearer second"]

    play(scene)


def test_after_a_401_the_files_are_looked_at_and_the_request_is_sent_again_once(play, kubeconfig):
    async def scene(api: Any, client: ApiClient) -> None:
        async def picky(request: web.Request) -> web.StreamResponse:
            good = request.headers["Authorization"] == "Bearer second"
            return web.json_response({"ok": True}) if good else api.refuse(401, "Unauthorized")

        await client.request("GET", "/x")
        api.handler = picky
        kubeconfig.write_token("second")  # not looked at by itself: it was looked at just now
        assert await client.request("POST", "/x", body={"a": 1}) == {"ok": True}
        assert api.bodies == [b"", b'{"a": 1}', b'{"a": 1}']

    play(scene)


def test_a_401_with_credentials_that_have_not_changed_is_the_answer(play):
    async def scene(api: Any, client: ApiClient) -> None:
        api.handler = answering(lambda: api.refuse(401, "Unauthorized"))
        error = await failure(client.request("GET", "/x"))
        assert (error.status, error.reason) == (401, "Unauthorized")
        assert len(api.requests) == 1
        assert not client.status().reachable, "who is not known gets nothing"
        assert "401" in client.status().error

    play(scene)


@pytest.mark.usefixtures("impatient")
def test_files_that_cant_be_read_any_more_change_nothing_and_those_that_never_could_are_an_error(play, kubeconfig):
    async def scene(api: Any, client: ApiClient) -> None:
        (kubeconfig.folder / "token").unlink()
        error = await failure(client.request("GET", "/x"))
        assert (error.status, error.reason) == (0, "Credentials")
        assert str(kubeconfig.folder / "token") in error.message
        kubeconfig.write_token("late")
        await client.request("GET", "/x")
        (kubeconfig.folder / "token").unlink()
        (kubeconfig.folder / "kubeconfig").write_text("{")
        await client.request("GET", "/x")
        assert [request.headers["Authorization"] for request in api.requests] == ["Bearer late"] * 2

    play(scene)


@pytest.mark.usefixtures("impatient")
def test_another_server_in_the_kubeconfig_is_asked_from_now_on_and_a_watch_goes_on(play, kubeconfig, scripted_api):
    async def scene(api: Any, client: ApiClient) -> None:
        hold = asyncio.Event()
        api.handler = lambda request: api.stream(request, {"n": 1}, hold=hold)
        watch = asyncio.create_task(watched(client))
        await api.wait_for(1)
        async with scripted_api() as other:
            kubeconfig.write(other.url)
            assert await client.request("GET", "/x") == {}
            assert (len(api.requests), len(other.requests)) == (1, 1)
            hold.set()
            assert await watch == [[], [{"n": 1}]]

    play(scene)


def test_a_watch_yields_what_came_together_together(play):
    async def scene(api: Any, client: ApiClient) -> None:
        lines = b"".join(json.dumps({"n": number}).encode() + b"\n" for number in range(100))
        api.handler = lambda request: api.stream(request, lines)
        opened, *batches = await watched(client)
        assert opened == []
        assert [event["n"] for batch in batches for event in batch] == list(range(100))
        assert len(batches) <= 2

    play(scene)


def test_a_line_that_comes_in_pieces_is_one_event(play):
    async def scene(api: Any, client: ApiClient) -> None:
        async def pieces(request: web.Request) -> web.StreamResponse:
            response = web.StreamResponse()
            await response.prepare(request)
            for piece in (b'{"n"', b": 1}\n\n", b'{"n": 2}\n{"n', b'": 3}'):
                await response.write(piece)
                await asyncio.sleep(0.01)
            return response

        api.handler = pieces
        assert [event async for event in client.stream("/w", query={}, idle_timeout_s=5)] == [
            {"n": 1}, {"n": 2}, {"n": 3},
        ]  # fmt: skip

    play(scene)


@pytest.mark.parametrize("garbage", [b"<html>\n", b'"str"\n', b"[1]\n", b"\xff\n", b'{"a": 1', b"<html>"])
def test_garbage_in_a_watch_is_an_error_after_what_was_good(play, garbage):
    async def scene(api: Any, client: ApiClient) -> None:
        api.handler = lambda request: api.stream(request, b'{"n": 1}\n' + garbage)
        seen: list[object] = []
        with pytest.raises(ApiError) as caught:
            await collect(client, seen)
        assert (caught.value.status, caught.value.reason) == (0, "NotAnApiServer")
        assert seen == [{"n": 1}]
        assert not client.status().reachable

    play(scene)


def test_a_watch_line_without_end_is_cut(play, monkeypatch):
    monkeypatch.setattr(client_module, "MAX_LINE", 1 << 20)

    async def scene(api: Any, client: ApiClient) -> None:
        api.handler = lambda request: api.stream(request, *[b"x" * 65536] * 64, hold=asyncio.Event())
        assert (await failure(watched(client))).reason == "TooLarge"

    play(scene)


def test_a_silent_watch_ends_in_time_and_the_server_is_away(play):
    async def scene(api: Any, client: ApiClient) -> None:
        api.handler = lambda request: api.stream(request, {"n": 1}, hold=asyncio.Event())
        error = await failure(watched(client, idle_timeout_s=0.2))
        assert (error.status, error.reason) == (0, "Timeout")
        assert not client.status().reachable

    play(scene)


def test_a_watch_that_is_not_taken_up_ends_in_time(play):
    async def scene(api: Any, client: ApiClient) -> None:
        async def hang(_request: web.Request) -> web.StreamResponse:
            await asyncio.Event().wait()
            raise AssertionError

        api.handler = hang
        assert (await failure(watched(client, idle_timeout_s=60))).reason == "Timeout"

    play(scene, request_timeout_s=0.2)


@pytest.mark.parametrize(
    ("answer", "status"),
    [
        (lambda: web.Response(status=502, text="<html>"), 502),
        (lambda: web.json_response({"kind": "Status", "code": 410, "reason": "Expired"}, status=410), 410),
        (lambda: web.Response(status=204), 0),
        (lambda: web.Response(status=302), 0),
    ],
)
def test_a_watch_that_is_refused_is_an_error(play, answer, status):
    async def scene(api: Any, client: ApiClient) -> None:
        api.handler = answering(answer)
        assert (await failure(watched(client))).status == status

    play(scene)


def test_the_end_of_a_watch_is_no_error_and_leaving_it_early_closes_its_connection(play):
    async def scene(api: Any, client: ApiClient) -> None:
        gone = asyncio.Event()

        async def handler(request: web.Request) -> web.StreamResponse:
            try:
                return await api.stream(request, {"n": 1}, hold=asyncio.Event())
            finally:
                gone.set()

        api.handler = lambda request: api.stream(request)
        assert await watched(client) == [[]]
        api.handler = handler
        async with aclosing(client.batches("/w", query={}, idle_timeout_s=60)) as batches:
            async for batch in batches:
                if batch:
                    break
        async with asyncio.timeout(5):
            await gone.wait()

    play(scene)


def test_a_slow_importer_or_reader_of_files_does_not_hold_the_event_loop(play, kubeconfig):
    async def scene(api: Any, client: ApiClient) -> None:
        load = client._store._load

        def slow() -> Any:
            time.sleep(0.3)
            return load()

        client._store._load = slow
        asking = asyncio.create_task(client.request("GET", "/x"))
        turns = 0
        while not asking.done():
            await asyncio.sleep(0.01)
            turns += 1
        await asking
        assert turns >= 15

    play(scene)
