"""Draws bars with whiskers and lines over time as SVG: text in, text out, standard library alone.

A chart is a light background, thin grid lines, and one colour for each series; every bar has its value beside it,
so that nothing has to be read from colours alone.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from xml.etree import ElementTree

_COLOURS = ("#1b6ca8", "#c0504d", "#4f8a4c", "#7a5ea8", "#b09a3d", "#5b8c8c")
_INK, _GRID, _FONT = "#222222", "#d8d8d8", "system-ui, sans-serif"
_BAR, _GAP, _LEFT, _RIGHT, _TOP = 16, 14, 210, 150, 54
_PLOT = 520


@dataclass(frozen=True, slots=True)
class Bar:
    """A value with the lowest and the highest of its rounds."""

    value: float
    low: float
    high: float


def ticks(highest: float, count: int = 5) -> list[float]:
    """Return round numbers from 0 to at least `highest`, some `count` of them."""
    if highest <= 0:
        return [0.0, 1.0]
    rough = highest / count
    magnitude = 10.0 ** math.floor(math.log10(rough))
    step = next(factor * magnitude for factor in (1, 2, 2.5, 5, 10) if factor * magnitude >= rough)
    return [number * step for number in range(math.ceil(highest / step - 1e-9) + 1)]


def bar_chart(
    title: str, unit: str, bars: Mapping[str, Mapping[str, Bar | None]], colours: Mapping[str, str] | None = None
) -> str:
    """Return horizontal bars: `bars` is by group, then by series; a None is left out with a dash.

    `colours` are those of series that must look the same in several charts.
    """
    series = list(dict.fromkeys(name for group in bars.values() for name in group))
    known = [bar.high for group in bars.values() for bar in group.values() if bar is not None]
    marks = ticks(max(known, default=0.0))
    rows = sum(len(group) for group in bars.values())
    height = _TOP + rows * _BAR + len(bars) * _GAP + 40
    root = _canvas(_LEFT + _PLOT + _RIGHT, height, f"{title} ({unit})")
    scale = _PLOT / marks[-1]
    for mark in marks:
        x = _LEFT + mark * scale
        _line(root, x, _TOP, x, height - 30, _GRID)
        _text(root, x, height - 14, f"{mark:,g}", anchor="middle")
    y = float(_TOP)
    for group, members in bars.items():
        _text(root, 12, y + 12, group, bold=True)
        for name, bar in members.items():
            colour = (colours or {}).get(name, _COLOURS[series.index(name) % len(_COLOURS)])
            _text(root, _LEFT - 8, y + 12, name, anchor="end")
            if bar is None:
                _text(root, _LEFT + 6, y + 12, "-")
            else:
                _element(root, "rect", x=_LEFT, y=y + 2, width=bar.value * scale, height=_BAR - 4, fill=colour)
                middle = y + _BAR / 2
                _line(root, _LEFT + bar.low * scale, middle, _LEFT + bar.high * scale, middle, _INK)
                for end in (bar.low, bar.high):
                    _line(root, _LEFT + end * scale, middle - 3, _LEFT + end * scale, middle + 3, _INK)
                _text(root, _LEFT + bar.high * scale + 6, y + 12, f"{bar.value:,.4g}")
            y += _BAR
        y += _GAP
    return _finish(root)


def line_chart(title: str, panels: Mapping[str, Mapping[str, Sequence[tuple[float, float]]]]) -> str:
    """Return panels one below the other over one time axis in seconds; each holds series of (time, value)."""
    panel_height, width = 130, _PLOT + 240
    height = _TOP + len(panels) * (panel_height + 34) + 20
    root = _canvas(70 + width + _RIGHT, height, title)
    last_s = max((point[0] for panel in panels.values() for line in panel.values() for point in line), default=1.0)
    across = width / (last_s or 1.0)
    top = float(_TOP)
    for name, panel in panels.items():
        highest = max((point[1] for line in panel.values() for point in line), default=0.0)
        marks = ticks(highest, 4)
        bottom = top + panel_height
        _text(root, 70, top - 6, name, bold=True)
        for mark in marks:
            y = bottom - mark / marks[-1] * panel_height
            _line(root, 70, y, 70 + width, y, _GRID)
            _text(root, 64, y + 4, f"{mark:,g}", anchor="end")
        for number, (label, line) in enumerate(panel.items()):
            colour = _COLOURS[number % len(_COLOURS)]
            points = " ".join(f"{70 + x * across:.1f},{bottom - y / marks[-1] * panel_height:.1f}" for x, y in line)
            _element(root, "polyline", points=points, fill="none", stroke=colour, stroke_width=1.5)
            _text(root, 78 + width, top + 12 + 14 * number, label, colour=colour)
        for mark in ticks(last_s, 6):
            if mark <= last_s:
                _text(root, 70 + mark * across, bottom + 13, f"{mark:,g} s", anchor="middle")
        top = bottom + 34
    return _finish(root)


def _canvas(width: float, height: float, title: str) -> ElementTree.Element:
    box = f"0 0 {width:g} {height:g}"
    attributes = {"xmlns": "http://www.w3.org/2000/svg", "viewBox": box, "width": f"{width:g}", "height": f"{height:g}"}
    root = ElementTree.Element("svg", {**attributes, "font-family": _FONT, "font-size": "11"})
    _element(root, "rect", x=0, y=0, width=width, height=height, fill="white")
    _text(root, 12, 24, title, bold=True, size=15)
    return root


def _element(root: ElementTree.Element, kind: str, **attributes: object) -> ElementTree.Element:
    written = {
        name.replace("_", "-"): f"{value:.1f}" if isinstance(value, float) else str(value)
        for name, value in attributes.items()
    }
    return ElementTree.SubElement(root, kind, written)


def _line(root: ElementTree.Element, x1: float, y1: float, x2: float, y2: float, colour: str) -> None:
    _element(root, "line", x1=x1, y1=y1, x2=x2, y2=y2, stroke=colour)


def _text(
    root: ElementTree.Element,
    x: float,
    y: float,
    text: str,
    *,
    anchor: str = "start",
    bold: bool = False,
    size: int = 11,
    colour: str = _INK,
) -> None:
    weight = "600" if bold else "400"
    element = _element(root, "text", x=x, y=y, text_anchor=anchor, font_weight=weight, font_size=size, fill=colour)
    element.text = text


def _finish(root: ElementTree.Element) -> str:
    ElementTree.indent(root)
    return ElementTree.tostring(root, encoding="unicode") + "\n"
