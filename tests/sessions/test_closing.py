"""A worker that is told to end: its turns are left to recovery; only a caller who cancelled its own is told so."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest
from anyio.abc import TaskGroup

from sessions import Reply, Session, SessionManager, SessionsError, tool
from sessions.core.steps import INTERRUPTED
from sessions.lifecycle import TOGETHER
from sessions.simulator import Latency
from sessions.turns.driver import Driver
from sessions.turns.outcome import Event
from tests.servers import without_gate
from tests.sessions.world import World, answers, call, create, everywhere, results, words

SLOW = Latency(first_event=10.0)


class Sender:
    """A caller in a task of its own."""

    def __init__(self, session: Session) -> None:
        self.session = session
        self.reply: Reply | None = None
        self.error: BaseException | None = None

    async def send(self, content: str = "go") -> None:
        try:
            self.reply = await self.session.send(content)
        except BaseException as error:
            self.error = error
            if not isinstance(error, Exception):
                raise


async def under_way(session: Session, group: TaskGroup, world: World) -> Sender:
    """A sender whose turn has been going on for five seconds."""
    sender = Sender(session)
    group.start_soon(sender.send)
    await world.clock.advance(5)
    return sender


async def state(manager: SessionManager, session: Session) -> str:
    return (await manager.runtime.store.turns(session.id))[-1].state


async def check_recovered(world: World, tools: Any = (), **given: Any) -> Session:
    """Another worker takes the turn up at once: no lease has to run out."""
    async with anyio.create_task_group() as group, world.manager(tools=tools, **given) as other:
        group.start_soon(world.clock.advance, 60)
        (reply,) = (await other.recover()).values()
        assert isinstance(reply, Reply)
        assert await other.recover() == {}
        assert await state(other, reply.session) == "finished"
    world.check()
    return reply.session


@pytest.mark.parametrize("backend", ["asyncio", "trio"])
def test_a_turn_under_way_is_left_to_the_next_worker(backend: str, new_place: Callable[[], str]) -> None:
    async def everything() -> None:
        url = new_place()
        world = World(url=url, latency=SLOW)
        async with anyio.create_task_group() as group:
            async with world.manager(**without_gate(url)) as manager:
                session = await create(manager)
                sender = await under_way(session, group, world)
                assert await state(manager, session) == "running"
            assert isinstance(sender.error, SessionsError)
            assert "recover()" in str(sender.error)
        found = await check_recovered(world, **without_gate(url))
        assert words(found) == ["go"]

    anyio.run(everything, backend=backend)


@everywhere
async def test_the_ledger_has_the_call_that_was_given_up(tmp_path: Path) -> None:
    world = World(url=tmp_path / "a.db", latency=SLOW)
    async with anyio.create_task_group() as group, world.manager() as manager:
        session = await create(manager)
        await under_way(session, group, world)
    await check_recovered(world)
    async with world.manager() as manager:
        session = await manager.open(session.id)
        assert [one.status for one in await session.calls()] == ["cancelled", "ok"]


@everywhere
async def test_finished_tools_are_kept_and_the_others_are_in_doubt(tmp_path: Path) -> None:
    ran: list[str] = []

    @tool
    async def book(city: str) -> str:
        """Books, and takes its time for Rome."""
        ran.append(city)
        if city == "Rome":
            await anyio.sleep_forever()
        return f"booked {city}"

    script = answers([call("book", city="Oslo"), call("book", city="Rome")], "All done.")
    world = World(script, url=tmp_path / "a.db")
    async with anyio.create_task_group() as group, world.manager() as manager:
        sender = await under_way(await create(manager, tools=[book]), group, world)
    assert isinstance(sender.error, SessionsError)
    found = await check_recovered(world, [book])
    told = [one["content"] for one in results(found.messages[2])]
    assert told == ["booked Oslo", INTERRUPTED]
    assert sorted(ran) == ["Oslo", "Rome"]


@everywhere
async def test_draining_lets_turns_end_and_takes_no_new_ones(tmp_path: Path) -> None:
    world = World(url=tmp_path / "a.db", latency=SLOW)
    async with anyio.create_task_group() as group, world.manager() as manager:
        session, other = await create(manager), await create(manager)
        sender = await under_way(session, group, world)
        group.start_soon(manager.drain, 8)
        await world.clock.advance(1)
        with pytest.raises(SessionsError, match="takes no new turns"):
            await other.send("no")
        assert (await manager.open(session.id)).title is None  # what is no turn still works
        await world.clock.advance(10)
        assert sender.reply is not None
        assert await state(manager, session) == "finished"
        assert await manager.runtime.store.turns(other.id) == []
    async with world.manager() as manager:
        assert await manager.recover() == {}


@everywhere
async def test_what_does_not_end_in_time_is_left(tmp_path: Path) -> None:
    world = World(url=tmp_path / "a.db", latency=SLOW)
    async with anyio.create_task_group() as group, world.manager() as manager:
        session = await create(manager)
        sender = await under_way(session, group, world)
        group.start_soon(manager.drain, 2)
        await world.clock.advance(2)
        assert await state(manager, session) == "running"
        assert isinstance(sender.error, SessionsError)
        await check_recovered(world)


@everywhere
async def test_who_waits_for_the_session_is_told_at_once(tmp_path: Path) -> None:
    world = World(url=tmp_path / "a.db", latency=SLOW)
    async with anyio.create_task_group() as group, world.manager() as holder:
        session = await create(holder)
        first = Sender(session)
        async with world.manager() as manager:
            elsewhere, line = Sender(await manager.open(session.id)), Sender(await manager.open(session.id))
            group.start_soon(first.send, "first")
            await world.clock.advance(1)
            group.start_soon(elsewhere.send, "second")
            group.start_soon(line.send, "third")
            await world.clock.advance(1)
        assert isinstance(elsewhere.error, SessionsError)
        assert isinstance(line.error, SessionsError)
        await world.clock.advance(20)
        assert first.reply is not None
        assert words(session) == ["first"]
    async with world.manager(busy_timeout=0) as manager:  # nobody holds it, nobody stands in line
        await (await manager.open(session.id)).append([{"role": "user", "content": "again"}])


@everywhere
async def test_a_stream_that_nobody_reads_is_left_too(tmp_path: Path) -> None:
    world = World(url=tmp_path / "a.db")
    async with world.manager() as manager:
        stream = (await create(manager)).stream("go")
        assert (await anext(stream)).type == "message_start"
    with pytest.raises(SessionsError):
        await stream.get_final_reply()
    await check_recovered(world)


@everywhere
async def test_a_recovery_that_is_closed_is_not_a_death_of_its_worker(tmp_path: Path) -> None:
    world = World(url=tmp_path / "a.db", latency=SLOW)
    async with anyio.create_task_group() as group, world.manager() as manager:
        session = await create(manager)
        group.start_soon(Sender(session).send)
        await world.clock.advance(5)
    for _ in range(7):
        async with world.manager(recover=True):
            await world.clock.advance(5)
    found = await check_recovered(world)
    assert words(found) == ["go"]


@everywhere
async def test_who_cancels_its_own_turn_leaves_it_interrupted(tmp_path: Path) -> None:
    """Also where the process is told to end later; and a turn that went on meanwhile stays as it is."""
    world = World(url=tmp_path / "a.db", latency=SLOW)
    with anyio.CancelScope() as ended:
        async with world.manager() as manager:
            given_up, gone_on = await create(manager), await create(manager)
            with anyio.CancelScope() as scope:
                async with anyio.create_task_group() as group:
                    for session in (given_up, gone_on):
                        group.start_soon(session.send, "go")
                    await world.clock.advance(5)
                    scope.cancel()
            async with anyio.create_task_group() as group:
                group.start_soon(gone_on.send, "and again")
                await world.clock.advance(TOGETHER + 20)
            assert await state(manager, given_up) == "interrupted"
            ended.cancel()
            await anyio.lowlevel.checkpoint()
    async with world.manager() as manager:
        assert await state(manager, given_up) == "interrupted"
        assert [one.state for one in await manager.runtime.store.turns(gone_on.id)] == ["interrupted", "finished"]
        assert await manager.recover() == {}


@everywhere
async def test_a_cancellation_that_takes_the_manager_along_is_the_workers_end(tmp_path: Path) -> None:
    """As Ctrl-C under `asyncio.run`, or a cancelled nursery: it reaches the turns first, then the manager."""
    world = World(url=tmp_path / "a.db", latency=SLOW)
    found: list[Session] = []

    async def work() -> None:
        async with world.manager() as manager:
            found.extend([await create(manager), await create(manager)])
            async with anyio.create_task_group() as group:
                for session in found:
                    group.start_soon(session.send, "go")

    async with anyio.create_task_group() as group:
        group.start_soon(work)
        await world.clock.advance(5)
        group.cancel_scope.cancel()
    async with anyio.create_task_group() as group, world.manager() as other:
        group.start_soon(world.clock.advance, 30)
        recovered = await other.recover()
    assert sorted(recovered) == sorted(one.id for one in found)
    assert all(isinstance(one, Reply) for one in recovered.values())
    world.check()


async def test_what_another_worker_took_up_meanwhile_is_left_to_it(tmp_path: Path) -> None:
    """The turn was cancelled, and before the manager is left its user has sent something else, elsewhere."""
    world = World(url=tmp_path / "a.db", latency=SLOW)

    async def work(manager: SessionManager, other: SessionManager) -> None:
        async with manager:
            session = await create(manager, id="fixed")
            try:
                await session.send("go")
            finally:
                again = await other.open("fixed")
                with anyio.CancelScope(shield=True):
                    await again.append([{"role": "user", "content": "and"}, {"role": "assistant", "content": "so"}])
                    task = asyncio.get_running_loop().create_task(again.send("more"))
                    await world.clock.advance(1)
                    held.append(task)

    held: list[asyncio.Task[Any]] = []
    async with world.manager() as other:
        working = asyncio.create_task(work(world.manager(), other))
        await world.clock.advance(5)
        working.cancel()
        with suppress(asyncio.CancelledError):
            await working
        await world.clock.advance(30)
        assert (await held[0]).text
        assert [one.state for one in await other.runtime.store.turns("fixed")] == ["interrupted", "finished"]
        assert await other.recover() == {}


def test_ctrl_c_under_asyncio_run(tmp_path: Path) -> None:
    """`asyncio.run` cancels the main task on SIGINT, here by what its handler does."""
    world = World(url=tmp_path / "a.db", latency=SLOW)

    async def main() -> None:
        async with world.manager() as manager:
            session = await create(manager, id="fixed")
            task = asyncio.current_task()
            assert task is not None
            asyncio.get_running_loop().call_later(0.2, task.cancel)
            await session.send("go")

    with pytest.raises(asyncio.CancelledError):
        asyncio.run(main())
    asyncio.run(_found_running(world))


async def _found_running(world: World) -> None:
    found = await check_recovered(world)
    assert words(found) == ["go"]


@everywhere
async def test_a_reply_that_has_come_whole_is_kept(tmp_path: Path) -> None:
    """Its reader leaves at the last event, before the reply is stored: it is paid."""
    world = World(url=tmp_path / "a.db")
    async with world.manager() as manager:
        session = await create(manager)
        async with session.stream("go") as stream:
            async for event in stream:
                if event.type == "message_stop":
                    break
        assert await session.resume() is None
        assert [one.status for one in await session.calls()] == ["ok"]
        assert [one.state for one in await manager.runtime.store.turns(session.id)] == ["finished"]
        assert len(session.messages) == 2
    world.check()


class Source:
    """What a driver draws from: one thing that has come already when the manager ends, and one that never comes."""

    def __init__(self) -> None:
        self.come, self.never, self.left = anyio.Event(), anyio.Event(), False

    async def drive(self) -> AsyncGenerator[Event]:
        try:
            await self.come.wait()
            yield Event("just come")
            await self.never.wait()
        finally:
            self.left = True


@everywhere
async def test_what_comes_at_the_moment_of_the_end_does_not_let_the_turn_go_on() -> None:
    """The end interrupts a wait that is over already: the next one must not begin."""
    world = World()
    async with world.manager() as manager, anyio.create_task_group() as group:
        source, seen = Source(), []
        driver = Driver(manager.runtime, source, manager.runtime)  # type: ignore[arg-type]

        async def read() -> None:
            with pytest.raises(SessionsError, match="was closed before this was done"):
                while (happened := await driver.next()) is not None:
                    seen.append(happened)
            seen.append("told")

        group.start_soon(read)
        await anyio.wait_all_tasks_blocked()
        group.start_soon(world.clock.advance, 60.0)  # what does not end is given up, and the test goes on
        source.come.set()
        await manager.drain()
        source.never.set()
        assert seen == [Event("just come"), "told"]
        assert source.left
        assert driver.is_drawn is False
