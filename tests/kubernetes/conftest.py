"""The fixtures of the tests on a real API server: one for all tests of a process, or one of its own to break.

Each test has a Kubernetes namespace of its own, a lab of network namespaces whose Pods are real servers, and starts
`lbd run` there with a kubeconfig of the ServiceAccount of config/kubernetes/rbac.yaml. What lbd asks for and may not
have fails the test.
"""

from __future__ import annotations

import os
import re
from collections.abc import Generator, Iterator
from pathlib import Path

import pytest

from build_apiserver import why_not
from kit_cluster import Cluster, audit_flags, install
from kit_daemon import KubernetesDaemonFactory
from kit_publish import serving
from lab_daemon import DaemonFactory
from lab_fixtures import daemon, judge_skip, lab, raise_descriptor_limit, sandboxed
from lbd.cli.demo.apiserver import ApiServer
from lbd.cli.demo.apiserver_binary import find
from lbd.cli.demo.lab import Lab
from lbd.cli.demo.management import ManagementNetwork

__all__ = ["daemon", "lab", "sandboxed"]
HERE = Path(__file__).resolve().parent


def pytest_configure() -> None:
    """Prepare this process for its part."""
    raise_descriptor_limit()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what lies in this folder."""
    for item in items:
        if HERE in item.path.parents:
            item.add_marker(pytest.mark.kubernetes)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip into a failure where the lab is required."""
    report = yield
    return judge_skip(report) if HERE in item.path.parents else report


@pytest.fixture(scope="session")
def management(sandboxed: None, worker_id: str) -> Iterator[ManagementNetwork]:
    """The network over which service engines reach API servers; its address is this process's."""
    number = int(re.sub(r"\D", "", worker_id) or 0)
    with ManagementNetwork(number) as network:
        yield network


@pytest.fixture(scope="session")
def api_server(management: ManagementNetwork, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ApiServer]:
    """The API server that the tests of this process share, with lbd's CRD and RBAC. To break one, take own_server."""
    with _server(management, tmp_path_factory.mktemp("apiserver")) as server:
        yield server


@pytest.fixture
def own_server(management: ManagementNetwork, tmp_path: Path) -> Iterator[ApiServer]:
    """An API server for this test alone, to be killed, paused and restarted (3 s more)."""
    with _server(management, tmp_path / "own") as server:
        yield server


def _server(management: ManagementNetwork, directory: Path) -> ApiServer:
    if (reason := why_not(os.environ)) is not None:
        pytest.skip(reason)
    return ApiServer(find(os.environ), directory, management.address, flags=audit_flags(directory), prepare=install)


@pytest.fixture
def cluster(api_server: ApiServer, tmp_path: Path) -> Iterator[Cluster]:
    """This test's view of the shared cluster."""
    yield from _cluster(api_server, tmp_path)


@pytest.fixture
def own_cluster(own_server: ApiServer, tmp_path: Path) -> Iterator[Cluster]:
    """This test's own cluster: `own_cluster.server` can be killed, paused and restarted."""
    yield from _cluster(own_server, tmp_path)


def _cluster(server: ApiServer, directory: Path) -> Iterator[Cluster]:
    made = Cluster(server, directory)
    yield made
    server.start()
    made.clear()
    assert made.asked(status=403) == [], "config/kubernetes/rbac.yaml doesn't allow what lbd asked for"


@pytest.fixture
def second_lab(sandboxed: None, worker_id: str) -> Iterator[Lab]:
    """Another lab with the same addresses, for a second service engine of the group: its own client and Pods."""
    with Lab(prefix=f"{worker_id}-second-") as built:
        yield built


@pytest.fixture
def lbd_kubernetes(lab: Lab, management: ManagementNetwork, daemon: DaemonFactory) -> KubernetesDaemonFactory:
    """A function that returns a Daemon that watches a cluster; see KubernetesDaemonFactory."""
    return KubernetesDaemonFactory(lab, management, daemon)


@pytest.fixture
def pods(lab: Lab) -> Iterator[list[str]]:
    """HTTP servers in the lab's Pods, on port 80; their IPv4 addresses."""
    with serving(lab):
        yield [pod.address[4] for pod in lab.pods]
