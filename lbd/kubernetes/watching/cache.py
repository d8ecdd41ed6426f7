"""The cluster as it was known last, on disk: what a daemon serves that starts while the API is away.

A file of JSON beside the daemon's other state, written whole and moved into its place. It holds objects as the API
server said them, without what lbd does not read, and is read with the same distrust.
"""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import structlog

log = structlog.get_logger(__name__)

VERSION = 1
MAX_BYTES = 256 << 20
RESOURCES = ("services", "endpointslices", "l4rules", "nodes")

Objects = Mapping[str, tuple[dict[str, Any], ...]]
"""By resource."""


def read(path: Path, cluster: str) -> Objects | None:
    """Return what was known of `cluster`; None if nothing is there that can be used, which is logged.

    This blocks while it reads: a daemon calls it in a thread.
    """
    try:
        with open(path, "rb") as file:
            content = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        log.warning("kubernetes_cache_unreadable", path=str(path), reason=error.strerror)
        return None
    try:
        found = json.loads(content)
        if found["version"] != VERSION:
            raise ValueError(f"it is of version {found['version']}, not {VERSION}")
        if found["cluster"] != cluster:
            log.info("kubernetes_cache_of_another_cluster", path=str(path), cluster=cluster)
            return None
        return {name: tuple(one for one in found[name] if isinstance(one, dict)) for name in RESOURCES}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        log.warning("kubernetes_cache_unreadable", path=str(path), reason=f"{type(error).__name__}: {error}")
        return None


def write(path: Path, cluster: str, objects: Mapping[str, Iterable[Mapping[str, Any]]]) -> None:
    """Replace what is known of the cluster; whoever reads meanwhile gets the old or the new whole.

    This blocks while it writes: a daemon calls it in a thread.

    Raises:
        OSError: it can't be written.
    """
    content = _document(cluster, objects)
    beside = path.with_suffix(".new")
    try:
        with open(beside, "w", encoding="utf-8", opener=_private) as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError:
        with contextlib.suppress(OSError):
            beside.unlink()
        raise


def _document(cluster: str, objects: Mapping[str, Iterable[Mapping[str, Any]]]) -> str:
    """Return all as JSON, encoded object by object: no other thread runs while one call encodes everything."""
    lists = (f"{_json(name)}:[{','.join(_json(one) for one in objects.get(name, ()))}]" for name in RESOURCES)
    return f'{{"version":{VERSION},"cluster":{_json(cluster)},{",".join(lists)}}}'


def _json(value: object) -> str:
    return json.dumps(value, separators=(",", ":"))


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
