"""L4Rules on a real API server: a running Service changes without a lost connection, and mistakes change nothing."""

from __future__ import annotations

import contextlib
import re
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from kit_cluster import CONFIG, RULE_API, Cluster, ingress
from kit_daemon import FIRST, QUICK_TCP, KubernetesDaemonFactory
from kit_lifecycle import Held, is_refused, peek
from kit_publish import (
    SERVED_WITHIN_S,
    answers,
    eventually_held,
    kubernetes,
    published,
    serving,
    wait_served,
    wait_writing,
)
from kit_said import (
    ADDRESS_CONDITION,
    RULE_ANNOTATION,
    RULE_CONDITION,
    backend,
    reloaded,
    rule_manifest,
    wait_condition,
    wait_event,
    wait_rule,
    with_sections,
)
from lab_clients import Load, connect, fetch, fetch_many
from lab_daemon import Daemon
from lab_servers import echo, greet_and_hold, receive_digest, streams
from lab_wait import eventually
from lbd.cli.demo.api_client import ApiError
from lbd.cli.demo.lab import Lab
from lbd.cli.demo.namespace import Namespace

ALGORITHM, HASH = "LB_ALGORITHM_", "LB_ALGORITHM_CONSISTENT_HASH_"
HASHED = {"lbAlgorithmHash": f"{HASH}SOURCE_IP_ADDRESS"}
RULED = {RULE_ANNOTATION: "rule"}
MONITORS = {"quick": QUICK_TCP}
BAD_MONITOR = 'there is no health monitor "System-Pong"; did you mean System-Ping?'


def example(path: str) -> dict[str, Any]:
    """Return an object of the example that is shipped."""
    found: dict[str, Any] = yaml.safe_load((CONFIG / "example" / Path(path)).read_text())
    return found


class Talker:
    """A client that asks and is answered over one connection all the time, while its `with` block runs. It fails at the
    end if that connection did."""

    def __init__(self, namespace: Namespace, vip: str) -> None:
        self.answers: list[str] = []
        self.error: Exception | None = None
        self._conn = connect(namespace, vip, timeout_s=5.0)
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True, name="talker")

    def __enter__(self) -> Talker:
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        self._stopping.set()
        self._thread.join()
        self._conn.close()
        if kind is None:
            assert self.error is None, f"after {len(self.answers)} answers: {self.error!r}"
            assert self.answers
            assert len(set(self.answers)) == 1

    def _run(self) -> None:
        try:
            while not self._stopping.wait(0.01):
                self._conn.sendall(b"GET / HTTP/1.1\r\nHost: web\r\n\r\n")
                self.answers.append(self._answer())
        except (OSError, EOFError) as error:
            self.error = error

    def _answer(self) -> str:
        answer = b""
        while True:
            chunk = self._conn.recv(65536)
            if not chunk:
                raise EOFError(f"ended after {answer!r}")
            answer += chunk
            head, blank, body = answer.partition(b"\r\n\r\n")
            if blank and len(body) == int(head.lower().partition(b"content-length: ")[2].split()[0]):
                return body.decode()


@contextlib.contextmanager
def nobody_notices(lab: Lab, vip: str, rate_per_s: float = 100) -> Iterator[Load]:
    """Let clients come all the while, and two talk on over connections of before; none of them may fail."""
    with Talker(lab.client, vip), Talker(lab.client, vip), Load(lab.client, vip, rate_per_s=rate_per_s) as load:
        yield load
        done = len(load.result.outcomes)
        eventually(lambda: len(load.result.outcomes) >= done + 20, 5.0, "20 more after the last change")
    assert load.result.failures == []


def wait_algorithm(daemon: Daemon, name: str, algorithm: str) -> None:
    """Wait until every worker balances a virtual service so."""

    def balances() -> bool:
        now = peek(daemon).service(name)
        assert now["algorithm"] == algorithm, now["algorithm"]
        return bool(now["generation"] == now["wanted_generation"])

    eventually(balances, 5.0, f"{name} balances by {algorithm}")


def in_force(daemon: Daemon, name: str) -> tuple[bool, int]:
    """Return whether a rule is accepted as written, and which generation is in force, as `lbd status` says it."""
    found = {one["name"]: (one["accepted"], one["generation_in_force"]) for one in kubernetes(daemon)["rules"]}
    return found[name]


