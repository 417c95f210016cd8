"""One turn: what is sent, what comes back, what the ledger says."""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import anthropic
import pytest

from sessions import ConfigurationError, Fixed, ModelError, SessionsError, StepLimitReached, Usage, profile_for, tool
from sessions.simulator import Fault, Latency, Request, Scripted, filler
from tests.sessions.world import MODEL, SYSTEM, World, answers, buckets, call, chain_of_reads, create, everywhere, words
from tests.sessions.world import marks as marks_of


@everywhere
async def test_a_reply_tells_all_about_its_turn(tmp_path: Path) -> None:
    world = World(answers(Scripted("Hello you.", thinking="They greet me.")), url=tmp_path / "chat.db")
    async with world.manager() as manager:
        session = await create(manager, thinking={"type": "adaptive"})
        reply = await session.send("Hello")
        assert reply.text == "Hello you."
        assert [block["type"] for block in reply.content] == ["thinking", "text"]
        assert reply.stop_reason == "end_turn"
        assert reply.session is session
        assert isinstance(reply.message, anthropic.types.Message)
        assert reply.message.content[1].type == "text"
        assert reply.message.id == world.requests[0].message_id
        assert reply.message.usage.output_tokens == reply.usage.output
        assert reply.usage == world.engine.bill().usage
        assert reply.cost == world.engine.bill().cost
        (row,) = reply.calls
        assert (row.kind, row.model, row.status, row.stop_reason) == ("turn", MODEL, "ok", "end_turn")
        assert row.entry == session.head
        assert (row.request_id, row.response_id) == (world.requests[0].request_id, world.requests[0].message_id)
        assert row.started == row.first_event == row.ended == world.clock.now()
        assert row.expected is not None
        assert {one[2] for one in row.points} <= {"5m", "1h"}
        assert (row.waited, row.miss, row.error) == (0.0, None, None)
        assert await session.calls() == [row]
        total = await session.cost()
        assert (total.total, total.by_kind, total.usage, total.calls) == (row.cost, {"turn": row.cost}, row.usage, 1)
    world.check()


@everywhere
async def test_messages_and_entries_are_fresh_copies() -> None:
    async with World().manager() as manager:
        session = await create(manager)
        await session.send("Hello")
        before = session.messages
        session.messages[0]["content"][0]["text"] = "edited"
        session.messages.clear()
        session.entries[0].content[0]["text"] = "edited"
        session.entries.clear()
        assert session.messages == before
        assert [e.role for e in session.entries] == ["user", "assistant"]
        assert session.entries[-1].id == session.head


@everywhere
async def test_every_turn_reads_all_that_the_one_before_read_and_wrote(tmp_path: Path) -> None:
    world = World(url=tmp_path / "chat.db")
    async with world.manager() as manager:
        session = await create(manager)
        replies = []
        for number in range(12):
            replies.append(await session.send(f"Turn {number}: {filler(100 + 37 * number)}"))
            await world.clock.advance(100)
        chain_of_reads([reply.usage for reply in replies])
        assert all(reply.usage.input == 0 for reply in replies)
        assert buckets((await session.cost()).usage) == buckets(world.engine.bill().usage)
        assert (await session.cost()).total == world.engine.bill().cost
    world.check()


async def test_times_in_the_ledger_are_the_clocks() -> None:
    world = World(lambda request: "four words of text", latency=Latency(first_event=3.0, per_output_token=0.5))
    async with world.manager() as manager:
        session = await create(manager)
        start = world.clock.now()
        import anyio

        async with anyio.create_task_group() as group:
            group.start_soon(session.send, "Hello")
            await world.clock.advance(100)
        (row,) = await session.calls()
        assert (row.started, row.first_event) == (start, start + 3)
        assert row.ended == start + 3 + 0.5 * row.usage.output


async def test_diagnostics_go_with_every_call_and_name_the_call_before() -> None:
    @tool
    def look(n: int) -> str:
        """Looks."""
        return "seen"

    world = World(answers([call("look", n=1)], "one", "two", "three"))
    async with world.manager() as manager:
        session = await create(manager, tools=[look])
        for text in ("a", "b"):
            await session.send(text)
        await session.prewarm()
        await session.send("c")
        turns = [one for one in world.requests if (one.body or {}).get("stream")]
        sent = [(one.body or {})["diagnostics"]["previous_message_id"] for one in turns]
        assert sent == [None, *[one.message_id for one in turns[:-1]]]
        reopened = await manager.open(session.id, tools=[look])
        await reopened.send("d")
        assert world.bodies[-1]["diagnostics"] == {"previous_message_id": turns[-1].message_id}
        await reopened.update(model="claude-opus-5", rebase=True)
        await reopened.send("e")
        assert world.bodies[-1]["diagnostics"] == {"previous_message_id": None}
        await reopened.append([{"role": "user", "content": "f"}, {"role": "assistant", "content": "g"}])
        await reopened.send("h")
        assert world.bodies[-1]["diagnostics"] == {"previous_message_id": None}
    quiet = World()
    async with quiet.manager(diagnostics=False) as manager:
        await (await create(manager)).send("a")
        assert "diagnostics" not in quiet.bodies[0]
    world.check()


