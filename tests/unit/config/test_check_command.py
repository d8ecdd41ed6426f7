"""`lbd check` as its own process: what it prints where, and how it ends."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

EXAMPLES = Path(__file__).parents[3] / "config"
EXAMPLE = EXAMPLES / "lbd.yaml"


def check(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "lbd", "check", *arguments]
    return subprocess.run(command, cwd=cwd, capture_output=True, text=True, timeout=60, check=False)


def test_example_is_accepted_and_summed_up(tmp_path):
    done = check("-c", str(EXAMPLE), cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "ok: 1 file, 4 virtual services, 10 members, 3 VIPs\n"


def test_address_pools_are_counted_where_there_is_a_cluster(tmp_path):
    done = check("-c", str(EXAMPLE), "-c", str(EXAMPLES / "kubernetes.yaml"), cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout == "ok: 2 files, 4 virtual services, 10 members, 3 VIPs, 1 address pool\n"


def test_every_error_is_a_line_on_standard_error_and_the_status_is_78(tmp_path):
    (tmp_path / "a.yaml").write_text("metrics: {listen: x}\nzzz: 1\n")
    (tmp_path / "b.yaml").write_text("admin: {socket: x}\n")
    done = check("-c", "a.yaml", "--config", "b.yaml", "-c", "c.yaml", cwd=tmp_path)
    assert (done.returncode, done.stdout) == (78, "")
    assert [line.split(": ")[0] for line in done.stderr.splitlines()] == [
        "a.yaml:1:19",
        "a.yaml:2:1",
        "b.yaml:1:17",
        "c.yaml:1:1",
    ]


def test_file_name_that_is_not_text_is_printed_and_not_a_crash(tmp_path):
    done = check("-c", "\udcff.yaml", cwd=tmp_path)
    assert done.returncode == 78
    assert done.stderr.endswith(".yaml:1:1: can't be read: No such file or directory\n")
    assert "Traceback" not in done.stderr
