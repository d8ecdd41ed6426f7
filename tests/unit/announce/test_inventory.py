"""What is ours, and what a sweep may remove."""

from __future__ import annotations

from lbd.announce.inventory import InterfaceAddress, Inventory, Link, orphans, ours_among

FRONT = Link(2, "front0", b"\x02\0\0\0\0\1", running=True, resolves=True)
BACK = Link(3, "back0", b"\x02\0\0\0\0\2", running=True, resolves=True)


def ours(index: int, address: str) -> InterfaceAddress:
    return InterfaceAddress(index, address, 128 if ":" in address else 32, protocol=0x6C, ours=True)


def theirs(index: int, address: str, prefix_length: int = 24) -> InterfaceAddress:
    return InterfaceAddress(index, address, prefix_length)


def test_orphans_are_ours_and_unwanted_or_on_another_interface() -> None:
    stray, elsewhere = ours(2, "10.0.0.9"), ours(3, "10.0.0.1")
    inventory = Inventory(
        (FRONT, BACK), (ours(2, "10.0.0.1"), elsewhere, stray, theirs(2, "10.0.0.9"), theirs(3, "10.0.0.7", 32))
    )
    assert orphans(inventory, "front0", frozenset({"10.0.0.1"})) == (elsewhere, stray)


def test_without_the_interface_all_that_is_ours_is_orphaned() -> None:
    inventory = Inventory((BACK,), (ours(3, "2001:db8::1"), theirs(3, "10.0.0.1", 32)))
    assert orphans(inventory, "front0", frozenset({"2001:db8::1"})) == (ours(3, "2001:db8::1"),)


def test_withdrawal_takes_ours_on_the_interface_and_not_the_operators_of_the_same_address() -> None:
    mine = ours(2, "10.0.0.1")
    inventory = Inventory((FRONT, BACK), (mine, theirs(2, "10.0.0.1"), ours(3, "10.0.0.1"), ours(2, "10.0.0.2")))
    assert ours_among(inventory, "front0", frozenset({"10.0.0.1"})) == (mine,)
    assert ours_among(inventory, "gone0", frozenset({"10.0.0.1"})) == ()


def test_all_prefix_lengths_of_an_address_are_found() -> None:
    inventory = Inventory((FRONT,), (ours(2, "10.0.0.1"), theirs(2, "10.0.0.1")))
    assert len(inventory.find(2, "10.0.0.1")) == 2
    assert inventory.find(3, "10.0.0.1") == ()
    assert inventory.without(ours(2, "10.0.0.1")).find(2, "10.0.0.1") == (theirs(2, "10.0.0.1"),)