def ruled(cluster: Cluster, spec: dict[str, Any], name: str = "rule") -> dict[str, Any]:
    """Apply a rule that is to be accepted, and return it when it is."""
    return wait_rule(cluster, cluster.apply(rule_manifest(name, spec)), "Accepted")


# -- the example -------------------------------------------------------------------------------------------------------


def test_the_example_changes_everything_of_a_running_service_and_no_client_notices(
    cluster: Cluster, lab: Lab, lbd_kubernetes: KubernetesDaemonFactory, pods: list[str]
) -> None:
    daemon = lbd_kubernetes(cluster, config=example("conf.d/avi-demo-test.yaml"))
    written = example("service.yaml")
    plain = {**written, "metadata": {key: value for key, value in written["metadata"].items() if key != "annotations"}}
    made = cluster.apply(plain)
    cluster.slice("avi-demo-test", pods[:2], [{"name": "http", "port": 80}])
    [vip] = cluster.wait_ingress(made)
    wait_served(lab, vip)
    service = f"{cluster.namespace}/avi-demo-test:80"
    wait_algorithm(daemon, service, "round_robin")
    assert len(answers(lab, vip)) == 2
    with nobody_notices(lab, vip):
        rule = cluster.apply(example("l4rule.yaml"))
        cluster.apply(written)
        wait_rule(cluster, rule, "Accepted")
        in_words = f"generation 1 of L4Rule {cluster.namespace}/my-l4-rule is in force"
        wait_condition(cluster, made, RULE_CONDITION, "True", "Accepted", in_words)
        wait_algorithm(daemon, service, "consistent_hash")
        assert len(answers(lab, vip)) == 1, "one client has one Pod"
        assert {one["name"] for one in peek(daemon).service(service)["members"][0]["monitors"]} == {
            "system-ping",
            "system-tcp",
        }
        daemon.log.wait_for("connection_ended", service=service)

        backends = example("l4rule.yaml")["spec"]["backendProperties"][0]
        del backends["lbAlgorithmHash"], backends["applicationPersistenceProfileRef"]
        for generation, (algorithm, monitor) in enumerate(
            [("LEAST_CONNECTIONS", "System-HTTP"), ("RANDOM", "System-Ping"), ("ROUND_ROBIN", "System-TCP")], 2
        ):
            changed = {**backends, "lbAlgorithm": f"{ALGORITHM}{algorithm}", "healthMonitorRefs": [monitor]}
            cluster.apply({**example("l4rule.yaml"), "spec": {"backendProperties": [changed]}})
            wait_algorithm(daemon, service, algorithm.lower())
            eventually(
                lambda number=generation: in_force(daemon, f"{cluster.namespace}/my-l4-rule") == (True, number), 5.0
            )
        assert len(answers(lab, vip)) == 2
        cluster.apply(plain)
        wait_algorithm(daemon, service, "round_robin")

        cluster.wait_for(
            made,
            lambda now: RULE_CONDITION not in [one["type"] for one in now["status"]["conditions"]],
            what="the condition goes with the annotation",
        )


# -- mistakes ----------------------------------------------------------------------------------------------------------


