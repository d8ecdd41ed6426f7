"""Every metric that counts, compared with what the test really sent, saw on the wire, or read from the kernel."""

from __future__ import annotations

import fcntl
import os
import re
import resource
import signal
import socket
import struct
import termios
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from kit_lifecycle import Held, Sampler, members, peek, service
from kit_relay import RESET, greeted_by, how_it_ends, steady_config
from lab_clients import OK, Load, connect, echo_exchange, fetch_many, hold_many
from lab_daemon import Daemon, DaemonFactory, Metrics, descriptors, wait_dead
from lab_servers import PodServer, echo, greet_and_hold, http, pattern, resets_after, streams
from lab_wait import eventually
from lab_wire import Arp, Capture, Neighbor
from lbd.cli.demo.lab import Lab, Pod

REFERENCE = Path(__file__).parents[2] / "docs" / "reference" / "metrics.md"
REASONS = ("refused", "reset", "timed_out", "unreachable", "local")
TRAFFIC = {
    "active_connections": "active_connections",
    "connections_total": "connections_total",
    "received_bytes_total": "received_bytes_total",
    "sent_bytes_total": "sent_bytes_total",
    "retries_total": "retries_total",
}
"""Metrics of a service and of a member, and what `lbd status --json` calls them."""


def endpoint(pod: Pod, family: int = 4, port: int = 80) -> str:
    """Return a Pod as the label `member` names it."""
    return f"{pod.address[4]}:{port}" if family == 4 else f"[{pod.address[6]}]:{port}"


def counted(metrics: Metrics, service: str, member: str | None = None) -> dict[str, float]:
    """Return the traffic metrics of a service, or of one of its members."""
    scope, labels = ("member", {"member": member}) if member else ("virtual_service", {})
    values = {what: metrics.value(f"lbd_{scope}_{what}", virtual_service=service, **labels) for what in TRAFFIC}
    for reason in REASONS:
        values[reason] = metrics.value(
            f"lbd_{scope}_connect_errors_total", virtual_service=service, reason=reason, **labels
        )
    if member is None:
        values["unserved"] = metrics.value("lbd_virtual_service_unserved_connections_total", virtual_service=service)
    return values


def expected(**values: float) -> dict[str, float]:
    """Return what `counted` gives for a member where everything else is 0."""
    return {**dict.fromkeys([*TRAFFIC, *REASONS], 0), **values}


def agrees_with_status(lbd: Daemon) -> bool:
    """Assert that `/metrics` and `lbd status --json` say the same about every service and member."""
    status, metrics = lbd.status(), lbd.metrics()
    for web in status["virtual_services"]:
        for member, said in [(None, web), *((m["address"], m) for m in web["members"])]:
            if member is not None:
                member = f"{member}:{said['port']}" if ":" not in member else f"[{member}]:{said['port']}"
            traffic = said["traffic"]
            as_status = {what: traffic[name] for what, name in TRAFFIC.items()} | traffic["connect_errors_total"]
            if member is None:
                as_status["unserved"] = traffic["unserved_total"]
            assert counted(metrics, web["name"], member) == as_status
    return True


# -- traffic -----------------------------------------------------------------------------------------------------------


