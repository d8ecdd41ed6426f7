"""Reads what comes out of somebody else's JSON: nothing there has the type, length or form that it should. Pure.

What makes a whole object useless raises `UnusableError`; what can be left out goes to `Complaints`.
"""

from __future__ import annotations

import functools
import ipaddress
import re
from collections.abc import Iterator, Mapping
from typing import Any, TypeGuard

from lbd.kubernetes.objects.kinds import ObjectKey
from lbd.model.desired import Protocol

MAX_COMPLAINTS = 20
"""Of one object; what is above is counted only."""
MAX_TEXT = 1024
_SHOWN = 60

_NAME = re.compile(r"[a-z0-9](?:[-a-z0-9.]{0,251}[a-z0-9])?")
"""A DNS subdomain (RFC 1123), which names of objects are; so they are safe in a URL's path and in a log."""
_NAMESPACE = re.compile(r"[a-z0-9](?:[-a-z0-9]{0,61}[a-z0-9])?")
_SURROGATE = re.compile("[\ud800-\udfff]")
_PROTOCOLS = {"TCP": Protocol.TCP, "UDP": Protocol.UDP}
FAMILIES = {"IPv4": 4, "IPv6": 6}
_NOTHING: Mapping[str, Any] = {}


class UnusableError(Exception):
    """The object as a whole can't be used; the text says why."""


class Complaints:
    """What of an object can't be used, as sentences; at most MAX_COMPLAINTS of them."""

    __slots__ = ("_more", "_said")

    def __init__(self) -> None:
        self._said: list[str] = []
        self._more = 0

    def add(self, sentence: str) -> None:
        """Add a sentence, or count it where there are enough."""
        if len(self._said) < MAX_COMPLAINTS:
            self._said.append(sentence)
        else:
            self._more += 1

    def all(self) -> tuple[str, ...]:
        """Return the sentences; the last one says how many are not there."""
        return (*self._said, f"and {self._more} more") if self._more else tuple(self._said)


def shown(value: object) -> str:
    """Return what a sentence says of a value: short, printable, and cheap also for a huge one."""
    if isinstance(value, str):
        return repr(value[:_SHOWN]) + ("…" if len(value) > _SHOWN else "")
    if value is None or isinstance(value, (bool, int, float)):
        return repr(value)[:_SHOWN]
    return "an object" if isinstance(value, Mapping) else "a list" if isinstance(value, list) else "something else"


def mapping(raw: object, where: str) -> Mapping[str, Any]:
    """Return a JSON object, an empty one for null.

    Raises:
        UnusableError: it is something else.
    """
    if raw is None:
        return _NOTHING
    if not isinstance(raw, dict):
        raise UnusableError(f"{where} is {shown(raw)}, not an object")
    return raw


def section(raw: object, where: str, complaints: Complaints) -> Mapping[str, Any]:
    """Return a JSON object that the rest can do without: an empty one for null, and with a complaint for others."""
    if raw is None or isinstance(raw, dict):
        return raw or _NOTHING
    complaints.add(f"{where} is {shown(raw)}, not an object")
    return _NOTHING


def items(raw: object, where: str, most: int, complaints: Complaints) -> list[Any]:
    """Return a JSON list, an empty one for null; with a complaint of `most` entries at most, and none of no list."""
    if raw is None:
        return []
    if not isinstance(raw, list):
        complaints.add(f"{where} is {shown(raw)}, not a list")
        return []
    if len(raw) > most:
        complaints.add(f"{where} has {len(raw)} entries: only the first {most} are used")
        return raw[:most]
    return raw


