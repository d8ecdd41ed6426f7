"""Claims about the metric table: values are exact, names follow the rule, and the reference says the same."""

from __future__ import annotations

import re
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prometheus_client.openmetrics import parser as openmetrics_parser
from prometheus_client.parser import text_string_to_metric_families

from lbd.model.status import MonitorStatus, Status, Traffic, VipState
from lbd.observability.exposition import Family, Format, Kind, label_text, render
from lbd.observability.http import render_scrape
from lbd.observability.metrics import METRICS, collect

REFERENCE = Path(__file__).resolve().parents[3] / "docs" / "reference" / "metrics.md"


def scrape(status: Status, form: Format = Format.TEXT) -> dict[tuple[str, frozenset[tuple[str, str]]], float]:
    """Render, parse with prometheus-client's own parser, and return each sample by name and labels."""
    text = render(collect(status), form).decode()
    parse = text_string_to_metric_families if form is Format.TEXT else openmetrics_parser.text_string_to_metric_families
    samples = [(s.name, frozenset(s.labels.items()), s.value) for family in parse(text) for s in family.samples]
    assert len(samples) == len({(name, labels) for name, labels, _ in samples}), "a series appears twice"
    return {(name, labels): value for name, labels, value in samples}


def key(name: str, **labels: str) -> tuple[str, frozenset[tuple[str, str]]]:
    return name, frozenset(labels.items())


WEB = {"virtual_service": "web"}
UP = {**WEB, "member": "10.1.0.1:8080"}
DOWN = {**WEB, "member": "[2001:db8::5]:8080"}
OWNED = {"vip": "172.16.101.150", "interface": "ens192"}
FOREIGN = {"vip": "2001:db8::1", "interface": "ens192"}

