"""The demo's books: what it may call a failure, and what it must."""

from __future__ import annotations

from lbd.cli.demo.ledger import Ledger, Request, judge

STRUCK_S, DEAD_S = 99.95, 100.0


def ledger(*requests: Request) -> Ledger:
    books = Ledger()
    for request in requests:
        books.add(request)
    return books


def test_a_request_cut_off_by_the_kill_is_excused_and_counted() -> None:
    verdict = judge(ledger(Request(99.9, 100.1, error="reset")), STRUCK_S, DEAD_S)
    assert verdict.passed
    assert len(verdict.cut_off) == 1


def test_a_failure_that_started_after_the_kill_fails_the_demo() -> None:
    late = Request(100.0, 100.2, error="refused")
    verdict = judge(ledger(Request(99.0, 99.1, "pod1"), late), STRUCK_S, DEAD_S)
    assert not verdict.passed
    assert verdict.unexcused == (late,)


def test_a_failure_while_the_pod_was_dying_is_excused() -> None:
    """It may have died long before this process heard of it."""
    assert judge(ledger(Request(99.96, 99.98, error="reset")), STRUCK_S, DEAD_S).passed


def test_a_failure_that_ended_before_the_kill_fails_the_demo() -> None:
    assert not judge(ledger(Request(98.0, 99.0, error="timed out")), STRUCK_S, DEAD_S).passed


def test_two_equal_failures_are_judged_one_by_one() -> None:
    same = Request(99.9, 100.1, error="reset")
    assert len(judge(ledger(same, same), STRUCK_S, DEAD_S).cut_off) == 2


def test_answers_are_counted_by_pod_from_a_moment_on() -> None:
    books = ledger(Request(1, 2, "pod1"), Request(3, 4, "pod1"), Request(3, 4, "pod2"), Request(3, 4, error="x"))
    assert books.by_pod() == {"pod1": 2, "pod2": 1}
    assert books.by_pod(2.5) == {"pod1": 1, "pod2": 1}
    assert (books.total, books.count(2.5), len(books.failures(2.5))) == (4, 3, 1)


def test_lately_means_the_last_second() -> None:
    books = ledger(Request(0, 1, "pod1"), Request(8.9, 9.1, "pod1"), Request(9.5, 9.9, "pod2"))
    assert books.lately(10.0) == {"pod1": 1, "pod2": 1}


def test_the_worst_latency_is_of_answered_requests_that_started_in_the_interval() -> None:
    books = ledger(Request(1.0, 1.5, "pod1"), Request(2.0, 2.25, "pod1"), Request(2.0, 9.0, error="timed out"))
    assert books.worst_latency_s() == 0.5
    assert books.worst_latency_s(since_s=2.0) == 0.25
    assert books.worst_latency_s(until_s=2.0) == 0.5
    assert Ledger().worst_latency_s() == 0.0


def test_the_first_answer_of_a_pod_is_looked_for_after_a_moment() -> None:
    books = ledger(Request(1, 2, "pod2"), Request(5, 6, "pod1"), Request(5, 7, "pod2"))
    assert books.first_answer_s("pod2", 3.0) == 7
    assert books.first_answer_s("pod2", 8.0) is None
