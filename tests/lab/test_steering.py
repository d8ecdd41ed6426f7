"""What the kernel does with the program and the order of a group, with the supervisor's own sockets."""

from __future__ import annotations

import itertools
import socket
from collections.abc import Callable
from contextlib import ExitStack

import pytest

from lab_clients import connect
from lbd.cli.demo.lab import Lab
from lbd.cli.demo.namespace import Namespace
from lbd.model.address import Endpoint
from lbd.model.desired import Member, Persistence, Pool, VirtualService
from lbd.supervisor.lanes import Lanes
from lbd.supervisor.listeners import ListeningSocket
from lbd.supervisor.steering import Group

HERE = {4: "127.0.0.1", 6: "::1"}
CLIENTS = {4: [f"127.0.7.{host}" for host in range(1, 31)], 6: [f"fd00:7::{host:x}" for host in range(1, 31)]}
MEMBERS = (Member(Endpoint("10.0.0.1", 80)),)
LANES = 3


class Bench:
    """Services of one address and port, each with LANES sockets, in a namespace."""

    def __init__(self, namespace: Namespace, family: int, stack: ExitStack) -> None:
        self.namespace = namespace
        self.family = family
        self.group = Group()
        self._stack = stack
        self._identities = itertools.count(1)
        if family == 6:
            namespace.set_sysctl("net/ipv6/ip_nonlocal_bind", 1)
            namespace.ip("route add local fd00:7::/64 dev lo")

    def service(self, persistence: Persistence | None) -> tuple[list[ListeningSocket], Lanes]:
        listen = Endpoint(HERE[self.family], 8080)
        sockets = self.namespace.call(
            lambda: [ListeningSocket(next(self._identities), listen, self.group) for _ in range(LANES)]
        )
        for sock in sockets:
            self._stack.callback(sock.close)
        lanes = Lanes(sockets, self.group, 1)
        lanes.steer(configured(self.family, persistence))
        lanes.listen()
        return sockets, lanes

    def lanes_of_clients(self, sockets: list[ListeningSocket]) -> list[int]:
        """Return for each client which of the sockets gets its connection, each from two ports."""
        found = []
        for client in CLIENTS[self.family]:
            first, second = (self.lane_of(client, sockets) for _ in range(2))
            assert first == second, client
            found.append(first)
        return found

    def lane_of(self, client: str, sockets: list[ListeningSocket]) -> int:
        with connect(self.namespace, HERE[self.family], 8080, source=client) as conn:
            for lane, sock in enumerate(sockets):
                with socket.socket(fileno=socket.dup(sock.descriptor)) as copy:
                    try:
                        accepted, address = copy.accept()
                    except BlockingIOError:
                        continue
                    accepted.close()
                    assert address[0] == client
                    assert address[1] == conn.getsockname()[1]
                    return lane
        raise AssertionError(f"nobody got the connection of {client}")


def configured(family: int, persistence: Persistence | None) -> VirtualService:
    return VirtualService("web", HERE[family], 8080, Pool(MEMBERS, persistence=persistence))


def refuse_all(sockets: list[ListeningSocket], lanes: Lanes) -> None:
    for sock in sockets:
        sock.refuse()
    lanes.listen()


def refuse_backwards(sockets: list[ListeningSocket], lanes: Lanes) -> None:
    for sock in reversed(sockets):
        sock.refuse()
    lanes.listen()


def refuse_one_by_one(sockets: list[ListeningSocket], lanes: Lanes) -> None:
    for sock in sockets:
        sock.refuse()
        lanes.listen()


@pytest.mark.parametrize("restart", [refuse_all, refuse_backwards, refuse_one_by_one])
def test_a_client_keeps_its_socket_when_all_stop_and_listen_again(
    lab: Lab, family: int, restart: Callable[[list[ListeningSocket], Lanes], None]
) -> None:
    with ExitStack() as stack:
        bench = Bench(lab.client, family, stack)
        sockets, lanes = bench.service(Persistence())
        before = bench.lanes_of_clients(sockets)
        assert set(before) == set(range(LANES))
        restart(sockets, lanes)
        assert bench.lanes_of_clients(sockets) == before


def test_a_client_keeps_its_socket_when_a_former_service_of_the_address_goes(lab: Lab, family: int) -> None:
    with ExitStack() as stack:
        bench = Bench(lab.client, family, stack)
        former, _ = bench.service(None)
        alone = bench.service(Persistence())
        for sock in former:
            sock.drop_new()
        before = bench.lanes_of_clients(alone[0])
        assert set(before) == set(range(LANES))
        for sock in former:
            sock.close()
        alone[1].restore()
        assert bench.lanes_of_clients(alone[0]) == before


def test_a_service_that_needs_no_steering_any_more_is_left_to_the_kernels_hash(lab: Lab) -> None:
    with ExitStack() as stack:
        bench = Bench(lab.client, 4, stack)
        sockets, lanes = bench.service(Persistence(ipv4_prefix=0))
        assert len(set(bench.lanes_of_clients(sockets))) == 1
        lanes.steer(configured(4, None))
        assert {bench.lane_of(CLIENTS[4][0], sockets) for _ in range(60)} == set(range(LANES))
        lanes.steer(configured(4, Persistence(ipv4_prefix=0)))
        assert len(set(bench.lanes_of_clients(sockets))) == 1


def test_a_new_service_is_not_steered_to_the_sockets_of_a_former_one(lab: Lab) -> None:
    with ExitStack() as stack:
        bench = Bench(lab.client, 4, stack)
        former, _ = bench.service(Persistence(ipv4_prefix=0))
        for sock in former:
            sock.drop_new()
        bench.service(None)
        with pytest.raises(OSError, match="No such file"):  # nothing to detach: `listen` has done it
            former[0]._sock.setsockopt(socket.SOL_SOCKET, 68, 0)
