"""Sets of networks agree with the standard library's, one network at a time."""

from __future__ import annotations

from ipaddress import IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lbd.dataplane.hot.networks import Networks


def network(version: int) -> st.SearchStrategy[str]:
    bits = 32 if version == 4 else 128
    return st.tuples(st.ip_addresses(v=4 if version == 4 else 6), st.integers(0, bits)).map(
        lambda drawn: str(ip_network(drawn, strict=False))
    )


networks = st.lists(network(4) | network(6), max_size=12)


def borders(cidrs: list[str]) -> list[str]:
    """The first and last address of each network, and their neighbours."""
    found = []
    for cidr in cidrs:
        net = ip_network(cidr)
        kind = type(net.network_address)
        for number in (int(net.network_address), int(net.broadcast_address)):
            found += [str(kind(near)) for near in (number - 1, number, number + 1) if 0 <= near < 2**net.max_prefixlen]
    return found


def expected(cidrs: list[str], address: str) -> bool:
    parsed = ip_address(address)
    if isinstance(parsed, IPv6Address) and parsed.ipv4_mapped is not None:
        parsed = parsed.ipv4_mapped
    return any(parsed in ip_network(cidr) for cidr in cidrs)


@given(networks, st.lists(st.ip_addresses().map(str), max_size=5))
def test_an_address_is_in_the_set_exactly_if_it_is_in_one_of_the_networks(cidrs: list[str], others: list[str]) -> None:
    known = Networks(cidrs)
    for address in (*borders(cidrs), *others):
        assert known.contains(address) == expected(cidrs, address), address


@given(network(4), st.ip_addresses(v=4))
def test_an_ipv4_address_in_ipv6_form_is_taken_as_ipv4(cidr: str, address: object) -> None:
    known = Networks([cidr])
    assert known.contains(f"::ffff:{address}") == known.contains(str(address))


@pytest.mark.parametrize("everything", ["::/0", "0.0.0.0/0"])
def test_one_familys_everything_is_nothing_of_the_other(everything: str) -> None:
    known = Networks([everything])
    assert known.contains("2001:db8::1") == (":" in everything)
    assert known.contains("192.0.2.1") == known.contains("::ffff:192.0.2.1") == (":" not in everything)


def test_a_scope_does_not_matter() -> None:
    known = Networks(["fe80::/64"])
    assert known.contains("fe80::1%eth0")
    assert not known.contains("fe80:0:0:1::1%a-strange.name")


def test_any_text_form_of_an_address_will_do() -> None:
    known = Networks(["2001:db8::/127"])
    assert known.contains("2001:0DB8:0:0:0:0:0:1")
    assert not known.contains("2001:db8:0:0::2")


def test_nobody_is_in_no_network() -> None:
    assert not Networks([]).contains("192.0.2.1")
    assert not Networks([]).contains("::")
