"""What a reload, a change of health and an administrative state do to connections, queued, new and established."""

from __future__ import annotations

import os
import signal
import time
from typing import Any

import pytest

from kit_lifecycle import (
    Held,
    addresses,
    config,
    hold_working,
    is_refused,
    members,
    peek,
    service,
    workers,
)
from lab_clients import OK, Load, connect, fetch, fetch_many, hold_many, receive_all
from lab_daemon import Daemon, DaemonFactory
from lab_servers import PodServer, echo, greet_and_hold, http
from lab_wait import eventually
from lbd.cli.demo.lab import Lab

OTHER_VIP = {4: "172.16.101.151", 6: "fd00:101::151"}


def reload_and_wait(lbd: Daemon, wanted: dict[str, Any], by: str = "command") -> None:
    """Have the daemon take over a configuration, by `lbd reload` or by SIGHUP, and wait till it runs everywhere."""
    generation = peek(lbd)["config"]["generation"]
    if by == "command":
        done = lbd.reload(wanted)
        assert (done.returncode, done.stdout) == (0, f"generation {generation + 1} runs\n"), done.stderr
    else:
        lbd.write_config(wanted)
        lbd.signal(signal.SIGHUP)
    status = eventually(lambda: applied(lbd, generation + 1))
    assert status["config"]["last_reload_success"]


def applied(lbd: Daemon, generation: int) -> Any:
    """Return the status once every worker runs a generation and every VIP is owned."""
    status = peek(lbd)
    assert status["applied_generation"] == status["generation"] == generation
    assert status.serving
    return status


# -- twenty reloads ----------------------------------------------------------------------------------------------------


def twenty_configs(lab: Lab, family: int) -> list[dict[str, Any] | None]:
    """Return 20 configurations, one of them bad (None): members and services come, go and change their weight."""
    first, second, third = (members([pod], family) for pod in lab.pods)
    heavy = [{**third[0], "weight": 7}]
    steady = service("steady", lab.vip[family], members(lab.pods[:1], family, 81), port=81)
    beside = service("beside", lab.vip[family], members(lab.pods[1:2], family), port=82)
    elsewhere = service("elsewhere", OTHER_VIP[family], members(lab.pods[2:], family))

    def web(*pools: list[dict[str, Any]], **more: object) -> dict[str, Any]:
        return service("web", lab.vip[family], [member for pool in pools for member in pool], **more)

    wanted: list[dict[str, Any] | None] = [
        config(steady, web(first, second, third)),
        config(steady, web(second, third), beside),
        config(steady, web(third, second), beside, elsewhere),
        config(steady, web(heavy, second), elsewhere),
        config(web(first, heavy, algorithm="least_connections"), steady),
        config(steady, web(first, second, algorithm="consistent_hash"), beside),
        config(steady, web(first, second, third, algorithm="consistent_hash")),
        config(steady, web(first, second), elsewhere, beside),
        config(steady, web(second)),
        config(steady, web(first)),
    ] * 2
    wanted[11] = None
    return wanted


def test_twenty_reloads_at_200_connections_per_s_refuse_nobody_and_close_nothing_unrelated(
    lab: Lab, daemon: DaemonFactory, family: int
) -> None:
    with (
        PodServer(lab.pods[0], http),
        PodServer(lab.pods[1], http),
        PodServer(lab.pods[2], http),
        PodServer(lab.pods[0], echo, port=81),
    ):
        steps = twenty_configs(lab, family)
        assert steps[0] is not None
        lbd = daemon(steps[-1])
        unrelated = hold_working(lab.client, lab.vip[family], 10, port=81)
        keep_alive = [KeepAlive(lab, family) for _ in range(6)]
        with Load(lab.client, lab.vip[family], rate_per_s=200) as load:
            for number, wanted in enumerate(steps):
                begun = len(load.result.outcomes)
                if wanted is None:
                    refuse_a_bad_file(lbd)
                else:
                    reload_and_wait(lbd, wanted, by="signal" if number % 2 else "command")
                assert all(one.answers() for one in keep_alive), (
                    f"reload {number} closed a connection of a removed member"
                )
                eventually(lambda: len(load.result.outcomes) > begun + 10)  # noqa: B023
        result = load.stop()
        assert result.kinds == {OK: len(result.outcomes)}, result.failures[:5]
        assert set(result.answers) == {pod.name for pod in lab.pods}
        assert all(one.works() for one in unrelated)
        status = peek(lbd)
        assert status["config"]["generation"] == 20  # 1 at the start, 19 good reloads
        assert status["config"]["reloads_total"] == 20
        assert status["config"]["reload_failures_total"] == 1
        assert {worker["restarts_total"] for worker in status["workers"]} == {0}
        counted = status.service("web")["traffic"]["connections_total"]
        assert counted == len(result.outcomes) + len(keep_alive)
        for one in [*unrelated, *keep_alive]:
            one.close()


