"""A turn as a stream: events, text, the final reply, and every way to leave before the end."""

from __future__ import annotations

import asyncio
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from sessions import SessionsError, tool
from sessions.simulator import Latency, Scripted
from tests.sessions.world import World, answers, call, create, everywhere, results, words

TEXT = " ".join(f"number {number} of the words that come one by one," for number in range(12))


def thoughtful(_: Any) -> Scripted:
    return Scripted(TEXT, thinking="I think about it at some length before I say anything at all.")


@everywhere
async def test_the_text_comes_in_pieces_and_the_reply_at_the_end() -> None:
    world = World(thoughtful)
    async with world.manager() as manager:
        session = await create(manager)
        async with session.stream("Hello") as stream:
            pieces = [text async for text in stream.text_stream]
            reply = await stream.get_final_reply()
        assert len(pieces) > 1
        assert "".join(pieces) == TEXT == reply.text
        assert reply.content == session.messages[-1]["content"]
        assert reply.usage == world.engine.bill().usage
        async with session.stream("Again") as stream:
            assert (await stream.get_final_reply()).text == TEXT
            assert (await stream.get_final_reply()).text == TEXT
    world.check()


@everywhere
async def test_the_events_are_the_sdks_own_in_order() -> None:
    @tool
    async def look() -> str:
        """Looks."""
        return "seen"

    world = World(answers([{"type": "text", "text": "I look."}, call("look")], "Done."))
    async with world.manager() as manager:
        session = await create(manager, tools=[look])
        async with session.stream("Hello") as stream:
            kinds = [event.type async for event in stream]
        assert kinds.count("message_start") == kinds.count("message_stop") == 2
        assert kinds[0] == "message_start"
        assert kinds[-1] == "message_stop"
        assert len(session.messages) == 4


@everywhere
async def test_a_stream_left_early_is_left_for_resume() -> None:
    world = World(thoughtful)
    async with world.manager() as manager:
        session = await create(manager)
        async with session.stream("Hello") as stream:
            async for _ in stream.text_stream:
                break
        with pytest.raises(SessionsError, match="resume"):
            await stream.get_final_reply()
        assert [one.status for one in await session.calls()] == ["cancelled"]
        assert len(session.messages) == 1
        reply = await session.resume()
        assert reply is not None
        assert reply.text == TEXT
        assert words(session) == ["Hello"]
        async with session.stream("never drawn"):
            pass
        assert (await session.send("And on")).text == TEXT
    world.check()


@everywhere
async def test_an_error_in_the_callers_loop_leaves_the_session_usable() -> None:
    world = World(thoughtful)
    async with world.manager() as manager:
        session = await create(manager)
        with pytest.raises(ZeroDivisionError):
            async with session.stream("Hello") as stream:
                async for _ in stream:
                    raise ZeroDivisionError
        assert (await session.send("And on")).text == TEXT
        assert words(session) == ["Hello", "And on"]
    world.check()


@everywhere
async def test_cancel_keeps_the_text_so_far_from_inside_the_loop() -> None:
    world = World(thoughtful)
    async with world.manager() as manager:
        session = await create(manager)
        heard = ""
        async with session.stream("Hello") as stream:
            async for text in stream.text_stream:
                heard += text
                if len(heard) > 100:
                    await stream.cancel()
            reply = await stream.get_final_reply()
        assert reply.stop_reason == "cancelled"
        assert heard in reply.text
        assert TEXT.startswith(reply.text)
        assert reply.text != TEXT
        assert session.messages[-1] == {"role": "assistant", "content": reply.content}
        assert reply.content[0]["type"] == "thinking"
        (row,) = await session.calls()
        assert row.status == "cancelled"
        assert await session.resume() is None
        assert (await session.send("And on")).text == TEXT
    world.check()


@everywhere
async def test_cancel_at_every_event_leaves_a_sendable_session() -> None:
    for number in range(40):
        world = World(thoughtful)
        async with world.manager() as manager:
            session = await create(manager)
            seen = 0
            async with session.stream("Hello") as stream:
                async for _ in stream:
                    if seen == number:
                        await stream.cancel()
                    seen += 1
                reply = await stream.get_final_reply()
            assert (await session.send("And on")).text == TEXT
            assert words(session)[0].startswith("Hello")
            if seen <= number:
                assert reply.stop_reason == "end_turn"
                break
        world.check()
    else:
        raise AssertionError("the stream never ended by itself")


@everywhere
async def test_cancel_from_another_task_returns_when_all_is_stored() -> None:
    world = World(thoughtful, latency=Latency(per_output_token=1.0))
    async with world.manager() as manager:
        session = await create(manager)
        replies: list[Any] = []

        async def consume() -> None:
            async with session.stream("Hello") as stream:
                streams.append(stream)
                async for _ in stream:
                    pass
                replies.append(await stream.get_final_reply())

        streams: list[Any] = []
        async with anyio.create_task_group() as group:
            group.start_soon(consume)
            await world.clock.advance(40)
            await streams[0].cancel()
            stored = await manager.open(session.id)
            assert stored.messages[-1]["role"] == "assistant"
        assert replies[0].stop_reason == "cancelled"
        assert TEXT.startswith(replies[0].text)
    world.check()