def test_a_rejected_edit_keeps_what_was_accepted_and_everybody_says_so(
    cluster: Cluster, lab: Lab, second_lab: Lab, lbd_kubernetes: KubernetesDaemonFactory, pods: list[str]
) -> None:
    daemon = lbd_kubernetes(cluster)
    rule = ruled(cluster, backend(**HASHED))
    made, vip = published(cluster, pods, annotations=RULED)
    wait_served(lab, vip)
    service, name = f"{cluster.namespace}/web:80", f"{cluster.namespace}/rule"
    wait_algorithm(daemon, service, "consistent_hash")
    wait_condition(cluster, made, RULE_CONDITION, "True", "Accepted", "generation 1")

    def still_in_force(of: Daemon) -> None:
        eventually(lambda: in_force(of, name) == (False, 1), 5.0, "rejected, the first generation in force")
        wait_algorithm(of, service, "consistent_hash")

    with nobody_notices(lab, vip):
        cluster.apply(rule_manifest("rule", backend(healthMonitorRefs=["System-Pong"])))
        words = (f"spec.backendProperties[0].healthMonitorRefs[0]: {BAD_MONITOR}", "generation 1", "stays in force")
        now = wait_rule(cluster, rule, "Rejected", *words)
        assert (now["status"]["acceptedGeneration"], now["status"]["acceptedSpec"]) == (1, backend(**HASHED))
        assert wait_event(cluster, rule, "RuleRejected", *words)["type"] == "Warning"
        assert wait_event(cluster, made, "RuleRejected", name, *words)["type"] == "Warning"
        wait_condition(cluster, made, RULE_CONDITION, "False", "RuleRejected", *words)
        still_in_force(daemon)
        assert len(answers(lab, vip)) == 1
        shown = daemon.cli("status", "--socket", str(daemon.directory / "admin.sock")).stdout
        assert BAD_MONITOR in shown

    # Who starts now has never seen the good generation.
    second = lbd_kubernetes(cluster, config={"service_engine": {"name": "se-second"}}, in_lab=second_lab)
    still_in_force(second)
    second.close()
    daemon.terminate()
    daemon.wait()
    daemon.start()
    wait_served(lab, vip)
    still_in_force(daemon)
    assert len(answers(lab, vip)) == 1

    with nobody_notices(lab, vip):
        cluster.apply(rule_manifest("rule", backend(lbAlgorithm=f"{ALGORITHM}ROUND_ROBIN")))
        now = wait_rule(cluster, rule, "Accepted")
        assert (now["status"]["error"], now["status"]["acceptedGeneration"]) == ("", 3)
        wait_algorithm(daemon, service, "round_robin")
        wait_condition(cluster, made, RULE_CONDITION, "True", "Accepted", "generation 3")
        assert in_force(daemon, name) == (True, 3)


def test_edits_that_come_faster_than_they_are_written_end_in_one_that_all_agree_on(
    cluster: Cluster, lab: Lab, lbd_kubernetes: KubernetesDaemonFactory, pods: list[str]
) -> None:
    daemon = lbd_kubernetes(cluster)
    algorithms = {"RANDOM": backend(lbAlgorithm=f"{ALGORITHM}RANDOM"), "CONSISTENT_HASH": backend(**HASHED)}
    rule = ruled(cluster, algorithms["RANDOM"])
    made, vip = published(cluster, pods, annotations=RULED)
    wait_served(lab, vip)
    with nobody_notices(lab, vip):
        for _ in range(6):
            for spec in algorithms.values():
                cluster.apply(rule_manifest("rule", spec))
                cluster.apply(rule_manifest("rule", {"vsDatascriptRefs": ["script"]}))
        status = wait_rule(cluster, rule, "Rejected", "spec.vsDatascriptRefs", "stays in force")["status"]
        [algorithm] = [name for name, spec in algorithms.items() if spec == status["acceptedSpec"]]
        wait_algorithm(daemon, f"{cluster.namespace}/web:80", algorithm.lower())
        assert in_force(daemon, f"{cluster.namespace}/rule") == (False, status["acceptedGeneration"])
        said = f"generation {status['acceptedGeneration']}, which was accepted, stays in force"
        wait_condition(cluster, made, RULE_CONDITION, "False", "RuleRejected", said)


def test_a_rule_that_was_never_right_leaves_the_defaults_and_a_missing_one_too(
    cluster: Cluster, lab: Lab, lbd_kubernetes: KubernetesDaemonFactory, pods: list[str]
) -> None:
    daemon = lbd_kubernetes(cluster)
    made, vip = published(cluster, pods, annotations=RULED)
    service = f"{cluster.namespace}/web:80"
    wait_served(lab, vip)
    wait_condition(cluster, made, RULE_CONDITION, "False", "RuleNotFound", "the defaults hold")
    wait_event(cluster, made, "RuleNotFound", f"there is no L4Rule {cluster.namespace}/rule")
    wait_algorithm(daemon, service, "round_robin")
    with nobody_notices(lab, vip):
        rule = cluster.apply(rule_manifest("rule", {"vsDatascriptRefs": ["script"], **backend(**HASHED)}))
        wait_rule(cluster, rule, "Rejected", "spec.vsDatascriptRefs", "runs no scripts", "no generation of this rule")
        wait_condition(cluster, made, RULE_CONDITION, "False", "RuleRejected", "spec.vsDatascriptRefs")
        assert in_force(daemon, f"{cluster.namespace}/rule") == (False, 0)
        wait_algorithm(daemon, service, "round_robin")
        ruled(cluster, backend(**HASHED))
        wait_algorithm(daemon, service, "consistent_hash")
        cluster.delete(rule)
        wait_condition(cluster, made, RULE_CONDITION, "False", "RuleNotFound")
        wait_algorithm(daemon, service, "round_robin")
        again = ruled(cluster, {"vsDatascriptRefs": []})
        assert again["status"]["acceptedGeneration"] == 1


