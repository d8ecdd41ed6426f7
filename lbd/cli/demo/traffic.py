"""The demo's client: requests through the VIP at a steady rate, each on a connection of its own."""

from __future__ import annotations

import asyncio
import threading
import time
from types import TracebackType
from typing import Self

from lbd.cli.demo.ledger import Ledger, Request
from lbd.cli.demo.namespace import Namespace

RATE_PER_S = 120
TIMEOUT_S = 5.0


async def ask(address: str, port: int) -> str:
    """GET / and return the body without its newline.

    Raises:
        OSError: connecting or reading failed. ValueError: the answer is not a whole 200.
    """
    reader, writer = await asyncio.open_connection(address, port)
    try:
        writer.write(f"GET / HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n".encode())
        raw = await reader.read(-1)
    finally:
        writer.close()
    head, blank, body = raw.partition(b"\r\n\r\n")
    if not blank or not body or not head.startswith(b"HTTP/1.1 200 "):
        raise ValueError(f"the answer is {raw[:60]!r}")
    return body.decode().strip()


class Traffic:
    """Sends requests from a namespace, in a thread, from the beginning to the end of a `with` block."""

    def __init__(self, client: Namespace, address: str, port: int, ledger: Ledger) -> None:
        self._client = client
        self._target = (address, port)
        self._ledger = ledger
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._main, daemon=True, name="demo-traffic")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Start no more requests and wait for those under way. Can be called again."""
        self._stopping.set()
        self._thread.join(TIMEOUT_S + 1.0)

    def _main(self) -> None:
        self._client.enter()
        asyncio.run(self._run())

    async def _run(self) -> None:
        begun_s = time.monotonic()
        async with asyncio.TaskGroup() as group:
            number = 0
            while not self._stopping.is_set():
                while begun_s + number / RATE_PER_S <= time.monotonic():
                    group.create_task(self._request(), name=f"request-{number}")
                    number += 1
                await asyncio.sleep(1 / RATE_PER_S)

    async def _request(self) -> None:
        started_s = time.monotonic()
        pod, complaint = "", ""
        try:
            async with asyncio.timeout(TIMEOUT_S):
                pod = await ask(*self._target)
        except (OSError, ValueError) as error:
            complaint = str(error) or type(error).__name__
        self._ledger.add(Request(started_s, time.monotonic(), pod, complaint))
