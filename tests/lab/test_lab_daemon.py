"""The kit's daemon: each thing that other lab tests read or do through it, seen once to work and once to fail."""

from __future__ import annotations

import copy
import os
import signal
from typing import Any

import pytest

from lab_clients import fetch, fetch_many
from lab_daemon import DaemonFactory, alive, descriptors, resident_bytes, wait_dead
from lab_servers import PodServer, http
from lbd.cli.demo.lab import Lab


def web(lab: Lab, family: int = 4) -> dict[str, Any]:
    """A virtual service `web` on the lab's VIP with every Pod, checked once a second."""
    members = [{"address": pod.address[family], "port": 80} for pod in lab.pods]
    return {
        "health_monitors": {"quick": {"type": "tcp", "interval": "1s", "timeout": "500ms", "rise": 1, "fall": 2}},
        "virtual_services": [
            {
                "name": "web",
                "vip": lab.vip[family],
                "port": 80,
                "protocol": "tcp",
                "pool": {"health_monitors": ["quick"], "members": members},
            }
        ],
    }


def test_a_client_reaches_every_pod_through_the_daemon_in_the_form_asked_for(
    lab: Lab, daemon: DaemonFactory, family: int, form: str
) -> None:
    with PodServer(lab.pods[0], http), PodServer(lab.pods[1], http), PodServer(lab.pods[2], http):
        lbd = daemon(web(lab, family), form)
        status = lbd.wait_serving()
        assert {worker["form"] for worker in status["workers"]} == {form}
        assert len(status.worker_pids) == 2
        assert set(fetch_many(lab.client, lab.vip[family], count=30).answers) == {pod.name for pod in lab.pods}
        assert lbd.metrics().value("lbd_virtual_service_connections_total", virtual_service="web") == 30
        assert lbd.status().service("web")["traffic"]["connections_total"] == 30


def test_reload_applies_a_good_file_and_refuses_a_bad_one_with_its_place(lab: Lab, daemon: DaemonFactory) -> None:
    with PodServer(lab.pods[0], http), PodServer(lab.pods[1], http), PodServer(lab.pods[2], http):
        config = web(lab)
        lbd = daemon(config)
        lbd.wait_serving()
        smaller = copy.deepcopy(config)
        del smaller["virtual_services"][0]["pool"]["members"][1:]
        assert lbd.reload(smaller).returncode == 0
        assert set(fetch_many(lab.client, lab.vip[4], count=6).answers) == {lab.pods[0].name}
        refused = lbd.reload("virtual_services: [\n  - oops")
        assert refused.returncode == 78
        assert "lbd.yaml:" in refused.stderr
        assert fetch(lab.client, lab.vip[4]) == lab.pods[0].name


def test_what_the_daemon_logs_and_notifies_can_be_awaited(lab: Lab, daemon: DaemonFactory) -> None:
    with PodServer(lab.pods[0], http) as server, PodServer(lab.pods[1], http), PodServer(lab.pods[2], http):
        lbd = daemon(web(lab))
        lbd.wait_serving()
        mark = lbd.log.mark()
        server.stop()
        down = lbd.log.wait_for("member_down", timeout_s=5.0, since=mark, member=f"{lab.pods[0].address[4]}:80")
        assert down["service"] == "web"
        with pytest.raises(AssertionError, match="no log record"):
            lbd.log.wait_for("member_down", timeout_s=0.05, since=mark, member="another")
        lbd.terminate()
        lbd.wait_notification("STOPPING")
        assert lbd.wait() == 0


def test_the_processes_can_be_looked_at_and_killed(lab: Lab, daemon: DaemonFactory) -> None:
    lbd = daemon(web(lab))
    workers = lbd.worker_pids
    assert len(set(workers)) == 2
    for pid in [lbd.pid, *workers]:
        assert alive(pid)
        assert descriptors(pid) > 3
        assert resident_bytes(pid) > 1 << 20
    os.kill(workers[0], signal.SIGKILL)
    wait_dead(workers[0])
    lbd.kill()
    assert not lbd.running
    wait_dead(workers[1])


def test_a_daemon_that_cannot_start_fails_the_test_with_its_log(lab: Lab, daemon: DaemonFactory) -> None:
    with pytest.raises(AssertionError, match="78 before READY"):
        daemon("virtual_services: 5")


def test_a_traceback_of_the_daemon_fails_the_test(lab: Lab, daemon: DaemonFactory) -> None:
    lbd = daemon(web(lab), start=False)
    lbd.log.other.append("Traceback (most recent call last):")
    with pytest.raises(AssertionError, match="wrote tracebacks"):
        lbd.close()
    lbd.log.other.clear()
