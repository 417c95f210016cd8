"""A turn is cancelled at each of its awaits, one after the other; `resume()` and `send()` both go on from there."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from sessions import Session, tool
from sessions.simulator import Latency, Request, Scripted
from tests.crash.stepping import at_step
from tests.sessions.world import World, call, create, words

STEPS = 400


class Effects:
    """Two tools and what they did."""

    def __init__(self) -> None:
        self.begun: list[str] = []
        self.done: list[str] = []
        self.tools = [tool(self._safe, name="safe", idempotent=True), tool(self._once, name="once")]

    async def _safe(self, n: int) -> str:
        """Harmless to repeat."""
        return await self._act(f"safe {n}")

    async def _once(self, n: int) -> str:
        """Not harmless to repeat."""
        return await self._act(f"once {n}")

    async def _act(self, what: str) -> str:
        self.begun.append(what)
        await anyio.lowlevel.checkpoint()
        self.done.append(what)
        return f"did {what}"


def script(request: Request) -> Scripted:
    """One round of three calls, then an answer."""
    if request.results or "next" in request.text:
        return Scripted("All done.", thinking="It is done.")
    calls = [call("safe", n=1), call("once", n=1), call("once", n=2)]
    return Scripted([{"type": "text", "text": "I act."}, *calls], thinking="I act.")


async def _cancelled(session: Session, step: int, how: str) -> bool:
    """Runs a turn and cancels it at one step; False if it came through before."""
    work = session.send("go", idempotency_key="k")
    if how == "task":
        task = asyncio.create_task(at_step(work, step).run())
        await asyncio.wait([task])
        if not task.cancelled():
            task.result()
        return task.cancelled()
    with anyio.CancelScope() as scope:
        await at_step(work, step, scope.cancel)
    return scope.cancelled_caught


async def _check_after(session: Session, effects: Effects, world: World, then: str) -> None:
    if then == "resume":
        await session.resume()
    elif then == "key":
        assert (await session.send("go", idempotency_key="k")).text == "All done."
    reply = await session.send("next")
    assert reply.text == "All done."
    assert await session.resume() is None
    world.check()
    said = "\n".join(words(session))
    assert said.count("next") == 1
    assert said.count("go") == (1 if then == "key" else min(1, said.count("go")))
    for what in ("once 1", "once 2"):
        assert effects.begun.count(what) <= 1, "a tool that is not idempotent ran twice"
    told = str(session.messages)
    for what in set(effects.done) if "I act." in told else ():
        assert f"did {what}" in told or "may or may not" in told
    await _check_ledger(session, world)


async def _check_ledger(session: Session, world: World) -> None:
    """Every request that was charged is in the ledger, whole replies with exactly what was billed."""
    calls = {one.request_id: one for one in await session.calls() if one.request_id}
    for exchange in world.requests:
        row = calls.get(exchange.request_id)
        if exchange.state == "complete" and row is not None and row.status == "ok":
            assert row.usage == exchange.usage
    assert len(await session.calls()) >= len(world.requests)


@pytest.mark.parametrize("then", ["resume", "send", "key"])
@pytest.mark.parametrize("how", ["task", "scope"])
async def test_a_turn_cancelled_at_each_await(how: str, then: str, tmp_path: Path) -> None:
    await _cancelled_at_each_await(how, then, lambda step: f"sqlite:///{tmp_path}/{step}.db")


@pytest.mark.parametrize("how", ["task", "scope"])
async def test_a_turn_cancelled_at_each_await_on_a_server(how: str, empty_store: str) -> None:
    await _cancelled_at_each_await(how, "key", lambda _: empty_store)


async def _cancelled_at_each_await(how: str, then: str, place: Callable[[int], str]) -> None:
    failed: list[tuple[int, str]] = []
    for step in range(1, STEPS):
        world, effects = World(script, url=place(step)), Effects()
        async with world.manager(busy_timeout=1) as manager:
            session = await create(manager, tools=effects.tools, thinking={"type": "adaptive"})
            cancelled = await _cancelled(session, step, how)
            waiting = asyncio.create_task(_check_after(session, effects, world, then))
            await world.clock.advance(5)
            try:
                await asyncio.wait_for(waiting, 20)
            except (Exception, asyncio.CancelledError) as error:
                failed.append((step, f"{type(error).__name__}: {error}"[:300]))
        if not cancelled:
            break
    else:
        raise AssertionError("the turn never came through")
    assert not failed, failed
    assert step > 10


@pytest.mark.parametrize("how", ["task", "scope"])
async def test_another_process_goes_on_at_once(how: str, new_place: Callable[[], str]) -> None:
    """The lease is given back whatever the await: nobody waits for it to lapse."""
    url = new_place()
    for step in range(1, STEPS, 3):
        world, effects = World(script, url=url), Effects()
        async with world.manager() as manager, world.manager(busy_timeout=0) as other:
            session = await create(manager, tools=effects.tools)
            cancelled = await _cancelled(session, step, how)
            found = await other.open(session.id, tools=effects.tools)
            assert (await found.send("next")).text == "All done.", step
        world.check()
        if not cancelled:
            break


@pytest.mark.parametrize("then", ["resume", "send", "key"])
def test_a_turn_cancelled_at_each_await_on_trio(then: str) -> None:
    async def everything() -> None:
        for step in range(1, STEPS):
            world, effects = World(script), Effects()
            async with world.manager(busy_timeout=1) as manager:
                session = await create(manager, tools=effects.tools, thinking={"type": "adaptive"})
                cancelled = await _cancelled(session, step, "scope")
                with anyio.fail_after(20):
                    async with anyio.create_task_group() as group:
                        group.start_soon(_check_after, session, effects, world, then)
                        await world.clock.advance(5)
            if not cancelled:
                assert step > 10
                return
        raise AssertionError("the turn never came through")

    anyio.run(everything, backend="trio")


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_turn_that_times_out_at_each_moment(backend: str) -> None:
    """The same with `timeout=`: a model and tools that take a second for everything."""

    async def everything() -> None:
        for tenths in range(1, 400, 5):
            world, effects = World(script, latency=Latency(first_event=1.0, per_output_token=0.5)), Effects()
            async with world.manager() as manager:
                session = await create(manager, tools=effects.tools)
                outcome: list[Any] = []

                async def sending(
                    session: Session = session, tenths: int = tenths, outcome: list[Any] = outcome
                ) -> None:
                    try:
                        outcome.append(await session.send("go", timeout=tenths / 10))
                    except TimeoutError as error:
                        outcome.append(error)

                async with anyio.create_task_group() as group:
                    group.start_soon(sending)
                    await world.clock.advance(200)
                    group.start_soon(_check_after, session, effects, world, "resume")
                    await world.clock.advance(500)
                assert words(session) == ["go", "next"]
            if not isinstance(outcome[0], TimeoutError):
                return
        raise AssertionError("the turn never came through")

    anyio.run(everything, backend=backend)