EXPECTED = [
    ("lbd_process_build_info", {"version": "0.1.0", "service_engine": "se-a"}, 1),
    ("lbd_process_form_info", {"form": "compiled"}, 1),
    ("lbd_process_state", {"state": "running"}, 1),
    ("lbd_process_state", {"state": "draining"}, 0),
    ("lbd_process_uptime_seconds", {}, 3725.5),
    ("lbd_process_workers", {}, 2),
    ("lbd_process_workers_running", {}, 1),
    ("lbd_process_wanted_generation", {}, 22),
    ("lbd_process_applied_generation", {}, 21),
    ("lbd_process_descriptors_used", {}, 51),
    ("lbd_process_descriptors_limit", {}, 20052),
    ("lbd_process_loop_lag_seconds", {}, 0.0053),
    ("lbd_process_problems", {}, 1),
    ("lbd_config_generation", {}, 22),
    ("lbd_config_reload_success", {}, 0),
    ("lbd_config_last_reload_timestamp_seconds", {}, 1700000100.5),
    ("lbd_config_last_success_timestamp_seconds", {}, 1700000000.25),
    ("lbd_config_errors", {}, 1),
    ("lbd_config_reloads_total", {"result": "success"}, 7),
    ("lbd_config_reloads_total", {"result": "failure"}, 2),
    ("lbd_worker_state", {"worker": "0", "state": "running"}, 1),
    ("lbd_worker_state", {"worker": "1", "state": "hung"}, 1),
    ("lbd_worker_state", {"worker": "1", "state": "running"}, 0),
    ("lbd_worker_restarts_total", {"worker": "0"}, 31),
    ("lbd_worker_generation", {"worker": "0"}, 21),
    ("lbd_worker_active_connections", {"worker": "0"}, 35),
    ("lbd_worker_accepting", {"worker": "0"}, 1),
    ("lbd_worker_accepting", {"worker": "1"}, 0),
    ("lbd_worker_loop_lag_seconds", {"worker": "0"}, 0.032),
    ("lbd_worker_worst_loop_lag_seconds", {"worker": "0"}, 0.132),
    ("lbd_worker_held_bytes", {"worker": "0"}, 36),
    ("lbd_worker_heartbeat_age_seconds", {"worker": "0"}, 0.033),
    ("lbd_worker_descriptors_used", {"worker": "0"}, 34),
    ("lbd_worker_descriptors_limit", {"worker": "0"}, 20000),
    ("lbd_worker_capabilities", {"worker": "0"}, 0),
    ("lbd_worker_capabilities", {"worker": "1"}, 2),
    ("lbd_vip_owned", OWNED, 1),
    ("lbd_vip_owned", FOREIGN, 0),
    ("lbd_vip_state", {**FOREIGN, "state": "foreign_owner"}, 1),
    ("lbd_vip_state", {**FOREIGN, "state": "owned"}, 0),
    ("lbd_vip_adopted", FOREIGN, 1),
    ("lbd_vip_announcements_total", OWNED, 41),
    (
        "lbd_virtual_service_info",
        {**WEB, "vip": "172.16.101.150", "port": "80", "protocol": "tcp", "algorithm": "least_connections"},
        1,
    ),
    ("lbd_virtual_service_active_connections", WEB, 101),
    ("lbd_virtual_service_connections_total", WEB, 102),
    ("lbd_virtual_service_sent_bytes_total", WEB, 104),
    ("lbd_virtual_service_retries_total", WEB, 105),
    ("lbd_virtual_service_unserved_connections_total", WEB, 106),
    ("lbd_virtual_service_connect_errors_total", {**WEB, "reason": "timed_out"}, 107),
    ("lbd_virtual_service_connect_errors_total", {**WEB, "reason": "refused"}, 0),
    ("lbd_virtual_service_rejected_connections_total", {**WEB, "reason": "max_connections"}, 109),
    ("lbd_virtual_service_rejected_connections_total", {**WEB, "reason": "queue_full"}, 110),
    ("lbd_virtual_service_rejected_connections_total", {**WEB, "reason": "source_ranges"}, 0),
    ("lbd_virtual_service_queued_connections", WEB, 108),
    ("lbd_virtual_service_timed_out_connections_total", {**WEB, "reason": "idle"}, 111),
    ("lbd_virtual_service_timed_out_connections_total", {**WEB, "reason": "lifetime"}, 0),
    ("lbd_virtual_service_persistence_entries", WEB, 112),
    ("lbd_virtual_service_persistence_evictions_total", WEB, 113),
    ("lbd_virtual_service_state", {**WEB, "state": "serving"}, 1),
    ("lbd_virtual_service_state", {**WEB, "state": "failed"}, 0),
    ("lbd_virtual_service_admin_state", {**WEB, "state": "enabled"}, 1),
    ("lbd_virtual_service_generation", WEB, 21),
    ("lbd_virtual_service_wanted_generation", WEB, 22),
    ("lbd_virtual_service_members", WEB, 2),
    ("lbd_virtual_service_members_eligible", WEB, 1),
    ("lbd_member_active_connections", UP, 211),
    ("lbd_member_connections_total", UP, 212),
    ("lbd_member_received_bytes_total", UP, 213),
    ("lbd_member_sent_bytes_total", UP, 214),
    ("lbd_member_retries_total", UP, 215),
    ("lbd_member_connect_errors_total", {**UP, "reason": "refused"}, 216),
    ("lbd_member_connect_errors_total", {**UP, "reason": "local"}, 217),
    ("lbd_member_connect_errors_total", {**DOWN, "reason": "reset"}, 0),
    ("lbd_member_up", UP, 1),
    ("lbd_member_up", DOWN, 0),
    ("lbd_member_health", {**DOWN, "state": "down"}, 1),
    ("lbd_member_health", {**DOWN, "state": "up"}, 0),
    ("lbd_member_health_age_seconds", UP, 61.5),
    ("lbd_member_admin_state", {**UP, "state": "enabled"}, 1),
    ("lbd_member_admin_state", {**UP, "state": "draining"}, 0),
    ("lbd_member_eligible", UP, 1),
    ("lbd_member_eligible", DOWN, 0),
    ("lbd_member_weight", UP, 10),
    ("lbd_member_effective_weight", UP, 2.5),
    ("lbd_member_passive_failures", UP, 203),
    ("lbd_member_check_up", {**UP, "monitor": "system-tcp"}, 1),
    ("lbd_member_check_up", {**DOWN, "monitor": "web-http"}, 0),
    ("lbd_member_check_latency_seconds", {**UP, "monitor": "system-tcp"}, 0.0125),
    ("lbd_member_checks_total", {**UP, "monitor": "system-tcp"}, 201),
    ("lbd_member_check_failures_total", {**UP, "monitor": "system-tcp"}, 202),
    ("lbd_kubernetes_api_reachable", {}, 0),
    ("lbd_kubernetes_api_unreachable_seconds", {}, 401.5),
    ("lbd_kubernetes_synced", {}, 0),
    ("lbd_kubernetes_leader", {}, 1),
    ("lbd_kubernetes_leader_transitions_total", {}, 402),
    ("lbd_kubernetes_services", {}, 403),
    ("lbd_kubernetes_services_assigned", {}, 404),
    ("lbd_kubernetes_rules_rejected", {}, 1),
    ("lbd_kubernetes_object_problems", {}, 1),
    ("lbd_kubernetes_requests_total", {}, 418),
    ("lbd_kubernetes_writes_total", {}, 415),
    ("lbd_kubernetes_write_conflicts_total", {}, 416),
    ("lbd_kubernetes_write_failures_total", {}, 417),
    ("lbd_kubernetes_watch_synced", {"resource": "services", "namespace": ""}, 1),
    ("lbd_kubernetes_watch_synced", {"resource": "l4rules", "namespace": "shop"}, 0),
    ("lbd_kubernetes_watch_objects", {"resource": "services", "namespace": ""}, 405),
    ("lbd_kubernetes_watch_age_seconds", {"resource": "services", "namespace": ""}, 406.5),
    ("lbd_kubernetes_watch_relists_total", {"resource": "services", "namespace": ""}, 407),
    ("lbd_kubernetes_watch_errors_total", {"resource": "services", "namespace": ""}, 408),
    ("lbd_kubernetes_address_pool_size", {"address_pool": "web", "family": "ipv4"}, 51),
    ("lbd_kubernetes_address_pool_used", {"address_pool": "web", "family": "ipv6"}, 414),
    ("lbd_kubernetes_pod_routes", {}, 419),
]


