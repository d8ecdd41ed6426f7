"""Many datagrams in one system call: whatever happens to one of them, the others go where they belong."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import ExitStack

import pytest

from kit_forbidden import said_where_forbidden
from kit_udp_worker import LOOPBACK, SEGMENT, Worker, received, send_burst
from lbd.dataplane.hot.client_log import ClientLog, Journal
from lbd.dataplane.hot.messages import SLOTS, Messages, require_calls

FAMILIES = {"ipv4": socket.AF_INET, "ipv6": socket.AF_INET6}


@pytest.fixture
def stack() -> Iterator[ExitStack]:
    with ExitStack() as closing:
        yield closing


def answer_all(worker: Worker, prefix: bytes = b"re:") -> int:
    """Have every member answer what it was asked, to whom it was asked by; return how many they were."""
    count = 0
    for server in worker.servers:
        try:
            while True:
                question, asker = server.recvfrom(65536)
                server.sendto(prefix + question, asker)
                count += 1
        except BlockingIOError:
            continue
    return count


@pytest.mark.parametrize("family", FAMILIES.values(), ids=FAMILIES.keys())
def test_each_client_of_a_large_batch_gets_its_own_answer(stack: ExitStack, family: socket.AddressFamily) -> None:
    worker = Worker(stack, family=family)
    clients = [worker.client() for _ in range(3 * SLOTS + 1)]
    for number, client in enumerate(clients):
        client.send(b"%d" % number)
    worker.turn()
    assert answer_all(worker) == len(clients)
    worker.turn()
    answers = [b"re:%d" % number for number in range(len(clients))]
    assert [received(client) for client in clients] == [[answer] for answer in answers]
    assert worker.sent() == (len(answers), sum(map(len, answers)))


def test_services_of_both_families_share_a_batch(stack: ExitStack) -> None:
    """The kernel notes the length of each sender's address where it was told how much room there is."""
    four = Worker(stack)
    six = Worker(stack, family=socket.AF_INET6, beside=four)
    clients = [worker.client() for _ in range(5) for worker in (four, six)]
    for round_number in range(3):
        for number, client in enumerate(clients):
            client.send(b"%d of %d" % (number, round_number))
        four.turn()
        assert answer_all(four) == answer_all(six) == 5
        four.turn()
        for number, client in enumerate(clients):
            assert received(client) == [b"re:%d of %d" % (number, round_number)]
    assert four.sent()[0] == six.sent()[0] == 15
    hosts = [flow.client[0] for listener in four.relay.udp_listeners(-1) for flow in listener.flows.values()]
    assert sorted(set(hosts)) == sorted(LOOPBACK.values())


def test_datagrams_of_every_size_keep_their_content(stack: ExitStack) -> None:
    worker = Worker(stack, members=1)
    for sock in (worker.servers[0], worker.relay.udp_listeners(0)[0].sock):
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    client = worker.client()
    for size in (0, 1, 999, 2047, 2048, 2049, 9000, 65000, 65504, 0):
        content = os.urandom(size)
        client.send(content)
        worker.turn()
        assert answer_all(worker, b"") == 1
        worker.turn()
        assert received(client) == [content]


def test_an_answer_that_cannot_be_sent_takes_no_other_with_it_and_is_not_counted(stack: ExitStack) -> None:
    worker = Worker(stack, members=1)
    clients = worker.clients_who_asked(5)
    for flow in worker.relay.udp_listeners(0)[0].flows.values():
        if flow.client == clients[2].getsockname():
            flow.sender = flow.sender[:2] + bytes(2) + flow.sender[4:]  # port 0: EINVAL
    assert answer_all(worker) == 5
    worker.turn()
    assert [received(client) for client in clients] == [[b"re:?"]] * 2 + [[]] + [[b"re:?"]] * 2
    assert worker.sent() == (4, 4 * len(b"re:?"))


def test_what_goes_wrong_with_one_datagram_is_reported_and_the_others_are_forwarded(stack: ExitStack) -> None:
    worker = Worker(stack, members=1)
    clients = worker.clients_who_asked(3)
    received(worker.servers[0])
    flows = worker.relay.udp_listeners(0)[0].flows
    (key,) = [key for key, flow in flows.items() if flow.client == clients[1].getsockname()]
    broken = flows[key]
    flows[key] = "no flow"  # type: ignore[assignment]  # should not happen, as all that is caught there
    for number, client in enumerate(clients):
        client.send(b"%d" % number)
    while worker.reactor.on_readable(0):
        pass
    assert received(worker.servers[0]) == [b"0", b"2"]
    assert len(worker.faults) == 1
    flows[key] = broken


