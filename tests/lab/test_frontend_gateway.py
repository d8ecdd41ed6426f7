"""A service engine whose default route is on the backend arm, and a client behind a router beyond the frontend.

         192.0.2.0/24, fd00:9::/64            172.16.101.0/24, fd00:101::/64
far ───────────────────────────── client ─────────────────────────────── se ── default route: to pod1, a dead end
  .2                           .1 (a router here) .2                  .1
"""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Iterator
from typing import Any

import pytest

from kit_lifecycle import addresses, config, hold_working, members, peek, service
from lab_clients import OK, connect, fetch, fetch_many
from lab_daemon import Daemon, DaemonFactory
from lab_servers import PodServer, echo, http
from lab_wait import eventually
from lbd.cli.demo.lab import FRONT_PREFIX, Lab
from lbd.cli.demo.namespace import Namespace

TAG = 108
TABLE = 10800
FAR = {4: "192.0.2.", 6: "fd00:9::"}


@pytest.fixture
def far(lab: Lab) -> Iterator[Namespace]:
    """A client that reaches the frontend through a router, which is the lab's own client."""
    name = lab.client.name.replace("client", "far")
    subprocess.run(["ip", "netns", "add", name], check=True)
    namespace = Namespace(name)
    try:
        namespace.set_sysctl("net/ipv6/conf/all/accept_dad", 0)
        namespace.set_sysctl("net/ipv6/conf/default/accept_dad", 0)
        lab.client.set_sysctl("net/ipv4/ip_forward", 1)
        lab.client.set_sysctl("net/ipv6/conf/all/forwarding", 1)
        lab.client.ip(
            f"link add far type veth peer name eth0 netns {name}",
            "link set far up",
            *(f"address add {prefix}1/{length(family)} dev far" for family, prefix in FAR.items()),
        )
        namespace.ip(
            "link set eth0 up",
            *(f"address add {prefix}2/{length(family)} dev eth0" for family, prefix in FAR.items()),
            *(f"route add default via {prefix}1" for family, prefix in FAR.items()),
        )
        lab.se.ip(*(f"route add default via {lab.pods[0].address[family]}" for family in (4, 6)))
        yield namespace
    finally:
        namespace.close()
        subprocess.run(["ip", "netns", "del", name], check=True)


def ip(lab: Lab, family: int, command: str) -> None:
    """Run one command of `ip` for a family in the SE: `ip rule` can't tell it from the addresses."""
    lab.se.run(["ip", f"-{family}", *command.split()])


def length(family: int) -> int:
    return 24 if family == 4 else 64


def gateways(lab: Lab, families: tuple[int, ...] = (4, 6)) -> list[str]:
    return [lab.client_address[family] for family in families]


def web(lab: Lab, family: int, number: int = 150) -> dict[str, Any]:
    """A service on the first Pod, named after its VIP's last number."""
    return service(f"web{family}-{number}", f"{FRONT_PREFIX[family]}{number}", members(lab.pods[:1], family))


def look(lab: Lab, *words: str) -> list[dict[str, Any]]:
    """Return what `ip WORDS` shows in the SE, of both families; `ip` fails where there is no such table."""
    done = [lab.se.run(["ip", "-details", "-json", f"-{family}", *words], check=False) for family in (4, 6)]
    return [entry for one in done if one.returncode == 0 for entry in json.loads(one.stdout)]


def ours(lab: Lab) -> tuple[list[str], list[tuple[str, str | None]]]:
    """Return the sources of our rules, and destination and gateway of our routes; all carry the tag."""
    rules = [rule for rule in look(lab, "rule", "show") if str(rule.get("table")) == str(TABLE)]
    routes = look(lab, "route", "show", "table", str(TABLE))
    assert {str(entry["protocol"]) for entry in [*rules, *routes]} <= {str(TAG)}
    assert {route["dev"] for route in routes} <= {"front"}
    return sorted(rule["src"] for rule in rules), sorted((route["dst"], route.get("gateway")) for route in routes)


def expected_routes(lab: Lab, family: int) -> list[tuple[str, str | None]]:
    network = f"{FRONT_PREFIX[family]}{'0' if family == 4 else ''}/{length(family)}"
    return sorted([(network, None), ("default", lab.client_address[family])])


def no_answer(far: Namespace, vip: str) -> bool:
    """Tell whether a connect finds nobody, not even somebody who refuses."""
    with pytest.raises(OSError, match=r".*") as caught:
        connect(far, vip, timeout_s=0.7).close()
    return not isinstance(caught.value, ConnectionRefusedError)


def everything(lab: Lab) -> list[list[dict[str, Any]]]:
    return [look(lab, "rule", "show"), look(lab, "route", "show", "table", "all")]