def test_connections_and_bytes_are_counted_exactly_for_service_and_members(
    lab: Lab, daemon: DaemonFactory, family: int
) -> None:
    size, count, held_count = 70_001, 31, 7
    with ExitStack() as stack:
        servers = [stack.enter_context(PodServer(pod, echo)) for pod in lab.pods]
        lbd = daemon(steady_config(service("echo", lab.vip[family], members(lab.pods, family))))
        lbd.wait_serving()
        exchange = echo_exchange(bytes(pattern(size)))
        load = Load(lab.client, lab.vip[family], count=count, concurrency=4, exchange=exchange).start().join()
        assert load.kinds == {OK: count}
        held = hold_many(lab.client, lab.vip[family], count=held_count)
        for each in held:
            each.sendall(b"question")
            assert each.recv(100) == b"question"
        moved = count * size + held_count * len(b"question")
        total = {"active_connections": held_count, "connections_total": count + held_count}

        def exact() -> bool:
            metrics = lbd.metrics()
            assert counted(metrics, "echo") == expected(
                **total, received_bytes_total=moved, sent_bytes_total=moved, unserved=0
            )
            for pod, server in zip(lab.pods, servers, strict=True):
                assert counted(metrics, "echo", endpoint(pod, family)) == expected(
                    active_connections=server.open,
                    connections_total=server.accepted,
                    received_bytes_total=server.received_bytes,
                    sent_bytes_total=server.sent_bytes,
                )
            assert metrics.total("lbd_worker_active_connections") == held_count
            return True

        eventually(exact)
        agrees_with_status(lbd)
        for each in held:
            each.close()
        eventually(lambda: lbd.metrics().total("lbd_member_active_connections") == 0)
        metrics = lbd.metrics()
        assert metrics.value("lbd_virtual_service_active_connections", virtual_service="echo") == 0
        assert metrics.total("lbd_worker_active_connections") == 0
        assert metrics.total("lbd_member_connections_total") == count + held_count


def test_received_comes_from_clients_and_sent_goes_to_them(lab: Lab, daemon: DaemonFactory) -> None:
    sent = 3_000_001
    with PodServer(lab.pods[0], streams(sent)):
        lbd = daemon(steady_config(service("down", lab.vip[4], members(lab.pods[:1], 4))))
        lbd.wait_serving()
        with connect(lab.client, lab.vip[4]) as conn:
            conn.sendall(b"1234567")
            conn.shutdown(socket.SHUT_WR)
            while conn.recv(1 << 18):
                pass
        exact = {"connections_total": 1, "received_bytes_total": 7, "sent_bytes_total": sent}
        eventually(lambda: counted(lbd.metrics(), "down") == expected(**exact, unserved=0))
        assert counted(lbd.metrics(), "down", endpoint(lab.pods[0])) == expected(**exact)


def test_bytes_are_counted_as_sent_when_the_clients_socket_has_taken_them(lab: Lab, daemon: DaemonFactory) -> None:
    """A client that reads nothing stops the stream: what was sent waits at its kernel or in the SE's send queue, and
    what the relay itself holds is not sent."""
    with PodServer(lab.pods[0], streams(1 << 30)):
        lbd = daemon(steady_config(service("down", lab.vip[4], members(lab.pods[:1], 4))))
        lbd.wait_serving()
        with connect(lab.client, lab.vip[4]) as conn:

            def exact() -> bool:
                sent = counted(lbd.metrics(), "down")["sent_bytes_total"]
                arrived = struct.unpack("i", fcntl.ioctl(conn, termios.FIONREAD, bytes(4)))[0]
                assert sent == arrived + send_queue_bytes(lab)
                return bool(sent)

            eventually(exact, 10.0)


def send_queue_bytes(lab: Lab) -> int:
    """Return how much of the SE's one connection to a client waits to be sent or acknowledged."""
    local = f"{socket.inet_aton(lab.vip[4])[::-1].hex().upper()}:0050"
    lines = [line.split() for line in lab.se.run(["cat", "/proc/net/tcp"]).stdout.splitlines()[1:]]
    (queues,) = [fields[4] for fields in lines if fields[1] == local and fields[3] == "01"]  # ESTABLISHED
    return int(queues.partition(":")[0], 16)


