"""The ping check: ICMP and ICMPv6 echo over one raw socket per family (CAP_NET_RAW).

Datagram ICMP sockets need no capability but are refused, even to root, where `ping_group_range` is `1 0`.
"""

from __future__ import annotations

import asyncio
import ctypes
import errno
import ipaddress
import os
import random
import select
import socket
import struct
import time

import structlog

from lbd.health.probes import icmp
from lbd.health.probes.errors import result_of_errno
from lbd.health.result import ProbeResult, Reason
from lbd.model.address import Endpoint
from lbd.model.desired import HealthMonitor

log = structlog.get_logger(__name__)

_SOL_RAW, _ICMP_FILTER = 255, 1
_ICMP6_FILTER = 1
_SO_ATTACH_FILTER = 26
_SO_RCVBUFFORCE = 33
_RECEIVE_BUFFER_BYTES = 4 << 20
"""The default of 208 KiB holds some 270 small packets: answers to one burst of echoes would be lost."""
_SEQUENCES = 65536
_BATCH = 256
"""Packets read in one turn of the loop."""


class _EchoSocket:
    """The raw socket of one family, and the echoes that wait for an answer."""

    def __init__(self, family: icmp.Family, rng: random.Random) -> None:
        """Open the socket on the running loop.

        Raises:
            OSError: among others PermissionError without CAP_NET_RAW.
        """
        self._family = family
        self._identifier = rng.randrange(1, 65536)
        self._token = os.urandom(16)  # an answer must quote it: an off-path attacker cannot
        self._sequence = rng.randrange(_SEQUENCES)
        self._waiting: dict[int, tuple[str, asyncio.Future[ProbeResult]]] = {}
        self._loop = asyncio.get_running_loop()
        self._socket = self._open()
        # Under an epoll of its own: uvloop forgets a reader for good whose descriptor reports an error once.
        self._epoll = select.epoll()
        self._epoll.register(self._socket.fileno(), select.EPOLLIN)
        self._loop.add_reader(self._epoll.fileno(), self._read)
        self.broken = False

    def _open(self) -> socket.socket:
        kind = socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC
        if self._family is icmp.IPV4:
            opened = socket.socket(socket.AF_INET, kind, socket.IPPROTO_ICMP)
            level, option = _SOL_RAW, _ICMP_FILTER
        else:
            opened = socket.socket(socket.AF_INET6, kind, socket.IPPROTO_ICMPV6)
            level, option = socket.IPPROTO_ICMPV6, _ICMP6_FILTER
        try:
            program = icmp.packed_program(icmp.identifier_program(self._family, self._identifier))
            instructions = ctypes.create_string_buffer(program, len(program))
            descriptor = struct.pack("@HP", len(program) // 8, ctypes.addressof(instructions))
            opened.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, descriptor)
            opened.setsockopt(level, option, icmp.type_filter(self._family))
            try:
                opened.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, _RECEIVE_BUFFER_BYTES)
            except PermissionError:  # without CAP_NET_ADMIN as much as net.core.rmem_max allows
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _RECEIVE_BUFFER_BYTES)
        except OSError:
            opened.close()
            raise
        return opened

    def close(self, result: ProbeResult) -> None:
        """Close the socket; whoever waits gets `result`. Idempotent."""
        if self._socket.fileno() >= 0:
            self._loop.remove_reader(self._epoll.fileno())
            self._epoll.close()
            self._socket.close()
        for _, future in self._waiting.values():
            if not future.done():
                future.set_result(result)

    async def echo(self, address: str, timeout_s: float) -> ProbeResult:
        """Send one echo request and wait for its answer."""
        sequence = self._free_sequence()
        if sequence is None:
            return ProbeResult.void(Reason.LOCAL_ERROR, f"{_SEQUENCES} echoes are waiting")
        future: asyncio.Future[ProbeResult] = self._loop.create_future()
        self._waiting[sequence] = (address, future)
        timer = self._loop.call_later(timeout_s, _expire, future)
        try:
            packet = icmp.echo_request(self._family, self._identifier, sequence, self._token)
            self._socket.sendto(packet, (address, 0))
            return await future
        except BlockingIOError:
            return ProbeResult.void(Reason.LOCAL_ERROR, "the send buffer is full")
        except OSError as error:
            return result_of_errno(error.errno or 0, at_once=True)
        finally:
            timer.cancel()
            del self._waiting[sequence]

    def _free_sequence(self) -> int | None:
        if len(self._waiting) >= _SEQUENCES:
            return None
        while True:
            self._sequence = (self._sequence + 1) % _SEQUENCES
            if self._sequence not in self._waiting:
                return self._sequence

    def _read(self) -> None:
        for _ in range(_BATCH):
            try:
                packet, sender = self._socket.recvfrom(2048)
            except (BlockingIOError, InterruptedError):
                return
            except OSError as error:
                log.warning("ping_socket_failed", error=errno.errorcode.get(error.errno or 0, str(error)))
                self.broken = True
                self.close(ProbeResult.void(Reason.LOCAL_ERROR, f"the ICMP socket failed: {error.strerror}"))
                return
            answer = icmp.parse(self._family, packet, self._identifier)
            if answer is not None:
                self._settle(answer, sender[0])

    def _settle(self, answer: icmp.EchoAnswer, sender: str) -> None:
        address, future = self._waiting.get(answer.sequence, ("", None))
        if future is None or future.done():
            return
        if answer.error and answer.destination == ipaddress.ip_address(address).packed:
            future.set_result(ProbeResult.failure(Reason.UNREACHABLE, f"{answer.error}, says {sender}"))
        elif not answer.error and sender == address and answer.payload == self._token:
            future.set_result(ProbeResult.success())


class PingProbe:
    """Passes when the member's address answers an echo request. The port plays no part."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._sockets: dict[int, _EchoSocket] = {}

    def close(self) -> None:
        """Close the sockets; idempotent."""
        for echo_socket in self._sockets.values():
            echo_socket.close(ProbeResult.void(Reason.LOCAL_ERROR, "closed"))
        self._sockets.clear()

    async def probe(self, endpoint: Endpoint, monitor: HealthMonitor) -> ProbeResult:
        """Check the address of `endpoint` once, within the monitor's timeout."""
        family = icmp.IPV6 if endpoint.family == 6 else icmp.IPV4
        echo_socket = self._sockets.get(family.version)
        if echo_socket is None or echo_socket.broken:
            try:
                echo_socket = self._sockets[family.version] = _EchoSocket(family, self._rng)
            except PermissionError:
                return ProbeResult.void(Reason.NOT_PERMITTED, "a raw ICMP socket needs CAP_NET_RAW")
            except OSError as error:
                return result_of_errno(error.errno or 0, at_once=True)
        started_s = time.monotonic()
        result = await echo_socket.echo(endpoint.address, monitor.timeout_s)
        return result.after(time.monotonic() - started_s)


def _expire(future: asyncio.Future[ProbeResult]) -> None:
    if not future.done():
        future.set_result(ProbeResult.failure(Reason.ANSWER_TIMEOUT, "no echo reply"))
