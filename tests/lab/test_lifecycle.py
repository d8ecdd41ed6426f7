"""How the daemon starts, ends and survives: signals to it, to its workers, and to a second one."""

from __future__ import annotations

import os
import resource
import select
import signal
import time
from pathlib import Path

import pytest

from kit_lifecycle import (
    Download,
    Held,
    Sampler,
    addresses,
    config,
    hold_working,
    is_refused,
    members,
    peek,
    process_field,
    service,
    workers,
)
from lab_clients import CUT_SHORT, OK, RESET, Load, connect, fetch, fetch_many
from lab_daemon import LBD, Daemon, DaemonFactory, alive, wait_dead
from lab_servers import PodServer, echo, http, pattern_digest, streams
from lab_wait import eventually
from lbd.cli.demo.lab import Lab

NO_WAIT_S = 0.3
"""What no new connection may wait for longer when a worker dies."""


def echo_config(lab: Lab, *families: int, **engine: object) -> dict[str, object]:
    """Return a configuration with one echo service per family on the first Pod."""
    services = [service(f"echo{family}", lab.vip[family], members(lab.pods[:1], family)) for family in families]
    return config(*services, **engine)


# -- SIGTERM -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "half_close"),
    [(4, False), (6, False), (6, True)],
    ids=["ipv4", "ipv6", "ipv6-client-half-closed"],
)
def test_sigterm_lets_a_transfer_complete_before_the_vip_goes(
    lab: Lab, daemon: DaemonFactory, family: int, half_close: bool
) -> None:
    size = 12 << 20
    with PodServer(lab.pods[0], streams(size)):
        lbd = daemon(config(service("bulk", lab.vip[family], members(lab.pods[:1], family)), drain_timeout="20s"))
        download = Download(lab.client, lab.vip[family], lasts_s=2.0, half_close=half_close)
        eventually(lambda: peek(lbd).service("bulk")["traffic"]["sent_bytes_total"] > 1 << 20)
        with Sampler(lambda: (lab.vip[family] in addresses(lab), download.is_alive()), 0.0) as seen:
            lbd.terminate()
            lbd.wait_notification("STOPPING")
            eventually(lambda: is_refused(lab.client, lab.vip[family]), 1.5, "new connections are refused")
            refused_while_under_way = download.is_alive()
            download.join(20.0)
            assert lbd.wait() == 0
        assert download.error is None
        assert download.result == (size, pattern_digest(size))
        assert refused_while_under_way, "the transfer was too short to prove anything"
        if not half_close:  # else the client's kernel has it all before the client, and nobody needs the address
            assert all(present for _, (present, under_way) in seen.samples if under_way)
        assert lab.vip[family] not in addresses(lab)
        assert not lbd.log.matching("connections_reset")


def test_a_transfer_longer_than_drain_timeout_is_reset_at_the_deadline_and_logged(
    lab: Lab, daemon: DaemonFactory
) -> None:
    family = 6
    with PodServer(lab.pods[0], streams(1 << 26)), PodServer(lab.pods[1], echo):
        lbd = daemon(
            config(
                service("bulk", lab.vip[family], members(lab.pods[:1], family)),
                service("echo", lab.vip[family], members(lab.pods[1:2], family), port=81),
                drain_timeout="1s",
            )
        )
        download = Download(lab.client, lab.vip[family], lasts_s=20.0, slow_for=2000)
        (idle,) = hold_working(lab.client, lab.vip[family], 1, port=81)
        begun_s = time.monotonic()
        lbd.terminate()
        assert idle.works()
        assert idle.how_it_ends() == "reset"
        assert 0.9 <= time.monotonic() - begun_s < 2.0
        download.join(10.0)
        assert isinstance(download.error, ConnectionResetError), (download.error, download.result)
        assert lbd.wait() == 0
        for name in ("bulk", "echo"):
            assert lbd.log.matching("connections_reset", service=name, connections=1, reason="drain_timeout")
        assert lab.vip[family] not in addresses(lab)


