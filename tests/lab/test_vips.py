"""VIPs of the installed daemon: on the wire, on the interface, in `lbd status` and in the metrics."""

from __future__ import annotations

import errno
import itertools
import json
import signal
import socket
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from pyroute2 import IPRoute

from kit_lifecycle import Held, Sampler, addresses, config, hold_working, is_refused, members, peek, service
from lab_clients import OK, TIMED_OUT, UNREACHABLE, Load, fetch, fetch_many, socket_family
from lab_daemon import Daemon, DaemonFactory, StatusView
from lab_servers import PodServer, echo, http
from lab_wait import eventually
from lab_wire import Arp, Capture, Neighbor
from lbd.cli.admin_client import AdminError
from lbd.cli.demo.lab import FRONT_PREFIX, PREFIX_LENGTH, Lab

TAG = 108
"""IFA_PROTO of lbd's addresses: part of what an operator may rely on, so written here as a number."""
BURST = 6
"""Announcements within the first five seconds: one at once, then one each second."""
HOST_LENGTH = {4: 32, 6: 128}
BROADCAST = "ff:ff:ff:ff:ff:ff"
ALL_NODES = "ff02::1"
IP_FREEBIND = 15

Seen = tuple[type[Arp] | type[Neighbor], Callable[[Any], bool]]


def forms(vip: str, mac: str, since_s: float = 0.0) -> list[Seen]:
    """Return each kind of packet that an announcement of `vip` consists of, as what Capture looks for."""
    if ":" in vip:
        return [
            (
                Neighbor,
                lambda na: (
                    na.at_s >= since_s
                    and (na.type, na.target_ip, na.option_mac, na.source_mac) == (136, vip, mac, mac)
                    and (na.destination_ip, na.destination_mac) == (ALL_NODES, "33:33:00:00:00:01")
                    and (na.override, na.solicited, na.hop_limit) == (True, False, 255)
                ),
            )
        ]

    def gratuitous(operation: int) -> Callable[[Arp], bool]:
        return lambda arp: (
            arp.at_s >= since_s
            and arp.gratuitous
            and (arp.operation, arp.sender_ip, arp.sender_mac, arp.source_mac) == (operation, vip, mac, mac)
            and arp.destination_mac == BROADCAST
        )

    return [(Arp, gratuitous(1)), (Arp, gratuitous(2))]


def announced(
    wire: Capture, lab: Lab, vip: str, count: int = 1, since_s: float = 0.0, timeout_s: float = 5.0
) -> list[list[float]]:
    """Wait till each form was seen `count` times since then; return when, for each form."""
    return [
        [packet.at_s for packet in wire.wait_for(kind, matches, timeout_s, count)]
        for kind, matches in forms(vip, lab.front_mac, since_s)
    ]


def announced_anew(wire: Capture, lab: Lab, vip: str, since_s: float) -> None:
    """Wait for two of each form: once could be the minute's routine."""
    announced(wire, lab, vip, 2, since_s, 4.0)


def asked_for(wire: Capture, lab: Lab, vip: str) -> list[float]:
    """Return when the SE asked whether somebody has `vip`, without claiming it: at least twice, before announcing."""
    if ":" in vip:
        found = wire.seen(
            Neighbor,
            lambda ask: (ask.type, ask.target_ip, ask.source_ip, ask.source_mac) == (135, vip, "::", lab.front_mac),
        )
        times = [ask.at_s for ask in found]
    else:
        times = [arp.at_s for arp in wire.seen(Arp, lambda arp: arp.probe and arp.target_ip == vip)]
    assert len(times) >= 2
    return times


def tag_and_times(lab: Lab, vip: str) -> list[tuple[int, int | None, int, int]]:
    """Return prefix length, protocol, valid and preferred lifetime of each entry for `vip`, as the kernel has them."""

    def ask() -> list[tuple[int, int | None, int, int]]:
        with IPRoute() as route:
            return [
                (
                    entry["prefixlen"],
                    entry.get_attr("IFA_PROTO"),
                    entry.get_attr("IFA_CACHEINFO")["ifa_valid"],
                    entry.get_attr("IFA_CACHEINFO")["ifa_preferred"],
                )
                for entry in route.get_addr()
                if vip == (entry.get_attr("IFA_LOCAL") or entry.get_attr("IFA_ADDRESS"))
            ]

    return lab.se.call(ask)