def test_failed_attempts_are_counted_by_reason_and_retries_by_the_member_that_failed(
    lab: Lab, daemon: DaemonFactory
) -> None:
    """One service for each reason, with one member that fails for it and a good one; and one that has none."""
    bad, resetting, good = lab.pods
    ports = {reason: 8000 + place for place, reason in enumerate(REASONS)}
    services = [
        service(
            reason,
            lab.vip[4],
            members([resetting if reason == "reset" else bad], 4, port) + members([good], 4),
            port,
            timeouts={"connect": "400ms"},
        )
        for reason, port in ports.items()
    ]
    # Two more addresses of the first Pod's: the SE has no route to one, and may not use that to the other.
    aliases = {"unreachable": "10.10.52.201", "local": "10.10.52.202"}
    for one in services:
        if one["name"] in aliases:
            one["pool"]["members"][0]["address"] = aliases[one["name"]]
    services.append(service("hopeless", lab.vip[4], members([bad], 4, 8999), 8999))
    config = steady_config(*services)
    bad.ip(*(f"address add {address}/24 dev eth0" for address in aliases.values()))
    with ExitStack() as stack:
        stack.enter_context(PodServer(good, greet_and_hold))
        stack.enter_context(PodServer(resetting, resets_after(0), ports["reset"]))
        hole = stack.enter_context(PodServer(bad, greet_and_hold, ports["timed_out"]))
        hole.black_hole()
        lbd = daemon(config)
        lbd.wait_serving()
        lab.se.ip(f"route add unreachable {aliases['unreachable']}/32", f"route add prohibit {aliases['local']}/32")
        for port in ports.values():
            for _ in range(8):
                with connect(lab.client, lab.vip[4], port) as conn:
                    assert greeted_by(conn) == good.name
        for _ in range(5):
            assert how_it_ends(lab.client, lab.vip[4], 8999) == (b"", RESET)

        def exact() -> bool:
            metrics = lbd.metrics()
            for reason, port in ports.items():
                whole = counted(metrics, reason)
                failed = whole[reason]
                assert 1 <= failed <= 8, whole  # no connection tries a member twice
                greeted = 8 * (len(good.name) + 1)
                assert whole == expected(
                    connections_total=8, sent_bytes_total=greeted, retries_total=failed, unserved=0, **{reason: failed}
                )
                failing = {"reset": resetting.address[4], **aliases}.get(reason, bad.address[4])
                # A member that accepts and resets has had a connection, the others have not.
                had = failed if reason == "reset" else 0
                assert counted(metrics, reason, f"{failing}:{port}") == expected(
                    connections_total=had, retries_total=failed, **{reason: failed}
                )
                assert counted(metrics, reason, endpoint(good)) == expected(
                    connections_total=8, sent_bytes_total=greeted
                )
            assert counted(metrics, "hopeless") == expected(connections_total=5, refused=5, unserved=5)
            return True

        eventually(exact)
        agrees_with_status(lbd)
        passive = {
            reason: max(member["passive_failures"] for member in peek(lbd).service(reason)["members"])
            for reason in REASONS
        }
        assert passive["local"] == 0
        assert all(passive[reason] >= 1 for reason in REASONS if reason != "local"), passive
        assert lbd.metrics().total("lbd_member_passive_failures", virtual_service="refused") == passive["refused"]


def test_a_members_counters_survive_a_reload_that_changes_its_weight(lab: Lab, daemon: DaemonFactory) -> None:
    def config(weight: int) -> dict[str, Any]:
        pool = members(lab.pods[:2], 4)
        pool[0]["weight"] = weight
        return steady_config(service("web", lab.vip[4], pool))

    with PodServer(lab.pods[0], http) as one, PodServer(lab.pods[1], http) as other:
        lbd = daemon(config(1))
        lbd.wait_serving()
        fetch_many(lab.client, lab.vip[4], count=40)

        def exact() -> bool:
            metrics = lbd.metrics()
            for pod, server in zip(lab.pods, (one, other), strict=False):
                assert counted(metrics, "web", endpoint(pod)) == expected(
                    connections_total=server.accepted,
                    received_bytes_total=server.received_bytes,
                    sent_bytes_total=server.sent_bytes,
                )
            return True

        eventually(exact)
        assert lbd.reload(config(3)).returncode == 0
        assert exact(), "the reload changed what was counted"
        metrics = lbd.metrics()
        assert metrics.value("lbd_member_weight", member=endpoint(lab.pods[0])) == 3
        assert metrics.value("lbd_member_effective_weight", member=endpoint(lab.pods[0])) == 3
        before = one.accepted, other.accepted
        fetch_many(lab.client, lab.vip[4], count=40)
        eventually(exact)
        assert abs((one.accepted - before[0]) - 30) <= 3
        assert abs((other.accepted - before[1]) - 10) <= 3