def test_a_second_sigterm_exits_at_once_and_still_removes_the_vips(lab: Lab, daemon: DaemonFactory) -> None:
    with PodServer(lab.pods[0], echo):
        lbd = daemon(echo_config(lab, 4, 6, drain_timeout="60s"))
        held = [Held(lab.client, lab.vip[family]) for family in (4, 6)]
        pids = peek(lbd).worker_pids
        assert all(one.works() for one in held)
        lbd.terminate()
        lbd.log.wait_for("service_draining")
        assert all(one.works() for one in held)
        begun_s = time.monotonic()
        lbd.terminate()
        assert lbd.wait() == 0
        assert time.monotonic() - begun_s < 2.0
        assert not {lab.vip[4], lab.vip[6]} & set(addresses(lab))
        assert not any(map(alive, pids))
        assert not any(one.works() for one in held)


# -- a worker dies or hangs --------------------------------------------------------------------------------------------


def test_a_killed_worker_costs_only_its_own_connections_and_nobody_waits(
    lab: Lab, daemon: DaemonFactory, family: int
) -> None:
    with PodServer(lab.pods[0], http), PodServer(lab.pods[1], http), PodServer(lab.pods[2], echo):
        lbd = daemon(
            config(
                service("web", lab.vip[family], members(lab.pods[:2], family)),
                service("echo", lab.vip[family], members(lab.pods[2:], family), port=81),
            )
        )
        held = hold_working(lab.client, lab.vip[family], 24, port=81)
        before = workers(lbd)
        assert before[0]["active_connections"] + before[1]["active_connections"] == 24
        assert before[0]["active_connections"] >= 1
        with (
            Sampler(
                lambda: lbd.metrics().value("lbd_virtual_service_connections_total", virtual_service="web")
            ) as totals,
            Load(lab.se, lab.pods[0].address[family], rate_per_s=50) as direct,
            Load(lab.client, lab.vip[family], rate_per_s=200) as load,
        ):
            eventually(lambda: len(load.result.outcomes) > 100)
            killed_s = time.monotonic()
            os.kill(before[0]["pid"], signal.SIGKILL)
            wait_dead(before[0]["pid"])
            died_s = time.monotonic()
            eventually(lambda: workers(lbd)[0]["state"] == "running", 10.0, "the worker is back")
            back = len(load.result.outcomes)
            eventually(lambda: len(load.result.outcomes) > back + 200, 10.0)
        result = load.stop()
        after_it = result.started_since(died_s)
        assert after_it.kinds == {OK: len(after_it.outcomes)}, after_it.failures[:3]
        # What a busy machine makes even those wait who need no load balancer is not the worker's doing.
        busy_s = direct.result.started_since(died_s).worst_latency_s
        assert after_it.worst_latency_s <= NO_WAIT_S + busy_s, busy_s
        assert set(result.kinds) <= {OK, RESET, CUT_SHORT}  # those that the dead worker was relaying
        assert all(failure.started_s + failure.ended_after_s >= killed_s for failure in result.failures)

        survivors = [one for one in held if one.works()]
        assert len(survivors) == before[1]["active_connections"]
        now = workers(lbd)
        assert now[0]["pid"] != before[0]["pid"]
        assert now[0]["restarts_total"] == before[0]["restarts_total"] + 1
        assert now[1]["pid"] == before[1]["pid"]
        assert now[1]["restarts_total"] == 0

        values = [value for _, value in totals.samples]
        assert len(values) > 10
        assert values == sorted(values), "a total went backwards"
        metrics = eventually(lambda: settled(lbd, "web"))
        served = metrics.value("lbd_virtual_service_connections_total", virtual_service="web")
        assert 0 <= len(result.outcomes) - served <= len(result.failures)
        assert metrics.value("lbd_virtual_service_active_connections", virtual_service="echo") == len(survivors)
        assert metrics.total("lbd_worker_active_connections") == len(survivors)
        for one in survivors:
            one.close()
        eventually(lambda: settled(lbd, "echo"))


def settled(lbd: Daemon, name: str):  # type: ignore[no-untyped-def]  # Metrics, or None while something is active
    """Return a scrape once nothing is active in a service and its members."""
    metrics = lbd.metrics()
    active = metrics.value("lbd_virtual_service_active_connections", virtual_service=name)
    return metrics if active == 0 == metrics.total("lbd_member_active_connections", virtual_service=name) else None


