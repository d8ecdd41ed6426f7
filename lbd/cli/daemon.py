"""The daemon: composed here, run here, ended here."""

from __future__ import annotations

import asyncio
import itertools
import os
import random
import resource
import signal
import socket
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import structlog

from lbd import __version__
from lbd.announce.announcer import Layer2Announcer
from lbd.announce.errors import AnnounceError
from lbd.announce.local_deliverer import LocalDeliverer
from lbd.announce.netlink_thread import AddressError
from lbd.announce.pod_routes import PodRoutes
from lbd.announce.return_path_announcer import ReturnPathAnnouncer
from lbd.health.checker import HealthChecker
from lbd.model.admin_state import AdminStateChange, AdminStateResult
from lbd.model.desired import DesiredState, MemberKey, VirtualService
from lbd.model.status import MemberHealth, ReloadResult, Status
from lbd.observability.admin import AdminServer
from lbd.observability.http import MetricsServer
from lbd.supervisor.file_source import FileSource
from lbd.supervisor.limit_watch import LOOK_INTERVAL_S, LimitWatch
from lbd.supervisor.merge import Merge
from lbd.supervisor.notify import ServiceManager
from lbd.supervisor.relay_path import RelayDataPath
from lbd.supervisor.snapshot import Snapshots
from lbd.supervisor.supervisor import Supervisor
from lbd.supervisor.tasks import Tasks
from lbd.supervisor.transparent_members import Members, desired_members, is_transparent

if TYPE_CHECKING:
    from lbd.cli.cluster import Cluster

log = structlog.get_logger(__name__)

LAG_INTERVAL_S = 0.5
SETTLE_TIMEOUT_S = 30.0
"""READY is said after this time in any case: systemd must not kill a daemon that waits for a foreign owner to leave."""


def state_directory() -> Path:
    """Return where lbd keeps what outlives it; systemd's StateDirectory= says where."""
    return Path(os.environ.get("STATE_DIRECTORY", "/var/lib/lbd"))


class StartError(Exception):
    """The daemon can't start; the text says who must act."""


