"""Turns that wait for the user: what waits is seen and decided behind whatever queue, and stop means stop."""

from __future__ import annotations

from contextlib import aclosing
from pathlib import Path
from typing import Any

import anyio

from storage import open_store
from tests.sessions.world import World, answers, call, create, everywhere, words
from tests.turns.acts import Acts, Follower, Held, real


def paying(model: Held) -> Any:
    """Asks to pay in the first turn, and answers what comes later at once."""
    return lambda request: f"You said: {request.text}" if request.turn > 1 else model(request)


@everywhere
async def test_what_waits_is_seen_from_elsewhere_though_others_are_queued_behind_it(tmp_path: Path) -> None:
    acts, model = Acts(), Held(lambda request: "done" if request.results else [call("pay", amount=5)])
    world = real(paying(model), url=tmp_path / "a.db")
    async with world.manager() as one, world.manager() as two:
        session = await create(one, tools=acts.tools)
        first = await session.begin("pay")
        queued = await session.begin("and then?")
        other = await two.open(session.id, tools=acts.tools)
        assert other.pending == ()  # it runs, and asks for nothing yet
        model.let_go()
        assert len((await first.reply()).pending) == 1
        await other.refresh()
        (pending,) = other.pending
        await other.approve(pending.call_id)
        assert (await first.reply()).text == "done"
        assert (await queued.reply()).text == "You said: and then?"
        assert acts.ran == [5]
    world.check()


@everywhere
async def test_a_turn_that_is_stopped_in_the_queue_does_not_hide_the_one_that_waits(tmp_path: Path) -> None:
    acts, model = Acts(), Held(lambda request: "done" if request.results else [call("pay", amount=5)])
    world = real(paying(model), url=tmp_path / "a.db")
    async with world.manager() as manager:
        session = await create(manager, tools=acts.tools)
        first = await session.begin("pay")
        queued = await session.begin("never mind")
        model.let_go()
        await first.reply()
        await queued.stop()
        session = await manager.open(session.id, tools=acts.tools)
        assert session.state == "waiting"
        (pending,) = session.pending
        await session.approve(pending.call_id)
        assert (await first.reply()).text == "done"
        assert acts.ran == [5]
        assert words(session) == ["pay"]
    world.check()


@everywhere
async def test_a_stop_while_it_is_found_out_whether_a_call_needs_approval_is_no_waiting() -> None:
    asked, go = anyio.Event(), anyio.Event()

    async def ask(input: Any, context: Any) -> bool:
        asked.set()
        await go.wait()
        return True

    acts = Acts(ask)
    world = real(lambda request: [call("pay", amount=5)])
    async with world.manager() as manager, anyio.create_task_group() as group:
        session = await create(manager, tools=acts.tools)
        turn = await session.begin("pay")
        await asked.wait()
        group.start_soon(turn.stop)
        await anyio.wait_all_tasks_blocked()
        go.set()
        assert (await turn.reply()).stop_reason == "cancelled"
        assert turn.state == "cancelled"
        assert acts.ran == []
        await session.refresh()
        assert session.pending == ()
    world.check()


class Slow:
    """A store whose `ask_stop` returns only when the turn has come to wait, without its worker having heard."""

    def __init__(self, url: str, model: Held) -> None:
        self._real: Any = open_store(url)
        self._model = model

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    async def ask_stop(self, session: str, turn: str, *, now: float) -> Any:
        before = await self._real.ask_stop(session, turn, now=now)
        self._model.let_go()
        while (await self._real.turn(session, id=turn)).state == "running":
            await anyio.sleep(0.01)
        return before


@everywhere
async def test_a_stop_from_elsewhere_that_comes_as_the_turn_begins_to_wait_stops_it(tmp_path: Path) -> None:
    acts, model = Acts(), Held(lambda request: [call("pay", amount=5)])
    world = World(model, url=tmp_path / "a.db")
    async with world.manager() as one, world.manager(store=Slow(world.url, model)) as two:
        session = await create(one, tools=acts.tools)
        await session.begin("pay")
        turn = await two.turn(session.id)
        assert turn is not None
        await turn.stop()
        assert turn.state == "cancelled"
        await session.refresh()
        assert session.pending == ()
        assert session.state == "idle"
        assert acts.ran == []
    world.check()


class Late:
    """A store whose `queue` tells late that it is done: as after a lost connection, when it is asked again."""

    def __init__(self, url: str) -> None:
        self._real: Any = open_store(url)
        self.is_queued, self.go = anyio.Event(), anyio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    async def queue(self, turn: Any) -> Any:
        row = await self._real.queue(turn)
        self.is_queued.set()
        await self.go.wait()
        return row