class KeepAlive(Held):
    """A connection to an http server that stays open between requests."""

    def __init__(self, lab: Lab, family: int) -> None:
        super().__init__(lab.client, lab.vip[family])

    def answers(self) -> bool:
        """Send a request and tell whether a Pod answered it."""
        self.conn.sendall(b"GET / HTTP/1.1\r\nHost: lab\r\n\r\n")
        return self.conn.recv(4096).startswith(b"HTTP/1.1 200 OK\r\n")


def refuse_a_bad_file(lbd: Daemon) -> None:
    """Reload a bad file and see that it is logged with its place, shown, and changes nothing."""
    before = peek(lbd)
    mark = lbd.log.mark()
    done = lbd.reload("virtual_services:\n  - {name: web, port: eighty}\n")
    place = f"{lbd.config_path}:2:23: virtual_services[0].port: "
    assert done.returncode == 78
    assert place in done.stderr
    assert any(record["error"].startswith(place) for record in lbd.log.matching("config_refused", since=mark))
    after = peek(lbd)
    assert any(error.startswith(place) for error in after["config"]["errors"])
    assert not after["config"]["last_reload_success"]
    assert after["config"]["generation"] == after["generation"] == before["generation"]
    assert [item["name"] for item in after["virtual_services"]] == [item["name"] for item in before["virtual_services"]]
    metrics = lbd.metrics()
    assert metrics.value("lbd_config_reload_success") == 0
    assert metrics.value("lbd_config_reloads_total", result="failure") == 1


def test_a_pool_replaced_as_a_whole_resets_nobody_however_late_a_worker_hears_of_it(
    lab: Lab, daemon: DaemonFactory
) -> None:
    """Until the new members' first results are there, new connections wait: none is given to a pool without members."""
    with PodServer(lab.pods[0], http), PodServer(lab.pods[1], http) as late:
        first, second = (config(service("web", lab.vip[4], members([pod], 4))) for pod in lab.pods[:2])
        lbd = daemon(first)
        with Load(lab.client, lab.vip[4], rate_per_s=200) as load:
            eventually(lambda: len(load.result.outcomes) > 20)
            late.black_hole()
            slow = workers(lbd)[0]["pid"]
            os.kill(slow, signal.SIGSTOP)  # shorter than what counts as hung
            try:
                lbd.write_config(second)
                lbd.signal(signal.SIGHUP)
                lbd.log.wait_for("service_updated")
                time.sleep(0.2)
            finally:
                os.kill(slow, signal.SIGCONT)
            assert peek(lbd).service("web")["state"] == "starting"
            late.end_black_hole()
            eventually(lambda: load.result.answers[lab.pods[1].name] > 50)
        result = load.stop()
        assert result.kinds == {OK: len(result.outcomes)}, result.failures[:5]