def objects(raw: object, where: str, most: int, complaints: Complaints) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield where each entry of a JSON list stands, and the entry, of those that are objects."""
    for index, entry in enumerate(items(raw, where, most, complaints)):
        if isinstance(entry, dict):
            yield f"{where}[{index}]", entry
        else:
            complaints.add(f"{where}[{index}] is {shown(entry)}, not an object")


def text(raw: object, where: str, most: int = MAX_TEXT) -> str:
    """Return a string, "" for null.

    Raises:
        UnusableError: it is something else, or longer than `most`.
    """
    if raw is None:
        return ""
    if not isinstance(raw, str):
        raise UnusableError(f"{where} is {shown(raw)}, not a string")
    if len(raw) > most:
        raise UnusableError(f"{where} has {len(raw)} characters: at most {most} are taken")
    if not is_text(raw, most):
        raise UnusableError(f"{where} is {shown(raw)}, which is no Unicode text")
    return raw


def is_text(raw: object, most: int = MAX_TEXT) -> TypeGuard[str]:
    """Whether something is a string of at most `most` characters that can be written out as UTF-8 again.

    JSON can have half of a surrogate pair, which Python takes and nothing else does.
    """
    if not isinstance(raw, str) or len(raw) > most:
        return False
    return raw.isascii() or not _SURROGATE.search(raw)


def whole(raw: object, least: int, most: int) -> int | None:
    """Return a whole number in its bounds; None for everything else, also for true."""
    if isinstance(raw, int) and not isinstance(raw, bool) and least <= raw <= most:
        return raw
    return None


def generation(raw: object) -> int:
    """Return the generation of an object; 0 for what is none."""
    return whole(raw, 0, 2**63 - 1) or 0


def key_of(metadata: Mapping[str, Any], *, namespaced: bool = True) -> ObjectKey:
    """Return what names an object.

    Raises:
        UnusableError: its name or namespace is missing, or is none.
    """
    name, namespace = metadata.get("name"), metadata.get("namespace") if namespaced else ""
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise UnusableError(f"metadata.name is {shown(name)}, not the name of an object")
    if namespaced and not (isinstance(namespace, str) and _NAMESPACE.fullmatch(namespace)):
        raise UnusableError(f"metadata.namespace is {shown(namespace)}, not the name of a namespace")
    return ObjectKey(namespace or "", name)


def protocol_of(raw: object) -> Protocol | None:
    """Return the protocol of a port: TCP where nothing is said, None for one that lbd doesn't relay."""
    if raw is None:
        return Protocol.TCP
    return _PROTOCOLS.get(raw) if isinstance(raw, str) else None


@functools.lru_cache(maxsize=65536)
def _canonical(written: str) -> tuple[str, int] | None:
    try:
        parsed = ipaddress.ip_address(written)
    except ValueError:
        return None
    if isinstance(parsed, ipaddress.IPv6Address) and (parsed.scope_id is not None or parsed.ipv4_mapped is not None):
        return None
    return str(parsed), parsed.version


def port_of(entry: Mapping[str, Any], where: str, complaints: Complaints) -> tuple[str, int, Protocol] | None:
    """Return (name, port, protocol) of an entry; None with a complaint if it can't be used."""
    name, number, protocol = entry.get("name"), whole(entry.get("port"), 1, 65535), protocol_of(entry.get("protocol"))
    if name is not None and not is_text(name, 63):
        complaints.add(f"{where}.name is {shown(name)}, not the name of a port")
    elif number is None:
        complaints.add(f"{where}.port is {shown(entry.get('port'))}, not a port (1-65535)")
    elif protocol is None:
        complaints.add(f"{where}.protocol is {shown(entry.get('protocol'))}: only TCP and UDP are relayed")
    else:
        return name or "", number, protocol
    return None


def address(raw: object) -> tuple[str, int] | None:
    """Return an IP address in canonical form, and its family; None for everything else.

    An address with a scope is none that others can use, and an IPv4-mapped IPv6 address is reached over IPv4: it would
    pass every check that is made for its family.
    """
    return _canonical(raw) if isinstance(raw, str) and len(raw) <= 45 else None  # 45: INET6_ADDRSTRLEN less its NUL


def network(raw: object) -> str | None:
    """Return a network in canonical CIDR form, host bits cut off; None for everything else."""
    if not isinstance(raw, str) or len(raw) > 64 or "%" in raw:
        return None
    try:
        parsed = ipaddress.ip_network(raw.strip(), strict=False)
    except ValueError:
        return None
    mapped = isinstance(parsed, ipaddress.IPv6Network) and parsed.network_address.ipv4_mapped is not None
    return None if mapped and parsed.prefixlen >= 96 else str(parsed)
