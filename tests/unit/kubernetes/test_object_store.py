"""A list or an event changes what is different, an object that can't be read any more stays as it was."""

from __future__ import annotations

import json
from typing import Any

import pytest

from lbd.kubernetes.api.api_error import ApiError
from lbd.kubernetes.objects.kinds import EndpointSlice, ObjectKey
from lbd.kubernetes.objects.parse import parse_node, parse_slice
from lbd.kubernetes.watching.object_store import ObjectStore
from lbd.kubernetes.watching.watch_events import EventType, WatchEvent, read_event, read_page

A, B = ObjectKey("shop", "a"), ObjectKey("shop", "b")


def raw_slice(name: str = "a", version: int = 1, *addresses: str, **more: Any) -> dict[str, Any]:
    metadata = {
        "name": name, "namespace": "shop", "resourceVersion": str(version),
        "labels": {"kubernetes.io/service-name": "web"},
    }  # fmt: skip
    endpoints = [{"addresses": [address]} for address in addresses]
    return {"metadata": metadata, "addressType": "IPv4", "endpoints": endpoints, **more}


def store() -> ObjectStore[EndpointSlice]:
    return ObjectStore(parse_slice, namespaced=True)


def event(kind: EventType, raw: dict[str, Any]) -> WatchEvent:
    return WatchEvent(kind, raw, raw["metadata"]["resourceVersion"])


def put(one: ObjectStore[EndpointSlice], raw: dict[str, Any]) -> frozenset[ObjectKey]:
    return one.apply(event(EventType.MODIFIED, raw))


def test_an_object_that_is_new_or_different_is_a_change():
    one = store()
    assert put(one, raw_slice("a", 1, "10.0.0.1")) == {A}
    assert put(one, raw_slice("a", 2, "10.0.0.2")) == {A}
    assert one.objects[A].endpoints[0].addresses == ("10.0.0.2",)


def test_the_same_version_is_not_even_parsed():
    parsed = []

    def parse(raw: object) -> Any:
        parsed.append(raw)
        return parse_slice(raw)

    one: ObjectStore[EndpointSlice] = ObjectStore(parse, namespaced=True)
    put(one, raw_slice("a", 1, "10.0.0.1"))
    assert put(one, raw_slice("a", 1, "10.0.0.1")) == frozenset()
    assert len(parsed) == 1


def test_another_version_that_means_the_same_is_no_change_but_is_kept():
    one = store()
    put(one, raw_slice("a", 1, "10.0.0.1"))
    assert put(one, raw_slice("a", 2, "10.0.0.1", more=1)) == frozenset()
    assert one.raw[A]["more"] == 1


def test_what_was_deleted_is_gone_once():
    one = store()
    put(one, raw_slice("a"))
    assert one.apply(event(EventType.DELETED, raw_slice("a", 2))) == {A}
    assert (dict(one.objects), dict(one.raw)) == ({}, {})
    assert one.apply(event(EventType.DELETED, raw_slice("a", 3))) == frozenset()


def test_what_was_deleted_and_made_again_with_the_old_version_is_there():
    one = store()
    put(one, raw_slice("a", 1))
    one.apply(event(EventType.DELETED, raw_slice("a", 1)))
    assert put(one, raw_slice("a", 1)) == {A}


def test_a_whole_list_removes_the_others():
    one = store()
    put(one, raw_slice("a"))
    put(one, raw_slice("b"))
    assert one.keep_only([B]) == {A}
    assert set(one.objects) == {B}


def test_a_bookmark_changes_nothing():
    assert store().apply(WatchEvent(EventType.BOOKMARK, {"metadata": {}}, "5")) == frozenset()


def test_a_good_object_that_becomes_unusable_stays_as_it_was_and_is_reported():
    one = store()
    put(one, raw_slice("a", 1, "10.0.0.1"))
    assert put(one, raw_slice("a", 2, addressType="FQDN")) == {A}
    assert one.objects[A].endpoints[0].addresses == ("10.0.0.1",)
    assert one.raw[A]["addressType"] == "IPv4"
    assert "FQDN" in one.unusable[A].reason
    assert put(one, raw_slice("a", 3, addressType="FQDN")) == frozenset()
    assert put(one, raw_slice("a", 4, "10.0.0.1")) == {A}
    assert dict(one.unusable) == {}