def test_a_bad_file_changes_nothing_until_a_good_one_comes(lab: Lab, daemon: DaemonFactory) -> None:
    with PodServer(lab.pods[0], http):
        wanted = config(service("web", lab.vip[4], members(lab.pods[:1], 4)))
        lbd = daemon(wanted)
        with connect(lab.client, lab.vip[4]):
            refuse_a_bad_file(lbd)
            mark = lbd.log.mark()
            lbd.signal(signal.SIGHUP)  # the same bad file, the other way
            eventually(
                lambda: any(":2:23: " in record["error"] for record in lbd.log.matching("config_refused", since=mark))
            )
            assert fetch(lab.client, lab.vip[4]) == lab.pods[0].name
            assert lbd.status()["problems"]
            lbd.config_path.unlink()
            assert lbd.reload().returncode == 78
            # What needs a restart is refused too, with the reason, and not taken over half-way.
            done = lbd.reload({**wanted, "service_engine": {"workers": 1}, "virtual_services": []})
            assert done.returncode == 78
            assert "service_engine.workers" in done.stderr
            assert "needs a restart" in done.stderr
            assert fetch(lab.client, lab.vip[4]) == lab.pods[0].name
            reload_and_wait(lbd, wanted)
            assert lbd.metrics().value("lbd_config_reload_success") == 1
            assert peek(lbd)["config"]["errors"] == []
            assert peek(lbd)["problems"] == []


# -- services move and go ----------------------------------------------------------------------------------------------


def test_a_service_moved_to_another_port_drains_the_old_one_and_serves_the_new(lab: Lab, daemon: DaemonFactory) -> None:
    family = 6
    with PodServer(lab.pods[0], echo):
        vip = lab.vip[family]
        pool = members(lab.pods[:1], family)
        lbd = daemon(config(service("echo", vip, pool), drain_timeout="30s"))
        old = hold_working(lab.client, vip, 4)
        reload_and_wait_for_new(lbd, config(service("echo", vip, pool, port=8080), drain_timeout="30s"))
        new = hold_working(lab.client, vip, 4, port=8080)
        eventually(lambda: is_refused(lab.client, vip))
        states = {item["port"]: item["state"] for item in peek(lbd)["virtual_services"]}
        assert states == {80: "draining", 8080: "serving"}
        assert all(one.works() for one in old)
        for one in old:
            one.close()
        lbd.log.wait_for("service_removed", service="echo")
        assert [item["port"] for item in peek(lbd)["virtual_services"]] == [8080]
        assert all(one.works() for one in new)
        assert vip in addresses(lab)


def reload_and_wait_for_new(lbd: Daemon, wanted: dict[str, Any]) -> None:
    """Reload; the old incarnation of a service may drain on."""
    done = lbd.reload(wanted)
    assert done.returncode == 0, done.stderr
    assert peek(lbd)["applied_generation"] == peek(lbd)["generation"]


@pytest.mark.parametrize(("family", "client_closes"), [(4, True), (6, False)], ids=["ipv4-drained", "ipv6-deadline"])
def test_a_service_moved_to_another_vip_keeps_the_old_address_till_it_has_drained(
    lab: Lab, daemon: DaemonFactory, family: int, client_closes: bool
) -> None:
    with PodServer(lab.pods[0], echo):
        old_vip, new_vip = lab.vip[family], OTHER_VIP[family]
        pool = members(lab.pods[:1], family)
        drain_timeout = "30s" if client_closes else "1s"
        lbd = daemon(config(service("echo", old_vip, pool), drain_timeout=drain_timeout))
        (old,) = hold_working(lab.client, old_vip, 1)
        begun_s = time.monotonic()
        reload_and_wait_for_new(lbd, config(service("echo", new_vip, pool), drain_timeout=drain_timeout))
        assert Held(lab.client, new_vip).works()
        if client_closes:
            eventually(lambda: is_refused(lab.client, old_vip))
            assert {old_vip, new_vip} <= set(addresses(lab))
            assert old.works()
            old.close()
        else:
            assert old.how_it_ends() == "reset"
            assert 0.9 < time.monotonic() - begun_s < 3.0
            assert lbd.log.wait_for("connections_reset", service="echo")["reason"] == "drain_timeout"
        lbd.log.wait_for("vip_withdrawn", vip=old_vip)
        assert old_vip not in addresses(lab)
        assert new_vip in addresses(lab)
        assert [vip["address"] for vip in peek(lbd)["vips"]] == [new_vip]