async def test_a_forks_first_call_names_the_reply_it_goes_on_from() -> None:
    world = World()
    async with world.manager() as manager:
        session = await create(manager)
        reply = await session.send("one")
        branch = await session.fork()
        await branch.send("two")
        assert world.bodies[-1]["diagnostics"] == {"previous_message_id": reply.calls[-1].response_id}


async def test_context_opens_the_first_message_and_has_its_own_breakpoint() -> None:
    world = World()
    async with world.manager(ttl=Fixed("5m")) as manager:
        pinned = [{"type": "text", "text": filler(700, "pinned")}, {"type": "text", "text": filler(700, "more")}]
        session = await create(manager, context=pinned)
        await session.send("Hello")
        await session.send("Again")
        for body in world.bodies:
            first = body["messages"][0]["content"]
            assert [block["text"] for block in first[:3]] == [pinned[0]["text"], pinned[1]["text"], "Hello"]
            assert "cache_control" in first[1]
        assert [place for place, _ in marks_of(world.bodies[1])] == ["system", "messages", "messages", "messages"]
        assert len(session.messages[2]["content"]) == 1
    world.check()


async def test_the_users_own_markers_are_lifted_and_never_a_fifth() -> None:
    world = World()
    async with world.manager() as manager:
        own = {"cache_control": {"type": "ephemeral"}}
        session = await create(
            manager,
            system=[{"type": "text", "text": filler(600), **own}, {"type": "text", "text": filler(600), **own}],
            context=[{"type": "text", "text": filler(600), **own}],
        )
        for number in range(4):
            await session.send([{"type": "text", "text": filler(600, f"w{number}{n}"), **own} for n in range(4)])
        assert all(len(marks_of(body)) <= 4 for body in world.bodies)
        assert "cache_control" not in str(session.messages) + session.settings.to_json().replace("marks", "")
    world.check()


async def test_update_of_something_free_keeps_the_users_own_markers() -> None:
    async with World().manager() as manager:
        marked = {"type": "text", "text": SYSTEM, "cache_control": {"type": "ephemeral"}}
        session = await create(manager, system=[marked, {"type": "text", "text": SYSTEM}])
        before = session.settings.marks
        await session.update(max_tokens=100)
        assert session.settings.marks == before == (("system", 0),)


async def test_params_are_sent_as_given_and_betas_take_the_beta_route() -> None:
    world = World()
    async with world.manager() as manager:
        plain = await create(manager, params={"metadata": {"user_id": "u1"}, "stop_sequences": ["STOP"]})
        await plain.send("Hello")
        assert world.bodies[-1]["metadata"] == {"user_id": "u1"}
        assert world.bodies[-1]["stop_sequences"] == ["STOP"]
        assert world.requests[-1].betas == frozenset()
        beta = await create(manager, params={"betas": ["context-management-2025-06-27"]})
        reply = await beta.send("Hello")
        assert "context-management-2025-06-27" in world.requests[-1].betas
        assert type(reply.message) is anthropic.types.Message
    world.check()


@pytest.mark.parametrize(
    ("gap", "ttl"), [(60, "5m"), (timedelta(minutes=30), "1h"), (1800.0, "1h"), (timedelta(days=2), "5m")]
)
async def test_what_the_caller_knows_of_the_gap_decides_the_lifetime(gap: Any, ttl: str) -> None:
    world = World()
    async with world.manager() as manager:
        session = await create(manager)
        reply = await session.send("Hello", expected_gap=gap)
        assert {one[2] for one in reply.calls[0].points} == {ttl}


@pytest.mark.parametrize("gap", [-1, float("nan"), timedelta(seconds=-5), "x", []])
async def test_an_impossible_gap_is_refused(gap: Any) -> None:
    world = World()
    async with world.manager() as manager:
        session = await create(manager)
        with pytest.raises(ValueError, match="expected_gap must be zero or more seconds"):
            await session.send("Hello", expected_gap=gap)
        assert session.head is None
        assert world.requests == []


