"""Members that refuse, vanish, flap, answer wrongly and come back, and what clients notice of it: nothing."""

from __future__ import annotations

import itertools
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from kit_lifecycle import Held, members, peek, service
from kit_relay import RESET, STEADY, how_it_ends, steady_config
from lab_clients import OK, Load, fetch_many
from lab_daemon import Daemon, DaemonFactory
from lab_servers import PodServer, echo, full_backlog, http
from lab_wait import eventually
from lbd.cli.demo.lab import Lab, Pod

CERTIFICATE = Path(__file__).parents[1] / "unit" / "health" / "certificate.pem"
"""Self-signed, with its key: nothing here needs a tool that makes one."""


def with_monitors(monitors: dict[str, dict[str, Any]], *services: dict[str, Any], **engine: object) -> dict[str, Any]:
    """Return a configuration with these monitors beside the steady one."""
    config = steady_config(*services, **engine)
    config["health_monitors"] = {**STEADY, **monitors}
    return config


def member_of(lbd: Daemon, pod: Pod, name: str = "web", family: int = 4) -> dict[str, Any]:
    """Return what `lbd status --json` says of a Pod as a member."""
    member: dict[str, Any] = peek(lbd).member(name, pod.address[family])
    return member


class Answers:
    """An HTTP server for health checks that answers with `status`, or with the next one of `script`, and counts."""

    def __init__(self, status: int = 200, script: Iterator[int] | None = None) -> None:
        self.status = status
        self.script = script
        self.given: list[int] = []

    def __call__(self, conn: socket.socket, server: PodServer) -> None:
        request = b""
        while not request.endswith(b"\r\n\r\n"):
            chunk = conn.recv(4096)
            if not chunk:
                return
            request += chunk
        status = next(self.script) if self.script is not None else self.status
        self.given.append(status)
        conn.sendall(b"HTTP/1.1 %d X\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" % status)


# -- at 200 connections a second ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failing", "how", "family"),
    [(1, "refuses", 4), (1, "vanishes", 6), (2, "vanishes", 4)],
    ids=["one-refuses-ipv4", "one-is-a-black-hole-ipv6", "two-are-black-holes-ipv4"],
)
def test_members_that_fail_cost_no_client_an_error_and_none_longer_than_the_connect_timeout(
    lab: Lab, daemon: DaemonFactory, failing: int, how: str, family: int
) -> None:
    """The monitor looks every 5 s: what clients notice until then is up to the relay and the failures that it saw."""
    connect_s = 1.0
    slow = {"slow": {"type": "tcp", "interval": "5s", "timeout": "2s"}}
    one = service(
        "web", lab.vip[family], members(lab.pods, family), timeouts={"connect": "1s"}, health_monitors=["slow"]
    )
    with ExitStack() as stack:
        servers = [stack.enter_context(PodServer(pod, http)) for pod in lab.pods]
        lbd = daemon(with_monitors(slow, one))
        lbd.wait_serving()
        with Load(lab.client, lab.vip[family], rate_per_s=200) as load:
            eventually(lambda: len(load.result.outcomes) >= 100, 10.0)
            for server in servers[:failing]:
                server.stop() if how == "refuses" else server.black_hole()
            failed_s = time.monotonic()
            time.sleep(10.0)  # the load is what is tried
        result = load.result.started_since(failed_s)
        assert len(result.outcomes) >= 1500
        assert result.kinds == {OK: len(result.outcomes)}, result.failures[:5]
        assert result.worst_latency_s <= connect_s + 1.0
        healthy = {pod.name for pod in lab.pods[failing:]}
        assert set(result.answers) <= healthy if how == "refuses" else set(result.answers) >= healthy
        for pod in lab.pods[:failing]:
            assert member_of(lbd, pod, family=family)["health"] == "down"
        web = peek(lbd).service("web")["traffic"]
        assert web["retries_total"] >= failing
        assert web["unserved_total"] == 0


def test_a_member_whose_queue_is_full_costs_a_client_no_more_than_the_connect_timeout(
    lab: Lab, daemon: DaemonFactory
) -> None:
    one = service("web", lab.vip[4], members(lab.pods[:2], 4), timeouts={"connect": "1s"})
    with full_backlog(lab.pods[0]), PodServer(lab.pods[1], http):
        lbd = daemon(steady_config(one))
        lbd.wait_serving()
        load = fetch_many(lab.client, lab.vip[4], count=20, concurrency=20)
        assert load.kinds == {OK: 20}, load.failures[:3]
        assert set(load.answers) == {lab.pods[1].name}
        assert load.worst_latency_s <= 2.0
        assert peek(lbd).service("web")["traffic"]["connect_errors_total"]["timed_out"] >= 5


