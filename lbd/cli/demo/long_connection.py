"""One client's connection that is kept for minutes, with a question on it ten times a second."""

from __future__ import annotations

import asyncio
import threading
from types import TracebackType
from typing import Final, Self

from lbd.cli.demo.namespace import Namespace

_PERIOD_S: Final = 0.1
_PATIENCE_S: Final = 5.0


class LongConnection:
    """Connects on entry of a `with` block and asks until its end; `answers` counts, `error` says why it broke."""

    def __init__(self, client: Namespace, address: str, port: int) -> None:
        self.answers = 0
        self.pods: set[str] = set()
        self.error = ""
        self._client = client
        self._target = (address, port)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._main, daemon=True, name="long-connection")

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def stop(self) -> None:
        """Close the connection. Can be called again."""
        self._stopping.set()
        self._thread.join(_PATIENCE_S + 1.0)

    def _main(self) -> None:
        self._client.enter()
        asyncio.run(self._run())

    async def _run(self) -> None:
        try:
            async with asyncio.timeout(_PATIENCE_S):
                reader, writer = await asyncio.open_connection(*self._target)
            while not self._stopping.is_set():
                async with asyncio.timeout(_PATIENCE_S):
                    self.pods.add(await self._ask(reader, writer))
                self.answers += 1
                await asyncio.sleep(_PERIOD_S)
            writer.close()
        except (OSError, EOFError, ValueError) as error:
            self.error = str(error) or type(error).__name__

    async def _ask(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> str:
        writer.write(f"GET / HTTP/1.1\r\nHost: {self._target[0]}\r\n\r\n".encode())
        head = await reader.readuntil(b"\r\n\r\n")
        lengths = [
            line.partition(b":")[2] for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:")
        ]
        body = await reader.readexactly(int(lengths[0]) if lengths else 0)
        return body.decode().strip()
