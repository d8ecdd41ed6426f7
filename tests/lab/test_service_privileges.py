"""The daemon with the privileges that the systemd unit gives it, and none beside."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lab_clients import fetch_many
from lab_daemon import Daemon
from lab_servers import PodServer, http
from lbd.cli.demo.lab import Lab
from test_lab_daemon import web

UNIT = Path(__file__).resolve().parents[2] / "systemd" / "lbd.service"
NOBODY = 65534
CAP_BIT = {"CAP_DAC_READ_SEARCH": 2, "CAP_NET_BIND_SERVICE": 10, "CAP_NET_ADMIN": 12, "CAP_NET_RAW": 13}


def real_root() -> bool:
    """Whether this is root outside of any user namespace, who may become another user."""
    return Path("/proc/self/uid_map").read_text().split()[2] != "1"


def capabilities_of_the_unit() -> list[str]:
    line = re.search(r"^AmbientCapabilities=(.*)$", UNIT.read_text(), re.MULTILINE)
    assert line is not None
    return line[1].split()


def effective(pid: int) -> int:
    line = re.search(r"^CapEff:\s*([0-9a-f]+)$", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert line is not None
    return int(line[1], 16)


@pytest.fixture
def open_folder(sandboxed: None) -> Iterator[Path]:
    """A folder in the sandbox's /run that belongs to the user whom the daemon will be."""
    with tempfile.TemporaryDirectory(prefix="service-", dir="/run") as name:
        folder = Path(name)
        if real_root():
            os.chown(folder, NOBODY, NOBODY)
        yield folder


def test_the_unit_s_capabilities_suffice_and_workers_have_none(lab: Lab, family: int, open_folder: Path) -> None:
    capabilities = capabilities_of_the_unit()
    if real_root():
        capabilities.append("CAP_DAC_READ_SEARCH")  # root's files are this environment, not the unit's
    granted = "-all," + ",".join("+" + name.removeprefix("CAP_").lower() for name in capabilities)
    prefix = ["setpriv", f"--inh-caps={granted}", f"--ambient-caps={granted}", f"--bounding-set={granted}"]
    prefix.append("--no-new-privs")
    if real_root():
        prefix += [f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups"]
    with PodServer(lab.pods[0], http), PodServer(lab.pods[1], http), PodServer(lab.pods[2], http):
        config = web(lab, family)
        config["virtual_services"][0]["pool"]["health_monitors"].append("system-ping")  # needs CAP_NET_RAW
        lbd = Daemon(lab, config, open_folder, prefix=prefix)
        state = open_folder / "state"
        state.mkdir()
        if real_root():
            os.chown(state, NOBODY, NOBODY)
        try:
            status = lbd.start().wait_serving()
            assert len(fetch_many(lab.client, lab.vip[family], count=9).failures) == 0
            assert effective(lbd.pid) == sum(1 << CAP_BIT[name] for name in capabilities)
            assert [effective(pid) for pid in status.worker_pids] == [0, 0]
            assert [worker["effective_capabilities"] for worker in status["workers"]] == ["0", "0"]
            lbd.terminate()
            assert lbd.wait() == 0
        finally:
            lbd.close()
    assert lab.vip[family] not in lab.se.run(["ip", "address", "show", "dev", "front"]).stdout
