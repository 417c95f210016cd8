"""Sixty tool rounds one after the other and forty calls at once lose nothing of the cache, on both ways of counting."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from sessions import Fixed, Profile, profile_for, tool
from sessions.simulator import Request, filler
from tests.sessions.world import MODEL, World, buckets, call, chain_of_reads, create, everywhere
from tests.sessions.world import marks as marks_of

EACH_BLOCK = replace(profile_for(MODEL), collapses_tools=False)


@tool
async def look(n: int) -> str:
    """Looks."""
    return filler(40, f"seen{n}")


@pytest.mark.parametrize("profile", [None, EACH_BLOCK], ids=["runs count as one", "each block counts"])
@everywhere
async def test_sixty_rounds_in_a_row(profile: Profile | None, tmp_path: Path) -> None:
    def script(request: Request) -> object:
        done = len(request.calls)
        return [call("look", n=done)] if done < 60 else "done"

    world = World(script, url=tmp_path / "a.db", profile=profile)
    async with world.manager(profile=profile, ttl=Fixed("5m")) as manager:
        session = await create(manager, tools=[look])
        reply = await session.send("go")
        assert len(reply.calls) == 61
        chain_of_reads([one.usage for one in reply.calls])
        assert all(one.usage.input == 0 for one in reply.calls)
        again = await session.send("and again")
        chain_of_reads([reply.calls[-1].usage, again.usage])
        assert buckets((await session.cost()).usage) == buckets(world.engine.bill().usage)
        assert (await session.cost()).total == world.engine.bill().cost
    world.check()


@pytest.mark.parametrize("profile", [None, EACH_BLOCK], ids=["runs count as one", "each block counts"])
@everywhere
async def test_forty_calls_at_once(profile: Profile | None, tmp_path: Path) -> None:
    def script(request: Request) -> object:
        return [call("look", n=n) for n in range(40)] if len(request.calls) < 80 and not request.results else "done"

    world = World(script, url=tmp_path / "a.db", profile=profile)
    async with world.manager(profile=profile) as manager:
        session = await create(manager, tools=[look])
        calls = []
        for number in range(3):
            calls += (await session.send(f"turn {number}")).calls
        chain_of_reads([one.usage for one in calls])
        assert len(session.messages[1]["content"]) == 40
        assert all(len(marks_of(body)) <= 4 for body in world.bodies)
        assert buckets((await session.cost()).usage) == buckets(world.engine.bill().usage)
    world.check()
