"""A worker is told to end at each await of a turn: another one finishes the turn, and nothing is lost or done twice."""

from __future__ import annotations

import asyncio
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import anyio
import pytest

import sessions
from sessions import Reply, SessionsError
from sessions.clock import SystemClock
from sessions.testing import simulated_manager
from tests.crash.stepping import at_step
from tests.crash.test_cancelled_anywhere import STEPS, Effects, script
from tests.servers import without_gate
from tests.sessions.world import World, create, words


async def _told_to_end(world: World, url: str, effects: Effects, step: int, how: str) -> bool:
    """One worker and its turn; whether it was told to end before the turn was done."""
    manager, ending = world.manager(**without_gate(url)), list[asyncio.Task[None]]()

    async def drain() -> None:
        ending.append(asyncio.get_running_loop().create_task(manager.drain()))
        await asyncio.sleep(0)

    async def live() -> None:
        async with manager:
            session = await manager.open("fixed", tools=effects.tools)
            if how == "drain":
                await at_step(session.send("go"), step, lambda: asyncio.ensure_future(drain()))
            else:
                await session.send("go")

    task = asyncio.create_task(live() if how == "drain" else at_step(live(), step).run())
    with suppress(SessionsError, asyncio.CancelledError):
        await task
    await asyncio.gather(*ending)
    return task.cancelled() or task.exception() is not None


async def _check_after(world: World, url: str, effects: Effects, step: int) -> int:
    """How many turns were left to recovery."""
    async with world.manager(tools=effects.tools, **without_gate(url)) as other:
        states = [turn.state for turn in await other.runtime.store.turns("fixed")]
        assert states in ([], ["running"], ["finished"]), step
        found = await other.recover()
        assert list(found) == (["fixed"] if states == ["running"] else []), step
        assert all(isinstance(reply, Reply) for reply in found.values()), (step, found)
        session = await other.open("fixed", tools=effects.tools)
        assert words(session) == (["go"] if states else []), step
        assert [turn.state for turn in await other.runtime.store.turns("fixed")] == (["finished"] if states else [])
        for what in ("once 1", "once 2"):
            assert effects.begun.count(what) <= 1, (step, "a tool that is not idempotent ran twice")
        assert (await session.send("next")).text == "All done."
    world.check()
    return len(found)


@pytest.mark.parametrize("how", ["drain", "cancelled"])
async def test_a_worker_told_to_end_at_each_await(how: str, new_place: Callable[[], str]) -> None:
    """By its own `drain`, or by a cancellation that takes the manager along, as Ctrl-C does."""
    recovered = 0
    for step in range(1, STEPS):
        url = new_place()
        world, effects = World(script, url=url), Effects()
        async with world.manager() as manager:
            await create(manager, tools=effects.tools, thinking={"type": "adaptive"}, id="fixed")
        told = await _told_to_end(world, url, effects, step, how)
        recovered += await _check_after(world, url, effects, step)
        if not told and step > 20:
            assert recovered > 10
            return
    raise AssertionError("the turn never came through")


WORKER = '''
import asyncio, sys
from pathlib import Path
import anyio
from sessions import tool
from sessions.testing import simulated_manager

@tool(idempotent=True)
async def look() -> str:
    """Looks."""
    Path(sys.argv[2]).touch()
    await anyio.sleep_forever()

def script(request):
    return [{"type": "tool_use", "name": "look", "input": {}}]

async def main():
    async with simulated_manager(sys.argv[1], script) as manager:
        session = await manager.create(model="claude-sonnet-5-5", max_tokens=1000, tools=[look], id="fixed")
        await session.send("go")

asyncio.run(main())
'''


def started(*given: str) -> subprocess.Popen[bytes]:
    environment = os.environ | {"PYTHONPATH": str(Path(sessions.__file__).parents[1])}
    command = [sys.executable, "-W", "ignore", "-c", WORKER, *given]
    return subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


@pytest.mark.skipif(os.name != "posix", reason="there are no such signals here")
@pytest.mark.parametrize("which", [signal.SIGINT, signal.SIGTERM], ids=["SIGINT", "SIGTERM"])
async def test_a_plain_script_that_gets_a_signal(
    which: signal.Signals, new_place: Callable[[], str], tmp_path: Path
) -> None:
    """Without a word about signals in it: its turn is free as soon as it is gone."""

    @sessions.tool(idempotent=True)
    def look() -> str:
        """Looks."""
        return "seen"

    url, mark = new_place(), tmp_path / "in the tool"
    process = started(url, str(mark))
    while not mark.exists():
        await anyio.sleep(0.01)
        assert process.poll() is None
    process.send_signal(which)
    assert await anyio.to_thread.run_sync(process.wait) != 0
    async with simulated_manager(url, lambda _: "done", clock=SystemClock(), tools=[look]) as manager:
        reply = (await manager.recover())["fixed"]
        assert isinstance(reply, Reply)
        assert reply.text == "done"