def test_the_same_again_is_counted_in_the_same_event(cluster: Cluster, lbd_kubernetes: KubernetesDaemonFactory) -> None:
    daemon = lbd_kubernetes(cluster)
    rule = cluster.apply(rule_manifest("rule", {"vsDatascriptRefs": ["script"]}))
    made = cluster.service("web", annotations=RULED)
    wait_event(cluster, rule, "RuleRejected")
    first = wait_event(cluster, made, "RuleRejected")
    assert first["count"] == 1
    daemon.terminate()
    daemon.wait()
    daemon.start()

    def counted() -> dict[str, Any]:
        (event,) = cluster.events_of(made, "RuleRejected")
        assert event["count"] == 2, event
        return event

    assert eventually(counted, 10.0, "the count grows")["metadata"]["uid"] == first["metadata"]["uid"]
    assert len(cluster.events_of(rule, "RuleRejected")) == 1


@pytest.mark.parametrize(
    ("spec", "where"),
    [
        ({"performanceLimits": {"maxThroughput": "fast"}}, "spec.performanceLimits.maxThroughput"),
        ({"performanceLimits": {"maxConcurrentConnections": 65536}}, "spec.performanceLimits.maxConcurrentConnections"),
        ({"backendProperties": {"port": 80}}, "spec.backendProperties"),
        (backend(0), "spec.backendProperties[0].port"),
        (backend(protocol="QUIC"), "spec.backendProperties[0].protocol"),
        ({"backendProperties": [{"port": 80}]}, "spec.backendProperties[0].protocol"),
        (backend(enabled="yes"), "spec.backendProperties[0].enabled"),
        (backend(lbAlgorithm=f"{ALGORITHM}MAGIC"), "spec.backendProperties[0].lbAlgorithm"),
        (backend(healthMonitorRefs=[7]), "spec.backendProperties[0].healthMonitorRefs[0]"),
        ({"analyticsPolicy": {"fullClientLogs": {"throttle": 5}}}, "spec.analyticsPolicy.fullClientLogs.enabled"),
    ],
)
def test_what_is_no_rule_at_all_the_api_server_refuses(cluster: Cluster, spec: dict[str, Any], where: str) -> None:
    with pytest.raises(ApiError, match=re.escape(where)):
        cluster.apply(rule_manifest("rule", spec))


def test_what_the_api_server_lets_through_is_judged_in_words(
    cluster: Cluster, lbd_kubernetes: KubernetesDaemonFactory
) -> None:
    wait_writing(lbd_kubernetes(cluster))
    rejected: dict[str, tuple[dict[str, Any], str]] = {
        "typo": (
            {"perfomanceLimits": {}},
            "spec.perfomanceLimits: is an unknown field; did you mean performanceLimits?",
        ),
        "sctp": (backend(protocol="SCTP"), '"SCTP" is not supported: lbd balances TCP and UDP'),
        "tls": ({"sslProfileRef": "System-Standard"}, "lbd passes bytes on as they are and does not end TLS"),
        "topology": (backend(lbAlgorithm=f"{ALGORITHM}TOPOLOGY"), "is for balancing between sites"),
        "layer7": (backend(lbAlgorithmHash=f"{HASH}URI"), "hashes what an HTTP request asks for"),
        "no-hash": (backend(lbAlgorithm=f"{ALGORITHM}CONSISTENT_HASH"), "needs lbAlgorithmHash"),
        "two": ({"vsDatascriptRefs": ["x"], "revokeVipRoute": True}, "; spec.revokeVipRoute: true is not supported"),
        "address": ({"loadBalancerIP": "web.example"}, "spec.loadBalancerIP"),
        "twice": ({"backendProperties": backend()["backendProperties"] * 2}, "is already in this list"),
    }
    accepted = {"hash-alone": backend(**HASHED), "empty": {}, "no-name": {"networkProfileRef": ""}}
    made = {
        name: cluster.apply(rule_manifest(name, spec))
        for name, spec in {**{name: spec for name, (spec, _) in rejected.items()}, **accepted}.items()
    }
    for name, (_, sentence) in rejected.items():
        wait_rule(cluster, made[name], "Rejected", sentence, "no generation of this rule is in force")
    for name in accepted:
        wait_rule(cluster, made[name], "Accepted")