def has(lab: Lab, vip: str) -> bool:
    """Tell whether the SE has an address: a socket can be bound to it. A hundred times cheaper than asking `ip`."""
    with lab.se.socket(socket_family(vip), socket.SOCK_DGRAM) as probe:
        try:
            probe.bind((vip, 0))
        except OSError as error:
            if error.errno == errno.EADDRNOTAVAIL:
                return False
            raise
    return True


def vip_number(family: int, number: int) -> str:
    """Return a further address for a VIP on the frontend network."""
    return f"{FRONT_PREFIX[family]}{number}"


def web(lab: Lab, vip: str, name: str = "web", port: int = 80) -> dict[str, Any]:
    """Return an HTTP or echo service on the first Pod, whatever its server is."""
    return service(name, vip, members(lab.pods[:1], 6 if ":" in vip else 4), port)


def wait_serving(lbd: Daemon) -> StatusView:
    """Wait until everything serves, as `Daemon.wait_serving`, but without a new process for each look."""
    eventually(lambda: peek(lbd).serving, 10.0, "serving")
    return peek(lbd)


@pytest.fixture
def wire(lab: Lab) -> Iterator[Capture]:
    """What the client's interface sends and receives."""
    with Capture(lab.client, "eth0") as capture:
        yield capture


# -- announcements -----------------------------------------------------------------------------------------------------


def test_a_vip_is_asked_for_then_announced_at_once_and_each_second_and_counted(
    lab: Lab, daemon: DaemonFactory, wire: Capture, family: int
) -> None:
    vip = lab.vip[family]
    with PodServer(lab.pods[0], http), Sampler(lambda: has(lab, vip), 0.01) as seen:
        lbd = daemon(config(web(lab, vip)))
        for times in announced(wire, lab, vip, BURST, timeout_s=9.0):
            there_s = next(at_s for at_s, present in seen.samples if present)
            assert times[0] - there_s < 0.5
            assert times[0] - asked_for(wire, lab, vip)[0] >= 0.15, "a neighbour had no time to answer"
            gaps = [after - before for before, after in itertools.pairwise(times)]
            assert all(0.3 < gap < 1.9 for gap in gaps), gaps
        assert fetch(lab.client, vip) == lab.pods[0].name
        sent = peek(lbd).vip(vip)["announcements_total"]
        assert sent == lbd.metrics().value("lbd_vip_announcements_total", vip=vip, interface="front") == BURST
        assert [len(wire.seen(*form)) for form in forms(vip, lab.front_mac)] == [sent] * (2 if family == 4 else 1)


def test_the_address_is_a_host_address_with_the_tag_and_never_a_source(
    lab: Lab, daemon: DaemonFactory, family: int
) -> None:
    vip = lab.vip[family]
    forever = 0xFFFF_FFFF
    with PodServer(lab.pods[0], http) as server:
        lbd = daemon(config(web(lab, vip)))
        wait_serving(lbd)
        assert tag_and_times(lab, vip) == [(HOST_LENGTH[family], TAG, forever, forever if family == 4 else 0)]
        assert lab.vip[family] not in server.sources  # neither the probes' nor the relay's
        fetch_many(lab.client, vip, count=5)
        assert set(server.sources) == {lab.se_back_address[family]}
        status = peek(lbd).vip(vip)
        assert (status["state"], status["interface"], status["adopted"]) == ("owned", "front", False)
        assert lbd.metrics().value("lbd_vip_owned", vip=vip) == 1
        lbd.terminate()
        assert lbd.wait() == 0
        assert tag_and_times(lab, vip) == []


