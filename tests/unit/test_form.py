"""Which form of the hot modules runs: each claim in a process of its own, on a tree made for it.

The tree has the real `lbd/__init__.py` and `lbd/form.py`; its hot modules say only which form they are. The compiled
ones are real extension modules, built once by the C compiler.
"""

from __future__ import annotations

import ast
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import sysconfig

import pytest

import lbd
from lbd.form import HOT_MODULES, MANIFEST_NAME, VARIABLE, source_path

ROOT = pathlib.Path(lbd.__file__).parent
COLD_MODULE = "lbd.cold"
GROUP_LIBRARY = "lbd__mypyc"
EXTENSIONS = (*HOT_MODULES, COLD_MODULE, GROUP_LIBRARY)

_C_SOURCE = """
#include <Python.h>
static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, "extension", NULL, -1, NULL};
static PyObject *create(void)
{
    PyObject *module = PyModule_Create(&definition);
    if (module != NULL && PyModule_AddStringConstant(module, "FORM", "compiled") < 0)
        Py_CLEAR(module);
    return module;
}
"""

_PROBE = """
import importlib, json, sys
from lbd import form
found = {name: importlib.import_module(name).FORM for name in sys.argv[1:]}
print(json.dumps({"forms": found, "running": form.running()}))
"""


@pytest.fixture(scope="module")
def extension(tmp_path_factory: pytest.TempPathFactory) -> pathlib.Path:
    """A shared object that can be loaded under the name of any module of the tree."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    include = pathlib.Path(sysconfig.get_paths()["include"])
    if compiler is None or not (include / "Python.h").exists():
        pytest.skip("no C compiler or no Python.h: then there is no compiled form to choose")
    folder = tmp_path_factory.mktemp("extension")
    inits = [f"PyMODINIT_FUNC PyInit_{name.rpartition('.')[2]}(void) {{ return create(); }}" for name in EXTENSIONS]
    (folder / "extension.c").write_text(_C_SOURCE + "\n".join(inits))
    command = [compiler, "-shared", "-fPIC", f"-I{include}", "-o", "extension.so", "extension.c"]
    subprocess.run(command, cwd=folder, check=True, capture_output=True, text=True)
    return folder / "extension.so"


@pytest.fixture
def tree(tmp_path: pathlib.Path) -> pathlib.Path:
    """A tree with sources only."""
    root = tmp_path / "tree"
    for name in (*HOT_MODULES, COLD_MODULE):
        source = source_in(root, name)
        source.parent.mkdir(parents=True, exist_ok=True)
        source.write_text('FORM = "interpreted"\n')
    for package in sorted(path for path in root.rglob("*") if path.is_dir()):
        (package / "__init__.py").touch()
    for name in ("__init__.py", "form.py"):
        shutil.copy(ROOT / name, root / "lbd" / name)
    return root


@pytest.fixture
def compiled(tree: pathlib.Path, extension: pathlib.Path) -> pathlib.Path:
    """The folder of compiled modules, built from exactly the tree's sources."""
    return compile_into(tree.parent / "site", tree, extension)


def compile_into(site: pathlib.Path, tree: pathlib.Path, extension: pathlib.Path) -> pathlib.Path:
    """Do what a build does, and return the folder that it made below `site`."""
    folder = site / "lbd_compiled"
    folder.mkdir(parents=True)
    for name in EXTENSIONS:
        shutil.copy(extension, folder / f"{name}.so")
    manifest = {name: hashlib.sha256(source_in(tree, name).read_bytes()).hexdigest() for name in HOT_MODULES}
    (folder / MANIFEST_NAME).write_text(json.dumps(manifest))
    return folder


def source_in(tree: pathlib.Path, module: str) -> pathlib.Path:
    """Where a module's source lies in a tree."""
    return tree.joinpath(*module.split(".")).with_suffix(".py")


def run(tree: pathlib.Path, form: str | None, *modules: str, code: str = _PROBE) -> subprocess.CompletedProcess[str]:
    """Run the probe; without `site`, so that nothing installed in this environment is seen."""
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    environment["PYTHONPATH"] = os.pathsep.join([str(tree), str(tree.parent / "site")])
    if form is not None:
        environment[VARIABLE] = form
    command = [sys.executable, "-S", "-B", "-c", code, *modules]
    return subprocess.run(command, env=environment, cwd=tree.parent, capture_output=True, text=True, timeout=60)


def forms(tree: pathlib.Path, form: str | None, *modules: str) -> set[str]:
    """The forms that were seen, of all hot modules unless some are named, and of the relay as lbd reports it."""
    completed = run(tree, form, *(modules or HOT_MODULES))
    assert completed.returncode == 0, completed.stderr
    answer = json.loads(completed.stdout)
    return {*answer["forms"].values(), *([] if modules else [answer["running"]])}


def refusal(tree: pathlib.Path, form: str) -> str:
    """The last line of the error with which `import lbd` ends."""
    completed = run(tree, form, code="import lbd")
    assert completed.returncode == 1, completed.stdout
    return completed.stderr.splitlines()[-1]


def test_every_hot_module_has_a_source() -> None:
    assert [name for name in HOT_MODULES if not source_path(name).is_file()] == []


def test_hot_modules_use_no_other_source_of_lbd_so_the_manifest_covers_all_that_is_compiled_in() -> None:
    imported = {
        node.module
        for name in HOT_MODULES
        for node in ast.walk(ast.parse(source_path(name).read_text()))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("lbd")
    }
    assert "lbd.balancing.balancer" in imported
    assert imported - set(HOT_MODULES) == set()