# -- health ------------------------------------------------------------------------------------------------------------


def test_checks_are_counted_as_the_member_saw_them(lab: Lab, daemon: DaemonFactory) -> None:
    """The member counts the requests that it answered; its answer takes 30 ms."""

    def slowly(conn: socket.socket, server: PodServer) -> None:
        conn.recv(4096)
        time.sleep(0.03)
        server.count(received=1)
        conn.sendall(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\n\r\n" % status)

    status = 200
    monitor = {"web": {"type": "http", "port": 81, "interval": "250ms", "timeout": "250ms", "rise": 1, "fall": 1}}
    config = steady_config(service("web", lab.vip[4], members(lab.pods[:1], 4), health_monitors=["web"]))
    config["health_monitors"] = monitor
    labels = {"member": endpoint(lab.pods[0])}
    with PodServer(lab.pods[0], slowly, 81) as checked:
        lbd = daemon(config)
        lbd.wait_serving()
        eventually(lambda: checked.received_bytes >= 5)
        metrics = lbd.metrics()
        assert abs(metrics.value("lbd_member_checks_total", **labels) - checked.received_bytes) <= 1
        assert metrics.value("lbd_member_check_failures_total", **labels) == 0
        assert 0.03 <= metrics.value("lbd_member_check_latency_seconds", **labels) <= 0.25
        assert metrics.value("lbd_member_up", **labels) == 1
        assert metrics.value("lbd_member_check_up", monitor="web", **labels) == 1
        assert metrics.value("lbd_member_health", state="up", **labels) == 1
        assert metrics.value("lbd_virtual_service_members_eligible") == 1
        status = 500
        failed_from = checked.received_bytes
        eventually(lambda: checked.received_bytes >= failed_from + 4)
        metrics = lbd.metrics()
        assert (
            abs(metrics.value("lbd_member_check_failures_total", **labels) - (checked.received_bytes - failed_from))
            <= 1
        )
        assert metrics.value("lbd_member_up", **labels) == 0
        assert metrics.value("lbd_member_check_up", monitor="web", **labels) == 0
        assert metrics.value("lbd_member_health", state="down", **labels) == 1
        assert metrics.value("lbd_member_health_age_seconds", **labels) < 3.0
        assert metrics.value("lbd_virtual_service_members_eligible") == 0
        assert metrics.value("lbd_virtual_service_state", state="no_member_up") == 1


# -- VIPs --------------------------------------------------------------------------------------------------------------


def test_announcements_are_counted_as_they_went_over_the_wire(lab: Lab, daemon: DaemonFactory) -> None:
    with Capture(lab.client, "eth0") as capture, PodServer(lab.pods[0], http):
        lbd = daemon(steady_config(*(service(f"web{n}", lab.vip[n], members(lab.pods[:1], n)) for n in (4, 6))))
        lbd.wait_serving()

        def exact() -> bool:
            metrics = lbd.metrics()
            pairs = capture.seen(Arp, lambda arp: arp.gratuitous and arp.sender_ip == lab.vip[4])
            requests = [arp for arp in pairs if arp.operation == 1]
            unsolicited = capture.seen(
                Neighbor, lambda na: na.type == 136 and not na.solicited and na.target_ip == lab.vip[6]
            )
            said = {vip: metrics.value("lbd_vip_announcements_total", vip=vip) for vip in lab.vip.values()}
            assert said == {lab.vip[4]: len(requests), lab.vip[6]: len(unsolicited)}
            assert len(pairs) == 2 * len(requests)
            return min(said.values()) >= 3

        eventually(exact, 8.0)
        metrics = lbd.metrics()
        for vip in lab.vip.values():
            assert metrics.value("lbd_vip_owned", vip=vip, interface="front") == 1
            assert metrics.value("lbd_vip_state", vip=vip, state="owned") == 1
            assert metrics.value("lbd_vip_adopted", vip=vip) == 0


# -- processes ---------------------------------------------------------------------------------------------------------


def test_descriptors_are_counted_as_the_kernel_counts_them(lab: Lab, daemon: DaemonFactory) -> None:
    with PodServer(lab.pods[0], echo):
        lbd = daemon(steady_config(service("echo", lab.vip[4], members(lab.pods[:1], 4))))
        status = lbd.wait_serving()
        limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]  # the daemon raises its own to the hard one

        def exact() -> bool:
            metrics = lbd.metrics()
            for worker in status["workers"]:
                label = str(worker["index"])
                used = metrics.value("lbd_worker_descriptors_used", worker=label)
                assert used == descriptors(worker["pid"]), (used, os.listdir(f"/proc/{worker['pid']}/fd"))
                assert metrics.value("lbd_worker_descriptors_limit", worker=label) == limit
            assert metrics.value("lbd_process_descriptors_limit") == limit
            # The scrape's own connection is open while it is counted.
            assert 0 <= metrics.value("lbd_process_descriptors_used") - descriptors(lbd.pid) <= 1
            return True

        eventually(exact)
        before = lbd.metrics().total("lbd_worker_descriptors_used")
        held = [Held(lab.client, lab.vip[4]) for _ in range(25)]
        assert all(each.works() for each in held)
        eventually(lambda: lbd.metrics().total("lbd_worker_descriptors_used") == before + 50)
        eventually(exact)
        for each in held:
            each.close()
        eventually(lambda: lbd.metrics().total("lbd_worker_descriptors_used") == before)


