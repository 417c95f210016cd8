"""A leader, or a follower, is cancelled at each of its awaits: the others go on, and nothing of it is left."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from sessions import Reply, Session, SessionManager
from sessions.simulator import Latency, filler
from tests.crash.stepping import at_step
from tests.sessions.world import World, create

SYSTEM = filler(3000)
STEPS = 200


async def _stopped(session: Session, step: int, how: str, done: list[bool]) -> None:
    """One turn, cancelled at that step; `done` says whether it came through before."""
    if how == "task":
        task = asyncio.create_task(at_step(session.send("Hello"), step).run())
        await asyncio.wait([task])
        done.append(not task.cancelled())
        return
    with anyio.CancelScope() as scope:
        await at_step(session.send("Hello"), step, scope.cancel)
    done.append(not scope.cancelled_caught)


async def _round(
    world: World, manager: SessionManager, others: SessionManager, step: int, how: str, first: bool
) -> bool:
    """Three requests of one process and one of another; the first or the second to come is cancelled."""
    sessions = [await create(one, system=SYSTEM) for one in (manager, manager, manager, others)]
    victim = sessions.pop(0)
    done: list[bool] = []
    replies: list[Reply] = []

    async def run(work: Callable[[], Any], after: float) -> None:
        await world.clock.sleep(after)
        if (reply := await work()) is not None:
            replies.append(reply)

    async with anyio.create_task_group() as group:
        group.start_soon(run, lambda: _stopped(victim, step, how, done), 0.0 if first else 0.1)
        for number, session in enumerate(sessions):
            group.start_soon(run, lambda session=session: session.send("Hello"), 0.05 + 0.1 * number)
        await world.clock.advance(60)
    assert len(replies) == 3
    began = [one for one in world.requests if one.began is not None]
    written = [one for one in began if one.usage is not None and one.usage.cache_write >= 3000]
    assert len(written) == 1, f"step {step}: written {len(written)} times"
    assert max(reply.calls[0].waited for reply in replies) <= 3.5
    for one in (manager, others):
        assert (one.runtime.gate._lines, one.runtime.gate._elsewhere) == ({}, {}), f"step {step}"
    point = sessions[0].conversation.prompt.points[0].digest
    found = await others.runtime.store.lead(point, others.runtime.gate._holder, seconds=1, now=world.clock.now())
    assert found.state == "warm", f"step {step}: {found}"
    return done == [True]


async def _all_rounds(tmp_path: Path, how: str, first: bool) -> None:
    for step in range(1, STEPS):
        world = World(url=tmp_path / f"{step}.db", latency=Latency(first_event=1.0))
        async with world.manager() as manager, world.manager() as others:
            if await _round(world, manager, others, step, how, first):
                assert step > 10
                return
    raise AssertionError("the turn never came through")


@pytest.mark.parametrize("first", [True, False], ids=["leader", "follower"])
@pytest.mark.parametrize("how", ["task", "scope"])
async def test_cancelled_at_each_await(how: str, first: bool, tmp_path: Path) -> None:
    await _all_rounds(tmp_path, how, first)


@pytest.mark.parametrize("first", [True, False], ids=["leader", "follower"])
def test_cancelled_at_each_await_on_trio(first: bool, tmp_path: Path) -> None:
    anyio.run(_all_rounds, tmp_path, "scope", first, backend="trio")