# -- up and down -------------------------------------------------------------------------------------------------------


def test_a_down_member_gets_no_new_connection_keeps_the_old_ones_and_returns_after_rise_checks(
    lab: Lab, daemon: DaemonFactory
) -> None:
    """Its own port would serve all the time: only the check, on another port, says that it should not."""
    monitor = {"web": {"type": "http", "port": 81, "interval": "200ms", "timeout": "200ms", "rise": 3, "fall": 2}}
    one = service("web", lab.vip[4], members(lab.pods, 4), health_monitors=["web"])
    sick, answers = lab.pods[0], Answers()
    address = f"{sick.address[4]}:80"
    with ExitStack() as stack:
        servers = [stack.enter_context(PodServer(pod, echo)) for pod in lab.pods]
        stack.enter_context(PodServer(sick, answers, 81))
        for pod in lab.pods[1:]:
            stack.enter_context(PodServer(pod, Answers(), 81))
        lbd = daemon(with_monitors(monitor, one))
        lbd.wait_serving()
        held = [Held(lab.client, lab.vip[4]) for _ in range(9)]
        assert all(each.works() for each in held)
        assert servers[0].open == 3
        mark = lbd.log.mark()
        answers.status = 503
        lbd.log.wait_for("member_down", since=mark, member=address, monitor="web")
        seen = eventually(lambda: (m := member_of(lbd, sick))["eligible"] is False and m)
        assert seen["health"] == "down"
        assert "unexpected_status (503)" in seen["reason"]
        accepted = servers[0].accepted
        more = [Held(lab.client, lab.vip[4]) for _ in range(60)]
        assert all(each.works() for each in more)
        assert servers[0].accepted == accepted
        assert all(each.works() for each in held), "a connection of the member that went down was touched"
        assert servers[0].open == 3
        answers.given.clear()
        answers.status = 200
        lbd.log.wait_for("member_up", since=mark, member=address)
        assert answers.given.count(200) == 3, answers.given
        eventually(lambda: member_of(lbd, sick)["eligible"])
        again = [Held(lab.client, lab.vip[4]) for _ in range(9)]
        assert all(each.works() for each in again)
        assert abs(servers[0].accepted - accepted - 3) <= 3
        assert servers[0].accepted > accepted
        for each in (*held, *more, *again):
            each.close()


@pytest.mark.parametrize("first", [200, 503], ids=["in", "out"])
def test_a_member_that_flaps_within_rise_and_fall_stays_as_it_is(lab: Lab, daemon: DaemonFactory, first: int) -> None:
    """Two of three checks say the opposite of what it is; it would take three in a row."""
    other = 503 if first == 200 else 200
    answers = Answers(script=itertools.chain([first], itertools.cycle([other, other, first])))
    monitor = {"web": {"type": "http", "port": 81, "interval": "100ms", "timeout": "100ms", "rise": 3, "fall": 3}}
    one = service("web", lab.vip[4], members(lab.pods[:1], 4), health_monitors=["web"])
    with PodServer(lab.pods[0], http), PodServer(lab.pods[0], answers, 81):
        lbd = daemon(with_monitors(monitor, one))
        eventually(lambda: len(answers.given) >= 20, 15.0)
        health, eligible = ("up", True) if first == 200 else ("down", False)
        member = member_of(lbd, lab.pods[0])
        assert (member["health"], member["eligible"]) == (health, eligible)
        changes = [record["event"] for record in lbd.log.records if record["event"] in ("member_up", "member_down")]
        assert changes == [f"member_{health}"]
        if eligible:
            assert fetch_many(lab.client, lab.vip[4], count=5).kinds == {OK: 5}