def test_workers_restarts_and_states_are_told(lab: Lab, daemon: DaemonFactory) -> None:
    lbd = daemon(steady_config(service("web", lab.vip[4], members(lab.pods[:1], 4))))
    pids = {worker["index"]: worker["pid"] for worker in lbd.wait_serving()["workers"]}
    metrics = lbd.metrics()
    assert metrics.value("lbd_process_workers") == metrics.value("lbd_process_workers_running") == 2
    assert metrics.total("lbd_worker_restarts_total") == 0
    os.kill(pids[1], signal.SIGKILL)
    wait_dead(pids[1])

    def restarted() -> bool:
        metrics = lbd.metrics()
        assert metrics.value("lbd_worker_restarts_total", worker="1") == 1
        assert metrics.value("lbd_worker_state", worker="1", state="running") == 1
        assert metrics.value("lbd_process_workers_running") == 2
        wanted = metrics.value("lbd_process_wanted_generation")
        assert metrics.value("lbd_process_applied_generation") == wanted == metrics.value("lbd_config_generation")
        return all(metrics.value("lbd_worker_generation", worker=str(index)) == wanted for index in pids)

    eventually(restarted, 10.0)
    metrics = lbd.metrics()
    assert metrics.value("lbd_worker_restarts_total", worker="0") == 0
    assert metrics.total("lbd_worker_capabilities") == 0
    assert metrics.total("lbd_worker_accepting") == 2
    assert metrics.value("lbd_process_state", state="running") == 1


