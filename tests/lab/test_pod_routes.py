"""Routes to Pods in a real kernel: the lab's Pods play Nodes, each with a network of Pods behind it.

The lab's service engine has 10.10.52.1 and fd00:52::1 on `back`, where its Pods are .11, .12 and .13.
"""

from __future__ import annotations

import asyncio
import json
import subprocess
import time
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest
import uvloop

from lbd.announce import pod_routes
from lbd.announce.pod_route_plan import ROUTE_PROTOCOL
from lbd.announce.pod_routes import PodRoutes
from lbd.cli.demo.lab import Lab

POD_CIDRS = {
    4: ("10.244.1.0/24", "10.244.2.0/24", "10.244.3.0/24"),
    6: ("fd00:244:1::/64", "fd00:244:2::/64", "fd00:244:3::/64"),
}
Play = Callable[["Engine"], Awaitable[None]]


class Engine:
    """The service engine's namespace, as seen from a coroutine that runs in it."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab

    async def ip(self, *commands: str) -> None:
        await asyncio.to_thread(self.lab.se.ip, *commands)

    async def shown(self, family: int) -> list[dict[str, Any]]:
        """Every route of the main table, as `ip` shows it."""
        command = ["ip", "-netns", self.lab.se.name, "-N", "-json", f"-{family}", "route", "show", "table", "main"]
        done = await asyncio.to_thread(subprocess.run, command, capture_output=True, check=True)
        return list(json.loads(done.stdout))

    async def ours(self, family: int) -> dict[str, str]:
        return {
            entry["dst"]: entry["gateway"]
            for entry in await self.shown(family)
            if entry.get("protocol") == str(ROUTE_PROTOCOL)
        }

    async def others(self, family: int) -> list[dict[str, Any]]:
        return [entry for entry in await self.shown(family) if entry.get("protocol") != str(ROUTE_PROTOCOL)]

    def wanted(self, family: int, *numbers: int) -> dict[str, str]:
        """The routes to the Pods of these Nodes, all three without numbers."""
        return {POD_CIDRS[family][n]: self.lab.pods[n].address[family] for n in numbers or (0, 1, 2)}

    async def until_ours(self, family: int, expected: dict[str, str], timeout_s: float = 5.0) -> None:
        seen: dict[str, str] = {}

        async def as_expected() -> bool:
            nonlocal seen
            seen = await self.ours(family)
            return seen == expected

        await until(as_expected, lambda: f"{expected}; there is {seen}", timeout_s)


async def until(condition: Callable[[], Awaitable[bool]], what: Callable[[], str], timeout_s: float = 5.0) -> None:
    """Return when `condition` holds; it is looked at every 20 ms, for what has no event to wait for."""
    deadline_s = time.monotonic() + timeout_s
    while not await condition():
        if time.monotonic() > deadline_s:
            pytest.fail(f"not within {timeout_s} s: {what()}")
        await asyncio.sleep(0.02)


async def until_problem(routes: PodRoutes, is_right: Callable[[str], bool]) -> None:
    async def shown() -> bool:
        return is_right(routes.problem)

    await until(shown, lambda: f"the problem is {routes.problem!r}")


def play(lab: Lab, scene: Play) -> None:
    """Run a scene in the service engine's namespace, in the daemon's kind of loop."""
    lab.se.call(uvloop.run, scene(Engine(lab)))  # type: ignore[arg-type]


@asynccontextmanager
async def started(interface: str = "", *, remove: bool = True):  # type: ignore[no-untyped-def]
    routes = PodRoutes(interface)
    await routes.start()
    try:
        yield routes
    finally:
        await routes.close(remove=remove)


def other_end(address: str, number: int) -> str:
    return address.rpartition("/")[0][:-1] + str(number) if "." in address else address.rpartition("/")[0] + str(number)


def test_a_pod_behind_its_node_is_reached_only_by_the_route(lab: Lab, family: int) -> None:
    pod_address = other_end(POD_CIDRS[family][0], 5)
    lab.pods[0].ip(f"address add {pod_address}/{32 if family == 4 else 128} dev lo")
    listener = lab.pods[0].socket({4: 2, 6: 10}[family])
    listener.bind((pod_address, 8080))
    listener.listen()

    async def connect() -> None:
        _, writer = await asyncio.wait_for(asyncio.open_connection(pod_address, 8080), 2)
        writer.close()

    async def scene(se: Engine) -> None:
        with pytest.raises(OSError, match=r"nreachable|No route"):
            await connect()
        async with started() as routes:
            await routes.set_wanted(se.wanted(family))
            assert await se.ours(family) == se.wanted(family)
            await connect()
            assert (routes.problem, routes.present) == ("", 3)
        with pytest.raises(OSError, match=r"nreachable|No route"):
            await connect()

    with listener:
        play(lab, scene)


def test_routes_follow_the_nodes_and_those_of_others_are_untouched(lab: Lab, family: int) -> None:
    async def scene(se: Engine) -> None:
        foreign = {4: "10.250.0.0/16", 6: "fd00:250::/48"}[family]
        await se.ip(f"route add {foreign} via {se.lab.pods[2].address[family]} proto static")
        before = await se.others(family)
        async with started() as routes:
            await routes.set_wanted(se.wanted(family, 0, 1))
            assert await se.ours(family) == se.wanted(family, 0, 1)
            moved = se.wanted(family, 0) | {POD_CIDRS[family][1]: se.lab.pods[2].address[family]}
            await routes.set_wanted(moved)
            assert await se.ours(family) == moved
            await routes.set_wanted(se.wanted(family, 2))
            assert await se.ours(family) == se.wanted(family, 2)
            await routes.set_wanted({})
            assert await se.ours(family) == {}
            assert await se.others(family) == before
            await routes.set_wanted(se.wanted(family))
        assert await se.ours(family) == {}
        assert await se.others(family) == before

    play(lab, scene)


def test_both_families_are_kept_at_once(lab: Lab) -> None:
    async def scene(se: Engine) -> None:
        async with started("back") as routes:
            await routes.set_wanted(se.wanted(4) | se.wanted(6))
            assert (await se.ours(4), await se.ours(6)) == (se.wanted(4), se.wanted(6))
            assert {entry["dev"] for entry in await se.shown(4) if entry["protocol"] == "109"} == {"back"}
            await routes.set_wanted(se.wanted(6))
            assert (await se.ours(4), await se.ours(6)) == ({}, se.wanted(6))

    play(lab, scene)


def test_what_a_killed_daemon_left_stays_until_the_first_wish(
    lab: Lab, family: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pod_routes, "RESYNC_INTERVAL_S", 0.05)

    async def scene(se: Engine) -> None:
        killed = PodRoutes()
        await killed.start()
        await killed.set_wanted(se.wanted(family))
        await killed.close(remove=False)
        monitor = await asyncio.create_subprocess_exec("ip", "monitor", "route", stdout=subprocess.PIPE)
        assert monitor.stdout is not None
        async with started() as routes:
            assert not routes.known
            await asyncio.sleep(0.5)  # the keeper has woken several times
            assert await se.ours(family) == se.wanted(family)
            await routes.set_wanted(se.wanted(family, 0))
            assert await se.ours(family) == se.wanted(family, 0)
            monitor.terminate()
            heard = (await monitor.stdout.read()).decode()
            await monitor.wait()
            assert POD_CIDRS[family][0] not in heard  # what is wanted was there without a gap
            assert POD_CIDRS[family][1] in heard

    play(lab, scene)


def test_what_a_killed_daemon_left_goes_with_an_orderly_end_though_no_source_has_spoken(lab: Lab) -> None:
    async def scene(se: Engine) -> None:
        killed = PodRoutes()
        await killed.set_wanted(se.wanted(4))
        await killed.close(remove=False)
        async with started():
            assert await se.ours(4) == se.wanted(4)
        assert await se.ours(4) == {}

    play(lab, scene)


def test_a_route_that_somebody_removes_or_changes_is_put_back(
    lab: Lab, family: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pod_routes, "RESYNC_INTERVAL_S", 0.2)

    async def scene(se: Engine) -> None:
        async with started() as routes:
            await routes.set_wanted(se.wanted(family))
            await se.ip(f"route del {POD_CIDRS[family][0]}")
            await se.until_ours(family, se.wanted(family))
            await se.ip(f"route change {POD_CIDRS[family][1]} via {se.lab.pods[2].address[family]} proto 109")
            await se.until_ours(family, se.wanted(family))

    play(lab, scene)


def test_routes_come_back_with_their_link(lab: Lab, family: int) -> None:
    """Well before the next regular look: the link's event is heard."""

    async def scene(se: Engine) -> None:
        async with started("back") as routes:
            await routes.set_wanted(se.wanted(family))
            await se.ip("link set back down")
            await se.until_ours(family, {})
            await until_problem(routes, lambda text: "down" in text or "no network" in text)
            await se.ip("link set back up")
            await se.ip(f"address replace {se.lab.se_back_address[6]}/64 dev back nodad")
            await se.until_ours(family, se.wanted(family))
            await until_problem(routes, lambda text: not text)

    play(lab, scene)


