"""Claims about sharing one run between many callers."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable

import pytest
import uvloop

from lbd.observability.coalesce import Coalescer


class Counted:
    """Runs that take until they are let go, and count how many overlap."""

    def __init__(self) -> None:
        self.begun = 0
        self.at_once = 0
        self.most_at_once = 0
        self.gate = asyncio.Semaphore(0)

    async def run(self) -> int:
        self.begun += 1
        number = self.begun
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            await self.gate.acquire()
        finally:
            self.at_once -= 1
        return number


async def settle() -> None:
    for _ in range(5):
        await asyncio.sleep(0)


def uses_loop(test: Callable[[], Awaitable[None]]) -> Callable[[], None]:
    def run() -> None:
        uvloop.run(asyncio.wait_for(test(), 10))

    run.__name__ = test.__name__
    return run


@uses_loop
async def test_fifty_callers_share_two_runs_that_never_overlap() -> None:
    counted = Counted()
    shared = Coalescer(counted.run, "test")
    first = asyncio.create_task(shared.get())
    await settle()
    later = [asyncio.create_task(shared.get()) for _ in range(49)]
    await settle()
    assert counted.begun == 1
    counted.gate.release()
    counted.gate.release()
    assert await first == 1
    assert set(await asyncio.gather(*later)) == {2}, "each later caller gets a run that began after its call"
    assert counted.most_at_once == 1


@uses_loop
async def test_a_caller_that_gives_up_stops_no_run() -> None:
    counted = Counted()
    shared = Coalescer(counted.run, "test")
    impatient, patient = asyncio.create_task(shared.get()), asyncio.create_task(shared.get())
    await settle()
    impatient.cancel()
    await settle()
    counted.gate.release()
    assert await patient == 1


@uses_loop
async def test_an_error_reaches_its_callers_and_the_next_run_is_not_touched() -> None:
    failures = [ValueError("no"), None]

    async def run() -> str:
        if (failure := failures.pop(0)) is not None:
            raise failure
        return "fine"

    shared = Coalescer(run, "test")
    results = await asyncio.gather(shared.get(), shared.get(), return_exceptions=True)
    assert [str(result) for result in results] == ["no", "no"]
    assert await shared.get() == "fine"


@uses_loop
async def test_close_ends_what_runs_and_what_waits() -> None:
    counted = Counted()
    shared = Coalescer(counted.run, "test")
    callers = [asyncio.create_task(shared.get())]
    await settle()
    callers.append(asyncio.create_task(shared.get()))
    await settle()
    await shared.close()
    for caller in callers:
        with pytest.raises(asyncio.CancelledError):
            await caller
    assert counted.at_once == 0
    assert {task.get_name() for task in asyncio.all_tasks()}.isdisjoint({"test"})
