"""What each kind of value of the configuration may be: functions from what stands in the file to what it means.

Numbers with a unit are in `quantities`.

Each takes the value as the YAML tree has it and raises ValueError with the rest of a sentence that begins with the
value's path. Bounds are part of the contract and are listed in docs/reference/configuration.md.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Sequence
from difflib import get_close_matches
from enum import StrEnum
from functools import lru_cache
from typing import TypeVar

from lbd.config.errors import show
from lbd.model.address import Endpoint
from lbd.model.desired import MonitorType, Protocol, StatusRange

_Enum = TypeVar("_Enum", bound=StrEnum)

MAX_PAYLOAD_BYTES = 1024
"""Of `send`, `expect` and `expect_text`."""
MAX_PATH_CHARACTERS = 2048
MAX_HOST_CHARACTERS = 255
MAX_NAME_CHARACTERS = 128
"""Room for a Kubernetes namespace and name (63 characters each) and what joins them."""
MAX_SOCKET_PATH_BYTES = 107
"""`sun_path` has 108 bytes with the NUL at its end (unix(7))."""
MAX_INTERFACE_BYTES = 15
"""IFNAMSIZ is 16 bytes with the NUL at its end (netdevice(7))."""
METHODS = ("GET", "HEAD", "OPTIONS")
"""The safe methods of RFC 9110 §9.2.1: a health check must change nothing."""

QUERY_TYPES = (
    *("A", "AAAA", "CAA", "CNAME", "DNSKEY", "DS", "HTTPS", "MX"),
    *("NAPTR", "NS", "PTR", "SOA", "SRV", "SVCB", "TLSA", "TXT"),
)
"""Of IANA's registry of record types, those that servers hold data of; RFC 8482 lets them answer ANY with anything."""
RCODES = ("NOERROR", "FORMERR", "SERVFAIL", "NXDOMAIN", "NOTIMP", "REFUSED")
"""What a server answers a query with (RFC 1035 §4.1.1; the names are IANA's)."""
MAX_QUERY_NAME_CHARACTERS = 253
"""A name has 255 bytes with the length of its first label and the root at its end (RFC 1035 §2.3.4)."""

_NAME = re.compile(r"[A-Za-z0-9]([A-Za-z0-9._-]*[A-Za-z0-9])?")
_STATUS_RANGE = re.compile(r"([0-9]{3})-([0-9]{3})")
_REQUEST_TARGET = re.compile(r"/[!-\"$-~]*")
_QUERY_NAME = re.compile(r"[A-Za-z0-9_-]{1,63}(?:\.[A-Za-z0-9_-]{1,63})*\.?")
_PREFIX_LENGTH = re.compile(r"0|[1-9][0-9]{0,2}")
_HOST = re.compile(r"(?:[A-Za-z0-9_-]+(?:\.[A-Za-z0-9_-]+)*\.?|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?")


def text(value: object) -> str:
    """Return text as it is.

    Raises:
        ValueError: it is a number, true, false, nothing, a list or a mapping.
    """
    if isinstance(value, str):
        return value
    raise ValueError(_unlike(value, "must be text"))


def _unlike(value: object, wanted: str) -> str:
    """Say what stands where something else was wanted, and how to write it as text if that is what was meant."""
    if isinstance(value, (bool, int)):
        return f'{show(value)} {wanted}: put it in quotes ("{show(value)}") if text is meant'
    return f"{wanted}, not {show(value)}"


def whole_number(low: int, high: int, what: str) -> Callable[[object], int]:
    """Return a reader of whole numbers from `low` to `high`; `what` is what the message says they are not."""

    def read(value: object) -> int:
        if isinstance(value, int) and not isinstance(value, bool) and low <= value <= high:
            return value
        hint = ""
        if isinstance(value, str) and value.isascii() and value.isdecimal():
            hint = ": write the number without " + ("leading zeros" if value.startswith("0") else "quotes")
        raise ValueError(f"{show(value)} is not {what} ({low}-{high}){hint}")

    return read


port = whole_number(1, 65535, "a port")
weight = whole_number(1, 1000, "a weight")
check_count = whole_number(1, 100, "a number of checks")
connections = whole_number(1, 10_000_000, "a number of connections")
queue_length = whole_number(1, 100_000, "a number of waiting connections")
failures = whole_number(1, 1000, "a number of failures")
members_up = whole_number(1, 65536, "a number of members")
clients = whole_number(1, 1_000_000, "a number of clients")
ipv4_prefix = whole_number(1, 32, "an IPv4 prefix length")
ipv6_prefix = whole_number(1, 128, "an IPv6 prefix length")
probes = whole_number(1, 127, "a number of probes")
responses = whole_number(0, 65535, "a number of responses")
flows = whole_number(1, 1_000_000, "a number of flows")
throttle = whole_number(0, 65535, "a number of log lines a second")
_fixed_workers = whole_number(1, 64, "a number of workers")
_status = whole_number(100, 599, "an HTTP status")


