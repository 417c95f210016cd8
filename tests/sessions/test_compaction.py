"""The API's own summary becomes the start of a new chain; the old one stays readable and can be branched."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from sessions import ConfigurationError, Conflict, ContextFull, ModelError, Session, tool
from sessions.core.profiles import profile_for
from sessions.core.prompt import COMPACTION_BETA
from sessions.core.transcript import Entry
from sessions.simulator import Fault, Request, Scripted, filler
from tests.crash.stepping import at_step
from tests.crash.test_killed_anywhere import Dying
from tests.sessions.world import MODEL, World, buckets, call, create, everywhere, marks, words

SMALL = replace(profile_for(MODEL), window=12_000)


@tool(idempotent=True)
def look(where: str) -> str:
    """Looks somewhere."""
    return f"seen {where}"


def script(request: Request) -> Any:
    """Looks where it is asked to, then answers; thinks every time."""
    if "look" in request.text and not request.results:
        return Scripted([call("look", where="there")], thinking="I look.")
    return Scripted(f"answer to {request.text[:20]}", thinking="I think about it.")


async def talked(manager: Any, *texts: str, **given: Any) -> Session:
    """A session in which these have been said."""
    session: Session = await create(manager, **given)
    for text in texts:
        await session.send(text)
    return session


def ids(entries: Sequence[Entry]) -> list[str]:
    return [entry.id for entry in entries]


async def check_ledger(session: Session, world: World) -> None:
    """Each call is priced as the simulator bills it."""
    rows = {one.request_id: one for one in await session.calls() if one.request_id}
    for exchange in world.requests:
        row = rows.get(exchange.request_id)
        if exchange.state == "complete" and row is not None and row.status == "ok":
            assert buckets(row.usage) == buckets(exchange.usage)
            assert row.cost == exchange.cost


@everywhere
async def test_a_summary_is_the_new_head(tmp_path: Path) -> None:
    world = World(script, url=tmp_path / "a.db")
    async with world.manager() as manager:
        session = await talked(manager, "My dog is Rex.", "please look", tools=[look])
        old = session.entries
        made = await session.compact()
        assert (made.kind, made.status, made.stop_reason) == ("compact", "ok", "compaction")
        (entry,) = session.entries
        assert (entry.role, entry.parent, entry.stop_reason) == ("assistant", None, "compaction")
        assert session.head == entry.id
        assert made.entry == entry.id
        assert "My dog is Rex." in entry.content[0]["content"]
        assert ids(await session.entries_before()) == ids(old)
        assert await session.resume() is None
        await session.send("And now?")
        reply = await session.send("And then?")
        assert reply.usage.cache_read > 500
        for body in world.bodies[-2:]:
            (block,) = body["messages"][0]["content"]
            assert [{key: value for key, value in block.items() if key != "cache_control"}] == entry.content
        assert all(COMPACTION_BETA in one.betas for one in world.requests[-3:])
        assert all(len(marks(body)) <= 4 for body in world.bodies)
        assert await session.verify() is None
    async with world.manager() as manager:
        found = await manager.open(session.id, tools=[look])
        assert found.entries == session.entries
        assert ids(await found.entries_before()) == ids(old)
        assert (await found.send("please look again")).text
        assert COMPACTION_BETA in world.requests[-1].betas
        await check_ledger(found, world)
        assert (await found.cost()).total == world.engine.bill().cost
        assert (await found.cost()).by_kind["compact"] == made.cost
        assert made.cost is not None
        assert made.cost > Decimal(0)
    world.check()


@everywhere
async def test_twice_and_three_times() -> None:
    world = World(script)
    async with world.manager() as manager:
        session = await talked(manager, "one")
        chains: list[str] = []
        for number in range(3):
            chains += ids(session.entries)
            await session.compact()
            assert ids(await session.entries_before()) == chains
            await session.send(f"more {number}")
        assert (await session.cost()).total == world.engine.bill().cost
        sequences = [one.sequence for one in await manager.runtime.store.turns(session.id)]
        assert sequences == sorted(set(sequences))
    world.check()


@everywhere
async def test_a_fork_of_an_old_entry_goes_on_without_the_summary(tmp_path: Path) -> None:
    world = World(script, url=tmp_path / "a.db")
    async with world.manager() as manager:
        session = await talked(manager, "one", "two", "three")
        old = session.entries
        await session.compact()
        await session.send("four")
        branch = await session.fork(at=old[3].id)
        assert words(branch) == ["one", "two"]
        await branch.send("instead")
        assert COMPACTION_BETA not in world.requests[-1].betas
        assert await branch.entries_before() == []
        later = await session.fork()
        await later.send("five")
        assert COMPACTION_BETA in world.requests[-1].betas
        assert ids(await later.entries_before()) == ids(old)
        once_more = await later.fork(at=later.entries[0].id)
        await once_more.send("straight after the summary")
        assert ids(await once_more.entries_before()) == ids(old)
        with pytest.raises(Conflict):
            await session.rewind(old[3].id)
        await session.rewind(session.entries[0].id)
        await session.send("other four")
        await session.rewind(None)
        await session.send("from nothing")
        assert COMPACTION_BETA not in world.requests[-1].betas
        assert await session.entries_before() == []
    async with world.manager() as manager:
        again = await manager.open(branch.id)
        await again.compact()
        assert ids(await again.entries_before()) == ids(branch.entries)
        await again.send("on")
    world.check()


async def test_a_branch_outlives_the_session_it_came_from(tmp_path: Path) -> None:
    world = World(script, url=tmp_path / "a.db")
    async with world.manager() as manager:
        session = await talked(manager, "one")
        old = ids(session.entries)
        await session.compact()
        branch = await session.fork()
        await branch.send("two")
        await session.delete()
        assert (await branch.send("three")).text
        assert ids(await branch.entries_before()) in (old, [])
        assert await branch.verify() is None
    world.check()


@everywhere
async def test_what_cannot_be_compacted_says_why() -> None:
    asks = {"name": "look", "description": "Asks.", "input_schema": {"type": "object", "properties": {}}}
    world = World(script, faults={1: Fault.http(529)})
    async with world.manager() as manager:
        session = await create(manager, tools=[asks])
        with pytest.raises(ConfigurationError, match="nothing to summarize"):
            await session.compact()
        await session.send("please look")
        with pytest.raises(ConfigurationError, match="resume"):
            await session.compact()
        with pytest.raises(ModelError):
            await session.send("never mind")
        with pytest.raises(ConfigurationError, match="resume"):
            await session.compact()
        assert len(world.requests) == 2
        await session.resume()
        await session.compact()
        with pytest.raises(ConfigurationError, match="nothing to summarize"):
            await session.compact()
        other = await create(manager, params={"context_management": {"edits": []}})
        await other.append([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])
        with pytest.raises(ConfigurationError, match="context_management"):
            await other.compact()
    world.check()


@pytest.mark.parametrize("auto", [None, "auto"])
async def test_a_platform_without_it(auto: str | None) -> None:
    """A clear error where it is asked for; where it is only wished for, the turn goes on."""
    profile = replace(SMALL, compaction=False)
    world = World(script, profile=profile)
    async with world.manager(profile=profile) as manager:
        session = await talked(manager, "one", compact=auto)
        with pytest.raises(ConfigurationError, match="no on-demand compaction"):
            await session.compact()
        assert (await session.send(filler(9000))).text
        assert len(session.entries) == 4
    world.check()


@everywhere
async def test_settings_that_may_not_stand_beside_it() -> None:
    """They are left out of the one request and are back in the next."""
    world = World(lambda request: '{"a": 1}')
    schema = {"type": "json_schema", "schema": {"type": "object", "properties": {}, "additionalProperties": False}}
    async with world.manager() as manager:
        session = await create(
            manager, model="claude-haiku-5-5", tools=[look], output_config={"effort": "low", "format": schema},
            params={"stop_sequences": ["END"]},
        )  # fmt: skip
        history = [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}]
        await session.append(history)
        await session.update(tool_choice={"type": "any"}, rebase=True)
        await session.compact()
        body = world.bodies[-1]
        assert "stop_sequences" not in body
        assert "tool_choice" not in body
        assert body["output_config"] == {"effort": "low"}
        await session.update(tool_choice={"type": "auto"}, rebase=True)
        await session.send("on")
        assert world.bodies[-1]["stop_sequences"] == ["END"]
        assert world.bodies[-1]["output_config"]["format"] == schema
    world.check()


@everywhere
@pytest.mark.parametrize(
    "fault",
    [Fault.http(529), Fault.http(400), Fault.cut(0), Fault.cut(3), Fault.end(3), Fault.error(2), Fault.garbled(1)],
    ids=lambda fault: f"{fault.kind}-{fault.after}",
)
async def test_one_that_fails_changes_nothing(fault: Fault, tmp_path: Path) -> None:
    world = World(script, url=tmp_path / "a.db", faults={1: fault})
    async with world.manager() as manager:
        session = await talked(manager, "one")
        before = session.entries
        with pytest.raises(ModelError):
            await session.compact()
        assert session.entries == before
        assert (await manager.open(session.id)).entries == before
        assert [(one.kind, one.status) for one in await session.calls()] == [("turn", "ok"), ("compact", "error")]
        await session.send("two")
        assert words(session) == ["one", "two"]
        await session.compact()
        assert len(session.entries) == 1
    world.check()


async def test_cancelled_at_each_await(tmp_path: Path) -> None:
    """All or nothing; the request that was paid for is in the ledger."""
    for step in range(1, 200):
        world = World(script, url=tmp_path / f"{step}.db")
        async with world.manager(busy_timeout=1) as manager:
            session = await talked(manager, "one", "two")
            before = ids(session.entries)
            task = asyncio.create_task(at_step(session.compact(), step).run())
            await asyncio.wait([task])
            if not task.cancelled():
                task.result()
            found = await manager.open(session.id)
            now = ids(found.entries)
            assert now == before or (len(now) == 1 and ids(await found.entries_before()) == before), step
            assert await session.resume() is None
            assert ids(session.entries) == now, step
            assert (await session.send("three")).text
            assert await session.verify() is None
            begun = [one for one in world.requests if one.began is not None]
            assert len(await session.calls()) >= len(begun), f"a paid call is not in the ledger: step {step}"
        world.check()
        if not task.cancelled():
            return
    raise AssertionError("it never came through")


@pytest.mark.parametrize("auto", [False, True])
@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_a_process_that_dies_in_it(after: bool, auto: bool, tmp_path: Path) -> None:
    three = f"three {filler(5000)}"
    for at in range(1, 12):
        world = World(script, url=tmp_path / f"{at}.db", profile=SMALL)
        async with world.manager(profile=SMALL) as manager:
            session = await talked(manager, "one", filler(3000), compact="auto" if auto else None)
            before = ids(session.entries)
            assert len(before) == 4
        store = Dying(tmp_path / f"{at}.db", at, after=after)
        async with world.manager(store=store, profile=SMALL) as manager:
            try:
                found = await manager.open(session.id)
                await (found.send(three) if auto else found.compact())
            except Exception:
                assert store.dead
        await world.clock.advance(11)
        async with world.manager(profile=SMALL) as manager:
            found = await manager.open(session.id)
            was = ids(await found.entries_before()) or ids(found.entries)
            assert was[: len(before)] == before
            await found.resume()
            await found.send("four")
            assert words(found).count(three) <= 1
            assert await found.verify() is None
        world.check()
        if not store.dead:
            return
    raise AssertionError("it never came through")


@everywhere
async def test_it_happens_by_itself_before_the_window_is_exceeded(tmp_path: Path) -> None:
    world = World(script, url=tmp_path / "a.db", profile=SMALL)
    async with world.manager(profile=SMALL) as manager:
        session = await create(manager, compact="auto", tools=[look])
        for number in range(8):
            reply = await session.send(f"please look {number}: {filler(1500)}")
            assert reply.stop_reason == "end_turn", "the window was exceeded"
        kinds = [one.kind for one in await session.calls()]
        assert 1 <= kinds.count("compact") <= 4
        said = words_of([*await session.entries_before(), *session.entries])
        assert [f"look {number}:" in text for number, text in enumerate(said)] == [True] * 8
        await check_ledger(session, world)
        assert (await session.cost()).total == world.engine.bill().cost
        rows = await manager.runtime.store.turns(session.id)
        assert [one.sequence for one in rows] == sorted({one.sequence for one in rows})
        assert [one.state for one in rows] == ["finished"] * len(rows)
    async with world.manager(profile=SMALL) as manager:
        found = await manager.open(session.id, tools=[look])
        assert found.settings.compact == "auto"
        assert (await found.send(f"on: {filler(6000)}")).stop_reason == "end_turn"
    world.check()


def words_of(entries: Sequence[Entry]) -> list[str]:
    """The user's own text, entry by entry."""
    found = [
        [block["text"] for block in entry.content if block["type"] == "text"]
        for entry in entries
        if entry.role == "user"
    ]
    return ["\n".join(one) for one in found if one]


