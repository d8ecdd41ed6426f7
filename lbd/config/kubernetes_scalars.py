"""What each kind of value of `kubernetes`, `address_pools` and `profiles` may be; readers as those of `scalars`."""

from __future__ import annotations

import ipaddress
import re
from enum import StrEnum
from functools import lru_cache

from lbd.config import quantities, scalars
from lbd.config.errors import show
from lbd.model.kubernetes import AddressRange

MAX_PATH_BYTES = 4095
"""PATH_MAX is 4096 bytes with the NUL at its end (path_resolution(7))."""
MAX_LABEL_CHARACTERS = 63
MAX_SUBDOMAIN_CHARACTERS = 253
MAX_CONTEXT_CHARACTERS = 253
MAX_RANGE_SIZE = 2**64
"""Addresses in one range: an IPv6 /64."""

_DNS_LABEL = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?")
_DNS_SUBDOMAIN = re.compile(r"[a-z0-9]([a-z0-9-]*[a-z0-9])?(\.[a-z0-9]([a-z0-9-]*[a-z0-9])?)*")
_LABEL = re.compile(r"[A-Za-z0-9]([A-Za-z0-9_.-]*[A-Za-z0-9])?")


class ProfileType(StrEnum):
    """What a profile is about; each is named by a reference of its own in an L4Rule."""

    PERSISTENCE = "persistence"
    APPLICATION = "application"
    NETWORK = "network"
    ANALYTICS = "analytics"
    NETWORK_SECURITY = "network_security"


profile_type = scalars.one_of(ProfileType)
priority = scalars.whole_number(0, 1000, "a priority")
renew_deadline = quantities.duration("200ms", "10m")
retry = quantities.duration("100ms", "5m")
_lease_duration = quantities.duration("1s", "10m")


def namespace(value: object) -> str:
    """Return the name of a namespace, a DNS label (RFC 1123)."""
    written = scalars.text(value)
    if len(written) > MAX_LABEL_CHARACTERS or not _DNS_LABEL.fullmatch(written):
        raise ValueError(
            f"{show(written)} is not a namespace: use 1-{MAX_LABEL_CHARACTERS} lower case letters, digits and '-', "
            "with a letter or digit at both ends"
        )
    return written


def object_name(value: object) -> str:
    """Return the name of an object, a DNS subdomain (RFC 1123)."""
    written = scalars.text(value)
    if not _is_subdomain(written):
        raise ValueError(
            f"{show(written)} is not the name of an object: use 1-{MAX_SUBDOMAIN_CHARACTERS} lower case letters, "
            "digits, '-' and '.', with a letter or digit at both ends and beside each '.'"
        )
    return written


def _is_subdomain(written: str) -> bool:
    return len(written) <= MAX_SUBDOMAIN_CHARACTERS and bool(_DNS_SUBDOMAIN.fullmatch(written))


def _is_label(written: str) -> bool:
    return len(written) <= MAX_LABEL_CHARACTERS and bool(_LABEL.fullmatch(written))


def _is_qualified(written: str) -> bool:
    """As the API server's IsQualifiedName: a label's value, behind a DNS subdomain and a slash or alone."""
    prefix, slash, name = written.rpartition("/")
    return _is_label(name) and (not slash or _is_subdomain(prefix))


def load_balancer_class(value: object) -> str:
    """Return what `spec.loadBalancerClass` of a Service may be."""
    written = scalars.text(value)
    if not _is_qualified(written):
        raise ValueError(f"{show(written)} is not a load balancer class: write it like lbd.io/service-engine")
    return written


def label_key(value: object) -> str:
    """Return the key of a label."""
    written = scalars.text(value)
    if not _is_qualified(written):
        raise ValueError(f"{show(written)} is not the key of a label: write it like app or app.kubernetes.io/name")
    return written


def label_value(value: object) -> str:
    """Return the value of a label, which may be empty."""
    written = scalars.text(value)
    if written and not _is_label(written):
        raise ValueError(
            f"{show(written)} is not the value of a label: use at most {MAX_LABEL_CHARACTERS} letters, digits, '.', "
            "'_' and '-', with a letter or digit at both ends"
        )
    return written


def kubeconfig(value: object) -> str:
    """Return the absolute path of a file."""
    written = scalars.text(value)
    if not written.startswith("/") or written.endswith("/") or not written.isprintable():
        raise ValueError(f"{show(written)} is not an absolute path of a file")
    if len(written.encode()) > MAX_PATH_BYTES:
        raise ValueError(f"{show(written)} is too long for a path (at most {MAX_PATH_BYTES} bytes)")
    return written


def context(value: object) -> str:
    """Return the name of a context of a kubeconfig, which may be nearly anything."""
    written = scalars.text(value)
    if not 0 < len(written) <= MAX_CONTEXT_CHARACTERS or not written.isprintable():
        raise ValueError(
            f"{show(written)} is not the name of a context (1-{MAX_CONTEXT_CHARACTERS} printable characters)"
        )
    return written


def lease_duration(value: object) -> float:
    """Return a duration of whole seconds, as `spec.leaseDurationSeconds` has it."""
    value_s = _lease_duration(value)
    if value_s != int(value_s):
        raise ValueError(f"{show(value)} is not a whole number of seconds, which is what a Lease takes")
    return value_s


def address_range(value: object) -> AddressRange:
    """Return the addresses of `FIRST-LAST`, of a network, or a single one; whether they may be VIPs is not judged here.

    Of a network, what hosts can't have is left out: network and broadcast address of IPv4, but of a /31 (RFC 3021) and
    a /32; the subnet-router anycast address of IPv6 (RFC 4291 §2.6.1), but of a /127 (RFC 6164) and a /128.
    """
    return _range(scalars.text(value))


@lru_cache(maxsize=8192)  # the shape and several rules read each range
def _range(written: str) -> AddressRange:
    if " " in written:
        raise ValueError(f"{show(written)} has blanks: write it without them")
    found = _of_network(written) if "/" in written and "-" not in written else _of_ends(written)
    if found.size > MAX_RANGE_SIZE:
        raise ValueError(f"{show(written)} has more than 2^64 addresses: a range is at most as large as an IPv6 /64")
    return found


def _of_network(written: str) -> AddressRange:
    network = ipaddress.ip_network(scalars.network(written))
    first, last = network.network_address, network.broadcast_address
    if network.prefixlen < network.max_prefixlen - 1:
        first += 1
        last -= network.version == 4
    return AddressRange(str(first), str(last))


def _of_ends(written: str) -> AddressRange:
    first_text, dash, last_text = written.partition("-")
    first = scalars.address(first_text)
    if not dash:
        return AddressRange(first, first)
    if re.fullmatch(r"[0-9]{1,3}", last_text) and "." in first:
        whole = f"{first.rpartition('.')[0]}.{last_text}"
        raise ValueError(f"{show(written)} has half an address at its end: write {first}-{whole}")
    last = scalars.address(last_text)
    start, end = ipaddress.ip_address(first), ipaddress.ip_address(last)
    if start.version != end.version:
        raise ValueError(f"{show(written)} has an IPv{start.version} and an IPv{end.version} address at its ends")
    if int(start) > int(end):
        raise ValueError(f"{show(written)} is reversed: write {last}-{first}")
    return AddressRange(first, last)
