"""Claims about manifests: they are read as kubectl reads them, and nothing in them costs much."""

from __future__ import annotations

import pytest

from lbd.kubernetes.objects.manifests import Manifest, read_manifests, resolve

RULE = "{apiVersion: ako.vmware.com/v1alpha2, kind: L4Rule, metadata: {name: r}}"
SERVICE = "{apiVersion: v1, kind: Service, metadata: {name: s, namespace: shop}}"


def manifests(text: str) -> list[Manifest]:
    found, errors = read_manifests(text, "m.yaml")
    assert errors == []
    return found


def names(text: str) -> list[str]:
    return [f"{one.kind} {one.raw['metadata']['namespace']}/{one.raw['metadata']['name']}" for one in manifests(text)]


def test_a_file_has_several_documents_and_lists():
    text = (
        f"---\n{RULE}\n---\n---\n{SERVICE}\n---\n{{apiVersion: v1, kind: List, items: [{SERVICE}, {RULE}, 1]}}\n...\n"
    )
    assert names(text) == ["L4Rule default/r", "Service shop/s", "Service shop/s", "L4Rule default/r"]


def test_the_items_of_a_typed_list_are_of_its_kind():
    assert names("{apiVersion: v1, kind: ServiceList, items: [{metadata: {name: a}}]}") == ["Service default/a"]


def test_lists_in_lists_are_looked_into():
    inner = f"{{apiVersion: v1, kind: List, items: [{RULE}]}}"
    assert names(f"{{apiVersion: v1, kind: List, items: [{inner}]}}") == ["L4Rule default/r"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "# nothing\n",
        "just text",
        "[1, 2]",
        "{apiVersion: v1, kind: [Service]}",
        "{apiVersion: 1, kind: Service}",
        "{apiVersion: v1, kind: List}",
        "{apiVersion: v1, kind: List, items: 1}",
        "{apiVersion: v1, kind: Pod, items: [{apiVersion: v1, kind: Service}]}",
        "{apiVersion: serving.knative.dev/v1, kind: Service, metadata: {name: k}}",
        "{apiVersion: example.com/v1, kind: L4Rule, metadata: {name: k}}",
        "{apiVersion: apps/v1, kind: Deployment, metadata: {name: d}, spec: {x: 0.5}}",
        "{apiVersion: v1, kind: ConfigMap, data: {1: a, true: b, ~: c, 0.5: d}}",
    ],
)
def test_other_objects_are_passed_over(text):
    assert manifests(text) == []


@pytest.mark.parametrize(
    ("text", "version"),
    [
        ("{apiVersion: ako.vmware.com/v1alpha1, kind: L4Rule}", "ako.vmware.com/v1alpha1"),
        ("{apiVersion: v1alpha2, kind: L4Rule}", "v1alpha2"),
        ("{kind: L4Rule}", ""),
        ("{kind: Service}", ""),
    ],
)
def test_another_version_or_none_is_looked_at(text, version):
    """So that it can be said that it is wrong."""
    assert [one.api_version for one in manifests(text)] == [version]


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        *(("yes", True), ("On", True), ("TRUE", True), ("y", True), ("no", False), ("OFF", False), ("False", False)),
        *(("yEs", "yEs"), ("oN", "oN"), ("tRUE", "tRUE")),
        *(("", None), ("~", None), ("null", None), ("nULL", "nULL")),
        *(("80", 80), ("+80", 80), ("-1", -1), ("1_000", 1000), ("0", 0), ("007", 7), ("022", 18), ("0o17", 15)),
        *(("0x1F", 31), ("0b11", 3), ("0x", "0x"), ("0b_", "0b_"), ("0o_", "0o_"), ("09", "09"), ("_1", "_1")),
        *(("12:30", "12:30"), ("1.5", "1.5"), ("2026-11-29", "2026-11-29"), ("9" * 30, "9" * 30)),
    ],
)
def test_plain_scalars_are_what_they_are_for_kubectl(text, meant):
    assert resolve(text) == meant
    assert type(resolve(text)) is type(meant)


def test_quoted_scalars_are_text():
    (one,) = manifests("{apiVersion: v1, kind: Service, metadata: {name: a}, spec: {type: 'yes', x: \"80\"}}")
    assert one.raw["spec"] == {"type": "yes", "x": "80"}


def test_anchors_are_those_of_their_document():
    found, errors = read_manifests(f"a: &x {RULE}\n---\nb: *x\n", "m.yaml")
    assert found == []
    assert [str(error) for error in errors] == ["m.yaml:3:4: b: *x refers to an anchor that is not defined above"]


def test_duplicate_keys_and_broken_yaml_have_their_place():
    _found, errors = read_manifests("a: 1\na: 2\n", "m.yaml")
    assert [str(error) for error in errors] == ["m.yaml:2:1: a: is a duplicate key; the first one is at m.yaml:1:1"]
    found, errors = read_manifests(f"{RULE}\n---\na: [\n", "m.yaml")
    assert len(found) == 1
    assert str(errors[0]).startswith("m.yaml:4:1: is not YAML")


def test_aliases_of_aliases_and_deep_nesting_are_refused_at_once():
    bomb = "a0: &a0 [1,1,1,1,1,1,1,1,1,1]\n" + "".join(
        f"a{level}: &a{level} [{','.join([f'*a{level - 1}'] * 10)}]\n" for level in range(1, 9)
    )
    for text in (bomb, "[" * 100_000):
        found, errors = read_manifests(text, "m.yaml")
        assert found == []
        assert len(errors) == 1