async def test_it_does_not_happen_without_need_or_wish() -> None:
    world = World(script, profile=SMALL)
    async with world.manager(profile=SMALL) as manager:
        session = await talked(manager, "one", "two", compact="auto")
        assert {one.kind for one in await session.calls()} == {"turn"}
        await session.update(compact=None)
        await session.send(filler(9000))
        await session.send("three")
        assert {one.kind for one in await session.calls()} == {"turn"}


async def test_the_words_are_kept_where_it_fails(tmp_path: Path) -> None:
    """`send` promises that the words are kept whatever is raised; a compaction that fails is no exception."""
    world = World(script, url=tmp_path / "a.db", profile=SMALL, faults={2: Fault.http(529), 3: Fault.http(529)})
    async with world.manager(profile=SMALL) as manager:
        session = await talked(manager, "one", filler(3000), compact="auto")
        three = f"three {filler(5000)}"
        try:
            await session.send(three, idempotency_key="k")
        except ModelError:
            assert words(await manager.open(session.id))[-1] == three
        assert world.bodies[2].get("compaction")
        reply = await session.send(three, idempotency_key="k")
        assert reply.content
        said = words_of([*await session.entries_before(), *session.entries])
        assert said.count(three) == 1
    world.check()


@everywhere
async def test_instructions_that_wait_go_out_behind_it() -> None:
    world = World(script)
    async with world.manager() as manager:
        session = await talked(manager, "one")
        await session.instruct("be brief")
        await session.compact()
        await session.send("two")
        last = world.bodies[-1]["messages"][-1]
        assert (last["role"], last["content"][0]["text"]) == ("system", "be brief")
    world.check()


