"""What neighbours hear, captured at the other end of the cable."""

from __future__ import annotations

import asyncio
import itertools
import re
import socket
import subprocess
import threading
import time

import pytest
import uvloop

from announce.segment import FRONT_MAC, PEER_MAC, Capture, Segment, started, status_of, until
from lbd.announce.frames import announcements
from lbd.model.status import VipState

VIP = {4: "172.16.101.150", 6: "2001:db8::150"}

ARP_OF_FRONT = "ffffffffffff 020000000001 0806 0001 0800 06 04 {operation} 020000000001 ac106596 {target_mac} ac106596"
GARP_REQUEST = bytes.fromhex(ARP_OF_FRONT.format(operation="0001", target_mac="000000000000"))
GARP_REPLY = bytes.fromhex(ARP_OF_FRONT.format(operation="0002", target_mac="020000000001"))
NA_HEAD = bytes.fromhex("333300000001 020000000001 86dd 60000000 0020 3a ff")


def ones_complement_sum(payload: bytes) -> int:
    """The sum of RFC 1071 by its definition modulo 2**16 - 1: not the way of the product."""
    return int.from_bytes(payload + bytes(len(payload) % 2), "big") % 0xFFFF


def advertisement(mac: bytes = FRONT_MAC) -> bytes:
    """The NA that the RFC asks for, with the checksum solved from its defining equation."""
    vip, all_nodes = bytes.fromhex("20010db8000000000000000000000150"), bytes.fromhex("ff02" + "00" * 13 + "01")
    rest = bytes.fromhex("20000000") + vip + b"\x02\x01" + mac
    pseudo_header = vip + all_nodes + bytes.fromhex("00000020 0000003a")
    checksum = 0xFFFF - ones_complement_sum(pseudo_header + b"\x88\x00\x00\x00" + rest)
    head = bytes.fromhex("333300000001") + mac + NA_HEAD[12:]
    return head + vip + all_nodes + b"\x88\x00" + checksum.to_bytes(2, "big") + rest


def announcement(family: int) -> tuple[bytes, ...]:
    return (GARP_REQUEST, GARP_REPLY) if family == 4 else (advertisement(),)


async def heard_anew(capture: Capture, frames: tuple[bytes, ...], since_s: float, timeout_s: float = 3.0) -> None:
    """Return when each frame was heard twice since then: once could be the minute's routine."""
    for frame in frames:
        await capture.wait_for(frame, count=2, since_s=since_s, timeout_s=timeout_s)


def test_announced_at_once_and_each_second_for_five_seconds_byte_for_byte(segment: Segment) -> None:
    async def scenario() -> None:
        with segment.capture() as capture:
            async with started() as announcer:
                await asyncio.gather(*map(announcer.claim, VIP.values()))
                claimed_s = time.monotonic()
                await asyncio.sleep(5.6)
                for frame in (GARP_REQUEST, GARP_REPLY, advertisement()):
                    times = capture.of(frame)
                    assert len(times) == 6, frame.hex()
                    assert times[0] - claimed_s < 0.5
                    gaps = [after - before for before, after in itertools.pairwise(times)]
                    assert all(0.4 < gap < 1.6 for gap in gaps), gaps
                assert [status_of(announcer, vip).announcements_total for vip in VIP.values()] == [6, 6]

    uvloop.run(scenario())


def test_the_request_form_goes_before_the_reply_form(segment: Segment) -> None:
    async def scenario() -> None:
        with segment.capture() as capture:
            async with started() as announcer:
                await announcer.claim(VIP[4])
                await capture.wait_for(GARP_REPLY)
                assert capture.of(GARP_REQUEST)[0] <= capture.of(GARP_REPLY)[0]

    uvloop.run(scenario())