@everywhere
async def test_cancel_while_the_consumer_does_something_else() -> None:
    world = World(thoughtful)
    async with world.manager() as manager:
        session = await create(manager)
        begun = anyio.Event()
        async with session.stream("Hello") as stream, anyio.create_task_group() as group:

            async def consume() -> None:
                async for _ in stream:
                    begun.set()
                    await anyio.lowlevel.checkpoint()

            group.start_soon(consume)
            await begun.wait()
            await stream.cancel()
        assert (await stream.get_final_reply()).stop_reason == "cancelled"
        assert (await session.send("And on")).text == TEXT
    world.check()


async def test_cancel_while_the_prompt_is_still_being_read() -> None:
    world = World(thoughtful, latency=Latency(first_event=60.0))
    async with world.manager() as manager:
        session = await create(manager)
        async with session.stream("Hello") as stream:
            consumer = asyncio.create_task(stream.get_final_reply())
            await world.clock.advance(1)
            stopper = asyncio.create_task(stream.cancel())
            await world.clock.advance(1)
            stopped = stopper.done()
            await world.clock.advance(100)
            assert (await consumer).stop_reason == "cancelled"
            assert stopped, "cancel() waited for the first event"


@everywhere
async def test_cancel_before_the_first_event_asks_for_nothing() -> None:
    world = World(thoughtful)
    async with world.manager() as manager:
        session = await create(manager)
        async with session.stream("Hello") as stream:
            await stream.cancel()
            assert (await stream.get_final_reply()).stop_reason == "cancelled"
        assert world.requests == []
        assert (await session.send("And on")).text == TEXT
    world.check()


@everywhere
async def test_cancel_at_the_last_event_starts_no_tool() -> None:
    ran: list[int] = []

    @tool
    def act(n: int) -> str:
        """Acts."""
        ran.append(n)
        return "done"

    world = World(answers([call("act", n=1)]))
    async with world.manager() as manager:
        session = await create(manager, tools=[act])
        async with session.stream("go") as stream:
            async for event in stream:
                if event.type == "message_stop":
                    await stream.cancel()
            assert (await stream.get_final_reply()).stop_reason == "cancelled"
        assert ran == []
        assert (await session.send("And on")).text == "fine"
    world.check()


@everywhere
async def test_cancel_while_tools_run_closes_them_truthfully() -> None:
    world = World(answers([call("wait", seconds=5), call("wait", seconds=500), call("wait", seconds=6)]))

    @tool
    async def wait(seconds: int) -> str:
        """Waits."""
        await world.clock.sleep(seconds)
        return f"waited {seconds}"

    async with world.manager() as manager:
        session = await create(manager, tools=[wait])
        streams: list[Any] = []

        async def consume() -> None:
            async with session.stream("go") as stream:
                streams.append(stream)
                assert (await stream.get_final_reply()).stop_reason == "cancelled"

        async with anyio.create_task_group() as group:
            group.start_soon(consume)
            await world.clock.advance(10)
            await streams[0].cancel()
        found = results(session.messages[2])
        assert [one["content"] for one in found][::2] == ["waited 5", "waited 6"]
        assert "may or may not" in found[1]["content"]
        assert len(world.requests) == 1
        assert (await session.send("And on")).text == "fine"
    world.check()


@everywhere
async def test_cancel_after_the_end_changes_nothing() -> None:
    world = World(thoughtful)
    async with world.manager() as manager:
        session = await create(manager)
        async with session.stream("Hello") as stream:
            reply = await stream.get_final_reply()
            await stream.cancel()
            assert await stream.get_final_reply() is reply
        await stream.cancel()
        assert reply.stop_reason == "end_turn"
        assert len(session.messages) == 2


@everywhere
async def test_a_stored_reply_is_replayed_as_events() -> None:
    world = World(thoughtful)
    async with world.manager() as manager:
        session = await create(manager)
        first = await session.send("Hello", idempotency_key="k")
        async with session.stream("Hello", idempotency_key="k") as stream:
            events = [event async for event in stream]
            again = await stream.get_final_reply()
        async with session.stream("Hello", idempotency_key="k") as stream:
            assert "".join([text async for text in stream.text_stream]) == TEXT
        assert again.content == first.content
        assert (again.usage, again.cost, again.stop_reason) == (first.usage, first.cost, first.stop_reason)
        assert [events[0].type, events[-2].type, events[-1].type] == ["message_start", "message_delta", "message_stop"]
        assert events[0].message.id == first.message.id
        assert len(world.requests) == 1