@pytest.mark.parametrize("metric", [None, 5, 4000])
def test_a_route_of_somebody_else_to_the_same_pods_stays_and_is_said(lab: Lab, family: int, metric: int | None) -> None:
    """Of any metric: beside one of another metric the kernel would take ours, and one would hide the other."""

    async def scene(se: Engine) -> None:
        theirs = se.lab.pods[2].address[family]
        await se.ip(
            f"route add {POD_CIDRS[family][0]} via {theirs} proto bird" + (f" metric {metric}" if metric else "")
        )
        before = await se.others(family)
        async with started() as routes:
            await routes.set_wanted(se.wanted(family))
            assert await se.ours(family) == se.wanted(family, 1, 2)
            assert await se.others(family) == before
            assert (
                f"no route to {POD_CIDRS[family][0]} by lbd: somebody else's route (via {theirs}, protocol 12)"
                in routes.problem
            )
            assert (routes.status().wanted, routes.present) == (3, 2)
            await routes.set_wanted(se.wanted(family, 1))
            assert routes.problem == ""
            await routes.set_wanted(se.wanted(family))
            await se.ip(f"route del {POD_CIDRS[family][0]} proto bird")
            await se.until_ours(family, se.wanted(family))
        assert await se.ours(family) == {}

    play(lab, scene)