class Daemon:
    """One running lbd. `paths_of` lists the configuration files."""

    def __init__(self, desired: DesiredState, paths_of: Callable[[], Sequence[Path]]) -> None:
        engine = desired.service_engine
        self._desired = desired
        self._manager = ServiceManager()
        self._lock: socket.socket | None = None
        self._announcer = ReturnPathAnnouncer(
            Layer2Announcer(engine.frontend_interface, state_directory=state_directory()),
            engine.frontend_interface,
            engine.frontend_gateways,
        )
        self._answers = LocalDeliverer(self._transparent_members, is_used=is_transparent(desired))
        self._health = HealthChecker(self._on_health_change, rng=random.Random())
        self._data_path = RelayDataPath(
            engine.workers,
            engine.drain_timeout_s,
            lambda key, error, in_a_row: self._supervisor.member_failed(key, error, in_a_row),
            lambda: self._supervisor.wake(),
            self._answers if is_transparent(desired) else None,
        )
        self._supervisor = Supervisor(desired, self._data_path, self._announcer, self._health)
        self._next_generation = itertools.count(desired.generation + 1).__next__
        self._merge = Merge(desired)
        self._cluster = self._cluster_of(desired)
        self._swept = False
        self._source = FileSource(paths_of, desired, self._next_generation, self._why_not)
        self._snapshots = Snapshots(__version__, self._supervisor, self._data_path)
        self._admin = AdminServer(desired.admin_socket, self.status, self.reload, self.set_admin_state)
        listen = desired.metrics_listen
        self._metrics = MetricsServer(listen.address, listen.port, self.status) if listen is not None else None
        self._tasks = Tasks()
        self._stop_signals = 0

    def status(self) -> Status:
        """Return the snapshot that everybody reads."""
        status = self._snapshots.take(self._source.status)
        problems = [*status.problems, *self._merge.problems]
        if self._answers.problem:
            problems.append(self._answers.problem)
        if self._cluster is None:
            return replace(status, problems=tuple(problems))
        problems += self._cluster.problems
        return replace(status, problems=tuple(problems), kubernetes=self._cluster.status())

    async def reload(self) -> ReloadResult:
        """Read the files again, and return once the change has arrived everywhere, or was refused."""
        self._manager.reloading()
        result = await self._source.reload()
        if result.success:
            self._supervisor.retry_failed()
            try:
                async with asyncio.timeout(SETTLE_TIMEOUT_S):
                    await self._supervisor.settled()
            except TimeoutError:
                log.warning("reload_not_settled", generation=result.generation, after_s=SETTLE_TIMEOUT_S)
        self._manager.ready(self._summary())
        return result

    async def set_admin_state(self, change: AdminStateChange) -> AdminStateResult:
        """Set an admin state, and return once that has arrived everywhere, or was refused."""
        result = self._supervisor.set_admin_state(change)
        if result.success:
            try:
                async with asyncio.timeout(SETTLE_TIMEOUT_S):
                    await self._supervisor.settled()
            except TimeoutError:
                log.warning("admin_state_not_settled", service=change.service, after_s=SETTLE_TIMEOUT_S)
        return result

    async def run(self) -> None:
        """Run until SIGTERM or SIGINT, and until everything has drained.

        Raises:
            StartError: it can't start.
        """
        self._lock = _lock_namespace()
        _raise_descriptor_limit()
        self._handle_signals()
        try:
            await self._start()
            await self._serve()
        except (OSError, AnnounceError, AddressError) as error:
            raise StartError(str(error)) from error
        finally:
            await self._close()

    async def _start(self) -> None:
        await self._source.start(self._files_say)  # before anybody can ask for a reload
        await self._admin.start()
        if self._metrics is not None:
            await self._metrics.start()
        await self._announcer.start()
        if self._cluster is None:
            await self._sweep()
        elif (known := await self._cluster.load()) is not None:
            self._supervisor.set_desired(self._merge.cluster_says(known, self._next_generation()))
            await self._sweep()
        kubernetes = self._desired.kubernetes
        if kubernetes is None or not kubernetes.pod_routes:
            await PodRoutes().close(remove=True)  # what a daemon left that had them and did not end in order
        await self._answers.start()
        await self._health.start()
        await self._data_path.start()
        if self._cluster is not None:
            await self._cluster.start()
        self._tasks.own(self._measure_lag(), "measure loop lag")
        self._tasks.own(self._watch_limits(), "watch limits")
        if self._manager.watchdog_s:
            self._tasks.own(self._feed_watchdog(), "feed watchdog")

    def _cluster_of(self, desired: DesiredState) -> Cluster | None:
        if desired.kubernetes is None:
            return None
        from lbd.cli.cluster import Cluster  # not without need: its imports cost memory and half a second

        return Cluster(
            desired.kubernetes,
            desired,
            state_directory(),
            lambda: self._supervisor.held(),
            self._cluster_says,
        )

    def _files_say(self, desired: DesiredState) -> None:
        self._supervisor.set_desired(self._merge.files_say(desired))
        if self._cluster is not None:
            self._cluster.files_say(desired)

    def _cluster_says(self, services: tuple[VirtualService, ...]) -> None:
        self._supervisor.set_desired(self._merge.cluster_says(services, self._next_generation()))
        if not self._swept:
            self._swept = True
            self._tasks.own(self._sweep(), "sweep")

    def _why_not(self, desired: DesiredState) -> tuple[str, ...]:
        return () if self._cluster is None else (*self._merge.why_not(desired), *self._cluster.why_not(desired))

    async def _sweep(self) -> None:
        """Remove VIPs that a daemon which did not end in order has left, once every source has said what it wants."""
        self._swept = True
        for vip in await self._announcer.sweep(frozenset(self._supervisor.desired.vips)):
            log.warning("orphan_removed", vip=vip, reason="left by a daemon that did not end in order")

    async def _serve(self) -> None:
        loop = self._tasks.own(self._supervisor.run(), "supervisor")
        ready = self._tasks.own(self._supervisor.settled(), "first settling")
        await asyncio.wait({loop, ready}, timeout=SETTLE_TIMEOUT_S, return_when=asyncio.FIRST_COMPLETED)
        if not self._supervisor.stopping and not loop.done():
            log.info("ready", generation=self._desired.generation, summary=self._summary())
            self._manager.ready(self._summary())
        await asyncio.wait({loop})
        if not loop.cancelled():  # a second signal cancels it
            loop.result()

    async def _close(self) -> None:
        await self._tasks.close()
        await self._source.close()
        if self._cluster is not None:
            await self._cluster.stop_watching()
        await self._supervisor.vips.close()
        try:
            await self._announcer.close(remove_addresses=True)
        except AnnounceError as error:  # the rest must end all the same; the next start sweeps what is left
            log.error("vips_left_behind", reason=str(error))
        try:
            await self._answers.close(remove=True)
        except AnnounceError as error:
            log.error("rules_left_behind", reason=str(error))
        await self._data_path.close()
        try:
            if self._cluster is not None:
                await self._cluster.close()
        except AnnounceError as error:
            log.error("routes_left_behind", reason=str(error))
        await self._health.close()
        if self._metrics is not None:
            await self._metrics.close()
        await self._admin.close()
        if self._lock is not None:
            self._lock.close()
        log.info("stopped")

    def _handle_signals(self) -> None:
        loop = asyncio.get_running_loop()
        loop.add_signal_handler(signal.SIGHUP, lambda: self._tasks.own(self._reload_on_signal(), "reload on SIGHUP"))
        for number in (signal.SIGTERM, signal.SIGINT):
            loop.add_signal_handler(number, self._on_stop_signal, number)

    async def _reload_on_signal(self) -> None:
        await self.reload()

    def _on_stop_signal(self, number: int) -> None:
        self._stop_signals += 1
        name = signal.Signals(number).name
        if self._stop_signals == 1:
            drain_s = self._supervisor.desired.service_engine.drain_timeout_s
            log.info("stopping", signal=name, drain_timeout_s=drain_s)
            self._manager.stopping(f"draining for at most {drain_s:g} s")
            self._supervisor.drain_all()
            if self._cluster is not None:
                self._tasks.own(self._cluster.stop_watching(), "stop watching the cluster")
        else:
            log.warning("stopping_at_once", signal=name, reason="a second signal to stop")
            self._data_path.kill()
            self._tasks.cancel()

    def _transparent_members(self) -> Members:
        return desired_members(self._supervisor.desired) | self._data_path.transparent_members()

    def _on_health_change(self, key: MemberKey, health: MemberHealth) -> None:
        self._supervisor.health_changed(key)

    async def _measure_lag(self) -> None:
        while True:
            expected_s = time.monotonic() + LAG_INTERVAL_S
            await asyncio.sleep(LAG_INTERVAL_S)
            self._snapshots.loop_lag_s = max(0.0, time.monotonic() - expected_s)

    async def _watch_limits(self) -> None:
        watch = LimitWatch()
        while True:
            await asyncio.sleep(LOOK_INTERVAL_S)
            states = self._supervisor.services.values()
            services = [(state.applied, self._data_path.traffic(state.handle)) for state in states]
            for reached in watch.look(services, time.monotonic()):
                log.warning(
                    "limit_reached",
                    service=reached.service,
                    reason=reached.reason.value,
                    limit=reached.limit,
                    rejected=reached.rejected,
                    in_s=reached.in_s,
                )

    async def _feed_watchdog(self) -> None:
        while True:
            self._manager.alive()
            await asyncio.sleep(self._manager.watchdog_s / 2)

    def _summary(self) -> str:
        services = self._supervisor.desired.virtual_services
        owned = sum(state == "owned" for state in self._supervisor.vips.states.values())
        return f"{len(services)} virtual services, {owned} VIPs owned, generation {self._supervisor.desired.generation}"


def _lock_namespace() -> socket.socket:
    """One daemon per network namespace: names in the abstract space of unix sockets belong to the namespace.

    Raises:
        StartError: another lbd runs here.
    """
    lock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        lock.bind("\0lbd/daemon")
    except OSError as error:
        lock.close()
        raise StartError("another lbd runs in this network namespace: stop it first (`lbd status` shows it)") from error
    return lock


def _raise_descriptor_limit() -> None:
    """Use all descriptors that the system grants; a soft limit of 1,024 is a shell's default, not a decision."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        log.debug("descriptor_limit_raised", soft=soft, hard=hard)


def run(desired: DesiredState, paths_of: Callable[[], Sequence[Path]]) -> None:
    """Run the daemon in a new event loop.

    Raises:
        StartError: it can't start.
    """
    import uvloop

    log.info("starting", version=__version__, pid=os.getpid(), generation=desired.generation)
    uvloop.run(_run(desired, paths_of))


async def _run(desired: DesiredState, paths_of: Callable[[], Sequence[Path]]) -> None:
    await Daemon(desired, paths_of).run()
