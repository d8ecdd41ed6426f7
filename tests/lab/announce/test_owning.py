"""What is put on an interface, what is left alone, and what comes back."""

from __future__ import annotations

import asyncio
import os
import resource
import subprocess
import sys
import time
from pathlib import Path

import pytest
import uvloop
from pyroute2 import IPRoute

from announce.segment import FRONT_MAC, Segment, started, status_of, until
from lbd.announce.announcer import Layer2Announcer
from lbd.announce.errors import ClaimError
from lbd.announce.frames import announcements, probe
from lbd.announce.inventory import ADDRESS_PROTOCOL
from lbd.model.status import VipState

VIP = {4: "172.16.101.150", 6: "2001:db8::150"}
NAME = {4: "172.16.101.150/32", 6: "2001:db8::150/128"}
SUBNET_OF_VIP = {4: "172.16.101.150/24", 6: "2001:db8::150/64"}
FOREIGN = {"172.16.101.9/24", "10.1.2.3/32", "2001:db8::9/64", "2001:db8:1::9/128", "172.16.101.77/32"}
IFA_F_NODAD, IFA_F_PERMANENT = 0x02, 0x80
FOREVER = 0xFFFF_FFFF


def add_foreign_addresses() -> None:
    """The operator's: several prefix lengths, and two of other programs that tag theirs too."""
    with IPRoute() as route:
        (index,) = route.link_lookup(ifname="front0")
        for name in sorted(FOREIGN):
            address, _, prefix_length = name.partition("/")
            tag = {"IFA_PROTO": 109} if name in ("10.1.2.3/32", "2001:db8:1::9/128") else {}
            route.addr("add", index=index, address=address, prefixlen=int(prefix_length), **tag)
        # Our own number on what can't be ours, for lbd adds host addresses only.
        route.addr("add", index=index, address="192.0.2.1", prefixlen=24, IFA_PROTO=ADDRESS_PROTOCOL)


def test_the_address_is_a_host_address_with_our_tag_and_ipv6_is_no_source_for_anything(segment: Segment) -> None:
    async def scenario() -> None:
        async with started() as announcer:
            await asyncio.gather(*map(announcer.claim, VIP.values()))
            v4, v6 = sorted(await asyncio.to_thread(segment.addresses), key=lambda entry: entry["prefix_length"])
            assert (v4["address"], v4["prefix_length"], v4["protocol"]) == (VIP[4], 32, 108)
            assert (v4["valid_s"], v4["preferred_s"]) == (FOREVER, FOREVER)
            assert (v6["address"], v6["prefix_length"], v6["protocol"]) == (VIP[6], 128, 108)
            assert (v6["valid_s"], v6["preferred_s"]) == (FOREVER, 0)
            assert v6["flags"] & (IFA_F_NODAD | IFA_F_PERMANENT) == IFA_F_NODAD | IFA_F_PERMANENT
        assert await segment.look() == set()

    uvloop.run(scenario())


def test_claim_and_withdraw_are_idempotent_and_several_at_once_do_no_harm(segment: Segment, family: int) -> None:
    vip = VIP[family]

    async def scenario() -> None:
        async with started() as announcer:
            await asyncio.gather(*(announcer.claim(vip) for _ in range(5)))
            await announcer.claim(vip)
            assert await segment.look() == {NAME[family]}
            assert not status_of(announcer, vip).adopted
            await asyncio.gather(*(announcer.withdraw(vip, "test") for _ in range(3)))
            assert await segment.look() == set()
            await asyncio.gather(announcer.claim(vip), announcer.withdraw(vip, "overtaken"))
            assert await segment.look() == set()
            assert announcer.status() == ()

    uvloop.run(scenario())


@pytest.mark.parametrize("prefix", ["host", "subnet"])
def test_an_operators_own_address_is_used_and_reported_and_left_as_it_was(
    segment: Segment, family: int, prefix: str
) -> None:
    name = NAME[family] if prefix == "host" else SUBNET_OF_VIP[family]
    segment.here.ip(f"addr add {name} dev front0")
    before = segment.addresses()

    async def scenario() -> None:
        async with started() as announcer:
            await announcer.claim(VIP[family])
            status = status_of(announcer, VIP[family])
            assert (status.state, status.adopted) == (VipState.OWNED, True)
            await until(lambda: status_of(announcer, VIP[family]).announcements_total > 0, "announced")
            assert await asyncio.to_thread(segment.addresses) == before
            await announcer.withdraw(VIP[family], "test")
            assert await asyncio.to_thread(segment.addresses) == before
            await announcer.claim(VIP[family])
            assert await announcer.sweep(frozenset()) == ()
        assert await asyncio.to_thread(segment.addresses) == before

    uvloop.run(scenario())


