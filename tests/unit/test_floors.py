"""The floor plan: imports only go down, the lower floors are pure, and a worker stays small."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest

ROOT = Path(__file__).parents[2]

FLOORS = {
    "": 0,  # lbd/__init__.py
    "form": 0,
    "model": 1,
    "balancing": 2,
    "config": 3,
    "health": 4,
    "dataplane": 4,
    "announce": 4,
    "kubernetes": 4,
    "observability": 5,
    "supervisor": 6,
    "cli": 7,
    "__main__": 8,
}
PURE_FLOORS = (1, 2)
FORBIDDEN_ON_PURE_FLOORS = {
    *("aiohttp", "asyncio", "concurrent", "http", "multiprocessing", "select", "selectors", "socket", "socketserver"),
    *("ssl", "threading", "urllib", "uvloop"),
    *("io", "logging", "os", "pathlib", "signal", "structlog", "subprocess", "tempfile"),
    *("datetime", "random", "sched", "secrets", "time"),
    *("kubernetes_asyncio", "prometheus_client", "pydantic", "pyroute2", "yaml"),
}
"""What does I/O, asks a clock or throws dice, and what would bind a decision to a library."""

EXCEPTIONS = {("lbd.form", "lbd.dataplane.hot.relay")}
"""`form.running()` asks the relay which form it has, when it is called: it can't know without looking."""


class Import(NamedTuple):
    """`importer` imports `imported`, both as dotted names of modules, or of something in a module."""

    importer: str
    line: int
    imported: str


def module_of(path: Path, root: Path) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_of(path: Path, root: Path) -> Iterator[Import]:
    """Return every import of a file, also those inside functions and under TYPE_CHECKING; relative ones in full."""
    importer = module_of(path, root)
    package = importer if path.name == "__init__.py" else importer.rpartition(".")[0]
    for node in ast.walk(ast.parse(path.read_text(), str(path))):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield Import(importer, node.lineno, alias.name)
        elif isinstance(node, ast.Call) and (named := module_named_in(node)):
            yield Import(importer, node.lineno, named)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                above = package.split(".")[: len(package.split(".")) - node.level + 1]
                base = ".".join([*above, base] if base else above)
            for alias in node.names:
                # `from lbd import model` imports a package, `from lbd import __version__` a name of lbd itself.
                whole = f"{base}.{alias.name}"
                below = root.joinpath(*whole.split("."))
                yield Import(
                    importer, node.lineno, whole if below.is_dir() or below.with_suffix(".py").is_file() else base
                )


def module_named_in(call: ast.Call) -> str | None:
    """Return the module that `importlib.import_module("…")` or `__import__("…")` names, if it is that."""
    called = call.func.attr if isinstance(call.func, ast.Attribute) else getattr(call.func, "id", "")
    named = call.args[0] if call.args else None
    if called in ("import_module", "__import__") and isinstance(named, ast.Constant) and isinstance(named.value, str):
        return named.value
    return None


def package_of(module: str) -> str:
    """Return the part of lbd that a module belongs to: `dataplane` for `lbd.dataplane.worker`."""
    return [*module.split("."), ""][1]


def violations(root: Path) -> list[str]:
    """Return what breaks the floor plan in `root`/lbd, as `lbd.model.address:3 imports lbd.cli`."""
    return [
        f"{found.importer}:{found.line} imports {found.imported}: {reason}"
        for path in sorted((root / "lbd").rglob("*.py"))
        for found in imports_of(path, root)
        if (reason := why_wrong(found))
    ]


def why_wrong(found: Import) -> str | None:
    importer = package_of(found.importer)
    if importer not in FLOORS:
        return f"lbd.{importer} has no floor"
    if (found.importer, found.imported) in EXCEPTIONS:
        return None
    top = found.imported.split(".")[0]
    if top != "lbd":
        pure = FLOORS[importer] in PURE_FLOORS
        return "forbidden on this floor" if pure and top in FORBIDDEN_ON_PURE_FLOORS else None
    imported = package_of(found.imported)
    if imported not in FLOORS:
        return f"lbd.{imported} has no floor"
    if importer == imported or FLOORS[imported] < FLOORS[importer] or FLOORS[imported] == FLOORS[importer] == 0:
        return None
    return "sideways" if FLOORS[imported] == FLOORS[importer] else "upward"


def test_imports_only_go_down_and_the_lower_floors_are_pure():
    assert violations(ROOT) == []


def test_every_package_has_a_floor():
    packages = {path.parent.name for path in (ROOT / "lbd").glob("*/__init__.py")}
    assert packages - set(FLOORS) == set()


def test_the_walk_sees_the_imports_that_are_there():
    seen = {
        (package_of(found.importer), package_of(found.imported))
        for path in (ROOT / "lbd").rglob("*.py")
        for found in imports_of(path, ROOT)
        if found.imported.split(".")[0] == "lbd"
    }
    assert {("config", "model"), ("cli", "config"), ("supervisor", "dataplane")} <= seen