@pytest.mark.parametrize("form", Format)
def test_every_value_of_the_snapshot_appears_exactly(make: Any, form: Format) -> None:
    samples = scrape(make.status(), form)
    for name, labels, value in EXPECTED:
        assert samples[key(name, **labels)] == value, (name, labels)


UDP_EXPECTED = [
    ("lbd_virtual_service_received_datagrams_total", WEB, 301),
    ("lbd_virtual_service_sent_datagrams_total", WEB, 302),
    ("lbd_virtual_service_evicted_flows_total", WEB, 303),
    ("lbd_virtual_service_moved_flows_total", WEB, 304),
    ("lbd_member_received_datagrams_total", UP, 305),
    ("lbd_member_sent_datagrams_total", UP, 306),
]


def test_datagrams_and_flows_are_shown_of_udp_services_alone(make: Any) -> None:
    status = make.status()
    (web,) = status.virtual_services
    first, *others = web.members
    member = replace(first, traffic=Traffic(received_datagrams_total=305, sent_datagrams_total=306))
    traffic = Traffic(
        received_datagrams_total=301, sent_datagrams_total=302, evicted_flows_total=303, moved_flows_total=304
    )
    web = replace(web, protocol="udp", traffic=traffic, members=(member, *others))
    samples, of_tcp = scrape(replace(status, virtual_services=(web,))), scrape(status)
    for name, labels, value in UDP_EXPECTED:
        assert samples[key(name, **labels)] == value, (name, labels)
        assert key(name, **labels) not in of_tcp


