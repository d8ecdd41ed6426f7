"""Builds the hot modules with mypyc into `lbd_compiled/`, apart from their sources.

A compiled module beside its source wins silently when the source is edited. So the shared objects get a
folder of their own with a manifest of the sources' hashes, and `lbd.form` decides at import which form runs.
Without a C compiler the build goes on and lbd runs interpreted.
"""

import hashlib
import json
import pathlib
import shutil
import sys
from typing import Any

from setuptools import setup
from setuptools.command.build_ext import build_ext
from setuptools.command.build_py import build_py

ROOT = pathlib.Path(__file__).parent
sys.path.insert(0, str(ROOT))
from lbd.form import HOT_MODULES, MANIFEST_NAME, source_path  # noqa: E402  (needs the path above)

GROUP = "lbd_hot"
DIRECT_CALLS = ["-fvisibility=hidden", "-fno-semantic-interposition", "-fno-plt"]
"""mypyc's functions are global symbols of a shared object, which another one might replace: without these each call of
one by another goes through a table, and none is inlined (2 to 3 % of the relay's CPU)."""


class BuildCompiledApart(build_ext):
    """Puts every shared object under `lbd_compiled/` and writes the manifest of what it was built from."""

    def get_ext_fullpath(self, ext_name: str) -> str:
        return str(pathlib.Path(self.build_lib) / "lbd_compiled" / f"{ext_name}.so")

    def run(self) -> None:
        if self.editable_mode:  # a checkout's compiled form is built by `make venv` into site-packages
            return
        folder = pathlib.Path(self.build_lib) / "lbd_compiled"
        shutil.rmtree(folder, ignore_errors=True)  # a failed compile must not leave old objects under a new manifest
        super().run()
        if all((folder / f"{name}.so").exists() for name in HOT_MODULES):
            manifest = {name: hashlib.sha256(source_path(name).read_bytes()).hexdigest() for name in HOT_MODULES}
            (folder / MANIFEST_NAME).write_text(json.dumps(manifest, indent=1))


class BuildWithManifests(build_py):
    """Puts config/kubernetes into the package too: `lbd demo --kubernetes` applies it, also without a checkout."""

    def run(self) -> None:
        super().run()
        if not self.editable_mode:
            target = pathlib.Path(self.build_lib) / "lbd" / "cli" / "demo" / "manifest_files"
            shutil.copytree(ROOT / "config" / "kubernetes", target, dirs_exist_ok=True)


def hot_extensions() -> list[Any]:
    """Return mypyc's extensions for the hot modules, or none where mypyc is not installed."""
    try:
        from mypyc.build import mypycify
    except ImportError:
        print("mypyc is not installed: lbd will run interpreted", file=sys.stderr)
        return []
    paths = [str(source_path(name).relative_to(ROOT)) for name in HOT_MODULES]
    extensions = mypycify(["--strict", *paths], opt_level="3", group_name="lbd")
    for extension in extensions:
        extension.optional = True  # no C compiler: go on without
        extension.extra_compile_args += DIRECT_CALLS
    return list(extensions)


BUILDS = {"build_ext", "bdist_wheel", "install", "build"}
setup(
    ext_modules=hot_extensions() if BUILDS & set(sys.argv) else [],
    cmdclass={"build_ext": BuildCompiledApart, "build_py": BuildWithManifests},
)
