"""A turn that is begun belongs to the conversation: whoever began it may go, and it ends as any other turn does."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import anyio.lowlevel
import pytest

from sessions import (
    BudgetExceeded,
    ConfigurationError,
    ModelError,
    SessionNotFound,
    SessionsError,
    StepLimitReached,
    Turn,
    tool,
)
from sessions.core.steps import INTERRUPTED
from sessions.simulator import Fault, Latency, Scripted
from storage import Change, Lease, open_store
from storage.sql import SQLStore
from tests.sessions.world import World, answers, call, create, everywhere, words
from tests.turns.acts import Acts, Held, real


@everywhere
async def test_it_returns_when_the_words_are_durable_and_the_reply_comes_later(tmp_path: Path) -> None:
    model = Held()
    world = World(model, url=tmp_path / "a.db")
    async with world.manager() as manager:
        session = await create(manager)
        turn = await session.begin("Hello")
        assert isinstance(turn, Turn)
        assert (turn.session_id, turn.state, turn.ended, turn.error) == (session.id, "running", None, None)
        assert turn.started == world.clock.now()
        assert session.state == "running"
        assert turn.id in repr(turn)
        other = await manager.open(session.id)
        assert words(other) == ["Hello"]
        assert other.state == "running"
        model.let_go()
        reply = await turn.reply()
        assert reply.text == "You said: Hello"
        assert reply.stop_reason == "end_turn"
        assert reply.session.id == session.id
        assert turn.state == "finished"
        assert turn.ended == world.clock.now()
        assert session.state == "idle"
        assert (await turn.reply()).content == reply.content
        assert reply.usage == (await session.calls())[0].usage
    world.check()


@everywhere
async def test_it_outlives_whoever_began_it() -> None:
    model = Held()
    world = World(model)
    async with world.manager() as manager:
        session = await create(manager)
        async with anyio.create_task_group() as request:

            async def handle() -> None:
                await session.begin("Hello")
                await anyio.sleep_forever()

            request.start_soon(handle)
            await model.asked.wait()
            request.cancel_scope.cancel()
        turn = await manager.turn(session.id)
        assert turn is not None
        assert turn.state == "running"
        model.let_go()
        assert (await turn.reply()).text == "You said: Hello"


@everywhere
async def test_it_is_begun_also_where_its_caller_is_cancelled_while_it_begins() -> None:
    world = World()
    async with world.manager() as manager:
        session = await create(manager)
        for number in range(12):
            async with anyio.create_task_group() as request:
                request.start_soon(session.begin, f"Hello {number}")
                for _ in range(number):
                    await anyio.lowlevel.checkpoint()
                request.cancel_scope.cancel()
            while (turn := await manager.turn(session.id)) is not None and turn.state in ("running", "queued"):
                await turn.reply()
        said = words(session)
        assert len(said) == len(set(said))
        for message in said:
            assert session.messages.count({"role": "user", "content": [{"type": "text", "text": message}]}) == 1


@everywhere
async def test_leaving_reply_stops_nothing() -> None:
    model = Held()
    async with World(model).manager() as manager:
        session = await create(manager)
        turn = await session.begin("Hello")
        with anyio.move_on_after(0.01):
            await turn.reply()
        assert turn.state == "running"
        model.let_go()
        assert (await turn.reply()).text == "You said: Hello"


async def fails(script: Any, *, state: str, error: type[Exception], match: str = "", **given: Any) -> None:
    """A turn that ends with an error: the same one as `send` has, in each `reply`, and its state says so."""
    world = World(script)
    async with world.manager(**given) as manager:
        session = await create(manager, tools=[again])
        turn = await session.begin("Hello")
        with pytest.raises(error, match=match) as first:
            await turn.reply()
        assert type(first.value) is error
        with pytest.raises(error, match=match):
            await turn.reply()
        assert turn.state == state
        assert turn.error
        assert turn.ended == world.clock.now()
        asked = await manager.turn(session.id)
        assert asked is not None
        assert (asked.id, asked.state, asked.error) == (turn.id, state, turn.error)
        with pytest.raises(SessionsError):
            await asked.reply()
        assert session.state == ("interrupted" if state == "interrupted" else "idle")
        assert words(session) == ([] if state == "failed" else ["Hello"])


@tool
def again() -> str:
    """Again."""
    return "again"


@everywhere
async def test_an_error_of_the_model_interrupts_it() -> None:
    await fails(answers(Fault.http(529)), state="interrupted", error=ModelError, match="Overloaded")


@everywhere
async def test_a_refused_request_fails_it() -> None:
    await fails(answers(Fault.http(400, "no such thing")), state="failed", error=ModelError, match="no such thing")


@everywhere
async def test_a_refused_request_after_tools_interrupts_it() -> None:
    late = [call("again")], Fault.http(400, "no such thing")
    await fails(answers(*late), state="interrupted", error=ModelError, match="what the tools have done is kept")


@everywhere
async def test_the_limit_of_steps_interrupts_it() -> None:
    endless = lambda _: [call("again")]  # noqa: E731
    await fails(endless, state="interrupted", error=StepLimitReached, match="max_steps", max_steps=2)


@everywhere
async def test_its_time_limit_interrupts_it() -> None:
    world = World(lambda _: "one two three four five six", latency=Latency(per_output_token=10.0))
    async with world.manager() as manager:
        session = await create(manager)
        turn = await session.begin("Hello", timeout=25)
        await world.clock.advance(60)
        assert turn.state == "interrupted"
        with pytest.raises(TimeoutError, match="25 seconds"):
            await turn.reply()
        async with anyio.create_task_group() as group:
            group.start_soon(session.resume)
            await world.clock.advance(1000)
        assert (await turn.reply()).text == "one two three four five six"  # the same turn went on


@everywhere
async def test_what_the_model_declines_is_its_reply() -> None:
    async with World(answers(Scripted("I will not.", stop_reason="refusal"))).manager() as manager:
        session = await create(manager)
        turn = await session.begin("Hello")
        reply = await turn.reply()
        assert reply.stop_reason == "refusal"
        assert turn.state == "finished"
        assert session.messages == []


@everywhere
async def test_bad_arguments_begin_nothing() -> None:
    async with World().manager() as manager:
        session = await create(manager)
        for content in ("", "  ", [], [{"type": "nonsense?"}, 3], None):
            with pytest.raises(ConfigurationError):
                await session.begin(content)
        with pytest.raises(ConfigurationError, match="while_running"):
            await session.begin("Hello", while_running="wait")
        with pytest.raises(ConfigurationError, match="timeout"):
            await session.begin("Hello", timeout=-1)
        with pytest.raises(ConfigurationError, match="idempotency_key"):
            await session.begin("Hello", idempotency_key="")
        with pytest.raises(ConfigurationError, match="toolu_none"):
            await session.begin([{"type": "tool_result", "tool_use_id": "toolu_none", "content": "x"}])
        assert await manager.turn(session.id) is None
        assert await session.turns() == []
        assert (await session.send("Hello")).text


@everywhere
async def test_a_session_that_was_deleted_begins_nothing_and_a_turn_of_it_says_so() -> None:
    model = Held()
    async with World(model).manager() as manager:
        session = await create(manager)
        turn = await session.begin("Hello")
        model.let_go()
        await turn.reply()
        await session.delete()
        with pytest.raises(SessionNotFound):
            await session.begin("More")
        with pytest.raises(SessionNotFound):
            await manager.turn(session.id)
        with pytest.raises(SessionsError, match="deleted"):
            await turn.reply()
        with pytest.raises(SessionsError, match=r"deleted|no session"):
            await turn.stop()


@everywhere
async def test_begin_send_and_stream_of_one_session_go_one_after_the_other(tmp_path: Path) -> None:
    model = Held()
    world = real(model, url=tmp_path / "a.db")
    async with world.manager() as manager:
        session = await create(manager)
        turn = await session.begin("one")
        same = await manager.open(session.id)

        async def stream() -> None:
            async with same.stream("two") as streamed:
                assert (await streamed.get_final_reply()).text == "You said: two"

        async with anyio.create_task_group() as group:
            group.start_soon(stream)
            await anyio.sleep(0.05)
            group.start_soon(session.send, "three")
            await anyio.sleep(0.05)
            last = await session.begin("four")
            assert last.state == "queued"
            model.let_go()
        assert (await turn.reply()).text == "You said: one"
        assert (await last.reply()).text == "You said: four"
        opened = await manager.open(session.id)
        assert sorted(words(opened)) == ["four", "one", "three", "two"]
        assert len(opened.messages) == 8
    world.check()


# idempotency keys


@everywhere
async def test_one_key_is_one_turn_whoever_asks(tmp_path: Path) -> None:
    model = Held()
    world = real(model, url=tmp_path / "a.db")
    async with world.manager() as one, world.manager() as two:
        session = await create(one)
        other = await two.open(session.id)
        turns: list[Turn] = []

        async def begin(where: Any) -> None:
            turns.append(await where.begin("Hello", idempotency_key="k"))

        async with anyio.create_task_group() as group:
            for where in (session, other, session, other, await one.open(session.id)):
                group.start_soon(begin, where)
        assert len({turn.id for turn in turns}) == 1
        model.let_go()
        assert (await session.send("Hello", idempotency_key="k")).text == "You said: Hello"
        assert len(world.requests) == 1
        turns.clear()
        await begin(session)
        await begin(other)
        assert {turn.state for turn in turns} == {"finished"}
        assert [turn.key for turn in await session.turns()] == ["k"]
        with pytest.raises(ConfigurationError, match="'k' was used with other content"):
            await session.begin("Goodbye", idempotency_key="k")
    world.check()


@everywhere
async def test_the_key_of_a_turn_in_the_queue_is_that_turn() -> None:
    model = Held()
    world = real(model)
    async with world.manager() as manager:
        session = await create(manager)
        first = await session.begin("one")
        turns: list[Turn] = []

        async def begin() -> None:
            turns.append(await session.begin("two", idempotency_key="k"))

        async with anyio.create_task_group() as group:
            for _ in range(3):
                group.start_soon(begin)
        await begin()
        assert len({turn.id for turn in turns}) == 1
        assert turns[0].state == "queued"
        with pytest.raises(ConfigurationError, match="other content"):
            await session.begin("three", idempotency_key="k")
        model.let_go()
        assert (await first.reply()).text == "You said: one"
        assert (await session.send("two", idempotency_key="k")).text == "You said: two"
        assert words(session) == ["one", "two"]


class Slow:
    """A store whose commits wait until somebody has queued a turn."""

    def __init__(self, path: Path) -> None:
        self._real = open_store(f"sqlite:///{path}")
        self.tried, self.let_go = anyio.Event(), anyio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    async def commit(self, lease: Any, change: Any) -> None:
        self.tried.set()
        await self.let_go.wait()
        await self._real.commit(lease, change)


@everywhere
async def test_a_key_that_is_queued_while_the_same_turn_begins_elsewhere_is_one_turn(tmp_path: Path) -> None:
    world = real(url=tmp_path / "a.db")
    store = Slow(tmp_path / "a.db")
    async with world.manager() as one, world.manager(store=store) as two:
        session = await create(one)
        other = await two.open(session.id)
        turns: list[Turn] = []

        async def begin() -> None:
            turns.append(await other.begin("Hello", idempotency_key="k"))

        async with anyio.create_task_group() as group:
            group.start_soon(begin)
            await store.tried.wait()
            turn = await session.begin("Hello", idempotency_key="k")
            assert turn.state == "queued"
            store.let_go.set()
        assert turns[0].id == turn.id
        assert (await turn.reply()).text
        assert words(await one.open(session.id)) == ["Hello"]
        assert len(world.requests) == 1
    world.check()


@everywhere
async def test_the_key_of_an_interrupted_turn_goes_on_with_it() -> None:
    world = World(answers(Fault.http(529), "at last"))
    async with world.manager() as manager:
        session = await create(manager)
        turn = await session.begin("Hello", idempotency_key="k")
        with pytest.raises(ModelError):
            await turn.reply()
        again = await session.begin("Hello", idempotency_key="k")
        assert again.id == turn.id
        assert (await again.reply()).text == "at last"
        assert (await turn.reply()).text == "at last"
        assert words(session) == ["Hello"]


@everywhere
async def test_the_key_of_a_failed_turn_tries_it_anew() -> None:
    world = World(answers(Fault.http(400, "no"), "at last"))
    async with world.manager() as manager:
        session = await create(manager)
        turn = await session.begin("Hello", idempotency_key="k")
        with pytest.raises(ModelError):
            await turn.reply()
        again = await session.begin("Hello", idempotency_key="k")
        assert again.id == turn.id
        assert (await again.reply()).text == "at last"
        assert words(session) == ["Hello"]


@everywhere
async def test_turns_are_values_in_order() -> None:
    world = World(answers("first", [call("again")], "third", Fault.http(529)))
    async with world.manager() as manager:
        session = await create(manager, tools=[again])
        one = await (await session.begin("one")).reply()
        two = await session.send("two")
        with pytest.raises(ModelError):
            await session.send("three")
        turns = await session.turns()
        assert [turn.state for turn in turns] == ["finished", "finished", "interrupted"]
        entries = session.entries
        assert [turn.entry for turn in turns] == [entries[0].id, entries[2].id, entries[6].id]
        assert turns[0].replies == (entries[1].id,)
        assert turns[1].replies == (entries[3].id, entries[5].id)
        assert turns[2].replies == ()
        assert (turns[0].usage, turns[0].cost) == (one.usage, one.cost)
        assert (turns[1].usage, turns[1].cost) == (two.usage, two.cost)
        assert turns[1].calls == tuple(each.id for each in two.calls)
        assert turns[2].error


@everywhere
async def test_a_turn_may_cost_so_much_and_what_is_done_is_kept() -> None:
    acts = Acts(approval=False)
    world = World(lambda request: "done" if request.results else [call("pay", amount=5)])
    async with world.manager() as manager:
        first = await create(manager, tools=acts.tools, system="Pay.")
        assert (await first.send("pay")).text == "done"
        one, two = [made.cost for made in await first.calls()]
        assert one is not None
        assert two is not None
        session = await create(manager, tools=acts.tools, system="Pay.")
        turn = await session.begin("pay", max_cost=one)
        with pytest.raises(BudgetExceeded, match=r"more than max_cost"):
            await turn.reply()
        assert (turn.state, session.state, acts.ran) == ("interrupted", "interrupted", [5, 5])
        assert turn.error is not None
        assert len(await session.calls()) == 1
        resumed = await session.resume()
        assert resumed is not None
        assert (resumed.text, resumed.cost) == ("done", one + two)
        assert (await (await session.begin("and now?", max_cost=1)).reply()).text
        broke = await create(manager)
        none = await broke.begin("Hello", max_cost=0.0000001)
        with pytest.raises(BudgetExceeded):
            await none.reply()
        assert (words(broke), await broke.calls()) == (["Hello"], [])
    world.check()


@pytest.mark.parametrize("given", [0, -1, "1", True, float("nan"), float("inf"), object()])
async def test_a_limit_that_is_no_price_is_refused(given: Any) -> None:
    async with World().manager() as manager:
        session = await create(manager)
        with pytest.raises(ConfigurationError, match="max_cost must be a number of USD above zero"):
            await session.begin("Hello", max_cost=given)
        assert words(session) == []


@everywhere
async def test_the_limit_of_a_queued_turn_is_kept_with_it() -> None:
    model = Held()
    world = real(model)
    async with world.manager() as manager:
        session = await create(manager)
        await session.begin("one")
        queued = await session.begin("two", max_cost=0.0000001)
        assert queued.state == "queued"
        model.let_go()
        with pytest.raises(BudgetExceeded):
            await queued.reply()
        assert words(session) == ["one", "two"]


class Pressing(SQLStore):
    """A store in which the user presses stop while the starts of tools are being written."""

    press: Callable[[], None]

    async def commit(self, lease: Lease, change: Change) -> None:
        if change.tool_calls and all(row.ended is None for row in change.tool_calls):
            self.press()
        await super().commit(lease, change)


@everywhere
async def test_a_stop_while_the_starts_are_written_lets_no_tool_begin(tmp_path: Path) -> None:
    acts = Acts(approval=False)
    world = World(lambda request: "next" if request.turn > 1 else [call("pay", amount=5), call("look")])
    store = Pressing(f"sqlite:///{tmp_path / 'a.db'}")
    async with world.manager(store=store) as manager:
        session = await create(manager, tools=acts.tools)
        stream = session.stream("pay")
        store.press = stream.stop
        async with stream:
            reply = await stream.get_final_reply()
        assert (reply.stop_reason, acts.ran, session.state) == ("cancelled", [], "idle")
        assert [block["content"] for block in session.messages[-1]["content"]] == [INTERRUPTED] * 2
        assert (await session.send("and now?")).text == "next"
    world.check()


@everywhere
async def test_a_turn_is_found_by_its_key() -> None:
    world = World()
    async with world.manager() as manager:
        session = await create(manager, owner="ada")
        first = await session.begin("Hello", idempotency_key="one")
        await first.reply()
        second = await session.begin("More", idempotency_key="two")
        await second.reply()
        for owned in (manager, manager.for_owner("ada")):
            for key, turn in (("one", first), ("two", second)):
                found = await owned.turn(session.id, key=key)
                assert found is not None
                assert (found.id, found.state) == (turn.id, "finished")
            assert await owned.turn(session.id, key="three") is None
        with pytest.raises(SessionNotFound):
            await manager.for_owner("bob").turn(session.id, key="one")
        with pytest.raises(ConfigurationError, match="not both"):
            await manager.turn(session.id, first.id, key="one")


@everywhere
async def test_an_interrupted_turn_goes_on_as_a_turn_of_the_conversation() -> None:
    world = World(faults={0: Fault.drop()})
    async with world.manager() as manager:
        session = await create(manager)
        assert await session.go_on() is None
        turn = await session.begin("Hello")
        with pytest.raises(ModelError):
            await turn.reply()
        again = await manager.open(session.id)
        assert again.state == "interrupted"
        turn_again = await again.go_on()
        assert turn_again is not None
        assert turn_again.id == turn.id
        assert turn_again.state in ("running", "finished")
        assert "Hello" in (await turn_again.reply()).text
        assert await again.go_on() is None
        with pytest.raises(ConfigurationError):
            await again.go_on(in_doubt="perhaps")  # type: ignore[arg-type]