@pytest.mark.parametrize("form", [None, "auto", "compiled"])
def test_modules_compiled_from_these_sources_run(tree: pathlib.Path, compiled: pathlib.Path, form: str | None) -> None:
    assert forms(tree, form) == {"compiled"}


def test_compiled_modules_beside_the_package_are_found_too(tree: pathlib.Path, extension: pathlib.Path) -> None:
    compile_into(tree, tree, extension)
    assert forms(tree, "compiled") == {"compiled"}


def test_interpreted_runs_the_sources_though_compiled_ones_are_there(
    tree: pathlib.Path, compiled: pathlib.Path
) -> None:
    assert forms(tree, "interpreted") == {"interpreted"}


@pytest.mark.parametrize("form", [None, "auto", "interpreted"])
def test_without_compiled_modules_the_sources_run(tree: pathlib.Path, form: str | None) -> None:
    assert forms(tree, form) == {"interpreted"}


def test_compiled_is_refused_with_the_reason_where_nothing_was_compiled(tree: pathlib.Path) -> None:
    error = refusal(tree, "compiled")
    assert error.startswith("ImportError: LBD_FORM=compiled: no compiled modules are installed")
    assert "make venv" in error


@pytest.mark.parametrize("edited", HOT_MODULES)
def test_one_edited_source_makes_all_hot_modules_run_interpreted(
    tree: pathlib.Path, compiled: pathlib.Path, edited: str
) -> None:
    source = source_in(tree, edited)
    source.write_text(source.read_text() + "# edited\n")
    assert forms(tree, "auto") == {"interpreted"}
    error = refusal(tree, "compiled")
    assert error.startswith(f"ImportError: LBD_FORM=compiled: {edited} was edited after it was compiled")


def test_an_edit_that_is_taken_back_makes_the_compiled_modules_valid_again(
    tree: pathlib.Path, compiled: pathlib.Path
) -> None:
    source = source_in(tree, HOT_MODULES[0])
    before = source.read_text()
    source.write_text("FORM = 'edited'\n")
    assert forms(tree, "auto", HOT_MODULES[0]) == {"edited"}
    source.write_text(before)
    assert forms(tree, "auto") == {"compiled"}


def test_a_touched_but_unchanged_source_does_not_invalidate_the_compiled_modules(
    tree: pathlib.Path, compiled: pathlib.Path
) -> None:
    os.utime(source_in(tree, HOT_MODULES[-1]))
    assert forms(tree, "compiled") == {"compiled"}


def test_a_build_that_knew_fewer_hot_modules_is_stale(tree: pathlib.Path, compiled: pathlib.Path) -> None:
    manifest = json.loads((compiled / MANIFEST_NAME).read_text())
    del manifest[HOT_MODULES[-1]]
    (compiled / MANIFEST_NAME).write_text(json.dumps(manifest))
    assert forms(tree, "auto") == {"interpreted"}
    assert HOT_MODULES[-1] in refusal(tree, "compiled")


def test_shared_objects_of_a_build_that_did_not_end_are_not_used(tree: pathlib.Path, compiled: pathlib.Path) -> None:
    (compiled / MANIFEST_NAME).unlink()
    assert forms(tree, "auto") == {"interpreted"}
    assert "no compiled modules are installed" in refusal(tree, "compiled")


@pytest.mark.parametrize("missing", [HOT_MODULES[0], HOT_MODULES[-1], GROUP_LIBRARY])
def test_a_missing_shared_object_never_makes_a_mixture(
    tree: pathlib.Path, compiled: pathlib.Path, missing: str
) -> None:
    (compiled / f"{missing}.so").unlink()
    assert forms(tree, "auto") == {"interpreted"}
    assert f"{missing}.so" in refusal(tree, "compiled")


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"\xff\xfe"], ids=["empty", "half", "list", "binary"])
def test_a_broken_manifest_means_interpreted_and_is_named_when_compiled_is_asked_for(
    tree: pathlib.Path, compiled: pathlib.Path, content: bytes
) -> None:
    (compiled / MANIFEST_NAME).write_bytes(content)
    assert forms(tree, "auto") == {"interpreted"}
    assert str(compiled / MANIFEST_NAME) in refusal(tree, "compiled")


@pytest.mark.parametrize("word", ["", "fast", "Compiled", "compiled "])
def test_a_word_that_is_none_of_the_three_is_refused_by_name(
    tree: pathlib.Path, compiled: pathlib.Path, word: str
) -> None:
    expected = f"ImportError: LBD_FORM={word}: must be auto, compiled or interpreted"
    assert refusal(tree, word) == expected


def test_only_hot_modules_are_ever_taken_from_the_compiled_folder(tree: pathlib.Path, compiled: pathlib.Path) -> None:
    assert (compiled / f"{COLD_MODULE}.so").exists()
    assert forms(tree, "compiled", COLD_MODULE) == {"interpreted"}


def test_the_library_that_the_compiled_modules_share_is_found_only_when_they_run(
    tree: pathlib.Path, compiled: pathlib.Path
) -> None:
    assert forms(tree, "compiled", GROUP_LIBRARY) == {"compiled"}
    completed = run(tree, "interpreted", GROUP_LIBRARY)
    assert "ModuleNotFoundError" in completed.stderr