def test_an_address_removed_behind_the_daemon_s_back_returns_and_connections_survive(
    lab: Lab, daemon: DaemonFactory, wire: Capture, family: int
) -> None:
    vip = lab.vip[family]
    with PodServer(lab.pods[0], echo):
        lbd = daemon(config(web(lab, vip)))
        held = hold_working(lab.client, vip, 4)
        announced(wire, lab, vip, BURST, timeout_s=9.0)  # the next one is a minute off
        entry = tag_and_times(lab, vip)

        lab.se.ip(f"address del {vip}/{HOST_LENGTH[family]} dev front")
        gone_s = time.monotonic()
        eventually(lambda: has(lab, vip), 2.0, "the address is back")
        assert time.monotonic() - gone_s < 2.0
        assert tag_and_times(lab, vip) == entry
        announced_anew(wire, lab, vip, gone_s)
        assert all(one.works() for one in held)
        assert lbd.log.matching("vip_restored", vip=vip, interface="front")

        # An interface that is set down loses its IPv6 addresses; the operator's own is not ours to put back.
        lab.se.ip("link set front down", "link set front up")
        up_s = time.monotonic()
        lab.se.ip(f"address replace {lab.se_front_address[6]}/64 dev front nodad")
        announced(wire, lab, vip, 1, up_s)
        eventually(lambda: has(lab, vip), 3.0, "the address is there")
        assert all(one.works() for one in held)
        Held(lab.client, vip).close()


def test_a_vip_is_announced_again_when_the_link_comes_back(
    lab: Lab, daemon: DaemonFactory, wire: Capture, family: int
) -> None:
    vip = lab.vip[family]
    with PodServer(lab.pods[0], http):
        lbd = daemon(config(web(lab, vip)))
        announced(wire, lab, vip, BURST, timeout_s=9.0)
        lab.unplug_client()
        eventually(lambda: "front is down or has no carrier" in peek(lbd).vip(vip)["reason"])
        assert peek(lbd).vip(vip)["state"] == "owned"
        assert vip in lbd.cli("status", "--socket", str(lbd.directory / "admin.sock")).stdout
        back_s = time.monotonic()
        lab.plug_client()
        announced_anew(wire, lab, vip, back_s)
        eventually(lambda: peek(lbd).vip(vip)["reason"] == "")
        assert fetch(lab.client, vip) == lab.pods[0].name


# -- others on the segment and on the machine --------------------------------------------------------------------------


def test_a_foreign_owner_is_named_and_its_vip_taken_only_after_it_has_left(
    lab: Lab, daemon: DaemonFactory, wire: Capture, family: int
) -> None:
    taken, free = lab.vip[family], vip_number(family, 151)
    lab.client.ip(f"address add {taken}/{HOST_LENGTH[family]} dev eth0" + (" nodad" if family == 6 else ""))
    with PodServer(lab.pods[0], http):
        lbd = daemon(config(web(lab, taken, "taken"), web(lab, free, "free")))
        status = eventually(
            lambda: next(iter([s for s in [peek(lbd)] if s.vip(taken)["state"] == "foreign_owner"]), None)
        )
        assert status.vip(taken)["owner_mac"] == lab.client_mac
        assert lab.client_mac in status.vip(taken)["reason"]
        assert any(lab.client_mac in problem for problem in status["problems"])
        assert lab.client_mac in lbd.cli("status", "--socket", str(lbd.directory / "admin.sock")).stdout
        assert lbd.log.wait_for("vip_claim_failed", vip=taken, owner_mac=lab.client_mac)
        assert not has(lab, taken)
        assert lbd.metrics().value("lbd_vip_owned", vip=taken) == 0

        eventually(lambda: peek(lbd).vip(free)["state"] == "owned")
        assert fetch_many(lab.client, free, count=6).kinds == {OK: 6}
        assert lbd.metrics().value("lbd_vip_owned", vip=free) == 1
        assert not any(wire.seen(*form) for form in forms(taken, lab.front_mac))

        left_s = time.monotonic()
        lab.client.ip(f"address del {taken}/{HOST_LENGTH[family]} dev eth0")
        eventually(lambda: peek(lbd).vip(taken)["state"] == "owned", 6.0)
        announced(wire, lab, taken, since_s=left_s)
        assert peek(lbd).vip(taken)["owner_mac"] is None
        assert peek(lbd)["problems"] == []
        assert fetch_many(lab.client, taken, count=6).kinds == {OK: 6}


