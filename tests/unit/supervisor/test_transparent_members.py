"""Whose answers are wanted here, as services open, change and close."""

from __future__ import annotations

from dataclasses import replace

from lbd.model.address import Endpoint
from lbd.model.desired import DesiredState, Member, Pool, Protocol, ServiceEngine, Source, VirtualService
from lbd.supervisor.seams import Handle
from lbd.supervisor.transparent_members import TransparentMembers, desired_members, is_transparent

A, B = Endpoint("10.0.0.1", 80), Endpoint("10.0.0.2", 80)
ENGINE = ServiceEngine("se", 1, "front")


def service(*members: Endpoint, source: Source = Source.TRANSPARENT) -> VirtualService:
    return VirtualService("web", "10.1.0.1", 80, Pool(tuple(map(Member, members))), source=source)


HANDLE = Handle("web", Endpoint("10.1.0.1", 80), 1)


def of(*endpoints: Endpoint) -> frozenset[tuple[Protocol, Endpoint]]:
    return frozenset((Protocol.TCP, endpoint) for endpoint in endpoints)


def nobody(slot: int) -> bool:
    return False


def test_a_service_with_the_default_source_wants_nothing() -> None:
    members = TransparentMembers()
    assert not members.note(HANDLE, service(A, source=Source.SNAT))
    members.leave(HANDLE, Protocol.TCP, A, 3)
    assert members.now(lambda slot: True) == frozenset()


def test_a_member_that_leaves_is_wanted_until_its_connections_have_ended() -> None:
    members = TransparentMembers()
    assert members.note(HANDLE, service(A))
    assert members.note(HANDLE, service(A), service(B))  # while the workers are not told yet
    assert members.now(nobody) == of(A, B)
    members.leave(HANDLE, Protocol.TCP, A, 7)
    members.note(HANDLE, service(B))
    assert members.now(lambda slot: slot == 7) == of(A, B)
    assert members.now(nobody) == of(B)
    assert members.now(lambda slot: True) == of(B), "what was forgotten stays so: the slot is somebody else's"


def test_a_service_that_was_transparent_is_until_it_closes() -> None:
    members = TransparentMembers()
    members.note(HANDLE, service(A))
    assert members.note(HANDLE, service(A, source=Source.SNAT))
    assert members.now(nobody) == of(A)
    members.forget(HANDLE)
    assert members.now(nobody) == frozenset()
    assert not members.note(HANDLE, service(A, source=Source.SNAT))


def test_members_of_a_closed_service_are_wanted_while_connections_to_them_are_counted() -> None:
    members = TransparentMembers()
    members.note(HANDLE, service(A))
    members.leave(HANDLE, Protocol.TCP, A, 1)
    members.forget(HANDLE)
    assert members.now(lambda slot: slot == 1) == of(A)


def test_what_is_desired() -> None:
    plain = replace(service(B, source=Source.SNAT), name="plain", port=81)
    assert not is_transparent(DesiredState(1, ENGINE, (plain,)))
    both = DesiredState(1, ENGINE, (plain, service(A)))
    assert is_transparent(both)
    assert desired_members(both) == of(A)
    assert desired_members(DesiredState(1, ENGINE)) == frozenset()
