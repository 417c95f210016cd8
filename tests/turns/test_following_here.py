"""Whoever follows a turn in its own process: what it has seen, added up, is what is stored."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from sessions import ModelError, SessionNotFound, SessionsError, ToolContext, tool
from sessions.following.channel import LOG
from sessions.following.events import Delta, Ended, Snapshot, TurnEvent
from sessions.following.view import PROGRESS, View
from sessions.simulator import Fault, Latency, Request, Scripted, filler
from tests.sessions.test_compaction import SMALL, talked
from tests.sessions.world import World, answers, call, create, everywhere
from tests.turns.acts import Acts, Follower, Held, plain, real

TEXT = " ".join(f"number {number} of the words that come one by one," for number in range(12))


@tool
async def slowly(n: int, context: ToolContext) -> str:
    """Says how far it is."""
    for step in range(3):
        context.progress(f"{n}: step {step}")
        await anyio.lowlevel.checkpoint()
    return f"did {n}"


async def follows(script: Any, *, tools: Any = (), state: str = "finished", **given: Any) -> Follower:
    """Follows a turn from its beginning; others attach at each of its events. All see the same in the end."""
    model = Held()
    first = True

    async def held(request: Request) -> Any:
        nonlocal first
        if first:
            first = False
            await model(request)
        return script(request)

    async with World(held).manager() as manager:
        session = await create(manager, tools=tools, **given)
        turn = await session.begin("Hello")
        follower, others = Follower(), list[Follower]()
        async with anyio.create_task_group() as group:
            group.start_soon(follower.follow, turn)
            await follower.attached.wait()

            async def attach() -> None:
                async for event in turn.follow():
                    if not isinstance(event, Ended) and len(others) < 60:
                        others.append(Follower())
                        group.start_soon(others[-1].follow, turn)

            group.start_soon(attach)
            await anyio.lowlevel.checkpoint()
            model.let_go()
        late = Follower()
        await late.follow(turn)
        opened = await manager.open(session.id, tools=tools)
        assert isinstance(follower.seen[0], Snapshot)
        for each in (follower, late, *others):
            assert each.view.state == state
            assert plain(each.view.entries) == plain(opened.entries)
            assert each.view.reply is None
            end = each.seen[-1]
            assert isinstance(end, Ended)
            assert (end.state, end.usage) == (state, follower.seen[-1].usage)  # type: ignore[attr-defined]
            again = View()
            for event in each.seen:
                again.add(TurnEvent.from_json(event.to_json()))
            assert plain(again.entries) == plain(opened.entries)
        assert late.types == ["snapshot", "ended"]
        assert len(others) > 2
    return follower


@everywhere
async def test_a_text() -> None:
    seen = await follows(answers(TEXT))
    assert seen.types[0] == "snapshot"
    assert seen.types[-3:] == ["usage", "entry", "ended"]
    told = "".join(event.text for event in seen.seen if isinstance(event, Delta))
    assert told == TEXT


@everywhere
async def test_thinking_and_text() -> None:
    seen = await follows(
        answers(Scripted(TEXT, thinking="I think so.")), thinking={"type": "adaptive", "display": "summarized"}
    )
    kinds = {event.kind for event in seen.seen if isinstance(event, Delta)}
    assert {"text", "thinking", "signature"} <= kinds


@everywhere
async def test_parallel_tools_and_what_they_say_meanwhile() -> None:
    calls = [{"type": "text", "text": "Let me see."}, *(call("slowly", n=n) for n in range(3)), call("unknown")]
    seen = await follows(answers(calls, "all done"), tools=[slowly])
    types = seen.types
    assert types.count("tool_started") == types.count("tool_result") == 4
    assert types.count("tool_progress") == 9
    assert types.count("entry") == 3
    ids = {event.call_id for event in seen.seen if event.type == "tool_result"}  # type: ignore[attr-defined]
    assert len(ids) == 4


@everywhere
async def test_an_error_in_the_middle_of_the_reply() -> None:
    seen = await follows(answers(Scripted(TEXT, fault=Fault.cut(6))), state="interrupted")
    assert seen.seen[-1].error  # type: ignore[attr-defined]


@everywhere
async def test_an_error_behind_tools() -> None:
    await follows(answers([call("slowly", n=1)], Fault.http(529)), tools=[slowly], state="interrupted")


@everywhere
async def test_what_the_api_refuses_leaves_no_words() -> None:
    await follows(answers(Fault.http(400, "no")), state="failed")


@everywhere
async def test_what_the_model_declines_leaves_no_words() -> None:
    await follows(answers(Scripted("I will not.", stop_reason="refusal")))


@everywhere
async def test_a_turn_that_waits() -> None:
    acts = Acts()
    seen = await follows(answers([call("pay", amount=5), call("look")]), tools=acts.tools, state="waiting")
    assert seen.types[-2:] == ["approval_needed", "ended"]
    assert [each.name for each in seen.view.pending] == ["pay"]


@everywhere
async def test_a_turn_whose_tools_the_caller_runs() -> None:
    theirs = {"name": "theirs", "input_schema": {"type": "object", "properties": {}}}
    await follows(answers([call("theirs")]), tools=[theirs], state="waiting")


@everywhere
async def test_a_summary_in_the_middle_of_a_turn() -> None:
    model = Held(lambda _: TEXT)
    world = World(lambda request: model(request) if "three" in request.text else "ok", profile=SMALL)
    async with world.manager(profile=SMALL) as manager:
        session = await talked(manager, "one", filler(3000), compact="auto")
        turn = await session.begin(f"three {filler(5000)}")
        early, late = Follower(), Follower()
        async with anyio.create_task_group() as group:
            group.start_soon(early.follow, turn)
            await model.asked.wait()
            group.start_soon(late.follow, turn)
            await late.attached.wait()
            model.let_go()
        assert await session.entries_before()
        for each in (early, late):
            assert plain(each.view.entries) == plain(session.entries[-2:])


# stop


@everywhere
async def test_stop_in_the_middle_of_a_reply_and_of_tools() -> None:
    world = World(lambda _: TEXT, latency=Latency(per_output_token=1.0))
    async with world.manager() as manager:
        session = await create(manager)
        turn = await session.begin("Hello")
        follower = Follower()
        async with anyio.create_task_group() as group:
            group.start_soon(follower.follow, turn)
            await world.clock.advance(20)
            seen = follower.text
            assert seen
            await turn.stop()
        assert follower.view.state == "cancelled"
        assert follower.text.startswith(seen)
        assert plain(follower.view.entries) == plain(session.entries)
        assert TEXT.startswith(session.messages[-1]["content"][0]["text"])
    started = anyio.Event()

    @tool
    async def wait() -> str:
        """Waits."""
        started.set()
        await anyio.sleep_forever()
        return "never"

    async with World(answers([call("wait")])).manager() as manager:
        session = await create(manager, tools=[wait])
        turn = await session.begin("Hello")
        follower = Follower()
        async with anyio.create_task_group() as group:
            group.start_soon(follower.follow, turn)
            await started.wait()
            await turn.stop()
        assert follower.view.state == "cancelled"
        assert plain(follower.view.entries) == plain(session.entries)


# who comes, goes and comes again


@everywhere
async def test_after_an_event_comes_what_followed_it_and_after_none_of_ours_a_snapshot() -> None:
    world = World(lambda _: TEXT, latency=Latency(per_output_token=1.0))
    async with world.manager() as manager:
        session = await create(manager)
        turn = await session.begin("Hello")
        first, second = Follower(), Follower()
        async with anyio.create_task_group() as group:
            group.start_soon(first.follow, turn)
            await world.clock.advance(20)
            group.cancel_scope.cancel()
        assert turn.state == "running"  # a closed tab stops nothing
        last = first.seen[-1].id
        second.view = first.view
        async with anyio.create_task_group() as group:
            group.start_soon(second.follow, turn, last)
            for id in ("nonsense", "", "0000000000.0000000000", "9" * 500, "9999999999.9999999999"):
                group.start_soon(Follower().follow, turn, id)
            await world.clock.advance(1000)
        assert "snapshot" not in second.types
        assert first.seen[-1].id < second.seen[0].id
        assert plain(second.view.entries) == plain(session.entries)
        for id in (last, "nonsense", second.seen[-1].id):
            late = Follower()
            await late.follow(turn, id)
            assert late.types[-1] == "ended"


@everywhere
async def test_a_turn_that_goes_on_begins_anew_for_its_followers() -> None:
    world = World(answers(Scripted(TEXT, fault=Fault.cut(6)), "at last"))
    async with world.manager() as manager:
        session = await create(manager)
        turn = await session.begin("Hello", idempotency_key="k")
        follower = Follower()
        await follower.follow(turn)
        assert follower.view.state == "interrupted"
        again = await session.begin("Hello", idempotency_key="k")
        await follower.follow(again, follower.seen[-1].id)
        assert follower.view.state == "finished"
        assert plain(follower.view.entries) == plain(session.entries)


@everywhere
async def test_a_turn_of_the_queue_is_followed_from_its_place_in_line() -> None:
    model = Held()
    async with World(model).manager() as manager:
        session = await create(manager)
        await session.begin("one")
        turn = await session.begin("two")
        follower = Follower()
        async with anyio.create_task_group() as group:
            group.start_soon(follower.follow, turn)
            await follower.attached.wait()
            assert follower.view.state == "queued"
            model.let_go()
        assert follower.view.state == "finished"
        assert plain(follower.view.entries) == plain(session.entries[2:])


@everywhere
async def test_a_waiting_turn_is_followed_again_when_it_goes_on() -> None:
    acts = Acts()
    world = World(answers([call("pay", amount=5)], "done"))
    async with world.manager() as manager:
        session = await create(manager, tools=acts.tools)
        turn = await session.begin("go")
        follower = Follower()
        await follower.follow(turn)
        await session.approve(follower.view.pending[0].call_id)
        await follower.follow(turn, follower.seen[-1].id)
        assert follower.view.state == "finished"
        assert follower.view.pending == ()
        assert plain(follower.view.entries) == plain(session.entries)


@everywhere
async def test_who_comes_late_sees_how_far_a_tool_is() -> None:
    told, go_on = anyio.Event(), anyio.Event()

    @tool
    async def dig(context: ToolContext) -> str:
        """Digs, and says how far it is before anybody listens."""
        for depth in range(PROGRESS + 20):
            context.progress(f"{depth} m")
        told.set()
        await go_on.wait()
        return "done"

    async with World(answers([call("dig")])).manager() as manager:
        session = await create(manager, tools=[dig])
        turn = await session.begin("Dig")
        await told.wait()
        events = turn.follow()
        snapshot = await anext(events)
        assert isinstance(snapshot, Snapshot)
        assert [part.progress for part in snapshot.tools] == [tuple(f"{n} m" for n in range(20, PROGRESS + 20))]
        go_on.set()
        await turn.reply()
        await events.aclose()


@everywhere
async def test_who_reads_slowly_holds_nobody_up_and_gets_a_snapshot() -> None:
    @tool
    async def chatty(context: ToolContext) -> str:
        """Says a lot."""
        for number in range(3 * LOG):
            context.progress(f"number {number}")
            if number % 100 == 0:
                await anyio.lowlevel.checkpoint()
        return "done"

    async with World(answers([call("chatty")])).manager() as manager:
        session = await create(manager, tools=[chatty])
        turn = await session.begin("Hello")
        fast, slow = Follower(), Follower()
        events = turn.follow()
        async with anyio.create_task_group() as group:
            group.start_soon(fast.follow, turn)
            event = await anext(events)
            slow.view.add(event)
            await turn.reply()
        async for event in events:
            slow.seen.append(event)
            slow.view.add(event)
        assert slow.types.count("snapshot") == 1
        assert len(slow.seen) <= LOG + 2
        assert plain(slow.view.entries) == plain(fast.view.entries) == plain(session.entries)


@everywhere
async def test_a_hundred_followers_see_the_same() -> None:
    async with World(answers([call("slowly", n=1)], TEXT)).manager() as manager:
        session = await create(manager, tools=[slowly])
        turn = await session.begin("Hello")
        followers = [Follower() for _ in range(100)]
        async with anyio.create_task_group() as group:
            for each in followers:
                group.start_soon(each.follow, turn)
        for each in followers:
            assert plain(each.view.entries) == plain(session.entries)
            assert each.seen[-1] == followers[0].seen[-1]


@everywhere
async def test_nothing_is_kept_of_a_turn_that_is_over() -> None:
    async with World().manager() as manager:
        session = await create(manager)
        for number in range(3):
            turn = await session.begin(f"number {number}")
            await Follower().follow(turn)
        queued = [await session.begin(f"queued {number}") for number in range(4)]
        await queued[2].stop()
        for turn in queued:
            await turn.reply()
        while manager.runtime.following.has_queued(session.id):
            await anyio.sleep(0.01)
        ids = [turn.id for turn in await session.turns()]
        assert len(ids) == 7
        assert [manager.runtime.following.own(session.id, id) for id in ids] == [None] * 7


@everywhere
async def test_a_manager_that_ends_tells_its_followers(tmp_path: Path) -> None:
    model = Held()
    world = real(model, url=tmp_path / "a.db")
    outcomes: list[str] = []
    async with world.manager() as manager:
        session = await create(manager)
        turn = await session.begin("one")
        queued = await session.begin("two")

        async def follow(which: Any) -> None:
            with pytest.raises(SessionsError, match="manager"):
                await Follower().follow(which)
            outcomes.append("told")

        async with anyio.create_task_group() as group:
            group.start_soon(follow, turn)
            group.start_soon(follow, queued)
            await model.asked.wait()
            await anyio.sleep(0.05)
            await manager.drain()
        assert outcomes == ["told", "told"]


@everywhere
async def test_a_sent_turn_is_followed_as_one_that_was_begun() -> None:
    model = Held()
    async with World(model).manager() as manager:
        session = await create(manager)
        follower = Follower()
        async with anyio.create_task_group() as group:
            group.start_soon(session.send, "Hello")
            await model.asked.wait()
            turn = await manager.turn(session.id)
            assert turn is not None
            assert turn.state == "running"
            group.start_soon(follower.follow, turn)
            await follower.attached.wait()
            model.let_go()
        assert plain(follower.view.entries) == plain(session.entries)


@everywhere
async def test_the_stored_snapshot_of_each_turn_holds_its_own_entries() -> None:
    script = answers("first", Scripted("no", stop_reason="refusal"), Fault.http(529), "fourth", [call("slowly", n=1)])
    async with World(script).manager() as manager:
        session = await create(manager, tools=[slowly])
        turns = []
        for number in range(5):
            turn = await session.begin(f"number {number}")
            turns.append(turn)
            try:
                await turn.reply()
            except ModelError:
                continue
        entries = session.entries
        lengths = [2, 0, 1, 2, 4]
        place = 0
        for turn, length in zip(turns, lengths, strict=True):
            follower = Follower()
            await follower.follow(turn)
            assert plain(follower.view.entries) == plain(entries[place : place + length])
            place += length
        assert place == len(entries)


# streams


@everywhere
async def test_a_stream_tells_the_result_of_each_tool() -> None:
    async with World(answers([call("slowly", n=1), call("slowly", n=2)], "done")).manager() as manager:
        session = await create(manager, tools=[slowly])
        async with session.stream("Hello") as stream:
            told = [event async for event in stream if event.type == "tool_result"]
            assert (await stream.get_final_reply()).text == "done"
        assert [event.content for event in told] == ["did 1", "did 2"]
        assert [event.name for event in told] == ["slowly", "slowly"]
        assert [event.is_error for event in told] == [False, False]
        async with session.stream("Hello") as stream:
            assert [text async for text in stream.text_stream] == ["fine"]


@everywhere
async def test_resume_stream_goes_on_with_what_was_interrupted() -> None:
    async with World(answers([call("slowly", n=1)], Fault.http(529), "at last")).manager() as manager:
        session = await create(manager, tools=[slowly])
        with pytest.raises(ModelError):
            await session.send("Hello")
        assert session.state == "interrupted"
        async with session.resume_stream() as stream:
            assert "".join([text async for text in stream.text_stream]) == "at last"
            assert (await stream.get_final_reply()).text == "at last"
        assert session.state == "idle"
        async with session.resume_stream() as stream:
            assert [event async for event in stream] == []
            with pytest.raises(SessionsError):
                await stream.get_final_reply()


@everywhere
async def test_following_a_turn_of_another_owner() -> None:
    async with World().manager() as manager:
        session = await create(manager, owner="ada")
        await session.send("Hello")
        with pytest.raises(SessionNotFound):
            await manager.turn(session.id, owner="bob")
        with pytest.raises(SessionNotFound):
            await manager.for_owner("bob").turn(session.id)
        assert await manager.turn(session.id, owner="ada") is not None
    gc.collect()
