"""Which rules and routes should be there, and how to come to them."""

from __future__ import annotations

import pytest

from lbd.announce.return_path import ROUTE_PROTOCOL, Change, Route, Rule, change, network_of, wanted

FRONT = 7


def test_each_vip_has_a_rule_after_the_networks_and_the_default_route() -> None:
    assert wanted({"10.0.0.9", "10.0.0.8"}, "10.0.0.1", FRONT, ["10.0.0.0/24", "10.0.0.0/24"]) == (
        Route(FRONT, "10.0.0.0/24"),
        Route(FRONT, "0.0.0.0/0", "10.0.0.1"),
        Rule("10.0.0.8"),
        Rule("10.0.0.9"),
    )
    assert wanted({"2001:db8::9"}, "fe80::1", FRONT, []) == (Route(FRONT, "::/0", "fe80::1"), Rule("2001:db8::9"))


def test_nothing_is_wanted_without_a_vip_or_without_a_gateway() -> None:
    assert wanted((), "10.0.0.1", FRONT, ["10.0.0.0/24"]) == ()
    assert wanted({"10.0.0.9"}, None, FRONT, ["10.0.0.0/24"]) == ()


def test_rules_go_before_routes_and_come_after_them() -> None:
    old = wanted({"10.0.0.8", "10.0.0.9"}, "10.0.0.1", FRONT, ["10.0.0.0/24"])
    new = wanted({"10.0.0.9", "10.0.0.10"}, "10.0.0.2", FRONT, ["10.0.0.0/24"])
    assert change(new, old) == Change(
        remove=(Rule("10.0.0.8"), Route(FRONT, "0.0.0.0/0", "10.0.0.1")),
        add=(Route(FRONT, "0.0.0.0/0", "10.0.0.2"), Rule("10.0.0.10")),
    )
    assert change((), old).add == ()
    assert [type(entry) for entry in change((), old).remove] == [Rule, Rule, Route, Route]
    assert change(old, old) == Change((), ())


def test_routes_of_an_interface_that_was_replaced_are_replaced() -> None:
    old = wanted({"10.0.0.9"}, "10.0.0.1", FRONT, [])
    new = wanted({"10.0.0.9"}, "10.0.0.1", FRONT + 1, [])
    assert change(new, old) == Change((old[0],), (new[0],))


@pytest.mark.parametrize(
    ("address", "prefix_length", "network"),
    [
        ("172.16.101.1", 24, "172.16.101.0/24"),
        ("172.16.101.1", 31, "172.16.101.0/31"),
        ("172.16.101.150", 32, None),
        ("169.254.1.1", 16, None),
        ("fd00:101::1", 64, "fd00:101::/64"),
        ("fd00:101::150", 128, None),
        ("fe80::1", 64, None),
    ],
)
def test_the_network_that_an_address_makes_reachable(address: str, prefix_length: int, network: str | None) -> None:
    assert network_of(address, prefix_length) == network


def test_the_tag_never_changes() -> None:
    assert ROUTE_PROTOCOL == 108