def test_an_operator_s_own_addresses_are_used_announced_and_never_removed(
    lab: Lab, daemon: DaemonFactory, wire: Capture, family: int
) -> None:
    """One as operators write them, with the subnet's length, and one that looks just like lbd's but for the tag."""
    vips = {lab.vip[family]: PREFIX_LENGTH[family], vip_number(family, 151): HOST_LENGTH[family]}
    for vip, length in vips.items():
        lab.se.ip(f"address add {vip}/{length} dev front" + (" nodad" if family == 6 else ""))
    services = [web(lab, vip, f"s{number}") for number, vip in enumerate(vips)]
    added = vip_number(family, 152)

    def theirs() -> dict[str, Any]:
        return {address: entry for address, entry in addresses(lab).items() if address != added}

    before = theirs(), [tag_and_times(lab, vip) for vip in vips]
    with PodServer(lab.pods[0], http), Sampler(theirs) as life:
        lbd = daemon(config(*services))
        wait_serving(lbd)
        for vip in vips:
            announced(wire, lab, vip)
            assert peek(lbd).vip(vip)["adopted"] is True
            assert fetch(lab.client, vip) == lab.pods[0].name
        assert lbd.metrics().total("lbd_vip_adopted") == 2
        assert lbd.reload(config(web(lab, added))).returncode == 0
        eventually(lambda: [shown["address"] for shown in peek(lbd)["vips"]] == [added])
        lbd.write_config(config(*services))
        lbd.signal(signal.SIGHUP)
        eventually(lambda: peek(lbd).serving and not has(lab, added))
        lbd.terminate()
        assert lbd.wait() == 0
    assert (theirs(), [tag_and_times(lab, vip) for vip in vips]) == before
    assert len(life.samples) > 5
    assert all(seen == before[0] for _, seen in life.samples)


FOREIGN = {
    "front": ["172.16.101.9/24", "10.1.2.3/32", "172.16.101.77/32", "fd00:101::9/64", "fd00:1::9/128"],
    "back": ["172.16.101.78/32", "fd00:101::78/128"],
}
"""Addresses of the operator's: beside the VIPs, in their subnet, as host addresses, and on another interface."""


def everything(lab: Lab) -> dict[str, Any]:
    """Return all addresses, rules and routes of the SE."""
    shown = {
        " ".join(words): json.loads(lab.se.run(["ip", "-json", *words]).stdout)
        for words in (
            ["-4", "rule", "show"],
            ["-6", "rule", "show"],
            ["-4", "route", "show", "table", "all"],
            ["-6", "route", "show", "table", "all"],
        )
    }
    return {**shown, **{name: addresses(lab, name) for name in ("lo", "front", "back")}}


def test_nothing_else_on_the_machine_is_touched_in_the_whole_life_of_the_daemon(
    lab: Lab, daemon: DaemonFactory
) -> None:
    lab.se.ip(
        *(
            f"address add {name} dev {interface}" + (" nodad" if ":" in name else "")
            for interface, names in FOREIGN.items()
            for name in names
        ),
        "rule add from 172.16.101.9/32 lookup 77 priority 500",
        "route add 192.0.2.0/24 via 10.10.52.11 dev back table 77",
    )
    extra = [vip_number(4, 151), vip_number(6, 151)]
    vips = {*lab.vip.values(), *extra}

    def others() -> dict[str, Any]:
        return {address: entry for address, entry in addresses(lab).items() if address not in vips}

    before, others_before = everything(lab), others()
    services = [web(lab, vip, f"s{number}") for number, vip in enumerate([*lab.vip.values(), *extra])]
    with PodServer(lab.pods[0], http), Sampler(others) as life:
        lbd = daemon(config(*services))
        wait_serving(lbd)
        assert vips <= set(addresses(lab))
        assert lbd.reload(config(*services[:2])).returncode == 0
        eventually(lambda: not any(has(lab, vip) for vip in extra))
        assert addresses(lab, "back") == before["back"]
        lbd.kill()
        assert set(lab.vip.values()) <= set(addresses(lab))
        lbd.write_config(config(services[0]))
        lbd.start()
        wait_serving(lbd)
        assert lab.vip[6] not in addresses(lab)
        lbd.terminate()
        assert lbd.wait() == 0
    assert everything(lab) == before
    assert len(life.samples) > 20
    assert all(seen == others_before for _, seen in life.samples)


