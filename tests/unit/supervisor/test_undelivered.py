"""What the kernel still delivers after close(2), and that a VIP waits for it."""

from __future__ import annotations

import dataclasses
import socket

import pytest

from lbd.model.address import Endpoint
from lbd.model.desired import DesiredState, ServiceEngine
from lbd.supervisor.plan import Actual, DrainView, Remove, plan
from lbd.supervisor.seams import Handle
from lbd.supervisor.undelivered import undelivered


@pytest.mark.parametrize("address", ["127.0.0.1", "::1"])
def test_a_closed_connection_is_undelivered_until_the_other_end_has_taken_everything(address: str) -> None:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    with socket.socket(family) as listener, socket.socket(family) as client:
        listener.bind((address, 0))
        listener.listen()
        here = Endpoint(address, listener.getsockname()[1])
        client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        client.connect(listener.getsockname()[:2])
        client.settimeout(5.0)
        server, _ = listener.accept()
        server.setblocking(False)
        sent = 0
        try:
            while True:
                sent += server.send(bytes(65536))
        except BlockingIOError:
            assert here not in undelivered()  # it is open: that is the counters' business
        server.close()
        assert here in undelivered()
        while sent:
            sent -= len(client.recv(1 << 20))
        assert client.recv(1) == b""
        assert here not in undelivered()


def test_a_service_is_removed_when_all_was_delivered_or_the_drain_deadline_has_passed() -> None:
    handle = Handle("web", Endpoint("10.0.0.1", 80), 1)
    view = DrainView(handle, 100.0, stopped_accepting=True, active_connections=0, reset_sent=False, undelivered=True)
    wanted = DesiredState(1, ServiceEngine("se", 2, "eth0", drain_timeout_s=60.0))

    def planned(view: DrainView, now_s: float) -> bool:
        return Remove(handle) in plan(wanted, Actual(draining=(view,)), now_s)

    assert not planned(view, 159.0)
    assert planned(dataclasses.replace(view, undelivered=False), 159.0)
    assert planned(view, 160.0)
