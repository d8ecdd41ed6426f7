"""Which lines are written of what workers tell, and for how long."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any

import pytest
from structlog.testing import capture_logs

from lbd.dataplane.channel import Message
from lbd.dataplane.client_logs import VERSION, ClientLogs
from lbd.dataplane.hot.client_log import CLOSED, MOST_ENTRIES, SIGNIFICANT_PER_S, UNSERVED, ClientLog, Journal
from lbd.model.desired import ClientLogs as Wish
from lbd.model.desired import Pool, VirtualService
from lbd.supervisor.client_logs import LINES_PER_S, ClientLogDesk

WEB = VirtualService("default/web:80", "172.16.0.1", 80, Pool(()), client_logs=Wish(10, 60.0))


@dataclass
class Ear:
    """A worker that only listens."""

    heard: list[Message] = field(default_factory=list)

    def send(self, message: Message) -> None:
        self.heard.append(message)


class Story:
    """A desk, two workers and a clock."""

    def __init__(self) -> None:
        self.now_s = 1000.0
        self.desk = ClientLogDesk(lambda: self.now_s)
        self.workers = [Ear(), Ear()]

    def tell(self, count: int, *, significant: bool = False, name: str = WEB.name) -> None:
        entry = [name, "tcp", ["172.16.0.1", 80], ["2001:db8::1", 4711], None, 1500, 1, 2, 250, "closed", significant]
        self.desk.take({"type": "client_logs", "version": VERSION, "entries": [entry] * count, "left_out": []})

    def settings(self) -> list[Any]:
        return [message["settings"] for message in self.workers[0].heard]


@pytest.fixture
def story() -> Story:
    return Story()


@pytest.fixture
def lines() -> Iterator[list[Any]]:
    with capture_logs() as records:
        yield records


def events(lines: list[Any], event: str) -> list[Any]:
    return [line for line in lines if line["event"] == event]


def test_what_was_measured_is_written_in_the_units_of_its_name(story: Story, lines: list[Any]) -> None:
    story.desk.follow(1, WEB, story.workers)
    story.tell(1)
    line = events(lines, "connection_ended")[0]
    assert (line["client"], line["vip"], line["member"]) == ("[2001:db8::1]:4711", "172.16.0.1:80", None)
    assert (line["duration_s"], line["connect_s"]) == (1.5, 0.00025)
    assert (line["received_bytes"], line["sent_bytes"], line["ending"]) == (1, 2, "closed")


def test_all_workers_together_keep_to_the_throttle_and_the_rest_is_counted(story: Story, lines: list[Any]) -> None:
    story.desk.follow(1, WEB, story.workers)
    for _ in range(3):
        story.tell(8)
    assert len(events(lines, "connection_ended")) == 10
    story.tell(SIGNIFICANT_PER_S + 5, significant=True)
    assert len(events(lines, "connection_ended")) == 10 + SIGNIFICANT_PER_S
    story.now_s += 1.0
    story.desk.look(story.workers)
    said = events(lines, "connection_logs_throttled")
    assert [(line["service"], line["count"], line["significant"]) for line in said] == [(WEB.name, 19, 5)]
    story.desk.look(story.workers)
    assert len(events(lines, "connection_logs_throttled")) == 1
    story.tell(8)
    assert len(events(lines, "connection_ended")) == 18 + SIGNIFICANT_PER_S


def test_no_throttle_is_all_that_the_supervisor_can_write(story: Story, lines: list[Any]) -> None:
    story.desk.follow(1, replace(WEB, client_logs=Wish(0)), story.workers)
    story.tell(LINES_PER_S + 100)
    assert len(events(lines, "connection_ended")) == LINES_PER_S


def test_the_time_is_over_once_and_nothing_is_written_then(story: Story, lines: list[Any]) -> None:
    story.desk.follow(1, WEB, story.workers)
    story.now_s += 59.0
    story.desk.follow(1, replace(WEB, port=81), story.workers)
    story.desk.look(story.workers)
    story.tell(1)
    story.now_s += 1.0
    for _ in range(2):
        story.desk.look(story.workers)
    story.desk.follow(1, WEB, story.workers)
    story.tell(1)
    assert len(events(lines, "connection_ended")) == 1
    assert len(events(lines, "client_logs_ended")) == 1
    assert story.settings() == [{"throttle_per_s": 10, "slow_connect_us": 0}, None]
    story.desk.follow(1, replace(WEB, client_logs=Wish(10, 61.0)), story.workers)
    story.tell(1)
    assert len(events(lines, "connection_ended")) == 2


def test_a_duration_of_nothing_is_for_ever(story: Story, lines: list[Any]) -> None:
    story.desk.follow(1, replace(WEB, client_logs=Wish(10, 0.0)), story.workers)
    story.now_s += 1e9
    story.desk.look(story.workers)
    story.tell(1)
    assert len(events(lines, "connection_ended")) == 1


def test_a_service_that_was_removed_and_comes_again_has_its_time_anew(story: Story, lines: list[Any]) -> None:
    story.desk.follow(1, WEB, story.workers)
    story.now_s += 50.0
    story.desk.forget(1)
    story.tell(1)
    story.desk.follow(2, WEB, story.workers)
    story.now_s += 50.0
    story.desk.look(story.workers)
    story.tell(1)
    assert len(events(lines, "connection_ended")) == 1


def test_a_new_worker_is_told_what_the_others_know(story: Story) -> None:
    story.desk.follow(1, WEB, story.workers)
    late = Ear()
    story.desk.join(1, late)
    story.desk.join(2, late)
    assert late.heard == story.workers[0].heard
    story.desk.follow(1, replace(WEB, client_logs=None), [*story.workers, late])
    assert late.heard[-1]["settings"] is None


# What workers do.


def note(log: ClientLog, now_ms: int, *, ending: int = CLOSED, connect_us: int = -1) -> None:
    log.note(("10.9.9.9", 1), None, now_ms, 0, 0, connect_us, ending, ending == CLOSED, now_ms)


def log_of(journal: Journal, throttle_per_s: int = 3) -> ClientLog:
    log = ClientLog(journal, "web", "tcp", ("172.16.0.1", 80))
    log.throttle_per_s = throttle_per_s
    return log


def test_a_worker_tells_no_more_than_can_be_written_and_counts_the_rest() -> None:
    journal = Journal()
    log = log_of(journal)
    for _ in range(10):
        note(log, 5000)
    note(log, 5999)
    assert (len(journal.entries), log.left_out, journal.short) == (3, 8, [log])
    note(log, 6000)
    assert len(journal.entries) == 4
    for _ in range(SIGNIFICANT_PER_S + 7):
        note(log, 6000, ending=UNSERVED)
    assert (len(journal.entries), log.left_out_significant) == (4 + SIGNIFICANT_PER_S, 7)


def test_a_slow_member_makes_a_connection_significant() -> None:
    journal = Journal()
    log = log_of(journal)
    log.slow_connect_us = 1000
    note(log, 0, connect_us=1000)
    note(log, 0, connect_us=1001)
    log.slow_connect_us = 0
    note(log, 0, connect_us=10**9)
    assert [entry[-1] for entry in journal.entries] == [False, True, False]


def test_a_journal_is_bounded_whatever_the_throttle_says() -> None:
    journal = Journal()
    log = log_of(journal, 0)
    for _ in range(MOST_ENTRIES + 5):
        note(log, 0)
    assert (len(journal.entries), log.left_out) == (MOST_ENTRIES, 5)


@dataclass
class Outlet:
    """The channel, of which the test says how far it is behind."""

    queued: int = 0
    sent: list[Message] = field(default_factory=list)

    def send(self, message: Message) -> None:
        self.sent.append(message)


def test_entries_wait_while_the_channel_is_behind_and_then_go_in_order() -> None:
    outlet = Outlet(queued=100)
    logs = ClientLogs(outlet)
    log = log_of(logs.journal, 0)
    for number in range(150):
        note(log, number)
    logs.flush()
    assert outlet.sent == []
    outlet.queued = 0
    for _ in range(3):
        logs.flush()
    assert [len(message["entries"]) for message in outlet.sent] == [100, 50]
    assert outlet.sent[0]["entries"][0][9] == "closed"
    assert not logs.journal.has_news
