"""Starts the real worker program in place of a supervisor, with one virtual service for each lane."""

from __future__ import annotations

import array
import json
import os
import pwd
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import lbd
from lbd.cli.demo.namespace import Namespace
from lbd.dataplane import counters
from lbd.dataplane.channel import PROTOCOL_VERSION
from lbd.form import VARIABLE
from lbd.model.address import Endpoint
from lbd.model.desired import Bulk, Member, Pool, VirtualService
from lbd.supervisor.service_message import service_message

from .lanes import Lanes, Place

START_LIMIT_S = 15.0
SETTLE_LIMIT_S = 8.0
"""Longer than a relay holds a dead connection for bytes that nobody acknowledges."""
SOURCES = Path(lbd.__file__).resolve().parent.parent
REFUSING_PORT = 1
"""tcpmux: nobody listens there in a sandbox."""
_ROW = 1


class Supervisor:
    """The other end of a worker's channel: sends it services and listening sockets, and reads what it says."""

    def __init__(self, channel: socket.socket) -> None:
        self._channel = channel
        self._incoming = bytearray()
        self.heard: list[dict[str, Any]] = []

    def send(self, message: dict[str, Any], descriptors: list[int] | None = None) -> None:
        """Send a message with its descriptors."""
        body = json.dumps({**message, "fds": len(descriptors or [])}).encode()
        frame = len(body).to_bytes(4, "big") + body
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", descriptors))] if descriptors else []
        sent = self._channel.sendmsg([frame], rights)
        if sent < len(frame):  # to send nothing to a worker that has just done as told and exited is an error
            self._channel.sendall(frame[sent:])

    def read(self, timeout_s: float) -> bool:
        """Read what the worker has said into `heard`; return False at the end or when the time is up."""
        self._channel.settimeout(max(timeout_s, 0.001))
        try:
            received = self._channel.recv(65536)
        except TimeoutError:
            return False
        self._incoming += received
        while len(self._incoming) >= 4:
            length = 4 + int.from_bytes(self._incoming[:4], "big")
            if len(self._incoming) < length:
                break
            self.heard.append(json.loads(self._incoming[4:length]))
            del self._incoming[:length]
        return bool(received)

    def await_type(self, kind: str) -> dict[str, Any]:
        """Return the first message of a type; fail if the worker ends or is too slow."""
        until_s = time.monotonic() + START_LIMIT_S
        while True:
            for message in self.heard:
                if message["type"] == kind:
                    return message
            assert self.read(until_s - time.monotonic()), f"the worker did not say {kind}: it said {self.heard}"


def loopback_places(namespace: Namespace) -> tuple[Place, Place]:
    """Return a place of each family on the loopback of a namespace."""
    return (
        Place("127.0.0.1", namespace.socket, namespace.socket, namespace.socket),
        Place("::1", namespace.socket, namespace.socket, namespace.socket),
    )


class WorkerRelay:
    """A worker process that relays for all lanes. `sources` has an `lbd` to run in place of the installed one."""

    def __init__(self, namespace: Namespace, lanes: Lanes, form: str, sources: Path | None = None) -> None:
        self._lanes = lanes
        self._namespace = namespace
        self._counters = counters.CounterMap.create(1)
        ours, theirs = socket.socketpair()
        environment = {**os.environ, VARIABLE: form}
        if sources is not None:
            environment["PYTHONPATH"] = str(sources)
        user = pwd.getpwuid(os.geteuid()).pw_name
        self._process = namespace.call(
            subprocess.Popen,
            [sys.executable, "-m", "lbd.dataplane.worker", str(theirs.fileno()), user],
            pass_fds=[theirs.fileno()],
            env=environment,
            cwd=sources or SOURCES,
        )
        theirs.close()
        self._channel = ours
        self.supervisor = Supervisor(ours)
        self._listeners: list[socket.socket] = []
        self.supervisor.send(
            {"type": "hello", "protocol": PROTOCOL_VERSION, "row": _ROW, "index": 0, "drain_timeout_s": 1.0},
            [self._counters.descriptor],
        )
        for lane in lanes.lanes:
            self._serve(lane.index, lane.family, lane.member)
            lane.vip = self._listeners[-1].getsockname()[:2]
        self.supervisor.send({"type": "generation", "generation": 1})
        self.form: str = self.supervisor.await_type("ready")["form"]
        self.supervisor.await_type("ack")
        self._descriptors_at_start = self._descriptors()

    def _serve(self, slot: int, family: int, member: tuple[str, int]) -> None:
        """Give the worker a virtual service and its listening socket; every third has a member that refuses, too."""
        listener = self._namespace.socket(family)
        listener.bind(("::1" if family == socket.AF_INET6 else "127.0.0.1", 0))
        listener.listen(64)
        listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        listener.setblocking(False)
        self._listeners.append(listener)
        members, slots = [Member(Endpoint(*member))], [2 * slot]
        if slot % 3 == 0:
            members.insert(0, Member(Endpoint(member[0], REFUSING_PORT)))
            slots.insert(0, 2 * slot + 1)
        service = VirtualService(f"lane{slot}", *listener.getsockname()[:2], Pool(tuple(members)), bulk=Bulk.SPLICE)
        self.supervisor.send(service_message(service, slot, slots, [1] * len(members), [False] * len(members), 1))
        listen = {"type": "listen", "listener": slot, "slot": slot, "accepting": True}
        self.supervisor.send({**listen, "position": 0, "entries_at": None}, [listener.fileno()])

    def leftovers(self) -> list[str]:
        """Return what the worker still holds when all conversations are over: descriptors, active counts, faults."""
        until_s = time.monotonic() + SETTLE_LIMIT_S
        while (found := self._held()) and time.monotonic() < until_s:
            time.sleep(0.02)
        while self.supervisor.read(0.001):
            pass
        return found + [str(message) for message in self.supervisor.heard if message["type"] == "fault"]

    def _held(self) -> list[str]:
        found = []
        if self._descriptors() != self._descriptors_at_start:
            found.append(f"{self._descriptors() - self._descriptors_at_start} descriptors more than at the start")
        for lane in self._lanes.lanes:
            active = self._counters.service_sums(lane.index, [_ROW])[counters.ACTIVE]
            for slot in (2 * lane.index, 2 * lane.index + 1):
                active += self._counters.member_sums(slot, [_ROW])[counters.ACTIVE]
            if active:
                found.append(f"lane {lane.index}: {active} active connections of it and its members")
        if held := self._counters.row_field(_ROW, counters.PENDING_BYTES):
            found.append(f"{held} pending bytes")
        return found

    def _descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self._process.pid}/fd"))

    def __enter__(self) -> WorkerRelay:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.supervisor.send({"type": "exit"})
        for listener in self._listeners:
            listener.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self._process.send_signal(signal.SIGKILL)
            self._process.wait()
        self._channel.close()
        self._counters.close()