def test_a_worker_that_dies_again_and_again_is_restarted_with_growing_pauses(lab: Lab, daemon: DaemonFactory) -> None:
    with PodServer(lab.pods[0], http):
        lbd = daemon(config(service("web", lab.vip[4], members(lab.pods[:1], 4))))
        pauses = []
        for number in range(1, 5):
            pid = workers(lbd)[1]["pid"]
            os.kill(pid, signal.SIGKILL)
            pauses.append(lbd.log.wait_for("worker_died", pid=pid, worker=1)["restart_in_s"])
            assert fetch(lab.client, lab.vip[4]) == lab.pods[0].name
            back = eventually(
                lambda: next(iter([w for w in [workers(lbd)[1]] if w["state"] == "running" and w["pid"] != pid]), None),  # noqa: B023
                15.0,
            )
            assert back["restarts_total"] == number
        assert pauses[0] <= 0.1
        assert pauses == sorted(pauses)
        assert pauses[-1] >= 1.0
        assert workers(lbd)[0]["restarts_total"] == 0


def test_a_hung_worker_is_relieved_within_600_ms_and_killed_after_10_s(lab: Lab, daemon: DaemonFactory) -> None:
    with PodServer(lab.pods[0], http):
        lbd = daemon(config(service("web", lab.vip[4], members(lab.pods[:1], 4))))
        pid = workers(lbd)[0]["pid"]
        with Load(lab.client, lab.vip[4], rate_per_s=100) as load:
            eventually(lambda: len(load.result.outcomes) > 50)
            os.kill(pid, signal.SIGSTOP)
            stopped_s = time.monotonic()
            lbd.log.wait_for("worker_hung", pid=pid)
            relieved_s = time.monotonic()
            assert relieved_s - stopped_s < 0.8
            status = peek(lbd)
            assert [worker["state"] for worker in status["workers"]] == ["hung", "running"]
            assert any("worker 0 is hung" in problem for problem in status["problems"])
            time.sleep(1.0)  # the load goes on over the other worker alone
            os.kill(pid, signal.SIGCONT)
            lbd.log.wait_for("worker_recovered", pid=pid)
            time.sleep(0.5)
        result = load.stop()
        assert not result.failures
        waited = [outcome for outcome in result.outcomes if outcome.connected_after_s and outcome.ended_after_s > 0.3]
        late = [outcome for outcome in waited if outcome.started_s > relieved_s + 0.05]
        assert not late, "somebody still waited for the stopped worker"
        assert waited, "the stopped worker's socket got nothing: nothing was proven"
        # Only what the worker had accepted before it was stopped may have waited till it went on.
        assert sum(outcome.started_s + outcome.ended_after_s > relieved_s + 0.5 for outcome in waited) <= 2
        assert [worker["state"] for worker in peek(lbd)["workers"]] == ["running", "running"]
        eventually(
            lambda: len({worker["descriptors_used"] for worker in workers(lbd).values()}) == 1, 5.0, "heir lets go"
        )

        os.kill(pid, signal.SIGSTOP)
        died = lbd.log.wait_for("worker_died", timeout_s=13.0, pid=pid)
        assert died["how"] == "signal SIGKILL"
        now = eventually(lambda: both_running(lbd), 10.0)
        assert now[0]["pid"] != pid
        assert now[0]["restarts_total"] == 1
        assert fetch_many(lab.client, lab.vip[4], count=20).kinds == {OK: 20}


def both_running(lbd: Daemon) -> dict[int, dict[str, object]]:
    """Return the workers once both run."""
    found = workers(lbd)
    assert {worker["state"] for worker in found.values()} == {"running"}
    return found


# -- the supervisor stops or dies --------------------------------------------------------------------------------------


def test_ten_seconds_without_the_supervisor_are_unnoticed(lab: Lab, daemon: DaemonFactory) -> None:
    with PodServer(lab.pods[0], http), PodServer(lab.pods[1], http):
        lbd = daemon(config(service("web", lab.vip[4], members(lab.pods[:2], 4), health_monitors=["quick"])))
        before = workers(lbd)
        with Load(lab.client, lab.vip[4], rate_per_s=100) as load:
            eventually(lambda: len(load.result.outcomes) > 20)
            mark = lbd.log.mark()
            lbd.signal(signal.SIGSTOP)
            time.sleep(10.0)
            lbd.signal(signal.SIGCONT)
            gone_on = len(load.result.outcomes)
            eventually(lambda: peek(lbd)["state"] == "running")
            eventually(lambda: len(load.result.outcomes) > gone_on + 100)
        result = load.stop()
        assert len(result.outcomes) > 1000
        assert result.kinds == {OK: len(result.outcomes)}, result.failures[:3]
        after = workers(lbd)
        assert {index: worker["pid"] for index, worker in after.items()} == {
            index: worker["pid"] for index, worker in before.items()
        }
        assert all(worker["restarts_total"] == 0 for worker in after.values())
        for event in ("worker_hung", "worker_died", "member_down"):
            assert not lbd.log.matching(event, since=mark), lbd.log.matching(event, since=mark)
        assert eventually(lambda: settled(lbd, "web")).value(
            "lbd_virtual_service_connections_total", virtual_service="web"
        ) == len(result.outcomes)


