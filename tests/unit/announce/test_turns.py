"""An endless task that fails says so and goes on."""

from __future__ import annotations

import asyncio

import uvloop

from lbd.announce.turns import Turns


def test_a_turn_that_raises_is_shown_and_tried_again_until_it_succeeds() -> None:
    async def scenario() -> None:
        failed, recovered, wait_for_ever = asyncio.Event(), asyncio.Event(), asyncio.Event()
        calls = 0

        async def turn() -> None:
            nonlocal calls
            calls += 1
            if calls == 1:
                failed.set()
                raise RuntimeError("the cable is on fire")
            if calls == 2:
                return
            recovered.set()
            await wait_for_ever.wait()

        turns = Turns("keeper", turn)
        turns.start()
        await failed.wait()
        await asyncio.sleep(0)
        assert "the cable is on fire" in turns.problem
        await asyncio.wait_for(recovered.wait(), 5)
        assert turns.problem == ""
        await turns.stop()
        assert not [task for task in asyncio.all_tasks() if task.get_name() == "keeper"]

    uvloop.run(scenario())


def test_stop_ends_a_task_that_waits_to_try_again() -> None:
    async def scenario() -> None:
        failed = asyncio.Event()

        async def turn() -> None:
            failed.set()
            raise OSError("no")

        turns = Turns("keeper", turn)
        turns.start()
        turns.start()
        await failed.wait()
        await asyncio.wait_for(turns.stop(), 1)
        await turns.stop()
        assert len(asyncio.all_tasks()) == 1

    uvloop.run(scenario())
