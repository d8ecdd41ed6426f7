"""Manifests as people write them for kubectl: text → L4Rules and Services as an API server would say them. Pure."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from lbd.config import tree
from lbd.config.errors import ConfigError

RULE_KIND, SERVICE_KIND = "L4Rule", "Service"
RULE_API, SERVICE_API = "ako.vmware.com/v1alpha2", "v1"
DEFAULT_NAMESPACE = "default"
"""Where kubectl puts what doesn't say."""

_GROUPS = {RULE_KIND: "ako.vmware.com", SERVICE_KIND: ""}
_DECIMAL = re.compile(r"[-+]?(?:0|[1-9][0-9_]{0,18})")
_OTHER_BASE = re.compile(r"0x[0-9A-Fa-f][0-9A-Fa-f_]{0,15}|0b[01][01_]{0,63}|0o?[0-7][0-7_]{0,21}")
_FLAGS = dict.fromkeys(("y", "yes", "on", "true"), True) | dict.fromkeys(("n", "no", "off", "false"), False)
_NULLS = ("", "~", "null", "Null", "NULL")


@dataclass(frozen=True, slots=True)
class Manifest:
    """An L4Rule or a Service of a file. `raw` is as the API server would say it, with the namespace filled in."""

    file: str
    kind: str
    api_version: str
    raw: Mapping[str, Any]


def read_manifests(text: str, file: str) -> tuple[list[Manifest], list[ConfigError]]:
    """Return the L4Rules and Services of a file, those in lists too, and what is wrong with it as YAML.

    Objects of other kinds are passed over, also a Service or L4Rule of another API group.
    """
    documents, errors = tree.parse_manifests(text, file, resolve)
    found = [one for document in documents for one in _objects(tree.plain(document), file)]
    return found, errors


def resolve(text: str) -> tree.Plain:
    """Return what a plain scalar is for kubectl, which reads YAML 1.1: `yes` and `on` are true, and `022` is 18."""
    if text in _NULLS:
        return None
    if text in (word := text.lower(), word.upper(), word.capitalize()) and word in _FLAGS:
        return _FLAGS[word]
    if _DECIMAL.fullmatch(text):
        return int(text.replace("_", ""))
    if _OTHER_BASE.fullmatch(text):
        digits = text.replace("_", "").removeprefix("0o")
        return int(digits, 0 if digits[:2] in ("0x", "0b") else 8)
    return text


def _objects(document: object, file: str, of_list: tuple[str, str] = ("", "")) -> Iterator[Manifest]:
    """Yield what is of interest; `of_list` are kind and version that items of a typed list don't say themselves."""
    if not isinstance(document, dict):
        return
    kind: object = document.get("kind", of_list[0])
    api_version: object = document.get("apiVersion", of_list[1])
    if not isinstance(kind, str) or not isinstance(api_version, str):
        return
    items = document.get("items")
    if kind.endswith("List") and isinstance(items, list):
        for item in items:
            yield from _objects(item, file, (kind.removesuffix("List"), api_version))
    elif kind in _GROUPS and api_version.rpartition("/")[0] in ("", _GROUPS[kind]):
        yield Manifest(file, kind, api_version, _in_a_namespace(document))


def _in_a_namespace(raw: dict[str, Any]) -> dict[str, Any]:
    metadata = raw.get("metadata")
    if not isinstance(metadata, dict) or metadata.get("namespace") is not None:
        return raw
    return raw | {"metadata": metadata | {"namespace": DEFAULT_NAMESPACE}}
