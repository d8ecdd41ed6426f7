"""How amounts, times and foreign text are shown to a person: pure."""

from __future__ import annotations

import math

_NONE = "-"


def count_text(count: int) -> str:
    """Return a count in at most 5 characters: `950`, `12.3k`, `4.5M`."""
    return _scaled(float(count), ("", "k", "M", "G", "T", "P"))


def bytes_text(count: int) -> str:
    """Return bytes in decimal units: `950B`, `12.3kB`, `4.5GB`."""
    return _scaled(float(count), ("B", "kB", "MB", "GB", "TB", "PB"))


def _scaled(amount: float, units: tuple[str, ...]) -> str:
    for unit in units[:-1]:
        if amount < 999.95:
            return f"{amount:.0f}{unit}" if unit == units[0] else f"{amount:.1f}{unit}"
        amount /= 1000
    return f"{amount:.1f}{units[-1]}"


def duration_text(seconds: float) -> str:
    """Return a time in its two largest units: `45s`, `3m20s`, `2h05m`, `4d03h`."""
    if not math.isfinite(seconds):
        return _NONE
    whole = int(max(0.0, seconds))
    if whole < 60:
        return f"{whole}s"
    if whole < 3600:
        return f"{whole // 60}m{whole % 60:02}s"
    if whole < 86400:
        return f"{whole // 3600}h{whole % 3600 // 60:02}m"
    return f"{whole // 86400}d{whole % 86400 // 3600:02}h"


def latency_text(seconds: float | None) -> str:
    """Return a latency: `0.4ms`, `120ms`, `2.1s`; `-` when there is none."""
    if seconds is None or not math.isfinite(seconds):
        return _NONE
    if seconds < 0.01:
        return f"{seconds * 1000:.1f}ms"
    return f"{seconds * 1000:.0f}ms" if seconds < 1 else f"{seconds:.1f}s"


def weight_text(weight: int, effective_weight: float) -> str:
    """Return the weight, and the one in use where slow start makes it less: `10`, `3.5/10`."""
    if not math.isfinite(effective_weight) or abs(effective_weight - weight) < 0.05:
        return str(weight)
    return f"{effective_weight:.1f}/{weight}"


def visible(text: str) -> str:
    """Return text that comes from outside (a Pod's answer, a name) without anything that a terminal would obey."""
    return "".join(character if character.isprintable() else repr(character)[1:-1] for character in text)