@everywhere
async def test_settings_change_behind_it() -> None:
    """Thinking behind the summary is bound to it, and to system and tools as they were."""
    world = World(script)
    async with world.manager() as manager:
        session = await talked(manager, "one", "two")
        await session.compact()
        await session.send("three")
        await session.update(system=filler(700), rebase=True)
        await session.send("four")
        await session.update(model="claude-opus-5", rebase=True)
        await session.send("five")
        await session.update(model=MODEL, rebase=True)
        await session.send("six")
        await session.compact()
        await session.send("seven")
    assert len([one for one in world.requests if one.state == "refused"]) <= 1


@everywhere
async def test_prewarm_and_map_behind_it() -> None:
    world = World(script)
    async with world.manager() as manager:
        session = await talked(manager, "one", "two")
        await session.compact()
        assert await session.prewarm() is not None
        replies = await session.map(["a", "b"])
        assert [reply.usage.cache_read > 500 for reply in replies] == [True, True]
        assert all(COMPACTION_BETA in one.betas for one in world.requests[-3:])
    world.check()


async def test_the_users_own_betas_stay() -> None:
    world = World(script)
    async with world.manager() as manager:
        beta = "context-management-2025-06-27"
        session = await talked(manager, "one", params={"betas": [beta]})
        await session.compact()
        await session.send("two")
        assert all(one.betas >= {beta, COMPACTION_BETA} for one in world.requests[1:])
    world.check()


