"""Turns whose worker died are finished by one that lives, once; nobody else's turn is touched."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import anyio
import pytest

from sessions import InDoubtToolCalls, ModelError, Reply, tool
from sessions.core.steps import INTERRUPTED
from sessions.simulator import Fault, Latency, Request
from sessions.turns.states import ATTEMPTS, TOO_OFTEN
from sessions.upkeep.recovery import EVERY
from storage import StoreUnavailable
from tests.crash.test_killed_anywhere import Dying
from tests.sessions.world import World, call, create, everywhere, results, words


class Acts:
    """A tool that takes effect and then, in the worker that dies, never returns."""

    def __init__(self, store: Dying | None = None) -> None:
        self.ran: list[str] = []
        self._store = store
        self.tools = [tool(self._act, name="act"), tool(self._look, name="look", idempotent=True)]

    async def _act(self) -> str:
        """Not to be done twice."""
        self.ran.append("act")
        if self._store is not None:
            self._store.dead = True
            raise StoreUnavailable("the process died here")
        return "did act"

    async def _look(self) -> str:
        """May be done twice."""
        self.ran.append("look")
        return "did look"


def script(request: Request) -> Any:
    """One round of two calls."""
    return "All done." if request.results else [call("act"), call("look")]


async def die(world: World, path: Path, *names: str) -> None:
    """A worker that dies in a tool of each of these sessions; its leases are not over yet."""
    for name in names:
        store = Dying(path, 1000, after=False)
        async with world.manager(store=store) as manager:
            session = await create(manager, id=name, tools=Acts(store).tools)
            with pytest.raises(Exception, match="dead"):
                await session.send("go")


@everywhere
async def test_recover_finishes_what_a_dead_worker_left_and_nothing_twice(tmp_path: Path) -> None:
    path, acts = tmp_path / "a.db", Acts()
    world = World(script, url=path)
    await die(world, path, "one", "two")
    async with world.manager(tools=acts.tools) as manager:
        assert await manager.recover() == {}  # its lease may still be alive, for all that is known
        await world.clock.advance(11)
        found = await manager.recover()
        assert sorted(found) == ["one", "two"]
        for id, reply in found.items():
            assert isinstance(reply, Reply)
            assert (reply.text, reply.session.id) == ("All done.", id)
            assert results(reply.session.messages[2])[0]["content"] == INTERRUPTED
        assert set(acts.ran) <= {"look"}
        assert await manager.recover() == {}
    world.check()


@everywhere
async def test_of_two_workers_one_finishes_the_turn(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    world = World(script, url=path, latency=Latency(first_event=1.0))
    await die_with_time(world, path)
    found: list[dict[str, Any]] = []
    one, two = Acts(), Acts()
    async with world.manager(tools=one.tools) as first, world.manager(tools=two.tools) as second:

        async def recover(manager: Any) -> None:
            found.append(await manager.recover(in_doubt="rerun"))

        async with anyio.create_task_group() as group:
            group.start_soon(recover, first)
            group.start_soon(recover, second)
            await world.clock.advance(30)
        assert sorted(len(one) for one in found) == [0, 1]
        assert [*one.ran, *two.ran].count("act") == 1
        assert [*one.ran, *two.ran].count("look") <= 1
        session = await first.open("fixed")
        assert words(session) == ["go"]
        assert [one.status for one in await session.calls()] == ["ok", "ok"]
    world.check()


async def die_with_time(world: World, path: Path) -> None:
    async with anyio.create_task_group() as group:
        group.start_soon(die, world, path, "fixed")
        await world.clock.advance(30)
    await world.clock.advance(11)


@everywhere
async def test_a_turn_that_runs_is_not_touched(tmp_path: Path) -> None:
    ended = anyio.Event()

    @tool
    async def act() -> str:
        """Takes its time."""
        await ended.wait()
        return "done"

    world = World(lambda request: "fine" if request.results else [call("act")], url=tmp_path / "a.db")
    async with world.manager() as manager, world.manager(tools=[act], recover=True) as other:
        session = await create(manager, tools=[act])
        async with anyio.create_task_group() as group:
            group.start_soon(session.send, "go")
            await world.clock.advance(120)
            assert await other.recover() == {}
            assert await manager.recover() == {}
            ended.set()
        assert session.messages[-1]["content"][0]["text"] == "fine"
        assert [one.status for one in await session.calls()] == ["ok", "ok"]
    world.check()


@everywhere
async def test_in_the_background_within_a_lease_and_a_look(tmp_path: Path) -> None:
    path, acts = tmp_path / "a.db", Acts()
    world = World(script, url=path)
    async with world.manager(tools=acts.tools, recover=True) as manager:
        await die(world, path, "fixed")
        await world.clock.advance(10 + EVERY)
        session = await manager.open("fixed")
        assert session.messages[-1]["content"][0]["text"] == "All done."
    world.check()


@everywhere
async def test_sessions_with_other_tools_are_left_alone(tmp_path: Path) -> None:
    path, acts = tmp_path / "a.db", Acts()
    world = World(script, url=path)
    await die(world, path, "fixed")
    await world.clock.advance(11)

    @tool
    async def look() -> str:
        """Another one of this name."""
        return "no"

    for tools in ([], acts.tools[:1], [acts.tools[0], look]):
        async with world.manager(tools=tools) as manager:
            assert await manager.recover() == {}
            assert await manager.recover() == {}
            assert len((await manager.open("fixed")).messages) == 2
    async with world.manager(tools=[*acts.tools, look]) as manager:
        assert isinstance((await manager.recover())["fixed"], Reply)
    world.check()


@everywhere
async def test_what_may_succeed_later_is_tried_again_ever_more_seldom(tmp_path: Path) -> None:
    path, broken = tmp_path / "a.db", {number: Fault.http(529) for number in range(1, 4)}
    world = World(script, url=path, faults=broken)
    await die(world, path, "fixed")
    await world.clock.advance(11)
    async with world.manager(tools=Acts().tools, recover=True) as manager:
        tried = []
        for second in range(100):
            await world.clock.advance(0 if second == 0 else 1)
            tried += [second] * (len(world.requests) - 1 - len(tried))
        assert tried == [0, 5, 15, 35]
        session = await manager.open("fixed")
        assert session.messages[-1]["content"][0]["text"] == "All done."
        assert [one.status for one in await session.calls()] == ["ok", *["error"] * 3, "ok"]
    world.check()


@everywhere
async def test_what_will_not_succeed_is_reported_and_left(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    world = World(script, url=path, faults={1: Fault.http(401)})
    await die(world, path, "fixed")
    await world.clock.advance(11)
    async with world.manager(tools=Acts().tools) as manager:
        assert isinstance((await manager.recover())["fixed"], ModelError)
        assert await manager.recover() == {}
        session = await manager.open("fixed", tools=Acts().tools)
        reply = await session.resume()
        assert reply is not None
        assert reply.text == "All done."
    world.check()


@everywhere
async def test_doubtful_calls_as_the_caller_says(tmp_path: Path) -> None:
    path, acts = tmp_path / "a.db", Acts()
    world = World(script, url=path)
    await die(world, path, "one", "two")
    await world.clock.advance(11)
    async with world.manager(tools=acts.tools) as manager:
        with pytest.raises(ValueError, match="in_doubt"):
            await manager.recover(in_doubt="maybe")  # type: ignore[arg-type]
        found = await manager.recover(in_doubt="raise")
        assert {type(one) for one in found.values()} == {InDoubtToolCalls}
        assert acts.ran == []
    world.check()


@everywhere
async def test_turns_whose_caller_knows_are_left(tmp_path: Path) -> None:
    """A turn that failed, ran out of time, or was given up."""
    world = World(url=tmp_path / "a.db", faults={0: Fault.http(529)}, latency=Latency(first_event=5.0))
    async with world.manager() as manager:
        failed, late = await create(manager), await create(manager)
        with pytest.raises(ModelError):
            await failed.send("go")
        with pytest.raises(TimeoutError):
            async with anyio.create_task_group() as group:
                group.start_soon(world.clock.advance, 3)
                try:
                    await late.send("go", timeout=2.0)
                except TimeoutError as error:
                    caught = error
            raise caught
        await world.clock.advance(60)
        assert await manager.recover() == {}
        assert len(failed.messages) == len(late.messages) == 1


@everywhere
async def test_a_manager_that_closes_in_the_middle_leaves_the_turn_to_the_next(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    world = World(script, url=path, latency=Latency(first_event=2.0))
    await die_with_time(world, path)
    async with world.manager(tools=Acts().tools, recover=True):
        await world.clock.advance(1)  # its request is on its way
    asked = len(world.requests)
    assert asked == 2
    async with world.manager(tools=Acts().tools, recover=True) as manager:
        await world.clock.advance(30)
        session = await manager.open("fixed")
        assert session.messages[-1]["content"][0]["text"] == "All done."
        assert [one.status for one in await session.calls()] == ["ok", "cancelled", "ok"]
    world.check()


@everywhere
async def test_a_user_who_comes_back_is_not_disturbed(tmp_path: Path) -> None:
    path, acts = tmp_path / "a.db", Acts()
    world = World(script, url=path, latency=Latency(first_event=2.0))
    await die_with_time(world, path)
    async with world.manager() as mine, world.manager(tools=acts.tools) as other:
        session = await mine.open("fixed", tools=acts.tools)
        async with anyio.create_task_group() as group:
            group.start_soon(session.send, "what happened?")
            await world.clock.advance(1)
            assert await other.recover() == {}
            await world.clock.advance(30)
        assert words(session) == ["go", "what happened?"]
    world.check()


@everywhere
async def test_a_store_that_is_down_is_looked_at_again(tmp_path: Path) -> None:
    path = tmp_path / "a.db"
    world = World(script, url=path)
    await die(world, path, "fixed")
    await world.clock.advance(11)
    store = Dying(path, 1000, after=False)
    async with world.manager(store=store, tools=Acts().tools, recover=True) as manager:
        store.dead = True
        await world.clock.advance(20)
        store.dead = False
        await world.clock.advance(EVERY)
        assert (await manager.open("fixed")).messages[-1]["content"][0]["text"] == "All done."
    world.check()


async def test_a_session_deleted_meanwhile_is_no_error(tmp_path: Path) -> None:
    class Deleting(Dying):
        async def load(self, session: str) -> Any:
            await self.real.delete(session)
            return await self.real.load(session)

    path = tmp_path / "a.db"
    world = World(script, url=path)
    await die(world, path, "fixed")
    await world.clock.advance(11)
    async with world.manager(store=Deleting(path, 1000, after=False), tools=Acts().tools) as manager:
        assert await manager.recover() == {}


async def _dies_again(world: World, path: Path) -> None:
    """A worker takes the turn up after the lease of the last one has lapsed, and dies in its tools."""
    await world.clock.advance(11)
    store = Dying(path, 1000, after=False)
    async with world.manager(store=store, tools=Acts(store).tools) as manager:
        assert isinstance((await manager.recover(in_doubt="rerun"))["fixed"], Exception)
        assert store.dead


@everywhere
async def test_a_worker_that_dies_in_a_recovery_leaves_the_turn_to_the_next(tmp_path: Path) -> None:
    path, acts = tmp_path / "a.db", Acts()
    world = World(script, url=path)
    await die(world, path, "fixed")
    for _ in range(ATTEMPTS - 1):
        await _dies_again(world, path)
    await world.clock.advance(11)
    async with world.manager(tools=acts.tools) as manager:
        (row,) = await manager.runtime.store.turns("fixed")
        assert (row.state, row.attempts) == ("running", ATTEMPTS - 1)
        reply = (await manager.recover(in_doubt="rerun"))["fixed"]
        assert isinstance(reply, Reply)
        assert reply.text == "All done."
    world.check()


@everywhere
async def test_a_turn_that_kills_its_workers_does_not_kill_them_all(tmp_path: Path) -> None:
    path, acts = tmp_path / "a.db", Acts()
    world = World(script, url=path)
    await die(world, path, "fixed")
    for _ in range(ATTEMPTS):
        await _dies_again(world, path)
    await world.clock.advance(11)
    async with world.manager(tools=acts.tools) as manager:
        assert "took this turn up" in str((await manager.recover(in_doubt="rerun"))["fixed"])
        assert await manager.recover(in_doubt="rerun") == {}
        (row,) = await manager.runtime.store.turns("fixed")
        assert (row.state, row.error) == ("interrupted", TOO_OFTEN)
        assert acts.ran == []
    await _dies_when_asked(world, path)  # whoever asks for it begins to count anew
    await world.clock.advance(11)
    async with world.manager(tools=acts.tools) as manager:
        assert isinstance((await manager.recover(in_doubt="rerun"))["fixed"], Reply)
        assert (await manager.runtime.store.turns("fixed"))[0].state == "finished"
    world.check()


async def _dies_when_asked(world: World, path: Path) -> None:
    store = Dying(path, 1000, after=False)
    async with world.manager(store=store) as manager:
        session = await manager.open("fixed", tools=Acts(store).tools)
        with pytest.raises(Exception, match="dead"):
            await session.resume(in_doubt="rerun")
