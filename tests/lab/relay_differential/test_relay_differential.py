"""Both ends of a conversation see through the relay what they see without it."""

from __future__ import annotations

import os
import socket
from collections import Counter
from collections.abc import Callable
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings

from lab_wait import eventually
from lbd.cli.demo.lab import Lab

from .lanes import LIMIT_S, Lanes, Place, Verdict, answer_every_stray_reset
from .relays import REFUSING_PORT, SETTLE_LIMIT_S
from .script import HALF_CLOSE_ORDERS, Kind, Script, batches

LANES = 2 * len(Kind)
"""Each kind of end once over IPv4 and once over IPv6, all at the same time."""
BATCHES = int(os.environ.get("LBD_DIFFERENTIAL_BATCHES", "10"))
"""Ten make 400 scripts in some ten seconds; more of them look for rarer faults."""
AT_LEAST_EACH = 20
AT_LEAST_IN_ALL = 300


def converse(lanes: Lanes, examples: int, limit_s: float = LIMIT_S, *, same_every_time: bool = False) -> list[Verdict]:
    """Run `examples` generated batches, none after one in which a script failed; return every verdict.

    Nothing is raised inside of what hypothesis calls: it would shrink a whole batch where `Lanes.reduce` reduces the
    one script that fails, and a race does not fail twice.
    """
    verdicts: list[Verdict] = []

    @settings(
        max_examples=examples,
        deadline=None,
        phases=[Phase.generate],
        database=None,
        derandomize=same_every_time,
        suppress_health_check=list(HealthCheck),
    )
    @given(batches(LANES))
    def run(scripts: tuple[Script, ...]) -> None:
        if not any(verdict.relay_faults or verdict.harness_faults for verdict in verdicts):
            verdicts.extend(lanes.judge(scripts, limit_s))

    run()
    wrong_rules = [verdict for verdict in verdicts if verdict.harness_faults]
    assert not wrong_rules, "a direct connection broke the rules:\n" + "\n".join(map(str, wrong_rules))
    return verdicts


def places(lab: Lab) -> tuple[Place, ...]:
    """Return IPv4's places in the lab, then IPv6's: members in the Pods, clients beyond the SE.

    There is no way from the client to a Pod but through the SE, so the direct connections start in the SE's namespace.
    """
    return tuple(
        Place(pod.address[family], pod.socket, lab.client.socket, lab.se.socket)
        for family in (4, 6)
        for pod in lab.pods
    )


def configuration(lab: Lab, lanes: Lanes) -> dict[str, Any]:
    """Return a configuration with a virtual service for each lane. Every third one has a member that refuses, too, and
    every other one splices bulk.

    Resets before the first byte count as failed connects: so a pool serves on with all members down.
    """
    services = []
    for lane in lanes.lanes:
        lane.vip = (lab.vip[6 if lane.family == socket.AF_INET6 else 4], lane.member[1])
        members = [{"address": lane.member[0], "port": lane.member[1]}]
        if lane.index % 3 == 0:
            members.insert(0, {"address": lane.member[0], "port": REFUSING_PORT})
        pool = {"members": members, "health_monitors": ["system-ping"], "on_all_down": "serve_all"}
        bulk = "copy" if lane.index % 2 else "splice"
        services.append(
            {"name": f"lane{lane.index}", "vip": lane.vip[0], "port": lane.vip[1], "pool": pool, "bulk": bulk}
        )
    return {"virtual_services": services}


def check(lanes: Lanes, verdicts: list[Verdict]) -> None:
    """Fail with the scripts that a relay spoiled and the shortest form of the first, or if there were too few."""
    failed = [verdict for verdict in verdicts if verdict.relay_faults]
    assert not failed, "\n".join(map(str, [*failed, "reduced:", lanes.reduce(failed[0])]))
    count = Counter(verdict.script.kind for verdict in verdicts)
    assert count.total() >= AT_LEAST_IN_ALL
    assert all(count[kind] >= AT_LEAST_EACH for kind in Kind), count
    assert all(count[order] >= AT_LEAST_EACH for order in HALF_CLOSE_ORDERS), count


@pytest.mark.timeout(120 + 10 * BATCHES)
def test_conversations_through_lbd_end_as_direct_ones_do(lab: Lab, daemon: Callable[..., Any], form: str) -> None:
    """At least 300 scripts, each kind of end and each half-close order at least 20 times, over IPv4 and IPv6."""
    for namespace in lab.namespaces:
        answer_every_stray_reset(namespace)
    with Lanes(LANES, places(lab)) as lanes:
        lbd = daemon(configuration(lab, lanes), form=form)
        before = lbd.wait_serving(20.0)
        assert before["form"] == form
        check(lanes, converse(lanes, BATCHES))

        def nothing_is_left() -> bool:
            now = lbd.status()
            active = sum(service["traffic"]["active_connections"] for service in now["virtual_services"])
            used = [worker["descriptors_used"] for worker in now["workers"]]
            return active == 0 and used == [worker["descriptors_used"] for worker in before["workers"]]

        eventually(nothing_is_left, timeout_s=SETTLE_LIMIT_S)