def test_an_operator_who_adds_the_address_while_we_ask_is_not_overwritten(segment: Segment, family: int) -> None:
    async def scenario() -> None:
        with segment.capture() as capture:
            async with started() as announcer:
                claiming = asyncio.create_task(announcer.claim(VIP[family]))
                await capture.wait_for(probe(VIP[family], FRONT_MAC))
                segment.here.ip(f"addr add {NAME[family]} dev front0" + (" nodad" if family == 6 else ""))
                before = await asyncio.to_thread(segment.addresses)
                assert not claiming.done()
                await claiming
                assert status_of(announcer, VIP[family]).adopted
                assert await asyncio.to_thread(segment.addresses) == before
        assert await asyncio.to_thread(segment.addresses) == before

    uvloop.run(scenario())


def test_nothing_else_on_the_interface_is_ever_touched(segment: Segment) -> None:
    add_foreign_addresses()
    before = segment.addresses()

    async def scenario() -> None:
        async with started() as announcer:
            assert await announcer.sweep(frozenset(VIP.values())) == ()
            await asyncio.gather(*map(announcer.claim, VIP.values()))
            segment.here.ip(f"addr del {NAME[4]} dev front0")
            await until(lambda: NAME[4] in segment_names(), "put back", 2.0)
            await announcer.withdraw(VIP[4], "test")
            assert await announcer.sweep(frozenset()) == ()
        assert await asyncio.to_thread(segment.addresses) == before

    shown: set[str] = set()

    def segment_names() -> set[str]:
        out = subprocess.run(["ip", "-o", "addr", "show", "dev", "front0"], capture_output=True, text=True, check=True)
        shown.clear()
        shown.update(line.split()[3] for line in out.stdout.splitlines())
        return shown

    uvloop.run(scenario())


def test_sweep_removes_orphans_keeps_wanted_ones_and_moves_none_from_another_interface(segment: Segment) -> None:
    add_foreign_addresses()
    segment.here.ip("link add other0 type bridge", "link set other0 up")
    before = segment.names()

    async def scenario() -> None:
        for interface, vips in {"front0": ["10.0.0.1", "10.0.0.2", "2001:db8::2"], "other0": ["10.0.0.3"]}.items():
            killed = Layer2Announcer(interface, state_directory=Path("/nonexistent"))
            await killed.start()
            await asyncio.gather(*map(killed.claim, vips))
            await killed.close(remove_addresses=False)
        async with started() as announcer:
            removed = await announcer.sweep(frozenset({"10.0.0.1", "10.0.0.3"}))
            assert sorted(removed) == ["10.0.0.2", "10.0.0.3", "2001:db8::2"]
            assert await segment.look() == before | {"10.0.0.1/32"}
            assert await segment.look("other0") == set()
            with segment.capture() as capture:
                await announcer.claim("10.0.0.1")
                await capture.wait_for(announcements("10.0.0.1", FRONT_MAC)[0])
                assert not capture.of(probe("10.0.0.1", FRONT_MAC)), "what is ours already is not probed for"
            assert not status_of(announcer, "10.0.0.1").adopted
            assert await announcer.sweep(frozenset()) == (), "what this daemon holds is no orphan"
        assert await segment.look() == before

    uvloop.run(scenario())


CLAIM_AND_WAIT = """
import asyncio, sys, uvloop
from pathlib import Path
from lbd.announce.announcer import Layer2Announcer

async def main():
    announcer = Layer2Announcer("front0", state_directory=Path("/nonexistent"))
    await announcer.start()
    await asyncio.gather(*map(announcer.claim, sys.argv[1:]))
    sys.stdout.write("claimed\\n")
    sys.stdout.flush()
    await asyncio.sleep(60)

uvloop.run(main())
"""


