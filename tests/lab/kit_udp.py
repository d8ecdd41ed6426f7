"""What the UDP tests share: servers in Pods, clients, and one configuration for many claims."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Callable, Sequence
from types import TracebackType
from typing import Any, Self

from kit_lifecycle import members, service
from kit_relay import steady_config
from lab_wait import eventually
from lbd.cli.demo.lab import Lab, Pod
from lbd.cli.demo.namespace import Namespace

SOL_UDP, UDP_SEGMENT, UDP_GRO = 17, 103, 104
PORT = 53
FLOWS, ONE_ANSWER, SPREAD, BRIEF, SMALL, SINGLE, CROSS, INTRODUCED = 5301, 5302, 5303, 5304, 5305, 5306, 5307, 5308
"""The ports of `udp_config`'s services."""
BRIEF_S = 1
SMALL_FLOWS = 16

Answer = Callable[[bytes, str], Sequence[bytes]]


def named(data: bytes, name: str) -> Sequence[bytes]:
    """Answer with the Pod's name and what was asked."""
    return [name.encode() + b" " + data]


def echoed(data: bytes, name: str) -> Sequence[bytes]:
    """Answer with what was asked."""
    return [data]


def _unanswered(data: bytes, name: str) -> Sequence[bytes]:
    return []


class UdpServer:
    """Answers datagrams on a Pod's addresses of both families. `received` are (what, the port it came from), in order.

    `stop()` leaves the port closed (ICMP port unreachable), `start()` opens it again.
    """

    def __init__(self, pod: Pod, answer: Answer = named, port: int = PORT) -> None:
        self.pod = pod
        self.received: list[tuple[bytes, int]] = []
        self._answer = answer
        self._port = port
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._stopping = False

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    def start(self) -> Self:
        """Open the port and answer."""
        self._stopping = False
        for family, address in ((socket.AF_INET, self.pod.address[4]), (socket.AF_INET6, self.pod.address[6])):
            sock = self.pod.call(socket.socket, family, socket.SOCK_DGRAM)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
            sock.bind((address, self._port))
            sock.settimeout(0.05)
            thread = threading.Thread(target=self._serve, args=(sock,), daemon=True)
            thread.start()
            self._sockets.append(sock)
            self._threads.append(thread)
        return self

    def stop(self) -> None:
        """Close the port."""
        self._stopping = True
        for thread in self._threads:
            thread.join()
        for sock in self._sockets:
            sock.close()
        self._threads.clear()
        self._sockets.clear()

    def black_hole(self) -> None:
        """Answer nothing from now on, with the port open."""
        self._answer = _unanswered

    def _serve(self, sock: socket.socket) -> None:
        while not self._stopping:
            try:
                data, source = sock.recvfrom(65536)
                self.received.append((data, source[1]))
                for answer in self._answer(data, self.pod.name):
                    sock.sendto(answer, source)
            except OSError:
                continue  # nothing came, or the one who asked has gone


class UdpClient:
    """A client's socket, connected to a service: it takes answers that come from there alone."""

    def __init__(self, namespace: Namespace, address: str, port: int, timeout_s: float = 3.0) -> None:
        family = socket.AF_INET6 if ":" in address else socket.AF_INET
        self.sock = namespace.call(socket.socket, family, socket.SOCK_DGRAM)
        self.sock.settimeout(timeout_s)
        self.sock.connect((address, port))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.sock.close()

    def send(self, data: bytes) -> None:
        """Send one datagram."""
        self.sock.send(data)

    def receive(self) -> bytes:
        """Return the next datagram; TimeoutError if none comes."""
        return self.sock.recv(65536)

    def ask(self, question: bytes = b"who?") -> str:
        """Return the name of the Pod that answers."""
        self.send(question)
        name, _, asked = self.receive().partition(b" ")
        assert asked == question, (asked, question)
        return name.decode()

    def ask_again(self, question: bytes = b"who?", timeout_s: float = 10.0) -> tuple[str, int]:
        """Ask until somebody answers; return who, and how many questions were lost before."""
        self.sock.settimeout(0.25)
        asked = 0

        def answered() -> str | None:
            nonlocal asked
            asked += 1
            try:
                return self.ask(question)
            except OSError:
                return None

        name = eventually(answered, timeout_s, "an answer")
        assert name is not None
        return name, asked - 1

    def is_refused(self) -> bool:
        """Tell whether nobody listens there: the first datagram brings the error, a later call tells it."""
        self.sock.settimeout(0.1)
        try:
            self.send(b"anybody?")
            self.receive()
        except ConnectionRefusedError:
            return True
        except TimeoutError:
            return False
        return False


def send_merged(sock: socket.socket, data: bytes, segment: int) -> None:
    """Send datagrams of one size (the last may be shorter) in one call, unsegmented over a virtual cable."""
    sock.sendmsg([data], [(SOL_UDP, UDP_SEGMENT, struct.pack("=H", segment))])


def udp_service(name: str, vip: str, behind: Sequence[dict[str, Any]], port: int, **more: Any) -> dict[str, Any]:
    """Return a UDP service as `service` does; `udp`, `proxy_protocol` and `source_ranges` are its own keys too."""
    own = {key: more.pop(key) for key in ("udp", "proxy_protocol", "source_ranges") if key in more}
    return {**service(name, vip, behind, port, **more), "protocol": "udp", **own}


def udp_config(lab: Lab) -> dict[str, Any]:
    """Return services on the VIP of each family, named by their port's constant and the family."""
    services = []
    for family, vip in lab.vip.items():
        everybody = members(lab.pods, family, PORT)
        for name, port, behind, more in (
            ("flows", FLOWS, everybody, {}),
            ("one_answer", ONE_ANSWER, everybody[:1], {"udp": {"responses": 1}}),
            ("spread", SPREAD, everybody, {"udp": {"per_packet": True}}),
            ("brief", BRIEF, everybody[:1], {"timeouts": {"idle": f"{BRIEF_S}s"}}),
            ("small", SMALL, everybody[:1], {"udp": {"max_flows": SMALL_FLOWS}}),
            ("single", SINGLE, everybody[:1], {}),
            ("cross", CROSS, members(lab.pods[:1], 10 - family, PORT), {}),
            ("introduced", INTRODUCED, everybody[:1], {"proxy_protocol": "v2"}),
        ):
            services.append(udp_service(f"{name}{family}", vip, behind, port, **more))
    return steady_config(*services)
