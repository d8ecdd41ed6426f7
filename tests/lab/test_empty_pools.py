"""A virtual service without any member, as a Service scaled to zero: it refuses, keeps its address, and says why."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from kit_lifecycle import hold_working, is_refused
from kit_udp import UdpClient, UdpServer
from lab_clients import fetch
from lab_engine import Engine
from lab_servers import PodServer, echo, http
from lab_wait import eventually
from lbd.cli.demo.lab import Lab

ALGORITHMS: dict[str, dict[str, Any]] = {
    "round_robin": {},
    "consistent_hash": {},
    "bounded": {"algorithm": "consistent_hash", "max_load_percent": 125.0},
    "least_connections": {},
    "random": {},
    "fastest_response": {},
    "persistent": {"algorithm": "round_robin", "persistent": True},
}
ECHO, UDP, UDP_PERSISTENT = 8000, 5300, 5301


@pytest.fixture
def vip(lab: Lab) -> str:
    """The VIP, which is there already: nobody announces it."""
    lab.se.ip(f"address add {lab.vip[4]}/32 dev front")
    return lab.vip[4]


@pytest.fixture
def servers(lab: Lab) -> Iterator[list[PodServer]]:
    """What runs in the Pods: HTTP and UDP in two of them, an echo in the third."""
    with (
        PodServer(lab.pods[0], http) as first,
        PodServer(lab.pods[1], http) as second,
        PodServer(lab.pods[2], echo, 81),
        UdpServer(lab.pods[0]),
        UdpServer(lab.pods[1]),
    ):
        yield [first, second]


def wanted(lab: Lab, vip: str, pods: int) -> list[dict[str, Any]]:
    """Return services named as a cluster's: one of each algorithm and two of UDP on that many Pods, and one on a Pod of
    its own."""

    def behind(port: int) -> list[tuple[str, int]]:
        return [(pod.address[4], port) for pod in lab.pods[:pods]]

    found = [
        {"name": f"default/{name}:80", "vip": vip, "port": 8001 + at, "algorithm": name, "members": behind(80), **own}
        for at, (name, own) in enumerate(ALGORITHMS.items())
    ]
    udp = {
        "vip": vip,
        "protocol": "udp",
        "members": behind(53),
        "idle_s": 1,
    }  # flows to the Pods that were go on so long
    found.append({"name": "default/dns:53/udp", "port": UDP, **udp})
    found.append({"name": "default/dns:54/udp", "port": UDP_PERSISTENT, "persistent": True, **udp})
    own_pod = [(lab.pods[2].address[4], 81)]
    return [*found, {"name": "default/echo:81", "vip": vip, "port": ECHO, "members": own_pod}]


def check_empty(lab: Lab, vip: str, status: dict[str, Any]) -> None:
    for at, name in enumerate(ALGORITHMS):
        assert is_refused(lab.client, vip, 8001 + at), name
        assert status[f"default/{name}:80"] == {"state": "no_member_up", "reason": "the pool has no member"}
    for port in (UDP, UDP_PERSISTENT):
        with UdpClient(lab.client, vip, port) as client:
            assert eventually(client.is_refused)


def test_a_pool_that_goes_from_nobody_to_somebody_and_back_refuses_or_serves_and_disturbs_no_other(
    lab: Lab, vip: str, servers: list[PodServer], form: str
) -> None:
    names = {pod.name for pod in lab.pods[:2]}
    with Engine(lab, form) as engine:
        status = engine.want(*wanted(lab, vip, 0))
        held = hold_working(lab.client, vip, 4, ECHO)
        check_empty(lab, vip, status)
        for _ in range(2):
            status = engine.want(*wanted(lab, vip, 2))
            assert {one["state"] for one in status.values()} == {"serving"}
            for at, name in enumerate(ALGORITHMS):
                assert fetch(lab.client, vip, 8001 + at) in names, name
            for port in (UDP, UDP_PERSISTENT):
                with UdpClient(lab.client, vip, port) as client:
                    assert client.ask_again()[0] in names
            check_empty(lab, vip, engine.want(*wanted(lab, vip, 0)))
        assert all(one.works() for one in held)
        for one in held:
            one.close()


def test_who_is_connected_when_the_last_member_goes_stays_connected(lab: Lab, vip: str, form: str) -> None:
    """Members that are removed finish what they have; that is the drain's business, not the pool's."""
    web = {"name": "default/web:80", "vip": vip, "port": 80}
    with PodServer(lab.pods[0], echo), Engine(lab, form) as engine:
        engine.want({**web, "members": [(lab.pods[0].address[4], 80)]})
        held = hold_working(lab.client, vip, 3)
        engine.want({**web, "members": []})
        assert is_refused(lab.client, vip)
        assert all(one.works() for one in held)
        for one in held:
            one.close()