def test_a_killed_supervisor_leaves_connections_and_the_next_one_adopts_sweeps_and_serves(
    lab: Lab, daemon: DaemonFactory
) -> None:
    dropped = {4: "172.16.101.151", 6: "fd00:101::151"}
    lab.se.ip("address add 172.16.101.99/32 dev front", "address add fd00:101::99/128 dev front nodad")
    foreign = addresses(lab)
    with PodServer(lab.pods[0], echo):
        kept = [service(f"echo{family}", lab.vip[family], members(lab.pods[:1], family)) for family in (4, 6)]
        lost = [service(f"lost{family}", dropped[family], members(lab.pods[:1], family)) for family in (4, 6)]
        lbd = daemon(config(*kept, *lost, drain_timeout="30s"))
        assert set(addresses(lab)) == {*foreign, *lab.vip.values(), *dropped.values()}
        held = [one for family in (4, 6) for one in hold_working(lab.client, lab.vip[family], 4)]
        old_workers = peek(lbd).worker_pids
        lbd.kill()
        for family in (4, 6):
            eventually(lambda: is_refused(lab.client, lab.vip[family]), 0.5, "the workers accept nothing more")  # noqa: B023
        assert all(one.works() for one in held), "established connections have ended with the supervisor"
        assert all(map(alive, old_workers))

        lbd.write_config(config(*kept, drain_timeout="30s"))
        mark = lbd.log.mark()
        lbd.start()
        swept = {record["vip"] for record in lbd.log.matching("orphan_removed", since=mark)}
        assert swept == set(dropped.values())
        assert {key: value for key, value in addresses(lab).items() if key in foreign} == foreign
        assert set(addresses(lab)) == {*foreign, *lab.vip.values()}
        status = lbd.wait_serving()
        assert [vip["adopted"] for vip in status["vips"]] == [False, False]
        new = [one for family in (4, 6) for one in hold_working(lab.client, lab.vip[family], 2)]
        assert all(one.works() for one in held), "the next start has disturbed the old workers' connections"
        for one in held:
            one.close()
        for pid in old_workers:
            wait_dead(pid, 2.0)
        assert all(one.works() for one in new)
        for one in new:
            one.close()
        lbd.terminate()
        assert lbd.wait() == 0
        assert addresses(lab) == foreign


def test_workers_without_a_supervisor_drain_no_longer_than_drain_timeout(lab: Lab, daemon: DaemonFactory) -> None:
    with PodServer(lab.pods[0], echo):
        lbd = daemon(echo_config(lab, 4, drain_timeout="1s"))
        held = hold_working(lab.client, lab.vip[4], 4)
        pids = peek(lbd).worker_pids
        begun_s = time.monotonic()
        lbd.kill()
        assert {one.how_it_ends() for one in held} == {"reset"}
        assert 0.9 <= time.monotonic() - begun_s < 2.0
        for pid in pids:
            wait_dead(pid, 1.0)


# -- starting ----------------------------------------------------------------------------------------------------------


def test_a_second_daemon_in_the_namespace_exits_1_with_a_sentence(
    lab: Lab, daemon: DaemonFactory, tmp_path: Path
) -> None:
    with PodServer(lab.pods[0], http):
        lbd = daemon(config(service("web", lab.vip[4], members(lab.pods[:1], 4))))
        before = addresses(lab)
        second = daemon({"virtual_services": []}, start=False)
        done = lab.se.run([str(LBD), "run", "-c", str(second.config_path)], check=False)
        assert done.returncode == 1
        assert "lbd: another lbd runs in this network namespace" in done.stderr
        assert "Traceback" not in done.stderr
        assert addresses(lab) == before
        assert lbd.running
        assert fetch(lab.client, lab.vip[4]) == lab.pods[0].name
        lbd.terminate()
        assert lbd.wait() == 0
        second.start()  # the name is free again