def test_what_is_queued_when_its_service_is_removed_is_served(lab: Lab, daemon: DaemonFactory) -> None:
    family = 6
    with PodServer(lab.pods[0], http):
        pool = members(lab.pods[:1], family)
        stays = service("stays", lab.vip[family], pool, port=81)
        lbd = daemon(config(service("web", lab.vip[family], pool), stays, drain_timeout="20s"))
        pids = [worker["pid"] for worker in workers(lbd).values()]
        for pid in pids:
            os.kill(pid, signal.SIGSTOP)
        try:
            queued = hold_many(lab.client, lab.vip[family], count=300)  # more than a worker accepts at one time
            for conn in queued:
                conn.sendall(b"GET / HTTP/1.1\r\nHost: lab\r\nConnection: close\r\n\r\n")
            lbd.write_config(config(stays, drain_timeout="20s"))
            lbd.signal(signal.SIGHUP)
            lbd.log.wait_for("service_draining", service="web")
            time.sleep(0.3)  # till the workers have been told to let go, which they will read when they go on
        finally:
            for pid in pids:
                os.kill(pid, signal.SIGCONT)
        answers = [receive_all(conn) for conn in queued]
        assert all(answer.endswith(lab.pods[0].name.encode()) for answer in answers)
        for conn in queued:
            conn.close()
        lbd.log.wait_for("service_removed", service="web")
        assert is_refused(lab.client, lab.vip[family])
        assert fetch(lab.client, lab.vip[family], 81) == lab.pods[0].name


def test_a_service_removed_and_added_again_while_it_drains_serves_beside_the_old_one(
    lab: Lab, daemon: DaemonFactory
) -> None:
    with PodServer(lab.pods[0], echo):
        pool = members(lab.pods[:1], 4)
        both = config(
            service("echo", lab.vip[4], pool), service("stays", lab.vip[4], pool, port=81), drain_timeout="20s"
        )
        lbd = daemon(both)
        old = hold_working(lab.client, lab.vip[4], 4)
        done = lbd.reload(config(service("stays", lab.vip[4], pool, port=81), drain_timeout="20s"))
        assert done.returncode == 0
        eventually(lambda: is_refused(lab.client, lab.vip[4]))
        reload_and_wait_for_new(lbd, both)
        new = hold_working(lab.client, lab.vip[4], 4)
        assert all(one.works() for one in old)
        assert sorted(item["state"] for item in peek(lbd)["virtual_services"]) == ["draining", "serving", "serving"]
        # Each incarnation counts its own: nothing of the old one leaks into the new.
        active = {item["state"]: item["traffic"]["active_connections"] for item in peek(lbd)["virtual_services"][::2]}
        assert active == {"serving": 4, "draining": 4}
        for one in old:
            one.close()
        lbd.log.wait_for("service_removed", service="echo")
        assert all(one.works() for one in new)


# -- health ------------------------------------------------------------------------------------------------------------


def test_with_no_member_up_refuse_refuses_keeps_the_address_and_serves_again(
    lab: Lab, daemon: DaemonFactory, family: int
) -> None:
    with PodServer(lab.pods[0], http) as server:
        vip = lab.vip[family]
        lbd = daemon(config(service("web", vip, members(lab.pods[:1], family), health_monitors=["quick"])))
        for _ in range(2):
            server.stop()
            eventually(lambda: peek(lbd).service("web")["state"] == "no_member_up")
            for _ in range(5):
                with pytest.raises(ConnectionRefusedError):
                    connect(lab.client, vip)
            assert peek(lbd).service("web")["reason"] == "no member is up and enabled"
            assert vip in addresses(lab)
            assert peek(lbd).vip(vip)["state"] == "owned"
            server.start()
            lbd.wait_serving()
            assert fetch_many(lab.client, vip, count=20).kinds == {OK: 20}


