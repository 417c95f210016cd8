"""The wall clock is set while turns run: leases, time limits and waiting go by a clock that nobody sets."""

from __future__ import annotations

import functools
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import anyio
import pytest

from sessions import Reply, Session, SessionBusy, SessionManager, SystemClock, tool
from sessions.clock import monotonic
from sessions.simulator import Latency
from tests.sessions.world import World, call, create, everywhere, words

HOURS = pytest.mark.parametrize("step", [5 * 3600.0, -5 * 3600.0], ids=["forwards", "backwards"])


class Sending:
    """One `send`, and when it ended, in seconds of waiting."""

    def __init__(self, world: World, session: Session) -> None:
        self.world, self.session = world, session
        self.reply: Reply | None = None
        self.error: Exception | None = None
        self.seconds = 0.0

    async def run(self, **given: Any) -> None:
        start = self.world.clock.monotonic()
        try:
            self.reply = await self.session.send("go", **given)
        except (TimeoutError, SessionBusy) as error:
            self.error = error
        self.seconds = self.world.clock.monotonic() - start


@tool
def look() -> str:
    """Looks."""
    return "seen"


def world_of(path: Path, seconds: float) -> World:
    """A model that answers after so many seconds: first it calls a tool, then it is done."""
    script = lambda request: "done" if request.results else [call("look")]  # noqa: E731
    return World(script, url=path / "a.db", latency=Latency(first_event=seconds))


@HOURS
@everywhere
async def test_nobody_takes_the_lease(step: float, tmp_path: Path) -> None:
    world = world_of(tmp_path, 20.0)
    async with anyio.create_task_group() as group, world.manager() as manager, world.manager(tools=[look]) as other:
        sending = Sending(world, await create(manager, tools=[look]))
        group.start_soon(sending.run)
        for _ in range(6):
            await world.clock.advance(5)
            world.clock.step(step)
            assert await other.recover() == {}
            assert await other.runtime.store.claim_due(
                other.runtime.leases.holder, now=world.clock.now(), limit=9, seconds=1, lease_now=monotonic(world.clock)
            ) == []  # fmt: skip
        await world.clock.advance(30)
        assert sending.reply is not None
        assert [one.status for one in sending.reply.calls] == ["ok", "ok"]
    world.check()


@HOURS
@everywhere
async def test_what_a_dead_worker_left_is_free_after_its_lease(step: float, tmp_path: Path) -> None:
    """Neither at once nor in five hours."""
    world = world_of(tmp_path, 1.0)
    async with world.manager() as manager, world.manager() as other:
        session = await create(manager)
        await manager.runtime.store.acquire(
            session.id, manager.runtime.leases.holder, seconds=10, now=monotonic(world.clock)
        )
        world.clock.step(step)
        sending = Sending(world, await other.open(session.id))
        async with anyio.create_task_group() as group:
            group.start_soon(sending.run)
            await world.clock.advance(30)
        assert sending.reply is not None
        assert 10 <= sending.seconds <= 13
    world.check()


@HOURS
@everywhere
async def test_a_turn_has_the_time_it_was_given(step: float, tmp_path: Path) -> None:
    world = world_of(tmp_path, 10.0)
    async with world.manager(warmup=False) as manager:
        enough = Sending(world, await create(manager, tools=[look]))
        late = Sending(world, await create(manager, tools=[look]))
        async with anyio.create_task_group() as group:
            group.start_soon(functools.partial(enough.run, timeout=25.0))
            group.start_soon(functools.partial(late.run, timeout=15.0))
            await world.clock.advance(5)
            world.clock.step(step)
            await world.clock.advance(40)
        assert (enough.seconds, late.seconds) == (20.0, 15.0)
        assert enough.reply is not None
        assert isinstance(late.error, TimeoutError)
    world.check()


@HOURS
@everywhere
async def test_a_waiter_waits_as_long_as_it_said(step: float, tmp_path: Path) -> None:
    world = World(url=tmp_path / "a.db", latency=Latency(first_event=60.0))
    async with anyio.create_task_group() as group, world.manager() as manager:
        session = await create(manager)
        holder = Sending(world, session)
        group.start_soon(holder.run)
        await world.clock.advance(1)
        async with world.manager(busy_timeout=30) as one, world.manager(busy_timeout=200) as two:
            short, long = [Sending(world, await which.open(session.id)) for which in (one, two)]
            near = Sending(world, session)
            for sending in (short, long, near):
                group.start_soon(sending.run)
            await world.clock.advance(5)
            world.clock.step(step)
            await world.clock.advance(300)
            assert isinstance(short.error, SessionBusy)
            assert 29 <= short.seconds <= 31
            assert long.reply is not None
            assert holder.reply is not None
    assert words(session)[0] == "go"
    world.check()


@HOURS
@everywhere
async def test_a_follower_waits_at_the_gate_as_long_as_it_may(step: float, tmp_path: Path) -> None:
    world = World(url=tmp_path / "a.db", latency=Latency(first_event=60.0))
    async with anyio.create_task_group() as group, world.manager(warmup_timeout=20) as manager:
        sessions = [await create(manager), await create(manager)]
        sendings = [Sending(world, session) for session in sessions]
        for sending in sendings:
            group.start_soon(sending.run)
        await world.clock.advance(5)
        world.clock.step(step)
        await world.clock.advance(200)
        waited = [one.reply.calls[0].waited for one in sendings if one.reply is not None]
        assert sorted(waited) == [0.0, 20.0]
    world.check()


class Old:
    """A user's clock from before there was `monotonic`."""

    def now(self) -> float:
        return time.time()

    async def sleep(self, seconds: float) -> None:
        await anyio.sleep(max(0.0, seconds))


@everywhere
async def test_a_clock_that_only_tells_the_time_still_works(tmp_path: Path) -> None:
    world = World(url=tmp_path / "a.db")
    async with SessionManager(world.url, client=world.manager().runtime.client.sdk, clock=Old()) as manager:  # type: ignore[arg-type]
        session = await create(manager)
        assert (await session.send("go", timeout=100)).text
    world.check()


def test_all_processes_of_the_machine_read_the_same() -> None:
    code = "from sessions import SystemClock; print(repr(SystemClock().monotonic()))"
    before = SystemClock().monotonic()
    found = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    assert before <= float(found.stdout) <= SystemClock().monotonic()
