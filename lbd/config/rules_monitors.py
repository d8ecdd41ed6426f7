"""What must hold within and between health monitors; see `rules`."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator

from lbd.config import judging, quantities, scalars
from lbd.config.errors import ConfigError, show
from lbd.config.facts import Cursor, Facts
from lbd.config.shapes import MonitorShape
from lbd.config.tree import Sequence
from lbd.model.desired import SYSTEM_MONITORS, MonitorType

RESERVED_PREFIX = "system-"
"""Of the names of built-in monitors; new ones may come with any version."""

_COMMON_KEYS = {"type", "interval", "timeout", "rise", "fall", "jitter"}
_HTTP_KEYS = {"port", "path", "host", "method", "expect_status", "expect_text"}
MONITOR_KEYS: dict[MonitorType, set[str]] = {
    MonitorType.TCP: _COMMON_KEYS | {"port", "send", "expect"},
    MonitorType.HTTP: _COMMON_KEYS | _HTTP_KEYS,
    MonitorType.HTTPS: _COMMON_KEYS | _HTTP_KEYS | {"verify_tls"},
    MonitorType.PING: _COMMON_KEYS,
    MonitorType.UDP: _COMMON_KEYS | {"port", "send", "expect"},
    MonitorType.DNS: _COMMON_KEYS | {"port", "query_name", "query_type", "expect_rcode", "expect_answer"},
}
"""Which keys belong to which type of health monitor."""


def monitor_definitions(facts: Facts) -> Iterator[ConfigError]:
    """Each monitor has a name of its own, and only keys that mean something for its type."""
    for section in facts.sections("health_monitors"):
        for name, monitor in section.entries():
            yield from judging.defined_once(facts.monitors, name, monitor)
            if name.startswith(RESERVED_PREFIX):
                yield monitor.key_place.error(f"names that begin with {RESERVED_PREFIX} are those of built-in monitors")
            else:
                yield from judging.refusal(monitor.key_place, scalars.name, name)
            yield from _monitor_keys(monitor)
            yield from _monitor_values(monitor)


def _monitor_keys(monitor: Cursor) -> Iterator[ConfigError]:
    kind = monitor.read_at(scalars.monitor_type, "type")
    if kind is None:
        return
    for key, cursor in monitor.entries():
        owners = [str(owner) for owner, keys in MONITOR_KEYS.items() if key in keys]
        if owners and kind not in owners:
            yield cursor.key_place.error(
                f"belongs to {judging.and_words(owners)} monitors, and this one is of type {kind}"
            )


def _monitor_values(monitor: Cursor) -> Iterator[ConfigError]:
    timeout, interval = monitor.at("timeout"), monitor.at("interval")
    if timeout is not None:
        timeout_s = timeout.read(_duration)
        interval_s = interval.read(_duration) if interval else MonitorShape.model_fields["interval"].default
        if timeout_s is not None and interval_s is not None and timeout_s > interval_s:
            longer = f"is longer than the interval ({interval_s:g}s): a check must end before the next one begins"
            yield timeout.place.error(f"{timeout.written} {longer}")
    for key in ("expect_status", "expect_rcode"):
        wanted = monitor.at(key)
        if wanted is not None and isinstance(wanted.node, Sequence) and not wanted.node.items:
            yield wanted.place.error("is empty: no answer could ever pass")
    expected = monitor.at("expect_text")
    text = expected.read(scalars.expected_text) if expected else None
    if expected is not None and text and monitor.read_at(scalars.method, "method") == "HEAD":
        yield expected.key_place.error("can't be checked with method HEAD, whose answers have no content")


_duration = quantities.duration("0s", "100000h")


def monitors_of_pools(facts: Facts) -> Iterator[ConfigError]:
    """A pool uses monitors that exist, each once."""
    known = [monitor.name for monitor in SYSTEM_MONITORS] + list(facts.monitors)
    known_set = set(known)
    for service in facts.services:
        listed: set[str] = set()
        section = service.cursor.at("pool", "health_monitors")
        for cursor in section.items() if section else ():
            name = cursor.read(scalars.text)
            if name is None:
                continue
            if name in listed:
                yield cursor.place.error(f"{show(name)} is already in this list")
            elif facts.complete and name not in known_set:
                yield cursor.place.error(
                    f"there is no health monitor {show(name)}{scalars.did_you_mean(name, sorted(known_set))}"
                )
            listed.add(name)


RULES: tuple[Callable[[Facts], Iterable[ConfigError]], ...] = (monitor_definitions, monitors_of_pools)
