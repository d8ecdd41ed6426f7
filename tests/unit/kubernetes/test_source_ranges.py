"""Claims about the intersection of lists of networks, checked against a look at every address."""

from __future__ import annotations

import ipaddress
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lbd.kubernetes.objects.kinds import NOBODY
from lbd.kubernetes.translation.source_ranges import intersection


@pytest.mark.parametrize(
    ("one", "other", "both"),
    [
        ((), (), ()),
        (("10.0.0.0/8",), (), ("10.0.0.0/8",)),
        ((), ("10.0.0.0/8",), ("10.0.0.0/8",)),
        (("10.0.0.0/8",), ("10.1.0.0/16", "192.168.0.0/16"), ("10.1.0.0/16",)),
        (("10.1.0.0/16", "10.2.0.0/16"), ("10.0.0.0/8",), ("10.1.0.0/16", "10.2.0.0/16")),
        (("10.0.0.0/8",), ("192.168.0.0/16",), NOBODY),
        (("0.0.0.0/0",), ("::/0",), NOBODY),
        (("0.0.0.0/0", "::/0"), ("2001:db8::/32", "10.0.0.0/8"), ("10.0.0.0/8", "2001:db8::/32")),
        (NOBODY, ("0.0.0.0/0", "::/0"), NOBODY),
        (NOBODY, ("10.0.0.0/8",), NOBODY),
        (NOBODY, (), NOBODY),
        (("10.0.0.0/24", "10.0.1.0/24"), ("10.0.0.0/23",), ("10.0.0.0/23",)),
    ],
)
def test_who_is_in_both_lists_is_let_in(one, other, both):
    assert intersection(one, other) == both
    assert intersection(other, one) == both


def small_networks() -> st.SearchStrategy[tuple[str, ...]]:
    def network(pair: tuple[int, int]) -> str:
        start, prefix = pair
        return str(ipaddress.ip_network((0x0A000000 + start, prefix), strict=False))

    return st.lists(st.tuples(st.integers(0, 63), st.integers(26, 32)).map(network), min_size=1, max_size=6).map(tuple)


@settings(max_examples=60, deadline=None)
@given(small_networks(), small_networks())
def test_every_address_is_in_the_intersection_if_it_is_in_both(one, other):
    def holds(cidrs: tuple[str, ...], address: ipaddress.IPv4Address) -> bool:
        return any(address in ipaddress.ip_network(cidr) for cidr in cidrs)

    both = intersection(one, other)
    assert both
    for number in range(64):
        address = ipaddress.IPv4Address(0x0A000000 + number)
        assert holds(both, address) == (holds(one, address) and holds(other, address))


def test_long_lists_take_no_time_of_all_pairs():
    one = tuple(f"10.{number // 256}.{number % 256}.0/24" for number in range(0, 4000, 2))
    other = tuple(f"10.{number // 256}.{number % 256}.128/25" for number in range(0, 4000, 3))
    begin_s = time.perf_counter()
    assert len(intersection(one, other)) == len(range(0, 4000, 6))
    assert time.perf_counter() - begin_s < 1.0