def test_the_kernel_of_a_neighbour_believes_the_announcement(segment: Segment, family: int) -> None:
    """Independent of every checksum of ours: a stale entry of another MAC is corrected, so the packet was valid."""
    vip = VIP[family]
    stale = "02:00:00:00:00:99"
    subnet = "172.16.101.2/24" if family == 4 else "2001:db8::2/64 nodad"
    segment.peer.ip(f"addr add {subnet} dev peer0", f"neigh add {vip} lladdr {stale} dev peer0 nud stale")

    def neighbour() -> str:
        with segment.peer.entered():
            shown = subprocess.run(["ip", "neigh", "show", vip], capture_output=True, text=True, check=True).stdout
        match = re.search(r"lladdr (\S+)", shown)
        return match[1] if match else shown

    async def scenario() -> None:
        assert neighbour() == stale
        async with started() as announcer:
            await announcer.claim(vip)
            await until(lambda: neighbour() == FRONT_MAC.hex(":"), f"entry corrected, is {neighbour()}")

    uvloop.run(scenario())


@pytest.mark.parametrize("how", ["interface set down", "cable pulled"])
def test_announced_anew_when_the_link_comes_back(segment: Segment, family: int, how: str) -> None:
    end, interface = (segment.here, "front0") if how == "interface set down" else (segment.peer, "peer0")

    async def scenario() -> None:
        with segment.capture() as capture:
            async with started() as announcer:
                await announcer.claim(VIP[family])
                for frame in announcement(family):
                    await capture.wait_for(frame, count=6, timeout_s=7)  # the burst is over: the next is a minute off
                end.ip(f"link set {interface} down")
                await until(lambda: "down" in status_of(announcer, VIP[family]).reason, "link down is shown")
                assert status_of(announcer, VIP[family]).state is VipState.OWNED
                back_s = time.monotonic()
                end.ip(f"link set {interface} up")
                await heard_anew(capture, announcement(family), back_s, timeout_s=4)
                assert status_of(announcer, VIP[family]).reason == ""
                assert any(name.startswith(VIP[family]) for name in await segment.look())

    uvloop.run(scenario())


def test_a_link_that_was_down_for_a_blink_is_noticed(segment: Segment) -> None:
    async def scenario() -> None:
        with segment.capture() as capture:
            async with started() as announcer:
                await announcer.claim(VIP[4])
                await capture.wait_for(GARP_REPLY, count=6, timeout_s=7)
                back_s = time.monotonic()
                segment.here.ip("link set front0 down", "link set front0 up")  # between two dumps
                await heard_anew(capture, announcement(4), back_s)

    uvloop.run(scenario())


def test_frames_carry_the_new_mac_after_the_interface_got_another(segment: Segment) -> None:
    new_mac = bytes.fromhex("020000000077")

    async def scenario() -> None:
        with segment.capture() as capture:
            async with started() as announcer:
                await asyncio.gather(*map(announcer.claim, VIP.values()))
                await capture.wait_for(GARP_REPLY)
                changed_s = time.monotonic()
                segment.here.ip("link set front0 address 02:00:00:00:00:77")
                for frame in (
                    GARP_REQUEST.replace(FRONT_MAC, new_mac),
                    GARP_REPLY.replace(FRONT_MAC, new_mac),
                    advertisement(new_mac),
                ):
                    await heard_anew(capture, (frame,), changed_s)
                settled_s = time.monotonic()
                await capture.wait_for(GARP_REPLY.replace(FRONT_MAC, new_mac), since_s=settled_s)
                assert not capture.of(GARP_REPLY, since_s=settled_s)

    uvloop.run(scenario())


@pytest.mark.parametrize("index", ["another index", "the same index"])
def test_an_interface_that_was_deleted_and_made_anew_is_recovered_by_its_name(segment: Segment, index: str) -> None:
    same = f"index {socket.if_nametoindex('front0')}" if index == "the same index" else ""

    async def scenario() -> None:
        async with started() as announcer:
            await asyncio.gather(*map(announcer.claim, VIP.values()))
            segment.here.ip("link del front0")
            await until(
                lambda: {status.state for status in announcer.status()} == {VipState.FAILED}, "the loss is shown"
            )
            assert "no interface front0" in status_of(announcer, VIP[4]).reason
            segment.here.ip("link add blind0 type bridge")  # so that the new front0 gets another index
            await asyncio.to_thread(segment.plug, same)
            with segment.capture() as capture:
                for frame in (GARP_REQUEST, GARP_REPLY, advertisement()):
                    await heard_anew(capture, (frame,), 0.0, timeout_s=5)
            assert {status.state for status in announcer.status()} == {VipState.OWNED}
            assert await segment.look() == {"172.16.101.150/32", "2001:db8::150/128"}

    uvloop.run(scenario())


