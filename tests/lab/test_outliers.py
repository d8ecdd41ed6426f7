"""Passive ejection: members that fail for clients are left out for a while, whatever the monitors say."""

from __future__ import annotations

import time

from kit_lifecycle import members, peek, service
from kit_relay import steady_config
from lab_clients import OK, fetch_many
from lab_daemon import DaemonFactory
from lab_servers import PodServer, http
from lab_wait import eventually
from lbd.cli.demo.lab import Lab


def test_a_member_that_fails_clients_is_ejected_for_longer_each_time_and_never_more_than_the_share_allowed(
    lab: Lab, daemon: DaemonFactory
) -> None:
    """Two of three Pods refuse while their monitor says up. Retries keep the clients from noticing either of them."""
    detection = {"consecutive_failures": 3, "base_ejection_time": "1s", "max_ejected": "34%"}
    vip = lab.vip[4]
    with PodServer(lab.pods[2], http):
        pool = members(lab.pods, 4)
        lbd = daemon(steady_config(service("web", vip, pool, outlier_detection=detection)), workers=1)
        assert fetch_many(lab.client, vip, count=30, concurrency=2).kinds == {OK: 30}
        first = lbd.log.wait_for("member_ejected", service="web")
        assert (first["failures"], first["for_s"]) == (3, 1.0)
        began_s = time.monotonic()
        refused = lbd.log.wait_for("member_ejection_refused", service="web")
        assert refused["member"] != first["member"]
        assert refused["reason"] == "1 of 3 members are ejected, and max_ejected 34% allows 1"

        address = first["member"].rpartition(":")[0]
        out = peek(lbd).member("web", address)
        assert (out["health"], out["eligible"]) == ("up", False)
        assert out["reason"].startswith("ejected by outlier_detection")
        errors = out["traffic"]["connect_errors_total"]
        if time.monotonic() - began_s < 0.7:  # on a slow machine the ejection may have ended meanwhile
            fetch_many(lab.client, vip, count=10, concurrency=1)
            assert peek(lbd).member("web", address)["traffic"]["connect_errors_total"] == errors

        lbd.log.wait_for("member_ejection_ended", service="web", member=first["member"])
        for _ in range(8):  # until one of the two has been out twice
            assert fetch_many(lab.client, vip, count=12, concurrency=1).kinds == {OK: 12}
            if lbd.log.matching("member_ejected", for_s=2.0):
                break
            ended = len(lbd.log.matching("member_ejection_ended"))
            ejected = len(lbd.log.matching("member_ejected"))
            eventually(lambda: len(lbd.log.matching("member_ejection_ended")) > ended or ejected == ended)  # noqa: B023
        again = lbd.log.wait_for("member_ejected", for_s=2.0)
        assert again["ejections"] == 2