@pytest.mark.parametrize("timeout", [-1, float("nan"), "x", []])
async def test_an_impossible_timeout_is_refused(timeout: Any) -> None:
    world = World()
    async with world.manager() as manager:
        session = await create(manager)
        with pytest.raises(ValueError, match="timeout must be zero or more seconds"):
            await session.send("Hello", timeout=timeout)
        with pytest.raises(ValueError, match="timeout must be zero or more seconds"):
            await session.batch(["Hello"], timeout=timeout)
        with pytest.raises(ValueError, match="poll must be zero or more seconds"):
            await session.batch(["Hello"], poll="x")  # type: ignore[arg-type]
        assert session.head is None
        assert world.requests == []


@everywhere
async def test_a_timeout_ends_the_turn_as_a_cancelled_task_does() -> None:
    import anyio

    world = World(lambda request: "slow answer", latency=Latency(first_event=5.0, per_output_token=60.0))
    async with world.manager() as manager:
        session = await create(manager)
        raised: list[BaseException] = []

        async def sending() -> None:
            try:
                await session.send("Hello", timeout=30)
            except TimeoutError as error:
                raised.append(error)

        async with anyio.create_task_group() as group:
            group.start_soon(sending)
            await world.clock.advance(31)
            assert raised
        assert words(session) == ["Hello"]
        (row,) = await session.calls()
        assert row.status == "cancelled"
        assert row.usage.total_input == world.engine.bill().usage.total_input
        world.latency = None
        async with anyio.create_task_group() as group:
            group.start_soon(session.resume)
            await world.clock.advance(2000)
        assert words(session) == ["Hello"]
        assert session.messages[-1]["role"] == "assistant"
    world.check()


async def test_a_turn_within_its_time_is_not_disturbed() -> None:
    async with World().manager() as manager:
        session = await create(manager)
        assert (await session.send("Hello", timeout=0.5)).text
        async with session.stream("more", timeout=5) as stream:
            assert [text async for text in stream.text_stream]
        assert [step.kind async for step in session.run("more", timeout=5)] == ["reply"]


@everywhere
async def test_the_step_limit_keeps_all_results_and_resume_goes_on() -> None:
    ran: list[int] = []

    @tool
    async def step(n: int) -> str:
        """Takes a step."""
        ran.append(n)
        return f"step {n}"

    world = World(answers(*[[call("step", n=n)] for n in range(5)], "done"))
    async with world.manager(max_steps=3) as manager:
        session = await create(manager, tools=[step])
        with pytest.raises(StepLimitReached, match="max_steps"):
            await session.send("go")
        assert ran == [0, 1, 2]
        assert [message["role"] for message in session.messages] == ["user", "assistant"] * 3 + ["user"]
        reply = await session.resume()
        assert reply is not None
        assert reply.text == "done"
        assert ran == [0, 1, 2, 3, 4]
        assert len(reply.calls) == 6
        assert await session.resume() is None
        assert buckets((await session.cost()).usage) == buckets(world.engine.bill().usage)
    world.check()


async def test_send_goes_on_after_the_step_limit_too() -> None:
    @tool
    def step() -> str:
        """Takes a step."""
        return "taken"

    world = World(answers([call("step")], "fine"))
    async with world.manager(max_steps=1) as manager:
        session = await create(manager, tools=[step])
        with pytest.raises(StepLimitReached):
            await session.send("go")
        assert (await session.send("never mind")).text == "fine"
        assert words(session) == ["go", "never mind"]
    world.check()


@everywhere
async def test_run_gives_each_reply_and_each_set_of_results() -> None:
    @tool
    async def look(n: int) -> str:
        """Looks."""
        return f"seen {n}"

    world = World(answers([call("look", n=1), call("look", n=2)], "done"))
    async with world.manager() as manager:
        session = await create(manager, tools=[look])
        steps = [step async for step in session.run("go")]
        assert [step.kind for step in steps] == ["reply", "tool_results", "reply"]
        assert [one["content"] for one in steps[1].content] == ["seen 1", "seen 2"]
        assert (steps[1].usage, steps[1].cost, steps[1].call) == (None, None, None)
        assert steps[0].stop_reason == "tool_use"
        assert steps[2].text == "done"
        assert [step.entry.id for step in steps if step.entry] == [entry.id for entry in session.entries[1:]]
        assert sum((step.usage for step in steps if step.usage), start=Usage()) == world.engine.bill().usage


async def test_a_run_left_early_can_be_resumed() -> None:
    @tool
    def look() -> str:
        """Looks."""
        return "seen"

    world = World(answers([call("look")], "done"))
    async with world.manager() as manager:
        session = await create(manager, tools=[look])
        steps = session.run("go")
        await anext(steps)
        await steps.aclose()
        reply = await session.resume()
        assert reply is not None
        assert reply.text == "done"
        async for _ in session.run("again"):
            break
        assert (await session.send("and now")).text == "fine"
    world.check()


