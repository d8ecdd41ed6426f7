"""Claims about the text formats."""

from __future__ import annotations

import math

import pytest

from lbd.observability.exposition import Family, Format, Kind, label_text, negotiate, render

PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


@pytest.mark.parametrize(
    ("accept", "form"),
    [
        ("", Format.TEXT),
        ("*/*", Format.TEXT),
        ("text/plain;version=0.0.4", Format.TEXT),
        (PROMETHEUS_3, Format.OPEN_METRICS),
        ("application/openmetrics-text", Format.OPEN_METRICS),
        ("application/openmetrics-text; version=1.0.1", Format.OPEN_METRICS),
        ("application/openmetrics-text;version=0.0.1,text/plain", Format.TEXT),
        ("application/openmetrics-text;version=2.0.0", Format.TEXT),
        ("application/openmetrics-text;version=abc;;=;q", Format.TEXT),
        (";;,,=;,application/openmetrics-text;version=", Format.TEXT),
    ],
)
def test_the_format_follows_the_accept_header(accept: str, form: Format) -> None:
    assert negotiate(accept) is form


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0, "0"),
        (True, "1"),
        (False, "0"),
        (2**63, "9223372036854775808"),
        (0.25, "0.25"),
        (1e300, "1e+300"),
        (math.inf, "+Inf"),
        (-math.inf, "-Inf"),
        (math.nan, "NaN"),
    ],
)
def test_numbers_are_what_prometheus_reads(value: float, text: str) -> None:
    body = render([Family("lbd_x", Kind.GAUGE, "h", [("", value), ('a="b"', value)])], Format.TEXT)
    assert body.decode().splitlines()[2:] == [f"lbd_x {text}", f'lbd_x{{a="b"}} {text}']


def test_open_metrics_names_the_family_without_its_suffix_and_ends_with_eof() -> None:
    families = [
        Family("lbd_a_total", Kind.COUNTER, "h", [("", 1)]),
        Family("lbd_b_info", Kind.INFO, "h", [(label_text(form="x"), 1)]),
    ]
    assert render(families, Format.OPEN_METRICS).decode() == (
        "# HELP lbd_a h\n# TYPE lbd_a counter\nlbd_a_total 1\n"
        '# HELP lbd_b h\n# TYPE lbd_b info\nlbd_b_info{form="x"} 1\n# EOF\n'
    )
    assert "# TYPE lbd_a_total counter\n" in render(families, Format.TEXT).decode()
    assert "# TYPE lbd_b_info gauge\n" in render(families, Format.TEXT).decode()
