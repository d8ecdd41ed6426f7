"""The cluster as it was known last, on disk."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lbd.kubernetes.watching import cache

CLUSTER = "https://10.0.0.1:6443"
SERVICE = {"kind": "Service", "metadata": {"name": "web", "namespace": "default"}}


def test_what_was_written_is_read_again(tmp_path: Path) -> None:
    cache.write(tmp_path / "k.json", CLUSTER, {"services": [SERVICE]})
    assert cache.read(tmp_path / "k.json", CLUSTER) == {
        "services": (SERVICE,),
        "endpointslices": (),
        "l4rules": (),
        "nodes": (),
    }


def test_it_is_for_nobody_elses_eyes(tmp_path: Path) -> None:
    cache.write(tmp_path / "k.json", CLUSTER, {})
    assert (tmp_path / "k.json").stat().st_mode & 0o777 == 0o600


def test_nothing_there_is_no_state(tmp_path: Path) -> None:
    assert cache.read(tmp_path / "k.json", CLUSTER) is None


def test_another_clusters_state_is_not_used(tmp_path: Path) -> None:
    cache.write(tmp_path / "k.json", "https://10.0.0.2:6443", {"services": [SERVICE]})
    assert cache.read(tmp_path / "k.json", CLUSTER) is None


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{",
        b"[]",
        b"null",
        b'{"version":1}',
        b'{"version":2,"cluster":"https://10.0.0.1:6443"}',
        b"\xff\xfe",
        b"[" * 100_000,
        json.dumps(
            {"version": 1, "cluster": CLUSTER, "services": 7, "endpointslices": [], "l4rules": [], "nodes": []}
        ).encode(),
    ],
)
def test_a_damaged_file_is_no_state(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "k.json").write_bytes(content)
    assert cache.read(tmp_path / "k.json", CLUSTER) is None


def test_a_folder_in_its_place_is_no_state(tmp_path: Path) -> None:
    (tmp_path / "k.json").mkdir()
    assert cache.read(tmp_path / "k.json", CLUSTER) is None


def test_what_can_not_be_written_leaves_the_old_state_and_nothing_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "k.json"
    cache.write(path, CLUSTER, {"services": [SERVICE]})
    monkeypatch.setattr(cache.os, "replace", lambda *_: (_ for _ in ()).throw(OSError(28, "no space")))
    with pytest.raises(OSError, match="no space"):
        cache.write(path, CLUSTER, {})
    monkeypatch.undo()
    assert [entry.name for entry in tmp_path.iterdir()] == ["k.json"]
    assert cache.read(path, CLUSTER)["services"] == (SERVICE,)


def test_what_is_no_object_is_left_out(tmp_path: Path) -> None:
    document = {
        "version": 1,
        "cluster": CLUSTER,
        "services": [SERVICE, 7, None],
        "endpointslices": [],
        "l4rules": [],
        "nodes": [],
    }
    (tmp_path / "k.json").write_text(json.dumps(document))
    assert cache.read(tmp_path / "k.json", CLUSTER)["services"] == (SERVICE,)


def test_it_is_encoded_object_by_object_so_that_others_run_meanwhile(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lengths: list[int] = []
    dumps = json.dumps

    def noting(value: object, **options: Any) -> str:
        said = dumps(value, **options)
        lengths.append(len(said))
        return said

    monkeypatch.setattr(cache.json, "dumps", noting)
    cache.write(tmp_path / "k.json", CLUSTER, {"services": [SERVICE] * 1000})
    assert max(lengths) < 100
    found = cache.read(tmp_path / "k.json", CLUSTER)
    assert found is not None
    assert found["services"] == (SERVICE,) * 1000
