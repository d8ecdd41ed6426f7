"""What the demo prints as kubectl would."""

from __future__ import annotations

import pytest

from lbd.cli.demo.api_client import collection_path, object_path
from lbd.cli.demo.kubectl import columns, name_of
from lbd.cli.demo.kubernetes_play import ask_once


def test_columns_are_three_spaces_apart_and_end_without_spaces() -> None:
    assert columns([["NAME", "AGE"], ["avi-demo-test", "1s"]]) == ["NAME            AGE", "avi-demo-test   1s"]


def test_objects_are_called_as_kubectl_calls_them() -> None:
    metadata = {"name": "web"}
    assert name_of({"apiVersion": "v1", "kind": "Service", "metadata": metadata}) == "service/web"
    assert name_of({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": metadata}) == "deployment.apps/web"


@pytest.mark.parametrize(
    ("api_version", "kind", "namespace", "path"),
    [
        ("v1", "Service", "shop", "/api/v1/namespaces/shop/services"),
        ("v1", "Service", None, "/api/v1/services"),
        ("v1", "Node", "shop", "/api/v1/nodes"),
        ("v1", "Endpoints", "shop", "/api/v1/namespaces/shop/endpoints"),
        ("discovery.k8s.io/v1", "EndpointSlice", "shop", "/apis/discovery.k8s.io/v1/namespaces/shop/endpointslices"),
    ],
)
def test_collections_are_where_the_api_has_them(api_version: str, kind: str, namespace: str | None, path: str) -> None:
    assert collection_path(api_version, kind, namespace) == path


def test_an_object_without_a_namespace_is_in_the_default_one() -> None:
    manifest = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "one"}}
    assert object_path(manifest) == "/api/v1/namespaces/default/pods/one"


def test_nobody_that_answers_is_an_empty_answer() -> None:
    assert ask_once("127.0.0.1", 9) == ""
