"""Clients in a namespace of the lab: single exchanges, and loads with the outcome and latency of each connection."""

from __future__ import annotations

import asyncio
import itertools
import socket
import threading
import time
from collections import Counter
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, field
from types import TracebackType
from typing import Self

from lbd.cli.demo.lab import FRONT_PREFIX, Lab
from lbd.cli.demo.namespace import Namespace

OK, REFUSED, RESET, TIMED_OUT, UNREACHABLE, CUT_SHORT, WRONG = (
    "ok",
    "refused",
    "reset",
    "timed_out",
    "unreachable",
    "cut_short",
    "wrong",
)
"""How a connection ended. CUT_SHORT: a clean end before the whole answer; WRONG: an answer that makes no sense."""

Exchange = Callable[[socket.socket], Awaitable[str]]
"""Uses a connected, non-blocking socket of a running loop; returns the answer, raises EOFError when it is cut short."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One connection of a load. Times are monotonic seconds."""

    started_s: float
    connected_after_s: float | None
    ended_after_s: float
    kind: str
    answer: str = ""
    detail: str = ""


@dataclass(slots=True)
class LoadResult:
    """All connections of a load, in the order in which they ended."""

    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def failures(self) -> list[Outcome]:
        """The connections that were not ok."""
        return [outcome for outcome in self.outcomes if outcome.kind != OK]

    @property
    def answers(self) -> Counter[str]:
        """How often each answer came."""
        return Counter(outcome.answer for outcome in self.outcomes if outcome.kind == OK)

    @property
    def kinds(self) -> Counter[str]:
        """How often each kind of end came."""
        return Counter(outcome.kind for outcome in self.outcomes)

    @property
    def worst_latency_s(self) -> float:
        """The longest time from connect() to the whole answer."""
        return max((outcome.ended_after_s for outcome in self.outcomes), default=0.0)

    def started_since(self, moment_s: float) -> LoadResult:
        """Return the part that started at `moment_s` (time.monotonic()) or later."""
        return LoadResult([outcome for outcome in self.outcomes if outcome.started_s >= moment_s])


def socket_family(address: str) -> socket.AddressFamily:
    """Return AF_INET6 for an IPv6 address, else AF_INET."""
    return socket.AF_INET6 if ":" in address else socket.AF_INET


def connect(
    namespace: Namespace, address: str, port: int = 80, *, timeout_s: float = 10.0, source: str | None = None
) -> socket.socket:
    """Return a connected blocking socket of the namespace with a timeout on every call.

    Raises:
        OSError: as connect() does; TimeoutError after `timeout_s`.
    """
    conn = namespace.socket(socket_family(address))
    conn.settimeout(timeout_s)
    try:
        if source is not None:
            conn.bind((source, 0))
        conn.connect((address, port))
    except BaseException:
        conn.close()
        raise
    return conn


def receive_all(conn: socket.socket) -> bytes:
    """Read to the end of the stream."""
    return b"".join(iter(lambda: conn.recv(65536), b""))


def fetch(namespace: Namespace, address: str, port: int = 80, *, source: str | None = None) -> str:
    """GET / on a connection of its own and return the body: the name of the Pod that answered."""
    with connect(namespace, address, port, source=source) as conn:
        conn.sendall(_request(address))
        return _body(receive_all(conn))


def _request(host: str) -> bytes:
    return b"GET / HTTP/1.1\r\nHost: %s\r\nConnection: close\r\n\r\n" % host.encode()


def _body(answer: bytes) -> str:
    head, blank, body = answer.partition(b"\r\n\r\n")
    if not blank:
        raise EOFError(f"the answer ends after {answer!r}")
    if not head.startswith(b"HTTP/1.1 200 "):
        raise ValueError(f"not a 200: {head!r}")
    return body.decode()


async def http_exchange(conn: socket.socket) -> str:
    """GET / and return the body."""
    loop = asyncio.get_running_loop()
    await loop.sock_sendall(conn, _request("lab"))
    answer = bytearray()
    while chunk := await loop.sock_recv(conn, 65536):
        answer += chunk
    return _body(bytes(answer))


def echo_exchange(payload: bytes) -> Exchange:
    """Return an exchange that sends `payload`, half-closes, and expects it back."""

    async def exchange(conn: socket.socket) -> str:
        loop = asyncio.get_running_loop()
        sending = asyncio.create_task(_send_and_shut(conn, payload))
        answer = bytearray()
        while chunk := await loop.sock_recv(conn, 65536):
            answer += chunk
        await sending
        if len(answer) < len(payload):
            raise EOFError(f"{len(answer)} of {len(payload)} bytes came back")
        if answer != payload:
            raise ValueError("other bytes came back")
        return ""

    return exchange


async def _send_and_shut(conn: socket.socket, payload: bytes) -> None:
    await asyncio.get_running_loop().sock_sendall(conn, payload)
    conn.shutdown(socket.SHUT_WR)