def test_a_blackhole_of_somebody_else_stays(lab: Lab, family: int) -> None:
    async def scene(se: Engine) -> None:
        await se.ip(f"route add blackhole {POD_CIDRS[family][0]} proto static")
        before = await se.others(family)
        async with started() as routes:
            await routes.set_wanted(se.wanted(family))
            assert await se.ours(family) == se.wanted(family, 1, 2)
            assert POD_CIDRS[family][0] in routes.problem
        assert await se.others(family) == before

    play(lab, scene)


def test_a_narrower_and_a_wider_route_of_somebody_else_are_no_hindrance(lab: Lab) -> None:
    async def scene(se: Engine) -> None:
        await se.ip(
            f"route add 10.244.1.0/26 via {se.lab.pods[2].address[4]} proto bird",
            f"route add 10.244.0.0/16 via {se.lab.pods[2].address[4]} proto bird",
            f"route add default via {se.lab.pods[2].address[4]}",
        )
        before = await se.others(4)
        async with started() as routes:
            await routes.set_wanted(se.wanted(4))
            assert (await se.ours(4), routes.problem) == (se.wanted(4), "")
        assert await se.others(4) == before

    play(lab, scene)


def test_a_node_that_cannot_be_a_next_hop_is_said_and_the_others_served(lab: Lab, family: int) -> None:
    async def scene(se: Engine) -> None:
        nowhere, network = {4: ("198.51.100.7", "198.51.100.1/24"), 6: ("fd00:bad::7", "fd00:bad::1/64")}[family]
        wanted = se.wanted(family) | {POD_CIDRS[family][0]: nowhere}
        async with started() as routes:
            await routes.set_wanted(wanted)
            assert await se.ours(family) == se.wanted(family, 1, 2)
            assert routes.problem == (
                f"no route to {POD_CIDRS[family][0]}: the Node's address {nowhere} is in no network of this machine, "
                "so it can't be the next hop"
            )
            await se.ip(f"address add {network} dev back" + (" nodad" if family == 6 else ""))
            await se.until_ours(family, wanted)

    play(lab, scene)