def test_every_exception_is_still_needed():
    needed = {
        (found.importer, found.imported) for path in (ROOT / "lbd").rglob("*.py") for found in imports_of(path, ROOT)
    }
    assert needed >= EXCEPTIONS


@pytest.mark.parametrize(
    ("file", "source", "reason"),
    [
        ("model/a.py", "import lbd.config", "lbd.model.a:1 imports lbd.config: upward"),
        ("model/a.py", "from lbd import balancing", "lbd.model.a:1 imports lbd.balancing: upward"),
        ("model/a.py", "from lbd.cli.main import main", "lbd.model.a:1 imports lbd.cli.main: upward"),
        ("model/__init__.py", "from ..cli import main", "lbd.model:1 imports lbd.cli.main: upward"),
        ("health/a.py", "from .. import dataplane", "lbd.health.a:1 imports lbd.dataplane: sideways"),
        ("health/probes/a.py", "from ...announce import x", "lbd.health.probes.a:1 imports lbd.announce: sideways"),
        ("health/a.py", "def f():\n    import lbd.supervisor", "lbd.health.a:2 imports lbd.supervisor: upward"),
        (
            "config/a.py",
            "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from lbd.health import b",
            "lbd.config.a:3 imports lbd.health: upward",
        ),
        (
            "balancing/a.py",
            "import importlib\nimportlib.import_module('lbd.health.x')",
            "lbd.balancing.a:2 imports lbd.health.x: upward",
        ),
        ("__init__.py", "from lbd import model", "lbd:1 imports lbd.model: upward"),
        ("model/a.py", "import time", "lbd.model.a:1 imports time: forbidden on this floor"),
        ("balancing/a.py", "from random import choice", "lbd.balancing.a:1 imports random: forbidden on this floor"),
        (
            "balancing/a.py",
            "import asyncio.events",
            "lbd.balancing.a:1 imports asyncio.events: forbidden on this floor",
        ),
        ("balancing/a.py", "def f():\n    import socket", "lbd.balancing.a:2 imports socket: forbidden on this floor"),
        ("extra/a.py", "import json", "lbd.extra.a:1 imports json: lbd.extra has no floor"),
        ("cli/a.py", "import lbd.extra.a", "lbd.cli.a:1 imports lbd.extra.a: lbd.extra has no floor"),
    ],
)
def test_a_tree_that_breaks_the_plan_is_found(file, source, reason, tmp_path):
    for package in ("", *FLOORS, "health/probes"):
        if package not in ("form", "__main__"):
            (tmp_path / "lbd" / package).mkdir(parents=True, exist_ok=True)
            (tmp_path / "lbd" / package / "__init__.py").touch()
    (tmp_path / "lbd" / "cli" / "main.py").touch()
    assert violations(tmp_path) == []
    broken = tmp_path / "lbd" / file
    broken.parent.mkdir(exist_ok=True)
    broken.write_text(source)
    assert violations(tmp_path) == [reason]


def test_good_imports_are_not_reported(tmp_path):
    good = tmp_path / "lbd" / "cli" / "a.py"
    good.parent.mkdir(parents=True)
    (tmp_path / "lbd" / "model").mkdir()
    good.write_text("import time, socket\nfrom lbd import __version__, model\nfrom . import b\nimport lbd.cli.c\n")
    assert violations(tmp_path) == []


def test_worker_imports_neither_pydantic_nor_kubernetes_nor_an_http_server():
    script = "import json, sys; import lbd.dataplane.worker; print(json.dumps(sorted(sys.modules)))"
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True, cwd=ROOT
    )
    loaded = {name.split(".")[0] for name in json.loads(done.stdout)}
    assert "lbd" in loaded
    assert loaded & {"pydantic", "pydantic_core", "kubernetes_asyncio", "aiohttp", "yaml", "pyroute2", "rich"} == set()


CLUSTER_FLOORS = {
    "objects": 1,
    "api": 2,
    "rules": 2,
    "addresses": 2,
    "watching": 3,
    "translation": 3,
    "writing": 3,
    "": 4,
}
"""Inside lbd.kubernetes: its folders, and above them its own modules."""


def test_inside_the_clusters_package_imports_only_go_down_too():
    def folder_of(module: str) -> str:
        parts = module.split(".")
        return parts[2] if len(parts) > 2 and parts[2] in CLUSTER_FLOORS else ""

    upward = [
        f"{found.importer}:{found.line} imports {found.imported}"
        for path in sorted((ROOT / "lbd" / "kubernetes").rglob("*.py"))
        for found in imports_of(path, ROOT)
        if found.imported.startswith("lbd.kubernetes.") and folder_of(found.imported) != folder_of(found.importer)
        if CLUSTER_FLOORS[folder_of(found.imported)] >= CLUSTER_FLOORS[folder_of(found.importer)]
    ]
    assert upward == []
