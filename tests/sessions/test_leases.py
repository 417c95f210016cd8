"""Several writers, one session: first come first served, busy in the end, and a stale worker writes nothing."""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest

from sessions import LeaseLost, SessionBusy, tool
from sessions.background import Background
from sessions.conversation.leases import RENEW_AFTER, Leases
from sessions.lifecycle import Lifecycle
from sessions.simulator import Latency
from sessions.testing import ManualClock
from storage import Change, Lease, LeaseGone
from storage.sql import SQLStore
from tests.crash.stepping import at_step
from tests.sessions.world import World, answers, buckets, call, create, everywhere, words


@asynccontextmanager
async def leases_on(store: SQLStore, world: World) -> AsyncIterator[Leases]:
    """The leases of a process of its own."""
    background = Background()
    await store.open()
    try:
        yield Leases(store, world.clock, background, Lifecycle(world.clock), busy_timeout=5)
    finally:
        await background.close()
        await store.close()


@everywhere
async def test_turns_of_one_process_come_in_the_order_of_their_calls(tmp_path: Path) -> None:
    world = World(lambda request: f"re: {request.text}", url=tmp_path / "a.db", latency=Latency(first_event=1.0))
    async with world.manager() as manager:
        session = await create(manager)
        same = await manager.open(session.id)
        replies: dict[int, str] = {}

        async def sending(number: int) -> None:
            replies[number] = (await (session if number % 2 else same).send(f"words {number}")).text

        async with anyio.create_task_group() as group:
            for number in range(8):
                group.start_soon(sending, number)
                await world.clock.advance(0)
            await world.clock.advance(30)
        assert replies == {number: f"re: words {number}" for number in range(8)}
        found = await manager.open(session.id)
        assert words(found) == [f"words {number}" for number in range(8)]
    world.check()


@everywhere
async def test_two_processes_share_a_session_without_mixing(tmp_path: Path) -> None:
    world = World(lambda request: f"re: {request.text}", url=tmp_path / "a.db", latency=Latency(first_event=0.5))
    async with world.manager() as one, world.manager() as two:
        session = await create(one)
        other = await two.open(session.id)

        async def sending(which: Any, name: str) -> None:
            for number in range(6):
                reply = await which.send(f"{name} {number}")
                assert reply.text == f"re: {name} {number}"

        async with anyio.create_task_group() as group:
            group.start_soon(sending, session, "one")
            group.start_soon(sending, other, "two")
            await world.clock.advance(60)
        found = await one.open(session.id)
        assert sorted(words(found)) == sorted(f"{name} {n}" for name in ("one", "two") for n in range(6))
        assert [m["role"] for m in found.messages] == ["user", "assistant"] * 12
        assert all(
            f"re: {before['content'][0]['text']}" == after["content"][-1]["text"]
            for before, after in zip(found.messages[::2], found.messages[1::2], strict=True)
        )
        assert buckets((await found.cost()).usage) == buckets(world.engine.bill().usage)
    world.check()


@everywhere
async def test_who_waits_too_long_hears_who_holds_it(tmp_path: Path) -> None:
    world = World(url=tmp_path / "a.db", latency=Latency(first_event=100.0))
    errors: list[SessionBusy] = []
    async with world.manager() as one, world.manager(busy_timeout=20) as two:
        session = await create(one)
        other = await two.open(session.id)

        async def failing(which: Any) -> None:
            with pytest.raises(SessionBusy) as caught:
                await which.send("in vain")
            errors.append(caught.value)

        async with anyio.create_task_group() as group:
            group.start_soon(session.send, "Hello")
            await world.clock.advance(1)
            group.start_soon(failing, other)
            group.start_soon(failing, other)
            await world.clock.advance(19)
            assert errors == []
            await world.clock.advance(2)
            assert len(errors) == 2
            assert all(error.holder for error in errors)
            await world.clock.advance(200)
        assert words(await two.open(session.id)) == ["Hello"]
        assert len(world.requests) == 1


@everywhere
async def test_a_long_turn_keeps_its_lease(tmp_path: Path) -> None:
    world = World(url=tmp_path / "a.db", latency=Latency(first_event=60.0))
    async with world.manager() as one, world.manager(busy_timeout=40) as two:
        session = await create(one)
        other = await two.open(session.id)
        async with anyio.create_task_group() as group:
            group.start_soon(session.send, "Hello")
            await world.clock.advance(1)

            async def failing() -> None:
                with pytest.raises(SessionBusy):
                    await other.send("in vain")

            group.start_soon(failing)
            await world.clock.advance(100)
    world.check()


async def test_a_stale_worker_is_fenced_off_and_writes_nothing(tmp_path: Path) -> None:
    @tool
    async def wait() -> str:
        """Waits until it is let go."""
        await gate.wait()
        return "waited"

    gate = asyncio.Event()
    world = World(answers([call("wait")], "theirs"), url=tmp_path / "a.db")
    frozen = ManualClock(start=world.clock.now())
    async with world.manager(clock=frozen) as one, world.manager() as two:
        session = await create(one, tools=[wait])
        task = asyncio.create_task(session.send("Hello"))
        await frozen.advance(0)
        other = await two.open(session.id, tools=[wait])
        taking = asyncio.create_task(other.send("I take over"))
        await world.clock.advance(12)
        reply = await taking
        assert reply.text == "theirs"
        before = other.messages
        gate.set()
        with pytest.raises(LeaseLost, match="resume"):
            await task
        assert (await two.open(session.id)).messages == before == other.messages
        assert "may or may not" in str(before[2]["content"][0]["content"])
        assert await session.resume() is None
        assert session.messages == before
        assert (await session.send("both again")).text == "fine"
        assert (await other.send("and again")).text == "fine"
        assert buckets((await other.cost()).usage) == buckets(world.engine.bill().usage)
    world.check()