@everywhere
async def test_within_a_turn_what_lies_before_it_makes_room_and_no_tool_runs_twice(tmp_path: Path) -> None:
    ran: list[int] = []

    @tool
    def read(page: int) -> str:
        """Reads a page, which must not be read twice."""
        ran.append(page)
        return filler(1500)

    def script(request: Request) -> Any:
        if "read" not in str(request.words[-1:]) and not request.results:
            return "answer"
        done = str(request.messages).count("tool_result")
        return "read all" if done >= 5 else Scripted([call("read", page=done)], thinking="Next page.")

    world = World(script, url=tmp_path / "a.db", profile=SMALL)
    async with world.manager(profile=SMALL) as manager:
        session = await create(manager, compact="auto", tools=[read], max_tokens=1000)
        await session.send(f"one {filler(3000)}")
        await session.send(f"two {filler(1500)}")
        old = session.entries
        replies = [step async for step in session.run("read them", idempotency_key="k") if step.kind == "reply"]
        assert replies[-1].content[-1]["text"] == "read all"
        assert [one.kind for one in await session.calls()].count("compact") == 1
        assert ids(await session.entries_before()) == ids(old)
        assert session.entries[0].stop_reason == "compaction"
        assert words(session) == ["read them"]
        assert ran == [0, 1, 2, 3, 4]
        calls = len(world.requests)
        assert (await session.send("read them", idempotency_key="k")).text == "read all"
        assert len(world.requests) == calls
        assert await session.verify() is None
        await check_ledger(session, world)
    async with world.manager(profile=SMALL) as manager:
        found = await manager.open(session.id, tools=[read])
        assert found.entries == session.entries
        assert await found.resume() is None
        assert (await found.send("and?")).text == "answer"
    world.check()