def test_what_a_killed_process_left_is_swept_by_the_next_one(segment: Segment) -> None:
    process = subprocess.Popen([sys.executable, "-c", CLAIM_AND_WAIT, *VIP.values()], stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        assert any(line == "claimed\n" for line in process.stdout)
    finally:
        process.kill()
        process.communicate()
    assert segment.names() == set(NAME.values())

    async def scenario() -> None:
        async with started() as announcer:
            assert sorted(await announcer.sweep(frozenset())) == sorted(VIP.values())
            assert await segment.look() == set()

    uvloop.run(scenario())


def test_an_address_removed_behind_our_back_is_there_and_announced_within_two_seconds(
    segment: Segment, family: int
) -> None:
    async def scenario() -> None:
        async with started() as announcer:
            await announcer.claim(VIP[family])
            for _ in range(3):
                announced = status_of(announcer, VIP[family]).announcements_total
                began_s = time.monotonic()
                segment.here.ip(f"addr del {NAME[family]} dev front0")
                await asyncio.sleep(0)
                while NAME[family] not in await segment.look():
                    assert time.monotonic() - began_s < 2.0
                await until(
                    lambda announced=announced: status_of(announcer, VIP[family]).announcements_total > announced,
                    "announced",
                    began_s + 2.0 - time.monotonic(),
                )

    uvloop.run(scenario())


def test_an_operator_who_takes_over_the_address_by_hand_keeps_it(segment: Segment) -> None:
    async def scenario() -> None:
        async with started() as announcer:
            await announcer.claim(VIP[4])
            segment.here.ip(f"addr del {NAME[4]} dev front0", f"addr add {NAME[4]} dev front0")
            await until(lambda: status_of(announcer, VIP[4]).adopted, "adopted")
            await announcer.withdraw(VIP[4], "test")
            assert await segment.look() == {NAME[4]}

    uvloop.run(scenario())


def test_two_hundred_vips_are_claimed_within_three_seconds_and_withdrawn_as_fast(segment: Segment) -> None:
    vips = [f"172.16.{101 + n // 250}.{n % 250 + 1}" for n in range(150)] + [f"2001:db8::{n:x}" for n in range(1, 51)]

    async def scenario() -> None:
        with segment.capture() as capture:
            async with started() as announcer:
                began_s = time.monotonic()
                await asyncio.gather(*map(announcer.claim, vips))
                claimed_s = time.monotonic() - began_s
                assert claimed_s < 3.0
                assert len(await segment.look()) == 200
                await until(
                    lambda: all(status.announcements_total for status in announcer.status()), "all announced", 1.0
                )
                announced = {seen.frame[28:32] for seen in capture.seen if seen.frame[12:14] == b"\x08\x06"}
                assert len(announced - {bytes(4)}) == 150
                began_s = time.monotonic()
                await asyncio.gather(*(announcer.withdraw(vip, "test") for vip in vips))
                assert time.monotonic() - began_s < 3.0
                assert await segment.look() == set()

    uvloop.run(scenario())


def test_lost_events_are_made_up_for_by_a_new_dump(segment: Segment) -> None:
    segment.here.ip("link add noise0 type bridge", "link set noise0 up")
    noise = [f"addr {verb} 10.{n // 250}.{n % 250}.1/32 dev noise0" for verb in ("add", "del") for n in range(500)]

    async def scenario() -> None:
        async with started(event_buffer_bytes=1) as announcer:
            await announcer.claim(VIP[4])
            for _ in range(2):  # the second time proves that the new socket hears too
                overflows = announcer._watch.overflows_total
                # In the loop, which hears nothing meanwhile; ours is the last event and so among the lost ones.
                segment.here.ip(*noise, f"addr del {NAME[4]} dev front0")
                began_s = time.monotonic()
                while NAME[4] not in await segment.look():
                    assert time.monotonic() - began_s < 2.0
                assert announcer._watch.overflows_total > overflows

    uvloop.run(scenario())


def written_in(directory: Path) -> str:
    """Return what all files of a folder say; empty if there is none."""
    return "".join(path.read_text() for path in directory.iterdir())


def open_descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def restored_in(capsys: pytest.CaptureFixture[str]) -> int:
    """How often the log since the last call says that an address was put back."""
    return capsys.readouterr().out.count("vip_restored")


def test_without_a_descriptor_left_the_watch_says_so_and_the_address_still_comes_back(
    segment: Segment, capsys: pytest.CaptureFixture[str]
) -> None:
    segment.here.ip("link add noise0 type bridge", "link set noise0 up")
    noise = "".join(
        f"addr {verb} 10.{n // 250}.{n % 250}.1/32 dev noise0\n" for verb in ("add", "del") for n in range(500)
    )
    shell = subprocess.Popen(["sh"], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def run(batch: str) -> None:
        """Run `ip -batch` in a process that exists already: there is no descriptor for a new one."""
        assert shell.stdin is not None
        assert shell.stdout is not None
        shell.stdin.write(f"ip -batch - <<END\n{batch}END\necho done\n")
        shell.stdin.flush()
        assert shell.stdout.readline() == "done\n"

    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)

    async def scenario() -> None:
        async with started(event_buffer_bytes=1) as announcer:
            await announcer.claim(VIP[4])
            await until(lambda: status_of(announcer, VIP[4]).announcements_total > 0, "announced")
            try:
                resource.setrlimit(resource.RLIMIT_NOFILE, (3, hard))
                run(noise)
                await until(lambda: "not heard" in status_of(announcer, VIP[4]).reason, "the problem is shown")
                announced = status_of(announcer, VIP[4]).announcements_total
                run(f"addr del {NAME[4]} dev front0\n")
                await until(lambda: restored_in(capsys) > 0, "it is put back")
                await until(lambda: status_of(announcer, VIP[4]).announcements_total > announced, "announced")
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
                await until(lambda: status_of(announcer, VIP[4]).reason == "", "it is over")
                assert NAME[4] in await segment.look()
            finally:
                resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))

    try:
        uvloop.run(scenario())
    finally:
        shell.communicate()


