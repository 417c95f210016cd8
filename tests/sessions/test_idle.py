"""Many open sessions: what an idle one holds, and that one whose transcript was dropped is as good as any other."""

from __future__ import annotations

import asyncio
import gc
import random
import threading
import tracemalloc
from pathlib import Path
from typing import Any

import psutil  # type: ignore[import-untyped]  # ships no types
import pytest

from sessions import ConfigurationError, Session, simulator
from sessions.conversation.memory import Transcripts, size_of
from sessions.core.settings import Settings
from tests.sessions.world import World, create, everywhere

LONG = simulator.filler(3000)


async def look(place: str, limit: int = 3) -> str:
    """Looks at a place."""
    return place * limit


def connections(folder: Path) -> int:
    """How often the database file is open in this process."""
    return sum(path.endswith(".db") for path, *_ in psutil.Process().open_files() if path.startswith(str(folder)))


def is_dropped(session: Session) -> bool:
    return not session.conversation.is_kept


@everywhere
async def test_an_idle_session_takes_little_whatever_its_transcript(tmp_path: Path) -> None:
    sessions = 120
    world = World(url=tmp_path / "many.db")
    async with world.manager(transcript_bytes=100_000) as manager:
        warm = await create(manager, system=LONG, tools=[look])  # what is made once is made now
        await warm.send("Hello")
        gc.collect()
        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        held = []
        for _ in range(sessions):
            held.append(await create(manager, system=LONG, tools=[look], title="one of many", metadata={"a": 1}))
            await held[-1].append([{"role": "user", "content": LONG}, {"role": "assistant", "content": LONG}])
        gc.collect()
        after, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        each = (after - before - manager.runtime.conversations.memory.total) / sessions
        assert each < 5000  # some 2 kB are usual
        assert sum(map(is_dropped, held)) >= sessions - 10
        assert all(len(session.messages) == 2 for session in held[:3])
        assert held[0].conversation.toolbox.functions["look"] is held[-1].conversation.toolbox.functions["look"]


async def test_an_idle_session_holds_no_task_no_thread_and_no_connection(tmp_path: Path) -> None:
    async with World(url=tmp_path / "many.db").manager() as manager:
        held = [await create(manager) for _ in range(3)]
        for session in held:
            await session.send("Hello")
        await asyncio.sleep(0)
        before = len(asyncio.all_tasks()), threading.active_count(), connections(tmp_path)
        held += [await create(manager) for _ in range(40)]
        for session in held:
            await session.send("Hello again")
        after = len(asyncio.all_tasks()), threading.active_count(), connections(tmp_path)
        assert after[0] <= before[0]
        assert after[1] <= before[1] + 16  # the store's pool of readers, for all sessions together
        assert 0 < before[2] <= after[2] <= 17, "the pool of readers, and the writer"


@everywhere
async def test_a_dropped_transcript_is_read_again(tmp_path: Path) -> None:
    world = World(url=tmp_path / "a.db")
    async with world.manager(transcript_bytes=0) as manager:
        first, second = await create(manager), await create(manager, title="second")
        await first.send("one")
        shown = first.messages, first.entries, first.head, first.settings
        await second.send("two")
        assert is_dropped(first)
        assert repr(first) == f"<Session {first.id} of nobody, 2 entries>"
        assert (first.messages, first.entries, first.head, first.settings) == shown
        assert is_dropped(second)
        assert (await first.export(), await first.verify()) == (shown[0], None)
        await second.send("three")
        reply = await first.send("four")
        assert reply.usage.cache_read > 0
        assert len(first.messages) == 4
        await second.rewind(second.entries[1].id)
        assert second.title == "second"
        branch = await first.fork(at=first.entries[1].id)
        assert branch.messages == first.messages[:2]
        await branch.send("five")
        assert await first.entries_before() == []
    world.check()


@everywhere
async def test_what_is_held_is_not_dropped(tmp_path: Path) -> None:
    async with World(url=tmp_path / "a.db").manager(transcript_bytes=0) as manager:
        first, second = await create(manager), await create(manager)
        await first.send("one")
        async with first.stream("two") as stream:
            async for _ in stream:
                await second.append([{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}])
                assert not is_dropped(first)
            await stream.get_final_reply()
        assert len(first.messages) == 4


