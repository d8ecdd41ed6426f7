"""Decides which form of the hot modules runs: compiled by mypyc, or the interpreted source.

The compiled modules live apart from their sources, in the folder `lbd_compiled` of site-packages, with a manifest
of the sources they were built from. `LBD_FORM` chooses:

- `auto` (default): compiled where it is there and was built from exactly these sources, else interpreted;
- `compiled`: compiled, or ImportError with the reason;
- `interpreted`: the sources.
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.machinery
import importlib.util
import json
import os
import pathlib
import sys
from collections.abc import Sequence
from types import ModuleType

VARIABLE = "LBD_FORM"
HOT_MODULES = (
    "lbd.balancing.balancer",
    "lbd.balancing.round_robin",
    "lbd.balancing.consistent_hash",
    "lbd.balancing.bounded_hash",
    "lbd.balancing.two_choices",
    "lbd.balancing.least_connections",
    "lbd.balancing.random_choices",
    "lbd.balancing.fastest_response",
    "lbd.dataplane.hot.tally",
    "lbd.dataplane.hot.wheel",
    "lbd.dataplane.hot.reactor",
    "lbd.dataplane.hot.buffer",
    "lbd.dataplane.hot.splicing",
    "lbd.dataplane.hot.client_limits",
    "lbd.dataplane.hot.persistence",
    "lbd.dataplane.hot.lane",
    "lbd.dataplane.hot.quota",
    "lbd.dataplane.hot.rate",
    "lbd.dataplane.hot.line",
    "lbd.dataplane.hot.limits",
    "lbd.dataplane.hot.meter",
    "lbd.dataplane.hot.networks",
    "lbd.dataplane.hot.proxy_protocol",
    "lbd.dataplane.hot.client_log",
    "lbd.dataplane.hot.service",
    "lbd.dataplane.hot.stream_socket",
    "lbd.dataplane.hot.pair",
    "lbd.dataplane.hot.arrival",
    "lbd.dataplane.hot.choice",
    "lbd.dataplane.hot.connection",
    "lbd.dataplane.hot.logged_connection",
    "lbd.dataplane.hot.entrance",
    "lbd.dataplane.hot.idle_order",
    "lbd.dataplane.hot.datagrams",
    "lbd.dataplane.hot.messages",
    "lbd.dataplane.hot.inbox",
    "lbd.dataplane.hot.outbox",
    "lbd.dataplane.hot.flow",
    "lbd.dataplane.hot.logged_flow",
    "lbd.dataplane.hot.udp",
    "lbd.dataplane.hot.relay",
)
MANIFEST_NAME = "manifest.json"
_FOLDER = "lbd_compiled"
_GROUP_LIBRARY = "lbd__mypyc"
_ROOT = pathlib.Path(__file__).resolve().parent.parent


def source_path(module: str) -> pathlib.Path:
    """Return where the source of a module of lbd lies."""
    return _ROOT.joinpath(*module.split(".")).with_suffix(".py")


class CompiledFinder:
    """Finds the hot modules, and the group library they share, in the folder of compiled modules."""

    def __init__(self, folder: pathlib.Path) -> None:
        self._folder = folder

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> importlib.machinery.ModuleSpec | None:
        """Return the spec of a compiled module, or None for every other name."""
        if fullname not in HOT_MODULES and not fullname.endswith("__mypyc"):
            return None
        location = self._folder / f"{fullname}.so"
        if not location.exists():
            return None
        return importlib.util.spec_from_file_location(
            fullname, location, loader=importlib.machinery.ExtensionFileLoader(fullname, str(location))
        )


def _compiled_folder() -> pathlib.Path | None:
    for entry in [*sys.path, str(_ROOT)]:
        folder = pathlib.Path(entry or ".") / _FOLDER
        if (folder / MANIFEST_NAME).is_file():
            return folder
    return None


def _why_not_compiled(folder: pathlib.Path | None) -> str | None:
    """Return why the compiled form can't run, or None if it can."""
    if folder is None:
        return "no compiled modules are installed (run `make venv` where a C compiler is)"
    try:
        manifest = json.loads((folder / MANIFEST_NAME).read_text())
    except (OSError, ValueError) as error:
        return f"{folder / MANIFEST_NAME}: {error}"
    if not isinstance(manifest, dict):
        return f"{folder / MANIFEST_NAME}: is not a JSON object"
    for module in (*HOT_MODULES, _GROUP_LIBRARY):
        if not (folder / f"{module}.so").is_file():  # else that module alone would silently run interpreted
            return f"{folder} lacks {module}.so (run `make venv`)"
    for module in HOT_MODULES:
        if manifest.get(module) != hashlib.sha256(source_path(module).read_bytes()).hexdigest():
            return f"{module} was edited after it was compiled (run `make venv`)"
    return None


def choose() -> None:
    """Install the finder of the compiled modules, as `LBD_FORM` says.

    Raises:
        ImportError: `LBD_FORM` asks for what is not there, or is none of the three words.
    """
    wanted = os.environ.get(VARIABLE, "auto")
    if wanted not in ("auto", "compiled", "interpreted"):
        raise ImportError(f"{VARIABLE}={wanted}: must be auto, compiled or interpreted")
    if wanted == "interpreted":
        return
    folder = _compiled_folder()
    reason = _why_not_compiled(folder)
    if reason is None and folder is not None:
        sys.meta_path.insert(0, CompiledFinder(folder))
    elif wanted == "compiled":
        raise ImportError(f"{VARIABLE}=compiled: {reason}")


def running() -> str:
    """Return the form that the relay of this process has: `compiled` or `interpreted`."""
    relay = importlib.import_module("lbd.dataplane.hot.relay")
    return "interpreted" if str(relay.__file__).endswith(".py") else "compiled"
