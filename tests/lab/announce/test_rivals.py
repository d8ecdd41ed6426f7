"""Somebody else on the segment has the address, wants it, or sends rubbish."""

from __future__ import annotations

import asyncio
import os
import random
import threading
import time
from pathlib import Path

import pytest
import uvloop

from announce.segment import FRONT_MAC, PEER_MAC, Segment, started, status_of, until
from lbd.announce.errors import ClaimError
from lbd.announce.frames import announcements, probe
from lbd.model.status import VipState

VIP = {4: "172.16.101.150", 6: "2001:db8::150"}
NAME = {4: "172.16.101.150/32", 6: "2001:db8::150/128"}
SUBNET = {4: "172.16.101.150/24", 6: "2001:db8::150/64"}


def test_a_foreign_owner_is_found_with_its_mac_and_nothing_is_added(segment: Segment, family: int) -> None:
    vip = VIP[family]
    segment.peer.ip(f"addr add {SUBNET[family]} dev peer0" + (" nodad" if family == 6 else ""))

    async def scenario() -> None:
        async with started() as announcer:
            with pytest.raises(ClaimError) as caught:
                await announcer.claim(vip)
            assert caught.value.owner_mac == PEER_MAC.hex(":")
            assert PEER_MAC.hex(":") in caught.value.reason
            status = status_of(announcer, vip)
            assert (status.state, status.owner_mac) == (VipState.FOREIGN_OWNER, PEER_MAC.hex(":"))
            assert vip not in {name.partition("/")[0] for name in await segment.look()}
            segment.peer.ip(f"addr del {SUBNET[family]} dev peer0")
            await announcer.claim(vip)
            status = status_of(announcer, vip)
            assert (status.state, status.owner_mac, status.reason) == (VipState.OWNED, None, "")

    uvloop.run(scenario())


def test_one_owner_does_not_hinder_the_other_claims(segment: Segment) -> None:
    segment.peer.ip("addr add 172.16.101.2/24 dev peer0")
    vips = [f"172.16.101.{n}" for n in range(1, 6)]

    async def scenario() -> None:
        async with started() as announcer:
            outcomes = await asyncio.gather(*map(announcer.claim, vips), return_exceptions=True)
            assert [isinstance(outcome, ClaimError) for outcome in outcomes] == [False, True, False, False, False]

    uvloop.run(scenario())


@pytest.mark.parametrize(("rival_mac", "wins"), [("020000000000", True), ("0200000000ff", False)])
def test_of_two_that_probe_at_once_the_lower_mac_goes_first(
    segment: Segment, family: int, rival_mac: str, wins: bool
) -> None:
    async def scenario() -> None:
        with segment.capture() as capture:
            async with started() as announcer:
                claiming = asyncio.create_task(announcer.claim(VIP[family]))
                await capture.wait_for(probe(VIP[family], FRONT_MAC))
                segment.send_from_peer(probe(VIP[family], bytes.fromhex(rival_mac)))
                if wins:
                    with pytest.raises(ClaimError, match="is claiming"):
                        await claiming
                else:
                    await claiming

    uvloop.run(scenario())


def test_two_announcers_that_claim_at_once_end_with_one_owner(segment: Segment, family: int) -> None:
    outcomes: dict[str, str] = {}
    together = threading.Barrier(2)
    decided = threading.Barrier(2)

    async def service_engine(interface: str) -> None:
        async with started(interface) as announcer:
            await asyncio.to_thread(together.wait, 10)
            try:
                await announcer.claim(VIP[family])
                outcomes[interface] = "owner"
            except ClaimError as error:
                outcomes[interface] = error.reason
            await asyncio.to_thread(decided.wait, 10)

    def beside() -> None:
        with segment.peer.entered():
            uvloop.run(service_engine("peer0"))

    thread = threading.Thread(target=beside)
    thread.start()
    uvloop.run(service_engine("front0"))
    thread.join(10)
    assert outcomes["front0"] == "owner", "the lower MAC"
    assert FRONT_MAC.hex(":") in outcomes["peer0"]


def test_a_conflict_after_the_claim_is_shown_counted_and_defended_once_in_ten_seconds(
    segment: Segment, family: int
) -> None:
    vip, now_s = VIP[family], time.monotonic()

    async def scenario() -> None:
        nonlocal now_s
        with segment.capture() as capture:
            async with started(clock=lambda: now_s) as announcer:
                await announcer.claim(vip)
                ours = announcements(vip, FRONT_MAC)
                await capture.wait_for(ours[-1])  # the clock stands, so nothing but a defence follows
                for round_number in (1, 2):
                    for _ in range(20):
                        segment.send_from_peer(*announcements(vip, PEER_MAC))
                    frames = len(announcements(vip, PEER_MAC)) * 20 * round_number
                    await until(lambda frames=frames: status_of(announcer, vip).conflicts_total == frames, "counted")
                    await capture.wait_for(ours[-1], count=1 + round_number)
                    assert len(capture.of(ours[-1])) == 1 + round_number
                    status = status_of(announcer, vip)
                    assert (status.state, status.owner_mac) == (VipState.OWNED, PEER_MAC.hex(":"))
                    assert PEER_MAC.hex(":") in status.reason
                    # 10 s later the defence may speak again. The routine's burst is due too, but wakes by real time.
                    now_s += 10.0
                assert any(name.startswith(vip) for name in await segment.look())
                now_s += 60.0
                assert (status_of(announcer, vip).reason, status_of(announcer, vip).owner_mac) == ("", None)

    uvloop.run(scenario())


