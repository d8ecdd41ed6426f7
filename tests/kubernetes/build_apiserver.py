"""Builds the kube-apiserver and etcd of tests/kubernetes from the Go module in apiserver/, once.

`python tests/kubernetes/build_apiserver.py` says what it does and how long it takes. It does nothing where there is
one already, and without a usable Go it says so and ends with 0: the tests are skipped then, with the same sentence.
"""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

from lbd.cli.demo.apiserver_binary import ASSETS_VARIABLE, MODULE, ApiServerMissingError, built_path, find

OLDEST_GO = (1, 24)
USUAL_PLACES = ("/usr/local/go/bin/go", *(f"/usr/lib/go-1.{minor}/bin/go" for minor in range(30, 23, -1)))
"""Where Go's own archive and Debian's versioned packages put it, for those who have it not in PATH."""


class BuildError(Exception):
    """The program could not be built; the message says what is missing, or shows what Go said."""


class GoMissingError(BuildError):
    """There is no Go that is new enough; the message says which was seen."""


def go_version(said: str) -> tuple[int, int] | None:
    """Return (major, minor) of what `go version` said, or None if it makes no sense."""
    found = re.match(r"go version go(\d+)\.(\d+)", said)
    return (int(found[1]), int(found[2])) if found else None


def find_go(candidates: Sequence[str]) -> str:
    """Return the first Go that is new enough.

    Raises:
        GoMissingError: there is none.
    """
    seen = []
    for path in candidates:
        try:
            done = subprocess.run([path, "version"], capture_output=True, text=True, check=False, cwd="/")
        except OSError:
            continue
        version = go_version(done.stdout)
        if version is not None and version >= OLDEST_GO:
            return path
        seen.append(f"{path} is {done.stdout.strip() or 'broken'}")
    wanted = "the Kubernetes API server of the tests needs Go {}.{} or newer to be built, once".format(*OLDEST_GO)
    raise GoMissingError(f"{wanted}: {'; '.join(seen) or 'there is no Go here'} (https://go.dev/dl)")


def kubernetes_version(go_mod: str) -> str:
    """Return the version of k8s.io/kubernetes that go.mod requires, such as v1.34.4."""
    found = re.search(r"^\s*k8s\.io/kubernetes (v\S+)$", go_mod, re.MULTILINE)
    assert found, "go.mod requires no k8s.io/kubernetes"
    return found[1]


def build(go: str, target: Path, environment: Mapping[str, str], module: Path = MODULE) -> None:
    """Build `module` into `target`; the file appears whole or not at all.

    Raises:
        BuildError: Go failed.
    """
    version = kubernetes_version((module / "go.mod").read_text())
    stamps = {"gitVersion": version, "gitTreeState": "clean", "gitCommit": ""}
    flags = " ".join(
        ["-s", "-w", *(f"-X=k8s.io/component-base/version.{key}={value}" for key, value in stamps.items())]
    )
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        made = Path(folder, target.name)
        command = [go, "build", "-trimpath", "-mod=readonly", "-ldflags", flags, "-o", str(made), "."]
        done = subprocess.run(command, cwd=module, env={**environment, "CGO_ENABLED": "0", "GOFLAGS": ""}, check=False)
        if done.returncode != 0:
            raise BuildError(f"`go build` in {module} failed with {done.returncode}, see above")
        made.replace(target)


def ensure(environment: Mapping[str, str]) -> None:
    """Build what is missing; two that are started at once build it once.

    Raises:
        BuildError: no usable Go, or it failed.
    """
    target = built_path(environment)
    target.parent.mkdir(parents=True, exist_ok=True)
    with (target.parent / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if target.exists():
            return
        go = find_go([*filter(None, [shutil.which("go")]), *USUAL_PLACES])
        print(
            f"lbd: building a real kube-apiserver and etcd for the tests with {go}: downloads about 170 MB of Go "
            f"modules and compiles them, 4 to 10 minutes, once; it is kept in {target.parent}",
            flush=True,
        )
        begun_s = time.monotonic()
        build(go, target, environment)
        print(f"lbd: built {target} in {(time.monotonic() - begun_s) / 60:.1f} minutes", flush=True)


def why_not(environment: Mapping[str, str]) -> str | None:
    """Return why no API server can be started here, as one sentence; None if one can. Builds nothing."""
    try:
        find(environment)
    except ApiServerMissingError as missing:
        try:
            find_go([*filter(None, [shutil.which("go")]), *USUAL_PLACES])
        except GoMissingError as error:
            if not environment.get(ASSETS_VARIABLE):
                return str(error)
        return str(missing)
    return None


def main() -> int:
    """Make sure that there is an API server to start; return 1 only if building failed."""
    environment = dict(os.environ)
    try:
        find(environment)
        return 0
    except ApiServerMissingError as missing:
        if environment.get(ASSETS_VARIABLE):
            print(f"lbd: {missing}", file=sys.stderr)
            return 1
    try:
        ensure(environment)
    except BuildError as error:
        print(f"lbd: {error}", file=sys.stderr)
        return 0 if isinstance(error, GoMissingError) else 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
