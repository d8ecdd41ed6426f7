"""Claims about the files under config/kubernetes: the CRD has the judge's fields, and the example is good."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from lbd.config import load
from lbd.kubernetes.addresses.allocator import allocate
from lbd.kubernetes.objects.kinds import L4Rule, ObjectKey, Service
from lbd.kubernetes.objects.manifests import read_manifests
from lbd.kubernetes.objects.parse import parse_rule, parse_service
from lbd.kubernetes.rules.judge import judge_rule
from lbd.kubernetes.rules.rule_backends import ALGORITHMS, ALGORITHMS_NOT_HERE, HASHES, HASHES_NOT_HERE, MAX_MONITORS
from lbd.kubernetes.rules.rule_backends import FIELDS as BACKEND_FIELDS
from lbd.kubernetes.rules.rule_fields import FIELDS
from lbd.kubernetes.rules.rule_reading import MAX_ITEMS, MAX_REFERENCE_CHARACTERS
from lbd.model.desired import Algorithm, ClientLogs
from lbd.model.kubernetes import Kubernetes

CONFIG = Path(__file__).parents[3] / "config" / "kubernetes"
EXAMPLE = CONFIG / "example"


@pytest.fixture(scope="module")
def version() -> Any:
    crd = yaml.safe_load((CONFIG / "crd-l4rule.yaml").read_text())
    (version,) = crd["spec"]["versions"]
    return version


@pytest.fixture(scope="module")
def spec(version: Any) -> Any:
    return version["schema"]["openAPIV3Schema"]["properties"]["spec"]


def objects_in(schema: Any) -> Iterator[Any]:
    """Yield a schema's objects at every level."""
    if schema["type"] == "object":
        yield schema
        for inner in schema.get("properties", {}).values():
            yield from objects_in(inner)
    elif schema["type"] == "array":
        yield from objects_in(schema["items"])


def test_the_schema_has_the_fields_that_the_judge_knows(spec):
    backend = spec["properties"]["backendProperties"]["items"]["properties"]
    assert set(spec["properties"]) == set(FIELDS)
    assert set(backend) == set(BACKEND_FIELDS)


def test_the_schema_lets_unknown_fields_through_to_be_judged(spec):
    """Otherwise the API server drops them, and a misspelt field is taken and does nothing."""
    assert len(list(objects_in(spec))) == 7
    assert all(one["x-kubernetes-preserve-unknown-fields"] for one in objects_in(spec))


def test_the_schema_has_no_default_of_its_own(spec):
    """With a default of lbAlgorithm a hash alone could not mean consistent hash."""
    assert "'default'" not in str(spec)


def test_the_words_of_the_schema_are_those_of_the_judge(spec):
    backend = spec["properties"]["backendProperties"]["items"]["properties"]
    assert set(backend["lbAlgorithm"]["enum"]) == {*ALGORITHMS, *ALGORITHMS_NOT_HERE}
    assert set(backend["lbAlgorithmHash"]["enum"]) == {*HASHES, *HASHES_NOT_HERE}


def test_the_bounds_of_the_schema_are_those_of_the_judge(spec):
    assert spec["properties"]["backendProperties"]["maxItems"] == MAX_ITEMS
    assert spec["properties"]["listenerProperties"]["maxItems"] == MAX_ITEMS
    assert spec["properties"]["applicationProfileRef"]["maxLength"] == MAX_REFERENCE_CHARACTERS
    backend = spec["properties"]["backendProperties"]["items"]["properties"]
    assert backend["healthMonitorRefs"]["maxItems"] == MAX_MONITORS


def test_the_columns_are_what_kubectl_shows(version):
    columns = [(one["name"], one.get("priority", 0)) for one in version["additionalPrinterColumns"]]
    assert columns == [("Status", 0), ("Generation in force", 0), ("Age", 0), ("Error", 1)]
    assert version["subresources"] == {"status": {}}


# The reference.

REFERENCE = (CONFIG.parents[1] / "docs" / "reference" / "l4rule.md").read_text()


def test_the_reference_has_every_field_and_word():
    words = {word for code in re.findall(r"`([^`\n]+)`", REFERENCE) for word in re.findall(r"[A-Za-z_]+", code)}
    assert {*FIELDS, *BACKEND_FIELDS, *ALGORITHMS, *HASHES} - words == set()
    shortened = {word.removeprefix("LB_ALGORITHM") for word in ALGORITHMS_NOT_HERE}
    shortened |= {word.removeprefix("LB_ALGORITHM_CONSISTENT_HASH") for word in HASHES_NOT_HERE}
    assert shortened - words - {word.removeprefix("LB_ALGORITHM") for word in words} == set()


@pytest.mark.parametrize(
    "spec",
    [
        *({"securityPolicyRef": "a"}, {"vsDatascriptRefs": ["a"]}, {"sslProfileRef": "a"}, {"revokeVipRoute": True}),
        *(
            {"backendProperties": [{"port": 80, "protocol": "TCP", **fields}]}
            for fields in (
                {"pkiProfileRef": "a"},
                {"healthMonitorCrdRefs": ["a"]},
                {"protocol": "SCTP"},
                {"healthMonitorRefs": ["System-Pong"]},
            )
        ),
        {"performanceLimits": {"maxThroughput": 70000}},
    ],
)
def test_the_reference_has_the_sentences_that_are_said(spec):
    error = judge_rule(L4Rule(ObjectKey("a", "b"), "1", "1", 1, spec), Kubernetes(), None).error
    assert error.partition(": ")[2] in REFERENCE


# The example.


def example(name: str) -> Any:
    (manifest,), errors = read_manifests((EXAMPLE / name).read_text(), name)
    assert errors == []
    return manifest.raw


@pytest.fixture
def kubernetes(tmp_path: Path) -> Kubernetes:
    cluster = tmp_path / "lbd.yaml"
    cluster.write_text("service_engine: {frontend_interface: ens192}\nkubernetes: {kubeconfig: /etc/lbd/kubeconfig}\n")
    configured = load([cluster, EXAMPLE / "conf.d" / "avi-demo-test.yaml"], generation=1).kubernetes
    assert configured is not None
    return configured


def test_the_rule_of_the_example_is_accepted_with_the_profiles_of_the_example(kubernetes):
    rule = parse_rule(example("l4rule.yaml"))
    assert isinstance(rule, L4Rule)
    verdict = judge_rule(rule, kubernetes, None)
    assert verdict.error == ""
    assert verdict.in_force is not None
    assert verdict.in_force.client_logs == ClientLogs(throttle_per_s=20, duration_s=0.0, slow_connect_s=0.5)
    assert verdict.in_force.backends[0].algorithm is Algorithm.CONSISTENT_HASH


def test_the_rule_of_the_example_needs_its_profiles():
    rule = parse_rule(example("l4rule.yaml"))
    assert isinstance(rule, L4Rule)
    assert judge_rule(rule, Kubernetes(), None).error.count("there is no ") == 2


def test_the_service_of_the_example_gets_the_first_address(kubernetes):
    service = parse_service(example("service.yaml"))
    assert isinstance(service, Service)
    assert service.complaints == ()
    assert allocate([service], kubernetes, {}, {})[service.key].addresses == ("172.16.101.150",)


def test_kubectl_can_apply_the_folders_as_they_are():
    """`kubectl apply -f FOLDER` takes every .yaml file in it, and must find nothing but Kubernetes objects."""
    for folder in (CONFIG, EXAMPLE):
        for path in folder.glob("*.yaml"):
            for document in yaml.safe_load_all(path.read_text()):
                assert {"apiVersion", "kind", "metadata"} <= set(document), path
