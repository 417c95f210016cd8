"""The same idempotency key again: the same reply, the same words once, whatever happened in between."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import anyio
import pytest

from sessions import ConfigurationError, ModelError, tool
from sessions.simulator import Fault, Scripted
from tests.sessions.world import World, answers, call, create, everywhere, words


@everywhere
async def test_a_finished_turn_gives_its_stored_reply_without_a_call(tmp_path: Path) -> None:
    world = World(url=tmp_path / "a.db")
    async with world.manager() as manager:
        session = await create(manager)
        first = await session.send("Hello", idempotency_key="k1")
        await session.send("Something else")
    async with world.manager() as manager:
        session = await manager.open(session.id)
        again = await session.send("Hello", idempotency_key="k1")
        assert (again.content, again.stop_reason, again.calls) == (first.content, first.stop_reason, first.calls)
        assert again.message.id == first.message.id
        assert again.text == first.text
        assert len(world.requests) == 2
        assert len(session.messages) == 4
        with pytest.raises(ConfigurationError, match="k1"):
            await session.send("Other words", idempotency_key="k1")
        assert len(session.messages) == 4


@everywhere
async def test_keys_belong_to_their_session() -> None:
    async with World().manager() as manager:
        one, two = await create(manager), await create(manager)
        await one.send("Hello", idempotency_key="k")
        assert (await two.send("Other words", idempotency_key="k")).text
        branch = await one.fork()
        assert (await branch.send("Third words", idempotency_key="k")).text


@everywhere
async def test_two_callers_at_once_get_one_turn(tmp_path: Path) -> None:
    world = World(url=tmp_path / "a.db")
    async with world.manager() as manager:
        session = await create(manager)
        same, other = await manager.open(session.id), await manager.open(session.id)
        replies: list[Any] = []

        async def sending(which: Any) -> None:
            replies.append(await which.send("Hello", idempotency_key="k"))

        async with anyio.create_task_group() as group:
            for which in (session, session, same, other):
                group.start_soon(sending, which)
        assert len({str(reply.content) for reply in replies}) == 1
        assert len(world.requests) == 1
        assert len((await manager.open(session.id)).messages) == 2


@everywhere
async def test_an_interrupted_turn_is_continued_and_its_words_stand_once() -> None:
    ran: list[int] = []

    @tool
    def act(n: int) -> str:
        """Acts."""
        ran.append(n)
        return "done"

    world = World(answers([call("act", n=1)], Fault.http(529), "finished"))
    async with world.manager() as manager:
        session = await create(manager, tools=[act])
        with pytest.raises(ModelError):
            await session.send("go", idempotency_key="k")
        reply = await session.send("go", idempotency_key="k")
        assert reply.text == "finished"
        assert ran == [1]
        assert words(session) == ["go"]
        assert [one.status for one in reply.calls] == ["ok", "error", "ok"]
        assert (await session.send("go", idempotency_key="k")).text == "finished"
        assert len(world.requests) == 3
    world.check()


async def test_a_turn_finished_by_resume_has_its_reply_stored_under_the_key() -> None:
    world = World(answers("late answer"), faults={0: Fault.drop()})
    async with world.manager() as manager:
        session = await create(manager)
        with pytest.raises(ModelError):
            await session.send("go", idempotency_key="k")
        await session.resume()
        assert (await session.send("go", idempotency_key="k")).text == "late answer"
        assert len(world.requests) == 2
        assert words(session) == ["go"]


async def test_an_interrupted_turn_overtaken_by_another_one_stores_its_words_once() -> None:
    world = World(answers("to both"), faults={0: Fault.drop()})
    async with world.manager() as manager:
        session = await create(manager)
        with pytest.raises(ModelError):
            await session.send("first", idempotency_key="k")
        await session.send("second")
        await session.send("first", idempotency_key="k")
        assert "\n".join(words(session)).count("first") == 1
    world.check()


async def test_a_refused_request_can_be_sent_again_under_its_key() -> None:
    world = World(answers("fine"), faults={0: Fault.http(400, "try later")})
    async with world.manager() as manager:
        session = await create(manager)
        with pytest.raises(ModelError):
            await session.send("Hello", idempotency_key="k")
        assert session.messages == []
        assert (await session.send("Hello", idempotency_key="k")).text == "fine"
        assert words(session) == ["Hello"]
        assert (await session.send("Hello", idempotency_key="k")).text == "fine"
        assert len(world.requests) == 2


async def test_a_refusal_and_a_stopped_reply_are_replies_too() -> None:
    world = World(answers(Scripted("no", stop_reason="refusal"), "a long answer " * 30))
    async with world.manager() as manager:
        session = await create(manager)
        assert (await session.send("bad", idempotency_key="k1")).stop_reason == "refusal"
        assert (await session.send("bad", idempotency_key="k1")).stop_reason == "refusal"
        async with session.stream("tell", idempotency_key="k2") as stream:
            async for _ in stream.text_stream:
                await stream.cancel()
            first = await stream.get_final_reply()
        again = await session.send("tell", idempotency_key="k2")
        assert (again.stop_reason, again.content) == ("cancelled", first.content)
        assert len(world.requests) == 2


async def test_a_caller_that_is_cancelled_while_waiting_leaves_no_trace() -> None:
    from sessions.simulator import Latency

    world = World(latency=Latency(first_event=5.0))
    async with world.manager() as manager:
        session = await create(manager)
        tasks = [asyncio.create_task(session.send(f"words {n}")) for n in range(3)]
        await world.clock.advance(1)
        tasks[1].cancel()
        await world.clock.advance(60)
        done = await asyncio.gather(*tasks, return_exceptions=True)
        assert isinstance(done[1], asyncio.CancelledError)
        assert words(session) == ["words 0", "words 2"]
    world.check()


async def test_a_turn_running_in_another_process_is_waited_for(tmp_path: Path) -> None:
    from sessions.simulator import Latency

    world = World(url=tmp_path / "a.db", latency=Latency(first_event=30.0))
    async with world.manager() as one, world.manager() as two:
        session = await create(one)
        other = await two.open(session.id)
        first = asyncio.create_task(session.send("Hello", idempotency_key="k"))
        await world.clock.advance(1)
        second = asyncio.create_task(other.send("Hello", idempotency_key="k"))
        await world.clock.advance(59)
        assert (await second).content == (await first).content
        assert len(world.requests) == 1
        assert words(other) == ["Hello"]


async def test_an_empty_key_is_refused_before_anything_is_stored() -> None:
    world = World()
    async with world.manager() as manager:
        session = await create(manager)
        with pytest.raises(ConfigurationError, match="idempotency_key is empty"):
            await session.send("go", idempotency_key="")
        assert session.messages == []
        assert (await session.send("go")).text
