"""Checks the members: what the supervisor talks to. Results go to the trackers, their conclusions to the supervisor."""

from __future__ import annotations

import asyncio
import random
import time
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field, replace

import structlog

from lbd.health.lateness import CheckStatistics
from lbd.health.probes.dns import DnsProbe
from lbd.health.probes.http import HttpProbe
from lbd.health.probes.ping import PingProbe
from lbd.health.probes.poller import Poller
from lbd.health.probes.tcp import TcpProbe
from lbd.health.probes.udp import UdpProbe
from lbd.health.result import ProbeResult
from lbd.health.runner import PLACES, QUANTUM_S, Check, ProbeRunner
from lbd.health.schedule import first_spread_s
from lbd.health.tracker import MemberTracker, Observation, check_monitors
from lbd.model.desired import HealthMonitor, MemberKey, MonitorType
from lbd.model.status import ConnectError, Health, MemberHealth

log = structlog.get_logger(__name__)

_EVENT = {Health.UP: "member_up", Health.DOWN: "member_down", Health.UNKNOWN: "member_unknown"}


@dataclass(slots=True, eq=False)
class _Target:
    """One member. `decided` is set by its first result, or when it is no longer checked."""

    tracker: MemberTracker
    monitors: tuple[HealthMonitor, ...] = ()
    checks: list[Check] = field(default_factory=list)
    decided: asyncio.Event = field(default_factory=asyncio.Event)
    decided_by_s: float = 0.0