def test_kubectl_shows_status_generation_in_force_and_error(
    cluster: Cluster, lbd_kubernetes: KubernetesDaemonFactory
) -> None:
    lbd_kubernetes(cluster)
    ruled(cluster, {}, "good")
    edited = ruled(cluster, {}, "edited")
    cluster.apply(rule_manifest("edited", {"vsDatascriptRefs": ["script"]}))
    wait_rule(cluster, edited, "Rejected")
    wait_rule(cluster, cluster.apply(rule_manifest("bad", {"sslProfileRef": "x"})), "Rejected")
    headings, rows = cluster.admin.table(RULE_API, "L4Rule", cluster.namespace)
    assert headings == ["NAME", "STATUS", "GENERATION IN FORCE", "AGE"]
    assert [row[:3] for row in rows] == [
        ["bad", "Rejected", "0"],
        ["edited", "Rejected", "1"],
        ["good", "Accepted", "1"],
    ]
    headings, rows = cluster.admin.table(RULE_API, "L4Rule", cluster.namespace, wide=True)
    assert headings[-1] == "ERROR"
    assert "runs no scripts; generation 1, which was accepted, stays in force" in rows[1][-1]


# -- whose rule --------------------------------------------------------------------------------------------------------


def test_one_rule_serves_several_services_also_of_other_namespaces(
    cluster: Cluster, lab: Lab, lbd_kubernetes: KubernetesDaemonFactory, pods: list[str]
) -> None:
    other = f"{cluster.namespace}-rules"
    cluster.admin.apply({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": other}})
    daemon = lbd_kubernetes(cluster, kubernetes={"namespaces": [cluster.namespace, other]})
    rule = rule_manifest("rule", backend(**HASHED), namespace=other)
    cluster.apply(rule)
    try:
        named = {RULE_ANNOTATION: f"{other}/rule"}
        (one, vip), (two, _) = (published(cluster, pods, name, annotations=named) for name in ("one", "two"))
        own, _ = published(cluster, pods, "own", annotations=RULED)
        wait_served(lab, vip)
        both = [f"{cluster.namespace}/{name}:80" for name in ("one", "two")]
        with nobody_notices(lab, vip):
            for name in both:
                wait_algorithm(daemon, name, "consistent_hash")
            wait_condition(cluster, own, RULE_CONDITION, "False", "RuleNotFound", f"{cluster.namespace}/rule")
            cluster.apply({**rule, "spec": backend(lbAlgorithm=f"{ALGORITHM}RANDOM")})
            for name in both:
                wait_algorithm(daemon, name, "random")
            for made in (one, two):
                wait_condition(
                    cluster, made, RULE_CONDITION, "True", "Accepted", f"generation 2 of L4Rule {other}/rule"
                )
            assert [(found["name"], found["services"]) for found in kubernetes(daemon)["rules"]] == [
                (f"{other}/rule", 2)
            ]
            cluster.annotate(one, **{RULE_ANNOTATION: None})
            wait_algorithm(daemon, both[0], "round_robin")
            wait_algorithm(daemon, both[1], "random")
    finally:
        cluster.delete(rule)


def test_a_rule_in_a_namespace_that_lbd_does_not_watch_is_said_to_be_there(
    cluster: Cluster, lbd_kubernetes: KubernetesDaemonFactory
) -> None:
    lbd_kubernetes(cluster)
    made = cluster.service("web", annotations={RULE_ANNOTATION: "default/rule"})
    wait_condition(cluster, made, RULE_CONDITION, "False", "RuleNotFound", "default", "kubernetes.namespaces")


def test_an_address_that_one_rule_gives_to_two_services_is_that_of_the_first(
    cluster: Cluster, lbd_kubernetes: KubernetesDaemonFactory
) -> None:
    wait_writing(lbd_kubernetes(cluster))
    ruled(cluster, {})
    one = cluster.service("one", annotations=RULED)
    assert cluster.wait_ingress(one) == [FIRST[4]]
    two = cluster.service("two", annotations=RULED)
    [kept] = cluster.wait_ingress(two)
    ruled(cluster, {"loadBalancerIP": "172.16.101.180"})
    assert cluster.wait_ingress(one, other_than=FIRST[4]) == ["172.16.101.180"]
    wait_condition(cluster, two, ADDRESS_CONDITION, "True", "AddressInUse", "172.16.101.180", "Service", "one")
    assert ingress(cluster.get(two) or {}) == [kept]


# -- profiles ----------------------------------------------------------------------------------------------------------


def test_a_profile_that_a_reload_changes_applies_at_once_and_one_that_a_rule_needs_is_not_lost(
    cluster: Cluster, lab: Lab, lbd_kubernetes: KubernetesDaemonFactory, pods: list[str]
) -> None:
    def policy(*ranges: str) -> dict[str, Any]:
        return {"office": {"type": "network_security", "source_ranges": list(ranges)}}

    daemon = lbd_kubernetes(cluster, config={"profiles": policy("172.16.101.0/24")})
    rule = ruled(cluster, {"networkSecurityPolicyRef": "office"})
    name = f"{cluster.namespace}/rule"
    made, vip = published(cluster, pods, annotations=RULED)
    wait_served(lab, vip)

    def let_in() -> bool:
        try:
            return bool(fetch(lab.client, vip))
        except ConnectionError:
            return False

    missing = 'there is no network security policy "office"'
    with Talker(lab.client, vip):
        reloaded(daemon, profiles=policy("192.0.2.0/24"))
        eventually(lambda: not let_in(), 5.0, "turned away")
        for lost in (None, {"office": {"type": "network_security"}}, {"Office": policy("192.0.2.0/24")["office"]}):
            refused = daemon.reload(with_sections(daemon, profiles=lost))
            assert refused.returncode == 78
            assert in_force(daemon, name) == (True, 1)
            daemon.write_config(with_sections(daemon, profiles=policy("192.0.2.0/24")))
        assert f"L4Rule {name} is in force and would be no more" in refused.stderr
        assert missing in refused.stderr
        assert not let_in()
        reloaded(daemon, profiles=policy("192.0.2.0/24", "172.16.101.2"))
        eventually(let_in, 5.0, "let in again")

    daemon.terminate()
    daemon.wait()
    daemon.write_config(with_sections(daemon, profiles=None))
    daemon.start()
    wait_rule(cluster, rule, "Rejected", missing, "can't stay in force for the same reason", "nobody is let in")
    wait_condition(cluster, made, RULE_CONDITION, "False", "RuleRejected", missing)
    assert in_force(daemon, name) == (False, 0)
    wait_settled(daemon, f"{cluster.namespace}/web:80")
    eventually(lambda: peek(daemon).vip(vip)["state"] == "owned", SERVED_WITHIN_S, "the VIP is there")
    assert not let_in(), "a restriction that is not known any more opens the Service to nobody"
    reloaded(daemon, profiles=policy("172.16.101.2"))
    wait_served(lab, vip)
    wait_rule(cluster, rule, "Accepted")
    assert in_force(daemon, name) == (True, 1)


# -- fields that clients notice ----------------------------------------------------------------------------------------


def test_a_backend_that_is_not_enabled_ends_its_connections_and_is_not_even_asked_for_its_health(
    cluster: Cluster, lab: Lab, lbd_kubernetes: KubernetesDaemonFactory
) -> None:
    daemon = lbd_kubernetes(cluster, config={"health_monitors": MONITORS})
    with serving(lab, echo, 80, 81) as servers:
        addresses = [pod.address[4] for pod in lab.pods]
        ruled(cluster, backend(healthMonitorRefs=["quick"]))
        cluster.slice("web", addresses, [80, 81])
        made = cluster.service("web", [80, 81], annotations=RULED)
        [vip] = cluster.wait_ingress(made)
        held, other = eventually_held(lab, vip), eventually_held(lab, vip, 81)
        ruled(cluster, backend(healthMonitorRefs=["quick"], enabled=False))
        assert held.how_it_ends(5.0) == "reset"
        eventually(lambda: is_refused(lab.client, vip), 5.0, "refused")
        assert other.works(), "the other port is not meant"
        asked = [server.accepted for server in servers if server.port == 80]
        time.sleep(1.0)  # what is claimed is about this time: five rounds of the monitor
        assert [server.accepted for server in servers if server.port == 80] == asked
        assert ingress(cluster.get(made) or {}) == [vip]
        assert peek(daemon).service(f"{cluster.namespace}/web:80")["admin_state"] == "disabled"
        ruled(cluster, backend(healthMonitorRefs=["quick"], enabled=True))
        eventually_held(lab, vip).close()
        other.close()


def test_one_connection_more_than_a_rule_allows_is_turned_away_and_a_place_that_is_free_is_given(
    cluster: Cluster, lab: Lab, lbd_kubernetes: KubernetesDaemonFactory
) -> None:
    most = 6
    daemon = lbd_kubernetes(cluster)
    with serving(lab, greet_and_hold):
        _, vip = published(cluster, [pod.address[4] for pod in lab.pods], annotations=RULED)
        service = f"{cluster.namespace}/web:80"

        def arrives() -> Held | None:
            """Return a connection on which the Pod has greeted, None if it was turned away."""
            held = None
            try:
                held = Held(lab.client, vip)
                if held.conn.recv(100):
                    return held
            except ConnectionError:
                pass
            if held is not None:
                held.close()
            return None

        inside = [eventually(arrives, SERVED_WITHIN_S, "greeted") for _ in range(most - 2)]
        ruled(cluster, {"performanceLimits": {"maxConcurrentConnections": most}})
        eventually(lambda: in_force(daemon, f"{cluster.namespace}/rule") == (True, 1))
        wait_settled(daemon, service)
        inside += [arrives(), arrives()]
        assert all(inside), "those who were there count, and two more come in"
        assert [arrives() for _ in range(4)] == [None] * 4
        assert peek(daemon).service(service)["reason"] == f"at its limit of {most} connections"
        inside.pop().close()
        inside.append(eventually(arrives, 5.0, "a place is free"))
        assert arrives() is None
        ruled(cluster, {"performanceLimits": {"maxConcurrentConnections": 0}})
        inside += [eventually(arrives, 5.0, "there is no limit any more"), arrives()]
        assert all(inside)
        for one in inside:
            one.close()


def wait_settled(daemon: Daemon, service: str) -> None:
    """Wait until every worker runs what is desired of a virtual service."""

    def settled() -> bool:
        now = peek(daemon)
        return bool(now["applied_generation"] == now["generation"] and now.service(service)["state"] == "serving")

    eventually(settled, 5.0, "settled")


def test_a_rules_throughput_holds_in_both_directions_together(
    cluster: Cluster, lab: Lab, lbd_kubernetes: KubernetesDaemonFactory
) -> None:
    size = 3_000_000
    lbd_kubernetes(cluster)
    with serving(lab, streams(size)):
        _, vip = published(cluster, [pod.address[4] for pod in lab.pods], annotations=RULED)

        def download_s() -> float:
            begun_s = time.monotonic()
            with connect(lab.client, vip) as conn:
                assert receive_digest(conn)[0] == size
            return time.monotonic() - begun_s

        eventually(lambda: not is_refused(lab.client, vip), SERVED_WITHIN_S, "served")
        quick_s = download_s()
        ruled(cluster, {"performanceLimits": {"maxThroughput": 16}})  # 2 MB a second
        eventually(lambda: download_s() > max(1.0, quick_s), 10.0, "it takes its time")


def test_with_fewer_servers_up_than_a_rule_wants_the_service_refuses(
    cluster: Cluster, lab: Lab, lbd_kubernetes: KubernetesDaemonFactory
) -> None:
    daemon = lbd_kubernetes(cluster, config={"health_monitors": MONITORS})
    ruled(cluster, backend(healthMonitorRefs=["quick"], minServersUp=2))
    with serving(lab) as servers:
        _, vip = published(cluster, [pod.address[4] for pod in lab.pods], annotations=RULED)
        wait_served(lab, vip)
        service = f"{cluster.namespace}/web:80"

        def up() -> int:
            return [one["health"] for one in peek(daemon).service(service)["members"]].count("up")

        servers[0].stop()
        eventually(lambda: up() == 2, 5.0, "two are up")
        assert len(answers(lab, vip)) == 2
        servers[1].stop()
        eventually(lambda: is_refused(lab.client, vip), 5.0, "one is not enough")
        servers[0].start()
        wait_served(lab, vip)
        assert len(answers(lab, vip)) == 2


# -- client logs -------------------------------------------------------------------------------------------------------


def logs(**fields: Any) -> dict[str, Any]:
    """Return the spec of a rule about client logs."""
    return {"analyticsPolicy": {"fullClientLogs": {"enabled": True, **fields}}}


def wait_logging(daemon: Daemon, since: int, throttle: int, for_s: float | None) -> None:
    """Wait until client logs have begun with these bounds."""
    begun = daemon.log.wait_for("client_logs_begun", since=since)
    assert (begun["throttle_per_s"], begun["for_s"]) == (throttle, for_s)


def test_client_logs_tell_of_each_connection_as_much_and_for_as_long_as_the_rule_says(
    cluster: Cluster, lab: Lab, lbd_kubernetes: KubernetesDaemonFactory, pods: list[str]
) -> None:
    daemon = lbd_kubernetes(cluster)
    _, vip = published(cluster, pods[:1], annotations=RULED)
    service = f"{cluster.namespace}/web:80"
    wait_served(lab, vip)
    assert daemon.log.matching("connection_ended") == []

    def told(mark: int) -> int:
        return len(daemon.log.matching("connection_ended", mark, service=service))

    def left_out(mark: int) -> int:
        return sum(line["count"] for line in daemon.log.matching("connection_logs_throttled", mark))

    mark = daemon.log.mark()
    ruled(cluster, logs(duration=0, throttle=0))
    wait_logging(daemon, mark, 0, None)
    assert fetch_many(lab.client, vip, count=25).failures == []
    eventually(lambda: told(mark) == 25, 5.0, "a line for each")
    line = daemon.log.matching("connection_ended", mark)[0]
    assert line["client"].startswith(f"{lab.client_address[4]}:")
    assert (line["vip"], line["member"]) == (f"{vip}:80", f"{pods[0]}:80")
    assert (line["ending"], line["significant"]) == ("closed", False)
    assert line["received_bytes"] > 0
    assert line["sent_bytes"] > 0

    mark = daemon.log.mark()
    ruled(cluster, logs(duration=1, throttle=5))
    wait_logging(daemon, mark, 5, 60.0)
    begun_s = time.monotonic()
    fetch_many(lab.client, vip, count=100)
    eventually(lambda: told(mark) + left_out(mark) == 100, 5.0, "told or counted")
    assert left_out(mark) > 0
    eventually(lambda: fetch(lab.client, vip) and told(mark) >= 5, 5.0, "the next second has its lines too")
    assert told(mark) <= 5 * (int(time.monotonic() - begun_s) + 2)

    mark = daemon.log.mark()
    ruled(cluster, logs())
    wait_logging(daemon, mark, 10, 1800.0)
    ruled(cluster, {"analyticsPolicy": {"fullClientLogs": {"enabled": False}}})
    eventually(lambda: in_force(daemon, f"{cluster.namespace}/rule") == (True, 4))
    wait_settled(daemon, service)
    mark = daemon.log.mark()
    fetch_many(lab.client, vip, count=5)
    ruled(cluster, logs(duration=0, throttle=0))
    wait_logging(daemon, mark, 0, None)
    fetch(lab.client, vip)
    eventually(lambda: told(mark) == 1, 5.0, "the one, and not the five before it")
