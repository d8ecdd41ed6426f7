"""What the demo prints as kubectl would."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from lbd.cli.demo.api_client import collection_path, object_path
from lbd.cli.demo.kubectl import columns, name_of
from lbd.cli.demo.kubernetes_play import ask_once, conclude, last_line


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


def test_what_did_not_happen_is_said_at_the_end_and_is_the_exit_status() -> None:
    console = Console(file=io.StringIO(), width=80)
    assert conclude(console, ["the address was assigned"]) == 1
    assert isinstance(console.file, io.StringIO)
    assert console.file.getvalue() == "\ndid not happen: the address was assigned\n"
    assert conclude(console, []) == 0
    assert "All of it happened" in console.file.getvalue()


def test_the_last_line_with_an_event_is_found_and_none_where_there_is_none(tmp_path: Path) -> None:
    path = tmp_path / "log"
    path.write_text("begun 1\nended 1\nbegun 2\n")
    assert last_line("begun", path) == "begun 2"
    assert last_line("ended", path) == "ended 1"
    assert last_line("other", path) == ""
