"""What kubectl would do and print, on a cluster whose API server says itself which columns its objects have."""

from __future__ import annotations

import json
import shlex
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

from lbd.cli.demo.api_client import AS_TABLE, ApiClient, ApiError, Manifest, collection_path
from lbd.cli.demo.manifests import read

Say = Callable[[str], None]
_POLL_S: Final = 0.05
_GONE_TIMEOUT_S: Final = 20.0


class Kubectl:
    """Runs commands against the namespace `default`; `say` prints a line, the command line first."""

    def __init__(self, client: ApiClient, say: Say) -> None:
        self.client = client
        self._say = say

    def command(self, *words: str) -> None:
        """Print a command line, as a shell would have it."""
        self._say(f"$ kubectl {shlex.join(words)}")

    def apply(self, path: Path, *, without: str = "") -> list[dict[str, Any]]:
        """Apply a file's objects, `without` one of their annotations, and return them."""
        if without:
            self._say(f"$ grep -v {shlex.quote(without)} {path.name} | kubectl apply -f -")
        else:
            self.command("apply", "-f", path.name)
        applied = []
        for manifest in read(path):
            (manifest["metadata"].get("annotations") or {}).pop(without, None)
            before = self.client.get(manifest)
            now = self.client.apply(manifest)
            applied.append(now)
            self._say(f"{name_of(now)} {_what_happened(before, now)}")
        return applied

    def get(self, manifest: Manifest, *, wide: bool = False) -> list[str]:
        """Print an object as a table and return its row's cells."""
        self.command("get", manifest["kind"].lower(), manifest["metadata"]["name"], *(["-o", "wide"] if wide else []))
        headings, rows = self.client.table(
            manifest["apiVersion"], manifest["kind"], "default", manifest["metadata"]["name"], wide=wide
        )
        for line in columns([headings, *rows]):
            self._say(line)
        return rows[0]

    def get_all(self, api_version: str, kind: str, *, wide: bool = False) -> None:
        """Print all objects of a kind in the namespace as a table."""
        self.command("get", f"{kind.lower()}s", *(["-o", "wide"] if wide else []))
        headings, rows = self.client.table(api_version, kind, "default", wide=wide)
        for line in columns([headings, *rows]):
            self._say(line)

    def annotate(self, manifest: Manifest, key: str, value: str) -> None:
        """Set an annotation."""
        self.command("annotate", manifest["kind"].lower(), manifest["metadata"]["name"], f"{key}={value}")
        self._say(f"{name_of(self.client.patch(manifest, {'metadata': {'annotations': {key: value}}}))} annotated")

    def patch(self, manifest: Manifest, change: object) -> None:
        """Merge `change` into an object."""
        words = ["patch", manifest["kind"].lower(), manifest["metadata"]["name"], "--type", "merge"]
        self.command(*words, "-p", json.dumps(change))
        self._say(f"{name_of(self.client.patch(manifest, change))} patched")

    def delete(self, manifest: Manifest) -> float | None:
        """Delete an object and wait until it is gone; return how many seconds that took, None if it is still there."""
        self.command("delete", manifest["kind"].lower(), manifest["metadata"]["name"])
        begun_s = time.monotonic()
        self.client.delete(manifest)
        kind, _, name = name_of(manifest).partition("/")
        self._say(f'{kind} "{name}" deleted')
        while self.client.get(manifest) is not None:
            if time.monotonic() - begun_s > _GONE_TIMEOUT_S:
                return None
            time.sleep(_POLL_S)
        return time.monotonic() - begun_s

    @contextmanager
    def watching(self, manifest: Manifest) -> Iterator[Iterator[tuple[float, list[str], list[str]]]]:
        """Watch a kind's objects from now on; yield what happens to this one: when, the headings, and its row's cells.

        An answer of the API server that takes too long ends it with TimeoutError.
        """
        path = collection_path(manifest["apiVersion"], manifest["kind"], "default")
        version = self.client.request("GET", path, limit="1")["metadata"]["resourceVersion"]
        query = {"fieldSelector": f"metadata.name={manifest['metadata']['name']}", "resourceVersion": str(version)}
        with self.client.stream(path, accept=AS_TABLE, watch="true", **query) as lines:
            yield _rows(lines)


def _rows(lines: Iterator[bytes]) -> Iterator[tuple[float, list[str], list[str]]]:
    definitions: list[dict[str, Any]] = []
    for line in lines:
        event = json.loads(line)
        if event["type"] == "ERROR":
            raise ApiError(event["object"].get("code", 0), event["type"], str(event["object"].get("message", "")))
        definitions = event["object"].get("columnDefinitions") or definitions
        shown = [index for index, column in enumerate(definitions) if column.get("priority", 0) == 0]
        headings = [str(definitions[index]["name"]).upper() for index in shown]
        for row in event["object"].get("rows") or []:
            yield time.monotonic(), headings, [str(row["cells"][index]) for index in shown]


def name_of(manifest: Manifest) -> str:
    """Return what kubectl calls an object: `service/web`, `deployment.apps/web`."""
    group = manifest["apiVersion"].rpartition("/")[0]
    kind = manifest["kind"].lower() + (f".{group}" if group else "")
    return f"{kind}/{manifest['metadata']['name']}"


def columns(rows: Sequence[Sequence[str]]) -> list[str]:
    """Return rows as lines with kubectl's spacing: columns three spaces apart."""
    widths = [max(len(cell) for cell in column) for column in zip(*rows, strict=True)]
    return ["   ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]


def _what_happened(before: Manifest | None, now: Manifest) -> str:
    if before is None:
        return "created"
    same = before["metadata"]["resourceVersion"] == now["metadata"]["resourceVersion"]
    return "unchanged" if same else "configured"
