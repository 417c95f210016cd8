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
from storage import Holder
from storage.sql import SQLStore
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
    world: World, manager: SessionManager, others: SessionManager, store: SQLStore, step: int, how: str, first: bool
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
    (_, point, *_), *_ = replies[0].calls[0].points
    found = await store.lead(point, Holder("elsewhere", 1, 1.0), seconds=1, now=world.clock.now())
    assert found.state == "warm", f"step {step}: {found}"
    for one in (others, manager):
        await _check_nothing_is_left(world, one, step)
    return done == [True]


async def _check_nothing_is_left(world: World, manager: SessionManager, step: int) -> None:
    """When all has lapsed, whoever writes the prefix next need not wait for anybody."""
    await world.clock.advance(2 * 3600)
    session = await create(manager, system=SYSTEM)
    replies: list[Reply] = []

    async def send() -> None:
        replies.append(await session.send("Hello"))

    async with anyio.create_task_group() as group:
        group.start_soon(send)
        await world.clock.advance(60)
    assert [(reply.calls[0].waited, reply.usage.cache_read) for reply in replies] == [(0.0, 0)], f"step {step}"


async def _all_rounds(tmp_path: Path, how: str, first: bool) -> None:
    for step in range(1, STEPS):
        world = World(url=tmp_path / f"{step}.db", latency=Latency(first_event=1.0))
        store = SQLStore(world.url)
        # Untended: what they share is to lapse before it is looked whether anything is left.
        async with world.manager(tend=False) as manager, world.manager(store=store, tend=False) as others:
            if await _round(world, manager, others, store, step, how, first):
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