async def test_a_waiter_cancelled_at_any_moment_does_not_keep_its_turn(tmp_path: Path) -> None:
    world = World(url=tmp_path / "a.db")
    async with world.manager() as manager:
        session = await create(manager)

    async def holding(leases: Leases) -> None:
        async with leases.hold(session.id):
            pass

    for step in range(1, 200):
        async with leases_on(SQLStore(world.url), world) as leases:
            async with leases.hold(session.id):
                waiter = asyncio.create_task(at_step(holding(leases), step).run())
                await world.clock.advance(0)
                third = asyncio.create_task(holding(leases))
                await world.clock.advance(0)
            await asyncio.wait([waiter])
            await world.clock.advance(10)
            assert third.done(), f"cancelled at step {step}"
            assert third.exception() is None, f"cancelled at step {step}"
            if not waiter.cancelled():
                break
    else:
        raise AssertionError("never got through")


async def test_a_renewal_that_fails_once_does_not_end_renewing(tmp_path: Path) -> None:
    from storage import StoreUnavailable, open_store

    class Shaky:
        """A store whose first renewal fails."""

        def __init__(self) -> None:
            self.real = open_store(f"sqlite:///{tmp_path}/a.db")
            self.failed = False

        def __getattr__(self, name: str) -> Any:
            return getattr(self.real, name)

        async def renew(self, lease: Any, **given: Any) -> Any:
            if not self.failed:
                self.failed = True
                raise StoreUnavailable("the disk was busy for a moment")
            return await self.real.renew(lease, **given)

    world = World(url=tmp_path / "a.db", latency=Latency(first_event=60.0))
    async with world.manager(store=Shaky()) as one, world.manager(busy_timeout=30) as two:
        session = await create(one)
        other = await two.open(session.id)
        task = asyncio.create_task(session.send("Hello"))
        await world.clock.advance(1)
        taking = asyncio.create_task(other.send("mine"))
        await world.clock.advance(200)
        assert (await task).text
        with pytest.raises(SessionBusy):
            await taking


async def test_what_another_process_did_is_seen_at_the_next_turn(tmp_path: Path) -> None:
    world = World(lambda request: f"re: {request.text}", url=tmp_path / "a.db")
    async with world.manager() as one, world.manager() as two:
        session = await create(one)
        for text in ("a", "b", "c"):
            await session.send(text)
        other = await two.open(session.id)
        await session.rewind(session.entries[1].id)
        await other.send("d")
        assert words(other) == ["a", "d"]
        await session.send("e")
        assert words(session) == ["a", "d", "e"]
        await other.append([{"role": "user", "content": "f"}, {"role": "assistant", "content": "g"}])
        assert words(other) == ["a", "d", "e", "f"]
        await session.update(max_tokens=99, title="Seen")
        await other.send("h")
        assert world.bodies[-1]["max_tokens"] == 99
        assert (other.title, other.settings.max_tokens) == ("Seen", 99)
        assert words(await one.open(session.id)) == ["a", "d", "e", "f", "h"]
    world.check()


class Overtaken(SQLStore):
    """A store in which a renewal comes between a commit that gives the lease back and the news of it."""

    def __init__(self, url: str, clock: ManualClock) -> None:
        super().__init__(url)
        self.clock, self.refused = clock, 0

    async def commit(self, lease: Lease, change: Change) -> None:
        await super().commit(lease, change)
        if change.release:
            await self.clock.advance(RENEW_AFTER)

    async def renew(self, lease: Lease, *, seconds: float, now: float) -> Lease:
        try:
            return await super().renew(lease, seconds=seconds, now=now)
        except LeaseGone:
            self.refused += 1
            raise


async def test_a_renewal_that_meets_the_last_commit_of_a_turn_is_no_takeover(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(url=tmp_path / "a.db")
    store = Overtaken(world.url, world.clock)
    async with world.manager(store=store) as manager:
        session = await create(manager)
        for _ in range(2):
            await session.send("Hello")
        assert store.refused == 2
    async with leases_on(store, world) as leases, leases.hold(session.id) as hold:
        hold.releasing = True
        head = session.entries[-1].id
        await store.commit(hold.lease, Change(head, head, release=True, updated_at=world.clock.now()))
        hold.released = True
        assert store.refused == 3
        assert not hold.lost
    assert "taken over" not in caplog.text
    world.check()


@everywhere
async def test_no_two_workers_give_the_same_id(tmp_path: Path) -> None:
    """Not even those that are copies of one another: the store gives each lease another token."""

    @tool(idempotent=True)
    def look() -> str:
        """Looks."""
        return "seen"

    world = World(answers(*[[call("look")], "done"] * 6), url=tmp_path / "a.db")
    store = SQLStore(world.url)
    async with world.manager() as one, world.manager(store=store) as two:
        session = await create(one, tools=[look])
        fork = await session.fork()
        other = await two.open(session.id, tools=[look])
        replies = [await which.send("Look") for which in (session, other, session, fork, other, fork)]
        rows = [rows for one in (session, fork) for rows in (store.turns(one.id), store.calls(one.id))]
        found = [row.id for made in rows for row in await made]
    assert len(found) == len(set(found)) == 6 + 12
    assert {one.id for reply in replies for one in reply.calls} <= set(found)
    assert all(re.fullmatch("[0-9a-f]{32}", one) for one in found)
