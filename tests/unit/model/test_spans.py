"""Ranges of addresses, beside the same answers found by trying every one."""

from __future__ import annotations

import random

import pytest

from lbd.model.spans import Span, Spans, span_between, span_of


def test_networks_and_addresses_cover_what_they_say() -> None:
    assert span_of("10.0.0.0/24") == span_between("10.0.0.0", "10.0.0.255")
    assert span_of("10.0.0.7") == span_between("10.0.0.7", "10.0.0.7")
    assert span_of("10.0.0.7/24") == span_of("10.0.0.0/24")
    assert span_of("fd00::1") in span_of("fd00::/16")
    assert span_of("10.0.0.0/24") not in span_of("10.0.0.0/25")


@pytest.mark.parametrize("text", ["", "10.0.0", "10.0.0.0/33", "host"])
def test_what_is_no_network_is_an_error(text: str) -> None:
    with pytest.raises(ValueError, match=r".+"):
        span_of(text)


def test_families_never_touch() -> None:
    spans: Spans[str] = Spans()
    spans.add(span_of("0.0.0.0/0"), "four")
    assert spans.find(span_of("::/0")) is None
    assert spans.find(span_of("::1.2.3.4")) is None
    assert not span_of("::/0").touches(span_of("0.0.0.0/0"))


def test_an_edge_belongs_to_a_span_and_its_neighbour_does_not() -> None:
    spans: Spans[str] = Spans()
    assert spans.add(span_between("10.0.0.10", "10.0.0.20"), "it")
    assert [spans.find(span_of(f"10.0.0.{number}")) for number in (9, 10, 20, 21)] == [None, "it", "it", None]
    assert spans.find(span_between("10.0.0.1", "10.0.0.255")) == "it"


def test_a_span_that_touches_another_is_not_added() -> None:
    spans: Spans[str] = Spans()
    assert spans.add(span_of("10.0.0.0/24"), "first")
    assert not spans.add(span_of("10.0.0.0/16"), "around")
    assert not spans.add(span_of("10.0.0.9"), "inside")
    assert spans.find(span_of("10.0.1.1")) is None
    assert spans.find(span_of("10.0.0.9")) == "first"


def test_every_answer_is_that_of_looking_at_each() -> None:
    chance = random.Random(7)
    for _ in range(300):
        spans: Spans[int] = Spans()
        kept: list[Span] = []
        for _ in range(12):
            first = chance.randrange(60)
            span = Span((4, first), (4, first + chance.randrange(12)))
            free = not any(span.touches(other) for other in kept)
            assert spans.add(span, len(kept)) is free
            if free:
                kept.append(span)
        for number in range(80):
            asked = Span((4, number), (4, number + chance.randrange(4)))
            touching = [label for label, span in enumerate(kept) if span.touches(asked)]
            found = spans.find(asked)
            assert found in touching if touching else found is None