def test_a_client_beyond_the_router_is_answered_only_with_the_key(
    lab: Lab, daemon: DaemonFactory, far: Namespace, family: int
) -> None:
    vip = lab.vip[family]
    for command in (
        f"rule add from {vip} lookup {TABLE} priority 20000 protocol 4",
        f"rule add from {lab.se_front_address[family]} lookup 77 priority {TABLE}",
        f"route add default via {lab.pods[1].address[family]} table 77",
    ):
        ip(lab, family, command)
    before = everything(lab)
    with PodServer(lab.pods[0], http):
        lbd = daemon(config(web(lab, family)))
        assert fetch(lab.client, vip) == lab.pods[0].name
        assert no_answer(far, vip)
        with_key = config(web(lab, family), frontend_gateway=gateways(lab, (family,))[0])
        refused = lbd.reload(with_key)
        assert refused.returncode == 78
        assert "service_engine.frontend_gateway: changing none to " in refused.stderr
        assert "restart" in refused.stderr
        lbd.terminate()
        assert lbd.wait() == 0
        assert everything(lab) == before

        lbd.start()
        assert fetch_many(far, vip, count=6).kinds == {OK: 6}
        assert fetch(lab.client, vip) == lab.pods[0].name
        assert peek(lbd).vip(vip)["reason"] == ""
        rules = [rule for rule in look(lab, "rule", "show") if str(rule.get("protocol")) == str(TAG)]
        assert [(rule["src"], str(rule["table"]), rule["priority"]) for rule in rules] == [(vip, str(TABLE), TABLE)]
        routes = look(lab, "route", "show", "table", str(TABLE))
        assert sorted((route["dst"], route.get("gateway")) for route in routes) == expected_routes(lab, family)
        assert {(str(route["protocol"]), route["dev"]) for route in routes} == {(str(TAG), "front")}
        lbd.terminate()
        assert lbd.wait() == 0
        assert everything(lab) == before


def test_the_rule_comes_before_the_address_and_goes_after_it(lab: Lab, daemon: DaemonFactory, far: Namespace) -> None:
    """As the kernel tells it: `ip monitor` hears rules and addresses on one socket, in order."""
    monitor = lab.se.popen(["ip", "monitor", "address", "rule"], stdout=subprocess.PIPE)
    stays, goes = web(lab, 4, 150), web(lab, 4, 151)
    with PodServer(lab.pods[0], http):
        lbd = daemon(config(stays, goes, web(lab, 6), frontend_gateway=gateways(lab)))
        assert ours(lab)[0] == sorted([stays["vip"], goes["vip"], lab.vip[6]])
        assert lbd.reload(config(stays, web(lab, 6), frontend_gateway=gateways(lab))).returncode == 0
        eventually(lambda: ours(lab)[0] == sorted([stays["vip"], lab.vip[6]]))
        assert fetch(far, stays["vip"]) == lab.pods[0].name
        lbd.terminate()
        assert lbd.wait() == 0
    monitor.send_signal(signal.SIGTERM)
    heard = monitor.communicate()[0].decode().splitlines()
    for vip in (stays["vip"], goes["vip"], lab.vip[6]):
        lines = [line for line in heard if f" {vip} " in line or f" {vip}/" in line]
        kinds = [("-" if "Deleted" in line else "+") + ("rule" if "lookup" in line else "address") for line in lines]
        steps = [kind for place, kind in enumerate(kinds) if kind not in kinds[:place]]
        assert steps == ["+rule", "+address", "-address", "-rule"], lines


def test_what_a_killed_daemon_left_is_swept_and_what_is_wanted_stays_in_use(
    lab: Lab, daemon: DaemonFactory, far: Namespace, family: int
) -> None:
    stays, goes = web(lab, family, 150), web(lab, family, 151)
    with PodServer(lab.pods[0], echo):
        lbd = daemon(config(stays, goes, frontend_gateway=gateways(lab)))
        (held,) = hold_working(far, stays["vip"], 1)
        lbd.kill()
        assert ours(lab) == (sorted([stays["vip"], goes["vip"]]), expected_routes(lab, family))
        assert held.works()  # the workers drain, and their answers find the way
        lbd.write_config(config(stays, frontend_gateway=gateways(lab)))
        lbd.start()
        assert ours(lab) == ([stays["vip"]], expected_routes(lab, family))
        (again,) = hold_working(far, stays["vip"], 1)
        held.close()
        again.close()
        lbd.kill()
        lbd.write_config(config(stays))  # and without the key nothing is left
        lbd.start()
        assert ours(lab) == ([], [])
        assert stays["vip"] in addresses(lab)


def test_what_somebody_or_a_link_takes_away_comes_back(
    lab: Lab, daemon: DaemonFactory, far: Namespace, family: int
) -> None:
    vip = lab.vip[family]
    with PodServer(lab.pods[0], http):
        daemon(config(web(lab, family), frontend_gateway=gateways(lab)))
        assert fetch(far, vip) == lab.pods[0].name
        ip(lab, family, f"rule del from {vip} table {TABLE}")
        ip(lab, family, f"route flush table {TABLE}")
        eventually(lambda: ours(lab) == ([vip], expected_routes(lab, family)), 14.0, "rule and routes are back")
        lab.se.ip("link set front down", "link set front up")
        lab.se.ip(f"address replace {lab.se_front_address[6]}/64 dev front nodad")
        eventually(lambda: ours(lab) == ([vip], expected_routes(lab, family)), 8.0, "the routes are back")
        eventually(lambda: answered(far, vip), 8.0, "answered again")


def answered(far: Namespace, vip: str) -> bool:
    try:
        return bool(fetch(far, vip))
    except OSError:
        return False


def test_a_gateway_that_is_in_no_network_of_the_interface_is_said_and_the_other_family_served(
    lab: Lab, daemon: DaemonFactory, far: Namespace
) -> None:
    wrong = "198.51.100.1"
    with PodServer(lab.pods[0], http):
        lbd: Daemon = daemon(config(web(lab, 4), web(lab, 6), frontend_gateway=[wrong, lab.client_address[6]]))
        status = peek(lbd)
        assert status.vip(lab.vip[4])["state"] == "failed"
        assert f"frontend_gateway {wrong}" in status.vip(lab.vip[4])["reason"]
        assert lab.vip[4] not in addresses(lab)
        assert fetch(far, lab.vip[6]) == lab.pods[0].name
        eventually(lambda: ours(lab)[0] == [lab.vip[6]])
