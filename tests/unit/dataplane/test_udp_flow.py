"""Flows of one worker on the loopback interface, batch by batch: what the lab can't time."""

from __future__ import annotations

import _socket
import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from kit_udp_worker import SEGMENT, SOL_UDP, UDP_GRO, Worker, received, send_burst
from lbd.balancing.round_robin import RoundRobin
from lbd.dataplane import counters
from lbd.dataplane.hot.lane import Lane
from lbd.dataplane.hot.networks import Networks
from lbd.dataplane.hot.service import Member


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as closing:
        yield closing


def test_the_datagram_whose_send_fails_goes_to_another_member(stack: ExitStack) -> None:
    worker = Worker(stack)
    client = worker.client()
    worker.servers[0].close()
    client.send(b"lost")  # its ICMP error comes back before the next one is sent on
    client.send(b"sent again")
    worker.turn()
    assert received(worker.servers[1]) == [b"sent again"]
    assert worker.failures == [(0, 0)]
    assert worker.count(counters.MOVED_FLOWS) == 1
    assert worker.count(counters.ACTIVE) == worker.count(counters.TOTAL) == 1


def test_where_no_member_is_left_the_flow_ends_and_counts_as_unserved(stack: ExitStack) -> None:
    worker = Worker(stack)
    for server in worker.servers:
        server.close()
    client = worker.client()
    for _ in range(3):
        client.send(b"?")
        worker.turn()
    assert worker.count(counters.UNSERVED) >= 1
    assert worker.count(counters.ACTIVE) == worker.reactor.sockets == len(worker.relay.udp_listeners(0)[0].flows)
    assert [member.active for member in worker.members] == [
        sum(flow.member is member for flow in worker.relay.udp_listeners(0)[0].flows.values())
        for member in worker.members
    ]


def test_a_large_pool_out_of_reach_does_not_hold_everybody_up(stack: ExitStack) -> None:
    worker = Worker(stack, members=1)
    tally = worker.members[0].tally
    count = 1000
    nowhere = [Member(slot, socket.AF_INET, "255.255.255.255", 53, tally) for slot in range(count)]  # connect: EACCES
    worker.service.set_pool(nowhere, RoundRobin([1] * count, 0), [0] * count, [0] * count, [])
    client = worker.client()
    for _ in range(3):
        client.send(b"?")
    worker.turn()
    assert worker.count(counters.UNSERVED) == 3
    errors = sum(worker.count(counters.ERRORS + kind) for kind in range(len(counters.ERROR_ORDER)))
    assert 3 < errors <= 3 * 32
    assert worker.reactor.sockets == tally.active == 0


def test_at_the_descriptor_limit_the_longest_idle_flow_makes_room(stack: ExitStack) -> None:
    worker = Worker(stack, members=1, socket_limit=3)
    clients = [worker.client() for _ in range(20)]
    for number, client in enumerate(clients):
        client.send(b"%d" % number)
    worker.turn()
    assert received(worker.servers[0]) == [b"%d" % number for number in range(20)]
    assert worker.reactor.sockets == worker.count(counters.ACTIVE) == 3
    assert worker.count(counters.EVICTED_FLOWS) == 17


def test_no_flow_makes_room_for_a_client_whom_no_member_would_serve(stack: ExitStack) -> None:
    worker = Worker(stack)
    worker.settings.max_flows = 1
    client = worker.client()
    client.send(b"1")
    worker.turn()
    worker.service.set_weights([0, 0], [False, False])  # both drain
    worker.client().send(b"?")
    client.send(b"2")
    worker.turn()
    assert received(worker.servers[0]) == [b"1", b"2"]
    assert worker.count(counters.EVICTED_FLOWS) == 0
    assert worker.count(counters.UNSERVED) == 1


