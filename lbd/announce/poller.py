"""Calls back when a raw socket can be read, and goes on after a socket had an error."""

from __future__ import annotations

import asyncio
import select
import socket
from collections.abc import Callable


class Poller:
    """An epoll of our own, hung under the loop by one `add_reader`.

    `loop.add_reader` on the sockets themselves would go deaf: when a socket reports an error once (ENETDOWN of a packet
    socket, ENOBUFS of a netlink one) libuv ends its watch for good, without a word. An epoll never has an error.
    """

    def __init__(self) -> None:
        self._epoll: select.epoll | None = None
        self._callbacks: dict[int, Callable[[], None]] = {}

    def add(self, readable: socket.socket, callback: Callable[[], None]) -> None:
        """Call `callback` in the loop whenever `readable` has something, an error included.

        Raises:
            OSError: no descriptor is left.
        """
        if self._epoll is None:
            self._epoll = select.epoll()
            asyncio.get_running_loop().add_reader(self._epoll.fileno(), self._poll)
        self._epoll.register(readable, select.EPOLLIN)
        self._callbacks[readable.fileno()] = callback

    def remove(self, readable: socket.socket) -> None:
        """Call no more; before the socket is closed. Does nothing for one that was not added."""
        if self._callbacks.pop(readable.fileno(), None) is not None and self._epoll is not None:
            self._epoll.unregister(readable)

    def close(self) -> None:
        """Give the epoll back; does nothing twice. The next `add` makes a new one."""
        epoll, self._epoll = self._epoll, None
        self._callbacks.clear()
        if epoll is not None:
            asyncio.get_running_loop().remove_reader(epoll.fileno())
            epoll.close()

    def _poll(self) -> None:
        if self._epoll is None:
            return
        for descriptor, _ in self._epoll.poll(0):
            callback = self._callbacks.get(descriptor)
            if callback is not None:  # an earlier callback of this batch may have closed this one
                callback()
