"""Where the manifests of config/kubernetes are: in a checkout, or beside this file in an installed lbd."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import yaml

import lbd

_CHECKOUT: Final = Path(lbd.__file__).resolve().parents[1] / "config" / "kubernetes"
_INSTALLED: Final = Path(__file__).resolve().parent / "manifest_files"
"""`setup.py` puts them there when it builds a wheel."""


def folder(checkout: Path = _CHECKOUT, installed: Path = _INSTALLED) -> Path:
    """Return the folder with `rbac.yaml`, the CRD, and `example/`."""
    return checkout if checkout.is_dir() else installed


def read(path: Path) -> list[dict[str, Any]]:
    """Return the objects of one YAML file, in their order."""
    return [manifest for manifest in yaml.safe_load_all(path.read_text()) if manifest is not None]