def test_with_no_member_up_serve_all_tries_the_members(lab: Lab, daemon: DaemonFactory) -> None:
    family = 4
    pool = members(lab.pods[:2], family)
    checked_elsewhere = {"wrong": {"type": "tcp", "interval": "300ms", "timeout": "300ms", "port": 9, "fall": 1}}
    with PodServer(lab.pods[0], http), PodServer(lab.pods[1], http):
        web = service("web", lab.vip[family], pool, on_all_down="serve_all", health_monitors=["wrong"])
        lbd = daemon({"health_monitors": checked_elsewhere, "virtual_services": [web]})
        status = lbd.wait_serving()
        assert {member["health"] for member in status.service("web")["members"]} == {"down"}
        assert "serve_all" in status.service("web")["reason"]
        result = fetch_many(lab.client, lab.vip[family], count=20)
        assert result.kinds == {OK: 20}
        assert set(result.answers) == {pod.name for pod in lab.pods[:2]}


# -- administrative states ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("family", "state"), [(4, "draining"), (6, "disabled")], ids=["ipv4-draining", "ipv6-disabled"]
)
def test_a_member_that_is_draining_or_disabled_gets_no_new_connection_and_keeps_the_old(
    lab: Lab, daemon: DaemonFactory, family: int, state: str
) -> None:
    with PodServer(lab.pods[0], greet_and_hold), PodServer(lab.pods[1], greet_and_hold):
        first, second = members(lab.pods[:2], family)
        vip = lab.vip[family]
        lbd = daemon(config(service("web", vip, [first, second], health_monitors=["quick"])))
        old = [connect(lab.client, vip) for _ in range(12)]
        greetings = [conn.recv(100).decode().strip() for conn in old]
        assert set(greetings) == {pod.name for pod in lab.pods[:2]}
        reload_and_wait(lbd, config(service("web", vip, [{**first, "admin_state": state}, second])))
        member = peek(lbd).member("web", first["address"])
        assert (member["admin_state"], member["eligible"]) == (state, False)
        assert member["reason"] == f"admin_state is {state}"
        new = [connect(lab.client, vip) for _ in range(12)]
        assert {conn.recv(100).decode().strip() for conn in new} == {lab.pods[1].name}
        for conn in old:
            conn.settimeout(0.02)
            with pytest.raises(TimeoutError):  # open, and nothing to say
                conn.recv(1)
        traffic = peek(lbd).member("web", first["address"])["traffic"]
        assert traffic["active_connections"] == greetings.count(lab.pods[0].name)
        reload_and_wait(lbd, config(service("web", vip, [first, second])))
        eventually(lambda: peek(lbd).member("web", first["address"])["eligible"])
        again = [connect(lab.client, vip) for _ in range(12)]
        assert {conn.recv(100).decode().strip() for conn in again} == {pod.name for pod in lab.pods[:2]}
        for conn in [*old, *new, *again]:
            conn.close()


@pytest.mark.parametrize(
    ("family", "state"), [(4, "draining"), (6, "disabled")], ids=["ipv4-draining", "ipv6-disabled"]
)
def test_a_service_that_is_draining_or_disabled_refuses_and_keeps_its_connections(
    lab: Lab, daemon: DaemonFactory, family: int, state: str
) -> None:
    with PodServer(lab.pods[0], echo):
        vip = lab.vip[family]
        pool = members(lab.pods[:1], family)
        lbd = daemon(config(service("echo", vip, pool), drain_timeout="1s"))
        old = hold_working(lab.client, vip, 8)
        done = lbd.reload(config(service("echo", vip, pool, admin_state=state), drain_timeout="1s"))
        assert done.returncode == 0
        eventually(lambda: is_refused(lab.client, vip))
        status = peek(lbd).service("echo")
        assert (status["state"], status["admin_state"]) == (state, state)
        assert vip in addresses(lab)
        time.sleep(1.5)  # longer than drain_timeout, which ends what is removed, not what the operator lets drain
        assert all(one.works() for one in old)
        reload_and_wait(lbd, config(service("echo", vip, pool), drain_timeout="1s"))
        assert Held(lab.client, vip).works()
        assert all(one.works() for one in old)
        for one in old:
            one.close()
