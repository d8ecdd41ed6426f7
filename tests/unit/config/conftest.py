"""What the tests of the configuration share: files in a folder of their own, named as an operator would name them."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from lbd.config import ConfigErrors, load
from lbd.model.desired import DesiredState

Files = dict[str, str | bytes]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[Files], list[Path]]:
    """Write files into the current folder and return their paths as they would be given on a command line."""
    monkeypatch.chdir(tmp_path)

    def write_files(files: Files) -> list[Path]:
        for name, content in files.items():
            Path(name).write_bytes(content.encode() if isinstance(content, str) else content)
        return [Path(name) for name in files]

    return write_files


@pytest.fixture
def load_text(write: Callable[[Files], list[Path]]) -> Callable[[str], DesiredState]:
    """Load one file `lbd.yaml`."""
    return lambda text: load(write({"lbd.yaml": text}), generation=1)


@pytest.fixture
def errors_of(write: Callable[[Files], list[Path]]) -> Callable[..., list[str]]:
    """Return the errors of one file `lbd.yaml`, or of several, as lines; an accepted configuration has none."""

    def errors(content: str | bytes | Files, *, allow_loopback: bool = False) -> list[str]:
        files = content if isinstance(content, dict) else {"lbd.yaml": content}
        try:
            load(write(files), generation=1, allow_loopback=allow_loopback)
        except ConfigErrors as found:
            return [str(error) for error in found.errors]
        return []

    return errors