def test_every_metric_has_its_exact_value_tested() -> None:
    tested = {name for name, _, _ in EXPECTED + UDP_EXPECTED} | {"lbd_virtual_service_received_bytes_total"}
    assert tested == {metric.name for metric in METRICS}


def test_without_a_cluster_there_is_no_metric_of_one(make: Any) -> None:
    assert not [name for name, _ in scrape(make.status(kubernetes=None)) if name.startswith("lbd_kubernetes")]


def test_a_byte_counter_above_2_to_the_53_is_printed_digit_by_digit(make: Any) -> None:
    text = render(collect(make.status()), Format.TEXT).decode()
    assert f'\nlbd_virtual_service_received_bytes_total{{virtual_service="web"}} {2**53 + 1}\n' in text


def test_a_latency_that_is_not_known_is_absent_and_not_zero(make: Any) -> None:
    assert key("lbd_member_check_latency_seconds", **DOWN, monitor="web-http") not in scrape(make.status())


def documented() -> dict[str, tuple[str, str, str]]:
    rows = re.findall(r"^\| `(\w+)` \| (\w+) \| ([^|]*) \| ([^|]*) \|$", REFERENCE.read_text(), re.MULTILINE)
    return {name: (kind, labels.replace("`", "").strip(), text.strip()) for name, kind, labels, text in rows}


def test_the_reference_lists_every_metric_with_type_labels_and_help_and_no_other(make: Any) -> None:
    produced = {m.name: (str(m.kind), ", ".join(m.labels), m.help) for m in METRICS}
    assert {name: row for name, row in documented().items() if name.startswith("lbd_")} == produced
    text = render_scrape(make.status(), Format.TEXT, False).decode()
    assert set(re.findall(r"^# HELP (\w+) ", text, re.MULTILINE)) == set(documented())


def test_names_follow_the_rule_and_every_help_says_the_unit() -> None:
    units = r"second|byte|connection|attempt|descriptor|process|number|capabilit|restart|reload|error|problem|check|"
    units += r"failure|member|announcement|datagram|flow|address|object|request|write|rule|service|route|list|change|"
    units += r"always 1|1 if|1 for"
    for metric in METRICS:
        assert re.fullmatch(r"lbd_(process|virtual_service|member|vip|worker|config|kubernetes)(_[a-z]+)+", metric.name)
        assert metric.name.endswith("_total") == (metric.kind == "counter"), metric.name
        assert metric.name.endswith("_info") == (metric.kind == "info"), metric.name
        assert re.search(units, metric.help, re.IGNORECASE), metric.name
        assert "\n" not in metric.help
        assert "\\" not in metric.help
    assert max(Counter(metric.name for metric in METRICS).values()) == 1


def test_every_sample_has_exactly_the_labels_of_its_metric(make: Any) -> None:
    labels = {metric.name: set(metric.labels) for metric in METRICS}
    for name, given_labels in scrape(make.status()):
        assert {label for label, _ in given_labels} == labels[name], name


HOSTILE = [
    'a"b',
    "back\\slash",
    "line\nbreak",
    'x",virtual_service="other',
    "\\n",
    "übung",
    "{}",
    "a\rb",
    "\x1b[31m",
    " ",
]


@pytest.mark.parametrize("form", Format)
@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_name_stays_one_label(make: Any, name: str, form: Format) -> None:
    status = make.status(virtual_services=(make.service(name=name),), service_engine=name)
    samples = scrape(status, form)
    assert samples[key("lbd_virtual_service_active_connections", virtual_service=name)] == 101
    assert samples[key("lbd_process_build_info", version="0.1.0", service_engine=name)] == 1
    assert len(samples) == len(scrape(make.status(), form))


