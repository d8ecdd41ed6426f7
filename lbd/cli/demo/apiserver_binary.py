"""Finds a real kube-apiserver and etcd on this machine: those that KUBEBUILDER_ASSETS names, or the one built here.

`make test-kubernetes` builds both as one program from the Go module under tests/kubernetes/apiserver, and keeps it in
the user's cache under a name that says what it was built from.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import lbd

ASSETS_VARIABLE: Final = "KUBEBUILDER_ASSETS"
MODULE: Final = Path(lbd.__file__).resolve().parents[1] / "tests" / "kubernetes" / "apiserver"
"""The Go module in a checkout; an installed lbd has none."""
MODULE_FILES: Final = ("go.mod", "go.sum", "main.go")
PROGRAM: Final = "apiserver"
HOW_TO_GET_ONE: Final = (
    f"set {ASSETS_VARIABLE} to a folder with kube-apiserver and etcd, or build them with `make test-kubernetes` in a "
    "checkout of lbd (needs Go 1.24 or newer; 4 to 10 minutes, once)"
)


class ApiServerMissingError(Exception):
    """There is no kube-apiserver and etcd that could be started; the message says how to get them."""


@dataclass(frozen=True, slots=True)
class Binaries:
    """How the two programs are started: the beginnings of their command lines."""

    kube_apiserver: tuple[str, ...]
    etcd: tuple[str, ...]


def cache_directory(environment: Mapping[str, str]) -> Path:
    """Return the folder that holds what was built: under XDG_CACHE_HOME, or ~/.cache."""
    given = environment.get("XDG_CACHE_HOME", "")
    base = Path(given) if given.startswith("/") else Path(environment.get("HOME", "/root")) / ".cache"
    return base / "lbd"


def built_path(environment: Mapping[str, str], module: Path = MODULE) -> Path:
    """Return where the program built from `module`, as its files are now, is or would be.

    Raises:
        OSError: the module can't be read.
    """
    digest = hashlib.sha256()
    for name in MODULE_FILES:
        content = (module / name).read_bytes()
        digest.update(f"{name} {len(content)}\n".encode() + content)
    return cache_directory(environment) / f"{PROGRAM}-{digest.hexdigest()[:16]}" / PROGRAM


def find(environment: Mapping[str, str], module: Path = MODULE) -> Binaries:
    """Return the programs to start. Without the Go module (an installed lbd) the newest that was built is taken.

    Raises:
        ApiServerMissingError: there are none, or the folder that KUBEBUILDER_ASSETS names lacks one.
    """
    if assets := environment.get(ASSETS_VARIABLE, ""):
        return _of_assets(Path(assets))
    if all((module / name).is_file() for name in MODULE_FILES):
        candidates = [built_path(environment, module)]
    else:
        candidates = sorted(
            cache_directory(environment).glob(f"{PROGRAM}-*/{PROGRAM}"), key=lambda path: path.stat().st_mtime
        )
    for path in reversed(candidates):
        if _runs(path):
            return Binaries((str(path), "kube-apiserver"), (str(path), "etcd"))
    raise ApiServerMissingError(f"there is no kube-apiserver here: {HOW_TO_GET_ONE}")


def _of_assets(folder: Path) -> Binaries:
    missing = [name for name in ("kube-apiserver", "etcd") if not _runs(folder / name)]
    if missing:
        raise ApiServerMissingError(
            f"{ASSETS_VARIABLE}={folder} has no {' and no '.join(missing)} that can be executed"
        )
    return Binaries((str(folder / "kube-apiserver"),), (str(folder / "etcd"),))


def _runs(path: Path) -> bool:
    return path.is_file() and os.access(path, os.X_OK)
