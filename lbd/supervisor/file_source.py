"""The source that reads YAML files, at start and at every reload."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import structlog

from lbd.config import ConfigErrors, load
from lbd.model.desired import DesiredState
from lbd.model.kubernetes import Kubernetes
from lbd.model.status import ConfigStatus, ReloadResult
from lbd.supervisor.transparent_members import is_transparent

log = structlog.get_logger(__name__)

_FIRST_TRANSPARENT = (
    "source: transparent: the first service or profile with it needs a restart of the daemon, whose workers have "
    "given up the capability for it (CAP_NET_RAW)"
)


class FileSource:
    """Implements `EndpointSource`. `paths_of` lists the files to read, anew each time: a directory may have changed.

    `next_generation` numbers what all sources together say; without one, this source counts by itself. `why_not` may
    refuse what the files want, with sentences.
    """

    def __init__(
        self,
        paths_of: Callable[[], Sequence[Path]],
        initial: DesiredState,
        next_generation: Callable[[], int] | None = None,
        why_not: Callable[[DesiredState], Sequence[str]] = lambda _wanted: (),
    ) -> None:
        self._paths_of = paths_of
        self._current = initial
        self._next_generation = next_generation or itertools.count(initial.generation + 1).__next__
        self._why_not = why_not
        self._may_be_transparent = is_transparent(initial)
        self._post: Callable[[DesiredState], None] | None = None
        self._lock = asyncio.Lock()
        now = time.time()
        self.status = ConfigStatus(
            files=tuple(map(str, paths_of())),
            generation=initial.generation,
            last_reload_success=True,
            last_reload_time=now,
            last_success_time=now,
        )

    async def start(self, post: Callable[[DesiredState], None]) -> None:
        """Post every new snapshot to `post` from now on."""
        self._post = post

    async def close(self) -> None:
        """Post nothing more."""
        self._post = None

    async def reload(self) -> ReloadResult:
        """Read the files again; a bad one changes nothing, and its errors are logged, kept and returned."""
        async with self._lock:
            paths: list[Path] = []
            try:
                paths = list(self._paths_of())
                if not paths:
                    raise ValueError("there is no configuration file any more")
                desired = await asyncio.to_thread(load, paths, self._current.generation + 1)
            except ConfigErrors as error:
                return self._refused(paths, tuple(map(str, error.errors)))
            except ValueError as error:
                return self._refused(paths, (str(error),))
            fixed = _changes_that_need_a_restart(self._current, desired)
            if is_transparent(desired) and not self._may_be_transparent:
                fixed.append(_FIRST_TRANSPARENT)
            fixed += self._why_not(desired)
            if fixed:
                return self._refused(paths, tuple(fixed))
            return self._accepted(paths, desired)

    def _accepted(self, paths: Sequence[Path], desired: DesiredState) -> ReloadResult:
        desired = self._current = replace(desired, generation=self._next_generation())
        now = time.time()
        self.status = replace(
            self.status,
            files=tuple(map(str, paths)),
            generation=desired.generation,
            last_reload_success=True,
            last_reload_time=now,
            last_success_time=now,
            errors=(),
            reloads_total=self.status.reloads_total + 1,
        )
        log.info("config_reloaded", generation=desired.generation, services=len(desired.virtual_services))
        if self._post is not None:
            self._post(desired)
        return ReloadResult(True, desired.generation)

    def _refused(self, paths: Sequence[Path], errors: tuple[str, ...]) -> ReloadResult:
        self.status = replace(
            self.status,
            files=tuple(map(str, paths)),
            last_reload_success=False,
            last_reload_time=time.time(),
            errors=errors,
            reloads_total=self.status.reloads_total + 1,
            reload_failures_total=self.status.reload_failures_total + 1,
        )
        for error in errors:
            log.error("config_refused", error=error, generation_kept=self._current.generation)
        return ReloadResult(False, self._current.generation, errors)


def _changes_that_need_a_restart(old: DesiredState, new: DesiredState) -> list[str]:
    """Return a sentence for each process-wide setting that a running daemon can't change."""
    before, after = old.service_engine, new.service_engine
    pairs = [
        ("service_engine.workers", before.workers, after.workers),
        ("service_engine.frontend_interface", before.frontend_interface, after.frontend_interface),
        ("service_engine.frontend_gateway", _words(before.frontend_gateways), _words(after.frontend_gateways)),
        ("metrics.listen", old.metrics_listen, new.metrics_listen),
        ("admin.socket", old.admin_socket, new.admin_socket),
    ]
    sentences: list[str] = []
    if old.kubernetes is not None and new.kubernetes is not None:
        settings = zip(_settings_of(old.kubernetes), _settings_of(new.kubernetes), strict=True)
        pairs += [(key, was, wanted) for (key, was), (_key, wanted) in settings]
    elif old.kubernetes is not new.kubernetes:
        verb = "adding" if old.kubernetes is None else "removing"
        sentences.append(f"kubernetes: {verb} it needs a restart of the daemon")
    sentences[:0] = [
        f"{key}: changing {was} to {wanted} needs a restart of the daemon"
        for key, was, wanted in pairs
        if was != wanted
    ]
    return sentences


def _settings_of(cluster: Kubernetes) -> list[tuple[str, object]]:
    """Return what of a cluster is fixed while it is watched, as it is shown; the rest of it may change."""
    lease = cluster.lease
    settings = [
        ("kubeconfig", cluster.kubeconfig or "in_cluster: true"),
        ("context", cluster.context or "the current one"),
        ("load_balancer_class", cluster.load_balancer_class),
        ("default_class", str(cluster.default_class).lower()),
        ("namespaces", _words(cluster.namespaces, "all")),
        ("pod_routes", str(cluster.pod_routes).lower()),
        ("backend_interface", cluster.backend_interface or "none"),
        ("resync", f"{cluster.resync_s:.10g}s"),
        ("request_timeout", f"{cluster.request_timeout_s:.10g}s"),
        ("watch_timeout", f"{cluster.watch_timeout_s:.10g}s"),
        ("lease.namespace", lease.namespace),
        ("lease.name", lease.name),
        ("lease.duration", f"{lease.duration_s:.10g}s"),
        ("lease.renew_deadline", f"{lease.renew_deadline_s:.10g}s"),
        ("lease.retry", f"{lease.retry_s:.10g}s"),
    ]
    return [(f"kubernetes.{key}", shown) for key, shown in settings]


def _words(words: Sequence[str], empty: str = "none") -> str:
    return " and ".join(sorted(words)) or empty
