"""Turns that are queued behind a running one: in order, from wherever, and none of them is lost or run twice."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import anyio
import pytest

from sessions import ConfigurationError, ModelError, SessionBusy, SessionsError, Turn, tool
from sessions.following.events import attempt_of
from sessions.simulator import Fault, Latency
from sessions.turns.handle import stop_what_is_left
from storage import StorageError, open_store
from storage.sql import SQLStore
from tests.crash.test_killed_anywhere import Dying
from tests.servers import lease_lapses, short_leases, without_gate
from tests.sessions.world import World, answers, call, create, everywhere, results, words
from tests.turns.acts import Acts, Follower, Held, real


@everywhere
async def test_queued_turns_run_in_the_order_of_their_begin() -> None:
    model = Held()
    async with World(model).manager() as manager:
        session = await create(manager)
        turns = [await session.begin(f"number {number}") for number in range(10)]
        assert [turn.state for turn in turns] == ["running"] + ["queued"] * 9
        assert session.state == "running"
        (info,) = await manager.list(state="running")
        assert info.turns == 10
        assert [turn.state for turn in await session.turns()] == ["running"] + ["queued"] * 9
        model.let_go()
        for number, turn in enumerate(turns):
            assert (await turn.reply()).text == f"You said: number {number}"
        assert words(session) == [f"number {number}" for number in range(10)]
        assert session.state == "idle"
        assert [turn.state for turn in await session.turns()] == ["finished"] * 10


async def test_ten_queued_by_two_managers_run_in_order(new_place: Callable[[], str]) -> None:
    model = Held()
    world = real(model, url=new_place())
    async with world.manager() as one, world.manager() as two:
        session = await create(one)
        other = await two.open(session.id)
        turns = [(session, await session.begin("first"))]
        for number in range(10):
            where = other if number % 2 else session
            turns.append((where, await where.begin(f"number {number}")))
        assert [turn.state for _, turn in turns] == ["running"] + ["queued"] * 10
        model.let_go()
        with anyio.fail_after(10):
            for _, turn in turns[:-1:2]:
                await turn.reply()
            await turns[-1][1].reply()
        assert words(await one.open(session.id)) == ["first"] + [f"number {number}" for number in range(10)]
        assert len(world.requests) == 11
    world.check()


@everywhere
async def test_the_newest_turn_is_not_one_that_was_taken_out_of_the_queue() -> None:
    """Who reloads a page wants to read along with what runs."""
    model = Held()
    async with World(model).manager() as manager:
        session = await create(manager)
        turn = await session.begin("runs")
        queued = await session.begin("waits")
        assert (newest := await manager.turn(session.id)) is not None
        assert newest.id == queued.id
        await queued.stop()
        assert (newest := await manager.turn(session.id)) is not None
        assert newest.id == turn.id
        model.let_go()
        assert (await newest.reply()).text == "You said: runs"


@everywhere
async def test_nobody_hears_of_an_attempt_whose_words_could_not_be_stored(tmp_path: Path) -> None:
    """The ids of what a follower sees never go back."""
    model, waits, failed = Held(), list[str](), list[str]()

    class Refusing(SQLStore):
        async def commit(self, lease: Any, change: Any) -> None:
            if not failed and change.turn is not None and change.turn.id in waits:
                failed.append(change.turn.id)
                raise StorageError("the disk is full")
            await super().commit(lease, change)

    world = World(model, url=tmp_path / "a.db")
    async with world.manager(store=Refusing(world.url)) as manager:
        session = await create(manager)
        await session.begin("first")
        queued = await session.begin("second")
        waits.append(queued.id)
        follower = Follower()
        async with anyio.create_task_group() as group:
            group.start_soon(follower.follow, queued)
            await follower.attached.wait()
            model.let_go()
        assert failed
        assert (await queued.reply()).text == "You said: second"
    ids = [event.id for event in follower.seen]
    assert ids == sorted(ids)
    assert len({attempt_of(id) for id in ids}) == 2, "that of the queue, and the one that was stored"


@everywhere
async def test_who_begins_later_does_not_overtake_what_another_worker_has_queued(tmp_path: Path) -> None:
    """The queue is the session's, not the process's."""
    path, model = tmp_path / "a.db", Held()
    world = World(model, url=path)
    async with world.manager() as one:
        session = await create(one)
        await session.begin("one")
        queued = await session.begin("two")
        assert queued.state == "queued"
        model.let_go()
    model = world.engine.script = Held()  # type: ignore[assignment]
    async with world.manager() as two:  # `one` left its turns to others
        session = await two.open(session.id)
        turn = await session.begin("three")
        model.let_go()
        assert (await turn.reply()).text == "You said: three"
        assert words(session) == ["one", "two", "three"]
    world.check()


@everywhere
async def test_refuse_begins_nothing_while_a_turn_runs() -> None:
    model = Held()
    async with World(model).manager() as manager:
        session = await create(manager)
        turn = await session.begin("one", idempotency_key="k")
        with pytest.raises(SessionBusy):
            await session.begin("two", while_running="refuse")
        same = await session.begin("one", idempotency_key="k", while_running="refuse")
        assert same.id == turn.id
        model.let_go()
        await turn.reply()
        last = await session.begin("three", while_running="refuse")
        assert (await last.reply()).text == "You said: three"
        assert words(session) == ["one", "three"]


TEXT = " ".join(f"number {number} of the words that come one by one," for number in range(12))


@everywhere
async def test_interrupt_keeps_what_there_is_and_goes() -> None:
    world = World(lambda request: TEXT if request.turn == 1 else "second", latency=Latency(per_output_token=1.0))
    async with world.manager() as manager:
        session = await create(manager)
        first = await session.begin("one")
        await world.clock.advance(20)
        second: list[Turn] = []

        async def begin() -> None:
            second.append(await session.begin("two", while_running="interrupt"))

        async with anyio.create_task_group() as group:
            group.start_soon(begin)
            await world.clock.advance(1000)
        reply = await first.reply()
        assert first.state == "cancelled"
        assert reply.stop_reason == "cancelled"
        assert reply.text
        assert TEXT.startswith(reply.text)
        assert reply.text != TEXT
        assert (await second[0].reply()).text == "second"
        assert words(session) == ["one", "two"]
    world.check()


@everywhere
async def test_interrupt_finds_what_runs_behind_a_long_queue() -> None:
    model = Held()
    async with World(model).manager() as manager:
        session = await create(manager)
        first = await session.begin("first")
        queued = [await session.begin(f"number {number}") for number in range(10)]
        last = await session.begin("last", while_running="interrupt")
        assert (await first.reply()).stop_reason == "cancelled"
        model.let_go()
        assert (await last.reply()).text == "You said: last"
        assert [turn.state for turn in queued] == ["finished"] * 10


async def test_interrupt_and_stop_from_another_worker(new_place: Callable[[], str]) -> None:
    model = Held()
    world = real(lambda request: model(request) if request.text == "one" else f"You said: {request.text}")
    world.url = new_place()
    async with world.manager() as one, world.manager() as two:
        session = await create(one)
        other = await two.open(session.id)
        first = await session.begin("one")
        with anyio.fail_after(10):
            second = await other.begin("two", while_running="interrupt")
            assert (await first.reply()).stop_reason == "cancelled"
            assert (await second.reply()).text == "You said: two"
            third = await session.begin("one")
            there = await two.turn(session.id)
            assert there is not None
            assert there.id == third.id
            queued = await session.begin("four")
            seen = await two.turn(session.id)
            assert seen is not None
            assert seen.id == queued.id
            await seen.stop()
            await there.stop()
            assert (await third.reply()).stop_reason == "cancelled"
            assert (await queued.reply()).stop_reason == "cancelled"
        assert (third.state, queued.state) == ("cancelled", "cancelled")
        assert words(await one.open(session.id)) == ["one", "two", "one"]


@everywhere
async def test_interrupt_with_nothing_running_just_goes() -> None:
    async with World().manager() as manager:
        session = await create(manager)
        turn = await session.begin("one", while_running="interrupt")
        assert (await turn.reply()).stop_reason == "end_turn"


# stop


@everywhere
async def test_stop_of_a_running_turn_returns_when_all_is_stored() -> None:
    world = World(lambda request: TEXT if request.turn == 1 else "second", latency=Latency(per_output_token=1.0))
    async with world.manager() as manager:
        session = await create(manager)
        turn = await session.begin("one")
        await world.clock.advance(20)
        async with anyio.create_task_group() as group:
            group.start_soon(turn.stop)
            group.start_soon(turn.stop)
        assert turn.state == "cancelled"
        kept = session.messages[-1]["content"][0]["text"]
        assert TEXT.startswith(kept)
        await turn.stop()
        assert (await turn.reply()).text == kept
        assert (await turn.reply()).stop_reason == "cancelled"
        assert await session.resume() is None
        async with anyio.create_task_group() as group:
            group.start_soon(session.send, "two")
            await world.clock.advance(1000)
        assert words(session) == ["one", "two"]
    world.check()


@everywhere
async def test_stop_while_a_tool_runs_closes_it_truthfully() -> None:
    started = anyio.Event()

    @tool
    async def wait() -> str:
        """Waits."""
        started.set()
        await anyio.sleep_forever()
        return "never"

    async with World(answers([call("wait")])).manager() as manager:
        session = await create(manager, tools=[wait])
        turn = await session.begin("one")
        await started.wait()
        await turn.stop()
        assert turn.state == "cancelled"
        assert "may or may not" in str(results(session.messages[-1]))
        assert (await session.send("two")).text == "fine"


@everywhere
async def test_stop_of_a_queued_turn_takes_it_out_of_the_line() -> None:
    model = Held()
    async with World(model).manager() as manager:
        session = await create(manager)
        first, second, third = [await session.begin(word) for word in ("one", "two", "three")]
        await second.stop()
        assert second.state == "cancelled"
        assert second.ended is not None
        with anyio.fail_after(5):
            reply = await second.reply()
            assert (reply.text, reply.stop_reason, reply.calls) == ("", "cancelled", ())
            events = [event.type async for event in second.follow()]
            assert events == ["snapshot", "ended"]
            again = await manager.turn(session.id)
            assert again is not None
            await second.stop()
        model.let_go()
        assert (await third.reply()).text == "You said: three"
        assert (await first.reply()).text == "You said: one"
        assert words(session) == ["one", "three"]
        assert second.state == "cancelled"


@everywhere
async def test_a_follower_of_a_queued_turn_hears_that_it_is_stopped() -> None:
    model = Held()
    async with World(model).manager() as manager:
        session = await create(manager)
        await session.begin("one")
        second = await session.begin("two")
        seen: list[str] = []
        attached = anyio.Event()

        async def follow() -> None:
            async for event in second.follow():
                seen.append(event.type)
                attached.set()

        with anyio.fail_after(5):
            async with anyio.create_task_group() as group:
                group.start_soon(follow)
                await attached.wait()
                await second.stop()
        assert seen == ["snapshot", "ended"]
        model.let_go()


@everywhere
async def test_a_queued_turn_whose_time_is_up_is_not_run() -> None:
    model = Held()
    world = World(model)
    async with world.manager() as manager:
        session = await create(manager)
        first = await session.begin("one")
        second = await session.begin("two", timeout=20)
        await world.clock.advance(30)
        assert first.state == "running"
        assert second.state == "cancelled"
        with pytest.raises(TimeoutError, match="20 seconds"):
            await second.reply()
        model.let_go()
        await first.reply()
        third = await session.begin("three")
        assert (await third.reply()).text == "You said: three"
        assert words(session) == ["one", "three"]


@everywhere
async def test_a_turn_that_breaks_does_not_keep_the_next_one_waiting() -> None:
    model = Held(lambda request: Fault.http(529) if request.text == "two" else f"You said: {request.text}")
    async with World(model).manager() as manager:
        session = await create(manager)
        first, second, third = [await session.begin(word) for word in ("one", "two", "three")]
        model.let_go()
        assert (await first.reply()).text == "You said: one"
        with pytest.raises(ModelError):
            await second.reply()
        assert (await third.reply()).text == "You said: three"
        assert words(session) == ["one", "two", "three"]


@everywhere
async def test_a_queued_turn_that_the_api_refuses_leaves_no_words() -> None:
    model = Held(lambda request: Fault.http(400, "no") if request.text == "two" else f"You said: {request.text}")
    async with World(model).manager() as manager:
        session = await create(manager)
        _, second, third = [await session.begin(word) for word in ("one", "two", "three")]
        model.let_go()
        with pytest.raises(ModelError):
            await second.reply()
        assert second.state == "failed"
        assert (await third.reply()).text == "You said: three"
        assert words(session) == ["one", "three"]


# workers that end


@everywhere
async def test_a_manager_that_ends_leaves_its_queue_to_recovery_and_the_words_stand_once(tmp_path: Path) -> None:
    model = Held()
    world = World(model, url=tmp_path / "a.db")
    async with world.manager() as manager:
        session = await create(manager)
        turns = [await session.begin(word) for word in ("one", "two", "three")]
        await model.asked.wait()
    for turn in turns:
        assert turn.state in ("running", "queued")
    with pytest.raises(SessionsError):
        await turns[0].reply()
    model.let_go()
    async with world.manager() as manager:
        await manager.recover()
        session = await manager.open(session.id)
        assert words(session) == ["one", "two", "three"]
        assert [turn.state for turn in await session.turns()] == ["finished"] * 3
        assert len(session.messages) == 6
        assert await manager.recover() == {}
    world.check()


async def test_a_queue_whose_worker_was_killed_is_run_by_recovery(new_place: Callable[[], str]) -> None:
    url, model = new_place(), Held()
    world = World(model, url=url)
    store = Dying(url, 1000, after=False)
    async with world.manager(store=store, **without_gate(url)) as manager:
        short_leases(manager, url)
        session = await create(manager)
        for word in ("one", "two", "three"):
            await session.begin(word)
        await model.asked.wait()
        store.dead = True
    model.let_go()
    await world.clock.advance(11)
    await lease_lapses(manager)
    async with world.manager(**without_gate(url)) as manager:
        await manager.recover()
        session = await manager.open(session.id)
        assert words(session) == ["one", "two", "three"]
        assert [turn.state for turn in await session.turns()] == ["finished"] * 3
    world.check()


@everywhere
async def test_a_turn_is_queued_behind_that_of_a_dead_worker_and_runs_when_it_is_finished(tmp_path: Path) -> None:
    path, model = tmp_path / "a.db", Held()
    world, store = World(model, url=path), Dying(path, 1000, after=False)
    async with world.manager(store=store) as manager:
        session = await create(manager)
        await session.begin("one")
        await model.asked.wait()
        store.dead = True
    model.let_go()
    async with world.manager() as manager:
        session = await manager.open(session.id)
        turn = await session.begin("two")  # nobody can tell yet that the other worker is dead
        assert turn.state == "queued"
        await world.clock.advance(20)
        assert (await turn.reply()).text == "You said: two"
        assert words(session) == ["one", "two"]
        assert [turn.state for turn in await session.turns()] == ["finished", "finished"]
    world.check()


@everywhere
async def test_what_a_dead_worker_left_ends_before_the_next_words_are_said(tmp_path: Path) -> None:
    """Its lease has lapsed, and the session is free: the turn that it left belongs to the conversation all the same."""
    path, model = tmp_path / "a.db", Held()
    world, store = World(model, url=path), Dying(path, 1000, after=False)
    async with world.manager(store=store) as manager:
        session = await create(manager)
        first = await session.begin("one", idempotency_key="1")
        await model.asked.wait()
        store.dead = True
    model.let_go()
    await world.clock.advance(20)
    async with world.manager() as manager:
        session = await manager.open(session.id)
        with pytest.raises(SessionBusy, match="is to end first"):
            await session.begin("two", while_running="refuse")
        turn = await session.begin("two")
        assert (await turn.reply()).text == "You said: two"
        again = await session.begin("one", idempotency_key="1")
        assert (again.id, (await again.reply()).text) == (first.id, "You said: one")
        assert words(session) == ["one", "two"]
        assert [turn.state for turn in await session.turns()] == ["finished", "finished"]
    world.check()


@everywhere
async def test_drain_lets_the_queue_run_as_long_as_it_may(tmp_path: Path) -> None:
    world = World(lambda request: f"You said: {request.text}", url=tmp_path / "a.db", latency=Latency(first_event=10))
    async with world.manager() as manager:
        session = await create(manager)
        turns = [await session.begin(word) for word in ("one", "two", "three")]
        await world.clock.advance(1)
        async with anyio.create_task_group() as group:
            group.start_soon(manager.drain, 100)
            await world.clock.advance(5)
            with pytest.raises(SessionsError, match="no new turns"):
                await session.begin("four")
            await world.clock.advance(200)
        assert [turn.state for turn in turns] == ["finished"] * 3
    world.check()


# behind calls that wait


@everywhere
async def test_what_is_queued_does_not_close_calls_that_wait_for_approval() -> None:
    acts, model = Acts(), Held(lambda request: "done" if request.results else [call("pay", amount=5)])
    world = real(lambda request: f"You said: {request.text}" if request.turn > 1 else model(request))
    async with world.manager() as manager:
        session = await create(manager, tools=acts.tools)
        first = await session.begin("pay")
        queued = await session.begin("and then?")
        model.let_go()
        reply = await first.reply()
        assert first.state == "waiting"
        await anyio.sleep(0.1)
        assert queued.state == "queued"
        assert acts.ran == []
        (pending,) = reply.pending
        await session.approve(pending.call_id)
        assert (await first.reply()).text == "done"
        assert (await queued.reply()).text == "You said: and then?"
        assert acts.ran == [5]
        assert words(session) == ["pay", "and then?"]
    world.check()


@everywhere
async def test_what_is_queued_goes_on_when_the_waiting_turn_is_stopped() -> None:
    acts, model = Acts(), Held(lambda request: [call("pay", amount=5)])
    world = real(lambda request: f"You said: {request.text}" if request.turn > 1 else model(request))
    async with world.manager() as manager:
        session = await create(manager, tools=acts.tools)
        first = await session.begin("pay")
        queued = await session.begin("and then?")
        model.let_go()
        await first.reply()
        await first.stop()
        assert first.state == "cancelled"
        with anyio.fail_after(5):
            assert (await queued.reply()).text == "You said: and then?"
        assert acts.ran == []
        assert "was not run" in str(session.messages[2])
    world.check()


@everywhere
async def test_a_queue_behind_waiting_calls_survives_its_worker(tmp_path: Path) -> None:
    acts, model = Acts(), Held(lambda request: "done" if request.results else [call("pay", amount=5)])
    script = lambda request: f"You said: {request.text}" if request.turn > 1 else model(request)  # noqa: E731
    world = World(script, url=tmp_path / "a.db")
    async with world.manager() as manager:
        session = await create(manager, tools=acts.tools)
        first = await session.begin("pay")
        await session.begin("and then?")
        model.let_go()
        (pending,) = (await first.reply()).pending
    async with world.manager(tools=acts.tools) as manager:
        await manager.recover()
        assert acts.ran == []
        session = await manager.open(session.id, tools=acts.tools)
        assert words(session) == ["pay"]
        await session.approve(pending.call_id)
        turn = await manager.turn(session.id)
        assert turn is not None
        assert turn.state == "queued"
        while (await session.turns())[0].state == "running":
            await anyio.sleep(0.01)
        await manager.recover()
        await session.refresh()
        assert words(session) == ["pay", "and then?"]
        assert [turn.state for turn in await session.turns()] == ["finished", "finished"]
    world.check()


@everywhere
async def test_queued_words_that_cannot_follow_fail_and_keep_nobody_waiting() -> None:
    model = Held()
    async with World(model).manager() as manager:
        session = await create(manager)
        await session.begin("one")
        second = await session.begin([{"type": "tool_result", "tool_use_id": "toolu_none", "content": "x"}])
        third = await session.begin("three")
        assert (second.state, third.state) == ("queued", "queued")
        model.let_go()
        with pytest.raises(ConfigurationError, match="toolu_none"):
            await second.reply()
        assert second.state == "failed"
        assert (await third.reply()).text == "You said: three"
        assert words(session) == ["one", "three"]


THEIRS = {"name": "theirs", "input_schema": {"type": "object", "properties": {}}}


@everywhere
async def test_results_of_the_caller_come_before_what_is_queued() -> None:
    model = Held(lambda request: "done" if request.results else [call("theirs", "toolu_theirs")])
    world = real(lambda request: f"You said: {request.text}" if request.turn > 1 else model(request))
    async with world.manager() as manager:
        session = await create(manager, tools=[THEIRS])
        first = await session.begin("go")
        queued = await session.begin("and then?")
        model.let_go()
        (pending,) = (await first.reply()).pending
        assert pending.by_caller
        result = {"type": "tool_result", "tool_use_id": pending.tool_use_id, "content": "theirs"}
        answer = await session.begin([result])
        assert (await answer.reply()).text == "done"
        assert (await queued.reply()).text == "You said: and then?"
        assert words(session) == ["go", "and then?"]
    world.check()


class Late:
    """A store of which nobody who waits for a lease gets one before `go` is set."""

    def __init__(self, url: str) -> None:
        self._real: Any = open_store(url)
        self.go = anyio.Event()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    async def acquire(self, *given: Any, queue: float, **also: Any) -> Any:
        if queue:
            await self.go.wait()
        return await self._real.acquire(*given, queue=queue, **also)


@everywhere
async def test_who_follows_a_turn_in_the_queue_hears_all_of_it_where_another_worker_has_run_it(tmp_path: Path) -> None:
    model, follower = Held(), Follower()
    world = World(model, url=tmp_path / "a.db")
    late = Late(world.url)
    async with world.manager() as one, world.manager(store=late) as two, anyio.create_task_group() as group:
        session = await create(one)
        await session.begin("one")
        other = await two.open(session.id)
        turn = await other.begin("two")
        group.start_soon(follower.follow, turn)
        await follower.attached.wait()
        last = await session.begin("three")
        model.let_go()
        assert (await last.reply()).text == "You said: three"  # and before that "two", which was queued first
        late.go.set()
        assert (await turn.reply()).text == "You said: two"
    assert follower.view.state == "finished"
    assert follower.text == "twoYou said: two"
    world.check()


class Stopped:
    """A store in which somebody stops the turn that was queued just before its words are committed."""

    def __init__(self, url: str) -> None:
        self._real: Any = open_store(url)
        self.stops: str | None = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    async def commit(self, lease: Any, change: Any) -> None:
        if change.turn is not None and change.turn.id == self.stops:
            self.stops = None
            assert await self._real.ask_stop(lease.session, change.turn.id, now=1.0) == "queued"
        await self._real.commit(lease, change)


@everywhere
async def test_a_stop_in_the_queue_holds_although_the_turn_has_just_been_taken_up(tmp_path: Path) -> None:
    model = Held()
    world = World(model, url=tmp_path / "a.db")
    store = Stopped(world.url)
    async with world.manager(store=store) as manager:
        session = await create(manager)
        _, second, third = [await session.begin(word) for word in ("one", "two", "three")]
        store.stops = second.id
        model.let_go()
        assert (await third.reply()).text == "You said: three"
        assert (await second.reply()).stop_reason == "cancelled"
        assert second.state == "cancelled"
        assert words(session) == ["one", "three"]
        assert [turn.state for turn in await session.turns()] == ["finished", "cancelled", "finished"]
    assert len(world.requests) == 2
    world.check()


async def test_what_a_dead_worker_left_is_stopped_by_whoever_asks(new_place: Callable[[], str]) -> None:
    """Without a worker that recovers, and by one that has none of the turn's tools."""
    started = anyio.Event()

    @tool
    async def wait() -> str:
        """Waits."""
        started.set()
        await anyio.sleep_forever()
        return "never"

    for asks in (True, False):
        url, model, started = new_place(), Held(), anyio.Event()
        world = World(model if asks else answers([call("wait"), call("wait")]), url=url)
        store = Dying(url, 1000, after=False)
        async with world.manager(**without_gate(url)) as other:
            async with world.manager(store=store, **without_gate(url)) as manager:
                short_leases(manager, url)
                session = await create(manager, tools=[wait])
                begun = await session.begin("one")
                await (model.asked if asks else started).wait()
                store.dead = True
            turn = await other.turn(session.id)
            assert turn is not None
            async with anyio.create_task_group() as group:
                group.start_soon(turn.stop)
                await lease_lapses(manager)
                await world.clock.advance(25)
            assert (turn.id, turn.state) == (begun.id, "cancelled")
            assert (await turn.reply()).stop_reason == "cancelled"
            assert len(world.requests) == 1
            assert [call.status for call in await (await other.open(session.id)).calls()] == ["error" if asks else "ok"]
            session = await other.open(session.id, tools=[wait])
            assert ("may or may not" in str(session.messages[-1])) is not asks
            model.let_go()
            assert (await session.send("two")).stop_reason == "end_turn"
            assert words(session) == ["one", "two"]
        world.check()


@everywhere
async def test_what_a_living_worker_runs_is_not_taken_for_what_a_dead_one_left(tmp_path: Path) -> None:
    model = Held()
    world = World(model, url=tmp_path / "a.db")
    async with world.manager() as one, world.manager() as two:
        session = await create(one)
        turn = await session.begin("one")
        await stop_what_is_left(two.runtime, session.id, turn.id)
        model.let_go()
        assert (await turn.reply()).text == "You said: one"
    world.check()
