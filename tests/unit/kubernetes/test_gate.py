"""Requests wait for their turn in the order in which they came, and nobody waits for ever."""

from __future__ import annotations

import asyncio
import random
import selectors
from collections.abc import Coroutine
from typing import Any

import pytest

from lbd.kubernetes.api.api_error import ApiError
from lbd.kubernetes.api.gate import Gate
from lbd.kubernetes.api.reachability import Reachability

REFUSED = ApiError(0, "Unreachable", "refused")


class Selector(selectors.SelectSelector):
    """Lets time pass instead of waiting."""

    now_s = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        assert timeout is not None, "everybody waits, and for nothing"
        self.now_s += max(0.0, timeout)
        return super().select(0)


class Loop(asyncio.SelectorEventLoop):
    """An event loop whose time passes as fast as it can."""

    def __init__(self) -> None:
        self._passing = Selector()
        super().__init__(self._passing)

    def time(self) -> float:
        return self._passing.now_s


def run(scene: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=Loop) as runner:
        runner.run(scene)


def now_s() -> float:
    return asyncio.get_running_loop().time()


class Server:
    """Answers after a second, or refuses."""

    def __init__(self) -> None:
        self.gate = Gate(Reachability(random.Random(1)), now_s)
        self.error: ApiError | None = None
        self.asked: list[tuple[str, float]] = []

    async def ask(self, who: str = "", *, timeout_s: float | None = None, takes_s: float = 0.0) -> None:
        async with self.gate.turn(timeout_s):
            self.asked.append((who, now_s()))
            await asyncio.sleep(takes_s)
            if self.error is not None:
                raise self.error


async def fails(server: Server, **how: Any) -> None:
    with pytest.raises(ApiError):
        await server.ask(**how)


def test_at_most_one_request_a_second_reaches_a_server_that_is_away_however_many_ask():
    async def scene() -> None:
        server = Server()
        server.error = REFUSED

        async def stubborn() -> None:
            while now_s() < 100.0:
                await fails(server)

        await asyncio.gather(*(stubborn() for _asker in range(6)))
        times = [at_s for _who, at_s in server.asked]
        first_together = [at_s for at_s in times if at_s == 0.0]
        assert len(first_together) <= 6
        later = sorted(at_s for at_s in times if at_s > 0.0)
        assert min(after - before for before, after in zip([0.0, *later], later, strict=False)) >= 1.0
        assert 8 <= len(later) <= 18

    run(scene())


def test_when_it_is_back_everybody_goes_at_once_in_the_order_of_asking():
    async def scene() -> None:
        server = Server()
        server.error = REFUSED
        await fails(server)
        server.error = None
        await asyncio.gather(*(server.ask(str(number), takes_s=0.5) for number in range(5)))
        _failed, (first, first_s), *others = server.asked
        assert first == "0"
        assert [who for who, _at_s in others] == ["1", "2", "3", "4"]
        assert {at_s for _who, at_s in others} == {first_s + 0.5}

    run(scene())


def test_whoever_has_no_time_to_wait_is_told_why_and_is_not_counted_as_a_request():
    async def scene() -> None:
        server = Server()
        server.error = REFUSED
        await fails(server)
        with pytest.raises(ApiError, match="not asked, the API server is away: Unreachable: refused"):
            await server.ask(timeout_s=0.5)
        assert now_s() == pytest.approx(0.5)
        assert len(server.asked) == server.gate.passed_total == 1

    run(scene())


def test_who_gives_up_while_waiting_or_asking_does_not_hold_the_others_up():
    async def scene() -> None:
        server = Server()
        server.error = REFUSED
        await fails(server)
        server.error = None
        probing, waiting = (asyncio.create_task(server.ask(who, takes_s=60.0)) for who in ("probing", "waiting"))
        await asyncio.sleep(2.0)
        assert [who for who, _at_s in server.asked] == ["", "probing"]
        waiting.cancel()
        probing.cancel()
        async with asyncio.timeout(1.0):
            await server.ask("next")

    run(scene())


def test_an_answer_that_says_no_is_an_answer():
    async def scene() -> None:
        server = Server()
        server.error = ApiError(409, "Conflict", "try again")
        for _request in range(3):
            await fails(server)
        assert now_s() == 0.0

    run(scene())


@pytest.mark.parametrize("status", [0, 429, 500, 502, 503, 504])
def test_no_answer_and_too_many_requests_and_every_5xx_close_the_gate(status):
    async def scene() -> None:
        server = Server()
        server.error = ApiError(status, "r", "m")
        await fails(server)
        server.error = None
        await server.ask()
        assert now_s() >= 1.0

    run(scene())


def test_a_watch_that_breaks_closes_the_gate():
    async def scene() -> None:
        server = Server()
        with pytest.raises(ApiError):
            async with server.gate.answer():
                raise REFUSED
        await server.ask()
        assert now_s() >= 1.0

    run(scene())
