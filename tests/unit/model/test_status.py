"""The status snapshot goes out as JSON."""

from __future__ import annotations

import dataclasses
import json

from lbd.model.status import ConnectError, Health, MemberHealth, MonitorStatus, Traffic, VipState, VipStatus


def test_status_values_are_json_with_their_words():
    vip = VipStatus("10.0.0.1", "eth0", VipState.FOREIGN_OWNER, "in use", owner_mac="02:00:00:00:00:01")
    health = MemberHealth(Health.DOWN, "refused", monitors=(MonitorStatus("system-tcp", Health.DOWN, latency_s=0.1),))
    traffic = Traffic(1, 2, 3, 4, connect_errors_total={ConnectError.TIMED_OUT: 5})
    read = json.loads(json.dumps([dataclasses.asdict(value) for value in (vip, health, traffic)]))
    assert read[0]["state"] == "foreign_owner"
    assert (read[1]["health"], read[1]["monitors"][0]["health"]) == ("down", "down")
    assert read[2]["connect_errors_total"] == {"timed_out": 5}


def test_member_that_was_never_checked_is_unknown_and_not_down():
    assert (MemberHealth().health, MemberHealth().reason) == (Health.UNKNOWN, "not checked yet")


def test_traffic_records_do_not_share_their_errors():
    first, second = Traffic(), Traffic()
    first.connect_errors_total[ConnectError.REFUSED] = 1
    assert second.connect_errors_total == {}
