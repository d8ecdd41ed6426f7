"""Claims about `lbd lint`: what it prints, where, and how it exits."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from lbd.cli.lint import command

GOOD = """\
apiVersion: ako.vmware.com/v1alpha2
kind: L4Rule
metadata: {name: good, namespace: shop}
spec: {backendProperties: [{port: 80, protocol: TCP, enabled: yes}]}
"""
BAD = GOOD.replace("good", "bad").replace("port: 80", "port: 0")
PROFILED = GOOD.replace("good", "profiled").replace("spec: {", "spec: {applicationProfileRef: custom, ")
CONFIG = """\
service_engine: {frontend_interface: ens192}
kubernetes: {kubeconfig: /etc/lbd/kubeconfig}
address_pools: {web: {ranges: [172.16.101.150]}}
profiles: {custom: {type: application}}
"""


@pytest.fixture(autouse=True)
def files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    contents = {
        "good.yaml": GOOD,
        "bad.yaml": BAD,
        "profiled.yaml": PROFILED,
        "lbd.yaml": CONFIG,
        "none.yaml": "a: 1\n",
    }
    for name, content in contents.items():
        Path(name).write_text(content)


def run(*arguments: str, stdin: str = "") -> Result:
    return CliRunner().invoke(command, list(arguments), input=stdin)


def test_a_good_file_is_one_line_and_0():
    result = run("good.yaml")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "good.yaml: L4Rule shop/good: Accepted\n", "")


def test_a_bad_one_among_good_ones_is_1():
    result = run("good.yaml", "bad.yaml")
    assert result.exit_code == 1
    assert result.stdout.splitlines() == [
        "good.yaml: L4Rule shop/good: Accepted",
        "bad.yaml: L4Rule shop/bad: Rejected: spec.backendProperties[0].port: 0 is not a port (1-65535)",
    ]


def test_a_missing_profile_is_rejected_with_a_hint_and_is_there_with_the_configuration():
    result = run("profiled.yaml")
    assert result.exit_code == 1
    assert result.stderr == "hint: only what is built in is known: name the configuration of lbd with -c FILE\n"
    result = run("profiled.yaml", "-c", "lbd.yaml")
    assert (result.exit_code, result.stderr) == (0, "")


def test_no_hint_is_given_where_the_configuration_is_known():
    Path("profiled.yaml").write_text(PROFILED.replace("custom", "customs"))
    result = run("profiled.yaml", "-c", "lbd.yaml")
    assert (result.exit_code, result.stderr) == (1, "")
    assert "did you mean custom?" in result.stdout


def test_a_bad_configuration_is_78_and_nothing_is_judged():
    Path("lbd.yaml").write_text(CONFIG.replace("172.16.101.150", "172.16.101.999"))
    result = run("good.yaml", "-c", "lbd.yaml")
    assert (result.exit_code, result.stdout) == (78, "")
    assert result.stderr.startswith("lbd.yaml:3:")


def test_a_configuration_without_a_cluster_is_78():
    Path("lbd.yaml").write_text("service_engine: {frontend_interface: ens192}\n")
    result = run("good.yaml", "-c", "lbd.yaml")
    assert result.exit_code == 78
    assert "has no kubernetes section" in result.stderr


def test_a_file_that_is_not_there_and_no_file_at_all_are_2():
    assert run("nowhere.yaml").exit_code == 2
    assert run().exit_code == 2


def test_what_is_not_yaml_is_1_with_its_place_and_the_rest_is_judged():
    Path("broken.yaml").write_text("a: [\n")
    result = run("broken.yaml", "good.yaml")
    assert result.exit_code == 1
    assert result.stdout == "good.yaml: L4Rule shop/good: Accepted\n"
    assert result.stderr.startswith("broken.yaml:2:1: is not YAML")


def test_a_file_with_nothing_to_judge_says_so():
    result = run("none.yaml")
    assert (result.exit_code, result.stderr) == (0, "hint: there is neither an L4Rule nor a Service in it\n")


def test_standard_input_is_a_file_too():
    done = subprocess.run(
        [sys.executable, "-m", "lbd", "lint", "-"], input=BAD, capture_output=True, text=True, timeout=60, check=False
    )
    assert done.returncode == 1
    assert done.stdout.startswith("-: L4Rule shop/bad: Rejected: ")
