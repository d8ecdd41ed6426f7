"""A segment of two stations, each in a network namespace of its own: the announcer's here, the peer beside it.

The namespaces have no names: they are gone when the test has closed them, whatever it left in them.
"""

from __future__ import annotations

import asyncio
import ctypes
import os
import select
import socket
import subprocess
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from pyroute2 import IPRoute

from lbd.announce.announcer import Layer2Announcer
from lbd.model.status import VipStatus

CLONE_NEWNET = 0x40000000
FRONT_MAC = bytes.fromhex("020000000001")
PEER_MAC = bytes.fromhex("020000000002")
_libc = ctypes.CDLL(None, use_errno=True)


def _check(result: int) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


class Namespace:
    """A network namespace, held by a descriptor."""

    def __init__(self) -> None:
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _check(_libc.unshare(CLONE_NEWNET))
            self.fd = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
            _check(_libc.setns(before, CLONE_NEWNET))
        finally:
            os.close(before)

    @contextmanager
    def entered(self) -> Iterator[None]:
        """Have this thread, and the processes and threads that it starts, in the namespace."""
        before = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        try:
            _check(_libc.setns(self.fd, CLONE_NEWNET))
            yield
        finally:
            _check(_libc.setns(before, CLONE_NEWNET))
            os.close(before)

    def ip(self, *commands: str) -> None:
        """Run `ip` commands in one process."""
        with self.entered():
            subprocess.run(["ip", "-batch", "-"], input="\n".join(commands), text=True, check=True)


@dataclass(frozen=True)
class Seen:
    """A frame, and when it was seen (monotonic seconds)."""

    frame: bytes
    at_s: float


@dataclass
class Capture:
    """Every frame that arrives at the peer."""

    packet: socket.socket
    seen: list[Seen] = field(default_factory=list)
    arrived: asyncio.Event = field(default_factory=asyncio.Event)

    def _read(self) -> None:
        while True:
            try:
                frame, sender = self.packet.recvfrom(65536)
            except BlockingIOError:
                return
            except OSError:  # ENETDOWN: the test took the link down
                return
            if sender[2] != socket.PACKET_OUTGOING:  # type: ignore[attr-defined]
                self.seen.append(Seen(frame, time.monotonic()))
                self.arrived.set()

    def of(self, frame: bytes, since_s: float = 0.0) -> list[float]:
        """When exactly this frame arrived."""
        return [seen.at_s for seen in self.seen if seen.frame == frame and seen.at_s >= since_s]

    async def wait_for(self, frame: bytes, *, count: int = 1, since_s: float = 0.0, timeout_s: float = 3.0) -> None:
        """Return when exactly this frame has arrived `count` times since `since_s`."""
        try:
            async with asyncio.timeout(timeout_s):
                while len(self.of(frame, since_s)) < count:
                    self.arrived.clear()
                    await self.arrived.wait()
        except TimeoutError:
            seen = "\n".join(f"{seen.at_s:.3f} {seen.frame.hex()}" for seen in self.seen[-20:])
            pytest.fail(f"{frame.hex()} did not come {count} times in {timeout_s} s; seen last:\n{seen}")


class Segment:
    """`front0` (here, where the announcer runs) and `peer0` (in `peer`), joined by a cable."""

    def __init__(self, here: Namespace, peer: Namespace) -> None:
        self.here, self.peer = here, peer
        self.plug()

    def plug(self, options: str = "") -> None:
        """Lay the cable."""
        front, peer = f"front0 address {FRONT_MAC.hex(':')}", f"peer0 address {PEER_MAC.hex(':')}"
        self.here.ip(f"link add {front} {options} type veth peer name {peer}")
        with self.here.entered(), IPRoute() as route:
            (index,) = route.link_lookup(ifname="peer0")
            route.link("set", index=index, net_ns_fd=self.peer.fd)
        self.peer.ip("link set lo up", "link set peer0 up")
        self.here.ip("link set lo up", "link set front0 up")
        self.wait_until_running()

    def wait_until_running(self, interface: str = "front0") -> None:
        """Return when the interface is ready: the kernel tells so up to a second after the cable is in."""
        deadline_s = time.monotonic() + 5
        while time.monotonic() < deadline_s:
            with self.here.entered(), IPRoute() as route:
                (link,) = route.link("get", ifname=interface)
            if link.get_attr("IFLA_OPERSTATE") in ("UP", "UNKNOWN"):
                return
            time.sleep(0.02)
        pytest.fail(f"{interface} did not come up")

    @contextmanager
    def capture(self, interface: str = "peer0") -> Iterator[Capture]:
        """Capture what arrives at the peer; needs a running loop."""
        with self.peer.entered():
            packet = socket.socket(socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.htons(3))
            packet.bind((interface, 3))  # ETH_P_ALL
        capture = Capture(packet)
        # Through an epoll, for uvloop forgets a reader whose socket had an error (ENETDOWN, when the link goes down).
        with select.epoll() as epoll:
            epoll.register(packet, select.EPOLLIN)
            loop = asyncio.get_running_loop()
            loop.add_reader(epoll.fileno(), capture._read)
            try:
                yield capture
            finally:
                loop.remove_reader(epoll.fileno())
                packet.close()

    def send_from_peer(self, *frames: bytes) -> None:
        """Put frames on the wire at the peer's end."""
        with self.peer.entered(), socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0) as packet:
            packet.bind(("peer0", 0))
            for frame in frames:
                packet.send(frame)

    def addresses(self, interface: str = "front0") -> list[dict[str, Any]]:
        """Every global address on an interface here, as the kernel shows it."""
        with self.here.entered(), IPRoute() as route:
            (index,) = route.link_lookup(ifname=interface)
            return [
                {
                    "address": message.get_attr("IFA_LOCAL") or message.get_attr("IFA_ADDRESS"),
                    "prefix_length": message["prefixlen"],
                    "protocol": message.get_attr("IFA_PROTO"),
                    "flags": message.get_attr("IFA_FLAGS"),
                    "preferred_s": message.get_attr("IFA_CACHEINFO")["ifa_preferred"],
                    "valid_s": message.get_attr("IFA_CACHEINFO")["ifa_valid"],
                }
                for message in route.get_addr(index=index)
                if message["scope"] != 253  # link-local
            ]

    def names(self, interface: str = "front0") -> set[str]:
        """`address/prefix_length` of each."""
        return {f"{entry['address']}/{entry['prefix_length']}" for entry in self.addresses(interface)}

    async def look(self, interface: str = "front0") -> set[str]:
        """`names` from inside a loop, where pyroute2's synchronous classes don't work."""
        return await asyncio.to_thread(self.names, interface)


async def until(condition: Callable[[], bool], what: str, timeout_s: float = 3.0) -> None:
    """Return when `condition` holds; it is looked at every 10 ms, for what has no event to wait for."""
    deadline_s = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline_s:
            pytest.fail(f"not within {timeout_s} s: {what}")
        await asyncio.sleep(0.01)


def status_of(announcer: Layer2Announcer, vip: str) -> VipStatus:
    """The status of one VIP."""
    (status,) = [status for status in announcer.status() if status.address == vip]
    return status


@asynccontextmanager
async def started(
    interface: str = "front0", state_directory: Path = Path("/nonexistent"), **options: Any
) -> AsyncIterator[Layer2Announcer]:
    """A started announcer, closed at the end with its addresses."""
    announcer = Layer2Announcer(interface, state_directory=state_directory, **options)
    await announcer.start()
    try:
        yield announcer
    finally:
        await announcer.close(remove_addresses=True)
