"""When the sockets of a UDP service that refuses may be closed."""

from __future__ import annotations

from lbd.supervisor.udp_refusal import UdpRefusal


def flows(message: dict[str, object], left: int) -> dict[str, object]:
    return {"type": "flows", "slot": message["slot"], "turn": message["turn"], "left": left}


def test_it_is_vacant_once_every_worker_has_said_that_it_has_no_flow() -> None:
    refusal: UdpRefusal[str] = UdpRefusal()
    message = refusal.begin(3)
    assert not refusal.is_known(["a", "b"])
    refusal.heard("a", flows(message, 0))
    assert not refusal.is_vacant(["a", "b"])
    refusal.heard("b", flows(message, 7))
    assert refusal.is_known(["a", "b"])
    assert not refusal.is_vacant(["a", "b"])
    refusal.heard("b", flows(message, 0))
    assert refusal.is_vacant(["a", "b"])


def test_what_was_said_about_an_earlier_refusal_does_not_count() -> None:
    refusal: UdpRefusal[str] = UdpRefusal()
    earlier = refusal.begin(3)
    now = refusal.begin(3)
    refusal.heard("a", flows(earlier, 0))
    assert not refusal.is_known(["a"])
    refusal.heard("a", flows(now, 0))
    assert refusal.is_vacant(["a"])


def test_a_worker_that_died_is_not_waited_for_and_its_replacement_is() -> None:
    refusal: UdpRefusal[str] = UdpRefusal()
    message = refusal.begin(3)
    refusal.heard("a", flows(message, 0))
    assert refusal.is_vacant(["a"])
    assert not refusal.is_vacant(["a", "replacement"])
    refusal.heard("replacement", flows(refusal.message(3), 0))
    assert refusal.is_vacant(["a", "replacement"])