@everywhere
async def test_a_turn_that_fills_the_window_alone_is_kept_and_goes_on(tmp_path: Path) -> None:
    """Nothing lies before it that a summary could stand for: the last result is told as refused."""
    ran: list[str] = []

    @tool
    def read(what: str) -> str:
        """Reads a lot."""
        ran.append(what)
        return filler(30_000)

    world = World(
        lambda request: "done" if "tool_result" in str(request.messages) else [call("read", what="all")],
        url=tmp_path / "a.db", profile=SMALL,
    )  # fmt: skip
    async with world.manager(profile=SMALL) as manager:
        session = await create(manager, compact="auto", tools=[read], max_tokens=1000)
        with pytest.raises(ContextFull, match=r"compact\(\).*goes on"):
            await session.send("read all")
        assert words(session) == ["read all"]
        reply = await session.resume()
        assert reply is not None
        assert reply.text == "done"
        assert ran == ["all"]
        assert (await session.send("and now?")).text == "done"


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
async def test_a_process_that_dies_in_one_within_a_turn(after: bool, tmp_path: Path) -> None:
    def script(request: Request) -> Any:
        done = str(request.messages).count("tool_result")
        if "book" not in str(request.messages):
            return "answer"
        return "booked all" if done >= 4 else [call("book", n=done)]

    for at in range(1, 40):
        ran: list[int] = []

        @tool
        def book(n: int) -> str:
            """Books once."""
            ran.append(n)  # noqa: B023 - used within this round of the loop
            return filler(1500)

        world = World(script, url=tmp_path / f"{at}.db", profile=SMALL)
        async with world.manager(profile=SMALL) as manager:
            session = await create(manager, compact="auto", tools=[book], max_tokens=1000)
            await session.send(filler(3000))
            await session.send(filler(2500))
            before = ids(session.entries)
        store = Dying(tmp_path / f"{at}.db", at, after=after)
        async with world.manager(store=store, profile=SMALL) as manager:
            try:
                found = await manager.open(session.id, tools=[book])
                await found.send("book them", idempotency_key="k")
            except Exception:
                assert store.dead
        await world.clock.advance(11)
        async with world.manager(profile=SMALL) as manager:
            found = await manager.open(session.id, tools=[book])
            reply = await found.send("book them", idempotency_key="k")
            assert reply.text == "booked all"
            assert words(found).count("book them") == 1
            was = ids(await found.entries_before()) or ids(found.entries)
            assert was[: len(before)] == before
            assert len(ran) == len(set(ran)), at
            assert await found.verify() is None
        world.check()
        if not store.dead:
            assert [one.kind for one in await _calls(world, session.id)].count("compact") >= 1
            return
    raise AssertionError("it never came through")


async def _calls(world: World, id: str) -> Any:
    async with world.manager(profile=SMALL) as manager:
        return await (await manager.open(id)).calls()


@everywhere
async def test_one_that_fails_within_a_turn_is_not_tried_again_and_moves_no_mark(tmp_path: Path) -> None:
    """A summary that does not come may have been paid for: before each request of a long turn it would be again."""

    @tool(idempotent=True)
    def read(page: int) -> str:
        """Reads a page."""
        return filler(400)

    def script(request: Request) -> Any:
        if "read" not in str(request.messages):
            return "answer"
        done = str(request.messages).count("tool_result")
        return "read all" if done >= 3 else [call("read", page=done)]

    world = World(script, url=tmp_path / "a.db", profile=SMALL, faults={2: Fault.http(529)})
    async with world.manager(profile=SMALL) as manager:
        session = await talked(manager, "one", filler(3000), compact="auto", tools=[read])
        marked = {"type": "text", "text": filler(5000), "cache_control": {"type": "ephemeral"}}
        reply = await session.send([marked, {"type": "text", "text": "please read"}])
        assert reply.text == "read all"
        assert [number for number, body in enumerate(world.bodies) if body.get("compaction")] == [2]
        marked_blocks = [
            (at, index)
            for at, message in enumerate(world.bodies[3]["messages"])
            for index, block in enumerate(message["content"])
            if "cache_control" in block
        ]
        assert (4, 0) in marked_blocks
    world.check()
