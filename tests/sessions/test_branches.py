"""fork, rewind, map, append, update and prewarm."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from sessions import (
    ConfigurationError,
    Conflict,
    Fixed,
    InvalidHistory,
    ModelError,
    PrefixChange,
    SessionNotFound,
    tool,
)
from sessions.simulator import Fault, Latency, Request, filler
from tests.sessions.world import MODEL, World, answers, call, create, everywhere, words
from tests.sessions.world import marks as marks_of


@everywhere
async def test_a_fork_shares_what_was_and_goes_its_own_way(tmp_path: Path) -> None:
    world = World(url=tmp_path / "a.db")
    async with world.manager() as manager:
        session = await create(manager, owner="me", title="Trip", metadata={"a": 1})
        for text in ("one", "two", "three"):
            await session.send(text)
        branch = await session.fork(at=session.entries[3].id)
        assert (branch.owner, branch.title, branch.metadata) == ("me", "Trip", {"a": 1})
        assert branch.settings == session.settings
        assert words(branch) == ["one", "two"]
        before = len(world.requests)
        reply = await branch.send("instead of three")
        assert reply.usage.cache_read > 0
        assert len(world.requests) == before + 1
        assert words(session) == ["one", "two", "three"]
        assert words(branch) == ["one", "two", "instead of three"]
        assert [e.id for e in branch.entries[:4]] == [e.id for e in session.entries[:4]]
        empty = await (await create(manager)).fork()
        assert (await empty.send("Hello")).text
        with pytest.raises(Conflict):
            await session.fork(at="0" * 32)
    world.check()


@everywhere
async def test_rewind_moves_the_head_and_keeps_what_was(tmp_path: Path) -> None:
    world = World(url=tmp_path / "a.db")
    async with world.manager() as manager:
        session = await create(manager)
        for text in ("one", "two", "three"):
            await session.send(text)
        old = session.entries
        await session.rewind(old[1].id)
        assert session.head == old[1].id
        reply = await session.send("other two")
        assert reply.usage.cache_read > 0
        assert words(session) == ["one", "other two"]
        with pytest.raises(Conflict):
            await session.rewind(old[5].id)
        newer = session.head
        for expected in (old[5].id, old[1].id):
            with pytest.raises(Conflict, match="gone on"):
                await session.rewind(None, expected=expected)
        assert session.head == newer
        back = await session.fork(at=old[5].id)
        assert words(back) == ["one", "two", "three"]
        await session.rewind(None, expected=newer)
        assert (session.head, session.messages, session.entries) == (None, [], [])
        assert words(await manager.open(session.id)) == []
        assert (await session.send("anew")).text
        await session.rewind(session.entries[0].id)
        reply = await session.resume()
        assert reply is not None
        assert words(session) == ["anew"]
    world.check()


@everywhere
async def test_map_answers_each_content_in_a_branch_after_one_warm_up() -> None:
    world = World(lambda request: f"re: {request.text}", latency=Latency(first_event=1.0))
    async with world.manager(ttl=Fixed("5m")) as manager:
        session = await create(manager, system=filler(3000))
        before = session.head
        import anyio

        found: list[Any] = []

        async def mapping() -> None:
            found.extend(await session.map([f"part {n}" for n in range(8)]))

        async with anyio.create_task_group() as group:
            group.start_soon(mapping)
            await world.clock.advance(60)
        assert [reply.text for reply in found] == [f"re: part {n}" for n in range(8)]
        assert session.head == before
        assert len({reply.session.id for reply in found}) == 8
        assert all(words(reply.session) == [f"part {n}"] for n, reply in enumerate(found))
        written = sum(reply.usage.cache_write for reply in found)
        assert written < 2 * 3000
        assert world.engine.bill().usage.cache_read >= 7 * 3000
        assert await session.map([]) == []
        assert session.messages == []
    world.check()


async def test_map_with_a_limit_and_with_failures() -> None:
    running, most = 0, 0

    async def script(request: Request) -> Any:
        nonlocal running, most
        running, most = running + 1, max(most, running + 1)
        await world.clock.sleep(1)
        running -= 1
        return Fault.http(529) if request.text in ("part 0", "part 3") else "ok"

    world = World(script)
    async with world.manager() as manager:
        import asyncio

        session = await create(manager)
        task = asyncio.create_task(session.map([f"part {n}" for n in range(6)], limit=2))
        await world.clock.advance(100)
        with pytest.raises(ModelError):
            await task
        assert most == 2
        assert len(world.requests) == 6
        branches = [await manager.open(one.id) for one in await manager.list(branches=True) if one.id != session.id]
        assert sorted(len(branch.messages) for branch in branches) == [1, 1, 2, 2, 2, 2]
    world.check()


@everywhere
async def test_append_imports_all_or_nothing() -> None:
    world = World()
    async with world.manager() as manager:
        pinned = {"type": "text", "text": "pinned"}
        session = await create(manager, context=[pinned])
        history = [
            {"role": "user", "content": "look it up"},
            {"role": "assistant", "content": [{"type": "text", "text": "I do."}, call("look", "toolu_1")]},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "toolu_1", "content": "seen"}]},
            {"role": "assistant", "content": "Done."},
        ]
        bad: list[tuple[list[Any], str]] = [
            (history[1:], r"messages\[0\]"),
            ([*history[:2], history[3]], r"messages\[2\]"),
            ([*history[:1], *history[2:]], r"messages\[1\]"),
            ([history[0], {"role": "robot", "content": "x"}], r"messages\[1\]"),
            ([history[0], {"role": "assistant", "content": "  "}], r"messages\[1\]"),
            ([history[0], {"role": "assistant", "content": []}], r"messages\[1\]"),
            ([history[0], 7], r"messages\[1\]"),
            (
                [{"role": "user", "content": [{"type": "thinking", "thinking": "x", "signature": "y"}]}],
                r"messages\[0\]",
            ),
        ]
        for messages, said in bad:
            with pytest.raises(InvalidHistory, match=said):
                await session.append(messages)
            assert session.messages == []
        assert words(await manager.open(session.id)) == []
        await session.append(history)
        assert session.messages[0]["content"][0] == pinned
        assert len(session.messages) == 4
        await session.append([])
        reply = await session.send("thanks")
        assert reply.stop_reason == "end_turn"
        assert (await session.cost()).calls == 1
        await session.append([{"role": "user", "content": "and one more"}])
        resumed = await session.resume()
        assert resumed is not None
    world.check()


async def test_update_is_free_or_says_what_it_costs() -> None:
    @tool
    def look() -> str:
        """Looks."""
        return "seen"

    world = World(lambda request: "fine")
    async with world.manager() as manager:
        session = await create(manager)
        await session.update(system=filler(800))
        await session.send("Hello")
        first = world.bodies[-1]
        await session.update(max_tokens=77, title="New", metadata={"x": 1}, params={"metadata": {"user_id": "u"}})
        assert (session.settings.max_tokens, session.title, session.metadata) == (77, "New", {"x": 1})
        whole = ({"model": "claude-opus-5"}, {"system": "other"}, {"tools": [look]}, {"params": {"speed": "fast"}})
        messages = ({"tool_choice": {"type": "none"}}, {"output_config": {"effort": "low"}})
        nothing = ({"thinking": {"type": "adaptive"}},)  # the default, spelled out
        for change in (*whole, *messages, *nothing):
            with pytest.raises(PrefixChange, match=next(iter(change)) if "params" not in change else "speed") as caught:
                await session.update(**change)
            lost = caught.value.tokens
            assert lost > 800 if change in whole else 0 < lost < 100 if change in messages else lost == 0
        reply = await session.send("again")
        assert reply.usage.cache_read > 0
        assert world.bodies[-1]["system"][0]["text"] == first["system"][0]["text"]
        assert world.bodies[-1]["max_tokens"] == 77
        await session.update(system="other words", rebase=True)
        assert (await session.send("more")).usage.cache_read == 0
        for wrong in ({"owner": "x"}, {"max_tokens": 0}, {"nothing": 1}, {"params": {"no_field": 1}}):
            with pytest.raises(ConfigurationError):
                await session.update(**wrong)
        with pytest.raises(ConfigurationError):
            await session.update(metadata={"x": object()})
        assert session.settings.max_tokens == 77
        found = await manager.open(session.id)
        assert (found.settings, found.title, found.metadata) == (session.settings, "New", {"x": 1})
    world.check()


@everywhere
async def test_a_change_names_the_tokens_that_it_bills_again() -> None:
    world = World(lambda request: "a long answer " * 50)
    async with world.manager(ttl=Fixed("5m"), tend=False) as manager:
        session = await create(manager, system=filler(2000))
        for words in ("One", "Two", "Three"):
            await session.send(words)
        with pytest.raises(PrefixChange) as caught:
            await session.update(tool_choice={"type": "none"})
        before = (await session.send("Four")).usage.cache_read
        await session.update(tool_choice={"type": "none"}, rebase=True)
        after = (await session.send("Five")).usage.cache_read
        assert caught.value.tokens == pytest.approx(before - after, rel=0.2)
        assert after > 1500
        await world.clock.advance(400)
        with pytest.raises(PrefixChange, match="changing system breaks the cached prefix") as caught:
            await session.update(system="other")
        assert caught.value.tokens == 0
    world.check()


async def test_a_model_changed_by_another_process_is_priced_as_what_it_is(tmp_path: Path) -> None:
    world = World(url=tmp_path / "a.db")
    async with world.manager() as one, world.manager() as two:
        session = await create(one)
        await session.send("one")
        other = await two.open(session.id)
        await session.update(model="claude-opus-5", rebase=True)
        await other.send("two")
        assert other.settings.model == "claude-opus-5"
        assert (await other.cost()).total == world.engine.bill().cost


async def test_tools_changed_by_another_process_are_not_reported_to_the_model_as_unknown(tmp_path: Path) -> None:
    from sessions import ToolsChanged

    @tool
    def look() -> str:
        """Looks."""
        return "seen"

    world = World(answers("fine", [call("look")]), url=tmp_path / "a.db")
    async with world.manager() as one, world.manager() as two:
        session = await create(one, thinking=None)
        await session.send("one")
        other = await two.open(session.id)
        await session.update(tools=[look], rebase=True)
        with pytest.raises(ToolsChanged):
            await other.send("two")


@everywhere
async def test_prewarm_writes_the_prefix_once() -> None:
    world = World()
    async with world.manager() as manager:
        session = await create(manager)
        usage = await session.prewarm()
        assert usage is not None
        assert usage.cache_write > 500
        assert usage.output == 0
        assert await session.prewarm() is None
        reply = await session.send("Hello")
        assert reply.usage.cache_read == usage.cache_write
        assert [one.kind for one in await session.calls()] == ["prewarm", "turn"]
        assert (await session.cost()).total == world.engine.bill().cost
        assert set((await session.cost()).by_kind) == {"prewarm", "turn"}
        await world.clock.advance(4000)
        again = await session.prewarm()
        assert again is not None
        assert (await session.send("And on")).usage.cache_read >= again.cache_write
        short = await create(manager, system="short")
        assert await short.prewarm() is None
        assert len(session.messages) == 4
        assert all(len(marks_of(body)) <= 4 for body in world.bodies)
    world.check()


async def test_prewarm_does_nothing_where_the_api_would_refuse_it() -> None:
    world = World()
    async with world.manager() as manager:
        thinking = {"type": "enabled", "budget_tokens": 1024}
        session = await create(manager, model="claude-haiku-4-5", system=filler(5000), thinking=thinking)
        with pytest.warns(UserWarning, match="enabled"):
            assert await session.prewarm() is None
        assert world.requests == []


async def test_a_prewarm_that_fails_is_in_the_ledger() -> None:
    world = World(faults={0: Fault.http(529)})
    async with world.manager() as manager:
        session = await create(manager)
        with pytest.raises(ModelError):
            await session.prewarm()
        assert [(one.kind, one.status) for one in await session.calls()] == [("prewarm", "error")]
        assert (await session.send("Hello")).text


async def test_a_fork_while_calls_are_open_closes_them() -> None:
    approve = {"name": "approve", "description": "Asks.", "input_schema": {"type": "object", "properties": {}}}
    world = World(answers([call("approve", "toolu_a")], "fine"))
    async with world.manager() as manager:
        session = await create(manager, tools=[approve], model=MODEL)
        await session.send("may I?")
        branch = await session.fork()
        await branch.send("never mind")
        (closed,) = [one for one in branch.messages[2]["content"] if one["type"] == "tool_result"]
        assert closed["content"] == "not run in this branch"
        await session.send([{"type": "tool_result", "tool_use_id": "toolu_a", "content": "yes"}])
        assert words(session) == ["may I?"]
        with pytest.raises(SessionNotFound):
            await manager.open("nowhere")
    world.check()


class Slow:
    """A store whose commits return late: what they wrote is there before the caller knows."""

    def __init__(self, url: str) -> None:
        from storage import open_store

        self._real: Any = open_store(url)
        self.pause: Any = None

    def __getattr__(self, name: str) -> Any:
        return getattr(self._real, name)

    async def commit(self, lease: Any, change: Any) -> None:
        await self._real.commit(lease, change)
        if self.pause is not None:
            await self.pause()


async def test_prewarm_beside_a_running_turn_does_not_double_the_history() -> None:
    import anyio

    world = World(lambda request: "fine")
    store = Slow("sqlite://")
    async with world.manager(store=store) as manager:
        session = await create(manager)
        await session.send("one")

        async def prewarm() -> None:
            store.pause = None
            await session.prewarm()

        store.pause = prewarm
        with anyio.fail_after(10):
            await session.send("two")
        store.pause = None
        with anyio.fail_after(10):
            await session.send("three")
        assert words(session) == ["one", "two", "three"]
        assert words(await manager.open(session.id)) == ["one", "two", "three"]
    world.check()
