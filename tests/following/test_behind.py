"""A follower that has seen more of a turn elsewhere is not told old things here."""

from __future__ import annotations

from contextlib import aclosing

import anyio

from sessions.following.channel import Channel
from sessions.following.events import AT_REST, Ended, Snapshot, TurnEvent, attempt_of, event_id
from sessions.following.parcels import unpacked
from sessions.following.relay import Relayed
from sessions.following.view import View
from storage import TurnRecord
from tests.sessions.world import create, everywhere
from tests.turns.acts import Held, real


@everywhere
async def test_what_is_of_an_earlier_attempt_is_not_told_to_who_has_seen_a_later_one() -> None:
    """As where a turn that was queued in this process has begun in another one, which died."""
    channel = Channel("session", "turn")
    channel.begin(0, lambda: View(state="queued"))
    heard: list[TurnEvent] = []

    async def follow() -> None:
        async for event in channel.follow(after=event_id(3, 7)):
            heard.append(event)  # noqa: PERF401 - it is looked at meanwhile

    async with anyio.create_task_group() as group:
        group.start_soon(follow)
        await anyio.wait_all_tasks_blocked()
        assert heard == []
        channel.begin(4, lambda: View(state="running"))
        await anyio.wait_all_tasks_blocked()
        (snapshot,) = heard
        assert isinstance(snapshot, Snapshot)
        assert (snapshot.id, snapshot.state) == (event_id(4, 1), "running")
        channel.leave()
    channel = Channel("session", "turn")
    channel.begin(0, lambda: View(state="queued"))
    channel.leave()  # what there is of it is told elsewhere
    assert [event async for event in channel.follow(after=event_id(3, 7))] == []


@everywhere
async def test_who_comes_between_two_attempts_is_told_of_the_new_one_alone() -> None:
    """As where a turn that waited goes on here: its earlier attempt may have been seen further in the store."""
    channel = Channel("session", "turn")
    row = TurnRecord("turn", "session", 1, "running", started=0.0)
    channel.begin(4, lambda: View(state="waiting"))
    async with aclosing(channel.follow()) as events:
        seen = [await anext(events)]
    channel.end(Ended(state="waiting"))
    relayed = Relayed(channel)
    channel.open(row, lambda: None)
    async with anyio.create_task_group() as group:

        async def follow() -> None:
            async for event in channel.follow(after=event_id(4, 9_999_999_997)):
                seen.append(event)  # noqa: PERF401 - it is looked at meanwhile

        group.start_soon(follow)
        await anyio.wait_all_tasks_blocked()
        assert [event.id for event in seen] == [event_id(4, 1)]
        assert relayed.parcels({"reader"}) == []
        channel.begin(6, lambda: View(state="running"))
        await anyio.wait_all_tasks_blocked()
        assert [(event.type, attempt_of(event.id)) for event in seen] == [("snapshot", 4), ("snapshot", 6)]
        ((id, text),) = relayed.parcels({"reader"})
        assert id == seen[-1].id
        assert unpacked(text).readers == ("reader",)
        channel.leave()


@everywhere
async def test_who_has_seen_a_turn_at_rest_is_not_told_how_it_came_there() -> None:
    """As where it waits by what is stored, and what its worker told before that is heard here only now."""
    channel = Channel("session", "turn")
    channel.begin(11, lambda: View(state="running"))
    rest, heard = event_id(11, AT_REST + 997), list[TurnEvent]()

    async def follow() -> None:
        async for event in channel.follow(after=rest):
            heard.append(event)

    async with anyio.create_task_group() as group:
        group.start_soon(follow)
        await anyio.wait_all_tasks_blocked()
        channel.show_again()
        await anyio.wait_all_tasks_blocked()
        assert heard == []
        channel.begin(12, lambda: View(state="running"))
        await anyio.wait_all_tasks_blocked()
        assert [attempt_of(event.id) for event in heard] == [12]
        channel.leave()


@everywhere
async def test_an_event_of_an_attempt_that_never_was_is_answered_by_a_snapshot() -> None:
    model = Held()
    world = real(model)
    async with world.manager() as manager:
        session = await create(manager)
        await session.begin("one")
        queued = await session.begin("two")
        with anyio.fail_after(5):
            async with aclosing(queued.follow(after=event_id(99, 1))) as events:
                event = await anext(events)
        assert isinstance(event, Snapshot)
        assert event.state == "queued"
        running = await manager.turn(session.id, (await session.turns())[0].id)
        assert running is not None
        with anyio.fail_after(5):
            async with aclosing(running.follow()) as events:
                attempt = attempt_of((await anext(events)).id)
            async with aclosing(running.follow(after=event_id(attempt, AT_REST + 999))) as events:
                event = await anext(events)
        assert isinstance(event, Snapshot)
        assert event.state == "running"
        model.let_go()
        assert (await queued.reply()).text == "You said: two"
    world.check()