def test_the_first_result_decides_at_start(lab: Lab, daemon: DaemonFactory) -> None:
    """Neither rise nor fall nor the interval is waited for."""
    monitor = {"late": {"type": "tcp", "interval": "1m", "timeout": "500ms", "rise": 5, "fall": 5}}
    good, refusing, silent = lab.pods
    one = service("web", lab.vip[4], members(lab.pods, 4), health_monitors=["late"])
    with PodServer(good, http), PodServer(silent, http) as hole:
        hole.black_hole()
        lbd = daemon(with_monitors(monitor, one))
        lbd.wait_serving(5.0)
        assert fetch_many(lab.client, lab.vip[4], count=20).answers == {good.name: 20}
        seen = {pod.name: member_of(lbd, pod) for pod in lab.pods}
        assert [seen[pod.name]["health"] for pod in lab.pods] == ["up", "down", "down"]
        assert [seen[pod.name]["monitors"][0]["checks_total"] for pod in lab.pods] == [1, 1, 1]
        assert "connect_refused" in seen[refusing.name]["reason"]
        assert "connect_timeout" in seen[silent.name]["reason"]


# -- passive failures --------------------------------------------------------------------------------------------------


def test_failures_that_the_relay_saw_take_a_member_out_before_the_monitor_and_the_monitor_brings_it_back(
    lab: Lab, daemon: DaemonFactory
) -> None:
    monitor = {"slow": {"type": "tcp", "interval": "2s", "timeout": "1s", "rise": 2, "fall": 3, "jitter": "0%"}}
    one = service("web", lab.vip[4], members(lab.pods[:2], 4), health_monitors=["slow"])
    failing = lab.pods[0]
    with PodServer(failing, http) as server, PodServer(lab.pods[1], http):
        lbd = daemon(with_monitors(monitor, one))
        lbd.wait_serving()
        with Load(lab.client, lab.vip[4], rate_per_s=100) as load:
            eventually(lambda: len(load.result.outcomes) >= 20)
            mark = lbd.log.mark()
            server.stop()
            stopped_s = time.monotonic()
            down = lbd.log.wait_for("member_down", since=mark)
            took_s = time.monotonic() - stopped_s
            assert (down["monitor"], down["reason"]) == ("traffic", "connect_refused")
            assert 0.2 <= took_s < 2.0, "three failures, 100 ms apart; the monitor alone would need 4 s or more"
            member = member_of(lbd, failing)
            assert (member["passive_failures"], member["eligible"]) == (3, False)
            assert "traffic: connect_refused" in member["reason"]
            server.start()
            lbd.log.wait_for("member_up", since=mark, timeout_s=10.0)
            assert time.monotonic() - stopped_s >= 2.0, "one check can't be enough: rise is 2"
            assert member_of(lbd, failing)["passive_failures"] == 0
        assert load.result.started_since(stopped_s + 0.1).kinds.keys() == {OK}


def test_at_most_one_failure_in_100_ms_counts_over_all_workers(lab: Lab, daemon: DaemonFactory) -> None:
    """The steady monitor would need 100 of them, and forgets none."""
    one = service("web", lab.vip[4], members(lab.pods[:2], 4))
    with PodServer(lab.pods[1], http):
        lbd = daemon(steady_config(one))
        lbd.wait_serving()
        begun_s = time.monotonic()
        with Load(lab.client, lab.vip[4], rate_per_s=300) as load:
            time.sleep(2.0)  # the time is what is counted in
        lasted_s = time.monotonic() - begun_s
        assert load.result.kinds.keys() == {OK}
        member = member_of(lbd, lab.pods[0])
        assert member["traffic"]["connect_errors_total"]["refused"] >= 200
        assert 8 <= member["passive_failures"] <= lasted_s / 0.1 + 1
        assert (member["health"], member["eligible"]) == ("up", True)


def test_errors_of_our_own_side_never_count_against_a_member(lab: Lab, daemon: DaemonFactory) -> None:
    """Ten source ports are left: the eleventh connection to the member finds none."""
    one = service("web", lab.vip[4], members(lab.pods[:1], 4), timeouts={"connect": "1s"})
    with PodServer(lab.pods[0], echo) as server:
        lbd = daemon(steady_config(one))
        lbd.wait_serving()
        lab.se.set_sysctl("net/ipv4/ip_local_port_range", "40000 40009")
        held = [Held(lab.client, lab.vip[4]) for _ in range(10)]
        assert all(each.works() for each in held)
        ends = [how_it_ends(lab.client, lab.vip[4]) for _ in range(30)]
        assert ends == [(b"", RESET)] * 30
        eventually(lambda: peek(lbd).service("web")["traffic"]["unserved_total"] == 30)
        assert all(each.works() for each in held)
        member = member_of(lbd, lab.pods[0])
        errors = member["traffic"]["connect_errors_total"]
        assert errors == {**dict.fromkeys(errors, 0), "local": 30}
        assert (member["passive_failures"], member["health"], member["eligible"]) == (0, "up", True)
        lab.se.set_sysctl("net/ipv4/ip_local_port_range", "1024 65535")
        for each in held:
            each.close()
        assert Held(lab.client, lab.vip[4]).works()
        assert server.accepted == 11


