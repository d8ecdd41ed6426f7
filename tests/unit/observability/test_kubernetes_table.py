"""Claims about what a person reads of a Kubernetes cluster."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Any

from rich.console import Console

from lbd.model.kubernetes_status import KubernetesStatus, LeaderStatus
from lbd.observability.status_json import decode, encode
from lbd.observability.table import show


def shown(make: Any, **changes: Any) -> str:
    stream = io.StringIO()
    status = make.status()
    show(replace(status, kubernetes=replace(status.kubernetes, **changes)), Console(file=stream))
    return stream.getvalue()


def line_with(text: str, part: str) -> str:
    (line,) = [line for line in text.splitlines() if part in line]
    return line


def test_an_api_that_is_away_is_said_with_its_error_and_since_when(make: Any) -> None:
    line = line_with(shown(make), "https://10.0.0.1:6443")
    assert "unreachable for 6m41s: no answer within 10 s; the last good state stays" in line
    assert "not synced yet" in line
    assert line_with(shown(make, reachable=True, synced=True), "https://").strip() == "https://10.0.0.1:6443  reachable"


def test_who_writes_is_said(make: Any) -> None:
    assert line_with(shown(make), "writer:").strip() == "writer: this service engine (se-a_1)"
    other = shown(make, leader=LeaderStatus(False, "se-b_7", "se-a_1", 1))
    assert line_with(other, "writer:").strip() == "writer: se-b_7 (this one is se-a_1)"
    nobody = shown(make, leader=LeaderStatus(False, "", "se-a_1", 0))
    assert "nobody is known: no address is assigned meanwhile" in line_with(nobody, "writer:")


def test_each_watch_has_its_age_and_what_is_wrong_with_it(make: Any) -> None:
    text = shown(make)
    assert line_with(text, "  405  ").split() == ["services", "405", "6m46s", "407", "408"]
    assert line_with(text, "l4rules of shop").endswith("forbidden: may not list l4rules")


def test_pools_say_how_full_they_are(make: Any) -> None:
    text = shown(make)
    assert line_with(text, "web   ipv4").split() == ["web", "ipv4", "413", "51"]
    assert line_with(text, "web   ipv6").split() == ["web", "ipv6", "414", "2^64"]


def test_a_rejected_rule_shows_the_generation_in_force_and_the_sentence(make: Any) -> None:
    row = line_with(shown(make), "default/bad")
    assert row.split()[:5] == ["default/bad", "Rejected", "5", "4", "1"]
    assert row.endswith("spec.lbAlgorithm: LB_ALGORITHM_FEWEST_TASKS is not supported")


def test_what_is_wrong_with_a_service_is_a_line(make: Any) -> None:
    line = line_with(shown(make), "Service default/late")
    assert line.strip() == ("Service default/late: PoolExhausted: pool web is full: 51 of 51 addresses are in use")


def test_hostile_names_obey_nobody(make: Any) -> None:
    assert "\x1b" not in shown(make, server="\x1b[2J", api_error="\x1b[31m")


def test_the_snapshot_survives_json(make: Any) -> None:
    kubernetes = make.status().kubernetes
    assert decode(KubernetesStatus, encode(kubernetes)) == kubernetes
