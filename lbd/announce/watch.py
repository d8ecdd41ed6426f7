"""Hears from the kernel that a link or an address changed."""

from __future__ import annotations

import asyncio
import errno
import socket
from collections.abc import Callable

import structlog

from lbd.announce.netlink_events import AddressEvent, LinkEvent, parse_events
from lbd.announce.poller import Poller

log = structlog.get_logger(__name__)

_GROUPS = 0x1 | 0x10 | 0x100
"""RTMGRP_LINK, RTMGRP_IPV4_IFADDR, RTMGRP_IPV6_IFADDR."""
_DATAGRAM_BYTES = 65536
_READS_PER_WAKE = 64
"""A storm of events must not hold the loop; the poller is level-triggered and calls again."""
_REOPEN_INTERVAL_S = 1.0

OnEvents = Callable[[tuple[LinkEvent | AddressEvent, ...]], None]


class NetlinkWatch:
    """Calls `on_events` with what changed, and `on_lost` when events were lost and only a new dump shows the truth.

    Both are called in the loop. A socket that overflowed is replaced before `on_lost`, so that what changes after the
    dump is heard; while none can be had `on_lost` is called every second. `receive_buffer_bytes` 0 keeps the
    system's default.
    """

    def __init__(self, on_events: OnEvents, on_lost: Callable[[], None], receive_buffer_bytes: int = 1 << 20) -> None:
        self._on_events = on_events
        self._on_lost = on_lost
        self._receive_buffer_bytes = receive_buffer_bytes
        self._poller = Poller()
        self._socket: socket.socket | None = None
        self._reopening: asyncio.TimerHandle | None = None
        self.overflows_total = 0
        """How often the kernel dropped events because we were too slow."""
        self.problem = ""
        """Why nothing is heard now; empty while all is well."""

    def open(self) -> None:
        """Start to hear.

        Raises:
            OSError: no socket could be had.
        """
        watch = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.NETLINK_ROUTE)
        try:
            if self._receive_buffer_bytes:
                watch.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, self._receive_buffer_bytes)
            watch.bind((0, _GROUPS))
            self._poller.add(watch, self._read)
        except BaseException:
            self._poller.close()
            watch.close()
            raise
        self._socket = watch
        self.problem = ""

    def close(self) -> None:
        """Stop; does nothing twice."""
        if self._reopening is not None:
            self._reopening.cancel()
            self._reopening = None
        if self._socket is not None:
            self._poller.close()
            self._socket.close()
            self._socket = None

    def _read(self) -> None:
        for _ in range(_READS_PER_WAKE):
            if self._socket is None:
                return
            try:
                datagram, sender = self._socket.recvfrom(_DATAGRAM_BYTES)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                self._replace(error)
                return
            if sender[0] == 0:  # the kernel; a process with CAP_NET_ADMIN could send to the group too
                events = parse_events(datagram)
                if events:
                    self._on_events(events)

    def _replace(self, error: OSError) -> None:
        """An overflowed socket says ENOBUFS once and then goes on as if nothing were missing: never trust it again."""
        if error.errno == errno.ENOBUFS:
            self.overflows_total += 1
        log.warning("netlink_events_lost", reason=error.strerror, overflows_total=self.overflows_total)
        self.close()
        self._reopen()

    def _reopen(self) -> None:
        self._reopening = None
        try:
            self.open()
        except OSError as error:
            self.problem = f"changes of links and addresses are not heard: {error}"
            log.error("netlink_watch_failed", reason=str(error), retry_in_s=_REOPEN_INTERVAL_S)
            self._reopening = asyncio.get_running_loop().call_later(_REOPEN_INTERVAL_S, self._reopen)
        self._on_lost()