@everywhere
async def test_a_turn_that_others_began_before_its_queuing_was_told_is_not_said_to_be_queued(tmp_path: Path) -> None:
    first, second = Held(), Held()
    world = real(lambda request: (first if request.turn == 1 else second)(request), url=tmp_path / "a.db")
    late = Late(world.url)
    async with world.manager(store=late) as manager, anyio.create_task_group() as group:
        session = await create(manager)
        one = await session.begin("one")
        group.start_soon(session.begin, "two")
        await late.is_queued.wait()
        first.let_go()
        await one.reply()
        group.start_soon(manager.recover)
        await second.asked.wait()
        turn = await manager.turn(session.id)
        assert turn is not None

        late.go.set()
        await anyio.sleep(0.1)
        async with aclosing(turn.follow()) as events:
            shown = (await anext(events)).to_json()
        assert '"state":"running"' in shown
        assert '"text":"two"' in shown
        second.let_go()
        assert (await turn.reply()).text == "You said: two"
    world.check()


class Slower:
    """A store that commits the first turn only when `go` is set; `commits`: that is about to happen."""

    def __init__(self, url: str) -> None:
        self._real: Any = open_store(url)
        self.commits, self.go = anyio.Event(), anyio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    async def commit(self, *given: Any) -> None:
        self.commits.set()
        await self.go.wait()
        await self._real.commit(*given)


@everywhere
async def test_what_was_queued_just_before_the_words_of_another_turn_came_is_the_newer_one(tmp_path: Path) -> None:
    """Else what it waits for would be hidden by the turn that ran before it."""
    acts, model = Acts(), answers("hello", [call("pay", amount=5)], "done")
    world = real(model, url=tmp_path / "a.db")
    slower = Slower(world.url)
    async with world.manager(store=slower) as one, world.manager() as two, anyio.create_task_group() as group:
        session = await create(two, tools=acts.tools)
        other = await one.open(session.id, tools=acts.tools)
        group.start_soon(other.begin, "hi")
        await slower.commits.wait()
        turn = await session.begin("pay")
        slower.go.set()
        assert len((await turn.reply()).pending) == 1
        session = await two.open(session.id, tools=acts.tools)
        assert [turn.state for turn in await session.turns()] == ["finished", "waiting"]
        assert session.state == "waiting"
        (pending,) = session.pending
        await session.approve(pending.call_id)
        assert (await turn.reply()).text == "done"
        assert acts.ran == [5]
    world.check()


@everywhere
async def test_a_session_does_not_wait_any_more_when_its_head_has_moved_on(tmp_path: Path) -> None:
    acts = Acts()
    by_caller = {"name": "ask", "description": "Asks.", "input_schema": {"type": "object"}}
    world = World(
        lambda request: [call("pay", amount=5) if request.text == "pay" else call("ask")], url=tmp_path / "a.db"
    )
    async with world.manager() as one, world.manager() as two:
        for asks, back in (("pay", True), ("ask", True), ("ask", False)):
            session = await create(one, tools=[*acts.tools, by_caller])
            reply = await session.send(asks)
            other = await two.open(session.id, tools=acts.tools)
            assert (session.state, other.state) == ("waiting", "waiting")
            if back:
                await session.rewind(session.entries[0].id)
            else:
                result = {"type": "tool_result", "tool_use_id": reply.pending[0].tool_use_id, "content": "yes"}
                await session.append([{"role": "user", "content": [result]}])
            await other.refresh()
            assert (session.state, other.state) == ("idle", "idle")
            assert (session.pending, other.pending) == ((), ())
        assert await one.list(state="waiting") == []
        assert acts.ran == []
    world.check()


@everywhere
async def test_a_turn_whose_calls_the_caller_has_answered_waits_no_more(tmp_path: Path) -> None:
    tool = {"name": "ask", "description": "Asks.", "input_schema": {"type": "object"}}
    world = World(answers([call("ask")], "fine"), url=tmp_path / "a.db")
    async with world.manager() as one, world.manager() as two:
        session = await create(one, tools=[tool])
        here = await session.begin("hi")
        (pending,) = (await here.reply()).pending
        there = await two.turn(session.id)
        assert there is not None
        assert (here.state, there.state) == ("waiting", "waiting")
        before = Follower()
        await before.follow(there)
        assert (before.view.state, before.types) == ("waiting", ["snapshot", "ended"])
        result = {"type": "tool_result", "tool_use_id": pending.tool_use_id, "content": "yes"}
        await session.send([result])
        for turn, after in ((here, None), (there, None), (there, before.seen[-1].id)):
            seen = Follower()
            await seen.follow(turn, after)
            assert (turn.state, seen.view.state, seen.types) == ("finished", "finished", ["snapshot", "ended"])
            reply = await turn.reply()
            assert (reply.stop_reason, reply.pending) == ("tool_use", ())
        assert [turn.state for turn in await session.turns()] == ["finished", "finished"]
    world.check()