def test_kernels_without_tags_are_served_with_a_journal(segment: Segment, tmp_path: Path) -> None:
    """Tag 0 is kept by no kernel: what comes back is what one before 5.18 shows."""
    segment.here.ip("addr add 172.16.101.9/24 dev front0")

    async def scenario() -> None:
        killed = Layer2Announcer("front0", state_directory=tmp_path, address_protocol=0)
        await killed.start()
        await asyncio.gather(*map(killed.claim, [*VIP.values(), "10.0.0.7"]))
        assert {entry["protocol"] for entry in await asyncio.to_thread(segment.addresses)} == {None}
        await until(lambda: "null" not in written_in(tmp_path), "creation stamps are in the journal")
        await killed.close(remove_addresses=False)
        assert VIP[4] in written_in(tmp_path)
        # By hand, while no daemon runs: the same address, but no longer ours.
        segment.here.ip("addr del 10.0.0.7/32 dev front0", "addr add 10.0.0.7/32 dev front0")
        async with started(state_directory=tmp_path, address_protocol=0) as announcer:
            assert await announcer.sweep(frozenset({VIP[4]})) == (VIP[6],)
            await asyncio.gather(announcer.claim(VIP[4]), announcer.claim("10.0.0.7"))
            assert [status_of(announcer, vip).adopted for vip in (VIP[4], "10.0.0.7")] == [False, True]
        assert await segment.look() == {"172.16.101.9/24", "10.0.0.7/32"}
        assert VIP[4] not in written_in(tmp_path)

    uvloop.run(scenario())