def test_a_worker_that_stood_still_shows_in_its_loop_lag(lab: Lab, daemon: DaemonFactory) -> None:
    """Stopped for 300 ms, its timer of 100 ms is 200 to 300 ms late."""
    lbd = daemon(steady_config(service("web", lab.vip[4], members(lab.pods[:1], 4))))
    stopped, other = lbd.wait_serving()["workers"]

    def lag() -> tuple[float, float, float]:
        metrics = lbd.metrics()
        label = str(stopped["index"])
        return (
            metrics.value("lbd_worker_loop_lag_seconds", worker=label),
            metrics.value("lbd_worker_loop_lag_seconds", worker=str(other["index"])),
            metrics.value("lbd_worker_heartbeat_age_seconds", worker=label),
        )

    usual, _, _ = lag()
    assert 0.0 <= usual < 0.2
    with Sampler(lag, 0.005) as seen:
        os.kill(stopped["pid"], signal.SIGSTOP)
        try:
            time.sleep(0.3)  # the time is what is measured
        finally:
            os.kill(stopped["pid"], signal.SIGCONT)
        eventually(lambda: any(sample[0] >= 0.15 for _, sample in seen.samples), 1.0)
        eventually(lambda: lag()[0] < 0.1)
    worst = max(sample[0] for _, sample in seen.samples)
    assert 0.15 <= worst < 0.6
    assert 0.2 <= max(sample[2] for _, sample in seen.samples) < 0.6
    assert max(sample[1] for _, sample in seen.samples) < worst
    assert 0.0 <= lbd.metrics().value("lbd_process_loop_lag_seconds") < 1.0
    assert lbd.metrics().total("lbd_worker_restarts_total") == 0


# -- configuration -----------------------------------------------------------------------------------------------------


def test_reloads_are_told_with_their_result_and_time(lab: Lab, daemon: DaemonFactory) -> None:
    def config(weight: int) -> dict[str, Any]:
        return steady_config(service("web", lab.vip[4], [{**members(lab.pods[:1], 4)[0], "weight": weight}]))

    def shown() -> dict[str, float]:
        metrics = lbd.metrics()
        values = {
            what: metrics.value(f"lbd_config_{what}")
            for what in (
                "generation",
                "reload_success",
                "errors",
                "last_reload_timestamp_seconds",
                "last_success_timestamp_seconds",
            )
        }
        for result in ("success", "failure"):
            values[result] = metrics.value("lbd_config_reloads_total", result=result)
        return values

    lbd = daemon(config(1))
    lbd.wait_serving()
    first = shown()
    assert (first["reload_success"], first["errors"], first["success"], first["failure"]) == (1, 0, 0, 0)
    begun = time.time()
    assert lbd.reload(config(2)).returncode == 0
    good = shown()
    assert good["generation"] == first["generation"] + 1
    assert (good["reload_success"], good["errors"], good["success"], good["failure"]) == (1, 0, 1, 0)
    assert begun <= good["last_reload_timestamp_seconds"] == good["last_success_timestamp_seconds"] <= time.time()
    bad = config(2)
    bad["virtual_services"][0]["port"] = 70000
    bad["virtual_services"][0]["pool"]["members"][0]["weight"] = 0
    begun = time.time()
    refused = lbd.reload(bad)
    assert refused.returncode == 78
    after = shown()
    assert (after["reload_success"], after["success"], after["failure"]) == (0, 1, 1)
    assert after["errors"] == len(re.findall(r"lbd\.yaml:\d+:\d+: ", refused.stderr)) == 2
    assert after["generation"] == good["generation"]
    assert begun <= after["last_reload_timestamp_seconds"] <= time.time()
    assert after["last_success_timestamp_seconds"] == good["last_success_timestamp_seconds"]
    assert lbd.metrics().value("lbd_process_problems") >= 1


def test_the_running_daemon_serves_every_metric_of_the_reference_and_no_other(lab: Lab, daemon: DaemonFactory) -> None:
    with PodServer(lab.pods[0], http):
        behind = members(lab.pods[:1], 4)
        names = {**service("names", lab.vip[4], behind, 53), "protocol": "udp"}
        lbd = daemon(steady_config(service("web", lab.vip[4], behind), names))
        lbd.wait_serving()
        documented = set(re.findall(r"^\| `((?:lbd|process)_\w+)` \|", REFERENCE.read_text(), re.MULTILINE))
        documented = {name for name in documented if not name.startswith("lbd_kubernetes_")}  # without a cluster: none
        served = {sample.name for sample in lbd.metrics().samples}
        assert served == documented
        assert len(documented) > 60
