"""`ManualClock`: time moves to each due moment in order, never jumps over one and never goes back."""

from __future__ import annotations

import threading
from typing import Any

import anyio
import pytest

from sessions import Clock, SystemClock, jobs
from sessions.clock import within
from sessions.testing import ManualClock, simulated_manager
from tests.sessions.world import World, answers, call, create, everywhere


@everywhere
async def test_sleepers_wake_in_order_and_at_their_own_time() -> None:
    clock = ManualClock(start=100.0)
    seen: list[tuple[str, float]] = []

    async def sleeper(name: str, *naps: float) -> None:
        for nap in naps:
            await clock.sleep(nap)
            seen.append((name, clock.now()))

    async with anyio.create_task_group() as group:
        group.start_soon(sleeper, "b", 20, 5)
        group.start_soon(sleeper, "a", 10, 10, 1)
        group.start_soon(sleeper, "late", 1000)
        await clock.advance(30)
        assert seen == [("a", 110), ("b", 120), ("a", 120), ("a", 121), ("b", 125)]
        assert clock.now() == 130
        await clock.advance(0)
        assert clock.now() == 130
        group.cancel_scope.cancel()
    assert isinstance(clock, Clock)
    assert isinstance(SystemClock(), Clock)


@everywhere
async def test_advances_may_overlap() -> None:
    clock = ManualClock(start=0.0)
    seen: list[tuple[str, float]] = []

    async def advancing(name: str, *parts: float) -> None:
        for part in parts:
            await clock.advance(part)
            seen.append((name, clock.now()))

    async def sleeping(seconds: float) -> None:
        await clock.sleep(seconds)
        seen.append(("sleep", clock.now()))

    async with anyio.create_task_group() as group:
        group.start_soon(advancing, "model", 7, 2)
        group.start_soon(advancing, "tool", 3, 3, 3)
        group.start_soon(sleeping, 5)
        await clock.advance(10)
        assert clock.now() == 10
    assert seen == [("tool", 3), ("sleep", 5), ("tool", 6), ("model", 7), ("model", 9), ("tool", 9)] or seen == [
        ("tool", 3), ("sleep", 5), ("tool", 6), ("model", 7), ("tool", 9), ("model", 9),
    ]  # fmt: skip


@everywhere
async def test_an_advance_that_is_cancelled_leaves_the_others_going() -> None:
    clock = ManualClock(start=0.0)
    ended: list[float] = []

    async def advancing(seconds: float) -> None:
        await clock.advance(seconds)
        ended.append(clock.now())

    async with anyio.create_task_group() as group:
        with anyio.CancelScope() as scope:

            async def cancelling() -> None:
                await clock.sleep(2)
                scope.cancel()

            group.start_soon(cancelling)
            group.start_soon(advancing, 5)
            await clock.advance(100)
        await clock.advance(4)
    assert sorted(ended) == [5]
    assert 5 <= clock.now() <= 6


@pytest.mark.parametrize("seconds", [-1, float("nan"), -0.001])
@everywhere
async def test_time_does_not_go_back(seconds: float) -> None:
    clock = ManualClock(start=5.0)
    with pytest.raises(ValueError, match="back"):
        await clock.advance(seconds)
    await clock.sleep(0)
    await clock.sleep(-3)
    assert clock.now() == 5.0


@everywhere
async def test_a_tool_and_a_script_take_their_time_by_advancing() -> None:
    clock = ManualClock()
    times: list[float] = []

    async def script(request: Any) -> Any:
        await clock.advance(10)
        return [call("work")] if not request.results else "done"

    async def work() -> str:
        """Works."""
        await clock.advance(100)
        times.append(clock.now() - start)
        return "worked"

    start = clock.now()
    async with simulated_manager(script=script, clock=clock) as manager:
        session = await create(manager, tools=[work])
        reply = await session.send("go")
    assert reply.text == "done"
    assert times == [110]
    assert clock.now() == start + 120
    assert [round(one.started - start) for one in reply.calls] == [0, 110]


@everywhere
async def test_two_turns_at_once_on_one_clock() -> None:
    clock = ManualClock()

    async def script(request: Any) -> str:
        await clock.advance(10 if "fast" in request.text else 25)
        return f"{clock.now() - start:g}"

    start = clock.now()
    found: dict[str, str] = {}
    async with simulated_manager(script=script, clock=clock, warmup=False) as manager:

        async def sending(text: str) -> None:
            session = await create(manager)
            for _ in range(2):
                found[text] = found.get(text, "") + " " + (await session.send(text)).text

        async with anyio.create_task_group() as group:
            for text in ("fast", "slow"):
                group.start_soon(sending, text)
    assert found == {"fast": " 10 20", "slow": " 25 50"}


@everywhere
async def test_an_advance_waits_for_worker_threads() -> None:
    world = World(answers([call("compute", n=n) for n in range(6)]))
    go, times = threading.Event(), []

    def compute(n: int) -> str:
        """Works in a thread."""
        go.wait(10)
        times.append(world.clock.now())
        return str(n)

    async with world.manager() as manager:
        session = await create(manager, tools=[compute])
        async with anyio.create_task_group() as group:
            group.start_soon(session.send, "go")
            threading.Timer(0.05, go.set).start()
            await world.clock.advance(500)
            assert len(session.messages) == 4
        assert times == [1_700_000_000.0] * 6
        assert jobs.busy() == 0
    world.check()


@everywhere
async def test_within_gives_the_result_the_error_or_a_timeout() -> None:
    clock = ManualClock()

    async def quick() -> str:
        await clock.sleep(5)
        return "done"

    async def broken() -> str:
        raise KeyError("broken")

    async with anyio.create_task_group() as group:
        group.start_soon(clock.advance, 100)
        assert await within(clock, 10, quick) == "done"
        assert await within(clock, None, quick) == "done"
        with pytest.raises(TimeoutError):
            await within(clock, 4, quick)
        with pytest.raises(KeyError):
            await within(clock, 4, broken)