@everywhere
async def test_resume_has_nothing_to_do_on_a_whole_conversation() -> None:
    world = World()
    async with world.manager() as manager:
        session = await create(manager)
        assert await session.resume() is None
        await session.send("Hello")
        assert await session.resume() is None
        assert len(world.requests) == 1
        with pytest.raises((ValueError, SessionsError)):
            await session.resume(in_doubt="perhaps")  # type: ignore[arg-type]


async def test_resume_answers_words_that_an_error_left_open() -> None:
    world = World(faults={0: Fault.http(529)})
    async with world.manager() as manager:
        session = await create(manager)
        with pytest.raises(ModelError) as caught:
            await session.send("Hello")
        assert caught.value.retryable
        assert caught.value.request_id == world.requests[0].request_id
        assert isinstance(caught.value.__cause__, anthropic.APIStatusError)
        reply = await session.resume()
        assert reply is not None
        assert words(session) == ["Hello"]
        assert [one.status for one in await session.calls()] == ["error", "ok"]
        assert [one.status for one in reply.calls] == ["error", "ok"]
        assert (await session.cost()).total == world.engine.bill().cost


async def test_prices_are_none_where_none_is_published() -> None:
    world = World(profile=profile_for(MODEL))
    async with world.manager() as manager:
        with pytest.warns(UserWarning, match="my-own-model"):
            session = await create(manager, model="my-own-model")
        reply = await session.send("Hello")
        assert reply.cost is None
        total = await session.cost()
        assert (total.total, total.unpriced, total.calls) == (Decimal(0), 1, 1)


async def test_blocks_of_the_sdk_are_taken_as_content() -> None:
    world = World()
    async with world.manager() as manager:
        session = await create(manager)
        first = await session.send([anthropic.types.TextBlock(type="text", text="from the SDK")])
        assert session.messages[0] == {"role": "user", "content": [{"type": "text", "text": "from the SDK"}]}
        assert first.text
        with pytest.raises(ConfigurationError, match="tool_result"):
            await session.send([{"type": "tool_result", "tool_use_id": "toolu_x", "content": "for nobody"}])
        assert len(session.messages) == 2
    world.check()


async def test_cache_rules_hold_for_a_model_that_strips_old_thinking() -> None:
    def script(request: Request) -> Scripted:
        return Scripted(f"answer {request.turn}", thinking=f"thought {request.turn}")

    world = World(script)
    async with world.manager() as manager:
        session = await create(
            manager, model="claude-haiku-4-5", system=filler(5000), thinking={"type": "enabled", "budget_tokens": 1024}
        )
        replies = [await session.send(f"turn {number}") for number in range(4)]
        assert all(reply.usage.cache_read > 4000 for reply in replies[1:])
        assert sum(block["type"] == "thinking" for m in session.messages for block in m["content"]) == 4
    world.check()


async def test_the_call_before_is_known_after_many_failed_ones() -> None:
    world = World(faults={number: Fault.http(529) for number in range(1, 31)})
    async with world.manager() as manager:
        session = await create(manager)
        await session.send("Hello")
        for _ in range(30):
            with pytest.raises(ModelError):
                await (session.resume() if len(session.messages) > 2 else session.send("And?"))
        found = await manager.open(session.id)
        await found.resume()
        assert world.bodies[-1]["diagnostics"] == {"previous_message_id": world.requests[0].message_id}
        assert words(found) == ["Hello", "And?"]
        assert len(await found.calls()) == 32
    world.check()


@pytest.mark.parametrize("timeout", [0, -5])
async def test_no_time_at_all_leaves_the_session_usable(timeout: float) -> None:
    world = World()
    async with world.manager() as manager:
        session = await create(manager)
        with pytest.raises((TimeoutError, ValueError, SessionsError)):
            await session.send("Hello", timeout=timeout)
        await session.resume()
        assert (await session.send("more")).text
        assert words(session)[-1] == "more"
    world.check()


async def test_what_the_user_stopped_is_not_taken_up_by_resume() -> None:
    """A stopped turn is over: a start-up that resumes what crashed must not answer it after all."""

    @tool
    async def wait() -> str:
        """Waits."""
        await world.clock.sleep(100)
        return "waited"

    import asyncio

    world = World(answers([call("wait")], "answered after all"))
    async with world.manager() as manager:
        session = await create(manager, tools=[wait])
        async with session.stream("go") as stream:
            consumer = asyncio.create_task(stream.get_final_reply())
            await world.clock.advance(1)
            await stream.cancel()
            assert (await consumer).stop_reason == "cancelled"
        assert await session.resume() is None
        assert len(world.requests) == 1