def test_answers_leave_though_their_socket_is_given_up_in_the_same_batch(stack: ExitStack) -> None:
    worker = Worker(stack, members=1)
    early, late = worker.clients_who_asked(2)
    assert answer_all(worker) == 2

    listener = worker.relay.udp_listeners(0)[0]
    for flow in list(listener.flows.values()):
        flow.on_event(1)
    assert received(early) + received(late) == [], "they wait for the end of the batch"
    worker.relay.abandon(1)
    assert received(early) == received(late) == [b"re:?"]
    worker.reactor.end_turn()
    assert worker.sent() == (2, 8)


def test_a_merged_answer_comes_behind_the_single_ones_before_it(stack: ExitStack) -> None:
    worker = Worker(stack, members=1)
    client = worker.client()
    client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4 << 20)
    client.send(b"?")
    worker.turn()
    server = worker.servers[0]
    _, flow = server.recvfrom(10)
    server.connect(flow)
    for _ in range(2):  # makes the flow merge
        send_burst(server, 40)
        worker.turn()
    received(client)
    (reading,) = worker.relay.udp_listeners(0)[0].flows.values()
    reading.greed = 4  # reads all of it in one batch
    server.send(b"before")
    send_burst(server, 10)
    server.send(b"after")
    worker.turn()
    assert [len(answer) for answer in received(client)] == [6] + [SEGMENT] * 10 + [5]


def test_memory_of_messages_is_not_shared_with_a_forked_process() -> None:
    messages = Messages(2, 8)
    messages.views[1][:4] = b"mine"
    messages.address_to(1, 4, b"name")
    pid = os.fork()
    if pid == 0:
        messages.views[1][:4] = b"your"
        messages.address_to(1, 3, b"eman")
        os._exit(0)
    os.waitpid(pid, 0)
    assert messages.copy(1, 4) == b"mine"
    assert messages.name(1) == b"name".ljust(8, b"\0")
    assert messages.addressed_size(1) == 4


def test_a_logged_flow_counts_its_own_answers_alone(stack: ExitStack) -> None:
    worker = Worker(stack, members=1)
    journal = Journal()
    worker.settings.responses = 1
    plain = worker.client()
    plain.send(b"not logged")
    worker.turn()
    worker.service.log = ClientLog(journal, "dns", "udp", worker.address)
    logged = [worker.client() for _ in range(3)]
    for number, client in enumerate(logged):
        client.send(b"x" * number)
    worker.turn()
    assert answer_all(worker) == 4
    worker.turn()
    sizes = {entry[3]: entry[7] for entry in journal.entries}
    assert sizes == {client.getsockname(): len(b"re:") + number for number, client in enumerate(logged)}
    assert worker.sent() == (4, len(b"re:not logged") + 3 * len(b"re:") + 3)


def test_answers_do_not_wait_for_all_that_happens_in_their_batch(stack: ExitStack) -> None:
    worker = Worker(stack)
    clients = worker.clients_who_asked(40)
    unlucky = clients[-1].getsockname()
    (flow,) = [flow for flow in worker.relay.udp_listeners(0)[0].flows.values() if flow.client == unlucky]
    assert flow.port is not None
    server = next(one for one in worker.servers if one.getsockname() == flow.port.sock.getpeername())
    answered = answer_all(worker)
    received_before: list[int] = []
    worker.on_failure = lambda: received_before.append(sum(len(received(client)) for client in clients))
    server.close()
    flow.port.sock.recv(100)  # the unlucky one's answer is lost, so that the refusal is the last event of the batch
    flow.port.sock.send(b"x")
    worker.turn()
    assert answered == 40
    assert received_before == [32]
    assert sum(len(received(client)) for client in clients) == 40 - 1 - 32


@pytest.mark.parametrize("call", ["recvmmsg", "sendmmsg"])
def test_a_system_that_forbids_the_calls_is_told_of_at_once(call: str) -> None:
    require_calls()
    said = said_where_forbidden(call, require_calls)
    assert said == f"[Errno 1] Operation not permitted: UDP services need {call}(2)"
