"""Numbers with a unit: durations, percentages, rates and throughputs; readers as those of `scalars`.

A number without its unit is never taken: the message says how to write it with one.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from lbd.config.errors import show

KEEPALIVE_SECONDS = 32767
"""The kernel's MAX_TCP_KEEPIDLE and MAX_TCP_KEEPINTVL (include/net/tcp.h)."""
MAX_RATE = 1_000_000.0
"""Connections a second."""
MIN_THROUGHPUT_BPS = 64_000
MAX_THROUGHPUT_BPS = 1_000_000_000_000

_DURATION = re.compile(r"(?:([0-9]{1,9})h)?(?:([0-9]{1,9})m(?!s))?(?:([0-9]{1,9})s)?(?:([0-9]{1,9})ms)?")
_PERCENTAGE = re.compile(r"([0-9]{1,4}(?:\.[0-9]{1,3})?)%")
_RATE = re.compile(r"([0-9]{1,9})/([smh])")
_RATE_SECONDS = {"s": 1, "m": 60, "h": 3600}
_THROUGHPUT = re.compile(r"([0-9]{1,12})(bps|kbps|Mbps|Gbps)")
_UNIT_BPS = {"bps": 1, "kbps": 1000, "Mbps": 1_000_000, "Gbps": 1_000_000_000}


def duration(low: str, high: str, *, off: bool = False, zero: str = "off") -> Callable[[object], float]:
    """Return a reader of durations such as `250ms`, `2s`, `10m`, `1h` and `1m30s`, in seconds, from `low` to `high`.

    With `off`, it takes `0s` too; `zero` is what the message says that it stands for.
    """
    low_s, high_s = _seconds(low), _seconds(high)

    def read(value: object) -> float:
        value_s = _seconds(value)
        if value_s < low_s and not (off and value_s == 0):
            raise ValueError(f"{show(value)} is too short (at least {low}{f', or 0s for {zero}' if off else ''})")
        if value_s > high_s:
            raise ValueError(f"{show(value)} is too long (at most {high})")
        return value_s

    return read


def _seconds(value: object) -> float:
    if isinstance(value, int) and not isinstance(value, bool):
        raise ValueError(f"{value} has no unit: write {max(value, 0)}s, or use ms, m or h")
    parts = _DURATION.fullmatch(value) if isinstance(value, str) else None
    if parts is None or not value:
        raise ValueError(f"{show(value)} is not a duration: write it like 250ms, 2s, 10m, 1h or 1m30s")
    hours, minutes, seconds, milliseconds = (int(part or 0) for part in parts.groups())
    return (hours * 3_600_000 + minutes * 60_000 + seconds * 1000 + milliseconds) / 1000


_keepalive = duration("1s", f"{KEEPALIVE_SECONDS}s")


def keepalive_seconds(value: object) -> int:
    """Return a duration of whole seconds that the kernel takes for TCP keep-alive (tcp(7))."""
    value_s = _keepalive(value)
    if value_s != int(value_s):
        raise ValueError(f"{show(value)} is not a whole number of seconds, which is what TCP keep-alive takes")
    return int(value_s)


def percentage(low: int, high: int) -> Callable[[object], float]:
    """Return a reader of percentages such as `10%` and `2.5%`, in percent, from `low` to `high`."""

    def read(value: object) -> float:
        if isinstance(value, int) and not isinstance(value, bool):
            raise ValueError(f"{value} has no unit: write {max(value, 0)}%")
        parts = _PERCENTAGE.fullmatch(value) if isinstance(value, str) else None
        if parts is None or not low <= float(parts[1]) <= high:
            raise ValueError(f"{show(value)} is not a percentage from {low}% to {high}%")
        return float(parts[1])

    return read


_up_to_half = percentage(0, 50)
_any_load = percentage(0, 9999)
_bounded_load = percentage(101, 1000)


def jitter(value: object) -> float:
    """Return a percentage from `0%` to `50%` as a share of 1."""
    return _up_to_half(value) / 100


def max_load(value: object) -> float:
    """Return the percentage of the average that one member may get, above 100."""
    if _any_load(value) <= 100:
        raise ValueError(f"{show(value)} leaves no room: 100% is the average of all members, so write 101% to 1000%")
    return _bounded_load(value)


def rate(value: object) -> float:
    """Return a rate such as `100/s`, `30/m` or `10/h`, in events a second."""
    if isinstance(value, int) and not isinstance(value, bool):
        raise ValueError(f"{value} has no unit: write {max(value, 1)}/s, or use /m or /h")
    parts = _RATE.fullmatch(value) if isinstance(value, str) else None
    if parts is None:
        raise ValueError(f"{show(value)} is not a rate: write it like 100/s, 30/m or 10/h")
    count, per_second = int(parts[1]), int(parts[1]) / _RATE_SECONDS[parts[2]]
    if count == 0:
        raise ValueError(f"{show(value)} lets nothing pass: a rate is at least 1/h")
    if per_second > MAX_RATE:
        raise ValueError(f"{show(value)} is too much (at most {MAX_RATE:.0f}/s)")
    return per_second


def throughput(value: object) -> int:
    """Return a throughput such as `500kbps`, `100Mbps` or `10Gbps`, in bits a second; the units are decimal."""
    if isinstance(value, int) and not isinstance(value, bool):
        raise ValueError(f"{value} has no unit: write bps, kbps, Mbps or Gbps behind it (bits a second)")
    parts = _THROUGHPUT.fullmatch(value) if isinstance(value, str) else None
    if parts is None:
        raise ValueError(f"{show(value)} is not a throughput: {_throughput_hint(value)}")
    bits_per_second = int(parts[1]) * _UNIT_BPS[parts[2]]
    if bits_per_second < MIN_THROUGHPUT_BPS:
        raise ValueError(f"{show(value)} is too little (at least {MIN_THROUGHPUT_BPS // 1000}kbps)")
    if bits_per_second > MAX_THROUGHPUT_BPS:
        raise ValueError(f"{show(value)} is too much (at most {MAX_THROUGHPUT_BPS // 1_000_000_000}Gbps)")
    return bits_per_second


def _throughput_hint(value: object) -> str:
    """Say how to write it; a unit in the wrong case is told the right one, as no other can be meant."""
    of_lower_case = {unit.lower(): unit for unit in _UNIT_BPS}
    parts = re.fullmatch(r"([0-9]{1,12}) ?([A-Za-z]+)", value) if isinstance(value, str) else None
    if parts and parts[2].lower() in of_lower_case:
        return f"write {parts[1]}{of_lower_case[parts[2].lower()]}"
    return "write it like 500kbps, 100Mbps or 1Gbps (bits a second)"