@everywhere
async def test_a_dropped_transcript_that_is_gone_from_the_store_is_said_so(tmp_path: Path) -> None:
    async with World(url=tmp_path / "a.db").manager(transcript_bytes=0) as manager:
        first, second = await create(manager), await create(manager)
        await first.send("one")
        await second.send("two")
        await manager.delete(first.id)
        with pytest.raises(Exception, match=first.id):
            _ = first.messages
    with pytest.raises(ConfigurationError, match="not open"):
        _ = second.messages, first.messages


async def play(bound: int, path: Path, seed: int) -> tuple[list[Any], list[Any]]:
    """A random day of five sessions; what was sent, and what they show at the end."""
    world, chance = World(url=path), random.Random(seed)
    async with world.manager(transcript_bytes=bound) as manager:
        held = [await create(manager, thinking={"type": "adaptive"}) for _ in range(5)]
        for number in range(60):
            session = chance.choice(held)
            act = chance.choice(("send", "send", "append", "rewind", "update", "instruct", "fork"))
            await world.clock.advance(chance.choice((1, 30, 400)))
            if act == "send":
                await session.send(f"words {number} " + "x" * chance.randrange(2000))
            elif act == "append":
                end = {"role": "assistant", "content": "theirs"}
                await session.append([{"role": "user", "content": f"mine {number}"}, end])
            elif act == "rewind" and session.entries:
                ends = [entry.id for entry in session.entries if entry.role == "assistant"]
                await session.rewind(chance.choice(ends))
            elif act == "update":
                await session.update(max_tokens=chance.randrange(100, 1000))
            elif act == "instruct":
                await session.instruct(f"be brief {number}")
            elif act == "fork":
                held[chance.randrange(5)] = await session.fork()
        world.check()
        return world.bodies, [(s.messages, s.settings, s.head) for s in held]


@pytest.mark.parametrize("seed", range(4))
async def test_the_bound_changes_nothing_that_is_sent_or_shown(tmp_path: Path, seed: int) -> None:
    assert await play(0, tmp_path / "a.db", seed) == await play(10**9, tmp_path / "b.db", seed)


class Kept:
    """A transcript of a given size."""

    def __init__(self, size: int, *, is_idle: bool = True) -> None:
        self.size, self.is_idle = size, is_idle

    def drop(self) -> None:
        self.size = 0


def test_those_used_least_recently_go_first() -> None:
    cache = Transcripts(100, lambda _: False)
    kept = [Kept(30) for _ in range(3)]
    for one in kept:
        cache.touch(one)
    cache.touch(kept[0])
    cache.touch(new := Kept(50))
    assert [one.size for one in (*kept, new)] == [30, 0, 0, 50]
    assert cache.total == 80


def test_busy_ones_stay_and_so_does_the_newest_whatever_its_size() -> None:
    cache = Transcripts(100, lambda _: False)
    busy, idle = Kept(60, is_idle=False), Kept(10)
    for one in (busy, idle, new := Kept(500)):
        cache.touch(one)
    assert (busy.size, idle.size, new.size, cache.total) == (60, 0, 500, 560)
    busy.is_idle = True
    cache.touch(Kept(0))
    assert busy.size == 0


def test_a_transcript_that_grew_shrank_or_went_counts_as_it_is() -> None:
    cache = Transcripts(1000, lambda _: False)
    one = Kept(100)
    cache.touch(one)
    one.size = 300
    cache.touch(one)
    assert cache.total == 300
    one.size = 0
    cache.touch(one)
    assert cache.total == 0
    one.size = 5
    cache.touch(one)
    del one
    gc.collect()
    assert cache.total == 0


def test_equal_settings_are_kept_once_while_anybody_has_them() -> None:
    cache = Transcripts(0, lambda _: False)
    text = Settings("m", 1, local_tools=("a",)).to_json()
    first, second = cache.settings(text), cache.settings("".join(text))
    assert first is second
    assert first.settings == Settings("m", 1, local_tools=("a",))
    del first, second
    gc.collect()
    assert cache.settings_kept == 0


def test_a_size_grows_with_the_text() -> None:
    assert size_of([""]) > 0
    assert size_of(["x" * 1000, ""]) == 2 * size_of([""]) + 2000
