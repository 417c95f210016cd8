"""A turn of a session that is held open costs what is new: nothing old is read, decoded, encoded or planned again."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest

from sessions import ModelError
from sessions.core.body import Message
from sessions.simulator import Fault
from storage import Change, Lease
from storage.sql import SQLStore
from tests.sessions.world import World, call, create, everywhere

ONE_TURN = ["acquire", "commit", "commit"]


class Counted(SQLStore):
    """The store, which notes what it is asked; `fail` makes commits fail after they have gone through."""

    def __init__(self, url: str) -> None:
        super().__init__(url)
        self.asked: list[str] = []
        self.fail = 0

    def __getattribute__(self, name: str) -> Any:
        found = super().__getattribute__(name)
        if inspect.iscoroutinefunction(found) and not name.startswith("_") and name not in ("open", "close"):
            self.asked.append(name)
        return found

    async def commit(self, lease: Lease, change: Change) -> None:
        await super().commit(lease, change)
        if self.fail:
            self.fail -= 1
            raise OSError("the answer was lost")


def counted(path: Path) -> Counted:
    return Counted(f"sqlite:///{path / 'flat.db'}")


@everywhere
async def test_the_next_turn_reads_nothing(tmp_path: Path) -> None:
    store = counted(tmp_path)
    async with World().manager(store=store) as manager:
        session = await create(manager)
        await session.send("one")
        for words in ("two", "three"):
            store.asked.clear()
            await session.send(words)
            assert store.asked == ONE_TURN
        store.asked.clear()
        await session.append([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])
        assert store.asked == ["acquire", "commit", "release"]
        store.asked.clear()
        await session.send("four")
        assert store.asked == ONE_TURN
        assert [turn.sequence for turn in await store.turns(session.id)] == [1, 2, 3, 4]
        again = await manager.open(session.id)
        assert (again.messages, again.settings, again.head) == (session.messages, session.settings, session.head)


@everywhere
async def test_what_another_one_wrote_is_read(tmp_path: Path) -> None:
    store = counted(tmp_path)
    world = World()
    async with world.manager(store=store) as manager, world.manager(store=counted(tmp_path)) as elsewhere:
        session = await create(manager)
        await session.send("one")
        other = await elsewhere.open(session.id)
        await other.send("two")
        await other.update(title="theirs", max_tokens=77)
        store.asked.clear()
        await session.send("three")
        assert store.asked[:2] == ["acquire", "load"]
        assert (session.title, session.settings.max_tokens, len(session.entries)) == ("theirs", 77, 6)
        await other.rewind(other.entries[0].id if other.entries else None)
        await session.send("four")
        assert [entry.role for entry in session.entries] == ["user", "user", "assistant"]
        assert world.bodies[-1]["messages"][0]["content"][0]["text"] == "one"
    world.check()


@everywhere
async def test_an_interrupted_turn_is_remembered_and_then_gone(tmp_path: Path) -> None:
    store = counted(tmp_path)
    world = World(faults={1: Fault.http(529)})
    async with world.manager(store=store) as manager:
        session = await create(manager)
        await session.send("one")
        with pytest.raises(ModelError):
            await session.send("two")
        store.asked.clear()
        reply = await session.resume()
        assert reply is not None
        assert not {"open_turn", "load"} & set(store.asked)
        assert await session.resume() is None
        turns = await store.turns(session.id)
        assert [turn.state for turn in turns] == ["finished", "finished"]
        await session.send("three")
        store.asked.clear()
        await session.send("four")
        assert store.asked == ONE_TURN


@everywhere
async def test_turns_left_open_behind_others_are_remembered(tmp_path: Path) -> None:
    store = counted(tmp_path)
    world = World(faults={number: Fault.http(529) for number in (0, 1, 4)})
    async with world.manager(store=store) as manager:
        session = await create(manager)
        for words in ("one", "two"):
            with pytest.raises(ModelError):
                await session.send(words)
        await session.send("three")
        assert await session.conversation.open_turn() == await store.open_turn(session.id)
        store.asked.clear()
        await session.send("four")
        assert store.asked == ONE_TURN
    async with world.manager(store=store) as manager:
        session = await manager.open(session.id)
        with pytest.raises(ModelError):
            await session.send("five")
        for words in ("six", "seven"):
            assert await session.conversation.open_turn() == await store.open_turn(session.id)
            await session.send(words)
        states = [turn.state for turn in await store.turns(session.id)]
        assert states == ["interrupted"] * 2 + ["finished"] * 2 + ["interrupted"] + ["finished"] * 2


@everywhere
@pytest.mark.parametrize("failing", [1, 2])
async def test_after_a_commit_with_an_unknown_outcome_all_is_read_again(tmp_path: Path, failing: int) -> None:
    store = counted(tmp_path)
    world = World()
    async with world.manager(store=store) as manager:
        session = await create(manager)
        await session.send("one")
        store.fail = failing
        with pytest.raises(OSError):
            await session.update(title="new", metadata={"why": "what is written with it"})
        store.fail = 0
        store.asked.clear()
        await session.send("two")
        assert "read" in store.asked
        assert session.title == "new"
        store.fail = failing
        with pytest.raises(OSError):
            await session.send("three")
        store.fail = 0
        reply = await session.resume()
        fresh = await manager.open(session.id)
        assert fresh.messages == session.messages
        assert len(session.messages) == 6
        assert reply is None or reply.content == session.entries[-1].content


@everywhere
async def test_repeated_tool_ids_are_still_told_apart(tmp_path: Path) -> None:
    async def look() -> str:
        return "seen"

    def by_turn(request: Any) -> Any:
        return [call("look", id="toolu_same")] if "go" in str(request.messages[-1]["content"]) else "done"

    world = World(by_turn)
    async with world.manager() as manager:
        session = await create(manager, tools=[look])
        for _ in range(3):
            await session.send("go")
        ids = [block["id"] for entry in session.entries for block in entry.content if block["type"] == "tool_use"]
        assert ids == ["toolu_same", "toolu_same_2", "toolu_same_3"]
        await session.rewind(session.entries[3].id)
        await session.send("go")
        ids = [block["id"] for entry in session.entries for block in entry.content if block["type"] == "tool_use"]
        assert ids == ["toolu_same", "toolu_same_2"]


@everywhere
async def test_old_messages_are_not_encoded_again() -> None:
    world = World()
    async with world.manager() as manager:
        session = await create(manager)
        for number in range(4):
            await session.send(f"words {number}")
        old = session.conversation.prompt.messages[:4]
        assert all(isinstance(one, Message) for one in old)
        before = [one.encoded for one in old]
        await session.send("more")
        assert all(one.encoded is text for one, text in zip(session.conversation.prompt.messages, before, strict=False))
        assert world.bodies[-1]["messages"][0]["content"][0]["text"] == "words 0"
    world.check()
