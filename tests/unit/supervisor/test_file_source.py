"""What a reload of the files may change of a running daemon, and the reasons for what it may not."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest

from lbd.config import load
from lbd.model.desired import DesiredState
from lbd.model.status import ReloadResult
from lbd.supervisor.file_source import FileSource

HEAD = "service_engine: {name: se-a, workers: 1, frontend_interface: eth0}\n"
CLUSTER = """\
kubernetes:
  kubeconfig: /etc/lbd/kubeconfig
  context: prod
  load_balancer_class: lbd.io/service-engine
  default_class: false
  namespaces: [shop, blog]
  pod_cidrs: [10.244.0.0/16]
  pod_routes: true
  backend_interface: eth1
  resync: 1h
  request_timeout: 10s
  watch_timeout: 5m
  lease: {namespace: lbd-system, name: lbd, duration: 15s, renew_deadline: 10s, retry: 2s}
"""
POOLS = "address_pools: {web: {ranges: [172.16.101.150-172.16.101.200]}}\n"
WHOLE = HEAD + CLUSTER + POOLS

Reload = Callable[[str, str], tuple[ReloadResult, list[DesiredState]]]


@pytest.fixture
def reload(tmp_path: Path) -> Reload:
    """Start with one file and reload with another; return the outcome and what was posted."""
    path = tmp_path / "lbd.yaml"

    async def run(source: FileSource, posted: list[DesiredState]) -> ReloadResult:
        await source.start(posted.append)
        return await source.reload()

    def reload_with(before: str, after: str) -> tuple[ReloadResult, list[DesiredState]]:
        path.write_text(before)
        source = FileSource(lambda: [path], load([path], 1))
        path.write_text(after)
        posted: list[DesiredState] = []
        return asyncio.run(run(source, posted)), posted

    return reload_with


@pytest.mark.parametrize(
    ("written", "instead", "sentence"),
    [
        ("/etc/lbd/kubeconfig", "/etc/k", "kubeconfig: changing /etc/lbd/kubeconfig to /etc/k"),
        ("context: prod", "context: test", "context: changing prod to test"),
        ("  context: prod\n", "", "context: changing prod to the current one"),
        ("lbd.io/service-engine", "lbd", "load_balancer_class: changing lbd.io/service-engine to lbd"),
        ("default_class: false", "default_class: true", "default_class: changing false to true"),
        ("[shop, blog]", "[shop]", "namespaces: changing blog and shop to shop"),
        ("  namespaces: [shop, blog]\n", "", "namespaces: changing blog and shop to all"),
        ("backend_interface: eth1", "backend_interface: eth2", "backend_interface: changing eth1 to eth2"),
        ("  backend_interface: eth1\n", "", "backend_interface: changing eth1 to none"),
        ("resync: 1h", "resync: 2h", "resync: changing 3600s to 7200s"),
        ("resync: 1h", "resync: 1h1ms", "resync: changing 3600s to 3600.001s"),
        ("request_timeout: 10s", "request_timeout: 1500ms", "request_timeout: changing 10s to 1.5s"),
        ("watch_timeout: 5m", "watch_timeout: 1m", "watch_timeout: changing 300s to 60s"),
        ("namespace: lbd-system", "namespace: lbd", "lease.namespace: changing lbd-system to lbd"),
        ("name: lbd,", "name: group-b,", "lease.name: changing lbd to group-b"),
        ("duration: 15s", "duration: 20s", "lease.duration: changing 15s to 20s"),
        ("renew_deadline: 10s", "renew_deadline: 9s", "lease.renew_deadline: changing 10s to 9s"),
        ("retry: 2s", "retry: 1s", "lease.retry: changing 2s to 1s"),
    ],
)
def test_what_is_fixed_while_a_cluster_is_watched_is_refused_with_its_key(
    reload: Reload, written: str, instead: str, sentence: str
) -> None:
    assert written in WHOLE
    result, posted = reload(WHOLE, WHOLE.replace(written, instead, 1))
    assert (result.success, result.generation, posted) == (False, 1, [])
    assert result.errors == (f"kubernetes.{sentence} needs a restart of the daemon",)


def test_two_settings_that_change_are_two_sentences(reload: Reload) -> None:
    after = WHOLE.replace("  kubeconfig: /etc/lbd/kubeconfig\n  context: prod\n", "  in_cluster: true\n")
    result, posted = reload(WHOLE, after.replace("pod_routes: true\n  backend_interface: eth1", "pod_routes: false"))
    assert posted == []
    assert result.errors == (
        "kubernetes.kubeconfig: changing /etc/lbd/kubeconfig to in_cluster: true needs a restart of the daemon",
        "kubernetes.context: changing prod to the current one needs a restart of the daemon",
        "kubernetes.pod_routes: changing true to false needs a restart of the daemon",
        "kubernetes.backend_interface: changing eth1 to none needs a restart of the daemon",
    )


def test_cluster_is_neither_added_nor_removed_by_a_reload(reload: Reload) -> None:
    result, posted = reload(HEAD, WHOLE)
    assert (result.errors, posted) == (("kubernetes: adding it needs a restart of the daemon",), [])
    result, posted = reload(WHOLE, HEAD.replace("workers: 1", "workers: 2"))
    assert posted == []
    assert result.errors == (
        "service_engine.workers: changing 1 to 2 needs a restart of the daemon",
        "kubernetes: removing it needs a restart of the daemon",
    )


def test_pools_profiles_pod_networks_and_monitors_change_with_a_reload(reload: Reload) -> None:
    after = (
        HEAD
        + CLUSTER.replace("10.244.0.0/16", "10.245.0.0/16")
        + "address_pools: {shop: {ranges: [172.16.103.0/24], namespaces: [shop]}}\n"
        + "profiles: {Watch: {type: analytics, slow_connect: 1s}}\nhealth_monitors: {line: {type: tcp}}\n"
    )
    result, posted = reload(WHOLE, after)
    assert (result.success, result.errors) == (True, ())
    (state,) = posted
    assert state.kubernetes is not None
    assert state.kubernetes.pod_cidrs == ("10.245.0.0/16",)
    assert [pool.name for pool in state.kubernetes.address_pools] == ["shop"]
    assert state.kubernetes.profiles[-1].name == "Watch"
    assert state.kubernetes.health_monitors[-1].name == "line"


def test_files_without_a_cluster_reload_as_ever_and_so_does_an_unchanged_cluster(reload: Reload) -> None:
    for text in (HEAD, WHOLE):
        result, posted = reload(text, text + "# nothing\n")
        assert (result.success, len(posted)) == (True, 1)


def test_the_order_of_namespaces_is_no_change(reload: Reload) -> None:
    result, _posted = reload(WHOLE, WHOLE.replace("[shop, blog]", "[blog, shop]"))
    assert result.success


def test_first_profile_with_a_transparent_source_needs_a_restart(reload: Reload) -> None:
    profile = "profiles: {seen: {type: application, source: transparent}}\n"
    result, posted = reload(WHOLE, WHOLE + profile)
    assert posted == []
    (error,) = result.errors
    assert error.startswith("source: transparent: the first service or profile with it needs a restart of the daemon")
    result, posted = reload(WHOLE + profile, WHOLE + profile.replace("seen", "again"))
    assert (result.success, len(posted)) == (True, 1)