class HealthChecker:
    """Owns every probe. `on_change` is called on the event loop, from `set_targets` and `report_passive` too, whenever
    a member's health or its reason is another than before; not for a member that is added or removed."""

    def __init__(
        self,
        on_change: Callable[[MemberKey, MemberHealth], None],
        *,
        rng: random.Random,
        clock: Callable[[], float] = time.monotonic,
        places: int = PLACES,
    ) -> None:
        """Start nothing yet. `clock` is monotonic, in seconds; `places` bounds the probes in flight."""
        self._on_change = on_change
        self._clock = clock
        self._targets: dict[MemberKey, _Target] = {}
        self._poller = Poller()
        self._ping = PingProbe(rng)
        http = HttpProbe(self._poller)
        probes = {
            MonitorType.TCP: TcpProbe(self._poller).probe,
            MonitorType.HTTP: http.probe,
            MonitorType.HTTPS: http.probe,
            MonitorType.PING: self._ping.probe,
            MonitorType.UDP: UdpProbe(self._poller).probe,
            MonitorType.DNS: DnsProbe(self._poller, rng).probe,
        }
        self._runner = ProbeRunner(probes, self._take, rng=rng, clock=clock, places=places)

    async def start(self) -> None:
        """Begin to check.

        Raises:
            OSError: no descriptor is free.
        """
        self._poller.open()
        self._runner.start()

    async def close(self) -> None:
        """Stop; when it returns no probe is running and every descriptor is closed. Idempotent."""
        await self._runner.close()
        self._ping.close()
        self._poller.close()

    def set_targets(self, targets: Mapping[MemberKey, tuple[HealthMonitor, ...]]) -> None:
        """Take the whole set of members to check; what stays the same goes on undisturbed.

        Raises:
            ValueError: a member has no monitor, or two of one name; nothing was changed.
        """
        self.change_targets(targets, [key for key in self._targets if key not in targets])

    def change_targets(
        self, targets: Mapping[MemberKey, tuple[HealthMonitor, ...]], gone: Collection[MemberKey] = ()
    ) -> None:
        """Check `targets` from now on as said here, `gone` no more, and all others as before. Who is checked so already
        goes on undisturbed; who is not checked at all cannot be gone.

        Raises:
            ValueError: a member has no monitor, or two of one name; nothing was changed.
        """
        for monitors in {id(monitors): monitors for monitors in targets.values()}.values():  # pools share theirs
            check_monitors(monitors)
        now_s = self._clock()
        for key in gone:
            self._forget(key)
        added: list[Check] = []
        changed: list[tuple[MemberKey, _Target, Observation, Health]] = []
        fresh: list[_Target] = []
        for key, monitors in targets.items():
            target = self._targets.get(key)
            if target is None:
                target = self._targets[key] = _Target(MemberTracker(monitors, now_s))
                fresh.append(target)
            elif target.monitors != monitors:
                before = target.tracker.health.health
                changed.append((key, target, target.tracker.set_monitors(monitors, now_s), before))
            added += self._set_checks(key, target, monitors)
        for target in fresh:
            patience_s = max(monitor.timeout_s for monitor in target.monitors)
            target.decided_by_s = now_s + first_spread_s(len(added)) + QUANTUM_S + patience_s
        self._runner.add(added)
        for key, target, observation, before in changed:
            self._publish(key, target, observation, before)

    def _forget(self, key: MemberKey) -> None:
        target = self._targets.pop(key, None)
        if target is None:
            return
        target.decided.set()
        for check in target.checks:
            self._runner.remove(check)

    def report_passive(self, key: MemberKey, error: ConnectError) -> None:
        """Take a connect failure that the relay saw. LOCAL errors and unknown members are passed over: the first say
        nothing about a member, the second were removed while the report was under way."""
        target = self._targets.get(key)
        if target is None or error is ConnectError.LOCAL:
            return
        before = target.tracker.health.health
        self._publish(key, target, target.tracker.observe_passive(error, self._clock()), before)

    def health_of(self, key: MemberKey) -> MemberHealth:
        """Return what is known of a member; of one that is not checked, that it is unknown."""
        target = self._targets.get(key)
        return target.tracker.health if target is not None else MemberHealth()

    def first_results_in(self, keys: Collection[MemberKey]) -> bool:
        """Return whether each member has its first result, or had one monitor timeout to give it. Members that are not
        checked are not waited for."""
        now_s = self._clock()
        targets = (self._targets.get(key) for key in keys)
        return all(target is None or target.decided.is_set() or now_s >= target.decided_by_s for target in targets)

    async def wait_first_results(self, keys: Collection[MemberKey]) -> None:
        """Wait until `first_results_in(keys)`."""
        for key in keys:
            target = self._targets.get(key)
            while target is not None and not self.first_results_in((key,)):
                try:
                    await asyncio.wait_for(target.decided.wait(), max(0.0, target.decided_by_s - self._clock()))
                except TimeoutError:
                    continue

    def statistics(self) -> CheckStatistics:
        """Return what was done so far and how late, for status, metrics and the benchmark."""
        return replace(self._runner.statistics(), targets=len(self._targets))

    def _set_checks(self, key: MemberKey, target: _Target, monitors: tuple[HealthMonitor, ...]) -> list[Check]:
        """Stop the checks of monitors that are gone or changed; return those to begin."""
        if target.monitors == monitors:
            return []
        for check in target.checks:
            if check.monitor not in monitors:
                self._runner.remove(check)
        kept = [check for check in target.checks if check.monitor in monitors]
        known = [check.monitor for check in kept]
        added = [Check(key, monitor) for monitor in monitors if monitor not in known]
        target.checks = kept + added
        target.monitors = monitors
        return added

    def _take(self, check: Check, result: ProbeResult) -> None:
        target = self._targets[check.key]
        before = target.tracker.health.health
        self._publish(check.key, target, target.tracker.observe(check.monitor.name, result, self._clock()), before)

    def _publish(self, key: MemberKey, target: _Target, observation: Observation, before: Health) -> None:
        health = observation.health
        if health.health is not Health.UNKNOWN:
            target.decided.set()
        if not observation.changed:
            return
        if health.health is not before:
            log.info(
                _EVENT[health.health],
                service=key.service,
                member=str(key.endpoint),
                monitor=observation.cause.source,
                reason=observation.cause.reason,
                was=str(before),
            )
        self._on_change(key, health)
