"""Endpoints: one text form for one address, in and out."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbd.model.address import Endpoint, family_of

endpoints = st.builds(lambda address, port: Endpoint(str(address), port), st.ip_addresses(), st.integers(1, 65535))


@given(endpoints)
def test_endpoint_reads_what_it_prints(endpoint):
    assert Endpoint.parse(str(endpoint)) == endpoint


@given(st.ip_addresses(v=6), st.integers(1, 65535))
def test_spellings_of_one_address_are_one_endpoint(address, port):
    spellings = {Endpoint(text, port) for text in (address.compressed, address.exploded, address.exploded.upper())}
    assert len(spellings) == 1
    assert spellings.pop().address == str(ipaddress.ip_address(str(address)))


@pytest.mark.parametrize(("text", "family"), [("10.0.0.1", 4), ("2001:db8::1", 6), ("::ffff:10.0.0.1", 6)])
def test_family_is_4_or_6(text, family):
    assert family_of(text) == family
    assert Endpoint(text, 1).family == family


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_port_out_of_range_makes_no_endpoint(port):
    with pytest.raises(ValueError, match=f"^{port} is not a port \\(1-65535\\)$"):
        Endpoint("10.0.0.1", port)


@pytest.mark.parametrize("address", ["", "web", "10.0.0", "10.0.0.0/8", "010.0.0.1", "[::1]"])
def test_what_is_no_address_makes_no_endpoint(address):
    with pytest.raises(ValueError):
        Endpoint(address, 80)
    with pytest.raises(ValueError):
        family_of(address)


@pytest.mark.parametrize(
    "text", ["10.0.0.1", "10.0.0.1:", ":80", "10.0.0.1:x", "10.0.0.1:-1", "10.0.0.1: 80", "[::1]80"]
)
def test_text_that_is_no_endpoint_is_refused(text):
    with pytest.raises(ValueError):
        Endpoint.parse(text)


def test_endpoints_sort_and_count_as_values():
    one, other = Endpoint("10.0.0.1", 80), Endpoint("10.0.0.1", 81)
    assert sorted([other, one]) == [one, other]
    assert len({one, other, Endpoint("10.0.0.1", 80)}) == 2
