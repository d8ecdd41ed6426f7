"""Where a kube-apiserver and etcd are looked for."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from lbd.cli.demo.apiserver_binary import MODULE, ApiServerMissingError, Binaries, built_path, cache_directory, find


def program(path: Path, mode: int = 0o755) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("#!/bin/sh\n")
    path.chmod(mode)
    return path


@pytest.fixture
def module(tmp_path: Path) -> Path:
    folder = tmp_path / "module"
    folder.mkdir()
    for name in ("go.mod", "go.sum", "main.go"):
        (folder / name).write_text(name)
    return folder


def test_kubebuilder_assets_come_first(tmp_path: Path, module: Path) -> None:
    environment = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "KUBEBUILDER_ASSETS": str(tmp_path / "assets")}
    program(built_path(environment, module))
    apiserver, etcd = program(tmp_path / "assets" / "kube-apiserver"), program(tmp_path / "assets" / "etcd")
    assert find(environment, module) == Binaries((str(apiserver),), (str(etcd),))


@pytest.mark.parametrize("absent", ["kube-apiserver", "etcd"])
def test_assets_that_lack_a_program_are_an_error_that_names_it_and_not_passed_over(
    tmp_path: Path, module: Path, absent: str
) -> None:
    environment = {"XDG_CACHE_HOME": str(tmp_path / "cache"), "KUBEBUILDER_ASSETS": str(tmp_path / "assets")}
    program(built_path(environment, module))
    program(tmp_path / "assets" / "kube-apiserver", 0o644 if absent == "kube-apiserver" else 0o755)
    if absent != "etcd":
        program(tmp_path / "assets" / "etcd")
    if os.access(tmp_path / "assets" / absent, os.X_OK):
        pytest.skip("this user may execute everything")
    with pytest.raises(ApiServerMissingError, match=f"assets has no {absent} that can be executed"):
        find(environment, module)


def test_what_was_built_of_the_module_as_it_is_is_taken(tmp_path: Path, module: Path) -> None:
    environment = {"XDG_CACHE_HOME": str(tmp_path)}
    built = program(built_path(environment, module))
    assert find(environment, module) == Binaries((str(built), "kube-apiserver"), (str(built), "etcd"))


@pytest.mark.parametrize("name", ["go.mod", "go.sum", "main.go"])
def test_what_was_built_of_another_module_is_not_taken(tmp_path: Path, module: Path, name: str) -> None:
    environment = {"XDG_CACHE_HOME": str(tmp_path)}
    program(built_path(environment, module))
    (module / name).write_text("changed")
    with pytest.raises(ApiServerMissingError, match="`make test-kubernetes`"):
        find(environment, module)


def test_an_installed_lbd_takes_the_newest_that_was_built(tmp_path: Path) -> None:
    environment = {"XDG_CACHE_HOME": str(tmp_path)}
    older, newer = (program(tmp_path / "lbd" / f"apiserver-{digest}" / "apiserver") for digest in ("ff", "00"))
    os.utime(older, (1, 1))
    os.utime(newer, (2, 2))
    assert find(environment, tmp_path / "no-module").etcd == (str(newer), "etcd")


def test_nothing_at_all_says_how_to_get_one(tmp_path: Path) -> None:
    with pytest.raises(ApiServerMissingError, match=r"KUBEBUILDER_ASSETS.*make test-kubernetes.*minutes, once"):
        find({"XDG_CACHE_HOME": str(tmp_path)}, tmp_path / "no-module")


def test_the_cache_is_where_the_xdg_specification_says(tmp_path: Path) -> None:
    assert cache_directory({"XDG_CACHE_HOME": "/x", "HOME": "/h"}) == Path("/x/lbd")
    assert cache_directory({"XDG_CACHE_HOME": "relative", "HOME": "/h"}) == Path("/h/.cache/lbd")
    assert cache_directory({"HOME": "/h"}) == Path("/h/.cache/lbd")


def test_the_module_of_this_checkout_has_what_its_name_is_made_of() -> None:
    assert built_path({"HOME": "/h"}, MODULE).name == "apiserver"
