"""Claims about the metrics server, on real sockets: right answers, and no harm from slow, hostile or many clients."""

from __future__ import annotations

import asyncio
import gzip
import socket
import threading
import time
from collections.abc import Awaitable, Callable
from functools import partial
from itertools import pairwise
from typing import Any

import pytest
import uvloop
from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

from lbd.model.address import Endpoint
from lbd.model.status import Status
from lbd.observability.bounded import Limits
from lbd.observability.http import MetricsServer
from lbd.observability.metrics import collect

QUICK = Limits(connections=4, request_timeout_s=0.3, lifetime_s=0.8)
Test = Callable[[Endpoint], Awaitable[None]]


def serve(source: Callable[[], Status], test: Test, limits: Limits | None = None, address: str = "127.0.0.1") -> None:
    """Run `test` against a server, and claim that nothing is left of it afterwards."""

    async def main() -> None:
        server = MetricsServer(address, 0, source, limits)
        where = await server.start()
        try:
            await asyncio.wait_for(test(where), 30)
        finally:
            await server.close()
        with pytest.raises(ConnectionRefusedError):
            await asyncio.open_connection(where.address, where.port)
        assert len(asyncio.all_tasks()) == 1, asyncio.all_tasks()

    uvloop.run(main())


def at(where: Endpoint) -> Callable[[], Any]:
    return partial(asyncio.open_connection, where.address, where.port)


GET = "GET /metrics HTTP/1.1\r\nHost: x\r\n{}\r\n"


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_metrics_come_in_both_formats_and_compressed(make: Any, http: Any, address: str) -> None:
    async def test(where: Endpoint) -> None:
        text = await http(at(where), GET.format(""))
        assert (text.code, text.headers["content-type"]) == (200, "text/plain; version=0.0.4; charset=utf-8")
        names = {family.name for family in parse_text(text.body.decode())}
        assert {"lbd_member_up", "lbd_virtual_service_connections", "process_cpu_seconds"} <= names
        accept = "Accept: application/openmetrics-text;version=1.0.0\r\nAccept-Encoding: deflate, gzip;q=1.0\r\n"
        compressed = await http(at(where), GET.format(accept))
        assert compressed.headers["content-encoding"] == "gzip"
        assert compressed.headers["content-type"].startswith("application/openmetrics-text; version=1.0.0")
        assert len(list(parse_openmetrics(gzip.decompress(compressed.body).decode()))) == len(names)
        refused = await http(at(where), GET.format("Accept-Encoding: gzip;q=0\r\n"))
        assert "content-encoding" not in refused.headers

    serve(make.status, test, address=address)


def test_the_root_points_to_the_metrics_and_everything_else_is_404(make: Any, http: Any) -> None:
    async def test(where: Endpoint) -> None:
        root = await http(at(where), "GET / HTTP/1.0\r\n\r\n")
        assert (root.code, b"/metrics" in root.body) == (200, True)
        for path in ("/metrics/", "/v1/status", "/..%2f..%2fetc/passwd", "/favicon.ico"):
            assert (await http(at(where), f"GET {path} HTTP/1.0\r\n\r\n")).code == 404
        posted = await http(at(where), "POST /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc")
        assert (posted.code, posted.headers["allow"]) == (405, "GET")

    serve(make.status, test)


def test_a_scrape_shows_what_was_true_when_it_was_asked(make: Any, http: Any) -> None:
    now = [make.status(generation=1)]

    async def test(where: Endpoint) -> None:
        for generation in range(1, 8):
            now[0] = make.status(generation=generation)
            body = (await http(at(where), GET.format(""))).body
            assert f"\nlbd_process_wanted_generation {generation}\n".encode() in body

    serve(lambda: now[0], test)


