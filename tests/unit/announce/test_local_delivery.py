"""Which rules and routes bring members' answers here, and how to come to them."""

from __future__ import annotations

from lbd.announce.local_delivery import AnswersOf, Change, EverythingIsLocal, change, wanted
from lbd.model.address import Endpoint
from lbd.model.desired import Protocol

A, B = Endpoint("10.0.0.1", 80), Endpoint("10.0.0.2", 80)
V6 = Endpoint("2001:db8::1", 80)
LOCAL = EverythingIsLocal()


def test_each_member_has_a_rule_for_its_protocol_in_the_table_of_its_family() -> None:
    members = frozenset({(Protocol.TCP, A), (Protocol.UDP, A), (Protocol.TCP, V6)})
    assert wanted(members, 4) == {LOCAL, AnswersOf("10.0.0.1", 80, 6), AnswersOf("10.0.0.1", 80, 17)}
    assert wanted(members, 6) == {LOCAL, AnswersOf("2001:db8::1", 80, 6)}


def test_nothing_is_wanted_without_a_member() -> None:
    assert wanted(frozenset(), 4) == frozenset()
    assert wanted(frozenset({(Protocol.TCP, A)}), 6) == frozenset()


def test_rules_go_before_the_route_and_come_after_it() -> None:
    first, second = AnswersOf("10.0.0.1", 80, 6), AnswersOf("10.0.0.2", 80, 6)
    both = wanted(frozenset({(Protocol.TCP, A), (Protocol.TCP, B)}), 4)
    assert change(both, ()) == Change((), (LOCAL, first, second))
    assert change((), both) == Change((second, first, LOCAL), ())
    assert change({LOCAL, second}, {LOCAL, first}) == Change((first,), (second,))
    assert change(both, both) == Change((), ())


def test_a_route_that_somebody_removed_comes_back_alone() -> None:
    both = wanted(frozenset({(Protocol.TCP, A)}), 4)
    assert change(both, both - {LOCAL}) == Change((), (LOCAL,))