def test_a_journal_that_cannot_be_written_stops_no_claim(segment: Segment, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("not a directory")

    async def scenario() -> None:
        async with started(state_directory=tmp_path / "file", address_protocol=0) as announcer:
            await asyncio.gather(*map(announcer.claim, VIP.values()))
            assert await segment.look() == set(NAME.values())
            await announcer.withdraw(VIP[4], "test")
            assert await segment.look() == {NAME[6]}

    uvloop.run(scenario())


def test_where_tags_are_kept_no_journal_is_left(segment: Segment, tmp_path: Path) -> None:
    async def scenario() -> None:
        async with started(state_directory=tmp_path) as announcer:
            await asyncio.gather(*map(announcer.claim, VIP.values()))
            assert written_in(tmp_path) == ""

    uvloop.run(scenario())


def test_a_missing_interface_is_an_error_with_its_name_and_no_obstacle_to_start(segment: Segment) -> None:
    async def scenario() -> None:
        async with started("absent0") as announcer:
            with pytest.raises(ClaimError, match="no interface absent0"):
                await announcer.claim(VIP[4])
            status = status_of(announcer, VIP[4])
            assert (status.state, "absent0" in status.reason) == (VipState.FAILED, True)
            await announcer.withdraw(VIP[4], "test")
            assert announcer.status() == ()

    uvloop.run(scenario())


def test_no_vip_is_claimed_while_nobody_can_be_asked(segment: Segment, family: int) -> None:
    segment.peer.ip("link set peer0 down")

    async def scenario() -> None:
        async with started() as announcer:
            with pytest.raises(ClaimError, match="no carrier"):
                await announcer.claim(VIP[family])
            assert await segment.look() == set()

    uvloop.run(scenario())


def test_ipv6_switched_off_on_the_interface_says_what_to_switch_on(segment: Segment) -> None:
    Path("/proc/sys/net/ipv6/conf/front0/disable_ipv6").write_text("1")

    async def scenario() -> None:
        async with started() as announcer:
            with pytest.raises(ClaimError, match="disable_ipv6"):
                await announcer.claim(VIP[6])
            await announcer.claim(VIP[4])

    uvloop.run(scenario())


CLAIM_WITHOUT = """
import asyncio, ctypes, sys, uvloop
from pathlib import Path

libc = ctypes.CDLL(None, use_errno=True)

def drop(number):
    # capset of version 3, on this thread: the announcer's threads inherit it.
    header, data = (ctypes.c_uint32 * 2)(0x20080522, 0), (ctypes.c_uint32 * 6)()
    assert libc.capget(header, data) == 0
    for word in range(3):
        data[word] &= ~(1 << number) & 0xFFFFFFFF
    assert libc.capset(header, data) == 0

drop(int(sys.argv[1]))
from lbd.announce.announcer import ClaimError, Layer2Announcer

async def main():
    announcer = Layer2Announcer("front0", state_directory=Path("/nonexistent"))
    await announcer.start()
    try:
        await announcer.claim("172.16.101.150")
    except ClaimError as error:
        sys.stdout.write(error.reason)
    await announcer.close(remove_addresses=True)

uvloop.run(main())
"""


@pytest.mark.parametrize("capability", [12, 13], ids=["CAP_NET_ADMIN", "CAP_NET_RAW"])
def test_a_missing_capability_is_named(segment: Segment, capability: int, request: pytest.FixtureRequest) -> None:
    done = subprocess.run(
        [sys.executable, "-c", CLAIM_WITHOUT, str(capability)], capture_output=True, text=True, check=True, timeout=30
    )
    assert f"needs {'CAP_NET_ADMIN and CAP_NET_RAW'}" in done.stdout, done.stdout + done.stderr
    assert segment.names() == set()


@pytest.mark.parametrize("after_s", [0.0, 0.01, 0.05, 0.2, 0.22, 0.25])
def test_close_in_the_middle_of_claims_leaves_nothing_on_the_interface(segment: Segment, after_s: float) -> None:
    async def scenario() -> None:
        announcer = Layer2Announcer("front0", state_directory=Path("/nonexistent"))
        await announcer.start()
        claims = [asyncio.create_task(announcer.claim(f"172.16.101.{n}")) for n in range(1, 51)]
        await asyncio.sleep(after_s)
        await announcer.close(remove_addresses=True)
        outcomes = await asyncio.gather(*claims, return_exceptions=True)
        assert {type(outcome) for outcome in outcomes} <= {type(None), ClaimError}, outcomes
        assert await segment.look() == set()
        assert len(asyncio.all_tasks()) == 1

    uvloop.run(scenario())


def test_a_cancelled_claim_leaves_nothing_after_its_withdrawal(segment: Segment) -> None:
    async def scenario() -> None:
        async with started() as announcer:
            for after_s in (0.0, 0.02, 0.21, 0.215, 0.22):
                claiming = asyncio.create_task(announcer.claim(VIP[4]))
                await asyncio.sleep(after_s)
                claiming.cancel()
                await asyncio.wait({claiming})
                await announcer.withdraw(VIP[4], "test")
                assert await segment.look() == set()
                assert announcer.status() == ()

    uvloop.run(scenario())


def test_after_close_nothing_is_claimed_and_no_task_or_descriptor_is_left(segment: Segment) -> None:
    async def scenario() -> None:
        async def one_life() -> None:
            announcer = Layer2Announcer("front0", state_directory=Path("/nonexistent"))
            await announcer.start()
            await asyncio.gather(*map(announcer.claim, VIP.values()))
            await announcer.close(remove_addresses=True)
            await announcer.close(remove_addresses=True)
            with pytest.raises(ClaimError, match="not running"):
                await announcer.claim(VIP[4])

        await one_life()
        before = open_descriptors()
        for _ in range(3):
            await one_life()
        assert len(asyncio.all_tasks()) == 1
        assert open_descriptors() == before

    uvloop.run(scenario())