@settings(max_examples=150, deadline=None)
@given(name=st.text(max_size=30), monitor=st.text(max_size=10))
def test_any_name_survives_the_way_to_prometheus(name: str, monitor: str) -> None:
    family = Family("lbd_x", Kind.GAUGE, "h", [(label_text(virtual_service=name, monitor=monitor), 1)])
    for form, parse in (
        (Format.TEXT, text_string_to_metric_families),
        (Format.OPEN_METRICS, openmetrics_parser.text_string_to_metric_families),
    ):
        (parsed,) = parse(render([family], form).decode())
        (sample,) = parsed.samples
        assert sample.labels == {"virtual_service": name, "monitor": monitor}


def test_a_lone_surrogate_does_not_break_the_scrape(make: Any) -> None:
    status = make.status(virtual_services=(make.service(name="a\udcff"),))
    assert key("lbd_virtual_service_retries_total", virtual_service="a?") in scrape(status)


def test_two_rows_of_one_worker_give_one_series(make: Any) -> None:
    old, new = make.worker(0, state="dead", restarts_total=1), make.worker(0, restarts_total=2)
    samples = scrape(make.status(workers=(old, new)))
    assert samples[key("lbd_worker_restarts_total", worker="0")] == 2
    assert samples[key("lbd_process_workers")] == 1


@pytest.mark.parametrize("draining_first", [True, False])
def test_a_service_beside_its_draining_incarnation_is_one_row_with_the_traffic_of_both(
    make: Any, draining_first: bool
) -> None:
    gone = make.member(address="10.1.0.9")
    old = make.service(port=8080, state="draining", members=(make.member(eligible=False), gone))
    both = (old, make.service()) if draining_first else (make.service(), old)
    samples = scrape(make.status(virtual_services=both))
    assert samples[key("lbd_virtual_service_active_connections", **WEB)] == 202
    assert samples[key("lbd_member_connections_total", **UP)] == 424
    assert samples[key("lbd_member_connections_total", **{**UP, "member": "10.1.0.9:8080"})] == 212
    assert samples[key("lbd_member_connect_errors_total", **UP, reason="refused")] == 432
    assert samples[key("lbd_member_eligible", **UP)] == 1


def test_an_empty_daemon_still_names_every_metric(make: Any) -> None:
    text = render(collect(make.status(workers=(), vips=(), virtual_services=())), Format.TEXT).decode()
    assert set(re.findall(r"^# TYPE (\w+) ", text, re.MULTILINE)) == {metric.name for metric in METRICS}


def test_capabilities_that_were_not_read_yet_break_nothing(make: Any) -> None:
    samples = scrape(make.status(workers=(make.worker(0, effective_capabilities=""),)))
    assert samples[key("lbd_worker_capabilities", worker="0")] == 0


def test_each_vip_state_is_a_series_and_one_holds(make: Any) -> None:
    status = make.status()
    for state in VipState:
        samples = scrape(replace(status, vips=(replace(status.vips[0], state=state),)))
        held = [dict(labels)["state"] for (name, labels), v in samples.items() if name == "lbd_vip_state" and v]
        assert held == [state]


def test_500_services_with_10_members_render_in_well_under_a_second(make: Any) -> None:
    """Measured 0.15 s of CPU for 147,000 samples; prometheus-client's encoder needs 1.6 s, so it would fail here."""
    monitors = (MonitorStatus("system-tcp", make.member().health, "", 0.001, 5, 1),)
    members = tuple(make.member(address=f"10.0.0.{i}", monitors=monitors) for i in range(10))
    services = tuple(make.service(name=f"service-{i}", members=members) for i in range(500))
    status = make.status(virtual_services=services)
    began_s = time.process_time()
    body = render(collect(status), Format.TEXT)
    took_s = time.process_time() - began_s
    assert body.count(b"\n") > 140_000
    assert took_s < 0.8
