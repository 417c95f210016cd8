"""A turn that one worker runs is followed, and stopped, from another one, whatever the database and the event loop."""

from __future__ import annotations

from contextlib import aclosing
from typing import Any

import anyio

from sessions import ToolContext, Turn, tool
from sessions.following.channel import LOG
from sessions.following.events import Restarted, Snapshot
from sessions.following.relay import LOOK
from storage.sql import SQLStore
from tests.following.world import (
    TOKEN,
    Cluster,
    Seen,
    anywhere,
    check,
    following,
    store_of,
    stored,
    talk,
    until,
    writes,
)

LONG = "word " * 200


class Alone(SQLStore):
    """A store that no other process uses."""

    is_shared = False


async def newest(manager: Any, session: Any) -> Turn:
    turn = await manager.turn(session.id)
    assert turn is not None
    return turn


@anywhere
async def test_what_is_seen_elsewhere_is_what_is_stored(url: str) -> None:
    """From the beginning: the words, thinking, tools that tell how far they are, their results, the answer."""
    goes = anyio.Event()

    @tool
    async def dig(depth: int, context: ToolContext) -> str:
        context.progress(f"{depth} m")
        await goes.wait()
        return f"found {depth}"

    calls = [{"type": "tool_use", "name": "dig", "input": {"depth": depth}} for depth in (1, 2)]
    answers = [[{"type": "text", "text": "I dig."}, *calls], LONG]
    cluster = Cluster(url, lambda request: answers[sum(m["role"] == "assistant" for m in request.messages)])
    async with cluster.worker() as one, cluster.worker() as other:
        session = await talk(one, tools=[dig])
        turn = await session.begin("dig")
        async with following(turn) as near, following(await newest(other, session)) as far:
            await until(lambda: far.events)
            await cluster.speak()
            await until(lambda: len([t for t in far.view.tools.values() if t.progress]) == 2)
            goes.set()
            await until(lambda: len(far.view.entries) == 3)
            async with cluster.speaking():
                await until(lambda: far.text)
            await cluster.speak()
    expected = await stored(cluster, session.id)
    check(near, expected)
    check(far, expected)
    assert [entry.role for entry in expected.entries] == ["user", "assistant", "user", "assistant"]
    for seen in (near, far):
        assert seen.types.count("snapshot") == 1, seen.types
        assert {"block_start", "delta", "tool_started", "tool_progress", "tool_result", "usage"} <= {*seen.types}
    assert near.ended is not None
    assert far.ended is not None
    assert (near.ended.usage, near.ended.cost) == (far.ended.usage, far.ended.cost)


@anywhere
async def test_attached_in_the_middle(url: str) -> None:
    """The snapshot holds what has come, and not twice; who goes and comes again goes on behind what was seen."""
    cluster = Cluster(url, lambda _: LONG)
    async with cluster.worker() as one, cluster.worker() as other:
        session = await talk(one)
        turn = await session.begin("hi")
        near, far, late = Seen(), Seen(), Seen()
        async with cluster.speaking():
            await near.until(turn, lambda: bool(near.text))
            there = await newest(other, session)
            await far.until(there, lambda: len(far.events) == 2)
            assert isinstance(far.events[0], Snapshot)
            assert far.events[0].blocks
            await late.until(await newest(other, session), lambda: bool(late.events))
            await near.until(there, lambda: len(near.text) > 300)
            await far.until(there, lambda: len(far.text) > 500)
        async with anyio.create_task_group() as group:
            for seen in (near, far, late):
                group.start_soon(seen.follow, there)
            await cluster.speak()
    expected = await stored(cluster, session.id)
    for seen in (near, far, late):
        check(seen, expected)