def test_with_an_interface_no_route_leads_through_another_one(lab: Lab, family: int) -> None:
    async def scene(se: Engine) -> None:
        async with started("front") as routes:
            await routes.set_wanted(se.wanted(family, 0))
            assert await se.ours(family) == {}
            assert "is in no network of front" in routes.problem
        async with started("eth7") as routes:
            await routes.set_wanted(se.wanted(family, 0))
            assert routes.problem == f"no route to {POD_CIDRS[family][0]}: there is no interface eth7"
            await se.ip("link set back down", "link set back name eth7", "link set eth7 up")
            await se.ip(f"address replace {se.lab.se_back_address[6]}/64 dev eth7 nodad")
            await se.until_ours(family, se.wanted(family, 0))

    play(lab, scene)


def test_no_route_hides_a_network_or_an_address_of_this_machine(lab: Lab) -> None:
    async def scene(se: Engine) -> None:
        before = await se.shown(4)
        bad = {"172.16.101.0/25": se.lab.pods[0].address[4], "10.10.52.1/32": se.lab.pods[1].address[4]}
        async with started() as routes:
            await routes.set_wanted(bad)
            assert await se.shown(4) == before
            assert "172.16.101.0/25: it has 172.16.101.1, an address of this machine" in routes.problem
            await routes.set_wanted(se.wanted(4))
            await se.ip("address add 10.244.2.1/24 dev front")  # and what becomes a network here later
            await se.until_ours(4, se.wanted(4, 0, 2))
            assert "10.244.2.0/24" in routes.problem

    play(lab, scene)


def test_of_wishes_at_the_same_time_the_last_one_holds(lab: Lab) -> None:
    async def scene(se: Engine) -> None:
        async with started() as routes:
            wishes = [se.wanted(4, n % 3) for n in range(20)] + [se.wanted(4, 0, 2)]
            await asyncio.gather(*(routes.set_wanted(wish) for wish in wishes))
            assert await se.ours(4) == se.wanted(4, 0, 2)

    play(lab, scene)


def test_the_same_wish_again_asks_the_kernel_nothing(lab: Lab, monkeypatch: pytest.MonkeyPatch) -> None:
    async def scene(se: Engine) -> None:
        async with started() as routes:
            await routes.set_wanted(se.wanted(4))
            monkeypatch.setattr(routes._table, "settle", None)
            await routes.set_wanted(dict(reversed(se.wanted(4).items())))
            monkeypatch.undo()

    play(lab, scene)


def test_a_thousand_nodes_have_their_routes_in_a_moment(lab: Lab) -> None:
    async def scene(se: Engine) -> None:
        hops = [se.lab.pods[n % 3].address[4] for n in range(1000)]
        wanted = {f"100.{64 + n // 250}.{n % 250}.0/24": hop for n, hop in enumerate(hops)}
        async with started("back") as routes:
            begun_s = asyncio.get_running_loop().time()
            await routes.set_wanted(wanted)
            assert asyncio.get_running_loop().time() - begun_s < 5.0
            assert (await se.ours(4), routes.present) == (wanted, 1000)

    play(lab, scene)