def test_workers_hold_no_capability_and_are_not_root(lab: Lab, daemon: DaemonFactory) -> None:
    with PodServer(lab.pods[0], http):
        lbd = daemon(config(service("web", lab.vip[4], members(lab.pods[:1], 4))))
        first = workers(lbd)
        os.kill(first[0]["pid"], signal.SIGKILL)  # its replacement must be as powerless
        lbd.log.wait_for("worker_died")
        now = eventually(lambda: both_running(lbd), 10.0)
        for worker in now.values():
            pid = worker["pid"]
            for field in ("CapInh", "CapPrm", "CapEff", "CapAmb"):
                assert int(process_field(pid, field), 16) == 0, field
            assert process_field(pid, "NoNewPrivs") == "1"
            assert worker["effective_capabilities"] == "0"
            if real_root():
                assert "0" not in process_field(pid, "Uid").split()
                assert "0" not in process_field(pid, "Gid").split()
                assert "0" not in process_field(pid, "Groups").split()
        assert int(process_field(lbd.pid, "CapEff"), 16) != 0, "the lab gives no capability: nothing was proven"


def real_root() -> bool:
    """Tell whether uid 0 here is the machine's, and other users exist."""
    first, outside, count = map(int, Path("/proc/self/uid_map").read_text().split()[:3])
    return os.geteuid() == 0 and (first, outside) == (0, 0) and count > 65534


def test_a_bad_configuration_at_start_exits_78_with_every_error(lab: Lab, daemon: DaemonFactory) -> None:
    lbd = daemon(
        "service_engine: {frontend_interface: front}\n"
        "virtual_services:\n"
        "  - {name: web, vip: 172.16.101.150, port: 70000, pool: {members: []}}\n"
        "  - {name: two, vip: nonsense, port: 80, pool: {members: [], algorithm: magic}}\n",
        start=False,
    )
    lbd.start(wait_ready=False)
    assert lbd.wait() == 78
    complaint = "\n".join(lbd.log.other)
    for place in ("lbd.yaml:3:44: ", "lbd.yaml:4:22: ", "lbd.yaml:4:73: "):
        assert place in complaint, complaint
    assert not lbd.log.tracebacks
    assert lab.vip[4] not in addresses(lab)
    assert [state for state in lbd.notifications if "READY" in state] == []


def test_an_interface_that_does_not_exist_is_said_and_waited_for(lab: Lab, daemon: DaemonFactory) -> None:
    with PodServer(lab.pods[0], http):
        lbd = daemon(config(service("web", lab.vip[4], members(lab.pods[:1], 4)), frontend_interface="late"))
        vip = eventually(lambda: peek(lbd).vip(lab.vip[4]))
        assert vip["state"] == "failed"
        assert "there is no interface late" in vip["reason"]
        assert any("there is no interface late" in problem for problem in peek(lbd)["problems"])
        assert lbd.log.matching("vip_claim_failed", vip=lab.vip[4])
        assert lbd.metrics().value("lbd_vip_owned", vip=lab.vip[4]) == 0
        lab.se.ip(
            f"link add late netns {lab.se.name} type veth peer name eth1 netns {lab.client.name}", "link set late up"
        )
        lab.client.ip("link set eth1 up", f"route add {lab.vip[4]} dev eth1")
        lbd.wait_serving(10.0)
        assert peek(lbd)["problems"] == []
        assert lab.vip[4] in addresses(lab, "late")
        assert fetch(lab.client, lab.vip[4]) == lab.pods[0].name


# -- the service manager -----------------------------------------------------------------------------------------------


