"""Tools that do not end: the turn, the caller and the process go on without them."""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from sessions import tool
from sessions.jobs import GRACE
from tests.sessions.world import World, answers, call, create, everywhere, results


class Stubborn:
    """An asynchronous tool that swallows what cancels it, and how often that was."""

    def __init__(self, world: World, **options: Any) -> None:
        self.cancelled, self.ended, self.begun = 0, False, anyio.Event()
        self.may_end = anyio.Event()

        @tool(name="stubborn", **options)
        async def stubborn() -> str:
            """Does not let itself be stopped."""
            self.begun.set()
            while not self.may_end.is_set():
                try:
                    await self.may_end.wait()
                except anyio.get_cancelled_exc_class():
                    self.cancelled += 1
                    if world.clock.now() > world.started + 1000:
                        raise  # the end of the test
            self.ended = True
            return "after all"

        self.tool = stubborn


def stubborn_world(**options: Any) -> tuple[World, Stubborn]:
    world = World(answers([call("stubborn")]))
    world.started = world.clock.now()  # type: ignore[attr-defined]
    return world, Stubborn(world, **options)


@everywhere
async def test_a_tool_that_swallows_its_timeout_is_given_up_and_goes_on_alone() -> None:
    world, stubborn = stubborn_world(timeout=20)
    async with world.manager() as manager:
        session = await create(manager, tools=[stubborn.tool])
        async with anyio.create_task_group() as group:
            group.start_soon(session.send, "go")
            await stubborn.begun.wait()
            await world.clock.advance(20)
            assert len(session.messages) == 2
            await world.clock.advance(GRACE)
        assert results(session.messages[2])[0]["content"] == "timed out after 20 seconds"
        cancelled = stubborn.cancelled
        for _ in range(50):
            await anyio.lowlevel.checkpoint()
        assert stubborn.cancelled == cancelled, "it is cancelled again and again"
        stubborn.may_end.set()
        await world.clock.advance(1)
        assert stubborn.ended
        assert (await session.send("and on")).text == "fine"
        assert len(results(session.messages[2])) == 1
    world.check()


@everywhere
async def test_a_cancelled_send_does_not_wait_for_ever() -> None:
    world, stubborn = stubborn_world()
    async with world.manager() as manager:
        session = await create(manager, tools=[stubborn.tool])
        async with anyio.create_task_group() as group:
            group.start_soon(session.send, "go")
            await stubborn.begun.wait()
            group.cancel_scope.cancel()
            with anyio.CancelScope(shield=True):
                await world.clock.advance(GRACE)
        assert not stubborn.ended
        assert (await session.send("and on")).text == "fine"
        assert "may or may not" in results(session.messages[2])[0]["content"]
        stubborn.may_end.set()
    world.check()


@everywhere
async def test_a_stop_does_not_wait_for_ever() -> None:
    world, stubborn = stubborn_world()
    async with world.manager() as manager:
        session = await create(manager, tools=[stubborn.tool])
        async with session.stream("go") as stream, anyio.create_task_group() as group:
            group.start_soon(stream.get_final_reply)
            await stubborn.begun.wait()
            group.start_soon(stream.cancel)
            await world.clock.advance(GRACE)
        assert (await stream.get_final_reply()).stop_reason == "cancelled"
        assert "may or may not" in results(session.messages[2])[0]["content"]
        stubborn.may_end.set()
    world.check()


@everywhere
async def test_a_tool_has_time_to_end_well_and_what_it_still_gives_counts() -> None:
    world = World(answers([call("tidy"), call("late"), call("fails")]))
    done: list[str] = []

    @tool(timeout=20)
    async def tidy() -> str:
        """Puts things in order first."""
        try:
            await world.clock.sleep(3600)
        finally:
            with anyio.CancelScope(shield=True):
                await world.clock.sleep(GRACE / 2)
            done.append("tidy")
        return "late"

    @tool(timeout=20)
    async def late() -> str:
        """Has a result all the same."""
        try:
            await world.clock.sleep(3600)
        except anyio.get_cancelled_exc_class():
            return "what there was"
        return "late"

    @tool(timeout=20)
    async def fails() -> str:
        """Fails when it is cancelled."""
        try:
            await world.clock.sleep(3600)
        finally:
            raise ValueError("broken off")

    async with world.manager() as manager:
        session = await create(manager, tools=[tidy, late, fails])
        async with anyio.create_task_group() as group:
            group.start_soon(session.send, "go")
            await world.clock.advance(20 + GRACE / 2)
        assert done == ["tidy"]
        found = [one["content"] for one in results(session.messages[2])]
        assert found == ["timed out after 20 seconds", "what there was", "ValueError: broken off"]
    world.check()


STUCK = """
import sys, threading, time
import anyio
from sessions import tool
from sessions.testing import simulated_manager

script = iter([[{"type": "tool_use", "name": "stuck", "input": {}}], "fine"])

@tool(timeout=0.2)
def stuck() -> str:
    "Never returns."
    threading.Event().wait()

async def main():
    async with simulated_manager(script=lambda request: next(script)) as manager:
        session = await manager.create(model="claude-sonnet-5-5", max_tokens=100, tools=[stuck])
        print((await session.send("go")).text, session.messages[2]["content"][0]["content"])

anyio.run(main, backend=sys.argv[1])
"""


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_thread_that_is_stuck_does_not_keep_the_process_from_ending(backend: str) -> None:
    ended = subprocess.run([sys.executable, "-c", STUCK, backend], capture_output=True, text=True, timeout=60)
    assert (ended.stdout, ended.returncode) == ("fine timed out after 0.2 seconds\n", 0), ended.stderr


def test_an_event_loop_that_ends_makes_no_result_of_a_tool_that_it_cancels(tmp_path: Path) -> None:
    world = World(answers([call("wait")]), url=tmp_path / "a.db")
    begun: list[str] = []

    @tool
    async def wait() -> str:
        """Waits."""
        begun.append("wait")
        await world.clock.sleep(3600)
        return "late"

    async def leave() -> str:
        manager = world.manager()
        await manager.__aenter__()
        session = await create(manager, tools=[wait])
        sending.append(asyncio.create_task(session.send("go")))
        while not begun:
            await asyncio.sleep(0.001)
        return str(session.id)

    async def look() -> list[Any]:
        async with world.manager() as manager:
            return [row.content for row in await manager.runtime.store.journal(session)]

    sending: list[Any] = []
    session = asyncio.run(leave())
    assert asyncio.run(look()) == [None]