def test_an_interface_that_was_exchanged_unseen_for_one_of_the_same_index_and_mac_is_recovered(
    segment: Segment,
) -> None:
    """The old packet sockets are bound to nothing then (ENXIO), and no list of links shows a difference."""
    index = socket.if_nametoindex("front0")

    def exchange() -> None:
        with segment.here.entered():
            segment.here.ip("link del front0")
            segment.plug(f"index {index}")

    async def scenario() -> None:
        async with started() as announcer:
            await asyncio.gather(*map(announcer.claim, VIP.values()))
            thread = threading.Thread(target=exchange)
            thread.start()
            thread.join()  # in the loop: the announcer sees nothing of it until it is done
            with segment.capture() as capture:
                for frame in (GARP_REQUEST, GARP_REPLY, advertisement()):
                    await heard_anew(capture, (frame,), 0.0, timeout_s=5)
                segment.send_from_peer(*announcements(VIP[4], PEER_MAC))
                await until(lambda: status_of(announcer, VIP[4]).conflicts_total > 0, "hears too")

    uvloop.run(scenario())


@pytest.mark.parametrize("kind", ["bridge", "macvlan"])
def test_other_kinds_of_interface_announce_with_their_own_mac(segment: Segment, kind: str) -> None:
    mac = bytes.fromhex("020000000055")
    if kind == "bridge":
        segment.here.ip(
            f"link add br0 address {mac.hex(':')} type bridge", "link set front0 master br0", "link set br0 up"
        )
    else:
        segment.here.ip(f"link add link front0 name mv0 address {mac.hex(':')} type macvlan mode bridge")
        segment.here.ip("link set mv0 up")
    interface = "br0" if kind == "bridge" else "mv0"
    segment.wait_until_running(interface)

    async def scenario() -> None:
        with segment.capture() as capture:
            async with started(interface) as announcer:
                await asyncio.gather(*map(announcer.claim, VIP.values()))
                await capture.wait_for(GARP_REQUEST.replace(FRONT_MAC, mac))
                await capture.wait_for(GARP_REPLY.replace(FRONT_MAC, mac))
                await capture.wait_for(advertisement(mac))

    uvloop.run(scenario())


@pytest.mark.parametrize("kind", ["lo", "noarp"])
def test_an_interface_that_resolves_no_neighbours_gets_the_address_and_announces_nothing(
    segment: Segment, kind: str
) -> None:
    if kind == "noarp":
        segment.here.ip("link set front0 arp off")
    interface = "lo" if kind == "lo" else "front0"

    async def scenario() -> None:
        with segment.capture() as capture:
            async with started(interface) as announcer:
                await asyncio.gather(*map(announcer.claim, VIP.values()))
                for vip in VIP.values():
                    status = status_of(announcer, vip)
                    assert (status.state, status.reason, status.announcements_total) == (VipState.OWNED, "", 0)
                assert {"172.16.101.150/32", "2001:db8::150/128"} <= await segment.look(interface)
                await asyncio.sleep(1.2)  # a second announcement would be due
                assert not [seen for seen in capture.seen if b"\xac\x10\x65\x96" in seen.frame]
                assert [status.announcements_total for status in announcer.status()] == [0, 0]

    uvloop.run(scenario())


def test_a_withdrawn_vip_is_announced_no_more_and_gone_from_the_interface(segment: Segment, family: int) -> None:
    async def scenario() -> None:
        with segment.capture() as capture:
            async with started() as announcer:
                await announcer.claim(VIP[family])
                await capture.wait_for(announcement(family)[0])
                await announcer.withdraw(VIP[family], "test")
                withdrawn_s = time.monotonic()
                assert announcer.status() == ()
                assert await segment.look() == set()
                await announcer.withdraw(VIP[family], "once more")
                await asyncio.sleep(1.5)
                assert not [at for frame in announcement(family) for at in capture.of(frame, since_s=withdrawn_s)]

    uvloop.run(scenario())
