"""What a session is doing, who may see it, and where it comes from: states, lists, owners, families."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from sessions import ConfigurationError, ModelError, SessionNotFound
from sessions.simulator import Fault
from tests.sessions.world import World, answers, call, create, everywhere, words
from tests.turns.acts import Acts, Held, real


async def listed(manager: Any, **given: Any) -> list[str]:
    return [info.id for info in await manager.list(**given)]


@everywhere
async def test_nothing_of_another_owner_can_be_named(tmp_path: Path) -> None:
    acts = Acts()
    world = World(answers([call("pay", amount=5)]), url=tmp_path / "a.db")
    async with world.manager() as manager:
        theirs = await create(manager, owner="ada", tools=acts.tools, title="secret plans", metadata={"a": 1})
        (pending,) = (await theirs.send("go")).pending
        nobodys = await create(manager)
        mine = manager.for_owner("bob")
        own = await mine.create(model="claude-sonnet-5-5", max_tokens=100)
        assert own.owner == "bob"
        for id in (theirs.id, nobodys.id):
            for reach in (mine.open, mine.turn, mine.delete):
                with pytest.raises(SessionNotFound):
                    await reach(id)
            with pytest.raises(SessionNotFound):
                await mine.list(before=id)
            with pytest.raises(SessionNotFound):
                await mine.costs("kind", session=id)
            with pytest.raises(SessionNotFound):
                await mine.create(model="claude-sonnet-5-5", max_tokens=100, parent=id)
            try:
                assert await mine.list(parent=id, branches=True) == []
            except SessionNotFound:
                pass
            with pytest.raises(ConfigurationError):
                await mine.create(model="claude-sonnet-5-5", max_tokens=100, id=id)
        for filters in ({}, {"search": "secret"}, {"state": "waiting"}, {"branches": True}):
            assert set(await listed(mine, **filters)) <= {own.id}
        assert set(await mine.costs("session")) <= {own.id}
        for owner in ("ada", None):
            with pytest.raises(ConfigurationError, match="owner"):
                await mine.create(model="claude-sonnet-5-5", max_tokens=100, owner=owner)
        with pytest.raises(ConfigurationError):
            await own.approve(pending.call_id)
        with pytest.raises(TypeError):
            await mine.open(theirs.id, owner="ada")  # type: ignore[call-arg]
        assert acts.ran == []
        assert (await manager.open(theirs.id)).pending == (pending,)
        same = manager.for_owner("ada")
        assert await listed(same) == [theirs.id]
        assert (await same.open(theirs.id)).title == "secret plans"
        await same.delete(theirs.id)
        with pytest.raises(SessionNotFound):
            await same.open(theirs.id)


@everywhere
async def test_an_owner_is_a_name() -> None:
    async with World().manager() as manager:
        for nobody in (None, "", 3, b"ada"):
            with pytest.raises(ConfigurationError):
                manager.for_owner(nobody)  # type: ignore[arg-type]


@everywhere
async def test_branches_have_their_parents_owner() -> None:
    async with World().manager() as manager:
        mine = manager.for_owner("bob")
        session = await mine.create(model="claude-sonnet-5-5", max_tokens=100)
        await session.send("Hello")
        fork = await session.fork()
        child = await mine.create(model="claude-sonnet-5-5", max_tokens=100, parent=session.id)
        adopted = await manager.create(model="claude-sonnet-5-5", max_tokens=100, parent=session.id)
        assert (fork.owner, child.owner, adopted.owner) == ("bob", "bob", "bob")
        with pytest.raises(SessionNotFound):
            await manager.create(model="claude-sonnet-5-5", max_tokens=100, parent=session.id, owner="eve")
        assert set(await listed(mine, parent=session.id)) == {fork.id, child.id, adopted.id}


@everywhere
async def test_lists_leave_branches_out_unless_they_are_asked_for() -> None:
    async with World().manager() as manager:
        session = await create(manager)
        await session.send("Hello")
        fork = await session.fork()
        branches = [reply.session.id for reply in await session.map(["a", "b"])]
        agent = await create(manager, parent=session.id)
        under = await create(manager, parent=agent.id)
        assert await listed(manager) == [session.id]
        assert set(await listed(manager, branches=True)) == {session.id, fork.id, agent.id, under.id, *branches}
        assert set(await listed(manager, parent=session.id)) == {fork.id, agent.id, *branches}
        assert await listed(manager, parent=agent.id) == [under.id]
        assert await listed(manager, parent="nobody") == []
        assert {info.parent for info in await manager.list(parent=session.id)} == {session.id}
        assert (session.parent, fork.parent, under.parent) == (None, session.id, agent.id)
        opened = await manager.open(under.id)
        assert opened.parent == agent.id
        with pytest.raises(SessionNotFound):
            await create(manager, parent="nobody")


@everywhere
async def test_the_cost_of_a_family_is_that_of_all_its_members() -> None:
    async with World().manager() as manager:
        session = await create(manager)
        await session.send("Hello")
        alone = await session.cost()
        family = [await create(manager, parent=session.id)]
        family.append(await create(manager, parent=family[0].id))
        family.append(await session.fork())
        for member in family:
            await member.send("And here")
        family += [reply.session for reply in await session.map(["a", "b"])]
        total = await session.cost(branches=True)
        assert (await session.cost()).total == alone.total
        assert total.total == sum([(await member.cost()).total for member in [session, *family]], Decimal(0))
        assert (await family[0].cost(branches=True)).total > (await family[0].cost()).total
        await family[1].delete()
        assert (await session.cost(branches=True)).total < total.total


@everywhere
async def test_a_session_says_what_it_is_doing_in_every_state(tmp_path: Path) -> None:
    acts, model = Acts(), Held()
    theirs = {"name": "theirs", "input_schema": {"type": "object", "properties": {}}}
    replies = {"pay": [call("pay", amount=1)], "theirs": [call("theirs", "toolu_1")], "fail": Fault.http(529)}

    async def script(request: Any) -> Any:
        if request.text == "wait":
            return await model(request)
        return "done" if not request.words[-1] or "result" in request.text else replies.get(request.text, "fine")

    world = real(script, url=tmp_path / "a.db")
    async with world.manager() as manager:
        session = await create(manager, tools=[*acts.tools, theirs])

        async def is_everywhere(state: str) -> None:
            assert session.state == state
            assert (await manager.open(session.id)).state == state
            for each in ("idle", "running", "waiting", "interrupted"):
                assert await listed(manager, state=each) == ([session.id] if each == state else [])
            (info,) = await manager.list()
            assert info.state == state

        await is_everywhere("idle")
        await session.send("pay")
        await is_everywhere("waiting")
        await session.send("theirs")
        await is_everywhere("waiting")
        await session.send([{"type": "tool_result", "tool_use_id": "toolu_1", "content": "x"}])
        await is_everywhere("idle")
        with pytest.raises(ModelError):
            await session.send("fail")
        await is_everywhere("interrupted")
        turn = await session.begin("wait")
        await is_everywhere("running")
        queued = await session.begin("more")
        await is_everywhere("running")
        model.let_go()
        await turn.reply()
        await queued.reply()
        await session.refresh()
        await is_everywhere("idle")
        with pytest.raises(ConfigurationError, match="state"):
            await manager.list(state="busy")  # type: ignore[arg-type]
    assert acts.ran == []


@everywhere
async def test_a_summary_is_no_turn_of_the_user() -> None:
    async with World().manager() as manager:
        session = await create(manager)
        assert await manager.turn(session.id) is None
        turn = await session.begin("Hello")
        await turn.reply()
        await session.compact()
        newest = await manager.turn(session.id)
        assert newest is not None
        assert newest.id == turn.id
        assert [each.id for each in await session.turns()] == [turn.id]
        assert session.state == "idle"
        assert await listed(manager, state="idle") == [session.id]


@everywhere
async def test_refresh_reads_what_others_wrote(tmp_path: Path) -> None:
    world = World(url=tmp_path / "a.db")
    async with world.manager() as one, world.manager() as two:
        session = await create(one)
        other = await two.open(session.id)
        await session.send("Hello")
        assert words(other) == []
        await other.refresh()
        assert words(other) == ["Hello"]
        await other.rewind(None)
        await session.refresh()
        assert session.messages == []