# -- order -------------------------------------------------------------------------------------------------------------


def test_the_address_comes_only_after_the_service_accepts(lab: Lab, daemon: DaemonFactory, family: int) -> None:
    """A Pod that answers nothing delays the first health results by a second: nobody is refused meanwhile."""
    vip = lab.vip[family]
    slow = {"slow": {"type": "tcp", "interval": "1s", "timeout": "1s", "fall": 1}}
    pool = members(lab.pods[:2], family)
    both = {**config(service("web", vip, pool, health_monitors=["slow"])), "health_monitors": slow}
    lab.black_hole(lab.pods[1])
    lbd = daemon(both, start=False)
    with (
        PodServer(lab.pods[0], http),
        Sampler(lambda: (has(lab, vip), state_of(lbd, "web"))) as order,
        Load(lab.client, vip, rate_per_s=50, timeout_s=3.0) as clients,
    ):
        eventually(lambda: len(clients.result.outcomes) > 5)
        lbd.start()
        wait_serving(lbd)
        served = clients.result.kinds[OK]
        eventually(lambda: clients.result.kinds[OK] > served + 20)
        result = clients.stop()
    assert set(result.kinds) == {OK, *({TIMED_OUT, UNREACHABLE} & set(result.kinds))}, result.failures[-3:]
    there_s = next(at_s for at_s, (present, _) in order.samples if present)
    assert sum(outcome.started_s < there_s - 0.5 for outcome in result.outcomes) >= 25
    assert result.started_since(there_s).failures == []
    states = [value for _, value in order.samples]
    assert (False, "starting") in states, "the wait for the first health results was not seen"
    assert {state for present, state in states if present} == {"serving"}


def test_on_sigterm_the_address_stays_until_the_last_connection_has_ended(
    lab: Lab, daemon: DaemonFactory, family: int
) -> None:
    vip = lab.vip[family]
    with PodServer(lab.pods[0], echo):
        lbd = daemon(config(web(lab, vip), drain_timeout="20s"))
        (held,) = hold_working(lab.client, vip, 1)
        lbd.terminate()
        lbd.wait_notification("STOPPING")
        eventually(lambda: is_refused(lab.client, vip), 2.0, "new connections are refused")
        assert peek(lbd).service("web")["state"] == "draining"
        for _ in range(10):
            assert held.works()
            assert has(lab, vip)
            time.sleep(0.05)
        assert peek(lbd).vip(vip)["state"] == "owned"
        held.close()
        eventually(lambda: not has(lab, vip), 2.0, "the address is gone")
        assert lbd.wait() == 0
        assert lbd.log.matching("vip_withdrawn", vip=vip, removed=True)


def test_a_reload_announces_a_new_vip_and_withdraws_an_old_one_after_its_drain(
    lab: Lab, daemon: DaemonFactory, wire: Capture, family: int
) -> None:
    stays, goes, comes = (vip_number(family, number) for number in (150, 151, 152))
    with PodServer(lab.pods[0], echo):
        lbd = daemon(config(web(lab, stays, "stays"), web(lab, goes, "goes"), drain_timeout="20s"))
        (staying,), (going,) = hold_working(lab.client, stays, 1), hold_working(lab.client, goes, 1)
        reloaded_s = time.monotonic()
        assert (
            lbd.reload(config(web(lab, stays, "stays"), web(lab, comes, "comes"), drain_timeout="20s")).returncode == 0
        )
        announced(wire, lab, comes, 1, reloaded_s, 2.0)
        (new,) = hold_working(lab.client, comes, 1)
        assert tag_and_times(lab, comes)[0][:2] == (HOST_LENGTH[family], TAG)

        eventually(lambda: is_refused(lab.client, goes), 2.0, "the old one accepts no more")
        assert going.works()
        assert has(lab, goes)
        going.close()
        eventually(lambda: not has(lab, goes), 2.0, "the old address is gone")
        eventually(lambda: {vip["address"] for vip in peek(lbd)["vips"]} == {stays, comes})
        gone_s = time.monotonic()
        announced(wire, lab, comes, 1, gone_s)
        assert not any(wire.seen(*form) for form in forms(goes, lab.front_mac, gone_s))
        assert staying.works()
        assert new.works()