@anywhere
async def test_readers_come_and_go(url: str) -> None:
    """Two processes read; one leaves, the other reads on; when both have left nothing more is written."""
    cluster = Cluster(url, lambda _: LONG * 10)
    async with cluster.worker() as one, cluster.worker() as two, cluster.worker() as three:
        one.runtime.leases.renew_after = 1000.0
        session = await talk(one)
        turn = await session.begin("hi")
        first, second = Seen(), Seen()
        async with cluster.speaking(0.05, TOKEN):
            await second.until(await newest(three, session), lambda: bool(second.text))
            await first.until(await newest(two, session), lambda: len(first.events) > 2)
            before = len(second.events)
            await second.until(await newest(three, session), lambda: len(second.events) > before + 2)
            await until_nobody_follows(one)
            await anyio.sleep(3 * LOOK)
            with writes(one) as count:
                await anyio.sleep(1.0)
                assert count() == 0
            await first.until(await newest(two, session), lambda: len(first.events) > 4)
        await turn.stop()
        await first.follow(await newest(two, session))
        await second.follow(await newest(three, session))
    expected = await stored(cluster, session.id)
    check(first, expected)
    check(second, expected)


@anywhere
async def test_who_has_asked_for_a_channel_finds_it_open(url: str) -> None:
    """Between the asking and the following something may be read, which takes its time on a busy machine."""
    cluster = Cluster(url, lambda _: LONG)
    async with cluster.worker() as one, cluster.worker() as other:
        session = await talk(one)
        turn = await session.begin("hi")
        channel = other.runtime.following.elsewhere(session.id, turn.id)
        await anyio.sleep(5 * LOOK)
        assert not channel.is_over
        async with aclosing(channel.follow()) as events, cluster.speaking(0.05, TOKEN):
            assert isinstance(await anext(events), Snapshot)
        await turn.stop()


async def until_nobody_follows(manager: Any) -> None:
    with anyio.fail_after(30):
        while await store_of(manager).followed(now=manager.clock.monotonic()):
            await anyio.sleep(0.05)


@anywhere
async def test_who_reads_slowly_holds_nobody_up(url: str) -> None:
    """More comes than is kept for it: it gets a snapshot in place of what it missed, and the others all of it."""
    cluster = Cluster(url, lambda _: "w " * 4 * LOG)
    async with cluster.worker() as one, cluster.worker() as other:
        session = await talk(one)
        turn = await session.begin("hi")
        there, near, far = await newest(other, session), Seen(), Seen()
        slow, slower = turn.follow(), there.follow()
        near.add(await anext(slow))
        far.add(await anext(slower))
        async with following(turn) as quick, following(there) as quick_there:
            async with cluster.speaking(0.001, 100 * TOKEN):
                await until(lambda: len(quick_there.text) > 1000 or quick_there.ended)
            await cluster.speak()
        for generator, seen in ((slow, near), (slower, far)):
            async for event in generator:
                seen.add(event)
    expected = await stored(cluster, session.id)
    for seen in (near, far, quick, quick_there):
        check(seen, expected)
    assert len(near.events) < LOG + 10


@anywhere
async def test_stopped_from_another_worker(url: str) -> None:
    """Also where that worker follows it already; what had come is kept."""
    cluster = Cluster(url, lambda _: LONG)
    async with cluster.worker() as one, cluster.worker() as other:
        one.runtime.leases.renew_after = 1000.0  # it is not by chance that the worker looks just then
        for follows in (False, True):
            session = await talk(one)
            turn = await session.begin("hi")
            seen, there = Seen(), await newest(other, session)
            async with anyio.create_task_group() as group:
                if follows:
                    group.start_soon(seen.follow, there)
                    await until(lambda: seen.events)  # noqa: B023
                await cluster.speak(20 * TOKEN)
                with anyio.fail_after(30):
                    await there.stop()
            assert there.state == turn.state == "cancelled"
            assert (await there.reply()).stop_reason == "cancelled"
            assert (await there.reply()).text.startswith("word")
            await seen.follow(there)
            check(seen, await stored(cluster, session.id))


