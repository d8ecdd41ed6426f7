"""The program that runs in a demo's Pod: answers every HTTP request with the Pod's name.

`python -m lbd.cli.demo.pod NAME PORT [ADDRESS ...]` serves until it is killed.
"""

from __future__ import annotations

import asyncio
import sys

_LONGEST_REQUEST_BYTES = 16384


async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter, name: str) -> None:
    """Answer the requests of one connection until it is closed, or one says `Connection: close`."""
    body = f"{name}\n".encode()
    head = f"HTTP/1.1 200 OK\r\nContent-Type: text/plain\r\nContent-Length: {len(body)}\r\n"
    try:
        last = False
        while not last:
            request = await reader.readuntil(b"\r\n\r\n")
            last = b"\r\nconnection: close" in request.lower()
            writer.write(f"{head}{'Connection: close' if last else 'Connection: keep-alive'}\r\n\r\n".encode() + body)
            await writer.drain()
    except (asyncio.IncompleteReadError, asyncio.LimitOverrunError, ConnectionError):
        pass  # a health check that only connects, or a client that went away: nobody waits for an answer
    finally:
        writer.close()


async def serve(name: str, port: int, addresses: list[str]) -> None:
    """Listen on every address and serve for ever."""
    server = await asyncio.start_server(
        lambda reader, writer: answer(reader, writer, name),
        addresses,
        port,
        backlog=1024,
        limit=_LONGEST_REQUEST_BYTES,
        reuse_address=True,
    )
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1], int(sys.argv[2]), sys.argv[3:]))