def test_the_service_manager_is_told_of_every_step(lab: Lab, daemon: DaemonFactory) -> None:
    with PodServer(lab.pods[0], http):
        wanted = config(service("web", lab.vip[4], members(lab.pods[:1], 4)))
        lbd = daemon(wanted, start=False, WATCHDOG_USEC="600000").start(wait_ready=False)
        lbd.wait_notification("READY", 20.0)
        assert fetch(lab.client, lab.vip[4]) == lab.pods[0].name  # READY comes after serving
        lbd.log.wait_for("ready")

        begun = len(lbd.notifications)
        begun_s = time.monotonic()
        eventually(lambda: sum("WATCHDOG" in state for state in lbd.notifications[begun:]) >= 6, 5.0)
        assert 1.2 < time.monotonic() - begun_s < 2.4  # 6 signs of life, 300 ms apart

        for ask in (lambda: lbd.reload(wanted), lambda: lbd.signal(signal.SIGHUP), lambda: lbd.reload("oops: [")):
            begun = len(lbd.notifications)
            earliest_us = time.monotonic_ns() // 1000
            ask()
            reloading = lbd.wait_notification("RELOADING", since=begun)
            assert earliest_us <= int(reloading["MONOTONIC_USEC"]) <= time.monotonic_ns() // 1000
            lbd.wait_notification("READY", since=begun)
            told = [next(iter(state)) for state in lbd.notifications[begun:] if "WATCHDOG" not in state]
            assert told == ["RELOADING", "READY"]

        with connect(lab.client, lab.vip[4]):
            lbd.terminate()
            lbd.wait_notification("STOPPING")
            begun = len(lbd.notifications)
            lbd.wait_notification("WATCHDOG", since=begun)  # a drain may be long: it must not be mistaken for a hang
        assert lbd.wait() == 0


# -- descriptors -------------------------------------------------------------------------------------------------------


def test_at_the_descriptor_limit_clients_queue_and_are_served_once_some_are_free(
    lab: Lab, daemon: DaemonFactory
) -> None:
    family = 4
    with PodServer(lab.pods[0], echo), PodServer(lab.pods[1], http):
        lbd = daemon(
            config(
                service("echo", lab.vip[family], members(lab.pods[:1], family), port=81),
                service("web", lab.vip[family], members(lab.pods[1:2], family)),
            ),
            start=False,
        )
        lbd.start(wait_ready=False)
        # Long before it looks; its workers inherit it.
        resource.prlimit(lbd.pid, resource.RLIMIT_NOFILE, (160, 160))
        lbd.wait_notification("READY", 20.0)
        held: list[Held] = []
        try:
            while any(worker["accepting"] for worker in workers(lbd).values()):
                assert len(held) < 1000, "the limit was never reached"
                held += [Held(lab.client, lab.vip[family], 81) for _ in range(20)]
                time.sleep(0.12)  # a worker says ten times a second what it has
            served = answering(held)
            queued = [one for one in held if one not in served]
            assert served
            assert queued
            for one in queued[5:]:  # the kernel spreads them unevenly: enough is enough
                one.close()
            assert {record["worker"] for record in lbd.log.matching("descriptor_limit_reached")} == {0, 1}
            now = peek(lbd)
            assert sum("accepts nothing" in problem for problem in now["problems"]) == 2
            assert all(worker["descriptors_used"] <= worker["descriptors_limit"] == 160 for worker in now["workers"])
            assert lbd.metrics().total("lbd_worker_accepting") == 0

            waiting = Load(lab.client, lab.vip[family], count=20, concurrency=20).start()
            time.sleep(0.5)
            assert not waiting.result.outcomes, "a client was not left in the queue"
            assert all(one.works() for one in served), "established traffic was disturbed"
            for one in served[10:]:
                one.close()
            result = waiting.join()
            assert result.kinds == {OK: 20}, result.failures[:3]
            assert all(one.works() for one in served[:10]), "established traffic was disturbed"
            assert all(one.works() for one in queued[:5]), "a queued connection was lost"
            eventually(lambda: all(worker["accepting"] for worker in workers(lbd).values()))
            assert {record["worker"] for record in lbd.log.matching("descriptor_limit_recovered")} == {0, 1}
            assert not any("accepts nothing" in problem for problem in peek(lbd)["problems"])
        finally:
            for one in held:
                one.close()


def answering(held: list[Held]) -> list[Held]:
    """Return the held connections that are served; the others wait in a queue and don't answer within half a second."""
    for one in held:
        one.conn.sendall(b"are you there?")
    time.sleep(0.5)
    readable, _, _ = select.select([one.conn for one in held], [], [], 0)
    return [one for one in held if one.conn in readable and one.conn.recv(100)]