@anywhere
async def test_a_queued_turn_is_followed_from_elsewhere(url: str) -> None:
    """While it waits, and then; whichever worker it is that runs it."""
    cluster = Cluster(url, lambda _: LONG)
    async with cluster.worker() as one, cluster.worker() as other:
        session = await talk(one)
        again = await other.open(session.id)
        first = await session.begin("one")
        second = await again.begin("two")  # queued there
        third = await session.begin("three")  # and here
        assert [first.state, second.state, third.state] == ["running", "queued", "queued"]
        async with anyio.create_task_group() as group:
            seen = [Seen() for _ in range(4)]
            turns = [second, third, await one_of(one, session, second), await one_of(other, session, third)]
            for each, turn in zip(seen, turns, strict=True):
                group.start_soon(each.follow, turn)
            await until(lambda: all(each.events for each in seen))
            assert {each.view.state for each in seen} == {"queued"}
            async with cluster.speaking(0.02, 100 * TOKEN):
                await until(lambda: all(each.ended for each in seen))
    for each, turn in zip(seen, turns, strict=True):
        assert each.view.state == "finished", each.events
        assert [entry.role for entry in each.view.entries] == ["user", "assistant"], each.types
        assert Restarted.type not in each.types
        assert turn.state == "finished"
    assert plain_entries(seen[0]) == plain_entries(seen[2])
    assert plain_entries(seen[1]) == plain_entries(seen[3])


async def one_of(manager: Any, session: Any, turn: Turn) -> Turn:
    """The same turn, as another manager sees it."""
    row = await store_of(manager).turn(session.id, id=turn.id)
    assert row is not None

    async def reply_of(_: Any) -> Any:
        raise NotImplementedError("nobody asks for it")

    return Turn(manager.runtime, row, reply_of)


def plain_entries(seen: Seen) -> list[str]:
    return [entry.id for entry in seen.view.entries]


@anywhere
async def test_another_worker_goes_on(url: str) -> None:
    """The worker ends in the middle of an answer: who follows hears that it begins anew, and then the rest."""
    cluster = Cluster(url, lambda _: LONG)
    async with cluster.worker() as reader:
        async with cluster.worker() as one:
            session = await talk(one)
            await session.begin("hi")
            there, seen = await newest(reader, session), Seen()
            async with cluster.speaking():
                await seen.until(there, lambda: len(seen.text) > 20)
        assert there.state == "running"
        async with anyio.create_task_group() as group:
            group.start_soon(seen.follow, there)
            await anyio.sleep(0.2)
            async with cluster.worker(recover=True), cluster.speaking(0.02, 50 * TOKEN):
                await until(lambda: seen.ended)
    assert seen.types.count("restarted") == 1, seen.types
    assert seen.types[seen.types.index("restarted") + 1] == "snapshot"
    check(seen, await stored(cluster, session.id))
    assert seen.view.state == "finished"


@anywhere
async def test_rows_that_are_missed_are_asked_for_again(url: str) -> None:
    """Whoever sweeps the table may take what nobody has read yet."""
    cluster = Cluster(url, lambda _: LONG)
    async with cluster.worker() as one, cluster.worker() as other:
        session = await talk(one)
        await session.begin("hi")
        async with following(await newest(other, session)) as seen:
            async with cluster.speaking(0.01, 2 * TOKEN):
                await until(lambda: seen.text)
                while not seen.ended and len(seen.text) < 700 and seen.types.count("snapshot") < 3:
                    await store_of(one).end_relays(before=1e12)
                    await anyio.sleep(0.03)
            await cluster.speak()
    check(seen, await stored(cluster, session.id))


@anywhere
async def test_nothing_is_written_for_turns_that_nobody_follows(url: str) -> None:
    """Counted beside the same turns of a manager that is alone with its store, which passes nothing on."""
    counts = []
    for kind in (Alone, SQLStore):
        cluster = Cluster(url, lambda _: LONG)
        async with cluster.worker(store=kind(url)) as manager:
            manager.runtime.leases.renew_after = 1000.0
            session = await talk(manager)
            with writes(manager) as count:
                for _ in range(3):
                    turn = await session.begin("hi")
                    async with following(turn):  # here: that costs nothing either
                        await cluster.speak(20 * TOKEN)
                        await anyio.sleep(3 * LOOK)
                        await cluster.speak()
                counts.append(count())
    assert counts[0] == counts[1]
