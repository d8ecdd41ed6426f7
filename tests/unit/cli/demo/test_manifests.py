"""The manifests that `lbd demo --kubernetes` applies: those of config/kubernetes, also where lbd was installed."""

from __future__ import annotations

import filecmp
import subprocess
import sys
from pathlib import Path

import pytest

from lbd.cli.demo import manifests
from lbd.cli.demo.demo_daemon import StageError
from lbd.cli.demo.kubernetes_play import example

CHECKOUT = Path(__file__).resolve().parents[4]
CONFIG = CHECKOUT / "config" / "kubernetes"


def files_below(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def test_a_wheel_has_the_manifests_of_config_kubernetes_and_all_of_them(tmp_path: Path) -> None:
    build = [sys.executable, "setup.py", "--quiet", "build_py", "--build-lib", str(tmp_path)]
    subprocess.run(build, cwd=CHECKOUT, check=True, capture_output=True, timeout=60)
    installed = tmp_path / "lbd" / "cli" / "demo" / "manifest_files"
    shipped = files_below(CONFIG)
    assert "rbac.yaml" in shipped
    assert files_below(installed) == shipped
    assert filecmp.cmpfiles(CONFIG, installed, shipped, shallow=False) == (shipped, [], [])
    assert (tmp_path / "lbd" / "cli" / "demo" / "manifests.py").is_file()


def test_a_checkout_uses_its_own(tmp_path: Path) -> None:
    assert manifests.folder() == CONFIG
    assert manifests.folder(tmp_path / "no-checkout", tmp_path) == tmp_path


@pytest.mark.parametrize("kind", ["Deployment", "Service", "L4Rule"])
def test_the_example_has_what_the_demo_plays_with(kind: str) -> None:
    path, manifest = example(kind)
    assert path.parent == CONFIG / "example"
    assert manifest["apiVersion"]
    assert manifest["metadata"]["name"]


def test_an_example_that_is_not_there_is_said() -> None:
    with pytest.raises(StageError, match=r"there is no DaemonSet in .*example"):
        example("DaemonSet")
