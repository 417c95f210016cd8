"""Streams that other tasks close, and streams that nobody reads when their time is up."""

from __future__ import annotations

from typing import Any

import anyio
import pytest

from sessions import SessionsError, tool
from sessions.simulator import Latency
from tests.sessions.world import World, answers, call, create, everywhere, words

TEXT = " ".join(f"number {number} of the words that come one by one," for number in range(12))


def slow_world() -> World:
    return World(lambda _: TEXT, latency=Latency(per_output_token=1.0))


@everywhere
async def test_a_stream_may_be_closed_by_another_task_while_it_is_read() -> None:
    world = slow_world()
    async with world.manager(busy_timeout=0.0) as manager:
        session = await create(manager)
        stream = session.stream("Hello")
        heard: list[str] = []
        outcomes: list[Any] = []

        async def read() -> None:
            async for text in stream.text_stream:
                heard.append(text)  # noqa: PERF401 - what was heard before it ended counts
            with pytest.raises(SessionsError, match="resume"):
                await stream.get_final_reply()
            outcomes.append("ended")

        async with anyio.create_task_group() as group:
            group.start_soon(read)
            await world.clock.advance(20)
            assert heard
            await stream.__aexit__(None, None, None)
            assert [one.status for one in await session.calls()] == ["cancelled"]
            (turn,) = await manager.runtime.store.turns(session.id, limit=1)
            assert turn.state == "interrupted"
            renamed = await manager.open(session.id)
            await renamed.update(title="nobody holds it")
        assert outcomes == ["ended"]
        assert words(session) == ["Hello"]
    world.check()


@everywhere
async def test_leaving_the_block_ends_what_reads_in_other_tasks() -> None:
    world = slow_world()
    async with world.manager() as manager:
        session = await create(manager)
        async with anyio.create_task_group() as group, session.stream("Hello") as stream:

            async def read() -> None:
                async for _ in stream:
                    pass

            group.start_soon(read)
            group.start_soon(read)
            await world.clock.advance(20)
        async with anyio.create_task_group() as group:
            group.start_soon(session.resume)
            await world.clock.advance(1000)
        assert session.messages[-1]["content"] == [{"type": "text", "text": TEXT}]
    world.check()


@everywhere
async def test_two_tasks_may_close_a_stream_while_a_tool_runs() -> None:
    world = World(answers([call("wait")]))
    begun = anyio.Event()

    @tool
    async def wait() -> str:
        """Waits."""
        begun.set()
        await world.clock.sleep(3600)
        return "late"

    async with world.manager() as manager:
        session = await create(manager, tools=[wait])
        stream = session.stream("go")
        async with anyio.create_task_group() as group:

            async def read() -> None:
                async for _ in stream:
                    pass

            group.start_soon(read)
            await begun.wait()
            group.start_soon(stream.__aexit__, None, None, None)
            group.start_soon(stream.__aexit__, None, None, None)
        assert (await session.send("and on")).text == "fine"
    world.check()


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
@pytest.mark.parametrize("way", ["stream", "run"])
def test_the_time_of_a_turn_is_up_although_nobody_reads(backend: str, way: str) -> None:
    async def test() -> None:
        world = World(answers([{"type": "text", "text": "I look."}, call("look")], TEXT))

        @tool
        async def look() -> str:
            """Looks."""
            return "seen"

        async with world.manager(busy_timeout=0.0) as manager:
            session = await create(manager, tools=[look])
            given = session.stream("Hello", timeout=30) if way == "stream" else session.run("Hello", timeout=30)
            await anext(given)
            await world.clock.advance(29)
            (turn,) = await manager.runtime.store.turns(session.id, limit=1)
            assert turn.state == "running"
            await world.clock.advance(1)
            (turn,) = await manager.runtime.store.turns(session.id, limit=1)
            assert turn.state == "interrupted"
            reply = await session.resume()
            assert reply is not None
            with pytest.raises(TimeoutError, match="not done after 30 seconds"):
                await anext(given)
        world.check()

    anyio.run(test, backend=backend)


@everywhere
async def test_the_time_of_a_turn_is_up_while_it_is_read() -> None:
    world = slow_world()
    async with world.manager() as manager:
        session = await create(manager)
        async with anyio.create_task_group() as group:

            async def read() -> None:
                async with session.stream("Hello", timeout=30) as stream:
                    with pytest.raises(TimeoutError, match="not done after 30 seconds"):
                        await stream.get_final_reply()

            group.start_soon(read)
            await world.clock.advance(30)
        (turn,) = await manager.runtime.store.turns(session.id, limit=1)
        assert turn.state == "interrupted"
    world.check()


@everywhere
async def test_a_reply_that_came_in_time_stays_when_its_time_is_up() -> None:
    world = World(lambda _: TEXT)
    async with world.manager() as manager:
        session = await create(manager)
        stream = session.stream("Hello", timeout=30)
        async for event in stream:
            if event.type == "message_stop":
                break
        reply = await stream.get_final_reply()
        await world.clock.advance(60)
        assert await stream.get_final_reply() is reply
        assert (await session.send("And on", timeout=30)).text == TEXT
        await world.clock.advance(60)
    world.check()