class Load:
    """Opens connections from a namespace, each for one exchange, in a thread with a loop of its own.

    `rate_per_s` starts them at even distances whatever becomes of them (an open load: a slow one delays no other);
    without it `concurrency` of them are always under way. `count` ends it by itself, else `stop()` does. As a
    context manager it is stopped at the end of the block; `result` can be read meanwhile and after.
    """

    def __init__(
        self,
        namespace: Namespace,
        address: str,
        port: int = 80,
        *,
        rate_per_s: float | None = None,
        concurrency: int = 1,
        count: int | None = None,
        exchange: Exchange = http_exchange,
        timeout_s: float = 20.0,
        sources: Sequence[str] = (),
    ) -> None:
        self.result = LoadResult()
        self._namespace = namespace
        self._target = (address, port)
        self._family = socket_family(address)
        self._rate_per_s = rate_per_s
        self._concurrency = concurrency
        self._tickets: Iterator[int] = itertools.count() if count is None else iter(range(count))
        self._exchange = exchange
        self._timeout_s = timeout_s
        self._sources: Iterator[str] | None = itertools.cycle(sources) if sources else None
        self._stopping = threading.Event()
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._main, daemon=True, name="load")

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> Self:
        """Start the connections."""
        self._thread.start()
        return self

    def stop(self) -> LoadResult:
        """Start no more connections, wait for those under way, and return them all."""
        self._stopping.set()
        return self.join()

    def join(self) -> LoadResult:
        """Wait till `count` connections have ended and return them."""
        self._thread.join()
        if self._failure is not None:
            raise AssertionError("the load failed") from self._failure
        return self.result

    def _main(self) -> None:
        try:
            self._namespace.enter()
            asyncio.run(self._run())
        except BaseException as error:  # noqa: BLE001  (join() raises it in the test's thread)
            self._failure = error

    async def _run(self) -> None:
        async with asyncio.TaskGroup() as group:
            if self._rate_per_s is None:
                for _ in range(self._concurrency):
                    group.create_task(self._one_after_another())
                return
            begun_s = time.monotonic()
            for number in self._tickets:
                due_s = begun_s + number / self._rate_per_s
                # stop() is called from another thread, so there is no asyncio.Event to await
                while not self._stopping.is_set() and (early_s := due_s - time.monotonic()) > 0:  # noqa: ASYNC110
                    await asyncio.sleep(min(early_s, 0.1))
                if self._stopping.is_set():
                    return
                group.create_task(self._once())

    async def _one_after_another(self) -> None:
        for _ in self._tickets:
            if self._stopping.is_set():
                return
            await self._once()

    async def _once(self) -> None:
        started_s = time.monotonic()
        connected_after_s = None
        kind, answer, detail = OK, "", ""
        conn = socket.socket(self._family)
        conn.setblocking(False)
        try:
            if self._sources is not None:
                conn.bind((next(self._sources), 0))
            async with asyncio.timeout(self._timeout_s):
                await asyncio.get_running_loop().sock_connect(conn, self._target)
                connected_after_s = time.monotonic() - started_s
                answer = await self._exchange(conn)
        except (OSError, EOFError, ValueError) as error:
            kind, detail = _kind_of(error), repr(error)
        finally:
            conn.close()
        ended_after_s = time.monotonic() - started_s
        self.result.outcomes.append(Outcome(started_s, connected_after_s, ended_after_s, kind, answer, detail))


def _kind_of(error: Exception) -> str:
    for kind, errors in (
        (REFUSED, ConnectionRefusedError),
        (RESET, (ConnectionResetError, BrokenPipeError)),
        (TIMED_OUT, TimeoutError),
        (UNREACHABLE, OSError),
        (CUT_SHORT, EOFError),
    ):
        if isinstance(error, errors):
            return kind
    return WRONG


def fetch_many(
    namespace: Namespace, address: str, port: int = 80, *, count: int, concurrency: int = 8, sources: Sequence[str] = ()
) -> LoadResult:
    """GET / on `count` connections, `concurrency` at a time, and return how each ended."""
    return Load(namespace, address, port, count=count, concurrency=concurrency, sources=sources).start().join()


def hold_many(namespace: Namespace, address: str, port: int = 80, *, count: int) -> list[socket.socket]:
    """Return `count` connected sockets that say nothing; the caller closes them."""
    held: list[socket.socket] = []
    try:
        for _ in range(count):
            held.append(connect(namespace, address, port))  # noqa: PERF401  (those made must be closed on error)
    except BaseException:
        for conn in held:
            conn.close()
        raise
    return held


def add_client_addresses(lab: Lab, family: int, count: int) -> list[str]:
    """Give the client `count` (up to 100) more addresses on the frontend network and return them."""
    assert count <= 100, "the VIPs begin at .150"
    addresses = [f"{FRONT_PREFIX[family]}{number}" for number in range(10, 10 + count)]
    length, flag = (24, "") if family == 4 else (64, " nodad")
    lab.client.ip(*(f"address add {address}/{length} dev eth0{flag}" for address in addresses))
    return addresses