def workers(value: object) -> int | None:
    """Return the number of workers, None for `auto`."""
    if value == "auto":
        return None
    try:
        return _fixed_workers(value)
    except ValueError as error:
        raise ValueError(f"{error}, and not auto") from None


def flag(value: object) -> bool:
    """Return true or false; YAML 1.1's yes, no, on and off are text and refused."""
    if isinstance(value, bool):
        return value
    raise ValueError(f"{show(value)} is not true or false")


def name(value: object) -> str:
    """Return the name of a service, monitor or service engine: it becomes a label, an argument and a log field."""
    written = text(value)
    if len(written) > MAX_NAME_CHARACTERS:
        raise ValueError(f"{show(written)} is too long for a name (at most {MAX_NAME_CHARACTERS} characters)")
    if not _NAME.fullmatch(written):
        raise ValueError(
            f"{show(written)} is not a name: use letters, digits, '.', '_' and '-', with a letter or digit at both ends"
        )
    return written


def one_of(kind: type[_Enum]) -> Callable[[object], _Enum]:
    """Return a reader of the words of an enumeration."""
    word = _word([str(member) for member in kind])
    return lambda value: kind(word(value))


def _word(words: Sequence[str]) -> Callable[[object], str]:
    def read(value: object) -> str:
        if isinstance(value, str) and value in words:
            return value
        raise ValueError(f"{show(value)} is not {_or(words)}{did_you_mean(value, words)}")

    return read


def _or(words: Sequence[str]) -> str:
    return words[0] if len(words) == 1 else f"{', '.join(words[:-1])} or {words[-1]}"


def did_you_mean(written: object, known: Sequence[str]) -> str:
    """Return `; did you mean known?`, or nothing where no known word is close, in whatever case."""
    # difflib is quadratic in the length, and a file may hold thousands of names: a hint must not cost minutes.
    if not isinstance(written, str) or len(written) > MAX_NAME_CHARACTERS or len(known) > 100:
        return ""
    of_lower_case = {word.lower(): word for word in known}
    close = get_close_matches(written.lower(), of_lower_case, 1, 0.6)
    return f"; did you mean {of_lower_case[close[0]]}?" if close else ""


monitor_type = one_of(MonitorType)
protocol = one_of(Protocol)


def address(value: object) -> str:
    """Return an IP address in its canonical text form; whether it may be a VIP or a member is not judged here."""
    return _canonical(text(value))


@lru_cache(maxsize=16384)  # the shape and the rules both read each address, and pools share members
def _canonical(written: str) -> str:
    if "%" in written:
        raise ValueError(f"{show(written)} has a zone id: only addresses that mean the same everywhere can be used")
    try:
        parsed = ipaddress.ip_address(written)
    except ValueError:
        raise ValueError(f"{show(written)} is not an IP address{_host_hint(written)}") from None
    if isinstance(parsed, ipaddress.IPv6Address) and parsed.ipv4_mapped is not None:
        raise ValueError(f"{show(written)} is an IPv4 address in IPv6 form: write {parsed.ipv4_mapped}")
    return str(parsed)


def _host_hint(written: str) -> str:
    if written.startswith("[") and written.endswith("]"):
        return ": write it without brackets"
    if re.fullmatch(r"[0-9]+(\.[0-9]+){3}", written):
        return " (each part is 0-255, without leading zeros)"
    if "/" in written:
        return ": write it without a prefix length"
    return ": names are not looked up" if re.search(r"[g-zG-Z]", written) else ""


def network(value: object) -> str:
    """Return a network in canonical CIDR form; a bare address is a network of its own."""
    written = text(value)
    host_part, slash, prefix = written.partition("/")
    base = _canonical(host_part)
    if not slash and ipaddress.ip_address(base).is_unspecified:
        raise ValueError(f"{show(written)} is nobody's address: write {base}/0 if everybody is meant")
    bits = ipaddress.ip_address(base).max_prefixlen
    if slash and not (_PREFIX_LENGTH.fullmatch(prefix) and int(prefix) <= bits):
        raise ValueError(f"{show(written)} is not a network: {show(prefix)} is not a prefix length (0-{bits})")
    meant = ipaddress.ip_network(f"{base}/{prefix if slash else bits}", strict=False)
    if str(meant.network_address) != base:
        raise ValueError(f"{show(written)} has bits set behind its prefix: write {meant} or {base}/{bits}")
    return str(meant)


