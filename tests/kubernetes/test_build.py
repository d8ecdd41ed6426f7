"""How the API server is built: which Go is good enough, and what is said where there is none. Builds nothing."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

import build_apiserver
from build_apiserver import BuildError, GoMissingError, build, find_go, go_version, kubernetes_version
from lbd.cli.demo.apiserver_binary import MODULE, built_path


def script(path: Path, body: str) -> str:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return str(path)


def go(path: Path, version: str) -> str:
    return script(path, f"echo go version go{version} linux/amd64")


@pytest.mark.parametrize(
    ("said", "version"),
    [
        ("go version go1.24.1 linux/amd64", (1, 24)),
        ("go version go1.26rc1 linux/arm64", (1, 26)),
        ("go version go1.9 linux/amd64", (1, 9)),
        ("go version devel +a1b2", None),
        ("", None),
    ],
)
def test_go_s_version_is_read(said: str, version: tuple[int, int] | None) -> None:
    assert go_version(said) == version


def test_the_first_go_that_is_new_enough_is_taken(tmp_path: Path) -> None:
    old, new = go(tmp_path / "old", "1.23.12"), go(tmp_path / "new", "1.24.0")
    assert find_go(["/no/such/go", old, new, go(tmp_path / "newer", "1.26")]) == new


def test_a_go_that_is_too_old_is_named_and_none_at_all_is_said(tmp_path: Path) -> None:
    old, broken = go(tmp_path / "old", "1.19.8"), script(tmp_path / "broken", "exit 1")
    with pytest.raises(GoMissingError, match=rf"needs Go 1\.24 or newer.*{old} is go version go1\.19\.8.*is broken"):
        find_go([old, broken])
    with pytest.raises(GoMissingError, match="there is no Go here"):
        find_go([])


def test_the_version_that_the_program_says_is_the_one_that_is_required() -> None:
    version = kubernetes_version((MODULE / "go.mod").read_text())
    assert tuple(map(int, version.lstrip("v").split("."))) >= (1, 34, 0)


def test_a_build_that_fails_leaves_nothing_where_the_program_would_be(tmp_path: Path) -> None:
    half = script(tmp_path / "go", 'while [ "$1" != -o ]; do shift; done; echo half >"$2"; exit 3')
    target = tmp_path / "out" / "apiserver"
    target.parent.mkdir()
    with pytest.raises(BuildError, match="failed with 3"):
        build(half, target, {"PATH": "/usr/bin:/bin"})
    assert list(target.parent.iterdir()) == []


def test_building_twice_builds_once_and_says_how_long_it_takes(tmp_path: Path) -> None:
    whole = 'if [ $1 = version ]; then echo go version go1.99; exit; fi; echo . >>"$0.log";'
    script(tmp_path / "go", f'{whole} while [ "$1" != -o ]; do shift; done; echo whole >"$2"; chmod 755 "$2"')
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "XDG_CACHE_HOME": str(tmp_path / "cache")}

    def started() -> subprocess.Popen[str]:
        argv = [sys.executable, build_apiserver.__file__]
        return subprocess.Popen(argv, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    both = [started(), started()]
    said = "".join(process.communicate(timeout=60)[0] for process in both)
    assert [process.returncode for process in both] == [0, 0]
    assert built_path(environment).read_text() == "whole\n"
    assert (tmp_path / "go.log").read_text() == ".\n"
    assert said.count("4 to 10 minutes, once") == 1
    assert str(built_path(environment)) in said


def test_without_go_one_sentence_says_it_and_is_no_failure(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv("KUBEBUILDER_ASSETS", raising=False)
    monkeypatch.setattr(build_apiserver, "USUAL_PLACES", ())
    assert build_apiserver.main() == 0
    said = capsys.readouterr().err
    assert said.count("\n") == 1
    assert "needs Go 1.24 or newer to be built, once: there is no Go here" in said
    reason = build_apiserver.why_not({"XDG_CACHE_HOME": str(tmp_path)})
    assert reason is not None
    assert reason in said
