"""What strangers and accidents do to a service, and that the others don't notice."""

from __future__ import annotations

import select
import time

import pytest

from kit_faults import CrowdServer, RoundTrips, crowd, crowd_process, flood_with_syns, reset_all
from kit_lifecycle import config, members, peek, service, slowness
from kit_relay import steady_config
from lab_clients import OK, Load, fetch_many
from lab_daemon import DaemonFactory, descriptors
from lab_servers import PodServer, echo, http
from lab_wait import eventually
from lbd.cli.demo.lab import Lab

CYCLES, AT_ONCE = 10_000, 50
IDLE_CONNECTIONS = 10_000
STALL_LIMIT_S = 0.1


def test_10000_clients_that_reset_while_reading_is_paused_leave_no_descriptor(lab: Lab, daemon: DaemonFactory) -> None:
    with CrowdServer(lab.pods[0], greeting=bytes(1 << 20)):
        lbd = daemon(steady_config(service("web", lab.vip[4], members(lab.pods[:1], 4))))
        workers = lbd.wait_serving().worker_pids
        before = {pid: descriptors(pid) for pid in workers}
        held_bytes = 0
        for batch in range(CYCLES // AT_ONCE):
            opened = crowd(lab.client, lab.vip[4], 80, AT_ONCE, receive_buffer=2048)
            for conn in opened:
                assert select.select([conn], [], [], 20.0)[0], "nothing came"
            if batch % 40 == 0:
                held_bytes = max(held_bytes, sum(worker["held_bytes"] for worker in peek(lbd)["workers"]))
            reset_all(opened)
        assert held_bytes > 0, "no reading was paused: nothing was tried"

        def everything_is_gone() -> bool:
            status = peek(lbd)
            assert status.service("web")["traffic"]["active_connections"] == 0
            assert not any(worker["held_bytes"] for worker in status["workers"])
            assert {pid: descriptors(pid) for pid in workers} == before
            return True

        eventually(everything_is_gone, 15.0)
        assert peek(lbd).service("web")["traffic"]["connections_total"] == CYCLES
        assert peek(lbd).worker_pids == workers


def test_idle_opens_and_a_syn_flood_leave_established_and_new_connections_alone(
    lab: Lab, daemon: DaemonFactory
) -> None:
    with PodServer(lab.pods[0], echo), PodServer(lab.pods[1], http), CrowdServer(lab.pods[2]) as silent:
        lbd = daemon(
            steady_config(
                service("echo", lab.vip[4], members(lab.pods[:1], 4), 81),
                service("web", lab.vip[4], members(lab.pods[1:2], 4), 80),
                service("slow", lab.vip[4], members(lab.pods[2:], 4), 82),
            )
        )
        lbd.wait_serving()
        idle = crowd(lab.client, lab.vip[4], 82, 2000)
        eventually(lambda: silent.open == 2000, 10.0)
        with RoundTrips(lab.client, lab.vip[4], 81) as trips, Load(lab.client, lab.vip[4], rate_per_s=50) as load:
            flood_with_syns(lab.client, "198.18.", (lab.vip[4], 80), 20_000)
            eventually(lambda: len(load.result.outcomes) >= 100, 20.0)
        result = load.result
        assert result.kinds == {OK: len(result.outcomes)}, result.failures[:5]
        assert not trips.failed
        assert trips.count >= 100
        assert silent.open == 2000, "the idle ones were left alone, too"
        for conn in idle:
            conn.close()


@pytest.mark.alone
@pytest.mark.timeout(120)
def test_10000_idle_connections_of_a_deleted_service_end_without_a_stall_of_the_loop_over_100_ms(
    lab: Lab, daemon: DaemonFactory
) -> None:
    """Judged by round trips through the same workers; those straight to the Pod beside them say what else is slow."""
    kept = service("echo", lab.vip[4], members(lab.pods[:1], 4), 81)
    doomed = [service(f"idle{pod.name}", lab.vip[4], members([pod], 4), 82 + at) for at, pod in enumerate(lab.pods[1:])]
    for one in doomed:
        one["pool"]["members"][0]["port"] = 80
    with PodServer(lab.pods[0], echo), crowd_process(lab.pods[1]), crowd_process(lab.pods[2]):
        lbd = daemon(config(kept, *doomed, drain_timeout="0s"))
        lbd.wait_serving()
        idle = [conn for at in range(2) for conn in crowd(lab.client, lab.vip[4], 82 + at, IDLE_CONNECTIONS // 2)]
        eventually(lambda: sum(worker["active_connections"] for worker in peek(lbd)["workers"]) == len(idle), 20.0)
        pod = lab.pods[0].address[4]
        with (
            RoundTrips(lab.client, lab.vip[4], 81) as one,
            RoundTrips(lab.client, lab.vip[4], 81) as other,
            RoundTrips(lab.se, pod, 80) as control,
        ):
            assert lbd.reload(config(kept, drain_timeout="0s")).returncode == 0
            eventually(lambda: lbd.log.matching("service_removed"), 20.0)
        assert not any(trips.failed for trips in (one, other, control))
        # Half as much again for what the other ends of ten thousand connections do on the same processors meanwhile.
        assert max(one.worst_s, other.worst_s) <= STALL_LIMIT_S * max(1.5, slowness()) + control.worst_s
        for conn in idle:
            with conn, pytest.raises(ConnectionResetError):
                conn.recv(1)


def test_a_member_port_that_closes_and_opens_again_under_load_costs_no_client_an_error(
    lab: Lab, daemon: DaemonFactory
) -> None:
    with PodServer(lab.pods[0], http) as steady, PodServer(lab.pods[1], http) as moody:
        lbd = daemon(config(service("web", lab.vip[4], members(lab.pods[:2], 4), health_monitors=["quick"])))
        lbd.wait_serving()
        with Load(lab.client, lab.vip[4], rate_per_s=100) as load:
            stops_s = []
            for _ in range(3):
                served = steady.accepted
                stops_s.append(time.monotonic())
                moody.stop()
                eventually(lambda: peek(lbd).member("web", lab.pods[1].address[4])["health"] == "down", 10.0)
                moody.start()
                eventually(lambda: peek(lbd).member("web", lab.pods[1].address[4])["health"] == "up", 10.0)
                opened = moody.accepted
                eventually(lambda opened=opened: moody.accepted > opened + 5, 10.0)
                assert steady.accepted > served
        # Whom the server was answering when it was stopped is cut off; nobody else notices anything.
        late = [
            one
            for one in load.result.outcomes
            if one.kind != OK and not any(0 <= stop_s - one.started_s + 0.05 <= 0.3 for stop_s in stops_s)
        ]
        assert not late
        assert fetch_many(lab.client, lab.vip[4], count=10).kinds == {OK: 10}
