"""config/prometheus/alerts.yaml: every metric and label that it asks for is one that the reference describes."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).resolve().parents[2]
GROUPS = yaml.safe_load((ROOT / "config" / "prometheus" / "alerts.yaml").read_text())["groups"]
RULES: list[dict[str, Any]] = [rule for group in GROUPS for rule in group["rules"]]
ROW = re.compile(r"^\| `(lbd_\w+)` \| \w+ \| ([^|]*) \|", re.MULTILINE)
METRICS = {
    name: set(re.findall(r"`(\w+)`", labels))
    for name, labels in ROW.findall((ROOT / "docs" / "reference" / "metrics.md").read_text())
}
OF_PROMETHEUS = {"instance", "job"}


def labels_asked_for(rule: dict[str, Any]) -> set[str]:
    text = rule["expr"] + " ".join(rule["annotations"].values())
    found = set(re.findall(r"\$labels\.(\w+)", text)) | set(re.findall(r'(\w+)\s*!?=~?\s*"', rule["expr"]))
    for inside in re.findall(r"\bby \(([^)]*)\)", rule["expr"]):
        found |= {name.strip() for name in inside.split(",")}
    return found


def test_there_are_metrics_to_compare_with() -> None:
    assert len(METRICS) > 50


@pytest.mark.parametrize("rule", RULES, ids=[rule["alert"] for rule in RULES])
def test_an_alert_asks_for_metrics_and_labels_that_there_are(rule: dict[str, Any]) -> None:
    names = re.findall(r"lbd_\w+", rule["expr"])
    assert set(names) <= METRICS.keys()
    known = OF_PROMETHEUS.union(*(METRICS[name] for name in names))
    assert labels_asked_for(rule) <= known


@pytest.mark.parametrize("rule", RULES, ids=[rule["alert"] for rule in RULES])
def test_an_alert_shows_no_label_that_its_expression_has_aggregated_away(rule: dict[str, Any]) -> None:
    shown = set(re.findall(r"\$labels\.(\w+)", " ".join(rule["annotations"].values())))
    aggregated = re.match(r"(?:max|sum|min)\b(?: by \(([^)]*)\))?", rule["expr"])
    if aggregated:
        assert shown <= {name.strip() for name in (aggregated[1] or "").split(",")}


def test_each_alert_has_a_name_of_its_own_and_says_how_bad_it_is() -> None:
    names = [rule["alert"] for rule in RULES]
    assert len(set(names)) == len(names)
    assert {rule["labels"]["severity"] for rule in RULES} == {"critical", "warning"}
    assert all(rule["annotations"]["summary"] for rule in RULES)
