"""Charts are well-formed SVG that shows every value and invents none."""

from __future__ import annotations

from xml.etree import ElementTree

import pytest
from lab_charts import Bar, bar_chart, line_chart, ticks

SVG = "{http://www.w3.org/2000/svg}"


def texts(svg: str) -> list[str]:
    """Return every text of a chart."""
    return [element.text or "" for element in ElementTree.fromstring(svg).iter(f"{SVG}text")]


@pytest.mark.parametrize(
    ("highest", "marks"),
    [
        (10.0, [0, 2, 4, 6, 8, 10]),
        (0.07, [0, 0.02, 0.04, 0.06, 0.08]),
        (49_600, [0, 1e4, 2e4, 3e4, 4e4, 5e4]),
        (0, [0, 1]),
    ],
)
def test_ticks_are_round_and_reach_the_highest_value(highest: float, marks: list[float]) -> None:
    assert ticks(highest) == pytest.approx(marks)


def test_a_bar_is_as_long_as_its_value_and_its_whisker_as_its_range() -> None:
    root = ElementTree.fromstring(bar_chart("t", "u", {"load": {"a": Bar(50, 40, 60), "b": Bar(100, 100, 100)}}))
    widths = [float(bar.get("width", "")) for bar in root.iter(f"{SVG}rect")][1:]  # the first is the background
    assert widths[1] == pytest.approx(2 * widths[0])
    whisker = next(line for line in root.iter(f"{SVG}line") if line.get("y1") == line.get("y2"))
    assert float(whisker.get("x2", "")) - float(whisker.get("x1", "")) == pytest.approx(widths[0] * 0.4, abs=0.2)


def test_every_value_and_name_is_written_and_a_missing_one_is_a_dash() -> None:
    shown = texts(
        bar_chart("Requests", "per second", {"keep-alive <&>": {"lbd": Bar(46200.0, 46000, 46400), "nginx": None}})
    )
    assert {"Requests (per second)", "keep-alive <&>", "lbd", "nginx", "4.62e+04", "-"} <= set(shown)


def test_a_chart_of_nothing_is_still_a_chart() -> None:
    assert texts(bar_chart("t", "u", {}))
    assert texts(line_chart("t", {"panel": {"line": []}}))


def test_a_line_goes_through_its_points_from_the_axis_up() -> None:
    root = ElementTree.fromstring(line_chart("t", {"MB": {"worker 0": [(0.0, 0.0), (60.0, 10.0)]}}))
    points = next(root.iter(f"{SVG}polyline")).get("points", "").split()
    (x1, y1), (x2, y2) = ([float(part) for part in point.split(",")] for point in points)
    assert x2 > x1
    assert y1 - y2 == pytest.approx(130)
