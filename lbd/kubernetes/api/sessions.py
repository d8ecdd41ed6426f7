"""Connections to the API server, made anew when the way to it changes."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import aiohttp

from lbd.kubernetes.api.credentials import Credentials

_KEEPALIVE = ((socket.TCP_KEEPIDLE, 20), (socket.TCP_KEEPINTVL, 10), (socket.TCP_KEEPCNT, 3))
"""A watch on which nothing moves notices after 50 s that the machine at its other end is gone."""
_READ_BUFFER = 1 << 18


@dataclass(slots=True)
class _Session:
    """Connections of one way. A retired one is closed by the last of its users."""

    way: str
    session: aiohttp.ClientSession
    users: int = 0
    retired: bool = False


class Sessions:
    """Gives out the session that fits the credentials."""

    def __init__(self) -> None:
        self._newest: _Session | None = None
        self._all: list[_Session] = []

    @asynccontextmanager
    async def use(self, credentials: Credentials) -> AsyncIterator[aiohttp.ClientSession]:
        """Lend the session for a request, until its answer is read."""
        held = await self._fitting(credentials)
        held.users += 1
        try:
            yield held.session
        finally:
            held.users -= 1
            await self._close_if_unused(held)

    async def close(self) -> None:
        """Close all connections, also those in use."""
        self._newest = None
        while self._all:
            await self._all.pop().session.close()

    async def _fitting(self, credentials: Credentials) -> _Session:
        if self._newest is not None and self._newest.way == credentials.way:
            return self._newest
        before, self._newest = self._newest, _Session(credentials.way, _make(credentials))
        self._all.append(self._newest)
        made = self._newest
        if before is not None:
            before.retired = True
            await self._close_if_unused(before)
        return made

    async def _close_if_unused(self, held: _Session) -> None:
        if held.retired and not held.users and held in self._all:
            self._all.remove(held)
            await held.session.close()


def _make(credentials: Credentials) -> aiohttp.ClientSession:
    """Make a session that asks no proxy but the kubeconfig's, and whose watches take no place from requests."""
    connector = aiohttp.TCPConnector(
        limit=0, ssl=credentials.tls if credentials.tls is not None else True, socket_factory=_socket
    )
    return aiohttp.ClientSession(
        connector=connector,
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=None),
        trust_env=False,
        auto_decompress=False,
        read_bufsize=_READ_BUFFER,
        cookie_jar=aiohttp.DummyCookieJar(),
    )


def _socket(address: aiohttp.AddrInfoType) -> socket.socket:
    made = socket.socket(address[0], address[1], address[2])
    made.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for option, value in _KEEPALIVE:
        made.setsockopt(socket.IPPROTO_TCP, option, value)
    return made