def test_who_is_in_no_source_range_gets_no_flow(stack: ExitStack) -> None:
    worker = Worker(stack)
    worker.settings.source_ranges = Networks(["10.0.0.0/8"])
    worker.client().send(b"?")
    worker.turn()
    assert worker.count(counters.REJECTED + counters.REJECTION_ORDER.index("source_ranges")) == 1
    assert worker.reactor.sockets == worker.count(counters.TOTAL) == 0


def test_what_waits_is_served_before_a_service_refuses_and_then_its_flows_alone(stack: ExitStack) -> None:
    worker = Worker(stack, members=1)
    early, late = worker.client(), worker.client()
    early.send(b"early")
    assert worker.relay.refuse(0) == 1
    late.send(b"late")
    early.send(b"early again")
    worker.turn()
    assert received(worker.servers[0]) == [b"early", b"early again"]
    assert worker.vacant == []
    worker.service.set_weights([0], [True])
    worker.relay.weights_changed(0)
    assert worker.vacant == [0]
    assert worker.reactor.sockets == worker.count(counters.ACTIVE) == 0
    worker.relay.set_accepting(0, True)
    worker.service.set_weights([1], [False])
    late.send(b"late")
    worker.turn()
    assert received(worker.servers[0]) == [b"late"]


def test_a_flow_moves_away_from_a_member_that_is_down_but_not_from_one_that_only_gets_nothing_new(
    stack: ExitStack,
) -> None:
    worker = Worker(stack)
    client = worker.client()
    client.send(b"1")
    worker.turn()
    worker.service.set_weights([0, 1], [False, False])
    client.send(b"2")
    worker.turn()
    assert received(worker.servers[0]) == [b"1", b"2"]
    worker.service.set_weights([0, 1], [True, False])
    client.send(b"3")
    worker.turn()
    assert received(worker.servers[1]) == [b"3"]
    worker.service.set_weights([0, 0], [True, True])
    client.send(b"4")
    worker.turn()
    assert received(worker.servers[1]) == [b"4"], "with nobody else to serve it, it stays"


def test_a_flow_leaves_a_removed_member_once_it_answers_no_more(stack: ExitStack) -> None:
    worker = Worker(stack)
    client = worker.client()
    client.send(b"1")
    worker.turn()
    (flow,) = worker.relay.udp_listeners(0)[0].flows.values()
    worker.service.set_pool(worker.members[1:], RoundRobin([1], 0), [0], [0], [])
    client.send(b"2")
    worker.turn()
    flow.asked_ms -= 4000
    _, source = worker.servers[0].recvfrom(10)
    worker.servers[0].sendto(b"answer", source)
    worker.turn()
    client.send(b"3")
    worker.turn()
    flow.asked_ms -= 4000
    flow.used_ms -= 20000
    client.send(b"4")  # after a pause, in which nobody asked
    worker.turn()
    assert received(worker.servers[0]) == [b"2", b"3", b"4"]
    flow.asked_ms -= 4000
    client.send(b"5")
    worker.turn()
    assert received(worker.servers[1]) == [b"5"]
    assert worker.count(counters.MOVED_FLOWS) == 1
    assert [member.active for member in worker.members] == [0, 1]


def test_a_flow_to_a_member_that_was_removed_and_is_silent_ends_when_nobody_else_is_left(stack: ExitStack) -> None:
    """Else a pool that was scaled to nobody would keep its socket, and clients would wait instead of being refused."""
    worker = Worker(stack)
    client = worker.client()
    client.send(b"1")
    worker.turn()
    (flow,) = worker.relay.udp_listeners(0)[0].flows.values()
    worker.service.set_pool([], RoundRobin([], 0), [], [], [])
    worker.relay.refuse(0)
    client.send(b"2")
    worker.turn()
    assert worker.vacant == [], "a member that is on its way out may still answer"
    flow.asked_ms -= 4000
    client.send(b"3")
    worker.turn()
    assert received(worker.servers[0]) + received(worker.servers[1]) == [b"1", b"2"]
    assert worker.vacant == [0]
    assert worker.service.active == 0
    assert [member.active for member in worker.members] == [0, 0]