def listen(value: object) -> Endpoint | None:
    """Return where to listen, `ADDRESS:PORT` or `[ADDRESS]:PORT`; None for `off`."""
    written = text(value)
    if written == "off":
        return None
    host, colon, port_text = written.rpartition(":")
    if not colon or not re.fullmatch(r"[0-9]{1,5}", port_text) or (":" in host and not host.startswith("[")):
        raise ValueError(f"{show(written)} is not ADDRESS:PORT, [IPV6-ADDRESS]:PORT or off")
    bare = host[1:-1] if host.startswith("[") and host.endswith("]") and ":" in host else host
    endpoint = Endpoint(address(bare), port(int(port_text)))
    parsed = ipaddress.ip_address(endpoint.address)
    if parsed.is_multicast or endpoint.address == "255.255.255.255":
        raise ValueError(f"{show(written)} is not an address to listen on")
    return endpoint


def socket_path(value: object) -> str:
    """Return the absolute path of a unix socket."""
    written = text(value)
    if not written.startswith("/") or written.endswith("/") or not written.isprintable():
        raise ValueError(f"{show(written)} is not an absolute path of a socket")
    if len(written.encode()) > MAX_SOCKET_PATH_BYTES:
        raise ValueError(f"{show(written)} is too long for a unix socket (at most {MAX_SOCKET_PATH_BYTES} bytes)")
    return written


def interface(value: object) -> str:
    """Return the name of a network interface, as the kernel's dev_valid_name() would take it."""
    written = text(value)
    bad = not written or written in (".", "..") or re.search(r"[/:\s]", written) or not written.isprintable()
    if bad or len(written.encode()) > MAX_INTERFACE_BYTES:
        raise ValueError(
            f"{show(written)} is not the name of an interface "
            f"(1-{MAX_INTERFACE_BYTES} bytes without spaces, slashes and colons)"
        )
    return written


def payload(value: object) -> bytes:
    """Return text as the bytes of its UTF-8 form."""
    try:
        encoded = text(value).encode()
    except UnicodeEncodeError:
        raise ValueError(f"{show(value)} has characters that UTF-8 can't carry") from None
    if len(encoded) > MAX_PAYLOAD_BYTES:
        raise ValueError(f"{show(value)} is too long (at most {MAX_PAYLOAD_BYTES} bytes)")
    return encoded


def expected_text(value: object) -> str:
    """Return text that an answer must contain."""
    return payload(value).decode()


def request_path(value: object) -> str:
    """Return the target of an HTTP request (RFC 9112 §3.2.1): no blank or control character can end the line early."""
    written = text(value)
    if not written.startswith("/"):
        raise ValueError(f"{show(written)} does not begin with a slash")
    if not _REQUEST_TARGET.fullmatch(written):
        raise ValueError(f"{show(written)} has characters that a request can't carry: write %20 for a blank, and no #")
    if len(written) > MAX_PATH_CHARACTERS:
        raise ValueError(f"{show(written)} is too long (at most {MAX_PATH_CHARACTERS} characters)")
    return written


def host(value: object) -> str:
    """Return the value of a Host header: a name or an address, with or without a port."""
    written = text(value)
    if len(written) > MAX_HOST_CHARACTERS or not _HOST.fullmatch(written):
        raise ValueError(f"{show(written)} is not a host (NAME, ADDRESS or [IPV6-ADDRESS], with or without :PORT)")
    return written


method = _word(METHODS)
persistence_type = _word(("client_ip",))
query_type = _word(QUERY_TYPES)
rcode = _word(RCODES)


def query_name(value: object) -> str:
    """Return the name that a DNS query asks for: labels of 1-63 characters (RFC 1035 §2.3.4), or `.` for the root."""
    written = text(value)
    if written != "." and (len(written.rstrip(".")) > MAX_QUERY_NAME_CHARACTERS or not _QUERY_NAME.fullmatch(written)):
        hint = "" if written.isascii() else ": write its ASCII form (xn--…)"
        raise ValueError(f"{show(written)} is not a domain name{hint}")
    return written


def status_range(value: object) -> StatusRange:
    """Return a status such as `200`, or a range such as `200-399`."""
    parts = _STATUS_RANGE.fullmatch(value) if isinstance(value, str) else None
    if parts is None:
        if isinstance(value, int) and not isinstance(value, bool):
            return StatusRange(_status(value), value)
        raise ValueError(f"{show(value)} is not a status or a range of them: write 200 or 200-399")
    first, last = _status(int(parts[1])), _status(int(parts[2]))
    if first > last:
        raise ValueError(f"{show(value)} is reversed: write {last}-{first}")
    return StatusRange(first, last)