def test_other_addresses_of_a_neighbour_are_no_conflict(segment: Segment) -> None:
    async def scenario() -> None:
        async with started() as announcer:
            await asyncio.gather(*map(announcer.claim, VIP.values()))
            segment.send_from_peer(
                *announcements("172.16.101.151", PEER_MAC), *announcements("2001:db8::151", PEER_MAC)
            )
            segment.send_from_peer(*announcements(VIP[4], FRONT_MAC), *announcements(VIP[6], FRONT_MAC))  # an echo
            segment.send_from_peer(*(probe(vip, PEER_MAC) for vip in VIP.values()))  # only asking
            segment.send_from_peer(*announcements(VIP[4], PEER_MAC))  # a real one, so that the rest was heard too
            await until(lambda: status_of(announcer, VIP[4]).conflicts_total > 0, "heard")
            await asyncio.sleep(0.05)
            assert [status_of(announcer, vip).conflicts_total for vip in VIP.values()] == [2, 0]

    uvloop.run(scenario())


def test_our_own_other_interface_on_the_segment_is_no_foreign_owner(segment: Segment) -> None:
    """Linux answers ARP for an address on every interface: with two of ours on a segment, one answers the other."""
    segment.here.ip("link add link front0 name second0 type macvlan mode bridge", "link set second0 up")
    segment.here.ip(f"addr add {NAME[4]} dev lo")  # so second0 answers the probe of front0
    segment.wait_until_running("second0")

    async def scenario() -> None:
        async with started() as announcer:
            await announcer.claim(VIP[4])
            assert status_of(announcer, VIP[4]).state is VipState.OWNED
            assert NAME[4] in await segment.look()

    uvloop.run(scenario())


def test_rubbish_on_the_wire_disturbs_nothing(segment: Segment) -> None:
    chance = random.Random(4)
    seeds = [frame for vip in VIP.values() for frame in (*announcements(vip, PEER_MAC), probe(vip, PEER_MAC))]

    def rubbish() -> bytes:
        frame = bytearray(chance.choice(seeds))
        for _ in range(chance.randrange(1, 6)):
            frame[chance.randrange(12, len(frame))] = chance.randrange(256)
        return bytes(frame[: chance.randrange(14, len(frame) + 1)]) + os.urandom(chance.randrange(20))

    async def scenario() -> None:
        problems: list[object] = []
        asyncio.get_running_loop().set_exception_handler(lambda _, context: problems.append(context))
        async with started() as announcer:
            await asyncio.gather(*map(announcer.claim, VIP.values()))
            for _ in range(50):
                segment.send_from_peer(*(rubbish() for _ in range(100)))
                await asyncio.sleep(0)
            before = status_of(announcer, VIP[6]).conflicts_total
            segment.send_from_peer(*announcements(VIP[6], PEER_MAC))
            await until(lambda: status_of(announcer, VIP[6]).conflicts_total > before, "still hears")
            segment.here.ip(f"addr del {NAME[6]} dev front0")
            began_s = time.monotonic()
            while NAME[6] not in await segment.look():
                assert time.monotonic() - began_s < 2.0
            assert problems == []

    uvloop.run(scenario())


def test_conflicts_are_still_heard_after_the_link_was_down(segment: Segment, family: int) -> None:
    """A packet socket reports ENETDOWN once, and uvloop forgets a reader whose descriptor had an error."""

    async def scenario() -> None:
        async with started() as announcer:
            await announcer.claim(VIP[family])
            segment.here.ip("link set front0 down")
            await until(lambda: "down" in status_of(announcer, VIP[family]).reason, "down is shown")
            segment.here.ip("link set front0 up")
            await until(lambda: status_of(announcer, VIP[family]).reason == "", "up is shown", 4)
            segment.send_from_peer(*announcements(VIP[family], PEER_MAC))
            await until(lambda: status_of(announcer, VIP[family]).conflicts_total > 0, "heard")

    uvloop.run(scenario())


def test_while_probing_ipv6_we_are_in_the_group_where_others_would_ask(segment: Segment) -> None:
    """RFC 4862 §5.4.2: else a switch with MLD snooping keeps another node's solicitation from us."""

    def joined() -> bool:
        return "ff0200000000000000000001ff000150" in Path("/proc/thread-self/net/igmp6").read_text()

    async def scenario() -> None:
        async with started() as announcer:
            assert not joined()
            claiming = asyncio.create_task(announcer.claim(VIP[6]))
            await until(joined, "joined")
            assert not claiming.done()
            assert await segment.look() == set()
            await claiming
            await announcer.withdraw(VIP[6], "test")
            assert not joined()

    uvloop.run(scenario())