def test_reset_and_removal_end_flows_and_leave_nothing_open(stack: ExitStack) -> None:
    worker = Worker(stack)
    worker.clients_who_asked(4)
    done: list[int] = []
    worker.relay.reset_connections(0, 1, done.append)
    worker.reactor.turn()
    assert done == [2]
    assert [member.active for member in worker.members] == [2, 0]
    worker.relay.remove(0)
    assert worker.reactor.sockets == worker.count(counters.ACTIVE) == 0
    assert worker.relay.listeners == {}


def test_answers_that_come_in_bursts_all_arrive_in_order(stack: ExitStack) -> None:
    worker = Worker(stack, members=1)
    client = worker.client()
    for burst in (1, 1, 7, 100, 1, 3, 1, 1, 1, 1, 1, 9):
        client.send(b"?")
        worker.turn()
        _, flow = worker.servers[0].recvfrom(100)
        answers = [b"%d" % number for number in range(burst)]
        for answer in answers:
            worker.servers[0].sendto(answer, flow)
        worker.turn()
        assert received(client) == answers


def test_merging_begins_though_many_single_datagrams_wait(stack: ExitStack) -> None:
    worker = Worker(stack, members=1)
    client = worker.client()
    worker.relay.udp_listeners(0)[0].sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    worker.servers[0].setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    for _ in range(4):
        send_burst(client, 40)
    worker.turn()
    assert [len(data) for data in received(worker.servers[0])] == [SEGMENT] * 160
    worker.servers[0].setsockopt(SOL_UDP, UDP_GRO, 1)
    send_burst(client, 40)
    worker.turn()
    assert [len(data) for data in received(worker.servers[0])] == [40 * SEGMENT], "it was moved in one piece"


def test_merging_begins_in_a_bulk_flow_with_small_datagrams_between(stack: ExitStack) -> None:
    worker = Worker(stack, members=1)
    client = worker.client()
    for _ in range(12):
        send_burst(client, 5)
        client.send(b"small")
        worker.turn()
    assert len(received(worker.servers[0])) == 12 * 6
    worker.servers[0].setsockopt(SOL_UDP, UDP_GRO, 1)
    send_burst(client, 40)
    worker.turn()
    assert [len(data) for data in received(worker.servers[0])] == [40 * SEGMENT]


def test_boundaries_stay_when_a_merged_piece_waits_behind_many_small_datagrams(stack: ExitStack) -> None:
    worker = Worker(stack, members=1)
    client = worker.client()
    for _ in range(8):
        send_burst(client, 40)
        worker.turn()
        received(worker.servers[0])
    for number in range(100):
        client.send(bytes(1 + number % 7 * 100))
    send_burst(client, 10)
    client.send(b"end")
    worker.turn()
    sizes = [1 + number % 7 * 100 for number in range(100)] + [SEGMENT] * 10 + [3]
    assert [len(data) for data in received(worker.servers[0])] == sizes


@pytest.mark.parametrize("stood_still", [False, True], ids=["successor", "after a standstill"])
def test_boundaries_stay_when_somebody_else_has_left_a_socket_merging(stack: ExitStack, stood_still: bool) -> None:
    worker = Worker(stack, members=1)
    client = worker.client()
    client.send(b"single")
    worker.turn()
    listener = worker.relay.udp_listeners(0)[0]
    sock = _socket.socket(fileno=os.dup(listener.descriptor))
    if stood_still:
        listener.taken_ms -= 500
    else:
        worker.relay.abandon(1)
    sock.setsockopt(SOL_UDP, UDP_GRO, 1)  # as an heir or a former owner does
    send_burst(client, 10)
    if stood_still:
        sock.close()
    else:
        worker.relay.listen(1, 0, Lane(None, None), sock, True)
    worker.turn()
    assert [len(data) for data in received(worker.servers[0])] == [6] + [SEGMENT] * 10