def test_a_vip_of_two_services_goes_only_with_the_last_one(
    lab: Lab, daemon: DaemonFactory, wire: Capture, family: int
) -> None:
    vip, other = lab.vip[family], vip_number(family, 151)
    first, second = web(lab, vip, "first", 80), web(lab, vip, "second", 81)
    keeper = web(lab, other, "keeper")
    with PodServer(lab.pods[0], http):
        lbd = daemon(config(first, second, keeper))
        status = wait_serving(lbd)
        assert [shown["address"] for shown in status["vips"]] == [vip, other]
        assert [fetch(lab.client, vip, port) for port in (80, 81)] == [lab.pods[0].name] * 2
        assert len(tag_and_times(lab, vip)) == 1
        with Sampler(lambda: has(lab, vip), 0.01) as seen, Load(lab.client, vip, 81, rate_per_s=50) as load:
            assert lbd.reload(config(second, keeper)).returncode == 0
            eventually(lambda: "first" not in {shown["name"] for shown in peek(lbd)["virtual_services"]})
            assert is_refused(lab.client, vip, 80)
            eventually(lambda: len(load.result.outcomes) > 20)
        assert load.result.failures == []
        assert all(present for _, present in seen.samples)
        assert lbd.reload(config(keeper)).returncode == 0
        eventually(lambda: not has(lab, vip))
        assert fetch(lab.client, other) == lab.pods[0].name


def test_one_service_over_both_families(lab: Lab, daemon: DaemonFactory, wire: Capture) -> None:
    with PodServer(lab.pods[0], http):
        lbd = daemon(config(*(web(lab, vip, f"web{family}") for family, vip in lab.vip.items())))
        wait_serving(lbd)
        for vip in lab.vip.values():
            announced(wire, lab, vip)
            assert fetch_many(lab.client, vip, count=6).answers == {lab.pods[0].name: 6}
        lbd.terminate()
        assert lbd.wait() == 0
    assert not set(lab.vip.values()) & set(addresses(lab))


# -- a port that another process has -----------------------------------------------------------------------------------


def test_a_service_whose_port_another_process_has_fails_alone_and_recovers(
    lab: Lab, daemon: DaemonFactory, family: int
) -> None:
    vip = lab.vip[family]
    squatter = lab.se.socket(socket_family(vip))
    squatter.setsockopt(0, IP_FREEBIND, 1)  # IPPROTO_IP; for IPv6 sockets too
    squatter.bind((vip, 81))
    squatter.listen()
    with PodServer(lab.pods[0], http), squatter:
        lbd = daemon(
            config(
                web(lab, vip, "web", 80),
                web(lab, vip, "late", 81),
                web(lab, vip_number(family, 151)) | {"name": "third"},
            )
        )
        eventually(lambda: serves(lbd, "web") and serves(lbd, "third"))
        late = peek(lbd).service("late")
        assert late["state"] == "failed"
        assert "in use" in late["reason"]
        assert any("late" in problem and "in use" in problem for problem in peek(lbd)["problems"])
        assert fetch(lab.client, vip, 80) == fetch(lab.client, vip_number(family, 151)) == lab.pods[0].name
        squatter.close()
        eventually(lambda: serves(lbd, "late"), 8.0, "it recovers by itself")
        assert fetch(lab.client, vip, 81) == lab.pods[0].name
        assert peek(lbd)["problems"] == []


def state_of(lbd: Daemon, name: str) -> str:
    """Return a service's state, or `no answer` while the daemon is not there."""
    try:
        return str(peek(lbd).service(name)["state"])
    except AdminError:
        return "no answer"


def serves(lbd: Daemon, name: str) -> bool:
    """Tell whether a service serves and its VIP is owned."""
    status = peek(lbd)
    shown = status.service(name)
    return (shown["state"], status.vip(shown["vip"])["state"]) == ("serving", "owned")
