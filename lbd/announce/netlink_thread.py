"""One thread that holds one IPRoute and does everything on it in turn.

pyroute2's synchronous IPRoute can't run inside a loop and its asyncio classes fail on uvloop.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

from pyroute2 import IPRoute
from pyroute2.netlink.exceptions import NetlinkError

_T = TypeVar("_T")


class AddressError(Exception):
    """The kernel refused a netlink request; the text says what and why, `code` is its errno."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class NetlinkThread:
    """Runs actions in a thread called `name`; `options` are IPRoute's. Nothing is started before the first action."""

    def __init__(self, name: str, **options: Any) -> None:
        self._name = name
        self._options = options
        self._thread: ThreadPoolExecutor | None = None
        self._ipr: IPRoute | None = None

    async def close(self) -> None:
        """Close the netlink socket and end the thread; a later call starts them again."""
        thread, self._thread = self._thread, None
        if thread is not None:
            await asyncio.get_running_loop().run_in_executor(thread, self._forget_socket)
            thread.shutdown(wait=True)

    async def _in_thread(self, action: Callable[[], _T]) -> _T:
        if self._thread is None:
            self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix=self._name)
        return await asyncio.get_running_loop().run_in_executor(self._thread, self._guarded, action)

    # What follows runs in the thread.

    def _guarded(self, action: Callable[[], _T]) -> _T:
        """Translate what pyroute2 raises; after anything unforeseen the socket is not used again."""
        try:
            return action()
        except NetlinkError as error:
            raise AddressError(str(error.args[1] if len(error.args) > 1 else error), error.code) from error
        except AddressError:
            raise
        except BaseException:
            self._forget_socket()
            raise

    def _forget_socket(self) -> None:
        ipr, self._ipr = self._ipr, None
        if ipr is not None:
            ipr.close()

    def _route(self) -> Any:
        if self._ipr is None:
            self._ipr = IPRoute(groups=0, **self._options)
        return self._ipr
