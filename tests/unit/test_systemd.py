"""The systemd unit, as systemd itself judges it, and the settings that go with it, as this kernel knows them."""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from lbd.announce.announcer import STATE_DIRECTORY

SYSTEMD = Path(__file__).resolve().parents[2] / "systemd"
UNIT = SYSTEMD / "lbd.service"
INSTALLED = "/opt/lbd/bin/lbd"
SAFE_EXPOSURE = 2.5

needs_systemd = pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed")


@pytest.fixture
def unit(tmp_path: Path) -> Path:
    """The unit with the `lbd` of this environment in place of the installed one, which `verify` insists on finding."""
    there = tmp_path / "lbd.service"
    there.write_text(UNIT.read_text().replace(INSTALLED, str(Path(sys.executable).parent / "lbd")))
    return there


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(["systemd-analyze", *arguments], capture_output=True, text=True, check=False, timeout=60)


def settings(path: Path) -> dict[str, str]:
    lines = [line.partition("=") for line in path.read_text().splitlines() if line and not line.startswith("#")]
    return {key.strip(): value.strip() for key, _, value in lines}


def section(name: str) -> configparser.SectionProxy:
    parser = configparser.ConfigParser(interpolation=None, strict=True)
    parser.optionxform = str  # type: ignore[assignment,method-assign]  # systemd's keys have capitals
    parser.read(UNIT)
    return parser[name]


@needs_systemd
def test_systemd_accepts_the_unit_without_a_word(unit: Path) -> None:
    done = analyze("verify", "--man=no", str(unit))
    about_lbd = [line for line in (done.stdout + done.stderr).splitlines() if "lbd" in line]
    assert (done.returncode, about_lbd) == (0, [])


@needs_systemd
def test_systemd_finds_fault_with_a_broken_unit(unit: Path) -> None:
    """The test above would pass if `verify` looked at nothing."""
    unit.write_text(unit.read_text().replace("Type=notify", "Type=notify-someday"))
    done = analyze("verify", "--man=no", str(unit))
    assert "notify-someday" in done.stderr


@needs_systemd
def test_the_unit_is_exposed_by_at_most_2_5(unit: Path) -> None:
    done = analyze("security", "--offline=true", "--no-pager", str(unit))
    verdict = re.search(r"Overall exposure level for \S+: ([0-9.]+)", done.stdout)
    assert verdict, done.stdout + done.stderr
    assert float(verdict[1]) <= SAFE_EXPOSURE, done.stdout


def test_stopping_may_take_longer_than_the_default_drain() -> None:
    assert section("Service")["TimeoutStopSec"] == "90s"


def test_a_bad_configuration_is_not_started_again_and_again() -> None:
    assert "78" in section("Service")["RestartPreventExitStatus"].split()


def test_capabilities_are_the_three_that_vips_and_low_ports_need() -> None:
    service = section("Service")
    wanted = {"CAP_NET_ADMIN", "CAP_NET_RAW", "CAP_NET_BIND_SERVICE"}
    assert set(service["AmbientCapabilities"].split()) == wanted
    assert set(service["CapabilityBoundingSet"].split()) == wanted


def test_this_kernel_knows_every_setting_that_is_not_hidden_in_namespaces() -> None:
    """A misspelt key would be skipped silently at boot. The lab may hide some of the machine's own net.* keys."""
    hidden_in_namespaces = re.compile(r"net\.core\.|net\.ipv[46]\.neigh\.default\.gc_|net\.ipv4\.tcp_migrate_req")
    missing = [
        key
        for key in settings(SYSTEMD / "sysctl.d" / "60-lbd.conf")
        if not Path("/proc/sys", key.replace(".", "/")).exists() and not hidden_in_namespaces.match(key)
    ]
    assert missing == []


def test_no_kernel_setting_allows_binding_foreign_addresses() -> None:
    """lbd binds with IP_FREEBIND; the machine-wide switch would hide mistakes of every other service."""
    assert "net.ipv4.ip_nonlocal_bind" not in settings(SYSTEMD / "sysctl.d" / "60-lbd.conf")


def test_sysusers_makes_the_user_that_the_unit_runs_as() -> None:
    line = next(line for line in (SYSTEMD / "sysusers.d" / "lbd.conf").read_text().splitlines() if line[0] != "#")
    assert line.split()[:2] == ["u", section("Service")["User"]]


def test_the_unit_makes_the_place_where_a_daemon_keeps_what_it_knew() -> None:
    """Of the cluster, and of its addresses: writable under ProtectSystem=strict because systemd makes it."""
    service = section("Service")
    assert str(STATE_DIRECTORY) == f"/var/lib/{service['StateDirectory']}"
    assert (service["ProtectSystem"], service["User"], service["StateDirectoryMode"]) == ("strict", "lbd", "0750")


def test_the_unit_lets_lbd_reach_the_api_server_and_change_routes() -> None:
    families = set(section("Service")["RestrictAddressFamilies"].split())
    assert {"AF_INET", "AF_INET6", "AF_UNIX", "AF_NETLINK"} <= families
    assert "IPAddressDeny" not in section("Service")
    assert "PrivateNetwork" not in section("Service")