def test_scrapes_that_come_together_share_a_rendering(make: Any, http: Any) -> None:
    calls: list[int] = []

    def source() -> Any:
        calls.append(threading.get_ident())
        return make.status()

    async def test(where: Endpoint) -> None:
        answers = await asyncio.gather(*(http(at(where), GET.format("")) for _ in range(16)))
        assert {answer.code for answer in answers} == {200}
        assert len(calls) < 10
        assert set(calls) == {threading.get_ident()}, "the source belongs to the loop's thread"

    serve(source, test)


def test_rendering_a_big_snapshot_does_not_hold_the_loop(make: Any, http: Any) -> None:
    members = tuple(make.member(address=f"10.0.0.{i}") for i in range(10))
    status = make.status(virtual_services=tuple(make.service(name=f"s{i}", members=members) for i in range(300)))
    gaps: list[float] = []

    async def test(where: Endpoint) -> None:
        loop = asyncio.get_running_loop()
        scrape = asyncio.create_task(http(at(where), GET.format("Accept-Encoding: gzip\r\n")))
        last = loop.time()
        while not scrape.done():
            await asyncio.sleep(0.001)
            gaps.append(loop.time() - last)
            last += gaps[-1]
        assert len(gzip.decompress((await scrape).body)) > 5_000_000

    serve(lambda: status, test)
    assert sorted(gaps)[len(gaps) * 9 // 10] < 0.05, "nine of ten turns of the loop are prompt while it renders"
    assert len(gaps) > 5


class SlowRows(tuple[Any, ...]):
    """Rows that take 50 ms to walk through: the metrics walk through the workers several times."""

    __slots__ = ()

    def __iter__(self) -> Any:
        time.sleep(0.05)
        return super().__iter__()


def test_whoever_scrapes_without_end_gets_at_most_half_of_the_time(make: Any, http: Any) -> None:
    asked_s: list[float] = []
    status = make.status(workers=SlowRows([make.worker()]))
    began_s = time.monotonic()
    list(collect(status))
    render_s = time.monotonic() - began_s

    def source() -> Any:
        asked_s.append(time.monotonic())
        return status

    async def test(where: Endpoint) -> None:
        for _ in range(4):
            assert (await http(at(where), GET.format(""))).code == 200

    serve(source, test)
    assert render_s >= 0.1
    assert all(later - earlier > 1.8 * 0.05 * (render_s // 0.05) for earlier, later in pairwise(asked_s))


def test_a_source_that_fails_costs_one_answer_and_not_the_server(make: Any, http: Any) -> None:
    statuses: list[Any] = [ValueError("secret detail"), None]

    def source() -> Any:
        failure = statuses.pop(0)
        if failure is not None:
            raise failure
        return make.status()

    async def test(where: Endpoint) -> None:
        failed = await http(at(where), GET.format(""))
        assert (failed.code, b"secret" in failed.body) == (500, False)
        assert (await http(at(where), GET.format(""))).code == 200

    serve(source, test)


@pytest.mark.parametrize("sent", [b"", b"GET /metr", b"GET /metrics HTTP/1.1\r\nX: y\r\n"])
def test_a_client_that_never_ends_its_request_is_cut(make: Any, sent: bytes) -> None:
    async def test(where: Endpoint) -> None:
        loop = asyncio.get_running_loop()
        reader, writer = await at(where)()
        writer.write(sent)
        began_s = loop.time()
        try:
            assert await reader.read() == b""
        except ConnectionResetError:
            pass  # a reset is as good an end as a FIN
        assert 0.2 < loop.time() - began_s < 3
        writer.close()

    serve(make.status, test, QUICK)


def test_a_client_that_trickles_headers_is_cut_too(make: Any) -> None:
    async def test(where: Endpoint) -> None:
        reader, writer = await at(where)()
        writer.write(b"GET /metrics HTTP/1.1\r\n")
        ended = asyncio.create_task(reader.read())
        for number in range(200):
            if ended.done():
                break
            writer.write(f"X-{number}: y\r\n".encode())
            await asyncio.wait({ended}, timeout=0.02)
        assert ended.done(), "the deadline is for the whole request, not for each byte"
        assert number < 100
        await asyncio.gather(ended, return_exceptions=True)
        writer.close()

    serve(make.status, test, QUICK)


def test_a_client_that_does_not_read_its_answer_is_cut(make: Any, http: Any) -> None:
    members = tuple(make.member(address=f"10.0.{i // 250}.{i % 250}") for i in range(4000))
    status = make.status(virtual_services=(make.service(members=members),))

    async def test(where: Endpoint) -> None:
        loop = asyncio.get_running_loop()
        client = socket.socket()
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.setblocking(False)
        await loop.sock_connect(client, (where.address, where.port))
        await loop.sock_sendall(client, GET.format("").encode())
        await asyncio.sleep(1.5)  # past the lifetime: what is claimed is an end that comes by itself

        async def read_all() -> None:
            while await loop.sock_recv(client, 1 << 20):
                pass

        with pytest.raises(ConnectionResetError):
            await read_all()
        client.close()
        assert (await http(at(where), "GET / HTTP/1.0\r\n\r\n")).code == 200

    serve(lambda: status, test, QUICK)


def test_silent_connections_at_the_cap_cannot_keep_a_scraper_out(make: Any, http: Any) -> None:
    async def test(where: Endpoint) -> None:
        silent = [await at(where)() for _ in range(20)]
        assert (await http(at(where), GET.format(""))).code == 200
        ends = [asyncio.create_task(reader.read()) for reader, _ in silent]
        done: set[asyncio.Task[bytes]] = set()
        while len(done) < 16:  # 20 came, 4 may stay
            done, _ = await asyncio.wait(ends, return_when=asyncio.FIRST_COMPLETED, timeout=5)
            assert done, "nobody was thrown out"
            await asyncio.sleep(0.01)
        for _, writer in silent:
            writer.close()
        await asyncio.gather(*ends, return_exceptions=True)

    serve(make.status, test, Limits(connections=4, request_timeout_s=20, lifetime_s=20))


@pytest.mark.parametrize(
    "request_text",
    [
        "GET /metrics HTTP/1.1\r\nHost: x\r\nX: " + "a" * 100_000 + "\r\n\r\n",
        "GET /" + "a" * 100_000 + " HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /metrics HTTP/1.1\r\n" + "".join(f"X{i}: y\r\n" for i in range(1000)) + "\r\n",
        "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n",
        "GET http://[::1/metrics HTTP/1.1\r\nHost: x\r\n\r\n",
        "GET /metrics HTTP/1.1\r\nHost: x\r\nContent-Length: -1\r\n\r\n",
    ],
    ids=["long field", "long line", "many headers", "tls", "bad url", "bad length"],
)
def test_a_malformed_request_is_refused_and_the_next_one_served(make: Any, http: Any, request_text: str) -> None:
    async def test(where: Endpoint) -> None:
        reader, writer = await at(where)()
        writer.write(request_text.encode("latin-1"))
        try:
            answer = await asyncio.wait_for(reader.read(), 5)
        except ConnectionResetError:
            answer = b""
        assert answer == b"" or answer.startswith((b"HTTP/1.0 400", b"HTTP/1.1 400")), answer[:80]
        writer.close()
        assert (await http(at(where), GET.format(""))).code == 200

    serve(make.status, test)


def test_a_connection_carries_one_request(make: Any, http: Any) -> None:
    async def test(where: Endpoint) -> None:
        answer = await http(at(where), "GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 50)
        assert answer.headers["connection"] == "close"
        assert answer.body.count(b"lbd: metrics") == 1

    serve(make.status, test)


def test_an_address_that_is_taken_is_named(make: Any) -> None:
    async def main() -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            port = taken.getsockname()[1]
            server = MetricsServer("127.0.0.1", port, make.status)
            with pytest.raises(OSError, match=f"can't listen on 127.0.0.1:{port}: Address already in use"):
                await server.start()
            await server.close()

    uvloop.run(main())