# -- health monitors, end to end ---------------------------------------------------------------------------------------


class Speaker:
    """Answers a line with another one; `word` can be changed."""

    def __init__(self, word: bytes) -> None:
        self.word = word

    def __call__(self, conn: socket.socket, server: PodServer) -> None:
        if conn.recv(100):
            conn.sendall(self.word)


class Secure:
    """`answers` over TLS, or in plain text."""

    def __init__(self, answers: Answers) -> None:
        self.answers = answers
        self.plain = False
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(CERTIFICATE)

    def __call__(self, conn: socket.socket, server: PodServer) -> None:
        if self.plain:
            conn.recv(1000)
            conn.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
            return
        with self._context.wrap_socket(conn, server_side=True) as secured:
            self.answers(secured, server)


QUICK = {"interval": "150ms", "timeout": "150ms", "rise": 2, "fall": 2}


def test_each_kind_of_check_takes_a_member_out_with_its_reason_and_brings_it_back(
    lab: Lab, daemon: DaemonFactory, family: int
) -> None:
    """One service for each kind: its member is a port that only serves, checked on another."""
    plain, secret, speaker = Answers(), Answers(), Speaker(b"PONG\n")
    secure = Secure(secret)
    monitors = {
        "http": {"type": "http", "port": 8080, "path": "/healthz", **QUICK},
        "https": {"type": "https", "port": 8443, "interval": "400ms", "timeout": "400ms", "rise": 1, "fall": 1},
        "talk": {"type": "tcp", "port": 8000, "send": "PING\n", "expect": "PONG", **QUICK},
        "tcp": {"type": "tcp", **QUICK},
        "ping": {"type": "ping", **QUICK},
    }
    pod, pinged = lab.pods[:2]
    services = [
        service(
            name,
            lab.vip[family],
            members([pinged if name == "ping" else pod], family),
            80 + place,
            health_monitors=[name],
        )
        for place, name in enumerate(monitors)
    ]
    with ExitStack() as stack:
        serving = stack.enter_context(PodServer(pod, http))
        stack.enter_context(PodServer(pinged, http))
        for handler, port in ((plain, 8080), (secure, 8443), (speaker, 8000)):
            stack.enter_context(PodServer(pod, handler, port))
        lbd = daemon(with_monitors(monitors, *services))
        lbd.wait_serving()

        def went(name: str, health: str, reason: str = "") -> None:
            """Wait until the service's member is `health`, for this reason, and its clients notice."""
            place = list(monitors).index(name)
            member = pinged if name == "ping" else pod

            def seen() -> bool:
                status = member_of(lbd, member, name, family)
                assert (status["health"], status["eligible"]) == (health, health == "up"), status
                assert reason in status["health_reason"], status
                assert reason in status["reason"], status
                return True

            eventually(seen, 6.0, f"{name} is {health} {reason}")
            load = fetch_many(lab.client, lab.vip[family], 80 + place, count=2)
            if health == "up":
                assert load.answers == {member.name: 2}
            else:
                eventually(lambda: OK not in fetch_many(lab.client, lab.vip[family], 80 + place, count=1).kinds)

        for name in monitors:
            went(name, "up")
        plain.status, secret.status, speaker.word = 503, 404, b"NOPE\n"
        lab.black_hole(pinged)
        went("http", "down", "http: unexpected_status (503)")
        went("https", "down", "https: unexpected_status (404)")
        went("talk", "down", "talk: unexpected_answer")
        went("ping", "down", "ping: answer_timeout")
        went("tcp", "up")
        table = lbd.cli("status", "--socket", str(lbd.directory / "admin.sock"))
        for reason in ("unexpected_status (503)", "unexpected_status (404)", "unexpected_answer", "answer_timeout"):
            assert reason in " ".join(table.stdout.split()), table.stdout
        plain.status, secret.status, speaker.word = 204, 200, b"PONG\n"
        lab.end_black_hole(pinged)
        for name in monitors:
            went(name, "up")
        secure.plain = True
        serving.stop()
        went("https", "down", "https: tls_failed")
        went("tcp", "down", "tcp: connect_refused")
        secure.plain = False
        serving.start()
        went("https", "up")
        went("tcp", "up")