def test_an_object_that_never_was_good_is_only_unusable_and_goes_when_it_is_deleted():
    one = store()
    assert put(one, raw_slice("a", 1, addressType="FQDN")) == {A}
    assert (dict(one.objects), set(one.unusable)) == ({}, {A})
    assert one.keep_only([]) == {A}
    assert dict(one.unusable) == {}


@pytest.mark.parametrize("raw", [{}, {"metadata": None}, {"metadata": {"name": "a"}}, {"metadata": {"namespace": "b"}}])
def test_an_object_without_a_name_is_an_error_and_changes_nothing(raw):
    one = store()
    put(one, raw_slice("a"))
    with pytest.raises(ApiError, match="an object without a name"):
        one.apply(WatchEvent(EventType.DELETED, raw, "2"))
    assert set(one.objects) == {A}


def test_nodes_have_no_namespace():
    nodes = ObjectStore(parse_node, namespaced=False)
    assert nodes.apply(event(EventType.ADDED, {"metadata": {"name": "n", "resourceVersion": "1"}})) == {
        ObjectKey("", "n")
    }


def test_what_nobody_reads_is_not_kept():
    one, raw = store(), raw_slice("a")
    raw["metadata"]["managedFields"] = [{"f:spec": {}}] * 100
    raw["metadata"]["annotations"] = {"kubectl.kubernetes.io/last-applied-configuration": "{…}", "mine": "1"}
    put(one, raw)
    assert one.raw[A]["metadata"]["annotations"] == {"mine": "1"}
    assert "managedFields" not in one.raw[A]["metadata"]
    again = store()
    assert put(again, json.loads(json.dumps(one.raw[A]))) == {A}
    assert again.objects[A] == one.objects[A]


def page(**changes: object) -> dict[str, object]:
    return {"kind": "ServiceList", "items": [], "metadata": {"resourceVersion": "7"}, **changes}


def test_a_page_of_a_list_is_read():
    read = read_page(page(items=[{"a": 1}], metadata={"resourceVersion": "7", "continue": "abc"}))
    assert (read.items, read.version, read.continue_token) == ([{"a": 1}], "7", "abc")
    assert read_page(page(items=None)).items == []


@pytest.mark.parametrize(
    "hostile",
    [
        {}, {"status": "ok"}, page(kind="Status"), page(kind=None), page(items={}), page(items=["x"]),
        page(items=[None]), page(metadata=None), page(metadata={}), page(metadata={"resourceVersion": ""}),
        page(metadata={"resourceVersion": 7}), page(metadata={"resourceVersion": "7", "continue": 5}),
        {"kind": "ServiceList", "metadata": {"resourceVersion": "7"}},
    ],
)  # fmt: skip
def test_what_only_looks_like_an_empty_list_is_an_error(hostile):
    with pytest.raises(ApiError) as caught:
        read_page(hostile)
    assert not caught.value.away


def test_an_event_is_read_with_the_version_after_it():
    read = read_event({"type": "ADDED", "object": raw_slice("a", 9)})
    assert (read.type, read.version) == (EventType.ADDED, "9")


@pytest.mark.parametrize(
    "hostile",
    [
        {}, {"type": "ADDED"}, {"type": "ADDED", "object": []}, {"type": "ADDED", "object": {}},
        {"type": "MOVED", "object": raw_slice()}, {"type": ["ADDED"], "object": raw_slice()},
        {"type": "BOOKMARK", "object": {"metadata": {"resourceVersion": None}}},
        {"type": "ADDED", "object": {"metadata": {"resourceVersion": "1" * 200}}},
    ],
)  # fmt: skip
def test_what_is_no_event_is_an_error(hostile):
    with pytest.raises(ApiError) as caught:
        read_event(hostile)
    assert caught.value.status == 200


def test_an_error_event_is_raised():
    with pytest.raises(ApiError) as caught:
        read_event({"type": "ERROR", "object": {"kind": "Status", "code": 410, "reason": "Expired", "message": "m"}})
    assert caught.value.status == 410
